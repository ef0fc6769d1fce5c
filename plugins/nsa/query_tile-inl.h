// The queries of some positions and all heads of one kv head: row = position * heads of the group + head.
#if defined(ATTUNE_NSA_QUERY_TILE_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef ATTUNE_NSA_QUERY_TILE_INL_H_
#undef ATTUNE_NSA_QUERY_TILE_INL_H_
#else
#define ATTUNE_NSA_QUERY_TILE_INL_H_
#endif
#include <math.h>

#include "_kit/block_sparse-inl.h"
#include "nsa/compress-inl.h"
#include "nsa/select.h"

HWY_BEFORE_NAMESPACE();
namespace nsa {
namespace HWY_NAMESPACE {
#if ATTUNE_ISA
using kit::KeyRange;
using kit::kPieceKeys;

constexpr double kLog2E = 1.4426950408889634, kLn2 = 0.6931471805599453;
// A score below which f32 probabilities have lost bits to underflow: then the selection is done again in double.
constexpr float kLeastScore = 1e-30f;

// Positions of a tile for a wanted number of rows.
inline int64_t TilePositions(const Problem& c, int64_t rows) {
  const int64_t n = rows / (c.Group() > 0 ? c.Group() : 1);
  const int64_t most = n < c.Nq ? n : c.Nq;
  return most > 1 ? most : 1;
}
// Most blocks that a query can have.
inline int64_t MostBlocks(const Problem& c) {
  const int64_t blocks = c.Nk / c.block + 1, wanted = c.indices ? c.S : c.top_n;
  return !c.use[kSlc] ? 0 : blocks < wanted ? blocks : wanted;
}

// What a tile works on: what only one task needs, and what it keeps for later tasks.
struct TileMemory {
  size_t ld_q, ld_o, ld_s, ld_p;
  float *q, *q_cmp, *o, *out, *m, *sum, *piece;
  KeyRange* range;
  int32_t* cursor;
  // Kept: scores of compressed keys, the group's probabilities and chosen blocks of each position.
  float *scores, *p;
  double *exact, *exact_score;
  int32_t *blocks, *n_blocks;

  // Floats of both; with `at` also where they are.
  static size_t Make(const Problem& c, int64_t positions, float* at, TileMemory* w) {
    const size_t scratch = Scratch(c, positions, at, w);
    return scratch + Kept(c, positions, at ? at + scratch : nullptr, w);
  }
  static size_t Scratch(const Problem& c, int64_t positions, float* at, TileMemory* w) {
    Taker take = {at, at};
    TileMemory local;
    TileMemory& t = w ? *w : local;
    const size_t rows = size_t(positions * c.Group());
    t.ld_q = PadTo32(c.D), t.ld_o = PadTo32(c.Dv);
    t.q = take(rows * t.ld_q), t.q_cmp = take(c.own_q_cmp ? rows * t.ld_q : 0);
    t.o = take(rows * t.ld_o), t.out = take(rows * t.ld_o);
    t.m = take(rows), t.sum = take(rows * kLanes), t.piece = take(kit::kPieceFloats);
    t.range = reinterpret_cast<KeyRange*>(take(2 * rows));
    t.cursor = reinterpret_cast<int32_t*>(take(size_t(positions)));
    if (!c.own_q_cmp) t.q_cmp = t.q;
    return take.Size();
  }
  static size_t Kept(const Problem& c, int64_t positions, float* at, TileMemory* w) {
    Taker take = {at, at};
    TileMemory local;
    TileMemory& t = w ? *w : local;
    const size_t count = size_t(positions), rows = size_t(positions * c.Group());
    t.ld_s = c.Scores() ? PadTo32(c.Nc) + 80 : 0;
    t.ld_p = c.Selects() && c.Nk >= c.block ? size_t(ProbabilityRow(c)) : 0;
    t.exact = reinterpret_cast<double*>(take(2 * t.ld_p));
    t.exact_score = reinterpret_cast<double*>(take(c.Selects() ? 2 * size_t(c.Nk / c.block + 1) : 0));
    t.scores = take(rows * t.ld_s), t.p = take(count * t.ld_p);
    t.blocks = reinterpret_cast<int32_t*>(take(count * size_t(MostBlocks(c))));
    t.n_blocks = reinterpret_cast<int32_t*>(take(count));
    return take.Size();
  }

 private:
  struct Taker {
    float *begin, *at;
    float* operator()(size_t n) {
      float* p = at;
      at += (n + 15) / 16 * 16;
      return p;
    }
    size_t Size() const { return size_t(at - begin); }
  };
};

// The part of `v` that lies in the piece from key `piece` on.
inline KeyRange InPiece(const Range& v, int64_t piece) {
  const int64_t last = piece + int64_t(kPieceKeys);
  const int64_t begin = v.begin > piece ? v.begin : piece, end = v.end < last ? v.end : last;
  return end > begin ? KeyRange{int32_t(begin - piece), int32_t(end - piece)} : KeyRange{0, 0};
}

// Which pieces of the keys the rows of a tile see, branch by branch.
class TileWalk {
 public:
  TileWalk(const Problem& c, const TileMemory& w, int64_t b, int64_t head, int64_t first, int64_t count)
      : c_(c), w_(w), b_(b), head_(head), first_(first), count_(count), rows_(count * c.Group()) {}

  // Calls f(first key of a piece, first row, number of rows), the rows' keys being w.range[0, number), for the pieces of
  // a part: `size` keys from the part * size-th on that any row sees; of kSlc, `size` blocks of all that any row chose.
  // The blocks must have been chosen; neighbours that share a block come together.
  template <class F>
  void ForEachPiece(BranchId id, int64_t part, int64_t size, F f) const {
    if (id == kSlc) return ForEachBlock(part * size, size, f);
    const int64_t from = Seen(id, 0).begin / int64_t(kPanel) * int64_t(kPanel), to = Seen(id, count_ - 1).end;
    const int64_t begin = from + part * size, end = to - begin < size ? to : begin + size;
    for (int64_t j = begin; j < end; j += kPieceKeys) {
      for (int64_t i = 0; i < count_; i++) SetRange(i, Seen(id, i), j);
      f(j, int64_t(0), rows_);
    }
  }
  template <class F>
  void ForEachPiece(BranchId id, F f) const {
    ForEachPiece(id, 0, INT64_MAX / 2, f);
  }

 protected:
  int64_t Query(int64_t r) const { return first_ + r / c_.Group(); }
  int64_t Head(int64_t r) const { return head_ * c_.Group() + r % c_.Group(); }

  template <class F>
  static void Pieces(int64_t begin, int64_t end, F f) {
    for (int64_t j = begin / int64_t(kPanel) * int64_t(kPanel); j < end; j += kPieceKeys) f(j);
  }

 private:
  Range Seen(BranchId id, int64_t i) const {
    const int64_t t = c_.Position(first_ + i);
    return id == kCmp ? Range{0, c_.VisibleCompressed(t)} : c_.WindowTokens(t);
  }
  void SetRange(int64_t slot, const Range& seen, int64_t piece) const {
    for (int64_t g = 0; g < c_.Group(); g++) w_.range[slot * c_.Group() + g] = InPiece(seen, piece);
  }

  // Blocks [first, first + number) of all that any position chose, in order.
  template <class F>
  void ForEachBlock(int64_t first, int64_t number, F f) const {
    const int64_t room = MostBlocks(c_);
    for (int64_t i = 0; i < count_; i++) w_.cursor[i] = 0;
    const auto next = [&](int64_t i) {
      return w_.cursor[i] < w_.n_blocks[i] ? w_.blocks[i * room + w_.cursor[i]] : INT32_MAX;
    };
    for (int64_t n = 0; n - first < number; n++) {
      int32_t block = INT32_MAX;
      for (int64_t i = 0; i < count_; i++) block = next(i) < block ? next(i) : block;
      if (block == INT32_MAX) break;
      for (int64_t i = 0; i < count_;) {
        if (next(i) != block) {
          i++;
          continue;
        }
        const int64_t begin = i;
        for (; i < count_ && next(i) == block; i++) w_.cursor[i]++;
        if (n < first) continue;
        const Range all = c_.BlockTokens(block, c_.Position(first_ + i - 1));  // the last one sees most
        Pieces(all.begin, all.end, [&](int64_t j) {
          for (int64_t k = begin; k < i; k++) SetRange(k - begin, c_.BlockTokens(block, c_.Position(first_ + k)), j);
          f(j, begin * c_.Group(), (i - begin) * c_.Group());
        });
      }
    }
  }

 protected:
  const Problem& c_;
  const TileMemory& w_;
  int64_t b_, head_, first_, count_, rows_;
};

// Keys: kit::PackedKeys or kit::KeysInPlace. Compressed, of the blocks, of the window.
template <class Keys>
struct BranchKeys {
  Keys of[kBranches];
};

template <class Keys>
class QueryTile : public TileWalk {
 public:
  QueryTile(const Problem& c, const TileMemory& w, const BranchKeys<Keys>& keys, int64_t b, int64_t head, int64_t first,
            int64_t count)
      : TileWalk(c, w, b, head, first, count), keys_(keys) {}

  void Run() {
    Load();
    memset(w_.out, 0, sizeof(float) * rows_ * w_.ld_o);
    if (c_.Scores()) {
      Compressed();
      if (c_.use[kCmp]) CompressedValues();
    }
    if (c_.use[kSlc]) {
      Choose();
      Attend(kSlc);
    }
    if (c_.use[kSwa]) Attend(kSwa);
    Store(0, rows_);
  }

  // Scores of all visible compressed keys, kept: softmax needs them once, the selection a second time.
  void Compressed() {
    const Keys& keys = keys_.of[kCmp];
    const int64_t most = c_.VisibleCompressed(c_.Position(first_ + count_ - 1));
    this->Pieces(0, most, [&](int64_t j) {
      const int64_t n = most - j < int64_t(kPieceKeys) ? most - j : int64_t(kPieceKeys);
      keys.Scores(int(rows_), w_.q_cmp, w_.ld_q, j, 0, size_t(n), w_.scores + j, w_.ld_s);
    });
    kit::ClearRows(Rows(w_.q_cmp, 0), size_t(rows_));
    for (int64_t i = 0; i < count_; i++) Probabilities(i);
  }

  // The blocks of every position, given or selected.
  void Choose() {
    const int64_t room = MostBlocks(c_);
    for (int64_t i = 0; i < count_; i++) {
      int32_t* out = w_.blocks + i * room;
      const int64_t query = first_ + i, t = c_.Position(query);
      int64_t n = 0;
      if (c_.indices) {
        n = c_.GivenBlocks(b_, head_, query, out);
      } else {
        float least;
        float* score = reinterpret_cast<float*>(w_.exact_score);
        n = SelectBlocks(c_, t, w_.p + i * w_.ld_p + LeadingZeros(c_), score, out, &least);
        if (!(least >= kLeastScore)) n = ChooseExactly(i, out);
      }
      w_.n_blocks[i] = int32_t(n);
      if (!c_.indices_out) continue;
      int32_t* row = static_cast<int32_t*>(c_.indices_out.Data()) + c_.indices_out.Offset(b_, head_, query);
      for (int64_t s = 0; s < c_.top_n; s++) row[s * c_.indices_out.Stride(3)] = s < n ? out[s] : -1;
    }
  }

 protected:
  using TileWalk::b_;
  using TileWalk::c_;
  using TileWalk::count_;
  using TileWalk::first_;
  using TileWalk::head_;
  using TileWalk::rows_;
  using TileWalk::w_;

  // The queries, in units of log2.
  HWY_NOINLINE void Load() {
    const float scale = float(c_.scale * kLog2E);
    for (int64_t r = 0; r < rows_; r++) {
      LoadRow(c_.q, c_.q.Offset(b_, this->Head(r), this->Query(r)), c_.D, scale, w_.q + r * w_.ld_q);
      if (c_.own_q_cmp) {
        LoadRow(c_.q_cmp, c_.q_cmp.Offset(b_, this->Head(r), this->Query(r)), c_.D, scale, w_.q_cmp + r * w_.ld_q);
      }
    }
  }
  // Rows [begin, end) of the result.
  void Store(int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; r++) {
      StoreRow(w_.out + r * w_.ld_o, c_.Dv, 1, c_.o, c_.o.Offset(b_, this->Head(r), this->Query(r)));
    }
  }

  kit::SoftmaxRows Rows(const float* q, int64_t r) const {
    return {w_.ld_q, w_.ld_o, q + r * w_.ld_q, w_.o + r * w_.ld_o, w_.m + r, w_.sum + r * kLanes, w_.piece};
  }
  float Total(int64_t r) const {
    const hn::ScalableTag<float> d;
    return hn::GetLane(hn::SumOfLanes(d, hn::LoadU(d, w_.sum + r * kLanes)));
  }

  void CompressedValues() {
    this->ForEachPiece(kCmp, [&](int64_t j, int64_t, int64_t) {
      kit::AddRanges(keys_.of[kCmp], j, size_t(rows_), w_.range, w_.scores + j, w_.ld_s, w_.o, w_.ld_o);
    });
    Finish(kCmp, 0, rows_);
  }

  void Attend(BranchId id) {
    kit::ClearRows(Rows(w_.q, 0), size_t(rows_));
    this->ForEachPiece(id, [&](int64_t j, int64_t r, int64_t n) {
      kit::AttendPiece(keys_.of[id], j, Rows(w_.q, r), size_t(n), w_.range);
    });
    Finish(id, 0, rows_);
  }

  // Scores of position i become weights; if blocks are to be selected its group's probabilities are added up.
  HWY_NOINLINE void Probabilities(int64_t i) {
    const hn::ScalableTag<float> d;
    const int64_t visible = c_.VisibleCompressed(c_.Position(first_ + i));
    if (visible == 0) return;
    const bool wanted = w_.ld_p > 0;
    float* p = wanted ? w_.p + i * w_.ld_p : nullptr;
    if (wanted) memset(p, 0, sizeof(float) * w_.ld_p);
    p += wanted ? LeadingZeros(c_) : 0;
    for (int64_t g = 0; g < c_.Group(); g++) {
      const int64_t r = i * c_.Group() + g;
      float* s = w_.scores + r * w_.ld_s;
      kit::OnlineSoftmax<true>(s, 0, size_t(visible), w_.m + r, w_.sum + r * kLanes);
      if (!wanted) continue;
      const float inverse = 1 / Total(r);
      const auto factor = hn::Set(d, inverse);
      int64_t j = 0;
      for (; j + int64_t(kLanes) <= visible; j += kLanes) {
        hn::StoreU(hn::MulAdd(factor, hn::LoadU(d, s + j), hn::LoadU(d, p + j)), d, p + j);
      }
      // With lanes of its own, so that equal scores stay equal wherever they lie.
      if (j == visible) continue;
      HWY_ALIGN float tail[kLanes] = {};
      memcpy(tail, p + j, sizeof(float) * (visible - j));
      hn::Store(hn::MulAdd(factor, hn::LoadU(d, s + j), hn::Load(d, tail)), d, tail);
      memcpy(p + j, tail, sizeof(float) * (visible - j));
    }
  }

  // Where even chosen blocks have probabilities that vanish in f32: the same from the scores, which are computed again,
  // in double.
  HWY_NOINLINE int64_t ChooseExactly(int64_t i, int32_t* out) {
    const int64_t t = c_.Position(first_ + i), visible = c_.VisibleCompressed(t);
    float* s = w_.scores;
    const float* q = w_.q_cmp + i * c_.Group() * w_.ld_q;
    this->Pieces(0, visible, [&](int64_t j) {
      const int64_t n = visible - j < int64_t(kPieceKeys) ? visible - j : int64_t(kPieceKeys);
      keys_.of[kCmp].Scores(int(c_.Group()), q, w_.ld_q, j, 0, size_t(n), s + j, w_.ld_s);
    });
    memset(w_.exact, 0, sizeof(double) * w_.ld_p);
    double* p = w_.exact + LeadingZeros(c_);
    for (int64_t g = 0; g < c_.Group(); g++, s += w_.ld_s) {
      double top = -INFINITY, z = 0;
      for (int64_t j = 0; j < visible; j++) top = fmax(top, double(s[j]));
      for (int64_t j = 0; j < visible; j++) z += exp2(s[j] - top);
      for (int64_t j = 0; j < visible; j++) p[j] += exp2(s[j] - top) / z;
    }
    double least;
    return SelectBlocks(c_, t, static_cast<const double*>(p), w_.exact_score, out, &least);
  }

  // Normalises rows [begin, end) of a branch, stores what is asked for and adds them to the result.
  HWY_NOINLINE void Finish(BranchId id, int64_t begin, int64_t end) {
    const hn::ScalableTag<float> d;
    for (int64_t r = begin; r < end; r++) {
      const int64_t h = this->Head(r), i = this->Query(r);
      const float total = Total(r), inverse = total == 0 ? 0 : 1 / total;
      float *o = w_.o + r * w_.ld_o, *out = w_.out + r * w_.ld_o;
      if (c_.lse[id]) c_.lse[id].Put(total == 0 ? -INFINITY : w_.m[r] * kLn2 + log(double(total)), b_, h, i);
      if (c_.o_branch[id]) StoreRow(o, c_.Dv, inverse, c_.o_branch[id], c_.o_branch[id].Offset(b_, h, i));
      const auto factor = hn::Set(d, inverse), gate = hn::Set(d, float(c_.Gate(id, b_, h, i)));
      for (size_t e = 0; e < w_.ld_o; e += kLanes) {
        const auto x = hn::Mul(factor, hn::LoadU(d, o + e));
        hn::StoreU(hn::MulAdd(gate, x, hn::LoadU(d, out + e)), d, out + e);
      }
    }
  }

  const BranchKeys<Keys>& keys_;
};

#endif  // ATTUNE_ISA
}  // namespace HWY_NAMESPACE
}  // namespace nsa
HWY_AFTER_NAMESPACE();
#endif  // toggled include guard
