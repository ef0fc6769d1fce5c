#include "mala/problem.h"

#include <math.h>
#include <stdio.h>

namespace mala {
namespace {

States ReadStates(const attune_tensor* const* t) {
  States s;
  s.kv = View(t[0]), s.k = View(t[1]), s.v = View(t[2]), s.n = View(t[3]);
  return s;
}

// A negative count, or one that this call's tokens would push beyond 64 bits, makes no sense of any mean.
attune_status CheckCounts(const attune_exec& x, Call call) {
  const Problem p = Read(x, call);
  const int64_t most = INT64_MAX - p.Nk;
  for (int64_t b = 0; p.in.n && b < p.B; b++) {
    const int64_t n = p.in.Count(b);
    if (n >= 0 && n <= most) continue;
    const int64_t expected = n < 0 ? 0 : most;
    char text[120];
    snprintf(text, sizeof text, "n_state[%lld] is %lld, expected at %s %lld", static_cast<long long>(b),
             static_cast<long long>(n), n < 0 ? "least" : "most", static_cast<long long>(expected));
    if (x.error) x.error->detail[0] = expected, x.error->detail[1] = n;
    return attune_fail(x.error, ATTUNE_E_INVALID, "n_state", text);
  }
  return ATTUNE_OK;
}

}  // namespace

Problem Read(const attune_exec& x, Call call) {
  Problem p = {};
  p.causal = x.params[kCausal].i != 0;
  p.B = x.symbols[kB], p.Hq = x.symbols[kHq], p.Hkv = x.symbols[kHkv];
  p.Nq = x.symbols[kNq], p.Nk = x.symbols[kNk], p.D = x.symbols[kD], p.Dv = x.symbols[kDv];
  p.scale = x.params[kScale].f != 0 ? x.params[kScale].f : 1 / sqrt(double(p.D));
  p.norm_eps = x.params[kNormEps].f;

  const attune_tensor* const* t = x.tensors;
  p.q = Rows(*t++), p.k = Rows(*t++), p.v = Rows(*t++);
  p.sin = View(*t++), p.cos = View(*t++);
  if (call != kStep) p.key_mask = View(*t++);
  p.in = ReadStates(t), t += 4;
  if (call == kBackward) {
    p.d_o = Rows(*t++), p.dq = Rows(*t++), p.dk = Rows(*t++), p.dv = Rows(*t++);
  } else {
    p.o = Rows(*t++), p.out = ReadStates(t);
  }
  return p;
}

attune_status CheckForward(const attune_exec* x) {
  return CheckCounts(*x, kForward);
}
attune_status CheckStep(const attune_exec* x) {
  return CheckCounts(*x, kStep);
}
attune_status CheckBackward(const attune_exec* x) {
  return CheckCounts(*x, kBackward);
}

}  // namespace mala
