import CAttune
import CRuntime

/// Limits of this machine, measured in the same run as the kernels they are compared with.
struct Machine {
  /// f32 multiply-adds of one thread, with the widest vectors that may be used.
  let peakGflops: Double
  /// One thread reading memory that no cache holds.
  let readBytesPerSecond: Double
  let cpu: Description.CPU

  init(_ context: Context) throws {
    cpu = try context.cpu()
    let widest: [String: [Int]] = [
      "sse4": [ATTUNE_X86_SSE42], "avx2": [ATTUNE_X86_SSE42, ATTUNE_X86_AVX2, ATTUNE_X86_FMA],
    ]
    let mask = widest[cpu.isaLevel].map { $0.reduce(UInt64(0)) { $0 | 1 << UInt64($1) } } ?? .max
    let isa = crt_isa_bits() & mask
    peakGflops = crt_fma_peak_gflops(isa)
    let beyondCaches: UInt64 = (cpu.l3 ?? 0) > 16 << 20 ? 512 << 20 : 64 << 20
    readBytesPerSecond = crt_read_bandwidth(beyondCaches, isa)
  }
}
