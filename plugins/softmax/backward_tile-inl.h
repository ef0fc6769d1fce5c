// One tile of queries against one tile of keys: scores, weights P and their gradients dS, from operands in f32. The
// phases of the backward pass differ in what they do with a tile.
#if defined(ATTUNE_SOFTMAX_BACKWARD_TILE_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef ATTUNE_SOFTMAX_BACKWARD_TILE_INL_H_
#undef ATTUNE_SOFTMAX_BACKWARD_TILE_INL_H_
#else
#define ATTUNE_SOFTMAX_BACKWARD_TILE_INL_H_
#endif
#include <math.h>
#include <string.h>

#include "_kit/online_softmax-inl.h"
#include "_kit/dot-inl.h"
#include "_kit/ranged_products-inl.h"
#include "_kit/rows-inl.h"
#include "softmax/backward.h"
#include "softmax/scores-inl.h"
#include "softmax/visible.h"

HWY_BEFORE_NAMESPACE();
namespace softmax {
namespace HWY_NAMESPACE {
#if ATTUNE_ISA
constexpr double kLn2 = 0.6931471805599453;

using kit::DotRow;
using kit::kPanel;
using kit::kTileRows;
using kit::LoadRow;
using kit::PadTo32;
using kit::Range;
using kit::StoreRow;

class ScoreTile {
 public:
  // Floats of one worker's slice of the workspace. The expression in plugin.cpp reserves exactly this.
  static size_t Floats(const attune_exec& x, const Problem& c) {
    const size_t queries = x.knobs[kBwdQueryRows], keys = x.knobs[kBwdKeyRows], d = PadTo32(c.D), e = PadTo32(c.Dv);
    return (queries + 2 * keys) * (d + e + 32) + keys * (d + e) + 4 * queries * (keys + 16);
  }

  // `memory`: Floats() floats, aligned to 64 bytes.
  ScoreTile(const attune_exec& x, const Problem& c, const Gradients& g, float* memory)
      : ld_q(PadTo32(c.D) + 16),
        ld_v(PadTo32(c.Dv) + 16),
        ld_s(x.knobs[kBwdKeyRows] + 16),
        c_(c),
        g_(g),
        query_rows_(x.knobs[kBwdQueryRows]),
        key_rows_(x.knobs[kBwdKeyRows]),
        plain_(!c.sigmoid && c.softcap == 0 && !c.slopes && !c.bias && !c.mask) {
    const auto take = [&](size_t n) {
      float* p = memory;
      memory += n;
      return p;
    };
    q = take(query_rows_ * ld_q), d_o = take(query_rows_ * ld_v);
    k = take(key_rows_ * ld_q), v_ = take(key_rows_ * ld_v);
    dk = take(key_rows_ * ld_q), dv = take(key_rows_ * ld_v);
    k_panels_ = take(key_rows_ * PadTo32(c.D)), v_panels_ = take(key_rows_ * PadTo32(c.Dv));
    p = take(query_rows_ * ld_s), ds = take(query_rows_ * ld_s), sum = take(query_rows_ * ld_s);
    raw_ = take(query_rows_ * ld_s);
  }

  // Without anything between q.k and the softmax, scores are in units of log 2.
  double ScoreUnit() const { return plain_ ? kLn2 : 1; }

  // Packs keys [first, first + key rows) of one kv head. Rows that the sequence hides are not read.
  void LoadKeys(const Sequence& s, int64_t head, int64_t first, bool values) {
    first_key_ = first;
    const int64_t end = (c_.cu_k ? s.key_end : c_.Nk) - first;
    keys = end < int64_t(key_rows_) ? size_t(end) : key_rows_;
    const size_t whole = (keys + kPanel - 1) / kPanel * kPanel;
    const auto load = [&](const KeyRows& from, size_t width, size_t ld, float* rows, float* panels) {
      for (size_t j = 0; j < whole; j++) {
        const int64_t key = first + int64_t(j);
        if (key < s.key_start || key >= s.key_end) {
          memset(rows + j * ld, 0, sizeof(float) * (ld - 16));
          continue;
        }
        const RowRef row = c_.KeyAt(from, s, head, key);
        LoadRow(*row.view, row.offset, width, 1, rows + j * ld);
      }
      for (size_t j = 0; j < whole; j += kPanel, panels += kPanel * width) {
        const float* pointers[kPanel];
        for (size_t r = 0; r < kPanel; r++) pointers[r] = rows + (j + r) * ld;
        kit::TransposeToPanel(pointers, width, panels);
      }
    };
    load(c_.k, c_.D, ld_q, k, k_panels_);
    if (values) load(c_.v, c_.Dv, ld_v, v_, v_panels_);
  }

  // Loads queries [first, first + query rows) of head h, and do where wanted; finds what they see of the tile of keys.
  // False when that is nothing: then only the ranges are set.
  bool LoadQueries(const Sequence& s, int64_t h, int64_t first, bool upstream) {
    s_ = &s, head_ = h, first_query_ = first;
    queries = s.nq - first < int64_t(query_rows_) ? size_t(s.nq - first) : query_rows_;
    if (!FindRanges()) return false;
    for (size_t r = 0; r < queries; r++) {
      const int64_t i = first + int64_t(r);
      LoadRow(c_.q.view, c_.QueryAt(c_.q, s, h, i), c_.D, float(c_.scale / ScoreUnit()), q + r * ld_q);
      if (!upstream) continue;
      if (g_.d_o.view) {
        LoadRow(g_.d_o.view, c_.QueryAt(g_.d_o, s, h, i), c_.Dv, 1, d_o + r * ld_v);
      } else {
        memset(d_o + r * ld_v, 0, sizeof(float) * (ld_v - 16));
      }
    }
    return true;
  }

  // p = scores, before weights. With `upstream` also ds = do.v, the gradient of the weights.
  void Products(bool upstream) {
    Product(q, ld_q, k_panels_, c_.D, p);
    if (upstream) Product(d_o, ld_v, v_panels_, c_.Dv, ds);
  }

  // Scores of row r become weights that sum to no more than 1, as a new piece of a softmax with state m, sum[kLanes].
  // Returns the factor for what was accumulated.
  float OnlineWeights(size_t r, float* m, float* sums) {
    float* row = p + r * ld_s;
    const Range v = rows[r];
    if (v.end <= v.begin) return 1;
    if (plain_) return kit::OnlineSoftmax<true>(row, v.begin, v.end, m, sums);
    Modify(r);
    return kit::OnlineSoftmax<false>(row, v.begin, v.end, m, sums);
  }

  // Scores of row r become weights exp(s - lse), or those of sigmoid attention.
  void FinalWeights(size_t r, float lse) {
    const hn::ScalableTag<float> d;
    float* row = p + r * ld_s;
    const Range v = rows[r];
    if (v.end <= v.begin) return;
    if (!plain_) Modify(r);
    if (c_.sigmoid) {
      const auto bias = hn::Set(d, float(c_.sigmoid_bias));
      for (int j = v.begin; j < v.end; j += kLanes) {
        hn::StoreU(kit::Logistic(d, hn::Add(hn::LoadU(d, row + j), bias)), d, row + j);
      }
      return;
    }
    if (lse == -INFINITY) {  // nothing was visible: never exp(-inf - -inf)
      memset(row + v.begin, 0, sizeof(float) * (v.end - v.begin));
      return;
    }
    const auto shift = hn::Set(d, plain_ ? float(lse / kLn2) : lse);
    for (int j = v.begin; j < v.end; j += kLanes) {
      const auto s = hn::Sub(hn::LoadU(d, row + j), shift);
      hn::StoreU(plain_ ? kit::Exp2(d, s) : kit::Exp(d, s), d, row + j);
    }
  }

  // ds of row r becomes the gradient of its scores after softcap, ALiBi and bias.
  void ScoreGradients(size_t r, float delta) {
    const hn::ScalableTag<float> d;
    const float* weights = p + r * ld_s;
    float* row = ds + r * ld_s;
    const auto one = hn::Set(d, 1.0f), shift = hn::Set(d, delta);
    for (int j = rows[r].begin; j < rows[r].end; j += kLanes) {
      const auto w = hn::LoadU(d, weights + j), dp = hn::LoadU(d, row + j);
      const auto gradient = c_.sigmoid ? hn::Mul(hn::Mul(w, hn::Sub(one, w)), dp) : hn::Mul(w, hn::Sub(dp, shift));
      hn::StoreU(gradient, d, row + j);
    }
  }

  // sum of ds * |position - key| over row r.
  double DistanceSum(size_t r) const {
    const hn::ScalableTag<float> d;
    const Range v = rows[r];
    const double first = double(s_->q_offset) + double(first_query_ + int64_t(r)) - double(first_key_ + v.begin);
    auto away = hn::Sub(hn::Set(d, float(first)), hn::Iota(d, 0.0f)), total = hn::Zero(d);
    for (int j = v.begin; j < v.end; j += kLanes) {
      const auto term = hn::Mul(hn::LoadU(d, ds + r * ld_s + j), hn::Abs(away));
      total = hn::Add(total, hn::IfThenElseZero(hn::FirstN(d, v.end - j), term));
      away = hn::Sub(away, hn::Set(d, float(kLanes)));
    }
    return hn::GetLane(hn::SumOfLanes(d, total));
  }

  // ds of row r becomes the gradient of q.k * scale: the derivative of softcap.
  void ThroughSoftcap(size_t r) {
    const hn::ScalableTag<float> d;
    const Range v = rows[r];
    if (c_.softcap == 0 || v.end <= v.begin) return;
    const auto inverse = hn::Set(d, float(1 / c_.softcap)), one = hn::Set(d, 1.0f);
    float* row = ds + r * ld_s;
    for (int j = v.begin; j < v.end; j += kLanes) {
      const auto t = kit::Tanh(d, hn::Mul(hn::LoadU(d, raw_ + r * ld_s + j), inverse));
      hn::StoreU(hn::Mul(hn::LoadU(d, row + j), hn::NegMulAdd(t, t, one)), d, row + j);
    }
  }

  // sums[j] += ds of row r.
  void AddGradients(size_t r, float* sums) const {
    const hn::ScalableTag<float> d;
    const Range v = rows[r];
    for (int j = v.begin; j < v.end; j += kLanes) {
      const auto term = hn::IfThenElseZero(hn::FirstN(d, v.end - j), hn::LoadU(d, ds + r * ld_s + j));
      hn::StoreU(hn::Add(hn::LoadU(d, sums + j), term), d, sums + j);
    }
  }

  // For every key of the tile, the rows that see it: the transpose of `rows`.
  void FindColumns() {
    size_t begin = 0, end = 0;  // both ends of a row's range never fall from one row to the next
    for (size_t j = 0; j < keys; j++) {
      while (begin < queries && rows[begin].end <= int(j)) begin++;
      while (end < queries && rows[end].begin <= int(j)) end++;
      columns[j] = {int(begin), int(end)};
    }
  }

  size_t ld_q, ld_v, ld_s;           // row lengths in floats
  float *q, *d_o;                    // rows of the tile of queries; q times scale / ScoreUnit()
  float* k;                          // rows of the tile of keys
  float *dk, *dv;                    // sums of the tile of keys
  float *p, *ds, *sum;               // weights, their gradients and free room: one row per query
  size_t queries = 0, keys = 0;      // rows of the current tiles
  Range rows[kMaxTile], columns[kMaxTile];  // what a query sees of the keys, and a key of the queries

 private:
  // rows[]; false when no query sees a key of the tile.
  bool FindRanges() {
    const int64_t last = int64_t(keys);
    bool any = false;
    for (size_t r = 0; r < queries; r++) {
      const Interval v = VisibleKeys(c_, *s_, first_query_ + int64_t(r));
      const auto clamp = [&](int64_t key) {
        return key <= first_key_ ? 0 : key - first_key_ < last ? int(key - first_key_) : int(last);
      };
      rows[r] = {clamp(v.begin), clamp(v.end)};
      any |= rows[r].end > rows[r].begin;
    }
    return any;
  }

  // out[queries x keys] = rows times panels, for the tiles that any of their rows sees.
  void Product(const float* a, size_t lda, const float* panels, size_t depth, float* out) {
    for (size_t j = 0; j < keys; j += kPanel) {
      for (size_t r = 0; r < queries; r += kTileRows) {
        const int n = queries - r < kTileRows ? int(queries - r) : kTileRows;
        bool seen = false;
        for (int i = 0; i < n; i++) seen |= rows[r + i].begin < int(j + kPanel) && rows[r + i].end > int(j);
        if (!seen) continue;
        kit::TileRows<2, false>(n, depth, a + r * lda, lda, panels + j * depth, kPanel, out + r * ld_s + j, ld_s);
      }
    }
  }

  // What happens to the scores of row r between q.k and the softmax.
  void Modify(size_t r) {
    const Range v = rows[r];
    float* row = p + r * ld_s;
    if (c_.softcap > 0) memcpy(raw_ + r * ld_s + v.begin, row + v.begin, sizeof(float) * (v.end - v.begin));
    ModifyScores(c_, *s_, head_, first_query_ + int64_t(r), first_key_ + v.begin, row + v.begin, v.end - v.begin);
  }

  const Problem& c_;
  const Gradients& g_;
  const Sequence* s_ = nullptr;
  int64_t head_ = 0, first_query_ = 0, first_key_ = 0;
  size_t query_rows_, key_rows_;
  bool plain_;
  float *v_, *k_panels_, *v_panels_, *raw_;
};

#endif  // ATTUNE_ISA
}  // namespace HWY_NAMESPACE
}  // namespace softmax
HWY_AFTER_NAMESPACE();
#endif  // toggled include guard
