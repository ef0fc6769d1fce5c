// Linear attention with a learned feature map, alone or behind a softmax window: kernels, entries and the handshake.
// The tables of tensors and parameters are in tables.h.
#include "_kit/isa.h"
#include "hedgehog/kernels.h"
#include "hedgehog/problem.h"
#include "hedgehog/reference.h"
#include "hedgehog/tables.h"

namespace hedgehog {
namespace {

using namespace tables;

constexpr attune_kernel Reference(attune_kernel_fn run, const char* tasks, const char* workspace) {
  attune_kernel k = Kernel("reference", ATTUNE_REFERENCE | ATTUNE_INVARIANT, run, "scalar loops in double precision");
  k.tasks = tasks;
  k.workspace = workspace;
  k.efficiency = 0.001;
  return k;
}

constexpr int64_t kChunkValues[] = {32, 64, 128};
constexpr attune_knob kChunkKnobs[] = {Knob("chunk", kChunkValues, 1, "queries of a chunk, keys of a tile")};

constexpr int64_t kSegmentValues[] = {2, 4, 8, 16, 32};
constexpr attune_knob kColumnsKnobs[] = {Knob("chunk", kChunkValues, 0, "tokens of a chunk")};
constexpr attune_knob kSplitKnobs[] = {kColumnsKnobs[0], Knob("segments", kSegmentValues, 2, "pieces of a sequence")};

constexpr attune_kernel Columns() {
  attune_kernel k = Kernel("", ATTUNE_INVARIANT, nullptr, "chunks with the tokens in columns, a state between chunks");
  k.knobs = Span(kColumnsKnobs);
  k.when = "p.window_mode==none&&Nk>=16";
  k.tasks = "B*Hst";
  k.workspace = kColumnsWorkspace;
  return k;
}
constexpr attune_kernel Split() {
  attune_kernel k = Kernel("", ATTUNE_INVARIANT | ATTUNE_OWNS_THREADS, nullptr,
                           "each sequence in segments: their sums, the states between them, their outputs");
  k.knobs = Span(kSplitKnobs);
  k.when = "p.window_mode==none&&Nk>=64";
  k.knob_when = "k.chunk*k.segments<=4*Nk";
  k.workspace = kSplitWorkspace;
  k.flops = kSplitFlops;
  return k;
}
constexpr attune_kernel Chunked(const char* tasks) {
  attune_kernel k = Kernel("", ATTUNE_INVARIANT, nullptr, "chunks of queries against a running state, register tiles");
  k.knobs = Span(kChunkKnobs);
  k.tasks = tasks;
  k.workspace = kChunkedWorkspace;
  return k;
}

constexpr attune_kernel OwnThreads(const char* workspace, const char* doc) {
  attune_kernel k = Kernel("", ATTUNE_INVARIANT | ATTUNE_OWNS_THREADS, nullptr, doc);
  k.knobs = Span(kChunkKnobs);
  k.workspace = workspace;
  return k;
}
constexpr attune_kernel Gradients() {
  return OwnThreads(kBackwardWorkspace, "two passes over the tokens, in order and back, against running states");
}
constexpr attune_kernel Tiles(const char* workspace) {
  return OwnThreads(workspace, "chunks of queries against tiles of keys, weights twice");
}

#define ATTUNE_HEDGEHOG_FORWARD_KERNELS(ON)                        \
  ON("columns", ColumnsForward, Columns(), 0.75, 0.38, 0.12, 0.75) \
  ON("split", SplitForward, Split(), 0.75, 0.38, 0.12, 0.75)       \
  ON("chunked", ChunkedForward, Chunked("B*Hst"), 0.6, 0.3, 0.1, 0.6)
constexpr attune_kernel kForwardKernels[] = {
    ATTUNE_ON_EVERY_ISA(ATTUNE_HEDGEHOG_FORWARD_KERNELS)
    Reference(ReferenceForward, "B*Hkv", kReferenceForwardWorkspace),
};
#define ATTUNE_HEDGEHOG_STEP_KERNELS(ON)                        \
  ON("columns", ColumnsStep, Columns(), 0.75, 0.38, 0.12, 0.75) \
  ON("split", SplitStep, Split(), 0.75, 0.38, 0.12, 0.75)       \
  ON("chunked", ChunkedStep, Chunked("B*Hkv"), 0.6, 0.3, 0.1, 0.6)
constexpr attune_kernel kStepKernels[] = {
    ATTUNE_ON_EVERY_ISA(ATTUNE_HEDGEHOG_STEP_KERNELS)
    Reference(ReferenceStep, "B*Hkv", kReferenceForwardWorkspace),
};
#define ATTUNE_HEDGEHOG_BACKWARD_KERNELS(ON) \
  ON("chunked", ChunkedBackward, Gradients(), 0.5, 0.25, 0.1, 0.5)
constexpr attune_kernel kBackwardKernels[] = {
    ATTUNE_ON_EVERY_ISA(ATTUNE_HEDGEHOG_BACKWARD_KERNELS)
    Reference(ReferenceBackward, nullptr, kReferenceBackwardWorkspace),
};
#define ATTUNE_HEDGEHOG_DISTILL_KERNELS(ON) \
  ON("chunked", ChunkedDistill, Tiles(kDistillWorkspace), 0.5, 0.25, 0.1, 0.5)
constexpr attune_kernel kDistillKernels[] = {
    ATTUNE_ON_EVERY_ISA(ATTUNE_HEDGEHOG_DISTILL_KERNELS)
    Reference(ReferenceDistill, nullptr, kReferenceDistillWorkspace),
};
#define ATTUNE_HEDGEHOG_DISTILL_BACKWARD_KERNELS(ON) \
  ON("chunked", ChunkedDistillBackward, Tiles(kDistillBackwardWorkspace), 0.5, 0.25, 0.1, 0.5)
constexpr attune_kernel kDistillBackwardKernels[] = {
    ATTUNE_ON_EVERY_ISA(ATTUNE_HEDGEHOG_DISTILL_BACKWARD_KERNELS)
    Reference(ReferenceDistillBackward, nullptr, kReferenceDistillBackwardWorkspace),
};

constexpr attune_entry kEntries[] = {
    Entry(ATTUNE_FORWARD, "forward", kSymbols, kLet, kBuckets, kFlops, Span(kForwardTensors), Span(kForwardRules),
          Span(kForwardKernels), CheckForward,
          "o = features of q against features of older keys, softmax in the window"),
    Of("forward", Entry(ATTUNE_BACKWARD, "backward", kSymbols, kLet, kBuckets, kBackwardFlops, Span(kBackwardTensors),
                        Span(kForwardRules), Span(kBackwardKernels), CheckForward,
                        "gradients of o; the states are constants")),
    Entry(ATTUNE_STEP, "step", kStepSymbols, kStepLet, kBuckets, kFlops, Span(kStepTensors), Span(kStepRules),
          Span(kStepKernels), CheckStep, "forward of new tokens; keys that leave the window go into the states"),
    Entry(ATTUNE_SPECIAL, "distill", kDistillSymbols, kDistillLet, kBuckets, kDistillFlops, Span(kDistillTensors),
          Span(kDistillRules), Span(kDistillKernels), nullptr,
          "softmax teacher and feature-map student on the same keys, and two losses between them"),
    Of("distill", Entry(ATTUNE_SPECIAL, "distill_backward", kDistillSymbols, kDistillLet, kBuckets,
                        kDistillBackwardFlops, Span(kDistillBackwardTensors), Span(kDistillRules),
                        Span(kDistillBackwardKernels), nullptr,
                        "gradients of the losses, through the student and through the teacher")),
};

constexpr attune_op kOps[] = {
    Op(ATTUNE_FOLDER, {1, 0, 0, 0}, "Hedgehog attention",
       "Linear attention with a learned feature map; hybrid form with a softmax window.",
       "arXiv:2402.04347, 2410.10254", Span(kParams), Span(kEntries), Span(kPresets), Span(kTolerances)),
};
constexpr attune_plugin kPlugin = Plugin("org.attune." ATTUNE_FOLDER, {1, 0, 0, 0}, Span(kOps));

}  // namespace
}  // namespace hedgehog

ATTUNE_NOTE("org.attune." ATTUNE_FOLDER, "1.0.0");

extern "C" attune_status attune_plugin_entry_v1(attune_negotiation* n) {
  return attune_negotiate(n, &hedgehog::kPlugin);
}
