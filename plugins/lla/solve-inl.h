// The linear systems A x = b of a tile's rows: conjugate gradients for all rows at once, or Cholesky row by row.
#if defined(ATTUNE_LLA_SOLVE_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef ATTUNE_LLA_SOLVE_INL_H_
#undef ATTUNE_LLA_SOLVE_INL_H_
#else
#define ATTUNE_LLA_SOLVE_INL_H_
#endif
#include "lla/cholesky-inl.h"
#include "lla/forward.h"

HWY_BEFORE_NAMESPACE();
namespace lla {
namespace HWY_NAMESPACE {
#if ATTUNE_ISA

// A residual larger than this leaves the tolerance that the operator promises, so cg_rtol can only ask for less.
constexpr double kLargestResidual = 1e-5;
constexpr int64_t kNarrow = 32;              // head dims up to which a direct solution is cheap
constexpr double kSmallRidge = 0.05;         // of the mean variance: below it, iterations become many

template <class Tile>
class Solver {
 public:
  explicit Solver(Tile& tile) : t_(tile), c_(tile.Call()), m_(tile.Memory()) {
    if (c_.precondition) InvertDiagonal();
  }

  // b[n], x[n]: right sides and solutions of n systems per row, all with the row's A. How a row is solved depends on
  // that row alone. b stays as it is.
  void Solve(const float* const* b, float* const* x, int n) {
    bool direct[kMostRows];
    for (size_t r = 0; r < t_.Count(); r++) direct[r] = IsDirect(r);
    for (int s = 0; s < n; s++) Iterate(b[s], x[s], direct);
    for (size_t r = 0; r < t_.Count(); r++) {
      if (direct[r]) SolveDirectly(t_, r, b, x, n);
    }
  }

 private:
  bool IsDirect(size_t r) const {
    if (c_.solver != kAuto) return c_.solver == kCholesky;
    return c_.D <= kNarrow || m_.ridge[r] * double(c_.D) < kSmallRidge * double(m_.trace[r]);
  }

  void InvertDiagonal() {
    t_.MeanSquares(m_.inverse_diagonal);
    for (size_t r = 0; r < t_.Count(); r++) {
      float *diagonal = t_.Row(m_.inverse_diagonal, r), *kbar = t_.Row(m_.kbar, r);
      for (int64_t e = 0; e < c_.D; e++) {
        const float variance = diagonal[e] - kbar[e] * kbar[e];
        diagonal[e] = 1 / ((variance > 0 ? variance : 0) + m_.ridge[r]);
      }
    }
  }

  // z = r, preconditioned.
  void Precondition(size_t r, float* z) const {
    memcpy(z, t_.Row(m_.r, r), sizeof(float) * m_.ld_k);
    if (c_.precondition) Multiply(z, t_.Row(m_.inverse_diagonal, r), m_.ld_k);
  }

  // Conjugate gradients from 0 for the rows that are not `direct`. Rows that are done leave the list; those that fail,
  // or are not done after the last iteration, become direct.
  HWY_NOINLINE void Iterate(const float* b, float* x, bool* direct) {
    const double rtol = c_.rtol < kLargestResidual ? c_.rtol : kLargestResidual;
    float rz[kMostRows];
    double goal[kMostRows];
    size_t active = 0;
    for (size_t r = 0; r < t_.Count(); r++) {
      if (direct[r]) continue;
      memset(t_.Row(x, r), 0, sizeof(float) * m_.ld_k);
      memcpy(t_.Row(m_.r, r), t_.Row(b, r), sizeof(float) * m_.ld_k);
      Precondition(r, t_.Row(m_.direction, r));
      const float rr = Dot(t_.Row(m_.r, r), t_.Row(m_.r, r), m_.ld_k);
      rz[r] = Dot(t_.Row(m_.r, r), t_.Row(m_.direction, r), m_.ld_k);
      goal[r] = rtol * rtol * rr;
      if (rr != 0) m_.which[active++] = int32_t(r);  // a NaN stays, and fails
    }
    for (int64_t iteration = 0; iteration < c_.max_iterations && active > 0; iteration++) {
      for (size_t i = 0; i < active; i++) {
        memcpy(t_.Row(m_.x, i), t_.Row(m_.direction, size_t(m_.which[i])), sizeof(float) * m_.ld_k);
      }
      t_.Apply(m_.which, active);
      size_t left = 0;
      for (size_t i = 0; i < active; i++) {
        const size_t r = size_t(m_.which[i]);
        const float curvature = Dot(t_.Row(m_.x, i), t_.Row(m_.ax, i), m_.ld_k);
        if (!(curvature > 0)) {
          direct[r] = true;
          continue;
        }
        const float alpha = rz[r] / curvature;
        AddScaled(t_.Row(x, r), alpha, t_.Row(m_.x, i), m_.ld_k);
        AddScaled(t_.Row(m_.r, r), -alpha, t_.Row(m_.ax, i), m_.ld_k);
        const float rr = Dot(t_.Row(m_.r, r), t_.Row(m_.r, r), m_.ld_k);
        if (rr <= goal[r]) continue;
        Precondition(r, t_.Row(m_.x, i));
        const float next = Dot(t_.Row(m_.r, r), t_.Row(m_.x, i), m_.ld_k);
        ScaleAdd(t_.Row(m_.direction, r), next / rz[r], t_.Row(m_.x, i), m_.ld_k);
        rz[r] = next;
        m_.which[left++] = int32_t(r);
      }
      active = left;
    }
    for (size_t i = 0; i < active; i++) direct[m_.which[i]] = true;
  }

  Tile& t_;
  const Problem& c_;
  const TileMemory& m_;
};

#endif  // ATTUNE_ISA
}  // namespace HWY_NAMESPACE
}  // namespace lla
HWY_AFTER_NAMESPACE();
#endif  // toggled include guard
