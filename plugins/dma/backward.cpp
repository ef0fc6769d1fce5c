#include "dma/backward.h"

#include "_kit/isa.h"
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "dma/backward.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "dma/gradient_tile-inl.h"

HWY_BEFORE_NAMESPACE();
namespace dma {
namespace HWY_NAMESPACE {
#if ATTUNE_ISA
namespace {

constexpr int64_t kTokens = 64;  // keys of a task that stores gradients

// Phases; whoever writes something is its only writer, so that the bits do not depend on the number of workers:
//   Find       biases and deaths of all keys
//   Tiles      dq; what each slice of the tiles gives to the keys            (batch, kv head, slice)
//   Sampled    gradients of the sampled numbers, dw_a, db_dt                (kv head)
//   Tokens     dk, dv: the sum of the slices, and the part through the bias (batch, kv head, keys)
//   Weights    dw_dt                                                        (kv head, kv head)
//   Biases     dbias                                                        (a row of dbias, or a tile of it)
class Backward {
 public:
  Backward(const attune_exec& x, const Problem& c, const Gradients& g)
      : x_(x),
        c_(c),
        g_(g),
        positions_(TilePositions(c, x.knobs[kBwdRows])),
        tiles_((c.Nq + positions_ - 1) / positions_),
        slices_(x.knobs[kBwdSlices] < tiles_ ? x.knobs[kBwdSlices] : tiles_),
        ld_q_(PadTo32(c.D)),
        ld_o_(PadTo32(c.Dv)),
        selection_(c) {
    sampled_ = c.Sampled() && (g.dv || g.dw_dt || g.db_dt || g.dw_a);
    per_key_ = g.dbias && c.BiasPerKey();
    want_dk_ = bool(g.dk), want_dv_ = bool(g.dv), want_dbias_ = sampled_ || per_key_;
    Carver m(static_cast<float*>(x.workspace));
    (void)m.Take(selection_.Place(c, sampled_, m.Take(0)));
    const size_t rows = size_t(c.B * c.Hkv * c.Nk), sums = size_t(slices_) * rows;
    dbias_ = reinterpret_cast<double*>(m.Take(want_dbias_ ? 2 * sums : 0));
    ddt_ = reinterpret_cast<double*>(m.Take(sampled_ ? 2 * rows : 0));
    dk_ = m.Take(want_dk_ ? sums * ld_q_ : 0), dv_ = m.Take(want_dv_ ? sums * ld_o_ : 0);
    Carver tile(nullptr);
    (void)GradientTile(c, g, selection_, positions_, &tile);
    tile_floats_ = tile.Used();
    if (g.dbias && !per_key_) (void)tile.Take(BiasRows() * size_t(c.Nk + 32));
    const size_t tokens = ld_q_ + 4 * ld_o_ + 64;
    scratch_floats_ = tile.Used();
    if (scratch_floats_ < Selection::Scratch(c)) scratch_floats_ = (Selection::Scratch(c) + 15) / 16 * 16;
    if (scratch_floats_ < tokens) scratch_floats_ = tokens;
    scratch_ = m.Take(scratch_floats_ * x.n_workers);
    needed_ = m.Used() * sizeof(float);
  }

  attune_status Run() {
    if (needed_ > x_.workspace_bytes) {
      return attune_fail(x_.error, ATTUNE_E_WORKSPACE, "", "the kernel reserved less workspace than it needs");
    }
    const int64_t heads = c_.B * c_.Hkv, chunks = (c_.Nk + kTokens - 1) / kTokens;
    attune_status status = selection_.Find(x_, c_, [&](uint32_t worker) { return Scratch(worker); });
    if (status == ATTUNE_OK) {
      status = Parallel(x_, heads * slices_, [&](int64_t n, uint32_t w) { Tiles(n / slices_, n % slices_, w); });
    }
    if (status == ATTUNE_OK && sampled_) {
      status = Parallel(x_, c_.Hkv, [&](int64_t head, uint32_t) { Sampled(head); });
    }
    if (status == ATTUNE_OK && (want_dk_ || want_dv_)) {
      status = Parallel(x_, heads * chunks, [&](int64_t n, uint32_t w) {
        Tokens(n / chunks, n % chunks * kTokens, Scratch(w));
      });
    }
    if (status == ATTUNE_OK && g_.dw_dt) {
      status = Parallel(x_, c_.Hkv * c_.Hkv, [&](int64_t n, uint32_t w) {
        Weights(n / c_.Hkv, n % c_.Hkv, Scratch(w));
      });
    }
    if (status == ATTUNE_OK && per_key_) {
      status = Parallel(x_, c_.bias.Dim(0) * c_.bias.Dim(1), [&](int64_t n, uint32_t) {
        KeyBiases(n / c_.bias.Dim(1), n % c_.bias.Dim(1));
      });
    } else if (status == ATTUNE_OK && g_.dbias) {
      const int64_t parts = c_.bias.Dim(2) > 1 ? tiles_ : 1, owners = c_.bias.Dim(0) * BiasHeads();
      status = Parallel(x_, owners * parts, [&](int64_t n, uint32_t w) {
        ElementBiases(n / parts / BiasHeads(), n / parts % BiasHeads(), n % parts, w);
      });
    }
    return status == ATTUNE_OK && Cancelled(x_) ? ATTUNE_E_CANCELLED : status;
  }

 private:
  float* Scratch(uint32_t worker) const { return scratch_ + worker * scratch_floats_; }
  size_t SliceRow(int64_t n, int64_t slice) const { return size_t((n * slices_ + slice) * c_.Nk); }
  int64_t Count(int64_t first) const { return c_.Nq - first < positions_ ? c_.Nq - first : positions_; }

  // Every slice takes every slices_-th tile, so that all have early and late ones.
  void Tiles(int64_t n, int64_t slice, uint32_t worker) const {
    Carver m(Scratch(worker));
    GradientTile tile(c_, g_, selection_, positions_, &m);
    const size_t row = SliceRow(n, slice), keys = size_t(c_.Nk);
    const KeySums sums = {want_dk_ ? dk_ + row * ld_q_ : nullptr, want_dv_ ? dv_ + row * ld_o_ : nullptr,
                          want_dbias_ ? dbias_ + row : nullptr};
    if (sums.dk) memset(sums.dk, 0, sizeof(float) * keys * ld_q_);
    if (sums.dv) memset(sums.dv, 0, sizeof(float) * keys * ld_o_);
    if (sums.dbias) memset(sums.dbias, 0, sizeof(double) * keys);
    for (int64_t t = slice; t < tiles_ && !Cancelled(x_); t += slices_) {
      tile.Run(n / c_.Hkv, n % c_.Hkv, t * positions_, Count(t * positions_), sums);
    }
  }

  // Gradient of the bias of key j of head n.
  double BiasGradient(int64_t n, int64_t j) const {
    double sum = 0;
    for (int64_t s = 0; s < slices_; s++) sum += dbias_[SliceRow(n, s) + size_t(j)];
    return sum;
  }

  // A key that no query keeps has none, whatever its value is.
  HWY_NOINLINE void Sampled(int64_t head) const {
    double dw_a = 0, db_dt = 0;
    const double w_a = c_.w_a.Get(head);
    for (int64_t b = 0; b < c_.B; b++) {
      const int64_t n = b * c_.Hkv + head;
      for (int64_t j = 0; j < c_.Nk; j++) {
        double core = BiasGradient(n, j), ddt = 0;
        if (core != 0) {
          const double dt = selection_.Sampled(n)[j];
          if (c_.bias_mode == kExp) core *= selection_.Bias(n)[j];
          ddt = core * w_a * Sigmoid(dt);
          dw_a += core * Softplus(dt), db_dt += ddt;
        }
        ddt_[n * c_.Nk + j] = ddt;
      }
    }
    if (g_.dw_a) g_.dw_a.Put(dw_a, head);
    if (g_.db_dt) g_.db_dt.Put(db_dt, head);
  }

  HWY_NOINLINE void Tokens(int64_t n, int64_t first, float* row) const {
    const int64_t b = n / c_.Hkv, head = n % c_.Hkv, last = c_.Nk - first < kTokens ? c_.Nk : first + kTokens;
    const auto add = [&](const float* sums, size_t ld, int64_t j, float factor) {
      memset(row, 0, sizeof(float) * ld);
      for (int64_t s = 0; s < slices_; s++) kit::AddScaled(sums + (SliceRow(n, s) + size_t(j)) * ld, ld, factor, row);
    };
    for (int64_t j = first; j < last; j++) {
      if (want_dk_) {
        add(dk_, ld_q_, j, float(kLn2));  // the queries were in units of log2
        StoreRow(row, size_t(c_.D), 1, {&g_.dk, g_.dk.Offset(b, head, j)});
      }
      if (!want_dv_) continue;
      add(dv_, ld_o_, j, 1);
      for (int64_t h = 0; h < c_.Hkv && sampled_; h++) {
        const double ddt = ddt_[(b * c_.Hkv + h) * c_.Nk + j];
        if (ddt != 0) kit::AddScaled(selection_.Weights(h) + head * c_.Dv, size_t(c_.Dv), float(ddt), row);
      }
      StoreRow(row, size_t(c_.Dv), 1, {&g_.dv, g_.dv.Offset(b, head, j)});
    }
  }

  // dw_dt of `head` for the values of kv head `of`.
  HWY_NOINLINE void Weights(int64_t head, int64_t of, float* scratch) const {
    const size_t width = size_t(c_.Dv);
    float* row = scratch;
    double* sum = reinterpret_cast<double*>(scratch + ld_o_);
    for (size_t e = 0; e < width; e++) sum[e] = 0;
    for (int64_t b = 0; b < c_.B; b++) {
      for (int64_t j = 0; j < c_.Nk; j++) {
        const double ddt = ddt_[(b * c_.Hkv + head) * c_.Nk + j];
        if (ddt == 0) continue;
        LoadRow(c_.v.At(b, of, j), width, 1, row);
        for (size_t e = 0; e < width; e++) sum[e] += ddt * double(row[e]);
      }
    }
    for (size_t e = 0; e < width; e++) g_.dw_dt.Put(sum[e], head, of * c_.Dv + int64_t(e));
  }

  // dbias that has one number per key: [1|B, 1|Hkv, 1, 1|Nk].
  HWY_NOINLINE void KeyBiases(int64_t b, int64_t head) const {
    const int64_t d0 = c_.bias.Dim(0), d1 = c_.bias.Dim(1), d3 = c_.bias.Dim(3);
    double all = 0;
    for (int64_t j = 0; j < c_.Nk; j++) {
      double sum = 0;
      for (int64_t i = d0 > 1 ? b : 0; i < (d0 > 1 ? b + 1 : c_.B); i++) {
        for (int64_t h = d1 > 1 ? head : 0; h < (d1 > 1 ? head + 1 : c_.Hkv); h++) {
          sum += BiasGradient(i * c_.Hkv + h, j);
        }
      }
      all += sum;
      if (d3 > 1) g_.dbias.Put(sum, b, head, 0, j);
    }
    if (d3 == 1) g_.dbias.Put(all, b, head, 0, 0);
  }

  // Other shapes of dbias: an owner is a kv head of it, or all of them; it has a row per head and position of a tile,
  // as far as dbias has.
  int64_t BiasHeads() const { return c_.bias.Dim(1) > 1 ? c_.Hkv : 1; }
  int64_t BiasRowHeads() const { return c_.bias.Dim(1) > c_.Hkv ? c_.Group() : 1; }
  size_t BiasRows() const { return size_t(BiasRowHeads() * (c_.bias.Dim(2) > 1 ? positions_ : 1)); }

  HWY_NOINLINE void ElementBiases(int64_t owner_b, int64_t owner_head, int64_t part, uint32_t worker) const {
    Carver m(Scratch(worker));
    GradientTile tile(c_, g_, selection_, positions_, &m);
    const int64_t d0 = c_.bias.Dim(0), d1 = c_.bias.Dim(1), d2 = c_.bias.Dim(2), d3 = c_.bias.Dim(3);
    const int64_t row_heads = BiasRowHeads();
    const size_t ld = size_t(c_.Nk + 32);
    float* sums = Scratch(worker) + tile_floats_;
    memset(sums, 0, sizeof(float) * BiasRows() * ld);
    const auto row = [&](int64_t g, int64_t i) { return (row_heads > 1 ? g : 0) + row_heads * (d2 > 1 ? i : 0); };
    for (int64_t b = d0 > 1 ? owner_b : 0; b < (d0 > 1 ? owner_b + 1 : c_.B); b++) {
      for (int64_t head = d1 > 1 ? owner_head : 0; head < (d1 > 1 ? owner_head + 1 : c_.Hkv); head++) {
        for (int64_t t = d2 > 1 ? part : 0; t < (d2 > 1 ? part + 1 : tiles_) && !Cancelled(x_); t++) {
          tile.ForEachPanel(b, head, t * positions_, Count(t * positions_), [&](size_t first) {
            const KeyList& keys = tile.Queries().Keys();
            for (size_t i = 0; i < kPanel && first + i < size_t(tile.Queries().Rows()); i++) {
              const int64_t r = int64_t(first + i);
              float* to = sums + size_t(row(r % c_.Group(), r / c_.Group())) * ld;
              const float* ds = tile.ScoreGradients() + i;
              for (int64_t k = 0; k < keys.count; k++) to[keys.keys[k]] += ds[size_t(k) * kPanel];
            }
          });
        }
      }
    }
    const int64_t first = d2 > 1 ? part * positions_ : 0, queries = d2 > 1 ? Count(first) : 1;
    for (int64_t g = 0; g < row_heads; g++) {
      const int64_t h = row_heads > 1 ? owner_head * c_.Group() + g : owner_head;
      for (int64_t i = 0; i < queries; i++) {
        const float* from = sums + size_t(row(g, i)) * ld;
        if (d3 > 1) {
          StoreRow(from, size_t(c_.Nk), 1, {&g_.dbias, g_.dbias.Offset(owner_b, h, first + i)});
          continue;
        }
        double all = 0;
        for (int64_t j = 0; j < c_.Nk; j++) all += from[j];
        g_.dbias.Put(all, owner_b, h, first + i, 0);
      }
    }
  }

  const attune_exec& x_;
  const Problem& c_;
  const Gradients& g_;
  int64_t positions_, tiles_, slices_;
  size_t ld_q_, ld_o_, tile_floats_, scratch_floats_, needed_;
  Selection selection_;
  bool sampled_, per_key_, want_dk_, want_dv_, want_dbias_;
  double *dbias_, *ddt_;
  float *dk_, *dv_, *scratch_;
};

}  // namespace

attune_status TiledBackward(const attune_exec* x) {
  const Problem c = ReadBackward(*x);
  const Gradients g = ReadGradients(*x);
  return Backward(*x, c, g).Run();
}

#endif  // ATTUNE_ISA
}  // namespace HWY_NAMESPACE
}  // namespace dma
HWY_AFTER_NAMESPACE();
