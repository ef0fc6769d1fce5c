#include "softmax/problem.h"

#include <math.h>

namespace softmax {
namespace {

// The readers fill what is zero until then, and leave it so for an absent tensor: in a small call nothing else costs as
// much as a description that is copied around.
void ReadView(const attune_tensor* t, View* view) {
  if (t) *view = View(t);
}

// [B,H,N,...]
void ReadBhn(const attune_tensor* t, Axes* a) {
  if (!t) return;
  a->view = View(t);
  a->batch = a->view.Stride(0), a->head = a->view.Stride(1), a->row = a->view.Stride(2);
}

// [T,H,...], or [H,T] for lse.
void ReadPacked(const attune_tensor* t, bool heads_first, Axes* a) {
  if (!t) return;
  a->view = View(t);
  a->row = a->view.Stride(heads_first ? 1 : 0), a->head = a->view.Stride(heads_first ? 0 : 1);
}

// The layouts without pages.
void ReadRows(bool bhnd, const attune_tensor* t, bool heads_first, Axes* a) {
  bhnd ? ReadBhn(t, a) : ReadPacked(t, heads_first, a);
}

// [page,row,H,...]
void ReadPaged(const attune_tensor* t, Axes* a) {
  if (!t) return;
  a->view = View(t);
  a->page = a->view.Stride(0), a->row = a->view.Stride(1), a->head = a->view.Stride(2);
}

void ReadCommon(const attune_exec& x, Problem* to) {
  Problem& p = *to;
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
}

}  // namespace

Problem ReadForward(const attune_exec& x) {
  Problem p = {};
  ReadCommon(x, &p);
  const attune_tensor* const* t = x.tensors;
  const bool bhnd = p.layout == kBhnd, paged = p.layout == kPaged;
  const auto read_keys = [&](int plain, int pages, KeyRows* rows) {
    paged ? ReadPaged(t[pages], &rows->cached) : ReadRows(bhnd, t[plain], false, &rows->cached);
  };
  ReadRows(bhnd, t[kFwdQ], false, &p.q), ReadRows(bhnd, t[kFwdO], false, &p.o);
  ReadRows(bhnd, t[kFwdLse], true, &p.lse);
  read_keys(kFwdK, kFwdKPages, &p.k), read_keys(kFwdV, kFwdVPages, &p.v);
  read_keys(kFwdKScale, kFwdKScale, &p.k_scale), read_keys(kFwdKZero, kFwdKZero, &p.k_zero);
  read_keys(kFwdVScale, kFwdVScale, &p.v_scale), read_keys(kFwdVZero, kFwdVZero, &p.v_zero);
  p.page_size = paged ? p.k.cached.view.Dim(1) : 0;
  ReadView(t[kFwdPageTable], &p.page_table), ReadView(t[kFwdCuQ], &p.cu_q), ReadView(t[kFwdCuK], &p.cu_k);
  ReadView(t[kFwdSeqlensK], &p.seqlens_k), ReadView(t[kFwdKeyStart], &p.key_start);
  ReadView(t[kFwdQOffsets], &p.q_offsets), ReadView(t[kFwdMask], &p.mask), ReadView(t[kFwdBias], &p.bias);
  ReadView(t[kFwdSlopes], &p.slopes), ReadView(t[kFwdSinks], &p.sinks);
  return p;
}

Problem ReadStep(const attune_exec& x) {
  Problem p = {};
  ReadCommon(x, &p);
  const attune_tensor* const* t = x.tensors;
  p.layout = kBhnd;
  ReadBhn(t[kStepQ], &p.q), ReadBhn(t[kStepO], &p.o), ReadBhn(t[kStepLse], &p.lse);
  ReadBhn(t[kStepKCache], &p.k.cached), ReadBhn(t[kStepK], &p.k.fresh);
  ReadBhn(t[kStepVCache], &p.v.cached), ReadBhn(t[kStepV], &p.v.fresh);
  p.k.split = p.v.split = x.symbols[kNp];
  ReadBhn(t[kStepKCacheOut], &p.k_cache_out), ReadBhn(t[kStepVCacheOut], &p.v_cache_out);
  ReadView(t[kStepSeqlensK], &p.seqlens_k), ReadView(t[kStepKeyStart], &p.key_start);
  ReadView(t[kStepQOffsets], &p.q_offsets), ReadView(t[kStepMask], &p.mask), ReadView(t[kStepBias], &p.bias);
  ReadView(t[kStepSlopes], &p.slopes), ReadView(t[kStepSinks], &p.sinks);
  return p;
}

Problem ReadBackward(const attune_exec& x) {
  Problem p = {};
  ReadCommon(x, &p);
  const attune_tensor* const* t = x.tensors;
  const bool bhnd = p.layout == kBhnd;
  ReadRows(bhnd, t[kBwdQ], false, &p.q), ReadRows(bhnd, t[kBwdO], false, &p.o);
  ReadRows(bhnd, t[kBwdLse], true, &p.lse);
  ReadRows(bhnd, t[kBwdK], false, &p.k.cached), ReadRows(bhnd, t[kBwdV], false, &p.v.cached);
  ReadView(t[kBwdCuQ], &p.cu_q), ReadView(t[kBwdCuK], &p.cu_k);
  ReadView(t[kBwdSeqlensK], &p.seqlens_k), ReadView(t[kBwdKeyStart], &p.key_start);
  ReadView(t[kBwdQOffsets], &p.q_offsets), ReadView(t[kBwdMask], &p.mask), ReadView(t[kBwdBias], &p.bias);
  ReadView(t[kBwdSlopes], &p.slopes), ReadView(t[kBwdSinks], &p.sinks);
  return p;
}

Gradients ReadGradients(const attune_exec& x) {
  const attune_tensor* const* t = x.tensors;
  const bool bhnd = Layout(x.params[kLayout].i) == kBhnd;
  Gradients g = {};
  ReadRows(bhnd, t[kBwdDo], false, &g.d_o), ReadRows(bhnd, t[kBwdDq], false, &g.dq);
  ReadRows(bhnd, t[kBwdDk], false, &g.dk), ReadRows(bhnd, t[kBwdDv], false, &g.dv);
  ReadRows(bhnd, t[kBwdDlse], true, &g.d_lse);
  ReadView(t[kBwdDbias], &g.dbias), ReadView(t[kBwdDsinks], &g.dsinks), ReadView(t[kBwdDslopes], &g.dslopes);
  return g;
}

}  // namespace softmax
