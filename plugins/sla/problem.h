// One call of either entry by meaning: which tensor is which, which tokens make a block. Shared by the references and
// every kernel.
#ifndef ATTUNE_SLA_PROBLEM_H_
#define ATTUNE_SLA_PROBLEM_H_
#include "_kit/parallel.h"
#include "_kit/scalar.h"

namespace sla {

using attune_kit::Cancelled;
using attune_kit::Parallel;
using attune_kit::View;

enum FeatureMap { kSoftmax, kElu1, kRelu };
enum Scope { kAll, kComplement, kMarginal };
// Values of block_map.
enum BlockClass { kNegligible = -1, kOther = 0, kCritical = 1 };

struct Range {
  int64_t begin, end;  // empty when end <= begin
  int64_t Count() const { return end - begin; }
};

// Block i of n tokens in blocks of `size`; the last one may be shorter.
inline Range Block(int64_t i, int64_t size, int64_t n) {
  const int64_t begin = i * size;
  return {begin, n - begin < size ? n : begin + size};
}

struct Problem {
  FeatureMap map;
  Scope scope;
  int64_t B, Hq, Hkv, Nq, Nk, D, Dv, Mb, Nb;
  int64_t block_q, block_k;
  int64_t n_critical, n_negligible;  // key blocks of either class, for every query block
  double scale, eps;
  View q, k, v, w_proj, b_proj;            // the last two may be absent
  View o, o_s, o_l, lse_s, block_map;      // forward; all but the first may be absent
  View d_o, dq, dk, dv, dw_proj, db_proj;  // backward; all but the first may be absent

  int64_t Group() const { return Hq / Hkv; }
  Range Queries(int64_t i) const { return Block(i, block_q, Nq); }
  Range Keys(int64_t j) const { return Block(j, block_k, Nk); }
  // Is a key block of this class in the linear branch?
  bool InScope(int block_class) const { return scope == kAll || block_class == kOther; }
  // Key blocks that the linear branch of a query block leaves out.
  int64_t Excluded() const { return scope == kAll ? 0 : n_critical + n_negligible; }
};

// Valid as long as `x` is.
Problem ReadForward(const attune_exec& x);
Problem ReadBackward(const attune_exec& x);

}  // namespace sla
#endif  // ATTUNE_SLA_PROBLEM_H_
