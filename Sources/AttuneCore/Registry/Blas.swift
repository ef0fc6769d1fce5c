import CAttune
import Glibc
import Synchronization

/// OpenBLAS, found with dlopen when a plugin first asks, lent to plugins as `attune.blas/1`. Absence is no error.
///
/// It is told to use one thread and a core type by environment variables, which it reads once while it is being loaded.
/// They are set for just that moment: what the user's shell says about them is meant for other programs, and often
/// slow. Changing the environment is not safe beside a thread that reads it without care; the moment is the first
/// `init` that asks.
package struct Blas: Sendable {
  package static let extensionID = "attune.blas/1"
  package nonisolated(unsafe) let table: UnsafePointer<attune_blas>
  package let core: String  // what OpenBLAS calls the CPU it works for
  fileprivate let functions: Functions

  /// The process's one instance. `cpu` and `core` count only the first time. E_UNSUPPORTED with the reason.
  package static func lend(cpu: CPUFeatures, core: String?) -> Result<Blas, Refusal> {
    wish.withLock { $0 = $0 ?? (core ?? suitableCore(cpu)) }
    return shared
  }

  /// nil before the first `lend`; "" lets OpenBLAS detect the CPU.
  private static let wish = Mutex<String?>(nil)
  fileprivate static let shared = load()

  /// OpenBLAS knows AVX-512 under one name only where all of these are there; a lowered CPU must be named, not
  /// detected.
  static func suitableCore(_ cpu: CPUFeatures) -> String {
    guard cpu.arch == UInt32(ATTUNE_ARCH_X86_64) else { return "" }
    switch cpu.name {
    case "avx512": return "SkylakeX"
    case "avx2": return "Haswell"
    default: return "Nehalem"
    }
  }

  private static func load() -> Result<Blas, Refusal> {
    let library = "libopenblas.so.0"
    let wasThere = dlopen(library, RTLD_NOW | RTLD_NOLOAD) != nil
    let core = wish.withLock { $0 } ?? ""
    let settings = [
      ("OPENBLAS_NUM_THREADS", "1"), ("OPENBLAS_CORETYPE", core.isEmpty ? nil : core), ("OPENBLAS_L2_SIZE", nil),
    ]
    guard let handle = withEnvironment(settings, { dlopen(library, RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE) }) else {
      let reason = dlerror().map { String(cString: $0) } ?? "not found"
      return .failure(Refusal(.unsupported, "", reason, source: .system))
    }
    guard let functions = Functions(handle) else {
      return .failure(Refusal(.unsupported, "", "\(library) lacks cblas_sgemm, spotrf_ or spotrs_"))
    }
    let threads = functions.threads()
    // A program that loaded it earlier has chosen its threads; turning them off behind its back is not ours to do.
    guard threads == 1 else {
      return .failure(
        Refusal(
          .unsupported, "",
          wasThere
            ? "\(library) was already in the process with \(threads) threads (OPENBLAS_NUM_THREADS=1 would allow it)"
            : "\(library) runs \(threads) threads, expected 1", detail: (1, Int64(threads))))
    }
    let table = UnsafeMutablePointer<attune_blas>.allocate(capacity: 1)  // lives as long as the process
    table.initialize(to: entryPoints)
    return .success(Blas(table: UnsafePointer(table), core: functions.core(), functions: functions))
  }

  /// Sets (nil: removes) variables for the duration of `body`.
  private static func withEnvironment<R>(_ settings: [(name: String, value: String?)], _ body: () -> R) -> R {
    let old = settings.map { ($0.name, getenv($0.name).map { String(cString: $0) }) }
    func apply(_ list: [(name: String, value: String?)]) {
      for (name, value) in list {
        if let value { setenv(name, value, 1) } else { unsetenv(name) }
      }
    }
    apply(settings)
    defer { apply(old) }
    return body()
  }
}

/// What is used of OpenBLAS, by its C and Fortran names.
private struct Functions: Sendable {
  typealias Gemm =
    @convention(c) (
      Int32, Int32, Int32, Int32, Int32, Int32, Float, UnsafePointer<Float>?, Int32, UnsafePointer<Float>?, Int32,
      Float,
      UnsafeMutablePointer<Float>?, Int32
    ) -> Void
  typealias Factor =
    @convention(c) (
      UnsafePointer<CChar>, UnsafePointer<Int32>, UnsafeMutablePointer<Float>?, UnsafePointer<Int32>,
      UnsafeMutablePointer<Int32>, Int
    ) -> Void
  typealias Solve =
    @convention(c) (
      UnsafePointer<CChar>, UnsafePointer<Int32>, UnsafePointer<Int32>, UnsafePointer<Float>?, UnsafePointer<Int32>,
      UnsafeMutablePointer<Float>?, UnsafePointer<Int32>, UnsafeMutablePointer<Int32>, Int
    ) -> Void

  let gemm: Gemm
  let factor: Factor
  let solve: Solve
  private let name: (@convention(c) () -> UnsafePointer<CChar>?)?
  private let count: (@convention(c) () -> Int32)?

  init?(_ handle: UnsafeMutableRawPointer) {
    func symbol<T>(_ name: String, _: T.Type) -> T? { dlsym(handle, name).map { unsafeBitCast($0, to: T.self) } }
    guard let gemm = symbol("cblas_sgemm", Gemm.self), let factor = symbol("spotrf_", Factor.self),
      let solve = symbol("spotrs_", Solve.self)
    else { return nil }
    (self.gemm, self.factor, self.solve) = (gemm, factor, solve)
    name = symbol("openblas_get_corename", (@convention(c) () -> UnsafePointer<CChar>?).self)
    count = symbol("openblas_get_num_threads", (@convention(c) () -> Int32).self)
  }

  func core() -> String { name?().map { String(cString: $0) } ?? "" }
  func threads() -> Int32 { count?() ?? 1 }
}

private let entryPoints: attune_blas = {
  var table = attune_blas()
  table.struct_size = UInt32(MemoryLayout<attune_blas>.size)
  table.sgemm = { sgemm($0, $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11) }
  table.spotrf = { spotrf($0, $1, $2) }
  table.spotrs = { spotrs($0, $1, $2, $3, $4, $5) }
  return table
}()

private func sgemm(
  _ trans: UInt32, _ m: Int64, _ n: Int64, _ k: Int64, _ alpha: Float, _ a: UnsafePointer<Float>?, _ lda: Int64,
  _ b: UnsafePointer<Float>?, _ ldb: Int64, _ beta: Float, _ c: UnsafeMutablePointer<Float>?, _ ldc: Int64
) {
  guard m > 0, n > 0, k >= 0, let c, case .success(let blas) = Blas.shared else { return }
  guard let rows = Int32(exactly: m), let columns = Int32(exactly: n), let depth = Int32(exactly: k),
    let strideA = Int32(exactly: lda), let strideB = Int32(exactly: ldb), let strideC = Int32(exactly: ldc)
  else {
    largeGemm(trans, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc)
    return
  }
  let rowMajor: Int32 = 101
  let plain: Int32 = 111
  let transposed: Int32 = 112
  blas.functions.gemm(
    rowMajor, trans & 1 == 0 ? plain : transposed, trans & 2 == 0 ? plain : transposed, rows, columns, depth, alpha, a,
    strideA, b, strideB, beta, c, strideC)
}

/// For sizes and distances that OpenBLAS's 32-bit integers cannot say: right, and as slow as it is rare.
private func largeGemm(
  _ trans: UInt32, _ m: Int64, _ n: Int64, _ k: Int64, _ alpha: Float, _ a: UnsafePointer<Float>?, _ lda: Int64,
  _ b: UnsafePointer<Float>?, _ ldb: Int64, _ beta: Float, _ c: UnsafeMutablePointer<Float>, _ ldc: Int64
) {
  for i in 0..<m {
    for j in 0..<n {
      var sum = 0.0
      if let a, let b, alpha != 0 {
        for p in 0..<k {
          let x = a[Int(trans & 1 == 0 ? i &* lda &+ p : p &* lda &+ i)]
          let y = b[Int(trans & 2 == 0 ? p &* ldb &+ j : j &* ldb &+ p)]
          sum += Double(x) * Double(y)
        }
      }
      let at = Int(i &* ldc &+ j)
      c[at] = Float(Double(alpha) * sum) + (beta == 0 ? 0 : beta * c[at])
    }
  }
}

/// Row-major lower is column-major upper of the same symmetric matrix. -i: argument i is out of range.
private func spotrf(_ n: Int64, _ a: UnsafeMutablePointer<Float>?, _ lda: Int64) -> Int32 {
  guard n >= 0, let size = Int32(exactly: n) else { return -1 }
  guard n > 0 else { return 0 }
  guard let a else { return -2 }
  guard lda >= n, let stride = Int32(exactly: lda) else { return -3 }
  guard case .success(let blas) = Blas.shared else { return -1 }
  var upper = CChar(bitPattern: UInt8(ascii: "U"))
  var order = size
  var distance = stride
  var info: Int32 = 0
  blas.functions.factor(&upper, &order, a, &distance, &info, 1)
  return info
}

private func spotrs(
  _ n: Int64, _ nrhs: Int64, _ a: UnsafePointer<Float>?, _ lda: Int64, _ b: UnsafeMutablePointer<Float>?, _ ldb: Int64
) -> Int32 {
  guard n >= 0, let size = Int32(exactly: n) else { return -1 }
  guard nrhs >= 0, let count = Int32(exactly: nrhs) else { return -2 }
  guard n > 0, nrhs > 0 else { return 0 }
  guard let a else { return -3 }
  guard lda >= n, let strideA = Int32(exactly: lda) else { return -4 }
  guard let b else { return -5 }
  guard ldb >= n, let strideB = Int32(exactly: ldb) else { return -6 }
  guard case .success(let blas) = Blas.shared else { return -1 }
  var upper = CChar(bitPattern: UInt8(ascii: "U"))
  var info: Int32 = 0
  var (order, columns, distanceA, distanceB) = (size, count, strideA, strideB)
  blas.functions.solve(&upper, &order, &columns, a, &distanceA, b, &distanceB, &info, 1)
  return info
}
