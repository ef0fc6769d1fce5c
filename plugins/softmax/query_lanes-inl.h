// Attention of a tile of query rows with the queries in the lanes of vectors: scores and outputs are kept transposed,
// kPanel queries wide. Keys and values then enter the products by broadcast, so f32 ones are read where they lie and
// nothing of them is transposed or copied; and the softmax runs down the lanes, without sums across them.
// For problems whose scores are used as they are (IsPlain).
#if defined(ATTUNE_SOFTMAX_QUERY_LANES_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef ATTUNE_SOFTMAX_QUERY_LANES_INL_H_
#undef ATTUNE_SOFTMAX_QUERY_LANES_INL_H_
#else
#define ATTUNE_SOFTMAX_QUERY_LANES_INL_H_
#endif
#include <hwy/cache_control.h>

#include "_kit/query_lanes-inl.h"
#include "softmax/attention-inl.h"

HWY_BEFORE_NAMESPACE();
namespace softmax {
namespace HWY_NAMESPACE {
#if ATTUNE_ISA
using kit::kLaneTileRows;

// `rows` query rows of one kv head of one sequence, from `first` on.
class QueryLanes {
 public:
  QueryLanes(const Problem& c, const Scratch& w, const Sequence& s, int64_t head, int64_t first, size_t rows)
      : c_(c),
        w_(w),
        s_(s),
        group_(c.Group()),
        kv_head_(head),
        query_(first / group_),
        member_(first % group_),
        rows_(rows),
        panels_((rows + kPanel - 1) / kPanel) {}

  void Run() {
    const Interval seen = Start();
    for (int64_t j = seen.begin, end; j < seen.end; j = end) {
      end = TileEnd(j, seen.end);
      const int64_t after = end < seen.end ? TileEnd(end, seen.end) : end;
      const Rows k = Load(c_.k, c_.k_scale, c_.k_zero, c_.D, j, end, w_.tile.k, w_.tile.ld_q);
      const Rows v = Load(c_.v, c_.v_scale, c_.v_zero, c_.Dv, j, end, w_.tile.v, w_.tile.ld_o);
      const Rows next_k = Ahead(c_.k, end, after), next_v = Ahead(c_.v, end, after);
      for (size_t p = 0; p < panels_; p++) AttendTile(p, j, end, k, v, next_k, next_v, size_t(after - end));
    }
    for (size_t p = 0; p < panels_; p++) Finish(p);
  }

 private:
  // Key or value rows of a tile as f32.
  struct Rows {
    const float* at;
    size_t ld;
  };

  // Calls f(row of the panel, head, query) for the rows of panel p in order. Divisions once, not per row.
  template <class F>
  void ForEachRow(size_t p, F f) const {
    const size_t first = p * kPanel, n = rows_ - first < kPanel ? rows_ - first : kPanel;
    const int64_t at = member_ + int64_t(first);
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

  // Transposes the queries, finds what each sees, clears the state. Returns the keys that any row sees.
  Interval Start() {
    Interval seen = {INT64_MAX, INT64_MIN};
    for (size_t p = 0; p < panels_; p++) {
      LoadQueries(p);
      Interval any = {INT64_MAX, INT64_MIN}, all = {INT64_MIN, INT64_MAX};
      for (size_t i = 0; i < kPanel; i++) w_.visible[p * kPanel + i] = {0, 0};
      ForEachRow(p, [&](size_t i, int64_t, int64_t query) {
        const Interval v = w_.visible[p * kPanel + i] = VisibleKeys(c_, s_, query);
        if (v.end <= v.begin) return;  // an empty row: its result is not used
        any = {v.begin < any.begin ? v.begin : any.begin, v.end > any.end ? v.end : any.end};
        all = {v.begin > all.begin ? v.begin : all.begin, v.end < all.end ? v.end : all.end};
      });
      any_[p] = any, all_[p] = all, fresh_[p] = true;
      seen = {any.begin < seen.begin ? any.begin : seen.begin, any.end > seen.end ? any.end : seen.end};
    }
    for (size_t r = 0; r < panels_ * kPanel; r++) w_.m[r] = -INFINITY, w_.sum[r] = 0;
    return seen;
  }

  HWY_NOINLINE void LoadQueries(size_t p) const {
    const float* pointers[kPanel];
    float* panel = w_.q + p * kPanel * w_.ld_q;
    for (size_t i = 0; i < kPanel; i++) pointers[i] = w_.tile.zero;
    WithElement(c_.q.view, 0, [&](const auto* q) {
      ForEachRow(p, [&](size_t i, int64_t head, int64_t query) {
        const auto* x = q + c_.QueryAt(c_.q, s_, head, query);
        if constexpr (sizeof(*x) == sizeof(float)) {
          pointers[i] = x;
        } else {
          float* row = w_.tile.rows + i * w_.ld_q;
          kit::Widen(x, c_.D, 1.0f, row);
          pointers[i] = row;
        }
      });
    });
    kit::TransposeToPanel(pointers, c_.D, panel);
    kit::ScaleRow(panel, kPanel * c_.D, float(c_.scale * kLog2E));
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
  // Where the next tile's rows lie, to fetch them early; null when they are not read in place.
  Rows Ahead(const KeyRows& rows, int64_t begin, int64_t end) const {
    if (begin >= end || !InPlace(rows, begin)) return {nullptr, 0};
    return Place(rows, begin);
  }
  // Panel p's share of rows [begin, end): few lines at a time, so that they never hold up what is needed now.
  HWY_INLINE void Prefetch(const Rows& rows, size_t begin, size_t end, size_t n, size_t width, size_t p) const {
    if (!rows.at) return;
    if (end > n) end = n;
    for (size_t j = begin; j < end; j++) {
      for (size_t e = p * 16; e < width; e += panels_ * 16) __builtin_prefetch(rows.at + j * rows.ld + e, 0, 2);
    }
  }

  // Keys [begin, end) against panel p.
  HWY_NOINLINE void AttendTile(size_t p, int64_t begin, int64_t end, const Rows& k, const Rows& v, const Rows& next_k,
                               const Rows& next_v, size_t next) {
    const size_t keys = size_t(end - begin);
    const auto in_tile = [&](int64_t j) { return size_t((j < begin ? begin : j > end ? end : j) - begin); };
    // Keys of the tile that any query of the panel sees, and those that all see.
    const size_t any_begin = in_tile(any_[p].begin), any_end = in_tile(any_[p].end);
    size_t all_begin = in_tile(all_[p].begin), all_end = in_tile(all_[p].end);
    if (any_end <= any_begin) return;
    if (all_end <= all_begin) all_begin = all_end = any_end;

    const float* q = w_.q + p * kPanel * w_.ld_q;
    float *s = w_.s, *o = w_.o + p * kPanel * w_.ld_o;
    for (size_t j = any_begin; j < any_end; j += kLaneTileRows) {
      const size_t n = any_end - j < kLaneTileRows ? any_end - j : kLaneTileRows;
      Prefetch(next_k, j, j + kLaneTileRows, next, size_t(c_.D), p);
      kit::TileRows<2, false, kLaneTileRows>(int(n), size_t(c_.D), k.at + j * k.ld, k.ld, q, kPanel, s + j * kPanel,
                                             kPanel);
    }
    if (any_begin < all_begin || all_end < any_end) {
      HWY_ALIGN int32_t from[kPanel], to[kPanel];
      for (size_t i = 0; i < kPanel; i++) {
        const Interval v = w_.visible[p * kPanel + i];
        from[i] = int32_t(in_tile(v.begin)), to[i] = int32_t(in_tile(v.end));
      }
      kit::HideFromLanes(s, any_begin, all_begin, from, to);
      kit::HideFromLanes(s, all_end, any_end, from, to);
    }
    // Outputs of the first tile are stored, not added: what lies there is not read.
    kit::SoftmaxOfLanes(s, any_begin, all_begin, all_end, any_end, w_.m + p * kPanel, w_.sum + p * kPanel,
                        fresh_[p] ? 0 : size_t(c_.Dv), o);
    // Shares as equal as can be: small ones keep too few sums under way.
    const int width = int(c_.Dv);
    for (int e = 0, n, left = (width + kLaneTileRows - 1) / kLaneTileRows; left > 0; e += n, left--) {
      n = (width - e + left - 1) / left;
      Prefetch(next_v, e * keys / c_.Dv, (e + n) * keys / c_.Dv, next, size_t(c_.Dv), p);
      bool fresh = fresh_[p];
      const auto add = [&](auto masked, size_t first, size_t last) {
        if (first >= last) return;
        kit::AddLaneValues<decltype(masked)::value>(n, last - first, v.at + first * v.ld + e, v.ld, s + first * kPanel,
                                                    o + e * kPanel, fresh);
        fresh = false;
      };
      add(std::true_type(), any_begin, all_begin);
      add(std::false_type(), all_begin, all_end);
      add(std::true_type(), all_end, any_end);
    }
    fresh_[p] = false;
  }

  // Transposes, normalises and stores the rows of panel p.
  HWY_NOINLINE void Finish(size_t p) {
    const float* o = w_.o + p * kPanel * w_.ld_o;
    float* block = w_.tile.rows;
    float factor[kPanel];
    int64_t at[kPanel];
    bool empty[kPanel];
    size_t n = 0;
    ForEachRow(p, [&](size_t i, int64_t head, int64_t query) {
      const size_t r = p * kPanel + i;
      const bool none = w_.visible[r].end <= w_.visible[r].begin;
      empty[i] = none || w_.sum[r] == 0;  // a sum of NaN is no empty row
      factor[i] = FactorOfRow(c_, s_, head, query, none ? -INFINITY : w_.m[r] * kLn2, none ? 0 : w_.sum[r]);
      at[i] = c_.QueryAt(c_.o, s_, head, query);
      n = i + 1;
    });
    WithElement(c_.o.view, 0, [&](const auto* out) {
      using T = std::remove_cv_t<std::remove_pointer_t<decltype(out)>>;
      for (size_t e = 0; e < size_t(c_.Dv); e += kPanel) {
        const size_t width = size_t(c_.Dv) - e < kPanel ? size_t(c_.Dv) - e : kPanel;
        const float* pointers[kPanel];
        for (size_t i = 0; i < kPanel; i++) pointers[i] = i < width ? o + (e + i) * kPanel : w_.tile.zero;
        kit::TransposeToPanel(pointers, kPanel, block);
        for (size_t i = 0; i < n; i++) {
          float* row = block + i * kPanel;
          if (empty[i]) memset(row, 0, sizeof(float) * kPanel);
          kit::Narrow(row, width, factor[i], const_cast<T*>(out) + at[i] + e);
        }
      }
    });
  }

  const Problem& c_;
  const Scratch& w_;
  const Sequence& s_;
  int64_t group_, kv_head_, query_, member_;  // heads of a group; the first row's query and head in the group
  size_t rows_, panels_;
  Interval any_[kMaxQueryRows / kPanel], all_[kMaxQueryRows / kPanel];  // keys that any and that all of a panel see
  bool fresh_[kMaxQueryRows / kPanel];                                   // nothing lies in its outputs yet
};

#endif  // ATTUNE_ISA
}  // namespace HWY_NAMESPACE
}  // namespace softmax
HWY_AFTER_NAMESPACE();
#endif  // toggled include guard
