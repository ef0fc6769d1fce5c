#include "lla/forward.h"

#include "_kit/isa.h"
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "lla/backward.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "lla/gradients-inl.h"

HWY_BEFORE_NAMESPACE();
namespace lla {
namespace HWY_NAMESPACE {
#if ATTUNE_ISA
namespace {

// The phases of one call. Whoever writes something is its only writer, and how the work is cut depends on sizes and
// knobs alone:
//   keys made ready                                                  (kv head, chunk of keys)
//   both linear systems of every query, dq, what the keys will need  (kv head, tile of rows)
//   dk and dv, weights formed again                                  (kv head, piece of keys)
//   dridge, summed over the dims in which ridge is broadcast         (element)
class Backward {
 public:
  Backward(const attune_exec& x, const Problem& c)
      : x_(x), c_(c), heads_(c.B * c.Hkv), rows_(x.knobs[kTileRowsWanted]), head_rows_(c.Nq * c.Group()) {
    head_floats_ = HeadKeys::Floats(c, kForms);
    const size_t pack = size_t(kPackKeys) * (PadTo32(c.D) + PadTo32(c.Dv)), tile = GradientMemory::Floats(c, rows_);
    const size_t piece = PieceMemory::Floats(c);
    scratch_floats_ = tile > piece ? tile : piece;
    if (pack > scratch_floats_) scratch_floats_ = pack;
    row_floats_ = QueryRows::Floats(c, head_rows_);
    head_memory_ = static_cast<float*>(x.workspace);
    row_memory_ = head_memory_ + size_t(heads_) * head_floats_;
    scratch_ = row_memory_ + size_t(heads_) * row_floats_;
  }

  attune_status Run() {
    const float* const end = scratch_ + x_.n_workers * scratch_floats_;
    if (size_t(end - head_memory_) * sizeof(float) > x_.workspace_bytes) {
      return attune_fail(x_.error, ATTUNE_E_WORKSPACE, "", "the kernel reserved less workspace than it needs");
    }
    const int64_t chunks = PackTasks(c_.Nk), tiles = (head_rows_ + rows_ - 1) / rows_;
    const int64_t pieces = c_.dk || c_.dv ? WholePieces(c_.Nk) / int64_t(kPieceKeys) : 0;
    attune_status status = Parallel(x_, heads_ * chunks, [&](int64_t n, uint32_t worker) {
      const int64_t head = n / chunks;
      PackKeys(c_, kForms, head / c_.Hkv, head % c_.Hkv, n % chunks, KeysOf(head), Scratch(worker));
    });
    if (status == ATTUNE_OK) {  // the last tiles first: they see most
      status = Parallel(x_, heads_ * tiles, [&](int64_t n, uint32_t worker) {
        Tile(n % heads_, (tiles - 1 - n / heads_) * rows_, worker);
      });
    }
    if (status == ATTUNE_OK) {  // the first keys first: most see them
      status = Parallel(x_, heads_ * pieces, [&](int64_t n, uint32_t worker) {
        const int64_t head = n % heads_;
        const HeadKeys keys = KeysOf(head);
        KeyPiece(c_, PieceMemory(c_, Scratch(worker)), keys, RowsOf(head), head / c_.Hkv, head % c_.Hkv,
                 n / heads_ * int64_t(kPieceKeys))
            .Run();
      });
    }
    if (status == ATTUNE_OK && c_.dridge) {
      const int64_t n_heads = c_.ridge.Dim(1), n_rows = c_.ridge.Dim(2);
      status = Parallel(x_, c_.ridge.Dim(0) * n_heads * n_rows, [&](int64_t n, uint32_t) {
        Ridge(n / n_rows / n_heads, n / n_rows % n_heads, n % n_rows);
      });
    }
    return status == ATTUNE_OK && Cancelled(x_) ? ATTUNE_E_CANCELLED : status;
  }

 private:
  static constexpr int kForms = kKeyPanels | kValuePanels;

  float* Scratch(uint32_t worker) const { return scratch_ + worker * scratch_floats_; }
  HeadKeys KeysOf(int64_t head) const { return HeadKeys(c_, kForms, head_memory_ + size_t(head) * head_floats_); }
  QueryRows RowsOf(int64_t head) const {
    return QueryRows(c_, head_rows_, row_memory_ + size_t(head) * row_floats_);
  }

  void Tile(int64_t head, int64_t first, uint32_t worker) const {
    const GradientMemory m(c_, rows_, Scratch(worker));
    const HeadKeys keys = KeysOf(head);
    const int64_t left = head_rows_ - first;
    GradientTile(c_, m, keys, RowsOf(head), head / c_.Hkv, head % c_.Hkv, first, size_t(left < rows_ ? left : rows_))
        .Run();
  }

  // Element (b, h, i) of dridge.
  void Ridge(int64_t b, int64_t h, int64_t i) const {
    const auto all = [](int64_t given, int64_t extent, int64_t n, auto f) {
      for (int64_t j = extent > 1 ? given : 0; j < (extent > 1 ? given + 1 : n); j++) f(j);
    };
    double sum = 0;
    all(b, c_.ridge.Dim(0), c_.B, [&](int64_t batch) {
      all(h, c_.ridge.Dim(1), c_.Hq, [&](int64_t head) {
        const QueryRows rows = RowsOf(batch * c_.Hkv + head / c_.Group());
        all(i, c_.ridge.Dim(2), c_.Nq, [&](int64_t query) { sum -= rows.hy[query * c_.Group() + head % c_.Group()]; });
      });
    });
    c_.dridge.Put(sum, b, h, i);
  }

  const attune_exec& x_;
  const Problem& c_;
  const int64_t heads_, rows_, head_rows_;
  size_t head_floats_, row_floats_, scratch_floats_;
  float *head_memory_, *row_memory_, *scratch_;
};

}  // namespace

attune_status PackedBackward(const attune_exec* x) {
  const Problem c = ReadBackward(*x);
  return Backward(*x, c).Run();
}

#endif  // ATTUNE_ISA
}  // namespace HWY_NAMESPACE
}  // namespace lla
HWY_AFTER_NAMESPACE();
