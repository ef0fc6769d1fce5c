#include "moh/routing.h"

#include <math.h>

#include "_kit/top_k.h"

namespace moh {
namespace {

const float* Row(const View& logits, int64_t b, int64_t t) {
  return static_cast<const float*>(logits.Data()) + logits.Offset(b, t);
}

// out[i] = factor * softmax of x over those i < n with use[i], 0 for the others. Exponentials to the last bit of f32,
// which is what a gate has; their sum and quotients in double, so that the weights add up to `factor`.
void Softmax(const float* x, int64_t n, const int32_t* use, double factor, double* out) {
  float m = -INFINITY;
  for (int64_t i = 0; i < n; i++) {
    if ((!use || use[i]) && !(x[i] <= m)) m = x[i];  // a NaN stays
  }
  double z = 0;
  for (int64_t i = 0; i < n; i++) {
    out[i] = use && !use[i] ? 0 : x[i] == m ? 1 : double(expf(x[i] - m));
    z += out[i];
  }
  for (int64_t i = 0; i < n; i++) out[i] *= factor / z;
}

// The derivative of w = n * softmax(logits): gradients of w become gradients of logits.
void ThroughSoftmax(const double* w, const double* dw, int64_t count, double n, double* out) {
  double mean = 0;
  for (int64_t i = 0; i < count; i++) mean += w[i] * dw[i] / n;
  for (int64_t i = 0; i < count; i++) out[i] = w[i] * (dw[i] - mean);
}

}  // namespace

Router::Router(const Problem& c, bool probabilities, double* memory)
    : c_(c), probabilities_(probabilities), a_{1, 1} {
  p_ = memory, s_ = p_ + c.Hq, r_ = s_ + c.Hq, dw_ = r_ + c.Hq, dx_ = dw_ + c.Hq;
  gate_ = reinterpret_cast<float*>(dx_ + c.Hq);
  chosen_ = reinterpret_cast<int32_t*>(gate_ + c.Hq), best_ = chosen_ + c.Hq;
}

void Router::Choose(const float* score) {
  for (int64_t e = 0; e < c_.E; e++) chosen_[e] = c_.top_k == c_.E;
  if (c_.top_k == c_.E) return;
  const size_t count = attune_kit::TopK(score, size_t(c_.E), size_t(c_.top_k), best_);
  for (size_t i = 0; i < count; i++) chosen_[best_[i]] = 1;
}

void Router::Token(int64_t b, int64_t t, const float* norms) {
  switch (c_.mode) {
    case kGiven:
      for (int64_t h = 0; h < c_.Hq; h++) gate_[h] = float(c_.g_head.Get(b, t, h));
      return;
    case kSharedOnly:
      Softmax(Row(c_.logits_s, b, t), c_.Hq, nullptr, double(c_.Hq), s_);
      for (int64_t h = 0; h < c_.Hq; h++) gate_[h] = float(s_[h]);
      return;
    case kQNorm:
      Choose(norms);
      for (int64_t h = 0; h < c_.n_shared; h++) gate_[h] = 1;
      for (int64_t e = 0; e < c_.E; e++) gate_[c_.n_shared + e] = float(chosen_[e]);
      return;
    case kTwoStage: break;
  }
  const float* logits = Row(c_.logits_r, b, t);
  Choose(logits);
  if (probabilities_) Softmax(logits, c_.E, nullptr, 1, p_);
  Softmax(logits, c_.E, chosen_, double(c_.top_k), r_);
  s_[0] = 1;
  if (c_.n_shared > 1) Softmax(Row(c_.logits_s, b, t), c_.n_shared, nullptr, double(c_.n_shared), s_);
  if (c_.n_shared > 0) Softmax(Row(c_.logits_h, b, t), 2, nullptr, 2, a_);
  for (int64_t h = 0; h < c_.n_shared; h++) gate_[h] = float(a_[0] * s_[h]);
  for (int64_t e = 0; e < c_.E; e++) gate_[c_.n_shared + e] = float(a_[1] * r_[e]);
}

void Router::StoreGradients(const Gradients& g, int64_t b, int64_t t, const double* dg, const double* balance) const {
  double *const dw = dw_, *const dx = dx_;
  const auto put = [&](const View& out, int64_t count) {
    for (int64_t i = 0; i < count && out; i++) out.Put(dx[i], b, t, i);
  };
  if (c_.mode == kGiven) {
    for (int64_t h = 0; h < c_.Hq && g.dg_head; h++) g.dg_head.Put(dg[h], b, t, h);
  }
  if (c_.mode == kSharedOnly) {
    ThroughSoftmax(s_, dg, c_.Hq, double(c_.Hq), dx);
    put(g.dlogits_s, c_.Hq);
  }
  if (c_.mode != kTwoStage) return;

  double da[2] = {0, 0}, dlogits_h[2];
  for (int64_t h = 0; h < c_.n_shared; h++) {
    da[0] += s_[h] * dg[h];
    dw[h] = a_[0] * dg[h];
  }
  if (c_.n_shared > 1) {
    ThroughSoftmax(s_, dw, c_.n_shared, double(c_.n_shared), dx);
    put(g.dlogits_s, c_.n_shared);
  }
  for (int64_t e = 0; e < c_.E; e++) {
    const double from = chosen_[e] ? dg[c_.n_shared + e] : 0;
    da[1] += r_[e] * from;
    dw[e] = a_[1] * from;
  }
  if (c_.n_shared > 0) {
    ThroughSoftmax(a_, da, 2, 2, dlogits_h);
    for (int64_t i = 0; i < 2 && g.dlogits_h; i++) g.dlogits_h.Put(dlogits_h[i], b, t, i);
  }
  ThroughSoftmax(r_, dw, c_.E, double(c_.top_k), dx);
  if (balance) {
    ThroughSoftmax(p_, balance, c_.E, 1, dw);
    for (int64_t e = 0; e < c_.E; e++) dx[e] += dw[e];
  }
  put(g.dlogits_r, c_.E);
}

float Norm(const Problem& c, int64_t b, int64_t h, int64_t t) {
  double sum = 0;
  for (int64_t d = 0; d < c.D; d++) {
    const double x = c.q_router.Get(b, h, t, d);
    sum += x * x;
  }
  return float(sqrt(sum));
}

}  // namespace moh
