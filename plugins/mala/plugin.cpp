// Magnitude-aware linear attention: kernels, entries and the handshake. The tables of tensors and parameters are in
// tables.h.
#include "_kit/isa.h"
#include "mala/chunked.h"
#include "mala/layout.h"
#include "mala/problem.h"
#include "mala/reference.h"
#include "mala/tables.h"

namespace mala {
namespace {

using namespace tables;

constexpr attune_kernel Reference(attune_kernel_fn run, const char* workspace) {
  attune_kernel k =
      Kernel("reference", ATTUNE_REFERENCE | ATTUNE_INVARIANT, run, "scalar loops in double precision");
  k.tasks = kReferenceTasks;
  k.workspace = workspace;
  k.efficiency = 0.004;
  return k;
}

constexpr int64_t kChunkValues[] = {32, 64, 128}, kSplitValues[] = {1, 8, 32};
constexpr attune_knob kChunkedKnobs[] = {
    Knob("chunk", kChunkValues, 0, "tokens per tile"),
    Knob("split", kSplitValues, 1, "pieces that the tokens of all kv heads are cut into, if there are that few heads"),
};
// Beyond the work that counts, the sums are moved in and out of working memory: for a few tokens more than all the rest.
constexpr char kChunkedStepFlops[] =
    "2*B*Hq*Nq*D*Dv+2*B*Hkv*Nk*D*Dv+B*Hq*Nq*min(Nk,32)*(D+Dv)+56*B*Hkv*D*Dv";

constexpr attune_kernel Chunked(const char* workspace, const char* flops = nullptr) {
  attune_kernel k = Kernel("", ATTUNE_INVARIANT | ATTUNE_OWNS_THREADS, nullptr,
                           "sums over chunks of tokens and rows of outputs as register-tile products");
  k.knobs = Span(kChunkedKnobs);
  k.workspace = workspace;
  k.flops = flops;
  return k;
}
constexpr attune_kernel Tokens() {
  attune_kernel k = Kernel("", ATTUNE_INVARIANT | ATTUNE_OWNS_THREADS, nullptr,
                           "one token after the other, each a single pass over the states");
  k.when = "Nk<=16";
  k.workspace = kTokensWorkspace;
  return k;
}

#define ATTUNE_MALA_FORWARD_KERNELS(ON) \
  ON("chunked", ChunkedForward, Chunked(kForwardWorkspace), 0.5, 0.5, 0.5, 0.5)
constexpr attune_kernel kForwardKernels[] = {
    ATTUNE_ON_EVERY_ISA(ATTUNE_MALA_FORWARD_KERNELS)
    Reference(ReferenceForward, kReferenceWorkspace),
};
#define ATTUNE_MALA_STEP_KERNELS(ON)                         \
  ON("tokens", TokensStep, Tokens(), 0.15, 0.15, 0.15, 0.15) \
  ON("chunked", ChunkedStep, Chunked(kForwardWorkspace, kChunkedStepFlops), 0.5, 0.5, 0.5, 0.5)
constexpr attune_kernel kStepKernels[] = {
    ATTUNE_ON_EVERY_ISA(ATTUNE_MALA_STEP_KERNELS)
    Reference(ReferenceStep, kReferenceWorkspace),
};
#define ATTUNE_MALA_BACKWARD_KERNELS(ON) \
  ON("chunked", ChunkedBackward, Chunked(kBackwardWorkspace), 0.5, 0.5, 0.5, 0.5)
constexpr attune_kernel kBackwardKernels[] = {
    ATTUNE_ON_EVERY_ISA(ATTUNE_MALA_BACKWARD_KERNELS)
    Reference(ReferenceBackward, kReferenceBackwardWorkspace),
};

constexpr char kSymbols[] = "B,Hq,Hkv,Nq,Nk,D,Dv", kBuckets[] = "B:pow2; Nq:half2; Nk:half2";
// Products with the sums and into them; in the causal form also the lower triangle of the scores within a chunk.
constexpr char kFlops[] = "2*B*Hq*Nq*D*Dv+2*B*Hkv*Nk*D*Dv+p.causal*B*Hq*Nq*min(Nk,32)*(D+Dv)";
constexpr char kBackwardFlops[] = "6*B*Hq*Nq*D*Dv+6*B*Hkv*Nk*D*Dv";

constexpr attune_entry Backward() {
  attune_entry e = Entry(ATTUNE_BACKWARD, "backward", kSymbols, "", kBuckets, kBackwardFlops, Span(kBackwardTensors),
                         Span(kRules), Span(kBackwardKernels), CheckBackward,
                         "gradients of q, k, v; none flows through the states");
  e.of = "forward";
  return e;
}
constexpr attune_entry kEntries[] = {
    Entry(ATTUNE_FORWARD, "forward", kSymbols, "", kBuckets, kFlops, Span(kForwardTensors), Span(kRules),
          Span(kForwardKernels), CheckForward,
          "o_i = (1 + 1/(z_i + eps)) y_i - z_i mean(v); y: unnormalised linear attention, z: its row sums"),
    Backward(),
    Entry(ATTUNE_STEP, "step", kSymbols, "", kBuckets, kFlops, Span(kStepTensors), Span(kStepRules),
          Span(kStepKernels), CheckStep, "new tokens on top of the states; any split of the tokens gives the same rows"),
};

constexpr attune_op kOps[] = {
    Op(ATTUNE_FOLDER, {1, 0, 0, 0}, "Magnitude-aware linear attention",
       "Linear attention with a scale and an offset instead of a normaliser; optional rotary tables.",
       "arXiv:2507.00698", Span(kParams), Span(kEntries), Span(kPresets), Span(kTolerances)),
};
constexpr attune_plugin kPlugin = Plugin("org.attune." ATTUNE_FOLDER, {1, 0, 0, 0}, Span(kOps));

}  // namespace
}  // namespace mala

ATTUNE_NOTE("org.attune." ATTUNE_FOLDER, "1.0.0");

extern "C" attune_status attune_plugin_entry_v1(attune_negotiation* n) {
  return attune_negotiate(n, &mala::kPlugin);
}
