// Native sparse attention: kernels, entries and the handshake. The tables of tensors and parameters are in tables.h.
#include "_kit/isa.h"
#include "nsa/reference.h"
#include "nsa/tables.h"

namespace nsa {
namespace {

using namespace tables;

constexpr attune_kernel Reference(attune_kernel_fn run, const char* workspace) {
  attune_kernel k = Kernel("reference", ATTUNE_REFERENCE | ATTUNE_INVARIANT, run, "scalar loops in double precision");
  k.workspace = workspace;
  k.efficiency = 0.003;
  return k;
}

const attune_kernel kForwardKernels[] = {
    Reference(ReferenceForward, "8*(Nc*(D+Dv+2)+5*Nk+Dv+4)"),
};
const attune_kernel kStepKernels[] = {
    Reference(ReferenceStep, "8*(Nc*(D+Dv+2)+5*Nk+Dv+4)"),
};
const attune_kernel kBackwardKernels[] = {
    Reference(ReferenceBackward,
              "8*(Nc*(2*(D+Dv)+3)+Nk*(2*(D+Dv)+6)+2*(D+Dv)+4+p.cmp_block*(has(w_k_cmp)*(1+(p.cmp_mode==linear)*D*D)+"
              "has(w_v_cmp)*(1+(p.cmp_mode==linear)*Dv*Dv)+has(pe_k_cmp)*D+has(pe_v_cmp)*Dv))"),
};

constexpr char kCompressedLet[] = "Nc=?(Nk>=p.cmp_block)*((Nk-p.cmp_block)/p.cmp_stride+1); S=?p.top_n";
constexpr char kForwardFlops[] =
    "2*B*Hq*Nq*(D+Dv)*(p.use_cmp*Nc/2+p.use_slc*min(Nk,S*p.sel_block)+p.use_swa*min(Nk,p.window))";
constexpr char kForwardSymbols[] = "B,Hq,Hkv,Nq,Nk,D,Dv,Nc,S", kForwardBuckets[] = "B:pow2; Nq:half2; Nk:half2; Nc:half2";

constexpr attune_entry BackwardEntry(attune_span kernels) {
  attune_entry e = Entry(ATTUNE_BACKWARD, "backward", kForwardSymbols, kCompressedLet, kForwardBuckets,
                         "5*B*Hq*Nq*(D+Dv)*(p.use_cmp*Nc/2+p.use_slc*min(Nk,S*p.sel_block)+p.use_swa*min(Nk,p.window))",
                         Span(kBackwardTensors), Span(kForwardRules), kernels, nullptr,
                         "gradients of forward with the selection held constant; only those that are asked for");
  e.of = "forward";
  return e;
}
constexpr attune_entry StepEntry(attune_span kernels) {
  attune_entry e =
      Entry(ATTUNE_STEP, "step", "B,Hq,Hkv,Nq,Nk,D,Dv,Np,Nn,Nc,Ncp,S",
            "Np=?0; Nn=?Nk-Np; Nk=Np+Nn; Nc=(Nk>=p.cmp_block)*((Nk-p.cmp_block)/p.cmp_stride+1); "
            "Ncp=(Np>=p.cmp_block)*((Np-p.cmp_block)/p.cmp_stride+1); S=p.top_n",
            "B:pow2; Nq:half2; Nk:half2; Np:half2; Nn:half2; Nc:half2; Ncp:half2", kForwardFlops, Span(kStepTensors),
            Span(kStepRules), kernels, nullptr, "all branches on the same k, v: appends, completes, attends");
  e.bytes = "bytes(q)+bytes(o)+B*Hkv*(D+Dv)*4*(p.use_slc*min(Nk,S*p.sel_block)+p.use_swa*min(Nk,p.window))";
  return e;
}

const attune_entry kEntries[] = {
    Entry(ATTUNE_FORWARD, "forward", kForwardSymbols, kCompressedLet, kForwardBuckets, kForwardFlops,
          Span(kForwardTensors), Span(kForwardRules), Span(kForwardKernels), nullptr,
          "three attentions over the same keys, mixed by gates"),
    BackwardEntry(Span(kBackwardKernels)),
    StepEntry(Span(kStepKernels)),
};

const attune_op kOps[] = {
    Op(ATTUNE_FOLDER, {1, 0, 0, 0}, "Native sparse attention",
       "Compressed, selected and sliding-window attention over the same keys, mixed by gates.", "arXiv:2502.11089",
       Span(kParams), Span(kEntries), Span(kPresets), Span(kTolerances)),
};
const attune_plugin kPlugin = Plugin("org.attune." ATTUNE_FOLDER, {1, 0, 0, 0}, Span(kOps));

}  // namespace
}  // namespace nsa

ATTUNE_NOTE("org.attune." ATTUNE_FOLDER, "1.0.0");

extern "C" attune_status attune_plugin_entry_v1(attune_negotiation* n) {
  return attune_negotiate(n, &nsa::kPlugin);
}
