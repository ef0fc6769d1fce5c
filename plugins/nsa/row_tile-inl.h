// A tile of few query rows that several workers attend for, each to a part of a branch's keys, which are read where they
// lie; the parts are merged afterwards.
#if defined(ATTUNE_NSA_ROW_TILE_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef ATTUNE_NSA_ROW_TILE_INL_H_
#undef ATTUNE_NSA_ROW_TILE_INL_H_
#else
#define ATTUNE_NSA_ROW_TILE_INL_H_
#endif
#include "nsa/query_tile-inl.h"

HWY_BEFORE_NAMESPACE();
namespace nsa {
namespace HWY_NAMESPACE {
#if ATTUNE_ISA

// More rows than these are scored with the rows in lanes: fewer would leave most of a vector idle.
constexpr int64_t kFewRows = 8;

// The parts of one branch of a tile. Each has, per row, what it has accumulated, its maximum and its sum.
struct Parts {
  float* at;
  int64_t n, size;  // size: keys, or blocks
  size_t rows, ld;  // rows: padded to whole vectors
  size_t Floats() const { return rows * (ld + 2); }
  float* O(int64_t part) const { return at + size_t(part) * Floats(); }
  float* M(int64_t part) const { return O(part) + rows * ld; }
  float* Sum(int64_t part) const { return M(part) + rows; }
};

// Scratch beyond TileMemory.
struct RowMemory {
  float *panels, *buffer, *total;

  static size_t Make(const Problem& c, int64_t positions, float* at, RowMemory* w) {
    const size_t rows = PadTo32(positions * c.Group()), ld = PadTo32(c.D);
    if (w) *w = {at, at + rows * size_t(c.D), at + rows * size_t(c.D) + kPieceKeys * ld};
    return rows * size_t(c.D) + kPieceKeys * ld + rows;
  }
};

class RowTile : public QueryTile<kit::KeysInPlace> {
 public:
  using Keys = kit::KeysInPlace;
  RowTile(const Problem& c, const TileMemory& w, const RowMemory& more, const BranchKeys<Keys>& keys, int64_t b,
          int64_t head, int64_t first, int64_t count)
      : QueryTile<Keys>(c, w, keys, b, head, first, count), more_(more) {}

  // Attends to one part of a branch. Scores of compressed keys are kept when blocks are to be selected by them.
  // The tile's o and m must be those of the part.
  HWY_NOINLINE void Attend(BranchId id, const Parts& to, int64_t part) {
    Load();
    q_ = id == kCmp ? w_.q_cmp : w_.q;
    MakePanels();
    kit::ClearRows({w_.ld_q, w_.ld_o, q_, w_.o, w_.m, w_.sum, w_.piece}, size_t(rows_));
    ForEachPiece(id, part, to.size, [&](int64_t j, int64_t r, int64_t n) { Piece(id, j, r, n); });
    for (int64_t r = 0; r < rows_; r++) to.Sum(part)[r] = Total(r);
  }

  void ClearProbabilities() const { memset(w_.p, 0, sizeof(float) * size_t(count_) * w_.ld_p); }

  // The group's probabilities of the compressed keys of a part, once all parts are there. From the scores, so that equal
  // ones stay equal in whichever parts they are.
  HWY_NOINLINE void Probabilities(const Parts& from, int64_t part) {
    const hn::ScalableTag<float> d;
    FindTotals(from);
    for (int64_t r = 0; r < rows_; r++) more_.total[r] = 1 / more_.total[r];
    for (int64_t i = 0; i < count_; i++) {
      const int64_t visible = c_.VisibleCompressed(c_.Position(first_ + i)), last = (part + 1) * from.size;
      const int64_t end = visible < last ? visible : last, row = i * c_.Group();
      float* p = w_.p + size_t(i) * w_.ld_p + LeadingZeros(c_);
      for (int64_t j = part * from.size; j < end; j += kLanes) {
        auto sum = hn::Zero(d);
        const float* s = w_.scores + size_t(row) * w_.ld_s + j;
        for (int64_t r = row; r < row + c_.Group(); r++, s += w_.ld_s) {
          const auto weight = kit::Exp2(d, hn::Sub(hn::LoadU(d, s), hn::Set(d, w_.m[r])));
          sum = hn::MulAdd(hn::Set(d, more_.total[r]), weight, sum);
        }
        if (end - j >= int64_t(kLanes)) {
          hn::StoreU(sum, d, p + j);
        } else {
          HWY_ALIGN float tail[kLanes];
          hn::Store(sum, d, tail);
          memcpy(p + j, tail, sizeof(float) * size_t(end - j));
        }
      }
    }
  }

  // Rows [begin, end) of the result, once all parts of all branches are there.
  HWY_NOINLINE void Merge(const Parts* from, int64_t begin, int64_t end) {
    memset(w_.out + size_t(begin) * w_.ld_o, 0, sizeof(float) * size_t(end - begin) * w_.ld_o);
    for (int id = 0; id < kBranches; id++) {
      if (!c_.use[id]) continue;
      const Parts& parts = from[id];
      FindTotals(parts);
      for (int64_t r = begin; r < end; r++) {
        float *o = w_.o + size_t(r) * w_.ld_o, *sum = w_.sum + size_t(r) * kLanes;
        memset(o, 0, sizeof(float) * w_.ld_o);
        memset(sum, 0, sizeof(float) * kLanes);
        *sum = more_.total[r];
        for (int64_t part = 0; part < parts.n; part++) {
          const float m = parts.M(part)[r];
          if (m == -INFINITY && parts.Sum(part)[r] == 0) continue;  // saw no key
          kit::AddScaled(parts.O(part) + size_t(r) * w_.ld_o, w_.ld_o, Factor(m, w_.m[r]), o);
        }
      }
      Finish(BranchId(id), begin, end);
    }
    Store(begin, end);
  }

 private:
  static float Factor(float m, float top) {
    const hn::ScalableTag<float> d;
    return hn::GetLane(kit::Exp2(d, hn::Set(d, m - (top == -INFINITY ? 0 : top))));
  }

  // Maximum and sum of every row over all parts, into m and total.
  void FindTotals(const Parts& from) const {
    const hn::ScalableTag<float> d;
    const auto none = hn::Set(d, -INFINITY);
    for (size_t r = 0; r < from.rows; r += kLanes) {
      auto top = none, sum = hn::Zero(d);
      for (int64_t part = 0; part < from.n; part++) top = hn::Max(top, hn::LoadU(d, from.M(part) + r));
      const auto shift = hn::IfThenZeroElse(hn::Eq(top, none), top);  // never -inf - -inf
      for (int64_t part = 0; part < from.n; part++) {
        const auto factor = kit::Exp2(d, hn::Sub(hn::LoadU(d, from.M(part) + r), shift));
        sum = hn::MulAdd(factor, hn::LoadU(d, from.Sum(part) + r), sum);
      }
      hn::StoreU(top, d, w_.m + r), hn::StoreU(sum, d, more_.total + r);
    }
  }

  // Panels of kPanel queries each, missing ones equal to the first.
  void MakePanels() const {
    for (int64_t r = 0; r < rows_; r += kPanel) {
      const float* pointers[kPanel];
      for (int64_t i = 0; i < int64_t(kPanel); i++) pointers[i] = q_ + size_t(r + i < rows_ ? r + i : r) * w_.ld_q;
      kit::TransposeToPanel(pointers, size_t(c_.D), more_.panels + size_t(r) * size_t(c_.D));
    }
  }

  // Takes keys first + w.range[i] into rows r + i, i < n.
  HWY_NOINLINE void Piece(BranchId id, int64_t first, int64_t r, int64_t n) {
    for (int64_t at = r, next; at < r + n; at = next) {
      const int64_t panel = at / int64_t(kPanel) * int64_t(kPanel);
      next = panel + int64_t(kPanel) < r + n ? panel + int64_t(kPanel) : r + n;
      PieceOfPanel(id, first, panel, at, next, w_.range + (at - r));
    }
  }
  // The same for rows [begin, end) of a panel.
  void PieceOfPanel(BranchId id, int64_t first, int64_t panel, int64_t begin, int64_t end, const KeyRange* range) {
    const Keys& keys = keys_.of[id];
    KeyRange any = {int32_t(kPieceKeys), 0};
    for (int64_t i = 0; i < end - begin; i++) {
      if (range[i].end <= range[i].begin) continue;
      if (range[i].begin < any.begin) any.begin = range[i].begin;
      if (range[i].end > any.end) any.end = range[i].end;
    }
    if (any.end <= any.begin) return;
    const bool values = id != kCmp || c_.use[kCmp];  // or it only selects
    // The next piece of a block or of all keys; what is not there is not looked for.
    const int64_t next = first + int64_t(kPieceKeys), left = (id == kCmp ? c_.Nc : c_.Nk) - next;
    const int64_t next_keys = left < 0 ? 0 : left < int64_t(kPieceKeys) ? left : int64_t(kPieceKeys);
    const size_t from = size_t(any.begin), to = size_t(any.end);
    if (values) keys.LookAhead(true, first, from, to);
    float* s = w_.piece + size_t(begin - panel) * kit::kPieceStride;
    if (end - begin > kFewRows) {
      keys.PanelScores(int(end - panel), more_.panels + size_t(panel) * size_t(c_.D), first, from, to, w_.piece,
                       kit::kPieceStride, more_.buffer, w_.ld_q);
    } else {
      keys.Scores(int(end - begin), q_ + size_t(begin) * w_.ld_q, w_.ld_q, first, from, to, s, kit::kPieceStride);
    }
    keys.LookAhead(false, next, 0, size_t(next_keys));
    for (int64_t i = 0; i < end - begin; i++) {
      const KeyRange own = range[i];
      if (own.end <= own.begin) continue;
      float* row = s + size_t(i) * kit::kPieceStride;
      const size_t r = size_t(begin + i);
      if (id == kCmp && w_.ld_p > 0) {
        memcpy(w_.scores + r * w_.ld_s + first + own.begin, row + own.begin,
               sizeof(float) * size_t(own.end - own.begin));
      }
      const float factor =
          kit::OnlineSoftmax<true>(row, size_t(own.begin), size_t(own.end), w_.m + r, w_.sum + r * kLanes);
      if (factor != 1) kit::ScaleRow(w_.o + r * w_.ld_o, w_.ld_o, factor);
    }
    if (!values) return;
    kit::AddRanges(keys, first, size_t(end - begin), range, s, kit::kPieceStride, w_.o + size_t(begin) * w_.ld_o,
                   w_.ld_o);
  }

  const RowMemory& more_;
  const float* q_ = nullptr;
};

#endif  // ATTUNE_ISA
}  // namespace HWY_NAMESPACE
}  // namespace nsa
HWY_AFTER_NAMESPACE();
#endif  // toggled include guard
