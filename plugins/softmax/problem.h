// One call of `forward`, `step` or `backward` by meaning: which tensor is which, and where the rows of a sequence lie in
// each layout. Shared by the reference and every kernel, so that addressing is decided in one place.
#ifndef ATTUNE_SOFTMAX_PROBLEM_H_
#define ATTUNE_SOFTMAX_PROBLEM_H_
#include "_kit/parallel.h"
#include "_kit/scalar.h"

namespace softmax {

using attune_kit::Cancelled;
using attune_kit::View;

// Orders of the tables in tables.h.
enum Param { kLayout, kActivation, kSigmoidBias, kScale, kCausal, kQOffset, kWindowLeft, kWindowRight, kSoftcap };
enum Layout { kBhnd, kThd, kPaged };
enum Symbol { kB, kHq, kHkv, kNq, kNk, kD, kDv };  // the same first seven in every entry but merge
enum ForwardSymbol { kTq = 7, kTk, kNumPages, kPageSize, kMaxPages };
enum StepSymbol { kNp = 7, kNn };
enum ForwardTensor {
  kFwdQ,
  kFwdK,
  kFwdV,
  kFwdKPages,
  kFwdVPages,
  kFwdPageTable,
  kFwdCuQ,
  kFwdCuK,
  kFwdSeqlensK,
  kFwdKScale,
  kFwdKZero,
  kFwdVScale,
  kFwdVZero,
  kFwdKeyStart,
  kFwdQOffsets,
  kFwdMask,
  kFwdBias,
  kFwdSlopes,
  kFwdSinks,
  kFwdO,
  kFwdLse
};
enum StepTensor {
  kStepQ,
  kStepK,
  kStepV,
  kStepSeqlensK,
  kStepKeyStart,
  kStepQOffsets,
  kStepMask,
  kStepBias,
  kStepSlopes,
  kStepSinks,
  kStepKCache,
  kStepVCache,
  kStepO,
  kStepLse,
  kStepKCacheOut,
  kStepVCacheOut
};
enum BackwardTensor {
  kBwdQ,
  kBwdK,
  kBwdV,
  kBwdCuQ,
  kBwdCuK,
  kBwdSeqlensK,
  kBwdKeyStart,
  kBwdQOffsets,
  kBwdMask,
  kBwdBias,
  kBwdSlopes,
  kBwdSinks,
  kBwdO,
  kBwdLse,
  kBwdDo,
  kBwdDlse,
  kBwdDq,
  kBwdDk,
  kBwdDv,
  kBwdDbias,
  kBwdDsinks,
  kBwdDslopes
};

// A tensor with rows (batch, head, position): its strides in elements. In layout thd the batch stride is 0 and
// positions count over all sequences; in layout paged positions are within a page.
struct Axes {
  View view;
  int64_t batch = 0, head = 0, row = 0, page = 0;
  int64_t At(int64_t b, int64_t h, int64_t n) const { return b * batch + h * head + n * row; }
};

// Rows of keys or values (or of their scales): those below `split` lie in `cached`, the others in `fresh`, counted from
// `split`.
struct KeyRows {
  Axes cached, fresh;
  int64_t split = INT64_MAX;
};

// One sequence of the batch. Keys are counted from 0 within it; exactly those in [key_start, key_end) may be read.
struct Sequence {
  int64_t b, q_begin, nq, k_begin, key_start, key_end, q_offset;
};

struct RowRef {
  const View* view;
  int64_t offset;  // elements
};

struct Problem {
  Layout layout;
  bool causal, sigmoid;
  int64_t B, Hq, Hkv, Nk, D, Dv, page_size, window_left, window_right, q_offset;
  double scale, softcap, sigmoid_bias;
  Axes q, o, lse;
  KeyRows k, v, k_scale, k_zero, v_scale, v_zero;
  View cu_q, cu_k, seqlens_k, key_start, q_offsets, page_table, mask, bias, slopes, sinks;
  Axes k_cache_out, v_cache_out;  // step only

  int64_t Group() const { return Hq / Hkv; }

  Sequence At(int64_t b) const {
    Sequence s = {b, 0, 0, 0, 0, Nk, 0};
    if (cu_q) {
      s.q_begin = Index(cu_q, b);
      s.nq = Index(cu_q, b + 1) - s.q_begin;
    } else {
      s.nq = q.view.Dim(2);
    }
    if (cu_k) {
      s.k_begin = Index(cu_k, b);
      s.key_end = Index(cu_k, b + 1) - s.k_begin;
    }
    if (seqlens_k) s.key_end = Index(seqlens_k, b);
    s.q_offset = q_offset == INT64_MIN ? s.key_end - s.nq : q_offset;
    if (q_offsets) s.q_offset = Index(q_offsets, b);
    if (key_start) s.key_start = Index(key_start, b);
    return s;
  }

  // Element offset of query row i (of q or o) or of its lse.
  int64_t QueryAt(const Axes& a, const Sequence& s, int64_t h, int64_t i) const { return a.At(s.b, h, s.q_begin + i); }

  // Where key j of the sequence lies. Only for j in [key_start, key_end).
  RowRef KeyAt(const KeyRows& rows, const Sequence& s, int64_t head, int64_t j) const {
    if (j >= rows.split) return {&rows.fresh.view, rows.fresh.At(s.b, head, j - rows.split)};
    const Axes& a = rows.cached;
    if (layout != kPaged) return {&a.view, a.At(s.b, head, s.k_begin + j)};
    const int64_t page = Index(page_table, s.b, j / page_size);
    return {&a.view, page * a.page + head * a.head + j % page_size * a.row};
  }

  double Slope(int64_t b, int64_t h) const { return slopes.Rank() == 2 ? slopes.Get(b, h) : slopes.Get(h); }

  // Head row of mask or bias: their head dim is 1, Hkv or Hq.
  int64_t BroadcastHead(const View& t, int64_t h) const {
    return t.Dim(1) == Hq ? h : t.Dim(1) == Hkv ? h / Group() : 0;
  }

  template <class... I>
  static int64_t Index(const View& t, I... index) {
    return static_cast<const int32_t*>(t.Data())[t.Offset(index...)];
  }
};

// What `backward` has besides: upstream gradients, and the gradients to compute. Any of them may be absent.
struct Gradients {
  Axes d_o, d_lse, dq, dk, dv;
  View dbias, dsinks, dslopes;
};

// Reads the call; valid as long as `x` is. Takes the tensors of `forward`.
Problem ReadForward(const attune_exec& x);
// Takes the tensors of `step`: keys are the cache followed by the new ones.
Problem ReadStep(const attune_exec& x);
// Takes the tensors of `backward`. o and lse are inputs there, and may be absent.
Problem ReadBackward(const attune_exec& x);
Gradients ReadGradients(const attune_exec& x);

}  // namespace softmax
#endif  // ATTUNE_SOFTMAX_PROBLEM_H_
