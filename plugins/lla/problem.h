// One call by meaning: which tensor is which, and what a query sees. Shared by the references and every kernel.
#ifndef ATTUNE_LLA_PROBLEM_H_
#define ATTUNE_LLA_PROBLEM_H_
#include "_kit/parallel.h"
#include "_kit/scalar.h"

namespace lla {

using attune_kit::Cancelled;
using attune_kit::Parallel;
using attune_kit::View;

// Orders of the tables in tables.h.
enum Param { kRidgeLambda, kScale, kCausal, kSolver, kCgRtol, kCgMaxIters, kCgPrecond };
enum Solver { kAuto, kCg, kCholesky };
enum Symbol { kB, kHq, kHkv, kNq, kNk, kD, kDv };  // step has more, behind these

struct Problem {
  bool causal, precondition;
  Solver solver;
  int64_t B, Hq, Hkv, Nq, Nk, D, Dv, max_iterations;
  double scale, ridge_lambda, rtol;
  View q, k, v, ridge;                            // ridge may be absent
  View o, lse, ridge_y, kbar;                     // the last three may be absent
  View k_new, v_new, k_cache, v_cache;            // step: k, v are the caches that go out
  View d_o, dq, dk, dv, dridge;                   // backward: any gradient may be absent

  int64_t Group() const { return Hq / Hkv; }
  // Keys that query i sees are [0, Visible(i)).
  int64_t Visible(int64_t i) const { return causal ? Nk - Nq + i + 1 : Nk; }
  double Ridge(int64_t b, int64_t h, int64_t i) const { return ridge ? ridge.Get(b, h, i) : ridge_lambda; }
};

// Valid as long as `x` is.
Problem ReadForward(const attune_exec& x);
Problem ReadStep(const attune_exec& x);
Problem ReadBackward(const attune_exec& x);

// The keys and values of one kv head go out behind the cached ones, which already lie there if they are in place.
void WriteCaches(const Problem& c, int64_t b, int64_t head);

}  // namespace lla
#endif  // ATTUNE_LLA_PROBLEM_H_
