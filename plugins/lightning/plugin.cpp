// Linear attention with a fixed decay per head: kernels, entries and the handshake. The tables of tensors and
// parameters are in tables.h.
#include "_kit/isa.h"
#include "lightning/kernels.h"
#include "lightning/reference.h"
#include "lightning/tables.h"

namespace lightning {
namespace {

using namespace tables;

constexpr int64_t kChunkValues[] = {32, 64, 128, 256}, kSegmentValues[] = {4, 8, 16, 32};
// Forward, short chunks are the fastest: less is multiplied within a chunk.
constexpr attune_knob kForwardChunk = Knob("chunk", kChunkValues, 0, "tokens per chunk");
constexpr attune_knob kChunkedKnobs[] = {kForwardChunk};
constexpr attune_knob kSplitKnobs[] = {kForwardChunk, Knob("segments", kSegmentValues, 1, "pieces of each sequence")};
constexpr attune_knob kGradientKnobs[] = {Knob("chunk", kChunkValues, 1, "tokens per chunk")};

// Floats of a chunk of D features and Dv columns, its decay tables and one state.
#define ATTUNE_LIGHTNING_SCRATCH                                                                                     \
  "k.chunk*(64*cdiv(D,32)+64*cdiv(Dv,32)+k.chunk+2*D+81)+32*D+32+D*(32*cdiv(Dv,32)+16)"

// The state is moved in and out of a chunk's memory, which takes as long as this much arithmetic: for a few tokens more
// than all the rest.
#define ATTUNE_LIGHTNING_CHUNKED_FLOPS "4*B*Hq*Nq*D*Dv+B*Hq*Nq*min(Nq,32)*(D+Dv)+56*Nseq*Hq*D*Dv"

constexpr attune_kernel Chunked() {
  attune_kernel k = Kernel("", ATTUNE_INVARIANT, nullptr, "masked products within a chunk, a state between chunks");
  k.knobs = Span(kChunkedKnobs);
  k.knob_when = "k.chunk<=64||k.chunk<2*Nk";
  k.tasks = "Nseq*Hq";
  k.workspace = "4*$workers*(" ATTUNE_LIGHTNING_SCRATCH ")";
  k.flops = ATTUNE_LIGHTNING_CHUNKED_FLOPS;
  return k;
}
constexpr attune_kernel Split() {
  attune_kernel k = Kernel("", ATTUNE_INVARIANT | ATTUNE_OWNS_THREADS, nullptr,
                           "each sequence in segments: their sums, the states between them, their outputs");
  k.knobs = Span(kSplitKnobs);
  k.when = "!has(cu_seqlens)&&Nk>=64";
  k.knob_when = "k.chunk*k.segments<=Nk";
  k.workspace = "4*(B*Hq*k.segments*D*(32*cdiv(Dv,32)+16)+$workers*(" ATTUNE_LIGHTNING_SCRATCH "))";
  k.flops = "6*B*Hq*Nq*D*Dv+2*B*Hq*Nq*min(Nq,32)*(D+Dv)/2";
  return k;
}
constexpr attune_kernel FewTokens() {
  attune_kernel k = Kernel("", ATTUNE_INVARIANT, nullptr, "token by token; the state is read and written in place");
  k.when = "Nk<=16*Nseq";
  k.tasks = "Nseq*Hq";
  k.workspace = "4*$workers*(64*cdiv(D,32)+64*cdiv(Dv,32)+64+D*(32*cdiv(Dv,32)+16))";
  return k;
}
constexpr attune_kernel Gradients() {
  attune_kernel k = Kernel("", ATTUNE_INVARIANT, nullptr, "each gradient is a sweep like the forward one");
  k.knobs = Span(kGradientKnobs);
  k.knob_when = "k.chunk<=64||k.chunk<2*Nk";
  k.tasks = "Nseq*(Hq+2*Hkv)+Hq";
  k.workspace =
      "4*$workers*(k.chunk*(64*cdiv(D,32)+64*cdiv(Dv,32)+k.chunk+2*max(D,Dv)+80)+32*max(D,Dv)+max(2,Hq/Hkv)*"
      "((32*cdiv(D,32)+16)*(32*cdiv(Dv,32)+16)+3*k.chunk+160))";
  return k;
}

#define ATTUNE_LIGHTNING_FORWARD_KERNELS(ON)                     \
  ON("recurrent", Recurrent, FewTokens(), 0.2, 0.1, 0.05, 0.2)   \
  ON("chunked", ChunkedForward, Chunked(), 0.7, 0.35, 0.09, 0.7) \
  ON("split", SplitForward, Split(), 0.7, 0.35, 0.09, 0.7)
constexpr attune_kernel kForwardKernels[] = {
    ATTUNE_ON_EVERY_ISA(ATTUNE_LIGHTNING_FORWARD_KERNELS)
    Reference(ReferenceForward, "Nseq*Hq", "8*$workers*D*Dv", 0.004),
};
#define ATTUNE_LIGHTNING_BACKWARD_KERNELS(ON)                       \
  ON("chunked", ChunkedBackward, Gradients(), 0.7, 0.35, 0.09, 0.7)
constexpr attune_kernel kBackwardKernels[] = {
    ATTUNE_ON_EVERY_ISA(ATTUNE_LIGHTNING_BACKWARD_KERNELS)
    Reference(ReferenceBackward, "Hkv", "8*$workers*(Hq/Hkv)*(D*Dv+1)", 0.004),
};

constexpr attune_entry ForwardLike(uint32_t kind, const char* name, const char* doc) {
  return Entry(kind, name, kSymbols, kLet, kBuckets, kForwardFlops, Span(kForwardTensors), Span(kRules),
               Span(kForwardKernels), Check, doc);
}
constexpr attune_entry kEntries[] = {
    ForwardLike(ATTUNE_FORWARD, "forward", "o_t = scale q_t S_t with S_t = exp(-slope) S_(t-1) + k_t v_t"),
    Of("forward", Entry(ATTUNE_BACKWARD, "backward", kSymbols, kLet, kBuckets, kBackwardFlops, Span(kBackwardTensors),
                        Span(kRules), Span(kBackwardKernels), Check, "gradients of every input")),
    ForwardLike(ATTUNE_STEP, "step", "the same as forward: new tokens continue from kv_state"),
};

constexpr attune_op kOps[] = {
    Op(ATTUNE_FOLDER, {1, 0, 0, 0}, "Lightning attention",
       "Causal linear attention with a fixed decay per head; constant state.",
       "arXiv:2401.04658, 2405.17381, 2501.08313",
       Span(kParams), Span(kEntries), Span(kPresets), Span(kTolerances)),
};
constexpr attune_plugin kPlugin = Plugin("org.attune." ATTUNE_FOLDER, {1, 0, 0, 0}, Span(kOps));

}  // namespace
}  // namespace lightning

ATTUNE_NOTE("org.attune." ATTUNE_FOLDER, "1.0.0");

extern "C" attune_status attune_plugin_entry_v1(attune_negotiation* n) {
  return attune_negotiate(n, &lightning::kPlugin);
}
