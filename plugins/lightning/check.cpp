// Index data and slopes are judged here and nowhere else: kernels trust what passed.
#include <math.h>
#include <stdio.h>

#include "lightning/problem.h"
#include "lightning/reference.h"

namespace lightning {
namespace {

// Cumulative lengths: first 0, never falling, last = total.
attune_status CheckCuts(const attune_exec& x, const View& cuts, int64_t total) {
  const int32_t* at = static_cast<const int32_t*>(cuts.Data());
  const int64_t last = cuts.Dim(0) - 1;
  const auto refuse = [&](int64_t index, const char* relation, int64_t expected) {
    char text[120];
    snprintf(text, sizeof text, "cu_seqlens[%lld] is %d, expected %s %lld", static_cast<long long>(index), at[index],
             relation, static_cast<long long>(expected));
    if (x.error) x.error->detail[0] = expected, x.error->detail[1] = at[index];
    return attune_fail(x.error, ATTUNE_E_INVALID, "cu_seqlens", text);
  };
  if (last < 0) return ATTUNE_OK;
  if (at[0] != 0) return refuse(0, "exactly", 0);
  for (int64_t i = 1; i <= last; i++) {
    if (at[i] < at[i - 1]) return refuse(i, "at least", at[i - 1]);
  }
  return at[last] == total ? ATTUNE_OK : refuse(last, "exactly", total);
}

attune_status CheckSlopes(const attune_exec& x, const View& slopes) {
  for (int64_t h = 0; h < slopes.Dim(0); h++) {
    const double slope = slopes.Get(h);
    if (slope >= 0 && slope < INFINITY) continue;
    char text[120];
    snprintf(text, sizeof text, "slopes[%lld] is %g, expected a finite number of at least 0", static_cast<long long>(h),
             slope);
    return attune_fail(x.error, ATTUNE_E_INVALID, "slopes", text);
  }
  return ATTUNE_OK;
}

}  // namespace

attune_status Check(const attune_exec* x) {
  const View cuts(x->tensors[kCuSeqlens]), slopes(x->tensors[kSlopes]);
  attune_status status = cuts ? CheckCuts(*x, cuts, x->symbols[kNk]) : ATTUNE_OK;
  if (status == ATTUNE_OK && slopes) status = CheckSlopes(*x, slopes);
  return status;
}

}  // namespace lightning
