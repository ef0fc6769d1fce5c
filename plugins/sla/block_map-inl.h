// Which key blocks are critical and which negligible for a query block: products of block means, in double, so that
// rounding decides nothing and every kernel chooses the same.
#if defined(ATTUNE_SLA_BLOCK_MAP_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef ATTUNE_SLA_BLOCK_MAP_INL_H_
#undef ATTUNE_SLA_BLOCK_MAP_INL_H_
#else
#define ATTUNE_SLA_BLOCK_MAP_INL_H_
#endif
#include "_kit/top_k.h"
#include "sla/rows-inl.h"

HWY_BEFORE_NAMESPACE();
namespace sla {
namespace HWY_NAMESPACE {
#if ATTUNE_ISA

constexpr size_t kMeanLanes = 8;  // partial sums of a product of means
inline size_t MeanStride(int64_t n) {
  return (size_t(n) + kMeanLanes - 1) / kMeanLanes * kMeanLanes;
}

// Ascending indices of key blocks.
struct Chosen {
  const int32_t *critical, *negligible;
  int64_t n_critical, n_negligible;
};

// mean[0, MeanStride(width)) of a block of rows, zeros at the end. row: scratch for one row.
HWY_NOINLINE inline void BlockMean(const View& t, int64_t b, int64_t h, const Range& block, int64_t width, float* row,
                                   double* HWY_RESTRICT mean) {
  memset(mean, 0, sizeof(double) * MeanStride(width));
  for (int64_t n = block.begin; n < block.end; n++) {
    WithRow(t, t.Offset(b, h, n), [&](const auto* p) {
      using T = std::remove_cv_t<std::remove_pointer_t<decltype(p)>>;
      const float* x = row;
      if constexpr (std::is_same_v<T, float>) {
        x = p;
      } else {
        kit::Widen(p, size_t(width), 1.0f, row);
      }
      for (int64_t e = 0; e < width; e++) mean[e] += double(x[e]);
    });
  }
  for (int64_t e = 0; e < width; e++) mean[e] /= double(block.Count());
}

// score[j] = <q_mean, mean j> for n blocks.
HWY_NOINLINE inline void BlockScores(const double* HWY_RESTRICT q_mean, const double* HWY_RESTRICT k_means, int64_t n,
                                     int64_t width, double* HWY_RESTRICT score) {
  const hn::CappedTag<double, kMeanLanes> d;
  constexpr size_t kStep = hn::MaxLanes(decltype(d)()), kSums = kMeanLanes / kStep;
  const size_t stride = MeanStride(width);
  for (int64_t j = 0; j < n; j++, k_means += stride) {
    hn::Vec<decltype(d)> sum[kSums];
    for (size_t i = 0; i < kSums; i++) sum[i] = hn::Zero(d);
    for (size_t e = 0; e < stride; e += kMeanLanes) {
      for (size_t i = 0; i < kSums; i++) {
        const size_t at = e + i * kStep;
        sum[i] = hn::MulAdd(hn::LoadU(d, q_mean + at), hn::LoadU(d, k_means + at), sum[i]);
      }
    }
    for (size_t i = 1; i < kSums; i++) sum[0] = hn::Add(sum[0], sum[i]);
    score[j] = hn::GetLane(hn::SumOfLanes(d, sum[0]));
  }
}

// Writes the lists of a query block; order: scratch of Nb.
inline void ChooseBlocks(const Problem& c, const double* score, int32_t* critical, int32_t* negligible,
                         int32_t* order) {
  attune_kit::TopK(score, size_t(c.Nb), size_t(c.n_critical), critical);
  if (c.n_negligible == 0) return;
  // The worst are those that are not among the best of the rest.
  const size_t kept = attune_kit::TopK(score, size_t(c.Nb), size_t(c.Nb - c.n_negligible), order);
  size_t at = 0, n = 0;
  for (int32_t j = 0; j < int32_t(c.Nb); j++) {
    if (at < kept && order[at] == j) {
      at++;
    } else {
      negligible[n++] = j;
    }
  }
}

inline void StoreBlockMap(const Problem& c, const Chosen& chosen, int64_t b, int64_t h, int64_t i) {
  int32_t* row = static_cast<int32_t*>(c.block_map.Data()) + c.block_map.Offset(b, h, i);
  const int64_t step = c.block_map.Stride(3);
  for (int64_t j = 0; j < c.Nb; j++) row[j * step] = kOther;
  for (int64_t n = 0; n < chosen.n_critical; n++) row[chosen.critical[n] * step] = kCritical;
  for (int64_t n = 0; n < chosen.n_negligible; n++) row[chosen.negligible[n] * step] = kNegligible;
}

#endif  // ATTUNE_ISA
}  // namespace HWY_NAMESPACE
}  // namespace sla
HWY_AFTER_NAMESPACE();
#endif  // toggled include guard
