#include "softmax/fused.h"

#include "_kit/isa.h"
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "softmax/fused.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "softmax/attention-inl.h"
#include "softmax/problem.h"

HWY_BEFORE_NAMESPACE();
namespace softmax {
namespace HWY_NAMESPACE {
#if ATTUNE_ISA
namespace {

// Runs the tile of query rows `tile` of one kv head, if the sequence has it.
template <class Keys>
void RunTile(const attune_exec& x, const Problem& c, const Scratch& w, const Sequence& s, int64_t head, int64_t tile) {
  const int64_t queries = x.knobs[kQueryRows], first = tile * queries, rows = s.nq * c.Group() - first;
  if (rows <= 0) return;
  Attention<Keys> task(c, w, s, head, first, rows < queries ? rows : queries);
  const bool plain = !c.sigmoid && c.softcap == 0 && !c.slopes && !c.bias && !c.mask;
  if (plain) return task.template Run<true>();
  task.template Run<false>();
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

template <class Keys>
attune_status Forward(const attune_exec& x) {
  const Problem c = ReadForward(x);
  const Scratch w(x, c);
  const auto run = [&](const Sequence& s, int64_t head, int64_t tile) { RunTile<Keys>(x, c, w, s, head, tile); };
  return c.layout == kBhnd ? ForEachTile(x, c, run) : ForEachPackedTile(x, c, run);
}

template <class Keys>
attune_status Step(const attune_exec& x) {
  const Problem c = ReadStep(x);
  const Scratch w(x, c);
  return ForEachTile(x, c, [&](const Sequence& s, int64_t head, int64_t tile) {
    RunTile<Keys>(x, c, w, s, head, tile);
    if (tile == 0) WriteCaches(c, s.b, head);  // reads the inputs only, so its order among the tiles does not matter
  });
}

}  // namespace

attune_status FusedForward(const attune_exec* x) {
  return Forward<PackedKeys>(*x);
}
attune_status FusedStep(const attune_exec* x) {
  return Step<PackedKeys>(*x);
}
attune_status RowsForward(const attune_exec* x) {
  return Forward<KeysInPlace>(*x);
}
attune_status RowsStep(const attune_exec* x) {
  return Step<KeysInPlace>(*x);
}

#endif  // ATTUNE_ISA
}  // namespace HWY_NAMESPACE
}  // namespace softmax
HWY_AFTER_NAMESPACE();
