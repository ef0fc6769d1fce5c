#include "_kit/isa.h"
#include "nsa/forward.h"
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "nsa/rows.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "nsa/phases-inl.h"
#include "nsa/row_tile-inl.h"

HWY_BEFORE_NAMESPACE();
namespace nsa {
namespace HWY_NAMESPACE {
#if ATTUNE_ISA
namespace {

// For few queries. A branch's keys are cut into parts, so that one head can keep several workers busy. Phases:
//   Append          caches (step)                                            (batch, kv head)
//   Compress        compressed keys that do not exist yet                    (batch, kv head, rows)
//   Attend          to compressed keys and to the window                     (tile, part)
//   Probabilities   of compressed keys, for the selection                    (tile, part)
//   Choose          the blocks                                               (tile)
//   Attend          to the chosen blocks                                     (tile, part)
//   Merge           the parts of all branches                                (tile, rows)
// Parts depend on sizes and knobs alone, so that the bits do not depend on the number of workers.
class RowsCall {
 public:
  RowsCall(const attune_exec& x, const Problem& c)
      : x_(x), c_(c), positions_(TilePositions(c, x.knobs[kTileRowsWanted])) {
    heads_ = c.B * c.Hkv, tiles_ = (c.Nq + positions_ - 1) / positions_;
    const int64_t tiles = heads_ * tiles_;
    // Parts of all tiles together: about kPartsWanted per branch, so that they take little memory.
    const auto cut = [&](BranchId id, int64_t n, int64_t least, int64_t unit) {
      const int64_t size = (n * tiles / kPartsWanted + unit - 1) / unit * unit;
      Parts& p = parts_[id];
      p.size = size > least ? size : least, p.n = c.use[id] ? (n + p.size - 1) / p.size : 0;
      p.rows = size_t(positions_ * c.Group() + 15) / 16 * 16, p.ld = PadTo32(c.Dv);
    };
    const int64_t window = (c.window < c.Nk ? c.window : c.Nk) + positions_ + int64_t(kPanel);
    const int64_t blocks = MostBlocks(c) * positions_;
    cut(kCmp, c.Nc, kLeastKeys, kPieceKeys), cut(kSwa, window, kLeastKeys, kPieceKeys);
    cut(kSlc, blocks, c.block < kLeastKeys ? kLeastKeys / c.block : 1, 1);
    if (c.Scores() && c.Nc > 0) parts_[kCmp].n = (c.Nc + parts_[kCmp].size - 1) / parts_[kCmp].size;

    const size_t missing = MakesKeys(c) || MakesValues(c) ? size_t(c.Nc - c.key.n_known) : 0;
    head_floats_ = missing * (PadTo32(c.D) + PadTo32(c.Dv));
    tile_floats_ = TileMemory::Kept(c, positions_, nullptr, nullptr);
    for (const Parts& p : parts_) tile_floats_ += size_t(p.n) * p.Floats();
    scratch_floats_ = TileMemory::Scratch(c, positions_, nullptr, nullptr);
    scratch_floats_ += RowMemory::Make(c, positions_, nullptr, nullptr);
    made_ = static_cast<float*>(x.workspace);
    kept_ = made_ + size_t(heads_) * head_floats_;
    scratch_ = kept_ + size_t(tiles) * tile_floats_;
  }

  attune_status Run() {
    const uint64_t needed = 4 * (uint64_t(scratch_ - made_) + x_.n_workers * uint64_t(scratch_floats_));
    if (needed > x_.workspace_bytes) {
      return attune_fail(x_.error, ATTUNE_E_WORKSPACE, "", "the kernel reserved less workspace than it needs");
    }
    attune_status status = ATTUNE_OK;
    const auto phase = [&](int64_t n, const auto& f) {
      if (status == ATTUNE_OK) status = Parallel(x_, n, f);
    };
    if (c_.k_cache_out) {
      phase(heads_, [&](int64_t n, uint32_t) { AppendToCaches(c_, n / c_.Hkv, n % c_.Hkv); });
    }
    const int64_t missing = c_.Nc - c_.key.n_known, chunks = (missing + kPackRows - 1) / kPackRows;
    if (MakesKeys(c_) || MakesValues(c_)) {
      phase(heads_ * chunks, [&](int64_t n, uint32_t worker) {
        Compress(n / chunks, c_.key.n_known + n % chunks * kPackRows, scratch_ + worker * scratch_floats_);
      });
    }
    const int64_t tiles = heads_ * tiles_, cmp = parts_[kCmp].n, swa = parts_[kSwa].n, slc = parts_[kSlc].n;
    phase(tiles * (cmp + swa), [&](int64_t n, uint32_t worker) {
      const int64_t part = n / tiles;
      part < cmp ? Attend(n % tiles, kCmp, part, worker) : Attend(n % tiles, kSwa, part - cmp, worker);
    });
    if (c_.Selects()) {
      phase(tiles * cmp, [&](int64_t n, uint32_t worker) {
        const Task t(*this, n % tiles, worker);
        if (t.w.ld_p > 0) t.Tile().Probabilities(t.parts[kCmp], n / tiles);
      });
    }
    if (c_.use[kSlc]) {
      phase(tiles, [&](int64_t n, uint32_t worker) { Task(*this, n, worker).Tile().Choose(); });
      phase(tiles * slc, [&](int64_t n, uint32_t worker) { Attend(n % tiles, kSlc, n / tiles, worker); });
    }
    const int64_t blocks = (positions_ * c_.Group() + kMergeRows - 1) / kMergeRows;
    phase(tiles * blocks, [&](int64_t n, uint32_t worker) {
      const Task t(*this, n % tiles, worker);
      const int64_t rows = t.count * c_.Group(), begin = n / tiles * kMergeRows, end = begin + kMergeRows;
      if (begin < rows) t.Tile().Merge(t.parts, begin, end < rows ? end : rows);
    });
    return status == ATTUNE_OK && Cancelled(x_) ? ATTUNE_E_CANCELLED : status;
  }

 private:
  static constexpr int64_t kPartsWanted = 16, kLeastKeys = 128, kMergeRows = 4;

  // What a task works with: a tile, its memory, its keys.
  struct Task {
    Task(const RowsCall& call, int64_t tile, uint32_t worker)
        : c(call.c_),
          b(tile / call.tiles_ / c.Hkv),
          head(tile / call.tiles_ % c.Hkv),
          first(tile % call.tiles_ * call.positions_),
          count(c.Nq - first < call.positions_ ? c.Nq - first : call.positions_),
          keys({{call.KeysOf(kCmp, b, head), call.KeysOf(kSlc, b, head), call.KeysOf(kSwa, b, head)}}) {
      float *kept = call.kept_ + size_t(tile) * call.tile_floats_,
            *scratch = call.scratch_ + worker * call.scratch_floats_;
      kept += TileMemory::Kept(c, call.positions_, kept, &w);
      scratch += TileMemory::Scratch(c, call.positions_, scratch, &w);
      RowMemory::Make(c, call.positions_, scratch, &more);
      for (int id = 0; id < kBranches; id++) {
        parts[id] = call.parts_[id], parts[id].at = kept;
        kept += size_t(parts[id].n) * parts[id].Floats();
      }
    }
    RowTile Tile() const { return RowTile(c, w, more, keys, b, head, first, count); }

    const Problem& c;
    int64_t b, head, first, count;
    BranchKeys<kit::KeysInPlace> keys;
    TileMemory w;
    RowMemory more;
    Parts parts[kBranches];
  };

  void Attend(int64_t tile, BranchId id, int64_t part, uint32_t worker) const {
    Task t(*this, tile, worker);
    t.w.o = t.parts[id].O(part), t.w.m = t.parts[id].M(part);
    if (id == kCmp && part == 0 && t.w.ld_p > 0) t.Tile().ClearProbabilities();
    t.Tile().Attend(id, t.parts[id], part);
  }

  // Entries [first, first + kPackRows) of a head; only those are made that do not exist yet.
  void Compress(int64_t head, int64_t first, float* token) const {
    const int64_t b = head / c_.Hkv, h = head % c_.Hkv;
    const Prepared to = Made(head);
    for (int64_t j = first; j < c_.Nc && j < first + kPackRows; j++) {
      const size_t row = size_t(j - c_.key.n_known);
      if (MakesKeys(c_)) MakeEntry(c_, true, b, h, j, token, to.keys + row * PadTo32(c_.D));
      if (MakesValues(c_)) MakeEntry(c_, false, b, h, j, token, to.values + row * PadTo32(c_.Dv));
    }
  }
  Prepared Made(int64_t head) const {
    float* keys = made_ + size_t(head) * head_floats_;
    return {keys, keys + size_t(c_.Nc - c_.key.n_known) * PadTo32(c_.D)};
  }

  static kit::StoredRows Stored(const View& t, int64_t b, int64_t head) {
    if (!t) return {nullptr, ATTUNE_F32, 0};
    const int64_t size = t.DType() == ATTUNE_F32 ? 4 : 2;
    return {static_cast<const char*>(t.Data()) + t.Offset(b, head) * size, t.DType(), t.Stride(2)};
  }
  kit::KeysInPlace KeysOf(BranchId id, int64_t b, int64_t head) const {
    const size_t depth = size_t(c_.D), width = size_t(c_.Dv);
    if (id == kCmp) {
      const Prepared made = Made(b * c_.Hkv + head);
      return {Stored(c_.key.known, b, head), Stored(c_.value.known, b, head), depth, width, c_.key.n_known,
              {made.keys, ATTUNE_F32, int64_t(PadTo32(c_.D))}, {made.values, ATTUNE_F32, int64_t(PadTo32(c_.Dv))}};
    }
    return {Stored(id == kSlc ? c_.k : c_.k_swa, b, head), Stored(id == kSlc ? c_.v : c_.v_swa, b, head), depth, width};
  }

  const attune_exec& x_;
  const Problem& c_;
  int64_t positions_, heads_, tiles_;  // tiles of a head
  Parts parts_[kBranches];
  size_t head_floats_, tile_floats_, scratch_floats_;
  float *made_, *kept_, *scratch_;
};

}  // namespace

attune_status RowsForward(const attune_exec* x) {
  const Problem c = ReadForward(*x);
  return RowsCall(*x, c).Run();
}
attune_status RowsStep(const attune_exec* x) {
  const Problem c = ReadStep(*x);
  return RowsCall(*x, c).Run();
}

#endif  // ATTUNE_ISA
}  // namespace HWY_NAMESPACE
}  // namespace nsa
HWY_AFTER_NAMESPACE();
