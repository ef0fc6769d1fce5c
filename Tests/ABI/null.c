/* Every function with every pointer NULL in turn, and every struct with a wrong struct_size: a code and a sentence that
 * names the argument, never a crash. */
#define _GNU_SOURCE /* MAP_ANONYMOUS */
#include <sys/mman.h>
#include <unistd.h>
#include "call.h"

static attune_error error = ATTUNE_ERROR;

/* The call answered E_INVALID and speaks of `name`. */
#define NAMES(call, name)                                                           \
  do {                                                                              \
    error = (attune_error)ATTUNE_ERROR;                                             \
    const attune_status status_ = (call);                                           \
    CHECK(status_ == ATTUNE_E_INVALID, #call " is %d: %s", status_, error.message); \
    CHECK(strstr(error.message, name), "'%s' is not in: %s", name, error.message);  \
  } while (0)

TEST(version_takes_any_null) {
  uint32_t a = 77, b = 77, c = 77;
  CHECK_INT(attune_version(NULL, NULL, NULL), ATTUNE_OK);
  CHECK_INT(attune_version(&a, NULL, NULL), ATTUNE_OK);
  CHECK_INT(attune_version(NULL, &b, NULL), ATTUNE_OK);
  CHECK_INT(attune_version(NULL, NULL, &c), ATTUNE_OK);
  CHECK(a != 77 && b != 77 && c != 77, "%u.%u.%u", a, b, c);
}

TEST(status_names) {
  CHECK(!strcmp(attune_status_name(ATTUNE_OK), "OK"), "%s", attune_status_name(ATTUNE_OK));
  CHECK(!strcmp(attune_status_name(ATTUNE_E_AMBIGUOUS), "E_AMBIGUOUS"), "%s", attune_status_name(ATTUNE_E_AMBIGUOUS));
  const attune_status odd[] = {1, INT32_MAX, -999, -1001, INT32_MIN};
  for (int i = 0; i < 5; i++) CHECK(attune_status_name(odd[i]) && attune_status_name(odd[i])[0], "code %d", odd[i]);
}

TEST(releases_take_null) {
  attune_context_release(NULL);
  attune_plan_release(NULL);
}

TEST(context_create) {
  attune_context *context = NULL;
  NAMES(attune_context_create(NULL, NULL, &error), "out");
  CHECK_INT(attune_context_create(NULL, NULL, NULL), ATTUNE_E_INVALID);
  CHECK_INT(attune_context_create(NULL, &context, NULL), ATTUNE_OK);
  attune_context_release(context);
}

TEST(load) {
  attune_context *context = make_context();
  NAMES(attune_load(NULL, "attune_x.so", &error), "context");
  NAMES(attune_load(context, NULL, &error), "path");
  CHECK_INT(attune_load(context, NULL, NULL), ATTUNE_E_INVALID);
  CHECK_INT(attune_load(context, "/nowhere/attune_x.so", &error), ATTUNE_E_IO);
  CHECK(strstr(error.message, "/nowhere/attune_x.so"), "%s", error.message);
  attune_context_release(context);
}

TEST(describe) {
  attune_context *context = make_context();
  char buffer[4] = "abc";
  uint64_t need = 0;
  NAMES(attune_describe(NULL, "registry", NULL, buffer, sizeof buffer, &need, &error), "context");
  NAMES(attune_describe(context, NULL, NULL, buffer, sizeof buffer, &need, &error), "what");
  CHECK_INT(attune_describe(context, "registry", NULL, NULL, 1000, &need, &error), ATTUNE_E_WORKSPACE);
  CHECK_INT(attune_describe(context, "weather", NULL, NULL, 0, &need, &error), ATTUNE_E_NOT_FOUND);
  CHECK(strstr(error.message, "weather") && strstr(error.message, "registry"), "%s", error.message);
  CHECK_INT(attune_describe(context, "op", "org.attune.nowhere", NULL, 0, &need, &error), ATTUNE_E_NOT_FOUND);
  CHECK_INT(attune_describe(context, "registry", NULL, NULL, 0, &need, NULL), ATTUNE_E_WORKSPACE);
  CHECK(need > 4, "%llu", (unsigned long long)need);
  CHECK_INT(attune_describe(context, "registry", NULL, buffer, sizeof buffer, NULL, &error), ATTUNE_E_WORKSPACE);
  CHECK_INT(error.detail[0], need);
  CHECK(!strcmp(buffer, "abc"), "a buffer that is too small was written");
  char *text = malloc(need);
  CHECK_INT(attune_describe(context, "registry", NULL, text, need - 1, &need, NULL), ATTUNE_E_WORKSPACE);
  CHECK_INT(attune_describe(context, "registry", NULL, text, need, NULL, NULL), ATTUNE_OK);
  CHECK_INT(strlen(text) + 1, need);
  free(text);
  attune_context_release(context);
}

TEST(plan_create) {
  attune_context *context = make_context();
  attune_plan *plan = NULL;
  call *c = make_call();
  NAMES(attune_plan_create(NULL, &c->problem, &plan, &error), "context");
  NAMES(attune_plan_create(context, NULL, &plan, &error), "problem");
  NAMES(attune_plan_create(context, &c->problem, NULL, &error), "out");
  CHECK_INT(attune_plan_create(NULL, NULL, NULL, NULL), ATTUNE_E_INVALID);
  c->problem.op = NULL;
  NAMES(attune_plan_create(context, &c->problem, &plan, &error), "op");
  c = make_call();
  c->problem.tensors.data = NULL;
  NAMES(attune_plan_create(context, &c->problem, &plan, &error), "tensors");
  c = make_call();
  c->problem.params = (attune_span){NULL, 2, sizeof(attune_param)};
  NAMES(attune_plan_create(context, &c->problem, &plan, &error), "params");
  CHECK(!plan, "a plan out of nothing");
  attune_context_release(context);
}

TEST(plan_tensor) {
  attune_context *context = make_context();
  attune_plan *plan = make_plan(context, make_call());
  attune_tensor t;
  int64_t shape[8], strides[8];
  NAMES(attune_plan_tensor(NULL, "o", &t, shape, strides, &error), "plan");
  NAMES(attune_plan_tensor(plan, NULL, &t, shape, strides, &error), "name");
  NAMES(attune_plan_tensor(plan, "o", NULL, shape, strides, &error), "out");
  NAMES(attune_plan_tensor(plan, "o", &t, NULL, strides, &error), "shape");
  NAMES(attune_plan_tensor(plan, "o", &t, shape, NULL, &error), "strides");
  CHECK_INT(attune_plan_tensor(plan, "x", &t, shape, strides, &error), ATTUNE_E_NOT_FOUND);
  CHECK_INT(attune_plan_tensor(plan, "o", &t, shape, strides, NULL), ATTUNE_OK);
  CHECK_INT(t.ndim, 4);
  CHECK(t.data == NULL && t.shape == shape && t.strides == strides, "the views are the caller's");
  CHECK(shape[0] == 2 && shape[1] == 4 && shape[2] == 5 && shape[3] == 6, "shape of o");
  CHECK(strides[0] == 120 && strides[1] == 30 && strides[2] == 6 && strides[3] == 1, "strides of o");
  attune_plan_release(plan);
  attune_context_release(context);
}

TEST(plan_query) {
  attune_context *context = make_context();
  attune_plan *plan = make_plan(context, make_call());
  attune_plan_info info = {0};
  info.struct_size = sizeof info;
  NAMES(attune_plan_query(NULL, &info, &error), "plan");
  NAMES(attune_plan_query(plan, NULL, &error), "out");
  CHECK_INT(attune_plan_query(plan, &info, NULL), ATTUNE_OK);
  CHECK(!strcmp(info.kernel, "tasks") && info.struct_size == sizeof info, "kernel %s", info.kernel);
  attune_plan_release(plan);
  attune_context_release(context);
}

TEST(plan_execute) {
  attune_context *context = make_context();
  call *c = make_call();
  attune_plan *plan = make_plan(context, c);
  NAMES(attune_plan_execute(NULL, &c->bindings, &error), "plan");
  NAMES(attune_plan_execute(plan, NULL, &error), "bindings");
  c->bindings.tensors = NULL;
  NAMES(attune_plan_execute(plan, &c->bindings, &error), "tensors");
  c->bindings.tensors = c->bound;
  static const char *const names[] = {"q", "k", "v", "o"};
  for (int t = Q; t <= O; t++) {
    c->bound[t] = NULL;
    NAMES(attune_plan_execute(plan, &c->bindings, &error), names[t]);
    CHECK(!strcmp(error.argument, names[t]), "argument %s", error.argument);
    c->bound[t] = &c->tensor[t];
    c->tensor[t].data = NULL;
    NAMES(attune_plan_execute(plan, &c->bindings, &error), names[t]);
    c->tensor[t].data = c->data[t];
    c->tensor[t].shape = NULL;
    NAMES(attune_plan_execute(plan, &c->bindings, &error), names[t]);
    c->tensor[t].shape = c->shape[t];
  }
  c->bindings.params = (attune_span){NULL, 1, sizeof(attune_param)};
  NAMES(attune_plan_execute(plan, &c->bindings, &error), "params");
  CHECK_INT(attune_plan_execute(plan, NULL, NULL), ATTUNE_E_INVALID);
  check_untouched(c);
  attune_plan_release(plan);
  attune_context_release(context);
}

TEST(run) {
  attune_context *context = make_context();
  call *c = make_call();
  NAMES(attune_run(NULL, &c->problem, NULL, &error), "context");
  NAMES(attune_run(context, NULL, NULL, &error), "problem");
  c->tensor[K].data = NULL;
  NAMES(attune_run(context, &c->problem, NULL, &error), "k");
  CHECK_INT(attune_run(NULL, NULL, NULL, NULL), ATTUNE_E_INVALID);
  check_untouched(c);
  attune_context_release(context);
}

TEST(wisdom) {
  attune_context *context = make_context();
  NAMES(attune_wisdom_import(NULL, "x", NULL, &error), "context");
  NAMES(attune_wisdom_import(context, NULL, NULL, &error), "path");
  NAMES(attune_wisdom_export(NULL, "x", &error), "context");
  NAMES(attune_wisdom_export(context, NULL, &error), "path");
  NAMES(attune_wisdom_forget(NULL, "x", &error), "context");
  attune_wisdom_report report = {.struct_size = 1};
  NAMES(attune_wisdom_import(context, "x", &report, &error), "report");
  /* Without a file nothing is remembered, and forgetting that is no error. */
  CHECK_INT(attune_wisdom_forget(context, NULL, NULL), ATTUNE_OK);
  CHECK_INT(attune_wisdom_forget(context, "nobody", &error), ATTUNE_E_NOT_FOUND);
  CHECK_INT(attune_wisdom_import(context, "/nowhere/wisdom", NULL, &error), ATTUNE_E_NOT_FOUND);
  CHECK_INT(attune_wisdom_import(context, "/dev/zero", NULL, &error), ATTUNE_E_IO);
  CHECK_INT(attune_wisdom_export(context, "/nowhere/wisdom", &error), ATTUNE_E_IO);
  CHECK_INT(attune_wisdom_export(context, "/dev/null", &error), ATTUNE_E_IO);
  attune_context_release(context);
}

/* ---- sizes of structs ---- */

/* A copy of a struct whose end is the end of readable memory, so that reading on would crash. */
static void *at_the_end(const void *from, size_t size) {
  const size_t page = (size_t)sysconf(_SC_PAGESIZE);
  char *block = mmap(NULL, 3 * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  CHECK(block != MAP_FAILED, "mmap");
  CHECK(mprotect(block + 2 * page, page, PROT_NONE) == 0, "mprotect");
  return memcpy(block + 2 * page - size, from, size);
}

/* A caller's struct at `p` with another struct_size; `attempt` uses it. Too small and huge are refused, a longer one is
 * taken if and only if its tail is zero. */
static void sizes(const void *p, uint32_t size, attune_status (*attempt)(const void *p)) {
  const uint32_t wrong[] = {0, 1, size - 8, UINT32_MAX, UINT32_MAX - 7};
  for (int i = 0; i < 5; i++) {
    void *bad = at_the_end(p, size);
    memcpy(bad, &wrong[i], sizeof wrong[i]);
    error = (attune_error)ATTUNE_ERROR;
    const attune_status status = attempt(bad);
    CHECK(status == ATTUNE_E_ABI || status == ATTUNE_E_INVALID || status == ATTUNE_E_UNSUPPORTED,
          "struct_size %u: status %d", wrong[i], status);
    CHECK(strstr(error.message, "struct_size"), "struct_size %u: %s", wrong[i], error.message);
  }
  char longer[512] = {0};
  const uint32_t grown = size + 16;
  memcpy(longer, p, size);
  memcpy(longer, &grown, sizeof grown);
  CHECK_INT(attempt(at_the_end(longer, grown)), ATTUNE_OK);
  longer[grown - 1] = 1;
  error = (attune_error)ATTUNE_ERROR;
  CHECK_INT(attempt(at_the_end(longer, grown)), ATTUNE_E_UNSUPPORTED);
  CHECK(error.message[0], "no sentence");
  CHECK_INT(attempt(at_the_end(p, size)), ATTUNE_OK);
}

static attune_context *shared_context;
static attune_plan *shared_plan;
static call *shared_call;

static attune_status try_options(const void *p) {
  attune_context *context = NULL;
  const attune_status status = attune_context_create(p, &context, &error);
  CHECK((status == ATTUNE_OK) == (context != NULL), "context and status %d", status);
  attune_context_release(context);
  return status;
}
static attune_status try_problem(const void *p) {
  attune_plan *plan = NULL;
  const attune_status status = attune_plan_create(shared_context, p, &plan, &error);
  CHECK((status == ATTUNE_OK) == (plan != NULL), "plan and status %d", status);
  attune_plan_release(plan);
  return status;
}
/* A tensor_ref or parameter lies in a span of its own length. */
static attune_status try_ref(const void *p) {
  char refs[4][512];
  uint32_t size;
  memcpy(&size, p, sizeof size);
  const uint32_t stride = size > sizeof(attune_tensor_ref) && size < 512 ? size : (uint32_t)sizeof(attune_tensor_ref);
  attune_problem problem = shared_call->problem;
  char *packed = refs[0];
  for (int t = Q; t <= O; t++) {
    memset(packed + t * stride, 0, stride);
    memcpy(packed + t * stride, &shared_call->refs[t], sizeof(attune_tensor_ref));
  }
  memcpy(packed + K * stride, p, stride);
  problem.tensors = (attune_span){packed, 4, stride};
  return try_problem(&problem);
}
static attune_status try_param(const void *p) {
  uint32_t size;
  memcpy(&size, p, sizeof size);
  attune_problem problem = shared_call->problem;
  problem.params =
      (attune_span){p, 1, size > sizeof(attune_param) && size < 512 ? size : (uint32_t)sizeof(attune_param)};
  return try_problem(&problem);
}
static attune_status try_bindings(const void *p) { return attune_plan_execute(shared_plan, p, &error); }

static void share(void) {
  shared_context = make_context();
  shared_call = make_call();
  shared_plan = make_plan(shared_context, shared_call);
}

TEST(size_of_options) {
  attune_context_options options = {0};
  options.struct_size = sizeof options;
  options.plugin_path = plugin_directory;
  sizes(&options, sizeof options, try_options);
}
TEST(size_of_problem) {
  share();
  sizes(&shared_call->problem, sizeof(attune_problem), try_problem);
}
TEST(size_of_tensor_ref) {
  share();
  sizes(&shared_call->refs[K], sizeof(attune_tensor_ref), try_ref);
}
TEST(size_of_param) {
  share();
  const attune_param p = ATTUNE_SET_INT("window", 3);
  sizes(&p, sizeof p, try_param);
}
TEST(size_of_bindings) {
  share();
  sizes(&shared_call->bindings, sizeof(attune_bindings), try_bindings);
}

TEST(stride_of_span_too_small) {
  share();
  for (uint32_t stride = 0; stride < sizeof(attune_tensor_ref); stride += 4) {
    attune_problem problem = shared_call->problem;
    problem.tensors.stride = stride;
    CHECK(try_problem(&problem) != ATTUNE_OK, "stride %u", stride);
    CHECK(strstr(error.message, "stride"), "%s", error.message);
  }
}

TEST(reserved_field) {
  share();
  attune_tensor_ref ref = shared_call->refs[K];
  ref.reserved = 1;
  CHECK_INT(try_ref(&ref), ATTUNE_E_UNSUPPORTED);
}

/* What the library fills: a record of another length is never written beyond that length. */
TEST(size_of_plan_info) {
  share();
  const uint32_t wrong[] = {0, 1, sizeof(attune_plan_info) - 8};
  for (int i = 0; i < 3; i++) {
    attune_plan_info info;
    memset(&info, UNTOUCHED, sizeof info);
    const attune_plan_info before = info;
    info.struct_size = wrong[i];
    CHECK(attune_plan_query(shared_plan, &info, &error) != ATTUNE_OK, "struct_size %u", wrong[i]);
    CHECK(strstr(error.message, "struct_size"), "%s", error.message);
    CHECK(!memcmp((char *)&info + 4, (const char *)&before + 4, sizeof info - 4), "written");
  }
  struct {
    attune_plan_info info;
    char tail[16];
  } longer;
  memset(&longer, UNTOUCHED, sizeof longer);
  longer.info.struct_size = sizeof longer;
  CHECK_INT(attune_plan_query(shared_plan, &longer.info, &error), ATTUNE_OK);
  for (size_t i = 0; i < sizeof longer.tail; i++) CHECK(longer.tail[i] == (char)UNTOUCHED, "tail %zu", i);
}

TEST(size_of_error) {
  const uint32_t wrong[] = {0, 1, sizeof(attune_error) - 8};
  for (int i = 0; i < 3; i++) {
    attune_error e;
    memset(&e, UNTOUCHED, sizeof e);
    const attune_error before = e;
    e.struct_size = wrong[i];
    CHECK_INT(attune_context_create(NULL, NULL, &e), ATTUNE_E_INVALID);
    CHECK(!memcmp((char *)&e + 4, (const char *)&before + 4, sizeof e - 4), "a short record was written");
  }
}

/* A sentence never runs over its field, whatever the caller's strings are. */
TEST(long_strings) {
  attune_context *context = make_context();
  static char name[100000];
  memset(name, 'x', sizeof name - 1);
  for (int i = 0; i < 4; i++) {
    call *c = make_call();
    attune_plan *plan = NULL;
    if (i == 0) c->problem.op = name;
    if (i == 1) c->problem.entry = name;
    if (i == 2) c->problem.kernel = name;
    if (i == 3) c->refs[K].name = name;
    error = (attune_error)ATTUNE_ERROR;
    CHECK(attune_plan_create(context, &c->problem, &plan, &error) != ATTUNE_OK, "case %d", i);
    CHECK(memchr(error.message, 0, sizeof error.message), "message %d has no end", i);
    CHECK(memchr(error.argument, 0, sizeof error.argument), "argument %d has no end", i);
    CHECK(error.reserved == 0, "reserved");
  }
  attune_context_release(context);
}
