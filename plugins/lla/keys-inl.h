// Keys and values of one kv head in the forms that products want. All keys are taken relative to the first one, which
// every query sees: weights, the mean's distance and the regression do not change, and rounding no longer grows with an
// offset that all keys share.
#if defined(ATTUNE_LLA_KEYS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef ATTUNE_LLA_KEYS_INL_H_
#undef ATTUNE_LLA_KEYS_INL_H_
#else
#define ATTUNE_LLA_KEYS_INL_H_
#endif
#include "_kit/block_sparse-inl.h"
#include "lla/rows-inl.h"

HWY_BEFORE_NAMESPACE();
namespace lla {
namespace HWY_NAMESPACE {
#if ATTUNE_ISA
using kit::kPieceKeys;

constexpr int64_t kPackKeys = 128;  // keys that a task makes ready; a multiple of kPieceKeys and so of every kPanel

constexpr int64_t WholePieces(int64_t keys) {
  return (keys + int64_t(kPieceKeys) - 1) / int64_t(kPieceKeys) * int64_t(kPieceKeys);
}
constexpr int64_t PackTasks(int64_t keys) {
  return (keys + kPackKeys - 1) / kPackKeys;
}

enum Form { kKeyPanels = 1, kValueRows = 2, kValuePanels = 4 };

// Memory of one kv head: rows of keys and their squared norms always, the rest as `forms` say.
struct HeadKeys {
  size_t ld_k, ld_v;
  float *origin, *rows, *norms;       // the first key; the others relative to it
  float *panels, *values, *value_panels;

  static size_t Floats(const Problem& c, int forms) {
    HeadKeys k;
    return Take(c, forms, nullptr, &k);
  }
  HeadKeys() = default;
  HeadKeys(const Problem& c, int forms, float* at) { Take(c, forms, at, this); }

 private:
  static size_t Take(const Problem& c, int forms, float* at, HeadKeys* k) {
    size_t used = 0;
    const auto take = [&](size_t n) {
      float* p = at ? at + used : nullptr;
      used += n;
      return p;
    };
    const size_t keys = size_t(WholePieces(c.Nk));
    k->ld_k = PadTo32(c.D), k->ld_v = PadTo32(c.Dv);
    k->origin = take(k->ld_k), k->rows = take(keys * k->ld_k), k->norms = take(keys);
    k->panels = take(forms & kKeyPanels ? keys * k->ld_k : 0);
    k->values = take(forms & kValueRows ? keys * k->ld_v : 0);
    k->value_panels = take(forms & kValuePanels ? keys * k->ld_v : 0);
    return used;
  }
};

// Rows [first, first + n), n <= kPackKeys, to panels. Places behind the last row of a panel repeat it.
HWY_INLINE void Transpose(const float* rows, size_t ld, int64_t first, int64_t n, int64_t width, float* panels) {
  for (int64_t j = first; j < first + n; j += kPanel) {
    const float* pointers[kPanel];
    for (size_t r = 0; r < kPanel; r++) {
      const int64_t key = j + int64_t(r) < first + n ? j + int64_t(r) : first + n - 1;
      pointers[r] = rows + size_t(key) * ld;
    }
    kit::TransposeToPanel(pointers, size_t(width), panels + size_t(j * width));
  }
}

// Makes piece `task` of the keys and values of one kv head ready. scratch: a row of keys, or kPackKeys rows
// of values if they go to panels.
HWY_NOINLINE inline void PackKeys(const Problem& c, int forms, int64_t b, int64_t head, int64_t task,
                                  const HeadKeys& to, float* scratch) {
  const int64_t first = task * kPackKeys, n = c.Nk - first < kPackKeys ? c.Nk - first : kPackKeys;
  float* const origin = task == 0 ? to.origin : scratch;
  LoadRow(c.k, c.k.Offset(b, head, 0), c.D, 1, origin);
  for (int64_t j = first; j < first + n; j++) {
    float* row = to.rows + size_t(j) * to.ld_k;
    LoadRow(c.k, c.k.Offset(b, head, j), c.D, 1, row);
    AddScaled(row, -1, origin, to.ld_k);
    to.norms[j] = Dot(row, row, to.ld_k);
  }
  if (forms & kKeyPanels) Transpose(to.rows, to.ld_k, first, n, c.D, to.panels);
  for (int64_t j = first; j < first + n && (forms & kValueRows); j++) {
    LoadRow(c.v, c.v.Offset(b, head, j), c.Dv, 1, to.values + size_t(j) * to.ld_v);
  }
  if (forms & kValuePanels) {
    for (int64_t j = 0; j < n; j++) {
      LoadRow(c.v, c.v.Offset(b, head, first + j), c.Dv, 1, scratch + size_t(j) * to.ld_v);
    }
    Transpose(scratch, to.ld_v, 0, n, c.Dv, to.value_panels + size_t(first * c.Dv));
  }
}

// Keys as rows of f32, for few query rows. Like the classes of block_sparse-inl.h.
class KeyRows {
 public:
  KeyRows(const float* rows, size_t ld) : rows_(rows), ld_(ld) {}
  HWY_INLINE void Scores(int rows, const float* q, size_t ld_q, int64_t first, size_t begin, size_t end, float* s,
                         size_t ld_s) const {
    kit::Dots(rows, end - begin, ld_, q, ld_q, At(first, begin), ld_, s + begin, ld_s);
  }
  template <int kRows>
  HWY_INLINE void Add(int rows, const float* p, size_t ld_p, int64_t first, size_t begin, size_t end, float* o,
                      size_t ld_o) const {
    kit::TileColumns<kRows>(rows, ld_, end - begin, p + begin, ld_p, At(first, begin), ld_, o, ld_o);
  }

 private:
  const float* At(int64_t first, size_t j) const { return rows_ + (size_t(first) + j) * ld_; }
  const float* rows_;
  size_t ld_;
};

// What a tile of rows works with: for many query rows, which repay packing, and for few.
struct PackedHead {
  using Keys = kit::PackedKeys;
  static constexpr int kForms = kKeyPanels | kValueRows;
  static Keys OfKeys(const Problem& c, const HeadKeys& k) {
    return Keys(k.panels, k.rows, size_t(c.D), size_t(c.D), k.ld_k);
  }
  static Keys OfValues(const Problem& c, const HeadKeys& k, int64_t, int64_t) {
    return Keys(nullptr, k.values, 0, size_t(c.Dv), k.ld_v);
  }
};
struct RowsHead {
  using Keys = KeyRows;
  static constexpr int kForms = 0;  // values are read where they are
  static Keys OfKeys(const Problem&, const HeadKeys& k) { return Keys(k.rows, k.ld_k); }
  static kit::KeysInPlace OfValues(const Problem& c, const HeadKeys&, int64_t b, int64_t head) {
    const int64_t size = c.v.DType() == ATTUNE_F32 ? 4 : 2;
    const kit::StoredRows rows = {static_cast<const char*>(c.v.Data()) + c.v.Offset(b, head) * size, c.v.DType(),
                                  c.v.Stride(2)};
    return kit::KeysInPlace(rows, rows, 0, size_t(c.Dv));
  }
};

#endif  // ATTUNE_ISA
}  // namespace HWY_NAMESPACE
}  // namespace lla
HWY_AFTER_NAMESPACE();
#endif  // toggled include guard
