// From the probabilities of compressed keys to the blocks of a query.
#ifndef ATTUNE_NSA_SELECT_H_
#define ATTUNE_NSA_SELECT_H_
#include "_kit/top_k.h"
#include "nsa/problem.h"

namespace nsa {

// Zeros that must lie before the probabilities of a query, and behind them, so that no window needs bounds.
inline int64_t LeadingZeros(const Problem& c) {
  return c.l / c.d - 1;
}
// Floats or doubles of a query's probabilities with these zeros; only when selecting, which bounds l and block by Nk.
inline int64_t ProbabilityRow(const Problem& c) {
  return LeadingZeros(c) + (c.Nk / c.block + 1) * (c.block / c.d);
}

// Chooses the blocks of a query at position t: `out` gets them ascending. p: its group's probabilities, p[entry] for
// the visible entries, with zeros around them. score: scratch, t / block + 1. Returns their number. *least is the score
// of the worst block that was chosen by its score; infinity when none had to be.
template <class T>
int64_t SelectBlocks(const Problem& c, int64_t t, const T* p, T* score, int32_t* out, T* least) {
  *least = T(__builtin_inf());
  const int64_t candidates = t / c.block + 1;
  if (candidates <= c.top_n) {
    for (int64_t j = 0; j < candidates; j++) out[j] = int32_t(j);
    return candidates;
  }
  // The forced ones are [0, low) and [high, candidates).
  const int64_t low = c.n_init < candidates ? c.n_init : candidates;
  const int64_t local = candidates > c.n_local ? candidates - c.n_local : 0, high = local > low ? local : low;
  const int64_t a = c.block / c.d, r = c.l / c.d;
  for (int64_t j = low; j < high; j++) score[j] = 0;
  for (int64_t n = 1 - r; n < a; n++) {
    // Strides of window a * j + n that lie in block j.
    const int64_t last = n + r < a ? n + r : a, begin = n > 0 ? n : 0;
    const T shared = T(last - begin);
    for (int64_t j = low; j < high; j++) score[j] += shared * p[a * j + n];
  }
  int64_t n = 0;
  for (int64_t j = 0; j < low; j++) out[n++] = int32_t(j);
  int32_t worst = 0;
  const int64_t free = c.top_n - low - (candidates - high);
  const int64_t chosen = int64_t(
      attune_kit::TopK(score + low, size_t(high - low), size_t(free > 0 ? free : 0), out + n, &worst));
  if (chosen > 0) *least = score[low + worst];
  for (int64_t k = 0; k < chosen; k++) out[n++] += int32_t(low);
  for (int64_t j = high; j < candidates; j++) out[n++] = int32_t(j);
  return n;
}

}  // namespace nsa
#endif  // ATTUNE_NSA_SELECT_H_
