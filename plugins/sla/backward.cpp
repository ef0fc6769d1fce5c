#include "sla/backward.h"

#include "_kit/isa.h"
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "sla/backward.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "sla/key_gradients-inl.h"

HWY_BEFORE_NAMESPACE();
namespace sla {
namespace HWY_NAMESPACE {
#if ATTUNE_ISA
namespace {

constexpr int64_t kRuns = 32;  // most runs of query blocks per kv head: pieces of work, each with sums of its own

// Rounds of kv heads; in each, whoever writes something is its only writer:
//   Copy, Choose  as in forward
//   Queries       statistics and dq of rows, their part of the sums                    (kv head, run of query blocks)
//   Turn          who chose a key block; the total of the sums over queries            (kv head, strip)
//   Keys          dk and dv                                                            (kv head, piece of a key block)
//   Projection    gradients of w_proj and b_proj, added up over the rounds             (strip)
class Backward {
 public:
  Backward(const attune_exec& x, const Problem& c)
      : x_(x),
        c_(c),
        linear_(bool(c.w_proj)),
        ld_q_(PadTo32(c.D)),
        ld_o_(PadTo32(c.Dv)),
        blocks_(c.Group() * c.Mb),
        runs_(blocks_ < kRuns ? blocks_ : kRuns),
        keys_(c, {false, true, true, linear_}, &head_) {
    const size_t rows = size_t(c.Group() * c.Nq), sums = UnitSums::Floats(size_t(c.D), size_t(c.Dv));
    q_ = head_.Take(rows * ld_q_), d_o_ = head_.Take(rows * ld_o_);
    m_ = head_.Take(rows), inverse_ = head_.Take(rows), delta_ = head_.Take(rows);
    units_ = !linear_ ? 0 : c.scope == kAll ? runs_ : blocks_;
    dh_ = head_.Take(size_t(units_) * sums), dh_total_ = head_.Take(linear_ ? sums : 0);
    dh_flags_ = head_.Take(size_t(UnitSums::Strips(size_t(c.D))));
    dw_ = head_.Take(linear_ ? size_t(runs_ * c.Dv) * ld_o_ : 0), db_ = head_.Take(size_t(runs_) * ld_o_);
    critical_begin_ = head_.Take(size_t(c.Nb + 2)), critical_by_ = head_.Take(size_t(blocks_ * c.n_critical));
    negligible_begin_ = head_.Take(size_t(c.Nb + 2)), negligible_by_ = head_.Take(size_t(blocks_ * c.n_negligible));

    Offsets queries, keys;
    shared_ = static_cast<float*>(x.workspace);
    QueryGradients::Take(c, linear_, &queries, shared_), KeyGradients::Take(c, linear_, &keys, shared_);
    scratch_floats_ = keys_.ScratchFloats();
    if (queries.End() > scratch_floats_) scratch_floats_ = queries.End();
    if (keys.End() > scratch_floats_) scratch_floats_ = keys.End();
    heads_per_round_ = HeadsPerRound(c);
    Offsets shared;
    w_proj_ = shared.Take(size_t(c.Dv) * ld_o_), dw_sum_ = shared.Take(size_t(c.Dv) * ld_o_);
    db_sum_ = shared.Take(ld_o_);
    heads_ = shared_ + shared.End();
    scratch_ = heads_ + size_t(heads_per_round_) * head_.End();
    end_ = scratch_ + x.n_workers * scratch_floats_;
  }

  attune_status Run() {
    const uint64_t needed = uint64_t(end_ - shared_) * sizeof(float);
    if (needed > x_.workspace_bytes) {
      return attune_fail(x_.error, ATTUNE_E_WORKSPACE, "", "the kernel reserved less workspace than it needs");
    }
    memset(shared_, 0, sizeof(float) * size_t(heads_ - shared_));
    for (int64_t e = 0; e < c_.Dv && linear_; e++) {
      LoadRow(c_.w_proj, c_.w_proj.Offset(e), size_t(c_.Dv), 1, shared_ + w_proj_ + size_t(e) * ld_o_);
    }
    attune_status status = ATTUNE_OK;
    const int64_t heads = c_.B * c_.Hkv;
    for (int64_t first = 0; first < heads && status == ATTUNE_OK; first += heads_per_round_) {
      status = Round(first, heads - first < heads_per_round_ ? heads - first : heads_per_round_);
    }
    if (status == ATTUNE_OK && Cancelled(x_)) return ATTUNE_E_CANCELLED;
    for (int64_t e = 0; e < c_.Dv && c_.dw_proj; e++) {
      StoreRow(shared_ + dw_sum_ + size_t(e) * ld_o_, size_t(c_.Dv), 1, c_.dw_proj, c_.dw_proj.Offset(e));
    }
    if (c_.db_proj) StoreRow(shared_ + db_sum_, size_t(c_.Dv), 1, c_.db_proj, 0);
    return status;
  }

 private:
  // f(kv head of the call, its slot in the round, task, worker) for every task of every head.
  template <class F>
  attune_status EachHead(int64_t first, int64_t count, int64_t tasks, F f) const {
    return Parallel(x_, count * tasks,
                    [&](int64_t n, uint32_t worker) { f(first + n / tasks, n / tasks, n % tasks, worker); });
  }

  attune_status Round(int64_t first, int64_t count) const {
    const int64_t strips = UnitSums::Strips(size_t(c_.D)), per_block = PiecesPerBlock(c_);
    attune_status status =
        EachHead(first, count, keys_.CopyTasks(), [&](int64_t head, int64_t slot, int64_t task, uint32_t worker) {
          keys_.Copy(Keys(slot), head / c_.Hkv, head % c_.Hkv, task, Scratch(worker));
        });
    if (status == ATTUNE_OK) {
      status =
          EachHead(first, count, keys_.ChooseTasks(), [&](int64_t head, int64_t slot, int64_t task, uint32_t worker) {
            keys_.Choose(Keys(slot), head / c_.Hkv, head % c_.Hkv, task, Scratch(worker));
          });
    }
    if (status == ATTUNE_OK) {
      status = EachHead(first, count, runs_, [&](int64_t head, int64_t slot, int64_t run, uint32_t worker) {
        Queries(head, slot, run, Scratch(worker));
      });
    }
    if (status == ATTUNE_OK && (c_.dk || c_.dv)) {
      status = EachHead(first, count, 1 + (linear_ ? strips : 0), [&](int64_t, int64_t slot, int64_t task, uint32_t) {
        task == 0 ? Turn(slot) : TotalStrip(QuerySums(slot), task - 1);
      });
      if (status != ATTUNE_OK) return status;
      status =
          EachHead(first, count, c_.Nb * per_block, [&](int64_t head, int64_t slot, int64_t piece, uint32_t worker) {
            KeyPiece(head, slot, piece / per_block, piece % per_block, Scratch(worker));
          });
    }
    if (status == ATTUNE_OK && (c_.dw_proj || c_.db_proj)) {
      status = Parallel(x_, c_.Dv, [&](int64_t row, uint32_t) { Projection(count, row); });
    }
    return status;
  }

  float* Scratch(uint32_t worker) const { return scratch_ + worker * scratch_floats_; }
  float* At(int64_t slot, size_t offset) const { return heads_ + size_t(slot) * head_.End() + offset; }
  int32_t* Ints(int64_t slot, size_t offset) const { return reinterpret_cast<int32_t*>(At(slot, offset)); }
  HeadMemory Keys(int64_t slot) const { return keys_.At(At(slot, 0)); }
  QueryRows Rows(int64_t slot) const {
    return {At(slot, q_), At(slot, d_o_), At(slot, m_), At(slot, inverse_), At(slot, delta_)};
  }
  UnitSums QuerySums(int64_t slot) const {
    return {size_t(c_.D), size_t(c_.Dv), units_, At(slot, dh_), At(slot, dh_total_), At(slot, dh_flags_)};
  }
  Inverse CriticalBy(int64_t slot) const { return {Ints(slot, critical_begin_), Ints(slot, critical_by_)}; }
  Inverse NegligibleBy(int64_t slot) const { return {Ints(slot, negligible_begin_), Ints(slot, negligible_by_)}; }

  // Query blocks [run * blocks / runs, ...) of the group.
  HWY_NOINLINE void Queries(int64_t head, int64_t slot, int64_t run, float* scratch) const {
    const int64_t b = head / c_.Hkv, kv = head % c_.Hkv;
    const HeadMemory keys = Keys(slot);
    const QueryRows rows = Rows(slot);
    const UnitSums dh = QuerySums(slot);
    const RunSums sums = {At(slot, dw_) + size_t(run * c_.Dv) * ld_o_, At(slot, db_) + size_t(run) * ld_o_};
    Offsets offsets;
    const QueryGradients::Memory w = QueryGradients::Take(c_, linear_, &offsets, scratch);
    if (linear_) memset(sums.dw, 0, sizeof(float) * size_t(c_.Dv) * ld_o_);
    memset(sums.db, 0, sizeof(float) * ld_o_);
    if (linear_ && c_.scope == kAll) memset(dh.Unit(run), 0, sizeof(float) * dh.Floats());
    for (int64_t block = run * blocks_ / runs_; block < (run + 1) * blocks_ / runs_; block++) {
      if (Cancelled(x_)) return;
      const int64_t of_group = block / c_.Mb, h = kv * c_.Group() + of_group;
      const Range queries = c_.Queries(block % c_.Mb);
      const Chosen chosen = keys_.ChosenOf(keys, block);
      float* unit = !linear_ ? nullptr : dh.Unit(c_.scope == kAll ? run : block);
      if (linear_ && c_.scope != kAll) memset(unit, 0, sizeof(float) * dh.Floats());
      QueryGradients tile(c_, w, keys, rows, chosen);
      LinearSums linear(c_, keys.sums, chosen, w.own_sums, w.list);
      for (int64_t first = queries.begin; first < queries.end; first += int64_t(kBlockRows)) {
        const size_t at = size_t(of_group * c_.Nq + first);
        const size_t n = queries.end - first < int64_t(kBlockRows) ? size_t(queries.end - first) : kBlockRows;
        tile.Sparse(b, h, first, at, n);
        if (linear_) tile.Linear(&linear, shared_ + w_proj_, dh, unit, sums, b, h, first, at, n);
        for (size_t r = 0; r < n; r++) kit::AddScaled(rows.d_o + (at + r) * ld_o_, size_t(c_.Dv), 1.0f, sums.db);
        for (size_t r = 0; r < n && c_.dq; r++) {
          StoreRow(w.dq + r * ld_q_, size_t(c_.D), 1, c_.dq, c_.dq.Offset(b, h, first + int64_t(r)));
        }
      }
    }
  }

  void Turn(int64_t slot) const {
    const HeadMemory keys = Keys(slot);
    CriticalBy(slot).Fill(keys.critical, c_.n_critical, blocks_, c_.Nb);
    NegligibleBy(slot).Fill(keys.negligible, c_.n_negligible, blocks_, c_.Nb);
  }

  // Piece p of key block j, unless the block has fewer.
  HWY_NOINLINE void KeyPiece(int64_t head, int64_t slot, int64_t j, int64_t p, float* scratch) const {
    const int64_t b = head / c_.Hkv, kv = head % c_.Hkv;
    const HeadMemory keys = Keys(slot);
    const QueryRows rows = Rows(slot);
    const Inverse critical = CriticalBy(slot), negligible = NegligibleBy(slot);
    Offsets offsets;
    const KeyGradients::Memory w = KeyGradients::Take(c_, linear_, &offsets, scratch);
    int64_t index = 0;
    ForEachPiece(c_.Keys(j), [&](const Piece& piece) {
      if (index++ != p) return;
      KeyGradients tile(c_, w, keys, rows, piece);
      for (int64_t s = 0; s < critical.Count(j); s++) {
        const int64_t block = critical.Of(j)[s];
        const Range queries = c_.Queries(block % c_.Mb);
        for (int64_t first = queries.begin; first < queries.end; first += int64_t(kBlockRows)) {
          const size_t n = queries.end - first < int64_t(kBlockRows) ? size_t(queries.end - first) : kBlockRows;
          tile.Sparse(size_t(block / c_.Mb * c_.Nq + first), n);
        }
      }
      tile.Finish();
      if (linear_) {
        const UnitSums dh = QuerySums(slot);
        const float* sums = dh.total;
        if (c_.scope != kAll) {
          const UnitLists excluded = {critical.Of(j), negligible.Of(j), critical.Count(j), negligible.Count(j)};
          SumOthers(dh, excluded, false, w.list, w.own_sums);
          sums = w.own_sums;
        }
        tile.Linear(sums, b, kv);
      }
      tile.Store(b, kv);
    });
  }

  // Row `row` of the gradient of w_proj, and its element of that of b_proj, over the heads of a round.
  void Projection(int64_t count, int64_t row) const {
    for (int64_t slot = 0; slot < count; slot++) {
      for (int64_t run = 0; run < runs_; run++) {
        if (linear_) {
          kit::AddScaled(At(slot, dw_) + size_t(run * c_.Dv + row) * ld_o_, size_t(c_.Dv), 1.0f,
                         shared_ + dw_sum_ + size_t(row) * ld_o_);
        }
        shared_[db_sum_ + size_t(row)] += At(slot, db_)[size_t(run) * ld_o_ + size_t(row)];
      }
    }
  }

  const attune_exec& x_;
  const Problem& c_;
  bool linear_;
  size_t ld_q_, ld_o_;
  int64_t blocks_, runs_, units_, heads_per_round_;
  Offsets head_;
  Preparation keys_;
  size_t q_, d_o_, m_, inverse_, delta_, dh_, dh_total_, dh_flags_, dw_, db_;
  size_t critical_begin_, critical_by_, negligible_begin_, negligible_by_;
  size_t w_proj_, dw_sum_, db_sum_, scratch_floats_;
  float *shared_, *heads_, *scratch_, *end_;
};

}  // namespace

attune_status TiledBackward(const attune_exec* x) {
  const Problem c = ReadBackward(*x);
  return Backward(*x, c).Run();
}

#endif  // ATTUNE_ISA
}  // namespace HWY_NAMESPACE
}  // namespace sla
HWY_AFTER_NAMESPACE();
