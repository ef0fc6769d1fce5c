// Local linear attention: kernels, entries and the handshake. The tables of tensors and parameters are in tables.h.
#include "_kit/isa.h"
#include "lla/reference.h"
#include "lla/tables.h"

namespace lla {
namespace {

using namespace tables;

constexpr attune_kernel Reference(attune_kernel_fn run, const char* tasks, const char* workspace) {
  attune_kernel k = Kernel("reference", ATTUNE_REFERENCE | ATTUNE_INVARIANT, run, "scalar loops in double precision");
  k.tasks = tasks;
  k.workspace = workspace;
  k.efficiency = 0.01;
  return k;
}

constexpr char kReferenceWorkspace[] = "8*$workers*(Nk+D*D+3*D+Dv)";
constexpr attune_kernel kForwardKernels[] = {
    Reference(ReferenceForward, "B*Hkv", kReferenceWorkspace),
};
constexpr attune_kernel kStepKernels[] = {
    Reference(ReferenceStep, "B*Hkv", kReferenceWorkspace),
};
constexpr attune_kernel kBackwardKernels[] = {
    Reference(ReferenceBackward, nullptr, "8*(5*Nk+D*D+4*D+Nk*(D+Dv)+B*Hq*Nq)"),
};

constexpr char kSymbols[] = "B,Hq,Hkv,Nq,Nk,D,Dv", kBuckets[] = "B:pow2; Nq:half2; Nk:half2";
constexpr char kFlops[] = "B*Hq*Nq*(2*Nk*(2*D+Dv)+Nk*D*D+D*D*D/3)/(1+p.causal)";

constexpr attune_entry Backward() {
  attune_entry e = Entry(ATTUNE_BACKWARD, "backward", kSymbols, "", kBuckets,
                         "3*(B*Hq*Nq*(2*Nk*(2*D+Dv)+Nk*D*D+D*D*D/3)/(1+p.causal))", Span(kBackwardTensors),
                         Span(kRules), Span(kBackwardKernels), nullptr,
                         "gradients of forward, through the solve; only those that are asked for");
  e.of = "forward";
  return e;
}
constexpr attune_entry kEntries[] = {
    Entry(ATTUNE_FORWARD, "forward", kSymbols, "", kBuckets, kFlops, Span(kForwardTensors), Span(kRules),
          Span(kForwardKernels), nullptr, "value at the query of a ridge regression with softmax weights"),
    Backward(),
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
