/* Bad problems: what a plan refuses, and attune_run with it. Code, argument and sentence are right, nothing is
 * written. */
#include <math.h>
#include "call.h"

/* Both ways to ask refuse alike; a good problem still works afterwards. */
static void refused(call *c, attune_status code, const char *argument, const char *const *words) {
  attune_context *context = make_context();
  attune_plan *const before = (attune_plan *)(void *)c;
  attune_plan *plan = before;
  attune_status status = attune_plan_create(context, &c->problem, &plan, &c->error);
  check_error(&c->error, status, code, argument, words);
  CHECK(plan == before, "a refused call wrote its result");
  CHECK_INT(attune_plan_create(context, &c->problem, &plan, NULL), code);
  c->error = (attune_error)ATTUNE_ERROR;
  status = attune_run(context, &c->problem, NULL, &c->error);
  check_error(&c->error, status, code, argument, words);
  check_untouched(c);
  call *good = make_call();
  CHECK_INT(attune_run(context, &good->problem, NULL, &good->error), ATTUNE_OK);
  check_result(good);
  attune_context_release(context);
}

TEST(a_good_call_works) {
  attune_context *context = make_context();
  call *c = make_call();
  attune_plan *plan = make_plan(context, c);
  execute(plan, c);
  check_result(c);
  attune_plan_release(plan);
  attune_context_release(context);
}

TEST(unknown_operator) {
  call *c = make_call();
  c->problem.op = "org.attune.nowhere";
  refused(c, ATTUNE_E_NOT_FOUND, "op", WORDS("org.attune.nowhere"));
}
TEST(unknown_plugin_of_operator) {
  call *c = make_call();
  c->problem.op = "org.attune.fixture@org.example.other";
  refused(c, ATTUNE_E_NOT_FOUND, "op", WORDS("org.example.other"));
}
TEST(unknown_entry) {
  call *c = make_call();
  c->problem.entry = "sideways";
  refused(c, ATTUNE_E_NOT_FOUND, "entry", WORDS("sideways", "forward"));
}
TEST(unknown_kernel) {
  call *c = make_call();
  c->problem.kernel = "turbo";
  refused(c, ATTUNE_E_NOT_FOUND, "kernel", WORDS("turbo", "tasks"));
}
TEST(kernel_that_cannot_take_the_problem) {
  call *c = make_call();
  c->problem.kernel = "native";
  add_tensor(c, COUNT);
  refused(c, ATTUNE_E_UNSUPPORTED, "kernel", WORDS("native", "!has(count)"));
}

TEST(unknown_tensor) {
  call *c = make_call();
  c->refs[K].name = "kk";
  refused(c, ATTUNE_E_INVALID, "kk", WORDS("kk"));
}
TEST(tensor_given_twice) {
  call *c = make_call();
  add_tensor(c, K);
  refused(c, ATTUNE_E_INVALID, "k", WORDS("k", "twice"));
}
TEST(tensor_missing) {
  call *c = make_call();
  c->refs[K] = c->refs[O];
  c->problem.tensors.count = 3;
  refused(c, ATTUNE_E_INVALID, "k", WORDS("k", "missing"));
}
TEST(output_missing) {
  call *c = make_call();
  c->problem.tensors.count = 3;
  refused(c, ATTUNE_E_INVALID, "o", WORDS("o", "missing"));
}
TEST(tensor_superfluous) {
  call *c = make_call();
  add_tensor(c, COUNT);
  add_param(c, (attune_param)ATTUNE_SET_WORD("mode", "sum"));
  refused(c, ATTUNE_E_INVALID, "count", WORDS("count", "mode"));
}
TEST(no_tensors_at_all) {
  call *c = make_call();
  c->problem.tensors = (attune_span){NULL, 0, 0};
  refused(c, ATTUNE_E_INVALID, "q", WORDS("q", "missing"));
}
TEST(input_without_tensor) {
  call *c = make_call();
  c->refs[K].tensor = NULL;
  refused(c, ATTUNE_E_INVALID, "k", WORDS("k"));
}
TEST(tensor_without_name) {
  call *c = make_call();
  c->refs[K].name = NULL;
  refused(c, ATTUNE_E_INVALID, "problem.tensors.name", WORDS("name", "NULL"));
}
TEST(far_too_many_tensors) {
  call *c = make_call();
  c->problem.tensors.count = UINT32_MAX;
  refused(c, ATTUNE_E_INVALID, "problem.tensors", WORDS("4294967295", "64"));
}

TEST(dtype_not_in_the_set) {
  call *c = make_call();
  for (int t = Q; t <= O; t++) c->tensor[t].dtype = attune_dtype_of(ATTUNE_BF16);
  refused(c, ATTUNE_E_DTYPE, "q", WORDS("bf16", "f32", "f64"));
}
TEST(dtypes_that_must_agree) {
  call *c = make_call();
  c->tensor[K].dtype = attune_dtype_of(ATTUNE_F64);
  refused(c, ATTUNE_E_DTYPE, "k", WORDS("f64", "f32"));
}
TEST(dtype_of_output) {
  call *c = make_call();
  c->tensor[O].dtype = attune_dtype_of(ATTUNE_F64);
  refused(c, ATTUNE_E_DTYPE, "o", WORDS("f64", "f32"));
}
TEST(dtype_that_no_one_knows) {
  call *c = make_call();
  c->tensor[K].dtype.bits = 24;
  refused(c, ATTUNE_E_DTYPE, "k", WORDS("24"));
}
TEST(dtype_with_lanes) {
  call *c = make_call();
  c->tensor[K].dtype.lanes = 4;
  refused(c, ATTUNE_E_DTYPE, "k", WORDS("4"));
}

TEST(rank_too_small) {
  call *c = make_call();
  c->tensor[Q].ndim = 3;
  refused(c, ATTUNE_E_SHAPE, "q", WORDS("3", "4"));
}
TEST(rank_negative) {
  call *c = make_call();
  c->tensor[Q].ndim = -1;
  refused(c, ATTUNE_E_SHAPE, "q", WORDS("-1"));
}
TEST(rank_huge) {
  call *c = make_call();
  c->tensor[Q].ndim = INT32_MAX;
  refused(c, ATTUNE_E_SHAPE, "q", WORDS("2147483647", "8"));
}
TEST(shape_missing) {
  call *c = make_call();
  c->tensor[Q].shape = NULL;
  refused(c, ATTUNE_E_INVALID, "q", WORDS("shape"));
}
TEST(extents_that_differ) {
  call *c = make_call();
  c->shape[V][2] = 9;
  refused(c, ATTUNE_E_SHAPE, "v", WORDS("v dim 2", "9", "7", "k"));
  CHECK_INT(c->error.detail[0], 7);
  CHECK_INT(c->error.detail[1], 9);
}
TEST(heads_not_a_multiple) {
  call *c = make_call();
  set_sizes(c, 2, 5, 2, 5, 7, 3, 6);
  refused(c, ATTUNE_E_SHAPE, "k", WORDS("Hq", "multiple", "5", "2"));
}
TEST(no_key_heads) {
  call *c = make_call();
  set_sizes(c, 2, 4, 0, 5, 7, 3, 6);
  refused(c, ATTUNE_E_SHAPE, "k", WORDS("Hkv", "0"));
}
TEST(extent_negative) {
  call *c = make_call();
  c->shape[K][2] = -7;
  refused(c, ATTUNE_E_SHAPE, "k", WORDS("-7"));
}
TEST(extents_that_overflow) {
  call *c = make_call();
  for (int t = Q; t <= O; t++) c->shape[t][2] = INT64_MAX / 4;
  refused(c, ATTUNE_E_SHAPE, "q", WORDS("q"));
}
TEST(bytes_that_overflow) {
  call *c = make_call();
  for (int t = Q; t <= O; t++) c->shape[t][2] = INT64_C(1) << 59;
  refused(c, ATTUNE_E_SHAPE, "q", WORDS("q"));
}

/* Strides are the caller's when given: compact ones first, then one spoiled. */
static int64_t *strides_of(call *c, int t) {
  static int64_t strides[MAX_TENSORS][4];
  int64_t step = 1;
  for (int d = 3; d >= 0; d--) strides[t][d] = step, step *= c->shape[t][d];
  c->tensor[t].strides = strides[t];
  return strides[t];
}
TEST(last_stride_not_one) {
  call *c = make_call();
  strides_of(c, K)[3] = 2;
  refused(c, ATTUNE_E_LAYOUT, "k", WORDS("stride", "2", "1"));
}
TEST(stride_negative) {
  call *c = make_call();
  strides_of(c, K)[2] = -3;
  refused(c, ATTUNE_E_LAYOUT, "k", WORDS("stride", "-3"));
}
TEST(strides_that_overflow) {
  call *c = make_call();
  strides_of(c, K)[0] = INT64_MAX;
  refused(c, ATTUNE_E_LAYOUT, "k", WORDS("k", "address space"));
}
TEST(output_with_stride_zero) {
  call *c = make_call();
  strides_of(c, O)[1] = 0;
  refused(c, ATTUNE_E_LAYOUT, "o", WORDS("stride", "0"));
}
TEST(output_that_overlaps_itself) {
  call *c = make_call();
  strides_of(c, O)[1] = 1;
  refused(c, ATTUNE_E_LAYOUT, "o", WORDS("o", "overlap"));
}
TEST(device_that_is_not_offered) {
  call *c = make_call();
  c->tensor[K].device.device_type = 2;
  refused(c, ATTUNE_E_LAYOUT, "k", WORDS("device", "2", "1"));
}
TEST(problem_on_another_device) {
  call *c = make_call();
  c->problem.device_type = 2;
  refused(c, ATTUNE_E_UNSUPPORTED, "problem.device_type", WORDS("2", "1"));
}

static void refused_param(attune_param p, const char *const *words) {
  call *c = make_call();
  add_param(c, p);
  refused(c, ATTUNE_E_PARAM, p.name, words);
}
TEST(param_unknown) { refused_param((attune_param)ATTUNE_SET_INT("windw", 3), WORDS("windw", "window")); }
TEST(param_above_range) { refused_param((attune_param)ATTUNE_SET_REAL("scale", 101), WORDS("101", "100")); }
TEST(param_below_range) { refused_param((attune_param)ATTUNE_SET_INT("window", -2), WORDS("-2", "-1")); }
TEST(param_nan) { refused_param((attune_param)ATTUNE_SET_REAL("scale", NAN), WORDS("scale", "nan")); }
TEST(param_infinite) { refused_param((attune_param)ATTUNE_SET_REAL("scale", INFINITY), WORDS("scale", "inf")); }
TEST(param_of_wrong_kind) { refused_param((attune_param)ATTUNE_SET_WORD("window", "wide"), WORDS("window")); }
TEST(param_of_unknown_kind) {
  attune_param p = ATTUNE_SET_INT("window", 3);
  p.kind = 77;
  refused_param(p, WORDS("window", "77"));
}
TEST(param_bool_that_is_neither) { refused_param((attune_param)ATTUNE_SET_FLAG("reverse", 2), WORDS("reverse", "2")); }
TEST(param_word_unknown) {
  refused_param((attune_param)ATTUNE_SET_WORD("mode", "median"), WORDS("median", "mean", "sum"));
}
TEST(param_word_missing) {
  call *c = make_call();
  add_param(c, (attune_param)ATTUNE_SET_WORD("mode", NULL));
  refused(c, ATTUNE_E_INVALID, "mode.word", WORDS("mode.word", "NULL"));
}
TEST(param_given_twice) {
  call *c = make_call();
  add_param(c, (attune_param)ATTUNE_SET_INT("window", 3));
  add_param(c, (attune_param)ATTUNE_SET_INT("window", 4));
  refused(c, ATTUNE_E_PARAM, "window", WORDS("window", "twice"));
}
TEST(param_without_name) {
  call *c = make_call();
  add_param(c, (attune_param)ATTUNE_SET_INT(NULL, 3));
  refused(c, ATTUNE_E_INVALID, "problem.params.name", WORDS("name", "NULL"));
}

TEST(tune_mode_unknown) {
  call *c = make_call();
  c->problem.tune_mode = 99;
  refused(c, ATTUNE_E_INVALID, "problem.tune_mode", WORDS("99", "6"));
}
TEST(workers_negative) {
  call *c = make_call();
  c->problem.workers = -1;
  refused(c, ATTUNE_E_INVALID, "problem.workers", WORDS("-1", "0"));
}
TEST(unknown_flag) {
  call *c = make_call();
  c->problem.flags = 1u << 30;
  refused(c, ATTUNE_E_UNSUPPORTED, "problem.flags", WORDS("1073741824"));
}
TEST(frozen_and_nothing_known) {
  call *c = make_call();
  c->problem.tune_mode = ATTUNE_TUNE_FROZEN;
  refused(c, ATTUNE_E_NOT_TUNED, "", WORDS("fixture"));
}
