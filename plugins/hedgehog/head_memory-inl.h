// What both passes of the backward kernel use of one worker's memory.
#if defined(ATTUNE_HEDGEHOG_HEAD_MEMORY_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef ATTUNE_HEDGEHOG_HEAD_MEMORY_INL_H_
#undef ATTUNE_HEDGEHOG_HEAD_MEMORY_INL_H_
#else
#define ATTUNE_HEDGEHOG_HEAD_MEMORY_INL_H_
#endif
#include "hedgehog/gradient_layout.h"
#include "hedgehog/map_gradient-inl.h"
#include "hedgehog/row_gradients-inl.h"

HWY_BEFORE_NAMESPACE();
namespace hedgehog {
namespace HWY_NAMESPACE {
#if ATTUNE_ISA

class HeadMemory {
 public:
  // Packs the maps of kv head task % Hkv; their gradients are added to the sums of the task.
  HeadMemory(const Problem& p, const Grid& grid, const View& upstream, const GradientLayout& layout, int64_t task,
             hedgehog::Floats& memory)
      : d_o(upstream),
        keys(p, grid, memory),
        chunk(p, grid, memory),
        rows(p, size_t(grid.size), memory),
        single(p),
        p_(p),
        layout_(layout),
        task_(task) {
    maps_ = memory.Take(size_t(layout.group + layout.states) * MapGradient::Floats(p));
    for (int64_t g = 0; g < layout.group; g++) QueryMap(g).Pack();
    for (int64_t s = 0; s < layout.states; s++) KeyMap(s).Pack();
    facts_ = reinterpret_cast<RowFacts*>(memory.Take(size_t(layout.group * p.Nq) * sizeof(RowFacts) / sizeof(float)));
  }

  // The map of the g-th query head, the s-th state head of the kv head.
  MapGradient QueryMap(int64_t g) const {
    return MapGradient(p_, p_.w_q, p_.b_q, First() + g, maps_ + size_t(g) * MapGradient::Floats(p_),
                       layout_.QueryMap(task_, g));
  }
  MapGradient KeyMap(int64_t s) const {
    return MapGradient(p_, p_.w_k, p_.b_k, First() + s * (p_.Hq / p_.Hst),
                       maps_ + size_t(layout_.group + s) * MapGradient::Floats(p_), layout_.KeyMap(task_, s));
  }
  // Query i of the g-th query head.
  RowFacts& Facts(int64_t g, int64_t i) const { return facts_[g * p_.Nq + i]; }

  const View& d_o;
  KeyTiles keys;
  Chunk chunk;
  RowGradients rows;
  SingleKeys single;

 private:
  int64_t First() const { return task_ % p_.Hkv * p_.Group(); }  // query head of the kv head

  const Problem& p_;
  const GradientLayout& layout_;
  int64_t task_;
  float* maps_;
  RowFacts* facts_;
};

#endif  // ATTUNE_ISA
}  // namespace HWY_NAMESPACE
}  // namespace hedgehog
HWY_AFTER_NAMESPACE();
#endif  // toggled include guard
