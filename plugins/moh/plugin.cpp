// Mixture-of-heads attention: kernels, entries and the handshake. The tables of tensors and parameters are in tables.h.
#include "_kit/isa.h"
#include "moh/backward.h"
#include "moh/forward.h"
#include "moh/reference.h"
#include "moh/tables.h"

namespace moh {
namespace {

using namespace tables;

constexpr char kReferenceForward[] = "8*(10*Hq+Nk+Hq*Dv)";
constexpr char kReferenceBackward[] =
    "8*(Nk*(Hkv*(D+Dv)+2)+Hq*(12+2*Dv)+D+has(dbias)*dim(dbias,0)*dim(dbias,1)*dim(dbias,2)*dim(dbias,3)+"
    "has(dw_o)*Cout*Hq*Dv+has(db_o)*Cout)";

constexpr int64_t kQueryRowValues[] = {32, 64, 128, 256}, kKeyRowValues[] = {64, 128, 256};
constexpr int64_t kChunkValues[] = {64, 512, 2048};
constexpr attune_knob kPackedKnobs[] = {
    Knob("bq", kQueryRowValues, 3, "active query rows (tokens times heads of a group) per task"),
    Knob("bk", kKeyRowValues, 2, "keys per tile"),
};
constexpr attune_knob kInPlaceKnobs[] = {
    Knob("bk", kKeyRowValues, 1, "keys per tile"),
    Knob("chunk", kChunkValues, 1, "keys per piece of work"),
};

// Gates, lists and routers; the projection. See routes-inl.h, projection-inl.h; all a little more than needed.
#define ATTUNE_MOH_ROUTES "4*(1024+3*B*Hq*(Nq+32)+B*Hq*Nq/8+$workers*(16*Hq+16))"
#define ATTUNE_MOH_PROJECTION "4*has(y)*(Hq*Dv*(Cout+32)+(Hq*Dv+64)*96*$workers)"
// Scratch of each worker for tiles of ROWS query rows; see attention-inl.h.
#define ATTUNE_MOH_TILE(ROWS) "4*$workers*((" ROWS "+k.bk+132)*(D+Dv+112)+48*k.bk+2048)"
constexpr char kPackedWorkspace[] = ATTUNE_MOH_ROUTES "+" ATTUNE_MOH_PROJECTION "+" ATTUNE_MOH_TILE("k.bq")
    "+4*B*Hkv*(Nk+64)*(D+Dv+32)";
constexpr char kLanesWorkspace[] = ATTUNE_MOH_ROUTES "+" ATTUNE_MOH_PROJECTION "+" ATTUNE_MOH_TILE("k.bq");
constexpr char kInPlaceWorkspace[] = ATTUNE_MOH_ROUTES "+" ATTUNE_MOH_PROJECTION "+" ATTUNE_MOH_TILE("32")
    "+4*B*Hkv*(Nk>k.chunk)*32*cdiv(Nk,k.chunk)*(Dv+48)";
#undef ATTUNE_MOH_ROUTES
#undef ATTUNE_MOH_PROJECTION
#undef ATTUNE_MOH_TILE

constexpr attune_kernel Packed() {
  attune_kernel k = Kernel("", ATTUNE_INVARIANT | ATTUNE_OWNS_THREADS, nullptr,
                           "active rows gathered into tiles, keys packed once, online softmax");
  k.knobs = Span(kPackedKnobs);
  k.knob_when = "(k.bq<=32||k.bq<2*Hq/Hkv*Nq)&&(k.bq<=64||4*k.bq<=B*Hq*Nq)&&(k.bk<=64||k.bk<2*Nk)";
  k.when = "Hq/Hkv*Nq<2147483648";
  k.workspace = kPackedWorkspace;
  return k;
}
// Heads that a token uses.
#define ATTUNE_MOH_ACTIVE "((p.gate_mode==given)*Hq+(p.gate_mode!=given)*(p.n_shared+p.top_k))"

constexpr attune_kernel Lanes() {
  attune_kernel k = Packed();
  k.doc = "active rows gathered into the lanes of vectors, keys and values read by broadcast";
  k.when = "Hq/Hkv*Nq<2147483648&&!has(bias)";
  k.workspace = kLanesWorkspace;
  // What some of a vector's queries see and others do not costs twice.
  k.flops = "2*B*Nq*(Nk/(1+p.causal)+60*p.causal)*(D+Dv)*" ATTUNE_MOH_ACTIVE "+has(w_o)*2*B*Nq*Cout*Hq*Dv";
  return k;
}
constexpr attune_kernel InPlace() {
  attune_kernel k = Kernel("", ATTUNE_INVARIANT | ATTUNE_OWNS_THREADS, nullptr,
                           "keys and values read in place, once per group of heads; long keys in chunks");
  k.knobs = Span(kInPlaceKnobs);
  k.when = "Hq/Hkv*Nq<=32";
  k.workspace = kInPlaceWorkspace;
  return k;
}

constexpr int64_t kGradientRowValues[] = {32, 64, 128}, kGradientKeyValues[] = {64, 128}, kSliceValues[] = {1, 2, 4, 8};
constexpr attune_knob kBackwardKnobs[] = {
    Knob("bq", kGradientRowValues, 1, "active query rows per tile"),
    Knob("bk", kGradientKeyValues, 1, "keys per tile"),
    Knob("slices", kSliceValues, 1, "tasks per kv head, each with its own share of dq"),
};
// Rows of all pairs, shares of dq; keys and values; the projection; the workers. All a little more than needed.
constexpr char kBackwardWorkspace[] =
    "4*(9999+B*Hq*(Nq+32)*((1+has(dq)*k.slices)*(D+32)+Dv+48)+2*B*Hkv*(Nk+64)*(D+Dv+32)+"
    "has(dy)*(B*Nq*(Cout+96+2*Hq*Dv)+Cout*(Hq*Dv+32))+"
    "$workers*((3*k.bq+k.bk+32)*(D+Dv+128)+3*k.bq*k.bk+64*k.bk+20*Hq+4999))";
constexpr attune_kernel Backward() {
  attune_kernel k = Kernel("", ATTUNE_INVARIANT | ATTUNE_OWNS_THREADS, nullptr,
                           "active rows gathered, all gradients of a tile at once, shares of dq added at the end");
  k.knobs = Span(kBackwardKnobs);
  k.knob_when = "(k.bk<=64||k.bk<2*Nk)&&(k.bq<=32||k.bq<2*Hq/Hkv*Nq)&&(k.slices==1||k.slices*B*Hkv<=64)";
  k.when = "Hq/Hkv*Nq<2147483648";
  k.workspace = kBackwardWorkspace;
  return k;
}

// Not constexpr only because of the addresses of functions in them.
#define ATTUNE_MOH_FORWARD_KERNELS(ON)                           \
  ON("in_place", InPlaceForward, InPlace(), 0.5, 0.3, 0.09, 0.5) \
  ON("lanes", LanesForward, Lanes(), 0.8, 0.4, 0.1, 0.75)        \
  ON("packed", PackedForward, Packed(), 0.7, 0.35, 0.09, 0.7)
const attune_kernel kForwardKernels[] = {
    ATTUNE_ON_EVERY_ISA(ATTUNE_MOH_FORWARD_KERNELS)
    Reference(ReferenceForward, nullptr, kReferenceForward, 0.003),
};
#define ATTUNE_MOH_STEP_KERNELS(ON)                           \
  ON("in_place", InPlaceStep, InPlace(), 0.5, 0.3, 0.09, 0.5) \
  ON("lanes", LanesStep, Lanes(), 0.8, 0.4, 0.1, 0.75)        \
  ON("packed", PackedStep, Packed(), 0.7, 0.35, 0.09, 0.7)
const attune_kernel kStepKernels[] = {
    ATTUNE_ON_EVERY_ISA(ATTUNE_MOH_STEP_KERNELS)
    Reference(ReferenceStep, nullptr, kReferenceForward, 0.003),
};
#define ATTUNE_MOH_BACKWARD_KERNELS(ON)                        \
  ON("tiled", TiledBackward, Backward(), 0.6, 0.35, 0.09, 0.6)
const attune_kernel kBackwardKernels[] = {
    ATTUNE_ON_EVERY_ISA(ATTUNE_MOH_BACKWARD_KERNELS)
    Reference(ReferenceBackward, nullptr, kReferenceBackward, 0.003),
};

constexpr char kSymbols[] = "B,Hq,Hkv,Nq,Nk,D,Dv,Np,Nn,E,Cout";
constexpr char kLet[] = "Np=?0; Nn=?Nk-Np; Nk=Np+Nn; E=Hq-p.n_shared; Cout=?Hq*Dv";
constexpr char kBuckets[] = "B:pow2; Nq:half2; Nk:half2; Np:half2; Nn:half2";
constexpr char kForwardFlops[] = "2*B*Nq*Nk*(D+Dv)*" ATTUNE_MOH_ACTIVE "/(1+p.causal)+has(w_o)*2*B*Nq*Cout*Hq*Dv";
constexpr char kBackwardFlops[] = "5*B*Nq*Nk*(D+Dv)*" ATTUNE_MOH_ACTIVE "/(1+p.causal)+has(w_o)*4*B*Nq*Cout*Hq*Dv";
#undef ATTUNE_MOH_ACTIVE

const attune_entry kEntries[] = {
    Entry(ATTUNE_FORWARD, "forward", kSymbols, kLet, kBuckets, kForwardFlops, Span(kForwardTensors), Span(kRules),
          Span(kForwardKernels), Check, "attention of the active heads, times their gates"),
    Of("forward", Entry(ATTUNE_BACKWARD, "backward", kSymbols, kLet, kBuckets, kBackwardFlops, Span(kBackwardTensors),
                        Span(kRules), Span(kBackwardKernels), Check,
                        "gradients of forward with the chosen heads held constant; only those that are asked for")),
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
