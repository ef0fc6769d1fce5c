// Sums for the linear branch, kept per unit so that a scope that leaves out few units costs few of them:
//   H_u = sum of a_n b_n^T  [features x width],  z_u = sum of a_n (or f_n a_n)  [features]
// over the rows n of unit u. Keys: a = phi(k), b = v, a unit is a key block, or a stretch of keys when all are in
// scope. Queries, for gradients: a = phi(q), b = e, a unit is a query block or a run of them.
#if defined(ATTUNE_SLA_UNIT_SUMS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef ATTUNE_SLA_UNIT_SUMS_INL_H_
#undef ATTUNE_SLA_UNIT_SUMS_INL_H_
#else
#define ATTUNE_SLA_UNIT_SUMS_INL_H_
#endif
#include "_kit/chunked-inl.h"
#include "sla/rows-inl.h"

HWY_BEFORE_NAMESPACE();
namespace sla {
namespace HWY_NAMESPACE {
#if ATTUNE_ISA

constexpr size_t kStripRows = 16;  // features whose total is formed at a time
// A difference of two f32 sums has lost the bits by which they are larger than itself. What is less than this share of
// them is summed directly.
constexpr float kLeastShare = 1.0f / 16;

// Sums of one (batch, kv head). Memory is the caller's.
struct UnitSums {
  size_t features, width;
  int64_t count;
  float *units, *total;  // count of them; their sum
  float* flags;          // one per strip: not 0 when something in the total is infinite or NaN

  static size_t Floats(size_t features, size_t width) {
    return features * PadTo32(int64_t(width)) + PadTo32(int64_t(features));
  }
  size_t Floats() const { return Floats(features, width); }
  size_t Ld() const { return PadTo32(int64_t(width)); }
  static int64_t Strips(size_t features) { return int64_t((features + kStripRows - 1) / kStripRows); }
  float* Unit(int64_t u) const { return units + size_t(u) * Floats(); }
  const float* Z(const float* sum) const { return sum + features * Ld(); }
  float* Z(float* sum) const { return sum + features * Ld(); }
  bool Finite() const {
    float bad = 0;
    for (int64_t s = 0; s < Strips(features); s++) bad += flags[s];
    return bad == 0;
  }
};

// sum += a^T b, z += sum of factor[r] * a_r, or of a_r without factors, for n rows.
HWY_NOINLINE inline void AddRows(const UnitSums& s, size_t n, const float* a, size_t ld_a, const float* b, size_t ld_b,
                                 const float* factor, float* sum) {
  using kit::Order, kit::Start, kit::Terms;
  kit::ChunkProduct<Start::kKeep, Terms::kAll, Order::kColumns>(s.features, s.width, n, a, ld_a, b, ld_b, 0, sum,
                                                                s.Ld());
  float* z = s.Z(sum);
  for (size_t r = 0; r < n; r++) kit::AddScaled(a + r * ld_a, s.features, factor ? factor[r] : 1.0f, z);
}

// out[begin, end) = sum over n units; bounds are multiples of 32.
template <class Index>
HWY_INLINE void SumUnits(const UnitSums& s, size_t begin, size_t end, int64_t n, Index index, float* out) {
  const hn::ScalableTag<float> d;
  constexpr size_t kVectors = 32 / kLanes;
  const size_t stride = s.Floats();
  for (size_t e = begin; e < end; e += 32) {
    hn::Vec<decltype(d)> sum[kVectors];
    for (size_t v = 0; v < kVectors; v++) sum[v] = hn::Zero(d);
    for (int64_t i = 0; i < n; i++) {
      const float* unit = s.units + size_t(index(i)) * stride + e;
      for (size_t v = 0; v < kVectors; v++) sum[v] = hn::Add(sum[v], hn::LoadU(d, unit + v * kLanes));
    }
    for (size_t v = 0; v < kVectors; v++) hn::StoreU(sum[v], d, out + e + v * kLanes);
  }
}

// Forms a strip of the total; the first one also z.
HWY_NOINLINE inline void TotalStrip(const UnitSums& s, int64_t strip) {
  const hn::ScalableTag<float> d;
  const size_t first = size_t(strip) * kStripRows;
  const size_t last = first + kStripRows < s.features ? first + kStripRows : s.features;
  auto bad = hn::Zero(d);
  const auto total = [&](size_t begin, size_t end) HWY_ATTR {
    SumUnits(s, begin, end, s.count, [](int64_t i) { return i; }, s.total);
    // 0 * infinity and 0 * NaN are NaN. Whatever lies in columns beyond the width may raise the flag too, no harm.
    for (size_t e = begin; e < end; e += kLanes) bad = hn::MulAdd(hn::Zero(d), hn::LoadU(d, s.total + e), bad);
  };
  total(first * s.Ld(), last * s.Ld());
  if (strip == 0) total(s.features * s.Ld(), s.Floats());
  s.flags[strip] = hn::AllTrue(d, hn::Eq(bad, hn::Zero(d))) ? 0.0f : 1.0f;
}

// Ascending lists of units, disjoint.
struct UnitLists {
  const int32_t *a, *b;
  int64_t n_a, n_b;
  int64_t Count() const { return n_a + n_b; }
};

// x = whole - x. Returns whether the largest element of the difference is no small one beside what was subtracted;
// z, which has its own scale, is left to the caller.
HWY_NOINLINE inline bool SubtractFromTotal(const UnitSums& s, float* x) {
  const hn::ScalableTag<float> d;
  const size_t h = s.features * s.Ld();
  auto subtracted = hn::Zero(d), left = hn::Zero(d);
  for (size_t e = 0; e < s.Floats(); e += kLanes) {
    const auto part = hn::LoadU(d, x + e), rest = hn::Sub(hn::LoadU(d, s.total + e), part);
    hn::StoreU(rest, d, x + e);
    if (e >= h) continue;
    subtracted = hn::Max(subtracted, hn::Abs(part)), left = hn::Max(left, hn::Abs(rest));
  }
  return hn::GetLane(hn::MaxOfLanes(d, left)) >= kLeastShare * hn::GetLane(hn::MaxOfLanes(d, subtracted));
}

// out = the sum over all units but the excluded ones: the total less these, or directly over all that are left when
// that is wanted, shorter, or the only way to be right: where they are tiny beside the others, or the others not
// finite. list: scratch, count of units. Returns whether it was summed directly.
HWY_NOINLINE inline bool SumOthers(const UnitSums& s, const UnitLists& excluded, bool directly, int32_t* list,
                                   float* out) {
  const auto add = [&](int64_t n) { SumUnits(s, 0, s.Floats(), n, [&](int64_t i) { return list[i]; }, out); };
  if (!directly && 2 * excluded.Count() < s.count && s.Finite()) {
    int64_t n = 0;
    for (int64_t i = 0; i < excluded.n_a; i++) list[n++] = excluded.a[i];
    for (int64_t i = 0; i < excluded.n_b; i++) list[n++] = excluded.b[i];
    add(n);
    if (SubtractFromTotal(s, out)) return false;
  }
  int64_t n = 0, a = 0, b = 0;
  for (int32_t u = 0; u < int32_t(s.count); u++) {
    if (a < excluded.n_a && excluded.a[a] == u) {
      a++;
    } else if (b < excluded.n_b && excluded.b[b] == u) {
      b++;
    } else {
      list[n++] = u;
    }
  }
  add(n);
  return true;
}

#endif  // ATTUNE_ISA
}  // namespace HWY_NAMESPACE
}  // namespace sla
HWY_AFTER_NAMESPACE();
#endif  // toggled include guard
