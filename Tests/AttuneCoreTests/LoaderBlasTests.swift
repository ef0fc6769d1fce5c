import CAttune
import Foundation
import Testing

@testable import AttuneCore

/// The linear algebra lent to plugins, against plain loops. Skipped where no OpenBLAS is installed.
@Suite struct LoaderBlasTests {
  static let blas: Blas? = {
    setenv("OPENBLAS_CORETYPE", "Nonsense", 1)
    defer { unsetenv("OPENBLAS_CORETYPE") }
    let before = ProcessInfo.processInfo.environment
    let lent = try? Blas.lend(cpu: CPUFeatures(cap: nil), core: nil).get()
    if ProcessInfo.processInfo.environment != before { Issue.record("the environment was not put back") }
    return lent
  }()

  @Test(.enabled(if: blas != nil)) func coreAndThreads() throws {
    let blas = try #require(Self.blas)
    if CPUFeatures(cap: nil).name == "avx512" { #expect(blas.core == "SkylakeX") }
    #expect(blas.table.pointee.struct_size == 32)
    #expect(Blas.suitableCore(CPUFeatures(cap: .sse4)) == "Nehalem")
  }

  @Test(.enabled(if: blas != nil), arguments: 0..<4 as Range<UInt32>) func gemm(_ trans: UInt32) throws {
    let table = try #require(Self.blas).table.pointee
    let (m, n, k) = (5, 7, 3)
    let (lda, ldb, ldc) = (9, 11, 8)
    var seeded = Seeded(state: UInt64(trans))
    let a = (0..<100).map { _ in Float.random(in: -1...1, using: &seeded) }
    let b = (0..<100).map { _ in Float.random(in: -1...1, using: &seeded) }
    let c = (0..<40).map { _ in Float.random(in: -1...1, using: &seeded) }
    var got = c
    table.sgemm(trans, 5, 7, 3, 0.5, a, Int64(lda), b, Int64(ldb), 2, &got, Int64(ldc))
    for i in 0..<40 {
      let (row, column) = (i / ldc, i % ldc)
      guard row < m, column < n else {
        #expect(got[i] == c[i])
        continue
      }
      var sum: Float = 0
      for p in 0..<k {
        sum +=
          (trans & 1 == 0 ? a[row * lda + p] : a[p * lda + row])
          * (trans & 2 == 0 ? b[p * ldb + column] : b[column * ldb + p])
      }
      #expect(abs(got[i] - (0.5 * sum + 2 * c[i])) < 1e-5)
    }
  }

  /// A distance of rows that 32 bits cannot say, over memory that is reserved and nearly untouched.
  @Test(.enabled(if: blas != nil)) func gemmBeyond32Bits() throws {
    let table = try #require(Self.blas).table.pointee
    let distance = Int(Int32.max) + 10
    let bytes = (2 * distance + 4) * 4
    let memory = mmap(nil, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0)!
    defer { munmap(memory, bytes) }
    guard memory != UnsafeMutableRawPointer(bitPattern: -1) else { return }
    let a = memory.assumingMemoryBound(to: Float.self)
    (a[0], a[1], a[distance], a[distance + 1]) = (1, 2, 3, 4)
    let b: [Float] = [5, 6, 7, 8]
    var c: [Float] = [.nan, .nan, .nan, .nan]
    table.sgemm(0, 2, 2, 2, 1, a, Int64(distance), b, 2, 0, &c, 2)
    #expect(c == [19, 22, 43, 50])
    table.sgemm(0, .max, 2, 0, 1, nil, 0, nil, 0, 1, nil, .max)
  }

  @Test(.enabled(if: blas != nil)) func cholesky() throws {
    let table = try #require(Self.blas).table.pointee
    // Lower triangle of [[4,2,2],[2,5,3],[2,3,6]]; the upper one must not be read.
    let lda: Int64 = 4
    var a: [Float] = [4, .nan, .nan, 9, 2, 5, .nan, 9, 2, 3, 6, 9]
    #expect(table.spotrf(3, &a, lda) == 0)
    #expect([a[0], a[4], a[5], a[8], a[9], a[10]] == [2, 1, 2, 1, 1, 2])
    #expect(a[1].isNaN && a[3] == 9)
    var b: [Float] = [8, 10, 11, -1, 4, 2, 2, -1]
    #expect(table.spotrs(3, 2, a, lda, &b, 4) == 0)
    for (got, want) in zip(b, [1, 1, 1, -1, 1, 0, 0, -1] as [Float]) { #expect(abs(got - want) < 1e-6) }
    var singular: [Float] = [1, 0, 1, 1]
    #expect(table.spotrf(2, &singular, 2) == 2)
  }

  @Test(.enabled(if: blas != nil)) func sizesOutOfRange() throws {
    let table = try #require(Self.blas).table.pointee
    var a: [Float] = [1]
    #expect(table.spotrf(.max, &a, .max) == -1 && table.spotrf(-1, &a, 1) == -1)
    #expect(table.spotrf(1, &a, .max) == -3 && table.spotrf(1, nil, 1) == -2 && table.spotrf(0, nil, 0) == 0)
    var b: [Float] = [2]
    #expect(table.spotrs(1, .max, a, 1, &b, 1) == -2 && table.spotrs(1, 1, a, 1, &b, .max) == -6)
    #expect(b == [2])
  }
}
