#include "moh/backward.h"

#include "_kit/isa.h"
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "moh/backward.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "moh/gradient_tile-inl.h"
#include "moh/projection_backward-inl.h"

HWY_BEFORE_NAMESPACE();
namespace moh {
namespace HWY_NAMESPACE {
#if ATTUNE_ISA
namespace {

// The phases of one call. Whoever writes something is its only writer, and how the work is cut depends on sizes, gates
// and knobs alone, so that the bits do not depend on the number of workers:
//   Routes     gates and lists of active rows, as in the forward
//   Pack       keys and values                                           (sequence, kv head, chunk of keys)
//   Rows       active rows gathered, their lse and dg                    (kv head, tile of rows)
//   Logits     gradients of the gates' inputs                            (block of tokens)
//   Keys       dk and dv; a share of dq for every slice of the keys      (kv head, slice)
//   Queries    dq = the sum of its shares                                (head, block of tokens)
//   Bias       dbias                                                     (one block of rows of dbias)
class Backward {
 public:
  explicit Backward(const attune_exec& x)
      : x_(x),
        c_(ReadBackward(x)),
        g_(ReadGradients(x)),
        arena_(x),
        routes_(x, c_, &arena_, true, bool(g_.dl_aux)),
        projection_(x, c_, g_, &arena_),
        query_rows_(x.knobs[kBwdQueryRows]),
        key_rows_(x.knobs[kBwdKeyRows]),
        slices_(x.knobs[kBwdSlices]),
        heads_(c_.B * c_.Hkv),
        chunks_(Tiles(c_.Nk, int64_t(kPackKeys))),
        padded_(chunks_ * int64_t(kPackKeys)),
        ld_q_(int64_t(PadTo32(c_.D))),
        ld_v_(int64_t(PadTo32(c_.Dv))) {
    const int64_t pairs = c_.B * c_.Hq * c_.Nq;
    all_ = {arena_.Floats(pairs * ld_q_), arena_.Floats(pairs * ld_v_), arena_.Floats(pairs), arena_.Floats(pairs),
            reinterpret_cast<Interval*>(arena_.Floats(pairs * 4))};
    dg_ = arena_.Floats(pairs);
    dq_ = arena_.Floats(g_.dq ? slices_ * pairs * ld_q_ : 0);
    packed_ = {arena_.Floats(heads_ * padded_ * c_.D), arena_.Floats(heads_ * padded_ * c_.Dv),
               arena_.Floats(heads_ * padded_ * ld_v_), arena_.Floats(heads_ * padded_ * ld_q_)};
    balance_ = arena_.Doubles(c_.E), token_doubles_ = (c_.Hq + 7) / 8 * 8;
    token_ = arena_.Doubles(token_doubles_ * x.n_workers);
    scratch_floats_ = int64_t(kPanel) * (ld_q_ + ld_v_);
    scratch_ = arena_.Floats(scratch_floats_ * x.n_workers);
    const auto rounded = [](size_t n) { return int64_t(n + 15) / 16 * 16; };
    attention_floats_ = rounded(TileMemory::Floats(c_, size_t(query_rows_), size_t(key_rows_)));
    attention_ = arena_.Floats(attention_floats_ * x.n_workers);
    tile_floats_ = rounded(GradientTile::Floats(c_, size_t(query_rows_), size_t(key_rows_)));
    tiles_ = arena_.Floats(tile_floats_ * x.n_workers);
  }

  attune_status Run() {
    attune_status status = arena_.Checked();
    if (status == ATTUNE_OK) status = projection_.Open();
    const bool scores = g_.dq || g_.dk || g_.dv;
    if (scores || g_.dbias || g_.NeedsGates() || projection_.NeedsOutputs()) {
      if (status == ATTUNE_OK) status = Route();
      if (status == ATTUNE_OK) status = PackAll();
      if (status == ATTUNE_OK) status = Attend();
      if (status == ATTUNE_OK && g_.NeedsGates()) status = Logits();
      if (status == ATTUNE_OK && scores) status = AllKeys();
      if (status == ATTUNE_OK && g_.dq) status = Queries();
      if (status == ATTUNE_OK && g_.dbias) status = Biases();
    }
    if (status == ATTUNE_OK) status = projection_.Close();
    return status == ATTUNE_OK && Cancelled(x_) ? ATTUNE_E_CANCELLED : status;
  }

 private:
  static constexpr int64_t kBlock = 64;  // tokens

  attune_status Route() {
    return routes_.Run([&](int64_t b, int64_t t, const Router& router) {
      for (int64_t h = 0; h < c_.Hq; h++) {
        if (Active(router.Gate(h))) continue;
        Dg(b, t)[h] = 0;
        if (projection_.NeedsOutputs()) {
          memset(projection_.Output(b * c_.Nq + t) + h * c_.Dv, 0, sizeof(float) * size_t(c_.Dv));
        }
      }
    });
  }

  float* Dg(int64_t b, int64_t t) const { return dg_ + (b * c_.Nq + t) * c_.Hq; }
  // The gathered rows of a kv head from row `first` on.
  GatheredRows Gathered(int64_t b, int64_t head, int64_t first) const {
    const int64_t at = routes_.First(b, head) + first;
    return {all_.q + at * ld_q_, all_.d_o + at * ld_v_, all_.lse + at, all_.delta + at, all_.visible + at};
  }
  PackedHead Packed(int64_t b, int64_t head) const {
    const int64_t at = (b * c_.Hkv + head) * padded_;
    return {packed_.key_panels + at * c_.D, packed_.value_panels + at * c_.Dv, packed_.value_columns + at * ld_v_,
            packed_.key_rows + at * ld_q_};
  }
  RowsOfHead Of(int64_t b, int64_t head, int64_t first) const {
    return {routes_.Rows(b, head) + first, b, head, int32_t(c_.Group())};
  }
  GradientTile Tile(uint32_t worker) const {
    return GradientTile(c_, size_t(query_rows_), size_t(key_rows_), tiles_ + worker * tile_floats_);
  }
  // Without bias, scores are in units of log 2.
  double ScoreUnit() const { return c_.bias ? 1 : kLn2; }

  attune_status PackAll() {
    return Parallel(x_, heads_ * chunks_, 1, [&](int64_t n, uint32_t worker) {
      const int64_t b = n / chunks_ / c_.Hkv, head = n / chunks_ % c_.Hkv, first = n % chunks_ * int64_t(kPackKeys);
      if (routes_.Count(b, head) == 0 && !g_.dg_head) return;
      const Interval valid = {c_.key_start ? Problem::Index(c_.key_start, b) : 0,
                              c_.seqlens_k ? Problem::Index(c_.seqlens_k, b) : c_.Nk};
      const PackedHead to = Packed(b, head);
      float* rows = scratch_ + worker * scratch_floats_;
      const auto key = [&](int64_t j) { return c_.Key(b, head, j); };
      const auto value = [&](int64_t j) { return c_.Value(b, head, j); };
      PackPanels(first, int64_t(kPackKeys), valid, size_t(c_.D), rows, to.key_panels, key);
      PackPanels(first, int64_t(kPackKeys), valid, size_t(c_.Dv), rows, to.value_panels, value);
      PackColumns(first, int64_t(kPackKeys), valid, size_t(c_.Dv), size_t(padded_), to.value_columns, value);
      for (int64_t j = first; j < first + int64_t(kPackKeys); j++) {
        if (j < valid.begin || j >= valid.end) continue;
        const RowRef row = key(j);
        LoadRow(*row.view, row.offset, size_t(c_.D), 1, to.key_rows + j * ld_q_);
      }
    });
  }

  // Attention of the active rows again, and, for who asks for the gradients of given gates, of the others.
  attune_status Attend() {
    const int64_t rows = g_.dg_head ? c_.Group() * c_.Nq : routes_.MostRows();
    const int64_t tiles = Tiles(rows, query_rows_) + 1;
    return Parallel(x_, heads_ * tiles, 1, [&](int64_t n, uint32_t worker) {
      const int64_t b = n % heads_ / c_.Hkv, head = n % heads_ % c_.Hkv, active = routes_.Count(b, head);
      const int64_t own = Tiles(active, query_rows_), i = n / heads_;
      const bool probe = i >= own;
      const int64_t first = probe ? active + (i - own) * query_rows_ : i * query_rows_;
      const int64_t left = (probe ? rows : active) - first;
      if (left <= 0 || (probe && !g_.dg_head)) return;
      const int64_t count = left < query_rows_ ? left : query_rows_;
      c_.bias ? Rows<false>(b, head, first, count, probe, worker) : Rows<true>(b, head, first, count, probe, worker);
    });
  }

  template <bool kPlain>
  void Rows(int64_t b, int64_t head, int64_t first, int64_t count, bool probe, uint32_t worker) const {
    const TileMemory w(c_, size_t(query_rows_), size_t(key_rows_), attention_ + worker * attention_floats_);
    const RowsOfHead of = Of(b, head, first);
    const PackedHead packed = Packed(b, head);
    const PackedKeys keys(packed.key_panels, packed.value_columns, size_t(padded_), size_t(c_.D), size_t(c_.Dv));
    Attention<PackedKeys, kPlain> attention(c_, w, keys, of, size_t(count));
    const Interval seen = attention.Start();
    attention.Attend(seen.begin, seen.end);
    const GatheredRows to = Gathered(b, head, first);
    float *d_o = scratch_ + worker * scratch_floats_, *out = d_o + ld_v_;
    attention.ForEachRow([&](size_t r, const float* row, float factor) {
      const int64_t h = of.Head(r), t = of.Token(r);
      projection_.LoadUpstream(b, h, t, d_o);
      kit::Widen(row, size_t(c_.Dv), factor, out);
      Dg(b, t)[h] = DotRow(d_o, out, size_t(c_.Dv));
      if (probe) return;
      const float gate = routes_.Gate(b, h, t);
      float* gated = to.d_o + int64_t(r) * ld_v_;
      kit::Widen(static_cast<const float*>(d_o), size_t(c_.Dv), gate, gated);
      memcpy(to.q + int64_t(r) * ld_q_, w.q + r * w.ld_q, sizeof(float) * size_t(ld_q_));
      to.lse[r] = float(attention.Lse(r) / ScoreUnit()), to.visible[r] = w.visible[r];
      to.delta[r] = DotInOrder(gated, out, size_t(c_.Dv));
      if (!projection_.NeedsOutputs()) return;
      float* o = projection_.Output(b * c_.Nq + t) + h * c_.Dv;
      for (int64_t e = 0; e < c_.Dv; e++) o[e] = gate * out[e];
    });
  }

  attune_status Logits() {
    const bool balance = g_.dl_aux && g_.dlogits_r;
    for (int64_t e = 0; e < c_.E && balance; e++) {
      balance_[e] = g_.dl_aux.Get(0) * double(c_.E) * routes_.MeanShare(e) / double(c_.Tokens());
    }
    const int64_t blocks = routes_.Blocks();
    return Parallel(x_, c_.B * blocks, 1, [&](int64_t n, uint32_t worker) {
      const int64_t b = n / blocks, first = n % blocks * Routes::kBlock;
      const int64_t last = first + Routes::kBlock < c_.Nq ? first + Routes::kBlock : c_.Nq;
      double* dg = token_ + worker * token_doubles_;
      routes_.ForTokens(b, first, last, worker, [&](int64_t t, const Router& router) {
        for (int64_t h = 0; h < c_.Hq; h++) dg[h] = Dg(b, t)[h];
        router.StoreGradients(g_, b, t, dg, balance ? balance_ : nullptr);
      });
    });
  }

  attune_status AllKeys() {
    return Parallel(x_, heads_ * slices_, 1, [&](int64_t n, uint32_t worker) {
      const int64_t b = n / slices_ / c_.Hkv, head = n / slices_ % c_.Hkv;
      c_.bias ? Keys<false>(b, head, n % slices_, worker) : Keys<true>(b, head, n % slices_, worker);
    });
  }

  float* Dq(int64_t slice, int64_t row) const { return dq_ + (slice * c_.B * c_.Hq * c_.Nq + row) * ld_q_; }

  // Every slices_-th tile of keys of one kv head, against all its active rows.
  template <bool kPlain>
  void Keys(int64_t b, int64_t head, int64_t slice, uint32_t worker) const {
    const int64_t count = routes_.Count(b, head);
    const PackedHead packed = Packed(b, head);
    GradientTile t = Tile(worker);
    if (g_.dq) memset(Dq(slice, routes_.First(b, head)), 0, sizeof(float) * size_t(count * ld_q_));
    for (int64_t j = slice * key_rows_; j < c_.Nk; j += slices_ * key_rows_) {
      if (Cancelled(x_)) return;
      const int64_t left = c_.Nk - j, keys = left < key_rows_ ? left : key_rows_;
      const bool fresh = j + keys > c_.Np;  // gradients of cached keys are nobody's
      memset(t.dk, 0, sizeof(float) * size_t(keys) * t.ld_q);
      memset(t.dv, 0, sizeof(float) * size_t(keys) * t.ld_v);
      for (int64_t i = 0; i < count; i += query_rows_) {
        const int64_t rows = count - i < query_rows_ ? count - i : query_rows_;
        const GatheredRows r = Gathered(b, head, i);
        if (!t.Find(r, size_t(rows), j, size_t(keys))) continue;
        t.Fill<kPlain>(c_, packed, r, Of(b, head, i));
        if (g_.dq) {
          kit::AddProduct<false>(t.seen, t.rows, t.ds, t.ld_s, packed.key_rows + j * ld_q_, size_t(ld_q_), size_t(c_.D),
                                 Dq(slice, routes_.First(b, head) + i), size_t(ld_q_));
        }
        if (!fresh) continue;
        t.FindColumns();
        if (g_.dv) {
          kit::AddProduct<true>(t.columns, t.keys, t.p, t.ld_s, r.d_o, size_t(ld_v_), size_t(c_.Dv), t.dv, t.ld_v);
        }
        if (g_.dk) {
          kit::AddProduct<true>(t.columns, t.keys, t.ds, t.ld_s, r.q, size_t(ld_q_), size_t(c_.D), t.dk, t.ld_q);
        }
      }
      for (int64_t key = j > c_.Np ? j : c_.Np; key < j + keys; key++) {
        const int64_t n = key - c_.Np;
        // Through q, which carries scale and the unit of the scores.
        const float unit = float(ScoreUnit());
        if (g_.dk) StoreRow(t.dk + size_t(key - j) * t.ld_q, size_t(c_.D), unit, g_.dk, g_.dk.Offset(b, head, n));
        if (g_.dv) StoreRow(t.dv + size_t(key - j) * t.ld_v, size_t(c_.Dv), 1, g_.dv, g_.dv.Offset(b, head, n));
      }
    }
  }

  attune_status Queries() {
    const int64_t blocks = Tiles(c_.Nq, kBlock);
    return Parallel(x_, c_.B * c_.Hq * blocks, 1, [&](int64_t n, uint32_t) {
      const int64_t b = n / blocks / c_.Hq, h = n / blocks % c_.Hq, first = n % blocks * kBlock;
      for (int64_t t = first; t < c_.Nq && t < first + kBlock; t++) {
        const int64_t place = routes_.Place(b, h, t), at = g_.dq.Offset(b, h, t);
        if (place < 0) {
          ClearRow(g_.dq, at, size_t(c_.D));
          continue;
        }
        const int64_t row = routes_.First(b, h / c_.Group()) + place;
        for (int64_t slice = 1; slice < slices_; slice++) {
          kit::AddScaled(static_cast<const float*>(Dq(slice, row)), size_t(c_.D), 1.0f, Dq(0, row));
        }
        StoreRow(Dq(0, row), size_t(c_.D), float(c_.scale), g_.dq, at);
      }
    });
  }

  attune_status Biases() {
    const View& out = g_.dbias;
    if (out.Dim(2) == 0 || out.Dim(3) == 0) return ATTUNE_OK;
    const int64_t tiles = out.Dim(2) > 1 ? Tiles(c_.Nq, query_rows_) : 1;
    return Parallel(x_, out.Dim(0) * out.Dim(1) * tiles, 1, [&](int64_t n, uint32_t worker) {
      const int64_t first = n % tiles * query_rows_, left = out.Dim(2) - first;
      const int64_t rows = left < query_rows_ ? left : query_rows_, b = n / tiles / out.Dim(1);
      const int64_t h = n / tiles % out.Dim(1);
      if (out.Dim(3) > 1) return Bias(b, h, first, size_t(rows), worker);
      // What is added to all scores of a row changes no weight: its gradient is 0, not a sum of rounding errors.
      for (int64_t t = first; t < first + rows; t++) ClearRow(out, out.Offset(b, h, t), 1);
    });
  }

  // Rows [first, first + count) of dbias for its batch entry b and head h: of that many queries, or of all together.
  void Bias(int64_t b, int64_t h, int64_t first, size_t count, uint32_t worker) const {
    const View& out = g_.dbias;
    GradientTile tile = Tile(worker);
    const bool each_query = out.Dim(2) > 1;
    for (int64_t j = 0; j < c_.Nk; j += key_rows_) {
      const int64_t rest = c_.Nk - j, keys = rest < key_rows_ ? rest : key_rows_;
      memset(tile.sum, 0, sizeof(float) * count * tile.ld_s);
      for (int64_t batch = 0; batch < c_.B; batch++) {
        for (int64_t head = 0; head < c_.Hq; head++) {
          if ((out.Dim(0) > 1 && batch != b) || c_.BiasHead(head) != h) continue;
          for (int64_t t = first; t < (each_query ? first + 1 : c_.Nq); t += query_rows_) {
            AddToBias(&tile, batch, head, t, j, keys, each_query);
          }
        }
      }
      for (size_t r = 0; r < count; r++) {
        StoreRow(tile.sum + r * tile.ld_s, size_t(keys), 1, out, out.Offset(b, h, first + int64_t(r), j));
      }
    }
  }

  // Adds the gradients of the scores of one head: tokens from `first` on, keys [j, j + keys).
  void AddToBias(GradientTile* tile, int64_t b, int64_t h, int64_t first, int64_t j, int64_t keys,
                 bool each_query) const {
    const int64_t head = h / c_.Group();
    const GatheredRows to = tile->own;
    size_t n = 0;
    for (int64_t t = first; t < c_.Nq && t < first + query_rows_; t++) {
      const int32_t place = routes_.Place(b, h, t);
      if (place < 0) continue;
      const GatheredRows from = Gathered(b, head, place);
      memcpy(to.q + n * tile->ld_q, from.q, sizeof(float) * size_t(ld_q_));
      memcpy(to.d_o + n * tile->ld_v, from.d_o, sizeof(float) * size_t(ld_v_));
      to.lse[n] = *from.lse, to.delta[n] = *from.delta, to.visible[n] = *from.visible;
      tile->codes[n++] = int32_t(t * c_.Group() + h % c_.Group());
    }
    if (n == 0 || !tile->Find(to, n, j, size_t(keys))) return;
    tile->Fill<false>(c_, Packed(b, head), to, {tile->codes, b, head, int32_t(c_.Group())});
    const hn::ScalableTag<float> d;
    for (size_t r = 0; r < n; r++) {
      const int64_t t = tile->codes[r] / c_.Group();
      float* sums = tile->sum + (each_query ? size_t(t - first) : 0) * tile->ld_s;
      const Range v = tile->seen[r];
      for (int i = v.begin; i < v.end; i += kLanes) {
        const auto term =
            hn::IfThenElseZero(hn::FirstN(d, size_t(v.end - i)), hn::LoadU(d, tile->ds + r * tile->ld_s + i));
        hn::StoreU(hn::Add(hn::LoadU(d, sums + i), term), d, sums + i);
      }
    }
  }

  const attune_exec& x_;
  const Problem c_;
  const Gradients g_;
  Arena arena_;
  Routes routes_;
  ProjectionBackward projection_;
  const int64_t query_rows_, key_rows_, slices_;
  const int64_t heads_, chunks_, padded_, ld_q_, ld_v_;
  GatheredRows all_;           // every pair has room, by kv head
  PackedHead packed_;          // of all kv heads
  float *dg_, *dq_;            // [B, Nq, Hq]; shares of dq [slices, pairs, ld_q]
  double *balance_, *token_;   // what the balance loss sends to each probability; dg of a token, per worker
  float *scratch_, *attention_, *tiles_;  // per worker
  int64_t token_doubles_, scratch_floats_, attention_floats_, tile_floats_;
};

}  // namespace

attune_status TiledBackward(const attune_exec* x) {
  return Backward(*x).Run();
}

#endif  // ATTUNE_ISA
}  // namespace HWY_NAMESPACE
}  // namespace moh
HWY_AFTER_NAMESPACE();
