// Dense softmax attention: kernels, entries and the handshake. The tables of tensors and parameters are in tables.h.
#include "softmax/reference.h"
#include "softmax/tables.h"

namespace softmax {
namespace {

using namespace tables;

constexpr attune_kernel Reference(attune_kernel_fn run, const char* workspace) {
  attune_kernel k = Kernel("reference", ATTUNE_REFERENCE | ATTUNE_INVARIANT, run, "scalar loops in double precision");
  k.tasks = "B*Hq";
  k.workspace = workspace;
  k.efficiency = 0.003;
  return k;
}

constexpr attune_kernel kForwardKernels[] = {
    Reference(ReferenceForward, "8*$workers*(max(Nk,dim(k,0))+Dv)"),
};
constexpr attune_kernel kStepKernels[] = {
    Reference(ReferenceStep, "8*$workers*(Nk+Dv)"),
};
constexpr attune_kernel kMergeKernels[] = {
    Reference(ReferenceMerge, nullptr),
};

constexpr attune_entry kEntries[] = {
    Entry(ATTUNE_FORWARD, "forward", "B,Hq,Hkv,Nq,Nk,D,Dv,Tq,Tk,num_pages,page_size,max_pages",
          "Tq=?B*Nq; Nq=?cdiv(Tq,max(B,1)); Tk=?B*Nk; page_size=?16; max_pages=?cdiv(Nk,page_size); "
          "num_pages=?B*max_pages; "
          "Nk=?cdiv(Tk,max(B,1)); Nk=?max_pages*page_size; Dv=?2*max(dim(v,3),dim(v_pages,3))",
          "B:pow2; Nq:half2; Nk:half2; Tq:half2; Tk:half2; num_pages:half2; max_pages:half2",
          "2*B*Hq*Nq*Nk*(D+Dv)/(1+p.causal)", Span(kForwardTensors), Span(kForwardRules), Span(kForwardKernels),
          CheckForward, "o = softmax(scale q k^T + bias, masked) v"),
    Entry(ATTUNE_STEP, "step", "B,Hq,Hkv,Nq,Nk,D,Dv,Np,Nn", "Np=?0; Nn=?Nk-Np; Nk=Np+Nn",
          "B:pow2; Nq:half2; Nk:half2; Np:half2; Nn:half2", "2*B*Hq*Nq*Nk*(D+Dv)/(1+p.causal)", Span(kStepTensors),
          Span(kStepRules), Span(kStepKernels), CheckStep, "attends over cache and new tokens, and appends them"),
    Entry(ATTUNE_SPECIAL, "merge", "P,B,Hq,Nq,Dv", "", "P:pow2; B:pow2; Nq:half2", "3*P*B*Hq*Nq*Dv",
          Span(kMergeTensors), Span(kMergeRules), Span(kMergeKernels), nullptr,
          "log-sum-exp merge of partial results; parameters are ignored"),
};

constexpr attune_op kOps[] = {
    Op(ATTUNE_FOLDER, {1, 0, 0, 0}, "Dense softmax attention",
       "o = softmax(scale q k^T + bias) v with every mask, window, cache and packing form in use; also un-normalised "
       "sigmoid attention.",
       "arXiv:2205.14135, 2307.08691, 2108.12409, 2409.04431", Span(kParams), Span(kEntries), Span(kPresets),
       Span(kTolerances)),
};
constexpr attune_plugin kPlugin = Plugin("org.attune." ATTUNE_FOLDER, {1, 0, 0, 0}, Span(kOps));

}  // namespace
}  // namespace softmax

ATTUNE_NOTE("org.attune." ATTUNE_FOLDER, "1.0.0");

extern "C" attune_status attune_plugin_entry_v1(attune_negotiation* n) {
  return attune_negotiate(n, &softmax::kPlugin);
}
