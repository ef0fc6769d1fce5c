#include "lla/forward.h"

#include "_kit/isa.h"
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "lla/forward.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "lla/solve-inl.h"

HWY_BEFORE_NAMESPACE();
namespace lla {
namespace HWY_NAMESPACE {
#if ATTUNE_ISA
namespace {

// Phases: caches (step); keys made ready; tiles of rows. What a task writes depends on sizes and knobs alone.
template <class Head>
class Forward {
 public:
  Forward(const attune_exec& x, const Problem& c) : x_(x), c_(c), heads_(c.B * c.Hkv), rows_(x.knobs[kTileRowsWanted]) {
    head_floats_ = HeadKeys::Floats(c, Head::kForms);
    tile_floats_ = TileMemory::Floats(c, rows_);
    head_memory_ = static_cast<float*>(x.workspace);
    tile_memory_ = head_memory_ + size_t(heads_) * head_floats_;
  }

  attune_status Run() {
    const float* const end = tile_memory_ + x_.n_workers * tile_floats_;
    if (size_t(end - head_memory_) * sizeof(float) > x_.workspace_bytes) {
      return attune_fail(x_.error, ATTUNE_E_WORKSPACE, "", "the kernel reserved less workspace than it needs");
    }
    attune_status status = ATTUNE_OK;
    if (c_.k_new) {
      status = Parallel(x_, heads_, [&](int64_t n, uint32_t) { WriteCaches(c_, n / c_.Hkv, n % c_.Hkv); });
    }
    const int64_t tasks = PackTasks(c_.Nk), tiles = (c_.Nq * c_.Group() + rows_ - 1) / rows_;
    if (status == ATTUNE_OK && tiles > 0) {
      status = Parallel(x_, heads_ * tasks, [&](int64_t n, uint32_t worker) {
        const int64_t head = n / tasks;
        PackKeys(c_, Head::kForms, head / c_.Hkv, head % c_.Hkv, n % tasks, Of(head),
                 tile_memory_ + worker * tile_floats_);
      });
    }
    if (status == ATTUNE_OK) {  // the last tiles first: they see most
      status = Parallel(x_, heads_ * tiles, [&](int64_t n, uint32_t worker) {
        Tile(n % heads_, (tiles - 1 - n / heads_) * rows_, worker);
      });
    }
    return status == ATTUNE_OK && Cancelled(x_) ? ATTUNE_E_CANCELLED : status;
  }

 private:
  HeadKeys Of(int64_t head) const { return HeadKeys(c_, Head::kForms, head_memory_ + size_t(head) * head_floats_); }

  void Tile(int64_t head, int64_t first, uint32_t worker) const {
    const TileMemory m(c_, rows_, tile_memory_ + worker * tile_floats_);
    const HeadKeys keys = Of(head);
    const int64_t left = c_.Nq * c_.Group() - first, b = head / c_.Hkv;
    RowTile<Head> tile(c_, m, keys, b, head % c_.Hkv, first, size_t(left < rows_ ? left : rows_));
    tile.Weigh();
    tile.QueryFromMean(m.b);
    const float* const right[] = {m.b};
    float* const solution[] = {m.y};
    Solver<RowTile<Head>>(tile).Solve(right, solution, 1);
    tile.Predict(Head::OfValues(c_, keys, b, head % c_.Hkv), m.y);
    for (size_t r = 0; r < tile.Count(); r++) Store(tile, m, keys, r);
  }

  void Store(const RowTile<Head>& tile, const TileMemory& m, const HeadKeys& keys, size_t r) const {
    const int64_t b = tile.Batch(), h = tile.QueryHead(r), i = tile.Query(r);
    StoreRow(m.o + r * m.ld_v, c_.Dv, 1, c_.o, c_.o.Offset(b, h, i));
    if (c_.lse) c_.lse.Put(tile.LogSumExp(r), b, h, i);
    if (c_.ridge_y) StoreRow(tile.Row(m.y, r), c_.D, 1, c_.ridge_y, c_.ridge_y.Offset(b, h, i));
    if (!c_.kbar) return;
    if (m.visible[r] > 0) AddScaled(tile.Row(m.kbar, r), 1, keys.origin, m.ld_k);
    StoreRow(tile.Row(m.kbar, r), c_.D, 1, c_.kbar, c_.kbar.Offset(b, h, i));
  }

  const attune_exec& x_;
  const Problem& c_;
  const int64_t heads_, rows_;
  size_t head_floats_, tile_floats_;
  float *head_memory_, *tile_memory_;
};

}  // namespace

attune_status PackedForward(const attune_exec* x) {
  const Problem c = ReadForward(*x);
  return Forward<PackedHead>(*x, c).Run();
}
attune_status PackedStep(const attune_exec* x) {
  const Problem c = ReadStep(*x);
  return Forward<PackedHead>(*x, c).Run();
}
attune_status RowsForward(const attune_exec* x) {
  const Problem c = ReadForward(*x);
  return Forward<RowsHead>(*x, c).Run();
}
attune_status RowsStep(const attune_exec* x) {
  const Problem c = ReadStep(*x);
  return Forward<RowsHead>(*x, c).Run();
}

#endif  // ATTUNE_ISA
}  // namespace HWY_NAMESPACE
}  // namespace lla
HWY_AFTER_NAMESPACE();
