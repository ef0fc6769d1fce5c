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

void RunTile(const Problem& c, const Scratch& w, int64_t head, const RowTile& t) {
  if (IsPlain(c)) return QueryLanes(c, w, t.s, head, t.first, t.rows).Run();
  Attention<PackedKeys, false> task(c, w, t.s, head, t.first, t.rows);
  const Interval seen = task.Start();
  task.Attend(seen.begin, seen.end);
  task.Finish();
}

// Layout bhnd: every sequence has the same number of tiles. Those of a head follow one another, because its keys are in
// the caches then; the last come first: with causal they are the longest. f(sequence, kv head, tile).
template <class F>
attune_status ForEachTask(const attune_exec& x, const Problem& c, F f) {
  if (c.B * c.Hkv == 0) return ATTUNE_OK;
  const int64_t count = TilesOf(c, c.At(0), x.knobs[kQueryRows]), tiles = count > 0 ? count : 1;
  for (int64_t task = x.task_begin; task < x.task_end; task++) {
    if (Cancelled(x)) return ATTUNE_E_CANCELLED;
    const int64_t head = task / tiles;
    f(c.At(head / c.Hkv), head % c.Hkv, tiles - 1 - task % tiles);
  }
  return ATTUNE_OK;
}

}  // namespace

attune_status FusedForward(const attune_exec* x) {
  const Problem c = ReadForward(*x);
  const int64_t size = x->knobs[kQueryRows];
  const Scratch w(*x, x->worker, c, size, x->knobs[kKeyRows]);
  RowTile t;
  if (c.layout == kBhnd) {
    return ForEachTask(*x, c, [&](const Sequence& s, int64_t head, int64_t tile) {
      if (TileOf(c, s, size, tile, &t)) RunTile(c, w, head, t);
    });
  }
  for (int64_t task = x->task_begin; task < x->task_end; task++) {  // `tasks` is an upper bound of their number
    if (Cancelled(*x)) return ATTUNE_E_CANCELLED;
    if (PackedTile(c, size, task / c.Hkv, &t)) RunTile(c, w, task % c.Hkv, t);
  }
  return ATTUNE_OK;
}

attune_status FusedStep(const attune_exec* x) {
  const Problem c = ReadStep(*x);
  const int64_t size = x->knobs[kQueryRows];
  const Scratch w(*x, x->worker, c, size, x->knobs[kKeyRows]);
  return ForEachTask(*x, c, [&](const Sequence& s, int64_t head, int64_t tile) {
    RowTile t;
    if (TileOf(c, s, size, tile, &t)) RunTile(c, w, head, t);
    if (tile == 0) WriteCaches(c, s.b, head);  // reads the inputs only, so its order among the tiles does not matter
  });
}

#endif  // ATTUNE_ISA
}  // namespace HWY_NAMESPACE
}  // namespace softmax
HWY_AFTER_NAMESPACE();
