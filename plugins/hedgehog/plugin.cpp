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

constexpr attune_kernel Columns(double efficiency) {
  attune_kernel k = Kernel("", ATTUNE_INVARIANT, nullptr, "chunks with the tokens in columns, a state between chunks");
  k.knobs = Span(kColumnsKnobs);
  k.when = "p.window_mode==none&&Nk>=16";
  k.tasks = "B*Hst";
  k.workspace = kColumnsWorkspace;
  k.efficiency = efficiency;
  return k;
}
constexpr attune_kernel Split(double efficiency) {
  attune_kernel k = Kernel("", ATTUNE_INVARIANT | ATTUNE_OWNS_THREADS, nullptr,
                           "each sequence in segments: their sums, the states between them, their outputs");
  k.knobs = Span(kSplitKnobs);
  k.when = "p.window_mode==none&&Nk>=64";
  k.knob_when = "k.chunk*k.segments<=4*Nk";
  k.workspace = kSplitWorkspace;
  k.flops = kSplitFlops;
  k.efficiency = efficiency;
  return k;
}
constexpr attune_kernel Chunked(const char* tasks, double efficiency) {
  attune_kernel k = Kernel("", ATTUNE_INVARIANT, nullptr, "chunks of queries against a running state, register tiles");
  k.knobs = Span(kChunkKnobs);
  k.tasks = tasks;
  k.workspace = kChunkedWorkspace;
  k.efficiency = efficiency;
  return k;
}

constexpr attune_kernel OwnThreads(const char* workspace, double efficiency, const char* doc) {
  attune_kernel k = Kernel("", ATTUNE_INVARIANT | ATTUNE_OWNS_THREADS, nullptr, doc);
  k.knobs = Span(kChunkKnobs);
  k.workspace = workspace;
  k.efficiency = efficiency;
  return k;
}
constexpr attune_kernel Gradients(double efficiency) {
  return OwnThreads(kBackwardWorkspace, efficiency,
                    "two passes over the tokens, in order and back, against running states");
}
constexpr attune_kernel Tiles(const char* workspace, double efficiency) {
  return OwnThreads(workspace, efficiency, "chunks of queries against tiles of keys, weights twice");
}

constexpr attune_kernel kForwardKernels[] = {
#if defined(__x86_64__)
    OnIsa(kAvx512, "columns_avx512", N_AVX3::ColumnsForward, Columns(0.75)),
    OnIsa(kAvx512, "split_avx512", N_AVX3::SplitForward, Split(0.75)),
    OnIsa(kAvx512, "chunked_avx512", N_AVX3::ChunkedForward, Chunked("B*Hst", 0.6)),
    OnIsa(kAvx2, "columns_avx2", N_AVX2::ColumnsForward, Columns(0.38)),
    OnIsa(kAvx2, "split_avx2", N_AVX2::SplitForward, Split(0.38)),
    OnIsa(kAvx2, "chunked_avx2", N_AVX2::ChunkedForward, Chunked("B*Hst", 0.3)),
    OnIsa(kSse4, "columns_sse4", N_SSE4::ColumnsForward, Columns(0.12)),
    OnIsa(kSse4, "split_sse4", N_SSE4::SplitForward, Split(0.12)),
    OnIsa(kSse4, "chunked_sse4", N_SSE4::ChunkedForward, Chunked("B*Hst", 0.1)),
#elif defined(__aarch64__)
    OnIsa(kNeon, "columns_neon", N_NEON::ColumnsForward, Columns(0.75)),
    OnIsa(kNeon, "split_neon", N_NEON::SplitForward, Split(0.75)),
    OnIsa(kNeon, "chunked_neon", N_NEON::ChunkedForward, Chunked("B*Hst", 0.6)),
#endif
    Reference(ReferenceForward, "B*Hkv", kReferenceForwardWorkspace),
};
constexpr attune_kernel kStepKernels[] = {
#if defined(__x86_64__)
    OnIsa(kAvx512, "columns_avx512", N_AVX3::ColumnsStep, Columns(0.75)),
    OnIsa(kAvx512, "split_avx512", N_AVX3::SplitStep, Split(0.75)),
    OnIsa(kAvx512, "chunked_avx512", N_AVX3::ChunkedStep, Chunked("B*Hkv", 0.6)),
    OnIsa(kAvx2, "columns_avx2", N_AVX2::ColumnsStep, Columns(0.38)),
    OnIsa(kAvx2, "split_avx2", N_AVX2::SplitStep, Split(0.38)),
    OnIsa(kAvx2, "chunked_avx2", N_AVX2::ChunkedStep, Chunked("B*Hkv", 0.3)),
    OnIsa(kSse4, "columns_sse4", N_SSE4::ColumnsStep, Columns(0.12)),
    OnIsa(kSse4, "split_sse4", N_SSE4::SplitStep, Split(0.12)),
    OnIsa(kSse4, "chunked_sse4", N_SSE4::ChunkedStep, Chunked("B*Hkv", 0.1)),
#elif defined(__aarch64__)
    OnIsa(kNeon, "columns_neon", N_NEON::ColumnsStep, Columns(0.75)),
    OnIsa(kNeon, "split_neon", N_NEON::SplitStep, Split(0.75)),
    OnIsa(kNeon, "chunked_neon", N_NEON::ChunkedStep, Chunked("B*Hkv", 0.6)),
#endif
    Reference(ReferenceStep, "B*Hkv", kReferenceForwardWorkspace),
};
constexpr attune_kernel kBackwardKernels[] = {
#if defined(__x86_64__)
    OnIsa(kAvx512, "chunked_avx512", N_AVX3::ChunkedBackward, Gradients(0.5)),
    OnIsa(kAvx2, "chunked_avx2", N_AVX2::ChunkedBackward, Gradients(0.25)),
    OnIsa(kSse4, "chunked_sse4", N_SSE4::ChunkedBackward, Gradients(0.1)),
#elif defined(__aarch64__)
    OnIsa(kNeon, "chunked_neon", N_NEON::ChunkedBackward, Gradients(0.5)),
#endif
    Reference(ReferenceBackward, nullptr, kReferenceBackwardWorkspace),
};
constexpr attune_kernel kDistillKernels[] = {
#if defined(__x86_64__)
    OnIsa(kAvx512, "chunked_avx512", N_AVX3::ChunkedDistill, Tiles(kDistillWorkspace, 0.5)),
    OnIsa(kAvx2, "chunked_avx2", N_AVX2::ChunkedDistill, Tiles(kDistillWorkspace, 0.25)),
    OnIsa(kSse4, "chunked_sse4", N_SSE4::ChunkedDistill, Tiles(kDistillWorkspace, 0.1)),
#elif defined(__aarch64__)
    OnIsa(kNeon, "chunked_neon", N_NEON::ChunkedDistill, Tiles(kDistillWorkspace, 0.5)),
#endif
    Reference(ReferenceDistill, nullptr, kReferenceDistillWorkspace),
};
constexpr attune_kernel kDistillBackwardKernels[] = {
#if defined(__x86_64__)
    OnIsa(kAvx512, "chunked_avx512", N_AVX3::ChunkedDistillBackward, Tiles(kDistillBackwardWorkspace, 0.5)),
    OnIsa(kAvx2, "chunked_avx2", N_AVX2::ChunkedDistillBackward, Tiles(kDistillBackwardWorkspace, 0.25)),
    OnIsa(kSse4, "chunked_sse4", N_SSE4::ChunkedDistillBackward, Tiles(kDistillBackwardWorkspace, 0.1)),
#elif defined(__aarch64__)
    OnIsa(kNeon, "chunked_neon", N_NEON::ChunkedDistillBackward, Tiles(kDistillBackwardWorkspace, 0.5)),
#endif
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
