/* An operator of one's own, outside Attune's tree: average attention, o_i = mean of v_0 .. v_i (arXiv:1805.00631).
 * It needs the installed header and a C compiler, nothing else; README.md has the line. */
#include <attune/plugin.h>

enum { V, O };        /* rows of `tensors` */
enum { B, H, N, DV }; /* places in "B,H,N,Dv" */

static const attune_tensor_spec tensors[] = {
    [V] = {.struct_size = sizeof(attune_tensor_spec), .role = ATTUNE_IN, .dtype_var = 1, .dtypes = 1 << ATTUNE_F32,
           .name = "v", .shape = "B,H,N,Dv", .gen = "normal", .doc = "values"},
    [O] = {.struct_size = sizeof(attune_tensor_spec), .role = ATTUNE_OUT, .dtype_var = 1, .dtypes = 1 << ATTUNE_F32,
           .name = "o", .shape = "B,H,N,Dv", .gen = "zeros", .doc = "running mean of the values"},
};

/* REFERENCE: the definition, summed in double. The tasks [task_begin, task_end) are heads. */
static attune_status reference(const attune_exec *x) {
  const attune_tensor *v = x->tensors[V], *o = x->tensors[O];
  for (int64_t task = x->task_begin; task < x->task_end; task++) {
    const int64_t b = task / x->symbols[H], h = task % x->symbols[H];
    const float *from = (const float *)attune_data(v) + b * v->strides[0] + h * v->strides[1];
    float *to = (float *)attune_data(o) + b * o->strides[0] + h * o->strides[1];
    for (int64_t d = 0; d < x->symbols[DV]; d++) {
      double sum = 0;
      for (int64_t i = 0; i < x->symbols[N]; i++) {
        sum += from[i * v->strides[2] + d];
        to[i * o->strides[2] + d] = (float)(sum / (double)(i + 1));
      }
    }
  }
  return ATTUNE_OK;
}

/* A faster kernel, as a plain C function: row by row, so that memory is read in order. The list says what to pass. */
#define MEAN_ARGS(X)                                                                                                  \
  X(const float *, DATA, PTR, "v", 0) X(float *, DATA, PTR, "o", 0) X(int64_t, EXPR, I64, "H", 0)                     \
  X(int64_t, EXPR, I64, "N", 0) X(int64_t, EXPR, I64, "Dv", 0) X(int64_t, STRIDE, I64, "v", 0)                        \
  X(int64_t, STRIDE, I64, "v", 1) X(int64_t, STRIDE, I64, "v", 2) X(int64_t, STRIDE, I64, "o", 0)                     \
  X(int64_t, STRIDE, I64, "o", 1) X(int64_t, STRIDE, I64, "o", 2) X(int64_t, TASK_BEGIN, I64, "", 0)                  \
  X(int64_t, TASK_END, I64, "", 0)

static attune_status mean(const float *v, float *o, int64_t heads, int64_t tokens, int64_t columns, int64_t v_b,
                          int64_t v_h, int64_t v_n, int64_t o_b, int64_t o_h, int64_t o_n, int64_t begin, int64_t end) {
  for (int64_t task = begin; task < end; task++) {
    const float *from = v + task / heads * v_b + task % heads * v_h;
    float *to = o + task / heads * o_b + task % heads * o_h;
    for (int64_t i = 0; i < tokens; i++)
      for (int64_t d = 0; d < columns; d++) {
        const float before = i ? to[(i - 1) * o_n + d] : 0;
        to[i * o_n + d] = before + (from[i * v_n + d] - before) / (float)(i + 1);
      }
  }
  return ATTUNE_OK;
}
ATTUNE_CHECK_NATIVE(mean, MEAN_ARGS)
static const attune_arg mean_args[] = ATTUNE_ARGS(MEAN_ARGS);

static const attune_kernel kernels[] = {
    {.struct_size = sizeof(attune_kernel), .flags = ATTUNE_INVARIANT, .revision = 1, .name = "mean",
     .native = (attune_native_fn)mean, .args = ATTUNE_SPAN(mean_args), .tasks = "B*H", .efficiency = 0.05,
     .doc = "mean of the row before and this value, in float"},
    {.struct_size = sizeof(attune_kernel), .flags = ATTUNE_REFERENCE | ATTUNE_INVARIANT, .revision = 1,
     .name = "reference", .run = reference, .tasks = "B*H", .efficiency = 0.01, .doc = "sums in double"},
};
static const attune_entry entries[] = {
    {.struct_size = sizeof(attune_entry), .kind = ATTUNE_FORWARD, .name = "forward", .symbols = "B,H,N,Dv", .let = "",
     .buckets = "N:half2", .flops = "2*B*H*N*Dv", .tensors = ATTUNE_SPAN(tensors), .kernels = ATTUNE_SPAN(kernels),
     .doc = "o_i = mean of v_0 .. v_i"},
};
static const attune_preset presets[] = {
    {sizeof(attune_preset), ATTUNE_DEMO, "demo", "forward", "", "", "", "values of a real model"},
    {sizeof(attune_preset), ATTUNE_BENCH, "long", "forward", "", "B=1,H=8,N=4096,Dv=64", "", "4096 tokens"},
};
static const attune_tolerance tolerances[] = {{sizeof(attune_tolerance), ATTUNE_F32, 1e-4, 2e-5}};
static const attune_op ops[] = {
    {.struct_size = sizeof(attune_op), .version = {1, 0, 0, 0}, .id = "org.example.average",
     .title = "Average attention", .doc = "every token sees the mean of all tokens up to it",
     .reference = "arXiv:1805.00631",
     .entries = ATTUNE_SPAN(entries), .presets = ATTUNE_SPAN(presets), .tolerances = ATTUNE_SPAN(tolerances)},
};
static const attune_plugin plugin = {.struct_size = sizeof(attune_plugin), .version = {1, 0, 0, 0},
                                     .id = "org.example.average", .vendor = "me", .license = "Apache-2.0",
                                     .ops = ATTUNE_SPAN(ops)};

ATTUNE_NOTE("org.example.average", "1.0.0"); /* read before anything is loaded */

attune_status attune_plugin_entry_v1(attune_negotiation *n) { return attune_negotiate(n, &plugin); }
