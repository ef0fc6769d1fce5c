#include "dma/forward.h"

#include "_kit/isa.h"
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "dma/forward.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "_kit/online_softmax-inl.h"
#include "dma/phases-inl.h"
#include "dma/tile-inl.h"

HWY_BEFORE_NAMESPACE();
namespace dma {
namespace HWY_NAMESPACE {
#if ATTUNE_ISA
namespace {

// Scores of n keys and a panel of rows become weights 2^(s - m); m and sum, one number per row, are updated. factor
// gets what each row's result so far must be multiplied with; false when that is 1 everywhere.
HWY_NOINLINE bool OnlineWeights(size_t n, float* s, float* m, float* sum, float* factor) {
  const hn::ScalableTag<float> d;
  using V = hn::Vec<decltype(d)>;
  const V none = hn::Set(d, -INFINITY), zero = hn::Zero(d), one = hn::Set(d, 1.0f);
  V top[4] = {none, none, none, none};
  size_t k = 0;
  for (; k + 2 <= n; k += 2) {
#pragma GCC unroll 4
    for (int v = 0; v < 4; v++) top[v] = hn::Max(top[v], hn::LoadU(d, s + k * kPanel + v * kLanes));
  }
  if (k < n) {
#pragma GCC unroll 2
    for (int v = 0; v < 2; v++) top[v] = hn::Max(top[v], hn::LoadU(d, s + k * kPanel + v * kLanes));
  }
  V shift[2], part[2] = {zero, zero};
  bool changed = false;
#pragma GCC unroll 2
  for (int v = 0; v < 2; v++) {
    const V old = hn::LoadU(d, m + v * kLanes), now = hn::Max(old, hn::Max(top[v], top[v + 2]));
    shift[v] = hn::IfThenElse(hn::Eq(now, none), zero, now);  // never -inf - -inf
    const V f = hn::IfThenElse(hn::Eq(now, old), one, Weight(d, hn::Sub(old, shift[v])));
    changed |= !hn::AllTrue(d, hn::Eq(f, one));
    hn::StoreU(now, d, m + v * kLanes), hn::StoreU(f, d, factor + v * kLanes);
  }
  for (k = 0; k < n; k++) {
#pragma GCC unroll 2
    for (int v = 0; v < 2; v++) {
      float* at = s + k * kPanel + v * kLanes;
      const V p = Weight(d, hn::Sub(hn::LoadU(d, at), shift[v]));
      hn::StoreU(p, d, at);
      part[v] = hn::Add(part[v], p);
    }
  }
#pragma GCC unroll 2
  for (int v = 0; v < 2; v++) {
    float* at = sum + v * kLanes;
    hn::StoreU(hn::MulAdd(hn::LoadU(d, at), hn::LoadU(d, factor + v * kLanes), part[v]), d, at);
  }
  return changed;
}

// One worker's work on a tile: one pass over the kept keys in blocks.
class TileAttention {
 public:
  static int64_t Positions(const attune_exec& x, const Problem& c) {
    return TilePositions(c, x.knobs[kTileRowsWanted]);
  }

  TileAttention(const attune_exec& x, const Problem& c, const Selection& selection, int64_t positions, Carver* m)
      : c_(c),
        block_(size_t(x.knobs[kBlockKeys])),
        ld_o_(PadTo32(c.Dv)),
        tile_(c, selection, positions, block_, m) {
    const size_t rows = PadTo32(positions * c.Group());
    k_ = m->Take(block_ * tile_.ld_q), v_ = m->Take(block_ * ld_o_), s_ = m->Take(block_ * kPanel);
    o_ = m->Take(rows * ld_o_), m_ = m->Take(rows), sum_ = m->Take(rows), factor_ = m->Take(kPanel);
    odd_ = reinterpret_cast<int32_t*>(m->Take(block_)), row_ = m->Take(ld_o_);
  }

  void Run(int64_t b, int64_t head, int64_t first, int64_t count) {
    tile_.Begin(b, head, first, count);
    tile_.LoadQueries(nullptr);
    const size_t rows = size_t(tile_.Rows());
    for (size_t r = 0; r < PadTo32(int64_t(rows)); r++) m_[r] = -INFINITY, sum_[r] = 0;
    memset(o_, 0, sizeof(float) * rows * ld_o_);
    const KeyList& keys = tile_.Keys();
    for (int64_t begin = 0; begin < keys.count; begin += int64_t(block_)) {
      const size_t n = size_t(keys.count - begin) < block_ ? size_t(keys.count - begin) : block_;
      tile_.Gather(c_.k, begin, n, c_.D, k_);
      tile_.Gather(c_.v, begin, n, c_.Dv, v_);
      const size_t odd = tile_.TakeOutOdd(begin, n, c_.Dv, v_, odd_);
      tile_.BeginBlock(begin, n);
      for (size_t r = 0; r < rows; r += kPanel) {
        tile_.Scores(k_, n, r, s_);
        tile_.Modify(r, s_);
        Add(r, n, rows - r < kPanel ? rows - r : kPanel);
        for (size_t x = 0; x < odd; x++) AddOdd(begin, odd_[x], r, b, head);
      }
    }
    for (size_t r = 0; r < rows; r++) {
      StoreResult(c_, b, tile_.Head(r), tile_.Query(r), o_ + r * ld_o_, sum_[r], m_[r], tile_.Largest(r));
    }
  }

 private:
  void Add(size_t r, size_t n, size_t lanes) {
    float* o = o_ + r * ld_o_;
    if (OnlineWeights(n, s_, m_ + r, sum_ + r, factor_)) {
      for (size_t i = 0; i < lanes; i++) {
        if (factor_[i] != 1) kit::ScaleRow(o + i * ld_o_, ld_o_, factor_[i]);
      }
    }
    AddTransposed(lanes, size_t(c_.Dv), n, s_, v_, ld_o_, o, ld_o_);
  }

  // The value that is not finite goes to the rows that keep it alone.
  HWY_NOINLINE void AddOdd(int64_t begin, int32_t k, size_t r, int64_t b, int64_t head) {
    LoadRow(c_.v.At(b, head, tile_.Keys().keys[begin + k]), size_t(c_.Dv), 1, row_);
    for (size_t i = 0; i < kPanel && r + i < size_t(tile_.Rows()); i++) {
      const float p = s_[size_t(k) * kPanel + i];
      if (p != 0) kit::AddScaled(row_, size_t(c_.Dv), p, o_ + (r + i) * ld_o_);
    }
  }

  const Problem& c_;
  size_t block_, ld_o_;
  Tile tile_;
  float *k_, *v_, *s_, *o_, *m_, *sum_, *factor_, *row_;
  int32_t* odd_;
};

}  // namespace

attune_status TiledForward(const attune_exec* x) {
  const Problem c = ReadForward(*x);
  return RunPhases<TileAttention>(*x, c);
}
attune_status TiledStep(const attune_exec* x) {
  const Problem c = ReadStep(*x);
  return RunPhases<TileAttention>(*x, c);
}

#endif  // ATTUNE_ISA
}  // namespace HWY_NAMESPACE
}  // namespace dma
HWY_AFTER_NAMESPACE();
