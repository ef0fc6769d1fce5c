// Some query rows of one kv head: their softmax weights over all keys that they see, kept, and products with each row's
// matrix A = sum of p_j (k_j - kbar)(k_j - kbar)^T + ridge, which is never formed: two products with the keys serve all
// rows of the tile.
#if defined(ATTUNE_LLA_ROW_TILE_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef ATTUNE_LLA_ROW_TILE_INL_H_
#undef ATTUNE_LLA_ROW_TILE_INL_H_
#else
#define ATTUNE_LLA_ROW_TILE_INL_H_
#endif
#include <math.h>

#include "_kit/exp-inl.h"
#include "lla/keys-inl.h"

HWY_BEFORE_NAMESPACE();
namespace lla {
namespace HWY_NAMESPACE {
#if ATTUNE_ISA
using kit::KeyRange;
using kit::kPieceRows;
using kit::kPieceStride;

constexpr double kLog2E = 1.4426950408889634, kLn2 = 0.6931471805599453;

// Scratch of one worker for tiles of `rows` rows. [rows] arrays have rows of ld_k floats unless said otherwise.
struct TileMemory {
  size_t rows, ld_k, ld_v;
  float* p;                            // weights before normalisation: [piece][row][kPieceKeys]
  float *x, *ax, *kbar;                // operand and result of Apply, packed; mean keys
  float *b, *y, *r, *direction;        // of the linear systems
  float* inverse_diagonal;             // Jacobi
  float* o;                            // [rows, ld_v]
  float *sums;                         // [rows, kLanes] partial sums
  float *top, *inverse_omega, *ridge, *trace, *shift;  // one number per row
  float *piece;                        // kit::kPieceFloats
  float *centred, *factor;             // Cholesky: [kPieceKeys, ld_k], [D, ld_k]
  int32_t *visible, *which;            // keys that a row sees; list of rows

  static size_t Floats(const Problem& c, int64_t rows) {
    TileMemory m;
    return m.Take(c, rows, nullptr);
  }
  TileMemory() = default;
  TileMemory(const Problem& c, int64_t rows, float* at) { Take(c, rows, at); }

 private:
  size_t Take(const Problem& c, int64_t wanted, float* at) {
    size_t used = 0;
    const auto take = [&](size_t n) {
      float* f = at ? at + used : nullptr;
      used += (n + 15) / 16 * 16;
      return f;
    };
    rows = size_t(wanted), ld_k = PadTo32(c.D), ld_v = PadTo32(c.Dv);
    p = take(rows * size_t(WholePieces(c.Nk)));
    x = take(rows * ld_k), ax = take(rows * ld_k), kbar = take(rows * ld_k);
    b = take(rows * ld_k), y = take(rows * ld_k), r = take(rows * ld_k), direction = take(rows * ld_k);
    inverse_diagonal = take(c.precondition ? rows * ld_k : 0);
    o = take(rows * ld_v), sums = take(rows * kLanes);
    top = take(rows), inverse_omega = take(rows), ridge = take(rows), trace = take(rows), shift = take(rows);
    piece = take(kit::kPieceFloats);
    centred = take(kPieceKeys * ld_k), factor = take(size_t(c.D) * ld_k);
    visible = reinterpret_cast<int32_t*>(take(rows)), which = reinterpret_cast<int32_t*>(take(rows));
    return used;
  }
};

template <class Head>
class RowTile {
 public:
  using Keys = typename Head::Keys;

  // Rows [first, first + count) of the kv head: row = query * heads of the group + head of the group.
  RowTile(const Problem& c, const TileMemory& m, const HeadKeys& head, int64_t b, int64_t kv_head, int64_t first,
          size_t count)
      : c_(c), m_(m), head_(head), keys_(Head::OfKeys(c, head)), b_(b), kv_head_(kv_head), first_(first),
        count_(count) {
    for (size_t r = 0; r < count; r++) {
      m.visible[r] = int32_t(c.Visible(Query(r)));
      m.ridge[r] = float(c.Ridge(b, QueryHead(r), Query(r)));
    }
  }

  size_t Count() const { return count_; }
  int64_t Batch() const { return b_; }
  int64_t Query(size_t r) const { return (first_ + int64_t(r)) / c_.Group(); }
  int64_t QueryHead(size_t r) const { return kv_head_ * c_.Group() + (first_ + int64_t(r)) % c_.Group(); }

  // Scores, weights, mean keys; trace is that of the keys' covariance.
  HWY_NOINLINE void Weigh() {
    const hn::ScalableTag<float> d;
    const auto least = hn::Set(d, -INFINITY);
    for (size_t r = 0; r < count_; r++) {
      LoadRow(c_.q, c_.q.Offset(b_, QueryHead(r), Query(r)), c_.D, float(c_.scale * kLog2E), Row(m_.x, r));
      hn::StoreU(least, d, m_.sums + r * kLanes);
    }
    ForEachPiece(nullptr, count_, [&](int64_t first, size_t r, size_t n, const KeyRange* range) {
      keys_.Scores(int(n), Row(m_.x, r), m_.ld_k, first, 0, size_t(range[n - 1].end), Weights(first, r), kPieceKeys);
      for (size_t i = 0; i < n; i++) {
        const float* s = Weights(first, r + i);
        auto top = hn::LoadU(d, m_.sums + (r + i) * kLanes);
        ForEachVector(range[i].end, [&](size_t j) { top = hn::Max(top, hn::LoadU(d, s + j)); },
                      [&](size_t j, auto valid) {
                        top = hn::Max(top, hn::IfThenElse(valid, hn::LoadU(d, s + j), least));
                      });
        hn::StoreU(top, d, m_.sums + (r + i) * kLanes);
      }
    });
    for (size_t r = 0; r < count_; r++) {
      m_.top[r] = hn::GetLane(hn::MaxOfLanes(d, hn::LoadU(d, m_.sums + r * kLanes)));
    }
    memset(m_.sums, 0, sizeof(float) * count_ * kLanes);
    memset(m_.trace, 0, sizeof(float) * count_);
    memset(m_.kbar, 0, sizeof(float) * count_ * m_.ld_k);
    ForEachPiece(nullptr, count_, [&](int64_t first, size_t r, size_t n, const KeyRange* range) {
      for (size_t i = 0; i < n; i++) Exponentials(first, r + i, range[i].end);
      kit::AddRanges(keys_, first, n, range, Weights(first, r), kPieceKeys, Row(m_.kbar, r), m_.ld_k);
    });
    for (size_t r = 0; r < count_; r++) {
      const float omega = hn::GetLane(hn::SumOfLanes(d, hn::LoadU(d, m_.sums + r * kLanes)));
      m_.inverse_omega[r] = omega == 0 ? 0 : 1 / omega;
      kit::ScaleRow(Row(m_.kbar, r), m_.ld_k, m_.inverse_omega[r]);
      m_.trace[r] = m_.trace[r] * m_.inverse_omega[r] - Dot(Row(m_.kbar, r), Row(m_.kbar, r), m_.ld_k);
    }
  }

  // ln of the sum of exp(score) of row r; scores were formed with keys relative to the origin.
  double LogSumExp(size_t r) const {
    if (m_.visible[r] == 0) return -INFINITY;
    double dot = 0;
    for (int64_t e = 0; e < c_.D; e++) dot += c_.q.Get(b_, QueryHead(r), Query(r), e) * double(head_.origin[e]);
    return m_.top[r] * kLn2 - log(double(m_.inverse_omega[r])) + c_.scale * dot;
  }

  // b = q - kbar.
  void QueryFromMean(float* b) const {
    for (size_t r = 0; r < count_; r++) {
      LoadRow(c_.q, c_.q.Offset(b_, QueryHead(r), Query(r)), c_.D, 1, Row(b, r));
      if (m_.visible[r] == 0) continue;  // no key, no origin: kbar = 0
      AddScaled(Row(b, r), -1, head_.origin, m_.ld_k);
      AddScaled(Row(b, r), -1, Row(m_.kbar, r), m_.ld_k);
    }
  }

  // ax_i = A x_i for row which[i] of the tile, i < n; which ascends.
  HWY_NOINLINE void Apply(const int32_t* which, size_t count) {
    for (size_t i = 0; i < count; i++) m_.shift[i] = Dot(Row(m_.x, i), Row(m_.kbar, size_t(which[i])), m_.ld_k);
    CentredKeys(which, count, m_.ax, [&](int64_t first, size_t i, size_t n, size_t end) {
      keys_.Scores(int(n), Row(m_.x, i), m_.ld_k, first, 0, end, m_.piece, kPieceStride);
      return Numbers{m_.piece, kPieceStride};
    });
    for (size_t i = 0; i < count; i++) AddScaled(Row(m_.ax, i), m_.ridge[which[i]], Row(m_.x, i), m_.ld_k);
  }

  // Numbers of some rows for the keys of a piece.
  struct Numbers {
    const float* at;
    size_t ld;
  };
  // out_i = sum of p_j (x_ij - shift[i]) (k_j - kbar) for row which[i], i < count; null: for all rows.
  // x(first, i, n, end): x of n rows and keys first + [0, end).
  template <class F>
  HWY_INLINE void CentredKeys(const int32_t* which, size_t count, float* out, F x) {
    const hn::ScalableTag<float> d;
    const auto row = [&](size_t i) { return which ? size_t(which[i]) : i; };
    memset(m_.sums, 0, sizeof(float) * count * kLanes);
    memset(out, 0, sizeof(float) * count * m_.ld_k);
    ForEachPiece(which, count, [&](int64_t first, size_t i, size_t n, const KeyRange* range) {
      const Numbers from = x(first, i, n, size_t(range[n - 1].end));
      for (size_t e = 0; e < n; e++) {
        const float *p = Weights(first, row(i + e)), *numbers = from.at + e * from.ld;
        float* to = m_.piece + e * kPieceStride;
        const auto shift = hn::Set(d, m_.shift[i + e]);
        auto sum = hn::LoadU(d, m_.sums + (i + e) * kLanes);
        const auto take = [&](size_t j, auto t) {
          hn::StoreU(t, d, to + j);
          sum = hn::Add(sum, t);
        };
        const auto weigh = [&](size_t j) {
          return hn::Mul(hn::LoadU(d, p + j), hn::Sub(hn::LoadU(d, numbers + j), shift));
        };
        ForEachVector(range[e].end, [&](size_t j) { take(j, weigh(j)); },
                      [&](size_t j, auto valid) { take(j, hn::IfThenElseZero(valid, weigh(j))); });
        hn::StoreU(sum, d, m_.sums + (i + e) * kLanes);
      }
      kit::AddRanges(keys_, first, n, range, m_.piece, kPieceStride, Row(out, i), m_.ld_k);
    });
    for (size_t i = 0; i < count; i++) {  // the sum is 0 up to rounding, which kbar would magnify
      const float sum = hn::GetLane(hn::SumOfLanes(d, hn::LoadU(d, m_.sums + i * kLanes)));
      AddScaled(Row(out, i), -sum, Row(m_.kbar, row(i)), m_.ld_k);
      kit::ScaleRow(Row(out, i), m_.ld_k, m_.inverse_omega[row(i)]);
    }
  }

  // o = sum of p_j (1 + (k_j - kbar) . y) v_j.
  template <class Values>
  HWY_NOINLINE void Predict(const Values& values, const float* y) {
    const hn::ScalableTag<float> d;
    for (size_t r = 0; r < count_; r++) m_.shift[r] = 1 - Dot(Row(y, r), Row(m_.kbar, r), m_.ld_k);
    memset(m_.o, 0, sizeof(float) * count_ * m_.ld_v);
    ForEachPiece(nullptr, count_, [&](int64_t first, size_t r, size_t n, const KeyRange* range) {
      keys_.Scores(int(n), Row(y, r), m_.ld_k, first, 0, size_t(range[n - 1].end), m_.piece, kPieceStride);
      for (size_t i = 0; i < n; i++) {
        const float* p = Weights(first, r + i);
        float* s = m_.piece + i * kPieceStride;
        const auto shift = hn::Set(d, m_.shift[r + i]), scale = hn::Set(d, m_.inverse_omega[r + i]);
        for (size_t j = 0; j < size_t(range[i].end); j += kLanes) {  // what lies behind the end is not used
          const auto t = hn::Add(hn::LoadU(d, s + j), shift);
          hn::StoreU(hn::Mul(hn::Mul(hn::LoadU(d, p + j), scale), t), d, s + j);
        }
      }
      kit::AddRanges(values, first, n, range, m_.piece, kPieceStride, m_.o + r * m_.ld_v, m_.ld_v);
    });
  }

  // mean = sum of p_j k_j^2 by component, for Jacobi.
  HWY_NOINLINE void MeanSquares(float* mean) {
    memset(mean, 0, sizeof(float) * count_ * m_.ld_k);
    ForEachPiece(nullptr, count_, [&](int64_t first, size_t r, size_t n, const KeyRange* range) {
      for (size_t i = 0; i < n; i++) {
        const float* p = Weights(first, r + i);
        for (int32_t j = 0; j < range[i].end; j++) {
          const hn::ScalableTag<float> d;
          const float* k = head_.rows + size_t(first + j) * m_.ld_k;
          const auto w = hn::Set(d, p[j] * m_.inverse_omega[r + i]);
          float* to = Row(mean, r + i);
          for (size_t e = 0; e < m_.ld_k; e += kLanes) {
            const auto x = hn::LoadU(d, k + e);
            hn::StoreU(hn::MulAdd(hn::Mul(w, x), x, hn::LoadU(d, to + e)), d, to + e);
          }
        }
      }
    });
  }

  // f(first key, begin of the list, rows, what each sees) for every piece of keys and up to kPieceRows listed rows of
  // which one sees something; null lists all rows.
  template <class F>
  HWY_INLINE void ForEachPiece(const int32_t* which, size_t count, F f) const {
    if (count == 0) return;
    const auto visible = [&](size_t i) { return int64_t(m_.visible[which ? size_t(which[i]) : i]); };
    const int64_t seen = visible(count - 1);  // later rows see no less
    for (int64_t first = 0; first < seen; first += int64_t(kPieceKeys)) {
      for (size_t i = 0; i < count; i += kPieceRows) {
        const size_t n = count - i < kPieceRows ? count - i : kPieceRows;
        KeyRange range[kPieceRows];
        for (size_t e = 0; e < n; e++) {
          const int64_t end = visible(i + e) - first;
          range[e] = {0, end < 0 ? 0 : end < int64_t(kPieceKeys) ? int32_t(end) : int32_t(kPieceKeys)};
        }
        if (range[n - 1].end > 0) f(first, i, n, range);
      }
    }
  }

  // whole(j) for every whole vector of [0, end), partial(j, mask) for the rest.
  template <class Whole, class Partial>
  static HWY_INLINE void ForEachVector(int32_t end, Whole whole, Partial partial) {
    const hn::ScalableTag<float> d;
    const size_t n = size_t(end);
    size_t j = 0;
    for (; j + kLanes <= n; j += kLanes) whole(j);
    if (j < n) partial(j, hn::FirstN(d, n - j));
  }

  float* Weights(int64_t first, size_t r) const {
    return m_.p + size_t(first) * m_.rows + r * kPieceKeys;
  }
  template <class T>
  T* Row(T* rows, size_t r) const {
    return rows + r * m_.ld_k;
  }
  const Problem& Call() const { return c_; }
  const TileMemory& Memory() const { return m_; }
  const HeadKeys& Ready() const { return head_; }
  const Keys& KeysOf() const { return keys_; }

 private:
  // Scores of row r become weights; behind the last visible key they are 0 up to a whole vector.
  HWY_INLINE void Exponentials(int64_t first, size_t r, int32_t end) {
    const hn::ScalableTag<float> d;
    float* s = Weights(first, r);
    const float* norms = head_.norms + first;
    const auto top = hn::Set(d, m_.top[r]);
    auto sum = hn::LoadU(d, m_.sums + r * kLanes), trace = hn::Zero(d);
    const auto take = [&](size_t j, auto p, auto norm) {
      hn::StoreU(p, d, s + j);
      sum = hn::Add(sum, p);
      trace = hn::MulAdd(p, norm, trace);
    };
    const auto weight = [&](size_t j) { return kit::Exp2(d, hn::Sub(hn::LoadU(d, s + j), top)); };
    ForEachVector(end, [&](size_t j) { take(j, weight(j), hn::LoadU(d, norms + j)); },
                  [&](size_t j, auto valid) {
                    take(j, hn::IfThenElseZero(valid, weight(j)), hn::IfThenElseZero(valid, hn::LoadU(d, norms + j)));
                  });
    hn::StoreU(sum, d, m_.sums + r * kLanes);
    m_.trace[r] += hn::GetLane(hn::SumOfLanes(d, trace));
  }

  const Problem& c_;
  const TileMemory& m_;
  const HeadKeys& head_;
  const Keys keys_;
  int64_t b_, kv_head_, first_;
  size_t count_;
};

#endif  // ATTUNE_ISA
}  // namespace HWY_NAMESPACE
}  // namespace lla
HWY_AFTER_NAMESPACE();
#endif  // toggled include guard
