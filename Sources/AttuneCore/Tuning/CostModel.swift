import CAttune
import CRuntime

/// Speeds that the cost model reckons with: measured once per CPU, or plausible ones for a core around 3 GHz.
package struct MachineRates: Sendable, Equatable {
  /// Multiply-add rates of one core by vector width, flops per nanosecond.
  package var avx512 = 192.0, avx2 = 96.0, sse4 = 24.0, scalar = 12.0
  /// Bytes per nanosecond that one core reads.
  package var l2 = 60.0, l3 = 20.0, memory = 12.0
  /// Opening a parallel region; most of it is uncertainty.
  package var regionNs = 500.0
  package var l2Bytes = Double(1 << 20), l3Bytes = Double(32 << 20)

  package init() {
    if crt_cache_bytes(2) > 0 { l2Bytes = Double(crt_cache_bytes(2)) }
    if crt_cache_bytes(3) > 0 { l3Bytes = Double(crt_cache_bytes(3)) }
  }

  /// One digit of what was measured: noise must not turn a choice.
  package init(_ record: MachineRecord) {
    self.init()
    func use(_ value: Double?, _ field: inout Double) {
      if let value, value > 0, value.isFinite { field = MachineRates.oneDigit(value) }
    }
    use(record.peakGflops["avx512"], &avx512)
    use(record.peakGflops["avx2"] ?? record.peakGflops["avx512"].map { $0 / 2 }, &avx2)
    use(
      record.peakGflops["sse4"] ?? record.peakGflops["avx2"].map { $0 / 4 }
        ?? record.peakGflops["avx512"].map { $0 / 8 }, &sse4)
    scalar = sse4 / 2
    use(record.l2, &l2)
    use(record.l3, &l3)
    use(record.dram, &memory)
    use(record.regionNs, &regionNs)
    regionNs = max(regionNs, 500)
  }

  private static func oneDigit(_ x: Double) -> Double {
    var unit = 1.0
    while x / unit >= 10 { unit *= 10 }
    while x / unit < 1 { unit /= 10 }
    return (x / unit).rounded() * unit
  }

  func peak(isa: UInt64) -> Double {
    func has(_ bit: Int) -> Bool { isa >> UInt64(bit) & 1 == 1 }
    if has(ATTUNE_X86_AVX512F) { return avx512 }
    if has(ATTUNE_X86_AVX2) || has(ATTUNE_X86_AVX) { return avx2 }
    return has(ATTUNE_X86_SSE42) ? sse4 : scalar
  }

  func bandwidth(bytes: Double, workers: Double) -> Double {
    if bytes <= l2Bytes * workers { return l2 * workers }
    return bytes <= l3Bytes ? l3 * workers : memory * min(workers, 4)
  }
}

extension MachineRates {
  /// Measures this machine on the calling thread, in less than 100 ms. `region`: where parallel work goes.
  static func measure(isa: UInt64, level: String, region: crt_region) -> MachineRecord {
    let l2 = max(crt_cache_bytes(2), 256 << 10)
    return MachineRecord(
      peakGflops: [level: crt_fma_peak_gflops(isa)], l2: crt_read_bandwidth(l2 / 2, isa) / 1e9,
      l3: crt_read_bandwidth(min(4 * l2, 16 << 20), isa) / 1e9, dram: crt_read_bandwidth(32 << 20, isa) / 1e9,
      regionNs: regionNs(region), date: crt_wall_seconds())
  }

  private static func regionNs(_ region: crt_region) -> Double {
    guard region.workers > 1 else { return 0 }
    var region = region
    let rounds = 200
    var best = Double.infinity
    for _ in 0..<5 {
      let begin = crt_now_ns()
      for _ in 0..<rounds { _ = crt_parallel(&region, Int64(region.workers), 1, { _, _, _, _ in }, nil) }
      best = min(best, Double(crt_now_ns() &- begin) / Double(rounds))
    }
    return best
  }
}

/// A roofline: arithmetic at the kernel's share of peak, or bytes at memory speed, whichever is slower. It ranks kernels of
/// one problem; its absolute numbers are only good for splitting work.
enum CostModel {
  static func nanoseconds(
    _ kernel: Kernel, flops: Int64, bytes: Int64, workers: UInt32, tasks: Int64?, _ rates: MachineRates
  ) -> Double {
    let known = kernel.spec.efficiency
    let share = known > 0 ? min(known, 1) : kernel.spec.isReference ? 0.01 : 0.25
    var parallel = Double(workers)
    var imbalance = 1.0
    if let tasks {
      let n = Double(max(tasks, 1))
      parallel = min(parallel, n)
      imbalance = (n / parallel).rounded(.up) * parallel / n
    } else if !kernel.spec.ownsThreads {
      parallel = 1
    }
    let compute = Double(flops) / (rates.peak(isa: kernel.spec.isa.0) * share * parallel) * imbalance
    let memory = Double(bytes) / rates.bandwidth(bytes: Double(bytes), workers: parallel)
    return max(compute, memory) + (parallel > 1 ? rates.regionNs : 0)
  }
}
