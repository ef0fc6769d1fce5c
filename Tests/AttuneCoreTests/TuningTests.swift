import CAttune
import Glibc
import Testing

@testable import AttuneCore

/// Keys of wisdom, shares of tasks, and rates: what the tuner works with besides its contests.
@Suite struct TuningTests {
  private struct Case {
    var op = "softmax"
    var sizes: (b: Int64, hq: Int64, hkv: Int64, nq: Int64, nk: Int64, d: Int64) = (1, 8, 2, 100, 1000, 64)
    var dtype = DType.f32
    var mask: Int64?
    var params: [(name: String, value: ParamValue)] = []
    var flags: UInt32 = 0
    var resources = Resources(arch: UInt32(ATTUNE_ARCH_X86_64), isa: (0xff, 0), workers: 4)
    var workers: UInt32 = 2
  }

  private func target(_ c: Case) throws -> TuningTarget {
    let s = c.sizes
    var tensors = [
      GivenTensor("q", c.dtype, [s.b, s.hq, s.nq, s.d]), GivenTensor("k", c.dtype, [s.b, s.hkv, s.nk, s.d]),
      GivenTensor("v", c.dtype, [s.b, s.hkv, s.nk, s.d]),
    ]
    if let rows = c.mask { tensors.append(GivenTensor("mask", .u8, [1, 1, rows, s.nk])) }
    tensors.append(GivenTensor("o"))
    let bound = try Binder.bind(op: TestDescriptors.compile(c.op), entry: "forward", tensors: tensors, params: c.params)
    var request = try c.op.withCString { name in
      var record = attune_problem()
      record.struct_size = UInt32(MemoryLayout<attune_problem>.size)
      record.op = name
      return try Problem(reading: &record)
    }
    request.flags = c.flags
    request.params = c.params
    return TuningTarget(bound, request, c.resources, workers: c.workers)
  }

  @Test func whatKernelsCanObserveIsInTheKey() throws {
    let base = try target(Case()).key
    let changes: [(inout Case) -> Void] = [
      { $0.sizes.hq = 4 }, { $0.sizes.hkv = 8 }, { $0.sizes.d = 40 }, { $0.dtype = .bf16 }, { $0.mask = 1 },
      { $0.params = [("causal", .flag(true))] }, { $0.params = [("window_left", .integer(7))] },
      { $0.params = [("softcap", .real(30))] }, { $0.flags = UInt32(ATTUNE_DETERMINISTIC) },
      { $0.flags = UInt32(ATTUNE_ALLOW_REDUCED) }, { $0.workers = 1 }, { $0.resources.isa.0 = 0xf },
      { $0.resources.areLent = true },
    ]
    var families = [base.family]
    for change in changes {
      var c = Case()
      change(&c)
      let family = try target(c).key.family
      #expect(!families.contains(family))
      families.append(family)
    }
    var full = Case()
    full.mask = 100
    var one = Case()
    one.mask = 1
    #expect(try target(full).key.family != target(one).key.family)
  }

  @Test func whatKernelsCannotObserveIsNot() throws {
    var c = Case()
    c.params = [("scale", .real(0.3))]
    #expect(try target(c).key == target(Case()).key)
  }

  @Test func sizesOfAClassShareAKey() throws {
    let base = try target(Case())
    #expect(!base.isExact)
    for nk in [769, 1000, 1024] as [Int64] {
      var c = Case()
      c.sizes.nk = nk
      c.sizes.nq = nk == 1024 ? 128 : 97
      let other = try target(c)
      #expect(other.key == base.key)
      #expect(other.isExact == (nk == 1024))
    }
    var next = Case()
    next.sizes.nk = 1025
    let other = try target(next)
    #expect(other.key.family == base.key.family && other.key != base.key)
    #expect(base.key.distance(to: other.key) != nil)
    next.sizes.nk = 10_000
    #expect(try base.key.distance(to: target(next).key) == nil)
  }

  @Test(arguments: [(64, 1, 8), (1000, 3, 7), (17, 4, 2), (5, 1, 9), (1, 1, 2)] as [(Int64, Int64, Int64)])
  func aShareIsAnEvenChoice(tasks: Int64, grain: Int64, every: Int64) {
    let share = TaskCall.share(of: tasks, grain, every)
    #expect(share > 0 && share <= 1)
    let pieces = (tasks + grain - 1) / grain
    if pieces >= 4 * every { #expect(abs(share * Double(every) - 1) < 0.35) }
  }

  @Test func ratesKeepOneDigit() {
    let record = MachineRecord(
      peakGflops: ["avx512": 178.3], l2: 126.8, l3: 27.8, dram: .nan, regionNs: 0, date: 0)
    let rates = MachineRates(record)
    #expect(rates.avx512 == 200 && rates.avx2 == 90 && rates.l2 == 100 && rates.l3 == 30)
    #expect(rates.memory == MachineRates().memory && rates.regionNs >= 500)
  }

  @Test func unevenTasksCountByTheirWaves() throws {
    var kernel = TestDescriptors.reference()
    kernel.isReference = false
    kernel.efficiency = 0.5
    let compiled = Kernel(
      spec: kernel, when: nil, knobWhen: nil, tasks: nil, workspace: nil, flops: nil, bytes: nil, args: [])
    func time(_ tasks: Int64) -> Double {
      CostModel.nanoseconds(compiled, flops: 1 << 40, bytes: 0, workers: 4, tasks: tasks, MachineRates())
    }
    #expect(abs(time(5) / time(8) - 1.6) < 0.01)
    #expect(time(4) == time(8))
    #expect(time(1) > 3.9 * time(4))
  }
}
