#include "nsa/problem.h"

#include <math.h>
#include <string.h>

namespace nsa {
namespace {

enum Param {
  kUseCmp,
  kUseSlc,
  kUseSwa,
  kScale,
  kCausal,
  kCmpMode,
  kCmpBlock,
  kCmpStride,
  kSelBlock,
  kTopN,
  kNInit,
  kNLocal,
  kWindow,
  kGateAct
};
enum Symbol { kSymB, kSymHq, kSymHkv, kSymNq, kSymNk, kSymD, kSymDv };
enum ForwardSymbol { kFwdNc = 7, kFwdS };
enum StepSymbol { kStepNp = 7, kStepNn, kStepNc, kStepNcp, kStepS };
// Inputs of forward and backward.
enum CommonTensor {
  kQ,
  kK,
  kV,
  kKSwa,
  kVSwa,
  kKSrc,
  kVSrc,
  kKCmp,
  kVCmp,
  kQCmp,
  kWK,
  kWV,
  kPeK,
  kPeV,
  kGate,
  kIndices = kGate + kBranches,
  kCounts,
  kO,
  kOBranch,
  kLse = kOBranch + kBranches,
  kIndicesOut = kLse + kBranches,
  kKCmpOut,  // forward
  kVCmpOut,
  kDo = kKCmpOut,  // backward
  kDq,
  kDk,
  kDv,
  kDkSwa,
  kDvSwa,
  kDkSrc,
  kDvSrc,
  kDkCmp,
  kDvCmp,
  kDqCmp,
  kDwK,
  kDwV,
  kDpeK,
  kDpeV,
  kDgate
};
enum StepTensor {
  kStepQ,
  kStepK,
  kStepV,
  kStepQCmp,
  kStepWK,
  kStepWV,
  kStepPeK,
  kStepPeV,
  kStepGate,
  kStepKCache = kStepGate + kBranches,
  kStepVCache,
  kStepKCmp,
  kStepVCmp,
  kStepO,
  kStepOBranch,
  kStepLse = kStepOBranch + kBranches,
  kStepIndicesOut = kStepLse + kBranches,
  kStepKCacheOut,
  kStepVCacheOut,
  kStepKCmpOut,
  kStepVCmpOut
};

Problem ReadScalars(const attune_exec& x) {
  Problem p = {};
  for (int i = 0; i < kBranches; i++) p.use[i] = x.params[kUseCmp + i].i != 0;
  p.sigmoid = x.params[kGateAct].i != 0;
  p.mode = Mode(x.params[kCmpMode].i);
  p.B = x.symbols[kSymB], p.Hq = x.symbols[kSymHq], p.Hkv = x.symbols[kSymHkv];
  p.Nq = x.symbols[kSymNq], p.Nk = x.symbols[kSymNk], p.D = x.symbols[kSymD], p.Dv = x.symbols[kSymDv];
  p.l = x.params[kCmpBlock].i, p.d = x.params[kCmpStride].i, p.block = x.params[kSelBlock].i;
  p.top_n = x.params[kTopN].i, p.n_init = x.params[kNInit].i, p.n_local = x.params[kNLocal].i;
  p.window = x.params[kWindow].i;
  p.scale = x.params[kScale].f != 0 ? x.params[kScale].f : 1 / sqrt(double(p.D));
  return p;
}

View Or(const attune_tensor* t, const View& other) {
  return t ? View(t) : other;
}

// Everything but what only forward or only backward has.
Problem ReadCommon(const attune_exec& x) {
  Problem p = ReadScalars(x);
  const attune_tensor* const* t = x.tensors;
  p.Nc = x.symbols[kFwdNc], p.S = x.symbols[kFwdS];
  p.q = View(t[kQ]), p.k = View(t[kK]), p.v = View(t[kV]);
  p.own_q_cmp = t[kQCmp] != nullptr;
  p.q_cmp = Or(t[kQCmp], p.q), p.k_swa = Or(t[kKSwa], p.k), p.v_swa = Or(t[kVSwa], p.v);
  const int64_t known = p.mode == kGiven ? p.Nc : 0;
  p.key = {Or(t[kKSrc], p.k), View(t[kWK]), View(t[kPeK]), View(t[kKCmp]), known, p.D, bool(t[kKSrc]), bool(t[kKSwa])};
  p.value = {
      Or(t[kVSrc], p.v), View(t[kWV]), View(t[kPeV]), View(t[kVCmp]), known, p.Dv, bool(t[kVSrc]), bool(t[kVSwa])};
  for (int i = 0; i < kBranches; i++) p.gate[i] = View(t[kGate + i]);
  p.indices = View(t[kIndices]), p.counts = View(t[kCounts]);
  return p;
}

int64_t ElementSize(const View& t) {
  return t.DType() == ATTUNE_F32 ? 4 : 2;
}

}  // namespace

Problem ReadForward(const attune_exec& x) {
  Problem p = ReadCommon(x);
  const attune_tensor* const* t = x.tensors;
  p.o = View(t[kO]);
  for (int i = 0; i < kBranches; i++) p.o_branch[i] = View(t[kOBranch + i]), p.lse[i] = View(t[kLse + i]);
  p.indices_out = View(t[kIndicesOut]), p.k_cmp_out = View(t[kKCmpOut]), p.v_cmp_out = View(t[kVCmpOut]);
  return p;
}

Problem ReadBackward(const attune_exec& x) {
  Problem p = ReadCommon(x);
  // The blocks that the forward selected are as good as given ones.
  if (x.tensors[kIndicesOut]) p.indices = View(x.tensors[kIndicesOut]), p.S = p.indices.Dim(3);
  return p;
}

Gradients ReadGradients(const attune_exec& x) {
  const attune_tensor* const* t = x.tensors;
  Gradients g;
  g.d_o = View(t[kDo]), g.dq = View(t[kDq]), g.dk = View(t[kDk]), g.dv = View(t[kDv]);
  g.dk_swa = View(t[kDkSwa]), g.dv_swa = View(t[kDvSwa]), g.dk_src = View(t[kDkSrc]), g.dv_src = View(t[kDvSrc]);
  g.dk_cmp = View(t[kDkCmp]), g.dv_cmp = View(t[kDvCmp]), g.dq_cmp = View(t[kDqCmp]);
  g.dw_k = View(t[kDwK]), g.dw_v = View(t[kDwV]), g.dpe_k = View(t[kDpeK]), g.dpe_v = View(t[kDpeV]);
  for (int i = 0; i < kBranches; i++) g.dgate[i] = View(t[kDgate + i]);
  return g;
}

Problem ReadStep(const attune_exec& x) {
  Problem p = ReadScalars(x);
  const attune_tensor* const* t = x.tensors;
  p.Nc = x.symbols[kStepNc], p.S = x.symbols[kStepS];
  p.q = View(t[kStepQ]), p.q_cmp = Or(t[kStepQCmp], p.q), p.own_q_cmp = t[kStepQCmp] != nullptr;
  p.k_new = View(t[kStepK]), p.v_new = View(t[kStepV]);
  p.k_cache = View(t[kStepKCache]), p.v_cache = View(t[kStepVCache]);
  p.k_cache_out = View(t[kStepKCacheOut]), p.v_cache_out = View(t[kStepVCacheOut]);
  p.k = p.k_swa = p.k_cache_out, p.v = p.v_swa = p.v_cache_out;
  p.k_state_out = View(t[kStepKCmpOut]), p.v_state_out = View(t[kStepVCmpOut]);
  const int64_t known = t[kStepKCmp] ? x.symbols[kStepNcp] : 0;
  p.key = {p.k, View(t[kStepWK]), View(t[kStepPeK]), View(t[kStepKCmp]), known, p.D, false, false};
  p.value = {p.v, View(t[kStepWV]), View(t[kStepPeV]), View(t[kStepVCmp]), known, p.Dv, false, false};
  p.o = View(t[kStepO]), p.indices_out = View(t[kStepIndicesOut]);
  for (int i = 0; i < kBranches; i++) {
    p.gate[i] = View(t[kStepGate + i]), p.o_branch[i] = View(t[kStepOBranch + i]), p.lse[i] = View(t[kStepLse + i]);
  }
  return p;
}

double Problem::Gate(BranchId branch, int64_t b, int64_t h, int64_t i) const {
  if (!gate[branch]) return 1;
  const double x = gate[branch].Get(b, h, i);
  return sigmoid ? 1 / (1 + exp(-x)) : x;
}

double Problem::GateSlope(BranchId branch, int64_t b, int64_t h, int64_t i) const {
  const double g = Gate(branch, b, h, i);
  return sigmoid ? g * (1 - g) : 1;
}

int64_t Problem::GivenBlocks(int64_t b, int64_t head, int64_t i, int32_t* out) const {
  const int64_t last = Position(i) / block;
  int64_t slots = S, n = 0;
  if (counts && counts.Get(b, head, i) < double(S)) slots = int64_t(counts.Get(b, head, i));
  const int32_t* row = static_cast<const int32_t*>(indices.Data()) + indices.Offset(b, head, i);
  for (int64_t s = 0; s < slots; s++) {  // insertion: lists are short and mostly sorted
    const int32_t j = row[s * indices.Stride(3)];
    if (j < 0 || j > last) continue;
    int64_t at = n;
    while (at > 0 && out[at - 1] > j) at--;
    if (at > 0 && out[at - 1] == j) continue;
    memmove(out + at + 1, out + at, sizeof(int32_t) * (n - at));
    out[at] = j, n++;
  }
  return n;
}

void AppendTokens(const View& cache, const View& fresh, const View& out, int64_t b, int64_t head, int64_t width) {
  const int64_t size = ElementSize(out), cached = out.Dim(2) - fresh.Dim(2);
  const bool in_place = cache && cache.Data() == out.Data();
  const auto copy = [&](const View& from, int64_t row, int64_t to) {
    memcpy(static_cast<char*>(out.Data()) + out.Offset(b, head, to) * size,
           static_cast<const char*>(from.Data()) + from.Offset(b, head, row) * size, width * size);
  };
  for (int64_t j = in_place ? cached : 0; j < cached; j++) copy(cache, j, j);
  for (int64_t j = 0; j < fresh.Dim(2); j++) copy(fresh, j, cached + j);
}

void CopyState(const Compression& c, const View& out, int64_t b, int64_t head) {
  if (c.known.Data() == out.Data()) return;
  for (int64_t j = 0; j < c.n_known; j++) {
    for (int64_t e = 0; e < c.width; e++) out.Put(c.known.Get(b, head, j, e), b, head, j, e);
  }
}

}  // namespace nsa
