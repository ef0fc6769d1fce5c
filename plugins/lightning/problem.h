// One call by meaning: which tensor is which, and where each sequence lies. Shared by the reference and every kernel.
#ifndef ATTUNE_LIGHTNING_PROBLEM_H_
#define ATTUNE_LIGHTNING_PROBLEM_H_
#include "_kit/parallel.h"
#include "_kit/scalar.h"

namespace lightning {

using attune_kit::Cancelled;
using attune_kit::View;

// Orders of the tables in tables.h.
enum Param { kScale };
enum Symbol { kB, kHq, kHkv, kNq, kNk, kD, kDv, kNseq };
enum Tensor { kQ, kK, kV, kSlopes, kCuSeqlens, kKvState };
enum ForwardTensor { kO = kKvState + 1, kKvStateOut };
enum BackwardTensor { kDo = kKvState + 1, kDKvStateOut, kDq, kDk, kDV, kDKvState, kDSlopes };

// Tokens [begin, begin + length) of batch entry b; `index` counts the states.
struct Sequence {
  int64_t index, b, begin, length;
};

struct Problem {
  int64_t Hq, Hkv, N, D, Dv, sequences;
  double scale;
  View q, k, v, slopes, cu_seqlens, kv_state;
  View o, kv_state_out;                                             // forward, step
  View d_o, dkv_state_out, dq, dk, dv, dkv_state, dslopes;          // backward

  explicit Problem(const attune_exec& x)
      : Hq(x.symbols[kHq]), Hkv(x.symbols[kHkv]), N(x.symbols[kNk]), D(x.symbols[kD]), Dv(x.symbols[kDv]),
        sequences(x.symbols[x.tensors[kCuSeqlens] ? kNseq : kB]),
        scale(x.params[kScale].f != 0 ? x.params[kScale].f : 1),
        q(x.tensors[kQ]), k(x.tensors[kK]), v(x.tensors[kV]), slopes(x.tensors[kSlopes]),
        cu_seqlens(x.tensors[kCuSeqlens]), kv_state(x.tensors[kKvState]) {}

  int64_t Group() const { return Hq / Hkv; }
  double Slope(int64_t h) const { return slopes ? slopes.Get(h) : 0; }
  Sequence At(int64_t i) const {
    if (!cu_seqlens) return {i, i, 0, N};
    const int32_t* cuts = static_cast<const int32_t*>(cu_seqlens.Data());
    return {i, 0, cuts[i], cuts[i + 1] - cuts[i]};
  }
};

// The tensors of forward and step, of backward.
inline Problem ReadForward(const attune_exec& x) {
  Problem p(x);
  p.o = View(x.tensors[kO]), p.kv_state_out = View(x.tensors[kKvStateOut]);
  return p;
}
inline Problem ReadBackward(const attune_exec& x) {
  Problem p(x);
  p.d_o = View(x.tensors[kDo]), p.dkv_state_out = View(x.tensors[kDKvStateOut]);
  p.dq = View(x.tensors[kDq]), p.dk = View(x.tensors[kDk]), p.dv = View(x.tensors[kDV]);
  p.dkv_state = View(x.tensors[kDKvState]), p.dslopes = View(x.tensors[kDSlopes]);
  return p;
}

}  // namespace lightning
#endif  // ATTUNE_LIGHTNING_PROBLEM_H_
