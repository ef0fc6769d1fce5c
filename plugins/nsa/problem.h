// One call of any entry by meaning: which tensor is which, who sees what. Shared by the references and every kernel.
#ifndef ATTUNE_NSA_PROBLEM_H_
#define ATTUNE_NSA_PROBLEM_H_
#include "_kit/parallel.h"
#include "_kit/scalar.h"

namespace nsa {

using attune_kit::Cancelled;
using attune_kit::Parallel;
using attune_kit::View;

// The three attentions, in the order in which every table lists them.
enum BranchId { kCmp, kSlc, kSwa, kBranches };
enum Mode { kMean, kWeighted, kLinear, kGiven };

struct Range {
  int64_t begin, end;  // empty when end <= begin
};

// How one of keys or values becomes compressed keys or values.
struct Compression {
  View source, weight, position;  // [B,Hkv,Nk,n]; by mode; [Hkv,l,n]. weight and position may be absent
  View known;                     // entries that exist already: given ones, or a state. May be absent
  int64_t n_known;                // of them
  int64_t width;                  // n
  bool own_source, own_window;    // does the branch have tensors of its own, or does it share k or v?
};

struct Problem {
  bool use[kBranches], sigmoid;
  Mode mode;
  int64_t B, Hq, Hkv, Nq, Nk, D, Dv, Nc, S;
  int64_t l, d, block, top_n, n_init, n_local, window;
  double scale;
  View q, q_cmp, k, v, k_swa, v_swa;  // q_cmp, k_swa, v_swa fall back to the others
  bool own_q_cmp;
  Compression key, value;
  View gate[kBranches], indices, counts;
  View o, o_branch[kBranches], lse[kBranches], indices_out, k_cmp_out, v_cmp_out;
  // step only
  View k_new, v_new, k_cache, v_cache, k_cache_out, v_cache_out, k_state_out, v_state_out;

  int64_t Group() const { return Hq / Hkv; }
  int64_t Position(int64_t i) const { return i + Nk - Nq; }
  bool Selects() const { return use[kSlc] && !indices; }
  // Are compressed keys scored at all?
  bool Scores() const { return use[kCmp] || Selects(); }
  // Compressed keys that position t sees: those whose last token is not after t.
  int64_t VisibleCompressed(int64_t t) const { return t + 1 < l ? 0 : (t + 1 - l) / d + 1; }
  // Tokens of block j that position t sees; j <= t / block.
  Range BlockTokens(int64_t j, int64_t t) const {
    const int64_t begin = j * block;
    return {begin, t - begin < block ? t + 1 : begin + block};
  }
  Range WindowTokens(int64_t t) const { return {t - window >= 0 ? t - window + 1 : 0, t + 1}; }

  // The gate as it multiplies, and its derivative by the given value.
  double Gate(BranchId branch, int64_t b, int64_t h, int64_t i) const;
  double GateSlope(BranchId branch, int64_t b, int64_t h, int64_t i) const;

  // Is block j one that every query of position t selects?
  bool Forced(int64_t j, int64_t t) const { return j < n_init || j > t / block - n_local; }
  // Given blocks of a query: ascending, each once, only those that begin at or before its position. Returns their
  // number; `out` has room for S, or for t / block + 1 if that is less.
  int64_t GivenBlocks(int64_t b, int64_t head, int64_t i, int32_t* out) const;
};

// Valid as long as `x` is. In step, k and v are the caches that the call writes.
Problem ReadForward(const attune_exec& x);
Problem ReadBackward(const attune_exec& x);
Problem ReadStep(const attune_exec& x);

// Where a gradient goes; any may be absent. The gradients of k and v are sums over the branches that use them.
struct Gradients {
  View d_o, dq, dk, dv, dk_swa, dv_swa, dk_src, dv_src, dk_cmp, dv_cmp, dq_cmp, dw_k, dw_v, dpe_k, dpe_v;
  View dgate[kBranches];
};
Gradients ReadGradients(const attune_exec& x);

// Copies new tokens behind the cached ones; skips the latter when they already lie there.
void AppendTokens(const View& cache, const View& fresh, const View& out, int64_t b, int64_t head, int64_t width);
// Copies known entries of a state into its successor, unless they already lie there. One rounding if types differ.
void CopyState(const Compression& c, const View& out, int64_t b, int64_t head);

}  // namespace nsa
#endif  // ATTUNE_NSA_PROBLEM_H_
