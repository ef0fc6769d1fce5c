// Keys for kit::AttendPiece whose blocks lie anywhere: while one is worked on, the next is fetched.
#if defined(ATTUNE_SLA_STREAMED_KEYS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef ATTUNE_SLA_STREAMED_KEYS_INL_H_
#undef ATTUNE_SLA_STREAMED_KEYS_INL_H_
#else
#define ATTUNE_SLA_STREAMED_KEYS_INL_H_
#endif
#include "_kit/block_sparse-inl.h"
#include "_kit/chunk_memory.h"
#include "sla/prepare-inl.h"

HWY_BEFORE_NAMESPACE();
namespace sla {
namespace HWY_NAMESPACE {
#if ATTUNE_ISA

// Like kit::PackedKeys, on panels of keys and rows of values.
class StreamedKeys {
 public:
  StreamedKeys(const HeadMemory& m, size_t depth, size_t width, attune_kit::Ahead* ahead)
      : m_(m), depth_(depth), width_(width), ld_v_(PadTo32(int64_t(width))), ahead_(ahead) {}

  // The block to be worked on after this one; empty: none.
  void Next(const Range& keys) const {
    ahead_->Clear();
    if (keys.Count() <= 0) return;
    const size_t begin = size_t(keys.begin) / kPanel * kPanel, n = size_t(keys.end) - begin;
    ahead_->Add(m_.k_panels + begin * depth_, 0, 1, (n + kPanel - 1) / kPanel * kPanel * depth_ * sizeof(float));
    ahead_->Add(m_.v_rows + begin * ld_v_, 0, 1, n * ld_v_ * sizeof(float));
  }

  HWY_INLINE void Scores(int rows, const float* q, size_t ld_q, int64_t first, size_t begin, size_t end, float* s,
                         size_t ld_s) const {
    for (size_t j = begin / kPanel * kPanel; j < end; j += kPanel) {
      const float* panel = m_.k_panels + (size_t(first) + j) * depth_;
      for (int r = 0; r < rows; r += kit::kTileRows) {
        ahead_->Fetch();
        kit::TileRows<2, false>(rows - r, depth_, q + r * ld_q, ld_q, panel, kPanel, s + r * ld_s + j, ld_s);
      }
    }
  }
  template <int kRows>
  HWY_INLINE void Add(int rows, const float* p, size_t ld_p, int64_t first, size_t begin, size_t end, float* o,
                      size_t ld_o) const {
    const float* v = m_.v_rows + (size_t(first) + begin) * ld_v_;
    for (size_t e = 0; e < width_; e += kPanel) {
      ahead_->Fetch();
      if (width_ - e > kLanes) {
        kit::TileRows<2, true, kRows>(rows, end - begin, p + begin, ld_p, v + e, ld_v_, o + e, ld_o);
      } else {
        kit::TileRows<1, true, kRows>(rows, end - begin, p + begin, ld_p, v + e, ld_v_, o + e, ld_o);
      }
    }
  }

 private:
  const HeadMemory& m_;
  size_t depth_, width_, ld_v_;
  attune_kit::Ahead* ahead_;
};

#endif  // ATTUNE_ISA
}  // namespace HWY_NAMESPACE
}  // namespace sla
HWY_AFTER_NAMESPACE();
#endif  // toggled include guard
