// Distillation: the softmax attention of the same keys is the teacher, the normalised linear attention the student.
#include "hedgehog/reference.h"
#include "hedgehog/reference_gradients.h"
#include "hedgehog/reference_map.h"
#include "hedgehog/reference_row.h"

namespace hedgehog {
namespace {

constexpr double kLeastWeight = 1e-12;  // of the student, inside the logarithm

// Teacher and student of one row.
struct Pair {
  double *a_true, *a_pred, *o_true, *o_pred, *log_pred;
  double xent, squares;  // of this row, summed
  double den;            // of the student; 1 where it is 0
  double teacher;        // sum of a_true: 1, or 0 for a row without a key
  double clamped;        // sum of max(a_pred, least weight)

  Pair(const Problem& p, Doubles& memory) {
    a_true = memory.Take(p.Nk), a_pred = memory.Take(p.Nk), log_pred = memory.Take(p.Nk);
    o_true = memory.Take(p.Dv), o_pred = memory.Take(p.Dv);
  }

  void Fill(const Problem& p, int64_t b, int64_t h, int64_t i, const double* phi_q, const double* phi_k) {
    const int64_t end = p.VisibleEnd(i), E = p.E();
    double m = -INFINITY, sum = 0;
    for (int64_t j = 0; j < p.Nk; j++) a_true[j] = a_pred[j] = 0;
    for (int64_t j = 0; j < end; j++) {
      if (p.Real(b, j)) a_true[j] = Score(p, b, h, i, j), m = fmax(m, a_true[j]);
    }
    den = p.norm_eps;
    for (int64_t j = 0; j < end; j++) {
      if (!p.Real(b, j)) continue;
      a_true[j] = exp(a_true[j] - m), sum += a_true[j];
      a_pred[j] = Dot(phi_q, phi_k + j * E, E), den += a_pred[j];
    }
    if (den == 0) den = 1;
    teacher = sum > 0 ? 1 : 0, clamped = 0, xent = 0, squares = 0;
    for (int64_t c = 0; c < p.Dv; c++) o_true[c] = o_pred[c] = 0;
    for (int64_t j = 0; j < p.Nk; j++) {
      if (sum > 0) a_true[j] /= sum;
      a_pred[j] /= den;
      log_pred[j] = log(fmax(a_pred[j], kLeastWeight)), clamped += fmax(a_pred[j], kLeastWeight);
      if (j >= end || !p.Real(b, j)) continue;
      for (int64_t c = 0; c < p.Dv; c++) {
        const double v = p.v.Get(b, h / p.Group(), j, c);
        o_true[c] += a_true[j] * v, o_pred[c] += a_pred[j] * v;
      }
    }
    for (int64_t j = 0; j < p.Nk; j++) xent -= a_true[j] * (log_pred[j] - log(clamped));
    for (int64_t c = 0; c < p.Dv; c++) squares += (o_pred[c] - o_true[c]) * (o_pred[c] - o_true[c]);
  }
};

double Reciprocal(int64_t n) {
  return n > 0 ? 1 / double(n) : 0;  // the mean of nothing is 0
}

// Adds what the rows of one query head give. dxent and dmse are divided by the number of rows and of outputs.
void Head(const Problem& p, int64_t b, int64_t h, double dxent, double dmse, Doubles memory, KeyGradients& keys,
          MapGradients& maps) {
  const int64_t E = p.E();
  double *phi_q = memory.Take(E), *dphi_q = memory.Take(E);
  double *da_true = memory.Take(p.Nk), *da_pred = memory.Take(p.Nk), *residual = memory.Take(p.Dv);
  Pair pair(p, memory);
  keys.MapKeys(p, b, h);
  for (int64_t i = 0; i < p.Nq; i++) {
    maps.MapQuery(p, b, h, i, phi_q);
    pair.Fill(p, b, h, i, phi_q, keys.phi);
    for (int64_t c = 0; c < p.Dv; c++) residual[c] = 2 * dmse * (pair.o_pred[c] - pair.o_true[c]);
    double sum_true = 0, sum_pred = 0;
    for (int64_t j = 0; j < p.VisibleEnd(i); j++) {
      if (!p.Real(b, j)) continue;
      double flow = 0;
      for (int64_t c = 0; c < p.Dv; c++) {
        flow += residual[c] * p.v.Get(b, h / p.Group(), j, c);
        keys.dv[j * p.Dv + c] += (pair.a_pred[j] - pair.a_true[j]) * residual[c];
      }
      const bool free = pair.a_pred[j] >= kLeastWeight;
      da_pred[j] = flow + (free ? dxent * (pair.teacher / pair.clamped - pair.a_true[j] / pair.a_pred[j]) : 0);
      da_true[j] = -flow - dxent * (pair.log_pred[j] - log(pair.clamped));
      sum_true += pair.a_true[j] * da_true[j], sum_pred += pair.a_pred[j] * da_pred[j];
    }
    for (int64_t e = 0; e < E; e++) dphi_q[e] = 0;
    for (int64_t j = 0; j < p.VisibleEnd(i); j++) {
      if (!p.Real(b, j)) continue;
      const double ds = (da_pred[j] - sum_pred) / pair.den;
      for (int64_t e = 0; e < E; e++) {
        dphi_q[e] += ds * keys.phi[j * E + e];
        keys.dphi[j * E + e] += ds * phi_q[e];
      }
      maps.AddScore(p, b, h, i, j, pair.a_true[j] * (da_true[j] - sum_true), keys.dk);
    }
    maps.FinishQuery(p, b, h, i, dphi_q);
  }
  maps.FinishKeys(p, b, h, keys);
}

}  // namespace

attune_status ReferenceDistill(const attune_exec* x) {
  const Problem p = ReadDistill(*x);
  const View a_true(x->tensors[kDisATrue]), a_pred(x->tensors[kDisAPred]);
  const View o_true(x->tensors[kDisOTrue]), o_pred(x->tensors[kDisOPred]);
  const int64_t E = p.E();
  Doubles memory(x->workspace);
  double *phi_k = memory.Take(p.Nk * E), *phi_q = memory.Take(E), *z = memory.Take(p.F);
  Pair pair(p, memory);
  const ReferenceMap keys = ReferenceMap::OfKeys(p), queries = ReferenceMap::OfQueries(p);
  double xent = 0, squares = 0;
  for (int64_t b = 0; b < p.B; b++) {
    for (int64_t h = 0; h < p.Hq; h++) {
      for (int64_t j = 0; j < p.Nk; j++) {
        if (p.Real(b, j)) keys.Features(b, h, j, z, phi_k + j * E);
      }
      for (int64_t i = 0; i < p.Nq; i++) {
        queries.Features(b, h, i, z, phi_q);
        pair.Fill(p, b, h, i, phi_q, phi_k);
        xent += pair.xent, squares += pair.squares;
        for (int64_t j = 0; a_true && j < p.Nk; j++) a_true.Put(pair.a_true[j], b, h, i, j);
        for (int64_t j = 0; a_pred && j < p.Nk; j++) a_pred.Put(pair.a_pred[j], b, h, i, j);
        for (int64_t c = 0; o_true && c < p.Dv; c++) o_true.Put(pair.o_true[c], b, h, i, c);
        for (int64_t c = 0; o_pred && c < p.Dv; c++) o_pred.Put(pair.o_pred[c], b, h, i, c);
      }
    }
  }
  const View xent_out(x->tensors[kDisXent]), mse_out(x->tensors[kDisMse]);
  if (xent_out) xent_out.Put(xent * Reciprocal(p.B * p.Hq * p.Nq), 0);
  if (mse_out) mse_out.Put(squares * Reciprocal(p.B * p.Hq * p.Nq * p.Dv), 0);
  return ATTUNE_OK;
}

attune_status ReferenceDistillBackward(const attune_exec* x) {
  const Problem p = ReadDistill(*x);
  const View dxent(x->tensors[kDbwDxent]), dmse(x->tensors[kDbwDmse]);
  Doubles memory(x->workspace);
  KeyGradients keys(p, memory);
  MapGradients maps(p, memory);
  maps.dq = View(x->tensors[kDbwDq]);
  for (int64_t b = 0; b < p.B; b++) {
    for (int64_t head = 0; head < p.Hkv; head++) {
      keys.Clear(p);
      for (int64_t h = head * p.Group(); h < (head + 1) * p.Group(); h++) {
        Head(p, b, h, dxent ? dxent.Get(0) * Reciprocal(p.B * p.Hq * p.Nq) : 0,
             dmse ? dmse.Get(0) * Reciprocal(p.B * p.Hq * p.Nq * p.Dv) : 0, memory, keys, maps);
      }
      keys.Store(p, b, head, View(x->tensors[kDbwDk]), View(x->tensors[kDbwDv]));
    }
  }
  maps.Store(p, x->tensors + kDbwDwq);
  return ATTUNE_OK;
}

}  // namespace hedgehog
