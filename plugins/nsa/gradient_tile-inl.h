// The two halves of the gradients of a branch: queries in tiles of positions, keys in pieces.
#if defined(ATTUNE_NSA_GRADIENT_TILE_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef ATTUNE_NSA_GRADIENT_TILE_INL_H_
#undef ATTUNE_NSA_GRADIENT_TILE_INL_H_
#else
#define ATTUNE_NSA_GRADIENT_TILE_INL_H_
#endif
#include "nsa/phases-inl.h"

HWY_BEFORE_NAMESPACE();
namespace nsa {
namespace HWY_NAMESPACE {
#if ATTUNE_ISA

// The keys of a branch in the forms that gradients want: panels of keys and of values, rows of keys.
struct BackwardKeys {
  float *k_panels, *v_panels, *k_rows;
};

// Query rows of one (batch, kv head), by position * heads of the group + head. q is scaled to units of log2.
struct BackwardRows {
  float *q, *q_cmp, *d_o;
  float *lse[kBranches], *delta[kBranches], *gate[kBranches];  // lse in units of log2; delta = <do, o>, ungated
};

constexpr size_t kBlockRows = 32;  // query rows that meet a piece of keys at a time
constexpr size_t kBlockStride = kBlockRows + 16;

// Of one row and piece: scores become weights p = 2^(s - lse), and dp becomes p * (dp - delta).
HWY_INLINE void ScoreGradients(const KeyRange& own, float lse, float delta, float* s, float* dp) {
  const hn::ScalableTag<float> d;
  const auto shift = hn::Set(d, lse), middle = hn::Set(d, delta);
  const size_t end = size_t(own.end);
  for (size_t j = size_t(own.begin) / kLanes * kLanes; j < end; j += kLanes) {
    const auto p = kit::Exp2(d, hn::Sub(hn::LoadU(d, s + j), shift));
    hn::StoreU(p, d, s + j);
    hn::StoreU(hn::Mul(p, hn::Sub(hn::LoadU(d, dp + j), middle)), d, dp + j);
  }
}

// Rows of one tile: lse and delta of every branch, then dq.
class GradientTile : public TileWalk {
 public:
  // second: scratch of kPieceFloats.
  GradientTile(const Problem& c, const TileMemory& w, int64_t b, int64_t head, int64_t first, int64_t count,
               const BackwardRows& rows, float* second)
      : TileWalk(c, w, b, head, first, count), rows_of_(rows), at_(first * c.Group()), dp_(second) {}

  // Adds to dq, rows of ld_q, unless it is null.
  void Branch(BranchId id, const BackwardKeys& keys, float* dq) {
    const size_t depth = size_t(c_.D), width = size_t(c_.Dv);
    const kit::PackedKeys k(keys.k_panels, keys.k_rows, depth, depth, w_.ld_q);
    const kit::PackedKeys v(keys.v_panels, nullptr, width, width, 0);
    const float *q = (id == kCmp ? rows_of_.q_cmp : rows_of_.q) + at_ * w_.ld_q, *d_o = rows_of_.d_o + at_ * w_.ld_o;
    float *lse = rows_of_.lse[id] + at_, *delta = rows_of_.delta[id] + at_;
    const hn::ScalableTag<float> d;
    for (int64_t r = 0; r < rows_; r++) w_.m[r] = -INFINITY, delta[r] = 0;
    memset(w_.sum, 0, sizeof(float) * rows_ * kLanes);
    ForEachScored(id, k, v, q, d_o, [&](int64_t, int64_t r, int64_t n, const KeyRange* range) {
      for (int64_t i = 0; i < n; i++) {
        const KeyRange own = range[i];
        if (own.end <= own.begin) continue;
        float *s = w_.piece + i * kit::kPieceStride, *dp = dp_ + i * kit::kPieceStride;
        const float factor =
            kit::OnlineSoftmax<true>(s, size_t(own.begin), size_t(own.end), w_.m + r + i, w_.sum + (r + i) * kLanes);
        auto sum = hn::Zero(d);
        int32_t j = own.begin;
        for (; j + int32_t(kLanes) <= own.end; j += kLanes) {
          sum = hn::MulAdd(hn::LoadU(d, s + j), hn::LoadU(d, dp + j), sum);
        }
        float rest = hn::GetLane(hn::SumOfLanes(d, sum));
        for (; j < own.end; j++) rest += s[j] * dp[j];
        delta[r + i] = delta[r + i] * factor + rest;
      }
    });
    for (int64_t r = 0; r < rows_; r++) {
      const float total = hn::GetLane(hn::SumOfLanes(d, hn::LoadU(d, w_.sum + r * kLanes)));
      lse[r] = total == 0 ? INFINITY : float(w_.m[r] + log2(double(total)));
      delta[r] = total == 0 ? 0 : delta[r] / total;
    }
    if (!dq) return;
    ForEachScored(id, k, v, q, d_o, [&](int64_t piece, int64_t r, int64_t n, const KeyRange* range) {
      for (int64_t i = 0; i < n; i++) {
        const KeyRange own = range[i];
        if (own.end <= own.begin) continue;
        float* dp = dp_ + i * kit::kPieceStride;
        ScoreGradients(own, lse[r + i], delta[r + i], w_.piece + i * kit::kPieceStride, dp);
        const auto gate = hn::Set(d, rows_of_.gate[id][at_ + r + i] * float(c_.scale));
        for (size_t j = size_t(own.begin) / kLanes * kLanes; j < size_t(own.end); j += kLanes) {
          hn::StoreU(hn::Mul(gate, hn::LoadU(d, dp + j)), d, dp + j);
        }
      }
      kit::AddRanges(k, piece, size_t(n), range, dp_, kit::kPieceStride, dq + r * w_.ld_q, w_.ld_q);
    });
  }

 private:
  // f(piece, first row, rows, their ranges) with the scores of at most kPieceRows rows in w.piece and dp in dp_.
  template <class F>
  void ForEachScored(BranchId id, const kit::PackedKeys& k, const kit::PackedKeys& v, const float* q, const float* d_o,
                    F f) const {
    ForEachPiece(id, [&](int64_t piece, int64_t first, int64_t n) {
      for (int64_t i = 0; i < n; i += kit::kPieceRows) {
        const int64_t rows = n - i < int64_t(kit::kPieceRows) ? n - i : int64_t(kit::kPieceRows), r = first + i;
        KeyRange any = {int32_t(kPieceKeys), 0};
        for (int64_t x = i; x < i + rows; x++) {
          const KeyRange own = w_.range[x];
          if (own.end <= own.begin) continue;
          any = {own.begin < any.begin ? own.begin : any.begin, own.end > any.end ? own.end : any.end};
        }
        if (any.end <= any.begin) continue;
        k.Scores(int(rows), q + r * w_.ld_q, w_.ld_q, piece, size_t(any.begin), size_t(any.end), w_.piece,
                 kit::kPieceStride);
        v.Scores(int(rows), d_o + r * w_.ld_o, w_.ld_o, piece, size_t(any.begin), size_t(any.end), dp_,
                 kit::kPieceStride);
        f(piece, r, rows, w_.range + i);
      }
    });
  }

  const BackwardRows& rows_of_;
  int64_t at_;
  float* dp_;
};

// Gathers query rows that see a piece of keys and adds what they give to the piece's dk and dv.
class PieceGradients {
 public:
  static size_t Floats(size_t ld_q, size_t ld_o) {
    return kBlockRows * (ld_q + ld_o) + 2 * kit::kPieceFloats + 2 * kPieceKeys * kBlockStride + 4 * kPieceKeys;
  }
  PieceGradients(const Problem& c, const BackwardRows& rows, float* at)
      : c_(c), rows_(rows), ld_q_(PadTo32(c.D)), ld_o_(PadTo32(c.Dv)) {
    q_ = at, d_o_ = q_ + kBlockRows * ld_q_;
    s_ = d_o_ + kBlockRows * ld_o_, dp_ = s_ + kit::kPieceFloats;
    p_t_ = dp_ + kit::kPieceFloats, ds_t_ = p_t_ + kPieceKeys * kBlockStride;
    seen_ = reinterpret_cast<KeyRange*>(ds_t_ + kPieceKeys * kBlockStride);
  }

  // The next calls of Push are about this piece and branch. dk, dv: kPieceKeys rows, added to.
  void Begin(BranchId id, const BackwardKeys& keys, int64_t piece, float* dk, float* dv) {
    id_ = id, keys_ = keys, piece_ = piece, dk_ = dk, dv_ = dv, n_ = 0;
  }
  // Row `row` sees these keys of the piece. Rows come in ascending order of positions.
  void Push(int64_t row, const KeyRange& range) {
    memcpy(q_ + n_ * ld_q_, (id_ == kCmp ? rows_.q_cmp : rows_.q) + row * ld_q_, sizeof(float) * ld_q_);
    memcpy(d_o_ + n_ * ld_o_, rows_.d_o + row * ld_o_, sizeof(float) * ld_o_);
    row_[n_] = row, range_[n_] = range;
    if (++n_ == kBlockRows) Flush();
  }
  HWY_NOINLINE void Flush() {
    if (n_ == 0) return;
    const size_t depth = size_t(c_.D), width = size_t(c_.Dv);
    KeyRange any = range_[0];
    for (size_t r = 1; r < n_; r++) {
      if (range_[r].begin < any.begin) any.begin = range_[r].begin;
      if (range_[r].end > any.end) any.end = range_[r].end;
    }
    const kit::PackedKeys k(keys_.k_panels, nullptr, depth, 0, 0), v(keys_.v_panels, nullptr, width, 0, 0);
    k.Scores(int(n_), q_, ld_q_, piece_, size_t(any.begin), size_t(any.end), s_, kit::kPieceStride);
    v.Scores(int(n_), d_o_, ld_o_, piece_, size_t(any.begin), size_t(any.end), dp_, kit::kPieceStride);
    for (int32_t j = any.begin; j < any.end; j++) seen_[j] = {int32_t(n_), 0};
    for (size_t r = 0; r < n_; r++) {
      const float gate = rows_.gate[id_][row_[r]];
      float *s = s_ + r * kit::kPieceStride, *dp = dp_ + r * kit::kPieceStride;
      ScoreGradients(range_[r], rows_.lse[id_][row_[r]], rows_.delta[id_][row_[r]], s, dp);
      for (int32_t j = range_[r].begin; j < range_[r].end; j++) {
        p_t_[j * kBlockStride + r] = gate * s[j], ds_t_[j * kBlockStride + r] = gate * dp[j];
        if (seen_[j].end == 0) seen_[j].begin = int32_t(r);
        seen_[j].end = int32_t(r) + 1;  // a key is seen by neighbours only
      }
    }
    const kit::PackedKeys q(nullptr, q_, 0, depth, ld_q_), d_o(nullptr, d_o_, 0, width, ld_o_);
    const size_t first = size_t(any.begin), n = size_t(any.end - any.begin);
    kit::AddRanges(q, 0, n, seen_ + first, ds_t_ + first * kBlockStride, kBlockStride, dk_ + first * ld_q_, ld_q_);
    kit::AddRanges(d_o, 0, n, seen_ + first, p_t_ + first * kBlockStride, kBlockStride, dv_ + first * ld_o_, ld_o_);
    n_ = 0;
  }

 private:
  const Problem& c_;
  const BackwardRows& rows_;
  size_t ld_q_, ld_o_, n_ = 0;
  BranchId id_ = kSlc;
  BackwardKeys keys_ = {};
  int64_t piece_ = 0;
  float *q_, *d_o_, *s_, *dp_, *p_t_, *ds_t_, *dk_ = nullptr, *dv_ = nullptr;
  KeyRange* seen_;
  int64_t row_[kBlockRows];
  KeyRange range_[kBlockRows];
};

#endif  // ATTUNE_ISA
}  // namespace HWY_NAMESPACE
}  // namespace nsa
HWY_AFTER_NAMESPACE();
#endif  // toggled include guard
