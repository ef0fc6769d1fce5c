// One call by meaning: which tensor is which, and where its rows lie. Shared by the reference and every kernel.
#ifndef ATTUNE_MALA_PROBLEM_H_
#define ATTUNE_MALA_PROBLEM_H_
#include "_kit/scalar.h"

namespace mala {

using attune_kit::View;

// Orders of the tables in tables.h.
enum Param { kFeatureMap, kScale, kNormEps, kCausal };
enum Symbol { kB, kHq, kHkv, kNq, kNk, kD, kDv };
enum Call { kForward, kStep, kBackward };

// A tensor with rows (batch, head, token) of consecutive elements: its strides in elements.
struct Rows {
  View view;
  int64_t batch = 0, head = 0, row = 0;

  Rows() = default;
  explicit Rows(const attune_tensor* t) : view(t), batch(view.Stride(0)), head(view.Stride(1)), row(view.Stride(2)) {}
  explicit operator bool() const { return bool(view); }
  int64_t At(int64_t b, int64_t h, int64_t n) const { return b * batch + h * head + n * row; }
};

// Sums over the tokens so far: kv [B,Hkv,D,Dv], k [B,Hkv,D], v [B,Hkv,Dv], n [B]. Absent ones are false.
struct States {
  View kv, k, v, n;

  int64_t Count(int64_t b) const { return n ? static_cast<const int64_t*>(n.Data())[n.Offset(b)] : 0; }
};

struct Problem {
  bool causal;
  int64_t B, Hq, Hkv, Nq, Nk, D, Dv;
  double scale, norm_eps;
  Rows q, k, v, o;           // o: forward and step
  Rows d_o, dq, dk, dv;      // backward; the last three may be absent
  View sin, cos, key_mask;   // may be absent
  States in, out;            // may be absent, each on its own in `out`

  int64_t Group() const { return Hq / Hkv; }
  // The tokens of batch entry b so far. To be called when all of its heads are done: n_state may be updated in place.
  void StoreCount(int64_t b) const {
    if (out.n) static_cast<int64_t*>(out.n.Data())[out.n.Offset(b)] = in.Count(b) + Nk;
  }
  bool Visible(int64_t b, int64_t j) const {
    return !key_mask || static_cast<const uint8_t*>(key_mask.Data())[key_mask.Offset(b, j)] != 0;
  }
};

// Valid as long as `x` is.
Problem Read(const attune_exec& x, Call call);

// Judges n_state, the only index data of the operator.
attune_status CheckForward(const attune_exec* x);
attune_status CheckStep(const attune_exec* x);
attune_status CheckBackward(const attune_exec* x);

}  // namespace mala
#endif  // ATTUNE_MALA_PROBLEM_H_
