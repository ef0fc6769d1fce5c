/* Attune ABI 1.0, beside it: inputs that models make by a formula (slopes, rotary tables). Optional; link with -lm.
 * Every function writes into the caller's memory, allocates nothing and is [any-thread]. Results are computed in double
 * and rounded once. After a refusal nothing was written; error may be NULL. */
#ifndef ATTUNE_HELPERS_H
#define ATTUNE_HELPERS_H
#include <math.h>
#include "error.h"

/* ALiBi's slope of head i of `heads` (arXiv:2108.12409): 2^(-8 (i + 1) / p) for the first p heads, p the largest power
 * of two <= heads; the others take every other slope of the series for 2 p. 0 <= i < heads. */
static inline double attune_alibi_slope(int64_t heads, int64_t i) {
  int64_t p = 1;
  while (p <= heads / 2) p *= 2;
  return exp2((double)(i < p ? -8 * (i + 1) : -4 * (2 * (i - p) + 1)) / (double)p);
}

/* All of them. slopes: heads elements. E_PARAM: heads < 1. */
static inline attune_status attune_alibi_slopes(int64_t heads, float *slopes, attune_error *error) {
  int64_t i;
  if (heads < 1) return attune_fail(error, ATTUNE_E_PARAM, "heads", "heads must be at least 1");
  for (i = 0; i < heads; i++) slopes[i] = (float)attune_alibi_slope(heads, i);
  return ATTUNE_OK;
}

/* How the decay slopes of linear attention depend on head i of n and on layer l of L. A checkpoint works with its own
 * rule only. */
enum {
  /* ALiBi's slope times 1 - l / (L - 1) + 1e-5 (L = 1: 1 + 1e-5). TransNormerLLM, vLLM */
  ATTUNE_DECAY_ALIBI = 0,
  /* 2^(-8 (i + 1) / n) (1 - l / (L - 1 + 1e-5) + 1e-5). MiniMax in transformers */
  ATTUNE_DECAY_GEOMETRIC = 1,
  /* (8 / n) (1 - l / L) i. The TransNormerLLM paper, flash-linear-attention */
  ATTUNE_DECAY_LINEAR = 2
};

/* slopes: heads elements, each >= 0; a state decays by exp(-slope) per token. rule: ATTUNE_DECAY_*. E_PARAM: unknown
 * rule, heads < 1, layers < 1, layer outside [0, layers). */
static inline attune_status attune_decay_slopes(int32_t rule, int64_t heads, int64_t layer, int64_t layers,
                                                float *slopes, attune_error *error) {
  const double l = (double)layer, n = (double)heads, last = (double)(layers - 1);
  double factor;
  int64_t i;
  if (rule < ATTUNE_DECAY_ALIBI || rule > ATTUNE_DECAY_LINEAR) {
    return attune_fail(error, ATTUNE_E_PARAM, "rule", "rule must be one of ATTUNE_DECAY_*");
  }
  if (heads < 1) return attune_fail(error, ATTUNE_E_PARAM, "heads", "heads must be at least 1");
  if (layers < 1) return attune_fail(error, ATTUNE_E_PARAM, "layers", "layers must be at least 1");
  if (layer < 0 || layer >= layers) {
    return attune_fail(error, ATTUNE_E_PARAM, "layer", "layer must be at least 0 and less than layers");
  }
  if (rule == ATTUNE_DECAY_LINEAR) {
    for (i = 0; i < heads; i++) slopes[i] = (float)(8 / n * (1 - l / (double)layers) * (double)i);
    return ATTUNE_OK;
  }
  if (rule == ATTUNE_DECAY_GEOMETRIC) {
    factor = 1 - l / (last + 1e-5) + 1e-5;
    for (i = 0; i < heads; i++) slopes[i] = (float)(exp2(-8 * (double)(i + 1) / n) * factor);
    return ATTUNE_OK;
  }
  factor = layers > 1 ? 1 - l / last + 1e-5 : 1 + 1e-5;
  for (i = 0; i < heads; i++) slopes[i] = (float)(attune_alibi_slope(heads, i) * factor);
  return ATTUNE_OK;
}

/* Rotary tables of a grid of height x width tokens in row-major order, for rotations of neighbouring channels
 * (2m, 2m + 1). With m = channels / 4 the angles are a_i = 10000^(-i / (m - 1)), i < m (m = 1: 1), each for two
 * channels; the first half of the channels turns by the token's row times a_i, the second half by its column.
 * sin_table, cos_table: [height * width, channels]. E_PARAM: negative height or width, channels < 4 or not a multiple
 * of 4. */
static inline attune_status attune_rotary_tables_2d(int64_t height, int64_t width, int64_t channels, float *sin_table,
                                                    float *cos_table, attune_error *error) {
  const int64_t half = channels / 2, m = channels / 4;
  int64_t y, x, c;
  if (height < 0) return attune_fail(error, ATTUNE_E_PARAM, "height", "height must not be negative");
  if (width < 0) return attune_fail(error, ATTUNE_E_PARAM, "width", "width must not be negative");
  if (channels < 4 || channels % 4 != 0) {
    return attune_fail(error, ATTUNE_E_PARAM, "channels", "channels must be a positive multiple of 4");
  }
  for (c = 0; c < channels; c++) {
    const int64_t i = c % half / 2;
    const double a = m > 1 ? pow(10000, -(double)i / (double)(m - 1)) : 1;
    for (y = 0; y < height; y++) {
      for (x = 0; x < width; x++) {
        const double angle = a * (double)(c < half ? y : x);
        sin_table[(y * width + x) * channels + c] = (float)sin(angle);
        cos_table[(y * width + x) * channels + c] = (float)cos(angle);
      }
    }
  }
  return ATTUNE_OK;
}
#endif
