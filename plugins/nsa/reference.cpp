#include "nsa/reference.h"

#include <math.h>

namespace nsa {

ReferenceMemory::ReferenceMemory(const Problem& c, void* workspace) {
  const int64_t keys = c.Nk > c.Nc ? c.Nk : c.Nc, most = c.Nk / c.block + 1;  // most blocks
  k_cmp = static_cast<double*>(workspace);
  v_cmp = k_cmp + (c.Nc - c.key.n_known) * c.D;
  p = v_cmp + (c.Nc - c.value.n_known) * c.Dv;
  group = p + keys;
  score = group + c.Nc;
  out = score + most;
  spans = reinterpret_cast<Range*>(out + c.Dv);
  blocks = reinterpret_cast<int32_t*>(spans + most);
  end = reinterpret_cast<double*>(blocks + most + most % 2);
}

// ---- compression

double CompressedAt(const Problem& p, const Compression& c, int64_t b, int64_t head, int64_t entry, int64_t e) {
  if (entry < c.n_known) return c.known.Get(b, head, entry, e);
  const auto token = [&](int64_t m, int64_t component) {
    const double x = c.source.Get(b, head, entry * p.d + m, component);
    return c.position ? x + c.position.Get(head, m, component) : x;
  };
  double sum = 0;
  for (int64_t m = 0; m < p.l; m++) {
    if (p.mode == kMean) sum += token(m, e) / double(p.l);
    if (p.mode == kWeighted) sum += c.weight.Get(head, m) * token(m, e);
    for (int64_t n = 0; n < c.width && p.mode == kLinear; n++) {
      sum += token(m, n) * c.weight.Get(head, m * c.width + n, e);
    }
  }
  return sum;
}

void CompressAll(const Problem& c, int64_t b, int64_t head, bool keys, bool values, const ReferenceMemory& w) {
  for (int64_t j = 0; j < c.Nc - c.key.n_known && keys; j++) {
    for (int64_t e = 0; e < c.D; e++) {
      w.k_cmp[j * c.D + e] = CompressedAt(c, c.key, b, head, c.key.n_known + j, e);
    }
  }
  for (int64_t j = 0; j < c.Nc - c.value.n_known && values; j++) {
    for (int64_t e = 0; e < c.Dv; e++) {
      w.v_cmp[j * c.Dv + e] = CompressedAt(c, c.value, b, head, c.value.n_known + j, e);
    }
  }
}

Rows CompressedRows(const Problem& c, bool keys, int64_t b, int64_t head, const ReferenceMemory& m) {
  const Compression& x = keys ? c.key : c.value;
  return {&x.known, keys ? m.k_cmp : m.v_cmp, b, head, x.width, x.n_known};
}

// ---- one branch

Attended Attend(const Problem& c, BranchId id, int64_t b, int64_t head, int64_t i, int64_t n_blocks,
                const ReferenceMemory& m) {
  const int64_t t = c.Position(i);
  if (id == kCmp) {
    m.spans[0] = {0, c.VisibleCompressed(t)};
    return {&c.q_cmp, CompressedRows(c, true, b, head, m), CompressedRows(c, false, b, head, m), m.spans, 1};
  }
  if (id == kSwa) {
    m.spans[0] = c.WindowTokens(t);
    return {&c.q, {&c.k_swa, nullptr, b, head, c.D, INT64_MAX}, {&c.v_swa, nullptr, b, head, c.Dv, INT64_MAX}, m.spans, 1};
  }
  for (int64_t s = 0; s < n_blocks; s++) m.spans[s] = c.BlockTokens(m.blocks[s], t);
  return {&c.q, {&c.k, nullptr, b, head, c.D, INT64_MAX}, {&c.v, nullptr, b, head, c.Dv, INT64_MAX}, m.spans, n_blocks};
}

double Weights(const Problem& c, const Attended& a, int64_t b, int64_t h, int64_t i, double* p) {
  double top = -INFINITY, z = 0;
  ForEachKey(a, [&](int64_t j) {
    double dot = 0;
    for (int64_t e = 0; e < c.D; e++) dot += a.q->Get(b, h, i, e) * a.k.At(j, e);
    p[j] = c.scale * dot;
    top = fmax(top, p[j]);
  });
  ForEachKey(a, [&](int64_t j) {
    p[j] = exp(p[j] - top);
    z += p[j];
  });
  ForEachKey(a, [&](int64_t j) { p[j] /= z; });
  return z == 0 ? -INFINITY : top + log(z);
}

// ---- selection

namespace {

// m.score[j] = the sum over the group's probabilities of compressed keys, each as often as strides of its window lie in
// block j.
void ScoreBlocks(const Problem& c, int64_t visible, int64_t blocks, const ReferenceMemory& m) {
  for (int64_t j = 0; j < blocks; j++) {
    m.score[j] = 0;
    for (int64_t n = 0; n < c.block / c.d; n++) {
      for (int64_t r = 0; r < c.l / c.d; r++) {
        const int64_t entry = j * (c.block / c.d) + n - r;
        if (entry >= 0 && entry < visible) m.score[j] += m.group[entry];
      }
    }
  }
}

int64_t Select(const Problem& c, int64_t t, const ReferenceMemory& m) {
  const int64_t candidates = t / c.block + 1;
  ScoreBlocks(c, c.VisibleCompressed(t), candidates, m);
  // The forced ones first, then the best of the others; of equals the first. A chosen block's score becomes NaN, which
  // is never the best.
  int64_t n = 0;
  for (int64_t j = 0; j < candidates; j++) {
    if (!c.Forced(j, t)) continue;
    m.blocks[n++] = int32_t(j);
    m.score[j] = NAN;
  }
  while (n < c.top_n && n < candidates) {
    int64_t best = -1;
    for (int64_t j = 0; j < candidates; j++) {
      if (m.score[j] >= 0 && (best < 0 || m.score[j] > m.score[best])) best = j;
    }
    if (best < 0) break;  // scores that are NaN from the start
    m.blocks[n++] = int32_t(best);
    m.score[best] = NAN;
  }
  for (int64_t a = 1; a < n; a++) {  // ascending
    for (int64_t s = a; s > 0 && m.blocks[s - 1] > m.blocks[s]; s--) {
      const int32_t swap = m.blocks[s];
      m.blocks[s] = m.blocks[s - 1], m.blocks[s - 1] = swap;
    }
  }
  return n;
}

}  // namespace

int64_t ChooseBlocks(const Problem& c, int64_t b, int64_t head, int64_t i, const ReferenceMemory& m) {
  if (!c.use[kSlc]) return 0;
  if (c.indices) return c.GivenBlocks(b, head, i, m.blocks);
  const Attended a = Attend(c, kCmp, b, head, i, 0, m);
  ForEachKey(a, [&](int64_t j) { m.group[j] = 0; });
  for (int64_t h = head * c.Group(); h < (head + 1) * c.Group(); h++) {
    Weights(c, a, b, h, i, m.p);
    ForEachKey(a, [&](int64_t j) { m.group[j] += m.p[j]; });
  }
  return Select(c, c.Position(i), m);
}

// ---- the entries

namespace {

void Query(const Problem& c, int64_t b, int64_t head, int64_t i, const ReferenceMemory& m) {
  const int64_t n_blocks = ChooseBlocks(c, b, head, i, m);
  for (int64_t s = 0; s < c.top_n && c.indices_out; s++) {
    int32_t* row = static_cast<int32_t*>(c.indices_out.Data()) + c.indices_out.Offset(b, head, i);
    row[s * c.indices_out.Stride(3)] = s < n_blocks ? m.blocks[s] : -1;
  }
  for (int64_t h = head * c.Group(); h < (head + 1) * c.Group(); h++) {
    for (int64_t e = 0; e < c.Dv; e++) m.out[e] = 0;
    for (int id = 0; id < kBranches; id++) {
      if (!c.use[id]) continue;
      const Attended a = Attend(c, BranchId(id), b, head, i, n_blocks, m);
      const double lse = Weights(c, a, b, h, i, m.p), gate = c.Gate(BranchId(id), b, h, i);
      if (c.lse[id]) c.lse[id].Put(lse, b, h, i);
      for (int64_t e = 0; e < c.Dv; e++) {
        double o = 0;
        ForEachKey(a, [&](int64_t j) { o += m.p[j] * a.v.At(j, e); });
        if (c.o_branch[id]) c.o_branch[id].Put(o, b, h, i, e);
        m.out[e] += gate * o;
      }
    }
    for (int64_t e = 0; e < c.Dv; e++) c.o.Put(m.out[e], b, h, i, e);
  }
}

attune_status Run(const attune_exec& x, const Problem& c) {
  const ReferenceMemory m(c, x.workspace);
  const bool step = bool(c.k_cache_out);
  for (int64_t b = 0; b < c.B; b++) {
    for (int64_t head = 0; head < c.Hkv; head++) {
      if (step) {
        AppendTokens(c.k_cache, c.k_new, c.k_cache_out, b, head, c.D);
        AppendTokens(c.v_cache, c.v_new, c.v_cache_out, b, head, c.Dv);
      }
      CompressAll(c, b, head, c.Scores() || c.k_cmp_out, c.use[kCmp] || c.v_cmp_out || c.v_state_out, m);
      const auto store = [&](const Rows& rows, const View& out) {
        for (int64_t j = 0; j < c.Nc && out; j++) {
          for (int64_t e = 0; e < rows.width; e++) out.Put(rows.At(j, e), b, head, j, e);
        }
      };
      const Rows keys = CompressedRows(c, true, b, head, m), values = CompressedRows(c, false, b, head, m);
      store(keys, c.k_cmp_out), store(keys, c.k_state_out);
      store(values, c.v_cmp_out), store(values, c.v_state_out);
      for (int64_t i = 0; i < c.Nq; i++) {
        if (x.cancel && __atomic_load_n(x.cancel, __ATOMIC_RELAXED)) return ATTUNE_E_CANCELLED;
        Query(c, b, head, i, m);
      }
    }
  }
  return ATTUNE_OK;
}

}  // namespace

attune_status ReferenceForward(const attune_exec* x) {
  return Run(*x, ReadForward(*x));
}

attune_status ReferenceStep(const attune_exec* x) {
  return Run(*x, ReadStep(*x));
}

}  // namespace nsa
