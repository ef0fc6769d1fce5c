import AttuneCore
import Glibc

/// NumPy's .npy files, versions 1 to 3: little endian f2 f4 f8 i1 i4 i8 u1 and bool, C or Fortran order.
enum Npy {
  private static let types: [(code: String, dtype: DType)] = [
    ("f4", .f32), ("f2", .f16), ("f8", .f64), ("i4", .i32), ("i8", .i64), ("u1", .u8), ("b1", .bool), ("i1", .i8),
  ]
  private static let magic: [UInt8] = [0x93, 0x4E, 0x55, 0x4D, 0x50, 0x59]  // \x93NUMPY

  /// Reads one array into row-major order.
  static func read(_ path: String) throws -> HostTensor {
    let file = try File.read(path)
    func bad(_ why: String) -> Failure { Failure("\(path) is not a .npy file that can be read: \(why)") }
    guard file.count >= 10, Array(file[..<6]) == magic else { throw bad("it does not begin with the .npy signature") }
    let wide = file[6] >= 2
    guard (1...3).contains(file[6]), file.count >= (wide ? 12 : 10) else { throw bad("version \(file[6]) is unknown") }
    let begin = wide ? 12 : 10
    let length = (8..<begin).reversed().reduce(0) { $0 << 8 | Int(file[$1]) }
    guard file.count - begin >= length else { throw bad("its header is cut off") }
    var parser = HeaderParser(bytes: Array(file[begin..<(begin + length)]))
    guard let header = parser.header() else { throw bad("its header is malformed") }
    let dtype = try elementType(header.descr, bad)
    guard header.shape.count <= 8 else { throw bad("it has \(header.shape.count) dims, at most 8 are possible") }
    let tensor = try HostTensor(dtype, header.shape)
    let data = begin + length
    guard file.count - data >= tensor.bytes.count else {
      throw bad("shape \(header.shape) needs \(tensor.bytes.count) bytes of data, it has \(file.count - data)")
    }
    file.withUnsafeBytes { source in
      let body = UnsafeRawBufferPointer(rebasing: source[data..<(data + tensor.bytes.count)])
      if header.fortran {
        transpose(body, into: tensor)
      } else {
        tensor.bytes.copyMemory(from: body)
      }
    }
    return tensor
  }

  /// Writes version 1.0, C order.
  static func write(_ tensor: HostTensor, to path: String) throws {
    guard let code = types.first(where: { $0.dtype == tensor.dtype })?.code else {
      throw Failure("\(path): .npy has no element type \(tensor.dtype.name); ask for another output")
    }
    let order = tensor.dtype.size == 1 ? "|" : "<"
    let dims = tensor.shape.map(String.init).joined(separator: ", ") + (tensor.shape.count == 1 ? "," : "")
    var text = "{'descr': '\(order)\(code)', 'fortran_order': False, 'shape': (\(dims)), }"
    text += String(repeating: " ", count: 63 - (text.utf8.count + 10) % 64) + "\n"
    let length = text.utf8.count
    let header =
      magic + [1, 0, UInt8(truncatingIfNeeded: length), UInt8(truncatingIfNeeded: length >> 8)] + Array(text.utf8)
    try header.withUnsafeBytes { try File.write([$0, UnsafeRawBufferPointer(tensor.bytes)], to: path) }
  }

  private static func elementType(_ descr: String, _ bad: (String) -> Failure) throws -> DType {
    guard let order = descr.first, "<|=>".contains(order) else { throw bad("element type '\(descr)' is unknown") }
    let code = String(descr.dropFirst())
    guard let dtype = code == "?" ? .bool : types.first(where: { $0.code == code })?.dtype else {
      throw bad("element type '\(descr)' is not one of \(types.map(\.code).joined(separator: " "))")
    }
    guard order != ">" || dtype.size == 1 else { throw bad("its elements are big-endian; save it little-endian") }
    return dtype
  }

  /// First index fastest -> last index fastest.
  private static func transpose(_ source: UnsafeRawBufferPointer, into tensor: HostTensor) {
    guard let from = source.baseAddress, let to = tensor.bytes.baseAddress, tensor.count > 0 else { return }
    let size = tensor.dtype.size
    var stride: [Int] = []
    var step = size
    for extent in tensor.shape {
      stride.append(step)
      step &*= Int(extent)
    }
    var index = [Int64](repeating: 0, count: tensor.shape.count)
    var offset = 0
    for i in 0..<tensor.count {
      memcpy(to + i &* size, from + offset, size)
      for d in index.indices.reversed() {
        index[d] &+= 1
        offset &+= stride[d]
        if index[d] < tensor.shape[d] { break }
        offset &-= stride[d] &* Int(index[d])
        index[d] = 0
      }
    }
  }

  /// The Python dictionary literal in front of the data.
  private struct HeaderParser {
    let bytes: [UInt8]
    var at = 0

    mutating func header() -> (descr: String, fortran: Bool, shape: [Int64])? {
      var descr: String?
      var fortran: Bool?
      var shape: [Int64]?
      guard eat("{") else { return nil }
      while !eat("}") {
        guard let key = string(), eat(":") else { return nil }
        switch key {
        case "descr": descr = string()
        case "fortran_order": fortran = word().flatMap { ["True": true, "False": false][$0] }
        case "shape": shape = tuple()
        default: return nil
        }
        guard eat(",") || peek() == UInt8(ascii: "}") else { return nil }
      }
      guard let descr, let fortran, let shape else { return nil }
      return (descr, fortran, shape)
    }

    private mutating func peek() -> UInt8? {
      while at < bytes.count, [0x20, 0x09, 0x0A, 0x0D].contains(bytes[at]) { at += 1 }
      return at < bytes.count ? bytes[at] : nil
    }
    private mutating func eat(_ c: Unicode.Scalar) -> Bool {
      guard peek() == UInt8(ascii: c) else { return false }
      at += 1
      return true
    }
    private mutating func string() -> String? {
      guard let quote = peek(), quote == UInt8(ascii: "'") || quote == UInt8(ascii: "\"") else { return nil }
      guard let end = bytes[(at + 1)...].firstIndex(of: quote) else { return nil }
      defer { at = end + 1 }
      return String(decoding: bytes[(at + 1)..<end], as: UTF8.self)
    }
    private mutating func word() -> String? {
      guard peek() != nil else { return nil }
      let begin = at
      while at < bytes.count, Character(Unicode.Scalar(bytes[at])).isLetter { at += 1 }
      return String(decoding: bytes[begin..<at], as: UTF8.self)
    }
    private mutating func tuple() -> [Int64]? {
      var dims: [Int64] = []
      guard eat("(") else { return nil }
      while !eat(")") {
        guard peek() != nil else { return nil }
        let begin = at
        while at < bytes.count, (0x30...0x39).contains(bytes[at]) { at += 1 }
        guard let extent = Int64(String(decoding: bytes[begin..<at], as: UTF8.self)) else { return nil }
        dims.append(extent)
        guard eat(",") || peek() == UInt8(ascii: ")") else { return nil }
      }
      return dims
    }
  }
}
