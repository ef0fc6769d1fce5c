// The descriptor of the operator as tables: parameters, tensors, rules, presets, tolerances. The enums of problem.h
// name the rows.
#ifndef ATTUNE_MOH_TABLES_H_
#define ATTUNE_MOH_TABLES_H_
#include "_kit/descriptor.h"

namespace moh {
namespace tables {

using namespace attune_kit;

constexpr const char* kGateModes[] = {"two_stage", "shared_only", "qnorm", "given"};
constexpr attune_param_spec kParams[] = {
    EnumParam("gate_mode", ATTUNE_STRUCTURAL, kGateModes, 0, "where the gates of a token come from"),
    I64Param("n_shared", ATTUNE_REQUIRED | ATTUNE_STRUCTURAL, 0, 0, INT64_MAX,
             "heads that are always active, they come first"),
    I64Param("top_k", ATTUNE_REQUIRED | ATTUNE_STRUCTURAL, 0, 0, INT64_MAX, "routed heads per token"),
    F64Param("scale", 0, 0, 0, kInf, "factor of q.k; 0 = D^-0.5"),
    BoolParam("causal", ATTUNE_STRUCTURAL, 0, "key j is visible only if j <= position"),
    I64Param("q_offset", 0, INT64_MIN, INT64_MIN, INT64_MAX, "position of query 0; INT64_MIN = Nk_b - Nq"),
};

constexpr char kTwoStageOnly[] = "p.gate_mode==two_stage", kGivenOnly[] = "p.gate_mode==given";
constexpr char kSharedLogits[] = "p.gate_mode==two_stage&&p.n_shared>1||p.gate_mode==shared_only";
constexpr char kStageLogits[] = "p.gate_mode==two_stage&&p.n_shared>0";

constexpr attune_tensor_spec OfType(uint32_t role, const char* name, const char* shape, const char* gen,
                                    const char* doc) {
  return Tensor(role, name, shape, 1, kFloats, 0, "0", nullptr, nullptr, gen, doc);
}
constexpr attune_tensor_spec Lse(const char* doc) {
  return Tensor(ATTUNE_SAVED, "lse", "B,Hq,Nq", 0, kF32, 0, "0", nullptr, nullptr, "zeros", doc);
}

// The inputs of every entry.
// clang-format off
#define ATTUNE_MOH_INPUTS                                                                                             \
  Input("q", "B,Hq,Nq,D", 1, kFloats, "normal", "queries"),                                                           \
  Input("k", "B,Hkv,Nn,D", 1, kFloats, "normal", "keys"),                                                             \
  Input("v", "B,Hkv,Nn,Dv", 1, kFloats, "normal", "values"),                                                          \
  OfType(ATTUNE_STATE, "k_cache_state", "B,Hkv,Np,D", "normal", "keys of earlier calls, oldest first"),               \
  OfType(ATTUNE_STATE, "v_cache_state", "B,Hkv,Np,Dv", "normal", "values of earlier calls"),                          \
  Tensor(ATTUNE_IN, "bias", "1|B,1|Hkv|Hq,1|Nq,1|Nk", 1, kFloats, ATTUNE_OR_F32, "0", nullptr, nullptr, "normal",     \
         "added to the score; -inf = masked"),                                                                        \
  InputIf("0", nullptr, "key_start", "B", 0, kI32, "ints(0,Nk/4)", "first visible key; absent = 0"),                  \
  InputIf("0", nullptr, "seqlens_k", "B", 0, kI32, "lengths(1,Nk)", "visible keys; absent = Nk"),                     \
  InputIf("0", nullptr, "q_offsets", "B", 0, kI32, "ints(0,Nk)", "overrides q_offset"),                               \
  InputIf(kGivenOnly, kGivenOnly, "g_head", "B,Nq,Hq", 0, kF32, "bernoulli(0.5)", "ready gates; 0 = head inactive"),  \
  InputIf(kTwoStageOnly, kTwoStageOnly, "logits_r", "B,Nq,E", 0, kF32, "normal", "logits of the routed heads"),       \
  InputIf(kSharedLogits, kSharedLogits, "logits_s", "B,Nq,p.n_shared", 0, kF32, "normal",                             \
          "logits of the shared heads"),                                                                              \
  InputIf(kStageLogits, kStageLogits, "logits_h", "B,Nq,2", 0, kF32, "normal",                                        \
          "logits of the weights of shared and of routed heads"),                                                     \
  InputIf("0", "p.gate_mode==qnorm", "q_router", "B,Hq,Nq,D", 1, kFloats, "normal",                                   \
          "its row lengths route; absent = q"),                                                                       \
  OfType(ATTUNE_WEIGHT, "w_o", "Cout,Hq*Dv", "weight(Hq*Dv)", "fused output projection"),                             \
  Tensor(ATTUNE_WEIGHT, "b_o", "Cout", 1, kFloats, 0, "0", "has(w_o)", nullptr, "normal(0,0.1)",                      \
         "added to the projected output")

#define ATTUNE_MOH_OUTPUTS                                                                                            \
  Output("o", "B,Hq,Nq,Dv", 1, kFloats, 0, "gated head outputs; 0 where inactive"),                                   \
  Tensor(ATTUNE_OUT, "g_head_out", "B,Nq,Hq", 0, kF32, 0, "0", nullptr, nullptr, "zeros",                             \
         "the gates that were used"),                                                                                 \
  Tensor(ATTUNE_OUT, "y", "B,Nq,Cout", 1, kFloats, 0, "0", "has(w_o)", nullptr, "zeros", "projected output"),         \
  Tensor(ATTUNE_OUT, "l_aux", "1", 0, kF32, 0, "0", kTwoStageOnly, nullptr, "zeros", "load-balance loss"),            \
  Lse("natural log-sum-exp of the visible scores; -inf where inactive")
// clang-format on

constexpr attune_tensor_spec kForwardTensors[] = {ATTUNE_MOH_INPUTS, ATTUNE_MOH_OUTPUTS};

constexpr attune_tensor_spec kStepTensors[] = {
    ATTUNE_MOH_INPUTS,
    ATTUNE_MOH_OUTPUTS,
    Tensor(ATTUNE_STATE_OUT, "k_cache_state_out", "B,Hkv,Nk,D", 1, kFloats, 0, nullptr, nullptr, "k_cache_state",
           "zeros", "cache followed by k"),
    Tensor(ATTUNE_STATE_OUT, "v_cache_state_out", "B,Hkv,Nk,Dv", 1, kFloats, 0, nullptr, nullptr, "v_cache_state",
           "zeros", "cache followed by v"),
};

constexpr attune_tensor_spec Upstream(const char* name, const char* shape, const char* of, const char* allowed,
                                      const char* doc) {
  return Tensor(ATTUNE_IN, name, shape, 1, kFloats, ATTUNE_OR_F32, "0", allowed, of, "normal", doc);
}
// The gradient of `of`, which is given when `allowed`.
constexpr attune_tensor_spec Gradient(const char* name, const char* like, const char* of, const char* allowed,
                                      const char* doc) {
  return Tensor(ATTUNE_OUT, name, like, 1, kFloats, ATTUNE_OR_F32, "0", allowed, of, "zeros", doc);
}
constexpr attune_tensor_spec GateGradient(const char* name, const char* like, const char* of, const char* allowed,
                                          const char* doc) {
  return Tensor(ATTUNE_OUT, name, like, 0, kF32, 0, "0", allowed, of, "zeros", doc);
}

constexpr attune_tensor_spec kBackwardTensors[] = {
    ATTUNE_MOH_INPUTS,
    Lse("of the forward; not needed, because the gradient of a gate takes the attention again"),
    Upstream("do", "B,Hq,Nq,Dv", "o", nullptr, "upstream gradient of o; absent = 0"),
    Upstream("dy", "B,Nq,Cout", "y", "has(w_o)", "upstream gradient of y; absent = 0"),
    Tensor(ATTUNE_IN, "dl_aux", "1", 0, kF32, 0, "0", kTwoStageOnly, "l_aux", "normal",
           "upstream gradient of l_aux; absent = 0"),
    Gradient("dq", "like q", "q", nullptr, "gradient of q"),
    Gradient("dk", "like k", "k", nullptr, "gradient of k, the new tokens only"),
    Gradient("dv", "like v", "v", nullptr, "gradient of v, the new tokens only"),
    Gradient("dbias", "like bias", "bias", "has(bias)", "gradient of bias"),
    GateGradient("dlogits_r", "like logits_r", "logits_r", "has(logits_r)", "gradient of logits_r"),
    GateGradient("dlogits_s", "like logits_s", "logits_s", "has(logits_s)", "gradient of logits_s"),
    GateGradient("dlogits_h", "like logits_h", "logits_h", "has(logits_h)", "gradient of logits_h"),
    GateGradient("dg_head", "like g_head", "g_head", "has(g_head)", "gradient of g_head, of its zeros too"),
    Gradient("dw_o", "like w_o", "w_o", "has(w_o)", "gradient of w_o"),
    Gradient("db_o", "like b_o", "b_o", "has(b_o)", "gradient of b_o"),
};
#undef ATTUNE_MOH_INPUTS
#undef ATTUNE_MOH_OUTPUTS

constexpr attune_rule kRules[] = {
    Rule(ATTUNE_E_SHAPE, "Hkv>=1&&Hq%Hkv==0", "Hq must be a multiple of Hkv"),
    Rule(ATTUNE_E_SHAPE, "D>=1&&Dv>=1", "D and Dv must be at least 1"),
    Rule(ATTUNE_E_SHAPE, "Nn>=0&&Np>=0", "Nk may not be less than Np"),
    Rule(ATTUNE_E_PARAM,
         "p.gate_mode!=two_stage&&p.gate_mode!=qnorm||p.n_shared<Hq&&p.top_k>=1&&p.top_k<=E",
         "two_stage and qnorm need 0 <= n_shared < Hq and 1 <= top_k <= Hq - n_shared"),
    Rule(ATTUNE_E_PARAM, "p.gate_mode!=shared_only||p.n_shared==Hq&&Hq>=2&&p.top_k==0",
         "shared_only needs n_shared = Hq >= 2 and top_k = 0"),
    Rule(ATTUNE_E_INVALID, "has(k_cache_state)==has(v_cache_state)",
         "k_cache_state and v_cache_state come together or not at all"),
};

constexpr attune_tolerance kTolerances[] = {
    Tolerance(ATTUNE_F32, 1e-4, 5e-5),
    Tolerance(ATTUNE_BF16, 1.6e-2, 1e-2),
    Tolerance(ATTUNE_F16, 2e-3, 2e-3),
};

constexpr char kQuarters[] = "B=1,Hq=16,Hkv=16,Nq=1024,Nk=1024,D=64,Dv=64";
constexpr attune_preset kPresets[] = {
    Preset("demo", ATTUNE_DEMO, "forward", "n_shared=4;top_k=4", "", "",
           "4 shared and 4 of 8 routed heads; router logits are normal"),
    Preset("prefill", ATTUNE_BENCH, "forward", "gate_mode=qnorm;n_shared=4;top_k=2;causal=true",
           "B=1,Hq=8,Hkv=8,Nq=2048,Nk=2048,D=64,Dv=64", "", "causal prompt, 6 of 8 heads by the length of q"),
    Preset("two_stage", ATTUNE_BENCH, "forward", "n_shared=4;top_k=4", "B=1,Hq=12,Hkv=12,Nq=1024,Nk=1024,D=64,Dv=64",
           "", "8 of 12 heads by the two-stage router"),
    Preset("half", ATTUNE_BENCH, "forward", "n_shared=4;top_k=4", kQuarters, "", "8 of 16 heads"),
    Preset("three_quarters", ATTUNE_BENCH, "forward", "n_shared=4;top_k=8", kQuarters, "", "12 of 16 heads"),
    Preset("all_heads", ATTUNE_BENCH, "forward", "n_shared=4;top_k=12", kQuarters, "", "all 16 heads"),
    Preset("decode", ATTUNE_BENCH, "step", "gate_mode=qnorm;n_shared=16;top_k=8;causal=true",
           "B=1,Hq=32,Hkv=8,Nq=1,Nk=2049,D=128,Dv=128,Np=2048", "k_cache_state; v_cache_state",
           "one new token, cache kept by the operator"),
    Preset("backward", ATTUNE_BENCH, "backward", "n_shared=4;top_k=4", "B=1,Hq=12,Hkv=12,Nq=512,Nk=512,D=64,Dv=64",
           "do; dq; dk; dv; dlogits_r; dlogits_s; dlogits_h", "gradients of q, k, v and the logits"),
};

}  // namespace tables
}  // namespace moh
#endif  // ATTUNE_MOH_TABLES_H_
