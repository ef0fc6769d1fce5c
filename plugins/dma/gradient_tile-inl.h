// Gradients of a tile of queries against all keys that they keep: scores, weights P and dS are made again, panel of
// rows by panel, and give to dq, dk, dv and the biases at once.
#if defined(ATTUNE_DMA_GRADIENT_TILE_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef ATTUNE_DMA_GRADIENT_TILE_INL_H_
#undef ATTUNE_DMA_GRADIENT_TILE_INL_H_
#else
#define ATTUNE_DMA_GRADIENT_TILE_INL_H_
#endif
#include "dma/tile-inl.h"

HWY_BEFORE_NAMESPACE();
namespace dma {
namespace HWY_NAMESPACE {
#if ATTUNE_ISA

// Most keys that a tile of so many positions keeps: a position adds one to those of the first.
inline int64_t MostKeys(const Problem& c, int64_t positions) {
  return c.Selects() && c.top_w < c.Nk - positions ? c.top_w + positions : c.Nk;
}

// Where a task adds up what its tiles give, for all keys of one kv head; null: not wanted.
struct KeySums {
  float *dk, *dv;  // rows of PadTo32(D), PadTo32(Dv); dk without the factor ln 2
  double* dbias;
};

class GradientTile {
 public:
  GradientTile(const Problem& c, const Gradients& g, const Selection& selection, int64_t positions, Carver* m)
      : c_(c),
        g_(g),
        most_(size_t(MostKeys(c, positions))),
        ld_o_(PadTo32(c.Dv)),
        tile_(c, selection, positions, most_, m) {
    const size_t rows = PadTo32(positions * c.Group()), ld_q = tile_.ld_q;
    q_ = m->Take(rows * ld_q), d_o_ = m->Take(rows * ld_o_), d_o_panels_ = m->Take(rows * size_t(c.Dv));
    dq_ = m->Take(kPanel * ld_q), row_ = m->Take(ld_q > ld_o_ ? ld_q : ld_o_);
    k_ = m->Take(most_ * ld_q), v_ = m->Take(most_ * ld_o_);
    dk_ = m->Take(most_ * ld_q), dv_ = m->Take(most_ * ld_o_), dbias_ = reinterpret_cast<double*>(m->Take(2 * most_));
    p_ = m->Take(most_ * kPanel), ds_ = m->Take(most_ * kPanel);
    odd_keys_ = reinterpret_cast<int32_t*>(m->Take(most_)), odd_rows_ = reinterpret_cast<int32_t*>(m->Take(rows));
  }

  const Tile& Queries() const { return tile_; }
  // ds[k * kPanel + lane] of the current panel, by place in Queries().Keys().
  const float* ScoreGradients() const { return ds_; }

  // f(first row of a panel) for every panel of a tile, with its P and dS made.
  template <class F>
  void ForEachPanel(int64_t b, int64_t head, int64_t first, int64_t count, F f) {
    tile_.Begin(b, head, first, count);
    n_ = size_t(tile_.Keys().count);
    if (n_ == 0) return;
    tile_.LoadQueries(q_);
    tile_.LoadQueries(g_.d_o, c_.Dv, 1, d_o_panels_, d_o_);
    tile_.Gather(c_.k, 0, n_, c_.D, k_);
    tile_.Gather(c_.v, 0, n_, c_.Dv, v_);
    tile_.BeginBlock(0, n_);
    for (size_t r = 0; r < size_t(tile_.Rows()); r += kPanel) {
      tile_.Scores(k_, n_, r, p_);
      Tile::Products(v_, n_, size_t(c_.Dv), ld_o_, d_o_panels_ + r * size_t(c_.Dv), ds_);
      tile_.Modify(r, p_);
      Weights();
      f(r);
    }
  }

  // dq of the tile's queries; adds to sums.
  void Run(int64_t b, int64_t head, int64_t first, int64_t count, const KeySums& sums) {
    b_ = b, head_ = head;
    bool begun = false;
    ForEachPanel(b, head, first, count, [&](size_t r) {
      if (!begun) Begin();
      begun = true;
      const size_t lanes = Lanes(r);
      if (g_.dq) QueryGradients(r, lanes);
      if (sums.dv) AddOuter(p_, d_o_ + r * ld_o_, size_t(c_.Dv), lanes, ld_o_, dv_);
      if (sums.dk) AddOuter(ds_, q_ + r * tile_.ld_q, size_t(c_.D), lanes, tile_.ld_q, dk_);
      AddOddRows(r, lanes, sums);
      if (sums.dbias) AddBiases(lanes);
    });
    if (begun) return Scatter(sums);
    memset(dq_, 0, sizeof(float) * tile_.ld_q);  // no query keeps any key
    for (int64_t r = 0; r < tile_.Rows() && g_.dq; r++) StoreQuery(size_t(r), dq_);
  }

 private:
  size_t Lanes(size_t r) const { return size_t(tile_.Rows()) - r < kPanel ? size_t(tile_.Rows()) - r : kPanel; }

  void Begin() {
    memset(dk_, 0, sizeof(float) * n_ * tile_.ld_q), memset(dv_, 0, sizeof(float) * n_ * ld_o_);
    memset(dbias_, 0, sizeof(double) * n_);
    // What is not finite may not meet a gradient of 0 in a product, because 0 * NaN is not 0: such queries, and such
    // keys that not all queries keep, are left out there and looked after one by one.
    n_odd_rows_ = n_odd_keys_ = 0;
    for (size_t r = 0; r < size_t(tile_.Rows()); r++) {
      float *q = q_ + r * tile_.ld_q, *d_o = d_o_ + r * ld_o_;
      if (AllFinite(q, size_t(c_.D)) && AllFinite(d_o, size_t(c_.Dv))) continue;
      memset(q, 0, sizeof(float) * tile_.ld_q), memset(d_o, 0, sizeof(float) * ld_o_);
      odd_rows_[n_odd_rows_++] = int32_t(r);
    }
    for (size_t k = size_t(tile_.Keys().common); k < n_; k++) {
      if (!AllFinite(k_ + k * tile_.ld_q, size_t(c_.D))) odd_keys_[n_odd_keys_++] = int32_t(k);
    }
  }

  // p_: scores become weights. ds_: dP becomes P * (dP - delta), with delta the sum of P * dP over the very same
  // numbers: what multiplies ds may be as large as the bias, and the rounding of any other delta would show.
  HWY_NOINLINE void Weights() {
    const hn::ScalableTag<float> d;
    using V = hn::Vec<decltype(d)>;
    const V none = hn::Set(d, -INFINITY), zero = hn::Zero(d);
    V top[2] = {none, none}, sum[2] = {zero, zero}, delta[2] = {zero, zero}, inverse[2];
    for (size_t k = 0; k < n_; k++) {
#pragma GCC unroll 2
      for (int v = 0; v < 2; v++) top[v] = hn::Max(top[v], hn::LoadU(d, p_ + k * kPanel + v * kLanes));
    }
#pragma GCC unroll 2
    for (int v = 0; v < 2; v++) top[v] = hn::IfThenElse(hn::Eq(top[v], none), zero, top[v]);
    for (size_t k = 0; k < n_; k++) {
#pragma GCC unroll 2
      for (int v = 0; v < 2; v++) {
        const size_t at = k * kPanel + v * kLanes;
        const V s = hn::LoadU(d, p_ + at), e = Weight(d, hn::Sub(s, top[v]));
        // What is not kept may be NaN.
        const V dp = hn::IfThenZeroElse(hn::Eq(s, none), hn::LoadU(d, ds_ + at));
        hn::StoreU(e, d, p_ + at), hn::StoreU(dp, d, ds_ + at);
        sum[v] = hn::Add(sum[v], e);
        delta[v] = hn::MulAdd(e, dp, delta[v]);
      }
    }
#pragma GCC unroll 2
    for (int v = 0; v < 2; v++) {
      inverse[v] = hn::IfThenZeroElse(hn::Eq(sum[v], zero), hn::Div(hn::Set(d, 1.0f), sum[v]));
      delta[v] = hn::Mul(delta[v], inverse[v]);
    }
    for (size_t k = 0; k < n_; k++) {
#pragma GCC unroll 2
      for (int v = 0; v < 2; v++) {
        const size_t at = k * kPanel + v * kLanes;
        // Where the key is not kept it stays 0, whatever the row's sums are.
        const V e = hn::LoadU(d, p_ + at);
        const auto absent = hn::Eq(e, zero);
        const V p = hn::IfThenZeroElse(absent, hn::Mul(e, inverse[v]));
        const V ds = hn::IfThenZeroElse(absent, hn::Mul(p, hn::Sub(hn::LoadU(d, ds_ + at), delta[v])));
        hn::StoreU(p, d, p_ + at), hn::StoreU(ds, d, ds_ + at);
      }
    }
  }

  HWY_NOINLINE void QueryGradients(size_t r, size_t lanes) {
    const size_t ld = tile_.ld_q;
    memset(dq_, 0, sizeof(float) * kPanel * ld);
    for (size_t x = 0; x < n_odd_keys_; x++) memset(k_ + size_t(odd_keys_[x]) * ld, 0, sizeof(float) * ld);
    constexpr size_t kChunk = 128;  // keys whose ds stays in the first-level cache
    for (size_t k = 0; k < n_; k += kChunk) {
      AddTransposed(lanes, size_t(c_.D), n_ - k < kChunk ? n_ - k : kChunk, ds_ + k * kPanel, k_ + k * ld, ld, dq_, ld);
    }
    for (size_t x = 0; x < n_odd_keys_; x++) {
      const size_t k = size_t(odd_keys_[x]);
      float* key = k_ + k * ld;
      tile_.Gather(c_.k, int64_t(k), 1, c_.D, key);
      for (size_t i = 0; i < lanes; i++) {
        const float ds = ds_[k * kPanel + i];
        if (ds != 0) kit::AddScaled(key, size_t(c_.D), ds, dq_ + i * ld);
      }
    }
    for (size_t i = 0; i < lanes; i++) StoreQuery(r + i, dq_ + i * ld);
  }
  void StoreQuery(size_t r, const float* row) const {
    StoreRow(row, size_t(c_.D), float(c_.scale), {&g_.dq, g_.dq.Offset(b_, tile_.Head(r), tile_.Query(r))});
  }

  // to[k] += sum over lanes of x[k * kPanel + lane] * rows[lane].
  HWY_NOINLINE void AddOuter(const float* x, const float* rows, size_t columns, size_t lanes, size_t ld, float* to) {
    for (size_t k = 0; k < n_; k += kTileRows) {
      const int count = n_ - k < size_t(kTileRows) ? int(n_ - k) : kTileRows;
      for (size_t e = 0; e < columns; e += kPanel) {
        if (columns - e > kLanes) {
          kit::TileRows<2, true>(count, lanes, x + k * kPanel, kPanel, rows + e, ld, to + k * ld + e, ld);
        } else {
          kit::TileRows<1, true>(count, lanes, x + k * kPanel, kPanel, rows + e, ld, to + k * ld + e, ld);
        }
      }
    }
  }

  // Queries that were left out give to the keys that they keep alone.
  void AddOddRows(size_t r, size_t lanes, const KeySums& sums) {
    for (size_t x = 0; x < n_odd_rows_; x++) {
      const size_t row = size_t(odd_rows_[x]), i = row - r;
      if (row < r || i >= lanes) continue;
      const int64_t h = tile_.Head(row), query = tile_.Query(row);
      const auto add = [&](const View& from, int64_t width, float factor, const float* given, size_t ld, float* to) {
        LoadRow({&from, from.Offset(b_, h, query)}, size_t(width), factor, row_);
        for (size_t k = 0; k < n_; k++) {
          const float p = given[k * kPanel + i];
          if (p != 0) kit::AddScaled(row_, size_t(width), p, to + k * ld);
        }
      };
      if (sums.dv) add(g_.d_o, c_.Dv, 1, p_, ld_o_, dv_);
      if (sums.dk) add(c_.q, c_.D, tile_.QueryFactor(), ds_, tile_.ld_q, dk_);
    }
  }

  void AddBiases(size_t lanes) {
    const hn::ScalableTag<float> d;
    for (size_t k = 0; k < n_; k++) {
      const float* row = ds_ + k * kPanel;
      if (lanes == kPanel) {
        dbias_[k] += hn::GetLane(hn::SumOfLanes(d, hn::Add(hn::LoadU(d, row), hn::LoadU(d, row + kLanes))));
      } else {
        for (size_t i = 0; i < lanes; i++) dbias_[k] += row[i];
      }
    }
  }

  void Scatter(const KeySums& sums) const {
    const hn::ScalableTag<float> d;
    const auto add = [&](const float* from, size_t ld, float* to) {
      for (size_t e = 0; e < ld; e += kLanes) {
        hn::StoreU(hn::Add(hn::LoadU(d, to + e), hn::LoadU(d, from + e)), d, to + e);
      }
    };
    for (size_t k = 0; k < n_; k++) {
      const size_t j = size_t(tile_.Keys().keys[k]);
      if (sums.dk) add(dk_ + k * tile_.ld_q, tile_.ld_q, sums.dk + j * tile_.ld_q);
      if (sums.dv) add(dv_ + k * ld_o_, ld_o_, sums.dv + j * ld_o_);
      if (sums.dbias) sums.dbias[j] += dbias_[k];
    }
  }

  const Problem& c_;
  const Gradients& g_;
  size_t most_, ld_o_, n_ = 0, n_odd_keys_ = 0, n_odd_rows_ = 0;
  int64_t b_ = 0, head_ = 0;
  Tile tile_;
  float *q_, *d_o_, *d_o_panels_, *dq_, *row_, *k_, *v_, *dk_, *dv_, *p_, *ds_;
  double* dbias_;
  int32_t *odd_keys_, *odd_rows_;
};

#endif  // ATTUNE_ISA
}  // namespace HWY_NAMESPACE
}  // namespace dma
HWY_AFTER_NAMESPACE();
#endif  // toggled include guard
