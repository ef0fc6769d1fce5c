// First pass of the backward kernel: the queries of a kv head in order. Writes dq, adds to the gradients of the query
// maps, and leaves what the second pass must know of each row.
#if defined(ATTUNE_HEDGEHOG_QUERY_PASS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef ATTUNE_HEDGEHOG_QUERY_PASS_INL_H_
#undef ATTUNE_HEDGEHOG_QUERY_PASS_INL_H_
#else
#define ATTUNE_HEDGEHOG_QUERY_PASS_INL_H_
#endif
#include "hedgehog/head_memory-inl.h"

HWY_BEFORE_NAMESPACE();
namespace hedgehog {
namespace HWY_NAMESPACE {
#if ATTUNE_ISA

class QueryPass {
 public:
  QueryPass(const Problem& p, const Grid& grid, HeadMemory& shared, hedgehog::Floats& memory)
      : p_(p), grid_(grid), m_(shared), state_(p, memory) {
    const size_t n = size_t(grid.size);
    raw_ = memory.Rows(n, p.E()), dphi_ = memory.Rows(n, p.E()), dz_ = memory.Rows(n, p.F);
    dq_ = memory.Rows(n, p.D), tops_ = memory.Rows(n, p.D), d_o_ = memory.Rows(n, p.Dv);
  }

  // dgamma: of each query head, is added to.
  void Run(const attune_exec& x, int64_t b, int64_t head, const View& dq, float* dgamma) {
    b_ = b, dq_out_ = dq;
    m_.single.Begin(b);
    const int64_t heads = p_.Hq / p_.Hst, first = head * p_.Group();
    for (int64_t s = 0; s < p_.Hst / p_.Hkv; s++) {
      const MapGradient key_map = m_.KeyMap(s);
      m_.keys.Begin(b, head, &key_map.map);
      state_.Load(p_, b, p_.StateHead(first + s * heads));
      int64_t next = 0, end;
      for (int64_t i = 0; i < p_.Nq && !Cancelled(x); i = end) {
        end = grid_.ChunkEnd(p_, grid_.ChunkOf(p_, i));
        for (; next < grid_.Count() && grid_.End(next) <= p_.LinearEnd(i); next++) {
          state_.Add(p_, m_.keys.Get(next, kFeatures | kValues), m_.chunk.Columns(next));
        }
        for (int64_t g = s * heads; g < (s + 1) * heads; g++) dgamma[g] += float(Rows(first + g, g, i, end, next));
      }
    }
  }

 private:
  // Queries [begin, end) of head h, the g-th of its kv head; returns their part of the gradient of gamma.
  double Rows(int64_t h, int64_t g, int64_t begin, int64_t end, int64_t next) {
    Chunk& c = m_.chunk;
    c.Load(b_, h, begin, end);
    m_.QueryMap(g).Forward(c.n, c.q, c.z, raw_, c.phi);
    c.Linear(state_, m_.keys, next);
    const bool window = p_.window_mode != kNoWindow;
    if (window) c.template Window<false>(m_.keys);
    double dgamma = 0;
    for (size_t r = 0; r < c.n; r++) dgamma += Facts(h, g, begin + int64_t(r), r, window);
    FeatureGradients(next);
    dq_.Clear(c.n);
    if (window) WindowGradients(g, begin);
    m_.QueryMap(g).Backward(c.n, c.q, c.z, raw_, dphi_, dz_, dq_, [](size_t) { return true; });
    for (size_t r = 0; dq_out_ && r < c.n; r++) {
      StoreRow(dq_.Row(r), size_t(p_.D), 1, dq_out_, dq_out_.Offset(b_, h, begin + int64_t(r)));
    }
    return dgamma;
  }

  // The numbers of row r. The sums over its weights follow from its outputs: sum_j a_j (do . v_j - do . o).
  double Facts(int64_t h, int64_t g, int64_t i, size_t r, bool window) {
    const Chunk& c = m_.chunk;
    float* d_o = d_o_.Row(r);
    LoadRow(m_.d_o, m_.d_o.Offset(b_, h, i), size_t(p_.Dv), 1, d_o);
    const double linear = p_.Linear(h), gamma = window ? p_.Gamma(h) : 0;
    const double do_linear = DotRow(d_o, c.o_linear.Row(r), size_t(p_.Dv));
    const double do_window = window ? DotRow(d_o, c.o_window.Row(r), size_t(p_.Dv)) : 0;
    const double window_sum = window ? c.WindowSum(r) : 0;
    const double den = linear * double(c.den[r]) + (window ? gamma * window_sum : p_.norm_eps);
    const double inverse = den == 0 ? 1 : 1 / den;
    const double product = (linear * do_linear + gamma * do_window) * inverse;  // do . o
    // A single key weighs 1 - norm_eps / normaliser; in a window, 1.
    const bool single = m_.single.Row(i);
    const double from_window = single ? 0 : (do_window - product * window_sum) * inverse;
    RowFacts& facts = m_.Facts(g, i);
    facts.inverse = float(inverse), facts.flow = single ? 0 : float(product * inverse);
    facts.keep = !single ? 1 : window ? 0 : float(p_.norm_eps * inverse);
    facts.top = window ? c.m[r] : -INFINITY, facts.share = float(gamma * from_window);
    m_.rows.Scale(r, d_o, facts, float(linear), float(gamma));
    return from_window - (p_.one_minus_gamma && !single ? (do_linear - product * double(c.den[r])) * inverse : 0);
  }

  // dphi_: through the state, then through the tiles from `next` on.
  void FeatureGradients(int64_t next) {
    const hn::ScalableTag<float> d;
    const Chunk& c = m_.chunk;
    RowGradients& rows = m_.rows;
    if (state_.any) {
      ProductTransposed<false>(c.n, size_t(p_.E()), size_t(p_.Dv), rows.linear, state_.s, dphi_, nullptr, c.panel);
      for (size_t r = 0; r < c.n; r++) {
        const auto flow = hn::Set(d, rows.linear_flow[r]), keep = hn::Set(d, rows.keep[r]);
        for (int64_t e = 0; e < p_.E(); e += kLanes) {
          float* at = dphi_.Row(r) + e;
          hn::StoreU(hn::NegMulAdd(flow, hn::LoadU(d, state_.z + e), hn::Mul(keep, hn::LoadU(d, at))), d, at);
        }
      }
    } else {
      dphi_.Clear(c.n);
    }
    for (int64_t t = next; c.LinearTile(t); t++) {
      const KeyTile& tile = m_.keys.Get(t, kFeatures | kValues);
      c.LinearRanges(t);
      rows.OfFeatures(c, tile, c.Columns(t));
      AddBand<Order::kRows>(c.ranges, c.n, size_t(p_.E()), rows.ds, tile.phi, dphi_);
    }
  }

  // dq_ through the scores of the window.
  void WindowGradients(int64_t g, int64_t begin) {
    Chunk& c = m_.chunk;
    const size_t D = size_t(p_.D);
    tops_.Clear(c.n);
    HWY_ALIGN int counts[kMaxChunk] = {};
    // The share of the maximum is known when all scores equal to it are counted.
    for (size_t r = 0; r < c.n; r++) facts_[r] = m_.Facts(g, begin + int64_t(r)), facts_[r].share = 0;
    for (int64_t t = c.FirstWindowTile(); t <= c.LastWindowTile(); t++) {
      const KeyTile& tile = m_.keys.Get(t, kRawKeys | kValues);
      c.WindowScores(tile, t);
      m_.rows.OfWindow(c, tile, c.Columns(t), [&](size_t r) -> const RowFacts& { return facts_[r]; },
                       [&](size_t r, size_t j) HWY_ATTR {
                         counts[r]++;
                         kit::AddScaled(tile.k.Row(j), D, 1.0f, tops_.Row(r));
                       });
      AddBand<Order::kRows>(c.ranges, c.n, D, m_.rows.ds, tile.k, dq_);
    }
    for (size_t r = 0; r < c.n; r++) {
      RowFacts& facts = m_.Facts(g, begin + int64_t(r));
      facts.share = counts[r] ? facts.share / float(counts[r]) : 0;
      kit::AddScaled(tops_.Row(r), D, -facts.share, dq_.Row(r));
      kit::ScaleRow(dq_.Row(r), (D + kLanes - 1) / kLanes * kLanes, float(p_.scale));
    }
  }

  const Problem& p_;
  const Grid& grid_;
  HeadMemory& m_;
  State state_;
  Matrix raw_, dphi_, dz_, dq_;
  Matrix tops_;  // sums of the keys whose score is the maximum
  Matrix d_o_;
  RowFacts facts_[kMaxChunk];
  int64_t b_ = 0;
  View dq_out_;
};

#endif  // ATTUNE_ISA
}  // namespace HWY_NAMESPACE
}  // namespace hedgehog
HWY_AFTER_NAMESPACE();
#endif  // toggled include guard
