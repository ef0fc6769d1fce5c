// A chunk of tokens of one head with the tokens in columns, for the form without a window: features as [2F x tokens],
// scores as [keys x queries]. No product then needs a transposition, no normaliser a sum over lanes.
#if defined(ATTUNE_HEDGEHOG_COLUMNS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef ATTUNE_HEDGEHOG_COLUMNS_INL_H_
#undef ATTUNE_HEDGEHOG_COLUMNS_INL_H_
#else
#define ATTUNE_HEDGEHOG_COLUMNS_INL_H_
#endif
#include "_kit/dot-inl.h"
#include "hedgehog/chunk-inl.h"
#include "hedgehog/column_map-inl.h"

HWY_BEFORE_NAMESPACE();
namespace hedgehog {
namespace HWY_NAMESPACE {
#if ATTUNE_ISA

class Columns {
 public:
  // `chunk`: most tokens, a multiple of kPanel.
  Columns(const Problem& p, int64_t chunk, hedgehog::Floats& memory) : p_(p) {
    const size_t n = size_t(chunk);
    const auto rows = [&](int64_t count) { return Matrix{memory.Take(size_t(count) * n), n}; };
    x_ = rows(p.D), phi_q_ = rows(p.E()), phi_k_ = rows(p.E() + 2), a_ = rows(chunk);
    v_memory_ = memory.Rows(n, size_t(p.Dv)), o_ = memory.Rows(n, size_t(p.Dv)), den_ = memory.Take(n);
    wide_ = memory.Rows(kPanel + 1, size_t(p.D));
    memset(wide_.Row(kPanel), 0, sizeof(float) * wide_.ld);
  }

  // Keys [begin, begin + count) of kv head `head` with their features. Padded keys are columns and rows of 0.
  void LoadKeys(int64_t b, int64_t head, int64_t begin, size_t count, const ColumnMap& map, attune_kit::Ahead& ahead) {
    keys_ = count;
    Transpose(p_.k.fresh, b, head, begin, count, true);
    map.Features(count, x_, phi_k_, &ahead);
    for (size_t j = 0; p_.key_mask && j < count; j++) {
      if (p_.Real(b, begin + int64_t(j))) continue;
      for (size_t e = 0; e < size_t(p_.E()); e++) phi_k_.Row(e)[j] = 0;
    }
    const View& v = p_.v.fresh;
    const int64_t offset = v.Offset(b, head, begin);
    // Rows that do not follow each other may lie where they drive each other out of the cache.
    if (v.DType() == ATTUNE_F32 && !p_.key_mask && v.Stride(2) == p_.Dv && p_.Dv % int64_t(kLanes) == 0) {
      v_ = {static_cast<float*>(v.Data()) + offset, size_t(p_.Dv)};
      return;
    }
    v_ = v_memory_;
    for (size_t j = 0; j < count; j++) {
      if (p_.Real(b, begin + int64_t(j))) {
        LoadRow(v, v.Offset(b, head, begin + int64_t(j)), size_t(p_.Dv), 1, v_.Row(j));
      } else {
        memset(v_.Row(j), 0, sizeof(float) * v_.ld);
      }
    }
  }

  // Adds the keys to the state.
  void Absorb(State& state, attune_kit::Ahead& ahead) const {
    const hn::ScalableTag<float> d;
    const hn::CappedTag<float, 4> d4;
    const size_t E = size_t(p_.E()), Dv = size_t(p_.Dv);
    const auto add = [&](auto start) HWY_ATTR {
      kit::ChunkProduct<decltype(start)::value, Terms::kAll, Order::kRows>(
          E, Dv, keys_, phi_k_.p, phi_k_.ld, v_.p, v_.ld, 0, state.s.p, state.s.ld, &ahead);
    };
    if (state.any) {
      add(std::integral_constant<Start, Start::kKeep>());
    } else {
      add(std::integral_constant<Start, Start::kZero>());
    }
    for (size_t e = 0; e < E; e += 4) {
      const auto sum = kit::SumOfLanes4(d, Sum(phi_k_.Row(e)), Sum(phi_k_.Row(e + 1)), Sum(phi_k_.Row(e + 2)),
                                        Sum(phi_k_.Row(e + 3)));
      hn::StoreU(state.any ? hn::Add(hn::LoadU(d4, state.z + e), sum) : sum, d4, state.z + e);
    }
    state.any = true;
  }

  // Writes the rows of queries [begin, begin + count) of head h: the state, and if `causal` the keys of the chunk, of
  // which query i meets the first i + 1.
  void Attend(const State& state, int64_t b, int64_t h, int64_t begin, size_t count, const ColumnMap& map, bool causal,
              attune_kit::Ahead& ahead) {
    const size_t Dv = size_t(p_.Dv);
    Transpose(p_.q, b, h, begin, count, false);
    map.Features(count, x_, phi_q_, &ahead);
    if (causal) Scores(count);
    for (size_t i = 0; i < count; i += kLanes) Normalisers(state, i, causal);
    if (state.any) {
      kit::ChunkProduct<Start::kZero, Terms::kAll, Order::kColumns>(count, Dv, size_t(p_.E()), phi_q_.p, phi_q_.ld,
                                                                    state.s.p, state.s.ld, 0, o_.p, o_.ld, &ahead);
    } else if (!causal) {
      o_.Clear(count);
    }
    const auto add = [&](auto start) HWY_ATTR {
      kit::ChunkProduct<decltype(start)::value, Terms::kLower, Order::kColumns>(
          count, Dv, 0, a_.p, a_.ld, v_.p, v_.ld, 0, o_.p, o_.ld, &ahead);
    };
    if (causal && state.any) add(std::integral_constant<Start, Start::kKeep>());
    if (causal && !state.any) add(std::integral_constant<Start, Start::kZero>());
    for (size_t r = 0; r < count; r++) {
      const float den = den_[r] + float(p_.norm_eps);
      StoreRow(o_.Row(r), Dv, den == 0 ? 0 : 1 / den, p_.o, p_.o.Offset(b, h, begin + int64_t(r)));
    }
  }

 private:
  // x_ = the rows of a tensor as columns; those of padded keys and behind the last one are 0.
  void Transpose(const View& from, int64_t b, int64_t head, int64_t begin, size_t count, bool keys) const {
    for (size_t i = 0; i < count; i += kPanel) {
      const float* rows[kPanel];
      for (size_t r = 0; r < kPanel; r++) {
        const int64_t n = begin + int64_t(i + r);
        rows[r] = wide_.Row(kPanel);
        if (i + r >= count || (keys && !p_.Real(b, n))) continue;
        if (from.DType() == ATTUNE_F32) {
          rows[r] = static_cast<const float*>(from.Data()) + from.Offset(b, head, n);
        } else {
          LoadRow(from, from.Offset(b, head, n), size_t(p_.D), 1, wide_.Row(r));
          rows[r] = wide_.Row(r);
        }
      }
      kit::TransposeToPanel(rows, size_t(p_.D), x_.p + i, x_.ld);
    }
  }

  // The sum over the keys of a row of features, in parts.
  HWY_INLINE hn::Vec<hn::ScalableTag<float>> Sum(const float* row) const {
    const hn::ScalableTag<float> d;
    auto sum = hn::Zero(d);
    size_t j = 0;
    for (; j + kLanes <= keys_; j += kLanes) sum = hn::Add(sum, hn::LoadU(d, row + j));
    if (j == keys_) return sum;
    return hn::Add(sum, hn::IfThenElseZero(hn::FirstN(d, keys_ - j), hn::LoadU(d, row + j)));
  }

  // a_[j][i] = phi_k[j] . phi_q[i] for keys j <= queries i; undefined for the others.
  void Scores(size_t count) const {
    const size_t E = size_t(p_.E());
    for (size_t i = 0; i < count; i += kPanel) {
      const bool two = i + kLanes < count;
      for (size_t j = 0; j < count && j < i + (two ? kPanel : kLanes); j += kTileRows) {
        const bool second = two && j >= i + kLanes;  // the queries of the first vector come before these keys
        const float *k = phi_k_.p + j, *q = phi_q_.p + i + (second ? kLanes : 0);
        float* a = a_.Row(j) + i + (second ? kLanes : 0);
        if (two && !second) {
          kit::ChunkTileRows<2, Start::kZero, Terms::kAll, Order::kColumns>(count - j, E, k, phi_k_.ld, q, phi_q_.ld, 0,
                                                                            a, a_.ld);
        } else {
          kit::ChunkTileRows<1, Start::kZero, Terms::kAll, Order::kColumns>(count - j, E, k, phi_k_.ld, q, phi_q_.ld, 0,
                                                                            a, a_.ld);
        }
      }
    }
  }

  // den_ of the queries [i, i + kLanes).
  void Normalisers(const State& state, size_t i, bool causal) const {
    const hn::ScalableTag<float> d;
    const size_t F = size_t(p_.F);
    auto sum = hn::Zero(d), sum2 = sum;
    for (size_t f = 0; state.any && f < F; f++) {
      sum = hn::MulAdd(hn::Set(d, state.z[f]), hn::LoadU(d, phi_q_.Row(f) + i), sum);
      sum2 = hn::MulAdd(hn::Set(d, state.z[F + f]), hn::LoadU(d, phi_q_.Row(F + f) + i), sum2);
    }
    for (size_t j = 0; causal && j < i; j++) sum = hn::Add(sum, hn::LoadU(d, a_.Row(j) + i));
    for (size_t j = i; causal && j < i + kLanes && j < keys_; j++) {
      sum2 = hn::Add(sum2, hn::IfThenZeroElse(hn::FirstN(d, j - i), hn::LoadU(d, a_.Row(j) + i)));
    }
    hn::StoreU(hn::Add(sum, sum2), d, den_ + i);
  }

  const Problem& p_;
  size_t keys_ = 0;           // that are loaded
  Matrix x_;                  // tokens in columns, as are the next three
  Matrix phi_q_, phi_k_, a_;  // phi_k_ has two rows more than features: four are summed at a time
  Matrix v_, v_memory_, o_;
  float* den_;
  Matrix wide_;               // rows of a panel in f32, and a row of 0
};

#endif  // ATTUNE_ISA
}  // namespace HWY_NAMESPACE
}  // namespace hedgehog
HWY_AFTER_NAMESPACE();
#endif  // toggled include guard
