/* What an execution keeps: the result, the workspace's bounds, the heap, the threads it was given. */
#define _GNU_SOURCE /* MAP_ANONYMOUS, clock_gettime */
#include <pthread.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include "call.h"
#include "malloc_count.h"

static const char *const kernels[] = {"tasks", "phases", "native", "slow", "reference"};
enum { N_KERNELS = sizeof kernels / sizeof kernels[0] };

static uint64_t workspace_of(const attune_plan *plan) {
  attune_plan_info info = {0};
  info.struct_size = sizeof info;
  CHECK_INT(attune_plan_query(plan, &info, NULL), ATTUNE_OK);
  return info.workspace_bytes;
}

/* One plan of every kernel, on a fresh call. */
static void each_kernel(void (*body)(attune_plan *plan, call *c)) {
  for (int i = 0; i < N_KERNELS; i++) {
    attune_context *context = make_context();
    call *c = make_call();
    c->problem.kernel = kernels[i];
    attune_plan *plan = make_plan(context, c);
    body(plan, c);
    attune_plan_release(plan);
    attune_context_release(context);
    free(c);
  }
}

static void forced_kernel_runs(attune_plan *plan, call *c) {
  attune_plan_info info = {0};
  info.struct_size = sizeof info;
  CHECK_INT(attune_plan_query(plan, &info, NULL), ATTUNE_OK);
  CHECK(!strcmp(info.kernel, c->problem.kernel), "%s instead of %s", info.kernel, c->problem.kernel);
  CHECK_INT(info.source, ATTUNE_FORCED);
  execute(plan, c);
  check_result(c);
}
TEST(every_kernel_computes) { each_kernel(forced_kernel_runs); }

/* ---- workspace ---- */

/* The bytes of the plan allow for any start; a kernel's own share begins at a multiple of 64. */
static void exact_workspace(attune_plan *plan, call *c) {
  const size_t page = (size_t)sysconf(_SC_PAGESIZE), any = workspace_of(plan), bytes = any < 63 ? any : any - 63;
  const size_t room = (bytes + page - 1) / page * page;
  char *block = mmap(NULL, room + 2 * page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  CHECK(block != MAP_FAILED && mprotect(block + page, room, PROT_READ | PROT_WRITE) == 0, "guard pages");
  /* Its end at the guard, as far as the alignment of 64 bytes allows; the rest up to the guard holds a pattern. */
  char *end = block + page + room, *workspace = end - (bytes + 63) / 64 * 64;
  memset(workspace, UNTOUCHED, (size_t)(end - workspace));
  c->bindings.workspace = workspace;
  c->bindings.workspace_bytes = bytes;
  execute(plan, c);
  check_result(c);
  for (char *p = workspace + bytes; p < end; p++) CHECK(*p == (char)UNTOUCHED, "%d bytes beyond", (int)(p - workspace));
  munmap(block, room + 2 * page);
}
TEST(exactly_the_declared_workspace_is_enough) { each_kernel(exact_workspace); }

/* ---- heap ---- */

static void no_allocation(attune_plan *plan, call *c) {
  for (int i = 0; i < 3; i++) execute(plan, c);
  const long before = heap_calls();
  for (int i = 0; i < 20; i++) execute(plan, c);
  CHECK_INT(heap_calls() - before, 0);
  /* Smaller sizes, then the planned ones again: binding anew takes nothing either. */
  for (int i = 0; i < 20; i++) {
    set_sizes(c, 2, 4, 2, 1 + i % 5, 7 - i % 3, 3, 6);
    execute(plan, c);
    check_result(c);
  }
  attune_param scale = ATTUNE_SET_REAL("scale", 1);
  c->bindings.params = (attune_span){&scale, 1, sizeof scale};
  execute(plan, c);
  CHECK_INT(heap_calls() - before, 0);
}
TEST(execution_allocates_nothing) { each_kernel(no_allocation); }

TEST(nothing_leaks) {
  long before = 0;
  for (int i = 0; i < 40; i++) {
    call *c = make_call();
    attune_context *context = make_context();
    attune_plan *plan = make_plan(context, c);
    attune_plan *none = NULL;
    execute(plan, c);
    CHECK_INT(attune_run(context, &c->problem, NULL, &c->error), ATTUNE_OK);
    c->shape[V][2]--;
    CHECK_INT(attune_plan_create(context, &c->problem, &none, &c->error), ATTUNE_E_SHAPE);
    attune_plan_release(plan);
    attune_context_release(context);
    free(c);
    if (i == 9) before = heap_live(); /* after what a process keeps for good */
  }
  CHECK(heap_live() <= before, "%ld allocations became %ld", before, heap_live());
}

/* A known call is recognised by all of what it says: one that differs in a letter or a type is another. */
TEST(a_call_unlike_the_one_before) {
  attune_context *context = make_context();
  call *c = make_call();
  char op[256];
  const char *good = c->problem.op;
  snprintf(op, sizeof op, "%s", good);
  op[strlen(op) - 1] ^= 1;
  for (int i = 0; i < 3; i++) {
    CHECK_INT(attune_run(context, &c->problem, NULL, &c->error), ATTUNE_OK);
    c->problem.op = op;
    CHECK(attune_run(context, &c->problem, NULL, &c->error) != ATTUNE_OK, "ran %s", op);
    c->problem.op = good;
    c->problem.entry = "";
    CHECK(attune_run(context, &c->problem, NULL, &c->error) != ATTUNE_OK, "ran an entry without a name");
    c->problem.entry = NULL;
    CHECK_INT(attune_run(context, &c->problem, NULL, &c->error), ATTUNE_OK);
    c->tensor[V].dtype.bits = 64;
    CHECK(attune_run(context, &c->problem, NULL, &c->error) != ATTUNE_OK, "ran with another type");
    c->tensor[V].dtype.bits = 32;
  }
  attune_context_release(context);
  free(c);
}

/* So is one that differs in the value of a parameter alone. */
TEST(a_parameter_unlike_the_one_before) {
  const attune_param usual[] = {ATTUNE_SET_INT("window", -1), ATTUNE_SET_WORD("mode", "mean")};
  const attune_param other[] = {ATTUNE_SET_INT("window", 1), ATTUNE_SET_WORD("mode", "sum")};
  for (int k = 0; k < 2; k++) {
    attune_context *context = make_context();
    call *c = make_call();
    float before[MAX_FLOATS];
    add_param(c, other[k]);
    for (int i = 0; i < 2; i++) {
      c->params[0] = other[k];
      CHECK_INT(attune_run(context, &c->problem, NULL, &c->error), ATTUNE_OK);
      memcpy(before, c->data[O], sizeof before);
      c->params[0] = usual[k];
      CHECK_INT(attune_run(context, &c->problem, NULL, &c->error), ATTUNE_OK);
      CHECK(memcmp(before, c->data[O], sizeof before), "%s changed nothing", usual[k].name);
      check_result(c);
    }
    attune_context_release(context);
    free(c);
  }
}

/* ---- sizes ---- */

static void smaller(attune_plan *plan, call *c) {
  for (int64_t n = 0; n <= 7; n++) {
    memset(c->data[O], UNTOUCHED, sizeof c->data[O]);
    set_sizes(c, 1, 4, 2, n < 5 ? n : 5, n, 3, 6);
    execute(plan, c);
    check_result(c);
    const int64_t written = 4 * c->shape[O][2] * 6;
    for (size_t i = (size_t)written * 4; i < sizeof c->data[O]; i++)
      CHECK(((unsigned char *)c->data[O])[i] == UNTOUCHED, "byte %zu behind o was written", i);
  }
}
TEST(smaller_sizes_of_one_plan) { each_kernel(smaller); }

TEST(nothing_to_do) {
  attune_context *context = make_context();
  call *c = make_call();
  for (int i = 0; i < 2; i++) {
    set_sizes(c, i == 0 ? 0 : 2, 4, 2, i == 1 ? 0 : 5, 7, 3, 6);
    CHECK_INT(attune_run(context, &c->problem, NULL, &c->error), ATTUNE_OK);
    c->tensor[O].data = NULL; /* nothing is there, so nothing has to be */
    CHECK_INT(attune_run(context, &c->problem, NULL, &c->error), ATTUNE_OK);
  }
  check_untouched(c);
  attune_context_release(context);
  free(c);
}

TEST(strided_views) {
  attune_context *context = make_context();
  call *c = make_call();
  /* [B,N,H,D] in memory, in a buffer with room for 9 keys. */
  int64_t v[4] = {9 * 2 * 6, 6, 2 * 6, 1}, o[4] = {5 * 4 * 8, 8, 4 * 8, 1};
  c->tensor[V].strides = v;
  c->tensor[O].strides = o;
  for (int k = 0; k < N_KERNELS; k++) {
    memset(c->data[O], UNTOUCHED, sizeof c->data[O]);
    c->problem.kernel = kernels[k];
    CHECK(attune_run(context, &c->problem, NULL, &c->error) == ATTUNE_OK, "%s: %s", kernels[k], c->error.message);
    for (int b = 0; b < 2; b++)
      for (int h = 0; h < 4; h++)
        for (int i = 0; i < 5; i++)
          for (int d = 0; d < 8; d++) {
            const float *got = &c->data[O][b * o[0] + h * o[1] + i * o[2] + d];
            double sum = 0;
            for (int j = 0; j < 7; j++) sum += d < 6 ? c->data[V][b * v[0] + h / 2 * v[1] + j * v[2] + d] : 0;
            if (d < 6)
              CHECK(*got > sum / 7 - 1e-5 && *got < sum / 7 + 1e-5, "%s: %g is not %g", kernels[k], *got, sum / 7);
            else
              CHECK(*(const unsigned char *)got == UNTOUCHED, "%s wrote between the rows", kernels[k]);
          }
  }
  attune_context_release(context);
  free(c);
}

TEST(output_whose_shape_is_asked_for) {
  attune_context *context = make_context();
  call *c = make_call();
  attune_tensor shape_of_o;
  int64_t shape[8], strides[8];
  c->refs[O].tensor = NULL;
  attune_plan *plan = make_plan(context, c);
  CHECK_INT(attune_plan_tensor(plan, "o", &shape_of_o, shape, strides, NULL), ATTUNE_OK);
  CHECK(shape_of_o.ndim == 4 && !memcmp(shape, c->shape[O], 4 * sizeof *shape), "shape of o");
  CHECK(shape_of_o.dtype.code == 2 && shape_of_o.dtype.bits == 32 && shape_of_o.dtype.lanes == 1, "type of o");
  execute(plan, c);
  check_result(c);
  c->bound[O] = NULL;
  CHECK_INT(attune_plan_execute(plan, &c->bindings, &c->error), ATTUNE_E_INVALID);
  CHECK(!strcmp(c->error.argument, "o"), "%s", c->error.message);
  attune_plan_release(plan);
  attune_context_release(context);
  free(c);
}

TEST(params_per_call) {
  attune_context *context = make_context();
  call *c = make_call();
  attune_plan *plan = make_plan(context, c);
  attune_param scale = ATTUNE_SET_REAL("scale", 0);
  c->bindings.params = (attune_span){&scale, 1, sizeof scale};
  execute(plan, c);
  for (int i = 0; i < 2 * 4 * 5 * 6; i++) CHECK(c->data[O][i] == 0, "o[%d] is %g", i, (double)c->data[O][i]);
  c->bindings.params.count = 0; /* back to the plan's own */
  execute(plan, c);
  check_result(c);
  attune_plan_release(plan);
  attune_context_release(context);
  free(c);
}

TEST(context_goes_before_its_plans) {
  attune_context *context = make_context();
  call *c = make_call();
  attune_plan *one = make_plan(context, c), *two = make_plan(context, c);
  attune_context_release(context);
  execute(one, c);
  check_result(c);
  attune_plan_release(one);
  memset(c->data[O], UNTOUCHED, sizeof c->data[O]);
  execute(two, c);
  check_result(c);
  attune_plan_release(two);
  free(c);
}

/* ---- threads ---- */

/* Large enough that the host shares it out: it keeps small jobs on the caller's thread. */
static void set_large(call *c, int i) { set_sizes(c, 2, 16, 2, 32 - i % 5, 16 - i % 4, 3, 16); }

static void *execute_often(void *plan) {
  call *c = make_call();
  for (int i = 0; i < 60; i++) {
    set_large(c, i);
    memset(c->data[O], UNTOUCHED, sizeof c->data[O]);
    execute((const attune_plan *)plan, c);
    check_result(c);
  }
  free(c);
  return NULL;
}
TEST(one_plan_from_four_threads) {
  for (int i = 0; i < N_KERNELS; i++) {
    if (!strcmp(kernels[i], "slow")) continue;
    attune_context *context = make_context();
    call *c = make_call();
    pthread_t threads[4];
    c->problem.kernel = kernels[i];
    set_large(c, 0);
    attune_plan *plan = make_plan(context, c);
    for (int k = 0; k < 4; k++) CHECK_INT(pthread_create(&threads[k], NULL, execute_often, plan), 0);
    for (int k = 0; k < 4; k++) CHECK_INT(pthread_join(threads[k], NULL), 0);
    attune_plan_release(plan);
    attune_context_release(context);
    free(c);
  }
}

static void *run_often(void *context) {
  call *c = make_call();
  for (int i = 0; i < 100; i++) {
    set_sizes(c, 1 + i % 2, 4, 2, 1 + i % 5, 7 + i % 6, 3, 6);
    CHECK(attune_run((attune_context *)context, &c->problem, NULL, &c->error) == ATTUNE_OK, "%s", c->error.message);
    check_result(c);
  }
  free(c);
  return NULL;
}
TEST(one_context_from_four_threads) {
  attune_context *context = make_context();
  pthread_t threads[4];
  for (int i = 0; i < 4; i++) CHECK_INT(pthread_create(&threads[i], NULL, run_often, context), 0);
  for (int i = 0; i < 4; i++) CHECK_INT(pthread_join(threads[i], NULL), 0);
  attune_context_release(context);
}

typedef struct lender {
  int regions;
  int leaves_out; /* the last piece is not run: a broken promise */
} lender;
static attune_status serial_for(void *user, int64_t n, int64_t grain, attune_task_fn fn, void *arg) {
  lender *l = user;
  l->regions++;
  CHECK(n > 0 && grain > 0, "n %d grain %d", (int)n, (int)grain);
  for (int64_t begin = 0; begin < (l->leaves_out ? n - grain : n); begin += grain)
    fn(arg, begin, begin + grain < n ? begin + grain : n, (uint32_t)(begin / grain % 3));
  return ATTUNE_OK;
}
static attune_context *lent_context(lender *l) {
  attune_context_options options = {0};
  attune_context *context = NULL;
  options.struct_size = sizeof options;
  options.workers = 3;
  options.tune_mode = ATTUNE_TUNE_OFF;
  options.plugin_path = plugin_directory;
  options.user = l;
  options.parallel_for = serial_for;
  CHECK_INT(attune_context_create(&options, &context, NULL), ATTUNE_OK);
  return context;
}
TEST(threads_of_the_caller) {
  lender l = {0, 0};
  attune_context *context = lent_context(&l);
  for (int i = 0; i < N_KERNELS; i++) {
    call *c = make_call();
    const int before = l.regions;
    c->problem.kernel = kernels[i];
    set_large(c, 0);
    attune_plan *plan = make_plan(context, c);
    execute(plan, c);
    check_result(c);
    if (!strcmp(kernels[i], "phases") || !strcmp(kernels[i], "slow"))
      CHECK(l.regions > before, "%s did not use the caller's threads", kernels[i]);
    attune_plan_release(plan);
    free(c);
  }
  attune_context_release(context);
}
/* The caller knows no number of workers but the context's, however few tasks a plan has. */
static attune_status on_the_last_worker(void *user, int64_t n, int64_t grain, attune_task_fn fn, void *arg) {
  (void)grain;
  ++*(int *)user;
  fn(arg, 0, n, 2);
  return ATTUNE_OK;
}
TEST(threads_of_the_caller_that_outnumber_the_tasks) {
  int regions = 0;
  attune_context_options options = {0};
  attune_context *context = NULL;
  options.struct_size = sizeof options;
  options.workers = 3;
  options.plugin_path = plugin_directory;
  options.user = &regions;
  options.parallel_for = on_the_last_worker;
  CHECK_INT(attune_context_create(&options, &context, NULL), ATTUNE_OK);
  for (int workers = 0; workers < 3; workers++) {
    call *c = make_call();
    c->problem.kernel = "slow";
    c->problem.workers = workers;
    set_sizes(c, 1, 2, 2, 3, 4, 3, 2);
    attune_plan *plan = make_plan(context, c);
    execute(plan, c);
    check_result(c);
    attune_plan_release(plan);
    free(c);
  }
  CHECK_INT(regions, 2); /* workers = 1 asks for none */
  attune_context_release(context);
}
TEST(threads_of_the_caller_that_leave_work_out) {
  lender l = {0, 1};
  attune_context *context = lent_context(&l);
  call *c = make_call();
  c->problem.kernel = "slow";
  set_large(c, 0);
  attune_plan *plan = make_plan(context, c);
  CHECK_INT(attune_plan_execute(plan, &c->bindings, &c->error), ATTUNE_E_INVALID);
  CHECK(strstr(c->error.message, "parallel_for"), "%s", c->error.message);
  attune_plan_release(plan);
  attune_context_release(context);
  free(c);
}

TEST(cancelled_before_it_starts) {
  attune_context *context = make_context();
  call *c = make_call();
  const int32_t cancel = 1;
  attune_plan *plan = make_plan(context, c);
  c->bindings.cancel = &cancel;
  CHECK_INT(attune_plan_execute(plan, &c->bindings, &c->error), ATTUNE_E_CANCELLED);
  CHECK(c->error.message[0], "no sentence");
  check_untouched(c);
  attune_plan_release(plan);
  attune_context_release(context);
  free(c);
}

static int32_t cancel_flag;
static void *cancel_soon(void *arg) {
  const struct timespec pause = {0, 30000000};
  nanosleep(&pause, NULL);
  __atomic_store_n(&cancel_flag, 1, __ATOMIC_RELAXED);
  return arg;
}
TEST(cancelled_while_it_runs) {
  attune_context *context = make_context();
  call *c = make_call();
  pthread_t thread;
  struct timespec begin, end;
  set_sizes(c, 4, 1024, 2, 1, 1, 1, 1); /* 4096 tasks of a millisecond */
  c->problem.kernel = "slow";
  c->bindings.cancel = &cancel_flag;
  attune_plan *plan = make_plan(context, c);
  CHECK_INT(pthread_create(&thread, NULL, cancel_soon, NULL), 0);
  clock_gettime(CLOCK_MONOTONIC, &begin);
  CHECK_INT(attune_plan_execute(plan, &c->bindings, &c->error), ATTUNE_E_CANCELLED);
  clock_gettime(CLOCK_MONOTONIC, &end);
  CHECK((double)(end.tv_sec - begin.tv_sec) + 1e-9 * (double)(end.tv_nsec - begin.tv_nsec) < 1, "it ran on");
  CHECK_INT(pthread_join(thread, NULL), 0);
  cancel_flag = 0;
  set_sizes(c, 1, 4, 2, 1, 1, 1, 1);
  execute(plan, c); /* the plan is none the worse */
  check_result(c);
  attune_plan_release(plan);
  attune_context_release(context);
  free(c);
}

TEST(a_forked_child_works) {
  attune_context *context = make_context();
  call *c = make_call();
  attune_plan *plan = make_plan(context, c);
  execute(plan, c);
  memset(c->data[O], UNTOUCHED, sizeof c->data[O]);
  const pid_t child = fork();
  CHECK(child >= 0, "fork");
  if (!child) {
    alarm(20);
    execute(plan, c);
    check_result(c);
    CHECK_INT(attune_run(context, &c->problem, NULL, &c->error), ATTUNE_OK);
    attune_plan_release(plan);
    attune_context_release(context);
    _exit(0);
  }
  int status = 1;
  CHECK(waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0, "child: %x", status);
  execute(plan, c);
  check_result(c);
  attune_plan_release(plan);
  attune_context_release(context);
  free(c);
}
