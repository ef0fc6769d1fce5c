// The first phases of every vector kernel: gates of all tokens, then for each kv head the list of its active rows.
#if defined(ATTUNE_MOH_ROUTES_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef ATTUNE_MOH_ROUTES_INL_H_
#undef ATTUNE_MOH_ROUTES_INL_H_
#else
#define ATTUNE_MOH_ROUTES_INL_H_
#endif
#include <math.h>

#include "moh/routing.h"
#include "moh/rows-inl.h"

HWY_BEFORE_NAMESPACE();
namespace moh {
namespace HWY_NAMESPACE {
#if ATTUNE_ISA

constexpr int64_t Tiles(int64_t n, int64_t size) {
  return (n + size - 1) / size;
}

// Hands out pieces of the workspace, each aligned to 64 bytes.
class Arena {
 public:
  explicit Arena(const attune_exec& x) : x_(x), at_(static_cast<float*>(x.workspace)) {}
  float* Floats(int64_t n) {
    float* p = at_;
    at_ += (n + 15) / 16 * 16;
    return p;
  }
  int32_t* Ints(int64_t n) { return reinterpret_cast<int32_t*>(Floats(n)); }
  double* Doubles(int64_t n) { return reinterpret_cast<double*>(Floats(2 * n)); }
  // Is all of it there? The expressions in plugin.cpp must reserve at least as much.
  attune_status Checked() const {
    if (reinterpret_cast<char*>(at_) <= static_cast<char*>(x_.workspace) + x_.workspace_bytes) return ATTUNE_OK;
    return attune_fail(x_.error, ATTUNE_E_WORKSPACE, "", "the kernel reserved less workspace than it needs");
  }

 private:
  const attune_exec& x_;
  float* at_;
};

// Length of a row, as Norm of routing.h. Only the order of the sum differs, and that in double.
HWY_INLINE float VectorNorm(const Problem& c, int64_t b, int64_t h, int64_t t) {
  const hn::ScalableTag<float> d;
  const hn::Half<decltype(d)> half;
  const hn::Rebind<double, decltype(half)> wide;
  auto lower = hn::Zero(wide), upper = lower;
  WithRow(c.q_router, c.q_router.Offset(b, h, t), [&](const auto* p) {
    using T = std::remove_cv_t<std::remove_pointer_t<decltype(p)>>;
    const auto add = [&](const T* from) {
      const auto x = kit::LoadAsFloat(d, from);
      const auto a = hn::PromoteTo(wide, hn::LowerHalf(half, x)), z = hn::PromoteTo(wide, hn::UpperHalf(half, x));
      lower = hn::MulAdd(a, a, lower), upper = hn::MulAdd(z, z, upper);
    };
    size_t i = 0;
    for (; i + kLanes <= size_t(c.D); i += kLanes) add(p + i);
    if (i == size_t(c.D)) return;
    HWY_ALIGN T tail[kLanes] = {};
    memcpy(static_cast<void*>(tail), p + i, (size_t(c.D) - i) * sizeof(T));
    add(tail);
  });
  return float(sqrt(hn::GetLane(hn::SumOfLanes(wide, hn::Add(lower, upper)))));
}

class Routes {
 public:
  // places: is Place wanted? shares: are the sums of the balance loss?
  Routes(const attune_exec& x, const Problem& c, Arena* arena, bool places, bool shares)
      : x_(x), c_(c), shares_(shares && c.mode == kTwoStage) {
    const int64_t pairs = c.B * c.Hq * c.Nq, blocks = c.B * Blocks();
    gates_ = arena->Floats(pairs), codes_ = arena->Ints(pairs), counts_ = arena->Ints(c.B * c.Hkv);
    place_ = places ? arena->Ints(pairs) : nullptr;
    sums_ = shares_ ? arena->Doubles(blocks * 2 * c.E) : nullptr;
    router_doubles_ = Router::Doubles(c.Hq) + c.E;
    routers_ = arena->Doubles(int64_t(x.n_workers) * router_doubles_);
  }

  // Routes every token; f(b, t, router) does what else there is to do with one. Then makes the lists.
  template <class F>
  attune_status Run(const F& f) {
    const int64_t blocks = Blocks();
    attune_status status = Parallel(x_, c_.B * blocks, 1, [&](int64_t n, uint32_t worker) {
      const int64_t b = n / blocks, first = n % blocks * kBlock;
      const int64_t last = first + kBlock < c_.Nq ? first + kBlock : c_.Nq;
      double* sums = shares_ ? sums_ + n * 2 * c_.E : nullptr;
      for (int64_t e = 0; e < 2 * c_.E && sums; e++) sums[e] = 0;
      ForTokens(b, first, last, worker, [&](int64_t t, const Router& router) {
        for (int64_t h = 0; h < c_.Hq; h++) gates_[(b * c_.Hq + h) * c_.Nq + t] = router.Gate(h);
        for (int64_t e = 0; e < c_.E && sums; e++) {
          sums[e] += router.Probability(e);
          sums[c_.E + e] += double(router.Chosen(e));
        }
        f(b, t, router);
      });
    });
    if (status != ATTUNE_OK) return status;
    // Few tokens are listed faster than a second thread is woken.
    const int64_t grain = 1 + 4096 / (c_.Group() * (c_.Nq + 1));
    return Parallel(x_, c_.B * c_.Hkv, grain, [&](int64_t n, uint32_t) { List(n / c_.Hkv, n % c_.Hkv); });
  }

  // f(t, router) for tokens [first, last) of batch entry b, routed.
  template <class F>
  void ForTokens(int64_t b, int64_t first, int64_t last, uint32_t worker, const F& f) const {
    double* memory = routers_ + worker * router_doubles_;
    Router router(c_, shares_, memory);
    float* norms = reinterpret_cast<float*>(memory + Router::Doubles(c_.Hq));
    for (int64_t t = first; t < last; t++) {
      for (int64_t e = 0; e < c_.E && c_.mode == kQNorm; e++) norms[e] = VectorNorm(c_, b, c_.n_shared + e, t);
      router.Token(b, t, norms);
      f(t, router);
    }
  }

  float Gate(int64_t b, int64_t h, int64_t t) const { return gates_[(b * c_.Hq + h) * c_.Nq + t]; }
  // Active rows of a kv head, ascending by token: token * heads of the group + head within the group. Behind them the
  // inactive ones, descending.
  const int32_t* Rows(int64_t b, int64_t head) const { return codes_ + First(b, head); }
  int64_t Count(int64_t b, int64_t head) const { return counts_[b * c_.Hkv + head]; }
  int64_t MostRows() const {
    int64_t most = 0;
    for (int64_t n = 0; n < c_.B * c_.Hkv; n++) most = counts_[n] > most ? counts_[n] : most;
    return most;
  }
  // Number of the first row of a kv head among all pairs of the call.
  int64_t First(int64_t b, int64_t head) const { return (b * c_.Hkv + head) * c_.Group() * c_.Nq; }
  // Index of a pair in its list; -1 when it is inactive.
  int32_t Place(int64_t b, int64_t h, int64_t t) const { return place_[(b * c_.Hq + h) * c_.Nq + t]; }

  // Means over all tokens, with the blocks in order: probability of routed head e, share of the tokens that chose it.
  double MeanProbability(int64_t e) const { return Mean(e); }
  double MeanShare(int64_t e) const { return Mean(c_.E + e); }
  double BalanceLoss() const {
    double loss = 0;
    for (int64_t e = 0; e < c_.E; e++) loss += double(c_.E) * MeanProbability(e) * MeanShare(e);
    return loss;
  }

  static constexpr int64_t kBlock = 32;  // tokens that are routed at a time
  int64_t Blocks() const { return Tiles(c_.Nq, kBlock); }

 private:
  double Mean(int64_t i) const {
    double sum = 0;
    for (int64_t n = 0; n < c_.B * Blocks(); n++) sum += sums_[n * 2 * c_.E + i];
    return c_.Tokens() > 0 ? sum / double(c_.Tokens()) : 0;
  }

  void List(int64_t b, int64_t head) {
    const int64_t group = c_.Group(), pairs = group * c_.Nq;
    int32_t* codes = codes_ + First(b, head);
    int64_t n = 0, behind = pairs;
    for (int64_t t = 0; t < c_.Nq; t++) {
      for (int64_t g = 0; g < group; g++) {
        const int64_t h = head * group + g;
        const bool active = Active(Gate(b, h, t));
        if (place_) place_[(b * c_.Hq + h) * c_.Nq + t] = active ? int32_t(n) : -1;
        codes[active ? n++ : --behind] = int32_t(t * group + g);
      }
    }
    counts_[b * c_.Hkv + head] = int32_t(n);
  }

  const attune_exec& x_;
  const Problem& c_;
  bool shares_;
  float* gates_;  // [B, Hq, Nq]
  int32_t *codes_, *counts_, *place_;
  double *sums_, *routers_;  // [blocks, 2, E]; per worker
  int64_t router_doubles_;
};

#endif  // ATTUNE_ISA
}  // namespace HWY_NAMESPACE
}  // namespace moh
HWY_AFTER_NAMESPACE();
#endif  // toggled include guard
