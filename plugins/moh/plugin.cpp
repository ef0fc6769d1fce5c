// Mixture-of-heads attention: kernels, entries and the handshake. The tables of tensors and parameters are in tables.h.
#include "_kit/isa.h"
#include "moh/reference.h"
#include "moh/tables.h"

namespace moh {
namespace {

using namespace tables;

constexpr attune_kernel Reference(attune_kernel_fn run, const char* workspace) {
  attune_kernel k = Kernel("reference", ATTUNE_REFERENCE | ATTUNE_INVARIANT, run, "scalar loops in double precision");
  k.workspace = workspace;
  k.efficiency = 0.003;
  return k;
}
constexpr char kReferenceForward[] = "8*(10*Hq+Nk+Hq*Dv)";
constexpr char kReferenceBackward[] =
    "8*(Nk*(Hkv*(D+Dv)+2)+Hq*(12+2*Dv)+D+has(dbias)*dim(dbias,0)*dim(dbias,1)*dim(dbias,2)*dim(dbias,3)+"
    "has(dw_o)*Cout*Hq*Dv+has(db_o)*Cout)";

constexpr attune_kernel kForwardKernels[] = {
    Reference(ReferenceForward, kReferenceForward),
};
constexpr attune_kernel kStepKernels[] = {
    Reference(ReferenceStep, kReferenceForward),
};
constexpr attune_kernel kBackwardKernels[] = {
    Reference(ReferenceBackward, kReferenceBackward),
};

constexpr char kSymbols[] = "B,Hq,Hkv,Nq,Nk,D,Dv,Np,Nn,E,Cout";
constexpr char kLet[] = "Np=?0; Nn=?Nk-Np; Nk=Np+Nn; E=Hq-p.n_shared; Cout=?Hq*Dv";
constexpr char kBuckets[] = "B:pow2; Nq:half2; Nk:half2; Np:half2; Nn:half2";
#define ATTUNE_MOH_ACTIVE "((p.gate_mode==given)*Hq+(p.gate_mode!=given)*(p.n_shared+p.top_k))/(1+p.causal)"
constexpr char kForwardFlops[] = "2*B*Nq*Nk*(D+Dv)*" ATTUNE_MOH_ACTIVE "+has(w_o)*2*B*Nq*Cout*Hq*Dv";
constexpr char kBackwardFlops[] = "5*B*Nq*Nk*(D+Dv)*" ATTUNE_MOH_ACTIVE "+has(w_o)*4*B*Nq*Cout*Hq*Dv";
#undef ATTUNE_MOH_ACTIVE

constexpr attune_entry BackwardEntry(attune_span kernels) {
  attune_entry e =
      Entry(ATTUNE_BACKWARD, "backward", kSymbols, kLet, kBuckets, kBackwardFlops, Span(kBackwardTensors), Span(kRules),
            kernels, Check, "gradients of forward with the chosen heads held constant; only those that are asked for");
  e.of = "forward";
  return e;
}

const attune_entry kEntries[] = {
    Entry(ATTUNE_FORWARD, "forward", kSymbols, kLet, kBuckets, kForwardFlops, Span(kForwardTensors), Span(kRules),
          Span(kForwardKernels), Check, "attention of the active heads, times their gates"),
    BackwardEntry(Span(kBackwardKernels)),
    Entry(ATTUNE_STEP, "step", kSymbols, kLet, kBuckets, kForwardFlops, Span(kStepTensors), Span(kRules),
          Span(kStepKernels), Check, "attends over cache and new tokens, and appends them"),
};

const attune_op kOps[] = {
    Op(ATTUNE_FOLDER, {1, 0, 0, 0}, "Mixture-of-heads attention",
       "Softmax attention whose heads are switched and weighted per token; inactive heads cost nothing.",
       "arXiv:2410.11842", Span(kParams), Span(kEntries), Span(kPresets), Span(kTolerances)),
};
const attune_plugin kPlugin = Plugin("org.attune." ATTUNE_FOLDER, {1, 0, 0, 0}, Span(kOps));

}  // namespace
}  // namespace moh

ATTUNE_NOTE("org.attune." ATTUNE_FOLDER, "1.0.0");

extern "C" attune_status attune_plugin_entry_v1(attune_negotiation* n) {
  return attune_negotiate(n, &moh::kPlugin);
}
