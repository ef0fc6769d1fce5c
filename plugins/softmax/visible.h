// The keys that a query may see by position, as one interval: causal, windows, lengths and padding. mask and bias
// apart.
#ifndef ATTUNE_SOFTMAX_VISIBLE_H_
#define ATTUNE_SOFTMAX_VISIBLE_H_
#include "softmax/problem.h"

namespace softmax {

// a + b, held at the ends of the range: positions and windows may be any int64.
inline int64_t SaturatingAdd(int64_t a, int64_t b) {
  int64_t sum;
  if (!__builtin_add_overflow(a, b, &sum)) return sum;
  return a > 0 ? INT64_MAX : INT64_MIN;
}

struct Interval {
  int64_t begin, end;  // empty when end <= begin
};

inline Interval VisibleKeys(const Problem& c, const Sequence& s, int64_t i) {
  const int64_t p = SaturatingAdd(s.q_offset, i);
  Interval v = {s.key_start, s.key_end};
  const auto at_most = [&](int64_t last) {
    if (last < INT64_MAX && last + 1 < v.end) v.end = last + 1;
  };
  if (c.causal) at_most(p);
  if (c.window_right >= 0) at_most(SaturatingAdd(p, c.window_right));
  if (c.window_left >= 0) {
    const int64_t first = SaturatingAdd(p, -c.window_left);
    if (first > v.begin) v.begin = first;
  }
  return v;
}

}  // namespace softmax
#endif  // ATTUNE_SOFTMAX_VISIBLE_H_
