#include "softmax/backward.h"

#include "_kit/isa.h"
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "softmax/backward.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>
#include <math.h>
#include <string.h>
#include <type_traits>

#include "softmax/backward_tile-inl.h"
#include "softmax/problem.h"

HWY_BEFORE_NAMESPACE();
namespace softmax {
namespace HWY_NAMESPACE {
#if ATTUNE_ISA
namespace {

// The phases of one call. Whoever writes something is its only writer, and how the work is cut depends on sizes and
// knobs alone, so that the bits do not depend on the number of workers:
//   Rows       lse and delta of every query row                          (sequence, head, tile of queries)
//   Keys       dk and dv; a share of dq for every slice of the keys      (sequence, kv head, slice)
//   Queries    dq = the sum of its shares                                (head, block of rows)
//   Bias       dbias                                                     (one row of tiles of dbias)
//   Heads      dsinks, dalibi_slopes                                     (head)
class Backward {
 public:
  explicit Backward(const attune_exec& x)
      : x_(x),
        c_(ReadBackward(x)),
        g_(ReadGradients(x)),
        query_rows_(x.knobs[kBwdQueryRows]),
        key_rows_(x.knobs[kBwdKeyRows]),
        slices_(x.knobs[kBwdSlices]),
        total_(c_.cu_q ? c_.q.view.Dim(0) : c_.B * c_.q.view.Dim(2)),
        per_batch_(c_.cu_q ? total_ : c_.q.view.Dim(2)),
        ld_dq_(PadTo32(c_.D)),
        tile_floats_(ScoreTile::Floats(x, c_)),
        scores_(g_.dq.view || g_.dk.view || g_.dslopes),
        delta_wanted_(scores_ || g_.dbias || g_.dsinks) {
    slopes_ = static_cast<double*>(x.workspace);
    float* at = reinterpret_cast<float*>(slopes_ + (slices_ * c_.B * c_.Hq + 7) / 8 * 8);
    tiles_ = at, at += x.n_workers * tile_floats_;
    dq_ = at, at += g_.dq.view ? slices_ * c_.Hq * total_ * ld_dq_ : 0;
    lse_ = at, at += c_.Hq * total_;
    delta_ = at;
  }

  attune_status Run() {
    attune_status status = ATTUNE_OK;
    if (!c_.sigmoid) {  // which has neither lse nor delta
      const int64_t parts = c_.cu_q ? 1 : Tiles(per_batch_, query_rows_);  // packed sequences differ in length
      status = Parallel(c_.B * c_.Hq * parts, [&](ScoreTile& t, int64_t n) {
        const Sequence s = c_.At(n / parts / c_.Hq);
        for (int64_t i = n % parts * query_rows_; i < s.nq; i += parts * query_rows_) Rows(t, s, n / parts % c_.Hq, i);
      });
    }
    if (status == ATTUNE_OK && (scores_ || g_.dv.view)) {
      status = Parallel(c_.B * c_.Hkv * slices_, [&](ScoreTile& t, int64_t n) { Keys(t, n / slices_, n % slices_); });
    }
    if (status == ATTUNE_OK && g_.dq.view) {
      const int64_t blocks = Tiles(total_, kBlock);
      status = Parallel(c_.Hq * blocks, [&](ScoreTile&, int64_t n) { Queries(n / blocks, n % blocks * kBlock); });
    }
    if (status == ATTUNE_OK && g_.dbias && g_.dbias.Dim(2) > 0 && g_.dbias.Dim(3) > 0) {
      const int64_t tiles = g_.dbias.Dim(2) > 1 ? Tiles(per_batch_, query_rows_) : 1;
      status = Parallel(g_.dbias.Dim(0) * g_.dbias.Dim(1) * tiles,
                        [&](ScoreTile& t, int64_t n) { Bias(t, n / tiles, n % tiles * query_rows_); });
    }
    if (status == ATTUNE_OK && (g_.dsinks || g_.dslopes)) {
      status = Parallel(c_.Hq, [&](ScoreTile&, int64_t h) { Heads(h); });
    }
    return status == ATTUNE_OK && Cancelled(x_) ? ATTUNE_E_CANCELLED : status;
  }

 private:
  static constexpr int64_t kBlock = 64;

  static int64_t Tiles(int64_t n, int64_t size) { return (n + size - 1) / size; }
  static float FloatAt(const View& t, int64_t at) { return static_cast<const float*>(t.Data())[at]; }

  // f(tile of the worker, i) for every i < n.
  template <class F>
  attune_status Parallel(int64_t n, const F& f) {
    struct Call {
      Backward* self;
      const F* f;
    } call = {this, &f};
    const auto piece = [](void* arg, int64_t begin, int64_t end, uint32_t worker) {
      const Call& call = *static_cast<Call*>(arg);
      const Backward& b = *call.self;
      ScoreTile tile(b.x_, b.c_, b.g_, b.tiles_ + worker * b.tile_floats_);
      for (int64_t i = begin; i < end && !Cancelled(b.x_); i++) (*call.f)(tile, i);
    };
    return x_.host->parallel_for(&x_, n, 1, piece, &call);
  }

  // Row i of head h, counted over all sequences and heads.
  int64_t RowOf(const Sequence& s, int64_t h, int64_t i) const {
    return h * total_ + (c_.cu_q ? s.q_begin : s.b * s.nq) + i;
  }
  float* Dq(int64_t slice, int64_t row) const { return dq_ + (slice * c_.Hq * total_ + row) * ld_dq_; }

  // P_ij = exp(s_ij - lse_i), delta_i = <do_i, o_i> - dlse_i: what is not given is computed from the scores.
  void Rows(ScoreTile& t, const Sequence& s, int64_t h, int64_t first) const {
    const size_t count = s.nq - first < query_rows_ ? s.nq - first : query_rows_;
    const bool scan_delta = delta_wanted_ && !c_.o.view && g_.d_o.view;
    float *lse = lse_ + RowOf(s, h, first), *delta = delta_ + RowOf(s, h, first);
    for (size_t r = 0; r < count; r++) {
      const int64_t i = first + int64_t(r);
      if (c_.lse.view) lse[r] = FloatAt(c_.lse.view, c_.QueryAt(c_.lse, s, h, i));
      delta[r] = 0;
      if (!c_.o.view || !g_.d_o.view) continue;
      float *o = t.dv, *d_o = t.d_o;  // any room for a row
      LoadRow(c_.o.view, c_.QueryAt(c_.o, s, h, i), c_.Dv, 1, o);
      LoadRow(g_.d_o.view, c_.QueryAt(g_.d_o, s, h, i), c_.Dv, 1, d_o);
      delta[r] = DotRow(o, d_o, c_.Dv);
    }
    if (!c_.lse.view || scan_delta) Scan(t, s, h, first, count, scan_delta, lse, delta);
    for (size_t r = 0; r < count && g_.d_lse.view; r++) {
      delta[r] -= FloatAt(g_.d_lse.view, c_.QueryAt(g_.d_lse, s, h, first + int64_t(r)));
    }
  }

  // In one pass over the keys: lse, unless it is given, and if asked for
  // delta_i = <do_i, o_i> = sum over j of P_ij <do_i, v_j>.
  void Scan(ScoreTile& t, const Sequence& s, int64_t h, int64_t first, size_t count, bool scan_delta, float* lse,
            float* delta) const {
    float m[kMaxTile], sums[kMaxTile * kLanes];
    const bool online = !c_.lse.view;
    for (size_t r = 0; r < count; r++) m[r] = -INFINITY;
    memset(sums, 0, sizeof(float) * count * kLanes);
    const int64_t begin = VisibleKeys(c_, s, first).begin, end = VisibleKeys(c_, s, first + int64_t(count) - 1).end;
    for (int64_t j = begin; j < end; j += key_rows_) {
      t.LoadKeys(s, h / c_.Group(), j, scan_delta);
      if (!t.LoadQueries(s, h, first, scan_delta)) continue;
      t.Products(scan_delta);
      for (size_t r = 0; r < count; r++) {
        const Range v = t.rows[r];
        if (v.end <= v.begin) continue;
        if (online) {
          const float factor = t.OnlineWeights(r, m + r, sums + r * kLanes);
          if (scan_delta) delta[r] *= factor;
        } else {
          t.FinalWeights(r, lse[r]);
        }
        const size_t at = r * t.ld_s + v.begin;
        if (scan_delta) delta[r] += DotRow(t.p + at, t.ds + at, v.end - v.begin);
      }
    }
    const hn::ScalableTag<float> d;
    for (size_t r = 0; r < count && online; r++) {
      const double sum = hn::GetLane(hn::SumOfLanes(d, hn::LoadU(d, sums + r * kLanes)));
      const double sink = c_.sinks ? c_.sinks.Get(h) : -INFINITY;
      // The sink takes weight from the keys and, having no value, adds nothing to delta.
      const double keys = sum == 0 ? -INFINITY : m[r] * t.ScoreUnit() + log(sum), most = keys > sink ? keys : sink;
      const double all = most == -INFINITY ? keys : most + log(exp(keys - most) + exp(sink - most));
      lse[r] = float(all);
      if (scan_delta) delta[r] = sum == 0 ? 0 : float(delta[r] / sum * exp(keys - all));
    }
  }

  // P and dS of the tile, the latter before softcap.
  void Weights(ScoreTile& t, const Sequence& s, int64_t h, int64_t first, bool scores) const {
    const float *lse = lse_ + RowOf(s, h, first), *delta = delta_ + RowOf(s, h, first);
    t.Products(scores);
    for (size_t r = 0; r < t.queries; r++) {
      t.FinalWeights(r, c_.sigmoid ? 0 : lse[r]);
      if (scores) t.ScoreGradients(r, c_.sigmoid ? 0 : delta[r]);
    }
  }

  // Every slices-th tile of keys of one kv head, against all queries of its group.
  void Keys(ScoreTile& t, int64_t head_index, int64_t slice) const {
    const Sequence s = c_.At(head_index / c_.Hkv);
    const int64_t head = head_index % c_.Hkv, heads_begin = head * c_.Group(), heads_end = heads_begin + c_.Group();
    const int64_t keys = c_.cu_k ? s.key_end : c_.Nk;
    double* slopes = slopes_ + (slice * c_.B + s.b) * c_.Hq;
    for (int64_t h = heads_begin; h < heads_end; h++) {
      slopes[h] = 0;
      if (g_.dq.view && s.nq > 0) memset(Dq(slice, RowOf(s, h, 0)), 0, sizeof(float) * s.nq * ld_dq_);
    }
    for (int64_t j = slice * key_rows_; j < keys; j += slices_ * key_rows_) {
      if (Cancelled(x_)) return;
      t.LoadKeys(s, head, j, scores_);
      memset(t.dk, 0, sizeof(float) * t.keys * t.ld_q);
      memset(t.dv, 0, sizeof(float) * t.keys * t.ld_v);
      for (int64_t h = heads_begin; h < heads_end; h++) {
        for (int64_t i = 0; i < s.nq; i += query_rows_) {
          if (!t.LoadQueries(s, h, i, true)) continue;
          Weights(t, s, h, i, scores_);
          for (size_t r = 0; r < t.queries && g_.dslopes; r++) slopes[h] -= t.DistanceSum(r);
          for (size_t r = 0; r < t.queries && scores_; r++) t.ThroughSoftcap(r);
          AddProducts(t, g_.dq.view ? Dq(slice, RowOf(s, h, i)) : nullptr);
        }
      }
      for (size_t r = 0; r < t.keys; r++) {
        const int64_t key = s.k_begin + j + int64_t(r);
        if (g_.dk.view) {
          // Through q, which carries scale and the unit of the scores.
          StoreRow(t.dk + r * t.ld_q, c_.D, float(t.ScoreUnit()), g_.dk.view, g_.dk.At(s.b, head, key));
        }
        if (g_.dv.view) StoreRow(t.dv + r * t.ld_v, c_.Dv, 1, g_.dv.view, g_.dv.At(s.b, head, key));
      }
    }
  }

  // dv += P^T do, dq += dS k, dk += dS^T q.
  void AddProducts(ScoreTile& t, float* dq) const {
    t.FindColumns();
    if (g_.dv.view && g_.d_o.view) {
      kit::AddProduct<true>(t.columns, t.keys, t.p, t.ld_s, t.d_o, t.ld_v, c_.Dv, t.dv, t.ld_v);
    }
    if (dq) kit::AddProduct<false>(t.rows, t.queries, t.ds, t.ld_s, t.k, t.ld_q, c_.D, dq, ld_dq_);
    if (g_.dk.view) kit::AddProduct<true>(t.columns, t.keys, t.ds, t.ld_s, t.q, t.ld_q, c_.D, t.dk, t.ld_q);
  }

  // The gradients of a block of queries, from the shares of the slices of keys.
  void Queries(int64_t h, int64_t first) const {
    for (int64_t row = first; row < total_ && row < first + kBlock; row++) {
      float* sum = Dq(0, h * total_ + row);
      for (int64_t slice = 1; slice < slices_; slice++) kit::AddScaled(Dq(slice, h * total_ + row), c_.D, 1, sum);
      StoreRow(sum, c_.D, float(c_.scale), g_.dq.view, g_.dq.At(row / per_batch_, h, row % per_batch_));
    }
  }

  // dbias of one of its (batch, head) rows: of the queries from `first` on, or the sum over all of them.
  void Bias(ScoreTile& t, int64_t index, int64_t first) const {
    const View& out = g_.dbias;
    const int64_t b = index / out.Dim(1), h = index % out.Dim(1), left = per_batch_ - first;
    const bool each_query = out.Dim(2) > 1, each_key = out.Dim(3) > 1;
    const size_t count = !each_query ? 1 : left < query_rows_ ? left : query_rows_;
    float row_sums[kMaxTile] = {};
    for (int64_t j = 0; j < c_.Nk; j += key_rows_) {
      memset(t.sum, 0, sizeof(float) * count * t.ld_s);
      ForEachUse(b, h, [&](const Sequence& s, int64_t head) {
        t.LoadKeys(s, head / c_.Group(), j, true);
        for (int64_t i = first; i < (each_query ? first + 1 : s.nq); i += query_rows_) {
          if (!t.LoadQueries(s, head, i, true)) continue;
          Weights(t, s, head, i, true);
          for (size_t r = 0; r < t.queries; r++) t.AddGradients(r, t.sum + (each_query ? r : 0) * t.ld_s);
        }
      });
      for (size_t r = 0; r < count; r++) {
        const float* row = t.sum + r * t.ld_s;
        if (each_key) {
          StoreRow(row, t.keys, 1, out, out.Offset(b, h, first + int64_t(r), j));
        } else {
          for (size_t n = 0; n < t.keys; n++) row_sums[r] += row[n];
        }
      }
    }
    for (size_t r = 0; r < count && !each_key; r++) {
      StoreRow(row_sums + r, 1, 1, out, out.Offset(b, h, first + int64_t(r), 0));
    }
  }

  // f(sequence, query head) for all that use row (b, h) of bias.
  template <class F>
  void ForEachUse(int64_t b, int64_t h, const F& f) const {
    for (int64_t batch = 0; batch < c_.B; batch++) {
      if (c_.bias.Dim(0) > 1 && batch != b) continue;
      for (int64_t head = 0; head < c_.Hq; head++) {
        if (c_.BroadcastHead(c_.bias, head) == h) f(c_.At(batch), head);
      }
    }
  }

  void Heads(int64_t h) const {
    const double sink = g_.dsinks ? c_.sinks.Get(h) : -INFINITY;
    double dsink = 0, dslope = 0;
    for (int64_t row = h * total_; row < (h + 1) * total_ && g_.dsinks; row++) {
      if (lse_[row] != -INFINITY) dsink -= exp(sink - lse_[row]) * delta_[row];
    }
    for (int64_t b = 0; b < c_.B && g_.dslopes; b++) {
      double sum = 0;
      for (int64_t slice = 0; slice < slices_; slice++) sum += slopes_[(slice * c_.B + b) * c_.Hq + h];
      if (g_.dslopes.Rank() == 2) g_.dslopes.Put(sum, b, h);
      dslope += sum;
    }
    if (g_.dsinks) g_.dsinks.Put(dsink, h);
    if (g_.dslopes && g_.dslopes.Rank() == 1) g_.dslopes.Put(dslope, h);
  }

  const attune_exec& x_;
  const Problem c_;
  const Gradients g_;
  const int64_t query_rows_, key_rows_, slices_;
  const int64_t total_, per_batch_;  // query rows of a head: of the call, between two steps of the batch stride
  const size_t ld_dq_, tile_floats_;
  const bool scores_, delta_wanted_;  // is the gradient of scores asked for, apart from dbias; is delta needed
  double* slopes_;                    // shares of dalibi_slopes [slices, B, Hq]
  float *tiles_, *dq_, *lse_, *delta_;  // per worker; shares of dq [slices, Hq, rows, ld]; [Hq, rows] both
};

}  // namespace

attune_status TiledBackward(const attune_exec* x) {
  return Backward(*x).Run();
}

#endif  // ATTUNE_ISA
}  // namespace HWY_NAMESPACE
}  // namespace softmax
HWY_AFTER_NAMESPACE();
