#include "softmax/native_rows.h"

#include <math.h>

namespace softmax {
namespace {

// Eight partial sums, so that the compiler may use vectors without changing the order of additions.
float Dot(const float* a, const float* b, int64_t n) {
  float part[8] = {};
  int64_t i = 0;
  for (; i + 8 <= n; i += 8) {
    for (int lane = 0; lane < 8; lane++) part[lane] += a[i + lane] * b[i + lane];
  }
  for (; i < n; i++) part[0] += a[i] * b[i];
  return ((part[0] + part[4]) + (part[1] + part[5])) + ((part[2] + part[6]) + (part[3] + part[7]));
}

}  // namespace

attune_status NativeRows(const float* q, const float* k, const float* v, float* o, float* lse, int64_t q_b, int64_t q_h,
                         int64_t q_n, int64_t k_b, int64_t k_h, int64_t k_n, int64_t v_b, int64_t v_h, int64_t v_n,
                         int64_t o_b, int64_t o_h, int64_t o_n, int64_t lse_b, int64_t lse_h, int64_t lse_n,
                         int64_t heads, int64_t group, int64_t queries, int64_t keys, int64_t depth, int64_t columns,
                         double scale, int32_t causal, int64_t q_offset, int64_t task_begin, int64_t task_end) {
  const float factor = float(scale != 0 ? scale : 1 / sqrt(double(depth)));
  const int64_t offset = q_offset == INT64_MIN ? keys - queries : q_offset;
  for (int64_t task = task_begin; task < task_end; task++) {
    const int64_t b = task / heads, h = task % heads, shared = h / group;
    for (int64_t i = 0; i < queries; i++) {
      const float* row = q + b * q_b + h * q_h + i * q_n;
      float* out = o + b * o_b + h * o_h + i * o_n;
      int64_t visible = keys, position;
      if (causal && !__builtin_add_overflow(offset, i, &position) && position < keys - 1)
        visible = position < 0 ? 0 : position + 1;
      float m = -INFINITY, total = 0;
      for (int64_t e = 0; e < columns; e++) out[e] = 0;
      for (int64_t j = 0; j < visible; j++) {
        const float s = factor * Dot(row, k + b * k_b + shared * k_h + j * k_n, depth);
        const float* value = v + b * v_b + shared * v_h + j * v_n;
        if (s > m) {  // the new maximum: what was summed so far shrinks
          const float shrink = expf(m - s);
          total *= shrink;
          for (int64_t e = 0; e < columns; e++) out[e] *= shrink;
          m = s;
        }
        const float weight = s == -INFINITY ? 0 : expf(s - m);
        total += weight;
        for (int64_t e = 0; e < columns; e++) out[e] += weight * value[e];
      }
      for (int64_t e = 0; e < columns && total != 0; e++) out[e] /= total;
      if (lse) lse[b * lse_b + h * lse_h + i * lse_n] = total == 0 ? -INFINITY : m + logf(total);
    }
  }
  return ATTUNE_OK;
}

}  // namespace softmax
