// The descriptor of the operator as tables: parameters, tensors, rules, presets, tolerances. The enums of problem.h
// name the rows.
#ifndef ATTUNE_MALA_TABLES_H_
#define ATTUNE_MALA_TABLES_H_
#include "_kit/descriptor.h"

namespace mala {
namespace tables {

using namespace attune_kit;

constexpr const char* kFeatureMaps[] = {"elu1"};
constexpr attune_param_spec kParams[] = {
    EnumParam("feature_map", ATTUNE_STRUCTURAL, kFeatureMaps, 0, "map of q and k: x + 1 above 0, else exp(x)"),
    F64Param("scale", 0, 0, 0, kInf, "factor of q.k; 0 = D^-0.5"),
    F64Param("norm_eps", ATTUNE_MIN_OPEN, 1e-6, 0, kInf, "added to the mean score of a row before it divides"),
    BoolParam("causal", ATTUNE_STRUCTURAL, 0, "row t sees tokens 0..t; needs Nq = Nk"),
};

constexpr attune_tensor_spec State(const char* name, const char* shape, uint64_t dtypes, const char* gen,
                                   const char* doc) {
  return Tensor(ATTUNE_STATE, name, shape, 0, dtypes, 0, "0", "p.causal", nullptr, gen, doc);
}
constexpr attune_tensor_spec StateOut(const char* name, const char* shape, uint64_t dtypes, const char* state,
                                      const char* doc) {
  return Tensor(ATTUNE_STATE_OUT, name, shape, 0, dtypes, 0, "0", "p.causal", state, "zeros", doc);
}
constexpr attune_tensor_spec Gradient(const char* name, const char* shape, const char* of, const char* doc) {
  return Tensor(ATTUNE_OUT, name, shape, 1, kFloats, ATTUNE_OR_F32, "0", nullptr, of, "zeros", doc);
}

constexpr uint64_t kI64 = Set(ATTUNE_I64);
constexpr attune_tensor_spec kQ = Input("q", "B,Hq,Nq,D", 1, kFloats, "normal", "queries, before the feature map"),
                             kK = Input("k", "B,Hkv,Nk,D", 1, kFloats, "normal", "keys, before the feature map"),
                             kV = Input("v", "B,Hkv,Nk,Dv", 1, kFloats, "normal", "values"),
                             kSin = InputIf("0", nullptr, "sin", "Nk,D", 0, kF32, "sin",
                                            "rotary table of the mapped q and k, row i for token i of this call"),
                             kCos = InputIf("0", nullptr, "cos", "Nk,D", 0, kF32, "cos", "comes with sin"),
                             kKeyMask = InputIf("0", "!p.causal", "key_mask", "B,Nk", 0, kMask, "bernoulli(0.9)",
                                                "non-zero = real key"),
                             kKvState = State("kv_state", "B,Hkv,D,Dv", kF32, "uniform(0,1)",
                                              "sum of (rotated mapped key) x value over the tokens so far"),
                             kKState = State("k_state", "B,Hkv,D", kF32, "uniform(0.5,1.5)",
                                             "sum of the mapped keys, not rotated"),
                             kVState = State("v_state", "B,Hkv,Dv", kF32, "normal", "sum of the values"),
                             kNState = State("n_state", "B", kI64, "ints(1,64)", "tokens absorbed"),
                             kO = Output("o", "B,Hq,Nq,Dv", 1, kFloats, 0, "attention output"),
                             kKvStateOut = StateOut("kv_state_out", "B,Hkv,D,Dv", kF32, "kv_state",
                                                    "kv_state with this call's tokens"),
                             kKStateOut = StateOut("k_state_out", "B,Hkv,D", kF32, "k_state",
                                                   "k_state with this call's tokens"),
                             kVStateOut = StateOut("v_state_out", "B,Hkv,Dv", kF32, "v_state",
                                                   "v_state with this call's tokens"),
                             kNStateOut = StateOut("n_state_out", "B", kI64, "n_state", "n_state + Nk");

constexpr attune_tensor_spec kForwardTensors[] = {
    kQ, kK, kV, kSin, kCos, kKeyMask, kKvState, kKState, kVState, kNState, kO, kKvStateOut, kKStateOut, kVStateOut, kNStateOut,
};
constexpr attune_tensor_spec kStepTensors[] = {
    kQ, kK, kV, kSin, kCos, kKvState, kKState, kVState, kNState, kO, kKvStateOut, kKStateOut, kVStateOut, kNStateOut,
};
constexpr attune_tensor_spec kBackwardTensors[] = {
    kQ, kK, kV, kSin, kCos, kKeyMask, kKvState, kKState, kVState, kNState,
    Tensor(ATTUNE_IN, "do", "B,Hq,Nq,Dv", 1, kFloats, ATTUNE_OR_F32, nullptr, nullptr, "o", "normal",
           "upstream gradient of o"),
    Gradient("dq", "like q", "q", "gradient of q"), Gradient("dk", "like k", "k", "gradient of k"),
    Gradient("dv", "like v", "v", "gradient of v"),
};

constexpr attune_rule kStepIsCausal = Rule(ATTUNE_E_UNSUPPORTED, "p.causal", "step is causal"),
                      kGroups = Rule(ATTUNE_E_SHAPE, "Hkv>=1&&Hq%Hkv==0", "Hq must be a multiple of Hkv"),
                      kChannels = Rule(ATTUNE_E_SHAPE, "D>=1&&Dv>=1", "D and Dv must be at least 1"),
                      kBothTables = Rule(ATTUNE_E_INVALID, "has(sin)==has(cos)", "sin and cos come together or not at all"),
                      kPairs = Rule(ATTUNE_E_SHAPE, "!has(sin)||D%2==0", "rotary tables need even D"),
                      kSameTokens = Rule(ATTUNE_E_SHAPE, "!has(sin)&&!p.causal||Nq==Nk",
                                         "causal and rotary tables need Nq = Nk"),
                      kAllStates = Rule(ATTUNE_E_INVALID,
                                        "has(kv_state)==has(k_state)&&has(k_state)==has(v_state)&&"
                                        "has(v_state)==has(n_state)",
                                        "the four states come together or not at all");
constexpr attune_rule kRules[] = {kGroups, kChannels, kBothTables, kPairs, kSameTokens, kAllStates};
constexpr attune_rule kStepRules[] = {kStepIsCausal, kGroups, kChannels, kBothTables, kPairs, kSameTokens, kAllStates};

constexpr attune_tolerance kTolerances[] = {
    Tolerance(ATTUNE_F32, 1e-4, 1e-4),
    Tolerance(ATTUNE_BF16, 1.6e-2, 1e-2),
    Tolerance(ATTUNE_F16, 2e-3, 2e-3),
};

constexpr char kStates[] =
    "kv_state; k_state; v_state; n_state; kv_state_out; k_state_out; v_state_out; n_state_out";
constexpr attune_preset kPresets[] = {
    Preset("demo", ATTUNE_DEMO, "forward", "", "", "sin; cos", "bidirectional, rotary tables generated"),
    Preset("image", ATTUNE_BENCH, "forward", "", "B=1,Hq=4,Hkv=4,Nq=4096,Nk=4096,D=32,Dv=32", "sin; cos",
           "tokens of a 64x64 image"),
    Preset("encoder", ATTUNE_BENCH, "forward", "", "B=1,Hq=8,Hkv=8,Nq=16384,Nk=16384,D=64,Dv=64", "",
           "long bidirectional sequence"),
    Preset("causal", ATTUNE_BENCH, "forward", "causal=true", "B=1,Hq=8,Hkv=8,Nq=2048,Nk=2048,D=64,Dv=64", "",
           "every prefix of a sequence"),
    Preset("decode", ATTUNE_BENCH, "step", "causal=true", "B=1,Hq=16,Hkv=16,Nq=1,Nk=1,D=64,Dv=64", kStates,
           "one new token"),
    Preset("image_backward", ATTUNE_BENCH, "backward", "", "B=1,Hq=4,Hkv=4,Nq=4096,Nk=4096,D=32,Dv=32",
           "sin; cos; dq; dk; dv", "gradients for the tokens of a 64x64 image"),
};

}  // namespace tables
}  // namespace mala
#endif  // ATTUNE_MALA_TABLES_H_
