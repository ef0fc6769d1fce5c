#include "mala/reference.h"

#include "mala/scalar_rows.h"

namespace mala {
namespace {

// Sums over the keys that a query sees, or their gradients.
struct Sums {
  double *p, *z, *v;  // P [D][Dv] of rotated keys and values, Z [D] of keys, V [Dv] of values
  int64_t n;          // how many
};

class Reference {
 public:
  Reference(const Problem& c, double* scratch) : c_(c), scratch_(scratch) {
    sums_ = TakeSums();
    a_ = Take(c.D), ar_ = Take(c.D), b_ = Take(c.D), br_ = Take(c.D), v_ = Take(c.Dv), y_ = Take(c.Dv);
  }

  // All heads of batch entry b.
  void Forward(int64_t b) {
    for (int64_t h = 0; h < c_.Hkv; h++) {
      LoadStates(b, h);
      if (!c_.causal) AbsorbAll(b, h);
      for (int64_t i = 0; i < c_.Nq; i++) {
        if (c_.causal) Absorb(b, h, i);
        for (int64_t g = h * c_.Group(); g < (h + 1) * c_.Group(); g++) {
          const Row r = Query(b, g, i);
          for (int64_t e = 0; e < c_.Dv; e++) Store(r.beta * y_[e] - r.z * Mean(e), c_.o, b, g, i, e);
        }
      }
      StoreStates(b, h);
    }
    c_.StoreCount(b);
  }

  // Gradients of batch entry b. The queries are visited in order for dq, then again, from the last one in the causal
  // form, for what they send to the keys.
  void Backward(int64_t b) {
    Sums d = TakeSums();
    double *const dy = Take(c_.Dv), *const da = Take(c_.D), *const dar = Take(c_.D);
    double *const z = Take(c_.Group() * c_.Nq), *const dz = Take(c_.Group() * c_.Nq);
    for (int64_t h = 0; h < c_.Hkv; h++) {
      LoadStates(b, h);
      if (!c_.causal) AbsorbAll(b, h);
      for (int64_t i = 0; i < c_.Nq; i++) {
        if (c_.causal) Absorb(b, h, i);
        for (int64_t g = 0; g < c_.Group(); g++) {
          const int64_t head = h * c_.Group() + g;
          const Row r = Query(b, head, i);
          double do_y = 0, do_mean = 0;
          for (int64_t e = 0; e < c_.Dv; e++) {
            const double g_o = Load(c_.d_o, b, head, i, e);
            dy[e] = r.beta * g_o;
            do_y += g_o * y_[e], do_mean += g_o * Mean(e);
          }
          const double s = r.z + c_.norm_eps;
          z[g * c_.Nq + i] = r.z;
          dz[g * c_.Nq + i] = -do_y / (s * s) - do_mean;
          if (!c_.dq) continue;
          for (int64_t k = 0; k < c_.D; k++) dar[k] = Scale() * Dot(sums_.p + k * c_.Dv, dy, c_.Dv);
          RotateBack(c_, dar, i, da);
          for (int64_t k = 0; k < c_.D; k++) {
            const double slope = FeatureMapSlope(Load(c_.q, b, head, i, k));
            Store(slope * (da[k] + Scale() * dz[g * c_.Nq + i] * sums_.z[k]), c_.dq, b, head, i, k);
          }
        }
      }

      Clear(d);
      if (!c_.causal) {
        for (int64_t i = 0; i < c_.Nq; i++) AbsorbGradients(b, h, i, z, dz, dy, d);
      }
      for (int64_t j = c_.Nk; j-- > 0;) {
        if (c_.causal) {
          sums_.n = c_.in.Count(b) + j + 1;
          AbsorbGradients(b, h, j, z, dz, dy, d);
        }
        KeyGradients(b, h, j, d, dar, da);
      }
    }
  }

 private:
  struct Row {
    double z, beta;
  };

  double* Take(int64_t n) {
    double* p = scratch_;
    scratch_ += n;
    return p;
  }
  Sums TakeSums() { return {Take(c_.D * c_.Dv), Take(c_.D), Take(c_.Dv), 0}; }
  void Clear(Sums& s) const {
    for (int64_t i = 0; i < c_.D * c_.Dv; i++) s.p[i] = 0;
    for (int64_t i = 0; i < c_.D; i++) s.z[i] = 0;
    for (int64_t i = 0; i < c_.Dv; i++) s.v[i] = 0;
    s.n = 0;
  }

  // scale / n and V / n; without any key everything is 0.
  double Scale() const { return sums_.n > 0 ? c_.scale / double(sums_.n) : 0; }
  double Mean(int64_t e) const { return sums_.n > 0 ? sums_.v[e] / double(sums_.n) : 0; }

  void LoadStates(int64_t b, int64_t h) {
    Clear(sums_);
    sums_.n = c_.in.Count(b);
    if (!c_.in.kv) return;
    for (int64_t d = 0; d < c_.D; d++) {
      for (int64_t e = 0; e < c_.Dv; e++) sums_.p[d * c_.Dv + e] = c_.in.kv.Get(b, h, d, e);
      sums_.z[d] = c_.in.k.Get(b, h, d);
    }
    for (int64_t e = 0; e < c_.Dv; e++) sums_.v[e] = c_.in.v.Get(b, h, e);
  }
  void StoreStates(int64_t b, int64_t h) const {
    for (int64_t d = 0; d < c_.D; d++) {
      for (int64_t e = 0; c_.out.kv && e < c_.Dv; e++) c_.out.kv.Put(sums_.p[d * c_.Dv + e], b, h, d, e);
      if (c_.out.k) c_.out.k.Put(sums_.z[d], b, h, d);
    }
    for (int64_t e = 0; c_.out.v && e < c_.Dv; e++) c_.out.v.Put(sums_.v[e], b, h, e);
  }

  void LoadKey(int64_t b, int64_t h, int64_t j) {
    LoadMapped(c_, c_.k, b, h, j, b_, br_);
    for (int64_t e = 0; e < c_.Dv; e++) v_[e] = Load(c_.v, b, h, j, e);
  }

  // Adds key j to the sums.
  void Absorb(int64_t b, int64_t h, int64_t j) {
    LoadKey(b, h, j);
    for (int64_t d = 0; d < c_.D; d++) {
      for (int64_t e = 0; e < c_.Dv; e++) sums_.p[d * c_.Dv + e] += br_[d] * v_[e];
      sums_.z[d] += b_[d];
    }
    for (int64_t e = 0; e < c_.Dv; e++) sums_.v[e] += v_[e];
    sums_.n++;
  }
  void AbsorbAll(int64_t b, int64_t h) {
    for (int64_t j = 0; j < c_.Nk; j++) {
      if (c_.Visible(b, j)) Absorb(b, h, j);
    }
  }

  // Loads query i: a_, ar_, y_ and what is returned.
  Row Query(int64_t b, int64_t h, int64_t i) {
    LoadMapped(c_, c_.q, b, h, i, a_, ar_);
    const double z = Scale() * Dot(a_, sums_.z, c_.D);
    for (int64_t e = 0; e < c_.Dv; e++) {
      double sum = 0;
      for (int64_t d = 0; d < c_.D; d++) sum += ar_[d] * sums_.p[d * c_.Dv + e];
      y_[e] = Scale() * sum;
    }
    return {z, 1 + 1 / (z + c_.norm_eps)};
  }

  // Adds what the queries of token i send to the sums they used.
  void AbsorbGradients(int64_t b, int64_t h, int64_t i, const double* z, const double* dz, double* dy, Sums& d) {
    for (int64_t g = 0; g < c_.Group(); g++) {
      const int64_t head = h * c_.Group() + g, row = g * c_.Nq + i;
      const double beta = 1 + 1 / (z[row] + c_.norm_eps), mean = sums_.n > 0 ? z[row] / double(sums_.n) : 0;
      LoadMapped(c_, c_.q, b, head, i, a_, ar_);
      for (int64_t e = 0; e < c_.Dv; e++) {
        const double g_o = Load(c_.d_o, b, head, i, e);
        dy[e] = beta * g_o;
        d.v[e] -= mean * g_o;
      }
      for (int64_t k = 0; k < c_.D; k++) {
        for (int64_t e = 0; e < c_.Dv; e++) d.p[k * c_.Dv + e] += Scale() * ar_[k] * dy[e];
        d.z[k] += Scale() * dz[row] * a_[k];
      }
    }
  }

  // dk and dv of key j; 0 for a padded one, which is not read. dbr, db: scratch.
  void KeyGradients(int64_t b, int64_t h, int64_t j, const Sums& d, double* dbr, double* db) {
    const bool visible = c_.Visible(b, j);
    if (visible) LoadKey(b, h, j);
    for (int64_t k = 0; k < c_.D; k++) dbr[k] = visible ? Dot(d.p + k * c_.Dv, v_, c_.Dv) : 0;
    RotateBack(c_, dbr, j, db);
    for (int64_t k = 0; c_.dk && k < c_.D; k++) {
      const double slope = visible ? FeatureMapSlope(Load(c_.k, b, h, j, k)) : 0;
      Store(slope * (db[k] + d.z[k]), c_.dk, b, h, j, k);
    }
    for (int64_t e = 0; c_.dv && e < c_.Dv; e++) {
      double sum = visible ? d.v[e] : 0;
      for (int64_t k = 0; visible && k < c_.D; k++) sum += d.p[k * c_.Dv + e] * br_[k];
      Store(sum, c_.dv, b, h, j, e);
    }
  }

  const Problem& c_;
  double* scratch_;
  Sums sums_;
  double *a_, *ar_, *b_, *br_, *v_, *y_;  // rows of the current query and key; r: rotated
};

// The expressions in reference.h reserve exactly this many doubles per worker.
int64_t ForwardDoubles(const Problem& c) {
  return c.D * c.Dv + 5 * c.D + 3 * c.Dv;
}
int64_t BackwardDoubles(const Problem& c) {
  return 2 * c.D * c.Dv + 8 * c.D + 5 * c.Dv + 2 * c.Group() * c.Nq;
}

attune_status Forward(const attune_exec& x, Call call) {
  const Problem c = Read(x, call);
  double* scratch = static_cast<double*>(x.workspace) + x.worker * ForwardDoubles(c);
  for (int64_t b = x.task_begin; b < x.task_end; b++) Reference(c, scratch).Forward(b);
  return ATTUNE_OK;
}

}  // namespace

attune_status ReferenceForward(const attune_exec* x) {
  return Forward(*x, kForward);
}
attune_status ReferenceStep(const attune_exec* x) {
  return Forward(*x, kStep);
}
attune_status ReferenceBackward(const attune_exec* x) {
  const Problem c = Read(*x, kBackward);
  double* scratch = static_cast<double*>(x->workspace) + x->worker * BackwardDoubles(c);
  for (int64_t b = x->task_begin; b < x->task_end; b++) Reference(c, scratch).Backward(b);
  return ATTUNE_OK;
}

}  // namespace mala
