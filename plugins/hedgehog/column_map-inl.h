// The feature map of tokens that lie in columns: what a row form sums over the lanes of a vector, extremes and sums of
// exponentials, are then sums of vectors, and the features come out as the products with them want them.
#if defined(ATTUNE_HEDGEHOG_COLUMN_MAP_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef ATTUNE_HEDGEHOG_COLUMN_MAP_INL_H_
#undef ATTUNE_HEDGEHOG_COLUMN_MAP_INL_H_
#else
#define ATTUNE_HEDGEHOG_COLUMN_MAP_INL_H_
#endif
#include "_kit/exp-inl.h"
#include "hedgehog/products-inl.h"

HWY_BEFORE_NAMESPACE();
namespace hedgehog {
namespace HWY_NAMESPACE {
#if ATTUNE_ISA
namespace hn = hwy::HWY_NAMESPACE;
namespace kit = attune_kit::HWY_NAMESPACE;

class ColumnMap {
 public:
  // Floats of workspace.
  static size_t Floats(const Problem& p) { return size_t(p.D * p.F + p.F + 16) / 16 * 16; }

  // The map of query head h, as Map's; `at` is filled by Pack.
  ColumnMap(const Problem& p, const View& w, const View& b, int64_t h, float* at)
      : p_(p), weight_(w), bias_(b), h_(h), b_(at), w_{at + p.F, size_t(p.F)} {
    if (InPlace()) w_ = {static_cast<float*>(w.Data()) + w.Offset(p.MapHead(w, h)), size_t(w.Stride(1))};
  }
  void Pack() const {
    const int64_t head = p_.MapHead(weight_, h_);
    for (int64_t f = 0; bias_ && f < p_.F; f++) b_[f] = float(bias_.Get(p_.MapHead(bias_, h_), f));
    for (int64_t d = 0; !InPlace() && d < p_.D; d++) {
      for (int64_t f = 0; f < p_.F; f++) w_.Row(size_t(d))[f] = float(weight_.Get(head, d, f));
    }
  }

  // phi [2F x n] of x [D x n], whose rows are x.ld = phi.ld apart, a multiple of kPanel. Writes whole panels.
  void Features(size_t n, Matrix x, Matrix phi, attune_kit::Ahead* ahead) const {
    const Matrix z = Below(phi);
    kit::ChunkProduct<Start::kZero, Terms::kAll, Order::kColumns>(size_t(p_.F), n, size_t(p_.D), w_.p, w_.ld, x.p, x.ld,
                                                                  0, z.p, z.ld, ahead);
    for (size_t i = 0; i < n; i += kPanel) Activate({x.p + i, x.ld}, {phi.p + i, phi.ld});
  }

 private:
  // Two vectors of tokens.
  struct Two {
    hn::Vec<hn::ScalableTag<float>> a, b;
  };
  static HWY_INLINE Two Load(const float* at) {
    const hn::ScalableTag<float> d;
    return {hn::LoadU(d, at), hn::LoadU(d, at + kLanes)};
  }
  static HWY_INLINE void Store(Two x, float* at) {
    const hn::ScalableTag<float> d;
    hn::StoreU(x.a, d, at), hn::StoreU(x.b, d, at + kLanes);
  }

  // A product reads weights one by one, so that f32 may lie anywhere.
  bool InPlace() const { return weight_.DType() == ATTUNE_F32; }
  Matrix Below(Matrix phi) const { return {phi.Row(size_t(p_.F)), phi.ld}; }

  // half = exp2(factor * (z - shift)), or of the negative; F rows. Returns their sum. `half` may be z.
  template <bool kNegative>
  HWY_INLINE Two Half(Matrix z, float factor, Two shift, Matrix half) const {
    const hn::ScalableTag<float> d;
    const auto s = hn::Set(d, kNegative ? -factor : factor);
    Two sum = {hn::Zero(d), hn::Zero(d)};
    for (size_t f = 0; f < size_t(p_.F); f++) {
      // The difference comes first: a product of a large z would not be exact.
      const Two x = Load(z.Row(f));
      const Two e = {kit::Exp2(d, hn::Mul(s, hn::Sub(x.a, shift.a))), kit::Exp2(d, hn::Mul(s, hn::Sub(x.b, shift.b)))};
      sum.a = hn::Add(sum.a, e.a), sum.b = hn::Add(sum.b, e.b);
      Store(e, half.Row(f));
    }
    return sum;
  }
  // half /= sum, then the clamp.
  HWY_INLINE void Finish(Two sum, Matrix half) const {
    const hn::ScalableTag<float> d;
    const auto least = hn::Set(d, float(p_.map_eps)), one = hn::Set(d, 1.0f);
    const bool normalised = p_.map != kExpMap;
    const Two factor = {normalised ? hn::Div(one, sum.a) : one, normalised ? hn::Div(one, sum.b) : one};
    for (size_t f = 0; f < size_t(p_.F); f++) {
      Two x = Load(half.Row(f));
      x = {hn::Mul(x.a, factor.a), hn::Mul(x.b, factor.b)};
      // Not a maximum, which could lose a NaN.
      x = {hn::IfThenElse(hn::Lt(x.a, least), least, x.a), hn::IfThenElse(hn::Lt(x.b, least), least, x.b)};
      Store(x, half.Row(f));
    }
  }

  // Features of a panel whose logits, without bias, are the second half of phi.
  HWY_NOINLINE void Activate(Matrix x, Matrix phi) const {
    const hn::ScalableTag<float> d;
    const Matrix z = Below(phi);
    Two top = {hn::Set(d, -INFINITY), hn::Set(d, -INFINITY)}, bottom = {hn::Set(d, INFINITY), hn::Set(d, INFINITY)};
    for (size_t f = 0; f < size_t(p_.F); f++) {
      Two sum = Load(z.Row(f));
      if (bias_) sum = {hn::Add(sum.a, hn::Set(d, b_[f])), hn::Add(sum.b, hn::Set(d, b_[f]))};
      if (p_.skip) {
        const Two more = Load(x.Row(f));
        sum = {hn::Add(sum.a, more.a), hn::Add(sum.b, more.b)};
      }
      if (bias_ || p_.skip) Store(sum, z.Row(f));
      top = {hn::Max(top.a, sum.a), hn::Max(top.b, sum.b)};
      bottom = {hn::Min(bottom.a, sum.a), hn::Min(bottom.b, sum.b)};
    }
    // exp(z - top) and exp(bottom - z), or both exp(+-2z - the largest of both), as powers of 2.
    const bool joint = p_.map == kJointMap;
    const float log2_e = 1.44269504f, factor = joint ? 2 * log2_e : log2_e;
    if (joint) {
      top = {hn::Max(top.a, hn::Neg(bottom.a)), hn::Max(top.b, hn::Neg(bottom.b))};
      bottom = {hn::Neg(top.a), hn::Neg(top.b)};
    }
    Two positive = Half<false>(z, factor, top, phi), negative = Half<true>(z, factor, bottom, z);
    if (joint) positive = negative = {hn::Add(positive.a, negative.a), hn::Add(positive.b, negative.b)};
    Finish(positive, phi), Finish(negative, z);
  }

  const Problem& p_;
  const View &weight_, &bias_;
  int64_t h_;
  float* b_;
  Matrix w_;
};

#endif  // ATTUNE_ISA
}  // namespace HWY_NAMESPACE
}  // namespace hedgehog
HWY_AFTER_NAMESPACE();
#endif  // toggled include guard
