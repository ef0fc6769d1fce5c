/* The smallest legal size of each struct, held at every build: the sizes of ABI minor 0. A later minor appends fields, and
 * asserts here where its first new field begins. Tests/ABI/layout-1.0.golden holds the whole layout. */
#include <attune/attune.h>
#include <attune/plugin.h>

ATTUNE_SIZE(attune_span, 16);
ATTUNE_SIZE(attune_semver, 16);
ATTUNE_SIZE(attune_value, 16);
ATTUNE_SIZE(attune_error, 512);
ATTUNE_SIZE(attune_device, 8);
ATTUNE_SIZE(attune_dtype, 4);
ATTUNE_SIZE(attune_tensor, 48);
ATTUNE_SIZE(attune_context_options, 64);
ATTUNE_SIZE(attune_tensor_ref, 24);
ATTUNE_SIZE(attune_param, 40);
ATTUNE_SIZE(attune_problem, 88);
ATTUNE_SIZE(attune_bindings, 64);
ATTUNE_SIZE(attune_plan_info, 64);
ATTUNE_SIZE(attune_wisdom_report, 24);
ATTUNE_SIZE(attune_tensor_spec, 80);
ATTUNE_SIZE(attune_param_spec, 88);
ATTUNE_SIZE(attune_arg, 24);
ATTUNE_SIZE(attune_knob, 40);
ATTUNE_SIZE(attune_kernel, 168);
ATTUNE_SIZE(attune_rule, 24);
ATTUNE_SIZE(attune_entry, 128);
ATTUNE_SIZE(attune_preset, 56);
ATTUNE_SIZE(attune_tolerance, 24);
ATTUNE_SIZE(attune_op, 120);
ATTUNE_SIZE(attune_host, 40);
ATTUNE_SIZE(attune_blas, 32);
ATTUNE_SIZE(attune_exec, 144);
ATTUNE_SIZE(attune_plugin, 88);
ATTUNE_SIZE(attune_negotiation, 32);
ATTUNE_SIZE(attune_note, 132);
