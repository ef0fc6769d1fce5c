// Both distillation entries in chunks of queries against tiles of keys.
#include "hedgehog/kernels.h"

#include "_kit/isa.h"
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "hedgehog/distill.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>
#include <math.h>

#include "hedgehog/distill_gradients-inl.h"
#include "hedgehog/pair-inl.h"
#include "hedgehog/weight_sums-inl.h"

HWY_BEFORE_NAMESPACE();
namespace hedgehog {
namespace HWY_NAMESPACE {
#if ATTUNE_ISA
namespace {

struct Losses {
  double xent, squares;  // sums over rows, over outputs
};

// One query head: its rows of all outputs.
class Distill {
 public:
  Distill(const attune_exec& x, const Problem& p, const Grid& grid, hedgehog::Floats& memory)
      : p_(p),
        grid_(grid),
        pair_(p, grid, memory),
        query_map_(memory.Take(Map::Floats(p))),
        key_map_(memory.Take(Map::Floats(p))),
        a_true_(x.tensors[kDisATrue]),
        a_pred_(x.tensors[kDisAPred]),
        o_true_(x.tensors[kDisOTrue]),
        o_pred_(x.tensors[kDisOPred]),
        weights_(a_true_ || a_pred_ || x.tensors[kDisXent]) {}

  Losses Run(const attune_exec& x, int64_t b, int64_t h) {
    Losses sum = {0, 0};
    const Map queries(p_, p_.w_q, p_.b_q, h, query_map_), keys(p_, p_.w_k, p_.b_k, h, key_map_);
    queries.Pack(), keys.Pack();
    pair_.Begin(b, h / p_.Group(), keys);
    int64_t end;
    for (int64_t i = 0; i < p_.Nq && !Cancelled(x); i = end) {
      end = grid_.ChunkEnd(p_, grid_.ChunkOf(p_, i));
      Chunk& c = pair_.chunk;
      c.Load(b, h, i, end);
      queries.Logits(c.n, c.q, c.z);
      for (size_t r = 0; r < c.n; r++) queries.Features(c.z.Row(r), c.phi.Row(r));
      c.ScaleQueries(p_.scale);
      pair_.Sums(i);
      for (size_t r = 0; r < c.n; r++) sum.squares += Outputs(b, h, i + int64_t(r), r);
      if (!weights_) continue;
      int64_t stored = 0;  // keys
      pair_.Logarithms([&](int64_t t) HWY_ATTR {
        StoreWeights(pair_.a_true, a_true_, b, h, i, t);
        StoreWeights(c.a, a_pred_, b, h, i, t);
        stored = grid_.End(t);
      });
      ClearWeights(a_true_, b, h, i, stored), ClearWeights(a_pred_, b, h, i, stored);
      for (size_t r = 0; r < c.n; r++) sum.xent += pair_.row[r].Loss();
    }
    return sum;
  }

 private:
  double Outputs(int64_t b, int64_t h, int64_t i, size_t r) const {
    const float *teacher = pair_.chunk.o_window.Row(r), *student = pair_.chunk.o_linear.Row(r);
    double squares = 0;
    for (int64_t e = 0; e < p_.Dv; e++) {
      const double difference = pair_.Difference(r, size_t(e));
      squares += difference * difference;
    }
    if (o_true_) StoreRow(teacher, size_t(p_.Dv), 1, o_true_, o_true_.Offset(b, h, i));
    if (o_pred_) StoreRow(student, size_t(p_.Dv), 1, o_pred_, o_pred_.Offset(b, h, i));
    return squares;
  }
  void StoreWeights(Matrix from, const View& to, int64_t b, int64_t h, int64_t i, int64_t t) const {
    for (size_t r = 0; to && r < pair_.chunk.n; r++) {
      StoreRow(from.Row(r), pair_.chunk.Columns(t), 1, to, to.Offset(b, h, i + int64_t(r), grid_.Begin(t)));
    }
  }
  // Keys that no query of the chunk meets.
  void ClearWeights(const View& to, int64_t b, int64_t h, int64_t i, int64_t first) const {
    for (size_t r = 0; to && first < p_.Nk && r < pair_.chunk.n; r++) {
      float* row = static_cast<float*>(to.Data()) + to.Offset(b, h, i + int64_t(r), first);
      memset(row, 0, sizeof(float) * size_t(p_.Nk - first));
    }
  }

  const Problem& p_;
  const Grid& grid_;
  Pair pair_;
  float *const query_map_, *const key_map_;
  const View a_true_, a_pred_, o_true_, o_pred_;
  const bool weights_;
};

double Reciprocal(int64_t n) {
  return n > 0 ? 1 / double(n) : 0;  // the mean of nothing is 0
}

}  // namespace

attune_status ChunkedDistill(const attune_exec* exec) {
  const attune_exec& x = *exec;
  const Problem p = ReadDistill(x);
  const Grid grid(p, x.knobs[kChunk]);
  const int64_t heads = p.B * p.Hq;
  Losses* const losses = static_cast<Losses*>(x.workspace);
  const size_t loss_floats = size_t(heads * 4 + 15) / 16 * 16;
  float* const workers = static_cast<float*>(x.workspace) + loss_floats;
  const size_t worker_floats = (x.workspace_bytes / 4 - loss_floats) / x.n_workers / 16 * 16;
  const attune_status status = ParallelFor(x, heads, [&](int64_t head, uint32_t worker) HWY_ATTR {
    hedgehog::Floats memory(workers + worker * worker_floats);
    losses[head] = Distill(x, p, grid, memory).Run(x, head / p.Hq, head % p.Hq);
  });
  if (status != ATTUNE_OK || Cancelled(x)) return status == ATTUNE_OK ? ATTUNE_E_CANCELLED : status;
  Losses sum = {0, 0};
  for (int64_t head = 0; head < heads; head++) sum.xent += losses[head].xent, sum.squares += losses[head].squares;
  const View xent(x.tensors[kDisXent]), mse(x.tensors[kDisMse]);
  if (xent) xent.Put(sum.xent * Reciprocal(heads * p.Nq), 0);
  if (mse) mse.Put(sum.squares * Reciprocal(heads * p.Nq * p.Dv), 0);
  return ATTUNE_OK;
}

attune_status ChunkedDistillBackward(const attune_exec* exec) {
  const attune_exec& x = *exec;
  const Problem p = ReadDistill(x);
  const Grid grid(p, x.knobs[kChunk]);
  const GradientLayout layout(x, p);
  const View dxent(x.tensors[kDbwDxent]), dmse(x.tensors[kDbwDmse]);
  const View dq(x.tensors[kDbwDq]), dk(x.tensors[kDbwDk]), dv(x.tensors[kDbwDv]);
  const double rows = Reciprocal(p.B * p.Hq * p.Nq), outputs = Reciprocal(p.B * p.Hq * p.Nq * p.Dv);
  const LossGradients upstream = {dxent ? dxent.Get(0) * rows : 0, dmse ? dmse.Get(0) * outputs : 0};
  attune_status status = ParallelFor(x, p.Hkv * layout.slices, [&](int64_t task, uint32_t worker) HWY_ATTR {
    const int64_t slice = task / p.Hkv;
    memset(layout.QueryMap(task, 0), 0, sizeof(float) * layout.task_floats);
    hedgehog::Floats memory = layout.Memory(worker);
    DistillGradients gradients(p, grid, layout, upstream, memory);
    for (int64_t b = layout.FirstBatch(slice, p.B); b < layout.FirstBatch(slice + 1, p.B); b++) {
      gradients.Run(x, task, b, dq, dk, dv);
    }
  });
  if (status == ATTUNE_OK) status = StoreWeights(x, p, layout, x.tensors + kDbwDwq);
  return status == ATTUNE_OK && Cancelled(x) ? ATTUNE_E_CANCELLED : status;
}

#endif  // ATTUNE_ISA
}  // namespace HWY_NAMESPACE
}  // namespace hedgehog
HWY_AFTER_NAMESPACE();
