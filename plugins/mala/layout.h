// How a call is cut into segments and chunks of tokens, and where its workspace lies. Depends on sizes and knobs only,
// so that results do not depend on the number of threads.
#ifndef ATTUNE_MALA_LAYOUT_H_
#define ATTUNE_MALA_LAYOUT_H_
#include "_kit/chunk_memory.h"
#include "mala/problem.h"

namespace mala {

enum ChunkedKnob { kChunk, kSplit };
constexpr int64_t kMaxChunk = 128;  // largest value of the first
constexpr int64_t kFewTokens = 2;   // the chunk of the kernel for few tokens: rows that it keeps

// Bytes of workspace; at least what Layout and the workers take, in which a row of D floats is a little longer. A slot
// per (batch, kv head, segment) holds sums over tokens: memory does not grow with their number. The backward pass has
// two slots each, and two numbers per query.
#define ATTUNE_MALA_SLOT "((D+1)*(Dv+48)+D+64)"
#define ATTUNE_MALA_SLOTS "B*Hkv*max(1,min(cdiv(max(Nq,Nk),512),cdiv(k.split,max(1,B*Hkv))))*" ATTUNE_MALA_SLOT
#define ATTUNE_MALA_ROWS(chunk, d, v) \
  "$workers*(" chunk "*(" d "*(D+48)+" v "*(Dv+48)+" chunk "+64)+2*max(D,Dv)*(" chunk "+46)+4*(D+Dv+48))"
constexpr char kForwardWorkspace[] = "4*(" ATTUNE_MALA_SLOTS "+" ATTUNE_MALA_ROWS("k.chunk", "5", "3") ")";
constexpr char kTokensWorkspace[] = "4*(B*Hkv*" ATTUNE_MALA_SLOT "+" ATTUNE_MALA_ROWS("2", "5", "3") ")";
constexpr char kBackwardWorkspace[] =
    "4*(2*" ATTUNE_MALA_SLOTS "+" ATTUNE_MALA_ROWS("k.chunk", "6", "5") "+2*B*Hq*Nq)";
#undef ATTUNE_MALA_SLOT
#undef ATTUNE_MALA_SLOTS
#undef ATTUNE_MALA_ROWS

// Sums over tokens, or their gradients: p [D rows of ld_v floats], z [D], v [Dv], and the number of tokens where it is
// needed.
struct Slot {
  float *p, *z, *v;
  int64_t* n;
};

struct Layout {
  int64_t heads;                                        // kv heads of the whole batch
  int64_t chunk, segments, key_segment, query_segment;  // tokens of a chunk, number of segments, tokens of each
  int64_t ld_d, ld_v;                                   // distance of rows, in floats
  int64_t long_row;                                     // row of either kind, in floats: gradients transpose both
  int64_t p_floats, slot_floats, worker_floats;
  float *slots, *workers;
  float *z, *dz;  // backward: of query i of head h of the batch at h * Nq + i

  // `split`: how many pieces the tokens of all kv heads are cut into, if there are that few heads.
  Layout(const attune_exec& x, const Problem& c, int64_t chunk_, int64_t split, bool backward) {
    heads = c.B * c.Hkv;
    chunk = chunk_;
    const int64_t longest = c.Nq > c.Nk ? c.Nq : c.Nk, most = (longest + 511) / 512;
    const int64_t wanted = heads > 0 ? (split + heads - 1) / heads : 1;
    segments = wanted < most ? wanted : most;
    if (segments < 1) segments = 1;
    key_segment = CutEvenly(c.Nk), query_segment = CutEvenly(c.Nq);
    ld_d = int64_t(attune_kit::ChunkStride(c.D)), ld_v = int64_t(attune_kit::ChunkStride(c.Dv));
    long_row = c.D > c.Dv ? c.D : c.Dv;
    p_floats = c.D * ld_v;
    slot_floats = p_floats + ld_v + ld_d + 16;
    worker_floats = chunk * ((backward ? 6 : 5) * (c.D + 48) + (backward ? 5 : 3) * (c.Dv + 48) + chunk + 64) +
                    2 * long_row * (chunk + 46) + 4 * (c.D + c.Dv + 48);
    worker_floats = worker_floats / 16 * 16;
    slots = static_cast<float*>(x.workspace);
    workers = slots + (backward ? 2 : 1) * heads * segments * slot_floats;
    z = workers + x.n_workers * worker_floats;
    dz = z + c.B * c.Hq * c.Nq;
  }

  // The slot of segment i of kv head `head`, counted over the batch.
  Slot Sums(int64_t head, int64_t i) const { return At(head * segments + i); }
  // The same for what flows back; backward pass only.
  Slot Gradients(int64_t head, int64_t i) const { return At((heads + head) * segments + i); }

 private:
  // Tokens of a segment: whole chunks.
  int64_t CutEvenly(int64_t n) const { return ((n + segments - 1) / segments + chunk - 1) / chunk * chunk; }

  Slot At(int64_t index) const {
    float* p = slots + index * slot_floats;
    return {p, p + p_floats + ld_v, p + p_floats, reinterpret_cast<int64_t*>(p + slot_floats - 16)};
  }
};

// Hands out the memory of one worker in whole cache lines.
class Arena {
 public:
  Arena(const Layout& w, uint32_t worker) : at_(w.workers + worker * w.worker_floats) {}
  float* Take(size_t floats) {
    float* p = at_;
    at_ += (floats + 15) / 16 * 16;
    return p;
  }

 private:
  float* at_;
};

// A range of tokens.
struct Range {
  int64_t begin, end;

  // Piece i of [0, n) cut into pieces of `size`; empty behind the end.
  static Range Piece(int64_t i, int64_t size, int64_t n) {
    const int64_t begin = i * size < n ? i * size : n;
    return {begin, n - begin < size ? n : begin + size};
  }
};

}  // namespace mala
#endif  // ATTUNE_MALA_LAYOUT_H_
