#include "nsa/forward.h"

#include "_kit/isa.h"
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "nsa/forward.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "nsa/phases-inl.h"

HWY_BEFORE_NAMESPACE();
namespace nsa {
namespace HWY_NAMESPACE {
#if ATTUNE_ISA
namespace {

// Phases: caches (step); keys made ready; tiles of queries. What a task writes depends on sizes and knobs alone.
class Forward {
 public:
  Forward(const attune_exec& x, const Problem& c)
      : x_(x), c_(c), positions_(TilePositions(c, x.knobs[kTileRowsWanted])) {
    const int64_t heads = c.B * c.Hkv;
    float* at = static_cast<float*>(x.workspace);
    const auto take = [&](int64_t rows, size_t row) {
      float* p = at;
      at += size_t(heads) * PadTo32(rows) * row;
      return p;
    };
    ld_v_ = PadTo32(c.Dv);
    const auto prepare = [&](int64_t rows) { return Prepared{take(rows, size_t(c.D)), take(rows, ld_v_)}; };
    made_[kCmp] = prepare(MakesKeys(c) || MakesValues(c) ? c.Nc : 0);
    pack_window_ = c.use[kSwa] && (c.key.own_window || c.value.own_window);
    pack_tokens_ = c.use[kSlc] || (c.use[kSwa] && !pack_window_);
    made_[kSlc] = prepare(pack_tokens_ ? c.Nk : 0);
    made_[kSwa] = pack_window_ ? prepare(c.Nk) : made_[kSlc];
    scratch_ = at;
    const size_t rows = 32 * (PadTo32(c.D) + PadTo32(c.Dv)), tile = TileMemory::Make(c, positions_, nullptr, nullptr);
    scratch_floats_ = rows > tile ? rows : tile;
    end_ = scratch_ + x.n_workers * scratch_floats_;
  }

  attune_status Run() {
    const uint64_t needed = uint64_t(reinterpret_cast<char*>(end_) - static_cast<char*>(x_.workspace));
    if (needed > x_.workspace_bytes) {
      return attune_fail(x_.error, ATTUNE_E_WORKSPACE, "", "the kernel reserved less workspace than it needs");
    }
    const int64_t heads = c_.B * c_.Hkv, tiles = (c_.Nq + positions_ - 1) / positions_;
    attune_status status = ATTUNE_OK;
    if (c_.k_cache_out) {
      status = Parallel(x_, heads, [&](int64_t n, uint32_t) { AppendToCaches(c_, n / c_.Hkv, n % c_.Hkv); });
    }
    const auto chunks = [](int64_t rows) { return (rows + kPackRows - 1) / kPackRows; };
    const int64_t cmp = MakesKeys(c_) || MakesValues(c_) ? chunks(c_.Nc) : 0;
    const int64_t tok = pack_tokens_ ? chunks(c_.Nk) : 0;
    const int64_t all = cmp + tok + (pack_window_ ? chunks(c_.Nk) : 0);
    if (status == ATTUNE_OK) {
      status = Parallel(x_, heads * all, [&](int64_t n, uint32_t worker) {
        const int64_t b = n / all / c_.Hkv, head = n / all % c_.Hkv, part = n % all;
        float* rows = scratch_ + worker * scratch_floats_;
        const auto pack = [&](const View& k, const View& v, int64_t chunk, BranchId id) {
          PackTokens(k, v, b, head, chunk * kPackRows, c_.Nk, c_.D, c_.Dv, rows, Of(id, b, head, c_.Nk));
        };
        if (part < cmp) {
          Compress(b, head, part * kPackRows, rows);
        } else if (part < cmp + tok) {
          pack(c_.k, c_.v, part - cmp, kSlc);
        } else {
          pack(c_.k_swa, c_.v_swa, part - cmp - tok, kSwa);
        }
      });
    }
    if (status == ATTUNE_OK) {  // the last tiles first: they see most
      status = Parallel(x_, heads * tiles, [&](int64_t n, uint32_t worker) {
        Tile(n % heads / c_.Hkv, n % heads % c_.Hkv, (tiles - 1 - n / heads) * positions_, worker);
      });
    }
    return status == ATTUNE_OK && Cancelled(x_) ? ATTUNE_E_CANCELLED : status;
  }

 private:
  Prepared Of(BranchId id, int64_t b, int64_t head, int64_t rows) const {
    const size_t at = size_t(b * c_.Hkv + head) * PadTo32(rows);
    return {made_[id].keys + at * size_t(c_.D), made_[id].values + at * ld_v_};
  }

  // Entries [first, first + kPackRows).
  void Compress(int64_t b, int64_t head, int64_t first, float* rows) const {
    const Prepared to = Of(kCmp, b, head, c_.Nc);
    float* token = rows + 32 * PadTo32(c_.D);
    const auto key = [&](int64_t j, float* row) { MakeEntry(c_, true, b, head, j, token, row); };
    if (MakesKeys(c_)) PackPanels(first, c_.Nc, size_t(c_.D), rows, to.keys, key);
    const int64_t last = c_.Nc < first + kPackRows ? c_.Nc : first + kPackRows;
    for (int64_t j = first; j < last && MakesValues(c_); j++) {
      MakeEntry(c_, false, b, head, j, token, to.values + size_t(j) * ld_v_);
    }
  }

  kit::PackedKeys KeysOf(BranchId id, int64_t b, int64_t head) const {
    const Prepared made = Of(id, b, head, id == kCmp ? c_.Nc : c_.Nk);
    return {made.keys, made.values, size_t(c_.D), size_t(c_.Dv), ld_v_};
  }

  void Tile(int64_t b, int64_t head, int64_t first, uint32_t worker) const {
    TileMemory w;
    TileMemory::Make(c_, positions_, scratch_ + worker * scratch_floats_, &w);
    const BranchKeys<kit::PackedKeys> keys = {{KeysOf(kCmp, b, head), KeysOf(kSlc, b, head), KeysOf(kSwa, b, head)}};
    const int64_t count = c_.Nq - first < positions_ ? c_.Nq - first : positions_;
    QueryTile<kit::PackedKeys>(c_, w, keys, b, head, first, count).Run();
  }

  const attune_exec& x_;
  const Problem& c_;
  int64_t positions_;
  size_t ld_v_, scratch_floats_;
  bool pack_tokens_, pack_window_;
  Prepared made_[kBranches];
  float *scratch_, *end_;
};

}  // namespace

attune_status PackedForward(const attune_exec* x) {
  const Problem c = ReadForward(*x);
  return Forward(*x, c).Run();
}
attune_status PackedStep(const attune_exec* x) {
  const Problem c = ReadStep(*x);
  return Forward(*x, c).Run();
}

#endif  // ATTUNE_ISA
}  // namespace HWY_NAMESPACE
}  // namespace nsa
HWY_AFTER_NAMESPACE();
