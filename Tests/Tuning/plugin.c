/* An operator whose kernels behave as the tests of the tuner need it: o = 2 * v, quickly, slowly, wrongly, or not at all.
 * Build with -DEXTRA for one more kernel, as an update of a plugin brings it, -DLARGE for one of large sizes alone, and
 * -DTAME without the kernels that die. */
#include <attune/plugin.h>
#include <signal.h>
#include <stdlib.h>
#include <unistd.h>

enum { V, O };
enum { B, N };

static const attune_tensor_spec tensors[] = {
    [V] = {.struct_size = sizeof(attune_tensor_spec), .role = ATTUNE_IN, .dtype_var = 1, .dtypes = 1 << ATTUNE_F32,
           .name = "v", .shape = "B,N", .gen = "normal", .doc = "numbers"},
    [O] = {.struct_size = sizeof(attune_tensor_spec), .role = ATTUNE_OUT, .dtype_var = 1, .dtypes = 1 << ATTUNE_F32,
           .name = "o", .shape = "B,N", .gen = "zeros", .doc = "twice the numbers"},
};

static attune_status twice(const attune_exec *x, int rounds, float factor, int64_t beyond) {
  const int64_t n = x->symbols[N];
  for (int64_t b = x->task_begin; b < x->task_end; b++) {
    const float *v = (const float *)attune_data(x->tensors[V]) + b * x->tensors[V]->strides[0];
    float *o = (float *)attune_data(x->tensors[O]) + b * x->tensors[O]->strides[0];
    for (int round = 0; round < rounds; round++)
      for (int64_t i = 0; i < n + (b + 1 == x->symbols[B] ? beyond : 0); i++) {
        ((volatile float *)o)[i] = factor * v[i < n ? i : 0];
      }
  }
  return ATTUNE_OK;
}
static attune_status reference(const attune_exec *x) { return twice(x, 40, 2, 0); }
static attune_status slow(const attune_exec *x) { return twice(x, 8, 2, 0); }
/* The knob decides how slow: 16 is the default, 1 the best. */
static attune_status knobbed(const attune_exec *x) { return twice(x, (int)x->knobs[0], 2, 0); }
static attune_status wrong(const attune_exec *x) { return twice(x, 1, 3, 0); }
static attune_status outside(const attune_exec *x) { return twice(x, 1, 2, 3); }
static attune_status failing(const attune_exec *x) { return attune_fail(x->error, ATTUNE_E_UNSUPPORTED, "v", "not today"); }
static attune_status crashing(const attune_exec *x) {
  (void)x;
  raise(SIGSEGV);
  return ATTUNE_OK;
}
static attune_status hanging(const attune_exec *x) {
  (void)x;
  for (;;) pause();
}

#define KERNEL(NAME, EFFICIENCY)                                                                                 \
  .struct_size = sizeof(attune_kernel), .flags = ATTUNE_INVARIANT, .revision = 1, .name = #NAME, .run = NAME, .tasks = "B", \
  .efficiency = EFFICIENCY, .doc = #NAME
static const int64_t rounds[] = {1, 4, 16};
static const attune_knob knobs[] = {{.struct_size = sizeof(attune_knob), .def = 2, .name = "rounds",
                                     .values = rounds, .n_values = 3, .doc = "how often the work is done"}};
#ifdef EXTRA
static attune_status extra(const attune_exec *x) { return twice(x, 1, 2, 0); }
#endif
#ifdef LARGE
static attune_status large(const attune_exec *x) { return twice(x, 7, 2, 0); }
#endif

static const attune_kernel kernels[] = {
    {KERNEL(slow, 0.2)},
    {KERNEL(knobbed, 0.1), .knobs = ATTUNE_SPAN(knobs)},
#ifdef EXTRA
    {KERNEL(extra, 0.15)},
#endif
#ifdef LARGE
    {KERNEL(large, 0.25), .when = "N > 30000"},
#endif
    {KERNEL(wrong, 0.9)},
    {KERNEL(outside, 0.8)},
    {KERNEL(failing, 0.7)},
#ifndef TAME
    {KERNEL(crashing, 0.6)},
    {KERNEL(hanging, 0.5)},
#endif
    {.struct_size = sizeof(attune_kernel), .flags = ATTUNE_REFERENCE | ATTUNE_INVARIANT, .revision = 1,
     .name = "reference", .run = reference, .tasks = "B", .efficiency = 0.01, .doc = "the definition"},
};
static const attune_entry entries[] = {
    {.struct_size = sizeof(attune_entry), .kind = ATTUNE_FORWARD, .name = "forward", .symbols = "B,N", .let = "",
     .buckets = "N:half2", .flops = "40*B*N", .tensors = ATTUNE_SPAN(tensors), .kernels = ATTUNE_SPAN(kernels),
     .doc = "o = 2 v"},
};
static const attune_preset presets[] = {
    {sizeof(attune_preset), ATTUNE_DEMO, "demo", "forward", "", "B=2,N=100", "", "a few numbers"},
    {sizeof(attune_preset), ATTUNE_BENCH, "some", "forward", "", "B=2,N=4000", "", "more numbers"},
};
static const attune_tolerance tolerances[] = {{sizeof(attune_tolerance), ATTUNE_F32, 1e-5, 1e-6}};
static const attune_op ops[] = {
    {.struct_size = sizeof(attune_op), .version = {1, 0, 0, 0}, .id = "org.example.twice", .title = "Twice",
     .doc = "twice the numbers", .reference = "none", .entries = ATTUNE_SPAN(entries), .presets = ATTUNE_SPAN(presets),
     .tolerances = ATTUNE_SPAN(tolerances)},
};
static const attune_plugin plugin = {.struct_size = sizeof(attune_plugin), .version = {1, 0, 0, 0},
                                     .id = "org.example.twice", .vendor = "tests", .license = "Apache-2.0",
                                     .ops = ATTUNE_SPAN(ops)};
ATTUNE_NOTE("org.example.twice", "1.0.0");
attune_status attune_plugin_entry_v1(attune_negotiation *n) { return attune_negotiate(n, &plugin); }
