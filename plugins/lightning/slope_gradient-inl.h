// The gradient of a slope: with w = exp(-slope),
//   H_t = -dS_t/dslope = sum_{j<=t} (t-j) w^(t-j) k_j v_j^T + (t+1) w^(t+1) S_-1
//   dslope = - sum_t scale q_t^T H_t do_t - <H_last, dkv_state_out>
// H is carried like the state S, so that the cost stays linear and nothing cancels. The form with
// (t+1) (<q_t, dq_t> - <k_t, dk_t>) needs no second state, but loses digits in proportion to t.
#if defined(ATTUNE_LIGHTNING_SLOPE_GRADIENT_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef ATTUNE_LIGHTNING_SLOPE_GRADIENT_INL_H_
#undef ATTUNE_LIGHTNING_SLOPE_GRADIENT_INL_H_
#else
#define ATTUNE_LIGHTNING_SLOPE_GRADIENT_INL_H_
#endif
#include "lightning/sweep-inl.h"

HWY_BEFORE_NAMESPACE();
namespace lightning {
namespace HWY_NAMESPACE {
#if ATTUNE_ISA

class SlopeSweep {
 public:
  // powers, derivatives: memory of a Decay, of two. state and derivative_state: [D x Dv], set by the caller.
  SlopeSweep(const ChunkMemory& m, float* powers, float* derivatives, double slope, float* state,
             float* derivative_state)
      : m_(m), w_(powers, m.rows, slope), S_(state), H_(derivative_state), derived_(derivatives, m.rows, slope),
        counts_(derivatives + Decay::Floats(m.rows)) {
    for (size_t t = 0; t <= m.rows; t++) counts_[t] = float(t), derived_.forward[t] *= float(t);
  }

  // sum_t scale q_t^T H_t do_t over tokens [begin, begin + n) of the rows; S and H go on.
  double AddChunk(const Rows& q, const Rows& k, const Rows& v, const Rows& d_o, float scale, int64_t begin, size_t n) {
    q.Load(begin, n, scale, m_.q, m_.ld_features);
    k.Load(begin, n, 1, m_.k, m_.ld_features);
    v.Load(begin, n, 1, m_.v, m_.ld_columns);
    kit::TransposeQueries(m_, n);
    kit::Scores(m_, n);
    kit::DecayScores(m_, n, derived_.forward);
    kit::Outputs(m_, n, H_, w_.forward + 1);  // w^(i+1) q H + sum_j (i-j) w^(i-j) <q, k_j> v_j
    kit::Outputs<kit::Start::kKeep, kit::Parts::kState>(m_, n, S_, derived_.forward + 1);

    kit::AddScaled(S_, attune_kit::StateFloats(m_.features, m_.columns), float(n), H_);
    kit::DecayRows(m_.k, m_.ld_features, n, m_.features, w_.forward + n - 1, -1);
    kit::UpdateState(m_, n, w_.forward[n], S_);
    kit::DecayRows(m_.k, m_.ld_features, n, m_.features, counts_ + n - 1, -1);
    kit::UpdateState(m_, n, w_.forward[n], H_);

    d_o.Load(begin, n, 1, m_.v, m_.ld_columns);
    double sum = 0;
    for (size_t i = 0; i < n; i++) sum += Dot(m_.o + i * m_.ld_columns, m_.v + i * m_.ld_columns, m_.columns);
    return sum;
  }

 private:
  static double Dot(const float* a, const float* b, size_t n) {
    double sum = 0;
    for (size_t e = 0; e < n; e++) sum += double(a[e]) * double(b[e]);
    return sum;
  }

  ChunkMemory m_;
  Decay w_;
  float *S_, *H_;
  Decay derived_;  // t w^t
  float* counts_;  // t
};

#endif  // ATTUNE_ISA
}  // namespace HWY_NAMESPACE
}  // namespace lightning
HWY_AFTER_NAMESPACE();
#endif  // toggled include guard
