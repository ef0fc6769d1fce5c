// The descriptor of the operator as tables: parameters, tensors, rules, presets, tolerances. The enums of problem.cpp
// name the rows.
#ifndef ATTUNE_DMA_TABLES_H_
#define ATTUNE_DMA_TABLES_H_
#include "_kit/descriptor.h"

namespace dma {
namespace tables {

using namespace attune_kit;

constexpr const char* kBiasModes[] = {"exp", "linear", "given", "none"};
constexpr const char* kMaskModes[] = {"per_query", "shared", "given", "none"};

constexpr attune_param_spec kParams[] = {
    EnumParam("bias_mode", ATTUNE_STRUCTURAL, kBiasModes, 0, "what is added to the score of a key"),
    EnumParam("mask_mode", ATTUNE_STRUCTURAL, kMaskModes, 0, "which of the visible keys are kept"),
    I64Param("top_w", ATTUNE_STRUCTURAL, 2048, 1, INT64_MAX, "kept keys per query"),
    F64Param("scale", 0, 0, 0, kInf, "factor of q.k; 0 = D^-0.5"),
    BoolParam("causal", ATTUNE_STRUCTURAL, true, "key j is visible only if j <= position"),
};

constexpr char kSampled[] = "p.bias_mode==exp||p.bias_mode==linear";
constexpr char kSelecting[] = "p.mask_mode==per_query||p.mask_mode==shared";
constexpr char kBroadcast[] = "1|B,1|Hkv|Hq,1|Nq,1|Nk";

constexpr attune_tensor_spec kQ = Input("q", "B,Hq,Nq,D", 1, kFloats, "normal", "queries");
constexpr attune_tensor_spec kK = Input("k", "B,Hkv,Nk,D", 1, kFloats, "normal", "keys");
constexpr attune_tensor_spec kV =
    Input("v", "B,Hkv,Nk,Dv", 1, kFloats, "normal", "values; not rotated, the bias is made of them");
constexpr attune_tensor_spec kWDt =
    Tensor(ATTUNE_WEIGHT, "w_dt", "Hkv,Hkv*Dv", 1, kFloats, ATTUNE_OR_F32, kSampled, kSampled, nullptr,
           "weight(Hkv*Dv)", "projects the values of all kv heads to one number per kv head");
constexpr attune_tensor_spec kBDt = Tensor(ATTUNE_WEIGHT, "b_dt", "Hkv", 0, kF32, 0, "0", kSampled, nullptr,
                                           "normal(0,0.1)", "added to that number; absent = 0");
constexpr attune_tensor_spec kWA = Tensor(ATTUNE_WEIGHT, "w_a", "Hkv", 0, kF32, 0, kSampled, kSampled, nullptr,
                                          "normal", "factor of its softplus, any sign");
constexpr attune_tensor_spec kLse =
    Tensor(ATTUNE_SAVED, "lse", "B,Hq,Nq", 0, kF32, 0, "0", nullptr, nullptr, "zeros",
           "natural log-sum-exp of the kept, biased scores; -inf = none");
constexpr attune_tensor_spec KeyBias(const char* allowed) {
  return Tensor(ATTUNE_OUT, "key_bias", "B,Hkv,Nk", 0, kF32, 0, "0", allowed, nullptr, "zeros", "bias of every key");
}
constexpr attune_tensor_spec kDeath =
    Tensor(ATTUNE_SAVED, "death", "B,Hkv,Nk", 0, kI32, 0, "0", kSelecting, nullptr, "zeros",
           "first position that no longer keeps the key; 2147483647 = none, the key's own = never kept");

#define ATTUNE_DMA_INPUTS                                                                                      \
  kQ, kK, kV, kWDt, kBDt, kWA,                                                                                 \
      Tensor(ATTUNE_IN, "bias", kBroadcast, 1, kFloats, ATTUNE_OR_F32, "p.bias_mode==given",                   \
             "p.bias_mode==given", nullptr, "normal", "added to the score; -inf = masked"),                    \
      InputIf("0", "p.mask_mode==given", "mask", kBroadcast, 0, kMask, "bernoulli(0.8)",                       \
              "non-zero = attend; absent = all 1"),                                                            \
      InputIf("0", nullptr, "key_mask", "B,Nk", 0, kMask, "bernoulli(0.9)", "non-zero = real key")

constexpr attune_tensor_spec kForwardTensors[] = {
    ATTUNE_DMA_INPUTS,
    Output("o", "B,Hq,Nq,Dv", 1, kFloats, 0, "attention output"),
    kLse,
    KeyBias(kSampled),
    kDeath,
};

constexpr attune_tensor_spec Gradient(const char* name, const char* shape, const char* allowed, const char* pair,
                                      const char* doc) {
  return Tensor(ATTUNE_OUT, name, shape, 1, kFloats, ATTUNE_OR_F32, "0", allowed, pair, "zeros", doc);
}
constexpr attune_tensor_spec ScalarGradient(const char* name, const char* shape, const char* allowed, const char* pair,
                                            const char* doc) {
  return Tensor(ATTUNE_OUT, name, shape, 0, kF32, 0, "0", allowed, pair, "zeros", doc);
}
constexpr attune_tensor_spec kBackwardTensors[] = {
    ATTUNE_DMA_INPUTS,
    Tensor(ATTUNE_SAVED, "o", "B,Hq,Nq,Dv", 1, kFloats, 0, "0", nullptr, nullptr, "zeros", "of the forward; not used"),
    kLse,
    kDeath,
    Tensor(ATTUNE_IN, "do", "B,Hq,Nq,Dv", 1, kFloats, ATTUNE_OR_F32, nullptr, nullptr, "o", "normal",
           "upstream gradient of o"),
    Gradient("dq", "like q", nullptr, "q", "gradient of q"),
    Gradient("dk", "like k", nullptr, "k", "gradient of k"),
    Gradient("dv", "like v", nullptr, "v", "gradient of v, the part through the key bias included"),
    Gradient("dbias", "like bias", "has(bias)", "bias", "gradient of bias"),
    Gradient("dw_dt", "like w_dt", "has(w_dt)", "w_dt", "gradient of w_dt"),
    ScalarGradient("db_dt", "like b_dt", "has(b_dt)", "b_dt", "gradient of b_dt"),
    ScalarGradient("dw_a", "like w_a", "has(w_a)", "w_a", "gradient of w_a"),
};
#undef ATTUNE_DMA_INPUTS

constexpr attune_tensor_spec State(const char* name, const char* shape, uint32_t dtype_var, uint64_t dtypes,
                                   const char* gen, const char* doc) {
  return Tensor(ATTUNE_STATE, name, shape, dtype_var, dtypes, 0, "0", nullptr, nullptr, gen, doc);
}
constexpr attune_tensor_spec StateOut(const char* name, const char* shape, uint32_t dtype_var, uint64_t dtypes,
                                      const char* pair, const char* doc) {
  return Tensor(ATTUNE_STATE_OUT, name, shape, dtype_var, dtypes, 0, nullptr, nullptr, pair, "zeros", doc);
}
constexpr attune_tensor_spec kStepTensors[] = {
    kQ,
    kK,
    kV,
    kWDt,
    kBDt,
    kWA,
    State("k_cache_state", "B,Hkv,S,D", 1, kFloats, "normal", "the kept keys, oldest first"),
    State("v_cache_state", "B,Hkv,S,Dv", 1, kFloats, "normal", "their values"),
    State("key_bias_state", "B,Hkv,S", 0, kF32, "uniform(0,1)", "their biases"),
    Output("o", "B,Hq,Nq,Dv", 1, kFloats, 0, "attention output of the new tokens"),
    kLse,
    KeyBias(nullptr),
    StateOut("k_cache_state_out", "B,Hkv,So,D", 1, kFloats, "k_cache_state", "the kept keys after the last token"),
    StateOut("v_cache_state_out", "B,Hkv,So,Dv", 1, kFloats, "v_cache_state", "their values"),
    StateOut("key_bias_state_out", "B,Hkv,So", 0, kF32, "key_bias_state", "their biases"),
};

constexpr attune_rule kHeads = Rule(ATTUNE_E_SHAPE, "Hkv>=1&&Hq%Hkv==0", "Hq must be a multiple of Hkv");
constexpr attune_rule kChannels = Rule(ATTUNE_E_SHAPE, "D>=1&&Dv>=1", "D and Dv must be at least 1");

// Of forward and of backward.
constexpr attune_rule kForwardRules[] = {
    Rule(ATTUNE_E_PARAM, "!(p.mask_mode==per_query||p.mask_mode==shared)||p.bias_mode!=none",
         "mask_mode per_query and shared need a bias"),
    kHeads,
    kChannels,
    Rule(ATTUNE_E_SHAPE, "!p.causal||Nq<=Nk", "causal attention needs Nq <= Nk"),
    Rule(ATTUNE_E_SHAPE,
         "!(p.mask_mode==per_query||p.mask_mode==shared)||!has(bias)||dim(bias,2)==1&&(dim(bias,1)==1||"
         "dim(bias,1)==Hkv)",
         "mask_mode per_query and shared need a bias of shape [1|B,1|Hkv,1,Nk]"),
    Rule(ATTUNE_E_UNSUPPORTED, "Nk<2147483647", "positions are 32-bit integers"),
};
constexpr attune_rule kStepRules[] = {
    Rule(ATTUNE_E_UNSUPPORTED, "(p.bias_mode==exp||p.bias_mode==linear)&&p.mask_mode==per_query&&p.causal",
         "step needs bias_mode exp or linear, mask_mode per_query and causal"),
    kHeads,
    kChannels,
    Rule(ATTUNE_E_SHAPE, "Nq<=Nk", "Nq <= Nk"),
    Rule(ATTUNE_E_SHAPE, "S<=p.top_w", "the state holds at most top_w keys"),
    Rule(ATTUNE_E_INVALID, "has(k_cache_state)==has(v_cache_state)",
         "k_cache_state and v_cache_state come together or not at all"),
    Rule(ATTUNE_E_INVALID, "has(k_cache_state)==has(key_bias_state)",
         "k_cache_state and key_bias_state come together or not at all"),
    Rule(ATTUNE_E_UNSUPPORTED, "S+Nk<2147483647", "positions are 32-bit integers"),
};

constexpr attune_tolerance kTolerances[] = {
    Tolerance(ATTUNE_F32, 1e-3, 2e-4),
    Tolerance(ATTUNE_BF16, 1.6e-2, 1e-2),
    Tolerance(ATTUNE_F16, 2e-3, 2e-3),
};

constexpr attune_preset kPresets[] = {
    Preset("demo", ATTUNE_DEMO, "forward", "top_w=64", "", "",
           "64 of 512 keys per query; projection weights generated"),
    Preset("prefill", ATTUNE_BENCH, "forward", "top_w=512", "B=1,Hq=8,Hkv=8,Nq=4096,Nk=4096,D=64,Dv=64", "",
           "prompt of 4096 tokens, 512 keys per query"),
    Preset("long", ATTUNE_BENCH, "forward", "top_w=1024", "B=1,Hq=8,Hkv=2,Nq=16384,Nk=16384,D=64,Dv=64", "",
           "prompt of 16384 tokens, four query heads per key head"),
    Preset("shared", ATTUNE_BENCH, "forward", "mask_mode=shared;top_w=256",
           "B=1,Hq=32,Hkv=8,Nq=1024,Nk=1024,D=64,Dv=64", "", "one set of keys for all queries"),
    Preset("decode", ATTUNE_BENCH, "step", "", "B=1,Hq=32,Hkv=8,Nq=1,Nk=1,D=128,Dv=128,S=2048",
           "k_cache_state; v_cache_state; key_bias_state", "one new token on a full state"),
    Preset("backward", ATTUNE_BENCH, "backward", "top_w=256", "B=1,Hq=8,Hkv=2,Nq=1024,Nk=1024,D=64,Dv=64",
           "dq; dk; dv; dw_dt; dw_a", "all gradients"),
};

}  // namespace tables
}  // namespace dma
#endif  // ATTUNE_DMA_TABLES_H_
