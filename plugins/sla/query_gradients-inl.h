// What the query rows of one (batch, kv head) need and give: softmax statistics, dq, and their part of the sums behind
// the gradients of keys and of the projection.
#if defined(ATTUNE_SLA_QUERY_GRADIENTS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef ATTUNE_SLA_QUERY_GRADIENTS_INL_H_
#undef ATTUNE_SLA_QUERY_GRADIENTS_INL_H_
#else
#define ATTUNE_SLA_QUERY_GRADIENTS_INL_H_
#endif
#include <math.h>

#include "_kit/dot-inl.h"
#include "_kit/online_softmax-inl.h"
#include "sla/linear_rows-inl.h"
#include "sla/pieces-inl.h"

HWY_BEFORE_NAMESPACE();
namespace sla {
namespace HWY_NAMESPACE {
#if ATTUNE_ISA
using kit::Order;
using kit::Start;
using kit::Terms;

constexpr double kLog2E = 1.4426950408889634, kLn2 = 0.6931471805599453;
constexpr size_t kBlockRows = 32;  // query rows whose scores are kept at a time

// Query rows of the group, head by head: row = head of the group * Nq + query.
struct QueryRows {
  float *q, *d_o;      // q is scaled to units of log2
  float *m, *inverse;  // of the softmax: p = 2^(s - m) * inverse
  float* delta;        // <do, o_s>
};

// Gradients of the projection, gathered over a run of query blocks.
struct RunSums {
  float *dw, *db;  // [Dv x ld_o], [ld_o]
};

// Rows of at most kBlockRows queries of one block. Lengths of rows as in working memory.
class QueryGradients {
 public:
  struct Memory {
    float *s, *dp, *dq, *x, *mapped, *o_l, *d_ol, *d_mapped, *denominator, *f, *own_sums;
    int32_t* list;
  };
  // Columns of scores of a row: all critical blocks.
  static size_t Columns(const Problem& c) { return size_t(c.n_critical * PiecesPerBlock(c)) * kPieceKeys + 16; }
  static Memory Take(const Problem& c, bool linear, Offsets* at, float* base) {
    const size_t ld_q = PadTo32(c.D), ld_o = PadTo32(c.Dv), n = kBlockRows;
    const auto take = [&](size_t floats) { return base + at->Take(floats); };
    Memory m = {};
    m.s = take(n * Columns(c)), m.dp = take(n * Columns(c)), m.dq = take(n * ld_q);
    m.list = reinterpret_cast<int32_t*>(take(size_t(c.Nb > c.Group() * c.Mb ? c.Nb : c.Group() * c.Mb)));
    if (!linear) return m;
    m.x = take(n * ld_q), m.mapped = take(n * ld_q), m.d_mapped = take(n * ld_q);
    m.o_l = take(n * ld_o), m.d_ol = take(n * ld_o);
    m.denominator = take(n), m.f = take(n);
    m.own_sums = take(c.scope == kAll ? 0 : UnitSums::Floats(size_t(c.D), size_t(c.Dv)));
    return m;
  }

  QueryGradients(const Problem& c, const Memory& w, const HeadMemory& keys, const QueryRows& rows, const Chosen& chosen)
      : c_(c),
        w_(w),
        keys_(keys),
        rows_(rows),
        chosen_(chosen),
        ld_q_(PadTo32(c.D)),
        ld_o_(PadTo32(c.Dv)),
        ld_s_(Columns(c)) {}

  // Rows [at, at + n) of the group: loads them, fills m, inverse, delta; w.dq = the sparse branch's dq.
  HWY_NOINLINE void Sparse(int64_t b, int64_t h, int64_t first, size_t at, size_t n) {
    float *q = rows_.q + at * ld_q_, *d_o = rows_.d_o + at * ld_o_;
    LoadRows(c_.q, b, h, first, int64_t(n), size_t(c_.D), float(c_.scale * kLog2E), q, ld_q_);
    LoadRows(c_.d_o, b, h, first, int64_t(n), size_t(c_.Dv), 1, d_o, ld_o_);
    const size_t columns = ForEachColumn([&](const Piece& p, size_t column) {
      float *s = w_.s + column, *dp = w_.dp + column;
      PieceScores(p, n, size_t(c_.D), q, ld_q_, keys_.k_panels, s, ld_s_, NothingAhead());
      PieceScores(p, n, size_t(c_.Dv), d_o, ld_o_, keys_.v_panels, dp, ld_s_, NothingAhead());
      for (size_t r = 0; r < n; r++) Hide(p, s + r * ld_s_, dp + r * ld_s_);
    });
    for (size_t r = 0; r < n; r++) Softmax(at + r, columns, w_.s + r * ld_s_, w_.dp + r * ld_s_);
    memset(w_.dq, 0, sizeof(float) * n * ld_q_);
    if (!c_.dq) return;
    ForEachColumn([&](const Piece& p, size_t column) {
      AddPieceRows(p, n, w_.dp + column, ld_s_, keys_.k_rows, ld_q_, size_t(c_.D), w_.dq, ld_q_, NothingAhead());
    });
  }

  // The linear branch of the same rows: adds to w.dq, to dh (sums over queries) and to the run.
  HWY_NOINLINE void Linear(LinearSums* sums, const float* w_proj, const UnitSums& dh, float* unit, const RunSums& run,
                           int64_t b, int64_t h, int64_t first, size_t at, size_t n) {
    const size_t D = size_t(c_.D), Dv = size_t(c_.Dv);
    const float* d_o = rows_.d_o + at * ld_o_;
    LoadRows(c_.q, b, h, first, int64_t(n), D, 1, w_.x, ld_q_);
    for (size_t r = 0; r < n; r++) MapRow(c_.map, w_.x + r * ld_q_, D, w_.mapped + r * ld_q_);
    sums->Denominators(w_.mapped, ld_q_, int64_t(n), w_.denominator);
    if (sums->Empty()) return;
    const float* h_sum = sums->Sums();
    kit::ChunkProduct<Start::kZero, Terms::kAll, Order::kRows>(n, Dv, D, w_.mapped, ld_q_, h_sum, ld_o_, 0, w_.o_l,
                                                               ld_o_);
    kit::ChunkProduct<Start::kZero, Terms::kAll, Order::kRows>(n, Dv, Dv, d_o, ld_o_, w_proj, ld_o_, 0, w_.d_ol, ld_o_);
    for (size_t r = 0; r < n; r++) {
      float *o_l = w_.o_l + r * ld_o_, *e = w_.d_ol + r * ld_o_;
      w_.f[r] = 0;
      if (w_.denominator[r] == 0) {
        memset(o_l, 0, sizeof(float) * ld_o_);
        memset(e, 0, sizeof(float) * ld_o_);
        continue;
      }
      const float inverse = 1 / w_.denominator[r];
      kit::ScaleRow(o_l, Whole(Dv), inverse), kit::ScaleRow(e, Whole(Dv), inverse);
      w_.f[r] = -DotRow(e, o_l, Dv);
    }
    kit::ChunkProduct<Start::kKeep, Terms::kAll, Order::kColumns>(Dv, Dv, n, d_o, ld_o_, w_.o_l, ld_o_, 0, run.dw,
                                                                  ld_o_);
    AddRows(dh, n, w_.mapped, ld_q_, w_.d_ol, ld_o_, w_.f, unit);
    if (!c_.dq) return;
    memset(w_.d_mapped, 0, sizeof(float) * n * ld_q_);
    kit::Dots(int(n), D, Dv, w_.d_ol, ld_o_, h_sum, ld_o_, w_.d_mapped, ld_q_);
    for (size_t r = 0; r < n; r++) {
      float* d_mapped = w_.d_mapped + r * ld_q_;
      kit::AddScaled(h_sum + D * ld_o_, D, w_.f[r], d_mapped);
      MapRowBackward(c_.map, w_.mapped + r * ld_q_, d_mapped, D, w_.dq + r * ld_q_);
    }
  }

 private:
  static size_t Whole(size_t n) { return (n + kLanes - 1) / kLanes * kLanes; }

  // f(piece, its first column) over the critical blocks; returns the number of columns.
  template <class F>
  size_t ForEachColumn(F f) const {
    size_t column = 0;
    for (int64_t i = 0; i < chosen_.n_critical; i++) {
      ForEachPiece(c_.Keys(chosen_.critical[i]), [&](const Piece& p) {
        f(p, column);
        column += p.Columns();
      });
    }
    return column;
  }

  // Columns that are no keys of the piece get the weight 0.
  static void Hide(const Piece& p, float* s, float* dp) {
    for (size_t j = 0; j < p.begin; j++) s[j] = -INFINITY, dp[j] = 0;
    for (size_t j = p.end; j < p.Columns(); j++) s[j] = -INFINITY, dp[j] = 0;
  }

  // Scores of a row become scale * p * (dp - delta), in dp.
  HWY_NOINLINE void Softmax(size_t row, size_t columns, float* s, float* dp) const {
    const hn::ScalableTag<float> d;
    auto top = hn::Set(d, -INFINITY);
    for (size_t j = 0; j < columns; j += kLanes) top = hn::Max(top, hn::LoadU(d, s + j));
    const float m = hn::GetLane(hn::MaxOfLanes(d, top));
    rows_.m[row] = m == -INFINITY ? 0 : m;  // never -inf - -inf
    const auto shift = hn::Set(d, rows_.m[row]);
    auto sum = hn::Zero(d), product = hn::Zero(d);
    for (size_t j = 0; j < columns; j += kLanes) {
      const auto p = kit::Exp2(d, hn::Sub(hn::LoadU(d, s + j), shift));
      hn::StoreU(p, d, s + j);
      sum = hn::Add(sum, p);
      product = hn::MulAdd(p, hn::LoadU(d, dp + j), product);
    }
    const float total = hn::GetLane(hn::SumOfLanes(d, sum));
    const float inverse = rows_.inverse[row] = total == 0 ? 0 : 1 / total;
    const float delta = rows_.delta[row] = inverse * hn::GetLane(hn::SumOfLanes(d, product));
    const auto factor = hn::Set(d, inverse * float(c_.scale)), middle = hn::Set(d, delta);
    for (size_t j = 0; j < columns; j += kLanes) {
      const auto p = hn::Mul(factor, hn::LoadU(d, s + j));
      hn::StoreU(hn::Mul(p, hn::Sub(hn::LoadU(d, dp + j), middle)), d, dp + j);
    }
  }

  const Problem& c_;
  const Memory& w_;
  const HeadMemory& keys_;
  const QueryRows& rows_;
  const Chosen& chosen_;
  size_t ld_q_, ld_o_, ld_s_;
};

#endif  // ATTUNE_ISA
}  // namespace HWY_NAMESPACE
}  // namespace sla
HWY_AFTER_NAMESPACE();
#endif  // toggled include guard
