// y = concat of the heads' outputs, times w_o transposed, plus b_o.
#if defined(ATTUNE_MOH_PROJECTION_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef ATTUNE_MOH_PROJECTION_INL_H_
#undef ATTUNE_MOH_PROJECTION_INL_H_
#else
#define ATTUNE_MOH_PROJECTION_INL_H_
#endif
#include "_kit/dot-inl.h"
#include "moh/routes-inl.h"

HWY_BEFORE_NAMESPACE();
namespace moh {
namespace HWY_NAMESPACE {
#if ATTUNE_ISA

class Projection {
 public:
  static constexpr int64_t kTokens = 64;  // of a block
  // From how many tokens on it pays to transpose w_o.
  static constexpr int64_t kFewTokens = 16;

  Projection(const attune_exec& x, const Problem& c, Arena* arena) : x_(x), c_(c), inner_(c.Hq * c.Dv) {
    if (!c.y) return;
    packed_ = c.Tokens() > kFewTokens;
    ld_ = PadTo32(inner_) + 16;
    panels_ = arena->Floats(packed_ ? int64_t(PadTo32(c.Cout)) * inner_ : 0);
    rows_ = arena->Floats(kTokens * int64_t(ld_) * x.n_workers);
    scratch_ = arena->Floats(kScratch(ld_) * x.n_workers);
  }

  attune_status Run() {
    if (!c_.y || c_.Cout == 0) return ATTUNE_OK;
    const int64_t outputs = Tiles(c_.Cout, kPanel);
    if (packed_) {
      const attune_status status = Parallel(x_, outputs, 1, [&](int64_t n, uint32_t worker) {
        PackPanels(n * int64_t(kPanel), int64_t(kPanel), {0, c_.Cout}, size_t(inner_),
                   scratch_ + worker * kScratch(ld_), panels_,
                   [&](int64_t i) { return RowRef{&c_.w_o, c_.w_o.Offset(i)}; });
      });
      if (status != ATTUNE_OK) return status;
    }
    const int64_t blocks = Tiles(c_.Tokens(), kTokens), parts = packed_ ? 1 : outputs;
    return Parallel(x_, blocks * parts, 1, [&](int64_t n, uint32_t worker) {
      const int64_t first = n / parts * kTokens;
      const int64_t count = c_.Tokens() - first < kTokens ? c_.Tokens() - first : kTokens;
      float* rows = rows_ + worker * kTokens * int64_t(ld_);
      for (int64_t i = first; i < first + count; i++) {
        GatherHeads(c_.o, i / c_.Nq, i % c_.Nq, c_.Hq, c_.Dv, ld_, rows + (i - first) * int64_t(ld_));
      }
      for (int64_t p = packed_ ? 0 : n % parts; p < (packed_ ? outputs : n % parts + 1); p++) {
        Columns(rows, first, count, p * int64_t(kPanel), scratch_ + worker * kScratch(ld_));
      }
    });
  }

 private:
  static int64_t kScratch(size_t ld) { return int64_t(kPanel * ld); }

  // Outputs [first_output, + kPanel) of `count` tokens.
  void Columns(const float* rows, int64_t first, int64_t count, int64_t first_output, float* scratch) const {
    const hn::ScalableTag<float> d;
    const size_t width = c_.Cout - first_output < int64_t(kPanel) ? size_t(c_.Cout - first_output) : kPanel;
    HWY_ALIGN float bias[kPanel] = {};
    if (c_.b_o) LoadRow(c_.b_o, first_output, width, 1, bias);
    for (int64_t i = 0; i < count; i += kTileRows) {
      const int n = count - i < kTileRows ? int(count - i) : kTileRows;
      const float* a = rows + i * int64_t(ld_);
      if (packed_) {
        kit::TileRows<2, false>(n, size_t(inner_), a, ld_, panels_ + first_output * inner_, kPanel, scratch, kPanel);
      } else {
        const int64_t step = c_.w_o.Stride(0);
        WithRow(c_.w_o, first_output * step, [&](const auto* w) {
          kit::Dots(n, width, size_t(inner_), a, ld_, w, size_t(step), scratch, kPanel);
        });
      }
      for (int r = 0; r < n; r++) {
        float* out = scratch + size_t(r) * kPanel;
        for (size_t e = 0; e < kPanel; e += kLanes) {
          hn::StoreU(hn::Add(hn::LoadU(d, out + e), hn::LoadU(d, bias + e)), d, out + e);
        }
        const int64_t token = first + i + r;
        StoreRow(out, width, 1, c_.y, c_.y.Offset(token / c_.Nq, token % c_.Nq, first_output));
      }
    }
  }

  const attune_exec& x_;
  const Problem& c_;
  int64_t inner_;
  bool packed_ = false;
  size_t ld_ = 0;
  float *panels_ = nullptr, *rows_ = nullptr, *scratch_ = nullptr;
};

#endif  // ATTUNE_ISA
}  // namespace HWY_NAMESPACE
}  // namespace moh
HWY_AFTER_NAMESPACE();
#endif  // toggled include guard
