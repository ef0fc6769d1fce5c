#include "sla/problem.h"

#include <math.h>

namespace sla {
namespace {

enum Param { kTopRatio, kLowRatio, kBlockQ, kBlockK, kFeatureMap, kLinearScope, kScale, kNormEps, kCausal };
enum Symbol { kSymB, kSymHq, kSymHkv, kSymNq, kSymNk, kSymD, kSymDv, kSymMb, kSymNb };
enum Tensor { kQ, kK, kV, kWProj, kBProj, kO, kOS, kOL, kLseS, kBlockMap, kDo, kDq, kDk, kDv, kDwProj, kDbProj };

// The product in double, truncated toward zero.
int64_t Share(double ratio, int64_t n) {
  return int64_t(ratio * double(n));
}

Problem ReadInputs(const attune_exec& x) {
  Problem p = {};
  p.map = FeatureMap(x.params[kFeatureMap].i), p.scope = Scope(x.params[kLinearScope].i);
  p.B = x.symbols[kSymB], p.Hq = x.symbols[kSymHq], p.Hkv = x.symbols[kSymHkv];
  p.Nq = x.symbols[kSymNq], p.Nk = x.symbols[kSymNk], p.D = x.symbols[kSymD], p.Dv = x.symbols[kSymDv];
  p.Mb = x.symbols[kSymMb], p.Nb = x.symbols[kSymNb];
  p.block_q = x.params[kBlockQ].i, p.block_k = x.params[kBlockK].i;

  const int64_t top = Share(x.params[kTopRatio].f, p.Nb), low = Share(x.params[kLowRatio].f, p.Nb);
  p.n_critical = top < 1 ? 1 : top;
  if (p.n_critical > p.Nb) p.n_critical = p.Nb;  // also without any block
  p.n_negligible = low < p.Nb - p.n_critical ? low : p.Nb - p.n_critical;

  p.scale = x.params[kScale].f != 0 ? x.params[kScale].f : 1 / sqrt(double(p.D));
  const double eps = x.params[kNormEps].f;
  p.eps = eps >= 0 ? eps : p.scope == kAll ? 1e-5 : 0;

  const attune_tensor* const* t = x.tensors;
  p.q = View(t[kQ]), p.k = View(t[kK]), p.v = View(t[kV]), p.w_proj = View(t[kWProj]), p.b_proj = View(t[kBProj]);
  return p;
}

}  // namespace

Problem ReadForward(const attune_exec& x) {
  Problem p = ReadInputs(x);
  const attune_tensor* const* t = x.tensors;
  p.o = View(t[kO]), p.o_s = View(t[kOS]), p.o_l = View(t[kOL]);
  p.lse_s = View(t[kLseS]), p.block_map = View(t[kBlockMap]);
  return p;
}

Problem ReadBackward(const attune_exec& x) {
  Problem p = ReadInputs(x);
  const attune_tensor* const* t = x.tensors;
  p.d_o = View(t[kDo]), p.dq = View(t[kDq]), p.dk = View(t[kDk]), p.dv = View(t[kDv]);
  p.dw_proj = View(t[kDwProj]), p.db_proj = View(t[kDbProj]);
  return p;
}

}  // namespace sla
