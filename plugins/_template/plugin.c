/* A complete operator in one file; README.md says how to make it yours. The example is linear attention without a
 * normaliser: o_i = scale * sum over visible j of <q_i, k_j> v_j It needs this header and a C compiler, nothing else.
 */
#include <attune/plugin.h>
#include <math.h>
#include <string.h>

/* Rows of the tables below, by name. */
enum { CAUSAL, SCALE };
enum { B, H, N, D, DV };
enum { Q, K, V, O };

static double scale_of(const attune_exec* x) {
  return x->params[SCALE].f != 0 ? x->params[SCALE].f : 1 / sqrt((double)x->symbols[D]);
}

/* Row (b,h,n) of a tensor [B,H,N,*]. Strides are the caller's; only the last dim is dense. */
static float* row(const attune_tensor* t, int64_t b, int64_t h, int64_t n) {
  return (float*)attune_data(t) + b * t->strides[0] + h * t->strides[1] + n * t->strides[2];
}

/* REFERENCE: the formula as loops, sums in double. Task = (b, h). */
static attune_status reference(const attune_exec* x) {
  const int64_t* s = x->symbols;
  for (int64_t task = x->task_begin; task < x->task_end; task++) {
    const int64_t b = task / s[H], h = task % s[H];
    for (int64_t i = 0; i < s[N]; i++) {
      double* sum = (double*)x->workspace + x->worker * s[DV];
      memset(sum, 0, sizeof(double) * (size_t)s[DV]);
      const float* q = row(x->tensors[Q], b, h, i);
      for (int64_t j = 0; j < (x->params[CAUSAL].i ? i + 1 : s[N]); j++) {
        const float *k = row(x->tensors[K], b, h, j), *v = row(x->tensors[V], b, h, j);
        double dot = 0;
        for (int64_t d = 0; d < s[D]; d++) dot += (double)q[d] * k[d];
        for (int64_t e = 0; e < s[DV]; e++) sum[e] += dot * v[e];
      }
      for (int64_t e = 0; e < s[DV]; e++) row(x->tensors[O], b, h, i)[e] = (float)(scale_of(x) * sum[e]);
    }
  }
  return ATTUNE_OK;
}

/* The same sum from the other end: state = sum over j of k_j v_j^T, o_i = q_i state. N*D*Dv instead of N*N*(D+Dv)
 * products. */
static attune_status state_form(const attune_exec* x) {
  const int64_t* s = x->symbols;
  const int causal = x->params[CAUSAL].i != 0;
  const float scale = (float)scale_of(x);
  float* state = (float*)x->workspace + x->worker * s[D] * s[DV];
  for (int64_t task = x->task_begin; task < x->task_end; task++) {
    const int64_t b = task / s[H], h = task % s[H];
    memset(state, 0, sizeof(float) * (size_t)(s[D] * s[DV]));
    for (int64_t pass = causal ? 1 : 0; pass < 2;
         pass++) { /* 0: state of all keys; 1: outputs, and with causal the state so far */
      for (int64_t i = 0; i < s[N]; i++) {
        const float *q = row(x->tensors[Q], b, h, i), *k = row(x->tensors[K], b, h, i),
                    *v = row(x->tensors[V], b, h, i);
        for (int64_t d = 0; d < s[D] && (causal || pass == 0); d++)
          for (int64_t e = 0; e < s[DV]; e++) state[d * s[DV] + e] += k[d] * v[e];
        if (pass == 0) continue;
        float* o = row(x->tensors[O], b, h, i);
        for (int64_t e = 0; e < s[DV]; e++) o[e] = 0;
        for (int64_t d = 0; d < s[D]; d++)
          for (int64_t e = 0; e < s[DV]; e++) o[e] += scale * q[d] * state[d * s[DV] + e];
      }
    }
  }
  return ATTUNE_OK;
}

static const attune_param_spec params[] = {
    [CAUSAL] = {.struct_size = sizeof(attune_param_spec),
                .kind = ATTUNE_PARAM_BOOL,
                .flags = ATTUNE_STRUCTURAL,
                .name = "causal",
                .doc = "key j is visible to query i only if j <= i",
                .max = {1, 0}},
    [SCALE] = {.struct_size = sizeof(attune_param_spec),
               .kind = ATTUNE_PARAM_F64,
               .name = "scale",
               .doc = "factor of the output; 0 = D^-0.5",
               .max = {0, INFINITY}},
};

#define F32_TENSOR(name_, role_, shape_, gen_, doc_) \
  {.struct_size = sizeof(attune_tensor_spec),        \
   .role = role_,                                    \
   .dtype_var = 1,                                   \
   .dtypes = 1 << ATTUNE_F32,                        \
   .name = name_,                                    \
   .shape = shape_,                                  \
   .gen = gen_,                                      \
   .doc = doc_}
static const attune_tensor_spec tensors[] = {
    [Q] = F32_TENSOR("q", ATTUNE_IN, "B,H,N,D", "normal", "queries"),
    [K] = F32_TENSOR("k", ATTUNE_IN, "B,H,N,D", "normal", "keys"),
    [V] = F32_TENSOR("v", ATTUNE_IN, "B,H,N,Dv", "normal", "values"),
    [O] = F32_TENSOR("o", ATTUNE_OUT, "B,H,N,Dv", "zeros", "output"),
};

static const attune_rule rules[] = {
    {sizeof(attune_rule), ATTUNE_E_SHAPE, "D>=1&&Dv>=1", "D and Dv must be at least 1"}};

/* In order of preference. The host compares every kernel with REFERENCE before it may win. */
static const attune_kernel kernels[] = {
    {.struct_size = sizeof(attune_kernel),
     .flags = ATTUNE_INVARIANT,
     .revision = 1,
     .name = "state",
     .run = state_form,
     .tasks = "B*H",
     .workspace = "4*$workers*D*Dv",
     .flops = "4*B*H*N*D*Dv",
     .efficiency = 0.1,
     .doc = "running state k v^T"},
    {.struct_size = sizeof(attune_kernel),
     .flags = ATTUNE_REFERENCE | ATTUNE_INVARIANT,
     .revision = 1,
     .name = "reference",
     .run = reference,
     .tasks = "B*H",
     .workspace = "8*$workers*Dv",
     .efficiency = 0.01,
     .doc = "loops in double"},
};

static const attune_entry entries[] = {
    {.struct_size = sizeof(attune_entry),
     .kind = ATTUNE_FORWARD,
     .name = "forward",
     .symbols = "B,H,N,D,Dv",
     .let = "",
     .buckets = "B:pow2; N:half2",
     .flops = "2*B*H*N*N*(D+Dv)/(1+p.causal)",
     .tensors = ATTUNE_SPAN(tensors),
     .rules = ATTUNE_SPAN(rules),
     .kernels = ATTUNE_SPAN(kernels),
     .doc = "linear attention without a normaliser"},
};

static const attune_preset presets[] = {
    {sizeof(attune_preset), ATTUNE_DEMO, "demo", "forward", "", "", "", "all tokens see each other"},
    {sizeof(attune_preset), ATTUNE_BENCH, "causal", "forward", "causal=true", "B=1,H=8,N=1024,D=64,Dv=64", "",
     "running sum"},
};

static const attune_tolerance tolerances[] = {{sizeof(attune_tolerance), ATTUNE_F32, 1e-4, 2e-5}};

/* The id is the folder's name: plugins.mk defines ATTUNE_FOLDER. Outside this tree write a reverse-DNS id of your own
 * instead. */
static const attune_op ops[] = {
    {.struct_size = sizeof(attune_op),
     .version = {1, 0, 0, 0},
     .id = ATTUNE_FOLDER,
     .title = "Linear attention, bare",
     .doc = "o_i = scale * sum over visible j of <q_i,k_j> v_j",
     .reference = "",
     .params = ATTUNE_SPAN(params),
     .entries = ATTUNE_SPAN(entries),
     .presets = ATTUNE_SPAN(presets),
     .tolerances = ATTUNE_SPAN(tolerances)},
};

static const attune_plugin plugin = {.struct_size = sizeof(attune_plugin),
                                     .version = {1, 0, 0, 0},
                                     .id = "org.example." ATTUNE_FOLDER,
                                     .vendor = "me",
                                     .license = "Apache-2.0",
                                     .ops = ATTUNE_SPAN(ops)};

ATTUNE_NOTE("org.example." ATTUNE_FOLDER, "1.0.0");

attune_status attune_plugin_entry_v1(attune_negotiation* n) {
  return attune_negotiate(n, &plugin);
}
