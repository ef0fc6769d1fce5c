#include "moh/reference.h"

#include <math.h>

#include "moh/routing.h"

namespace moh {

double Weights(const Problem& c, int64_t b, int64_t h, int64_t t, double* p) {
  const Interval seen = c.Visible(b, t);
  double m = -INFINITY, z = 0;
  for (int64_t j = seen.begin; j < seen.end; j++) {
    const double bias = c.bias ? c.bias.Get(b, c.BiasHead(h), t, j) : 0;
    p[j] = -INFINITY;
    if (bias == -INFINITY) continue;
    const RowRef key = c.Key(b, h / c.Group(), j);
    double dot = 0;
    for (int64_t d = 0; d < c.D; d++) {
      dot += c.q.Get(b, h, t, d) * attune_kit::LoadScalar(key.view->Data(), key.offset + d, key.view->DType());
    }
    p[j] = c.scale * dot + bias;
    m = fmax(m, p[j]);
  }
  for (int64_t j = seen.begin; j < seen.end; j++) {
    p[j] = p[j] == -INFINITY ? 0 : exp(p[j] - m);
    z += p[j];
  }
  for (int64_t j = seen.begin; j < seen.end && z != 0; j++) p[j] /= z;
  return z == 0 ? -INFINITY : m + log(z);
}

void Attend(const Problem& c, int64_t b, int64_t h, int64_t t, const double* p, double* out) {
  const Interval seen = c.Visible(b, t);
  for (int64_t e = 0; e < c.Dv; e++) out[e] = 0;
  for (int64_t j = seen.begin; j < seen.end; j++) {
    if (p[j] == 0) continue;
    const RowRef value = c.Value(b, h / c.Group(), j);
    for (int64_t e = 0; e < c.Dv; e++) {
      out[e] += p[j] * attune_kit::LoadScalar(value.view->Data(), value.offset + e, value.view->DType());
    }
  }
}

namespace {

attune_status Forward(const attune_exec& x, const Problem& c) {
  double* memory = static_cast<double*>(x.workspace);
  Router router(c, true, memory);
  double* p = memory + Router::Doubles(c.Hq);
  double* o = p + c.Nk;                    // of one token, all heads
  double *probability = o + c.Hq * c.Dv, *share = probability + c.E;  // means over the tokens
  float* norms = reinterpret_cast<float*>(share + c.E);
  for (int64_t e = 0; e < c.E; e++) probability[e] = share[e] = 0;

  for (int64_t b = 0; b < c.B; b++) {
    for (int64_t t = 0; t < c.Nq; t++) {
      if (Cancelled(x)) return ATTUNE_E_CANCELLED;
      for (int64_t e = 0; e < c.E && c.mode == kQNorm; e++) norms[e] = Norm(c, b, c.n_shared + e, t);
      router.Token(b, t, norms);
      for (int64_t e = 0; e < c.E && c.mode == kTwoStage; e++) {
        probability[e] += router.Probability(e) / double(c.Tokens());
        share[e] += double(router.Chosen(e)) / double(c.Tokens());
      }

      for (int64_t h = 0; h < c.Hq; h++) {
        const float gate = router.Gate(h);
        double lse = -INFINITY, *row = o + h * c.Dv;
        if (Active(gate)) {
          lse = Weights(c, b, h, t, p);
          Attend(c, b, h, t, p, row);
        }
        for (int64_t e = 0; e < c.Dv; e++) {
          row[e] = Active(gate) ? gate * row[e] : 0;
          c.o.Put(row[e], b, h, t, e);
        }
        if (c.g_head_out) c.g_head_out.Put(gate, b, t, h);
        if (c.lse) c.lse.Put(lse, b, h, t);
      }

      for (int64_t i = 0; i < c.Cout && c.y; i++) {
        double sum = c.b_o ? c.b_o.Get(i) : 0;
        for (int64_t n = 0; n < c.Hq * c.Dv; n++) sum += c.w_o.Get(i, n) * o[n];
        c.y.Put(sum, b, t, i);
      }
    }
  }
  if (!c.l_aux) return ATTUNE_OK;
  double balance = 0;
  for (int64_t e = 0; e < c.E; e++) balance += double(c.E) * probability[e] * share[e];
  c.l_aux.Put(balance, 0);
  return ATTUNE_OK;
}

}  // namespace

attune_status ReferenceForward(const attune_exec* x) {
  return Forward(*x, ReadForward(*x));
}

attune_status ReferenceStep(const attune_exec* x) {
  const Problem c = ReadStep(*x);
  const attune_status status = Forward(*x, c);
  for (int64_t b = 0; b < c.B && status == ATTUNE_OK; b++) {
    for (int64_t head = 0; head < c.Hkv; head++) WriteCaches(c, b, head);
  }
  return status;
}

}  // namespace moh
