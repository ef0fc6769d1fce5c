// The sparse branch of some query rows of one block: softmax over the critical blocks, some hundred keys at a time.
#if defined(ATTUNE_SLA_SPARSE_ROWS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef ATTUNE_SLA_SPARSE_ROWS_INL_H_
#undef ATTUNE_SLA_SPARSE_ROWS_INL_H_
#else
#define ATTUNE_SLA_SPARSE_ROWS_INL_H_
#endif
#include "_kit/online_softmax-inl.h"
#include "sla/pieces-inl.h"

HWY_BEFORE_NAMESPACE();
namespace sla {
namespace HWY_NAMESPACE {
#if ATTUNE_ISA

constexpr size_t kBatchColumns = 256;                      // scores of a row that are formed before they become weights
constexpr size_t kScoreRows = 4 * size_t(kit::kTileRows);  // rows whose scores are kept at a time
constexpr size_t kScoreStride = kBatchColumns + 16;        // no power of two
constexpr size_t kScoreFloats = kScoreRows * kScoreStride;

// Query rows, scaled to units of log2, and what they have accumulated.
struct SoftmaxRows {
  size_t ld_q, ld_o;
  const float* q;
  float *o, *m, *sum;  // sum: kLanes partial sums per row
  float* s;            // kScoreFloats of scratch
};

// Fetches the keys and values of pieces that come next, a few lines at a time between tiles: they lie anywhere, so that
// no hardware expects them.
class FetchAhead {
 public:
  FetchAhead(const HeadMemory& m, size_t depth, size_t ld_v) : m_(m), depth_(depth), ld_v_(ld_v) {}
  void Start(const Piece* pieces, size_t n) {
    piece_ = pieces, end_ = pieces + n;
    Open();
  }
  void operator()() {
    constexpr int kLinesPerCall = 24;
    for (int i = 0; i < kLinesPerCall && piece_ != end_; i++) {
      __builtin_prefetch(at_, 0, 2);
      at_ += 64;
      if (at_ < last_) continue;
      if (keys_) {
        keys_ = false;
        Set(m_.v_rows + (size_t(piece_->first) + piece_->begin) * ld_v_, piece_->Count() * ld_v_);
      } else {
        piece_++;
        Open();
      }
    }
  }

 private:
  void Open() {
    if (piece_ == end_) return;
    const size_t begin = piece_->begin / kPanel * kPanel;
    keys_ = true;
    Set(m_.k_panels + (size_t(piece_->first) + begin) * depth_, (piece_->Columns() - begin) * depth_);
  }
  void Set(const float* first, size_t floats) {
    at_ = reinterpret_cast<const char*>(first), last_ = reinterpret_cast<const char*>(first + floats);
  }

  const HeadMemory& m_;
  size_t depth_, ld_v_;
  const Piece *piece_ = nullptr, *end_ = nullptr;
  const char *at_ = nullptr, *last_ = nullptr;
  bool keys_ = true;
};

// Takes pieces into the softmax of n <= kScoreRows rows. Their columns fit kBatchColumns.
HWY_NOINLINE inline void TakeBatch(const Problem& c, const HeadMemory& m, const Piece* pieces, size_t count,
                                   const SoftmaxRows& x, size_t n, FetchAhead* ahead) {
  const size_t depth = size_t(c.D), width = size_t(c.Dv);
  const auto fetch = [&] { (*ahead)(); };
  size_t columns = 0;
  for (size_t i = 0; i < count; i++) {
    const Piece& p = pieces[i];
    PieceScores(p, n, depth, x.q, x.ld_q, m.k_panels, x.s + columns, kScoreStride, fetch);
    for (size_t r = 0; r < n && p.Count() < p.Columns(); r++) {
      float* s = x.s + r * kScoreStride + columns;
      for (size_t j = 0; j < p.begin; j++) s[j] = -INFINITY;
      for (size_t j = p.end; j < p.Columns(); j++) s[j] = -INFINITY;
    }
    columns += p.Columns();
  }
  for (size_t r = 0; r < n; r++) {
    const float factor = kit::OnlineSoftmax<true>(x.s + r * kScoreStride, 0, columns, x.m + r, x.sum + r * kLanes);
    if (factor != 1) kit::ScaleRow(x.o + r * x.ld_o, x.ld_o, factor);
  }
  columns = 0;
  for (size_t i = 0; i < count; i++) {
    AddPieceRows(pieces[i], n, x.s + columns, kScoreStride, m.v_rows, x.ld_o, width, x.o, x.ld_o, fetch);
    columns += pieces[i].Columns();
  }
}

// o = sum of weights * values over the critical blocks, not normalised; with m and sum. pieces: scratch for all of
// them.
HWY_NOINLINE inline void AttendCritical(const Problem& c, const HeadMemory& m, const Chosen& chosen,
                                        const SoftmaxRows& x, size_t rows, Piece* pieces) {
  for (size_t r = 0; r < rows; r++) x.m[r] = -INFINITY;
  memset(x.sum, 0, sizeof(float) * rows * kLanes);
  memset(x.o, 0, sizeof(float) * rows * x.ld_o);
  size_t count = 0;
  for (int64_t n = 0; n < chosen.n_critical; n++) {
    ForEachPiece(c.Keys(chosen.critical[n]), [&](const Piece& p) { pieces[count++] = p; });
  }
  const auto batch_end = [&](size_t from) {
    size_t columns = 0, i = from;
    while (i < count && columns + pieces[i].Columns() <= kBatchColumns) columns += pieces[i++].Columns();
    return i;
  };
  FetchAhead ahead(m, size_t(c.D), x.ld_o);
  for (size_t from = 0, to; from < count; from = to) {
    to = batch_end(from);
    ahead.Start(pieces + to, batch_end(to) - to);
    for (size_t r = 0; r < rows; r += kScoreRows) {
      const SoftmaxRows part = {x.ld_q, x.ld_o, x.q + r * x.ld_q, x.o + r * x.ld_o, x.m + r, x.sum + r * kLanes, x.s};
      TakeBatch(c, m, pieces + from, to - from, part, rows - r < kScoreRows ? rows - r : kScoreRows, &ahead);
    }
  }
}

#endif  // ATTUNE_ISA
}  // namespace HWY_NAMESPACE
}  // namespace sla
HWY_AFTER_NAMESPACE();
#endif  // toggled include guard
