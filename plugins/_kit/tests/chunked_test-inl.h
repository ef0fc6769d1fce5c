// Tests of chunked-inl.h: two chunks against the sums of its first lines, written out in double.
#if defined(ATTUNE_KIT_TESTS_CHUNKED_TEST_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef ATTUNE_KIT_TESTS_CHUNKED_TEST_INL_H_
#undef ATTUNE_KIT_TESTS_CHUNKED_TEST_INL_H_
#else
#define ATTUNE_KIT_TESTS_CHUNKED_TEST_INL_H_
#endif
#include <vector>

#include "_kit/chunked-inl.h"

HWY_BEFORE_NAMESPACE();
namespace kit_test {
namespace HWY_NAMESPACE {
#if ATTUNE_ISA
namespace kit = attune_kit::HWY_NAMESPACE;

// Chunks of up to `rows` tokens over n tokens; every sum is compared with its definition.
inline void TestChunks(size_t rows, size_t n, size_t features, size_t columns, double slope, int late) {
  using attune_kit::ChunkMemory;
  using attune_kit::Decay;
  const float nan = __builtin_nanf("");
  std::vector<float> memory(ChunkMemory::Floats(rows, features, columns), nan), powers(Decay::Floats(rows), nan);
  const ChunkMemory m(memory.data(), rows, features, columns);
  const Decay decay(powers.data(), rows, slope);
  std::vector<float> q(n * features), k(n * features), v(n * columns), sums(rows);
  std::vector<float> state(attune_kit::StateFloats(features, columns), nan);
  std::vector<double> want_state(features * columns), want(columns);
  for (float& x : q) x = Random();
  for (float& x : k) x = Random();
  for (float& x : v) x = Random();
  for (size_t f = 0; f < features; f++) {
    for (size_t e = 0; e < columns; e++) want_state[f * columns + e] = state[f * m.ld_columns + e] = Random();
  }
  const double w = exp(-slope);
  double worst = 0;
  const auto compare = [&](float got, double exact) {
    const double error = fabs(got - exact) / sqrt(double(features + rows));
    if (!(error <= worst) && !isnan(worst)) worst = error;  // a NaN stays
  };
  for (size_t begin = 0; begin < n; begin += rows) {
    const size_t length = n - begin < rows ? n - begin : rows;
    for (size_t i = 0; i < length; i++) {
      for (size_t f = 0; f < features; f++) m.q[i * m.ld_features + f] = q[(begin + i) * features + f];
      for (size_t f = 0; f < features; f++) m.k[i * m.ld_features + f] = k[(begin + i) * features + f];
      for (size_t e = 0; e < columns; e++) m.v[i * m.ld_columns + e] = v[(begin + i) * columns + e];
    }
    kit::TransposeQueries(m, length);
    kit::Scores(m, length);
    if (decay.any) kit::DecayScores(m, length, decay.forward);
    sums.assign(rows, 0.0f);
    kit::AddScoreSums(m, length, sums.data());
    kit::Outputs(m, length, state.data(), decay.any ? decay.forward + late : nullptr);
    if (decay.any) kit::DecayRows(m.k, m.ld_features, length, features, decay.forward + length - late, -1);
    kit::UpdateState(m, length, decay.forward[length], state.data());

    for (size_t i = 0; i < length; i++) {
      const float* qi = &q[(begin + i) * features];
      double sum = 0;
      for (size_t e = 0; e < columns; e++) {
        want[e] = 0;
        for (size_t f = 0; f < features; f++) want[e] += pow(w, int(i) + late) * qi[f] * want_state[f * columns + e];
      }
      for (size_t j = 0; j <= i; j++) {
        double a = 0;
        for (size_t f = 0; f < features; f++) a += double(qi[f]) * k[(begin + j) * features + f];
        a *= pow(w, int(i - j));
        sum += a;
        for (size_t e = 0; e < columns; e++) want[e] += a * v[(begin + j) * columns + e];
      }
      compare(sums[i], sum);
      for (size_t e = 0; e < columns; e++) compare(m.o[i * m.ld_columns + e], want[e]);
    }
    for (size_t f = 0; f < features; f++) {
      for (size_t e = 0; e < columns; e++) {
        double s = pow(w, int(length)) * want_state[f * columns + e];
        for (size_t j = 0; j < length; j++) {
          s += pow(w, int(length - j) - late) * k[(begin + j) * features + f] * v[(begin + j) * columns + e];
        }
        want_state[f * columns + e] = s;
        compare(state[f * m.ld_columns + e], s);
      }
    }
  }
  Check(worst < 1e-5, hwy::TargetName(HWY_TARGET), "chunked", double(n), worst, 0);
}

inline void TestChunked() {
  for (const size_t rows : {32, 64, 128}) {
    for (const size_t n : {1, 2, 7, 31, 33, 64, 100, 129}) {
      for (const size_t features : {1, 3, 16, 40, 64}) {
        for (const size_t columns : {1, 5, 16, 17, 32, 33, 64}) {
          for (const int late : {0, 1}) {
            TestChunks(rows, n, features, columns, 0, late);
            TestChunks(rows, n, features, columns, 0.3, late);
          }
        }
      }
    }
  }
  for (const size_t features : {100, 128}) {  // rows as far apart as those of head_dim 128: a path of its own
    for (const size_t n : {33, 64}) TestChunks(32, n, features, 17, 0.3, 1);
  }
  TestChunks(64, 100, 16, 16, 200, 1);
}

#endif  // ATTUNE_ISA
}  // namespace HWY_NAMESPACE
}  // namespace kit_test
HWY_AFTER_NAMESPACE();
#endif  // toggled include guard
