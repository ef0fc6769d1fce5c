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
template <bool kPacked>
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
    ld_k_ = kPacked ? size_t(c.D) : PadTo32(c.D), ld_v_ = PadTo32(c.Dv);
    compress_k_ = c.Scores() || c.k_cmp_out || c.k_state_out;
    compress_v_ = c.use[kCmp] || c.v_cmp_out || c.v_state_out;
    // In place only those compressed keys are made that do not exist yet.
    first_made_ = kPacked ? 0 : c.key.n_known;
    const int64_t missing = c.Nc - first_made_;
    made_[kCmp] = {take(compress_k_ ? missing : 0, ld_k_), take(compress_v_ ? missing : 0, ld_v_)};
    own_window_ = c.use[kSwa] && (c.key.own_window || c.value.own_window);
    const bool tokens = kPacked && (c.use[kSlc] || (c.use[kSwa] && !own_window_));
    made_[kSlc] = {take(tokens ? c.Nk : 0, ld_k_), take(tokens ? c.Nk : 0, ld_v_)};
    pack_tokens_ = tokens, pack_window_ = kPacked && own_window_;
    made_[kSwa] = {take(pack_window_ ? c.Nk : 0, ld_k_), take(pack_window_ ? c.Nk : 0, ld_v_)};
    if (!own_window_) made_[kSwa] = made_[kSlc];
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
      status = Parallel(x_, heads, [&](int64_t n, uint32_t) { Append(n / c_.Hkv, n % c_.Hkv); });
    }
    const auto chunks = [](int64_t rows) { return (rows + kPackRows - 1) / kPackRows; };
    const int64_t cmp = compress_k_ || compress_v_ ? chunks(c_.Nc - first_made_) : 0;
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
  using Keys = std::conditional_t<kPacked, kit::PackedKeys, kit::KeysInPlace>;

  Prepared Of(BranchId id, int64_t b, int64_t head, int64_t rows) const {
    const size_t at = size_t(b * c_.Hkv + head) * PadTo32(rows);
    return {made_[id].keys + at * ld_k_, made_[id].values + at * ld_v_};
  }

  void Append(int64_t b, int64_t head) const {
    AppendTokens(c_.k_cache, c_.k_new, c_.k_cache_out, b, head, c_.D);
    AppendTokens(c_.v_cache, c_.v_new, c_.v_cache_out, b, head, c_.Dv);
    if (c_.k_state_out) CopyState(c_.key, c_.k_state_out, b, head);
    if (c_.v_state_out) CopyState(c_.value, c_.v_state_out, b, head);
  }

  // Entries first_made_ + [first, first + kPackRows).
  void Compress(int64_t b, int64_t head, int64_t first, float* rows) const {
    const int64_t n = c_.Nc - first_made_;
    const Prepared to = Of(kCmp, b, head, n);
    float* token = rows + 32 * PadTo32(c_.D);
    const auto store = [&](const Compression& x, const float* row, int64_t entry, const View& out, const View& state) {
      if (out) StoreRow(row, size_t(x.width), 1, out, out.Offset(b, head, entry));
      if (state && entry >= x.n_known) StoreRow(row, size_t(x.width), 1, state, state.Offset(b, head, entry));
    };
    const auto key = [&](int64_t j, float* row) {
      CompressRow(c_, c_.key, b, head, first_made_ + j, token, row);
      store(c_.key, row, first_made_ + j, c_.k_cmp_out, c_.k_state_out);
    };
    const int64_t last = n < first + kPackRows ? n : first + kPackRows;
    if (compress_k_ && kPacked) PackPanels(first, n, size_t(c_.D), rows, to.keys, key);
    for (int64_t j = first; j < last && compress_k_ && !kPacked; j++) key(j, to.keys + size_t(j) * ld_k_);
    for (int64_t j = first; j < last && compress_v_; j++) {
      float* row = to.values + size_t(j) * ld_v_;
      CompressRow(c_, c_.value, b, head, first_made_ + j, token, row);
      store(c_.value, row, first_made_ + j, c_.v_cmp_out, c_.v_state_out);
    }
  }

  static kit::StoredRows Stored(const View& t, int64_t b, int64_t head) {
    if (!t) return {nullptr, ATTUNE_F32, 0};
    const int64_t size = t.DType() == ATTUNE_F32 ? 4 : 2;
    return {static_cast<const char*>(t.Data()) + t.Offset(b, head) * size, t.DType(), t.Stride(2)};
  }

  Keys KeysOf(BranchId id, int64_t b, int64_t head) const {
    const size_t depth = size_t(c_.D), width = size_t(c_.Dv);
    const Prepared made = Of(id, b, head, id == kCmp ? c_.Nc - first_made_ : c_.Nk);
    if constexpr (kPacked) {
      return Keys(made.keys, made.values, depth, width, ld_v_);
    } else if (id == kCmp) {
      return Keys(Stored(c_.key.known, b, head), Stored(c_.value.known, b, head), depth, width, first_made_,
                  {made.keys, ATTUNE_F32, int64_t(ld_k_)}, {made.values, ATTUNE_F32, int64_t(ld_v_)});
    } else {
      return Keys(Stored(id == kSlc ? c_.k : c_.k_swa, b, head), Stored(id == kSlc ? c_.v : c_.v_swa, b, head), depth,
                  width);
    }
  }

  void Tile(int64_t b, int64_t head, int64_t first, uint32_t worker) const {
    TileMemory w;
    TileMemory::Make(c_, positions_, scratch_ + worker * scratch_floats_, &w);
    const BranchKeys<Keys> keys = {{KeysOf(kCmp, b, head), KeysOf(kSlc, b, head), KeysOf(kSwa, b, head)}};
    const int64_t count = c_.Nq - first < positions_ ? c_.Nq - first : positions_;
    QueryTile<Keys>(c_, w, keys, b, head, first, count).Run();
  }

  const attune_exec& x_;
  const Problem& c_;
  int64_t positions_, first_made_;
  size_t ld_k_, ld_v_, scratch_floats_;
  bool compress_k_, compress_v_, own_window_, pack_tokens_, pack_window_;
  Prepared made_[kBranches];
  float *scratch_, *end_;
};

}  // namespace

attune_status PackedForward(const attune_exec* x) {
  const Problem c = ReadForward(*x);
  return Forward<true>(*x, c).Run();
}
attune_status PackedStep(const attune_exec* x) {
  const Problem c = ReadStep(*x);
  return Forward<true>(*x, c).Run();
}
attune_status RowsForward(const attune_exec* x) {
  const Problem c = ReadForward(*x);
  return Forward<false>(*x, c).Run();
}
attune_status RowsStep(const attune_exec* x) {
  const Problem c = ReadStep(*x);
  return Forward<false>(*x, c).Run();
}

#endif  // ATTUNE_ISA
}  // namespace HWY_NAMESPACE
}  // namespace nsa
HWY_AFTER_NAMESPACE();
