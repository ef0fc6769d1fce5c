// Teacher and student of a chunk of queries of one head: softmax attention over the visible keys, and normalised linear
// attention over the same ones.
#if defined(ATTUNE_HEDGEHOG_PAIR_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef ATTUNE_HEDGEHOG_PAIR_INL_H_
#undef ATTUNE_HEDGEHOG_PAIR_INL_H_
#else
#define ATTUNE_HEDGEHOG_PAIR_INL_H_
#endif
#include "hedgehog/chunk-inl.h"

HWY_BEFORE_NAMESPACE();
namespace hedgehog {
namespace HWY_NAMESPACE {
#if ATTUNE_ISA

constexpr float kLeastWeight = 1e-12f;  // of the student, inside the logarithm

// A weight of the student, at least the least one; keeps a NaN.
template <class D, class V = hn::Vec<D>>
HWY_INLINE V ClampWeight(D d, V weight) {
  const V least = hn::Set(d, kLeastWeight);
  return hn::IfThenElse(hn::Lt(weight, least), least, weight);
}
// log x of a normal number; NaN of inf and NaN. x = 2^n m with m in [0.7, 1.4]; log m = 2 artanh((m - 1) / (m + 1)) by
// its series, whose next term would be below 1e-9.
template <class D, class V = hn::Vec<D>>
HWY_INLINE V Log(D d, V x) {
  const hn::RebindToSigned<D> di;
  const auto bits = hn::BitCast(di, x);
  const auto n = hn::ShiftRight<23>(hn::Sub(bits, hn::Set(di, 0x3f3504f3)));  // floor(log2(x / sqrt(0.5)))
  const V m = hn::BitCast(d, hn::Sub(bits, hn::ShiftLeft<23>(n)));
  const V one = hn::Set(d, 1.0f), s = hn::Div(hn::Sub(m, one), hn::Add(m, one)), s2 = hn::Mul(s, s);
  V series = hn::Set(d, 2.0f / 9);
  series = hn::MulAdd(series, s2, hn::Set(d, 2.0f / 7));
  series = hn::MulAdd(series, s2, hn::Set(d, 2.0f / 5));
  series = hn::MulAdd(series, s2, hn::Set(d, 2.0f / 3));
  series = hn::MulAdd(hn::Mul(series, s2), s, hn::Add(s, s));
  const V result = hn::MulAdd(hn::ConvertTo(d, n), hn::Set(d, 0.69314718056f), series);
  return hn::MulAdd(hn::Zero(d), x, result);
}

class Pair {
 public:
  // Numbers of a row.
  struct Row {
    float inverse_true, inverse_pred;  // 1 / sum of the unnormalised weights; 0 for no key, 1 for a student's sum of 0
    float scale;                       // of weights in logarithms, so that those of even weights are near 0
    bool empty, single;                // no visible key, at most one
    double cross = 0;                  // sum of a_true log(scale a_pred)
    double clamped = 0;                // sum of max(a_pred, least weight) over all keys, visible or not
    double free_true = 0, free_pred = 0;  // sums over the keys with a_pred at or above the least weight

    // Of the cross entropy.
    double Loss() const {
      if (empty) return 0;
      if (single) return log(clamped / (free_pred > 0 ? free_pred : double(kLeastWeight)));
      return log(clamped * double(scale)) - cross;
    }
  };

  Pair(const Problem& p, const Grid& grid, hedgehog::Floats& memory)
      : keys(p, grid, memory), chunk(p, grid, memory), p_(p), grid_(grid), single_(p) {
    const size_t n = size_t(grid.size);
    a_true = memory.Rows(n, n), features = memory.Rows(size_t(p.Nk), size_t(p.E()));
  }

  // Keys of kv head `head` with the features of one query head.
  void Begin(int64_t b, int64_t head, const Map& map) {
    keys.Begin(b, head, &map);
    single_.Begin(b);
    for (int64_t t = 0; t < grid_.Count(); t++) {
      const KeyTile& tile = keys.Get(t, kFeatures);
      memcpy(features.Row(size_t(grid_.Begin(t))), tile.phi.p, sizeof(float) * chunk.Columns(t) * features.ld);
    }
  }
  KeyTile Tile(int64_t t) {
    KeyTile tile = keys.Get(t, kRawKeys | kValues);
    tile.phi.p = features.Row(size_t(grid_.Begin(t)));
    return tile;
  }

  // Sums and outputs (chunk.o_window: teacher, chunk.o_linear: student) of the chunk's queries, which begin with
  // `begin` and whose features and scaled rows are there.
  void Sums(int64_t begin) {
    Chunk& c = chunk;
    for (size_t r = 0; r < c.n; r++) c.m[r] = -INFINITY;
    memset(c.sums, 0, sizeof(float) * c.n * kLanes), memset(c.den, 0, sizeof(float) * c.n);
    c.o_window.Clear(c.n), c.o_linear.Clear(c.n);
    const size_t Dv = size_t(p_.Dv);
    for (int64_t t = 0; c.LinearTile(t); t++) {
      const KeyTile tile = Tile(t);
      c.LinearRanges(t);
      c.FeatureScores(tile, t);
      for (size_t r = 0; r < c.n; r++) c.den[r] += SumRow(c.a.Row(r), 0, size_t(c.ranges[r].end));
      AddBand<Order::kRows>(c.ranges, c.n, Dv, c.a, tile.v, c.o_linear);
      c.Scores(tile, t, a_true);
      for (size_t r = 0; r < c.n; r++) {
        const Range range = c.ranges[r];
        if (range.end <= 0) continue;
        const float factor =
            kit::OnlineSoftmax<false>(a_true.Row(r), 0, size_t(range.end), c.m + r, c.sums + r * kLanes);
        if (factor != 1) kit::ScaleRow(c.o_window.Row(r), (Dv + kLanes - 1) / kLanes * kLanes, factor);
      }
      ClearOutside(c.ranges, c.n, c.Columns(t), a_true);
      AddBand<Order::kRows>(c.ranges, c.n, Dv, a_true, tile.v, c.o_window);
    }
    for (size_t r = 0; r < c.n; r++) {
      const float sum = c.WindowSum(r), den = c.den[r] + float(p_.norm_eps);
      row[r] = Row();
      row[r].empty = sum == 0, row[r].single = single_.Row(begin + int64_t(r));
      row[r].inverse_true = sum == 0 ? 0 : 1 / sum, row[r].inverse_pred = den == 0 ? 1 : 1 / den;
      row[r].scale = float(p_.VisibleEnd(begin + int64_t(r)));
      kit::ScaleRow(c.o_window.Row(r), (Dv + kLanes - 1) / kLanes * kLanes, row[r].inverse_true);
      kit::ScaleRow(c.o_linear.Row(r), (Dv + kLanes - 1) / kLanes * kLanes, row[r].inverse_pred);
    }
  }

  // Student less teacher in column e of the output of row r. A single key weighs 1 and 1 - norm_eps / normaliser.
  double Difference(size_t r, size_t e) const {
    const double teacher = chunk.o_window.Row(r)[e];
    if (row[r].single) return -teacher * p_.norm_eps * double(row[r].inverse_pred);
    return double(chunk.o_linear.Row(r)[e]) - teacher;
  }

  // a_true and chunk.a = weights of tile t, 0 where a key is not visible.
  void Weights(const KeyTile& tile, int64_t t) {
    const hn::ScalableTag<float> d;
    Chunk& c = chunk;
    c.LinearRanges(t);
    c.FeatureScores(tile, t);
    c.Scores(tile, t, a_true);
    for (size_t r = 0; r < c.n; r++) {
      float *teacher = a_true.Row(r), *student = c.a.Row(r);
      const auto top = hn::Set(d, c.m[r]), true_factor = hn::Set(d, row[r].inverse_true);
      const auto pred_factor = hn::Set(d, row[r].inverse_pred);
      for (int j = 0; j < c.ranges[r].end; j += int(kLanes)) {
        const auto e = kit::Exp(d, hn::Sub(hn::LoadU(d, teacher + j), top));
        hn::StoreU(row[r].empty ? hn::Zero(d) : hn::Mul(e, true_factor), d, teacher + j);
        hn::StoreU(hn::Mul(hn::LoadU(d, student + j), pred_factor), d, student + j);
      }
    }
    ClearOutside(c.ranges, c.n, c.Columns(t), a_true);
  }

  // The sums of Row that hang on logarithms. tile(t) is called when the weights of tile t are there.
  template <class EachTile>
  void Logarithms(EachTile each_tile) {
    const hn::ScalableTag<float> d;
    const Chunk& c = chunk;
    const auto least = hn::Set(d, kLeastWeight);
    for (int64_t t = 0; c.LinearTile(t); t++) {
      Weights(Tile(t), t);
      for (size_t r = 0; r < c.n; r++) {
        const size_t end = c.ranges[r].end > 0 ? size_t(c.ranges[r].end) : 0;
        const auto scale = hn::Set(d, row[r].scale);
        auto cross = hn::Zero(d), clamped = hn::Zero(d), free_true = hn::Zero(d), free_pred = hn::Zero(d);
        for (size_t j = 0; j < end; j += kLanes) {
          const auto in = hn::FirstN(d, end - j);
          const auto teacher = hn::LoadU(d, a_true.Row(r) + j), student = hn::LoadU(d, c.a.Row(r) + j);
          const auto free = hn::And(in, hn::Ge(student, least));
          const auto weight = ClampWeight(d, student), log_weight = Log(d, hn::Mul(scale, weight));
          cross = hn::Add(cross, hn::IfThenElseZero(in, hn::Mul(teacher, log_weight)));
          clamped = hn::Add(clamped, hn::IfThenElseZero(in, weight));
          free_true = hn::Add(free_true, hn::IfThenElseZero(free, teacher));
          free_pred = hn::Add(free_pred, hn::IfThenElseZero(free, student));
        }
        row[r].cross += hn::GetLane(hn::SumOfLanes(d, cross));
        row[r].clamped += hn::GetLane(hn::SumOfLanes(d, clamped)) + double(kLeastWeight) * double(c.Columns(t) - end);
        row[r].free_true += hn::GetLane(hn::SumOfLanes(d, free_true));
        row[r].free_pred += hn::GetLane(hn::SumOfLanes(d, free_pred));
      }
      each_tile(t);
    }
    int64_t rest = 0;  // keys of tiles that no query of the chunk meets
    for (int64_t t = grid_.Count() - 1; t >= 0 && !c.LinearTile(t); t--) rest += int64_t(c.Columns(t));
    for (size_t r = 0; r < c.n; r++) row[r].clamped += double(kLeastWeight) * double(rest);
  }

  KeyTiles keys;
  Chunk chunk;
  Matrix a_true;    // weights of the teacher; chunk.a: those of the student
  Matrix features;  // of every key
  Row row[kMaxChunk];

 private:
  const Problem& p_;
  const Grid& grid_;
  SingleKeys single_;
};

#endif  // ATTUNE_ISA
}  // namespace HWY_NAMESPACE
}  // namespace hedgehog
HWY_AFTER_NAMESPACE();
#endif  // toggled include guard
