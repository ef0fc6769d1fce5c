// Second pass of the backward kernel: the keys of a kv head from the last to the first, against running sums of what
// the queries send that meet every key to come. Writes dk and dv, and adds to the gradients of the key maps.
#if defined(ATTUNE_HEDGEHOG_KEY_PASS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef ATTUNE_HEDGEHOG_KEY_PASS_INL_H_
#undef ATTUNE_HEDGEHOG_KEY_PASS_INL_H_
#else
#define ATTUNE_HEDGEHOG_KEY_PASS_INL_H_
#endif
#include "hedgehog/head_memory-inl.h"

HWY_BEFORE_NAMESPACE();
namespace hedgehog {
namespace HWY_NAMESPACE {
#if ATTUNE_ISA

class KeyPass {
 public:
  KeyPass(const Problem& p, const Grid& grid, HeadMemory& shared, hedgehog::Floats& memory)
      : p_(p), grid_(grid), m_(shared) {
    const size_t n = size_t(grid.size), states = size_t(p.Hst / p.Hkv);
    z_ = memory.Rows(n, p.F), dz_ = memory.Rows(n, p.F);
    raw_ = memory.Rows(n, p.E()), dphi_ = memory.Rows(n, p.E()), d_o_ = memory.Rows(n, p.Dv);
    tile_.phi = memory.Rows(n, p.E()), dk_ = memory.Rows(n, p.D), dv_ = memory.Rows(n, p.Dv);
    key_ranges_ = memory.Ranges(n);
    sums_ = memory.Take(states * SumFloats());
  }

  void Run(const attune_exec& x, int64_t b, int64_t head, const View& dk, const View& dv) {
    b_ = b, head_ = head;
    const int64_t states = p_.Hst / p_.Hkv;
    m_.keys.Begin(b, head, nullptr);
    memset(sums_, 0, sizeof(float) * size_t(states) * SumFloats());
    first_ = grid_.ChunkOf(p_, 0);
    int64_t next = p_.Nq > 0 ? grid_.ChunkOf(p_, p_.Nq - 1) : first_ - 1;
    // The sums know nothing of RowFacts::keep.
    absorb_ = !m_.single.AllRows();
    if (absorb_) next = Absorb(next, p_.Nk);
    for (int64_t t = grid_.Count() - 1; t >= 0 && !Cancelled(x); t--) {
      Load(t);
      if (absorb_ || AnyReal(t)) {
        for (int64_t s = 0; s < states; s++) State(t, s, next);
      }
      while (next >= first_ && Absorbed(next, t)) next--;
      Store(t, dk, dv);
    }
  }

 private:
  // Sums over queries: features x upstream gradients, and features x flow behind them.
  struct Sums {
    Matrix g;
    float* h;
  };
  size_t SumFloats() const {
    return size_t(p_.E()) * attune_kit::ChunkStride(size_t(p_.Dv)) + attune_kit::ChunkStride(size_t(p_.E()));
  }
  Sums SumsOf(int64_t s) const {
    const size_t ld = attune_kit::ChunkStride(size_t(p_.Dv));
    float* at = sums_ + size_t(s) * SumFloats();
    return {{at, ld}, at + size_t(p_.E()) * ld};
  }
  int64_t Heads() const { return p_.Hq / p_.Hst; }  // query heads of a state head

  // Adds the chunks from `next` down that meet all keys before `end` through the features; returns the next one.
  int64_t Absorb(int64_t next, int64_t end) {
    for (; next >= first_ && p_.LinearEnd(grid_.ChunkBegin(p_, next)) >= end; next--) {
      for (int64_t s = 0; s < p_.Hst / p_.Hkv; s++) {
        for (int64_t g = s * Heads(); g < (s + 1) * Heads(); g++) {
          LoadQueries(g, next, true);
          Add(SumsOf(s));
        }
      }
    }
    return next;
  }
  void Add(const Sums& sums) const {
    const Chunk& c = m_.chunk;
    AddProductOfColumns(size_t(p_.E()), size_t(p_.Dv), c.n, c.phi, m_.rows.linear, sums.g);
    for (size_t r = 0; r < c.n; r++) kit::AddScaled(c.phi.Row(r), size_t(p_.E()), m_.rows.linear_flow[r], sums.h);
  }

  // Chunk i of the g-th query head, with its features or without.
  void LoadQueries(int64_t g, int64_t i, bool features) {
    Chunk& c = m_.chunk;
    const int64_t h = head_ * p_.Group() + g, begin = grid_.ChunkBegin(p_, i);
    c.Load(b_, h, begin, grid_.ChunkEnd(p_, i));
    facts_ = &m_.Facts(g, begin);
    const bool window = p_.window_mode != kNoWindow;
    const float gamma = window ? float(p_.Gamma(h)) : 0, linear = float(p_.Linear(h));
    for (size_t r = 0; r < c.n; r++) {
      LoadRow(m_.d_o, m_.d_o.Offset(b_, h, begin + int64_t(r)), size_t(p_.Dv), 1, d_o_.Row(r));
      m_.rows.Scale(r, d_o_.Row(r), facts_[r], linear, gamma);
    }
    if (window) c.ScaleQueries(p_.scale);
    if (!features) return;
    const MapGradient map = m_.QueryMap(g);
    map.map.Logits(c.n, c.q, c.z);
    for (size_t r = 0; r < c.n; r++) map.map.Features(c.z.Row(r), c.phi.Row(r));
  }

  void Load(int64_t t) {
    const KeyTile& tile = m_.keys.Get(t, kRawKeys | kValues);
    tile_.k = tile.k, tile_.v = tile.v;
    dk_.Clear(m_.chunk.Columns(t)), dv_.Clear(m_.chunk.Columns(t));
  }

  // What the query heads of state head s send to tile t; chunks after `next` are in the sums.
  void State(int64_t t, int64_t s, int64_t next) {
    const size_t keys = m_.chunk.Columns(t), E = size_t(p_.E()), Dv = size_t(p_.Dv);
    const MapGradient map = m_.KeyMap(s);
    const Sums sums = SumsOf(s);
    map.Forward(keys, tile_.k, z_, raw_, tile_.phi);
    for (size_t r = 0; r < keys; r++) {
      if (!Real(t, r)) memset(tile_.phi.Row(r), 0, sizeof(float) * tile_.phi.ld);
    }
    ProductTransposed<false>(keys, E, Dv, tile_.v, sums.g, dphi_, nullptr, m_.chunk.panel);
    for (size_t r = 0; r < keys; r++) kit::AddScaled(sums.h, E, -1.0f, dphi_.Row(r));
    Product<true>(keys, Dv, E, tile_.phi, sums.g, dv_);
    for (int64_t g = s * Heads(); g < (s + 1) * Heads(); g++) {
      for (int64_t i = next; i >= first_; i--) {
        const int64_t begin = grid_.ChunkBegin(p_, i), last = grid_.ChunkEnd(p_, i) - 1;
        const bool absorbed = Absorbed(i, t);
        if (!absorbed && p_.VisibleEnd(last) <= grid_.Begin(t)) break;
        const bool linear = p_.LinearEnd(last) > grid_.Begin(t);
        const bool window = p_.LinearEnd(begin) < grid_.End(t) && p_.window_mode != kNoWindow;
        LoadQueries(g, i, linear || absorbed);
        if (linear) Features(t);
        if (window) Window(t);
        if (absorbed) Add(sums);
      }
    }
    map.Backward(keys, tile_.k, z_, raw_, dphi_, dz_, dk_, [&](size_t r) { return Real(t, r); });
  }
  // Does chunk i, which may have met tile t, meet every earlier one in whole?
  bool Absorbed(int64_t i, int64_t t) const {
    return absorb_ && t > 0 && p_.LinearEnd(grid_.ChunkBegin(p_, i)) >= grid_.Begin(t);
  }
  bool AnyReal(int64_t t) const {
    for (size_t r = 0; r < m_.chunk.Columns(t); r++) {
      if (Real(t, r)) return true;
    }
    return false;
  }
  bool Real(int64_t t, size_t r) const { return p_.Real(b_, grid_.Begin(t) + int64_t(r)); }

  // The chunk's queries that meet some keys of the tile through the features.
  void Features(int64_t t) {
    Chunk& c = m_.chunk;
    const size_t keys = c.Columns(t);
    c.LinearRanges(t);
    c.FeatureScores(tile_, t);
    m_.rows.OfFeatures(c, tile_, keys);
    TransposeRanges(c.ranges, c.n, keys, key_ranges_);
    AddBand<Order::kColumns>(key_ranges_, keys, size_t(p_.Dv), c.a, m_.rows.linear, dv_);
    AddBand<Order::kColumns>(key_ranges_, keys, size_t(p_.E()), m_.rows.ds, c.phi, dphi_);
  }
  // The same through the window.
  void Window(int64_t t) {
    Chunk& c = m_.chunk;
    const size_t keys = c.Columns(t);
    c.WindowScores(tile_, t);
    m_.rows.OfWindow(c, tile_, keys, [&](size_t r) -> const RowFacts& { return facts_[r]; }, [](size_t, size_t) {});
    TransposeRanges(c.ranges, c.n, keys, key_ranges_);
    AddBand<Order::kColumns>(key_ranges_, keys, size_t(p_.Dv), c.a, m_.rows.window, dv_);
    AddBand<Order::kColumns>(key_ranges_, keys, size_t(p_.D), m_.rows.ds, c.scaled, dk_);
  }

  void Store(int64_t t, const View& dk, const View& dv) const {
    for (size_t r = 0; r < m_.chunk.Columns(t); r++) {
      const int64_t j = grid_.Begin(t) + int64_t(r);
      if (!p_.Real(b_, j)) {
        memset(dk_.Row(r), 0, sizeof(float) * dk_.ld);
        memset(dv_.Row(r), 0, sizeof(float) * dv_.ld);
      }
      if (dk) StoreRow(dk_.Row(r), size_t(p_.D), 1, dk, dk.Offset(b_, head_, j));
      if (dv) StoreRow(dv_.Row(r), size_t(p_.Dv), 1, dv, dv.Offset(b_, head_, j));
    }
  }

  const Problem& p_;
  const Grid& grid_;
  HeadMemory& m_;
  KeyTile tile_;  // shares its keys and values with m_.keys
  Matrix z_, raw_, dz_, dphi_, dk_, dv_, d_o_;
  Range* key_ranges_;
  float* sums_;
  const RowFacts* facts_ = nullptr;  // of the chunk's first query
  bool absorb_ = true;
  int64_t b_ = 0, head_ = 0, first_ = 0;  // first_: chunk of the first query
};

#endif  // ATTUNE_ISA
}  // namespace HWY_NAMESPACE
}  // namespace hedgehog
HWY_AFTER_NAMESPACE();
#endif  // toggled include guard
