#include "sla/forward.h"

#include "_kit/isa.h"
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "sla/forward.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include <math.h>

#include "sla/linear_rows-inl.h"
#include "sla/sparse_rows-inl.h"

HWY_BEFORE_NAMESPACE();
namespace sla {
namespace HWY_NAMESPACE {
#if ATTUNE_ISA
namespace {

using kit::Order;
using kit::Start;
using kit::Terms;

constexpr double kLog2E = 1.4426950408889634, kLn2 = 0.6931471805599453;

// Rounds of kv heads; in each: copies, means and sums; choice of blocks; tiles of query rows within a block.
class Forward {
 public:
  Forward(const attune_exec& x, const Problem& c)
      : x_(x),
        c_(c),
        linear_(c.w_proj || c.o_l),
        folded_(c.scope == kAll && c.w_proj && !c.o_l),
        ld_q_(PadTo32(c.D)),
        ld_o_(PadTo32(c.Dv)),
        rows_(TileRowsOf(c, x.knobs[kTileRowsWanted])),
        keys_(c, {true, false, false, linear_}, &head_) {
    folded_sums_ = head_.Take(folded_ ? size_t(c.D) * ld_o_ : 0);
    const size_t n = size_t(rows_), sums = UnitSums::Floats(size_t(c.D), size_t(c.Dv));
    q_ = tile_.Take(n * ld_q_), mapped_ = tile_.Take(n * ld_q_);
    o_ = tile_.Take(n * ld_o_), o_l_ = tile_.Take(n * ld_o_);
    m_ = tile_.Take(n), sum_ = tile_.Take(n * kLanes), denominator_ = tile_.Take(n);
    scores_ = tile_.Take(kScoreFloats);
    pieces_ = tile_.Take(size_t(c.n_critical * PiecesPerBlock(c)) * (sizeof(Piece) / sizeof(float)));
    own_sums_ = tile_.Take(linear_ && c.scope != kAll ? sums : 0);
    list_ = tile_.Take(size_t(c.Nb));
    const size_t scratch = keys_.ScratchFloats();
    scratch_floats_ = scratch > tile_.End() ? scratch : tile_.End();
    heads_per_round_ = HeadsPerRound(c);
    Offsets shared;
    w_t_ = shared.Take(size_t(c.Dv) * ld_o_), bias_ = shared.Take(ld_o_);
    shared_ = static_cast<float*>(x.workspace);
    heads_ = shared_ + shared.End();
    scratch_ = heads_ + size_t(heads_per_round_) * head_.End();
    end_ = scratch_ + x.n_workers * scratch_floats_;
  }

  attune_status Run() {
    const uint64_t needed = uint64_t(end_ - shared_) * sizeof(float);
    if (needed > x_.workspace_bytes) {
      return attune_fail(x_.error, ATTUNE_E_WORKSPACE, "", "the kernel reserved less workspace than it needs");
    }
    LoadProjection();
    attune_status status = ATTUNE_OK;
    const int64_t heads = c_.B * c_.Hkv;
    for (int64_t first = 0; first < heads && status == ATTUNE_OK; first += heads_per_round_) {
      status = Round(first, heads - first < heads_per_round_ ? heads - first : heads_per_round_);
    }
    return status == ATTUNE_OK && Cancelled(x_) ? ATTUNE_E_CANCELLED : status;
  }

 private:
  // Most query rows of a tile; tiles do not cross blocks.
  static int64_t TileRowsOf(const Problem& c, int64_t wanted) {
    const int64_t block = c.block_q < c.Nq ? c.block_q : c.Nq;
    const int64_t n = wanted < block ? wanted : block;
    return n > 1 ? n : 1;
  }
  int64_t TilesPerBlock() const { return Pieces(c_.block_q < c_.Nq ? c_.block_q : c_.Nq, rows_); }

  attune_status Round(int64_t first, int64_t count) {
    const int64_t copies = keys_.CopyTasks(), choices = keys_.ChooseTasks();
    attune_status status = Parallel(x_, count * copies, [&](int64_t n, uint32_t worker) {
      const int64_t head = first + n / copies;
      keys_.Copy(Head(head - first), head / c_.Hkv, head % c_.Hkv, n % copies, Scratch(worker));
    });
    if (status == ATTUNE_OK) {
      status = Parallel(x_, count * choices, [&](int64_t n, uint32_t worker) {
        const int64_t head = first + n / choices;
        keys_.Choose(Head(head - first), head / c_.Hkv, head % c_.Hkv, n % choices, Scratch(worker));
      });
    }
    const int64_t strips = UnitSums::Strips(size_t(c_.D));
    if (status == ATTUNE_OK && folded_) {
      status = Parallel(x_, count * strips, [&](int64_t n, uint32_t) { Fold(n / strips, n % strips); });
    }
    const int64_t blocks = c_.Group() * c_.Mb, tiles = TilesPerBlock();
    if (status == ATTUNE_OK) {
      status = Parallel(x_, count * blocks * tiles, [&](int64_t n, uint32_t worker) {
        Tile(first, n / (blocks * tiles), n / tiles % blocks, n % tiles, worker);
      });
    }
    return status;
  }

  float* Scratch(uint32_t worker) const { return scratch_ + worker * scratch_floats_; }
  HeadMemory Head(int64_t slot) const { return keys_.At(heads_ + size_t(slot) * head_.End()); }
  float* Folded(int64_t slot) const { return heads_ + size_t(slot) * head_.End() + folded_sums_; }

  // w_t[n][e] = w_proj[e][n]: what rows of the linear branch are multiplied by.
  void LoadProjection() const {
    float *w_t = shared_ + w_t_, *bias = shared_ + bias_;
    memset(bias, 0, sizeof(float) * ld_o_);
    if (c_.b_proj) LoadRow(c_.b_proj, 0, size_t(c_.Dv), 1, bias);
    if (!c_.w_proj) return;
    memset(w_t, 0, sizeof(float) * size_t(c_.Dv) * ld_o_);
    const float* w = static_cast<const float*>(c_.w_proj.Data());
    for (int64_t e = 0; e < c_.Dv; e++) {
      for (int64_t n = 0; n < c_.Dv; n++) w_t[size_t(n) * ld_o_ + size_t(e)] = w[c_.w_proj.Offset(e, n)];
    }
  }

  // All rows share the sums, so that these can be projected instead of the rows.
  void Fold(int64_t slot, int64_t strip) const {
    const size_t from = size_t(strip) * kStripRows, d = size_t(c_.D);
    const size_t n = d - from < kStripRows ? d - from : kStripRows;
    kit::ChunkProduct<Start::kZero, Terms::kAll, Order::kRows>(
        n, size_t(c_.Dv), size_t(c_.Dv), Head(slot).sums.total + from * ld_o_, ld_o_, shared_ + w_t_, ld_o_, 0,
        Folded(slot) + from * ld_o_, ld_o_);
  }

  // Tile `t` of query block `block`, counted over the heads of the group.
  HWY_NOINLINE void Tile(int64_t first_head, int64_t slot, int64_t block, int64_t t, uint32_t worker) const {
    const Range queries = c_.Queries(block % c_.Mb);
    const int64_t first = queries.begin + t * rows_;
    if (first >= queries.end) return;
    const int64_t rows = queries.end - first < rows_ ? queries.end - first : rows_;
    const int64_t b = (first_head + slot) / c_.Hkv, kv = (first_head + slot) % c_.Hkv;
    const int64_t h = kv * c_.Group() + block / c_.Mb;
    const HeadMemory m = Head(slot);
    const Chosen chosen = keys_.ChosenOf(m, block);
    float* w = Scratch(worker);
    Attend(m, chosen, b, h, first, rows, w);
    if (linear_) {
      Linear(m, chosen, slot, b, h, first, rows, w);
    } else {
      for (int64_t r = 0; r < rows; r++) AddRow(shared_ + bias_, 1, w + o_ + size_t(r) * ld_o_);
    }
    for (int64_t r = 0; r < rows; r++) {
      StoreRow(w + o_ + size_t(r) * ld_o_, size_t(c_.Dv), 1, c_.o, c_.o.Offset(b, h, first + r));
    }
  }

  // o = softmax attention over the critical blocks.
  void Attend(const HeadMemory& m, const Chosen& chosen, int64_t b, int64_t h, int64_t first, int64_t rows,
              float* w) const {
    const hn::ScalableTag<float> d;
    LoadRows(c_.q, b, h, first, rows, size_t(c_.D), float(c_.scale * kLog2E), w + q_, ld_q_);
    const SoftmaxRows x = {ld_q_, ld_o_, w + q_, w + o_, w + m_, w + sum_, w + scores_};
    AttendCritical(c_, m, chosen, x, size_t(rows), reinterpret_cast<Piece*>(w + pieces_));
    for (int64_t r = 0; r < rows; r++) {
      const float total = hn::GetLane(hn::SumOfLanes(d, hn::LoadU(d, x.sum + size_t(r) * kLanes)));
      float* o = x.o + size_t(r) * ld_o_;
      kit::ScaleRow(o, ld_o_, total == 0 ? 0 : 1 / total);
      if (c_.o_s) StoreRow(o, size_t(c_.Dv), 1, c_.o_s, c_.o_s.Offset(b, h, first + r));
      if (c_.lse_s) c_.lse_s.Put(total == 0 ? -INFINITY : x.m[r] * kLn2 + log(double(total)), b, h, first + r);
    }
  }

  // o += projection of the linear branch + bias.
  void Linear(const HeadMemory& m, const Chosen& chosen, int64_t slot, int64_t b, int64_t h, int64_t first,
              int64_t rows, float* w) const {
    float *mapped = w + mapped_, *denominator = w + denominator_, *o_l = w + o_l_;
    LoadRows(c_.q, b, h, first, rows, size_t(c_.D), 1, mapped, ld_q_);
    for (int64_t r = 0; r < rows; r++) {
      MapRow(c_.map, mapped + size_t(r) * ld_q_, size_t(c_.D), mapped + size_t(r) * ld_q_);
    }
    LinearSums sums(c_, m.sums, chosen, w + own_sums_, reinterpret_cast<int32_t*>(w + list_));
    sums.Denominators(mapped, ld_q_, rows, denominator);
    if (sums.Empty()) {
      memset(o_l, 0, sizeof(float) * size_t(rows) * ld_o_);
    } else {
      kit::ChunkProduct<Start::kZero, Terms::kAll, Order::kRows>(size_t(rows), size_t(c_.Dv), size_t(c_.D), mapped,
                                                                 ld_q_, folded_ ? Folded(slot) : sums.Sums(), ld_o_, 0,
                                                                 o_l, ld_o_);
    }
    for (int64_t r = 0; r < rows; r++) {
      float *row = o_l + size_t(r) * ld_o_, *o = w + o_ + size_t(r) * ld_o_;
      if (denominator[r] == 0) {
        memset(row, 0, sizeof(float) * ld_o_);
      } else {
        kit::ScaleRow(row, (size_t(c_.Dv) + kLanes - 1) / kLanes * kLanes, 1 / denominator[r]);
      }
      if (c_.o_l) StoreRow(row, size_t(c_.Dv), 1, c_.o_l, c_.o_l.Offset(b, h, first + r));
      AddRow(shared_ + bias_, 1, o);
      if (folded_) AddRow(row, 1, o);
    }
    if (folded_ || !c_.w_proj) return;
    kit::ChunkProduct<Start::kKeep, Terms::kAll, Order::kRows>(size_t(rows), size_t(c_.Dv), size_t(c_.Dv), o_l, ld_o_,
                                                               shared_ + w_t_, ld_o_, 0, w + o_, ld_o_);
  }

  void AddRow(const float* x, float factor, float* row) const { kit::AddScaled(x, size_t(c_.Dv), factor, row); }

  const attune_exec& x_;
  const Problem& c_;
  bool linear_, folded_;  // folded: the sums are projected, not the rows
  size_t ld_q_, ld_o_;
  int64_t rows_, heads_per_round_;
  Offsets head_, tile_;
  Preparation keys_;
  size_t folded_sums_, w_t_, bias_, scratch_floats_;
  size_t q_, mapped_, o_, o_l_, m_, sum_, denominator_, scores_, pieces_, own_sums_, list_;
  float *shared_, *heads_, *scratch_, *end_;
};

}  // namespace

attune_status TiledForward(const attune_exec* x) {
  const Problem c = ReadForward(*x);
  return Forward(*x, c).Run();
}

#endif  // ATTUNE_ISA
}  // namespace HWY_NAMESPACE
}  // namespace sla
HWY_AFTER_NAMESPACE();
