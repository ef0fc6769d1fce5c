// What is known of every key before any query is looked at: its bias and when it dies. From it, the keys of a tile.
#if defined(ATTUNE_DMA_SELECTION_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef ATTUNE_DMA_SELECTION_INL_H_
#undef ATTUNE_DMA_SELECTION_INL_H_
#else
#define ATTUNE_DMA_SELECTION_INL_H_
#endif
#include "dma/rows-inl.h"
#include "dma/select.h"

HWY_BEFORE_NAMESPACE();
namespace dma {
namespace HWY_NAMESPACE {
#if ATTUNE_ISA

constexpr int64_t kBiasKeys = 64;  // keys of a task that computes biases

// Rows [B, Hkv, Nk], shared by all workers.
class Selection {
 public:
  // Floats; with `at`, 64-byte aligned, also where they are. keep_dt: the gradients want the sampled numbers too.
  size_t Place(const Problem& c, bool keep_dt, float* at) {
    const float* const begin = at;
    const size_t rows = size_t(c.B * c.Hkv) * size_t(c.Nk), row_bias = c.BiasPerKey() ? rows : 0;
    const auto take = [&](size_t n) {
      float* p = at;
      at += (n + 15) / 16 * 16;
      return p;
    };
    bias_ = reinterpret_cast<double*>(take(2 * row_bias)), top_ = reinterpret_cast<double*>(take(2 * row_bias));
    dt_ = reinterpret_cast<double*>(take(keep_dt && c.Sampled() ? 2 * rows : 0));
    death_ = reinterpret_cast<int32_t*>(take(rows));
    ld_w_ = PadTo32(c.Hkv * c.Dv);
    weights_ = take(c.Sampled() ? size_t(c.Hkv) * ld_w_ : 0);
    keep_dt_ = keep_dt;
    return size_t(at - begin);
  }
  // Floats of scratch of a worker.
  static size_t Scratch(const Problem& c) { return PadTo32(c.Hkv * c.Dv) + 32 + size_t(c.Nk); }

  // scratch(worker): that much.
  template <class F>
  attune_status Find(const attune_exec& x, const Problem& c, F scratch) {
    if (c.Nk == 0) return ATTUNE_OK;
    for (int64_t h = 0; h < c.Hkv && c.Sampled(); h++) {
      LoadRow({&c.w_dt, c.w_dt.Offset(h)}, size_t(c.Hkv * c.Dv), 1, weights_ + size_t(h) * ld_w_);
    }
    attune_status status = ATTUNE_OK;
    if (c.BiasPerKey()) {
      const int64_t chunks = (c.Nk + kBiasKeys - 1) / kBiasKeys;
      status = Parallel(x, c.B * chunks, [&](int64_t n, uint32_t worker) {
        Biases(c, n / chunks, n % chunks * kBiasKeys, scratch(worker));
      });
    }
    if (status != ATTUNE_OK) return status;
    return Parallel(x, c.B * c.Hkv, [&](int64_t n, uint32_t worker) {
      int32_t* heap = reinterpret_cast<int32_t*>(scratch(worker));
      FindDeaths(c, n / c.Hkv, Bias(n), heap, death_ + n * c.Nk);
      if (c.BiasPerKey()) FindLargest(c, Bias(n), Death(n), top_ + n * c.Nk);
      Store(c, n / c.Hkv, n % c.Hkv);
    });
  }

  // Rows of head n = b * Hkv + head. Bias and Largest: only with one bias per key.
  const double* Bias(int64_t n) const { return bias_ + n * nk_; }
  const double* Largest(int64_t n) const { return top_ + n * nk_; }
  const double* Sampled(int64_t n) const { return dt_ + n * nk_; }
  const int32_t* Death(int64_t n) const { return death_ + n * nk_; }
  const float* Weights(int64_t head) const { return weights_ + size_t(head) * ld_w_; }

  explicit Selection(const Problem& c) : nk_(c.Nk) {}

 private:
  // Biases of keys [first, first + kBiasKeys) of all kv heads, in double: they may be large, and a rounding of what the
  // softmax subtracts is one of the weights.
  HWY_NOINLINE void Biases(const Problem& c, int64_t b, int64_t first, float* row) const {
    const int64_t last = c.Nk - first < kBiasKeys ? c.Nk : first + kBiasKeys;
    const int64_t fresh = c.Cached() < first ? first : c.Cached() < last ? c.Cached() : last;
    for (int64_t h = 0; h < c.Hkv && first < fresh; h++) {
      const View& state = c.key_bias_state;
      const float* known = static_cast<const float*>(state.Data()) + state.Offset(b, h);
      double* to = bias_ + (b * c.Hkv + h) * c.Nk;
      for (int64_t j = first; j < fresh; j++) to[j] = known[j * state.Stride(2)];
    }
    memset(row + c.Hkv * c.Dv, 0, sizeof(float) * 32);
    for (int64_t j = fresh; j < last; j++) {
      if (c.Sampled()) {  // side by side: a head overwrites the zeros behind the one before
        for (int64_t g = 0; g < c.Hkv; g++) LoadRow(c.v.At(b, g, j), size_t(c.Dv), 1, row + g * c.Dv);
      }
      for (int64_t h = 0; h < c.Hkv; h++) {
        const int64_t at = (b * c.Hkv + h) * c.Nk + j;
        if (!c.Sampled()) {
          bias_[at] = c.GivenBias(b, h * c.Group(), 0, j);
        } else {
          const double dt = DotInDouble(Weights(h), row, size_t(c.Hkv * c.Dv)) + (c.b_dt ? c.b_dt.Get(h) : 0);
          bias_[at] = c.BiasOf(dt, h);
          if (keep_dt_) dt_[at] = dt;
        }
      }
    }
  }

  void Store(const Problem& c, int64_t b, int64_t head) const {
    const int64_t n = b * c.Hkv + head;
    for (int64_t j = c.Cached(); j < c.Nk && c.key_bias; j++) c.key_bias.Put(Bias(n)[j], b, head, j - c.Cached());
    for (int64_t j = 0; j < c.Nk && c.death; j++) {
      static_cast<int32_t*>(c.death.Data())[c.death.Offset(b, head, j)] = Death(n)[j];
    }
  }

  int64_t nk_;
  bool keep_dt_ = false;
  size_t ld_w_ = 0;
  double *bias_ = nullptr, *top_ = nullptr, *dt_ = nullptr;
  int32_t* death_ = nullptr;
  float* weights_ = nullptr;
};

// The keys that queries at positions [first, last] keep: [0, common) are kept by all of them, the others by some.
struct KeyList {
  int32_t* keys;  // room for Nk + 32
  int32_t* rest;  // the same, scratch
  int64_t common, count;
};

// active: keys that a given mask shows to any of the queries; null: all. all_partial: no key counts as common.
HWY_NOINLINE inline void FindKeys(int64_t keys, const int32_t* death, int64_t first, int64_t last,
                                  const uint8_t* active, bool all_partial, KeyList* list) {
  const hn::ScalableTag<int32_t> d;
  const auto t0 = hn::Set(d, int32_t(first)), t1 = hn::Set(d, int32_t(last));
  const int64_t end = keys < last + 1 ? keys : last + 1;
  size_t common = 0, rest = 0;
  int64_t j = 0;
  const auto visible = [&](int64_t k) { return death[k] > k && death[k] > first && (!active || active[k]); };
  for (; j + int64_t(kLanes) <= end && !active; j += kLanes) {
    const auto key = hn::Iota(d, int32_t(j)), dead = hn::LoadU(d, death + j);
    const auto any = hn::And(hn::Gt(dead, key), hn::Gt(dead, t0));
    if (hn::AllFalse(d, any)) continue;
    const auto all = all_partial ? hn::FirstN(d, 0) : hn::And(any, hn::AndNot(hn::Gt(key, t0), hn::Gt(dead, t1)));
    common += hn::CompressStore(key, all, d, list->keys + common);
    rest += hn::CompressStore(key, hn::AndNot(all, any), d, list->rest + rest);
  }
  for (; j < end; j++) {
    if (!visible(j)) continue;
    if (!all_partial && j <= first && death[j] > last) {
      list->keys[common++] = int32_t(j);
    } else {
      list->rest[rest++] = int32_t(j);
    }
  }
  memcpy(list->keys + common, list->rest, sizeof(int32_t) * rest);
  list->common = int64_t(common), list->count = int64_t(common + rest);
}

#endif  // ATTUNE_ISA
}  // namespace HWY_NAMESPACE
}  // namespace dma
HWY_AFTER_NAMESPACE();
#endif  // toggled include guard
