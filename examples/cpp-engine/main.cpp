// An engine that owns its cache and its threads: a prompt in chunks, then token by token, on entry `step`. The cache
// grows in place: the state that goes in and the one that comes out are views of the same memory.
#include <attune/attune.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include "pool.h"

namespace {
constexpr int kHeads = 8, kKvHeads = 2, kD = 64, kCapacity = 320, kPrompt = 250, kChunk = 100, kTokens = 260;

// Numbers [1, heads, kCapacity, kD]: some smooth ones, or zeros where step is 0.
struct Array {
  int heads;
  std::vector<float> data;
  Array(int heads, double step) : heads(heads), data(heads * kCapacity * kD) {
    for (size_t i = 0; i < data.size(); i++) data[i] = static_cast<float>(std::sin(step * static_cast<double>(i)));
  }
};

// Tokens [first, first + count) of every head. The capacity of the array lives in the strides.
struct View {
  int64_t shape[4], strides[4];
  attune_tensor tensor;
  View(Array& a, int first, int count) : shape{1, a.heads, count, kD}, strides{0, int64_t{kCapacity} * kD, kD, 1} {
    tensor = attune_tensor_make(a.data.data() + first * kD, ATTUNE_F32, 4, shape);
    tensor.strides = strides;
  }
  View(const View&) = delete;
};

attune_error error = ATTUNE_ERROR;
void Check(attune_status status) {
  if (status == ATTUNE_OK) return;
  std::fprintf(stderr, "%s: %s\n", attune_status_name(status), error.message);
  std::exit(1);
}

template <uint32_t N>
attune_problem Problem(const char* entry, const attune_tensor_ref (&tensors)[N]) {
  static const attune_param causal[] = {ATTUNE_SET_FLAG("causal", 1)};
  attune_problem p = {};
  p.struct_size = sizeof p, p.op = "softmax", p.entry = entry;
  p.tensors = ATTUNE_SPAN(tensors), p.params = ATTUNE_SPAN(causal);
  return p;
}

}  // namespace

int main() {
  Array q(kHeads, 0.37), k(kKvHeads, 0.23), v(kKvHeads, 0.0982), o(kHeads, 0), whole(kHeads, 0);
  Array k_cache(kKvHeads, 0), v_cache(kKvHeads, 0);
  Pool pool(2);
  attune_context* context = nullptr;
  attune_context_options options = {};
  options.struct_size = sizeof options, options.tune_mode = ATTUNE_TUNE_OFF;
  options.workers = 2, options.user = &pool, options.parallel_for = Pool::Run;
  Check(attune_context_create(&options, &context, &error));

  // n tokens after `past`: makes the plan if there is none, else executes it.
  auto step = [&](attune_plan*& plan, int past, int n) {
    View tq(q, past, n), tk(k, past, n), tv(v, past, n), to(o, past, n);
    View k_old(k_cache, 0, past), v_old(v_cache, 0, past), k_new(k_cache, 0, past + n), v_new(v_cache, 0, past + n);
    const attune_tensor_ref refs[] = {
        ATTUNE_TENSOR("q", &tq.tensor), ATTUNE_TENSOR("k", &tk.tensor), ATTUNE_TENSOR("v", &tv.tensor),
        ATTUNE_TENSOR("k_cache_state", &k_old.tensor), ATTUNE_TENSOR("v_cache_state", &v_old.tensor),
        ATTUNE_TENSOR("k_cache_state_out", &k_new.tensor), ATTUNE_TENSOR("v_cache_state_out", &v_new.tensor),
        ATTUNE_TENSOR("o", &to.tensor)};
    const attune_problem problem = Problem("step", refs);
    if (!plan) return Check(attune_plan_create(context, &problem, &plan, &error));
    const attune_tensor* tensors[8];  // the order of the problem
    for (int i = 0; i < 8; i++) tensors[i] = refs[i].tensor;
    attune_bindings bindings = {};
    bindings.struct_size = sizeof bindings, bindings.n_tensors = 8, bindings.tensors = tensors;
    Check(attune_plan_execute(plan, &bindings, &error));
  };

  attune_plan *chunk = nullptr, *token = nullptr;  // a plan serves every size up to its own
  step(chunk, kCapacity - kChunk, kChunk);
  step(token, kCapacity - 1, 1);
  for (int past = 0; past < kPrompt; past += kChunk) step(chunk, past, std::min(kChunk, kPrompt - past));
  for (int past = kPrompt; past < kTokens; past++) step(token, past, 1);

  // The same in one call over all tokens.
  View tq(q, 0, kTokens), tk(k, 0, kTokens), tv(v, 0, kTokens), to(whole, 0, kTokens);
  const attune_tensor_ref refs[] = {ATTUNE_TENSOR("q", &tq.tensor), ATTUNE_TENSOR("k", &tk.tensor),
                                    ATTUNE_TENSOR("v", &tv.tensor), ATTUNE_TENSOR("o", &to.tensor)};
  const attune_problem problem = Problem("forward", refs);
  Check(attune_run(context, &problem, nullptr, &error));
  float worst = 0;
  for (size_t i = 0; i < o.data.size(); i++) worst = std::max(worst, std::fabs(o.data[i] - whole.data[i]));
  const float* last = o.data.data() + (kTokens - 1) * kD;
  std::printf("%d tokens of prompt, %d more, the last o: %.3f %.3f ..\n", kPrompt, kTokens - kPrompt, last[0], last[1]);
  std::printf("within 1e-5 of one call over all tokens: %s\n", worst < 1e-5f ? "yes" : "no");
  std::printf("on the engine's own threads: %s\n", pool.regions() > 0 ? "yes" : "no");
  attune_plan_release(chunk), attune_plan_release(token), attune_context_release(context);
}
