#include "nsa/backward.h"

#include "_kit/isa.h"
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "nsa/backward.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "nsa/compress_backward-inl.h"
#include "nsa/gradient_tile-inl.h"

HWY_BEFORE_NAMESPACE();
namespace nsa {
namespace HWY_NAMESPACE {
#if ATTUNE_ISA
namespace {

enum KeySet { kCmpSet, kTokenSet, kWindowSet, kSets };  // the window has a set of its own only with k_swa or v_swa

// Phases; whoever writes something is its only writer, so that the bits do not depend on the number of workers:
//   Prepare    keys and values as panels and rows                      (batch, kv head, rows)
//   Queries    blocks, lse, delta, dq and the gates' gradients          (batch, kv head, tile of positions)
//   Invert     who chose a block                                        (batch, kv head)
//   Keys       dk and dv of compressed keys and of tokens, by branch    (batch, kv head, piece)
//   Tokens     gradients of k, v and what is compressed                 (batch, kv head, tokens)
//   Weights    gradients of the compression's weights                   (kv head, token of a window)
class Backward {
 public:
  Backward(const attune_exec& x, const Problem& c, const Gradients& g)
      : x_(x), c_(c), g_(g), positions_(TilePositions(c, x.knobs[kBwdRows])), room_(MostBlocks(c)) {
    own_window_ = c.use[kSwa] && (c.key.own_window || c.value.own_window);
    n_[kCmpSet] = c.Scores() ? c.Nc : 0;
    n_[kTokenSet] = c.use[kSlc] || (c.use[kSwa] && !own_window_) ? c.Nk : 0;
    n_[kWindowSet] = own_window_ ? c.Nk : 0;
    ld_k_ = PadTo32(c.D), ld_v_ = PadTo32(c.Dv);
    const size_t rows = size_t(c.Nq * c.Group()), heads = size_t(c.B * c.Hkv);
    // One head's memory; offsets in floats.
    size_t at = 0;
    const auto take = [&](size_t n) {
      const size_t p = at;
      at += (n + 15) / 16 * 16;
      return p;
    };
    for (int set = 0; set < kSets; set++) {
      // Pieces are whole: room for kPieceKeys rows behind the last.
      const size_t n = n_[set] > 0 ? PadTo32(n_[set]) + kPieceKeys : 0;
      k_panels_[set] = take(n * size_t(c.D)), v_panels_[set] = take(n * size_t(c.Dv)), k_rows_[set] = take(n * ld_k_);
      dk_[set] = take(n * ld_k_), dv_[set] = take(n * ld_v_);
    }
    q_ = take(rows * ld_k_), q_cmp_ = c.own_q_cmp ? take(rows * ld_k_) : q_, d_o_ = take(rows * ld_v_);
    for (int id = 0; id < kBranches; id++) lse_[id] = take(rows), delta_[id] = take(rows), gate_[id] = take(rows);
    blocks_ = take(size_t(c.Nq * room_)), n_blocks_ = take(size_t(c.Nq));
    chosen_by_ = take(size_t(c.Nq * room_)), block_begin_ = take(c.use[kSlc] ? size_t(c.Nk / c.block + 3) : 0);
    per_head_ = at;
    heads_ = static_cast<float*>(x.workspace), scratch_ = heads_ + heads * per_head_;
    const size_t tile = TileMemory::Make(c, positions_, nullptr, nullptr) + kit::kPieceFloats +
                        2 * size_t(positions_ * c.Group()) * ld_k_;
    const size_t wide = ld_k_ > ld_v_ ? ld_k_ : ld_v_;
    const size_t weights = (wide + 4) * wide, pieces = PieceGradients::Floats(ld_k_, ld_v_) + 32 * (ld_k_ + ld_v_);
    scratch_floats_ = tile > pieces ? tile : pieces;
    if (c.mode == kLinear || c.mode == kWeighted || c.key.position || c.value.position) {
      scratch_floats_ = scratch_floats_ > weights ? scratch_floats_ : weights;
    }
  }

  attune_status Run() {
    const uint64_t needed = 4 * (uint64_t(scratch_ - heads_) + x_.n_workers * uint64_t(scratch_floats_));
    if (needed > x_.workspace_bytes) {
      return attune_fail(x_.error, ATTUNE_E_WORKSPACE, "", "the kernel reserved less workspace than it needs");
    }
    const int64_t heads = c_.B * c_.Hkv;
    int64_t packs[kSets], pieces[kSets], all_packs = 0, all_pieces = 0;
    for (int set = 0; set < kSets; set++) {
      all_packs += packs[set] = Chunks(n_[set], kPackRows);
      all_pieces += pieces[set] = set == kCmpSet && !c_.use[kCmp] ? 0 : Chunks(n_[set], kPieceKeys);
    }
    const auto part = [](int64_t n, const int64_t* counts, int* set) {
      for (*set = 0; n >= counts[*set]; (*set)++) n -= counts[*set];
      return n;
    };
    attune_status status = Parallel(x_, heads * all_packs, [&](int64_t n, uint32_t worker) {
      int set;
      const int64_t chunk = part(n % all_packs, packs, &set);
      Prepare(n / all_packs, KeySet(set), chunk * kPackRows, Scratch(worker));
    });
    const int64_t tiles = Chunks(c_.Nq, positions_);
    if (status == ATTUNE_OK) {
      status = Parallel(x_, heads * tiles, [&](int64_t n, uint32_t worker) {
        Queries(n % heads, (tiles - 1 - n / heads) * positions_, Scratch(worker));
      });
    }
    if (status == ATTUNE_OK && c_.use[kSlc]) {
      status = Parallel(x_, heads, [&](int64_t n, uint32_t) { Invert(n); });
    }
    if (status == ATTUNE_OK) {
      status = Parallel(x_, heads * all_pieces, [&](int64_t n, uint32_t worker) {
        int set;
        const int64_t piece = part(n / heads, pieces, &set);
        Keys(n % heads, KeySet(set), piece * int64_t(kPieceKeys), Scratch(worker));
      });
    }
    const int64_t chunks = Chunks(c_.Nk > c_.Nc ? c_.Nk : c_.Nc, kPackRows);
    if (status == ATTUNE_OK) {
      status = Parallel(x_, heads * chunks, [&](int64_t n, uint32_t worker) {
        Tokens(n / chunks, n % chunks * kPackRows, Scratch(worker));
      });
    }
    if (status == ATTUNE_OK && (g_.dw_k || g_.dw_v || g_.dpe_k || g_.dpe_v)) {
      status = Parallel(x_, c_.Hkv * c_.l, [&](int64_t n, uint32_t worker) { Weights(n, Scratch(worker)); });
    }
    return status == ATTUNE_OK && Cancelled(x_) ? ATTUNE_E_CANCELLED : status;
  }

 private:
  static int64_t Chunks(int64_t n, int64_t size) { return (n + size - 1) / size; }
  float* Scratch(uint32_t worker) const { return scratch_ + worker * scratch_floats_; }
  float* At(int64_t head, size_t offset) const { return heads_ + size_t(head) * per_head_ + offset; }
  int32_t* Ints(int64_t head, size_t offset) const { return reinterpret_cast<int32_t*>(At(head, offset)); }
  KeySet SetOf(BranchId id) const { return id == kCmp ? kCmpSet : id == kSwa && own_window_ ? kWindowSet : kTokenSet; }
  BackwardKeys KeysOf(int64_t head, KeySet set) const {
    return {At(head, k_panels_[set]), At(head, v_panels_[set]), At(head, k_rows_[set])};
  }
  BackwardRows RowsOf(int64_t head) const {
    BackwardRows r = {At(head, q_), At(head, q_cmp_), At(head, d_o_), {}, {}, {}};
    for (int id = 0; id < kBranches; id++) {
      r.lse[id] = At(head, lse_[id]), r.delta[id] = At(head, delta_[id]), r.gate[id] = At(head, gate_[id]);
    }
    return r;
  }

  // `head` counts kv heads over the batch.
  void Prepare(int64_t head, KeySet set, int64_t first, float* rows) const {
    const int64_t b = head / c_.Hkv, h = head % c_.Hkv, n = n_[set];
    const BackwardKeys to = KeysOf(head, set);
    float* token = rows + 32 * (ld_k_ > ld_v_ ? ld_k_ : ld_v_);
    const auto load = [&](const Compression& x, const View& t, int64_t j, float* row) {
      if (set == kCmpSet) return CompressRow(c_, x, b, h, j, token, row);
      LoadRow(t, t.Offset(b, h, j), size_t(x.width), 1, row);
    };
    PackPanels(first, n, size_t(c_.D), rows, to.k_panels, [&](int64_t j, float* row) {
      load(c_.key, set == kWindowSet ? c_.k_swa : c_.k, j, row);
      memcpy(to.k_rows + size_t(j) * ld_k_, row, sizeof(float) * ld_k_);
    });
    if (set == kCmpSet && !c_.use[kCmp]) return;
    PackPanels(first, n, size_t(c_.Dv), rows, to.v_panels,
               [&](int64_t j, float* row) { load(c_.value, set == kWindowSet ? c_.v_swa : c_.v, j, row); });
  }

  void Queries(int64_t head, int64_t first, float* scratch) const {
    const int64_t b = head / c_.Hkv, kv = head % c_.Hkv, group = c_.Group();
    const int64_t count = c_.Nq - first < positions_ ? c_.Nq - first : positions_, rows = count * group;
    const size_t at = size_t(first * group);
    TileMemory w;
    float* second = scratch + TileMemory::Make(c_, positions_, scratch, &w);
    float *dq = second + kit::kPieceFloats, *dq_cmp = dq + size_t(positions_ * group) * ld_k_;
    const BackwardRows r = RowsOf(head);
    w.q = r.q + at * ld_k_, w.q_cmp = r.q_cmp + at * ld_k_;
    w.blocks = Ints(head, blocks_) + first * room_, w.n_blocks = Ints(head, n_blocks_) + first;
    for (int64_t i = 0; i < rows; i++) {
      const int64_t h = kv * group + i % group, query = first + i / group;
      const float scale = float(c_.scale * kLog2E);
      LoadRow(c_.q, c_.q.Offset(b, h, query), size_t(c_.D), scale, w.q + i * ld_k_);
      if (c_.own_q_cmp) LoadRow(c_.q_cmp, c_.q_cmp.Offset(b, h, query), size_t(c_.D), scale, w.q_cmp + i * ld_k_);
      LoadRow(g_.d_o, g_.d_o.Offset(b, h, query), size_t(c_.Dv), 1, r.d_o + (at + i) * ld_v_);
      for (int id = 0; id < kBranches; id++) r.gate[id][at + i] = float(c_.Gate(BranchId(id), b, h, query));
    }
    const BackwardKeys cmp = KeysOf(head, kCmpSet);
    const kit::PackedKeys compressed(cmp.k_panels, nullptr, size_t(c_.D), 0, 0);
    const BranchKeys<kit::PackedKeys> keys = {{compressed, compressed, compressed}};
    QueryTile<kit::PackedKeys> tile(c_, w, keys, b, kv, first, count);
    if (c_.Selects()) tile.Compressed();
    if (c_.use[kSlc]) tile.Choose();

    GradientTile gradients(c_, w, b, kv, first, count, r, second);
    memset(dq, 0, sizeof(float) * 2 * size_t(positions_ * group) * ld_k_);
    const bool wanted = g_.dq || g_.dq_cmp;
    for (int id = 0; id < kBranches; id++) {
      const BranchId branch = BranchId(id);
      if (c_.use[id]) {
        float* to = branch == kCmp && c_.own_q_cmp ? dq_cmp : dq;
        gradients.Branch(branch, KeysOf(head, SetOf(branch)), wanted ? to : nullptr);
      }
      for (int64_t i = 0; i < rows && g_.dgate[id]; i++) {
        const int64_t h = kv * group + i % group, query = first + i / group;
        g_.dgate[id].Put(c_.use[id] ? c_.GateSlope(branch, b, h, query) * r.delta[id][at + i] : 0, b, h, query);
      }
    }
    for (int64_t i = 0; i < rows; i++) {
      const int64_t h = kv * group + i % group, query = first + i / group;
      if (g_.dq) StoreRow(dq + i * ld_k_, size_t(c_.D), 1, g_.dq, g_.dq.Offset(b, h, query));
      if (g_.dq_cmp) StoreRow(dq_cmp + i * ld_k_, size_t(c_.D), 1, g_.dq_cmp, g_.dq_cmp.Offset(b, h, query));
    }
  }

  // chosen_by[block_begin[j] .. block_begin[j + 1]) = the queries that chose block j, ascending.
  void Invert(int64_t head) const {
    const int64_t count = c_.Nk / c_.block + 1;
    int32_t *begin = Ints(head, block_begin_), *by = Ints(head, chosen_by_);
    const int32_t *blocks = Ints(head, blocks_), *n = Ints(head, n_blocks_);
    memset(begin, 0, sizeof(int32_t) * size_t(count + 2));
    for (int64_t i = 0; i < c_.Nq; i++) {
      for (int32_t s = 0; s < n[i]; s++) begin[blocks[i * room_ + s] + 2]++;
    }
    for (int64_t j = 2; j <= count + 1; j++) begin[j] += begin[j - 1];
    for (int64_t i = 0; i < c_.Nq; i++) {
      for (int32_t s = 0; s < n[i]; s++) by[begin[blocks[i * room_ + s] + 1]++] = int32_t(i);
    }
  }

  // dk and dv of a piece of one set of keys, from all branches that use the set.
  void Keys(int64_t head, KeySet set, int64_t piece, float* scratch) const {
    const BackwardKeys keys = KeysOf(head, set);
    const BackwardRows rows = RowsOf(head);
    PieceGradients to(c_, rows, scratch);
    float *dk = At(head, dk_[set]) + size_t(piece) * ld_k_, *dv = At(head, dv_[set]) + size_t(piece) * ld_v_;
    memset(dk, 0, sizeof(float) * kPieceKeys * ld_k_);
    memset(dv, 0, sizeof(float) * kPieceKeys * ld_v_);
    const auto push = [&](int64_t i, const Range& seen) {
      const KeyRange range = InPiece(seen, piece);
      for (int64_t g = 0; g < c_.Group() && range.end > range.begin; g++) to.Push(i * c_.Group() + g, range);
    };
    const int64_t end = piece + int64_t(kPieceKeys) < c_.Nk ? piece + int64_t(kPieceKeys) : c_.Nk;
    if (set == kCmpSet) {
      to.Begin(kCmp, keys, piece, dk, dv);
      for (int64_t i = 0; i < c_.Nq; i++) push(i, {0, c_.VisibleCompressed(c_.Position(i))});
      return to.Flush();
    }
    if (set == kTokenSet && c_.use[kSlc]) {
      const int32_t *begin = Ints(head, block_begin_), *by = Ints(head, chosen_by_);
      for (int64_t j = piece / c_.block; j <= (end - 1) / c_.block; j++) {
        to.Begin(kSlc, keys, piece, dk, dv);
        for (int32_t s = begin[j]; s < begin[j + 1]; s++) push(by[s], c_.BlockTokens(j, c_.Position(by[s])));
        to.Flush();
      }
    }
    if (c_.use[kSwa] && SetOf(kSwa) == set) {
      to.Begin(kSwa, keys, piece, dk, dv);
      const int64_t first = piece - c_.Position(0);
      for (int64_t i = first > 0 ? first : 0; i < c_.Nq; i++) {
        const Range seen = c_.WindowTokens(c_.Position(i));
        if (seen.begin >= end) break;
        push(i, seen);
      }
      to.Flush();
    }
  }

  CompressedGradients Compressed(bool keys) const {
    return {heads_ + (keys ? dk_ : dv_)[kCmpSet], per_head_, keys ? ld_k_ : ld_v_, keys ? float(kLn2) : 1.0f};
  }

  // Rows [first, first + kPackRows) of the gradients of keys (or values), tokens and given compressed ones.
  void StoreTokens(int64_t head, int64_t first, const Compression& x, bool keys, float* row, const View& d_token,
                   const View& d_window, const View& d_source, const View& d_known) const {
    const int64_t b = head / c_.Hkv, h = head % c_.Hkv, last = first + kPackRows;
    const size_t n = size_t(x.width), ld = keys ? ld_k_ : ld_v_;
    const CompressedGradients compressed = Compressed(keys);
    const float factor = compressed.factor;  // queries were in units of log2
    float *source = row + ld, *buffer = source + ld;
    const auto of = [&](KeySet set, int64_t j) { return At(head, (keys ? dk_ : dv_)[set]) + size_t(j) * ld; };
    for (int64_t j = first; j < last && j < c_.Nk; j++) {
      memset(row, 0, sizeof(float) * 2 * ld);
      if (n_[kTokenSet] > 0) kit::AddScaled(of(kTokenSet, j), n, factor, row);
      if (own_window_ && !x.own_window) kit::AddScaled(of(kWindowSet, j), n, factor, row);
      if (d_window) StoreRow(of(kWindowSet, j), n, factor, d_window, d_window.Offset(b, h, j));
      if (c_.use[kCmp] && c_.mode != kGiven) {
        AddSourceGradient(c_, x, compressed, b, h, j, buffer, x.own_source ? source : row);
      }
      if (d_token) StoreRow(row, n, 1, d_token, d_token.Offset(b, h, j));
      if (d_source) StoreRow(source, n, 1, d_source, d_source.Offset(b, h, j));
    }
    for (int64_t j = first; j < last && j < c_.Nc && d_known; j++) {
      memset(row, 0, sizeof(float) * ld);
      if (c_.use[kCmp]) kit::AddScaled(of(kCmpSet, j), n, factor, row);
      StoreRow(row, n, 1, d_known, d_known.Offset(b, h, j));
    }
  }
  void Tokens(int64_t head, int64_t first, float* scratch) const {
    if (g_.dk || g_.dk_swa || g_.dk_src || g_.dk_cmp) {
      StoreTokens(head, first, c_.key, true, scratch, g_.dk, g_.dk_swa, g_.dk_src, g_.dk_cmp);
    }
    if (g_.dv || g_.dv_swa || g_.dv_src || g_.dv_cmp) {
      StoreTokens(head, first, c_.value, false, scratch, g_.dv, g_.dv_swa, g_.dv_src, g_.dv_cmp);
    }
  }

  void Weights(int64_t n, float* scratch) const {
    const auto store = [&](const Compression& x, bool keys, const View& d_weight, const View& d_position) {
      if (!d_weight && !d_position) return;
      if (c_.use[kCmp]) {
        return StoreWeightGradients(c_, x, Compressed(keys), n / c_.l, n % c_.l, scratch, d_weight, d_position);
      }
      // Without the branch nothing depends on them.
      memset(scratch, 0, sizeof(float) * (keys ? ld_k_ : ld_v_));
      const int64_t h = n / c_.l, m = n % c_.l;
      if (d_position) StoreRow(scratch, size_t(x.width), 1, d_position, d_position.Offset(h, m));
      if (d_weight && c_.mode == kWeighted) d_weight.Put(0, h, m);
      for (int64_t i = 0; i < x.width && d_weight && c_.mode == kLinear; i++) {
        StoreRow(scratch, size_t(x.width), 1, d_weight, d_weight.Offset(h, m * x.width + i));
      }
    };
    store(c_.key, true, g_.dw_k, g_.dpe_k);
    store(c_.value, false, g_.dw_v, g_.dpe_v);
  }

  const attune_exec& x_;
  const Problem& c_;
  const Gradients& g_;
  int64_t positions_, room_, n_[kSets];
  bool own_window_;
  size_t ld_k_, ld_v_, per_head_, scratch_floats_;
  size_t k_panels_[kSets], v_panels_[kSets], k_rows_[kSets], dk_[kSets], dv_[kSets];
  size_t q_, q_cmp_, d_o_, lse_[kBranches], delta_[kBranches], gate_[kBranches];
  size_t blocks_, n_blocks_, chosen_by_, block_begin_;
  float *heads_, *scratch_;
};

}  // namespace

attune_status TiledBackward(const attune_exec* x) {
  const Problem c = ReadBackward(*x);
  const Gradients g = ReadGradients(*x);
  return Backward(*x, c, g).Run();
}

#endif  // ATTUNE_ISA
}  // namespace HWY_NAMESPACE
}  // namespace nsa
HWY_AFTER_NAMESPACE();
