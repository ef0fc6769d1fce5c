// The descriptor of the operator as tables: parameters, tensors, rules, presets, tolerances. The enums of problem.h
// name the rows.
#ifndef ATTUNE_LIGHTNING_TABLES_H_
#define ATTUNE_LIGHTNING_TABLES_H_
#include "_kit/descriptor.h"

namespace lightning {
namespace tables {

using namespace attune_kit;

constexpr attune_param_spec kParams[] = {
    F64Param("scale", 0, 0, 0, kInf, "factor of q; 0 = 1"),
    {sizeof(attune_param_spec), ATTUNE_PARAM_BOOL, ATTUNE_STRUCTURAL, 0, "causal", "defined causal only", nullptr,
     {1, 0}, {1, 0}, {1, 0}},
};

constexpr char kStates[] = "{has(cu_seqlens)}Nseq,Hq,D,Dv; {!has(cu_seqlens)}B,Hq,D,Dv";

constexpr attune_tensor_spec kQ = Input("q", "B,Hq,Nq,D", 1, kFloats, "normal", "queries");
constexpr attune_tensor_spec kK = Input("k", "B,Hkv,Nk,D", 1, kFloats, "normal", "keys");
constexpr attune_tensor_spec kV = Input("v", "B,Hkv,Nk,Dv", 1, kFloats, "normal", "values");
constexpr attune_tensor_spec kSlopes =
    InputIf("0", nullptr, "slopes", "Hq", 0, kF32, "slopes", "decay exp(-slope); absent = 0");
constexpr attune_tensor_spec kCuSeqlens =
    InputIf("0", nullptr, "cu_seqlens", "Nseq+1", 0, kI32, "cuts(Nk)", "packed sequences along N");
constexpr attune_tensor_spec kKvState =
    Tensor(ATTUNE_STATE, "kv_state", kStates, 0, kF32, 0, "0", nullptr, nullptr, "normal", "absent = 0");

// Of forward and step.
constexpr attune_tensor_spec kForwardTensors[] = {
    kQ, kK, kV, kSlopes, kCuSeqlens, kKvState,
    Output("o", "B,Hq,Nq,Dv", 1, kFloats, 0, "attention output"),
    Tensor(ATTUNE_STATE_OUT, "kv_state_out", kStates, 0, kF32, 0, "0", nullptr, "kv_state", "zeros",
           "state after the last token"),
};

// The gradient of `of`, or the upstream gradient of it; every one is optional.
constexpr attune_tensor_spec Gradient(uint32_t role, const char* name, const char* shape, const char* of,
                                      const char* allowed, const char* doc) {
  const bool sent = role == ATTUNE_IN;
  return Tensor(role, name, shape, 1, kFloats, ATTUNE_OR_F32, "0", allowed, of, sent ? "normal" : "zeros", doc);
}
constexpr attune_tensor_spec StateGradient(uint32_t role, const char* name, const char* shape, const char* of,
                                           const char* allowed, const char* doc) {
  attune_tensor_spec t = Gradient(role, name, shape, of, allowed, doc);
  t.dtype_var = 0, t.dtypes = kF32, t.flags = 0;
  return t;
}

constexpr attune_tensor_spec kBackwardTensors[] = {
    kQ, kK, kV, kSlopes, kCuSeqlens, kKvState,
    Gradient(ATTUNE_IN, "do", "B,Hq,Nq,Dv", "o", nullptr, "upstream gradient of o; absent = 0"),
    StateGradient(ATTUNE_IN, "dkv_state_out", kStates, "kv_state_out", nullptr,
                  "upstream gradient of kv_state_out; absent = 0"),
    Gradient(ATTUNE_OUT, "dq", "like q", "q", nullptr, "gradient of q"),
    Gradient(ATTUNE_OUT, "dk", "like k", "k", nullptr, "gradient of k"),
    Gradient(ATTUNE_OUT, "dv", "like v", "v", nullptr, "gradient of v"),
    StateGradient(ATTUNE_OUT, "dkv_state", kStates, "kv_state", nullptr, "gradient of kv_state"),
    StateGradient(ATTUNE_OUT, "dslopes", "like slopes", "slopes", "has(slopes)", "gradient of slopes"),
};

constexpr attune_rule kRules[] = {
    Rule(ATTUNE_E_SHAPE, "Nq==Nk", ATTUNE_FOLDER " needs Nq = Nk"),
    Rule(ATTUNE_E_SHAPE, "Hkv>=1&&Hq%Hkv==0", "Hq must be a multiple of Hkv"),
    Rule(ATTUNE_E_SHAPE, "D>=1&&Dv>=1", "D and Dv must be at least 1"),
    Rule(ATTUNE_E_SHAPE, "!has(cu_seqlens)||B==1", "packed sequences need B = 1"),
};

constexpr attune_tolerance kTolerances[] = {
    Tolerance(ATTUNE_F32, 1e-4, 1e-4),
    Tolerance(ATTUNE_BF16, 1.6e-2, 1e-2),
    Tolerance(ATTUNE_F16, 2e-3, 2e-3),
};

constexpr attune_preset kPresets[] = {
    Preset("demo", ATTUNE_DEMO, "forward", "", "", "slopes", "decay slopes by the ALiBi rule"),
    Preset("prefill", ATTUNE_BENCH, "forward", "", "B=1,Hq=8,Hkv=8,Nq=4096,Nk=4096,D=128,Dv=128",
           "slopes; kv_state_out", "a prompt, and the state to go on from"),
    Preset("packed", ATTUNE_BENCH, "forward", "", "B=1,Hq=8,Hkv=8,Nq=2048,Nk=2048,D=64,Dv=64,Nseq=4",
           "slopes; cu_seqlens; kv_state; kv_state_out", "four packed sequences, each with a state"),
    Preset("decode", ATTUNE_BENCH, "step", "", "B=4,Hq=32,Hkv=32,Nq=1,Nk=1,D=128,Dv=128",
           "slopes; kv_state; kv_state_out", "one new token in each of four sequences"),
    Preset("train", ATTUNE_BENCH, "backward", "", "B=1,Hq=8,Hkv=8,Nq=2048,Nk=2048,D=64,Dv=64",
           "slopes; do; dq; dk; dv", "all gradients of the inputs"),
};

constexpr char kSymbols[] = "B,Hq,Hkv,Nq,Nk,D,Dv,Nseq", kLet[] = "Nseq=?B";
constexpr char kBuckets[] = "B:pow2; Nq:half2; Nk:half2; Nseq:pow2";
constexpr char kForwardFlops[] = "4*B*Hq*Nq*D*Dv+2*B*Hq*Nq*min(Nq,32)*(D+Dv)/2";
constexpr char kBackwardFlops[] = "3*(4*B*Hq*Nq*D*Dv+2*B*Hq*Nq*min(Nq,64)*(D+Dv)/2)";

}  // namespace tables
}  // namespace lightning
#endif  // ATTUNE_LIGHTNING_TABLES_H_
