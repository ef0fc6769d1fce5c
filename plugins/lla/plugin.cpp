// Local linear attention: kernels, entries and the handshake. The tables of tensors and parameters are in tables.h.
#include "_kit/isa.h"
#include "lla/forward.h"
#include "lla/reference.h"
#include "lla/tables.h"

namespace lla {
namespace {

using namespace tables;

constexpr int64_t kPackedRowValues[] = {16, 32, 64, kMostRows}, kFewRowValues[] = {16};
constexpr attune_knob kPackedKnobs[] = {
    Knob("rows", kPackedRowValues, 1, "query rows (queries times heads of a group) per tile; their weights are kept"),
};
constexpr attune_knob kRowsKnobs[] = {
    Knob("rows", kFewRowValues, 0, "query rows (queries times heads of a group) per tile"),
};

// Bytes of HeadKeys and TileMemory, generously.
#define ATTUNE_LLA_TILE \
  "4*$workers*(k.rows*(64*cdiv(Nk,64)+8*(D+31)+Dv+60)+(D+64)*(D+31)+3200)+4*B*Hkv*64*cdiv(Nk+1,64)*"
constexpr char kPackedWorkspace[] = ATTUNE_LLA_TILE "(2*D+Dv+95)", kRowsWorkspace[] = ATTUNE_LLA_TILE "(D+33)";
#undef ATTUNE_LLA_TILE

constexpr attune_kernel Packed() {
  attune_kernel k = Kernel("", ATTUNE_INVARIANT | ATTUNE_OWNS_THREADS, nullptr,
                           "keys packed once, tiles of rows that keep their weights and iterate together");
  k.knobs = Span(kPackedKnobs);
  k.knob_when = "k.rows<=16||k.rows<2*Hq/Hkv*Nq&&k.rows*Nk<=1048576";
  k.workspace = kPackedWorkspace;
  return k;
}
constexpr attune_kernel Rows() {
  attune_kernel k = Kernel("", ATTUNE_INVARIANT | ATTUNE_OWNS_THREADS, nullptr,
                           "keys as rows, values read in place: few rows per kv head");
  k.knobs = Span(kRowsKnobs);
  k.when = "Hq/Hkv*Nq<=12";
  k.workspace = kRowsWorkspace;
  return k;
}

constexpr char kReferenceWorkspace[] = "8*$workers*(Nk+D*D+3*D+Dv)";
#define ATTUNE_LLA_FORWARD_KERNELS(ON)                       \
  ON("rows", RowsForward, Rows(), 0.65, 0.45, 0.17, 0.65)    \
  ON("packed", PackedForward, Packed(), 0.6, 0.4, 0.15, 0.6)
constexpr attune_kernel kForwardKernels[] = {
    ATTUNE_ON_EVERY_ISA(ATTUNE_LLA_FORWARD_KERNELS)
    Reference(ReferenceForward, "B*Hkv", kReferenceWorkspace, 0.01),
};
#define ATTUNE_LLA_STEP_KERNELS(ON)                       \
  ON("rows", RowsStep, Rows(), 0.65, 0.45, 0.17, 0.65)    \
  ON("packed", PackedStep, Packed(), 0.6, 0.4, 0.15, 0.6)
constexpr attune_kernel kStepKernels[] = {
    ATTUNE_ON_EVERY_ISA(ATTUNE_LLA_STEP_KERNELS)
    Reference(ReferenceStep, "B*Hkv", kReferenceWorkspace, 0.01),
};
constexpr char kBackwardWorkspace[] =
    "4*$workers*(k.rows*(128*cdiv(Nk,64)+10*(D+31)+2*Dv+100)+(D+192)*(D+31)+192*(Dv+31)+16000)+"
    "4*B*Hkv*(64*cdiv(Nk+1,64)*(2*D+Dv+95)+Hq/Hkv*Nq*(2*D+70)+16)";
constexpr attune_kernel Backward() {
  attune_kernel k = Kernel("", ATTUNE_INVARIANT | ATTUNE_OWNS_THREADS, nullptr,
                           "both systems of a tile of queries, then keys in pieces with weights formed again");
  k.knobs = Span(kPackedKnobs);
  k.knob_when = "k.rows<=16||k.rows<2*Hq/Hkv*Nq&&k.rows*Nk<=1048576";
  k.workspace = kBackwardWorkspace;
  return k;
}
#define ATTUNE_LLA_BACKWARD_KERNELS(ON)                         \
  ON("packed", PackedBackward, Backward(), 0.6, 0.4, 0.15, 0.6)
constexpr attune_kernel kBackwardKernels[] = {
    ATTUNE_ON_EVERY_ISA(ATTUNE_LLA_BACKWARD_KERNELS)
    Reference(ReferenceBackward, nullptr, "8*(5*Nk+D*D+4*D+Nk*(D+Dv)+B*Hq*Nq)", 0.01),
};

constexpr char kSymbols[] = "B,Hq,Hkv,Nq,Nk,D,Dv", kBuckets[] = "B:pow2; Nq:half2; Nk:half2";
constexpr char kFlops[] = "B*Hq*Nq*(2*Nk*(2*D+Dv)+Nk*D*D+D*D*D/3)/(1+p.causal)";

constexpr attune_entry kEntries[] = {
    Entry(ATTUNE_FORWARD, "forward", kSymbols, "", kBuckets, kFlops, Span(kForwardTensors), Span(kRules),
          Span(kForwardKernels), nullptr, "value at the query of a ridge regression with softmax weights"),
    Of("forward", Entry(ATTUNE_BACKWARD, "backward", kSymbols, "", kBuckets,
                        "3*(B*Hq*Nq*(2*Nk*(2*D+Dv)+Nk*D*D+D*D*D/3)/(1+p.causal))", Span(kBackwardTensors), Span(kRules),
                        Span(kBackwardKernels), nullptr,
                        "gradients of forward, through the solve; only those that are asked for")),
    Entry(ATTUNE_STEP, "step", "B,Hq,Hkv,Nq,Nk,D,Dv,Np,Nn", "Np=?0; Nn=?Nk-Np; Nk=Np+Nn",
          "B:pow2; Nq:half2; Nk:half2; Np:half2; Nn:half2", kFlops, Span(kStepTensors), Span(kStepRules),
          Span(kStepKernels), nullptr, "forward over cache and new tokens, which are appended"),
};

constexpr attune_op kOps[] = {
    Op(ATTUNE_FOLDER, {1, 0, 0, 0}, "Local linear attention",
       "Locally linear regression with softmax weights and a ridge; one small solve per query.", "arXiv:2510.01450",
       Span(kParams), Span(kEntries), Span(kPresets), Span(kTolerances)),
};
constexpr attune_plugin kPlugin = Plugin("org.attune." ATTUNE_FOLDER, {1, 0, 0, 0}, Span(kOps));

}  // namespace
}  // namespace lla

ATTUNE_NOTE("org.attune." ATTUNE_FOLDER, "1.0.0");

extern "C" attune_status attune_plugin_entry_v1(attune_negotiation* n) {
  return attune_negotiate(n, &lla::kPlugin);
}
