// The gradients as loops over (kv head, batch, query), in double.
#include <math.h>

#include "nsa/reference.h"

namespace nsa {
namespace {

// Double sums of one kv head. plugin.cpp reserves exactly this.
struct Sums {
  double *dk[kBranches], *dv[kBranches];  // by branch: Nc or Nk rows, of this batch entry
  double *dw_k, *dw_v, *dpe_k, *dpe_v;    // over the batch
  double *dp, *dq, *dq_cmp;               // of one row

  Sums(const Problem& c, double* at) {
    const auto take = [&](int64_t n) {
      double* p = at;
      at += n;
      return p;
    };
    for (int id = 0; id < kBranches; id++) {
      dk[id] = take((id == kCmp ? c.Nc : c.Nk) * c.D);
      dv[id] = take((id == kCmp ? c.Nc : c.Nk) * c.Dv);
    }
    dw_k = take(WeightSize(c, c.key)), dw_v = take(WeightSize(c, c.value));
    dpe_k = take(c.key.position ? c.l * c.D : 0), dpe_v = take(c.value.position ? c.l * c.Dv : 0);
    dp = take(c.Nk > c.Nc ? c.Nk : c.Nc), dq = take(c.D), dq_cmp = take(c.D);
  }
  static int64_t WeightSize(const Problem& c, const Compression& x) {
    return !x.weight ? 0 : c.mode == kLinear ? c.l * x.width * x.width : c.l;
  }
};

void Clear(double* p, int64_t n) {
  for (int64_t i = 0; i < n; i++) p[i] = 0;
}

// Adds what query i of head h gives to the sums of a branch, and its own gradient to dq. Returns <do, o> of the branch.
double Row(const Problem& c, const Gradients& g, const Attended& a, int64_t b, int64_t h, int64_t i, double gate,
           const double* p, double* dp, double* dq, double* dk, double* dv) {
  double ungated = 0;
  ForEachKey(a, [&](int64_t j) {
    dp[j] = 0;
    for (int64_t e = 0; e < c.Dv; e++) dp[j] += g.d_o.Get(b, h, i, e) * a.v.At(j, e);
    ungated += p[j] * dp[j];
  });
  ForEachKey(a, [&](int64_t j) {
    const double ds = c.scale * p[j] * gate * (dp[j] - ungated);
    for (int64_t e = 0; e < c.D; e++) {
      dq[e] += ds * a.k.At(j, e);
      dk[j * c.D + e] += ds * a.q->Get(b, h, i, e);
    }
    for (int64_t e = 0; e < c.Dv; e++) dv[j * c.Dv + e] += p[j] * gate * g.d_o.Get(b, h, i, e);
  });
  return ungated;
}

void Query(const Problem& c, const Gradients& g, int64_t b, int64_t head, int64_t i, const ReferenceMemory& m,
           const Sums& s) {
  const int64_t n_blocks = ChooseBlocks(c, b, head, i, m);
  for (int64_t h = head * c.Group(); h < (head + 1) * c.Group(); h++) {
    Clear(s.dq, c.D), Clear(s.dq_cmp, c.D);
    for (int id = 0; id < kBranches; id++) {
      const BranchId branch = BranchId(id);
      double slope = 0;
      if (c.use[id]) {
        const Attended a = Attend(c, branch, b, head, i, n_blocks, m);
        Weights(c, a, b, h, i, m.p);
        double* dq = id == kCmp && c.own_q_cmp ? s.dq_cmp : s.dq;
        slope = Row(c, g, a, b, h, i, c.Gate(branch, b, h, i), m.p, s.dp, dq, s.dk[id], s.dv[id]);
      }
      if (g.dgate[id]) g.dgate[id].Put(c.GateSlope(branch, b, h, i) * slope, b, h, i);
    }
    for (int64_t e = 0; e < c.D && g.dq; e++) g.dq.Put(s.dq[e], b, h, i, e);
    for (int64_t e = 0; e < c.D && g.dq_cmp; e++) g.dq_cmp.Put(s.dq_cmp[e], b, h, i, e);
  }
}

// From the gradient `dy` of compressed rows: adds to dx (rows of tokens), dw and dpe.
void CompressBackward(const Problem& p, const Compression& c, int64_t b, int64_t head, const double* dy, double* dx,
                      double* dw, double* dpe) {
  for (int64_t entry = 0; entry < p.Nc; entry++) {
    const double* d = dy + entry * c.width;
    for (int64_t m = 0; m < p.l; m++) {
      const int64_t token = entry * p.d + m;
      for (int64_t n = 0; n < c.width; n++) {
        const double x = c.source.Get(b, head, token, n) + (c.position ? c.position.Get(head, m, n) : 0);
        double slope = 0;
        if (p.mode == kMean) slope = d[n] / double(p.l);
        if (p.mode == kWeighted) slope = c.weight.Get(head, m) * d[n], dw[m] += x * d[n];
        for (int64_t e = 0; e < c.width && p.mode == kLinear; e++) {
          slope += d[e] * c.weight.Get(head, m * c.width + n, e);
          dw[(m * c.width + n) * c.width + e] += x * d[e];
        }
        dx[token * c.width + n] += slope;
        if (c.position) dpe[m * c.width + n] += slope;
      }
    }
  }
}

void Store(const View& out, int64_t b, int64_t head, const double* rows, int64_t width) {
  for (int64_t j = 0; out && j < out.Dim(2); j++) {
    for (int64_t e = 0; e < width; e++) out.Put(rows[j * width + e], b, head, j, e);
  }
}

// Where several branches use the same tensor its gradient is their sum: the branches' sums are added into the first.
void StoreTokens(const Problem& c, const Compression& x, int64_t b, int64_t head, double* const* sums, double* dw,
                 double* dpe, const View& d_token, const View& d_window, const View& d_source, const View& d_known) {
  const int64_t size = c.Nk * x.width;
  double *token = sums[kSlc], *window = sums[kSwa];
  if (!x.own_window) {
    for (int64_t n = 0; n < size; n++) token[n] += window[n];
  } else {
    Store(d_window, b, head, window, x.width);
  }
  if (c.mode == kGiven) {
    Store(d_known, b, head, sums[kCmp], x.width);
  } else if (c.use[kCmp]) {
    double* source = token;
    if (x.own_source) Clear(source = window, size);  // the window's sums are stored or added by now
    CompressBackward(c, x, b, head, sums[kCmp], source, dw, dpe);
    if (x.own_source) Store(d_source, b, head, source, x.width);
  } else if (x.own_source) {
    Clear(window, size);
    Store(d_source, b, head, window, x.width);
  }
  Store(d_token, b, head, token, x.width);
}

void StoreWeights(const Problem& c, const Compression& x, int64_t head, const double* dw, const double* dpe,
                  const View& d_weight, const View& d_position) {
  for (int64_t m = 0; m < c.l; m++) {
    if (d_weight && c.mode == kWeighted) d_weight.Put(dw[m], head, m);
    for (int64_t n = 0; n < x.width; n++) {
      if (d_position) d_position.Put(dpe[m * x.width + n], head, m, n);
      for (int64_t e = 0; e < x.width && d_weight && c.mode == kLinear; e++) {
        d_weight.Put(dw[(m * x.width + n) * x.width + e], head, m * x.width + n, e);
      }
    }
  }
}

}  // namespace

attune_status ReferenceBackward(const attune_exec* x) {
  const Problem c = ReadBackward(*x);
  const Gradients g = ReadGradients(*x);
  const ReferenceMemory m(c, x->workspace);
  const Sums s(c, m.end);
  for (int64_t head = 0; head < c.Hkv; head++) {
    Clear(s.dw_k, s.dp - s.dw_k);
    for (int64_t b = 0; b < c.B; b++) {
      Clear(s.dk[0], s.dw_k - s.dk[0]);
      CompressAll(c, b, head, c.Scores(), c.use[kCmp], m);
      for (int64_t i = 0; i < c.Nq; i++) {
        if (x->cancel && __atomic_load_n(x->cancel, __ATOMIC_RELAXED)) return ATTUNE_E_CANCELLED;
        Query(c, g, b, head, i, m, s);
      }
      StoreTokens(c, c.key, b, head, s.dk, s.dw_k, s.dpe_k, g.dk, g.dk_swa, g.dk_src, g.dk_cmp);
      StoreTokens(c, c.value, b, head, s.dv, s.dw_v, s.dpe_v, g.dv, g.dv_swa, g.dv_src, g.dv_cmp);
    }
    StoreWeights(c, c.key, head, s.dw_k, s.dpe_k, g.dw_k, g.dpe_k);
    StoreWeights(c, c.value, head, s.dw_v, s.dpe_v, g.dw_v, g.dpe_v);
  }
  return ATTUNE_OK;
}

}  // namespace nsa
