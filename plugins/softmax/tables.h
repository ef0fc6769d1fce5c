// The descriptor of the operator as tables: parameters, tensors, rules, presets, tolerances. The enums of problem.h
// name the rows.
#ifndef ATTUNE_SOFTMAX_TABLES_H_
#define ATTUNE_SOFTMAX_TABLES_H_
#include "_kit/descriptor.h"

namespace softmax {
namespace tables {

using namespace attune_kit;

constexpr uint64_t kStored = Set(ATTUNE_F32, ATTUNE_BF16, ATTUNE_F16, ATTUNE_I8, ATTUNE_U8);
constexpr const char* kLayouts[] = {"bhnd", "thd", "paged"};
constexpr const char* kActivations[] = {"softmax", "sigmoid"};

constexpr attune_param_spec kParams[] = {
    EnumParam("layout", ATTUNE_STRUCTURAL, kLayouts, 0, "form of the tensors"),
    EnumParam("activation", ATTUNE_STRUCTURAL, kActivations, 0, "sigmoid: weights 1/(1+exp(-s)), not normalised"),
    F64Param("sigmoid_bias", 0, 0, -kInf, kInf, "added to the score, activation sigmoid"),
    F64Param("scale", 0, 0, 0, kInf, "factor of q.k; 0 = D^-0.5"),
    BoolParam("causal", ATTUNE_STRUCTURAL, 0, "key j is visible only if j <= position"),
    I64Param("q_offset", 0, INT64_MIN, INT64_MIN, INT64_MAX, "position of query 0; INT64_MIN = Nk_b - Nq_b"),
    I64Param("window_left", ATTUNE_STRUCTURAL, -1, -1, INT64_MAX, "keys before the position, inclusive; -1 = all"),
    I64Param("window_right", ATTUNE_STRUCTURAL, -1, -1, INT64_MAX, "keys after the position, inclusive; -1 = all"),
    F64Param("softcap", ATTUNE_STRUCTURAL, 0, 0, kInf, "s = c tanh(s/c); 0 = off"),
};

constexpr char kIfCodes[] = "dt(k)>=u8||dt(k_pages)>=u8";
constexpr char kPerKey[] = "{p.layout==bhnd}B,Hkv,Nk; {p.layout==paged}num_pages,page_size,Hkv";
constexpr char kBroadcast[] = "1|B,1|Hkv|Hq,1|Nq,1|Nk";

constexpr attune_tensor_spec kForwardTensors[] = {
    Input("q", "{p.layout==bhnd}B,Hq,Nq,D; {p.layout!=bhnd}Tq,Hq,D", 1, kFloats, "normal", "queries"),
    InputIf("p.layout!=paged", "p.layout!=paged", "k",
            "{p.layout==bhnd&&dt(k)==u8}B,Hkv,Nk,D/2; {p.layout==bhnd}B,Hkv,Nk,D; {p.layout==thd}Tk,Hkv,D", 2, kStored,
            "normal", "keys; u8 holds two 4-bit codes, low nibble first"),
    InputIf("p.layout!=paged", "p.layout!=paged", "v",
            "{p.layout==bhnd&&dt(v)==u8}B,Hkv,Nk,Dv/2; {p.layout==bhnd}B,Hkv,Nk,Dv; {p.layout==thd}Tk,Hkv,Dv", 2,
            kStored, "normal", "values"),
    InputIf("p.layout==paged", "p.layout==paged", "k_pages",
            "{dt(k_pages)==u8}num_pages,page_size,Hkv,D/2; num_pages,page_size,Hkv,D", 2, kStored, "normal",
            "paged keys"),
    InputIf("p.layout==paged", "p.layout==paged", "v_pages",
            "{dt(v_pages)==u8}num_pages,page_size,Hkv,Dv/2; num_pages,page_size,Hkv,Dv", 2, kStored, "normal",
            "paged values"),
    InputIf("p.layout==paged", "p.layout==paged", "page_table", "B,max_pages", 0, kI32, "pages(num_pages)",
            "page that holds keys [i*page_size, (i+1)*page_size) of a sequence"),
    InputIf("p.layout!=bhnd", "p.layout!=bhnd", "cu_seqlens_q", "B+1", 0, kI32, "cuts(Tq)",
            "where the queries of a sequence begin"),
    InputIf("p.layout==thd", "p.layout==thd", "cu_seqlens_k", "B+1", 0, kI32, "cuts(Tk)",
            "where the keys of a sequence begin"),
    InputIf("p.layout==paged", "p.layout!=thd", "seqlens_k", "B", 0, kI32, "lengths(1,Nk)",
            "visible keys; absent = Nk"),
    InputIf(kIfCodes, kIfCodes, "k_scale", kPerKey, 0, kF32, "uniform(0.005,0.02)", "key = (code - zero) * scale"),
    InputIf("0", kIfCodes, "k_zero", kPerKey, 0, kF32, "zeros", "absent = 0"),
    InputIf(kIfCodes, kIfCodes, "v_scale", kPerKey, 0, kF32, "uniform(0.005,0.02)", "value = (code - zero) * scale"),
    InputIf("0", kIfCodes, "v_zero", kPerKey, 0, kF32, "zeros", "absent = 0"),
    InputIf("0", "p.layout==bhnd", "key_start", "B", 0, kI32, "ints(0,Nk/4)", "first visible key; absent = 0"),
    InputIf("0", nullptr, "q_offsets", "B", 0, kI32, "ints(0,Nk)", "overrides q_offset"),
    InputIf("0", "p.layout==bhnd", "mask", kBroadcast, 0, kMask, "bernoulli(0.9)", "non-zero = attend"),
    Tensor(ATTUNE_IN, "bias", kBroadcast, 1, kFloats, ATTUNE_OR_F32, "0", "p.layout==bhnd", nullptr, "normal",
           "added to the score; -inf = masked"),
    InputIf("0", nullptr, "alibi_slopes", "Hq; B,Hq", 0, kF32, "slopes", "the score falls by slope * |position - j|"),
    Tensor(ATTUNE_WEIGHT, "sinks", "Hq", 0, kF32, 0, "0", "p.activation==softmax", nullptr, "normal",
           "one more logit per head"),
    Output("o", "{p.layout==bhnd}B,Hq,Nq,Dv; {p.layout!=bhnd}Tq,Hq,Dv", 1, kFloats, ATTUNE_OR_F32, "attention output"),
    Tensor(ATTUNE_SAVED, "lse", "{p.layout==bhnd}B,Hq,Nq; {p.layout!=bhnd}Hq,Tq", 0, kF32, 0, "0",
           "p.activation==softmax", nullptr, "zeros",
           "natural log-sum-exp of the visible scores (and the sink); -inf = none"),
};

constexpr attune_rule kForwardRules[] = {
    Rule(ATTUNE_E_SHAPE, "Hkv>=1&&Hq%Hkv==0", "Hq must be a multiple of Hkv"),
    Rule(ATTUNE_E_SHAPE, "D>=1&&Dv>=1", "D and Dv must be at least 1"),
    Rule(ATTUNE_E_DTYPE, "p.layout!=thd||dt(k)<u8", "layout thd has no quantised keys"),
    Rule(ATTUNE_E_SHAPE, "dt(k)!=u8&&dt(k_pages)!=u8||D%2==0&&Dv%2==0", "4-bit codes need even D and Dv"),
};

constexpr attune_tensor_spec kStepTensors[] = {
    Input("q", "B,Hq,Nq,D", 1, kFloats, "normal", "queries of the new tokens"),
    Input("k", "B,Hkv,Nn,D", 2, kFloats, "normal", "new keys"),
    Input("v", "B,Hkv,Nn,Dv", 2, kFloats, "normal", "new values"),
    InputIf("0", nullptr, "seqlens_k", "B", 0, kI32, "lengths(1,Nk)", "visible keys; absent = Nk"),
    InputIf("0", nullptr, "key_start", "B", 0, kI32, "ints(0,Nk/4)", "first visible key; absent = 0"),
    InputIf("0", nullptr, "q_offsets", "B", 0, kI32, "ints(0,Nk)", "overrides q_offset"),
    InputIf("0", nullptr, "mask", kBroadcast, 0, kMask, "bernoulli(0.9)", "non-zero = attend"),
    Tensor(ATTUNE_IN, "bias", kBroadcast, 1, kFloats, ATTUNE_OR_F32, "0", nullptr, nullptr, "normal",
           "added to the score; -inf = masked"),
    InputIf("0", nullptr, "alibi_slopes", "Hq; B,Hq", 0, kF32, "slopes", "the score falls by slope * |position - j|"),
    Tensor(ATTUNE_WEIGHT, "sinks", "Hq", 0, kF32, 0, "0", "p.activation==softmax", nullptr, "normal",
           "one more logit per head"),
    Tensor(ATTUNE_STATE, "k_cache_state", "B,Hkv,Np,D", 2, kFloats, 0, "0", nullptr, nullptr, "normal",
           "keys of earlier calls, oldest first"),
    Tensor(ATTUNE_STATE, "v_cache_state", "B,Hkv,Np,Dv", 2, kFloats, 0, "0", nullptr, nullptr, "normal",
           "values of earlier calls"),
    Output("o", "B,Hq,Nq,Dv", 1, kFloats, ATTUNE_OR_F32, "attention output of the new tokens"),
    Tensor(ATTUNE_SAVED, "lse", "B,Hq,Nq", 0, kF32, 0, "0", "p.activation==softmax", nullptr, "zeros",
           "natural log-sum-exp of the visible scores (and the sink); -inf = none"),
    Tensor(ATTUNE_STATE_OUT, "k_cache_state_out", "B,Hkv,Nk,D", 2, kFloats, 0, nullptr, nullptr, "k_cache_state",
           "zeros", "cache followed by k"),
    Tensor(ATTUNE_STATE_OUT, "v_cache_state_out", "B,Hkv,Nk,Dv", 2, kFloats, 0, nullptr, nullptr, "v_cache_state",
           "zeros", "cache followed by v"),
};

constexpr attune_rule kStepRules[] = {
    Rule(ATTUNE_E_UNSUPPORTED, "p.layout==bhnd", "step works on layout bhnd"),
    Rule(ATTUNE_E_SHAPE, "Hkv>=1&&Hq%Hkv==0", "Hq must be a multiple of Hkv"),
    Rule(ATTUNE_E_SHAPE, "D>=1&&Dv>=1", "D and Dv must be at least 1"),
    Rule(ATTUNE_E_SHAPE, "Nn>=0&&Np>=0", "Nk may not be less than Np"),
    Rule(ATTUNE_E_INVALID, "has(k_cache_state)==has(v_cache_state)",
         "k_cache_state and v_cache_state come together or not at all"),
};

constexpr char kBackwardQ[] = "{p.layout==bhnd}B,Hq,Nq,D; {p.layout!=bhnd}Tq,Hq,D";
constexpr char kBackwardO[] = "{p.layout==bhnd}B,Hq,Nq,Dv; {p.layout==thd}Tq,Hq,Dv";
constexpr char kBackwardLse[] = "{p.layout==bhnd}B,Hq,Nq; {p.layout==thd}Hq,Tq";

// The gradient of `of`, which is given when `allowed`.
constexpr attune_tensor_spec Gradient(const char* name, const char* like, const char* of, uint32_t dtype_var,
                                      uint64_t dtypes, uint32_t flags, const char* allowed, const char* doc) {
  return Tensor(ATTUNE_OUT, name, like, dtype_var, dtypes, flags, "0", allowed, of, "zeros", doc);
}

constexpr attune_tensor_spec kBackwardTensors[] = {
    Input("q", kBackwardQ, 1, kFloats, "normal", "queries"),
    Input("k", "{p.layout==bhnd}B,Hkv,Nk,D; {p.layout==thd}Tk,Hkv,D", 2, kFloats, "normal", "keys"),
    Input("v", "{p.layout==bhnd}B,Hkv,Nk,Dv; {p.layout==thd}Tk,Hkv,Dv", 2, kFloats, "normal", "values"),
    InputIf("p.layout!=bhnd", "p.layout!=bhnd", "cu_seqlens_q", "B+1", 0, kI32, "cuts(Tq)",
            "where the queries of a sequence begin"),
    InputIf("p.layout==thd", "p.layout==thd", "cu_seqlens_k", "B+1", 0, kI32, "cuts(Tk)",
            "where the keys of a sequence begin"),
    InputIf("0", "p.layout==bhnd", "seqlens_k", "B", 0, kI32, "lengths(1,Nk)", "visible keys; absent = Nk"),
    InputIf("0", "p.layout==bhnd", "key_start", "B", 0, kI32, "ints(0,Nk/4)", "first visible key; absent = 0"),
    InputIf("0", nullptr, "q_offsets", "B", 0, kI32, "ints(0,Nk)", "overrides q_offset"),
    InputIf("0", "p.layout==bhnd", "mask", kBroadcast, 0, kMask, "bernoulli(0.9)", "non-zero = attend"),
    Tensor(ATTUNE_IN, "bias", kBroadcast, 1, kFloats, ATTUNE_OR_F32, "0", "p.layout==bhnd", nullptr, "normal",
           "added to the score; -inf = masked"),
    InputIf("0", nullptr, "alibi_slopes", "Hq; B,Hq", 0, kF32, "slopes", "the score falls by slope * |position - j|"),
    Tensor(ATTUNE_WEIGHT, "sinks", "Hq", 0, kF32, 0, "0", "p.activation==softmax", nullptr, "normal",
           "one more logit per head"),
    Tensor(ATTUNE_SAVED, "o", kBackwardO, 1, kFloats, ATTUNE_OR_F32, "0", nullptr, nullptr, "zeros",
           "of the forward; absent = computed again"),
    Tensor(ATTUNE_SAVED, "lse", kBackwardLse, 0, kF32, 0, "0", "p.activation==softmax", nullptr, "zeros",
           "of the forward; absent = computed again"),
    Tensor(ATTUNE_IN, "do", kBackwardO, 1, kFloats, ATTUNE_OR_F32, "0", nullptr, "o", "normal",
           "upstream gradient of o; absent = 0"),
    Tensor(ATTUNE_IN, "dlse", kBackwardLse, 0, kF32, 0, "0", "p.activation==softmax", "lse", "normal",
           "upstream gradient of lse; absent = 0"),
    Gradient("dq", "like q", "q", 1, kFloats, ATTUNE_OR_F32, nullptr, "gradient of q"),
    Gradient("dk", "like k", "k", 2, kFloats, ATTUNE_OR_F32, nullptr, "gradient of k"),
    Gradient("dv", "like v", "v", 2, kFloats, ATTUNE_OR_F32, nullptr, "gradient of v"),
    Gradient("dbias", "like bias", "bias", 1, kFloats, ATTUNE_OR_F32, "has(bias)", "gradient of bias"),
    Gradient("dsinks", "like sinks", "sinks", 0, kF32, 0, "has(sinks)", "gradient of sinks"),
    Gradient("dalibi_slopes", "like alibi_slopes", "alibi_slopes", 0, kF32, 0, "has(alibi_slopes)",
             "gradient of alibi_slopes"),
};

constexpr attune_rule kBackwardRules[] = {
    Rule(ATTUNE_E_UNSUPPORTED, "p.layout!=paged", "layout paged has no backward"),
    Rule(ATTUNE_E_SHAPE, "Hkv>=1&&Hq%Hkv==0", "Hq must be a multiple of Hkv"),
    Rule(ATTUNE_E_SHAPE, "D>=1&&Dv>=1", "D and Dv must be at least 1"),
};

constexpr attune_tensor_spec kMergeTensors[] = {
    Input("o_parts", "P,B,Hq,Nq,Dv", 0, kF32, "normal", "partial outputs over disjoint keys"),
    Input("lse_parts", "P,B,Hq,Nq", 0, kF32, "normal", "their log-sum-exps"),
    Output("o", "B,Hq,Nq,Dv", 0, kFloats, 0, "attention output over all keys"),
    Tensor(ATTUNE_OUT, "lse", "B,Hq,Nq", 0, kF32, 0, "0", nullptr, nullptr, "zeros", "log-sum-exp over all keys"),
};

constexpr attune_rule kMergeRules[] = {Rule(ATTUNE_E_SHAPE, "P>=1", "at least one part")};

constexpr attune_tolerance kTolerances[] = {
    Tolerance(ATTUNE_F32, 1e-4, 2e-5),
    Tolerance(ATTUNE_BF16, 1.6e-2, 1e-2),
    Tolerance(ATTUNE_F16, 2e-3, 2e-3),
};

constexpr attune_preset kPresets[] = {
    Preset("demo", ATTUNE_DEMO, "forward", "", "", "", "bidirectional encoder attention"),
    Preset("prefill", ATTUNE_BENCH, "forward", "causal=true", "B=1,Hq=8,Hkv=8,Nq=2048,Nk=2048,D=64,Dv=64", "",
           "causal prompt, as many key as query heads"),
    Preset("gqa_prefill", ATTUNE_BENCH, "forward", "causal=true", "B=1,Hq=32,Hkv=8,Nq=1024,Nk=1024,D=128,Dv=128", "",
           "causal prompt, four query heads per key head"),
    Preset("decode", ATTUNE_BENCH, "forward", "", "B=1,Hq=32,Hkv=8,Nq=1,Nk=4096,D=128,Dv=128", "",
           "one new token, long cache"),
    Preset("paged_decode", ATTUNE_BENCH, "forward", "layout=paged;causal=true",
           "B=8,Hq=32,Hkv=8,Nq=1,Nk=4096,D=128,Dv=128,page_size=16", "",
           "one new token in each of eight paged sequences"),
    Preset("varlen", ATTUNE_BENCH, "forward", "layout=thd;causal=true", "B=4,Hq=8,Hkv=8,Nq=512,Nk=512,D=64,Dv=64", "",
           "four packed sequences"),
    Preset("step", ATTUNE_BENCH, "step", "causal=true", "B=1,Hq=8,Hkv=8,Nq=1,Nk=2049,D=64,Dv=64,Np=2048",
           "k_cache_state; v_cache_state", "one new token, cache kept by the operator"),
    Preset("backward", ATTUNE_BENCH, "backward", "", "B=1,Hq=8,Hkv=8,Nq=1024,Nk=1024,D=64,Dv=64",
           "o; lse; do; dq; dk; dv", "gradients of q, k and v"),
    Preset("backward_causal", ATTUNE_BENCH, "backward", "causal=true", "B=1,Hq=8,Hkv=2,Nq=1024,Nk=1024,D=64,Dv=64",
           "o; lse; do; dq; dk; dv", "causal, four query heads per key head"),
    Preset("merge", ATTUNE_BENCH, "merge", "", "P=8,B=1,Hq=32,Nq=1,Dv=128", "", "partial results of a split cache"),
};

}  // namespace tables
}  // namespace softmax
#endif  // ATTUNE_SOFTMAX_TABLES_H_
