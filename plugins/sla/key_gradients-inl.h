// Gradients of some keys and values of one block: every query block that chose it, then the linear branch.
#if defined(ATTUNE_SLA_KEY_GRADIENTS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef ATTUNE_SLA_KEY_GRADIENTS_INL_H_
#undef ATTUNE_SLA_KEY_GRADIENTS_INL_H_
#else
#define ATTUNE_SLA_KEY_GRADIENTS_INL_H_
#endif
#include "sla/query_gradients-inl.h"

HWY_BEFORE_NAMESPACE();
namespace sla {
namespace HWY_NAMESPACE {
#if ATTUNE_ISA

// Query blocks of the group by key block: those of block j are by[begin[j] ... begin[j + 1]), ascending.
struct Inverse {
  int32_t *begin, *by;
  int64_t Count(int64_t j) const { return begin[j + 1] - begin[j]; }
  const int32_t* Of(int64_t j) const { return by + begin[j]; }

  // From lists of n blocks each of `queries` query blocks. begin: n_keys + 2 ints.
  void Fill(const int32_t* lists, int64_t n, int64_t queries, int64_t n_keys) const {
    memset(begin, 0, sizeof(int32_t) * size_t(n_keys + 2));
    for (int64_t i = 0; i < queries * n; i++) begin[lists[i] + 2]++;
    for (int64_t j = 2; j <= n_keys + 1; j++) begin[j] += begin[j - 1];
    for (int64_t i = 0; i < queries; i++) {
      for (int64_t s = 0; s < n; s++) by[begin[lists[i * n + s] + 1]++] = int32_t(i);
    }
  }
};

constexpr size_t kPieceStride = kPieceKeys + 16;  // floats between rows of scores: no power of two

// At most kPieceKeys keys, those of one piece.
class KeyGradients {
 public:
  struct Memory {
    float *s, *dp, *dk, *dv, *x, *mapped, *values, *d_mapped, *own_sums;
    int32_t* list;
  };
  static Memory Take(const Problem& c, bool linear, Offsets* at, float* base) {
    const size_t ld_q = PadTo32(c.D), ld_o = PadTo32(c.Dv), n = kPieceKeys;
    const auto take = [&](size_t floats) { return base + at->Take(floats); };
    Memory m = {};
    m.s = take(kBlockRows * kPieceStride), m.dp = take(kBlockRows * kPieceStride);
    m.dk = take(n * ld_q), m.dv = take(n * ld_o);
    if (!linear) return m;
    m.x = take(n * ld_q), m.mapped = take(n * ld_q), m.d_mapped = take(n * ld_q), m.values = take(n * ld_o);
    m.own_sums = take(c.scope == kAll ? 0 : UnitSums::Floats(size_t(c.D), size_t(c.Dv)));
    m.list = reinterpret_cast<int32_t*>(take(size_t(c.Group() * c.Mb)));
    return m;
  }

  KeyGradients(const Problem& c, const Memory& w, const HeadMemory& keys, const QueryRows& rows, const Piece& piece)
      : c_(c),
        w_(w),
        keys_(keys),
        rows_(rows),
        piece_(piece),
        n_(piece.Count()),
        ld_q_(PadTo32(c.D)),
        ld_o_(PadTo32(c.Dv)) {
    memset(w_.dk, 0, sizeof(float) * n_ * ld_q_);
    memset(w_.dv, 0, sizeof(float) * n_ * ld_o_);
  }

  // Adds what rows [at, at + n) of the group give, n <= kBlockRows. dk is in units of q: see Finish.
  HWY_NOINLINE void Sparse(size_t at, size_t n) {
    const hn::ScalableTag<float> d;
    const size_t depth = size_t(c_.D), width = size_t(c_.Dv);
    const float *q = rows_.q + at * ld_q_, *d_o = rows_.d_o + at * ld_o_;
    PieceScores(piece_, n, depth, q, ld_q_, keys_.k_panels, w_.s, kPieceStride, NothingAhead());
    PieceScores(piece_, n, width, d_o, ld_o_, keys_.v_panels, w_.dp, kPieceStride, NothingAhead());
    for (size_t r = 0; r < n; r++) {
      float *s = w_.s + r * kPieceStride, *dp = w_.dp + r * kPieceStride;
      const auto shift = hn::Set(d, rows_.m[at + r]), inverse = hn::Set(d, rows_.inverse[at + r]);
      const auto middle = hn::Set(d, rows_.delta[at + r]);
      for (size_t j = piece_.begin / kLanes * kLanes; j < piece_.end; j += kLanes) {
        const auto p = hn::Mul(inverse, kit::Exp2(d, hn::Sub(hn::LoadU(d, s + j), shift)));
        hn::StoreU(p, d, s + j);
        hn::StoreU(hn::Mul(p, hn::Sub(hn::LoadU(d, dp + j), middle)), d, dp + j);
      }
    }
    kit::ChunkProduct<Start::kKeep, Terms::kAll, Order::kColumns>(n_, width, n, w_.s + piece_.begin, kPieceStride, d_o,
                                                                  ld_o_, 0, w_.dv, ld_o_);
    kit::ChunkProduct<Start::kKeep, Terms::kAll, Order::kColumns>(n_, depth, n, w_.dp + piece_.begin, kPieceStride, q,
                                                                  ld_q_, 0, w_.dk, ld_q_);
  }

  // Brings dk into its own units; to be called once, before Linear.
  void Finish() {
    for (size_t r = 0; r < n_; r++) kit::ScaleRow(w_.dk + r * ld_q_, ld_q_, float(kLn2));
  }

  // Adds the linear branch: sums = those over the query blocks whose scope contains the keys.
  HWY_NOINLINE void Linear(const float* sums, int64_t b, int64_t head) {
    const size_t depth = size_t(c_.D), width = size_t(c_.Dv);
    const int64_t first = piece_.first + int64_t(piece_.begin);
    LoadRows(c_.k, b, head, first, int64_t(n_), depth, 1, w_.x, ld_q_);
    LoadRows(c_.v, b, head, first, int64_t(n_), width, 1, w_.values, ld_o_);
    for (size_t r = 0; r < n_; r++) MapRow(c_.map, w_.x + r * ld_q_, depth, w_.mapped + r * ld_q_);
    kit::ChunkProduct<Start::kKeep, Terms::kAll, Order::kRows>(n_, width, depth, w_.mapped, ld_q_, sums, ld_o_, 0,
                                                               w_.dv, ld_o_);
    memset(w_.d_mapped, 0, sizeof(float) * n_ * ld_q_);
    kit::Dots(int(n_), depth, width, w_.values, ld_o_, sums, ld_o_, w_.d_mapped, ld_q_);
    for (size_t r = 0; r < n_; r++) {
      float* d_mapped = w_.d_mapped + r * ld_q_;
      kit::AddScaled(sums + depth * ld_o_, depth, 1.0f, d_mapped);
      MapRowBackward(c_.map, w_.mapped + r * ld_q_, d_mapped, depth, w_.dk + r * ld_q_);
    }
  }

  void Store(int64_t b, int64_t head) const {
    const int64_t first = piece_.first + int64_t(piece_.begin);
    for (size_t r = 0; r < n_; r++) {
      const int64_t j = first + int64_t(r);
      if (c_.dk) StoreRow(w_.dk + r * ld_q_, size_t(c_.D), 1, c_.dk, c_.dk.Offset(b, head, j));
      if (c_.dv) StoreRow(w_.dv + r * ld_o_, size_t(c_.Dv), 1, c_.dv, c_.dv.Offset(b, head, j));
    }
  }

 private:
  const Problem& c_;
  const Memory& w_;
  const HeadMemory& keys_;
  const QueryRows& rows_;
  Piece piece_;
  size_t n_, ld_q_, ld_o_;
};

#endif  // ATTUNE_ISA
}  // namespace HWY_NAMESPACE
}  // namespace sla
HWY_AFTER_NAMESPACE();
#endif  // toggled include guard
