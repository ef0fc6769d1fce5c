// One call of `forward`, `step` or `backward` by meaning: which tensor is which, what a query sees, where a key lies.
// Shared by the reference and every kernel, so that addressing is decided in one place.
#ifndef ATTUNE_MOH_PROBLEM_H_
#define ATTUNE_MOH_PROBLEM_H_
#include "_kit/parallel.h"
#include "_kit/scalar.h"

namespace moh {

using attune_kit::Cancelled;
using attune_kit::Parallel;
using attune_kit::View;

// Orders of the tables in tables.h.
enum Param { kGateMode, kNShared, kTopK, kScale, kCausal, kQOffset };
enum GateMode { kTwoStage, kSharedOnly, kQNorm, kGiven };
enum Symbol { kB, kHq, kHkv, kNq, kNk, kD, kDv, kNp, kNn, kE, kCout };
enum InputTensor {  // of every entry
  kQ,
  kK,
  kV,
  kKCache,
  kVCache,
  kBias,
  kKeyStart,
  kSeqlensK,
  kQOffsets,
  kGHead,
  kLogitsR,
  kLogitsS,
  kLogitsH,
  kQRouter,
  kWo,
  kBo
};
enum ForwardTensor { kO = kBo + 1, kGHeadOut, kY, kLAux, kLse };
enum StepTensor { kKCacheOut = kLse + 1, kVCacheOut };
enum BackwardTensor {
  kSavedLse = kBo + 1,
  kUpO,
  kUpY,
  kUpLAux,
  kGradQ,
  kGradK,
  kGradV,
  kGradBias,
  kGradLogitsR,
  kGradLogitsS,
  kGradLogitsH,
  kGradGHead,
  kGradWo,
  kGradBo
};

// Keys of a row, or of a sequence; empty when end <= begin.
struct Interval {
  int64_t begin, end;
};

struct RowRef {
  const View* view;
  int64_t offset;  // elements
};

struct Problem {
  GateMode mode;
  bool causal;
  int64_t B, Hq, Hkv, Nq, Nk, D, Dv, Np, E, Cout, n_shared, top_k, q_offset;
  double scale;
  View q, k, v, k_cache, v_cache, bias, key_start, seqlens_k, q_offsets, g_head, logits_r, logits_s, logits_h, q_router;
  View w_o, b_o, o, g_head_out, y, l_aux, lse, k_cache_out, v_cache_out;

  int64_t Group() const { return Hq / Hkv; }
  int64_t Tokens() const { return B * Nq; }

  // What query t of batch entry b sees by position and length; bias apart. Only these keys may be read.
  Interval Visible(int64_t b, int64_t t) const;
  // Where key or value j of a kv head lies: in the cache, or behind it among the new ones.
  RowRef Key(int64_t b, int64_t head, int64_t j) const { return Stored(k_cache, k, b, head, j); }
  RowRef Value(int64_t b, int64_t head, int64_t j) const { return Stored(v_cache, v, b, head, j); }

  // Head row of bias, whose head dim is 1, Hkv or Hq.
  int64_t BiasHead(int64_t h) const { return bias.Dim(1) == Hq ? h : bias.Dim(1) == Hkv ? h / Group() : 0; }

  static int64_t Index(const View& t, int64_t i) { return static_cast<const int32_t*>(t.Data())[t.Offset(i)]; }

 private:
  RowRef Stored(const View& cache, const View& fresh, int64_t b, int64_t head, int64_t j) const {
    if (j < Np) return {&cache, cache.Offset(b, head, j)};
    return {&fresh, fresh.Offset(b, head, j - Np)};
  }
};

// What `backward` has besides: upstream gradients, and the gradients to compute. Any of them may be absent.
struct Gradients {
  View d_o, dy, dl_aux, dq, dk, dv, dbias, dlogits_r, dlogits_s, dlogits_h, dg_head, dw_o, db_o;

  // Is the gradient of a gate wanted, or of what it is made of?
  bool NeedsGates() const { return dlogits_r || dlogits_s || dlogits_h || dg_head; }
};

// Valid as long as `x` is.
Problem ReadForward(const attune_exec& x);
Problem ReadStep(const attune_exec& x);
// Has no outputs. `lse` of the forward is not read: the gradient of a gate needs the attention again anyway.
Problem ReadBackward(const attune_exec& x);
Gradients ReadGradients(const attune_exec& x);

// key_start and seqlens_k must lie in [0, Nk]; kernels trust what passed.
attune_status Check(const attune_exec* x);

// Appends the new keys and values of a kv head to its caches; copies the old ones unless they already lie there.
void WriteCaches(const Problem& c, int64_t b, int64_t head);

}  // namespace moh
#endif  // ATTUNE_MOH_PROBLEM_H_
