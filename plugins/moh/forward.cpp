#include "moh/forward.h"

#include "_kit/isa.h"
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "moh/forward.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "moh/lanes-inl.h"
#include "moh/projection-inl.h"

HWY_BEFORE_NAMESPACE();
namespace moh {
namespace HWY_NAMESPACE {
#if ATTUNE_ISA
namespace {

// Phases: gates and lists of active rows; attention of the rows; projection. Every element of o and lse is written
// once: by the router where the pair is inactive, by the attention where it is active.
class Forward {
 public:
  attune_status Finish(attune_status status) {
    if (status == ATTUNE_OK) status = projection_.Run();
    if (status == ATTUNE_OK && c_.l_aux) c_.l_aux.Put(routes_.BalanceLoss(), 0);
    return status == ATTUNE_OK && Cancelled(x_) ? ATTUNE_E_CANCELLED : status;
  }

 protected:
  Forward(const attune_exec& x, const Problem& c, size_t rows, size_t keys)
      : x_(x), c_(c), arena_(x), routes_(x, c, &arena_, false, bool(c.l_aux)), projection_(x, c, &arena_) {
    tile_rows_ = rows, tile_keys_ = keys;
    const size_t floats = TileMemory::Floats(c, rows, keys), lanes = LaneMemory::Floats(c, rows, keys);
    tile_floats_ = ((floats > lanes ? floats : lanes) + 15) / 16 * 16;
    tiles_ = arena_.Floats(int64_t(tile_floats_ * x.n_workers));
    heads_ = c.B * c.Hkv;
  }

  attune_status Route() {
    const attune_status status = arena_.Checked();
    return status != ATTUNE_OK ? status : routes_.Run([&](int64_t b, int64_t t, const Router& router) {
      for (int64_t h = 0; h < c_.Hq; h++) {
        if (c_.g_head_out) c_.g_head_out.Put(router.Gate(h), b, t, h);
        if (Active(router.Gate(h))) continue;
        ClearRow(c_.o, c_.o.Offset(b, h, t), size_t(c_.Dv));
        if (c_.lse) c_.lse.Put(-INFINITY, b, h, t);
      }
    });
  }

  TileMemory Memory(uint32_t worker) const {
    return TileMemory(c_, tile_rows_, tile_keys_, tiles_ + worker * tile_floats_);
  }

  template <class A>
  void Store(A* attention, const RowsOfHead& of) const {
    attention->ForEachRow([&](size_t r, const float* row, float factor) {
      const int64_t h = of.Head(r), t = of.Token(r);
      StoreRow(row, size_t(c_.Dv), factor * routes_.Gate(of.b, h, t), c_.o, c_.o.Offset(of.b, h, t));
      if (c_.lse) c_.lse.Put(attention->Lse(r), of.b, h, t);
    });
  }

  const attune_exec& x_;
  const Problem& c_;
  Arena arena_;
  Routes routes_;
  Projection projection_;
  int64_t heads_;
  size_t tile_rows_, tile_keys_, tile_floats_;
  float* tiles_;
};

// Keys and values of the kv heads that have an active row are packed once; then tiles of rows.
class PackedCall : public Forward {
 public:
  PackedCall(const attune_exec& x, const Problem& c)
      : Forward(x, c, size_t(x.knobs[kQueryRows]), size_t(x.knobs[kKeyRows])) {
    chunks_ = Tiles(c.Nk, int64_t(kPackKeys));
    padded_ = size_t(chunks_) * kPackKeys;
    keys_ = arena_.Floats(heads_ * int64_t(padded_) * c.D);
    values_ = arena_.Floats(heads_ * int64_t(padded_ * PadTo32(c.Dv)));
    rows_ = arena_.Floats(int64_t(kPanel * PadTo32(c.D)) * x.n_workers);
  }

  attune_status Run() {
    attune_status status = Route();
    const int64_t copies = c_.k_cache_out ? 1 : 0, parts = chunks_ + copies;
    if (status == ATTUNE_OK) {
      status = Parallel(x_, heads_ * parts, 1, [&](int64_t n, uint32_t worker) {
        const int64_t b = n / parts / c_.Hkv, head = n / parts % c_.Hkv;
        if (n % parts == chunks_) return WriteCaches(c_, b, head);
        if (routes_.Count(b, head) > 0) Pack(b, head, n % parts * int64_t(kPackKeys), worker);
      });
    }
    if (status == ATTUNE_OK) {  // the last tiles first: they see most
      const int64_t tiles = Tiles(routes_.MostRows(), int64_t(tile_rows_));
      status = Parallel(x_, heads_ * tiles, 1, [&](int64_t n, uint32_t worker) {
        const int64_t first = (tiles - 1 - n / heads_) * int64_t(tile_rows_);
        c_.bias ? Tile<false>(n % heads_, first, worker) : Tile<true>(n % heads_, first, worker);
      });
    }
    return Finish(status);
  }

 private:
  float* Keys(int64_t b, int64_t head) const { return keys_ + size_t(b * c_.Hkv + head) * padded_ * size_t(c_.D); }
  float* Values(int64_t b, int64_t head) const {
    return values_ + size_t(b * c_.Hkv + head) * padded_ * PadTo32(c_.Dv);
  }

  void Pack(int64_t b, int64_t head, int64_t first, uint32_t worker) const {
    const Interval valid = {c_.key_start ? Problem::Index(c_.key_start, b) : 0,
                            c_.seqlens_k ? Problem::Index(c_.seqlens_k, b) : c_.Nk};
    PackPanels(first, int64_t(kPackKeys), valid, size_t(c_.D), rows_ + worker * kPanel * PadTo32(c_.D), Keys(b, head),
               [&](int64_t j) { return c_.Key(b, head, j); });
    PackColumns(first, int64_t(kPackKeys), valid, size_t(c_.Dv), padded_, Values(b, head),
                [&](int64_t j) { return c_.Value(b, head, j); });
  }

  template <bool kPlain>
  void Tile(int64_t n, int64_t first, uint32_t worker) const {
    const int64_t b = n / c_.Hkv, head = n % c_.Hkv, left = routes_.Count(b, head) - first;
    if (left <= 0) return;
    const TileMemory w = Memory(worker);
    const RowsOfHead of = {routes_.Rows(b, head) + first, b, head, int32_t(c_.Group())};
    const PackedKeys keys(Keys(b, head), Values(b, head), padded_, size_t(c_.D), size_t(c_.Dv));
    Attention<PackedKeys, kPlain> rows(c_, w, keys, of, size_t(left < int64_t(tile_rows_) ? left : tile_rows_));
    const Interval seen = rows.Start();
    rows.Attend(seen.begin, seen.end);
    Store(&rows, of);
  }

  int64_t chunks_;
  size_t padded_;  // keys, with the rest of the last chunk
  float *keys_, *values_, *rows_;
};

// Queries in the lanes of vectors: keys and values are broadcast from where they lie.
class LanesCall : public Forward {
 public:
  LanesCall(const attune_exec& x, const Problem& c)
      : Forward(x, c, size_t(x.knobs[kQueryRows]), size_t(x.knobs[kKeyRows])) {}

  attune_status Run() {
    attune_status status = Route();
    if (status == ATTUNE_OK) {  // the last tiles first: they see most
      const int64_t tiles = Tiles(routes_.MostRows(), int64_t(tile_rows_)), copies = c_.k_cache_out ? heads_ : 0;
      status = Parallel(x_, heads_ * tiles + copies, 1, [&](int64_t n, uint32_t worker) {
        if (n >= heads_ * tiles) {
          const int64_t head = n - heads_ * tiles;
          return WriteCaches(c_, head / c_.Hkv, head % c_.Hkv);
        }
        Tile(n % heads_, (tiles - 1 - n / heads_) * int64_t(tile_rows_), worker);
      });
    }
    return Finish(status);
  }

 private:
  void Tile(int64_t n, int64_t first, uint32_t worker) const {
    const int64_t b = n / c_.Hkv, head = n % c_.Hkv, left = routes_.Count(b, head) - first;
    if (left <= 0) return;
    const LaneMemory w(c_, tile_rows_, tile_keys_, tiles_ + worker * tile_floats_);
    const RowsOfHead of = {routes_.Rows(b, head) + first, b, head, int32_t(c_.Group())};
    QueryLanes rows(c_, w, of, size_t(left < int64_t(tile_rows_) ? left : tile_rows_));
    rows.Run();
    Store(&rows, of);
  }
};

// Keys and values of a kv head are read once for all its active rows, or not at all when there is none. Long keys are
// cut into chunks of fixed length, so that a single head keeps every thread busy, and merged in order.
class InPlaceCall : public Forward {
 public:
  InPlaceCall(const attune_exec& x, const Problem& c)
      : Forward(x, c, kFewRows, size_t(x.knobs[kInPlaceKeyRows])), chunk_(x.knobs[kChunk]) {
    chunks_ = c.Nk > chunk_ ? Tiles(c.Nk, chunk_) : 1;
    part_ = int64_t(PadTo32(c.Dv)) + 16;
    parts_ = arena_.Floats(chunks_ > 1 ? heads_ * kFewRows * chunks_ * part_ : 0);
  }

  attune_status Run() {
    attune_status status = Route();
    const int64_t work = heads_ * chunks_, copies = c_.k_cache_out ? heads_ : 0;
    if (status == ATTUNE_OK) {
      status = Parallel(x_, work + copies, 1, [&](int64_t n, uint32_t worker) {
        if (n >= work) return WriteCaches(c_, (n - work) / c_.Hkv, (n - work) % c_.Hkv);
        c_.bias ? Attend<false>(n / chunks_, n % chunks_, worker) : Attend<true>(n / chunks_, n % chunks_, worker);
      });
    }
    if (status == ATTUNE_OK && chunks_ > 1) {
      status = Parallel(x_, heads_, 1, [&](int64_t n, uint32_t worker) {
        c_.bias ? Merge<false>(n, worker) : Merge<true>(n, worker);
      });
    }
    return Finish(status);
  }

 private:
  template <bool kPlain>
  using Rows = Attention<KeysInPlace, kPlain>;

  RowsOfHead Of(int64_t n) const {
    return {routes_.Rows(n / c_.Hkv, n % c_.Hkv), n / c_.Hkv, n % c_.Hkv, int32_t(c_.Group())};
  }
  int64_t Count(int64_t n) const { return routes_.Count(n / c_.Hkv, n % c_.Hkv); }
  float* Parts(int64_t n, int64_t chunk) const { return parts_ + (n * kFewRows * chunks_ + chunk) * part_; }

  template <bool kPlain>
  void Attend(int64_t n, int64_t chunk, uint32_t worker) const {
    if (Count(n) == 0) return;
    const TileMemory w = Memory(worker);
    const RowsOfHead of = Of(n);
    Rows<kPlain> rows(c_, w, KeysInPlace(c_, of.b, of.head, w.tail), of, size_t(Count(n)));
    Interval seen = rows.Start();
    if (chunks_ == 1) {
      rows.Attend(seen.begin, seen.end);
      return Store(&rows, of);
    }
    const int64_t first = chunk * chunk_, last = first + chunk_;
    if (seen.begin < first) seen.begin = first;
    if (seen.end > last) seen.end = last;
    if (seen.end <= seen.begin) return;  // as Merge will find
    rows.Attend(seen.begin, seen.end);
    rows.Save(Parts(n, chunk), size_t(chunks_ * part_));
  }

  template <bool kPlain>
  void Merge(int64_t n, uint32_t worker) const {
    if (Count(n) == 0) return;
    const TileMemory w = Memory(worker);
    const RowsOfHead of = Of(n);
    Rows<kPlain> rows(c_, w, KeysInPlace(c_, of.b, of.head, w.tail), of, size_t(Count(n)));
    const Interval seen = rows.Start();
    for (int64_t chunk = 0; chunk < chunks_; chunk++) {
      if (seen.end <= chunk * chunk_ || seen.begin >= (chunk + 1) * chunk_) continue;
      rows.Take(Parts(n, chunk), size_t(chunks_ * part_));
    }
    Store(&rows, of);
  }

  int64_t chunk_, chunks_, part_;
  float* parts_;  // state of every row after every chunk
};

}  // namespace

attune_status PackedForward(const attune_exec* x) {
  const Problem c = ReadForward(*x);
  return PackedCall(*x, c).Run();
}
attune_status PackedStep(const attune_exec* x) {
  const Problem c = ReadStep(*x);
  return PackedCall(*x, c).Run();
}
attune_status LanesForward(const attune_exec* x) {
  const Problem c = ReadForward(*x);
  return LanesCall(*x, c).Run();
}
attune_status LanesStep(const attune_exec* x) {
  const Problem c = ReadStep(*x);
  return LanesCall(*x, c).Run();
}
attune_status InPlaceForward(const attune_exec* x) {
  const Problem c = ReadForward(*x);
  return InPlaceCall(*x, c).Run();
}
attune_status InPlaceStep(const attune_exec* x) {
  const Problem c = ReadStep(*x);
  return InPlaceCall(*x, c).Run();
}

#endif  // ATTUNE_ISA
}  // namespace HWY_NAMESPACE
}  // namespace moh
HWY_AFTER_NAMESPACE();
