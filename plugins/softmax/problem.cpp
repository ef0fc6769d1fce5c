#include "softmax/problem.h"

#include <math.h>

namespace softmax {
namespace {

Axes Bhn(const attune_tensor* t) {
  Axes a;
  a.view = View(t);
  a.batch = a.view.Stride(0), a.head = a.view.Stride(1), a.row = a.view.Stride(2);
  return a;
}

// [T,H,...], or [H,T] for lse.
Axes Packed(const attune_tensor* t, bool heads_first = false) {
  Axes a;
  a.view = View(t);
  a.row = a.view.Stride(heads_first ? 1 : 0), a.head = a.view.Stride(heads_first ? 0 : 1);
  return a;
}

Axes Paged(const attune_tensor* t) {
  Axes a;
  a.view = View(t);
  a.page = a.view.Stride(0), a.row = a.view.Stride(1), a.head = a.view.Stride(2);
  return a;
}

Problem ReadCommon(const attune_exec& x) {
  Problem p = {};
  p.layout = Layout(x.params[kLayout].i);
  p.sigmoid = x.params[kActivation].i != 0;
  p.sigmoid_bias = x.params[kSigmoidBias].f;
  p.causal = x.params[kCausal].i != 0;
  p.q_offset = x.params[kQOffset].i;
  p.window_left = x.params[kWindowLeft].i, p.window_right = x.params[kWindowRight].i;
  p.softcap = x.params[kSoftcap].f;
  p.B = x.symbols[kB], p.Hq = x.symbols[kHq], p.Hkv = x.symbols[kHkv];
  p.Nk = x.symbols[kNk], p.D = x.symbols[kD], p.Dv = x.symbols[kDv];
  p.scale = x.params[kScale].f != 0 ? x.params[kScale].f : 1 / sqrt(double(p.D));
  return p;
}

}  // namespace

Problem ReadForward(const attune_exec& x) {
  Problem p = ReadCommon(x);
  const attune_tensor* const* t = x.tensors;
  const bool bhnd = p.layout == kBhnd, paged = p.layout == kPaged;
  p.q = bhnd ? Bhn(t[kFwdQ]) : Packed(t[kFwdQ]);
  p.o = bhnd ? Bhn(t[kFwdO]) : Packed(t[kFwdO]);
  p.lse = bhnd ? Bhn(t[kFwdLse]) : Packed(t[kFwdLse], true);
  const auto rows = [&](int plain, int pages) {
    KeyRows r;
    r.cached = paged ? Paged(t[pages]) : bhnd ? Bhn(t[plain]) : Packed(t[plain]);
    return r;
  };
  p.k = rows(kFwdK, kFwdKPages), p.v = rows(kFwdV, kFwdVPages);
  p.k_scale = rows(kFwdKScale, kFwdKScale), p.k_zero = rows(kFwdKZero, kFwdKZero);
  p.v_scale = rows(kFwdVScale, kFwdVScale), p.v_zero = rows(kFwdVZero, kFwdVZero);
  p.page_size = paged ? p.k.cached.view.Dim(1) : 0;
  p.page_table = View(t[kFwdPageTable]);
  p.cu_q = View(t[kFwdCuQ]), p.cu_k = View(t[kFwdCuK]);
  p.seqlens_k = View(t[kFwdSeqlensK]), p.key_start = View(t[kFwdKeyStart]), p.q_offsets = View(t[kFwdQOffsets]);
  p.mask = View(t[kFwdMask]), p.bias = View(t[kFwdBias]), p.slopes = View(t[kFwdSlopes]), p.sinks = View(t[kFwdSinks]);
  return p;
}

Problem ReadStep(const attune_exec& x) {
  Problem p = ReadCommon(x);
  const attune_tensor* const* t = x.tensors;
  p.layout = kBhnd;
  p.q = Bhn(t[kStepQ]), p.o = Bhn(t[kStepO]), p.lse = Bhn(t[kStepLse]);
  p.k = {Bhn(t[kStepKCache]), Bhn(t[kStepK]), x.symbols[kNp]};
  p.v = {Bhn(t[kStepVCache]), Bhn(t[kStepV]), x.symbols[kNp]};
  p.k_cache_out = Bhn(t[kStepKCacheOut]), p.v_cache_out = Bhn(t[kStepVCacheOut]);
  p.seqlens_k = View(t[kStepSeqlensK]), p.key_start = View(t[kStepKeyStart]), p.q_offsets = View(t[kStepQOffsets]);
  p.mask = View(t[kStepMask]), p.bias = View(t[kStepBias]), p.slopes = View(t[kStepSlopes]),
  p.sinks = View(t[kStepSinks]);
  return p;
}

Problem ReadBackward(const attune_exec& x) {
  Problem p = ReadCommon(x);
  const attune_tensor* const* t = x.tensors;
  const bool bhnd = p.layout == kBhnd;
  const auto axes = [&](int i) { return bhnd ? Bhn(t[i]) : Packed(t[i]); };
  p.q = axes(kBwdQ), p.o = axes(kBwdO);
  p.lse = bhnd ? Bhn(t[kBwdLse]) : Packed(t[kBwdLse], true);
  p.k.cached = axes(kBwdK), p.v.cached = axes(kBwdV);
  p.cu_q = View(t[kBwdCuQ]), p.cu_k = View(t[kBwdCuK]);
  p.seqlens_k = View(t[kBwdSeqlensK]), p.key_start = View(t[kBwdKeyStart]), p.q_offsets = View(t[kBwdQOffsets]);
  p.mask = View(t[kBwdMask]), p.bias = View(t[kBwdBias]), p.slopes = View(t[kBwdSlopes]), p.sinks = View(t[kBwdSinks]);
  return p;
}

Gradients ReadGradients(const attune_exec& x) {
  const attune_tensor* const* t = x.tensors;
  const bool bhnd = Layout(x.params[kLayout].i) == kBhnd;
  const auto axes = [&](int i) { return bhnd ? Bhn(t[i]) : Packed(t[i]); };
  Gradients g;
  g.d_o = axes(kBwdDo), g.dq = axes(kBwdDq), g.dk = axes(kBwdDk), g.dv = axes(kBwdDv);
  g.d_lse = bhnd ? Bhn(t[kBwdDlse]) : Packed(t[kBwdDlse], true);
  g.dbias = View(t[kBwdDbias]), g.dsinks = View(t[kBwdDsinks]), g.dslopes = View(t[kBwdDslopes]);
  return g;
}

}  // namespace softmax
