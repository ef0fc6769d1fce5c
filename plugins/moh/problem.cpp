#include "moh/problem.h"

#include <math.h>
#include <stdio.h>

namespace moh {
namespace {

// a + b, held at the ends of the range: positions may be any int64.
int64_t SaturatingAdd(int64_t a, int64_t b) {
  int64_t sum;
  if (!__builtin_add_overflow(a, b, &sum)) return sum;
  return a > 0 ? INT64_MAX : INT64_MIN;
}

void ReadInputs(const attune_exec& x, Problem* c) {
  const attune_tensor* const* t = x.tensors;
  c->mode = GateMode(x.params[kGateMode].i);
  c->n_shared = x.params[kNShared].i, c->top_k = x.params[kTopK].i;
  c->causal = x.params[kCausal].i != 0, c->q_offset = x.params[kQOffset].i;
  c->B = x.symbols[kB], c->Hq = x.symbols[kHq], c->Hkv = x.symbols[kHkv], c->Nq = x.symbols[kNq];
  c->Nk = x.symbols[kNk], c->D = x.symbols[kD], c->Dv = x.symbols[kDv], c->Np = x.symbols[kNp];
  c->Cout = x.symbols[kCout];
  if (c->mode == kGiven) c->n_shared = 0, c->top_k = c->Hq;  // ignored there
  if (c->mode == kSharedOnly) c->n_shared = c->Hq, c->top_k = 0;
  c->E = c->Hq - c->n_shared;
  c->scale = x.params[kScale].f != 0 ? x.params[kScale].f : 1 / sqrt(double(c->D));
  c->q = View(t[kQ]), c->k = View(t[kK]), c->v = View(t[kV]);
  c->k_cache = View(t[kKCache]), c->v_cache = View(t[kVCache]), c->bias = View(t[kBias]);
  c->key_start = View(t[kKeyStart]), c->seqlens_k = View(t[kSeqlensK]), c->q_offsets = View(t[kQOffsets]);
  c->g_head = View(t[kGHead]), c->logits_r = View(t[kLogitsR]), c->logits_s = View(t[kLogitsS]);
  c->logits_h = View(t[kLogitsH]), c->q_router = View(t[kQRouter] ? t[kQRouter] : t[kQ]);
  c->w_o = View(t[kWo]), c->b_o = View(t[kBo]);
}

attune_status CheckRange(const attune_exec& x, const char* name, const attune_tensor* t, int64_t most) {
  if (!t) return ATTUNE_OK;
  const View values(t);
  for (int64_t b = 0; b < values.Dim(0); b++) {
    const int64_t value = Problem::Index(values, b);
    if (value >= 0 && value <= most) continue;
    char text[160];
    snprintf(text, sizeof text, "%s[%lld] is %lld, expected 0 to %lld", name, static_cast<long long>(b),
             static_cast<long long>(value), static_cast<long long>(most));
    if (x.error) x.error->detail[0] = value < 0 ? 0 : most, x.error->detail[1] = value;
    return attune_fail(x.error, ATTUNE_E_INVALID, name, text);
  }
  return ATTUNE_OK;
}

}  // namespace

Interval Problem::Visible(int64_t b, int64_t t) const {
  Interval v = {key_start ? Index(key_start, b) : 0, seqlens_k ? Index(seqlens_k, b) : Nk};
  if (!causal) return v;
  const int64_t first = q_offsets ? Index(q_offsets, b) : q_offset == INT64_MIN ? v.end - Nq : q_offset;
  const int64_t position = SaturatingAdd(first, t);
  if (position < v.end) v.end = position < 0 ? 0 : position + 1;
  return v;
}

Problem ReadForward(const attune_exec& x) {
  Problem c = {};
  ReadInputs(x, &c);
  c.o = View(x.tensors[kO]), c.g_head_out = View(x.tensors[kGHeadOut]), c.y = View(x.tensors[kY]);
  c.l_aux = View(x.tensors[kLAux]), c.lse = View(x.tensors[kLse]);
  return c;
}

Problem ReadStep(const attune_exec& x) {
  Problem c = ReadForward(x);
  c.k_cache_out = View(x.tensors[kKCacheOut]), c.v_cache_out = View(x.tensors[kVCacheOut]);
  return c;
}

Problem ReadBackward(const attune_exec& x) {
  Problem c = {};
  ReadInputs(x, &c);
  return c;
}

Gradients ReadGradients(const attune_exec& x) {
  const attune_tensor* const* t = x.tensors;
  Gradients g = {};
  g.d_o = View(t[kUpO]), g.dy = View(t[kUpY]), g.dl_aux = View(t[kUpLAux]);
  g.dq = View(t[kGradQ]), g.dk = View(t[kGradK]), g.dv = View(t[kGradV]), g.dbias = View(t[kGradBias]);
  g.dlogits_r = View(t[kGradLogitsR]), g.dlogits_s = View(t[kGradLogitsS]), g.dlogits_h = View(t[kGradLogitsH]);
  g.dg_head = View(t[kGradGHead]), g.dw_o = View(t[kGradWo]), g.db_o = View(t[kGradBo]);
  return g;
}

attune_status Check(const attune_exec* x) {
  const int64_t keys = x->symbols[kNk];
  const attune_status status = CheckRange(*x, "seqlens_k", x->tensors[kSeqlensK], keys);
  return status == ATTUNE_OK ? CheckRange(*x, "key_start", x->tensors[kKeyStart], keys) : status;
}

void WriteCaches(const Problem& c, int64_t b, int64_t head) {
  const auto write = [&](const View& cache, const View& out, int64_t width, auto row) {
    const bool in_place = c.Np > 0 && out.Data() == cache.Data();
    const int64_t size = out.DType() == ATTUNE_F32 ? 4 : 2;
    for (int64_t j = in_place ? c.Np : 0; j < c.Nk; j++) {
      const RowRef from = row(j);
      memcpy(static_cast<char*>(out.Data()) + out.Offset(b, head, j) * size,
             static_cast<const char*>(from.view->Data()) + from.offset * size, size_t(width * size));
    }
  };
  write(c.k_cache, c.k_cache_out, c.D, [&](int64_t j) { return c.Key(b, head, j); });
  write(c.v_cache, c.v_cache_out, c.Dv, [&](int64_t j) { return c.Value(b, head, j); });
}

}  // namespace moh
