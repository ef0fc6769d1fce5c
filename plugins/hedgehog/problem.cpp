#include "hedgehog/problem.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

namespace hedgehog {
namespace {

Problem ReadCommon(const attune_exec& x) {
  Problem p = {};
  const attune_value* params = x.params;
  p.map = FeatureMap(params[kFeatureMap].i);
  p.map_eps = params[kMapEps].f, p.norm_eps = params[kNormEps].f;
  p.causal = params[kCausal].i != 0, p.skip = params[kSkip].i != 0;
  p.window_mode = WindowMode(params[kWindowMode].i), p.window = params[kWindow].i;
  p.one_minus_gamma = params[kLinearFactor].i != 0;
  const int64_t* s = x.symbols;
  p.B = s[kB], p.Hq = s[kHq], p.Hkv = s[kHkv], p.Nq = s[kNq], p.Nk = s[kNk], p.D = s[kD], p.Dv = s[kDv], p.F = s[kF];
  p.scale = params[kScale].f != 0 ? params[kScale].f : 1 / sqrt(double(p.D));
  const attune_tensor* const* t = x.tensors;
  p.q = View(t[kQ]), p.k.fresh = View(t[kK]), p.v.fresh = View(t[kV]);
  p.w_q = View(t[kWq]), p.w_k = View(t[kWk]), p.b_q = View(t[kBq]), p.b_k = View(t[kBk]);
  return p;
}

attune_status CheckWindowFactor(const attune_exec& x, int tensor) {
  const View factor(x.tensors[tensor]);
  for (int64_t h = 0; factor && h < factor.Dim(0); h++) {
    const double f = factor.Get(h);
    if (f > -80 && f < INFINITY) continue;
    char text[120];
    snprintf(text, sizeof text, "window_factor[%lld] is %g, expected a finite number above -80",
             static_cast<long long>(h), f);
    return attune_fail(x.error, ATTUNE_E_INVALID, "window_factor", text);
  }
  return ATTUNE_OK;
}

}  // namespace

double Problem::Gamma(int64_t h) const {
  return 1 / (1 + exp(-window_factor.Get(h)));
}

Problem ReadForward(const attune_exec& x, bool backward) {
  Problem p = ReadCommon(x);
  const attune_tensor* const* t = x.tensors;
  p.Hst = x.symbols[kHst];
  p.window_factor = View(t[kFwdWindowFactor]), p.key_mask = View(t[kFwdKeyMask]);
  p.kv_state = View(t[kFwdKvState]), p.k_state = View(t[kFwdKState]);
  if (backward) return p;
  p.o = View(t[kFwdO]), p.kv_state_out = View(t[kFwdKvStateOut]), p.k_state_out = View(t[kFwdKStateOut]);
  p.pushed = p.Nk;
  return p;
}

Problem ReadStep(const attune_exec& x) {
  Problem p = ReadCommon(x);
  const attune_tensor* const* t = x.tensors;
  const int64_t cached = x.symbols[kW];
  p.Hst = x.symbols[kHst];
  p.window_factor = View(t[kStepWindowFactor]);
  p.kv_state = View(t[kStepKvState]), p.k_state = View(t[kStepKState]);
  p.k.cached = View(t[kStepKCache]), p.v.cached = View(t[kStepVCache]);
  p.k.split = p.v.split = cached;
  p.o = View(t[kStepO]), p.kv_state_out = View(t[kStepKvStateOut]), p.k_state_out = View(t[kStepKStateOut]);
  p.k_cache_out = View(t[kStepKCacheOut]), p.v_cache_out = View(t[kStepVCacheOut]);
  p.Nk += cached;
  // Terraces belong to a prompt; after a cache every token sees the last `window` keys.
  if (p.window_mode == kTerraced && cached > 0) p.window_mode = kSliding;
  p.pushed = p.window_mode == kNoWindow ? p.Nk : p.Nk > p.window ? p.Nk - p.window : 0;
  return p;
}

Problem ReadDistill(const attune_exec& x) {
  Problem p = ReadCommon(x);
  p.Hst = p.Hq;
  p.window_mode = kNoWindow;
  p.key_mask = View(x.tensors[kDisKeyMask]);
  return p;
}

void WriteCache(const Rows& rows, int64_t count, const View& out, int64_t b, int64_t head, int64_t width) {
  const int64_t size = out.DType() == ATTUNE_F32 ? 4 : 2, kept = out.Dim(2);
  for (int64_t n = 0; n < kept; n++) {
    const int64_t j = count - kept + n;
    const void* from = static_cast<const char*>(rows.In(j).Data()) + rows.Offset(b, head, j) * size;
    void* to = static_cast<char*>(out.Data()) + out.Offset(b, head, n) * size;
    if (from != to) memmove(to, from, size_t(width * size));
  }
}

attune_status CheckForward(const attune_exec* x) {
  return CheckWindowFactor(*x, kFwdWindowFactor);
}
attune_status CheckStep(const attune_exec* x) {
  return CheckWindowFactor(*x, kStepWindowFactor);
}

}  // namespace hedgehog
