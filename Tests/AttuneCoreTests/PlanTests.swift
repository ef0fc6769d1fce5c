import CAttune
import Glibc
import Testing

@testable import AttuneCore

/// Remembered plans: keys, classes of sizes, and that binding again says what binding said.
@Suite struct PlanTests {
  @Test func tableFindsWhatWasInserted() {
    let table = PlanTable()
    let values = UnsafeMutablePointer<Int>.allocate(capacity: 3000)
    defer { values.deallocate() }
    for i in 0..<3000 {
      var key = (Int64(i), Int64(i &* 7))
      withUnsafeBytes(of: &key) { bytes in
        if let base = bytes.baseAddress {
          #expect(table.find(base, 16) == nil)
          table.insert(table.keep(base, 16), 16, UnsafeMutableRawPointer(values + i))
        }
      }
    }
    for i in 0..<3000 {
      var key = (Int64(i), Int64(i &* 7))
      withUnsafeBytes(of: &key) { bytes in
        if let base = bytes.baseAddress {
          #expect(table.find(base, 16) == UnsafeMutableRawPointer(values + i))
          #expect(table.find(base, 8) == nil)
        }
      }
    }
    #expect(table.count == 3000)
  }

  private func cached(_ nk: Int64) -> [GivenTensor] {
    [
      GivenTensor("q", .f32, [1, 8, 1, 64]), GivenTensor("k", .f32, [1, 2, nk, 64]),
      GivenTensor("v", .f32, [1, 2, nk, 64]),
      GivenTensor("mask", .u8, [1, 1, 1, nk]), GivenTensor("bias", .f32, [1, 8, 1, 1]), GivenTensor("o"),
    ]
  }

  @Test func aGrowingCacheStaysInItsClass() throws {
    let op = try TestDescriptors.compile("softmax")
    func shapes(_ nk: Int64) throws -> [[Int64]?] {
      let bound = try Binder.bind(op: op, entry: "forward", tensors: cached(nk), params: [])
      return try #require(bound.tensorsOfBucket(cached(nk))).map(\.shape)
    }
    let class1024 = try shapes(1024)
    #expect(class1024[1] == [1, 2, 1024, 64] && class1024[3] == [1, 1, 1, 1024] && class1024[4] == [1, 8, 1, 1])
    for nk in [769, 900, 1023] as [Int64] { #expect(try shapes(nk) == class1024) }
    #expect(try shapes(1025)[1] == [1, 2, 1536, 64])
    #expect(try shapes(1)[1] == [1, 2, 1, 64])
  }

  /// A plan made for large sizes and run with smaller ones binds them as a plan of their own would.
  @Test(arguments: TestDescriptors.names) func bindingAgainAgrees(_ name: String) throws {
    let op = try TestDescriptors.compile(name)
    for entry in op.entries {
      for seed in 0..<20 as Range<UInt64> {
        let bound = try RandomProblem.draw(op, entry, seed: seed).bound
        var frame = bound.storage.frame
        frame.present = bound.present
        let before = entry.symbols.indices.map { bound.symbol($0) }
        #expect(bound.program.run(&frame, complete: true).isGood)
        let after = entry.symbols.indices.map { frame.bound >> UInt64($0) & 1 == 1 ? frame.symbols[$0] : nil }
        #expect(before == after)
      }
    }
  }

  @Test func grainCoversAllTasks() {
    for (tasks, workers, ns) in [
      (0, 2, 10.0), (1, 2, 1e9), (1000, 2, 1.0), (7, 16, 0.0), (Int64.max / 8, 3, .infinity),
    ] {
      let grain = Plan.grain(tasks, UInt32(workers), ns)
      #expect(grain >= 1 && grain <= max(tasks, 1))
    }
    #expect(Plan.grain(1000, 1, 5) == 1000)
    #expect(Plan.grain(1000, 2, 25_000) == 2)
  }
}
