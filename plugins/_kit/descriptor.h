// Functions that make the tables of a plugin read like the descriptor they are: one call per row, arguments in the
// order of the fields of <attune/plugin.h>. All constexpr, so that the tables are constant data. A plugin in C writes
// designated initialisers instead.
#ifndef ATTUNE_KIT_DESCRIPTOR_H_
#define ATTUNE_KIT_DESCRIPTOR_H_
#include <attune/plugin.h>

namespace attune_kit {

constexpr uint64_t Set() {
  return 0;
}
// The set of the given element types: Set(ATTUNE_F32, ATTUNE_BF16).
template <class... T>
constexpr uint64_t Set(int first, T... rest) {
  return (uint64_t{1} << first) | Set(rest...);
}
constexpr uint64_t kF32 = Set(ATTUNE_F32), kI32 = Set(ATTUNE_I32), kMask = Set(ATTUNE_U8, ATTUNE_BOOL);
constexpr uint64_t kFloats = Set(ATTUNE_F32, ATTUNE_BF16, ATTUNE_F16);
constexpr double kInf = __builtin_inf();

template <class T, uint32_t N>
constexpr attune_span Span(const T (&array)[N]) {
  return {array, N, sizeof(T)};
}
constexpr attune_span kNone = {nullptr, 0, 0};

// The full row of a tensor. `needed`, `allowed`: nullptr means always; needed "0" means optional.
constexpr attune_tensor_spec Tensor(uint32_t role, const char* name, const char* shape, uint32_t dtype_var,
                                    uint64_t dtypes, uint32_t flags, const char* needed, const char* allowed,
                                    const char* pair, const char* gen, const char* doc) {
  return {sizeof(attune_tensor_spec), role, flags, dtype_var, dtypes, name, shape, needed, allowed, pair, gen, doc};
}
constexpr attune_tensor_spec Input(const char* name, const char* shape, uint32_t dtype_var, uint64_t dtypes,
                                   const char* gen, const char* doc) {
  return Tensor(ATTUNE_IN, name, shape, dtype_var, dtypes, 0, nullptr, nullptr, nullptr, gen, doc);
}
constexpr attune_tensor_spec InputIf(const char* needed, const char* allowed, const char* name, const char* shape,
                                     uint32_t dtype_var, uint64_t dtypes, const char* gen, const char* doc) {
  return Tensor(ATTUNE_IN, name, shape, dtype_var, dtypes, 0, needed, allowed, nullptr, gen, doc);
}
constexpr attune_tensor_spec Output(const char* name, const char* shape, uint32_t dtype_var, uint64_t dtypes,
                                    uint32_t flags, const char* doc) {
  return Tensor(ATTUNE_OUT, name, shape, dtype_var, dtypes, flags, nullptr, nullptr, nullptr, "zeros", doc);
}

constexpr attune_param_spec BoolParam(const char* name, uint32_t flags, bool def, const char* doc) {
  return {sizeof(attune_param_spec), ATTUNE_PARAM_BOOL, flags, 0, name, doc, nullptr, {def, 0}, {0, 0}, {1, 0}};
}
constexpr attune_param_spec I64Param(const char* name, uint32_t flags, int64_t def, int64_t min, int64_t max,
                                     const char* doc) {
  return {sizeof(attune_param_spec), ATTUNE_PARAM_I64, flags, 0, name, doc, nullptr, {def, 0}, {min, 0}, {max, 0}};
}
constexpr attune_param_spec F64Param(const char* name, uint32_t flags, double def, double min, double max,
                                     const char* doc) {
  return {sizeof(attune_param_spec), ATTUNE_PARAM_F64, flags, 0, name, doc, nullptr, {0, def}, {0, min}, {0, max}};
}
// `def`: index of the default word.
template <uint32_t N>
constexpr attune_param_spec EnumParam(const char* name, uint32_t flags, const char* const (&words)[N], int64_t def,
                                      const char* doc) {
  return {sizeof(attune_param_spec), ATTUNE_PARAM_ENUM, flags, N, name, doc, words, {def, 0}, {0, 0}, {0, 0}};
}

constexpr attune_rule Rule(attune_status code, const char* expr, const char* text) {
  return {sizeof(attune_rule), code, expr, text};
}
constexpr attune_preset Preset(const char* name, uint32_t flags, const char* entry, const char* params,
                               const char* shape, const char* tensors, const char* doc) {
  return {sizeof(attune_preset), flags, name, entry, params, shape, tensors, doc};
}
constexpr attune_tolerance Tolerance(uint32_t dtype, double rtol, double atol) {
  return {sizeof(attune_tolerance), dtype, rtol, atol};
}

// `def`: index of the default value.
template <uint32_t N>
constexpr attune_knob Knob(const char* name, const int64_t (&values)[N], uint32_t def, const char* doc) {
  return {sizeof(attune_knob), N, def, 0, name, values, doc};
}

// A kernel row that says nothing beyond its name: set what differs, in a constexpr function of the plugin.
constexpr attune_kernel Kernel(const char* name, uint32_t flags, attune_kernel_fn run, const char* doc) {
  attune_kernel k = {};
  k.struct_size = sizeof k;
  k.revision = 1;
  k.name = name, k.flags = flags, k.run = run, k.doc = doc;
  return k;
}

// The reference: `tasks` and `workspace` may be nullptr; `efficiency` is its share of peak.
constexpr attune_kernel Reference(attune_kernel_fn run, const char* tasks, const char* workspace, double efficiency) {
  attune_kernel k = Kernel("reference", ATTUNE_REFERENCE | ATTUNE_INVARIANT, run, "scalar loops in double precision");
  k.tasks = tasks, k.workspace = workspace, k.efficiency = efficiency;
  return k;
}

constexpr attune_entry Entry(uint32_t kind, const char* name, const char* symbols, const char* let, const char* buckets,
                             const char* flops, attune_span tensors, attune_span rules, attune_span kernels,
                             attune_status (*check)(const attune_exec*), const char* doc) {
  return {sizeof(attune_entry),
          kind,
          name,
          nullptr,
          symbols,
          let,
          buckets,
          flops,
          nullptr,
          tensors,
          rules,
          kernels,
          check,
          doc};
}

// An entry that gives the gradients of another one.
constexpr attune_entry Of(const char* entry, attune_entry gradients) {
  gradients.of = entry;
  return gradients;
}

constexpr attune_op Op(const char* id, attune_semver version, const char* title, const char* doc, const char* reference,
                       attune_span params, attune_span entries, attune_span presets, attune_span tolerances) {
  return {sizeof(attune_op), 0, version, id, title, doc, reference, params, entries, presets, tolerances};
}
// A plugin of this project: no instance, no extensions.
constexpr attune_plugin Plugin(const char* id, attune_semver version, attune_span ops) {
  return {sizeof(attune_plugin), 0, version, id, "Attune", "Apache-2.0", ops, nullptr, nullptr, nullptr};
}

}  // namespace attune_kit
#endif  // ATTUNE_KIT_DESCRIPTOR_H_
