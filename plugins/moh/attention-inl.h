// Attention of a tile of gathered query rows of one kv head: active (token, head) pairs only, wherever their tokens
// lie. One pass over the keys that any of them sees, with an online softmax.
#if defined(ATTUNE_MOH_ATTENTION_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef ATTUNE_MOH_ATTENTION_INL_H_
#undef ATTUNE_MOH_ATTENTION_INL_H_
#else
#define ATTUNE_MOH_ATTENTION_INL_H_
#endif
#include <math.h>

#include "_kit/online_softmax-inl.h"
#include "moh/keys-inl.h"

HWY_BEFORE_NAMESPACE();
namespace moh {
namespace HWY_NAMESPACE {
#if ATTUNE_ISA

constexpr double kLog2E = 1.4426950408889634, kLn2 = 0.6931471805599453;
constexpr size_t kMaxTileRows = 256;  // largest value of the knob
// Query rows whose scores are kept at a time: few enough for the first-level cache, so that only packed keys and values
// come from the second. A multiple of kTileRows.
constexpr size_t kBlockRows = 4 * kTileRows;

// Memory of one worker, for tiles of `rows` query rows and `keys` keys.
struct TileMemory {
  size_t keys, ld_q, ld_o, ld_s;  // row lengths in floats
  float *q, *o, *s;               // query rows, outputs, scores of a block of rows
  float *m, *sum, *tail;          // softmax state: maximum, kLanes partial sums; see KeysInPlace
  Interval* visible;              // keys of each query row

  // Generous: rows * (ld_q + ld_o + 48) + 48 * keys + 768.
  static size_t Floats(const Problem& c, size_t rows, size_t keys) {
    return rows * (PadTo32(c.D) + PadTo32(c.Dv) + 48) + 48 * keys + 768;
  }
  TileMemory(const Problem& c, size_t rows, size_t keys_, float* at) : keys(keys_) {
    ld_q = PadTo32(c.D), ld_o = PadTo32(c.Dv), ld_s = keys + 16;
    q = at, o = q + rows * ld_q, sum = o + rows * ld_o;
    visible = reinterpret_cast<Interval*>(sum + rows * 16);
    m = sum + rows * 20, s = sum + rows * 32, tail = s + 32 * ld_s;
    static_assert(kBlockRows <= 32 && kLanes <= 16 && sizeof(Interval) == 16, "what Floats counts on");
  }
};

// A query row: token * heads of a group + head within the group.
struct RowsOfHead {
  const int32_t* codes;
  int64_t b, head;
  int32_t group;
  int64_t Token(size_t r) const { return codes[r] / group; }
  int64_t Head(size_t r) const { return head * group + codes[r] % group; }
};

// Start, then Attend or Take any number of times, then ForEachRow or Save. kPlain: nothing is added to scores, so they
// are kept in units of log2.
template <class Keys, bool kPlain>
class Attention {
 public:
  Attention(const Problem& c, const TileMemory& w, const Keys& keys, const RowsOfHead& of, size_t rows)
      : c_(c), w_(w), keys_(keys), of_(of), rows_(rows) {}

  // Loads the queries, finds what each sees, clears the state. Returns the keys that any row sees.
  Interval Start() {
    const float scale = float(kPlain ? c_.scale * kLog2E : c_.scale);
    Interval all = {INT64_MAX, INT64_MIN};
    for (size_t r = 0; r < rows_; r++) {
      const int64_t t = of_.Token(r);
      LoadRow(c_.q, c_.q.Offset(of_.b, of_.Head(r), t), size_t(c_.D), scale, w_.q + r * w_.ld_q);
      const Interval v = w_.visible[r] = c_.Visible(of_.b, t);
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
    const int64_t step = int64_t(w_.keys);
    for (begin_ = from / int64_t(kPanel) * int64_t(kPanel); begin_ < to; begin_ += step) {
      end_ = to - begin_ < step ? to : begin_ + step;
      from_ = from > begin_ ? from : begin_;
      keys_.Load(begin_, from_, end_);
      FindGroups();
      for (size_t r = 0; r < rows_; r += kBlockRows) {
        const size_t n = rows_ - r < kBlockRows ? rows_ - r : kBlockRows;
        const Block block = {
            n, w_.ld_q, w_.ld_s, w_.ld_o, w_.q + r * w_.ld_q, w_.s, w_.o + r * w_.ld_o, groups_ + r / kTileRows};
        keys_.Scores(block, size_t(end_ - begin_));
        for (size_t i = 0; i < n; i++) Weights(r + i, w_.s + i * w_.ld_s);
        keys_.Add(block);
        for (size_t i = 0; i < n; i++) AddRest(r + i, w_.s + i * w_.ld_s);
      }
    }
  }

  // f(row, what it has accumulated, factor that makes it the output). The accumulator of a row that saw nothing is 0,
  // and so is its factor.
  template <class F>
  void ForEachRow(F f) {
    for (size_t r = 0; r < rows_; r++) {
      float* row = w_.o + r * w_.ld_o;
      const float total = Total(r);
      const bool empty = Empty(r, total);
      if (empty) memset(row, 0, sizeof(float) * w_.ld_o);
      f(r, static_cast<const float*>(row), empty ? 0.0f : 1 / total);
    }
  }
  // Log-sum-exp of row r, in natural units; -inf when it saw nothing.
  double Lse(size_t r) const {
    const float total = Total(r);
    if (Empty(r, total)) return -INFINITY;
    return (kPlain ? w_.m[r] * kLn2 : w_.m[r]) + log(double(total));
  }

  // The state of a row as one array: what it has accumulated, its maximum and sum.
  static size_t PartSize(const TileMemory& w) { return w.ld_o + 16; }
  // Writes the state of row r to parts + r * distance.
  void Save(float* parts, size_t distance) const {
    for (size_t r = 0; r < rows_; r++, parts += distance) {
      memcpy(parts, w_.o + r * w_.ld_o, sizeof(float) * w_.ld_o);
      parts[w_.ld_o] = w_.m[r];
      parts[w_.ld_o + 1] = Total(r);
    }
  }
  // Takes in what another Attention saved, over other keys.
  void Take(const float* parts, size_t distance) {
    for (size_t r = 0; r < rows_; r++, parts += distance) {
      const float old = w_.m[r], m = parts[w_.ld_o], now = m > old ? m : old;
      const float top = now == -INFINITY ? 0 : now;  // never -inf - -inf
      const float keep = Exponential(old - top), factor = Exponential(m - top);
      float *o = w_.o + r * w_.ld_o, *sum = w_.sum + r * kLanes;
      if (keep != 1) kit::ScaleRow(o, w_.ld_o, keep);
      kit::AddScaled(parts, w_.ld_o, factor, o);
      *sum = *sum * keep + parts[w_.ld_o + 1] * factor;
      w_.m[r] = now;
    }
  }

 private:
  float Total(size_t r) const {
    const hn::ScalableTag<float> d;
    return hn::GetLane(hn::SumOfLanes(d, hn::LoadU(d, w_.sum + r * kLanes)));
  }
  bool Empty(size_t r, float total) const {  // a total of NaN is no empty row
    return w_.visible[r].end <= w_.visible[r].begin || total == 0;
  }

  static float Exponential(float x) {
    const hn::ScalableTag<float> d;
    return hn::GetLane(kit::ExpOf<kPlain>(d, hn::Set(d, x)));
  }

  // Keys of row r in the current tile, counted from its first; empty when the second is not larger.
  Interval InTile(size_t r) const {
    const Interval v = w_.visible[r];
    return {(v.begin > from_ ? v.begin : from_) - begin_, (v.end < end_ ? v.end : end_) - begin_};
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
    if constexpr (!kPlain) {
      AddBias(c_, of_.b, of_.Head(r), of_.Token(r), begin_ + v.begin, s + v.begin, size_t(v.end - v.begin));
    }
    const float factor =
        kit::OnlineSoftmax<kPlain>(s, size_t(v.begin), size_t(v.end), w_.m + r, w_.sum + r * kLanes);
    if (factor != 1) kit::ScaleRow(w_.o + r * w_.ld_o, (size_t(c_.Dv) + kLanes - 1) / kLanes * kLanes, factor);
  }

  // The keys of row r that are not its whole group's.
  void AddRest(size_t r, const float* p) const {
    const Interval v = InTile(r);
    if (v.end <= v.begin) return;
    const GroupKeys& g = groups_[r / kTileRows];
    float* o = w_.o + r * w_.ld_o;
    if (g.all_end == g.all_begin) return keys_.AddRow(p, size_t(v.begin), size_t(v.end), o);
    if (size_t(v.begin) < g.all_begin) keys_.AddRow(p, size_t(v.begin), g.all_begin, o);
    if (size_t(v.end) > g.all_end) keys_.AddRow(p, g.all_end, size_t(v.end), o);
  }

  const Problem& c_;
  const TileMemory& w_;
  Keys keys_;
  RowsOfHead of_;
  size_t rows_;
  int64_t begin_ = 0, from_ = 0, end_ = 0;  // the current tile: keys [from_, end_), counted from begin_
  GroupKeys groups_[kMaxTileRows / kTileRows + 1];
};

#endif  // ATTUNE_ISA
}  // namespace HWY_NAMESPACE
}  // namespace moh
HWY_AFTER_NAMESPACE();
#endif  // toggled include guard
