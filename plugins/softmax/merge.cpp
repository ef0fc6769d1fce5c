#include "softmax/merge.h"

#include "_kit/isa.h"
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "softmax/merge.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>
#include <math.h>
#include <string.h>
#include <type_traits>

#include "_kit/pack-inl.h"
#include "_kit/scalar.h"

HWY_BEFORE_NAMESPACE();
namespace softmax {
namespace HWY_NAMESPACE {
#if ATTUNE_ISA
namespace kit = attune_kit::HWY_NAMESPACE;

attune_status MergeRows(const attune_exec* x) {
  enum { kOParts, kLseParts, kO, kLse };
  using attune_kit::View;
  const View o_parts(x->tensors[kOParts]), lse_parts(x->tensors[kLseParts]), o(x->tensors[kO]), lse(x->tensors[kLse]);
  const int64_t parts = o_parts.Dim(0), heads = o.Dim(1), queries = o.Dim(2), columns = o.Dim(3);
  const int64_t padded = (columns + 15) / 16 * 16, size = o.DType() == ATTUNE_F32 ? 4 : 2;
  float* sum = static_cast<float*>(x->workspace) + x->worker * padded;
  const float *part_rows = static_cast<const float*>(o_parts.Data()),
              *part_lse = static_cast<const float*>(lse_parts.Data());
  for (int64_t task = x->task_begin; task < x->task_end; task++) {
    const int64_t b = task / heads, h = task % heads;
    for (int64_t i = 0; i < queries; i++) {
      float top = -INFINITY;
      for (int64_t part = 0; part < parts; part++) {
        const float s = part_lse[lse_parts.Offset(part, b, h, i)];
        if (!(s <= top)) top = s;  // keeps a NaN
      }
      double total = 0;
      memset(sum, 0, sizeof(float) * padded);
      for (int64_t part = 0; part < parts && top != -INFINITY; part++) {
        const double weight = exp(double(part_lse[lse_parts.Offset(part, b, h, i)]) - top);
        if (weight == 0) continue;  // an empty part may hold anything
        total += weight;
        kit::AddScaled(part_rows + o_parts.Offset(part, b, h, i), columns, float(weight), sum);
      }
      kit::WithFloatType(o.DType(), static_cast<char*>(o.Data()) + o.Offset(b, h, i) * size, [&](const auto* p) {
        using T = std::remove_cv_t<std::remove_pointer_t<decltype(p)>>;
        kit::Narrow(sum, columns, total == 0 ? 0.0f : float(1 / total), const_cast<T*>(p));
      });
      if (lse) static_cast<float*>(lse.Data())[lse.Offset(b, h, i)] = total == 0 ? -INFINITY : float(top + log(total));
    }
  }
  return ATTUNE_OK;
}

#endif  // ATTUNE_ISA
}  // namespace HWY_NAMESPACE
}  // namespace softmax
HWY_AFTER_NAMESPACE();
