// The descriptor of the operator as tables: parameters, tensors, rules, presets, tolerances. The enums of problem.h
// name the rows.
#ifndef ATTUNE_LLA_TABLES_H_
#define ATTUNE_LLA_TABLES_H_
#include "_kit/descriptor.h"

namespace lla {
namespace tables {

using namespace attune_kit;

constexpr const char* kSolvers[] = {"auto", "cg", "cholesky"};
constexpr attune_param_spec kParams[] = {
    F64Param("ridge_lambda", ATTUNE_MIN_OPEN, 10, 0, kInf, "ridge of every row; unused with ridge"),
    F64Param("scale", 0, 0, 0, kInf, "factor of q.k; 0 = D^-0.5"),
    BoolParam("causal", ATTUNE_STRUCTURAL, true, "key j is visible if j <= i + Nk - Nq"),
    EnumParam("solver", ATTUNE_STRUCTURAL, kSolvers, 0, "how a row's linear system is solved; auto decides per row"),
    F64Param("cg_rtol", ATTUNE_MIN_OPEN | ATTUNE_MAX_OPEN, 1e-6, 0, 1,
             "cg: largest norm of the residual, relative to that of the right side; kernels may do better"),
    I64Param("cg_max_iters", 0, 0, 0, INT64_MAX, "cg: rows still unsolved then are solved directly; 0 = 2*D"),
    BoolParam("cg_precond", ATTUNE_STRUCTURAL, false, "cg: divide by the diagonal (Jacobi)"),
};

constexpr attune_tensor_spec Saved(const char* name, const char* shape, uint32_t var, uint64_t dtypes,
                                   const char* doc) {
  return Tensor(ATTUNE_SAVED, name, shape, var, dtypes, 0, "0", nullptr, nullptr, "zeros", doc);
}
constexpr attune_tensor_spec State(const char* name, const char* shape, const char* doc) {
  return Tensor(ATTUNE_STATE, name, shape, 1, kFloats, 0, "0", nullptr, nullptr, "normal", doc);
}
constexpr attune_tensor_spec StateOut(const char* name, const char* shape, const char* state, const char* doc) {
  return Tensor(ATTUNE_STATE_OUT, name, shape, 1, kFloats, 0, nullptr, nullptr, state, "zeros", doc);
}
constexpr attune_tensor_spec Gradient(const char* name, const char* shape, const char* of, const char* doc) {
  return Tensor(ATTUNE_OUT, name, shape, 1, kFloats, ATTUNE_OR_F32, "0", nullptr, of, "zeros", doc);
}

constexpr attune_tensor_spec kQ = Input("q", "B,Hq,Nq,D", 1, kFloats, "normal", "queries, in the space of the keys"),
                             kK = Input("k", "B,Hkv,Nk,D", 1, kFloats, "normal", "keys"),
                             kV = Input("v", "B,Hkv,Nk,Dv", 1, kFloats, "normal", "values"),
                             kRidge = InputIf("0", nullptr, "ridge", "1|B,1|Hq,1|Nq", 0, kF32, "uniform(1,10)",
                                              "ridge per row, overrides ridge_lambda; must be > 0"),
                             kO = Output("o", "B,Hq,Nq,Dv", 1, kFloats, 0, "value predicted at the query"),
                             kLse = Saved("lse", "B,Hq,Nq", 0, kF32, "natural log-sum-exp of the visible scores"),
                             kY = Saved("ridge_y", "B,Hq,Nq,D", 0, kF32, "solution y of the row's linear system"),
                             kKbar = Saved("kbar", "B,Hq,Nq,D", 0, kF32, "mean of the visible keys");
constexpr attune_tensor_spec kForwardTensors[] = {kQ, kK, kV, kRidge, kO, kLse, kY, kKbar};
constexpr attune_tensor_spec kStepTensors[] = {
    kQ,
    Input("k", "B,Hkv,Nn,D", 1, kFloats, "normal", "new keys"),
    Input("v", "B,Hkv,Nn,Dv", 1, kFloats, "normal", "new values"),
    kRidge,
    State("k_cache_state", "B,Hkv,Np,D", "keys of earlier calls, oldest first"),
    State("v_cache_state", "B,Hkv,Np,Dv", "values of earlier calls"),
    kO,
    kLse,
    kY,
    kKbar,
    StateOut("k_cache_state_out", "B,Hkv,Nk,D", "k_cache_state", "cache followed by k"),
    StateOut("v_cache_state_out", "B,Hkv,Nk,Dv", "v_cache_state", "cache followed by v"),
};
constexpr attune_tensor_spec kBackwardTensors[] = {
    kQ,
    kK,
    kV,
    kRidge,
    Saved("o", "B,Hq,Nq,Dv", 1, kFloats, "of the forward"),
    kLse,
    kY,
    kKbar,
    Tensor(ATTUNE_IN, "do", "B,Hq,Nq,Dv", 1, kFloats, ATTUNE_OR_F32, nullptr, nullptr, "o", "normal",
           "upstream gradient of o"),
    Gradient("dq", "like q", "q", "gradient of q"),
    Gradient("dk", "like k", "k", "gradient of k"),
    Gradient("dv", "like v", "v", "gradient of v"),
    Tensor(ATTUNE_OUT, "dridge", "like ridge", 0, kF32, 0, "0", "has(ridge)", "ridge", "zeros", "gradient of ridge"),
};

constexpr attune_rule kGroups = Rule(ATTUNE_E_SHAPE, "Hkv>=1&&Hq%Hkv==0", "Hq must be a multiple of Hkv"),
                      kChannels = Rule(ATTUNE_E_SHAPE, "D>=1&&Dv>=1", "D and Dv must be at least 1"),
                      kPositions = Rule(ATTUNE_E_SHAPE, "!p.causal||Nq<=Nk", "causal attention needs Nq <= Nk");
constexpr attune_rule kRules[] = {kGroups, kChannels, kPositions};
constexpr attune_rule kStepRules[] = {
    kGroups,
    kChannels,
    kPositions,
    Rule(ATTUNE_E_SHAPE, "Nn>=0&&Np>=0", "Nk may not be less than Np"),
    Rule(ATTUNE_E_INVALID, "has(k_cache_state)==has(v_cache_state)",
         "k_cache_state and v_cache_state come together or not at all"),
};

constexpr attune_tolerance kTolerances[] = {
    Tolerance(ATTUNE_F32, 1e-3, 1e-3),
    Tolerance(ATTUNE_BF16, 1.6e-2, 1e-2),
    Tolerance(ATTUNE_F16, 2e-3, 2e-3),
};

constexpr attune_preset kPresets[] = {
    Preset("demo", ATTUNE_DEMO, "forward", "causal=false", "", "", "bidirectional, ridge 10"),
    Preset("prefill", ATTUNE_BENCH, "forward", "", "B=1,Hq=8,Hkv=8,Nq=512,Nk=512,D=64,Dv=64", "", "every prefix"),
    Preset("long", ATTUNE_BENCH, "forward", "", "B=1,Hq=2,Hkv=2,Nq=4096,Nk=4096,D=64,Dv=64", "", "long sequence"),
    Preset("wide", ATTUNE_BENCH, "forward", "", "B=1,Hq=4,Hkv=4,Nq=256,Nk=256,D=128,Dv=128", "", "wide heads"),
    Preset("decode", ATTUNE_BENCH, "step", "", "B=1,Hq=8,Hkv=8,Nq=1,Nk=2049,D=64,Dv=64,Np=2048",
           "k_cache_state; v_cache_state", "one new token"),
    Preset("prefill_backward", ATTUNE_BENCH, "backward", "", "B=1,Hq=8,Hkv=8,Nq=512,Nk=512,D=64,Dv=64", "dq; dk; dv",
           "gradients for every prefix"),
};

}  // namespace tables
}  // namespace lla
#endif  // ATTUNE_LLA_TABLES_H_
