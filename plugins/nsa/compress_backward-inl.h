// The adjoint of the compression: from gradients of compressed rows to those of tokens, weights and positions.
#if defined(ATTUNE_NSA_COMPRESS_BACKWARD_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef ATTUNE_NSA_COMPRESS_BACKWARD_INL_H_
#undef ATTUNE_NSA_COMPRESS_BACKWARD_INL_H_
#else
#define ATTUNE_NSA_COMPRESS_BACKWARD_INL_H_
#endif
#include "nsa/compress-inl.h"

HWY_BEFORE_NAMESPACE();
namespace nsa {
namespace HWY_NAMESPACE {
#if ATTUNE_ISA

// Rows of f32 by (batch, kv head), the gradients of compressed keys or values before `factor`.
struct CompressedGradients {
  const float* rows;
  size_t per_head, ld;  // floats
  float factor;
  const float* Row(const Problem& c, int64_t b, int64_t head, int64_t entry) const {
    return rows + size_t(b * c.Hkv + head) * per_head + size_t(entry) * ld;
  }
};

HWY_INLINE float Dot(const float* a, const float* b, size_t n) {  // both padded with zeros to whole vectors
  const hn::ScalableTag<float> d;
  auto sum = hn::Zero(d);
  for (size_t i = 0; i < n; i += kLanes) sum = hn::MulAdd(hn::LoadU(d, a + i), hn::LoadU(d, b + i), sum);
  return hn::GetLane(hn::SumOfLanes(d, sum));
}

// out += factor * (what token m of a window gets from the gradient dy of its compressed row). buffer: a row.
HWY_INLINE void AddTokenGradient(const Problem& c, const Compression& x, int64_t head, int64_t m, const float* dy,
                                 float factor, float* buffer, float* out) {
  const size_t n = size_t(x.width);
  if (c.mode != kLinear) {
    const float weight = c.mode == kMean ? 1 / float(c.l) : float(x.weight.Get(head, m));
    return kit::AddScaled(dy, n, factor * weight, out);
  }
  for (size_t i = 0; i < n; i++) {
    LoadRow(x.weight, x.weight.Offset(head, m * x.width + int64_t(i)), n, 1, buffer);
    out[i] += factor * Dot(dy, buffer, n);
  }
}

// out += the gradient of one token of the compression's source.
HWY_NOINLINE inline void AddSourceGradient(const Problem& c, const Compression& x, const CompressedGradients& g,
                                           int64_t b, int64_t head, int64_t token, float* buffer, float* out) {
  const int64_t first = token < c.l ? 0 : (token - c.l) / c.d + 1, last = token / c.d < c.Nc ? token / c.d : c.Nc - 1;
  for (int64_t entry = first; entry <= last; entry++) {
    AddTokenGradient(c, x, head, token - entry * c.d, g.Row(c, b, head, entry), g.factor, buffer, out);
  }
}

// Gradients of the weights and positions of token m of the windows of one kv head, over the batch. scratch:
// (width + 4) * ld floats.
HWY_NOINLINE inline void StoreWeightGradients(const Problem& c, const Compression& x, const CompressedGradients& g,
                                              int64_t head, int64_t m, float* scratch, const View& d_weight,
                                              const View& d_position) {
  const size_t n = size_t(x.width), ld = (n + 31) / 32 * 32;
  float *token = scratch, *total = token + ld, *row = total + ld, *buffer = row + ld, *sums = buffer + ld;
  memset(total, 0, sizeof(float) * 2 * ld);
  memset(sums, 0, sizeof(float) * n * ld);
  double weight = 0;
  for (int64_t b = 0; b < c.B; b++) {
    for (int64_t entry = 0; entry < c.Nc; entry++) {
      const float* dy = g.Row(c, b, head, entry);
      kit::AddScaled(dy, n, 1.0f, total);
      if (!d_weight) continue;
      LoadRow(x.source, x.source.Offset(b, head, entry * c.d + m), n, 1, token);
      if (x.position) AddRow(x.position, x.position.Offset(head, m), n, 1, token);
      if (c.mode == kWeighted) weight += Dot(token, dy, n);
      for (size_t i = 0; i < n && c.mode == kLinear; i++) kit::AddScaled(dy, n, token[i], sums + i * ld);
    }
  }
  if (d_weight && c.mode == kWeighted) d_weight.Put(weight * g.factor, head, m);
  for (size_t i = 0; i < n && d_weight && c.mode == kLinear; i++) {
    StoreRow(sums + i * ld, n, g.factor, d_weight, d_weight.Offset(head, m * x.width + int64_t(i)));
  }
  if (!d_position) return;
  AddTokenGradient(c, x, head, m, total, g.factor, buffer, row);
  StoreRow(row, n, 1, d_position, d_position.Offset(head, m));
}

#endif  // ATTUNE_ISA
}  // namespace HWY_NAMESPACE
}  // namespace nsa
HWY_AFTER_NAMESPACE();
#endif  // toggled include guard
