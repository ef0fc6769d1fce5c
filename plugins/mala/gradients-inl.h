// Gradients of one kv head, chunk by chunk: first of its queries, in order; then of its keys, from what all queries
// that see a key sent to the sums.
#if defined(ATTUNE_MALA_GRADIENTS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef ATTUNE_MALA_GRADIENTS_INL_H_
#undef ATTUNE_MALA_GRADIENTS_INL_H_
#else
#define ATTUNE_MALA_GRADIENTS_INL_H_
#endif
#include "mala/sums-inl.h"

HWY_BEFORE_NAMESPACE();
namespace mala {
namespace HWY_NAMESPACE {
#if ATTUNE_ISA

// C[rows x columns] = A X^T for X [columns x depth]. `panel`: room for depth * kPanel floats.
inline void TimesTransposed(size_t rows, size_t columns, size_t depth, const float* a, size_t lda, const float* x,
                            size_t ldx, float* panel, float* c, size_t ldc) {
  using kit::kPanel;
  for (size_t p = 0; p < columns; p += kPanel) {
    const float* pointers[kPanel];  // beyond the last row any will do: those columns of C are not used
    for (size_t r = 0; r < kPanel; r++) pointers[r] = x + (p + r < columns ? p + r : columns - 1) * ldx;
    kit::TransposeToPanel(pointers, depth, panel);
    const size_t n = columns - p < kPanel ? columns - p : kPanel;
    kit::ChunkProduct<Start::kZero, Terms::kAll, Order::kRows>(rows, n, depth, a, lda, panel, kPanel, 0, c + p, ldc);
  }
}

// C[n x width] += lower(A X^T) Y, for rows of A and X of `length` elements: attention among the tokens of a chunk.
inline void AddWithin(const ChunkMemory& m, size_t n, float* a, float* x, size_t length, size_t ld, const float* y,
                      size_t width, size_t ld_y, float* c) {
  ChunkMemory pair = m;
  pair.q = a, pair.k = x, pair.features = length, pair.ld_features = ld;
  kit::TransposeQueries(pair, n);
  kit::Scores(pair, n);
  kit::ChunkProduct<Start::kKeep, Terms::kLower, Order::kColumns>(n, width, 0, m.at, m.ld_a, y, ld_y, 0, c, ld_y);
}

class HeadGradients {
 public:
  HeadGradients(const attune_exec& x, const Problem& c, const Layout& w, int64_t head, uint32_t worker)
      : x_(x), c_(c), w_(w), head_(head), batch_(head / c.Hkv), shared_(head % c.Hkv), arena_(w, worker),
        k_(c, w, arena_), prefix_(w, arena_) {
    d_o_ = arena_.Take(w.chunk * w.ld_v), d_values_ = arena_.Take(w.chunk * w.ld_v);
    d_rows_ = arena_.Take(w.chunk * w.ld_d);
  }

  // Queries of segment i, in order: dq, and z and its gradient for later. Adds up what they send to the sums they saw.
  void Queries(int64_t i) {
    const Slot sums = w_.Sums(head_, c_.causal ? i : 0), gradients = w_.Gradients(head_, i);
    ClearSlot(w_, gradients);
    for (Range left = Range::Piece(i, w_.query_segment, c_.Nq); left.begin < left.end && !Cancelled(x_);) {
      const int64_t n = c_.in.Count(batch_) + left.begin;
      t_.Take(w_.chunk, &left);
      if (c_.causal) k_.LoadKeys(batch_, shared_, t_);
      const Seen seen = c_.causal ? prefix_.Of(c_, w_, k_, t_, sums, n) : SeenByAll(sums);
      for (int64_t g = shared_ * c_.Group(); g < (shared_ + 1) * c_.Group(); g++) {
        LoadQueries(g);
        RowSums(g, seen);
        GradientsOfY(g, seen);
        if (c_.dq) StoreQueries(g, seen);
        // The causal form needs what a whole segment sends only where there are several.
        if (!c_.causal || w_.segments > 1) Collect(g, seen, gradients);
      }
      if (c_.causal) k_.Absorb(t_, sums);
    }
  }

  // dk and dv of the keys of segment i, in the bidirectional form.
  void Keys(int64_t i) {
    const Slot gradients = w_.Gradients(head_, 0);
    for (Range left = Range::Piece(i, w_.key_segment, c_.Nk); left.begin < left.end && !Cancelled(x_);) {
      const int64_t first = left.begin;
      t_.TakeKeys(c_, batch_, w_.chunk, &left);
      ClearPadded({first, left.begin});
      k_.LoadKeys(batch_, shared_, t_);
      KeyProducts(gradients);
      StoreKeys(gradients.z, gradients.v, 0);
    }
  }

  // The same in the causal form: from the last token to the first, so that the slot, which runs along, holds what later
  // tokens sent. In that order "the tokens from here on" are a lower triangle again.
  void KeysBackwards(int64_t i) {
    const Slot gradients = w_.Gradients(head_, i);
    for (Range left = Range::Piece(i, w_.key_segment, c_.Nk); left.begin < left.end && !Cancelled(x_);) {
      t_.TakeBackwards(w_.chunk, &left);
      k_.LoadKeys(batch_, shared_, t_);
      KeyProducts(gradients);
      memset(prefix_.z, 0, sizeof(float) * t_.n * w_.ld_d);
      memset(prefix_.v, 0, sizeof(float) * t_.n * w_.ld_v);
      // Each row sees one token less than the one before; only their numbers matter here.
      const Seen seen = {gradients, nullptr, nullptr, -1, c_.in.Count(batch_) + t_.at[0] + 1};
      const ChunkMemory& m = k_.m;
      for (int64_t g = shared_ * c_.Group(); g < (shared_ + 1) * c_.Group(); g++) {
        LoadQueries(g);
        GradientsOfY(g, seen);
        if (c_.dk) AddWithin(m, t_.n, m.v, m.o, c_.Dv, w_.ld_v, m.q, c_.D, w_.ld_d, d_rows_);
        if (c_.dv) AddWithin(m, t_.n, m.k, m.q, c_.D, w_.ld_d, m.o, c_.Dv, w_.ld_v, d_values_);
        for (size_t r = 0; r < t_.n; r++) {
          const Factors f = FactorsOf(g, r, seen);
          float *z = prefix_.z + r * w_.ld_d, *v = prefix_.v + r * w_.ld_v;
          CombineRows(1.0f, z, f.dz, k_.a + r * w_.ld_d, c_.D, z);
          CombineRows(1.0f, v, f.dmean, d_o_ + r * w_.ld_v, c_.Dv, v);
        }
        AddProducts(gradients);
      }
      PrefixRows(gradients.z, prefix_.z, w_.ld_d, t_.n, c_.D, prefix_.z);
      PrefixRows(gradients.v, prefix_.v, w_.ld_v, t_.n, c_.Dv, prefix_.v);
      StoreKeys(prefix_.z, prefix_.v, 1);
      memcpy(gradients.z, prefix_.z + (t_.n - 1) * w_.ld_d, sizeof(float) * c_.D);
      memcpy(gradients.v, prefix_.v + (t_.n - 1) * w_.ld_v, sizeof(float) * c_.Dv);
    }
  }

 private:
  // With do the gradient of a row's output: the gradient of its y is dy * do; to the sum of keys it saw it sends
  // dz * query, to the sum of values dmean * do.
  struct Factors {
    float dy, dz, dmean;
  };
  Factors FactorsOf(int64_t g, size_t r, const Seen& seen) const {
    const size_t at = Index(g, r);
    const double share = seen.Share(r), beta = 1 + 1 / (double(w_.z[at]) + c_.norm_eps);
    return {float(c_.scale * share * beta), float(c_.scale * share * w_.dz[at]), float(-share * w_.z[at])};
  }
  size_t Index(int64_t g, size_t r) const { return size_t((batch_ * c_.Hq + g) * c_.Nq + t_.at[r]); }

  void LoadQueries(int64_t g) {
    k_.LoadQueries(batch_, g, t_);
    k_.LoadPlain(c_.d_o, batch_, g, t_, d_o_);
  }

  // z and its gradient for the chunk's queries of head g, by way of y in m.o.
  void RowSums(int64_t g, const Seen& seen) {
    const ChunkMemory& m = k_.m;
    kit::ChunkProduct<Start::kZero, Terms::kAll, Order::kRows>(t_.n, c_.Dv, c_.D, m.q, w_.ld_d, seen.before.p, w_.ld_v,
                                                               0, m.o, w_.ld_v);
    if (c_.causal) AddWithin(m, t_.n, m.q, m.k, c_.D, w_.ld_d, m.v, c_.Dv, w_.ld_v, m.o);
    for (size_t r = 0; r < t_.n; r++) {
      const int64_t row = int64_t(r) * seen.step;
      const float* d_o = d_o_ + r * w_.ld_v;
      const double share = seen.Share(r);
      const double z = c_.scale * share * DotRow(k_.a + r * w_.ld_d, seen.z + row * w_.ld_d, c_.D);
      const double do_y = c_.scale * share * DotRow(d_o, m.o + r * w_.ld_v, c_.Dv), sum = z + c_.norm_eps;
      const double do_mean = share * DotRow(d_o, seen.v + row * w_.ld_v, c_.Dv);
      w_.z[Index(g, r)] = float(z), w_.dz[Index(g, r)] = float(-do_y / (sum * sum) - do_mean);
    }
  }
  // m.o = gradients of y.
  void GradientsOfY(int64_t g, const Seen& seen) {
    for (size_t r = 0; r < t_.n; r++) {
      ScaleRow(FactorsOf(g, r, seen).dy, d_o_ + r * w_.ld_v, c_.Dv, k_.m.o + r * w_.ld_v);
    }
  }
  void StoreQueries(int64_t g, const Seen& seen) {
    const ChunkMemory& m = k_.m;
    TimesTransposed(t_.n, c_.D, c_.Dv, m.o, w_.ld_v, seen.before.p, w_.ld_v, m.kt, d_rows_, w_.ld_d);
    if (c_.causal) AddWithin(m, t_.n, m.o, m.v, c_.Dv, w_.ld_v, m.k, c_.D, w_.ld_d, d_rows_);
    for (size_t r = 0; r < t_.n; r++) {
      const float* z = seen.z + int64_t(r) * seen.step * w_.ld_d;
      StoreMapped(FactorsOf(g, r, seen).dz, z, k_.a, r, c_.dq, g);
    }
  }
  // The gradient of row r of q or k: d_rows_ rotated back, plus f * z, through the slope of the feature map.
  void StoreMapped(float f, const float* z, const float* mapped, size_t r, const Rows& to, int64_t h) {
    float* row = d_rows_ + r * w_.ld_d;
    k_.RotateBack(row, t_.at[r]);
    CombineRows(1.0f, row, f, z, c_.D, row);
    TimesSlope(mapped + r * w_.ld_d, c_.D, row);
    WithRow(to, batch_, h, t_.at[r], [&](auto* p) HWY_ATTR { kit::Narrow(row, c_.D, 1.0f, p); });
  }

  // Adds what the chunk's queries of head g send to the sums they saw.
  void Collect(int64_t g, const Seen& seen, const Slot& to) const {
    float dz[kMaxChunk], dmean[kMaxChunk];
    for (size_t r = 0; r < t_.n; r++) {
      const Factors f = FactorsOf(g, r, seen);
      dz[r] = f.dz, dmean[r] = f.dmean;
    }
    AddProducts(to);
    AddColumns(k_.a, w_.ld_d, t_.n, dz, c_.D, to.z);
    AddColumns(d_o_, w_.ld_v, t_.n, dmean, c_.Dv, to.v);
  }
  void AddProducts(const Slot& to) const {
    kit::ChunkProduct<Start::kKeep, Terms::kAll, Order::kColumns>(c_.D, c_.Dv, t_.n, k_.m.q, w_.ld_d, k_.m.o, w_.ld_v,
                                                                  0, to.p, w_.ld_v);
  }

  // d_rows_ = gradients of the chunk's rotated keys, d_values_ = of its values, as far as the slot tells.
  void KeyProducts(const Slot& from) {
    const ChunkMemory& m = k_.m;
    if (c_.dk) TimesTransposed(t_.n, c_.D, c_.Dv, m.v, w_.ld_v, from.p, w_.ld_v, m.kt, d_rows_, w_.ld_d);
    if (!c_.dv) return;
    kit::ChunkProduct<Start::kZero, Terms::kAll, Order::kRows>(t_.n, c_.Dv, c_.D, m.k, w_.ld_d, from.p, w_.ld_v, 0,
                                                               d_values_, w_.ld_v);
  }
  // z, v: what row r gets through the sums of keys and of values, r * step rows further.
  void StoreKeys(const float* z, const float* v, int64_t step) {
    for (size_t r = 0; r < t_.n; r++) {
      const int64_t row = int64_t(r) * step;
      if (c_.dk) StoreMapped(1.0f, z + row * w_.ld_d, k_.b, r, c_.dk, shared_);
      if (!c_.dv) continue;
      float* values = d_values_ + r * w_.ld_v;
      CombineRows(1.0f, values, 1.0f, v + row * w_.ld_v, c_.Dv, values);
      WithRow(c_.dv, batch_, shared_, t_.at[r], [&](auto* p) HWY_ATTR { kit::Narrow(values, c_.Dv, 1.0f, p); });
    }
  }
  void ClearPadded(Range range) const {
    for (int64_t j = range.begin; c_.key_mask && j < range.end; j++) {
      if (c_.Visible(batch_, j)) continue;
      const auto clear = [&](const Rows& rows, int64_t n) {
        WithRow(rows, batch_, shared_, j, [&](auto* p) { memset(static_cast<void*>(p), 0, n * sizeof *p); });
      };
      if (c_.dk) clear(c_.dk, c_.D);
      if (c_.dv) clear(c_.dv, c_.Dv);
    }
  }

  const attune_exec& x_;
  const Problem& c_;
  const Layout& w_;
  int64_t head_, batch_, shared_;  // kv head counted over the batch, batch entry, kv head
  Arena arena_;
  Chunk k_;
  Prefix prefix_;
  float *d_o_, *d_values_;  // [chunk x Dv]
  float* d_rows_;           // [chunk x D]
  Tokens t_;
};

#endif  // ATTUNE_ISA
}  // namespace HWY_NAMESPACE
}  // namespace mala
HWY_AFTER_NAMESPACE();
#endif  // toggled include guard
