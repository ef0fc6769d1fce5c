// How a call is cut into segments and chunks of tokens, and where its workspace lies. Depends on sizes and knobs only,
// so that results do not depend on the number of threads.
#ifndef ATTUNE_MALA_LAYOUT_H_
#define ATTUNE_MALA_LAYOUT_H_
#include "mala/problem.h"

namespace mala {

enum ChunkedKnob { kChunk, kSplit };
constexpr int64_t kMaxChunk = 128;  // largest value of the first; all are multiples of 32

// Bytes that Layout takes at most. A slot per (batch, kv head, segment) holds the sums over tokens of earlier segments:
// memory does not grow with the number of tokens. The backward pass has two slots each and two numbers per query.
#define ATTUNE_MALA_SLOTS "B*Hkv*max(1,min(cdiv(max(Nq,Nk),512),cdiv(k.split,max(1,B*Hkv))))"
constexpr char kForwardWorkspace[] = "4*(" ATTUNE_MALA_SLOTS
                                     "*((D+9)*(Dv+48)+D+64)+$workers*(k.chunk+32)*(7*(D+48)+3*(Dv+48)+k.chunk+64))";
constexpr char kBackwardWorkspace[] =
    "4*(2*" ATTUNE_MALA_SLOTS
    "*((D+9)*(Dv+48)+D+64)+$workers*((k.chunk+32)*(9*(D+48)+6*(Dv+48)+k.chunk+64)+(D+48)*(Dv+48))+2*B*Hq*Nq)";
#undef ATTUNE_MALA_SLOTS

// Sums over tokens, in rows of ld_v (p, v) and ld_d (z) floats: p [D] rows, z and v one. n: how many, where it is needed.
struct Slot {
  float *p, *z, *v;
  int64_t* n;
};

struct Layout {
  int64_t heads;                                         // kv heads of the whole batch
  int64_t chunk, segments, key_segment, query_segment;  // tokens of a chunk, number of segments, tokens of each
  int64_t ld_d, ld_v, ld_s, rows;                        // floats of a row, rows of a chunk's matrices
  int64_t sums_floats, slot_floats, worker_floats;
  float *slots, *worker_memory;
  float* row_numbers;  // backward: z and its gradient for every query

  Layout(const attune_exec& x, const Problem& c, bool backward) {
    const auto up = [](int64_t n, int64_t to) { return (n + to - 1) / to * to; };
    const auto cut = [&](int64_t n) { return up((n + segments - 1) / segments, chunk); };
    heads = c.B * c.Hkv;
    chunk = x.knobs[kChunk];
    const int64_t longest = c.Nq > c.Nk ? c.Nq : c.Nk, most = (longest + 511) / 512;
    const int64_t wanted = heads > 0 ? (x.knobs[kSplit] + heads - 1) / heads : 1;
    segments = wanted < most ? wanted : most;
    if (segments < 1) segments = 1;
    key_segment = cut(c.Nk), query_segment = cut(c.Nq);
    // 16 floats more than whole panels: rows a power of two apart would share few lines of the cache.
    ld_d = up(c.D, 32) + 16, ld_v = up(c.Dv, 32) + 16, ld_s = chunk + 16;
    rows = chunk + 16;  // whole tiles, of up to 8 rows
    sums_floats = (c.D + 8) * ld_v;  // whole tiles
    slot_floats = sums_floats + ld_d + ld_v + 16;
    worker_floats = (chunk + 32) * ((backward ? 9 : 7) * (c.D + 48) + (backward ? 6 : 3) * (c.Dv + 48) + chunk + 64) +
                    (backward ? (c.D + 48) * (c.Dv + 48) : 0);
    slots = static_cast<float*>(x.workspace);
    worker_memory = slots + (backward ? 2 : 1) * heads * segments * slot_floats;
    row_numbers = worker_memory + x.n_workers * worker_floats;
  }

  // The slot of segment i of kv head `head`, counted over the batch.
  Slot Sums(int64_t head, int64_t i) const { return At(head * segments + i); }
  // The same for what flows back; backward pass only.
  Slot Gradients(int64_t head, int64_t i) const { return At((heads + head) * segments + i); }

 private:
  Slot At(int64_t index) const {
    float* p = slots + index * slot_floats;
    return {p, p + sums_floats, p + sums_floats + ld_d, reinterpret_cast<int64_t*>(p + slot_floats - 16)};
  }
};

}  // namespace mala
#endif  // ATTUNE_MALA_LAYOUT_H_
