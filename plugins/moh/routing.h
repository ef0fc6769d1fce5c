// The gates of a token, and the gradients of what they are made of: scalar code, a few operations per head.
// Reference and kernels share it, so that they never disagree about which heads are active.
#ifndef ATTUNE_MOH_ROUTING_H_
#define ATTUNE_MOH_ROUTING_H_
#include "moh/problem.h"

namespace moh {

// Is the head of a gate active for its token? What is inactive is neither read nor computed.
inline bool Active(float gate) {
  return gate != 0;
}

class Router {
 public:
  // Doubles of memory that one router needs.
  static constexpr int64_t Doubles(int64_t heads) { return 7 * heads; }

  // probabilities: is Probability wanted, or a gradient?
  Router(const Problem& c, bool probabilities, double* memory);

  // Routes token t of batch entry b. `norms`: the lengths of the E routed rows of q_router, only for gate mode qnorm.
  void Token(int64_t b, int64_t t, const float* norms);

  // Of the token: gate of head h.
  float Gate(int64_t h) const { return gate_[h]; }
  // Two-stage: probability of routed head e among all of them; was it chosen?
  double Probability(int64_t e) const { return p_[e]; }
  bool Chosen(int64_t e) const { return chosen_[e] != 0; }

  // Stores the gradients of the token's logits, or gates, from dg[h] = <do, attention output> of every active head.
  // `balance`: what the balance loss sends to the E probabilities; null for nothing.
  void StoreGradients(const Gradients& g, int64_t b, int64_t t, const double* dg, const double* balance) const;

 private:
  void Choose(const float* score);  // r = 1 for the top_k best scores, 0 for the others

  const Problem& c_;
  bool probabilities_;
  double *p_, *s_;      // softmax over all routed heads; n_shared * softmax over the shared ones
  double* r_;           // top_k * softmax over the chosen routed heads, 0 for the others
  double a_[2];         // weight of shared and of routed heads, sum 2
  double *dw_, *dx_;    // gradients of such weights, and of logits
  float* gate_;
  int32_t *chosen_, *best_;
};

// Length of row t of head h of q_router, in double, rounded once: what gate mode qnorm compares.
float Norm(const Problem& c, int64_t b, int64_t h, int64_t t);

}  // namespace moh
#endif  // ATTUNE_MOH_ROUTING_H_
