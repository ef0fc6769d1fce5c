#include "sla/reference.h"

#include <math.h>

namespace sla {

ReferenceMemory::ReferenceMemory(const Problem& c, void* workspace) {
  double* at = static_cast<double*>(workspace);
  const auto take = [&](int64_t n) {
    double* p = at;
    at += n;
    return p;
  };
  k_mean = take(c.Nb * c.D), q_mean = take(c.D), score = take(c.Nb);
  k_mapped = take(c.Nk * c.D), q_mapped = take(c.D);
  p = take(c.Nk), a = take(c.Nk);
  o_s = take(c.Dv), o_l = take(c.Dv);
  block_class = take(c.Nb);
  end = at;
}

// ---- feature maps

void MapFeatures(FeatureMap map, const double* x, int64_t n, double* y) {
  if (map == kSoftmax) {
    double top = -INFINITY, sum = 0;
    for (int64_t e = 0; e < n; e++) top = fmax(top, x[e]);
    for (int64_t e = 0; e < n; e++) sum += y[e] = exp(x[e] - top);
    for (int64_t e = 0; e < n; e++) y[e] /= sum;
    return;
  }
  for (int64_t e = 0; e < n; e++) {
    if (map == kElu1) y[e] = x[e] > 0 ? x[e] + 1 : exp(x[e]);
    if (map == kRelu) y[e] = x[e] > 0 ? x[e] : 0;
  }
}

void MapFeaturesBackward(FeatureMap map, const double* x, const double* y, const double* dy, int64_t n, double* dx) {
  double mean = 0;
  for (int64_t e = 0; e < n; e++) mean += y[e] * dy[e];
  for (int64_t e = 0; e < n; e++) {
    if (map == kSoftmax) dx[e] += y[e] * (dy[e] - mean);
    if (map == kElu1) dx[e] += dy[e] * (x[e] > 0 ? 1 : exp(x[e]));
    if (map == kRelu) dx[e] += x[e] > 0 ? dy[e] : 0;
  }
}

// ---- block map

namespace {

// mean[0, D) of the rows of a block.
void BlockMean(const View& rows, int64_t b, int64_t head, const Range& block, int64_t width, double* mean) {
  for (int64_t e = 0; e < width; e++) {
    mean[e] = 0;
    for (int64_t n = block.begin; n < block.end; n++) mean[e] += rows.Get(b, head, n, e);
    mean[e] /= double(block.Count());
  }
}

double Dot(const double* a, const double* b, int64_t n) {
  double sum = 0;
  for (int64_t e = 0; e < n; e++) sum += a[e] * b[e];
  return sum;
}

// How many blocks come before block j: the larger score first, of equals the lower index.
int64_t Rank(const double* score, int64_t n, int64_t j) {
  int64_t rank = 0;
  for (int64_t other = 0; other < n; other++) {
    rank += score[other] > score[j] || (score[other] == score[j] && other < j);
  }
  return rank;
}

}  // namespace

void PrepareKeys(const Problem& c, int64_t b, int64_t h, const ReferenceMemory& m) {
  const int64_t head = h / c.Group();
  for (int64_t j = 0; j < c.Nb; j++) BlockMean(c.k, b, head, c.Keys(j), c.D, m.k_mean + j * c.D);
  for (int64_t j = 0; j < c.Nk; j++) {
    double* y = m.k_mapped + j * c.D;
    for (int64_t e = 0; e < c.D; e++) m.q_mean[e] = c.k.Get(b, head, j, e);
    MapFeatures(c.map, m.q_mean, c.D, y);
  }
}

void ClassifyBlocks(const Problem& c, int64_t b, int64_t h, int64_t i, const ReferenceMemory& m) {
  BlockMean(c.q, b, h, c.Queries(i), c.D, m.q_mean);
  for (int64_t j = 0; j < c.Nb; j++) m.score[j] = Dot(m.q_mean, m.k_mean + j * c.D, c.D);
  for (int64_t j = 0; j < c.Nb; j++) {
    const int64_t rank = Rank(m.score, c.Nb, j);
    m.block_class[j] = rank < c.n_critical ? kCritical : rank >= c.Nb - c.n_negligible ? kNegligible : kOther;
  }
}

// ---- the two branches

ReferenceRow ComputeRow(const Problem& c, int64_t b, int64_t h, int64_t row, const ReferenceMemory& m) {
  const int64_t head = h / c.Group();
  double top = -INFINITY, z = 0;
  ForEachCriticalKey(c, m, [&](int64_t j) {
    double dot = 0;
    for (int64_t e = 0; e < c.D; e++) dot += c.q.Get(b, h, row, e) * c.k.Get(b, head, j, e);
    m.p[j] = c.scale * dot;
    top = fmax(top, m.p[j]);
  });
  ForEachCriticalKey(c, m, [&](int64_t j) { z += m.p[j] = exp(m.p[j] - top); });
  ForEachCriticalKey(c, m, [&](int64_t j) { m.p[j] /= z; });

  for (int64_t e = 0; e < c.D; e++) m.q_mean[e] = c.q.Get(b, h, row, e);
  MapFeatures(c.map, m.q_mean, c.D, m.q_mapped);
  bool any = false;
  double sum = 0;
  ForEachLinearKey(c, m, [&](int64_t j) {
    any = true;
    sum += m.a[j] = Dot(m.q_mapped, m.k_mapped + j * c.D, c.D);
  });
  const double denominator = any ? sum + c.eps : 0;

  for (int64_t e = 0; e < c.Dv; e++) {
    m.o_s[e] = m.o_l[e] = 0;
    ForEachCriticalKey(c, m, [&](int64_t j) { m.o_s[e] += m.p[j] * c.v.Get(b, head, j, e); });
    if (denominator == 0) continue;
    ForEachLinearKey(c, m, [&](int64_t j) { m.o_l[e] += m.a[j] * c.v.Get(b, head, j, e); });
    m.o_l[e] /= denominator;
  }
  return {z == 0 ? -INFINITY : top + log(z), denominator};
}

// ---- the entry

namespace {

void StoreRow(const Problem& c, int64_t b, int64_t h, int64_t row, double lse, const ReferenceMemory& m) {
  for (int64_t e = 0; e < c.Dv; e++) {
    double o = m.o_s[e];
    for (int64_t n = 0; n < c.Dv && c.w_proj; n++) o += c.w_proj.Get(e, n) * m.o_l[n];
    if (c.b_proj) o += c.b_proj.Get(e);
    c.o.Put(o, b, h, row, e);
    if (c.o_s) c.o_s.Put(m.o_s[e], b, h, row, e);
    if (c.o_l) c.o_l.Put(m.o_l[e], b, h, row, e);
  }
  if (c.lse_s) c.lse_s.Put(lse, b, h, row);
}

}  // namespace

attune_status ReferenceForward(const attune_exec* x) {
  const Problem c = ReadForward(*x);
  const ReferenceMemory m(c, x->workspace);
  for (int64_t b = 0; b < c.B; b++) {
    for (int64_t h = 0; h < c.Hq; h++) {
      PrepareKeys(c, b, h, m);
      for (int64_t i = 0; i < c.Mb; i++) {
        if (Cancelled(*x)) return ATTUNE_E_CANCELLED;
        ClassifyBlocks(c, b, h, i, m);
        for (int64_t j = 0; j < c.Nb && c.block_map; j++) {
          static_cast<int32_t*>(c.block_map.Data())[c.block_map.Offset(b, h, i, j)] = int32_t(m.block_class[j]);
        }
        const Range rows = c.Queries(i);
        for (int64_t row = rows.begin; row < rows.end; row++) {
          StoreRow(c, b, h, row, ComputeRow(c, b, h, row, m).lse, m);
        }
      }
    }
  }
  return ATTUNE_OK;
}

}  // namespace sla
