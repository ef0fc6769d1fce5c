/* The smallest plugin that is right. A file includes it after defining what it wants to be wrong; the name of the file
 * is the operator's id. */
#include <attune/plugin.h>

#ifndef PLUGIN_ID
#define PLUGIN_ID "org.example." NAME
#endif
#ifndef OP_ID
#define OP_ID NAME
#endif
#ifndef VERSION
#define VERSION {1, 0, 0, 0}
#endif
#ifndef NOTE
#define NOTE ATTUNE_NOTE(PLUGIN_ID, "1.0.0");
#endif
#ifndef MORE_KERNELS
#define MORE_KERNELS
#endif
#ifndef MORE_OPS
#define MORE_OPS
#endif
#ifndef OPS
#define OPS ATTUNE_SPAN(ops)
#endif
#ifndef INIT
#define INIT NULL
#endif
#ifndef SHUTDOWN
#define SHUTDOWN NULL
#endif
#ifndef ENTRY
#define ENTRY return attune_negotiate(n, &plugin);
#endif

NOTE

static attune_status copy(const attune_exec *x) {
  const attune_tensor *q = x->tensors[0], *o = x->tensors[1];
  for (int64_t i = 0; i < x->symbols[0]; i++)
    ((float *)attune_data(o))[i * o->strides[0]] = ((const float *)attune_data(q))[i * q->strides[0]];
  return ATTUNE_OK;
}

#define KERNEL(name_, flags_) \
  { .struct_size = sizeof(attune_kernel), .flags = (flags_), .revision = 1, .name = name_, .run = copy, .doc = "" }
#define TENSOR(name_, role_, shape_, gen_)                                                                     \
  {                                                                                                            \
    .struct_size = sizeof(attune_tensor_spec), .role = role_, .dtype_var = 1, .dtypes = 1 << ATTUNE_F32, \
    .name = name_, .shape = shape_, .gen = gen_, .doc = ""                                                     \
  }
static const attune_tensor_spec tensors[] = {
    TENSOR("q", ATTUNE_IN, "N", "normal"),
    TENSOR("o", ATTUNE_OUT, "N", "zeros"),
};
#ifndef KERNELS
static const attune_kernel kernels[] = {KERNEL("reference", ATTUNE_REFERENCE | ATTUNE_INVARIANT), MORE_KERNELS};
#define KERNELS ATTUNE_SPAN(kernels)
#endif

#define ENTRIES(tensors_)                                                                                            \
  {                                                                                                                  \
    {                                                                                                                \
      .struct_size = sizeof(attune_entry), .kind = ATTUNE_FORWARD, .name = "forward", .symbols = "N", .flops = "N", \
      .tensors = ATTUNE_SPAN(tensors_), .kernels = KERNELS, .doc = ""                                                \
    }                                                                                                                \
  }
static const attune_entry entries[] = ENTRIES(tensors);
static const attune_preset presets[] = {
    {sizeof(attune_preset), ATTUNE_DEMO, "demo", "forward", "", "N=8", "", ""},
    {sizeof(attune_preset), ATTUNE_BENCH, "bench", "forward", "", "N=64", "", ""},
};
static const attune_tolerance tolerances[] = {{sizeof(attune_tolerance), ATTUNE_F32, 0, 0}};
#define OP(id_, entries_)                                                                                        \
  {                                                                                                              \
    .struct_size = sizeof(attune_op), .version = VERSION, .id = id_, .title = "", .doc = "", .reference = "",    \
    .entries = ATTUNE_SPAN(entries_), .presets = ATTUNE_SPAN(presets), .tolerances = ATTUNE_SPAN(tolerances) \
  }
#ifdef MORE_TABLES
MORE_TABLES
#endif
static const attune_op ops[] = {OP(OP_ID, entries), MORE_OPS};

__attribute__((unused)) static const attune_plugin plugin = {
    .struct_size = sizeof(attune_plugin), .version = VERSION, .id = PLUGIN_ID, .vendor = "example", .license = "MIT",
    .ops = OPS, .init = INIT, .shutdown = SHUTDOWN};

#ifndef NO_ENTRY
ATTUNE_EXPORT attune_status attune_plugin_entry_v1(attune_negotiation *n) { ENTRY }
#endif
