// One call of any entry by meaning: which tensor is which, and who sees whom. Shared by the references and every
// kernel.
#ifndef ATTUNE_DMA_PROBLEM_H_
#define ATTUNE_DMA_PROBLEM_H_
#include "_kit/parallel.h"
#include "_kit/scalar.h"

namespace dma {

using attune_kit::Cancelled;
using attune_kit::Parallel;
using attune_kit::View;

enum BiasMode { kExp, kLinear, kBiasGiven, kNoBias };
enum MaskMode { kPerQuery, kShared, kMaskGiven, kNoMask };

constexpr int32_t kNever = INT32_MAX;  // death of a key that every later position keeps

struct RowRef {
  const View* view;
  int64_t offset;  // elements
};

// Keys or values: those of a state, then those of the call.
struct KeyRows {
  View cached, fresh;
  int64_t split;  // the number of the former
  RowRef At(int64_t b, int64_t head, int64_t j) const {
    return j < split ? RowRef{&cached, cached.Offset(b, head, j)} : RowRef{&fresh, fresh.Offset(b, head, j - split)};
  }
  double Get(int64_t b, int64_t head, int64_t j, int64_t e) const {
    return j < split ? cached.Get(b, head, j, e) : fresh.Get(b, head, j - split, e);
  }
};

struct Problem {
  BiasMode bias_mode;
  MaskMode mask_mode;
  bool causal;
  int64_t B, Hq, Hkv, Nq, Nk, D, Dv, top_w;  // Nk: all keys, those of a state among them
  double scale;
  View q, o, lse;
  KeyRows k, v;
  View w_dt, b_dt, w_a, bias, mask, key_mask;
  View key_bias, death;                              // outputs
  View key_bias_state, k_out, v_out, key_bias_out;   // step only

  int64_t Group() const { return Hq / Hkv; }
  int64_t Cached() const { return k.split; }
  bool Sampled() const { return bias_mode == kExp || bias_mode == kLinear; }
  bool Selects() const { return mask_mode == kPerQuery || mask_mode == kShared; }
  // Is the bias one number per key of a kv head? If not, and there is one, it is read score by score.
  bool BiasPerKey() const {
    return Sampled() || (bias && bias.Dim(2) == 1 && (bias.Dim(1) == 1 || bias.Dim(1) == Hkv));
  }
  bool Real(int64_t b, int64_t j) const { return !key_mask || key_mask.Get(b, j) != 0; }
  // The position with which query i is compared: j <= t < death[j] says that it keeps key j. Without causal every
  // query stands behind all keys, where exactly those that never die are kept.
  int64_t Position(int64_t i) const { return causal ? i + Nk - Nq : int64_t{kNever} - 1; }

  // Head of a tensor that broadcasts (1, Hkv or Hq) for query head h.
  int64_t BroadcastHead(const View& t, int64_t h) const {
    return t.Dim(1) == Hq ? h : t.Dim(1) == Hkv ? h / Group() : 0;
  }
  // The given bias and mask of one score.
  double GivenBias(int64_t b, int64_t h, int64_t i, int64_t j) const {
    return bias.Get(b, BroadcastHead(bias, h), i, j);
  }
  bool Masked(int64_t b, int64_t h, int64_t i, int64_t j) const {
    return mask && mask.Get(b, BroadcastHead(mask, h), i, j) == 0;
  }
  // Bias of a key from its sampled number.
  double BiasOf(double dt, int64_t head) const;
};

// log(1 + e^x) and its derivative.
double Softplus(double x);
double Sigmoid(double x);

// Valid as long as `x` is.
Problem ReadForward(const attune_exec& x);
Problem ReadBackward(const attune_exec& x);
Problem ReadStep(const attune_exec& x);

// Where gradients go; any may be absent, but d_o, which comes in.
struct Gradients {
  View d_o, dq, dk, dv, dbias, dw_dt, db_dt, dw_a;
};
Gradients ReadGradients(const attune_exec& x);

}  // namespace dma
#endif  // ATTUNE_DMA_PROBLEM_H_
