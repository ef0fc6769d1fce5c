// Few query rows, as in decoding: keys and values are read where they are, each once for all heads of the group.
#include "dma/forward.h"

#include "_kit/isa.h"
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "dma/rows.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "_kit/dot-inl.h"
#include "_kit/online_softmax-inl.h"
#include "dma/phases-inl.h"

HWY_BEFORE_NAMESPACE();
namespace dma {
namespace HWY_NAMESPACE {
#if ATTUNE_ISA
namespace {

constexpr size_t kPieceKeys = 64;                // keys whose scores are kept at a time
constexpr size_t kPieceStride = kPieceKeys + 16;  // floats between rows of scores

// All queries of one (batch, kv head). Row = query * heads of the group + head.
class RowsAttention {
 public:
  static int64_t Positions(const attune_exec&, const Problem& c) { return c.Nq > 1 ? c.Nq : 1; }

  RowsAttention(const attune_exec&, const Problem& c, const Selection& selection, int64_t, Carver* m)
      : c_(c), selection_(selection), ld_q_(PadTo32(c.D)), ld_o_(PadTo32(c.Dv)) {
    const size_t rows = size_t(c.Nq * c.Group());
    q_ = m->Take(rows * ld_q_), o_ = m->Take(rows * ld_o_), m_ = m->Take(rows), sum_ = m->Take(rows * kLanes);
    s_ = m->Take(rows * kPieceStride), tail_ = m->Take(kPieceKeys * kLanes), row_ = m->Take(ld_o_);
    shift_ = m->Take(kPieceKeys);
    list_.keys = reinterpret_cast<int32_t*>(m->Take(size_t(c.Nk) + 32));
    list_.rest = reinterpret_cast<int32_t*>(m->Take(size_t(c.Nk) + 32));
  }

  void Run(int64_t b, int64_t head, int64_t, int64_t) {
    b_ = b, head_ = head, rows_ = size_t(c_.Nq * c_.Group());
    const int64_t n = b * c_.Hkv + head;
    FindKeys(c_.Nk, selection_.Death(n), c_.Position(0), c_.Position(c_.Nq - 1), nullptr, false, &list_);
    for (size_t r = 0; r < rows_; r++) {
      LoadRow({&c_.q, c_.q.Offset(b, Head(r), Query(r))}, size_t(c_.D), float(c_.scale * kLog2E), q_ + r * ld_q_);
      m_[r] = -INFINITY;
    }
    memset(sum_, 0, sizeof(float) * rows_ * kLanes);
    memset(o_, 0, sizeof(float) * rows_ * ld_o_);
    for (int64_t begin = 0; begin < list_.common; begin += int64_t(kPieceKeys)) {
      const size_t count = Piece(begin, list_.common);
      Weights(begin, count);
      AddValues(begin, count);
    }
    for (int64_t begin = list_.common; begin < list_.count; begin += int64_t(kPieceKeys)) {
      const size_t count = Piece(begin, list_.count);
      Weights(begin, count);
      for (size_t k = 0; k < count; k++) AddOne(begin + int64_t(k), s_ + k);
    }
    for (size_t r = 0; r < rows_; r++) Finish(r);
  }

 private:
  int64_t Query(size_t r) const { return int64_t(r) / c_.Group(); }
  int64_t Head(size_t r) const { return head_ * c_.Group() + int64_t(r) % c_.Group(); }
  static size_t Piece(int64_t begin, int64_t end) {
    return end - begin < int64_t(kPieceKeys) ? size_t(end - begin) : kPieceKeys;
  }

  // f(typed pointer to the first row, distance of rows, place of the first, number) for stretches of the list whose
  // rows lie equally far apart.
  template <class F>
  HWY_INLINE void ForEachRun(const KeyRows& from, int64_t begin, size_t count, F f) const {
    const int32_t* keys = list_.keys + begin;
    for (size_t k = 0; k < count;) {
      const bool cached = keys[k] < from.split;
      size_t n = 1;
      while (k + n < count && keys[k + n] == keys[k] + int32_t(n) && (keys[k + n] < from.split) == cached) n++;
      const size_t stride = size_t((cached ? from.cached : from.fresh).Stride(2));
      WithRow(from.At(b_, head_, keys[k]), [&](const auto* p) { f(p, stride, k, n); });
      k += n;
    }
  }

  // s becomes the weights of all rows for `count` keys of the list.
  HWY_NOINLINE void Weights(int64_t begin, size_t count) {
    ForEachRun(c_.k, begin, count, [&](const auto* k, size_t ld, size_t at, size_t n) {
      kit::Dots(int(rows_), n, size_t(c_.D), q_, ld_q_, k, ld, s_ + at, kPieceStride);
    });
    const int64_t head = b_ * c_.Hkv + head_;
    const bool partial = begin >= list_.common;
    double shifted_by = NAN;
    for (size_t r = 0; r < rows_; r++) {
      float* s = s_ + r * kPieceStride;
      const int64_t t = c_.Position(Query(r));
      if (c_.BiasPerKey()) {
        const double top = Largest(r);
        for (size_t k = 0; k < count && top != shifted_by; k++) {
          shift_[k] = float((selection_.Bias(head)[list_.keys[begin + int64_t(k)]] - top) * kLog2E);
        }
        shifted_by = top;
        for (size_t k = 0; k < count; k++) s[k] += shift_[k];
      }
      for (size_t k = 0; k < count && partial; k++) {
        const int32_t j = list_.keys[begin + int64_t(k)];
        if (j > t || t >= selection_.Death(head)[j]) s[k] = -INFINITY;
      }
      const float factor = kit::OnlineSoftmax<true>(s, 0, count, m_ + r, sum_ + r * kLanes);
      if (factor != 1) kit::ScaleRow(o_ + r * ld_o_, ld_o_, factor);
    }
  }

  double Largest(size_t r) const {
    if (!c_.BiasPerKey() || c_.Nk == 0) return 0;
    const int64_t t = c_.Position(Query(r));
    return selection_.Largest(b_ * c_.Hkv + head_)[t < c_.Nk ? t : c_.Nk - 1];
  }

  HWY_NOINLINE void AddValues(int64_t begin, size_t count) {
    const size_t width = size_t(c_.Dv), whole = width / kLanes * kLanes;
    ForEachRun(c_.v, begin, count, [&](const auto* v, size_t ld, size_t at, size_t n) {
      for (size_t r = 0; r < rows_; r += kTileRows) {
        const int rows = rows_ - r < size_t(kTileRows) ? int(rows_ - r) : kTileRows;
        kit::TileColumns(rows, whole, n, s_ + r * kPieceStride + at, kPieceStride, v, ld, o_ + r * ld_o_, ld_o_);
      }
      // The columns beyond the last whole vector are copied: reading them in place would go beyond the row.
      for (size_t k = 0; k < n && whole < width; k++) {
        kit::Widen(v + k * ld + whole, width - whole, 1.0f, tail_ + (at + k) * kLanes);
      }
    });
    for (size_t r = 0; r < rows_ && whole < width; r += kTileRows) {
      const int rows = rows_ - r < size_t(kTileRows) ? int(rows_ - r) : kTileRows;
      kit::TileRows<1, true>(rows, count, s_ + r * kPieceStride, kPieceStride, tail_, kLanes, o_ + r * ld_o_ + whole,
                             ld_o_);
    }
  }

  // A key that only some queries keep goes to them alone: 0 * NaN is not 0.
  HWY_NOINLINE void AddOne(int64_t at, const float* p) {
    LoadRow(c_.v.At(b_, head_, list_.keys[at]), size_t(c_.Dv), 1, row_);
    for (size_t r = 0; r < rows_; r++) {
      if (p[r * kPieceStride] != 0) kit::AddScaled(row_, size_t(c_.Dv), p[r * kPieceStride], o_ + r * ld_o_);
    }
  }

  void Finish(size_t r) {
    const hn::ScalableTag<float> d;
    const float total = hn::GetLane(hn::SumOfLanes(d, hn::LoadU(d, sum_ + r * kLanes)));
    StoreResult(c_, b_, Head(r), Query(r), o_ + r * ld_o_, total, m_[r], Largest(r));
  }

  const Problem& c_;
  const Selection& selection_;
  size_t ld_q_, ld_o_, rows_ = 0;
  float *q_, *o_, *m_, *sum_, *s_, *tail_, *row_, *shift_;
  KeyList list_;
  int64_t b_ = 0, head_ = 0;
};

}  // namespace

attune_status RowsForward(const attune_exec* x) {
  const Problem c = ReadForward(*x);
  return RunPhases<RowsAttention>(*x, c);
}
attune_status RowsStep(const attune_exec* x) {
  const Problem c = ReadStep(*x);
  return RunPhases<RowsAttention>(*x, c);
}

#endif  // ATTUNE_ISA
}  // namespace HWY_NAMESPACE
}  // namespace dma
HWY_AFTER_NAMESPACE();
