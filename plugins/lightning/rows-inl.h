// Rows and states of a call moved in and out of the f32 memory of a chunk.
#if defined(ATTUNE_LIGHTNING_ROWS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef ATTUNE_LIGHTNING_ROWS_INL_H_
#undef ATTUNE_LIGHTNING_ROWS_INL_H_
#else
#define ATTUNE_LIGHTNING_ROWS_INL_H_
#endif
#include <string.h>

#include <type_traits>

#include "_kit/chunked-inl.h"
#include "lightning/problem.h"

HWY_BEFORE_NAMESPACE();
namespace lightning {
namespace HWY_NAMESPACE {
#if ATTUNE_ISA
namespace hn = hwy::HWY_NAMESPACE;
namespace kit = attune_kit::HWY_NAMESPACE;
using kit::kLanes;

// One head of one sequence of a tensor, in the order in which a sweep meets its tokens. data is null for an absent
// tensor: it reads as 0 and is not written.
struct Rows {
  char* data = nullptr;
  int dtype = ATTUNE_F32;
  int64_t step = 0;  // elements from a row to the next; negative when the sweep runs from the last token to the first
  size_t width = 0;

  Rows() = default;
  Rows(const View& t, const Sequence& s, int64_t h, bool last_first, size_t width_) : width(width_) {
    if (!t || !t.Data() || s.length == 0) return;
    dtype = t.DType();
    step = last_first ? -t.Stride(2) : t.Stride(2);
    data = static_cast<char*>(t.Data()) + t.Offset(s.b, h, s.begin + (last_first ? s.length - 1 : 0)) * Size();
  }
  int64_t Size() const { return dtype == ATTUNE_F32 ? 4 : 2; }

  // Rows [begin, begin + n) times factor, and row i times decay[-i] if there is any.
  void Load(int64_t begin, size_t n, float factor, float* to, size_t ld, const float* decay = nullptr) const {
    if (!data) {
      memset(to, 0, n * ld * sizeof(float));
      return;
    }
    kit::WithFloatType(dtype, data + begin * step * Size(), [&](const auto* from) {
      for (size_t i = 0; i < n; i++) {
        const float by = decay ? factor * decay[-ptrdiff_t(i)] : factor;
        kit::Widen(from + int64_t(i) * step, width, by, to + i * ld);
      }
    });
  }
  // Rows from `begin` on where they are, if a chunk can use them so: f32 in whole vectors, one behind the other (rows
  // further apart may share few sets of a cache).
  float* InPlace(int64_t begin) const {
    const bool fits = data && dtype == ATTUNE_F32 && step == int64_t(width) && width % kLanes == 0;
    return fits ? reinterpret_cast<float*>(data) + begin * step : nullptr;
  }
  // Has rows [begin, begin + n) fetched.
  void Announce(attune_kit::Ahead& ahead, int64_t begin, size_t n) const {
    if (data) ahead.Add(data + begin * step * Size(), step * Size(), n, width * size_t(Size()));
  }
  void Store(int64_t begin, size_t n, const float* from, size_t ld) const {
    kit::WithFloatType(dtype, data + begin * step * Size(), [&](const auto* p) {
      using T = std::remove_cv_t<std::remove_pointer_t<decltype(p)>>;
      T* to = const_cast<T*>(p);
      for (size_t i = 0; i < n; i++) kit::Narrow(from + i * ld, width, 1, to + int64_t(i) * step);
    });
  }
};

// State `index` of head h, f32: [D x Dv], as it is or as its transpose. An absent one reads as 0.
struct StateRows {
  float* data = nullptr;
  int64_t row = 0, column = 1;  // strides in elements
  size_t rows, columns;

  StateRows(const Problem& p, const View& t, int64_t index, int64_t h, bool transposed)
      : rows(size_t(transposed ? p.Dv : p.D)), columns(size_t(transposed ? p.D : p.Dv)) {
    if (!t || !t.Data()) return;
    data = static_cast<float*>(t.Data()) + t.Offset(index, h);
    row = transposed ? 1 : t.Stride(2), column = transposed ? t.Stride(2) : 1;
  }
  bool Given() const { return data != nullptr; }
  void Load(float* to) const {
    const size_t ld = attune_kit::ChunkStride(columns);
    memset(to, 0, rows * ld * sizeof(float));
    if (!data) return;
    for (size_t d = 0; d < rows; d++) {
      for (size_t e = 0; e < columns; e++) to[d * ld + e] = data[int64_t(d) * row + int64_t(e) * column];
    }
  }
  void Store(const float* from) const {
    if (!data) return;
    const size_t ld = attune_kit::ChunkStride(columns);
    for (size_t d = 0; d < rows; d++) {
      for (size_t e = 0; e < columns; e++) data[int64_t(d) * row + int64_t(e) * column] = from[d * ld + e];
    }
  }
  // Sum of the products with another state of this shape.
  double Dot(const float* other) const {
    const size_t ld = attune_kit::ChunkStride(columns);
    double sum = 0;
    for (size_t d = 0; data && d < rows; d++) {
      const float* own = data + int64_t(d) * row;
      for (size_t e = 0; e < columns; e++) sum += double(own[int64_t(e) * column]) * other[d * ld + e];
    }
    return sum;
  }
};

#endif  // ATTUNE_ISA
}  // namespace HWY_NAMESPACE
}  // namespace lightning
HWY_AFTER_NAMESPACE();
#endif  // toggled include guard
