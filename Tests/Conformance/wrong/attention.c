/* Plain attention with a right REFERENCE, a right kernel, and kernels of which each is wrong in one way. The doc of a
 * wrong kernel begins with the group of checks that must find it. */
#include <attune/plugin.h>
#include <math.h>
#include <string.h>

#define ID "org.example.wrong"

enum { CAUSAL, SCALE };
enum { B, HQ, HKV, NQ, NK, D, DV, NP, NN };
enum { Q, K, V, SEQLENS_K, FORWARD_O, FORWARD_LSE };
enum { K_STATE = 3, V_STATE, STEP_O, STEP_LSE, K_STATE_OUT, V_STATE_OUT };

/* FAULT(name, group that finds it, what is wrong). */
#define FORWARD_FAULTS(FAULT)                                             \
  FAULT(off, "witness", "one per cent too large")                         \
  FAULT(heads, "witness", "query head h meets kv head h % Hkv")           \
  FAULT(tail, "witness", "leaves out the last key after full tiles")      \
  FAULT(rounding, "witness", "sums in the storage type")                  \
  FAULT(stale, "witness", "adds to the output")                           \
  FAULT(knob, "witness", "wrong for the last value of its knob")          \
  FAULT(inputs, "witness", "leaves its mark in q")                        \
  FAULT(overrun, "witness", "writes past the end of every row")           \
  FAULT(strides, "any_layout", "takes k for compact")                     \
  FAULT(alignment, "any_layout", "rounds the address of v to 16 bytes")   \
  FAULT(ranges, "same_bits", "depends on where a range of tasks begins")  \
  FAULT(worker, "same_bits", "depends on the worker")                     \
  FAULT(overflow, "huge_scores", "subtracts no maximum")                  \
  FAULT(sentinel, "empty_rows", "a large negative number instead of -inf") \
  FAULT(skipped, "empty_rows", "does not write rows without keys")        \
  FAULT(hidden, "hidden_keys", "multiplies hidden values by zero")
#define STEP_FAULTS(FAULT)                                           \
  FAULT(forgotten, "any_split", "does not attend to the state")       \
  FAULT(position, "any_split", "takes the new tokens for the first")  \
  FAULT(unsaved, "any_split", "does not append the last new key")     \
  FAULT(capacity, "any_split", "takes the new state for compact")

#define AS_ENUM(name, group, text) FAULT_##name,
enum { NONE, FORWARD_FAULTS(AS_ENUM) STEP_FAULTS(AS_ENUM) };

static float widen(const attune_tensor* t, int64_t i) {
  const void* data = attune_data(t);
  if (t->dtype.bits == 32) return ((const float*)data)[i];
  const uint32_t bits = (uint32_t)((const uint16_t*)data)[i] << 16;
  float x;
  memcpy(&x, &bits, sizeof x);
  return x;
}
static uint16_t to_bf16(float x) {
  uint32_t bits;
  memcpy(&bits, &x, sizeof bits);
  return x != x ? 0x7FC0 : (uint16_t)((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16);
}
static void store(const attune_tensor* t, int64_t i, float x) {
  if (t->dtype.bits == 32)
    ((float*)attune_data(t))[i] = x;
  else
    ((uint16_t*)attune_data(t))[i] = to_bf16(x);
}
static int64_t at(const attune_tensor* t, int64_t b, int64_t h, int64_t n) {
  return b * t->strides[0] + h * t->strides[1] + n * t->strides[2];
}
static int64_t compact(const attune_tensor* t, int64_t b, int64_t h, int64_t n) {
  return ((b * t->shape[1] + h) * t->shape[2] + n) * t->shape[3];
}
/* What a compiler makes of 16-byte loads that were promised aligned addresses. */
static int64_t aligned(const attune_tensor* t, int64_t i) {
  const int64_t size = t->dtype.bits / 8, first = (int64_t)(uintptr_t)attune_data(t);
  return ((first + i * size) / 16 * 16 - first) / size;
}

/* Key j of a sequence: in the state, or j - Np of the new ones. */
typedef struct row {
  const attune_tensor* t;
  int64_t offset;
} row;
static row key_row(const attune_exec* x, int which, int64_t b, int64_t h, int64_t j, int step, int64_t fault) {
  const int64_t np = step ? x->symbols[NP] : 0;
  row r = {x->tensors[which], 0};
  if (j < np) {
    r.t = x->tensors[which == K ? K_STATE : V_STATE];
    r.offset = at(r.t, b, h, j);
  } else {
    r.offset = (fault == FAULT_strides && which == K ? compact : at)(r.t, b, h, j - np);
  }
  if (fault == FAULT_alignment && which == V) r.offset = aligned(r.t, r.offset);
  return r;
}

/* One output row; scratch: Nk scores and Dv sums. */
static void attend(const attune_exec* x, int64_t fault, int step, int64_t b, int64_t h, int64_t i, double* scratch) {
  const int64_t *s = x->symbols, nk = s[NK], group = s[HQ] / s[HKV];
  const int64_t kv = fault == FAULT_heads ? h % s[HKV] : h / group;
  const attune_tensor *q = x->tensors[Q], *o = x->tensors[step ? STEP_O : FORWARD_O];
  const attune_tensor* lse = x->tensors[step ? STEP_LSE : FORWARD_LSE];
  const double scale = x->params[SCALE].f != 0 ? x->params[SCALE].f : 1 / sqrt((double)s[D]);
  int64_t end = nk;
  if (!step && x->tensors[SEQLENS_K]) end = ((const int32_t*)attune_data(x->tensors[SEQLENS_K]))[b];
  const int64_t position = fault == FAULT_position ? i : i + end - s[NQ];
  if (x->params[CAUSAL].i && position + 1 < end) end = position + 1 > 0 ? position + 1 : 0;
  if (fault == FAULT_tail && end > 16 && end % 16 == 1) end--;
  const int64_t begin = fault == FAULT_forgotten && s[NP] < end ? s[NP] : 0;

  double *score = scratch, *sum = scratch + nk;
  double m = fault == FAULT_sentinel ? -1e30 : -INFINITY, z = 0;
  for (int64_t j = begin; j < end; j++) {
    const row k = key_row(x, K, b, kv, j, step, fault);
    score[j] = 0;
    for (int64_t d = 0; d < s[D]; d++) score[j] += (double)widen(q, at(q, b, h, i) + d) * widen(k.t, k.offset + d);
    score[j] *= scale;
    if (score[j] > m) m = score[j];
  }
  if (fault == FAULT_overflow) m = 0;
  for (int64_t j = begin; j < end; j++) {
    score[j] = fault == FAULT_overflow ? expf((float)score[j]) : exp(score[j] - m);
    z += score[j];
  }
  if (z == 0 && fault == FAULT_skipped) return;
  memset(sum, 0, sizeof(double) * (size_t)s[DV]);
  for (int64_t j = begin; j < (fault == FAULT_hidden ? nk : end); j++) {
    const row v = key_row(x, V, b, kv, j, step, fault);
    for (int64_t e = 0; e < s[DV]; e++) {
      sum[e] += (j < end ? score[j] : 0) * widen(v.t, v.offset + e);
      if (fault == FAULT_rounding) {
        const uint32_t bits = (uint32_t)to_bf16((float)sum[e]) << 16;
        float rounded;
        memcpy(&rounded, &bits, sizeof rounded);
        sum[e] = rounded;
      }
    }
  }
  double factor = z > 0 ? 1 / z : 0;
  if (fault == FAULT_off) factor *= 1.01;
  if (fault == FAULT_knob && x->knobs[0] == 64) factor = -factor;
  if (fault == FAULT_ranges) factor *= 1 + 1e-6 * (double)(h + b - x->task_begin);
  if (fault == FAULT_worker) factor *= 1 + 1e-6 * x->worker;
  for (int64_t e = 0; e < s[DV]; e++) {
    const int64_t to = at(o, b, h, i) + e;
    store(o, to, (float)(factor * sum[e]) + (fault == FAULT_stale ? widen(o, to) : 0));
  }
  if (fault == FAULT_overrun) store(o, at(o, b, h, i) + s[DV], 0);
  if (fault == FAULT_inputs && s[NQ] > 1) store(q, at(q, b, h, i), 0);
  if (lse) {
    const float value = z > 0 || fault == FAULT_sentinel ? (float)(m + log(z > 0 ? z : 1)) : -INFINITY;
    ((float*)attune_data(lse))[b * lse->strides[0] + h * lse->strides[1] + i * lse->strides[2]] = value;
  }
}

/* Appends the new keys (or values) of head kv; what is in place already is only skipped. */
static void append(const attune_exec* x, int64_t fault, int64_t b, int64_t kv, int which) {
  const int64_t *s = x->symbols, np = s[NP], width = s[which == K ? D : DV];
  const attune_tensor* out = x->tensors[which == K ? K_STATE_OUT : V_STATE_OUT];
  const attune_tensor* old = x->tensors[which == K ? K_STATE : V_STATE];
  const int64_t count = s[NK] - (fault == FAULT_unsaved && s[NN] > 0);
  for (int64_t j = old && attune_data(old) == attune_data(out) ? np : 0; j < count; j++) {
    const row from = key_row(x, which, b, kv, j, 1, NONE);
    const int64_t to = (fault == FAULT_capacity ? compact : at)(out, b, kv, j);
    for (int64_t d = 0; d < width; d++) store(out, to + d, widen(from.t, from.offset + d));
  }
}

/* Task = (b, query head). */
static attune_status run(const attune_exec* x, int step) {
  const int64_t *s = x->symbols, fault = (int64_t)(intptr_t)x->user;
  double* scratch = (double*)x->workspace + x->worker * (s[NK] + s[DV]);
  for (int64_t task = x->task_begin; task < x->task_end; task++) {
    const int64_t b = task / s[HQ], h = task % s[HQ];
    for (int64_t i = 0; i < s[NQ]; i++) attend(x, fault, step, b, h, i, scratch);
    if (step && h % (s[HQ] / s[HKV]) == 0)
      for (int which = K; which <= V; which++) append(x, fault, b, h / (s[HQ] / s[HKV]), which);
  }
  return ATTUNE_OK;
}
static attune_status forward(const attune_exec* x) {
  return run(x, 0);
}
static attune_status step(const attune_exec* x) {
  return run(x, 1);
}

static attune_status check(const attune_exec* x) {
  const attune_tensor* t = x->tensors[SEQLENS_K];
  for (int64_t b = 0; t && b < x->symbols[B]; b++) {
    const int32_t n = ((const int32_t*)attune_data(t))[b];
    if (n < 0 || n > x->symbols[NK]) return attune_fail(x->error, ATTUNE_E_INVALID, "seqlens_k", "beyond Nk");
  }
  return ATTUNE_OK;
}

#define FLOATS (1 << ATTUNE_F32 | 1 << ATTUNE_BF16)
#define ROW(name_, role_, var_, types_, shape_, needed_, pair_, gen_)                                                 \
  {.struct_size = sizeof(attune_tensor_spec), .role = role_, .dtype_var = var_, .dtypes = types_, .name = name_,      \
   .shape = shape_, .needed = needed_, .pair = pair_, .gen = gen_, .doc = ""}
#define NEW_KEYS(n)                                                             \
  ROW("q", ATTUNE_IN, 1, FLOATS, "B,Hq,Nq,D", NULL, NULL, "normal"),            \
      ROW("k", ATTUNE_IN, 1, FLOATS, "B,Hkv," n ",D", NULL, NULL, "normal"),    \
      ROW("v", ATTUNE_IN, 1, FLOATS, "B,Hkv," n ",Dv", NULL, NULL, "normal")
#define OUTPUTS                                                                 \
  ROW("o", ATTUNE_OUT, 1, FLOATS, "B,Hq,Nq,Dv", NULL, NULL, "zeros"),           \
      ROW("lse", ATTUNE_SAVED, 0, 1 << ATTUNE_F32, "B,Hq,Nq", "0", NULL, "zeros")
static const attune_tensor_spec forward_tensors[] = {
    NEW_KEYS("Nk"), ROW("seqlens_k", ATTUNE_IN, 0, 1 << ATTUNE_I32, "B", "0", NULL, "lengths(1,Nk)"), OUTPUTS};
static const attune_tensor_spec step_tensors[] = {
    NEW_KEYS("Nn"),
    ROW("k_state", ATTUNE_STATE, 1, FLOATS, "B,Hkv,Np,D", "0", NULL, "normal"),
    ROW("v_state", ATTUNE_STATE, 1, FLOATS, "B,Hkv,Np,Dv", "0", NULL, "normal"),
    OUTPUTS,
    ROW("k_state_out", ATTUNE_STATE_OUT, 1, FLOATS, "B,Hkv,Nk,D", NULL, "k_state", "zeros"),
    ROW("v_state_out", ATTUNE_STATE_OUT, 1, FLOATS, "B,Hkv,Nk,Dv", NULL, "v_state", "zeros")};

static const attune_param_spec params[] = {
    {.struct_size = sizeof(attune_param_spec), .kind = ATTUNE_PARAM_BOOL, .flags = ATTUNE_STRUCTURAL, .name = "causal",
     .doc = "", .max = {1, 0}},
    {.struct_size = sizeof(attune_param_spec), .kind = ATTUNE_PARAM_F64, .name = "scale", .doc = "0 = D^-0.5",
     .max = {0, INFINITY}}};
static const attune_rule rules[] = {
    {sizeof(attune_rule), ATTUNE_E_SHAPE, "Hkv>=1&&Hq%Hkv==0", "Hq must be a multiple of Hkv"},
    {sizeof(attune_rule), ATTUNE_E_SHAPE, "D>=1&&Dv>=1", "D and Dv must be at least 1"}};
static const attune_rule step_rules[] = {
    {sizeof(attune_rule), ATTUNE_E_SHAPE, "Hkv>=1&&Hq%Hkv==0", "Hq must be a multiple of Hkv"},
    {sizeof(attune_rule), ATTUNE_E_SHAPE, "D>=1&&Dv>=1&&Nn>=0", "D and Dv must be at least 1"},
    {sizeof(attune_rule), ATTUNE_E_INVALID, "has(k_state)==has(v_state)", "both states or none"}};

static const int64_t tile_values[] = {16, 32, 64};
static const attune_knob knobs[] = {{sizeof(attune_knob), 3, 0, 0, "tile", tile_values, ""}};
#define KERNEL(name_, flags_, run_, fault_, doc_)                                                             \
  {.struct_size = sizeof(attune_kernel), .flags = flags_, .revision = 1, .name = name_, .run = run_,          \
   .knobs = {knobs, (flags_) & ATTUNE_REFERENCE ? 0 : 1, sizeof(attune_knob)}, .tasks = "B*Hq",               \
   .workspace = "8*$workers*(Nk+Dv)", .user = (void*)(intptr_t)(fault_), .doc = doc_}
#define RIGHT(run_)                                                                    \
  KERNEL("reference", ATTUNE_REFERENCE | ATTUNE_INVARIANT, run_, NONE, ""),            \
      KERNEL("right", ATTUNE_INVARIANT, run_, NONE, "")
#define WRONG_FORWARD(name, group, text) \
  , KERNEL("wrong_" #name, ATTUNE_INVARIANT, forward, FAULT_##name, group ": " text)
#define WRONG_STEP(name, group, text) , KERNEL("wrong_" #name, ATTUNE_INVARIANT, step, FAULT_##name, group ": " text)
static const attune_kernel forward_kernels[] = {RIGHT(forward) FORWARD_FAULTS(WRONG_FORWARD)};
static const attune_kernel step_kernels[] = {RIGHT(step) STEP_FAULTS(WRONG_STEP)};

static const attune_entry entries[] = {
    {.struct_size = sizeof(attune_entry), .kind = ATTUNE_FORWARD, .name = "forward", .symbols = "B,Hq,Hkv,Nq,Nk,D,Dv",
     .flops = "2*B*Hq*Nq*Nk*(D+Dv)", .tensors = ATTUNE_SPAN(forward_tensors), .rules = ATTUNE_SPAN(rules),
     .kernels = ATTUNE_SPAN(forward_kernels), .check = check, .doc = ""},
    {.struct_size = sizeof(attune_entry), .kind = ATTUNE_STEP, .name = "step", .symbols = "B,Hq,Hkv,Nq,Nk,D,Dv,Np,Nn",
     .let = "Np=?0; Nn=?Nk-Np; Nk=Np+Nn", .flops = "2*B*Hq*Nq*Nk*(D+Dv)", .tensors = ATTUNE_SPAN(step_tensors),
     .rules = ATTUNE_SPAN(step_rules), .kernels = ATTUNE_SPAN(step_kernels), .doc = ""}};
static const attune_preset presets[] = {
    {sizeof(attune_preset), ATTUNE_DEMO, "demo", "forward", "", "", "", ""},
    {sizeof(attune_preset), ATTUNE_BENCH, "bench", "forward", "", "B=1,Hq=2,Hkv=2,Nq=8,Nk=8,D=8,Dv=8", "", ""}};
static const attune_tolerance tolerances[] = {{sizeof(attune_tolerance), ATTUNE_F32, 1e-4, 2e-5},
                                              {sizeof(attune_tolerance), ATTUNE_BF16, 1.6e-2, 1e-2}};
static const attune_op ops[] = {{.struct_size = sizeof(attune_op), .version = {1, 0, 0, 0}, .id = ID, .title = "",
                                 .doc = "", .reference = "", .params = ATTUNE_SPAN(params),
                                 .entries = ATTUNE_SPAN(entries), .presets = ATTUNE_SPAN(presets),
                                 .tolerances = ATTUNE_SPAN(tolerances)}};
static const attune_plugin plugin = {.struct_size = sizeof(attune_plugin), .version = {1, 0, 0, 0}, .id = ID,
                                     .vendor = "example", .license = "Apache-2.0", .ops = ATTUNE_SPAN(ops)};
ATTUNE_NOTE(ID, "1.0.0");

attune_status attune_plugin_entry_v1(attune_negotiation* n) {
  return attune_negotiate(n, &plugin);
}
