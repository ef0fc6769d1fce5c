// What the kernels that spread their own phases share: regions over the workers, and tokens made ready for tiles.
#if defined(ATTUNE_NSA_PHASES_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef ATTUNE_NSA_PHASES_INL_H_
#undef ATTUNE_NSA_PHASES_INL_H_
#else
#define ATTUNE_NSA_PHASES_INL_H_
#endif
#include "nsa/query_tile-inl.h"

HWY_BEFORE_NAMESPACE();
namespace nsa {
namespace HWY_NAMESPACE {
#if ATTUNE_ISA

// Step: new tokens behind the cached ones, known compressed entries into their successor.
inline void AppendToCaches(const Problem& c, int64_t b, int64_t head) {
  AppendTokens(c.k_cache, c.k_new, c.k_cache_out, b, head, c.D);
  AppendTokens(c.v_cache, c.v_new, c.v_cache_out, b, head, c.Dv);
  if (c.k_state_out) CopyState(c.key, c.k_state_out, b, head);
  if (c.v_state_out) CopyState(c.value, c.v_state_out, b, head);
}

// Which compressed keys and values a call makes, for its own use or for its outputs.
inline bool MakesKeys(const Problem& c) {
  return c.Scores() || c.k_cmp_out || c.k_state_out;
}
inline bool MakesValues(const Problem& c) {
  return c.use[kCmp] || c.v_cmp_out || c.v_state_out;
}

// Makes entry `entry` of the compressed keys or values as f32, and stores it wherever it is asked for. `token`: scratch.
HWY_INLINE void MakeEntry(const Problem& c, bool keys, int64_t b, int64_t head, int64_t entry, float* token,
                          float* row) {
  const Compression& x = keys ? c.key : c.value;
  const View &out = keys ? c.k_cmp_out : c.v_cmp_out, &state = keys ? c.k_state_out : c.v_state_out;
  CompressRow(c, x, b, head, entry, token, row);
  if (out) StoreRow(row, size_t(x.width), 1, out, out.Offset(b, head, entry));
  if (state && entry >= x.n_known) StoreRow(row, size_t(x.width), 1, state, state.Offset(b, head, entry));
}

// Keys or values of one (batch, kv head) that are made ready once per call.
struct Prepared {
  float *keys, *values;
};

constexpr int64_t kPackRows = 128;  // rows that a task makes ready; a multiple of every kPanel

// Rows [first, first + kPackRows) of keys, below `n`, into panels; load(row, buffer) gives a row as f32.
template <class Load>
HWY_INLINE void PackPanels(int64_t first, int64_t n, size_t depth, float* rows, float* panels, Load load) {
  const size_t ld = PadTo32(int64_t(depth));
  const int64_t last = n < first + kPackRows ? n : first + kPackRows;
  for (int64_t j = first; j < last; j += kPanel) {
    const float* pointers[kPanel];
    for (size_t r = 0; r < kPanel; r++) {
      float* row = rows + r * ld;
      pointers[r] = row;
      if (j + int64_t(r) < last) {
        load(j + int64_t(r), row);
      } else {
        memset(row, 0, sizeof(float) * ld);
      }
    }
    kit::TransposeToPanel(pointers, depth, panels + size_t(j) * depth);
  }
}

// The same for the keys of one kv head, with the values as rows of f32.
HWY_NOINLINE inline void PackTokens(const View& k, const View& v, int64_t b, int64_t head, int64_t first, int64_t n,
                                    size_t depth, size_t width, float* rows, const Prepared& to) {
  PackPanels(first, n, depth, rows, to.keys,
             [&](int64_t j, float* row) { LoadRow(k, k.Offset(b, head, j), depth, 1, row); });
  const size_t ld_v = PadTo32(int64_t(width));
  const int64_t last = n < first + kPackRows ? n : first + kPackRows;
  for (int64_t j = first; j < last; j++) LoadRow(v, v.Offset(b, head, j), width, 1, to.values + size_t(j) * ld_v);
}

#endif  // ATTUNE_ISA
}  // namespace HWY_NAMESPACE
}  // namespace nsa
HWY_AFTER_NAMESPACE();
#endif  // toggled include guard
