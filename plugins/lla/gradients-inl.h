// The two halves of the gradients: queries in tiles, keys in pieces. With g a row of `do`, gamma_j = g . v_j,
// t_j = (k_j - kbar) . y, u_j = (k_j - kbar) . h and h = A^-1 sum of p_j (gamma_j - gbar)(k_j - kbar):
//   e_j  = (1 + t_j)(gamma_j - u_j) - gbar t_j, the gradient of logit j is p_j (e_j - ebar)
//   dq   = h + scale sum of p_j (e_j - ebar) k_j,       dridge = -h . y
//   dk_j = sum of p_j ((gamma_j - gbar - u_j) y - (1 + t_j) h) + scale p_j (e_j - ebar) q
//   dv_j = sum of p_j (1 + t_j) g
#if defined(ATTUNE_LLA_GRADIENTS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef ATTUNE_LLA_GRADIENTS_INL_H_
#undef ATTUNE_LLA_GRADIENTS_INL_H_
#else
#define ATTUNE_LLA_GRADIENTS_INL_H_
#endif
#include "lla/solve-inl.h"

HWY_BEFORE_NAMESPACE();
namespace lla {
namespace HWY_NAMESPACE {
#if ATTUNE_ISA

// What the keys need of all query rows of one kv head.
struct QueryRows {
  size_t ld_k;
  float *y, *h;                                                     // rows of ld_k
  float *top, *inverse_omega, *y_kbar, *h_kbar, *gbar, *ebar, *hy;  // one number per row

  static size_t Floats(const Problem& c, int64_t rows) {
    return (size_t(rows) * (2 * PadTo32(c.D) + 7) + 15) / 16 * 16;
  }
  QueryRows(const Problem& c, int64_t rows, float* at) {
    const size_t n = size_t(rows);
    ld_k = PadTo32(c.D);
    y = at, h = y + n * ld_k;
    top = h + n * ld_k, inverse_omega = top + n, y_kbar = inverse_omega + n, h_kbar = y_kbar + n, gbar = h_kbar + n;
    ebar = gbar + n, hy = ebar + n;
  }
};

// Scratch of one worker for a tile of rows.
struct GradientMemory : TileMemory {
  float* gamma;             // as p; later e
  float *d_o, *b_h, *h;     // [rows, ld_v], [rows, ld_k] both
  float *second;            // kit::kPieceFloats

  static size_t Floats(const Problem& c, int64_t rows) {
    return TileMemory::Floats(c, rows) + kit::kPieceFloats +
           size_t(rows) * (size_t(WholePieces(c.Nk)) + PadTo32(c.Dv) + 2 * PadTo32(c.D));
  }
  GradientMemory(const Problem& c, int64_t wanted, float* at) : TileMemory(c, wanted, at) {
    at += TileMemory::Floats(c, wanted);
    gamma = at, d_o = gamma + rows * size_t(WholePieces(c.Nk)), b_h = d_o + rows * ld_v, h = b_h + rows * ld_k;
    second = h + rows * ld_k;
  }
};

class GradientTile {
 public:
  GradientTile(const Problem& c, const GradientMemory& m, const HeadKeys& keys, const QueryRows& out, int64_t b,
               int64_t kv_head, int64_t first, size_t count)
      : c_(c), m_(m), out_(out), values_(keys.value_panels, nullptr, size_t(c.Dv), 0, 0), first_(size_t(first)),
        tile_(c, m, keys, b, kv_head, first, count) {}

  void Run() {
    tile_.Weigh();
    Upstream();
    float *gbar = out_.gbar + first_, *ebar = out_.ebar + first_;
    Means(gbar);
    memcpy(m_.shift, gbar, sizeof(float) * tile_.Count());
    CentredKeys(m_.b_h);

    tile_.QueryFromMean(m_.b);
    const float* const right[] = {m_.b_h, m_.b};
    float* const solution[] = {m_.h, m_.y};
    Solver<RowTile<PackedHead>>(tile_).Solve(right, solution, c_.ridge_y ? 1 : 2);
    for (size_t r = 0; r < tile_.Count() && c_.ridge_y; r++) {
      LoadRow(c_.ridge_y, c_.ridge_y.Offset(tile_.Batch(), tile_.QueryHead(r), tile_.Query(r)), c_.D, 1,
              tile_.Row(m_.y, r));
    }
    Save();

    if (!c_.dq && !c_.dk) return;
    LogitGradients();
    Means(ebar);
    if (!c_.dq) return;
    memcpy(m_.shift, ebar, sizeof(float) * tile_.Count());
    CentredKeys(m_.x);
    for (size_t r = 0; r < tile_.Count(); r++) {
      ScaleAdd(tile_.Row(m_.x, r), float(c_.scale), tile_.Row(m_.h, r), m_.ld_k);
      StoreRow(tile_.Row(m_.x, r), c_.D, 1, c_.dq, c_.dq.Offset(tile_.Batch(), tile_.QueryHead(r), tile_.Query(r)));
    }
  }

 private:
  float* Gamma(int64_t first, size_t r) const { return m_.gamma + (tile_.Weights(first, r) - m_.p); }

  // gamma = do v^T.
  HWY_NOINLINE void Upstream() {
    for (size_t r = 0; r < tile_.Count(); r++) {
      LoadRow(c_.d_o, c_.d_o.Offset(tile_.Batch(), tile_.QueryHead(r), tile_.Query(r)), c_.Dv, 1, m_.d_o + r * m_.ld_v);
    }
    tile_.ForEachPiece(nullptr, tile_.Count(), [&](int64_t first, size_t r, size_t n, const KeyRange* range) {
      values_.Scores(int(n), m_.d_o + r * m_.ld_v, m_.ld_v, first, 0, size_t(range[n - 1].end), Gamma(first, r),
                     kPieceKeys);
    });
  }

  // mean[r] = sum of p_j gamma_j.
  HWY_NOINLINE void Means(float* mean) {
    const hn::ScalableTag<float> d;
    memset(m_.sums, 0, sizeof(float) * tile_.Count() * kLanes);
    tile_.ForEachPiece(nullptr, tile_.Count(), [&](int64_t first, size_t r, size_t n, const KeyRange* range) {
      for (size_t i = 0; i < n; i++) {
        const float *p = tile_.Weights(first, r + i), *x = Gamma(first, r + i);
        auto sum = hn::LoadU(d, m_.sums + (r + i) * kLanes);
        const auto term = [&](size_t j) { return hn::Mul(hn::LoadU(d, p + j), hn::LoadU(d, x + j)); };
        tile_.ForEachVector(range[i].end, [&](size_t j) { sum = hn::Add(sum, term(j)); },
                            [&](size_t j, auto valid) { sum = hn::Add(sum, hn::IfThenElseZero(valid, term(j))); });
        hn::StoreU(sum, d, m_.sums + (r + i) * kLanes);
      }
    });
    for (size_t r = 0; r < tile_.Count(); r++) {
      mean[r] = m_.inverse_omega[r] * hn::GetLane(hn::SumOfLanes(d, hn::LoadU(d, m_.sums + r * kLanes)));
    }
  }

  // out = sum of p_j (gamma_j - shift) (k_j - kbar).
  HWY_NOINLINE void CentredKeys(float* out) {
    tile_.CentredKeys(nullptr, tile_.Count(), out, [&](int64_t first, size_t r, size_t, size_t) {
      return RowTile<PackedHead>::Numbers{Gamma(first, r), kPieceKeys};
    });
  }

  // gamma becomes e.
  HWY_NOINLINE void LogitGradients() {
    const hn::ScalableTag<float> d;
    const auto one = hn::Set(d, 1.0f);
    tile_.ForEachPiece(nullptr, tile_.Count(), [&](int64_t first, size_t r, size_t n, const KeyRange* range) {
      const size_t end = size_t(range[n - 1].end);
      tile_.KeysOf().Scores(int(n), tile_.Row(m_.y, r), m_.ld_k, first, 0, end, m_.piece, kPieceStride);
      tile_.KeysOf().Scores(int(n), tile_.Row(m_.h, r), m_.ld_k, first, 0, end, m_.second, kPieceStride);
      for (size_t i = 0; i < n; i++) {
        const size_t row = first_ + r + i;
        const auto y_kbar = hn::Set(d, out_.y_kbar[row]), h_kbar = hn::Set(d, out_.h_kbar[row]);
        const auto gbar = hn::Set(d, out_.gbar[row]);
        float* e = Gamma(first, r + i);
        const float *ky = m_.piece + i * kPieceStride, *kh = m_.second + i * kPieceStride;
        for (size_t j = 0; j < size_t(range[i].end); j += kLanes) {  // what lies behind the end is not used
          const auto t = hn::Sub(hn::LoadU(d, ky + j), y_kbar), u = hn::Sub(hn::LoadU(d, kh + j), h_kbar);
          const auto tilted = hn::Mul(hn::Add(one, t), hn::Sub(hn::LoadU(d, e + j), u));
          hn::StoreU(hn::NegMulAdd(gbar, t, tilted), d, e + j);
        }
      }
    });
  }

  void Save() const {
    for (size_t r = 0; r < tile_.Count(); r++) {
      const size_t row = first_ + r;
      const float *y = tile_.Row(m_.y, r), *h = tile_.Row(m_.h, r), *kbar = tile_.Row(m_.kbar, r);
      memcpy(out_.y + row * out_.ld_k, y, sizeof(float) * m_.ld_k);
      memcpy(out_.h + row * out_.ld_k, h, sizeof(float) * m_.ld_k);
      out_.top[row] = m_.top[r], out_.inverse_omega[row] = m_.inverse_omega[r];
      out_.y_kbar[row] = Dot(y, kbar, m_.ld_k), out_.h_kbar[row] = Dot(h, kbar, m_.ld_k);
      out_.hy[row] = Dot(h, y, m_.ld_k), out_.ebar[row] = 0;
    }
  }

  const Problem& c_;
  const GradientMemory& m_;
  const QueryRows& out_;
  const kit::PackedKeys values_;
  size_t first_;
  RowTile<PackedHead> tile_;
};

// Scratch of one worker for a piece of keys.
struct PieceMemory {
  size_t ld_k, ld_v;
  float *q, *d_o;                 // rows of a block
  float *s, *t, *u, *gamma;       // kit::kPieceFloats each
  float *dk, *dv;                 // [kPieceKeys, ld_k], [kPieceKeys, ld_v]

  static size_t Floats(const Problem& c) {
    return (kPieceRows + kPieceKeys) * (PadTo32(c.D) + PadTo32(c.Dv)) + 4 * kit::kPieceFloats;
  }
  PieceMemory(const Problem& c, float* at) : ld_k(PadTo32(c.D)), ld_v(PadTo32(c.Dv)) {
    q = at, d_o = q + kPieceRows * ld_k, s = d_o + kPieceRows * ld_v, t = s + kit::kPieceFloats;
    u = t + kit::kPieceFloats, gamma = u + kit::kPieceFloats, dk = gamma + kit::kPieceFloats;
    dv = dk + kPieceKeys * ld_k;
  }
};

class KeyPiece {
 public:
  KeyPiece(const Problem& c, const PieceMemory& m, const HeadKeys& keys, const QueryRows& rows, int64_t b,
           int64_t kv_head, int64_t first)
      : c_(c), m_(m), rows_(rows), keys_(keys.panels, nullptr, size_t(c.D), 0, 0),
        values_(keys.value_panels, nullptr, size_t(c.Dv), 0, 0), b_(b), kv_head_(kv_head), first_(first),
        count_(size_t(c.Nk - first < int64_t(kPieceKeys) ? c.Nk - first : int64_t(kPieceKeys))) {}

  void Run() {
    memset(m_.dk, 0, sizeof(float) * kPieceKeys * m_.ld_k);
    memset(m_.dv, 0, sizeof(float) * kPieceKeys * m_.ld_v);
    const int64_t group = c_.Group(), all = c_.Nq * group;
    int64_t row = c_.causal && first_ > c_.Nk - c_.Nq ? (first_ - (c_.Nk - c_.Nq)) * group : 0;
    for (; row < all; row += int64_t(kPieceRows)) {
      const size_t n = all - row < int64_t(kPieceRows) ? size_t(all - row) : kPieceRows;
      Load(row, n);
      Coefficients(size_t(row), n);
      const float *y = rows_.y + size_t(row) * m_.ld_k, *h = rows_.h + size_t(row) * m_.ld_k;
      if (c_.dk) {
        AddSeen(n, m_.u, y, m_.ld_k, c_.D, m_.dk);
        AddSeen(n, m_.t, h, m_.ld_k, c_.D, m_.dk);
        AddSeen(n, m_.s, m_.q, m_.ld_k, c_.D, m_.dk);
      }
      if (c_.dv) AddSeen(n, m_.t, m_.d_o, m_.ld_v, c_.Dv, m_.dv);
    }
    for (size_t j = 0; j < count_; j++) {
      const int64_t key = first_ + int64_t(j);
      if (c_.dk) StoreRow(m_.dk + j * m_.ld_k, c_.D, 1, c_.dk, c_.dk.Offset(b_, kv_head_, key));
      if (c_.dv) StoreRow(m_.dv + j * m_.ld_v, c_.Dv, -1, c_.dv, c_.dv.Offset(b_, kv_head_, key));
    }
  }

 private:
  // Query rows as operands, and what each sees of the piece.
  void Load(int64_t row, size_t n) {
    const int64_t group = c_.Group();
    for (size_t r = 0; r < n; r++) {
      const int64_t i = (row + int64_t(r)) / group, head = kv_head_ * group + (row + int64_t(r)) % group;
      LoadRow(c_.q, c_.q.Offset(b_, head, i), c_.D, float(c_.scale * kLog2E), m_.q + r * m_.ld_k);
      LoadRow(c_.d_o, c_.d_o.Offset(b_, head, i), c_.Dv, 1, m_.d_o + r * m_.ld_v);
      const int64_t end = c_.Visible(i) - first_;
      end_[r] = end < 0 ? 0 : end < int64_t(count_) ? size_t(end) : count_;
    }
  }

  // Factors of y, h (negated; of g too) and q in the sums: u, t, s.
  HWY_NOINLINE void Coefficients(size_t row, size_t n) {
    const hn::ScalableTag<float> d;
    const size_t end = end_[n - 1];
    keys_.Scores(int(n), m_.q, m_.ld_k, first_, 0, end, m_.s, kPieceStride);
    keys_.Scores(int(n), rows_.y + row * m_.ld_k, m_.ld_k, first_, 0, end, m_.t, kPieceStride);
    keys_.Scores(int(n), rows_.h + row * m_.ld_k, m_.ld_k, first_, 0, end, m_.u, kPieceStride);
    values_.Scores(int(n), m_.d_o, m_.ld_v, first_, 0, end, m_.gamma, kPieceStride);
    const auto ln2 = hn::Set(d, float(kLn2)), one = hn::Set(d, 1.0f);  // q carries scale and the unit of the scores
    for (size_t r = 0; r < n; r++) {
      const size_t i = row + r;
      const auto top = hn::Set(d, rows_.top[i]), inverse_omega = hn::Set(d, rows_.inverse_omega[i]);
      const auto y_kbar = hn::Set(d, rows_.y_kbar[i]), h_kbar = hn::Set(d, rows_.h_kbar[i]);
      const auto gbar = hn::Set(d, rows_.gbar[i]), ebar = hn::Set(d, rows_.ebar[i]);
      for (size_t j = r * kPieceStride; j < r * kPieceStride + end_[r]; j += kLanes) {
        const auto p = hn::Mul(kit::Exp2(d, hn::Sub(hn::LoadU(d, m_.s + j), top)), inverse_omega);
        const auto t = hn::Sub(hn::LoadU(d, m_.t + j), y_kbar);
        const auto rest = hn::Sub(hn::LoadU(d, m_.gamma + j), hn::Sub(hn::LoadU(d, m_.u + j), h_kbar));
        const auto tilt = hn::Add(one, t), e = hn::NegMulAdd(gbar, t, hn::Mul(tilt, rest));
        hn::StoreU(hn::Mul(p, hn::Sub(rest, gbar)), d, m_.u + j);
        hn::StoreU(hn::Neg(hn::Mul(p, tilt)), d, m_.t + j);
        hn::StoreU(hn::Mul(hn::Mul(p, ln2), hn::Sub(e, ebar)), d, m_.s + j);
      }
    }
  }

  // out_j += sum of a_rj * x_r over the rows r that see key j.
  HWY_NOINLINE void AddSeen(size_t n, const float* a, const float* x, size_t ld, int64_t width, float* out) {
    size_t from = 0;  // the first row that sees all keys of a group
    const auto add = [&](size_t begin, size_t end, size_t key, size_t keys) {
      if (begin == end) return;
      AddTransposed(keys, size_t(width), end - begin, a + begin * kPieceStride + key, kPieceStride, x + begin * ld, ld,
                    out + key * ld, ld);
    };
    for (size_t key = 0; key < count_; key += size_t(kit::kTileRows)) {
      const size_t keys = count_ - key < size_t(kit::kTileRows) ? count_ - key : size_t(kit::kTileRows);
      while (from < n && end_[from] < key + keys) from++;
      add(from, n, key, keys);
      for (size_t j = key; j < key + keys; j++) {
        size_t begin = from;
        while (begin > 0 && end_[begin - 1] > j) begin--;
        add(begin, from, j, 1);
      }
    }
  }

  const Problem& c_;
  const PieceMemory& m_;
  const QueryRows& rows_;
  const kit::PackedKeys keys_, values_;
  int64_t b_, kv_head_, first_;
  size_t count_, end_[kPieceRows];
};

#endif  // ATTUNE_ISA
}  // namespace HWY_NAMESPACE
}  // namespace lla
HWY_AFTER_NAMESPACE();
#endif  // toggled include guard
