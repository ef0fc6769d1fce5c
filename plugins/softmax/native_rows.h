// A plain C++ function as a kernel: it knows nothing of Attune, the argument list below tells the host what to pass.
#ifndef ATTUNE_SOFTMAX_NATIVE_ROWS_H_
#define ATTUNE_SOFTMAX_NATIVE_ROWS_H_
#include <attune/plugin.h>

namespace softmax {

// f32 attention of heads [task_begin, task_end), head = b * Hq + h, one query after the other in a single pass over its
// keys. Strides in elements; lse may be null. scale 0 means D^-0.5, q_offset INT64_MIN means Nk - Nq.
// clang-format off
#define ATTUNE_SOFTMAX_NATIVE_ROWS(X)                                                                                 \
  X(const float*, DATA, PTR, "q", 0) X(const float*, DATA, PTR, "k", 0) X(const float*, DATA, PTR, "v", 0)            \
  X(float*, DATA, PTR, "o", 0) X(float*, DATA, PTR, "lse", 0)                                                         \
  X(int64_t, STRIDE, I64, "q", 0) X(int64_t, STRIDE, I64, "q", 1) X(int64_t, STRIDE, I64, "q", 2)                     \
  X(int64_t, STRIDE, I64, "k", 0) X(int64_t, STRIDE, I64, "k", 1) X(int64_t, STRIDE, I64, "k", 2)                     \
  X(int64_t, STRIDE, I64, "v", 0) X(int64_t, STRIDE, I64, "v", 1) X(int64_t, STRIDE, I64, "v", 2)                     \
  X(int64_t, STRIDE, I64, "o", 0) X(int64_t, STRIDE, I64, "o", 1) X(int64_t, STRIDE, I64, "o", 2)                     \
  X(int64_t, STRIDE, I64, "lse", 0) X(int64_t, STRIDE, I64, "lse", 1) X(int64_t, STRIDE, I64, "lse", 2)               \
  X(int64_t, EXPR, I64, "Hq", 0) X(int64_t, EXPR, I64, "Hq/Hkv", 0)                                                   \
  X(int64_t, EXPR, I64, "Nq", 0) X(int64_t, EXPR, I64, "Nk", 0)                                                       \
  X(int64_t, EXPR, I64, "D", 0) X(int64_t, EXPR, I64, "Dv", 0)                                                        \
  X(double, PARAM, F64, "scale", 0) X(int32_t, PARAM, I32, "causal", 0) X(int64_t, PARAM, I64, "q_offset", 0)         \
  X(int64_t, TASK_BEGIN, I64, "", 0) X(int64_t, TASK_END, I64, "", 0)
// clang-format on

attune_status NativeRows(const float* q, const float* k, const float* v, float* o, float* lse, int64_t q_b, int64_t q_h,
                         int64_t q_n, int64_t k_b, int64_t k_h, int64_t k_n, int64_t v_b, int64_t v_h, int64_t v_n,
                         int64_t o_b, int64_t o_h, int64_t o_n, int64_t lse_b, int64_t lse_h, int64_t lse_n,
                         int64_t heads, int64_t group, int64_t queries, int64_t keys, int64_t depth, int64_t columns,
                         double scale, int32_t causal, int64_t q_offset, int64_t task_begin, int64_t task_end);

// What it can take, as the host's expression.
constexpr char kNativeRowsWhen[] =
    "p.layout==bhnd&&p.activation==softmax&&dt(q)+dt(k)+dt(o)==0&&max(p.window_left,p.window_right)==-1&&p.softcap==0&&"
    "has(mask)+has(bias)+has(alibi_slopes)+has(sinks)+has(seqlens_k)+has(key_start)+has(q_offsets)==0";

}  // namespace softmax
#endif  // ATTUNE_SOFTMAX_NATIVE_ROWS_H_
