// Unit tests of the vector toolkit, for every instruction set that this CPU has. Prints one line per failure; exit 1 if
// any.
#include "_kit/isa.h"
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "_kit/tests/kit_test.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "_kit/dot-inl.h"
#include "_kit/exp-inl.h"
#include "_kit/online_softmax-inl.h"
#include "_kit/pack-inl.h"
#include "_kit/scalar.h"
#include "_kit/tile-inl.h"
#include "_kit/top_k.h"

#ifndef ATTUNE_KIT_TEST_COMMON_
#define ATTUNE_KIT_TEST_COMMON_
namespace kit_test {
inline int failures = 0;
inline void Check(bool ok, const char* isa, const char* what, double x, double got, double want) {
  if (ok) return;
  if (failures++ < 40) printf("FAILED %s %s at %.9g: got %.9g, expected %.9g\n", isa, what, x, got, want);
}
inline float Random() {  // uniform in [-1, 1), the same numbers everywhere
  static uint32_t state = 12345;
  state = state * 1664525u + 1013904223u;
  return float(int32_t(state)) * 0x1p-31f;
}
// Distance of got from want in units of the last place of f32.
inline double Ulps(float got, double want) {
  int e;
  frexp(want, &e);
  return fabs(got - want) / ldexp(1.0, (e < -125 ? -125 : e) - 24);
}
}  // namespace kit_test
#endif

#include "_kit/tests/chunked_test-inl.h"
#include "_kit/tests/lanes_test-inl.h"

HWY_BEFORE_NAMESPACE();
namespace kit_test {
namespace HWY_NAMESPACE {
#if ATTUNE_ISA
namespace hn = hwy::HWY_NAMESPACE;
namespace kit = attune_kit::HWY_NAMESPACE;
using kit::kLanes;
using kit::kPanel;
const char* Name() {
  return hwy::TargetName(HWY_TARGET);
}

template <class F>
float Apply(F f, float x) {
  const hn::ScalableTag<float> d;
  return hn::GetLane(f(d, hn::Set(d, x)));
}

struct Exp2F {
  template <class D, class V>
  V operator()(D d, V x) const {
    return kit::Exp2(d, x);
  }
};
struct ExpF {
  template <class D, class V>
  V operator()(D d, V x) const {
    return kit::Exp(d, x);
  }
};
struct TanhF {
  template <class D, class V>
  V operator()(D d, V x) const {
    return kit::Tanh(d, x);
  }
};
struct LogisticF {
  template <class D, class V>
  V operator()(D d, V x) const {
    return kit::Logistic(d, x);
  }
};

template <class F, class G>
void TestFunction(const char* what, F f, G want, float from, float to, double most_ulps, double absolute) {
  const int steps = 400000;
  double worst = 0;
  for (int i = 0; i <= steps; i++) {
    const float x = from + (to - from) * (float(i) / steps);
    const float got = Apply(f, x);
    const double expected = want(double(x)), ulps = Ulps(got, expected);
    if (fabs(got - expected) <= absolute) continue;
    if (ulps > worst) worst = ulps;
    Check(ulps <= most_ulps, Name(), what, x, got, expected);
  }
  printf("%s %s: at most %.2f ulp\n", Name(), what, worst);
}

void TestFunctions() {
  TestFunction("exp2", Exp2F(), [](double x) { return exp2(x); }, -125.9f, 127.99f, 2.5, 0);
  TestFunction("exp", ExpF(), [](double x) { return exp(x); }, -87.3f, 88.72f, 2.0, 0);
  TestFunction("exp near 0", ExpF(), [](double x) { return exp(x); }, -1.0f, 1.0f, 2.0, 0);
  TestFunction("tanh", TanhF(), [](double x) { return tanh(x); }, -12.0f, 12.0f, 4.0, 0);
  TestFunction("tanh near 0", TanhF(), [](double x) { return tanh(x); }, -1e-4f, 1e-4f, 2.0, 0);
  TestFunction("logistic", LogisticF(), [](double x) { return 1 / (1 + exp(-x)); }, -80.0f, 80.0f, 4.0, 0);
  const float inf = INFINITY;
  const auto same = [](const char* what, float x, float got, float want) {
    Check(got == want || (isnan(got) && isnan(want)), Name(), what, x, got, want);
  };
  for (float x : {-inf, inf, float(NAN), 0.0f, -1e30f, 1e30f, 128.0f, -200.0f, 3.4e38f, -3.4e38f}) {
    same("exp2 (special)", x, Apply(Exp2F(), x), exp2f(x));
    same("exp (special)", x, Apply(ExpF(), x), x == 128.0f ? inf : x == -200.0f ? 0 : expf(x));
    same("tanh (special)", x, Apply(TanhF(), x), tanhf(x));
    same("logistic (special)", x, Apply(LogisticF(), x), x == -200.0f ? 0 : 1 / (1 + expf(-x)));
  }
  for (float x : {-140.0f, -127.0f})
    Check(Apply(Exp2F(), x) <= exp2(x), Name(), "exp2 (denormal)", x, Apply(Exp2F(), x), 0);
}

template <int kVectors>
void TestTiles() {
  for (int rows = 1; rows <= kit::kTileRows; rows++) {
    for (size_t depth : {0, 1, 7, 64}) {
      const size_t lda = depth + 3, ldc = kPanel + 5;
      HWY_ALIGN float a[16 * 67], b[64 * kPanel], c[16 * (kPanel + 5)], start[16 * (kPanel + 5)];
      for (auto& x : a) x = Random();
      for (auto& x : b) x = Random();
      for (auto& x : c) x = Random();
      memcpy(start, c, sizeof c);
      kit::TileRows<kVectors, true>(rows, depth, a, lda, b, kPanel, c, ldc);
      for (int i = 0; i < 16; i++) {
        for (size_t j = 0; j < ldc; j++) {
          double want = start[i * ldc + j];
          if (i < rows && j < kVectors * kLanes) {
            for (size_t k = 0; k < depth; k++) want += double(a[i * lda + k]) * b[k * kPanel + j];
          }
          Check(fabs(c[i * ldc + j] - want) < 1e-5, Name(), "tile, accumulating", depth, c[i * ldc + j], want);
        }
      }
      kit::TileRows<kVectors, false>(rows, depth, a, lda, b, kPanel, start, ldc);
      for (int i = 0; i < rows; i++) {
        for (size_t j = 0; j < kVectors * kLanes; j++) {
          double want = 0;
          for (size_t k = 0; k < depth; k++) want += double(a[i * lda + k]) * b[k * kPanel + j];
          Check(fabs(start[i * ldc + j] - want) < 1e-5, Name(), "tile", depth, start[i * ldc + j], want);
        }
      }
    }
  }
}

// Rows in their own storage, at a distance of their own: dot products, tiles, scaled sums. NaN beyond a row must not be
// read.
template <class T>
void TestStoredRows(int dtype) {
  const size_t ld = 45, rows = 9;
  for (size_t n : {1, 3, 16, 17, 40}) {
    T b[9 * 45];
    double value[9 * 45];
    for (size_t i = 0; i < rows * ld; i++) {
      attune_kit::StoreScalar(b, i, dtype, i % ld < n ? double(Random()) : NAN);
      value[i] = attune_kit::LoadScalar(b, i, dtype);
    }
    for (int m = 1; m <= 9; m++) {
      HWY_ALIGN float a[9 * 48] = {}, s[10 * 12];
      for (int i = 0; i < m; i++) {
        for (size_t k = 0; k < n; k++) a[i * 48 + k] = Random();
      }
      for (auto& x : s) x = -7;
      kit::Dots(m, rows, n, a, 48, b, ld, s, 12);
      for (int i = 0; i < 10; i++) {
        for (size_t j = 0; j < 12; j++) {
          double want = i < m && j < rows ? 0 : -7;
          for (size_t k = 0; k < n && i < m && j < rows; k++) want += a[i * 48 + k] * value[j * ld + k];
          Check(fabs(s[i * 12 + j] - want) < 1e-5, Name(), "dots", n, s[i * 12 + j], want);
        }
      }
    }
    if (n >= kLanes) {
      HWY_ALIGN float p[9], o[kLanes];
      for (auto& x : p) x = Random();
      kit::TileRows<1, false>(1, rows, p, 0, b, ld, o, 0);
      for (size_t e = 0; e < kLanes; e++) {
        double want = 0;
        for (size_t j = 0; j < rows; j++) want += p[j] * value[j * ld + e];
        Check(fabs(o[e] - want) < 1e-5, Name(), "tile of stored rows", n, o[e], want);
      }
    }
    HWY_ALIGN float sum[64] = {};
    kit::AddScaled(b, n, 0.5f, sum);
    kit::AddScaled(b + ld, n, 2.0f, sum);
    for (size_t e = 0; e < n; e++) {
      const double want = 0.5 * value[e] + 2 * value[ld + e];
      Check(fabs(sum[e] - want) < 1e-6, Name(), "scaled sum", n, sum[e], want);
    }
  }
}

void TestTranspose() {
  for (size_t columns : {1, 3, 4, 5, 15, 16, 17, 31, 40}) {
    float rows[kPanel][48];
    HWY_ALIGN float panel[41 * kPanel];
    const float* pointers[kPanel];
    for (size_t r = 0; r < kPanel; r++) {
      pointers[r] = rows[r];
      for (auto& x : rows[r]) x = Random();
    }
    for (auto& x : panel) x = -7;
    kit::TransposeToPanel(pointers, columns, panel);
    for (size_t i = 0; i < columns * kPanel; i++) {
      Check(panel[i] == rows[i % kPanel][i / kPanel], Name(), "transpose", columns, panel[i],
            rows[i % kPanel][i / kPanel]);
    }
    for (size_t i = columns * kPanel; i < 41 * kPanel; i++)
      Check(panel[i] == -7, Name(), "transpose, beyond", i, panel[i], -7);
    constexpr size_t kWide = 48 + kPanel;  // whole panels
    HWY_ALIGN float wide[kWide * kPanel], block[kPanel * kPanel], back[kPanel * kWide];
    for (auto& x : wide) x = Random();
    kit::TransposeFromPanel(wide, columns, block, back, kWide);
    for (size_t i = 0; i < columns * kPanel; i++) {
      const float got = back[i % kPanel * kWide + i / kPanel];
      Check(got == wide[i], Name(), "transpose back", columns, got, wide[i]);
    }
  }
}

// Every 16-bit pattern widened, and back; and f32 values between two of them rounded to even.
template <class T>
void TestSixteenBits(const char* what, int dtype) {
  for (uint32_t bits = 0; bits < 65536; bits++) {
    uint16_t in[kLanes], out[kLanes + 1];
    float wide[kLanes];
    for (auto& x : in) x = uint16_t(bits);
    const double want = attune_kit::LoadScalar(in, 0, dtype);
    kit::Widen(reinterpret_cast<const T*>(in), kLanes, 1.0f, wide);
    Check(wide[0] == want || (isnan(wide[0]) && isnan(want)), Name(), what, bits, wide[0], want);
    kit::Narrow(wide, kLanes, 1.0f, reinterpret_cast<T*>(out));
    const double back = attune_kit::LoadScalar(out, 0, dtype);
    Check(out[0] == bits || (isnan(back) && isnan(want)), Name(), "narrow", bits, out[0], bits);
  }
  for (int i = 0; i < 300000; i++) {
    float x[kLanes];
    uint16_t out[kLanes], want;
    for (auto& e : x) e = ldexpf(Random(), int(Random() * 30));
    if (i % 8 == 0) x[0] = x[0] * 70000;
    kit::Narrow(x, kLanes, 1.0f, reinterpret_cast<T*>(out));
    attune_kit::StoreScalar(&want, 0, dtype, x[0]);
    Check(out[0] == want, Name(), "narrow (rounding)", x[0], out[0], want);
  }
  for (size_t n = 0; n <= 2 * kLanes + 1; n++) {  // tails: nothing beyond n is written
    HWY_ALIGN float wide[4 * kLanes];
    uint16_t out[4 * kLanes];
    for (auto& e : wide) e = 1.5f;
    for (auto& e : out) e = 0x1234;
    kit::Narrow(wide, n, 2.0f, reinterpret_cast<T*>(out));
    for (size_t i = 0; i < 4 * kLanes; i++) {
      const double got = attune_kit::LoadScalar(out, i, dtype);
      Check(i < n ? got == 3 : out[i] == 0x1234, Name(), "narrow, tail", n, got, 3);
    }
    kit::Widen(reinterpret_cast<const T*>(out), n, 0.5f, wide);
    for (size_t i = 0; i < (n + kLanes - 1) / kLanes * kLanes; i++) {
      Check(wide[i] == (i < n ? 1.5f : 0), Name(), "widen, tail", n, wide[i], i < n ? 1.5 : 0);
    }
  }
}

template <bool kBase2>
void TestOnlineSoftmax() {
  for (size_t n : {1, 5, 16, 17, 40, 100}) {
    for (size_t begin : {0, 3, 17}) {
      HWY_ALIGN float s[256], sum[kLanes] = {};
      double score[256], z = 0, seen = 0;
      float m = -INFINITY;
      double accumulated = 0;  // sum of weight * index, rescaled as a kernel would
      for (size_t piece = 0, first = 0; piece < 3; piece++, first += n) {
        for (auto& x : s) x = NAN;
        for (size_t j = 0; j < n; j++) {
          score[first % 100 + j] = 0;
          s[begin + j] = piece == 0 ? -INFINITY : 20 * Random() + float(piece) * 5;
          if (j % 7 == 3) s[begin + j] = -INFINITY;
        }
        double raw[128];
        for (size_t j = 0; j < n; j++) raw[j] = s[begin + j];
        const float factor = kit::OnlineSoftmax<kBase2>(s, begin, begin + n, &m, sum);
        accumulated *= factor, z *= factor;
        for (size_t j = 0; j < n; j++) {
          const double x = float(raw[j]) - m;  // rounded as the kernel rounds it: far from m that is most of the error
          const double want = m == -INFINITY ? 0 : kBase2 ? exp2(x) : exp(x);
          Check(fabs(s[begin + j] - want) <= 3e-7 * want + 1e-37, Name(), "online softmax weight", raw[j], s[begin + j],
                want);
          z += want, seen++;
        }
      }
      double total = 0;
      for (float x : sum) total += x;
      Check(fabs(total - z) <= 1e-5 * z, Name(), "online softmax sum", n, total, z);
    }
  }
}

void Run() {
  TestFunctions();
  TestTiles<1>();
  TestTiles<2>();
  TestTranspose();
  TestStoredRows<float>(ATTUNE_F32);
  TestStoredRows<hwy::bfloat16_t>(ATTUNE_BF16);
  TestStoredRows<hwy::float16_t>(ATTUNE_F16);
  TestSixteenBits<hwy::bfloat16_t>("widen bf16", ATTUNE_BF16);
  TestSixteenBits<hwy::float16_t>("widen f16", ATTUNE_F16);
  TestOnlineSoftmax<true>();
  TestOnlineSoftmax<false>();
  TestChunked();
  TestRanges();
}
#endif  // ATTUNE_ISA
}  // namespace HWY_NAMESPACE
}  // namespace kit_test
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace kit_test {
// Against the definition: an index is chosen when fewer than k others beat it.
void TestTopK() {
  float score[70];
  for (int round = 0; round < 300; round++) {
    const size_t n = size_t(round) % 70 + 1, k = size_t(round * 7) % 75;
    for (size_t i = 0; i < n; i++) {
      const float x = Random();
      score[i] = round % 3 == 0 ? x : round % 3 == 1 ? floorf(4 * x) : x < -0.5f ? NAN : floorf(2 * x);
    }
    int32_t chosen[70], worst = -1;
    const size_t count = attune_kit::TopK(score, n, k, chosen, &worst);
    size_t at = 0;
    for (size_t i = 0; i < n; i++) {
      size_t better = 0;
      for (size_t j = 0; j < n; j++) {
        const bool nan_i = isnan(score[i]), nan_j = isnan(score[j]);
        const bool equal = score[i] == score[j] || (nan_i && nan_j);
        better += equal ? j < i : nan_i || score[j] > score[i];
      }
      if (better >= k) continue;
      Check(at < count && chosen[at] == int32_t(i), "scalar", "top_k", round, at < count ? chosen[at] : -1, double(i));
      if (better + 1 == count) Check(worst == int32_t(i), "scalar", "top_k worst", round, worst, double(i));
      at++;
    }
    Check(at == count, "scalar", "top_k count", round, double(count), double(at));
  }
}
}  // namespace kit_test

int main() {
  using namespace kit_test;
  TestTopK();
  int sets = 0;
#if HWY_ARCH_X86
  if (__builtin_cpu_supports("sse4.2")) N_SSE4::Run(), sets++;
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) N_AVX2::Run(), sets++;
  if (__builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl")) N_AVX3::Run(), sets++;
#else
  N_NEON::Run(), sets++;
#endif
  // Scalar conversions against exact values, which the vector ones were compared with.
  for (int i = -30; i < 16; i++) {
    const double x = ldexp(1 + 0x1p-10, i);
    uint16_t h;
    attune_kit::StoreScalar(&h, 0, ATTUNE_F16, x);
    const double back = attune_kit::LoadScalar(&h, 0, ATTUNE_F16);
    const double unit = ldexp(1.0, i < -14 ? -24 : i - 10);
    Check(fabs(back - x) <= unit / 2, "scalar", "f16", x, back, x);
  }
  printf("kit: %d instruction sets, %d failures\n", sets, failures);
  return failures || !sets;
}
#endif
