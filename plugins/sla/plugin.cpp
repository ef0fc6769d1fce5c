// Sparse-linear attention: kernels, entries and the handshake. The tables of tensors and parameters are in tables.h.
#include "_kit/isa.h"
#include "sla/backward.h"
#include "sla/forward.h"
#include "sla/reference.h"
#include "sla/tables.h"

namespace sla {
namespace {

using namespace tables;

constexpr int64_t kForwardRowValues[] = {32, 64, 128};
constexpr attune_knob kForwardKnobs[] = {
    Knob("rows", kForwardRowValues, 1, "query rows per tile, at most a block"),
};
// Bytes, generously: the heads of a round, then the workers' scratch. See prepare-inl.h and forward.cpp.
constexpr char kForwardWorkspace[] =
    "4*(min(B*Hkv,cdiv(16384,1+Nq))*((Nk+128)*(D+Dv+32)+2*Nb*(D+8)+"
    "((p.linear_scope!=all)*Nb+Nk/512+3)*(D+1)*(Dv+48)+Hq/Hkv*Mb*(2+ftrunc(p.top_ratio,Nb)+ftrunc(p.low_ratio,Nb))+256)"
    "+$workers*((k.rows+65)*(2*(D+Dv)+192)+(D+Dv+2)*(Dv+48)+3*Nb+8192))";
constexpr attune_kernel Tiled() {
  attune_kernel k = Kernel("", ATTUNE_INVARIANT | ATTUNE_OWNS_THREADS, nullptr,
                           "tiles of query rows over packed critical blocks; linear sums per unit of keys");
  k.knobs = Span(kForwardKnobs);
  k.knob_when = "k.rows<=64||p.block_q>64";
  k.workspace = kForwardWorkspace;
  return k;
}
#define ATTUNE_SLA_FORWARD_KERNELS(ON)                    \
  ON("tiled", TiledForward, Tiled(), 0.6, 0.3, 0.08, 0.6)
const attune_kernel kForwardKernels[] = {
    ATTUNE_ON_EVERY_ISA(ATTUNE_SLA_FORWARD_KERNELS)
    Reference(ReferenceForward, nullptr, kReferenceWorkspace, 0.001),
};
// The same for backward.cpp.
constexpr char kBackwardWorkspace[] =
    "4*(min(B*Hkv,cdiv(16384,1+Nq))*((Nk+200)*(4*D+Dv+99)+Hq/Hkv*(Nq*(D+Dv+67)+"
    "2*Mb*(2+ftrunc(p.top_ratio,Nb)+ftrunc(p.low_ratio,Nb)))+((p.linear_scope!=all)*(Nb+Hq/Hkv*Mb)+Nk/512+70)*"
    "(D+Dv+2)*(Dv+48))+$workers*(64*(2*Nk+128*Nb)+(D+Dv+99)*(Dv+500)+Hq/Hkv*Mb))";
constexpr attune_kernel TiledBackward() {
  attune_kernel k = Kernel("", ATTUNE_INVARIANT | ATTUNE_OWNS_THREADS, nullptr,
                           "query blocks with their critical keys, then keys with the query blocks that chose them");
  k.workspace = kBackwardWorkspace;
  return k;
}
#define ATTUNE_SLA_BACKWARD_KERNELS(ON)                             \
  ON("tiled", TiledBackward, TiledBackward(), 0.5, 0.25, 0.07, 0.5)
const attune_kernel kBackwardKernels[] = {
    ATTUNE_ON_EVERY_ISA(ATTUNE_SLA_BACKWARD_KERNELS)
    Reference(ReferenceBackward, nullptr, kReferenceBackwardWorkspace, 0.001),
};

constexpr char kSymbols[] = "B,Hq,Hkv,Nq,Nk,D,Dv,Mb,Nb", kBuckets[] = "B:pow2; Nq:half2; Nk:half2";
constexpr char kLet[] = "Mb=cdiv(Nq,p.block_q); Nb=cdiv(Nk,p.block_k)";
#define ATTUNE_SLA_FLOPS                                                                                             \
  "2*B*Hq*Nq*(D+Dv)*min(Nk,max(1,ftrunc(p.top_ratio,Nb))*p.block_k)+4*B*Hq*(Nq+Nk)*D*Dv+2*B*Hq*Mb*Nb*D+has(w_proj)*" \
  "2*B*Hq*Nq*Dv*Dv"

const attune_entry kEntries[] = {
    Entry(ATTUNE_FORWARD, "forward", kSymbols, kLet, kBuckets, ATTUNE_SLA_FLOPS, Span(kForwardTensors), Span(kRules),
          Span(kForwardKernels), nullptr, "softmax over critical key blocks plus projected linear attention"),
    Of("forward", Entry(ATTUNE_BACKWARD, "backward", kSymbols, kLet, kBuckets, "3*(" ATTUNE_SLA_FLOPS ")",
                        Span(kBackwardTensors), Span(kRules), Span(kBackwardKernels), nullptr,
                        "gradients of q, k, v and the projection, the block map held constant")),
};

const attune_op kOps[] = {
    Op(ATTUNE_FOLDER, {1, 0, 0, 0}, "Sparse-linear attention",
       "Softmax over the critical key blocks of each query block plus projected linear attention over the rest; "
       "bidirectional.",
       "arXiv:2509.24006", Span(kParams), Span(kEntries), Span(kPresets), Span(kTolerances)),
};
const attune_plugin kPlugin = Plugin("org.attune." ATTUNE_FOLDER, {1, 0, 0, 0}, Span(kOps));

}  // namespace
}  // namespace sla

ATTUNE_NOTE("org.attune." ATTUNE_FOLDER, "1.0.0");

extern "C" attune_status attune_plugin_entry_v1(attune_negotiation* n) {
  return attune_negotiate(n, &sla::kPlugin);
}
