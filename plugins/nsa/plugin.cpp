// Native sparse attention: kernels, entries and the handshake. The tables of tensors and parameters are in tables.h.
#include "_kit/isa.h"
#include "nsa/backward.h"
#include "nsa/forward.h"
#include "nsa/reference.h"
#include "nsa/tables.h"

namespace nsa {
namespace {

using namespace tables;

constexpr attune_kernel Reference(attune_kernel_fn run, const char* workspace) {
  attune_kernel k = Kernel("reference", ATTUNE_REFERENCE | ATTUNE_INVARIANT, run, "scalar loops in double precision");
  k.workspace = workspace;
  k.efficiency = 0.003;
  return k;
}

constexpr int64_t kPackedRowValues[] = {16, 32, 64, 128}, kFewRowValues[] = {16, 64};
constexpr attune_knob kPackedKnobs[] = {
    Knob("rows", kPackedRowValues, 2, "query rows (positions times heads of a group) per tile"),
};
constexpr attune_knob kRowsKnobs[] = {
    Knob("rows", kFewRowValues, 0, "query rows (positions times heads of a group) per tile"),
};

// Bytes of TileMemory, generously: R rows of queries, outputs, scores; see query_tile-inl.h. Then what is made ready.
#define ATTUNE_NSA_TILE                                                                                        \
  "4*$workers*(4096+32*(D+Dv+64)+(k.rows+Hq/Hkv)*(3*D+2*Dv+256+Nc+min(Nk+1," ATTUNE_NSA_BLOCKS                    \
  ")+3*(Nk/p.cmp_stride))+8*(Nk/p.cmp_stride)+2*Nk+64)"
#define ATTUNE_NSA_COMPRESSED "4*B*Hkv*(Nc+32)*(D+Dv+64)"
#define ATTUNE_NSA_BLOCKS "max(p.top_n,S)"

// A step of few tokens behind very many reads a small part of them: a copy of all would cost more time and memory than
// everything else.
constexpr char kFewCached[] = "Nk<=4096*Nq||Nq>16";
constexpr attune_kernel Packed(const char* workspace, double efficiency, const char* when = nullptr) {
  attune_kernel k = Kernel("", ATTUNE_INVARIANT | ATTUNE_OWNS_THREADS, nullptr,
                           "keys packed once, tiles of positions with all heads of a group");
  k.knobs = Span(kPackedKnobs);
  k.knob_when = "k.rows<=16||k.rows<2*Hq/Hkv*Nq";
  k.when = when;
  k.workspace = workspace;
  // Every token is read, and its f32 copy written and read: too much for a few queries.
  k.bytes = "bytes(q)+bytes(o)+12*B*Hkv*Nk*(D+Dv)";
  k.efficiency = efficiency;
  return k;
}
constexpr attune_kernel Rows(const char* workspace, double efficiency) {
  attune_kernel k = Kernel("", ATTUNE_INVARIANT | ATTUNE_OWNS_THREADS, nullptr, "keys and values read in place");
  k.knobs = Span(kRowsKnobs);
  k.when = "Nq<=16";
  k.workspace = workspace;
  k.efficiency = efficiency;
  return k;
}
constexpr char kForwardPacked[] = ATTUNE_NSA_TILE "+" ATTUNE_NSA_COMPRESSED "+4*B*Hkv*(Nk+32)*(D+Dv+64)*"
                                  "(1+(has(k_swa)||has(v_swa)))";
// Generous: what rows.cpp makes ready, keeps per tile and needs per worker. At most 256 characters.
#define ATTUNE_NSA_ROWS(made)                                                                                       \
  "4*(B*Hkv*(" made ")*(D+Dv+64)+B*max(0,2*Nq-1)*(Hq*(Nc+3*Dv+214)+Hkv*(11*Nk/p.cmp_stride+45*Dv+1700+min(Nk+3," \
  ATTUNE_NSA_BLOCKS ")))+(min(k.rows,Nq*Hq/Hkv)+Hq/Hkv+31)/16*16*(48*Dv+$workers*(3*(D+Dv)+288)+1632)+"              \
  "$workers*96*(D+80))"
constexpr char kForwardRows[] = ATTUNE_NSA_ROWS("Nc");
constexpr char kStepRows[] = ATTUNE_NSA_ROWS("Nc-has(k_cmp_state)*Ncp");
// ReferenceMemory behind the compressed rows.
#define ATTUNE_NSA_REFERENCE "Nk+4*(Nk/p.sel_block)+Dv+8)"
constexpr char kStepPacked[] = ATTUNE_NSA_TILE "+" ATTUNE_NSA_COMPRESSED "+4*B*Hkv*(Nk+32)*(D+Dv+64)";

const attune_kernel kForwardKernels[] = {
#if defined(__x86_64__)
    OnIsa(kAvx512, "rows_avx512", N_AVX3::RowsForward, Rows(kForwardRows, 0.3)),
    OnIsa(kAvx512, "packed_avx512", N_AVX3::PackedForward, Packed(kForwardPacked, 0.6)),
    OnIsa(kAvx2, "rows_avx2", N_AVX2::RowsForward, Rows(kForwardRows, 0.2)),
    OnIsa(kAvx2, "packed_avx2", N_AVX2::PackedForward, Packed(kForwardPacked, 0.3)),
    OnIsa(kSse4, "rows_sse4", N_SSE4::RowsForward, Rows(kForwardRows, 0.08)),
    OnIsa(kSse4, "packed_sse4", N_SSE4::PackedForward, Packed(kForwardPacked, 0.08)),
#elif defined(__aarch64__)
    OnIsa(kNeon, "rows_neon", N_NEON::RowsForward, Rows(kForwardRows, 0.3)),
    OnIsa(kNeon, "packed_neon", N_NEON::PackedForward, Packed(kForwardPacked, 0.6)),
#endif
    Reference(ReferenceForward, "8*(Nc*(D+Dv+2)+" ATTUNE_NSA_REFERENCE),
};
const attune_kernel kStepKernels[] = {
#if defined(__x86_64__)
    OnIsa(kAvx512, "rows_avx512", N_AVX3::RowsStep, Rows(kStepRows, 0.3)),
    OnIsa(kAvx512, "packed_avx512", N_AVX3::PackedStep, Packed(kStepPacked, 0.6, kFewCached)),
    OnIsa(kAvx2, "rows_avx2", N_AVX2::RowsStep, Rows(kStepRows, 0.2)),
    OnIsa(kAvx2, "packed_avx2", N_AVX2::PackedStep, Packed(kStepPacked, 0.3, kFewCached)),
    OnIsa(kSse4, "rows_sse4", N_SSE4::RowsStep, Rows(kStepRows, 0.08)),
    OnIsa(kSse4, "packed_sse4", N_SSE4::PackedStep, Packed(kStepPacked, 0.08, kFewCached)),
#elif defined(__aarch64__)
    OnIsa(kNeon, "rows_neon", N_NEON::RowsStep, Rows(kStepRows, 0.3)),
    OnIsa(kNeon, "packed_neon", N_NEON::PackedStep, Packed(kStepPacked, 0.6, kFewCached)),
#endif
    Reference(ReferenceStep, "8*((Nc-has(k_cmp_state)*Ncp)*(D+Dv)+2*Nc+" ATTUNE_NSA_REFERENCE),
};
constexpr int64_t kBackwardRowValues[] = {32, 64};
constexpr attune_knob kBackwardKnobs[] = {
    Knob("rows", kBackwardRowValues, 1, "query rows (positions times heads of a group) per tile"),
};
// Generous: the heads' memory of backward.cpp, then the workers' scratch. An expression has at most 256 characters.
constexpr char kBackwardWorkspace[] =
    "4*(B*Hkv*((Nc+Nk*(1+has(k_swa)+has(v_swa))+400)*(3*D+2*Dv+98)+"
    "Nq*(Hq/Hkv*(2*D+Dv+112)+2*min(Nk+3,max(p.top_n,S))+2))+"
    "$workers*((k.rows+Hq/Hkv+96)*(5*D+2*Dv+400+Nc+min(Nk,max(p.top_n,S))+9*Nk/p.cmp_stride)+"
    "2*Nk+(D+Dv+36)*(D+Dv+36)))";
constexpr attune_kernel Backward(double efficiency) {
  attune_kernel k = Kernel("", ATTUNE_INVARIANT | ATTUNE_OWNS_THREADS, nullptr,
                           "queries in tiles, then keys in pieces with the queries that chose them; scores made again");
  k.knobs = Span(kBackwardKnobs);
  k.workspace = kBackwardWorkspace;
  k.efficiency = efficiency;
  return k;
}
const attune_kernel kBackwardKernels[] = {
#if defined(__x86_64__)
    OnIsa(kAvx512, "tiled_avx512", N_AVX3::TiledBackward, Backward(0.5)),
    OnIsa(kAvx2, "tiled_avx2", N_AVX2::TiledBackward, Backward(0.25)),
    OnIsa(kSse4, "tiled_sse4", N_SSE4::TiledBackward, Backward(0.07)),
#elif defined(__aarch64__)
    OnIsa(kNeon, "tiled_neon", N_NEON::TiledBackward, Backward(0.5)),
#endif
    Reference(ReferenceBackward,
              "8*(Nc*(2*(D+Dv)+3)+Nk*(2*(D+Dv)+6)+2*(D+Dv)+4+p.cmp_block*(has(w_k_cmp)*(1+(p.cmp_mode==linear)*D*D)+"
              "has(w_v_cmp)*(1+(p.cmp_mode==linear)*Dv*Dv)+has(pe_k_cmp)*D+has(pe_v_cmp)*Dv))"),
};

constexpr char kCompressedLet[] = "Nc=?(Nk>=p.cmp_block)*((Nk-p.cmp_block)/p.cmp_stride+1); S=?p.top_n";
constexpr char kForwardFlops[] =
    "2*B*Hq*Nq*(D+Dv)*(p.use_cmp*Nc/2+p.use_slc*min(Nk,S*p.sel_block)+p.use_swa*min(Nk,p.window))";
constexpr char kForwardSymbols[] = "B,Hq,Hkv,Nq,Nk,D,Dv,Nc,S";
constexpr char kForwardBuckets[] = "B:pow2; Nq:half2; Nk:half2; Nc:half2";

constexpr attune_entry BackwardEntry(attune_span kernels) {
  attune_entry e = Entry(ATTUNE_BACKWARD, "backward", kForwardSymbols, kCompressedLet, kForwardBuckets,
                         "5*B*Hq*Nq*(D+Dv)*(p.use_cmp*Nc/2+p.use_slc*min(Nk,S*p.sel_block)+p.use_swa*min(Nk,p.window))",
                         Span(kBackwardTensors), Span(kForwardRules), kernels, nullptr,
                         "gradients of forward with the selection held constant; only those that are asked for");
  e.of = "forward";
  return e;
}
constexpr attune_entry StepEntry(attune_span kernels) {
  attune_entry e =
      Entry(ATTUNE_STEP, "step", "B,Hq,Hkv,Nq,Nk,D,Dv,Np,Nn,Nc,Ncp,S",
            "Np=?0; Nn=?Nk-Np; Nk=Np+Nn; Nc=(Nk>=p.cmp_block)*((Nk-p.cmp_block)/p.cmp_stride+1); "
            "Ncp=(Np>=p.cmp_block)*((Np-p.cmp_block)/p.cmp_stride+1); S=p.top_n",
            "B:pow2; Nq:half2; Nk:half2; Np:half2; Nn:half2; Nc:half2; Ncp:half2", kForwardFlops, Span(kStepTensors),
            Span(kStepRules), kernels, nullptr, "all branches on the same k, v: appends, completes, attends");
  e.bytes = "bytes(q)+bytes(o)+B*Hkv*(D+Dv)*4*(p.use_slc*min(Nk,S*p.sel_block)+p.use_swa*min(Nk,p.window))";
  return e;
}

const attune_entry kEntries[] = {
    Entry(ATTUNE_FORWARD, "forward", kForwardSymbols, kCompressedLet, kForwardBuckets, kForwardFlops,
          Span(kForwardTensors), Span(kForwardRules), Span(kForwardKernels), nullptr,
          "three attentions over the same keys, mixed by gates"),
    BackwardEntry(Span(kBackwardKernels)),
    StepEntry(Span(kStepKernels)),
};

const attune_op kOps[] = {
    Op(ATTUNE_FOLDER, {1, 0, 0, 0}, "Native sparse attention",
       "Compressed, selected and sliding-window attention over the same keys, mixed by gates.", "arXiv:2502.11089",
       Span(kParams), Span(kEntries), Span(kPresets), Span(kTolerances)),
};
const attune_plugin kPlugin = Plugin("org.attune." ATTUNE_FOLDER, {1, 0, 0, 0}, Span(kOps));

}  // namespace
}  // namespace nsa

ATTUNE_NOTE("org.attune." ATTUNE_FOLDER, "1.0.0");

extern "C" attune_status attune_plugin_entry_v1(attune_negotiation* n) {
  return attune_negotiate(n, &nsa::kPlugin);
}
