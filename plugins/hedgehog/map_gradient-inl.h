// A map with the sums of its gradients.
#if defined(ATTUNE_HEDGEHOG_MAP_GRADIENT_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef ATTUNE_HEDGEHOG_MAP_GRADIENT_INL_H_
#undef ATTUNE_HEDGEHOG_MAP_GRADIENT_INL_H_
#else
#define ATTUNE_HEDGEHOG_MAP_GRADIENT_INL_H_
#endif
#include "hedgehog/map-inl.h"

HWY_BEFORE_NAMESPACE();
namespace hedgehog {
namespace HWY_NAMESPACE {
#if ATTUNE_ISA

class MapGradient {
 public:
  // Floats of workspace.
  static size_t Floats(const Problem& p) { return Map::Floats(p) + size_t(p.F) * attune_kit::ChunkStride(size_t(p.D)); }

  // As Map. `sums`: where dw and db are added up.
  MapGradient(const Problem& p, const View& w, const View& b, int64_t h, float* at, float* sums)
      : map(p, w, b, h, at),
        p_(p),
        transposed_{at + Map::Floats(p), attune_kit::ChunkStride(size_t(p.D))},
        dw_{sums, attune_kit::ChunkStride(size_t(p.F))} {}

  void Pack() const {
    map.Pack();
    for (int64_t f = 0; f < p_.F; f++) {
      for (int64_t d = 0; d < p_.D; d++) transposed_.Row(f)[d] = map.Weight().Row(d)[f];
    }
  }

  // Features and what their gradient needs.
  void Forward(size_t n, Matrix x, Matrix z, Matrix raw, Matrix phi) const {
    map.Logits(n, x, z);
    for (size_t r = 0; r < n; r++) {
      map.Raw(z.Row(r), raw.Row(r));
      map.Clamp(raw.Row(r), phi.Row(r));
    }
  }
  // dx of n rows += what dphi, which is overwritten, gives through z; adds to the sums of dw and db. Rows that real(r)
  // denies give nothing.
  template <class Real>
  void Backward(size_t n, Matrix x, Matrix z, Matrix raw, Matrix dphi, Matrix dz, Matrix dx, Real real) const {
    const hn::ScalableTag<float> d;
    float* db = dw_.Row(size_t(p_.D));
    for (size_t r = 0; r < n; r++) {
      if (!real(r)) {
        memset(dz.Row(r), 0, sizeof(float) * dz.ld);
        continue;
      }
      map.LogitGradient(z.Row(r), raw.Row(r), dphi.Row(r), dz.Row(r));
      for (int64_t f = 0; f < p_.F; f += kLanes) {
        hn::StoreU(hn::Add(hn::LoadU(d, db + f), hn::LoadU(d, dz.Row(r) + f)), d, db + f);
      }
      for (int64_t i = 0; p_.skip && i < p_.D; i += kLanes) {
        hn::StoreU(hn::Add(hn::LoadU(d, dx.Row(r) + i), hn::LoadU(d, dz.Row(r) + i)), d, dx.Row(r) + i);
      }
    }
    Product<true>(n, size_t(p_.D), size_t(p_.F), dz, transposed_, dx);
    AddProductOfColumns(size_t(p_.D), size_t(p_.F), n, x, dz, dw_);
  }

  const Map map;

 private:
  const Problem& p_;
  const Matrix transposed_;  // w^T
  const Matrix dw_;
};

#endif  // ATTUNE_ISA
}  // namespace HWY_NAMESPACE
}  // namespace hedgehog
HWY_AFTER_NAMESPACE();
#endif  // toggled include guard
