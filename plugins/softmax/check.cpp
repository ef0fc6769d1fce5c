// Index data is judged here and nowhere else: kernels trust what passed.
#include <math.h>
#include <stdio.h>

#include "softmax/problem.h"
#include "softmax/reference.h"

namespace softmax {
namespace {

attune_status Refuse(const attune_exec& x, const char* name, int64_t index, int64_t expected, int64_t actual,
                     const char* relation) {
  char text[160];
  snprintf(text, sizeof text, "%s[%lld] is %lld, expected %s %lld", name, static_cast<long long>(index),
           static_cast<long long>(actual), relation, static_cast<long long>(expected));
  if (x.error) x.error->detail[0] = expected, x.error->detail[1] = actual;
  return attune_fail(x.error, ATTUNE_E_INVALID, name, text);
}

// Cumulative lengths: first 0, never falling, last = total.
attune_status CheckCuts(const attune_exec& x, const char* name, const View& cuts, int64_t total) {
  if (!cuts) return ATTUNE_OK;
  int64_t previous = 0;
  for (int64_t b = 0; b < cuts.Dim(0); b++) {
    const int64_t at = Problem::Index(cuts, b);
    if (b == 0 && at != 0) return Refuse(x, name, b, 0, at, "exactly");
    if (at < previous) return Refuse(x, name, b, previous, at, "at least");
    previous = at;
  }
  if (previous != total) return Refuse(x, name, cuts.Dim(0) - 1, total, previous, "exactly");
  return ATTUNE_OK;
}

attune_status CheckRange(const attune_exec& x, const char* name, const View& values, int64_t most) {
  if (!values) return ATTUNE_OK;
  for (int64_t b = 0; b < values.Dim(0); b++) {
    const int64_t value = Problem::Index(values, b);
    if (value < 0) return Refuse(x, name, b, 0, value, "at least");
    if (value > most) return Refuse(x, name, b, most, value, "at most");
  }
  return ATTUNE_OK;
}

// The entries that the sequences use; the others may hold anything.
attune_status CheckPages(const attune_exec& x, const Problem& c) {
  if (c.layout != kPaged) return ATTUNE_OK;
  const int64_t pages = c.k.cached.view.Dim(0), per_row = c.page_table.Dim(1);
  for (int64_t b = 0; b < c.B; b++) {
    for (int64_t i = 0; i * c.page_size < Problem::Index(c.seqlens_k, b); i++) {
      const int64_t page = Problem::Index(c.page_table, b, i);
      if (page < 0) return Refuse(x, "page_table", b * per_row + i, 0, page, "at least");
      if (page >= pages) return Refuse(x, "page_table", b * per_row + i, pages - 1, page, "at most");
    }
  }
  return ATTUNE_OK;
}

attune_status CheckSlopes(const attune_exec& x, const Problem& c) {
  if (!c.slopes) return ATTUNE_OK;
  const int64_t rows = c.slopes.Rank() == 2 ? c.B : 1;
  for (int64_t b = 0; b < rows; b++) {
    for (int64_t h = 0; h < c.Hq; h++) {
      const double slope = c.Slope(b, h);
      if (slope >= 0 && slope < INFINITY) continue;
      char text[120];
      snprintf(text, sizeof text, "alibi_slopes[%lld] is %g, expected a finite number of at least 0",
               static_cast<long long>(b * c.Hq + h), slope);
      return attune_fail(x.error, ATTUNE_E_INVALID, "alibi_slopes", text);
    }
  }
  return ATTUNE_OK;
}

attune_status CheckCommon(const attune_exec& x, const Problem& c, int64_t capacity) {
  attune_status status = CheckRange(x, "seqlens_k", c.seqlens_k, capacity);
  if (status == ATTUNE_OK) status = CheckRange(x, "key_start", c.key_start, c.Nk);
  if (status == ATTUNE_OK) status = CheckSlopes(x, c);
  return status;
}

// Most calls bring no index data at all; reading the whole problem would cost as much as a small call.
template <size_t N>
bool HasAny(const attune_exec& x, const int (&tensors)[N]) {
  for (const int t : tensors)
    if (x.tensors[t]) return true;
  return false;
}

}  // namespace

attune_status CheckForward(const attune_exec* x) {
  if (!HasAny(*x, {kFwdCuQ, kFwdCuK, kFwdSeqlensK, kFwdKeyStart, kFwdSlopes, kFwdPageTable})) return ATTUNE_OK;
  const Problem c = ReadForward(*x);
  attune_status status = CheckCuts(*x, "cu_seqlens_q", c.cu_q, c.q.view.Dim(0));
  if (status == ATTUNE_OK) status = CheckCuts(*x, "cu_seqlens_k", c.cu_k, c.k.cached.view.Dim(0));
  if (status == ATTUNE_OK) status = CheckCommon(*x, c, c.layout == kPaged ? c.page_table.Dim(1) * c.page_size : c.Nk);
  return status == ATTUNE_OK ? CheckPages(*x, c) : status;
}

attune_status CheckStep(const attune_exec* x) {
  if (!HasAny(*x, {kStepSeqlensK, kStepKeyStart, kStepSlopes})) return ATTUNE_OK;
  const Problem c = ReadStep(*x);
  return CheckCommon(*x, c, c.Nk);
}

attune_status CheckBackward(const attune_exec* x) {
  if (!HasAny(*x, {kBwdCuQ, kBwdCuK, kBwdSeqlensK, kBwdKeyStart, kBwdSlopes})) return ATTUNE_OK;
  const Problem c = ReadBackward(*x);
  attune_status status = CheckCuts(*x, "cu_seqlens_q", c.cu_q, c.q.view.Dim(0));
  if (status == ATTUNE_OK) status = CheckCuts(*x, "cu_seqlens_k", c.cu_k, c.k.cached.view.Dim(0));
  return status == ATTUNE_OK ? CheckCommon(*x, c, c.Nk) : status;
}

}  // namespace softmax
