#include "softmax/fused.h"

#include "_kit/isa.h"
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "softmax/fused.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "softmax/attention-inl.h"
#include "softmax/problem.h"
#include "softmax/query_lanes-inl.h"
#include "softmax/row_tiles.h"

HWY_BEFORE_NAMESPACE();
namespace softmax {
namespace HWY_NAMESPACE {
#if ATTUNE_ISA
namespace {

// next: what this worker will probably work on afterwards; null if nothing is left.
void RunTile(const Problem& c, const Scratch& w, const HeadTile& x, const HeadTile* next) {
  if (IsPlain(c)) return QueryLanes(c, w, x).Run(next);
  Attention<PackedKeys, false> task(c, w, x.t.s, x.head, x.t.first, x.t.rows);
  const Interval seen = task.Start();
  task.Attend(seen.begin, seen.end);
  task.Finish();
}

// Layout bhnd: every sequence has the same number of tiles, one even without queries. Those of a head follow one
// another, because its keys are in the caches then; the last come first: with causal they are the longest.
bool FindTile(const Problem& c, int64_t size, int64_t task, HeadTile* out) {
  const int64_t count = TilesOf(c, c.At(0), size), tiles = count > 0 ? count : 1, head = task / tiles;
  if (head >= c.B * c.Hkv) return false;
  out->head = head % c.Hkv;
  const Sequence s = c.At(head / c.Hkv);
  if (!TileOf(c, s, size, tiles - 1 - task % tiles, &out->t)) out->t = {s, 0, 0};
  return true;
}

// Packed layouts; `tasks` is an upper bound of their number.
bool FindPackedTile(const Problem& c, int64_t size, int64_t task, HeadTile* out) {
  out->head = task % c.Hkv;
  return PackedTile(c, size, task / c.Hkv, &out->t);
}

// Calls f(tile, next tile or null) for each task of this piece that has a tile.
template <class F>
attune_status ForEachTile(const attune_exec& x, const Problem& c, F f) {
  if (c.B * c.Hkv == 0) return ATTUNE_OK;
  const auto find = c.layout == kBhnd ? FindTile : FindPackedTile;
  HeadTile now = {}, next = {};
  bool any = find(c, x.knobs[kQueryRows], x.task_begin, &now);
  for (int64_t task = x.task_begin; task < x.task_end; task++) {
    if (Cancelled(x)) return ATTUNE_E_CANCELLED;
    // The workers take pieces in turns, more or less.
    const int64_t after = task + 1 < x.task_end ? task + 1 : task + x.n_workers;
    const bool more = find(c, x.knobs[kQueryRows], after, &next);
    if (any) f(now, more ? &next : nullptr);
    now = next, any = more;
  }
  return ATTUNE_OK;
}

}  // namespace

attune_status FusedForward(const attune_exec* x) {
  const Problem c = ReadForward(*x);
  const Scratch w(*x, x->worker, c, x->knobs[kQueryRows], x->knobs[kKeyRows]);
  return ForEachTile(*x, c, [&](const HeadTile& tile, const HeadTile* next) {
    if (tile.t.rows > 0) RunTile(c, w, tile, next);
  });
}

attune_status FusedStep(const attune_exec* x) {
  const Problem c = ReadStep(*x);
  const Scratch w(*x, x->worker, c, x->knobs[kQueryRows], x->knobs[kKeyRows]);
  return ForEachTile(*x, c, [&](const HeadTile& tile, const HeadTile* next) {
    if (tile.t.rows > 0) RunTile(c, w, tile, next);
    // Reads the inputs only, so its order among the tiles does not matter.
    if (tile.t.first == 0) WriteCaches(c, tile.t.s.b, tile.head);
  });
}

#endif  // ATTUNE_ISA
}  // namespace HWY_NAMESPACE
}  // namespace softmax
HWY_AFTER_NAMESPACE();
