/* A complete, correct call of the fixture operator, for tests to spoil in one place. */
#ifndef CALL_H
#define CALL_H
#include <attune/attune.h>
#include "check.h"

enum { Q, K, V, O, LENGTHS, COUNT, MAX_TENSORS }; /* the first four are always given */
enum { MAX_FLOATS = 1 << 16, UNTOUCHED = 0xA5 };

typedef struct call {
  float data[MAX_TENSORS][MAX_FLOATS];
  int64_t shape[MAX_TENSORS][8];
  attune_tensor tensor[MAX_TENSORS];
  attune_tensor_ref refs[MAX_TENSORS];
  const attune_tensor *bound[MAX_TENSORS];
  attune_param params[8];
  attune_problem problem;
  attune_bindings bindings;
  attune_error error;
} call;

static attune_context *make_context(void) {
  attune_context_options options = {0};
  attune_context *context = NULL;
  attune_error e = ATTUNE_ERROR;
  options.struct_size = sizeof options;
  options.workers = 2;
  options.tune_mode = ATTUNE_TUNE_OFF;
  options.plugin_path = plugin_directory;
  options.wisdom = "";
  CHECK(attune_context_create(&options, &context, &e) == ATTUNE_OK, "%s", e.message);
  CHECK(context, "no context and no error");
  return context;
}

static void set_tensor(call *c, int i, int32_t ndim, int64_t a, int64_t b, int64_t n, int64_t d) {
  static const char *const names[] = {"q", "k", "v", "o", "lengths", "count"};
  const int64_t shape[4] = {a, b, n, d};
  memcpy(c->shape[i], shape, sizeof shape);
  c->tensor[i] = attune_tensor_make(c->data[i], i == LENGTHS ? ATTUNE_I32 : ATTUNE_F32, ndim, c->shape[i]);
  c->refs[i] = (attune_tensor_ref)ATTUNE_TENSOR(names[i], &c->tensor[i]);
  c->bound[i] = &c->tensor[i];
}

/* Sizes of both the problem and the bindings; inputs get small distinct numbers, outputs a pattern. */
static void set_sizes(call *c, int64_t B, int64_t Hq, int64_t Hkv, int64_t Nq, int64_t Nk, int64_t D, int64_t Dv) {
  set_tensor(c, Q, 4, B, Hq, Nq, D);
  set_tensor(c, K, 4, B, Hkv, Nk, D);
  set_tensor(c, V, 4, B, Hkv, Nk, Dv);
  set_tensor(c, O, 4, B, Hq, Nq, Dv);
  set_tensor(c, LENGTHS, 1, B, 0, 0, 0);
  set_tensor(c, COUNT, 3, B, Hq, Nq, 0);
}

/* The caller frees it. */
static call *make_call(void) {
  call *c = calloc(1, sizeof *c);
  CHECK(c, "no memory");
  set_sizes(c, 2, 4, 2, 5, 7, 3, 6);
  for (int t = Q; t <= V; t++)
    for (int i = 0; i < MAX_FLOATS; i++) c->data[t][i] = (float)((i * 37 + t * 11) % 101) / 16;
  for (int b = 0; b < 2; b++) ((int32_t *)(void *)c->data[LENGTHS])[b] = 7 - b;
  memset(c->data[O], UNTOUCHED, sizeof c->data[O]);
  memset(c->data[COUNT], UNTOUCHED, sizeof c->data[COUNT]);
  c->problem.struct_size = sizeof c->problem;
  c->problem.op = "org.attune.fixture";
  c->problem.tensors = (attune_span){c->refs, 4, sizeof c->refs[0]};
  c->problem.params = (attune_span){c->params, 0, sizeof c->params[0]};
  c->bindings.struct_size = sizeof c->bindings;
  c->bindings.n_tensors = 4;
  c->bindings.tensors = c->bound;
  c->error = (attune_error)ATTUNE_ERROR;
  return c;
}

static void add_tensor(call *c, int i) {
  c->refs[c->problem.tensors.count] = c->refs[i];
  c->bound[c->problem.tensors.count++] = &c->tensor[i];
  c->bindings.n_tensors++;
}
static void add_param(call *c, attune_param p) { c->params[c->problem.params.count++] = p; }

/* Outputs and their surroundings still hold the pattern. */
static void check_untouched(const call *c) {
  for (int t = O; t <= COUNT; t += COUNT - O) {
    const unsigned char *bytes = (const unsigned char *)c->data[t];
    for (size_t i = 0; i < sizeof c->data[t]; i++)
      CHECK(bytes[i] == UNTOUCHED, "output %d was written at byte %zu", t, i);
  }
}

/* o of the call by the definition: window -1, mode mean, scale 1. */
static void check_result(const call *c) {
  const int64_t *q = c->shape[Q], *v = c->shape[V];
  const int64_t B = q[0], Hq = q[1], Nq = q[2], Hkv = v[1], Nk = v[2], Dv = v[3];
  for (int64_t b = 0; b < B; b++)
    for (int64_t h = 0; h < Hq; h++)
      for (int64_t i = 0; i < Nq; i++)
        for (int64_t d = 0; d < Dv; d++) {
          double sum = 0;
          for (int64_t j = 0; j < Nk; j++) sum += c->data[V][((b * Hkv + h / (Hq / Hkv)) * Nk + j) * Dv + d];
          const float got = c->data[O][((b * Hq + h) * Nq + i) * Dv + d], want = (float)(Nk > 0 ? sum / (double)Nk : 0);
          CHECK(got >= want - 1e-5f && got <= want + 1e-5f, "o[%d,%d,%d,%d] is %g, expected %g", (int)b, (int)h, (int)i,
                (int)d, (double)got, (double)want);
        }
}

static attune_plan *make_plan(attune_context *context, call *c) {
  attune_plan *plan = NULL;
  const attune_status status = attune_plan_create(context, &c->problem, &plan, &c->error);
  CHECK(status == ATTUNE_OK && plan, "plan: %d %s", status, c->error.message);
  return plan;
}

static void execute(const attune_plan *plan, call *c) {
  const attune_status status = attune_plan_execute(plan, &c->bindings, &c->error);
  CHECK(status == ATTUNE_OK, "execute: %d %s", status, c->error.message);
}

/* The record says `code`, `argument`, and a sentence with each of the NULL-terminated words. */
static void check_error(const attune_error *e, attune_status got, attune_status code, const char *argument,
                        const char *const *words) {
  CHECK(got == code, "status %d, expected %d: %s", got, code, e->message);
  CHECK(e->code == code, "record says %d, expected %d", e->code, code);
  CHECK(e->source >= ATTUNE_BY_HOST && e->source <= ATTUNE_BY_SYSTEM, "source %u", e->source);
  CHECK(!strcmp(e->argument, argument), "argument is '%s', expected '%s': %s", e->argument, argument, e->message);
  CHECK(e->message[0], "no sentence");
  for (; *words; words++) CHECK(strstr(e->message, *words), "'%s' is not in: %s", *words, e->message);
}
#define WORDS(...) \
  (const char *const[]) { __VA_ARGS__, NULL }
#endif
