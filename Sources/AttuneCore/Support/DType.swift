import CAttune

/// Element types by their index in types.h; sets of them are `1 << index`.
package enum DType: Int32, CaseIterable, Sendable {
  case f32 = 0
  case bf16, f16, f64, i32, i64, u8, bool, i8

  package var name: String {
    switch self {
    case .f32: "f32"
    case .bf16: "bf16"
    case .f16: "f16"
    case .f64: "f64"
    case .i32: "i32"
    case .i64: "i64"
    case .u8: "u8"
    case .bool: "bool"
    case .i8: "i8"
    }
  }
  @inline(__always)
  package var size: Int {
    switch self {
    case .f64, .i64: 8
    case .f32, .i32: 4
    case .bf16, .f16: 2
    case .u8, .bool, .i8: 1
    }
  }
  package var bit: UInt64 { 1 << UInt64(rawValue) }
  package init?(name: some StringProtocol) {
    guard let found = DType.allCases.first(where: { $0.name == name }) else { return nil }
    self = found
  }
  /// The element type of a DLPack dtype, nil when Attune has none for it.
  @inline(__always)
  package init?(_ d: attune_dtype) {
    guard d.lanes == 1 else { return nil }
    switch (d.code, d.bits) {
    case (2, 32): self = .f32
    case (4, 16): self = .bf16
    case (2, 16): self = .f16
    case (2, 64): self = .f64
    case (0, 32): self = .i32
    case (0, 64): self = .i64
    case (1, 8): self = .u8
    case (6, 8): self = .bool
    case (0, 8): self = .i8
    default: return nil
    }
  }
  package var dlpack: attune_dtype { attune_dtype_of(rawValue) }
  package static func set(_ bits: UInt64) -> [DType] { allCases.filter { bits & $0.bit != 0 } }
}
