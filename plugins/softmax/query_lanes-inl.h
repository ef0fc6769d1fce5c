// Attention of a tile of query rows with the queries in the lanes of vectors: scores are kept transposed, kPanel queries
// wide, so that the softmax runs down the lanes, without sums across them. Keys enter the first product by broadcast,
// weights the second one: nothing but the queries is transposed, and the outputs come as rows.
// For problems whose scores are used as they are (IsPlain).
#if defined(ATTUNE_SOFTMAX_QUERY_LANES_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef ATTUNE_SOFTMAX_QUERY_LANES_INL_H_
#undef ATTUNE_SOFTMAX_QUERY_LANES_INL_H_
#else
#define ATTUNE_SOFTMAX_QUERY_LANES_INL_H_
#endif
#include "_kit/ahead.h"
#include "_kit/weighted_rows-inl.h"
#include "softmax/attention-inl.h"
#include "softmax/row_tiles.h"

HWY_BEFORE_NAMESPACE();
namespace softmax {
namespace HWY_NAMESPACE {
#if ATTUNE_ISA
using kit::kLaneTileRows;

// Outputs are kept as rows and need no transposition; but the 16 queries of a panel make tiles of 5 rows with AVX2, and
// so few sums leave its multipliers waiting: there they lie in lanes, too.
constexpr bool kOutputRows = HWY_TARGET != HWY_AVX2;

// Whether the tensors of a call are too large for second-level caches. If not, they probably lie there, and fetching
// them would cost a few percent for nothing.
inline bool IsLarge(const Problem& c) {
  double elements = 0;
  for (const View* v : {&c.q.view, &c.k.cached.view, &c.v.cached.view, &c.o.view}) {
    double n = 1;
    for (int i = 0; i < v->Rank(); i++) n *= double(v->Dim(i));
    elements += n;
  }
  return elements > double(1 << 20);
}

// A tile of query rows of one kv head: Run does everything.
class QueryLanes {
 public:
  QueryLanes(const Problem& c, const Scratch& w, const HeadTile& x)
      : c_(c),
        w_(w),
        s_(x.t.s),
        group_(c.Group()),
        kv_head_(x.head),
        query_(x.t.first / group_),
        member_(x.t.first % group_),
        rows_(x.t.rows),
        panels_((rows_ + kPanel - 1) / kPanel),
        is_large_(IsLarge(c)) {}

  // next: the tile after this one, if it is known; its rows are fetched meanwhile.
  void Run(const HeadTile* next) {
    const Interval seen = Start();
    if (seen.end <= seen.begin) {
      for (size_t p = 0; p < panels_; p++) Finish(p);
      return;
    }
    for (int64_t j = seen.begin, end; j < seen.end; j = end) {
      end = TileEnd(j, seen.end);
      const Rows k = Load(c_.k, c_.k_scale, c_.k_zero, c_.D, j, end, w_.tile.k, w_.tile.ld_q);
      const Tile t = {j, end, k, LoadValues(j, end)};
      FetchDuring(end, seen.end, next);
      for (size_t p = 0; p < panels_; p++) {  // a panel's queries and outputs pass the first-level cache once
        if (j == seen.begin) LoadQueries(p);
        AttendTile(p, t);
        if (end == seen.end) Finish(p);
      }
    }
  }

 private:
  // Key or value rows of a tile as f32.
  struct Rows {
    const float* at;
    size_t ld;
  };
  struct Tile {
    int64_t begin, end;
    Rows k;
    kit::ValuePanels v;
  };

  // Calls f(row of the panel, head, query) for the rows of panel p in order. Divisions once, not per row.
  template <class F>
  void ForEachRow(size_t p, F f) const {
    const size_t n = RowsOf(p);
    const int64_t at = member_ + int64_t(p * kPanel);
    int64_t query = query_ + at / group_, member = at % group_;
    for (size_t i = 0; i < n; i++) {
      f(i, kv_head_ * group_ + member, query);
      if (++member == group_) member = 0, query++;
    }
  }

  // A tile's rows are equally far apart wherever they may be read in place.
  int64_t TileEnd(int64_t from, int64_t to) const {
    const int64_t end = to - from < int64_t(w_.tile.keys) ? to : from + int64_t(w_.tile.keys);
    return from < c_.k.split && c_.k.split < end ? c_.k.split : end;
  }

  // What to fetch while a tile of keys is attended: the tile that begins at `from`, if there is one before `to`; during
  // the last tile, the lines that the outputs go to, and queries and first keys of the tile of rows that comes next.
  void FetchDuring(int64_t from, int64_t to, const HeadTile* next) {
    if (!is_large_) return;
    ahead_.Clear();
    if (from < to) return FetchKeys(s_, kv_head_, from, to);
    FetchRows(c_.o, c_.Dv, s_, kv_head_, query_, rows_);
    if (!next || next->t.rows == 0) return;
    const int64_t query = next->t.first / group_;
    const Interval seen = VisibleKeys(c_, next->t.s, query);
    FetchKeys(next->t.s, next->head, seen.begin, seen.end);
    FetchRows(c_.q, c_.D, next->t.s, next->head, query, next->t.rows);
  }
  // The tile of keys and values that begins at `from`, before `to`. New keys of a step have just been written.
  void FetchKeys(const Sequence& s, int64_t head, int64_t from, int64_t to) {
    if (c_.layout == kPaged || IsCode(c_.k.cached.view) || from >= to || from >= c_.k.split) return;
    const size_t n = size_t(TileEnd(from, to) - from);
    Fetch(c_.k.cached, c_.D, s.b, head, s.k_begin + from, n);
    Fetch(c_.v.cached, c_.Dv, s.b, head, s.k_begin + from, n);
  }
  // Query or output rows; those of several heads lie apart and are left to the hardware.
  void FetchRows(const Axes& a, int64_t width, const Sequence& s, int64_t head, int64_t query, size_t n) {
    if (group_ == 1) Fetch(a, width, s.b, head, s.q_begin + query, n);
  }
  void Fetch(const Axes& a, int64_t width, int64_t b, int64_t head, int64_t row, size_t n) {
    WithElement(a.view, a.At(b, head, row), [&](const auto* first) {
      ahead_.Add(first, a.row * int64_t(sizeof(*first)), n, size_t(width) * sizeof(*first));
    });
  }

  // Finds what each query sees, clears the state. Returns the keys that any row sees.
  Interval Start() {
    Interval seen = {INT64_MAX, INT64_MIN};
    const bool alike = !c_.causal && c_.window_left < 0 && c_.window_right < 0;
    const Interval every = VisibleKeys(c_, s_, query_);
    for (size_t p = 0; p < panels_; p++) {
      Interval* visible = w_.visible + p * kPanel;
      Interval any = {INT64_MAX, INT64_MIN}, all = {INT64_MIN, INT64_MAX};
      bool has_empty = false;
      const auto see = [&](const Interval& v) {
        if (v.end <= v.begin) return void(has_empty = true);  // its result is not used
        any = {v.begin < any.begin ? v.begin : any.begin, v.end > any.end ? v.end : any.end};
        all = {v.begin > all.begin ? v.begin : all.begin, v.end < all.end ? v.end : all.end};
      };
      if (alike) {
        for (size_t i = 0; i < kPanel; i++) visible[i] = every;
        see(every);
      } else {
        for (size_t i = 0; i < kPanel; i++) visible[i] = {0, 0};
        ForEachRow(p, [&](size_t i, int64_t, int64_t query) { see(visible[i] = VisibleKeys(c_, s_, query)); });
      }
      any_[p] = any, all_[p] = all, has_empty_[p] = has_empty;
      fresh_[p] = true, done_[p] = false;
      seen = {any.begin < seen.begin ? any.begin : seen.begin, any.end > seen.end ? any.end : seen.end};
    }
    for (size_t r = 0; r < panels_ * kPanel; r++) w_.m[r] = -INFINITY, w_.sum[r] = 0;
    return seen;
  }

  size_t RowsOf(size_t p) const { return rows_ - p * kPanel < kPanel ? rows_ - p * kPanel : kPanel; }

  // Where panel p's rows lie in q or o, in elements. Returns how many rows it has.
  HWY_INLINE size_t Offsets(const Axes& a, size_t p, int64_t* at) const {
    const size_t n = RowsOf(p);
    if (group_ > 1) {
      ForEachRow(p, [&](size_t i, int64_t head, int64_t query) { at[i] = c_.QueryAt(a, s_, head, query); });
      return n;
    }
    const int64_t begin = c_.QueryAt(a, s_, kv_head_, query_ + int64_t(p * kPanel));
    for (size_t i = 0; i < n; i++) at[i] = begin + int64_t(i) * a.row;
    return n;
  }

  HWY_NOINLINE void LoadQueries(size_t p) const {
    int64_t at[kPanel];
    const size_t n = Offsets(c_.q, p, at);
    const float* pointers[kPanel];
    WithElement(c_.q.view, 0, [&](const auto* q) {
      for (size_t i = 0; i < n; i++) {
        if constexpr (sizeof(*q) == sizeof(float)) {
          pointers[i] = q + at[i];
        } else {
          float* row = w_.tile.rows + i * w_.ld_q;
          kit::Widen(q + at[i], c_.D, 1.0f, row);
          pointers[i] = row;
        }
      }
    });
    for (size_t i = n; i < kPanel; i++) pointers[i] = w_.tile.zero;
    kit::TransposeToPanel(pointers, c_.D, w_.q + p * kPanel * w_.ld_q, kPanel, float(c_.scale * kLog2E));
  }

  bool InPlace(const KeyRows& rows, int64_t j) const {
    return c_.layout != kPaged && c_.KeyAt(rows, s_, kv_head_, j).view->DType() == ATTUNE_F32;
  }
  Rows Place(const KeyRows& rows, int64_t j) const {
    const RowRef row = c_.KeyAt(rows, s_, kv_head_, j);
    return {static_cast<const float*>(row.view->Data()) + row.offset,
            size_t(j < rows.split ? rows.cached.row : rows.fresh.row)};
  }
  // Rows [begin, end): in place, or copied to `buffer`.
  Rows Load(const KeyRows& rows, const KeyRows& scales, const KeyRows& zeros, size_t width, int64_t begin, int64_t end,
            float* buffer, size_t ld) const {
    if (InPlace(rows, begin)) return Place(rows, begin);
    for (int64_t j = begin; j < end; j++) {
      float* to = buffer + size_t(j - begin) * ld;
      WithRow(c_, s_, kv_head_, j, rows, scales, zeros, width, w_.tile.rows,
              [&](const auto* p) { kit::Widen(p, width, 1.0f, to); });
    }
    return {buffer, ld};
  }
  // Output rows need values as vectors, several times per panel of queries: in place only if those are whole and either
  // lie within cache lines or are not read often.
  kit::ValuePanels LoadValues(int64_t begin, int64_t end) const {
    if (!kOutputRows) {
      const Rows v = Load(c_.v, c_.v_scale, c_.v_zero, c_.Dv, begin, end, w_.tile.v, w_.tile.ld_o);
      return {v.at, v.ld, kPanel};
    }
    constexpr size_t kFew = 4;
    const size_t n = size_t(end - begin), width = size_t(c_.Dv);
    const kit::ValuePanels packed = {w_.tile.v, kPanel, n * kPanel};
    if (!InPlace(c_.v, begin)) {
      PackValues(c_, s_, kv_head_, begin, end, n, w_.tile.rows, w_.tile.v);
      return packed;
    }
    const Rows v = Place(c_.v, begin);
    const bool across = (reinterpret_cast<uintptr_t>(v.at) / sizeof(float) | v.ld) % kLanes != 0;
    if (width % kLanes == 0 && !(across && panels_ > kFew)) return {v.at, v.ld, kPanel};
    for (size_t j = 0; j < n; j++) {
      const float* from = v.at + j * v.ld;
      float* to = w_.tile.v + j * kPanel;
      size_t e = 0;
      for (; e + kPanel <= width; e += kPanel, to += n * kPanel) kit::Widen(from + e, kPanel, 1.0f, to);
      if (e < width) kit::Widen(from + e, width - e, 1.0f, to);
    }
    return packed;
  }

  // The keys of a tile against panel p.
  HWY_NOINLINE void AttendTile(size_t p, const Tile& t) {
    HWY_ALIGN float before[kPanel];
    const kit::QueryPanel<Interval> panel = {w_.q + p * kPanel * w_.ld_q, w_.visible + p * kPanel, any_[p], all_[p],
                                             w_.m + p * kPanel,           w_.sum + p * kPanel};
    const auto keys = kit::WeighKeys(panel, t.begin, t.end, t.k.at, t.k.ld, size_t(c_.D), w_.s, before, &ahead_);
    if (keys.end == 0) return;
    if constexpr (kOutputRows) {
      AddToRows(p, t, keys, before);
    } else {
      AddToLanes(p, t, keys, before);
    }
    fresh_[p] = false;
  }

  // Adds the weighted values to the outputs of panel p. The last tile of all puts them where they belong, if it can.
  void AddToRows(size_t p, const Tile& t, const kit::WeighedKeys& keys, const float* before) {
    const float* o = w_.o + p * kPanel * w_.ld_o;
    HWY_ALIGN float after[kPanel];
    float* to[kPanel];
    done_[p] = any_[p].end <= t.end && Destinations(p, to) && !Factors(p, after);
    const size_t n = RowsOf(p);
    if (!done_[p]) {
      for (size_t i = 0; i < n; i++) to[i] = w_.o + (p * kPanel + i) * w_.ld_o;
    }
    kit::AddWeightedRows(n, size_t(c_.Dv), keys, t.v, w_.s,
                         {fresh_[p] ? nullptr : before, done_[p] ? after : nullptr, o, w_.ld_o, to});
  }

  void AddToLanes(size_t p, const Tile& t, const kit::WeighedKeys& keys, const float* before) {
    float* o = w_.o + p * kPanel * w_.ld_o;
    if (fresh_[p]) {
      memset(o, 0, sizeof(float) * kPanel * size_t(c_.Dv));
    } else {
      kit::ScaleLanes(before, size_t(c_.Dv), o);
    }
    kit::AddWeighedLanes(keys, int(c_.Dv), t.v.at, t.v.ld, w_.s, o);
  }

  // What the rows of panel p are to be multiplied with; stores their lse. Of a row that sees no key the sum becomes 0.
  // Returns whether the sum of a row is 0.
  bool Factors(size_t p, float* factors) {
    float* sum = w_.sum + p * kPanel;
    if (has_empty_[p]) {
      for (size_t i = 0; i < kPanel; i++) {
        const size_t r = p * kPanel + i;
        if (w_.visible[r].end <= w_.visible[r].begin) w_.m[r] = -INFINITY, sum[i] = 0;
      }
    }
    const hn::ScalableTag<float> d;
    bool zeros = false;
    for (size_t i = 0; i < kPanel; i += kLanes) {
      const auto total = hn::LoadU(d, sum + i);
      const auto none = hn::Eq(total, hn::Zero(d));  // a sum of NaN is no empty row
      hn::StoreU(hn::IfThenZeroElse(none, hn::Div(hn::Set(d, 1.0f), total)), d, factors + i);
      zeros |= !hn::AllFalse(d, none);
    }
    if (c_.sinks || c_.lse.view) {
      ForEachRow(p, [&](size_t i, int64_t head, int64_t query) {
        factors[i] = FactorOfRow(c_, s_, head, query, w_.m[p * kPanel + i] * kLn2, sum[i]);
      });
    }
    return zeros;
  }

  // Where the outputs of panel p belong, if they can be stored there as whole vectors of f32.
  bool Destinations(size_t p, float** to) const {
    if (c_.o.view.DType() != ATTUNE_F32 || c_.Dv % int64_t(kLanes) != 0) return false;
    int64_t at[kPanel];
    const size_t n = Offsets(c_.o, p, at);
    for (size_t i = 0; i < n; i++) to[i] = static_cast<float*>(c_.o.view.Data()) + at[i];
    return true;
  }

  // Normalises and stores the rows of panel p, unless its last tile has done so.
  HWY_NOINLINE void Finish(size_t p) {
    if (done_[p]) return;
    HWY_ALIGN float factors[kPanel];
    int64_t at[kPanel];
    Factors(p, factors);
    const size_t n = Offsets(c_.o, p, at), width = size_t(c_.Dv);
    WithElement(c_.o.view, 0, [&](auto* out) {
      using T = std::remove_cv_t<std::remove_pointer_t<decltype(out)>>;
      const auto store = [&](size_t i, float* row, size_t e, size_t columns) {
        if (w_.sum[p * kPanel + i] == 0) memset(row, 0, sizeof(float) * columns);
        kit::Narrow(row, columns, factors[i], const_cast<T*>(out) + at[i] + e);
      };
      float* o = w_.o + p * kPanel * w_.ld_o;
      if (kOutputRows) {
        for (size_t i = 0; i < n; i++) store(i, o + i * w_.ld_o, 0, width);
        return;
      }
      for (size_t e = 0; e < width; e += kPanel) {
        const float* pointers[kPanel];
        for (size_t i = 0; i < kPanel; i++) pointers[i] = e + i < width ? o + (e + i) * kPanel : w_.tile.zero;
        kit::TransposeToPanel(pointers, kPanel, w_.tile.rows);
        for (size_t i = 0; i < n; i++) store(i, w_.tile.rows + i * kPanel, e, width - e < kPanel ? width - e : kPanel);
      }
    });
  }

  const Problem& c_;
  const Scratch& w_;
  const Sequence& s_;
  int64_t group_, kv_head_, query_, member_;  // heads of a group; the first row's query and head in the group
  size_t rows_, panels_;
  bool is_large_;
  attune_kit::Ahead ahead_;
  Interval any_[kMaxQueryRows / kPanel], all_[kMaxQueryRows / kPanel];  // keys that any and that all of a panel see
  bool has_empty_[kMaxQueryRows / kPanel];                               // a row of the panel sees no key
  bool fresh_[kMaxQueryRows / kPanel], done_[kMaxQueryRows / kPanel];    // nothing lies in its outputs; all is stored
};

#endif  // ATTUNE_ISA
}  // namespace HWY_NAMESPACE
}  // namespace softmax
HWY_AFTER_NAMESPACE();
#endif  // toggled include guard
