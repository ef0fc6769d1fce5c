// The linear branch of some query rows of one block: numerators and denominators.
#if defined(ATTUNE_SLA_LINEAR_ROWS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef ATTUNE_SLA_LINEAR_ROWS_INL_H_
#undef ATTUNE_SLA_LINEAR_ROWS_INL_H_
#else
#define ATTUNE_SLA_LINEAR_ROWS_INL_H_
#endif
#include "sla/prepare-inl.h"

HWY_BEFORE_NAMESPACE();
namespace sla {
namespace HWY_NAMESPACE {
#if ATTUNE_ISA

// Which sums the rows of a query block are multiplied by. own: Floats() of scratch; list: scratch, count of units.
class LinearSums {
 public:
  LinearSums(const Problem& c, const UnitSums& sums, const Chosen& chosen, float* own, int32_t* list)
      : c_(c),
        s_(sums),
        excluded_{chosen.critical, chosen.negligible, chosen.n_critical, chosen.n_negligible},
        own_(own),
        list_(list) {
    empty_ = sums.count == 0 || (c.scope != kAll && c.Excluded() >= c.Nb);
    at_ = sums.total;
    if (c.scope == kAll || empty_) return;
    direct_ = SumOthers(sums, excluded_, false, list, own);
    at_ = own;
  }
  // Is there no key in scope?
  bool Empty() const { return empty_; }
  // [features x width], then z.
  const float* Sums() const { return at_; }

  // denominator[r] = eps + <mapped_r, z>; 0: the branch of that row is 0. May replace the sums by more exact ones.
  void Denominators(const float* mapped, size_t ld, int64_t rows, float* denominator) {
    if (empty_) {
      memset(denominator, 0, sizeof(float) * size_t(rows));
      return;
    }
    Products(mapped, ld, rows, denominator);
    if (at_ == own_ && !direct_ && Cancels(mapped, ld, rows, denominator)) {
      direct_ = SumOthers(s_, excluded_, true, list_, own_);
      Products(mapped, ld, rows, denominator);
    }
    for (int64_t r = 0; r < rows; r++) denominator[r] += float(c_.eps);
  }

 private:
  void Products(const float* mapped, size_t ld, int64_t rows, float* out) const {
    for (int64_t r = 0; r < rows; r++) out[r] = DotRow(mapped + size_t(r) * ld, s_.Z(at_), s_.features);
  }
  bool Cancels(const float* mapped, size_t ld, int64_t rows, const float* product) const {
    for (int64_t r = 0; r < rows; r++) {
      const float whole = DotRow(mapped + size_t(r) * ld, s_.Z(s_.total), s_.features);
      if (product[r] < kLeastShare * whole) return true;
    }
    return false;
  }

  const Problem& c_;
  const UnitSums& s_;
  UnitLists excluded_;
  float* own_;
  int32_t* list_;
  const float* at_;
  bool empty_, direct_ = false;
};

#endif  // ATTUNE_ISA
}  // namespace HWY_NAMESPACE
}  // namespace sla
HWY_AFTER_NAMESPACE();
#endif  // toggled include guard
