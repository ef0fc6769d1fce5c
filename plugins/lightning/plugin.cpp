// Linear attention with a fixed decay per head: kernels, entries and the handshake. The tables of tensors and
// parameters are in tables.h.
#include "_kit/isa.h"
#include "lightning/reference.h"
#include "lightning/tables.h"

namespace lightning {
namespace {

using namespace tables;

constexpr attune_kernel Reference(attune_kernel_fn run, const char* tasks, const char* workspace) {
  attune_kernel k = Kernel("reference", ATTUNE_REFERENCE | ATTUNE_INVARIANT, run, "scalar loops in double precision");
  k.tasks = tasks;
  k.workspace = workspace;
  k.efficiency = 0.004;
  return k;
}

constexpr attune_kernel kForwardKernels[] = {
    Reference(ReferenceForward, "Nseq*Hq", "8*$workers*D*Dv"),
};
constexpr attune_kernel kBackwardKernels[] = {
    Reference(ReferenceBackward, "Hkv", "8*$workers*(Hq/Hkv)*(D*Dv+1)"),
};

constexpr attune_entry ForwardLike(uint32_t kind, const char* name, const char* doc) {
  return Entry(kind, name, kSymbols, kLet, kBuckets, kForwardFlops, Span(kForwardTensors), Span(kRules),
               Span(kForwardKernels), Check, doc);
}
constexpr attune_entry Backward() {
  attune_entry e = Entry(ATTUNE_BACKWARD, "backward", kSymbols, kLet, kBuckets, kBackwardFlops, Span(kBackwardTensors),
                         Span(kRules), Span(kBackwardKernels), Check, "gradients of every input");
  e.of = "forward";
  return e;
}

constexpr attune_entry kEntries[] = {
    ForwardLike(ATTUNE_FORWARD, "forward", "o_t = scale q_t S_t with S_t = exp(-slope) S_(t-1) + k_t v_t"),
    Backward(),
    ForwardLike(ATTUNE_STEP, "step", "the same as forward: new tokens continue from kv_state"),
};

constexpr attune_op kOps[] = {
    Op(ATTUNE_FOLDER, {1, 0, 0, 0}, "Lightning attention",
       "Causal linear attention with a fixed decay per head; constant state.", "arXiv:2401.04658, 2405.17381, 2501.08313",
       Span(kParams), Span(kEntries), Span(kPresets), Span(kTolerances)),
};
constexpr attune_plugin kPlugin = Plugin("org.attune." ATTUNE_FOLDER, {1, 0, 0, 0}, Span(kOps));

}  // namespace
}  // namespace lightning

ATTUNE_NOTE("org.attune." ATTUNE_FOLDER, "1.0.0");

extern "C" attune_status attune_plugin_entry_v1(attune_negotiation* n) {
  return attune_negotiate(n, &lightning::kPlugin);
}
