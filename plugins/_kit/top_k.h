// Selection of the k best of n scores: the larger wins, of equals the lower index.
#ifndef ATTUNE_KIT_TOP_K_H_
#define ATTUNE_KIT_TOP_K_H_
#include <stddef.h>
#include <stdint.h>

namespace attune_kit {

// Does score a of index i lose against score b of index j? NaN loses against everything else, of two the higher index.
template <class T>
inline bool Worse(T a, int32_t i, T b, int32_t j) {
  const bool a_nan = a != a, b_nan = b != b;
  if (a_nan || b_nan) return a_nan && b_nan ? i > j : a_nan;
  return a < b || (a == b && i > j);
}

// Restores the heap below `at`: above(x, y) says that x belongs above y.
template <class F>
inline void SiftDown(int32_t* heap, size_t at, size_t n, F above) {
  const int32_t moved = heap[at];
  for (size_t child; (child = 2 * at + 1) < n; at = child) {
    if (child + 1 < n && above(heap[child + 1], heap[child])) child++;
    if (!above(heap[child], moved)) break;
    heap[at] = heap[child];
  }
  heap[at] = moved;
}

inline void SortAscending(int32_t* x, size_t n) {
  const auto larger = [](int32_t a, int32_t b) { return a > b; };
  for (size_t i = n / 2; i-- > 0;) SiftDown(x, i, n, larger);
  for (size_t last = n; last-- > 1;) {
    const int32_t top = x[0];
    x[0] = x[last], x[last] = top;
    SiftDown(x, 0, last, larger);
  }
}

// Writes the indices of the k best of score[0, n) to `chosen`, ascending; all of them when k >= n. Returns their
// number, min(k, n). If that is not 0, `*worst`, when wanted, becomes the index of the worst chosen one. Indices are in
// range and distinct whatever the scores are. Time about n + k log k log(n/k) for scores in random order.
template <class T>
inline size_t TopK(const T* score, size_t n, size_t k, int32_t* chosen, int32_t* worst = nullptr) {
  const size_t count = k < n ? k : n;
  if (count == 0) return 0;
  const auto above = [&](int32_t a, int32_t b) { return Worse(score[a], a, score[b], b); };  // the worst on top
  for (size_t i = 0; i < count; i++) chosen[i] = int32_t(i);
  for (size_t i = count / 2; i-- > 0;) SiftDown(chosen, i, count, above);
  for (size_t i = count; i < n; i++) {
    // A later one of equals never wins, so that most are turned away by this compare alone.
    if (score[i] <= score[chosen[0]] || !above(chosen[0], int32_t(i))) continue;
    chosen[0] = int32_t(i);
    SiftDown(chosen, 0, count, above);
  }
  if (worst) *worst = chosen[0];
  SortAscending(chosen, count);
  return count;
}

}  // namespace attune_kit
#endif  // ATTUNE_KIT_TOP_K_H_
