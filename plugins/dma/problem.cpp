#include "dma/problem.h"

#include <math.h>

namespace dma {
namespace {

enum Param { kParamBias, kParamMask, kTopW, kScale, kCausal };
enum Symbol { kB, kHq, kHkv, kNq, kNk, kD, kDv, kS };
// Inputs of forward and backward, and what follows in each.
enum CommonTensor { kQ, kK, kV, kWDt, kBDt, kWA, kBias, kMask, kKeyMask, kO, kLse };
enum ForwardTensor { kFwdKeyBias = kLse + 1, kFwdDeath };
enum BackwardTensor { kBwdDeath = kLse + 1, kDo, kDq, kDk, kDv_, kDbias, kDwDt, kDbDt, kDwA };
enum StepTensor {
  kStepKCache = kWA + 1,
  kStepVCache,
  kStepBias,
  kStepO,
  kStepLse,
  kStepKeyBias,
  kStepKOut,
  kStepVOut,
  kStepBiasOut
};

// What every entry begins with.
Problem ReadCommon(const attune_exec& x) {
  Problem p = {};
  p.bias_mode = BiasMode(x.params[kParamBias].i), p.mask_mode = MaskMode(x.params[kParamMask].i);
  p.top_w = x.params[kTopW].i, p.causal = x.params[kCausal].i != 0;
  p.B = x.symbols[kB], p.Hq = x.symbols[kHq], p.Hkv = x.symbols[kHkv];
  p.Nq = x.symbols[kNq], p.Nk = x.symbols[kNk], p.D = x.symbols[kD], p.Dv = x.symbols[kDv];
  p.scale = x.params[kScale].f != 0 ? x.params[kScale].f : 1 / sqrt(double(p.D));
  p.q = View(x.tensors[kQ]), p.k.fresh = View(x.tensors[kK]), p.v.fresh = View(x.tensors[kV]);
  p.w_dt = View(x.tensors[kWDt]), p.b_dt = View(x.tensors[kBDt]), p.w_a = View(x.tensors[kWA]);
  return p;
}

void ReadGiven(const attune_exec& x, Problem* p) {
  p->bias = View(x.tensors[kBias]), p->mask = View(x.tensors[kMask]), p->key_mask = View(x.tensors[kKeyMask]);
}

}  // namespace

Problem ReadForward(const attune_exec& x) {
  Problem p = ReadCommon(x);
  ReadGiven(x, &p);
  p.o = View(x.tensors[kO]), p.lse = View(x.tensors[kLse]);
  p.key_bias = View(x.tensors[kFwdKeyBias]), p.death = View(x.tensors[kFwdDeath]);
  return p;
}

// What the forward saved is not used: the kept set costs little to find again, and the rounding of lse and o in their
// storage would be multiplied by biases that may be large.
Problem ReadBackward(const attune_exec& x) {
  Problem p = ReadCommon(x);
  ReadGiven(x, &p);
  return p;
}

Gradients ReadGradients(const attune_exec& x) {
  const attune_tensor* const* t = x.tensors;
  Gradients g;
  g.d_o = View(t[kDo]), g.dq = View(t[kDq]), g.dk = View(t[kDk]), g.dv = View(t[kDv_]);
  g.dbias = View(t[kDbias]), g.dw_dt = View(t[kDwDt]), g.db_dt = View(t[kDbDt]), g.dw_a = View(t[kDwA]);
  return g;
}

Problem ReadStep(const attune_exec& x) {
  Problem p = ReadCommon(x);
  const attune_tensor* const* t = x.tensors;
  const int64_t cached = t[kStepKCache] ? x.symbols[kS] : 0;
  p.Nk += cached;
  p.k.split = p.v.split = cached;
  p.k.cached = View(t[kStepKCache]), p.v.cached = View(t[kStepVCache]), p.key_bias_state = View(t[kStepBias]);
  p.o = View(t[kStepO]), p.lse = View(t[kStepLse]), p.key_bias = View(t[kStepKeyBias]);
  p.k_out = View(t[kStepKOut]), p.v_out = View(t[kStepVOut]), p.key_bias_out = View(t[kStepBiasOut]);
  return p;
}

double Softplus(double x) {
  return fmax(x, 0) + log1p(exp(-fabs(x)));
}

double Sigmoid(double x) {
  const double e = exp(-fabs(x));
  return (x >= 0 ? 1 : e) / (1 + e);
}

double Problem::BiasOf(double dt, int64_t head) const {
  const double z = w_a.Get(head) * Softplus(dt);
  return bias_mode == kExp ? exp(z) : z;
}

}  // namespace dma
