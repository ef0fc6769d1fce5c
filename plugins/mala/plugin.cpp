// Magnitude-aware linear attention: kernels, entries and the handshake. The tables of tensors and parameters are in
// tables.h.
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

constexpr attune_kernel kForwardKernels[] = {Reference(ReferenceForward, kReferenceWorkspace)};
constexpr attune_kernel kStepKernels[] = {Reference(ReferenceStep, kReferenceWorkspace)};
constexpr attune_kernel kBackwardKernels[] = {Reference(ReferenceBackward, kReferenceBackwardWorkspace)};

constexpr char kSymbols[] = "B,Hq,Hkv,Nq,Nk,D,Dv", kBuckets[] = "B:pow2; Nq:half2; Nk:half2";
constexpr char kFlops[] = "4*B*Hq*Nq*D*Dv+4*B*Hkv*Nk*D*Dv", kBackwardFlops[] = "3*(4*B*Hq*Nq*D*Dv+4*B*Hkv*Nk*D*Dv)";

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
