// Attention of one query head over chunks of queries: what the forward and the backward kernels do alike.
#if defined(ATTUNE_HEDGEHOG_CHUNK_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef ATTUNE_HEDGEHOG_CHUNK_INL_H_
#undef ATTUNE_HEDGEHOG_CHUNK_INL_H_
#else
#define ATTUNE_HEDGEHOG_CHUNK_INL_H_
#endif
#include "_kit/online_softmax-inl.h"
#include "hedgehog/keys-inl.h"

HWY_BEFORE_NAMESPACE();
namespace hedgehog {
namespace HWY_NAMESPACE {
#if ATTUNE_ISA

// Sums of features x values and of features: rows of Dv, and one row of 2F behind them.
struct State {
  Matrix s;
  float* z;
  bool any;  // false: both are 0 and not filled

  static size_t Floats(const Problem& p) {
    return size_t(p.E()) * attune_kit::ChunkStride(size_t(p.Dv)) + attune_kit::ChunkStride(size_t(p.E()));
  }
  State(const Problem& p, hedgehog::Floats& memory)
      : s(memory.Rows(p.E(), p.Dv)), z(memory.Take(attune_kit::ChunkStride(p.E()))), any(false) {}

  void Load(const Problem& p, int64_t b, int64_t head) {
    any = bool(p.kv_state);
    if (!any) return;
    for (int64_t e = 0; e < p.E(); e++) LoadRow(p.kv_state, p.kv_state.Offset(b, head, e), p.Dv, 1, s.Row(e));
    for (int64_t e = 0; e < p.E(); e++) z[e] = float(p.k_state.Get(b, head, e));
  }
  // Adds the first n keys of a tile.
  void Add(const Problem& p, const KeyTile& keys, size_t n, attune_kit::Ahead* ahead = nullptr) {
    if (!any) {
      s.Clear(p.E());
      memset(z, 0, sizeof(float) * p.E());
      any = true;
    }
    AddProductOfColumns(p.E(), p.Dv, n, keys.phi, keys.v, s, ahead);
    const hn::ScalableTag<float> d;
    for (int64_t e = 0; e < p.E(); e += kLanes) {
      auto sum = hn::Zero(d);
      for (size_t r = 0; r < n; r++) sum = hn::Add(sum, hn::LoadU(d, keys.phi.Row(r) + e));
      hn::StoreU(hn::Add(hn::LoadU(d, z + e), sum), d, z + e);
    }
  }
  void Store(const Problem& p, int64_t b, int64_t head) {
    if (!any) s.Clear(p.E()), memset(z, 0, sizeof(float) * p.E());
    for (int64_t e = 0; p.kv_state_out && e < p.E(); e++) {
      StoreRow(s.Row(e), p.Dv, 1, p.kv_state_out, p.kv_state_out.Offset(b, head, e));
    }
    for (int64_t e = 0; p.k_state_out && e < p.E(); e++) p.k_state_out.Put(z[e], b, head, e);
  }
};

// A chunk of queries of one head and what is summed for it, not normalised and not yet multiplied by gamma or the
// linear factor.
class Chunk {
 public:
  Chunk(const Problem& p, const Grid& grid, hedgehog::Floats& memory) : p_(p), grid_(grid) {
    const size_t n = size_t(grid.size);
    q = memory.Rows(n, p.D), scaled = memory.Rows(n, p.D), z = memory.Rows(n, p.F), phi = memory.Rows(n, p.E());
    a = memory.Rows(n, n), o_linear = memory.Rows(n, p.Dv), o_window = memory.Rows(n, p.Dv);
    den = memory.Take(n), m = memory.Take(n), sums = memory.Take(n * kLanes), ranges = memory.Ranges(n);
    const int64_t widest = p.E() > p.D ? p.E() : p.D;
    panel = memory.Take(kPanel * size_t(widest > p.Dv ? widest : p.Dv));
  }

  // Queries [begin, end) of head h.
  void Load(int64_t b, int64_t h, int64_t begin, int64_t end) {
    b_ = b, begin_ = begin, n = size_t(end - begin);
    for (size_t r = 0; r < n; r++) LoadRow(p_.q, p_.q.Offset(b, h, begin + int64_t(r)), p_.D, 1, q.Row(r));
  }

  // o_linear and den: the state, and the tiles from `next` on that are not in it.
  void Linear(const State& state, KeyTiles& keys, int64_t next, attune_kit::Ahead* ahead = nullptr) {
    if (state.any) {
      Product<false>(n, p_.Dv, p_.E(), phi, state.s, o_linear, ahead);
      for (size_t r = 0; r < n; r++) den[r] = DotRow(phi.Row(r), state.z, p_.E());
    } else {
      o_linear.Clear(n);
      memset(den, 0, sizeof(float) * n);
    }
    for (int64_t t = next; LinearTile(t); t++) {
      const KeyTile& tile = keys.Get(t, kFeatures | kValues);
      LinearRanges(t);
      FeatureScores(tile, t);
      for (size_t r = 0; r < n; r++) den[r] += SumRow(a.Row(r), 0, size_t(ranges[r].end));
      AddBand<Order::kRows>(ranges, n, p_.Dv, a, tile.v, o_linear);
    }
  }
  // Does any query meet keys of tile t through the features?
  bool LinearTile(int64_t t) const {
    return t < grid_.Count() && grid_.Begin(t) < p_.LinearEnd(begin_ + int64_t(n) - 1);
  }
  // a = phi phi_k^T in `ranges`, 0 outside.
  void FeatureScores(const KeyTile& tile, int64_t t) {
    const size_t columns = Columns(t);
    ProductTransposed<false>(n, columns, p_.E(), phi, tile.phi, a, ranges, panel);
    ClearOutside(ranges, n, columns, a);
  }

  void LinearRanges(int64_t t) const {
    for (size_t r = 0; r < n; r++) ranges[r] = LinearKeys(p_, grid_, t, begin_ + int64_t(r));
  }

  // m, sums and o_window. Scores are scale q . k, in units of log2 if kBase2.
  template <bool kBase2>
  void Window(KeyTiles& keys) {
    ScaleQueries(kBase2 ? p_.scale * 1.4426950408889634 : p_.scale);
    for (size_t r = 0; r < n; r++) m[r] = -INFINITY;
    memset(sums, 0, sizeof(float) * n * kLanes);
    o_window.Clear(n);
    for (int64_t t = FirstWindowTile(); t <= LastWindowTile(); t++) {
      const KeyTile& tile = keys.Get(t, kRawKeys | kValues);
      WindowScores(tile, t);
      for (size_t r = 0; r < n; r++) {
        const Range w = ranges[r];
        if (w.end <= w.begin) continue;
        const float factor = kit::OnlineSoftmax<kBase2>(a.Row(r), w.begin, w.end, m + r, sums + r * kLanes);
        if (factor != 1) kit::ScaleRow(o_window.Row(r), (p_.Dv + kLanes - 1) / kLanes * kLanes, factor);
      }
      ClearOutside(ranges, n, Columns(t), a);
      AddBand<Order::kRows>(ranges, n, p_.Dv, a, tile.v, o_window);
    }
  }
  void ScaleQueries(double factor) {
    for (size_t r = 0; r < n; r++) kit::Widen(q.Row(r), size_t(p_.D), float(factor), scaled.Row(r));
  }
  int64_t FirstWindowTile() const { return grid_.Of(p_.LinearEnd(begin_)); }
  int64_t LastWindowTile() const { return grid_.Of(p_.VisibleEnd(begin_ + int64_t(n) - 1) - 1); }
  void WindowScores(const KeyTile& tile, int64_t t) {
    for (size_t r = 0; r < n; r++) ranges[r] = WindowKeys(p_, grid_, t, begin_ + int64_t(r));
    Scores(tile, t, a);
  }
  // to = scaled k^T in `ranges`, -inf for padded keys; undefined outside.
  void Scores(const KeyTile& tile, int64_t t, Matrix to) const {
    const size_t columns = Columns(t);
    ProductTransposed<false>(n, columns, p_.D, scaled, tile.k, to, ranges, panel);
    for (size_t j = 0; p_.key_mask && j < columns; j++) {
      if (p_.Real(b_, grid_.Begin(t) + int64_t(j))) continue;
      for (size_t r = 0; r < n; r++) to.Row(r)[j] = -INFINITY;
    }
  }
  float WindowSum(size_t r) const {
    const hn::ScalableTag<float> d;
    return hn::GetLane(hn::SumOfLanes(d, hn::LoadU(d, sums + r * kLanes)));
  }

  size_t Columns(int64_t t) const { return size_t(grid_.End(t) - grid_.Begin(t)); }

  size_t n = 0;              // queries
  Matrix q, scaled;          // queries, and times the scale of the window
  Matrix z, phi;             // logits, features
  Matrix a;                  // scores or weights of a tile
  Matrix o_linear, o_window;
  float *den;                // of the linear part
  float *m, *sums;           // of the window: maximum, and kLanes partial sums of exp(score - m)
  Range* ranges;             // keys of a tile
  float* panel;

 private:
  const Problem& p_;
  const Grid& grid_;
  int64_t b_ = 0, begin_ = 0;
};

#endif  // ATTUNE_ISA
}  // namespace HWY_NAMESPACE
}  // namespace hedgehog
HWY_AFTER_NAMESPACE();
#endif  // toggled include guard
