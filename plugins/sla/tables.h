// The descriptor of the operator as tables: parameters, tensors, rules, presets, tolerances. The enums of problem.cpp
// name the rows.
#ifndef ATTUNE_SLA_TABLES_H_
#define ATTUNE_SLA_TABLES_H_
#include "_kit/descriptor.h"

namespace sla {
namespace tables {

using namespace attune_kit;

constexpr const char* kFeatureMaps[] = {"softmax", "elu1", "relu"};
constexpr const char* kScopes[] = {"all", "complement", "marginal"};

constexpr attune_param_spec kParams[] = {
    F64Param("top_ratio", ATTUNE_STRUCTURAL | ATTUNE_MIN_OPEN, 0.1, 0, 1, "share of critical key blocks"),
    F64Param("low_ratio", ATTUNE_STRUCTURAL | ATTUNE_MAX_OPEN, 0, 0, 1, "share of negligible key blocks"),
    I64Param("block_q", ATTUNE_STRUCTURAL, 64, 1, INT64_MAX, "queries of a block"),
    I64Param("block_k", ATTUNE_STRUCTURAL, 64, 1, INT64_MAX, "keys of a block"),
    EnumParam("feature_map", ATTUNE_STRUCTURAL, kFeatureMaps, 0, "map of q and k in the linear branch"),
    EnumParam("linear_scope", ATTUNE_STRUCTURAL, kScopes, 0,
              "keys of the linear branch: all, all but the critical blocks, or neither critical nor negligible ones"),
    F64Param("scale", 0, 0, 0, kInf, "factor of q.k; 0 = D^-0.5"),
    F64Param("norm_eps", 0, -1, -1, kInf, "added to the linear normaliser; -1 = 1e-5 for scope all, else 0"),
    BoolParam("causal", ATTUNE_STRUCTURAL, false, "true is unsupported"),
};

constexpr attune_tensor_spec Weight(const char* name, const char* shape, const char* gen, const char* doc) {
  return Tensor(ATTUNE_WEIGHT, name, shape, 0, kF32, 0, "0", nullptr, nullptr, gen, doc);
}
constexpr attune_tensor_spec Saved(const char* name, const char* shape, uint64_t dtypes, const char* doc) {
  return Tensor(ATTUNE_SAVED, name, shape, 0, dtypes, 0, "0", nullptr, nullptr, "zeros", doc);
}
constexpr attune_tensor_spec Gradient(const char* name, const char* shape, const char* pair, const char* doc) {
  return Tensor(ATTUNE_OUT, name, shape, 1, kFloats, ATTUNE_OR_F32, "0", nullptr, pair, "zeros", doc);
}
constexpr attune_tensor_spec WeightGradient(const char* name, const char* shape, const char* allowed, const char* pair,
                                            const char* doc) {
  return Tensor(ATTUNE_OUT, name, shape, 0, kF32, 0, "0", allowed, pair, "zeros", doc);
}

constexpr attune_tensor_spec kQ = Input("q", "B,Hq,Nq,D", 1, kFloats, "normal", "queries"),
                             kK = Input("k", "B,Hkv,Nk,D", 1, kFloats, "normal", "keys"),
                             kV = Input("v", "B,Hkv,Nk,Dv", 1, kFloats, "normal", "values"),
                             kWProj = Weight("w_proj", "Dv,Dv", "weight(Dv)", "shared by all heads; absent = 0"),
                             kBProj = Weight("b_proj", "Dv", "normal(0,0.1)", "absent = 0"),
                             kOS = Saved("o_s", "B,Hq,Nq,Dv", kF32, "sparse branch"),
                             kOL = Saved("o_l", "B,Hq,Nq,Dv", kF32, "linear branch before the projection"),
                             kLseS = Saved("lse_s", "B,Hq,Nq", kF32, "log-sum-exp of the sparse branch"),
                             kBlockMap = Saved("block_map", "B,Hq,Mb,Nb", kI32, "1 critical, 0 other, -1 negligible");

constexpr attune_tensor_spec kForwardTensors[] = {
    kQ, kK, kV, kWProj, kBProj, Output("o", "B,Hq,Nq,Dv", 1, kFloats, 0, "o_s + w_proj o_l + b_proj"),
    kOS, kOL, kLseS, kBlockMap,
};
constexpr attune_tensor_spec kBackwardTensors[] = {
    kQ, kK, kV, kWProj, kBProj,
    Tensor(ATTUNE_SAVED, "o", "B,Hq,Nq,Dv", 1, kFloats, 0, "0", nullptr, nullptr, "zeros", "of the forward; not used"),
    kOS, kOL, kLseS, kBlockMap,
    Tensor(ATTUNE_IN, "do", "B,Hq,Nq,Dv", 1, kFloats, ATTUNE_OR_F32, nullptr, nullptr, "o", "normal",
           "upstream gradient of o"),
    Gradient("dq", "like q", "q", "gradient of q"),
    Gradient("dk", "like k", "k", "gradient of k"),
    Gradient("dv", "like v", "v", "gradient of v"),
    WeightGradient("dw_proj", "like w_proj", "has(w_proj)", "w_proj", "gradient of w_proj"),
    WeightGradient("db_proj", "like b_proj", "has(b_proj)", "b_proj", "gradient of b_proj"),
};

constexpr attune_rule kRules[] = {
    Rule(ATTUNE_E_UNSUPPORTED, "!p.causal", ATTUNE_FOLDER " is bidirectional"),
    Rule(ATTUNE_E_PARAM, "p.low_ratio==0||p.linear_scope==marginal", "low_ratio needs linear_scope marginal"),
    Rule(ATTUNE_E_PARAM, "p.norm_eps==-1||p.norm_eps>=0", "norm_eps is -1 or >= 0"),
    Rule(ATTUNE_E_SHAPE, "Hkv>=1&&Hq%Hkv==0", "Hq must be a multiple of Hkv"),
    Rule(ATTUNE_E_SHAPE, "D>=1&&Dv>=1", "D and Dv must be at least 1"),
};

constexpr attune_tolerance kTolerances[] = {
    Tolerance(ATTUNE_F32, 1e-4, 5e-5),
    Tolerance(ATTUNE_BF16, 1.6e-2, 1e-2),
    Tolerance(ATTUNE_F16, 2e-3, 2e-3),
};

constexpr char kProjection[] = "w_proj; b_proj";
constexpr attune_preset kPresets[] = {
    Preset("demo", ATTUNE_DEMO, "forward", "top_ratio=0.25", "", kProjection,
           "2 of 8 key blocks; projection generated"),
    Preset("video", ATTUNE_BENCH, "forward", "", "B=1,Hq=8,Hkv=8,Nq=4096,Nk=4096,D=64,Dv=64", kProjection,
           "tokens of a short clip"),
    Preset("short", ATTUNE_BENCH, "forward", "top_ratio=0.2;linear_scope=complement",
           "B=1,Hq=8,Hkv=8,Nq=1024,Nk=1024,D=128,Dv=128", kProjection, "the first release, few tokens"),
    Preset("sparse", ATTUNE_BENCH, "forward", "top_ratio=0.05", "B=1,Hq=2,Hkv=2,Nq=16384,Nk=16384,D=128,Dv=128",
           kProjection, "95 % of the key blocks left to the linear branch"),
    Preset("backward", ATTUNE_BENCH, "backward", "", "B=1,Hq=2,Hkv=2,Nq=4096,Nk=4096,D=64,Dv=64",
           "w_proj; b_proj; dq; dk; dv; dw_proj; db_proj", "all gradients"),
};

}  // namespace tables
}  // namespace sla
#endif  // ATTUNE_SLA_TABLES_H_
