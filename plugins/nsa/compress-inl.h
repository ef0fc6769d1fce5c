// Compressed keys and values in f32.
#if defined(ATTUNE_NSA_COMPRESS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef ATTUNE_NSA_COMPRESS_INL_H_
#undef ATTUNE_NSA_COMPRESS_INL_H_
#else
#define ATTUNE_NSA_COMPRESS_INL_H_
#endif
#include <string.h>

#include <type_traits>

#include "_kit/rows-inl.h"
#include "nsa/problem.h"

HWY_BEFORE_NAMESPACE();
namespace nsa {
namespace HWY_NAMESPACE {
#if ATTUNE_ISA
namespace hn = hwy::HWY_NAMESPACE;
namespace kit = attune_kit::HWY_NAMESPACE;
using kit::kLanes;
using kit::kPanel;
using kit::LoadRow;
using kit::PadTo32;
using kit::StoreRow;
using kit::WithRow;

HWY_INLINE void AddRow(const View& t, int64_t offset, size_t n, float factor, float* dst) {
  WithRow(t, offset, [&](const auto* p) { kit::AddScaled(p, n, factor, dst); });
}

// out[0, width) = entry `entry` of the compression; room for a multiple of 32. `token` is scratch of the same size.
HWY_NOINLINE inline void CompressRow(const Problem& c, const Compression& x, int64_t b, int64_t head, int64_t entry,
                                     float* token, float* out) {
  const size_t n = size_t(x.width);
  if (entry < x.n_known) return LoadRow(x.known, x.known.Offset(b, head, entry), n, 1, out);
  memset(out, 0, sizeof(float) * ((n + 31) / 32 * 32));
  for (int64_t m = 0; m < c.l; m++) {
    const int64_t at = x.source.Offset(b, head, entry * c.d + m);
    if (c.mode == kLinear) {
      LoadRow(x.source, at, n, 1, token);
      if (x.position) AddRow(x.position, x.position.Offset(head, m), n, 1, token);
      for (size_t i = 0; i < n; i++) {
        AddRow(x.weight, x.weight.Offset(head, m * x.width + int64_t(i)), n, token[i], out);
      }
      continue;
    }
    const float weight = c.mode == kMean ? 1.0f : float(x.weight.Get(head, m));
    AddRow(x.source, at, n, weight, out);
    if (x.position) AddRow(x.position, x.position.Offset(head, m), n, weight, out);
  }
  if (c.mode == kMean) kit::Widen(static_cast<const float*>(out), n, 1.0f / float(c.l), token);
  if (c.mode == kMean) memcpy(out, token, sizeof(float) * n);
}

#endif  // ATTUNE_ISA
}  // namespace HWY_NAMESPACE
}  // namespace nsa
HWY_AFTER_NAMESPACE();
#endif  // toggled include guard
