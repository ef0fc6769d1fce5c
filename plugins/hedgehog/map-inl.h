// The feature map and its derivative on rows of f32.
#if defined(ATTUNE_HEDGEHOG_MAP_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef ATTUNE_HEDGEHOG_MAP_INL_H_
#undef ATTUNE_HEDGEHOG_MAP_INL_H_
#else
#define ATTUNE_HEDGEHOG_MAP_INL_H_
#endif
#include "_kit/exp-inl.h"
#include "hedgehog/products-inl.h"

HWY_BEFORE_NAMESPACE();
namespace hedgehog {
namespace HWY_NAMESPACE {
#if ATTUNE_ISA
namespace hn = hwy::HWY_NAMESPACE;
namespace kit = attune_kit::HWY_NAMESPACE;

// Calls f(offset, vector of x, mask of its lanes below n) over x[0, n).
template <class F>
HWY_INLINE void ForEachVector(const float* x, size_t n, F f) {
  const hn::ScalableTag<float> d;
  for (size_t i = 0; i < n; i += kLanes) f(i, hn::LoadU(d, x + i), hn::FirstN(d, n - i));
}

// The map of one head: z = x w + b (+ x), then two rows of exponentials.
class Map {
 public:
  // Floats of workspace.
  static size_t Floats(const Problem& p) { return (p.D + 1) * attune_kit::ChunkStride(p.F); }

  // The map of query head h, in memory that Pack fills: once, for any number of Maps. w, b: weight and bias, whose head
  // dims are 1, Hkv or Hq.
  Map(const Problem& p, const View& w, const View& b, int64_t h, float* at)
      : p_(p), weight_(w), bias_(b), h_(h), w_{at, attune_kit::ChunkStride(p.F)}, b_(w_.Row(p.D)) {
    if (InPlace()) w_ = {static_cast<float*>(w.Data()) + w.Offset(p.MapHead(w, h)), size_t(w.Stride(1))};
  }
  void Pack() const {
    memset(b_, 0, sizeof(float) * attune_kit::ChunkStride(p_.F));
    for (int64_t f = 0; bias_ && f < p_.F; f++) b_[f] = float(bias_.Get(p_.MapHead(bias_, h_), f));
    if (InPlace()) return;
    memset(w_.p, 0, sizeof(float) * p_.D * w_.ld);
    const int64_t head = p_.MapHead(weight_, h_);
    for (int64_t d = 0; d < p_.D; d++) LoadRow(weight_, weight_.Offset(head, d), p_.F, 1, w_.Row(d));
  }

  Matrix Weight() const { return w_; }

  // z of n rows of x.
  void Logits(size_t n, Matrix x, Matrix z, attune_kit::Ahead* ahead = nullptr) const {
    const hn::ScalableTag<float> d;
    Product<false>(n, p_.F, p_.D, x, w_, z, ahead);
    for (size_t i = 0; i < n; i++) {
      for (int64_t f = 0; f < p_.F; f += kLanes) {
        auto sum = hn::Add(hn::LoadU(d, z.Row(i) + f), hn::LoadU(d, b_ + f));
        if (p_.skip) sum = hn::Add(sum, hn::LoadU(d, x.Row(i) + f));
        hn::StoreU(sum, d, z.Row(i) + f);
      }
    }
  }

  // The 2F features of one row of z, before the clamp. Writes up to whole vectors.
  void Raw(const float* z, float* raw) const { Activate(z, -1, raw); }
  void Features(const float* z, float* phi) const { Activate(z, float(p_.map_eps), phi); }
  void Clamp(const float* raw, float* phi) const {
    const hn::ScalableTag<float> d;
    const auto least = hn::Set(d, float(p_.map_eps));
    ForEachVector(raw, 2 * p_.F, [&](size_t e, auto x, auto) { 
      hn::StoreU(hn::IfThenElse(hn::Lt(x, least), least, x), d, phi + e);  // keeps a NaN
    });
  }

  // dz of one row; dphi is overwritten.
  void LogitGradient(const float* z, const float* raw, float* dphi, float* dz) const {
    const hn::ScalableTag<float> d;
    const size_t F = p_.F;
    const auto least = hn::Set(d, float(p_.map_eps));
    ForEachVector(raw, 2 * F, [&](size_t e, auto x, auto) {
      const auto t = hn::Mul(x, hn::LoadU(d, dphi + e));
      hn::StoreU(hn::IfThenZeroElse(hn::Lt(x, least), t), d, dphi + e);
    });
    const float *t = dphi, *positive = raw, *negative = raw + F;
    const float sum_positive = SumRow(t, 0, F), sum_negative = SumRow(t + F, 0, F);
    if (p_.map == kExpMap) return ExpGradient(z, t, sum_positive, sum_negative, dz);
    const bool joint = p_.map == kJointMap;
    const auto sp = hn::Set(d, joint ? sum_positive + sum_negative : sum_positive);
    const auto sn = hn::Set(d, joint ? sum_positive + sum_negative : sum_negative);
    const auto factor = hn::Set(d, joint ? 2.0f : 1.0f);
    for (size_t f = 0; f < F; f += kLanes) {
      const auto up = hn::NegMulAdd(hn::LoadU(d, positive + f), sp, hn::LoadU(d, t + f));
      const auto down = hn::NegMulAdd(hn::LoadU(d, negative + f), sn, hn::LoadU(d, t + F + f));
      hn::StoreU(hn::IfThenElseZero(hn::FirstN(d, F - f), hn::Mul(factor, hn::Sub(up, down))), d, dz + f);
    }
  }

 private:
  // For a few tokens a copy of the weight would cost more than their map.
  bool InPlace() const { return weight_.DType() == ATTUNE_F32 && p_.F % kLanes == 0 && p_.Nq <= 16; }

  struct Extremes {
    float top, bottom;
  };
  Extremes Find(const float* z) const {
    const hn::ScalableTag<float> d;
    auto top = hn::Set(d, -INFINITY), bottom = hn::Set(d, INFINITY);
    ForEachVector(z, p_.F, [&](size_t, auto x, auto in) {
      top = hn::Max(top, hn::IfThenElse(in, x, top));
      bottom = hn::Min(bottom, hn::IfThenElse(in, x, bottom));
    });
    return {hn::GetLane(hn::MaxOfLanes(d, top)), hn::GetLane(hn::MinOfLanes(d, bottom))};
  }

  // half = exp(factor * z - shift); returns the sum of its F numbers.
  float Half(const float* z, float factor, float shift, float* half) const {
    const hn::ScalableTag<float> d;
    const auto a = hn::Set(d, factor), b = hn::Set(d, shift);
    auto sum = hn::Zero(d);
    ForEachVector(z, p_.F, [&](size_t f, auto x, auto in) {
      const auto e = kit::Exp(d, hn::MulSub(a, x, b));
      sum = hn::Add(sum, hn::IfThenElseZero(in, e));
      hn::StoreU(e, d, half + f);
    });
    return hn::GetLane(hn::SumOfLanes(d, sum));
  }
  static void Finish(float* x, size_t n, float factor, float least) {
    const hn::ScalableTag<float> d;
    const auto a = hn::Set(d, factor), b = hn::Set(d, least);
    ForEachVector(x, n, [&](size_t e, auto v, auto) {
      v = hn::Mul(a, v);
      hn::StoreU(hn::IfThenElse(hn::Lt(v, b), b, v), d, x + e);  // keeps a NaN
    });
  }

  // The first half may be written over the beginning of the second, so it is finished first.
  void Activate(const float* z, float least, float* phi) const {
    const size_t F = p_.F;
    const Extremes m = Find(z);
    if (p_.map == kJointMap) {
      const float top = m.top > -m.bottom ? m.top : -m.bottom;
      const float up = Half(z, 2, 2 * top, phi), down = Half(z, -2, 2 * top, phi + F);
      return Finish(phi, 2 * F, 1 / (up + down), least);
    }
    const bool normalised = p_.map == kSoftmaxMap;
    const float up = Half(z, 1, m.top, phi);
    Finish(phi, F, normalised ? 1 / up : 1.0f, least);
    const float down = Half(z, -1, -m.bottom, phi + F);
    Finish(phi + F, F, normalised ? 1 / down : 1.0f, least);
  }

  // The shifts by maximum and minimum are differentiated, ties share.
  void ExpGradient(const float* z, const float* t, float sum_positive, float sum_negative, float* dz) const {
    const size_t F = p_.F;
    const Extremes m = Find(z);
    int tops = 0, bottoms = 0;
    for (size_t f = 0; f < F; f++) tops += z[f] == m.top, bottoms += z[f] == m.bottom;
    for (size_t f = 0; f < F; f++) {
      dz[f] = t[f] - t[F + f];
      if (z[f] == m.top) dz[f] -= sum_positive / float(tops);
      if (z[f] == m.bottom) dz[f] += sum_negative / float(bottoms);
    }
    for (size_t f = F; f < (F + kLanes - 1) / kLanes * kLanes; f++) dz[f] = 0;
  }

  const Problem& p_;
  const View &weight_, &bias_;
  int64_t h_;
  Matrix w_;
  float* b_;
};

#endif  // ATTUNE_ISA
}  // namespace HWY_NAMESPACE
}  // namespace hedgehog
HWY_AFTER_NAMESPACE();
#endif  // toggled include guard
