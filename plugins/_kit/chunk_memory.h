// Working memory of linear attention in chunks (chunked-inl.h): the rows of one chunk, and decay factors.
#ifndef ATTUNE_KIT_CHUNK_MEMORY_H_
#define ATTUNE_KIT_CHUNK_MEMORY_H_
#include <math.h>
#include <stddef.h>

#include "_kit/ahead.h"

namespace attune_kit {

// Distance in floats of rows of n floats: whole vectors fit, and the odd number of cache lines spreads a column over
// all sets of a cache.
constexpr size_t ChunkStride(size_t n) {
  return (n + 31) / 32 * 32 + 16;
}

// Floats of one state.
constexpr size_t StateFloats(size_t features, size_t columns) {
  return features * ChunkStride(columns);
}

// Rows of one chunk, f32, each worker its own. Contents are undefined at first.
struct ChunkMemory {
  size_t rows, features, columns;         // rows: tokens of a whole chunk
  size_t ld_features, ld_columns, ld_a;   // distances of rows in floats; ld_columns also that of a state's rows
  size_t ld_v, ld_o;                      // v and o may lie elsewhere, too
  float *q, *k;                           // [rows x features]
  float *v, *o;                           // [rows x columns]
  float *qt, *kt;                         // the transposes of q and k, [features x rows], ld_a apart
  float* at;                              // transposed scores, [rows x rows]
  Ahead* ahead = nullptr;                 // what to fetch meanwhile

  // How much it takes. As an expression, with chunk length C (a multiple of 32), F features and V columns:
  //   2*C*(32*cdiv(F,32)+16)+2*C*(32*cdiv(V,32)+16)+(C+2*F)*(C+16)
  // transposed: the longest rows that are ever transposed, `features` if 0.
  static constexpr size_t Floats(size_t rows, size_t features, size_t columns, size_t transposed = 0) {
    return 2 * rows * (ChunkStride(features) + ChunkStride(columns)) +
           (rows + 2 * (transposed ? transposed : features)) * ChunkStride(rows);
  }
  ChunkMemory(float* base, size_t rows_, size_t features_, size_t columns_, size_t transposed = 0)
      : rows(rows_), features(features_), columns(columns_) {
    ld_features = ChunkStride(features), ld_columns = ChunkStride(columns), ld_a = ChunkStride(rows);
    ld_v = ld_o = ld_columns;
    q = base, k = q + rows * ld_features, v = k + rows * ld_features, o = v + rows * ld_columns;
    at = o + rows * ld_columns, qt = at + rows * ld_a, kt = qt + (transposed ? transposed : features) * ld_a;
  }
};

// Powers of exp(-slope): forward[t] = exp(-slope t) for t in [0, rows], 0 for a vector before and after. Only exponents
// <= 0 are ever used; powers below the smallest normal number are 0, so that they cost no denormal arithmetic.
// slope >= 0.
struct Decay {
  bool any;  // slope > 0; if not, nothing needs to be multiplied
  float* forward;

  static constexpr size_t Floats(size_t rows) { return rows + 32; }
  Decay(float* at, size_t rows, double slope) : any(slope > 0), forward(at + 16) {
    for (size_t t = 0; t < Floats(rows); t++) at[t] = 0;
    for (size_t t = 0; t <= rows; t++) {
      const double exponent = -slope * double(t);
      forward[t] = exponent < -87 ? 0.0f : float(exp(exponent));
    }
  }
};

}  // namespace attune_kit
#endif  // ATTUNE_KIT_CHUNK_MEMORY_H_
