// The way back through the output projection: what dy sends to o, and the gradients of w_o and b_o.
#if defined(ATTUNE_MOH_PROJECTION_BACKWARD_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef ATTUNE_MOH_PROJECTION_BACKWARD_INL_H_
#undef ATTUNE_MOH_PROJECTION_BACKWARD_INL_H_
#else
#define ATTUNE_MOH_PROJECTION_BACKWARD_INL_H_
#endif
#include "moh/routes-inl.h"

HWY_BEFORE_NAMESPACE();
namespace moh {
namespace HWY_NAMESPACE {
#if ATTUNE_ISA

// Tokens are rows of f32: of dy, of the gradient of o, and of o itself, which the attention fills in.
class ProjectionBackward {
 public:
  ProjectionBackward(const attune_exec& x, const Problem& c, const Gradients& g, Arena* arena)
      : x_(x), c_(c), g_(g), inner_(c.Hq * c.Dv), ld_(PadTo32(inner_)), ld_dy_(PadTo32(c.Cout)) {
    const int64_t tokens = c.Tokens();
    dy_ = arena->Floats(g.dy ? tokens * int64_t(ld_dy_) : 0);
    d_o_ = arena->Floats(g.dy ? tokens * int64_t(ld_) : 0);
    o_ = arena->Floats(NeedsOutputs() ? tokens * int64_t(ld_) : 0);
    panels_ = arena->Floats(g.dy ? c.Cout * int64_t(ld_) : 0);
    sums_ = arena->Floats(int64_t(x.n_workers) * kOutputs * int64_t(kPanel));
  }

  // Is o of every token wanted?
  bool NeedsOutputs() const { return g_.dw_o && g_.dy; }
  // Row of o of token n, all heads side by side: to be filled.
  float* Output(int64_t n) const { return o_ + n * int64_t(ld_); }

  // Before the attention: the gradient of o of all tokens.
  attune_status Open() {
    if (!g_.dy) return ATTUNE_OK;
    attune_status status = Parallel(x_, Tiles(c_.Cout, int64_t(kPackKeys)), 1, [&](int64_t n, uint32_t) {
      PackColumns(n * int64_t(kPackKeys), int64_t(kPackKeys), {0, c_.Cout}, size_t(inner_), size_t(c_.Cout), panels_,
                  [&](int64_t i) { return RowRef{&c_.w_o, c_.w_o.Offset(i)}; });
    });
    if (status != ATTUNE_OK) return status;
    return Parallel(x_, Tiles(c_.Tokens(), kTokens), 1, [&](int64_t n, uint32_t) {
      const int64_t first = n * kTokens, left = c_.Tokens() - first;
      Upstream(first, left < kTokens ? left : kTokens);
    });
  }

  // dst[0, Dv) = gradient of o of a pair, zeros up to a multiple of kLanes.
  void LoadUpstream(int64_t b, int64_t h, int64_t t, float* dst) const {
    if (g_.dy) {
      const float* row = d_o_ + (b * c_.Nq + t) * int64_t(ld_) + h * c_.Dv;
      kit::Widen(row, size_t(c_.Dv), 1.0f, dst);
    } else if (g_.d_o) {
      LoadRow(g_.d_o, g_.d_o.Offset(b, h, t), size_t(c_.Dv), 1, dst);
    } else {
      memset(dst, 0, sizeof(float) * PadTo32(c_.Dv));
    }
  }

  // After it: dw_o = dy^T o, db_o = sum of dy, both over the tokens in order.
  attune_status Close() {
    if (!g_.dw_o && !g_.db_o) return ATTUNE_OK;
    return Parallel(x_, Tiles(c_.Cout, kOutputs), 1, [&](int64_t n, uint32_t worker) {
      const int64_t first = n * kOutputs, left = c_.Cout - first;
      const size_t count = size_t(left < kOutputs ? left : kOutputs);
      float* sums = sums_ + worker * kOutputs * int64_t(kPanel);
      if (g_.db_o) Biases(first, count, sums);
      for (int64_t e = 0; e < inner_ && g_.dw_o; e += kPanel) Weights(first, count, e, sums);
    });
  }

 private:
  static constexpr int64_t kTokens = 64, kOutputs = 64;

  void Upstream(int64_t first, int64_t count) const {
    for (int64_t n = first; n < first + count; n++) {
      LoadRow(g_.dy, g_.dy.Offset(n / c_.Nq, n % c_.Nq), size_t(c_.Cout), 1, dy_ + n * int64_t(ld_dy_));
      float* row = d_o_ + n * int64_t(ld_);
      if (g_.d_o) {
        GatherHeads(g_.d_o, n / c_.Nq, n % c_.Nq, c_.Hq, c_.Dv, ld_, row);
      } else {
        memset(row, 0, sizeof(float) * ld_);
      }
    }
    for (int64_t e = 0; e < inner_; e += kPanel) {
      const float* panel = panels_ + e * c_.Cout;
      for (int64_t n = first; n < first + count; n += kTileRows) {
        const int rows = first + count - n < kTileRows ? int(first + count - n) : kTileRows;
        const float* dy = dy_ + n * int64_t(ld_dy_);
        float* d_o = d_o_ + n * int64_t(ld_) + e;
        if (inner_ - e > int64_t(kLanes)) {
          kit::TileRows<2, true>(rows, size_t(c_.Cout), dy, ld_dy_, panel, kPanel, d_o, ld_);
        } else {
          kit::TileRows<1, true>(rows, size_t(c_.Cout), dy, ld_dy_, panel, kPanel, d_o, ld_);
        }
      }
    }
  }

  void Weights(int64_t first, size_t count, int64_t e, float* sums) const {
    memset(sums, 0, sizeof(float) * count * kPanel);
    const size_t width = inner_ - e < int64_t(kPanel) ? size_t(inner_ - e) : kPanel;
    for (size_t i = 0; i < count && g_.dy; i += kTileRows) {
      const int rows = count - i < kTileRows ? int(count - i) : kTileRows;
      const float* dy = dy_ + first + int64_t(i);
      if (width > kLanes) {
        kit::TransposedTileRows<2>(rows, size_t(c_.Tokens()), dy, ld_dy_, o_ + e, ld_, sums + i * kPanel, kPanel);
      } else {
        kit::TransposedTileRows<1>(rows, size_t(c_.Tokens()), dy, ld_dy_, o_ + e, ld_, sums + i * kPanel, kPanel);
      }
    }
    for (size_t i = 0; i < count; i++) {
      StoreRow(sums + i * kPanel, width, 1, g_.dw_o, g_.dw_o.Offset(first + int64_t(i), e));
    }
  }

  void Biases(int64_t first, size_t count, float* sums) const {
    memset(sums, 0, sizeof(float) * kOutputs);
    for (int64_t n = 0; n < c_.Tokens() && g_.dy; n++) {
      const float* dy = dy_ + n * int64_t(ld_dy_) + first;
      for (size_t i = 0; i < count; i++) sums[i] += dy[i];
    }
    StoreRow(sums, count, 1, g_.db_o, first);
  }

  const attune_exec& x_;
  const Problem& c_;
  const Gradients& g_;
  int64_t inner_;  // columns of all heads
  size_t ld_, ld_dy_;
  float *dy_, *d_o_, *o_, *panels_, *sums_;
};

#endif  // ATTUNE_ISA
}  // namespace HWY_NAMESPACE
}  // namespace moh
HWY_AFTER_NAMESPACE();
#endif  // toggled include guard
