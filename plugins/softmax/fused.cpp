#include "softmax/fused.h"

#include "_kit/isa.h"
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "softmax/fused.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>
#include <math.h>
#include <string.h>
#include <type_traits>

#include "_kit/online_softmax-inl.h"
#include "_kit/pack-inl.h"
#include "_kit/tile-inl.h"
#include "softmax/problem.h"
#include "softmax/rows-inl.h"
#include "softmax/scores-inl.h"
#include "softmax/visible.h"

HWY_BEFORE_NAMESPACE();
namespace softmax {
namespace HWY_NAMESPACE {
#if ATTUNE_ISA
namespace {

using kit::kTileRows;
// Query rows whose scores are kept at a time: few enough for the first-level cache, so that only packed keys and values come from the
// second. A multiple of kTileRows.
#ifndef BLK
#define BLK 4
#endif
constexpr size_t kBlockRows = BLK * kTileRows;
constexpr double kLog2E = 1.4426950408889634, kLn2 = 0.6931471805599453;

// One worker's slice of the workspace. The expression in plugin.cpp reserves exactly this.
struct Scratch {
  size_t ld_q, ld_o, ld_s;  // row lengths in floats
  float *q, *o, *s;         // query rows, outputs, scores: one row per query row
  float *m, *sum;           // softmax state: maximum, kLanes partial sums
  Interval* visible;        // keys of each query row
  float *k, *v;             // packed keys and values of the current tile
  float *rows, *zero;       // kPanel rows, and one row of zeros, for packing

  Scratch(const attune_exec& x, const Problem& c) {
    const size_t queries = x.knobs[kQueryRows], keys = x.knobs[kKeyRows];
    ld_q = (c.D + 31) / 32 * 32, ld_o = (c.Dv + 31) / 32 * 32, ld_s = keys + 16;
    const size_t floats = queries * (ld_q + ld_o + keys + 48) + (keys + 33) * (ld_q + ld_o);
    float* at = static_cast<float*>(x.workspace) + x.worker * floats;
    const auto take = [&](size_t n) {
      float* p = at;
      at += n;
      return p;
    };
    q = take(queries * ld_q), o = take(queries * ld_o), s = take(queries * ld_s);
    k = take(keys * ld_q), v = take(keys * ld_o);
    rows = take(32 * (ld_q + ld_o)), zero = take(ld_q + ld_o);
    sum = take(queries * 16), visible = reinterpret_cast<Interval*>(take(queries * 4)), m = take(queries);
    memset(zero, 0, sizeof(float) * ld_q);
  }
};

// Keys of a group of kTileRows query rows within a key tile, counted from its first key: those that any row sees, and
// those that all rows see. Only the latter may go through a product of whole tiles, because 0 * NaN is not 0; the rest
// is added row by row.
struct GroupKeys {
  size_t any_begin, any_end, all_begin, all_end;
};

class Attention {
 public:
  // `fresh` rows of one kv head of one sequence, from `first` on.
  Attention(const Problem& c, const Scratch& w, const Sequence& s, int64_t head, int64_t first, size_t rows,
            size_t key_rows)
      : c_(c), w_(w), s_(s), head_(head), first_(first), rows_(rows), key_rows_(key_rows) {}

  // kPlain: nothing happens to a score between q.k and the softmax, so scores are kept in units of log2.
  template <bool kPlain>
  void Run() {
    const Interval all = Begin(kPlain ? c_.scale * kLog2E : c_.scale);
    for (int64_t j = all.begin; j < all.end; j += key_rows_) {
      const int64_t end = all.end - j < int64_t(key_rows_) ? all.end : j + int64_t(key_rows_);
      PackKeys(c_, s_, head_, j, end, w_.ld_q, w_.rows, w_.zero, w_.k);
      PackValues(c_, s_, head_, j, end, key_rows_, w_.rows, w_.v);
      FindGroups(j, end);
      for (size_t r = 0; r < rows_; r += kBlockRows) {
        block_ = r, block_end_ = rows_ < r + kBlockRows ? rows_ : r + kBlockRows;
        Scores();
        for (size_t i = block_; i < block_end_; i++) Weights<kPlain>(i, j, end);
        Accumulate(j, end);
      }
    }
    for (size_t r = 0; r < rows_; r++) Finish<kPlain>(r);
  }

 private:
  float* Score(size_t r) const { return w_.s + (r - block_) * w_.ld_s; }
  int64_t Query(size_t r) const { return (first_ + int64_t(r)) / c_.Group(); }
  int64_t Head(size_t r) const { return head_ * c_.Group() + (first_ + int64_t(r)) % c_.Group(); }

  // Loads the queries, finds what each sees, clears the state. Returns the keys that any row sees.
  Interval Begin(double scale) {
    Interval all = {INT64_MAX, INT64_MIN};
    const int64_t size = c_.q.view.DType() == ATTUNE_F32 ? 4 : 2;
    for (size_t r = 0; r < rows_; r++) {
      const int64_t at = c_.QueryAt(c_.q, s_, Head(r), Query(r));
      kit::WithFloatType(c_.q.view.DType(), static_cast<const char*>(c_.q.view.Data()) + at * size,
                         [&](const auto* p) { kit::Widen(p, c_.D, float(scale), w_.q + r * w_.ld_q); });
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

  // Keys of row r in the tile [begin, end), counted from begin; empty when the second is not larger.
  Interval InTile(size_t r, int64_t begin, int64_t end) const {
    const Interval v = w_.visible[r];
    return {(v.begin > begin ? v.begin : begin) - begin, (v.end < end ? v.end : end) - begin};
  }

  void FindGroups(int64_t begin, int64_t end) {
    for (size_t r = 0; r < rows_; r += kTileRows) {
      const int64_t keys = end - begin;
      Interval any = {keys, 0}, all = {0, keys};
      for (size_t i = r; i < rows_ && i < r + kTileRows; i++) {
        if (w_.visible[i].end <= w_.visible[i].begin) continue;  // an empty row: its result is not used
        const Interval v = InTile(i, begin, end);
        if (v.end > v.begin) any = {v.begin < any.begin ? v.begin : any.begin, v.end > any.end ? v.end : any.end};
        all = {v.begin > all.begin ? v.begin : all.begin, v.end < all.end ? v.end : all.end};
      }
      if (any.end <= any.begin) any = {0, 0};
      if (any.end == 0 || all.end <= all.begin) all = {0, 0};
      groups_[r / kTileRows] = {size_t(any.begin), size_t(any.end), size_t(all.begin), size_t(all.end)};
    }
  }

  void Scores() {
    for (size_t panel = 0; panel < key_rows_; panel += kPanel) {
      for (size_t r = block_; r < block_end_; r += kTileRows) {
        const GroupKeys& g = groups_[r / kTileRows];
        if (g.any_begin >= panel + kPanel || g.any_end <= panel) continue;
        const int n = rows_ - r < kTileRows ? int(rows_ - r) : kTileRows;
        kit::TileRows<2, false>(n, c_.D, w_.q + r * w_.ld_q, w_.ld_q, w_.k + panel * c_.D, w_.s + r * w_.ld_s + panel,
                                w_.ld_s);
      }
    }
  }

  template <bool kPlain>
  HWY_NOINLINE void Weights(size_t r, int64_t begin, int64_t end) {
    const Interval v = InTile(r, begin, end);
    if (v.end <= v.begin) return;
    float* s = Score(r);
    if constexpr (!kPlain) ModifyScores(c_, s_, Head(r), Query(r), begin + v.begin, s + v.begin, v.end - v.begin);
    if (c_.sigmoid) return SigmoidWeights(s, v.begin, v.end, float(c_.sigmoid_bias));
    const float factor = kit::OnlineSoftmax<kPlain>(s, v.begin, v.end, w_.m + r, w_.sum + r * kLanes);
    if (factor != 1) kit::ScaleRow(w_.o + r * w_.ld_o, (c_.Dv + kLanes - 1) / kLanes * kLanes, factor);
  }

  void Accumulate(int64_t begin, int64_t end) {
    const size_t columns = c_.Dv;
    for (size_t e = 0; e < columns; e += kPanel) {
      const float* panel = w_.v + e * key_rows_;
      for (size_t r = block_; r < block_end_; r += kTileRows) {
        const GroupKeys& g = groups_[r / kTileRows];
        if (g.all_end == g.all_begin) continue;
        const int n = rows_ - r < kTileRows ? int(rows_ - r) : kTileRows;
        const float* p = Score(r) + g.all_begin;
        const float* v = panel + g.all_begin * kPanel;
        float* o = w_.o + r * w_.ld_o + e;
        if (columns - e > kLanes) {
          kit::TileRows<2, true>(n, g.all_end - g.all_begin, p, w_.ld_s, v, o, w_.ld_o);
        } else {
          kit::TileRows<1, true>(n, g.all_end - g.all_begin, p, w_.ld_s, v, o, w_.ld_o);
        }
      }
    }
    for (size_t r = block_; r < block_end_; r++) {
      const Interval v = InTile(r, begin, end);
      if (v.end <= v.begin) continue;
      const GroupKeys& g = groups_[r / kTileRows];
      if (g.all_end == g.all_begin) {
        AddKeys(r, v.begin, v.end);
      } else {
        AddKeys(r, v.begin, g.all_begin);
        AddKeys(r, g.all_end, v.end);
      }
    }
  }

  // o[r] += sum over keys [begin, end) of the tile of weight * value.
  void AddKeys(size_t r, size_t begin, size_t end) {
    if (begin >= end) return;
    const float* p = Score(r);
    float* o = w_.o + r * w_.ld_o;
    for (size_t e = 0; e < size_t(c_.Dv); e += kPanel) {
      const float* v = w_.v + e * key_rows_ + begin * kPanel;
      if (c_.Dv - e > kLanes) {
        kit::Tile<1, 2, true>(end - begin, p + begin, 0, v, o + e, 0);
      } else {
        kit::Tile<1, 1, true>(end - begin, p + begin, 0, v, o + e, 0);
      }
    }
  }

  // Normalises and stores row r.
  template <bool kPlain>
  HWY_NOINLINE void Finish(size_t r) {
    const hn::ScalableTag<float> d;
    double m = kPlain ? w_.m[r] * kLn2 : w_.m[r], factor = 1, total = 1;
    if (!c_.sigmoid) {
      total = hn::GetLane(hn::SumOfLanes(d, hn::LoadU(d, w_.sum + r * kLanes)));
      if (c_.sinks) {
        const double sink = c_.sinks.Get(Head(r)), top = sink > m ? sink : m;
        factor = m > -INFINITY ? exp(m - top) : 0;
        total = total * factor + (sink > -INFINITY ? exp(sink - top) : 0);
        m = top;
      }
    }
    float* row = w_.o + r * w_.ld_o;
    // No visible key, or all of them masked: the row is 0 whatever lies in the accumulator. A total of NaN is no empty
    // row.
    if (w_.visible[r].end <= w_.visible[r].begin || total == 0) {
      memset(row, 0, sizeof(float) * w_.ld_o);
      factor = 0;
    }
    const int64_t at = c_.QueryAt(c_.o, s_, Head(r), Query(r));
    const int64_t size = c_.o.view.DType() == ATTUNE_F32 ? 4 : 2;
    kit::WithFloatType(c_.o.view.DType(), static_cast<char*>(c_.o.view.Data()) + at * size, [&](const auto* p) {
      using T = std::remove_cv_t<std::remove_pointer_t<decltype(p)>>;
      kit::Narrow(row, c_.Dv, factor == 0 ? 0.0f : float(factor / total), const_cast<T*>(p));
    });
    if (c_.lse.view) {
      float* lse = static_cast<float*>(c_.lse.view.Data()) + c_.QueryAt(c_.lse, s_, Head(r), Query(r));
      *lse = total == 0 ? -INFINITY : float(m + log(total));
    }
  }

  const Problem& c_;
  const Scratch& w_;
  const Sequence& s_;
  int64_t head_, first_;
  size_t rows_, key_rows_;
  size_t block_ = 0, block_end_ = 0;  // the query rows whose scores are in w_.s
  GroupKeys groups_[kMaxQueryRows / kTileRows];
};

// Runs the tile of query rows `tile` of one kv head. False when the sequence has no such tile.
void RunTile(const attune_exec& x, const Problem& c, const Scratch& w, const Sequence& s, int64_t head, int64_t tile) {
  const int64_t queries = x.knobs[kQueryRows], first = tile * queries, rows = s.nq * c.Group() - first;
  if (rows <= 0) return;
  Attention task(c, w, s, head, first, rows < queries ? rows : queries, x.knobs[kKeyRows]);
  const bool plain = !c.sigmoid && c.softcap == 0 && !c.slopes && !c.bias && !c.mask;
  if (plain) return task.Run<true>();
  task.Run<false>();
}

bool Cancelled(const attune_exec& x) {
  return x.cancel && __atomic_load_n(x.cancel, __ATOMIC_RELAXED);
}

int64_t Tiles(const attune_exec& x, const Problem& c, const Sequence& s) {
  return (s.nq * c.Group() + x.knobs[kQueryRows] - 1) / x.knobs[kQueryRows];
}

// Layout bhnd: every sequence has the same number of tiles. The last tiles come first: with causal they are the
// longest.
template <class F>
attune_status ForEachTile(const attune_exec& x, const Problem& c, F f) {
  const int64_t heads = c.B * c.Hkv;
  const int64_t count = heads > 0 ? Tiles(x, c, c.At(0)) : 0;
  for (int64_t task = x.task_begin; task < x.task_end; task++) {
    if (Cancelled(x)) return ATTUNE_E_CANCELLED;
    const int64_t head = task % heads;
    f(c.At(head / c.Hkv), head % c.Hkv, (count > 0 ? count - 1 : 0) - task / heads);
  }
  return ATTUNE_OK;
}

// Packed layouts: the tiles of all sequences in order; `tasks` is an upper bound of their number.
template <class F>
attune_status ForEachPackedTile(const attune_exec& x, const Problem& c, F f) {
  for (int64_t task = x.task_begin; task < x.task_end; task++) {
    if (Cancelled(x)) return ATTUNE_E_CANCELLED;
    int64_t tile = task / c.Hkv;
    for (int64_t b = 0; b < c.B; b++) {
      const Sequence s = c.At(b);
      const int64_t count = Tiles(x, c, s);
      if (tile < count) {
        f(s, task % c.Hkv, tile);
        break;
      }
      tile -= count;
    }
  }
  return ATTUNE_OK;
}

}  // namespace

attune_status FusedForward(const attune_exec* x) {
  const Problem c = ReadForward(*x);
  const Scratch w(*x, c);
  const auto run = [&](const Sequence& s, int64_t head, int64_t tile) { RunTile(*x, c, w, s, head, tile); };
  return c.layout == kBhnd ? ForEachTile(*x, c, run) : ForEachPackedTile(*x, c, run);
}

attune_status FusedStep(const attune_exec* x) {
  const Problem c = ReadStep(*x);
  const Scratch w(*x, c);
  return ForEachTile(*x, c, [&](const Sequence& s, int64_t head, int64_t tile) {
    RunTile(*x, c, w, s, head, tile);
    if (tile == 0) WriteCaches(c, s.b, head);  // reads the inputs only, so its order among the tiles does not matter
  });
}

#endif  // ATTUNE_ISA
}  // namespace HWY_NAMESPACE
}  // namespace softmax
HWY_AFTER_NAMESPACE();
