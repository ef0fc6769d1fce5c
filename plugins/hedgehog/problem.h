// One call by meaning: which tensor is which, and which keys a query sees in which way. Shared by the references and
// every kernel, so that these rules are stated once.
#ifndef ATTUNE_HEDGEHOG_PROBLEM_H_
#define ATTUNE_HEDGEHOG_PROBLEM_H_
#include "_kit/scalar.h"

namespace hedgehog {

using attune_kit::View;

// Orders of the tables in tables.h.
enum Param { kFeatureMap, kMapEps, kNormEps, kCausal, kWindowMode, kWindow, kLinearFactor, kScale, kSkip };
enum FeatureMap { kSoftmaxMap, kExpMap, kJointMap };
enum WindowMode { kNoWindow, kSliding, kTerraced };
enum Symbol { kB, kHq, kHkv, kNq, kNk, kD, kDv, kF, kHst, kW, kWo };
enum CommonTensor { kQ, kK, kV, kWq, kWk, kBq, kBk };  // the first of every entry
enum ForwardTensor { kFwdWindowFactor = 7, kFwdKeyMask, kFwdKvState, kFwdKState, kFwdO, kFwdKvStateOut, kFwdKStateOut };
enum BackwardTensor { kBwdDo = 11, kBwdDq, kBwdDk, kBwdDv, kBwdDwq, kBwdDwk, kBwdDbq, kBwdDbk, kBwdDwindowFactor };
enum StepTensor {
  kStepWindowFactor = 7,
  kStepKvState,
  kStepKState,
  kStepKCache,
  kStepVCache,
  kStepO,
  kStepKvStateOut,
  kStepKStateOut,
  kStepKCacheOut,
  kStepVCacheOut
};
enum DistillTensor { kDisKeyMask = 7, kDisATrue, kDisAPred, kDisOTrue, kDisOPred, kDisXent, kDisMse };
enum DistillBackwardTensor { kDbwDxent = 8, kDbwDmse, kDbwDq, kDbwDk, kDbwDv, kDbwDwq, kDbwDwk, kDbwDbq, kDbwDbk };

// Keys or values [B,Hkv,n,.]: the first `split` lie in `cached`, the others in `fresh`.
struct Rows {
  View cached, fresh;
  int64_t split = 0;

  const View& In(int64_t j) const { return j < split ? cached : fresh; }
  int64_t Offset(int64_t b, int64_t head, int64_t j) const {
    return j < split ? cached.Offset(b, head, j) : fresh.Offset(b, head, j - split);
  }
  double Get(int64_t b, int64_t head, int64_t j, int64_t d) const {
    return In(j).Get(b, head, j < split ? j : j - split, d);
  }
};

struct Problem {
  int64_t B, Hq, Hkv, Nq, Nk, D, Dv, F, Hst;  // Nk: all keys, cached ones included
  FeatureMap map;
  WindowMode window_mode;
  bool causal, skip, one_minus_gamma;
  int64_t window;
  double map_eps, norm_eps, scale;
  View q, w_q, w_k, b_q, b_k, window_factor, key_mask, kv_state, k_state;
  Rows k, v;
  View o, kv_state_out, k_state_out;      // forward, step
  View k_cache_out, v_cache_out;          // step
  int64_t pushed = 0;                     // keys [0, pushed) go into the states

  int64_t Group() const { return Hq / Hkv; }
  int64_t E() const { return 2 * F; }  // features
  bool WantsStates() const { return kv_state_out || k_state_out; }

  // The queries are the last Nq of Nk positions.
  int64_t Position(int64_t i) const { return i + Nk - Nq; }
  // Query i meets keys [0, LinearEnd(i)) through the features, keys [LinearEnd(i), VisibleEnd(i)) in the window.
  int64_t VisibleEnd(int64_t i) const { return causal ? Position(i) + 1 : Nk; }
  int64_t LinearEnd(int64_t i) const {
    const int64_t p = Position(i);
    int64_t end = VisibleEnd(i);
    if (window_mode == kSliding) end = p - window + 1;
    if (window_mode == kTerraced) end = Nk <= window ? 0 : ((p + Lead()) / window - 1) * window - Lead();
    return end > 0 ? end : 0;
  }
  // Terraced blocks end with the sequence: the first one lacks so many positions.
  int64_t Lead() const { return (window - Nk % window) % window; }
  bool Real(int64_t b, int64_t j) const { return !key_mask || key_mask.Get(b, j) != 0; }

  // Head of a map's weight or bias, whose head dim is 1, Hkv or Hq.
  int64_t MapHead(const View& w, int64_t h) const { return w.Dim(0) == Hq ? h : w.Dim(0) == Hkv ? h / Group() : 0; }
  int64_t StateHead(int64_t h) const { return Hst == Hq ? h : h / Group(); }
  double Gamma(int64_t h) const;
  // Factor of the linear part.
  double Linear(int64_t h) const { return one_minus_gamma && window_mode != kNoWindow ? 1 - Gamma(h) : 1; }
};

// Read the call; valid as long as `x` is. ReadForward also takes the tensors of backward (without outputs there).
Problem ReadForward(const attune_exec& x, bool backward = false);
// Keys are the cache followed by the new ones.
Problem ReadStep(const attune_exec& x);
// Takes the tensors of both distill entries. Teacher and student see the same keys; there is no window.
Problem ReadDistill(const attune_exec& x);

// Copies the last rows of one kv head to the cache `out`. The cache may be the old one, in place: its rows move towards
// the front, the oldest first.
void WriteCache(const Rows& rows, int64_t count, const View& out, int64_t b, int64_t head, int64_t width);

// Refuses a window_factor for which gamma would not be a positive number.
attune_status CheckForward(const attune_exec* x);
attune_status CheckStep(const attune_exec* x);

}  // namespace hedgehog
#endif  // ATTUNE_HEDGEHOG_PROBLEM_H_
