// How a backward call is cut into tasks, and where its sums lie. Depends on sizes alone, so that results do not depend
// on the number of threads.
#ifndef ATTUNE_HEDGEHOG_GRADIENT_LAYOUT_H_
#define ATTUNE_HEDGEHOG_GRADIENT_LAYOUT_H_
#include "hedgehog/matrix.h"

namespace hedgehog {

// Gradients of weights are summed over the batch. A task is one kv head and one slice of the batch and has sums of its
// own, which are added in order afterwards: a slot per query head for its map, one per state head for the map of keys.
struct GradientLayout {
  int64_t slices, group, states;  // slices of the batch; query heads and state heads of a kv head
  size_t slot, task_floats, worker_floats;
  float *sums, *workers;

  GradientLayout(const attune_exec& x, const Problem& p) {
    const int64_t wanted = (kFewestTasks + p.Hkv - 1) / p.Hkv;
    slices = p.B < wanted ? p.B : wanted;
    if (slices < 1) slices = 1;
    group = p.Group(), states = p.Hst / p.Hkv;
    slot = size_t(p.D + 1) * attune_kit::ChunkStride(p.F);
    task_floats = size_t(group + states) * slot + size_t(group + 15) / 16 * 16;
    sums = static_cast<float*>(x.workspace), workers = sums + size_t(p.Hkv * slices) * task_floats;
    worker_floats = (x.workspace_bytes / 4 - size_t(workers - sums)) / x.n_workers / 16 * 16;
  }

  // D rows of dw and one of db: query head g of the kv head.
  float* QueryMap(int64_t task, int64_t g) const { return sums + size_t(task) * task_floats + size_t(g) * slot; }
  float* KeyMap(int64_t task, int64_t s) const { return QueryMap(task, group + s); }
  float* Factors(int64_t task) const { return QueryMap(task, group + states); }  // of the window, per query head
  int64_t FirstBatch(int64_t slice, int64_t B) const { return slice * B / slices; }
  Floats Memory(uint32_t worker) const { return Floats(workers + worker * worker_floats); }

 private:
  static constexpr int64_t kFewestTasks = 16;  // if the batch allows it
};

#define ATTUNE_HEDGEHOG_SUMS "max(1,min(B,cdiv(16,Hkv)))*(2*Hq*(D+1)*(F+48)+16*Hkv+Hq)"

}  // namespace hedgehog
#endif  // ATTUNE_HEDGEHOG_GRADIENT_LAYOUT_H_
