// The descriptor of the operator as tables: parameters, tensors, rules, presets, tolerances. The enums of problem.h
// name the rows.
#ifndef ATTUNE_HEDGEHOG_TABLES_H_
#define ATTUNE_HEDGEHOG_TABLES_H_
#include "_kit/descriptor.h"

namespace hedgehog {
namespace tables {

using namespace attune_kit;

constexpr const char* kMapWords[] = {"hedgehog_softmax", "hedgehog_exp", "hedgehog_joint"};
constexpr const char* kWindowWords[] = {"none", "sliding", "terraced"};
constexpr const char* kLinearWords[] = {"one", "one_minus_gamma"};

constexpr attune_param_spec kParams[] = {
    EnumParam("feature_map", ATTUNE_STRUCTURAL, kMapWords, 0,
              "softmax of z and of -z; their exp with maximum 1; one softmax over [2z, -2z]"),
    F64Param("map_eps", 0, 1e-12, 0, kInf, "least value of a feature; 0 = no clamp"),
    F64Param("norm_eps", 0, 1e-12, 0, kInf, "added to the normaliser, window_mode none"),
    BoolParam("causal", ATTUNE_STRUCTURAL, true, "key j is visible only if j <= position"),
    EnumParam("window_mode", ATTUNE_STRUCTURAL, kWindowWords, 0,
              "keys that get exact softmax weights: none, the last `window`, or the own block of `window` and the one "
              "before"),
    I64Param("window", ATTUNE_STRUCTURAL, 64, 1, INT64_MAX, "keys of the window, the own one included"),
    EnumParam("linear_factor", ATTUNE_STRUCTURAL, kLinearWords, 0, "factor of the linear part beside a window"),
    F64Param("scale", 0, 0, 0, kInf, "factor of q.k in the window and the teacher; 0 = D^-0.5"),
    BoolParam("skip", ATTUNE_STRUCTURAL, false, "z = x + x w + b instead of x w + b"),
};

constexpr attune_tensor_spec Weight(const char* needed, const char* name, const char* shape, const char* gen,
                                    const char* doc) {
  return Tensor(ATTUNE_WEIGHT, name, shape, 1, kFloats, ATTUNE_OR_F32, needed, nullptr, nullptr, gen, doc);
}
constexpr attune_tensor_spec State(const char* allowed, const char* name, const char* shape, const char* gen,
                                   const char* doc) {
  return Tensor(ATTUNE_STATE, name, shape, 0, kF32, 0, "0", allowed, nullptr, gen, doc);
}
constexpr attune_tensor_spec StateOut(const char* allowed, const char* name, const char* shape, const char* pair,
                                      const char* doc) {
  return Tensor(ATTUNE_STATE_OUT, name, shape, 0, kF32, 0, "0", allowed, pair, "zeros", doc);
}
constexpr attune_tensor_spec Optional(const char* name, const char* shape, const char* doc) {
  return Tensor(ATTUNE_OUT, name, shape, 0, kF32, 0, "0", nullptr, nullptr, "zeros", doc);
}
constexpr attune_tensor_spec Upstream(const char* name, const char* pair, const char* doc) {
  return Tensor(ATTUNE_IN, name, "1", 0, kF32, 0, "0", nullptr, pair, "normal", doc);
}
constexpr attune_tensor_spec Gradient(const char* name, const char* like, const char* of, const char* allowed,
                                      const char* doc) {
  return Tensor(ATTUNE_OUT, name, like, 1, kFloats, ATTUNE_OR_F32, "0", allowed, of, "zeros", doc);
}

constexpr char kIfWindow[] = "p.window_mode!=none", kIfNoWindow[] = "p.window_mode==none";

constexpr attune_tensor_spec kQ = Input("q", "B,Hq,Nq,D", 1, kFloats, "normal", "queries");
constexpr attune_tensor_spec kK = Input("k", "B,Hkv,Nk,D", 1, kFloats, "normal", "keys");
constexpr attune_tensor_spec kV = Input("v", "B,Hkv,Nk,Dv", 1, kFloats, "normal", "values");
constexpr attune_tensor_spec kWq = Weight(nullptr, "w_q", "1|Hq,D,F", "weight(D)", "map of queries");
constexpr attune_tensor_spec kWk = Weight(nullptr, "w_k", "1|Hkv|Hq,D,F", "weight(D)", "map of keys");
constexpr attune_tensor_spec kBq = Weight("0", "b_q", "1|Hq,1|F", "normal(0,0.1)", "added to the mapped queries");
constexpr attune_tensor_spec kBk = Weight("0", "b_k", "1|Hkv|Hq,1|F", "normal(0,0.1)", "added to the mapped keys");
constexpr attune_tensor_spec kWindowFactor =
    Tensor(ATTUNE_WEIGHT, "window_factor", "Hq", 0, kF32, 0, kIfWindow, kIfWindow, nullptr, "uniform(-2.5,-2)",
           "gamma = 1/(1+exp(-window_factor)), the factor of the window");
constexpr attune_tensor_spec kKeyMask =
    InputIf("0", nullptr, "key_mask", "B,Nk", 0, kMask, "bernoulli(0.9)", "non-zero = real key");
constexpr attune_tensor_spec kKvState =
    State(nullptr, "kv_state", "B,Hst,2*F,Dv", "uniform(0,1)", "sum of feature x value of older keys; absent = 0");
constexpr attune_tensor_spec kKState =
    State(nullptr, "k_state", "B,Hst,2*F", "uniform(0.5,1.5)", "sum of features of older keys; absent = 0");
constexpr attune_tensor_spec kO = Output("o", "B,Hq,Nq,Dv", 1, kFloats, 0, "attention output");
constexpr attune_tensor_spec kDq = Gradient("dq", "like q", "q", nullptr, "gradient of q");
constexpr attune_tensor_spec kDk = Gradient("dk", "like k", "k", nullptr, "gradient of k");
constexpr attune_tensor_spec kDv = Gradient("dv", "like v", "v", nullptr, "gradient of v");
constexpr attune_tensor_spec kDwq = Gradient("dw_q", "like w_q", "w_q", nullptr, "gradient of w_q");
constexpr attune_tensor_spec kDwk = Gradient("dw_k", "like w_k", "w_k", nullptr, "gradient of w_k");
constexpr attune_tensor_spec kDbq = Gradient("db_q", "like b_q", "b_q", "has(b_q)", "gradient of b_q");
constexpr attune_tensor_spec kDbk = Gradient("db_k", "like b_k", "b_k", "has(b_k)", "gradient of b_k");

constexpr attune_tensor_spec kForwardTensors[] = {
    kQ,
    kK,
    kV,
    kWq,
    kWk,
    kBq,
    kBk,
    kWindowFactor,
    kKeyMask,
    kKvState,
    kKState,
    kO,
    StateOut(kIfNoWindow, "kv_state_out", "B,Hst,2*F,Dv", "kv_state", "kv_state plus the real keys of this call"),
    StateOut(kIfNoWindow, "k_state_out", "B,Hst,2*F", "k_state", "k_state plus the real keys of this call"),
};

constexpr attune_tensor_spec kBackwardTensors[] = {
    kQ,
    kK,
    kV,
    kWq,
    kWk,
    kBq,
    kBk,
    kWindowFactor,
    kKeyMask,
    kKvState,
    kKState,
    Tensor(ATTUNE_IN, "do", "B,Hq,Nq,Dv", 1, kFloats, ATTUNE_OR_F32, nullptr, nullptr, "o", "normal",
           "upstream gradient of o"),
    kDq,
    kDk,
    kDv,
    kDwq,
    kDwk,
    kDbq,
    kDbk,
    Tensor(ATTUNE_OUT, "dwindow_factor", "like window_factor", 0, kF32, 0, "0", "has(window_factor)", "window_factor",
           "zeros", "gradient of window_factor"),
};

constexpr attune_tensor_spec Cache(const char* name, const char* shape, const char* doc) {
  return Tensor(ATTUNE_STATE, name, shape, 1, kFloats, 0, "0", kIfWindow, nullptr, "normal", doc);
}
constexpr attune_tensor_spec CacheOut(const char* name, const char* shape, const char* pair, const char* doc) {
  return Tensor(ATTUNE_STATE_OUT, name, shape, 1, kFloats, 0, kIfWindow, kIfWindow, pair, "zeros", doc);
}

constexpr attune_tensor_spec kStepTensors[] = {
    kQ,
    kK,
    kV,
    kWq,
    kWk,
    kBq,
    kBk,
    kWindowFactor,
    kKvState,
    kKState,
    Cache("k_cache_state", "B,Hkv,W,D", "the last keys of earlier calls, oldest first"),
    Cache("v_cache_state", "B,Hkv,W,Dv", "their values"),
    kO,
    StateOut(nullptr, "kv_state_out", "B,Hst,2*F,Dv", "kv_state", "kv_state plus the keys that left the window"),
    StateOut(nullptr, "k_state_out", "B,Hst,2*F", "k_state", "k_state plus the keys that left the window"),
    CacheOut("k_cache_state_out", "B,Hkv,Wo,D", "k_cache_state", "the last min(window, W + Nk) keys"),
    CacheOut("v_cache_state_out", "B,Hkv,Wo,Dv", "v_cache_state", "their values"),
};

constexpr attune_tensor_spec kDistillTensors[] = {
    kQ,
    kK,
    kV,
    kWq,
    kWk,
    kBq,
    kBk,
    kKeyMask,
    Optional("a_true", "B,Hq,Nq,Nk", "weights of the teacher"),
    Optional("a_pred", "B,Hq,Nq,Nk", "weights of the student"),
    Optional("o_true", "B,Hq,Nq,Dv", "output of the teacher"),
    Optional("o_pred", "B,Hq,Nq,Dv", "output of the student"),
    Optional("xent", "1", "mean over the rows of the cross entropy of the weights"),
    Optional("mse", "1", "mean squared difference of the outputs"),
};

constexpr attune_tensor_spec kDistillBackwardTensors[] = {
    kQ,
    kK,
    kV,
    kWq,
    kWk,
    kBq,
    kBk,
    kKeyMask,
    Upstream("dxent", "xent", "upstream gradient of xent; absent = 0"),
    Upstream("dmse", "mse", "upstream gradient of mse; absent = 0"),
    kDq,
    kDk,
    kDv,
    kDwq,
    kDwk,
    kDbq,
    kDbk,
};

constexpr attune_rule kGroups = Rule(ATTUNE_E_SHAPE, "Hkv>=1&&Hq%Hkv==0", "Hq must be a multiple of Hkv");
constexpr attune_rule kWidths = Rule(ATTUNE_E_SHAPE, "D>=1&&Dv>=1&&F>=1", "D, Dv and F must be at least 1");
constexpr attune_rule kOrder = Rule(ATTUNE_E_SHAPE, "!p.causal||Nq<=Nk", "causal attention needs Nq <= Nk");
constexpr attune_rule kSkipWidth = Rule(ATTUNE_E_SHAPE, "!p.skip||F==D", "skip needs F = D");
constexpr attune_rule kWindowCausal =
    Rule(ATTUNE_E_PARAM, "p.window_mode==none||p.causal", "a window needs causal");
constexpr attune_rule kWindowLength =
    Rule(ATTUNE_E_SHAPE, "p.window_mode==none||Nq==Nk", "a window needs Nq = Nk");
constexpr attune_rule kStatePair =
    Rule(ATTUNE_E_INVALID, "has(kv_state)==has(k_state)", "kv_state and k_state come together or not at all");

constexpr attune_rule kForwardRules[] = {kGroups,       kWidths,       kOrder,    kSkipWidth,
                                         kWindowCausal, kWindowLength, kStatePair};
constexpr attune_rule kStepRules[] = {
    kGroups,
    kWidths,
    kOrder,
    kSkipWidth,
    kWindowCausal,
    kWindowLength,
    Rule(ATTUNE_E_SHAPE, "W<=p.window", "the cache holds at most window keys"),
    kStatePair,
    Rule(ATTUNE_E_INVALID, "has(k_cache_state)==has(v_cache_state)",
         "k_cache_state and v_cache_state come together or not at all"),
};
constexpr attune_rule kDistillRules[] = {kGroups, kWidths, kOrder, kSkipWidth};

constexpr attune_tolerance kTolerances[] = {
    Tolerance(ATTUNE_F32, 1e-4, 1e-4),
    Tolerance(ATTUNE_BF16, 1.6e-2, 1e-2),
    Tolerance(ATTUNE_F16, 2e-3, 2e-3),
};

constexpr attune_preset kPresets[] = {
    Preset("demo", ATTUNE_DEMO, "forward", "causal=false", "", "", "bidirectional, generated maps, F = D"),
    Preset("prefill", ATTUNE_BENCH, "forward", "", "B=1,Hq=8,Hkv=8,Nq=2048,Nk=2048,D=128,Dv=128", "",
           "causal prompt, no window"),
    Preset("hybrid", ATTUNE_BENCH, "forward", "window_mode=sliding",
           "B=1,Hq=32,Hkv=8,Nq=2048,Nk=2048,D=128,Dv=128,F=64", "", "causal prompt, window of 64 keys"),
    Preset("decode", ATTUNE_BENCH, "step", "window_mode=sliding",
           "B=1,Hq=32,Hkv=8,Nq=1,Nk=1,D=128,Dv=128,F=64,W=64",
           "kv_state; k_state; k_cache_state; v_cache_state; kv_state_out; k_state_out",
           "one token, window of 64 keys and a state"),
};

constexpr char kSymbols[] = "B,Hq,Hkv,Nq,Nk,D,Dv,F,Hst", kStepSymbols[] = "B,Hq,Hkv,Nq,Nk,D,Dv,F,Hst,W,Wo",
               kDistillSymbols[] = "B,Hq,Hkv,Nq,Nk,D,Dv,F";
// The heads of a group share a state when they share the map of keys.
#define ATTUNE_HEDGEHOG_LET \
  "F=?D; Hst=Hkv+(dim(w_k,0)!=1&&dim(w_k,0)!=Hkv||has(b_k)&&dim(b_k,0)!=1&&dim(b_k,0)!=Hkv)*(Hq-Hkv)"
constexpr char kLet[] = ATTUNE_HEDGEHOG_LET, kStepLet[] = ATTUNE_HEDGEHOG_LET "; W=?0; Wo=min(W+Nk,p.window)",
               kDistillLet[] = "F=?D";
#undef ATTUNE_HEDGEHOG_LET
constexpr char kBuckets[] = "B:pow2; Nq:half2; Nk:half2";
// Maps and states; the triangle within chunks of 32 tokens; the window.
#define ATTUNE_HEDGEHOG_FLOPS                                     \
  "B*((Hq*Nq+Hst*Nk)*(2*D*F+4*F*Dv)+Hq*Nq*(p.causal*min(Nk,32)*(2*F+Dv)+" \
  "(p.window_mode!=none)*2*min(Nk,p.window)*(D+Dv)))"
// In segments, causal: the keys but those of the last segment are mapped and added once more.
constexpr char kSplitFlops[] = ATTUNE_HEDGEHOG_FLOPS "+p.causal*B*Hst*Nk*(2*D*F+4*F*Dv)";
constexpr char kFlops[] = ATTUNE_HEDGEHOG_FLOPS, kBackwardFlops[] = "3*" ATTUNE_HEDGEHOG_FLOPS;
#undef ATTUNE_HEDGEHOG_FLOPS
constexpr char kDistillFlops[] = "2*B*Hq*Nq*Nk*(D+2*F+2*Dv)", kDistillBackwardFlops[] = "6*B*Hq*Nq*Nk*(D+2*F+2*Dv)";

}  // namespace tables
}  // namespace hedgehog
#endif  // ATTUNE_HEDGEHOG_TABLES_H_
