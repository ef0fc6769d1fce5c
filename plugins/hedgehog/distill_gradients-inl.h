// Gradients of the distillation losses of one kv head, through the student and through the teacher.
#if defined(ATTUNE_HEDGEHOG_DISTILL_GRADIENTS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef ATTUNE_HEDGEHOG_DISTILL_GRADIENTS_INL_H_
#undef ATTUNE_HEDGEHOG_DISTILL_GRADIENTS_INL_H_
#else
#define ATTUNE_HEDGEHOG_DISTILL_GRADIENTS_INL_H_
#endif
#include "hedgehog/gradient_layout.h"
#include "hedgehog/map_gradient-inl.h"
#include "hedgehog/pair-inl.h"
#include "hedgehog/row_gradients-inl.h"

HWY_BEFORE_NAMESPACE();
namespace hedgehog {
namespace HWY_NAMESPACE {
#if ATTUNE_ISA

struct LossGradients {
  double xent, mse;  // upstream gradients divided by the number of rows, of outputs
};

class DistillGradients {
 public:
  DistillGradients(const Problem& p, const Grid& grid, const GradientLayout& layout, const LossGradients& upstream,
                   hedgehog::Floats& memory)
      : p_(p), grid_(grid), layout_(layout), up_(upstream), pair_(p, grid, memory) {
    const size_t n = size_t(grid.size), keys = size_t(p.Nk);
    query_map_ = memory.Take(MapGradient::Floats(p)), key_map_ = memory.Take(MapGradient::Floats(p));
    dphi_k_ = memory.Rows(keys, p.E()), dk_ = memory.Rows(keys, p.D), dv_ = memory.Rows(keys, p.Dv);
    raw_ = memory.Rows(n, p.E()), dphi_ = memory.Rows(n, p.E()), dz_ = memory.Rows(n, p.F);
    dq_ = memory.Rows(n, p.D), residual_ = memory.Rows(n, p.Dv);
    ds_ = memory.Rows(n, n), du_ = memory.Rows(n, n), ranges_ = memory.Ranges(n);
  }

  // Batch entry b of the task's kv head.
  void Run(const attune_exec& x, int64_t task, int64_t b, const View& dq, const View& dk, const View& dv) {
    const int64_t head = task % p_.Hkv;
    dk_.Clear(size_t(p_.Nk)), dv_.Clear(size_t(p_.Nk));
    for (int64_t g = 0; g < p_.Group(); g++) {
      const int64_t h = head * p_.Group() + g;
      const MapGradient queries(p_, p_.w_q, p_.b_q, h, query_map_, layout_.QueryMap(task, g));
      const MapGradient keys(p_, p_.w_k, p_.b_k, h, key_map_, layout_.KeyMap(task, g));
      queries.Pack(), keys.Pack();
      pair_.Begin(b, head, keys.map);
      dphi_k_.Clear(size_t(p_.Nk));
      int64_t end;
      for (int64_t i = 0; i < p_.Nq && !Cancelled(x); i = end) {
        end = grid_.ChunkEnd(p_, grid_.ChunkOf(p_, i));
        Queries(b, h, i, end, queries, dq);
      }
      Keys(b, keys);
    }
    for (int64_t j = 0; j < p_.Nk; j++) {
      if (dk) StoreRow(dk_.Row(size_t(j)), size_t(p_.D), 1, dk, dk.Offset(b, head, j));
      if (dv) StoreRow(dv_.Row(size_t(j)), size_t(p_.Dv), 1, dv, dv.Offset(b, head, j));
    }
  }

 private:
  void Queries(int64_t b, int64_t h, int64_t begin, int64_t end, const MapGradient& map, const View& dq) {
    Chunk& c = pair_.chunk;
    c.Load(b, h, begin, end);
    map.Forward(c.n, c.q, c.z, raw_, c.phi);
    c.ScaleQueries(p_.scale);
    pair_.Sums(begin);
    if (up_.xent != 0) pair_.Logarithms([](int64_t) {});
    for (size_t r = 0; r < c.n; r++) RowFlows(r);
    dphi_.Clear(c.n), dq_.Clear(c.n);
    for (int64_t t = 0; c.LinearTile(t); t++) Tile(t);
    for (size_t r = 0; r < c.n; r++) {
      kit::ScaleRow(dq_.Row(r), (size_t(p_.D) + kLanes - 1) / kLanes * kLanes, float(p_.scale));
    }
    map.Backward(c.n, c.q, c.z, raw_, dphi_, dz_, dq_, [](size_t) { return true; });
    for (size_t r = 0; dq && r < c.n; r++) {
      StoreRow(dq_.Row(r), size_t(p_.D), 1, dq, dq.Offset(b, h, begin + int64_t(r)));
    }
  }

  // What flows into each weight of row r:
  //   a_pred: residual . v_j + (a_pred_j free ? xent (1 / clamped - a_true_j / a_pred_j) : 0)
  //   a_true: -residual . v_j - xent log(scale a_pred_j), less what is the same for all keys
  // and through the two normalisers the mean of it over the row.
  struct Flow {
    float share;                     // xent / clamped
    float mean_pred, mean_true;
    float pred_factor, true_factor;  // of what is left: 1 / normaliser, 1; a single key loses nearly all
  };
  void RowFlows(size_t r) {
    const Chunk& c = pair_.chunk;
    const Pair::Row& row = pair_.row[r];
    const float *teacher = c.o_window.Row(r), *student = c.o_linear.Row(r);
    float* residual = residual_.Row(r);
    double to_pred = 0, to_true = 0;
    for (int64_t e = 0; e < p_.Dv; e++) {
      residual[e] = float(2 * up_.mse * pair_.Difference(r, size_t(e)));
      to_pred += double(residual[e]) * student[e], to_true -= double(residual[e]) * teacher[e];
    }
    Flow& f = flow_[r];
    f = {};
    if (up_.xent != 0 && !row.empty) {
      const double share = up_.xent / row.clamped;
      f.share = float(share);
      to_pred += share * row.free_pred - up_.xent * row.free_true;
      to_true -= up_.xent * row.cross;
    }
    f.mean_pred = row.single ? 0 : float(to_pred), f.mean_true = row.single ? 0 : float(to_true);
    f.pred_factor = row.single ? float(p_.norm_eps) * row.inverse_pred * row.inverse_pred : row.inverse_pred;
    f.true_factor = row.single ? 0 : 1;
  }

  void Tile(int64_t t) {
    const hn::ScalableTag<float> d;
    const Chunk& c = pair_.chunk;
    const KeyTile tile = pair_.Tile(t);
    const size_t keys = c.Columns(t), first = size_t(grid_.Begin(t));
    const size_t E = size_t(p_.E()), D = size_t(p_.D), Dv = size_t(p_.Dv);
    pair_.Weights(tile, t);
    ProductTransposed<false>(c.n, keys, Dv, residual_, tile.v, ds_, c.ranges, c.panel);
    const auto xent = hn::Set(d, float(up_.xent)), least = hn::Set(d, kLeastWeight);
    for (size_t r = 0; r < c.n; r++) {
      const Flow& f = flow_[r];
      float *teacher = pair_.a_true.Row(r), *student = c.a.Row(r), *ds = ds_.Row(r), *du = du_.Row(r);
      const auto mean_pred = hn::Set(d, f.mean_pred), mean_true = hn::Set(d, f.mean_true);
      const auto pred_factor = hn::Set(d, f.pred_factor), true_factor = hn::Set(d, f.true_factor);
      const auto share = hn::Set(d, f.share), scale = hn::Set(d, pair_.row[r].scale);
      for (int j = 0; j < c.ranges[r].end; j += int(kLanes)) {
        const auto a_true = hn::LoadU(d, teacher + j), a_pred = hn::LoadU(d, student + j), flow = hn::LoadU(d, ds + j);
        auto to_pred = flow, to_true = hn::Neg(flow);
        if (up_.xent != 0) {
          const auto free = hn::Ge(a_pred, least);
          const auto clamped = ClampWeight(d, a_pred), ratio = hn::Div(a_true, clamped);
          to_pred = hn::Add(to_pred, hn::IfThenElseZero(free, hn::NegMulAdd(xent, ratio, share)));
          to_true = hn::NegMulAdd(xent, Log(d, hn::Mul(scale, clamped)), to_true);
        }
        hn::StoreU(hn::Mul(pred_factor, hn::Sub(to_pred, mean_pred)), d, ds + j);
        hn::StoreU(hn::Mul(hn::Mul(true_factor, a_true), hn::Sub(to_true, mean_true)), d, du + j);
        hn::StoreU(hn::Sub(a_pred, a_true), d, student + j);
      }
    }
    ClearOutside(c.ranges, c.n, keys, ds_), ClearOutside(c.ranges, c.n, keys, du_);
    ClearOutside(c.ranges, c.n, keys, c.a);
    AddBand<Order::kRows>(c.ranges, c.n, E, ds_, tile.phi, dphi_);
    AddBand<Order::kRows>(c.ranges, c.n, D, du_, tile.k, dq_);
    TransposeRanges(c.ranges, c.n, keys, ranges_);
    AddBand<Order::kColumns>(ranges_, keys, E, ds_, c.phi, From(dphi_k_, first));
    AddBand<Order::kColumns>(ranges_, keys, D, du_, c.scaled, From(dk_, first));
    AddBand<Order::kColumns>(ranges_, keys, Dv, c.a, residual_, From(dv_, first));
  }
  static Matrix From(Matrix m, size_t row) { return {m.Row(row), m.ld}; }

  // From the features of the keys to the keys and their map.
  void Keys(int64_t b, const MapGradient& map) {
    Chunk& c = pair_.chunk;
    for (int64_t t = 0; t < grid_.Count(); t++) {
      const KeyTile tile = pair_.Tile(t);
      const size_t keys = c.Columns(t), first = size_t(grid_.Begin(t));
      map.Forward(keys, tile.k, c.z, raw_, c.phi);
      map.Backward(keys, tile.k, c.z, raw_, From(dphi_k_, first), dz_, From(dk_, first),
                   [&](size_t r) { return p_.Real(b, int64_t(first + r)); });
      for (size_t r = 0; r < keys; r++) {
        if (p_.Real(b, int64_t(first + r))) continue;
        memset(dk_.Row(first + r), 0, sizeof(float) * dk_.ld), memset(dv_.Row(first + r), 0, sizeof(float) * dv_.ld);
      }
    }
  }

  const Problem& p_;
  const Grid& grid_;
  const GradientLayout& layout_;
  const LossGradients up_;
  Pair pair_;
  float *query_map_, *key_map_;
  Matrix dphi_k_, dk_, dv_;          // of every key
  Matrix raw_, dphi_, dz_, dq_;      // of a chunk of queries
  Matrix residual_;                  // gradient of o_pred, and of -o_true
  Matrix ds_, du_;                   // gradients of the student's and the teacher's scores
  Range* ranges_;                    // queries of each key of a tile
  Flow flow_[kMaxChunk];
};

#endif  // ATTUNE_ISA
}  // namespace HWY_NAMESPACE
}  // namespace hedgehog
HWY_AFTER_NAMESPACE();
#endif  // toggled include guard
