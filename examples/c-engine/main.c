/* A decode loop: one plan for the capacity of the key-value cache, one execute per token, no allocation in between. */
#include <attune/attune.h>
#include <stdio.h>
#include <string.h>

enum { HEADS = 4, KV_HEADS = 2, CAPACITY = 32, D = 16, PROMPT = 5, TOKENS = 6 };
static float q[HEADS * D], o[HEADS * D], k[KV_HEADS * CAPACITY * D], v[KV_HEADS * CAPACITY * D];

/* Stands for the projections of a model: some numbers between -1 and 1 for the token at `position`. */
static float some(int a, int b, int c) { return (float)((37 * a + 11 * b + 5 * c) % 17 - 8) / 8; }
static void project(int position) {
  int h, d;
  for (h = 0; h < HEADS; h++)
    for (d = 0; d < D; d++) q[h * D + d] = some(position, h, d);
  for (h = 0; h < KV_HEADS; h++)
    for (d = 0; d < D; d++) {
      k[(h * CAPACITY + position) * D + d] = some(3 * position, 2 * h, d);
      v[(h * CAPACITY + position) * D + d] = (float)(position + 0.01 * d - h);
    }
}

int main(void) {
  int64_t one[] = {1, HEADS, 1, D}, cache[] = {1, KV_HEADS, CAPACITY, D}; /* batch, heads, tokens, channels */
  int64_t strides[] = {KV_HEADS * CAPACITY * D, CAPACITY * D, D, 1};      /* the cache keeps them as it fills */
  attune_tensor tq = attune_tensor_make(q, ATTUNE_F32, 4, one), to = attune_tensor_make(o, ATTUNE_F32, 4, one);
  attune_tensor tk = attune_tensor_make(k, ATTUNE_F32, 4, cache), tv = attune_tensor_make(v, ATTUNE_F32, 4, cache);
  const attune_tensor *bound[] = {&tq, &tk, &tv, &to}; /* the order of `tensors` */
  attune_tensor_ref tensors[] = {ATTUNE_TENSOR("q", &tq), ATTUNE_TENSOR("k", &tk), ATTUNE_TENSOR("v", &tv),
                                 ATTUNE_TENSOR("o", &to)};
  attune_problem problem;
  attune_bindings step;
  attune_context *context = NULL;
  attune_plan *plan = NULL;
  attune_error error = ATTUNE_ERROR;
  int position;

  memset(&problem, 0, sizeof problem), memset(&step, 0, sizeof step);
  problem.struct_size = sizeof problem, problem.op = "softmax", problem.tune_mode = ATTUNE_TUNE_OFF;
  problem.tensors.data = tensors, problem.tensors.count = 4, problem.tensors.stride = sizeof tensors[0];
  step.struct_size = sizeof step, step.n_tensors = 4, step.tensors = bound;
  tk.strides = tv.strides = strides;
  if (attune_context_create(NULL, &context, &error) || attune_plan_create(context, &problem, &plan, &error))
    return fprintf(stderr, "%s\n", error.message), 1;
  attune_context_release(context); /* the plan keeps what it needs */

  for (position = 0; position < PROMPT + TOKENS; position++) {
    project(position);
    if (position < PROMPT) continue;
    cache[2] = position + 1; /* valid keys; a plan serves every size up to its own */
    if (attune_plan_execute(plan, &step, &error)) return fprintf(stderr, "%s\n", error.message), 1;
    printf("token %2d: o = %.3f %.3f .. %.3f\n", position, o[0], o[1], o[HEADS * D - 1]);
  }
  attune_plan_release(plan);
  return 0;
}
