// Attention of a tile of query rows: one pass over the keys that any of them sees, tile by tile, with an online
// softmax.
#if defined(ATTUNE_SOFTMAX_ATTENTION_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef ATTUNE_SOFTMAX_ATTENTION_INL_H_
#undef ATTUNE_SOFTMAX_ATTENTION_INL_H_
#else
#define ATTUNE_SOFTMAX_ATTENTION_INL_H_
#endif
#include <math.h>
#include <string.h>

#include <type_traits>

#include "_kit/online_softmax-inl.h"
#include "softmax/fused.h"
#include "softmax/scores-inl.h"
#include "softmax/tile_keys-inl.h"
#include "softmax/visible.h"

HWY_BEFORE_NAMESPACE();
namespace softmax {
namespace HWY_NAMESPACE {
#if ATTUNE_ISA

constexpr double kLog2E = 1.4426950408889634, kLn2 = 0.6931471805599453;
// Query rows whose scores are kept at a time: few enough for the first-level cache, so that only packed keys and values
// come from the second. A multiple of kTileRows.
constexpr size_t kBlockRows = 4 * kTileRows;

// One worker's slice of the workspace, for tiles of `queries` rows and `keys` keys. Its size is what
// ATTUNE_SOFTMAX_SCRATCH in plugin.cpp says.
struct Scratch {
  size_t ld_q, ld_o, ld_s;  // row lengths in floats
  float *q, *o;             // query rows and outputs
  float* s;                 // scores of a block of rows
  float *m, *sum;           // softmax state: maximum, kLanes partial sums
  Interval* visible;        // keys of each query row
  TileMemory tile;
  float* end;               // behind the slices of all workers

  Scratch(const attune_exec& x, uint32_t worker, const Problem& c, size_t queries, size_t keys) {
    ld_q = (c.D + 31) / 32 * 32, ld_o = (c.Dv + 31) / 32 * 32, ld_s = keys + 16;
    const size_t floats = queries * (ld_q + ld_o + 48) + 32 * (keys + 16) + (keys + 33) * (ld_q + ld_o);
    float* at = static_cast<float*>(x.workspace) + worker * floats;
    const auto take = [&](size_t n) {
      float* p = at;
      at += n;
      return p;
    };
    static_assert(kBlockRows <= 32, "the workspace has room for the scores of 32 rows");
    q = take(queries * ld_q), o = take(queries * ld_o), s = take(32 * ld_s);
    tile = {keys, ld_q, ld_o, take(keys * ld_q), take(keys * ld_o), take(32 * (ld_q + ld_o)), take(ld_q + ld_o)};
    sum = take(queries * 16), visible = reinterpret_cast<Interval*>(take(queries * 4)), m = take(queries);
    memset(tile.zero, 0, sizeof(float) * ld_q);
    end = static_cast<float*>(x.workspace) + x.n_workers * floats;
  }
};

// Nothing happens to a score between q.k and the softmax, so scores may be kept in units of log2.
inline bool IsPlain(const Problem& c) {
  return !c.sigmoid && c.softcap == 0 && !c.slopes && !c.bias && !c.mask;
}

// What the outputs that query i of head h has accumulated are to be multiplied with; stores its lse. m is the maximum
// of its scores and total the sum of exp(score - m); 0 when it sees no key, and then the outputs are 0 whatever lies in
// the accumulator. With sigmoid the total is 1.
HWY_INLINE float FactorOfRow(const Problem& c, const Sequence& s, int64_t h, int64_t i, double m, double total) {
  double factor = 1;
  if (c.sinks && !c.sigmoid) {
    const double sink = c.sinks.Get(h), top = sink > m ? sink : m;
    factor = m > -INFINITY ? exp(m - top) : 0;
    total = total * factor + (sink > -INFINITY ? exp(sink - top) : 0);
    m = top;
  }
  if (c.lse.view) {
    float* lse = static_cast<float*>(c.lse.view.Data()) + c.QueryAt(c.lse, s, h, i);
    *lse = total == 0 ? -INFINITY : float(m + log(total));
  }
  return total == 0 || factor == 0 ? 0.0f : float(factor / total);
}

// Calls f(pointer) with the address of element `at` of a tensor of floats.
template <class F>
HWY_INLINE void WithElement(const View& view, int64_t at, F f) {
  const int64_t size = view.DType() == ATTUNE_F32 ? 4 : 2;
  kit::WithFloatType(view.DType(), static_cast<const char*>(view.Data()) + at * size, f);
}

// `rows` query rows of one kv head of one sequence, from `first` on: Start, then Attend or Take any number of times,
// then Finish or Save. Keys: PackedKeys or KeysInPlace.
template <class Keys, bool kPlain>
class Attention {
 public:
  Attention(const Problem& c, const Scratch& w, const Sequence& s, int64_t head, int64_t first, size_t rows)
      : c_(c), w_(w), s_(s), head_(head), first_(first), rows_(rows), keys_(c, s, head, w.tile) {}

  // Loads the queries, finds what each sees, clears the state. Returns the keys that any row sees.
  Interval Start() {
    const float scale = float(kPlain ? c_.scale * kLog2E : c_.scale);
    Interval all = {INT64_MAX, INT64_MIN};
    for (size_t r = 0; r < rows_; r++) {
      WithElement(c_.q.view, c_.QueryAt(c_.q, s_, Head(r), Query(r)),
                  [&](const auto* p) { kit::Widen(p, c_.D, scale, w_.q + r * w_.ld_q); });
      const Interval v = w_.visible[r] = VisibleKeys(c_, s_, Query(r));
      if (v.end <= v.begin) continue;
      if (v.begin < all.begin) all.begin = v.begin;
      if (v.end > all.end) all.end = v.end;
    }
    for (size_t r = 0; r < rows_; r++) w_.m[r] = -INFINITY;
    memset(w_.sum, 0, sizeof(float) * rows_ * kLanes);
    memset(w_.o, 0, sizeof(float) * rows_ * w_.ld_o);
    return all;
  }

  // Takes in those keys of [from, to) that the rows see.
  void Attend(int64_t from, int64_t to) {
    const int64_t step = int64_t(w_.tile.keys);
    for (int64_t j = from; j < to; j = end_) {
      begin_ = j, end_ = to - j < step ? to : j + step;
      keys_.Load(begin_, end_);
      FindGroups();
      for (size_t r = 0; r < rows_; r += kBlockRows) {
        const size_t n = rows_ - r < kBlockRows ? rows_ - r : kBlockRows;
        const Block block = {
            n, w_.ld_q, w_.ld_s, w_.ld_o, w_.q + r * w_.ld_q, w_.s, w_.o + r * w_.ld_o, groups_ + r / kTileRows};
        keys_.Scores(block);
        for (size_t i = 0; i < n; i++) Weights(r + i, w_.s + i * w_.ld_s);
        keys_.Add(block);
        for (size_t i = 0; i < n; i++) AddRest(r + i, w_.s + i * w_.ld_s);
      }
    }
  }

  // Normalises and stores the rows.
  void Finish() {
    for (size_t r = 0; r < rows_; r++) FinishRow(r);
  }

  // The state of a row as one array: what it has accumulated, its maximum and sum.
  static size_t PartSize(const Scratch& w) { return w.ld_o + 16; }
  // Writes the state of row r to parts + r * distance.
  void Save(float* parts, size_t distance) const {
    const hn::ScalableTag<float> d;
    for (size_t r = 0; r < rows_; r++, parts += distance) {
      memcpy(parts, w_.o + r * w_.ld_o, sizeof(float) * w_.ld_o);
      parts[w_.ld_o] = w_.m[r];
      parts[w_.ld_o + 1] = hn::GetLane(hn::SumOfLanes(d, hn::LoadU(d, w_.sum + r * kLanes)));
    }
  }
  // Takes in what another Attention saved, over other keys.
  void Take(const float* parts, size_t distance) {
    for (size_t r = 0; r < rows_; r++, parts += distance) {
      const float old = w_.m[r], m = parts[w_.ld_o], now = m > old ? m : old;
      const float top = now == -INFINITY ? 0 : now;  // never -inf - -inf
      const float keep = Exponential(old - top), factor = c_.sigmoid ? 1 : Exponential(m - top);
      float *o = w_.o + r * w_.ld_o, *sum = w_.sum + r * kLanes;
      if (keep != 1 && !c_.sigmoid) kit::ScaleRow(o, w_.ld_o, keep);
      kit::AddScaled(parts, w_.ld_o, factor, o);
      *sum = *sum * keep + parts[w_.ld_o + 1] * factor;
      w_.m[r] = now;
    }
  }

 private:
  int64_t Query(size_t r) const { return (first_ + int64_t(r)) / c_.Group(); }
  int64_t Head(size_t r) const { return head_ * c_.Group() + (first_ + int64_t(r)) % c_.Group(); }

  static float Exponential(float x) {
    const hn::ScalableTag<float> d;
    return hn::GetLane(kit::ExpOf<kPlain>(d, hn::Set(d, x)));
  }

  // Keys of row r in the current tile, counted from its first; empty when the second is not larger.
  Interval InTile(size_t r) const {
    const Interval v = w_.visible[r];
    return {(v.begin > begin_ ? v.begin : begin_) - begin_, (v.end < end_ ? v.end : end_) - begin_};
  }

  void FindGroups() {
    const int64_t keys = end_ - begin_;
    for (size_t r = 0; r < rows_; r += kTileRows) {
      Interval any = {keys, 0}, all = {0, keys};
      for (size_t i = r; i < rows_ && i < r + kTileRows; i++) {
        if (w_.visible[i].end <= w_.visible[i].begin) continue;  // an empty row: its result is not used
        const Interval v = InTile(i);
        if (v.end > v.begin) any = {v.begin < any.begin ? v.begin : any.begin, v.end > any.end ? v.end : any.end};
        all = {v.begin > all.begin ? v.begin : all.begin, v.end < all.end ? v.end : all.end};
      }
      if (any.end <= any.begin) any = {0, 0};
      if (any.end == 0 || all.end <= all.begin) all = {0, 0};
      groups_[r / kTileRows] = {size_t(any.begin), size_t(any.end), size_t(all.begin), size_t(all.end)};
    }
  }

  // Scores s of row r become weights; what the row has accumulated is scaled to the new maximum.
  HWY_NOINLINE void Weights(size_t r, float* s) {
    const Interval v = InTile(r);
    if (v.end <= v.begin) return;
    if constexpr (!kPlain) ModifyScores(c_, s_, Head(r), Query(r), begin_ + v.begin, s + v.begin, v.end - v.begin);
    if (c_.sigmoid) return SigmoidWeights(s, v.begin, v.end, float(c_.sigmoid_bias));
    const float factor = kit::OnlineSoftmax<kPlain>(s, v.begin, v.end, w_.m + r, w_.sum + r * kLanes);
    if (factor != 1) kit::ScaleRow(w_.o + r * w_.ld_o, (c_.Dv + kLanes - 1) / kLanes * kLanes, factor);
  }

  // The keys of row r that are not its whole group's.
  void AddRest(size_t r, const float* p) const {
    const Interval v = InTile(r);
    if (v.end <= v.begin) return;
    const GroupKeys& g = groups_[r / kTileRows];
    float* o = w_.o + r * w_.ld_o;
    if (g.all_end == g.all_begin) return keys_.AddRow(p, v.begin, v.end, o);
    if (size_t(v.begin) < g.all_begin) keys_.AddRow(p, v.begin, g.all_begin, o);
    if (size_t(v.end) > g.all_end) keys_.AddRow(p, g.all_end, v.end, o);
  }

  HWY_NOINLINE void FinishRow(size_t r) {
    const hn::ScalableTag<float> d;
    const bool empty = w_.visible[r].end <= w_.visible[r].begin;
    const double total = hn::GetLane(hn::SumOfLanes(d, hn::LoadU(d, w_.sum + r * kLanes)));
    float* row = w_.o + r * w_.ld_o;
    // A total of NaN is no empty row.
    if (empty || (total == 0 && !c_.sigmoid)) memset(row, 0, sizeof(float) * w_.ld_o);
    const float factor = FactorOfRow(c_, s_, Head(r), Query(r), empty ? -INFINITY : w_.m[r] * (kPlain ? kLn2 : 1),
                                     empty ? 0 : c_.sigmoid ? 1 : total);
    WithElement(c_.o.view, c_.QueryAt(c_.o, s_, Head(r), Query(r)), [&](const auto* p) {
      using T = std::remove_cv_t<std::remove_pointer_t<decltype(p)>>;
      kit::Narrow(row, c_.Dv, factor, const_cast<T*>(p));
    });
  }

  const Problem& c_;
  const Scratch& w_;
  const Sequence& s_;
  int64_t head_, first_;
  size_t rows_;
  Keys keys_;
  int64_t begin_ = 0, end_ = 0;  // the current tile
  GroupKeys groups_[kMaxQueryRows / kTileRows + 1];
};

#endif  // ATTUNE_ISA
}  // namespace HWY_NAMESPACE
}  // namespace softmax
HWY_AFTER_NAMESPACE();
#endif  // toggled include guard
