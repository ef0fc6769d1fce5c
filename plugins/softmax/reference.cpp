#include "softmax/reference.h"

#include <math.h>
#include <string.h>

#include "softmax/problem.h"

namespace softmax {
namespace {

// Is key j visible to a query at position p? mask and bias apart.
bool Visible(const Problem& c, const Sequence& s, int64_t p, int64_t j) {
  // In 128 bits, because positions and windows may be anything that fits in 64.
  const __int128 distance = static_cast<__int128>(j) - p;
  return s.key_start <= j && j < s.key_end && (!c.causal || distance <= 0) &&
         (c.window_left < 0 || -distance <= c.window_left) && (c.window_right < 0 || distance <= c.window_right);
}

// Element d of a key or value row: a float, or (code - zero) * scale with 8-bit or packed 4-bit codes.
struct RowReader {
  RowRef row;
  double scale = 1, zero = 0;
  bool nibbles = false, codes = false;

  RowReader(const Problem& c, const Sequence& s, int64_t head, int64_t j, const KeyRows& rows, const KeyRows& scales,
            const KeyRows& zeros)
      : row(c.KeyAt(rows, s, head, j)) {
    codes = row.view->DType() == ATTUNE_U8 || row.view->DType() == ATTUNE_I8;
    nibbles = row.view->DType() == ATTUNE_U8;
    if (!codes) return;
    const RowRef at = c.KeyAt(scales, s, head, j);
    scale = attune_kit::LoadScalar(at.view->Data(), at.offset, ATTUNE_F32);
    if (zeros.cached.view) {
      const RowRef z = c.KeyAt(zeros, s, head, j);
      zero = attune_kit::LoadScalar(z.view->Data(), z.offset, ATTUNE_F32);
    }
  }

  double operator[](int64_t d) const {
    if (!codes) return attune_kit::LoadScalar(row.view->Data(), row.offset + d, row.view->DType());
    if (!nibbles) return (attune_kit::LoadScalar(row.view->Data(), row.offset + d, ATTUNE_I8) - zero) * scale;
    const int byte = static_cast<const uint8_t*>(row.view->Data())[row.offset + d / 2];
    return ((d % 2 ? byte >> 4 : byte & 15) - zero) * scale;
  }
};

}  // namespace

double Score(const Problem& c, const Sequence& s, int64_t h, int64_t i, int64_t p, int64_t j) {
  if (!Visible(c, s, p, j)) return -INFINITY;
  if (c.mask && c.mask.Get(s.b, c.BroadcastHead(c.mask, h), i, j) == 0) return -INFINITY;
  const double bias = c.bias ? c.bias.Get(s.b, c.BroadcastHead(c.bias, h), i, j) : 0;
  if (bias == -INFINITY) return bias;

  const RowReader key(c, s, h / c.Group(), j, c.k, c.k_scale, c.k_zero);
  const int64_t q = c.QueryAt(c.q, s, h, i);
  double dot = 0;
  for (int64_t d = 0; d < c.D; d++) dot += attune_kit::LoadScalar(c.q.view.Data(), q + d, c.q.view.DType()) * key[d];
  double score = c.scale * dot;
  if (c.softcap > 0) score = c.softcap * tanh(score / c.softcap);
  if (c.slopes) score -= c.Slope(s.b, h) * fabs(double(p) - double(j));
  return score + bias;
}

namespace {

// Row i of head h: scores[] and out[] are scratch.
void Row(const Problem& c, const Sequence& s, int64_t h, int64_t i, double* scores, double* out) {
  int64_t p;
  if (__builtin_add_overflow(s.q_offset, i, &p)) p = INT64_MAX;
  const double sink = c.sinks ? c.sinks.Get(h) : -INFINITY;
  double m = sink;
  for (int64_t j = s.key_start; j < s.key_end; j++) {
    scores[j] = Score(c, s, h, i, p, j);
    m = fmax(m, scores[j]);
  }

  double z = sink == -INFINITY ? 0 : exp(sink - m);
  for (int64_t e = 0; e < c.Dv; e++) out[e] = 0;
  for (int64_t j = s.key_start; j < s.key_end; j++) {
    if (scores[j] == -INFINITY) continue;
    const double w = c.sigmoid ? 1 / (1 + exp(-(scores[j] + c.sigmoid_bias))) : exp(scores[j] - m);
    z += w;
    const RowReader value(c, s, h / c.Group(), j, c.v, c.v_scale, c.v_zero);
    for (int64_t e = 0; e < c.Dv; e++) out[e] += w * value[e];
  }

  const int64_t at = c.QueryAt(c.o, s, h, i);
  for (int64_t e = 0; e < c.Dv; e++) {
    const double o = c.sigmoid ? out[e] : z == 0 ? 0 : out[e] / z;
    attune_kit::StoreScalar(c.o.view.Data(), at + e, c.o.view.DType(), o);
  }
  if (c.lse.view) {
    attune_kit::StoreScalar(c.lse.view.Data(), c.QueryAt(c.lse, s, h, i), ATTUNE_F32, z == 0 ? -INFINITY : m + log(z));
  }
}

void Attend(const Problem& c, const attune_exec& x, int64_t longest) {
  double* scores = static_cast<double*>(x.workspace) + x.worker * (longest + c.Dv);
  for (int64_t task = x.task_begin; task < x.task_end; task++) {
    const Sequence s = c.At(task / c.Hq);
    for (int64_t i = 0; i < s.nq; i++) Row(c, s, task % c.Hq, i, scores, scores + longest);
  }
}

// Copies the rows [from, Nk) of head h of the cache: those below `split` from the old cache, then the new ones.
void WriteCache(const Problem& c, int64_t b, int64_t h, const KeyRows& rows, const Axes& out, int64_t width) {
  const bool in_place = rows.split > 0 && out.view.Data() == rows.cached.view.Data();
  const Sequence s = {b, 0, 0, 0, 0, c.Nk, 0};
  const int64_t size = out.view.DType() == ATTUNE_F32 ? 4 : 2;
  for (int64_t j = in_place ? rows.split : 0; j < c.Nk; j++) {
    const RowRef from = c.KeyAt(rows, s, h, j);
    memcpy(static_cast<char*>(out.view.Data()) + out.At(b, h, j) * size,
           static_cast<const char*>(from.view->Data()) + from.offset * size, width * size);
  }
}

}  // namespace

attune_status ReferenceForward(const attune_exec* x) {
  const Problem c = ReadForward(*x);
  const int64_t packed_keys = c.layout == kThd ? c.k.cached.view.Dim(0) : 0;
  Attend(c, *x, packed_keys > c.Nk ? packed_keys : c.Nk);
  return ATTUNE_OK;
}

attune_status ReferenceStep(const attune_exec* x) {
  const Problem c = ReadStep(*x);
  Attend(c, *x, c.Nk);
  for (int64_t task = x->task_begin; task < x->task_end; task++) {
    const int64_t b = task / c.Hq, h = task % c.Hq;
    if (h % c.Group()) continue;  // the first head of a group writes the group's cache
    WriteCache(c, b, h / c.Group(), c.k, c.k_cache_out, c.D);
    WriteCache(c, b, h / c.Group(), c.v, c.v_cache_out, c.Dv);
  }
  return ATTUNE_OK;
}

attune_status ReferenceMerge(const attune_exec* x) {
  enum { kOParts, kLseParts, kO, kLse };
  const View o_parts(x->tensors[kOParts]), lse_parts(x->tensors[kLseParts]), o(x->tensors[kO]), lse(x->tensors[kLse]);
  const int64_t parts = o_parts.Dim(0), heads = o.Dim(1), queries = o.Dim(2), columns = o.Dim(3);
  for (int64_t task = x->task_begin; task < x->task_end; task++) {
    const int64_t b = task / heads, h = task % heads;
    for (int64_t i = 0; i < queries; i++) {
      double m = -INFINITY, w = 0;
      for (int64_t part = 0; part < parts; part++) m = fmax(m, lse_parts.Get(part, b, h, i));
      const bool empty = m == -INFINITY;
      for (int64_t part = 0; part < parts && !empty; part++) w += exp(lse_parts.Get(part, b, h, i) - m);
      for (int64_t e = 0; e < columns; e++) {
        double sum = 0;
        for (int64_t part = 0; part < parts && !empty; part++) {
          const double weight = exp(lse_parts.Get(part, b, h, i) - m);
          if (weight > 0) sum += weight * o_parts.Get(part, b, h, i, e);
        }
        o.Put(empty ? 0 : sum / w, b, h, i, e);
      }
      if (lse) lse.Put(empty ? -INFINITY : m + log(w), b, h, i);
    }
  }
  return ATTUNE_OK;
}

}  // namespace softmax
