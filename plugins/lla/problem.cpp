#include "lla/problem.h"

#include <math.h>
#include <string.h>

namespace lla {
namespace {

Problem ReadScalars(const attune_exec& x) {
  Problem p = {};
  const attune_value* v = x.params;
  p.B = x.symbols[kB], p.Hq = x.symbols[kHq], p.Hkv = x.symbols[kHkv];
  p.Nq = x.symbols[kNq], p.Nk = x.symbols[kNk], p.D = x.symbols[kD], p.Dv = x.symbols[kDv];
  p.causal = v[kCausal].i != 0, p.precondition = v[kCgPrecond].i != 0;
  p.solver = Solver(v[kSolver].i);
  p.scale = v[kScale].f != 0 ? v[kScale].f : 1 / sqrt(double(p.D));
  p.ridge_lambda = v[kRidgeLambda].f, p.rtol = v[kCgRtol].f;
  p.max_iterations = v[kCgMaxIters].i != 0 ? v[kCgMaxIters].i : 2 * p.D;
  return p;
}

void Append(const View& cache, const View& fresh, const View& out, int64_t b, int64_t head, int64_t width) {
  const int64_t size = out.DType() == ATTUNE_F32 ? 4 : 2, cached = out.Dim(2) - fresh.Dim(2);
  const auto copy = [&](const View& from, int64_t row, int64_t to) {
    memcpy(static_cast<char*>(out.Data()) + out.Offset(b, head, to) * size,
           static_cast<const char*>(from.Data()) + from.Offset(b, head, row) * size, size_t(width * size));
  };
  const bool in_place = cache && cache.Data() == out.Data();
  for (int64_t j = in_place ? cached : 0; j < cached; j++) copy(cache, j, j);
  for (int64_t j = 0; j < fresh.Dim(2); j++) copy(fresh, j, cached + j);
}

}  // namespace

Problem ReadForward(const attune_exec& x) {
  Problem p = ReadScalars(x);
  const attune_tensor* const* t = x.tensors;
  p.q = View(*t++), p.k = View(*t++), p.v = View(*t++), p.ridge = View(*t++);
  p.o = View(*t++), p.lse = View(*t++), p.ridge_y = View(*t++), p.kbar = View(*t++);
  return p;
}

Problem ReadStep(const attune_exec& x) {
  Problem p = ReadScalars(x);
  const attune_tensor* const* t = x.tensors;
  p.q = View(*t++), p.k_new = View(*t++), p.v_new = View(*t++), p.ridge = View(*t++);
  p.k_cache = View(*t++), p.v_cache = View(*t++);
  p.o = View(*t++), p.lse = View(*t++), p.ridge_y = View(*t++), p.kbar = View(*t++);
  p.k = View(*t++), p.v = View(*t++);
  return p;
}

Problem ReadBackward(const attune_exec& x) {
  Problem p = ReadForward(x);
  const attune_tensor* const* t = x.tensors + 8;
  p.d_o = View(*t++), p.dq = View(*t++), p.dk = View(*t++), p.dv = View(*t++), p.dridge = View(*t++);
  return p;
}

void WriteCaches(const Problem& c, int64_t b, int64_t head) {
  Append(c.k_cache, c.k_new, c.k, b, head, c.D);
  Append(c.v_cache, c.v_new, c.v, b, head, c.Dv);
}

}  // namespace lla
