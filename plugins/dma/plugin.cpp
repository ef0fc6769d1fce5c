// Dynamic mask attention: kernels, entries and the handshake. The tables of tensors and parameters are in tables.h.
#include "_kit/isa.h"
#include "dma/backward.h"
#include "dma/forward.h"
#include "dma/reference.h"
#include "dma/tables.h"

namespace dma {
namespace {

using namespace tables;

constexpr int64_t kTileRowValues[] = {32, 64, 128, 256}, kBlockKeyValues[] = {64, 128, 256};
constexpr attune_knob kTiledKnobs[] = {
    Knob("rows", kTileRowValues, 2, "query rows (positions times heads of a group) per tile"),
    Knob("keys", kBlockKeyValues, 1, "keys whose scores are kept at a time"),
};
// Bytes, generously: what is known of every key; then each worker's tile of R rows and block of keys. N: all keys.
#define ATTUNE_DMA_FORWARD_WORKSPACE(N) \
  "4*(B*Hkv*7*(" N ")+Hkv*(Hkv*Dv+32)+512+" \
  "$workers*((k.rows+Hq/Hkv+64)*(D+Dv+96)+(k.keys+32)*(D+Dv+230)+3*(" N ")+Hkv*Dv+1024))"
constexpr attune_kernel Tiled(const char* workspace) {
  attune_kernel k = Kernel("", ATTUNE_INVARIANT | ATTUNE_OWNS_THREADS, nullptr,
                           "tiles of positions with all heads of a group, over the keys that they keep");
  k.knobs = Span(kTiledKnobs);
  k.knob_when = "k.rows<=32||4*k.rows<=Hq/Hkv*Nq";
  k.workspace = workspace;
  return k;
}
constexpr attune_kernel Rows(const char* when, const char* workspace) {
  attune_kernel k = Kernel("", ATTUNE_INVARIANT | ATTUNE_OWNS_THREADS, nullptr, "keys and values read in place");
  k.when = when;
  k.workspace = workspace;
  return k;
}
#define ATTUNE_DMA_ROWS_WORKSPACE(N) \
  "4*(B*Hkv*7*(" N ")+Hkv*(Hkv*Dv+32)+512+$workers*((Hq/Hkv*Nq+1)*(D+Dv+200)+3*(" N ")+Hkv*Dv+3*Dv+2048))"
constexpr char kFewRows[] = "Hq/Hkv*Nq<=16";
constexpr char kFewPlainRows[] =
    "Hq/Hkv*Nq<=16&&!has(mask)&&(!has(bias)||dim(bias,2)==1&&(dim(bias,1)==1||dim(bias,1)==Hkv))";
constexpr char kForwardRowsWorkspace[] = ATTUNE_DMA_ROWS_WORKSPACE("Nk");
constexpr char kStepRowsWorkspace[] = ATTUNE_DMA_ROWS_WORKSPACE("S+Nk");
constexpr char kForwardWorkspace[] = ATTUNE_DMA_FORWARD_WORKSPACE("Nk");
constexpr char kStepWorkspace[] = ATTUNE_DMA_FORWARD_WORKSPACE("S+Nk");

#define ATTUNE_DMA_FORWARD_KERNELS(ON)                                                     \
  ON("rows", RowsForward, Rows(kFewPlainRows, kForwardRowsWorkspace), 0.3, 0.2, 0.08, 0.3) \
  ON("tiled", TiledForward, Tiled(kForwardWorkspace), 0.6, 0.3, 0.08, 0.6)
const attune_kernel kForwardKernels[] = {
    ATTUNE_ON_EVERY_ISA(ATTUNE_DMA_FORWARD_KERNELS)
    Reference(ReferenceForward, nullptr, "8*(5*Nk+Dv)", 0.003),
};
#define ATTUNE_DMA_STEP_KERNELS(ON)                                             \
  ON("rows", RowsStep, Rows(kFewRows, kStepRowsWorkspace), 0.3, 0.2, 0.08, 0.3) \
  ON("tiled", TiledStep, Tiled(kStepWorkspace), 0.6, 0.3, 0.08, 0.6)
const attune_kernel kStepKernels[] = {
    ATTUNE_ON_EVERY_ISA(ATTUNE_DMA_STEP_KERNELS)
    Reference(ReferenceStep, nullptr, "8*(5*(S+Nk)+Dv)", 0.003),
};
constexpr int64_t kBackwardRowValues[] = {32, 64, 128}, kSliceValues[] = {1, 2, 4};
constexpr attune_knob kBackwardKnobs[] = {
    Knob("rows", kBackwardRowValues, 2, "query rows (positions times heads of a group) per tile"),
    Knob("slices", kSliceValues, 1, "shares of the tiles of a kv head that are worked on side by side"),
};
// The same, with sums of every slice for every key, and workers that hold all keys of a tile.
constexpr char kBackwardWorkspace[] =
    "4*(B*Hkv*Nk*(9+k.slices*(D+Dv+66))+Hkv*(Hkv*Dv+32)+512+$workers*((k.rows+Hq/Hkv+64)*(3*(D+Dv)+300+"
    "has(dbias)*(Nk+32))+5*Nk+(Nk+1-(p.mask_mode!=given&&p.mask_mode!=none)*max(0,Nk-min(Nk,p.top_w)-k.rows))*"
    "(2*(D+Dv)+340)+Hkv*Dv))";
constexpr attune_kernel Backward() {
  attune_kernel k = Kernel("", ATTUNE_INVARIANT | ATTUNE_OWNS_THREADS, nullptr,
                           "tiles of positions over the keys that they keep, scores made again");
  k.knobs = Span(kBackwardKnobs);
  k.knob_when = "k.slices==1||k.rows*k.slices<=Hq/Hkv*Nq";
  k.workspace = kBackwardWorkspace;
  return k;
}
#define ATTUNE_DMA_BACKWARD_KERNELS(ON)                        \
  ON("tiled", TiledBackward, Backward(), 0.5, 0.25, 0.07, 0.5)
const attune_kernel kBackwardKernels[] = {
    ATTUNE_ON_EVERY_ISA(ATTUNE_DMA_BACKWARD_KERNELS)
    Reference(ReferenceBackward, nullptr,
              "8*(7*Nk+Dv+D+Nk*D+B*Hkv*Nk*Dv+Hkv*(Hkv*Dv+2)+has(bias)*max(0,dim(bias,0)*dim(bias,1)*dim(bias,2)*"
              "dim(bias,3)))",
              0.003),
};

constexpr char kSymbols[] = "B,Hq,Hkv,Nq,Nk,D,Dv";
constexpr char kBuckets[] = "B:pow2; Nq:half2; Nk:half2";
// Keys that a late query keeps; twice what an average one does; multiply-adds of the biases.
#define ATTUNE_DMA_KEPT "min(Nk,max(p.top_w,(p.mask_mode==given||p.mask_mode==none)*Nk))"
#define ATTUNE_DMA_AVERAGE "(" ATTUNE_DMA_KEPT "*(2*Nk-p.causal*" ATTUNE_DMA_KEPT ")/max(1,Nk))"
#define ATTUNE_DMA_BIASES "has(w_dt)*B*Nk*Hkv*Hkv*Dv"
constexpr char kForwardFlops[] = "B*Hq*Nq*(D+Dv)*" ATTUNE_DMA_AVERAGE "+2*" ATTUNE_DMA_BIASES;
constexpr char kBackwardFlops[] = "5*(B*Hq*Nq*(D+Dv)*" ATTUNE_DMA_AVERAGE "/2)+4*" ATTUNE_DMA_BIASES;

const attune_entry kEntries[] = {
    Entry(ATTUNE_FORWARD, "forward", kSymbols, "", kBuckets, kForwardFlops, Span(kForwardTensors),
          Span(kForwardRules), Span(kForwardKernels), nullptr, "softmax attention over the kept keys"),
    Of("forward", Entry(ATTUNE_BACKWARD, "backward", kSymbols, "", kBuckets, kBackwardFlops, Span(kBackwardTensors),
                        Span(kForwardRules), Span(kBackwardKernels), nullptr,
                        "gradients of forward with the kept sets held constant; only those that are asked for")),
    Entry(ATTUNE_STEP, "step", "B,Hq,Hkv,Nq,Nk,D,Dv,S,So", "S=?0; So=min(S+Nk,p.top_w)",
          "B:pow2; Nq:half2; Nk:half2; S:half2; So:half2", "2*B*Hq*Nq*(S+Nk)*(D+Dv)+2*B*Nk*Hkv*Hkv*Dv",
          Span(kStepTensors), Span(kStepRules), Span(kStepKernels), nullptr,
          "bounded state: at most top_w keys per kv head"),
};

const attune_op kOps[] = {
    Op(ATTUNE_FOLDER, {1, 0, 0, 0}, "Dynamic mask attention",
       "Softmax attention over the top_w visible keys by a key bias that is sampled from the values or given.",
       "arXiv:2508.02124", Span(kParams), Span(kEntries), Span(kPresets), Span(kTolerances)),
};
const attune_plugin kPlugin = Plugin("org.attune." ATTUNE_FOLDER, {1, 0, 0, 0}, Span(kOps));

}  // namespace
}  // namespace dma

ATTUNE_NOTE("org.attune." ATTUNE_FOLDER, "1.0.0");

extern "C" attune_status attune_plugin_entry_v1(attune_negotiation* n) {
  return attune_negotiate(n, &dma::kPlugin);
}
