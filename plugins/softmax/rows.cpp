#include "_kit/isa.h"
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "softmax/rows.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "softmax/attention-inl.h"
#include "softmax/fused.h"
#include "softmax/problem.h"
#include "softmax/row_tiles.h"

HWY_BEFORE_NAMESPACE();
namespace softmax {
namespace HWY_NAMESPACE {
#if ATTUNE_ISA
namespace {

// One call. Its pieces of work are (tile of rows, kv head, chunk of keys); a second phase merges the chunks of a tile
// in order. Chunks depend on the problem alone, so the number of threads changes no bits.
class RowsCall {
 public:
  RowsCall(const attune_exec& x, const Problem& c, bool step) : x_(x), c_(c), step_(step) {
    const bool bhnd = c.layout == kBhnd;
    const int64_t queries = c.q.view.Dim(bhnd ? 2 : 0);
    tiles_of_sequence_ = bhnd && c.B > 0 ? TilesOf(c, c.At(0), kFewRows) : 0;
    tiles_ = bhnd ? c.B * tiles_of_sequence_ : queries * c.Group() / kFewRows + c.B;
    // The longest sequence of layout thd is not known, and its keys are rarely many for few queries.
    chunk_ = c.layout == kThd ? INT64_MAX : x.knobs[kRowsChunk];
    chunks_ = c.layout == kThd ? 1 : (c.Nk + chunk_ - 1) / chunk_;
    if (chunks_ < 1) chunks_ = 1;
    rows_ = (bhnd ? c.B : 1) * queries * c.Group();
  }

  attune_status Run() {
    const int64_t work = tiles_ * c_.Hkv * chunks_, copies = step_ ? c_.B * c_.Hkv : 0;
    attune_status status = Phase(work + copies, [](void* call, int64_t begin, int64_t end, uint32_t worker) {
      static_cast<const RowsCall*>(call)->AttendPieces(begin, end, worker);
    });
    if (status != ATTUNE_OK || chunks_ == 1) return status;
    return Phase(tiles_ * c_.Hkv, [](void* call, int64_t begin, int64_t end, uint32_t worker) {
      static_cast<const RowsCall*>(call)->MergePieces(begin, end, worker);
    });
  }

 private:
  attune_status Phase(int64_t n, attune_task_fn fn) {
    const attune_status status = x_.host->parallel_for(&x_, n, 1, fn, this);
    return status == ATTUNE_OK && Cancelled(x_) ? ATTUNE_E_CANCELLED : status;
  }

  Scratch Memory(uint32_t worker) const { return Scratch(x_, worker, c_, kFewRows, x_.knobs[kRowsKeyRows]); }

  bool Find(int64_t tile, RowTile* t) const {
    if (c_.layout != kBhnd) return PackedTile(c_, kFewRows, tile, t);
    return TileOf(c_, c_.At(tile / tiles_of_sequence_), kFewRows, tile % tiles_of_sequence_, t);
  }

  // The saved state of a tile's first row over one chunk; further rows are Distance apart.
  float* Part(const Scratch& w, const RowTile& t, int64_t head, int64_t chunk, size_t size) const {
    const int64_t before = c_.layout == kBhnd ? t.s.b * t.s.nq : t.s.q_begin;
    const int64_t row = head * rows_ + before * c_.Group() + t.first;
    return w.end + (row * chunks_ + chunk) * size;
  }

  void AttendPieces(int64_t begin, int64_t end, uint32_t worker) const {
    const Scratch w = Memory(worker);
    const int64_t work = tiles_ * c_.Hkv * chunks_;
    RowTile t;
    for (int64_t i = begin; i < end && !Cancelled(x_); i++) {
      if (i >= work) {
        WriteCaches(c_, (i - work) / c_.Hkv, (i - work) % c_.Hkv);
      } else if (Find(i / chunks_ / c_.Hkv, &t)) {
        const int64_t head = i / chunks_ % c_.Hkv;
        IsPlain(c_) ? Attend<true>(w, t, head, i % chunks_) : Attend<false>(w, t, head, i % chunks_);
      }
    }
  }

  void MergePieces(int64_t begin, int64_t end, uint32_t worker) const {
    const Scratch w = Memory(worker);
    RowTile t;
    for (int64_t i = begin; i < end && !Cancelled(x_); i++) {
      if (!Find(i / c_.Hkv, &t)) continue;
      IsPlain(c_) ? Merge<true>(w, t, i % c_.Hkv) : Merge<false>(w, t, i % c_.Hkv);
    }
  }

  template <bool kPlain>
  void Attend(const Scratch& w, const RowTile& t, int64_t head, int64_t chunk) const {
    Attention<KeysInPlace, kPlain> rows(c_, w, t.s, head, t.first, t.rows);
    Interval seen = rows.Start();
    if (chunks_ == 1) {
      rows.Attend(seen.begin, seen.end);
      return rows.Finish();
    }
    const int64_t first = chunk * chunk_, last = first + chunk_;
    if (seen.begin < first) seen.begin = first;
    if (seen.end > last) seen.end = last;
    if (seen.end <= seen.begin) return;  // as Merge will find
    rows.Attend(seen.begin, seen.end);
    const size_t size = rows.PartSize(w);
    rows.Save(Part(w, t, head, chunk, size), chunks_ * size);
  }

  template <bool kPlain>
  void Merge(const Scratch& w, const RowTile& t, int64_t head) const {
    Attention<KeysInPlace, kPlain> rows(c_, w, t.s, head, t.first, t.rows);
    const Interval seen = rows.Start();
    const size_t size = rows.PartSize(w);
    for (int64_t chunk = 0; chunk < chunks_; chunk++) {
      if (seen.end <= chunk * chunk_ || seen.begin >= (chunk + 1) * chunk_) continue;
      rows.Take(Part(w, t, head, chunk, size), chunks_ * size);
    }
    rows.Finish();
  }

  const attune_exec& x_;
  const Problem& c_;
  bool step_;
  int64_t tiles_of_sequence_, tiles_, chunk_, chunks_, rows_;  // rows: of one kv head, all sequences
};

}  // namespace

attune_status RowsForward(const attune_exec* x) {
  const Problem c = ReadForward(*x);
  return RowsCall(*x, c, false).Run();
}

attune_status RowsStep(const attune_exec* x) {
  const Problem c = ReadStep(*x);
  return RowsCall(*x, c, true).Run();
}

#endif  // ATTUNE_ISA
}  // namespace HWY_NAMESPACE
}  // namespace softmax
HWY_AFTER_NAMESPACE();
