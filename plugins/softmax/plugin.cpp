// Dense softmax attention: kernels, entries and the handshake. The tables of tensors and parameters are in tables.h.
#include "_kit/isa.h"
#include "softmax/backward.h"
#include "softmax/fused.h"
#include "softmax/merge.h"
#include "softmax/native_rows.h"
#include "softmax/reference.h"
#include "softmax/tables.h"

namespace softmax {
namespace {

using namespace tables;

constexpr attune_kernel Reference(attune_kernel_fn run, const char* workspace) {
  attune_kernel k = Kernel("reference", ATTUNE_REFERENCE | ATTUNE_INVARIANT, run, "scalar loops in double precision");
  k.tasks = "B*Hq";
  k.workspace = workspace;
  k.efficiency = 0.04;
  return k;
}

constexpr int64_t kQueryRowValues[] = {32, 64, 128, 256, 512}, kKeyRowValues[] = {64, 128, 256};
constexpr int64_t kChunkValues[] = {64, 512, 2048};
constexpr attune_knob kFusedKnobs[] = {
    Knob("bq", kQueryRowValues, 3, "query rows (queries times heads of a group) per task"),
    Knob("bk", kKeyRowValues, 2, "keys per tile"),
};
constexpr attune_knob kRowsKnobs[] = {
    Knob("bk", kKeyRowValues, 1, "keys per tile"),
    Knob("chunk", kChunkValues, 1, "keys per piece of work"),
};

// Scratch of each worker for tiles of ROWS query rows; see attention-inl.h.
#define ATTUNE_SOFTMAX_SCRATCH(ROWS) \
  "4*$workers*(" ROWS "*(32*cdiv(D,32)+32*cdiv(Dv,32)+48)+32*(k.bk+16)+(k.bk+33)*(32*cdiv(D,32)+32*cdiv(Dv,32)))"
// The chunks of all rows, when there is more than one per row; see rows.cpp.
#define ATTUNE_SOFTMAX_PARTS "*cdiv(Nk,k.chunk)*(Nk>k.chunk)*(32*cdiv(Dv,32)+16)"
constexpr char kFusedWorkspace[] = ATTUNE_SOFTMAX_SCRATCH("k.bq");
constexpr char kForwardRowsWorkspace[] =
    ATTUNE_SOFTMAX_SCRATCH("32") "+4*(p.layout!=thd)*Hq*Tq" ATTUNE_SOFTMAX_PARTS;
constexpr char kStepRowsWorkspace[] = ATTUNE_SOFTMAX_SCRATCH("32") "+4*B*Hq*Nq" ATTUNE_SOFTMAX_PARTS;
#undef ATTUNE_SOFTMAX_SCRATCH
#undef ATTUNE_SOFTMAX_PARTS

constexpr attune_kernel Fused(const char* tasks, const char* bytes) {
  attune_kernel k =
      Kernel("", ATTUNE_INVARIANT, nullptr, "packed tiles of keys, register-tile products, online softmax");
  k.knobs = Span(kFusedKnobs);
  // No tile much larger than what there is, and some tasks to share.
  k.knob_when = "(k.bq<=32||k.bq<2*Hq/Hkv*Nq)&&(k.bq<=64||4*k.bq<=B*Hq*Nq)&&(k.bk<=64||k.bk<2*Nk)";
  k.tasks = tasks;
  // Packing a tile of keys costs what about 12 rows cost.
  k.flops = "2*B*Hkv*(Hq/Hkv*Nq+12*cdiv(Hq/Hkv*Nq,256))*Nk*(D+Dv)/(1+p.causal)";
  k.bytes = bytes;
  k.workspace = kFusedWorkspace;
  return k;
}
constexpr attune_kernel Rows(const char* workspace, const char* when) {
  attune_kernel k = Kernel("", ATTUNE_INVARIANT | ATTUNE_OWNS_THREADS, nullptr,
                           "keys and values read in place, once per group of heads; long keys in chunks");
  k.knobs = Span(kRowsKnobs);
  k.when = when;
  k.workspace = workspace;
  return k;
}
// Few rows per kv head, and no codes.
constexpr char kForwardRowsWhen[] = "Hq/Hkv*Nq<=32&&dt(k)<u8&&dt(k_pages)<u8", kStepRowsWhen[] = "Hq/Hkv*Nq<=32";
constexpr char kForwardTasks[] = "(p.layout==bhnd)*B*Hkv*cdiv(Hq/Hkv*Nq,k.bq)+(p.layout!=bhnd)*Hkv*(Hq/Hkv*Tq/k.bq+B)";
// Tensors once, and something for the packed copies, so that of two kernels that wait for memory the one without copies
// is preferred.
constexpr char kForwardFusedBytes[] =
    "bytes(q)+bytes(k)+bytes(v)+bytes(k_pages)+bytes(v_pages)+bytes(mask)+bytes(bias)+4*B*Hq*Nq*Dv+B*Hkv*Nk*(D+Dv)";
constexpr char kStepFusedBytes[] =
    "bytes(q)+bytes(mask)+bytes(bias)+2*(bytes(k)+bytes(v)+bytes(k_cache_state)+bytes(v_cache_state))+4*B*Hq*Nq*Dv+"
    "B*Hkv*Nk*(D+Dv)";
// At least one per kv head, which writes the cache.
constexpr char kStepTasks[] = "B*Hkv*max(1,cdiv(Hq/Hkv*Nq,k.bq))";

constexpr attune_arg kNativeRowsArgs[] = ATTUNE_ARGS(ATTUNE_SOFTMAX_NATIVE_ROWS);
ATTUNE_CHECK_NATIVE(NativeRows, ATTUNE_SOFTMAX_NATIVE_ROWS)

constexpr attune_kernel NativeKernel(attune_native_fn native) {
  attune_kernel k = Kernel("native_rows", ATTUNE_INVARIANT, nullptr, "plain C++ function, one query at a time");
  k.native = native;
  k.args = Span(kNativeRowsArgs);
  k.when = kNativeRowsWhen;
  k.tasks = "B*Hq";
  k.efficiency = 0.25;
  return k;
}

constexpr attune_kernel Merge() {
  attune_kernel k = Kernel("", ATTUNE_INVARIANT, nullptr, "one pass over the parts of a row");
  k.tasks = "B*Hq";
  k.workspace = "64*$workers*cdiv(Dv,16)";
  return k;
}

constexpr int64_t kBwdRowValues[] = {64, 128}, kBwdKeyValues[] = {64, 128, 256}, kSliceValues[] = {1, 2, 4, 8};
constexpr attune_knob kBackwardKnobs[] = {
    Knob("bq", kBwdRowValues, 1, "queries per tile"),
    Knob("bk", kBwdKeyValues, 1, "keys per tile"),
    Knob("slices", kSliceValues, 1, "tasks per kv head, each with its own share of dq"),
};

constexpr attune_kernel Backward() {
  attune_kernel k = Kernel("", ATTUNE_INVARIANT | ATTUNE_OWNS_THREADS, nullptr,
                           "scores again tile by tile, all gradients of a tile at once, shares of dq added at the end");
  k.knobs = Span(kBackwardKnobs);
  k.knob_when = "(k.bk<=64||k.bk<2*Nk)&&(k.bq<=64||k.bq<2*Nq)&&(k.slices==1||k.slices*B*Hkv<=64)";
  k.workspace =
      "8*(k.slices*B*Hq+8)+4*Hq*Tq*(has(dq)*k.slices*32*cdiv(D,32)+2)+4*$workers*((k.bq+2*k.bk)*"
      "(32*cdiv(D,32)+32*cdiv(Dv,32)+32)+k.bk*(32*cdiv(D,32)+32*cdiv(Dv,32))+4*k.bq*(k.bk+16))";
  return k;
}

constexpr attune_entry BackwardEntry(attune_span kernels) {
  attune_entry e =
      Entry(ATTUNE_BACKWARD, "backward", "B,Hq,Hkv,Nq,Nk,D,Dv,Tq,Tk",
            "Tq=?B*Nq; Nq=?cdiv(Tq,max(B,1)); Tk=?B*Nk; Nk=?cdiv(Tk,max(B,1))",
            "B:pow2; Nq:half2; Nk:half2; Tq:half2; Tk:half2", "5*B*Hq*Nq*Nk*(D+Dv)/(1+p.causal)",
            Span(kBackwardTensors), Span(kBackwardRules), kernels, CheckBackward,
            "gradients of forward; only those that are asked for, overwritten, summed over broadcast dims");
  e.of = "forward";
  return e;
}

#define ATTUNE_SOFTMAX_FORWARD_KERNELS(ON)                                                      \
  ON("rows", RowsForward, Rows(kForwardRowsWorkspace, kForwardRowsWhen), 0.55, 0.6, 0.95, 0.55) \
  ON("fused", FusedForward, Fused(kForwardTasks, kForwardFusedBytes), 0.7, 0.65, 0.9, 0.7)
// Not constexpr only because of the cast; constant data all the same.
const attune_kernel kForwardKernels[] = {
    ATTUNE_ON_EVERY_ISA(ATTUNE_SOFTMAX_FORWARD_KERNELS)
    NativeKernel(reinterpret_cast<attune_native_fn>(NativeRows)),
    Reference(ReferenceForward, "8*$workers*(max(Nk,dim(k,0))+Dv)"),
};
constexpr attune_kernel ReferenceBackwardKernel() {
  attune_kernel k = Kernel("reference", ATTUNE_REFERENCE | ATTUNE_INVARIANT, ReferenceBackward,
                           "scalar loops in double precision");
  k.workspace = "8*(Tk*(Hkv*(D+Dv)+2)+has(dbias)*dim(dbias,0)*dim(dbias,1)*dim(dbias,2)*dim(dbias,3)+(B+1)*Hq+D)";
  k.efficiency = 0.003;
  return k;
}
#define ATTUNE_SOFTMAX_BACKWARD_KERNELS(ON) \
  ON("tiled", TiledBackward, Backward(), 0.75, 0.4, 0.1, 0.7)
constexpr attune_kernel kBackwardKernels[] = {
    ATTUNE_ON_EVERY_ISA(ATTUNE_SOFTMAX_BACKWARD_KERNELS)
    ReferenceBackwardKernel(),
};
#define ATTUNE_SOFTMAX_STEP_KERNELS(ON)                                                \
  ON("rows", RowsStep, Rows(kStepRowsWorkspace, kStepRowsWhen), 0.55, 0.6, 0.95, 0.55) \
  ON("fused", FusedStep, Fused(kStepTasks, kStepFusedBytes), 0.7, 0.65, 0.9, 0.7)
constexpr attune_kernel kStepKernels[] = {
    ATTUNE_ON_EVERY_ISA(ATTUNE_SOFTMAX_STEP_KERNELS)
    Reference(ReferenceStep, "8*$workers*(Nk+Dv)"),
};
#define ATTUNE_SOFTMAX_MERGE_KERNELS(ON) \
  ON("rows", MergeRows, Merge(), 0.1, 0.1, 0.1, 0.1)
constexpr attune_kernel kMergeKernels[] = {
    ATTUNE_ON_EVERY_ISA(ATTUNE_SOFTMAX_MERGE_KERNELS)
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
    BackwardEntry(Span(kBackwardKernels)),
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
