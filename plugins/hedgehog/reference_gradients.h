// What the two backward references share: gradients that are summed over queries, heads and batch, in double.
#ifndef ATTUNE_HEDGEHOG_REFERENCE_GRADIENTS_H_
#define ATTUNE_HEDGEHOG_REFERENCE_GRADIENTS_H_
#include "hedgehog/reference_map.h"
#include "hedgehog/reference_row.h"

namespace hedgehog {

// Keys of one (batch, kv head), summed over the query heads of the group; features of the current query head.
struct KeyGradients {
  double *z, *raw, *phi, *dphi;  // Nk rows of F, 2F, 2F, 2F
  double *dk, *dv;               // Nk rows of D, Dv

  KeyGradients(const Problem& p, Doubles& memory) {
    z = memory.Take(p.Nk * p.F), raw = memory.Take(p.Nk * p.E());
    phi = memory.Take(p.Nk * p.E()), dphi = memory.Take(p.Nk * p.E());
    dk = memory.Take(p.Nk * p.D), dv = memory.Take(p.Nk * p.Dv);
  }
  void Clear(const Problem& p) {
    for (int64_t i = 0; i < p.Nk * p.D; i++) dk[i] = 0;
    for (int64_t i = 0; i < p.Nk * p.Dv; i++) dv[i] = 0;
  }
  // Features of the keys for query head h. Padded keys are not read: their gradients stay 0.
  void MapKeys(const Problem& p, int64_t b, int64_t h) {
    const ReferenceMap map = ReferenceMap::OfKeys(p);
    const int64_t E = p.E();
    for (int64_t i = 0; i < p.Nk * E; i++) dphi[i] = 0;
    for (int64_t j = 0; j < p.Nk; j++) {
      if (!p.Real(b, j)) continue;
      map.Logits(b, h, j, z + j * p.F);
      map.Raw(z + j * p.F, raw + j * E);
      for (int64_t e = 0; e < E; e++) phi[j * E + e] = map.Clamp(raw[j * E + e]);
    }
  }
  void Store(const Problem& p, int64_t b, int64_t head, const View& dk_out, const View& dv_out) const {
    for (int64_t j = 0; j < p.Nk; j++) {
      for (int64_t d = 0; dk_out && d < p.D; d++) dk_out.Put(dk[j * p.D + d], b, head, j, d);
      for (int64_t c = 0; dv_out && c < p.Dv; c++) dv_out.Put(dv[j * p.Dv + c], b, head, j, c);
    }
  }
};

// Both maps, and the gradient of the current query.
struct MapGradients {
  View dq;

  MapGradients(const Problem& p, Doubles& memory) {
    dw_q_ = memory.TakeZeros(p.w_q.Dim(0) * p.D * p.F), dw_k_ = memory.TakeZeros(p.w_k.Dim(0) * p.D * p.F);
    db_q_ = memory.TakeZeros(p.Hq * p.F), db_k_ = memory.TakeZeros(p.Hq * p.F);
    z_ = memory.Take(p.F), raw_ = memory.Take(p.E()), dz_ = memory.Take(p.F), dq_row_ = memory.Take(p.D);
  }

  void MapQuery(const Problem& p, int64_t b, int64_t h, int64_t i, double* phi) {
    const ReferenceMap map = ReferenceMap::OfQueries(p);
    map.Logits(b, h, i, z_);
    map.Raw(z_, raw_);
    for (int64_t e = 0; e < p.E(); e++) phi[e] = map.Clamp(raw_[e]);
    for (int64_t d = 0; d < p.D; d++) dq_row_[d] = 0;
  }
  // du: gradient of scale q_i . k_j
  void AddScore(const Problem& p, int64_t b, int64_t h, int64_t i, int64_t j, double du, double* dk) {
    for (int64_t d = 0; d < p.D; d++) {
      dq_row_[d] += p.scale * du * p.k.Get(b, h / p.Group(), j, d);
      dk[j * p.D + d] += p.scale * du * p.q.Get(b, h, i, d);
    }
  }
  void FinishQuery(const Problem& p, int64_t b, int64_t h, int64_t i, double* dphi) {
    const ReferenceMap map = ReferenceMap::OfQueries(p);
    map.LogitGradient(z_, raw_, dphi, dz_);
    map.AddGradients(b, h, i, dz_, dq_row_, dw_q_ + p.MapHead(p.w_q, h) * p.D * p.F, db_q_ + h * p.F);
    for (int64_t d = 0; dq && d < p.D; d++) dq.Put(dq_row_[d], b, h, i, d);
  }
  void FinishKeys(const Problem& p, int64_t b, int64_t h, KeyGradients& keys) {
    const ReferenceMap map = ReferenceMap::OfKeys(p);
    for (int64_t j = 0; j < p.Nk; j++) {
      if (!p.Real(b, j)) continue;
      map.LogitGradient(keys.z + j * p.F, keys.raw + j * p.E(), keys.dphi + j * p.E(), dz_);
      map.AddGradients(b, h, j, dz_, keys.dk + j * p.D, dw_k_ + p.MapHead(p.w_k, h) * p.D * p.F, db_k_ + h * p.F);
    }
  }

  // out: dw_q, dw_k, db_q, db_k
  void Store(const Problem& p, const attune_tensor* const* out) const {
    const double* const dw[] = {dw_q_, dw_k_};
    for (int side = 0; side < 2; side++) {
      const View w(out[side]);
      for (int64_t h = 0; w && h < w.Dim(0); h++) {
        for (int64_t d = 0; d < p.D; d++) {
          for (int64_t f = 0; f < p.F; f++) w.Put(dw[side][(h * p.D + d) * p.F + f], h, d, f);
        }
      }
    }
    StoreBias(p, View(out[2]), p.b_q, db_q_);
    StoreBias(p, View(out[3]), p.b_k, db_k_);
  }

 private:
  // Sums over the heads and, for one number per head, the features that share an element.
  static void StoreBias(const Problem& p, const View& out, const View& bias, const double* db) {
    for (int64_t head = 0; out && head < out.Dim(0); head++) {
      for (int64_t column = 0; column < out.Dim(1); column++) {
        double sum = 0;
        for (int64_t h = 0; h < p.Hq; h++) {
          for (int64_t f = 0; f < p.F; f++) {
            if (p.MapHead(bias, h) == head && (out.Dim(1) == 1 || f == column)) sum += db[h * p.F + f];
          }
        }
        out.Put(sum, head, column);
      }
    }
  }

  double *dw_q_, *dw_k_, *db_q_, *db_k_;
  double *z_, *raw_, *dz_, *dq_row_;
};

}  // namespace hedgehog
#endif  // ATTUNE_HEDGEHOG_REFERENCE_GRADIENTS_H_
