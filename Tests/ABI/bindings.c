/* Bad bindings: what an execution refuses. Code, argument and sentence are right, nothing is written, and the plan
 * still works. */
#include <math.h>
#include "call.h"

static attune_context *context;
static call *given; /* the call that is spoilt */
static attune_plan *plan;

static void start(void) {
  context = make_context();
  given = make_call();
  plan = make_plan(context, given);
}
static void refused(attune_status code, const char *argument, const char *const *words) {
  const attune_status status = attune_plan_execute(plan, &given->bindings, &given->error);
  check_error(&given->error, status, code, argument, words);
  CHECK_INT(attune_plan_execute(plan, &given->bindings, NULL), code);
  check_untouched(given);
  call *good = make_call();
  if (given->bindings.n_tensors > 4) add_tensor(good, LENGTHS);
  execute(plan, good);
  if (good->bindings.n_tensors == 4) check_result(good);
  attune_plan_release(plan);
  attune_context_release(context);
}

TEST(number_of_tensors) {
  start();
  given->bindings.n_tensors = 3;
  refused(ATTUNE_E_INVALID, "bindings.n_tensors", WORDS("3", "4"));
}
TEST(larger_than_planned) {
  start();
  set_sizes(given, 2, 4, 2, 6, 7, 3, 6);
  refused(ATTUNE_E_SHAPE, "q", WORDS("q dim 2", "6", "5"));
  CHECK_INT(given->error.detail[0], 5);
  CHECK_INT(given->error.detail[1], 6);
}
TEST(more_keys_than_planned) {
  start();
  set_sizes(given, 2, 4, 2, 5, 8, 3, 6);
  refused(ATTUNE_E_SHAPE, "k", WORDS("k dim 2", "8", "7"));
}
TEST(sizes_that_do_not_meet) {
  start();
  given->shape[V][2] = 6;
  refused(ATTUNE_E_SHAPE, "v", WORDS("6", "7"));
}
TEST(heads_not_a_multiple) {
  start();
  set_sizes(given, 2, 3, 2, 5, 7, 3, 6);
  refused(ATTUNE_E_SHAPE, "k", WORDS("multiple", "3", "2"));
}
TEST(extent_negative) {
  start();
  given->shape[O][2] = -5;
  refused(ATTUNE_E_SHAPE, "o", WORDS("-5"));
}
TEST(rank_changed) {
  start();
  given->tensor[K].ndim = 3;
  refused(ATTUNE_E_SHAPE, "k", WORDS("3", "4"));
}
TEST(dtype_changed) {
  start();
  given->tensor[K].dtype = attune_dtype_of(ATTUNE_F64);
  refused(ATTUNE_E_DTYPE, "k", WORDS("f64", "f32"));
}
TEST(device_changed) {
  start();
  given->tensor[K].device.device_type = 2;
  refused(ATTUNE_E_LAYOUT, "k", WORDS("device", "2"));
}
TEST(last_stride_not_one) {
  static int64_t strides[4] = {84, 42, 6, 2};
  start();
  given->tensor[V].strides = strides;
  refused(ATTUNE_E_LAYOUT, "v", WORDS("stride", "2", "1"));
}
TEST(stride_negative) {
  static int64_t strides[4] = {84, 42, -6, 1};
  start();
  given->tensor[V].strides = strides;
  refused(ATTUNE_E_LAYOUT, "v", WORDS("stride", "-6"));
}
TEST(output_with_stride_zero) {
  static int64_t strides[4] = {120, 0, 6, 1};
  start();
  given->tensor[O].strides = strides;
  refused(ATTUNE_E_LAYOUT, "o", WORDS("stride", "overlap"));
}
TEST(output_over_input) {
  start();
  given->tensor[V].data = given->data[O] + 3;
  refused(ATTUNE_E_LAYOUT, "o", WORDS("overlap", "v"));
}
TEST(data_not_aligned_to_its_element) {
  start();
  given->tensor[V].byte_offset = 1;
  refused(ATTUNE_E_LAYOUT, "v", WORDS("v", "align"));
}
TEST(structural_param) {
  start();
  add_param(given, (attune_param)ATTUNE_SET_INT("window", 1));
  given->bindings.params = given->problem.params;
  refused(ATTUNE_E_INVALID, "window", WORDS("window", "plan"));
}
TEST(param_unknown) {
  start();
  add_param(given, (attune_param)ATTUNE_SET_REAL("scala", 1));
  given->bindings.params = given->problem.params;
  refused(ATTUNE_E_PARAM, "scala", WORDS("scala", "scale"));
}
TEST(param_above_range) {
  start();
  add_param(given, (attune_param)ATTUNE_SET_REAL("scale", 100.5));
  given->bindings.params = given->problem.params;
  refused(ATTUNE_E_PARAM, "scale", WORDS("100.5", "100"));
}
TEST(param_nan) {
  start();
  add_param(given, (attune_param)ATTUNE_SET_REAL("scale", NAN));
  given->bindings.params = given->problem.params;
  refused(ATTUNE_E_PARAM, "scale", WORDS("nan"));
}
TEST(workspace_too_small) {
  static _Alignas(64) char workspace[4096];
  attune_plan_info info = {0};
  start();
  info.struct_size = sizeof info;
  CHECK_INT(attune_plan_query(plan, &info, NULL), ATTUNE_OK);
  CHECK(info.workspace_bytes > 64, "%llu", (unsigned long long)info.workspace_bytes);
  given->bindings.workspace = workspace;
  given->bindings.workspace_bytes = 24;
  attune_status status = attune_plan_execute(plan, &given->bindings, &given->error);
  const int64_t need = given->error.detail[0];
  char words[32];
  snprintf(words, sizeof words, "%lld", (long long)need);
  check_error(&given->error, status, ATTUNE_E_WORKSPACE, "workspace", WORDS(words, "24"));
  CHECK(need > 24 && need <= (int64_t)info.workspace_bytes, "%lld bytes needed", (long long)need);
  check_untouched(given);
  /* What was asked for is enough wherever the buffer begins. */
  for (int shift = 0; shift < 64; shift += 9) {
    given->bindings.workspace = workspace + shift;
    given->bindings.workspace_bytes = (uint64_t)need;
    execute(plan, given);
    check_result(given);
  }
}
TEST(index_data_out_of_range) {
  context = make_context();
  given = make_call();
  add_tensor(given, LENGTHS);
  plan = make_plan(context, given);
  ((int32_t *)(void *)given->data[LENGTHS])[1] = 8;
  refused(ATTUNE_E_INVALID, "lengths", WORDS("lengths", "[0,Nk]"));
  CHECK_INT(given->error.detail[0], 7);
  CHECK_INT(given->error.detail[1], 8);
}
TEST(kernel_that_fails) {
  context = make_context();
  given = make_call();
  given->problem.kernel = "failing";
  plan = make_plan(context, given);
  const attune_status status = attune_plan_execute(plan, &given->bindings, &given->error);
  check_error(&given->error, status, ATTUNE_E_PLUGIN - 7, "v",
              WORDS("org.attune.fixture", "failing", "the failing kernel failed"));
  CHECK_INT(given->error.source, ATTUNE_BY_KERNEL);
  attune_plan_release(plan);
  attune_context_release(context);
}
