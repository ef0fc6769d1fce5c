// The descriptor of the operator as tables: parameters, tensors, rules, presets, tolerances. The enums of problem.h
// name the rows.
#ifndef ATTUNE_NSA_TABLES_H_
#define ATTUNE_NSA_TABLES_H_
#include "_kit/descriptor.h"

namespace nsa {
namespace tables {

using namespace attune_kit;

constexpr const char* kModes[] = {"mean", "weighted", "linear", "given"};
constexpr const char* kActivations[] = {"none", "sigmoid"};

constexpr attune_param_spec Count(const char* name, int64_t def, int64_t min, const char* doc) {
  return I64Param(name, ATTUNE_STRUCTURAL, def, min, INT64_MAX, doc);
}
constexpr attune_param_spec True(const char* name, int64_t min, const char* doc) {
  attune_param_spec p = BoolParam(name, ATTUNE_STRUCTURAL, true, doc);
  p.min.i = min;
  return p;
}
constexpr attune_param_spec kParams[] = {
    True("use_cmp", 0, "attend to the compressed keys"),
    True("use_slc", 0, "attend to the selected blocks"),
    True("use_swa", 0, "attend to the sliding window"),
    F64Param("scale", 0, 0, 0, kInf, "factor of q.k; 0 = D^-0.5"),
    True("causal", 1, "defined causal only"),
    EnumParam("cmp_mode", ATTUNE_STRUCTURAL, kModes, 0, "how a block is compressed"),
    Count("cmp_block", 32, 1, "tokens of a compressed key"),
    Count("cmp_stride", 16, 1, "tokens between compressed keys; divides cmp_block and sel_block"),
    Count("sel_block", 64, 1, "tokens of a selection block"),
    Count("top_n", 16, 0, "selected blocks, includes the forced ones"),
    Count("n_init", 1, 0, "first blocks, always selected"),
    Count("n_local", 2, 1, "own block and those before it, always selected"),
    Count("window", 512, 1, "visible keys including the own one"),
    EnumParam("gate_act", ATTUNE_STRUCTURAL, kActivations, 0, "sigmoid: the gates are logits"),
};

constexpr char kIfSelecting[] = "p.cmp_mode==given&&(p.use_cmp||p.use_slc&&!has(block_indices))";
constexpr char kLearned[] = "p.cmp_mode==weighted||p.cmp_mode==linear";
constexpr char kUncompressed[] = "p.cmp_mode!=given";
constexpr char kStateAllowed[] = "p.use_cmp||p.use_slc";

constexpr attune_tensor_spec Optional(const char* allowed, const char* name, const char* shape, const char* gen,
                                      const char* doc) {
  return InputIf("0", allowed, name, shape, 1, kFloats, gen, doc);
}
constexpr attune_tensor_spec Weight(const char* needed, const char* allowed, const char* name, const char* shape,
                                    const char* gen, const char* doc) {
  return Tensor(ATTUNE_WEIGHT, name, shape, 1, kFloats, ATTUNE_OR_F32, needed, allowed, nullptr, gen, doc);
}
constexpr attune_tensor_spec Gate(const char* name) {
  return InputIf("0", nullptr, name, "B,Hq,Nq", 0, kF32, "uniform(0,1)", "gate; absent = 1");
}
constexpr attune_tensor_spec Branch(const char* name, const char* allowed) {
  return Tensor(ATTUNE_SAVED, name, "B,Hq,Nq,Dv", 1, kFloats, ATTUNE_OR_F32, "0", allowed, nullptr, "zeros",
                "result of the branch before its gate");
}
constexpr attune_tensor_spec Lse(const char* name, const char* allowed) {
  return Tensor(ATTUNE_SAVED, name, "B,Hq,Nq", 0, kF32, 0, "0", allowed, nullptr, "zeros", "log-sum-exp of the branch");
}
constexpr attune_tensor_spec Compressed(const char* name, const char* shape, const char* allowed, const char* doc) {
  return Tensor(ATTUNE_OUT, name, shape, 0, kF32, 0, "0", allowed, nullptr, "zeros", doc);
}
constexpr attune_tensor_spec Indices(const char* allowed) {
  return Tensor(ATTUNE_SAVED, "block_indices_out", "B,Hkv,Nq,p.top_n", 0, kI32, 0, "0", allowed, nullptr, "zeros",
                "selected blocks, ascending, -1 at the end");
}
constexpr attune_tensor_spec Gradient(const char* name, const char* shape, const char* allowed, const char* pair,
                                      const char* doc) {
  return Tensor(ATTUNE_OUT, name, shape, 1, kFloats, ATTUNE_OR_F32, "0", allowed, pair, "zeros", doc);
}
constexpr attune_tensor_spec GateGradient(const char* name, const char* shape, const char* allowed, const char* pair,
                                          const char* doc) {
  return Tensor(ATTUNE_OUT, name, shape, 0, kF32, 0, "0", allowed, pair, "zeros", doc);
}

constexpr char kWeightK[] = "{p.cmp_mode==weighted}Hkv,p.cmp_block; {p.cmp_mode==linear}Hkv,p.cmp_block*D,D";
constexpr char kWeightV[] = "{p.cmp_mode==weighted}Hkv,p.cmp_block; {p.cmp_mode==linear}Hkv,p.cmp_block*Dv,Dv";

constexpr attune_tensor_spec kQ = Input("q", "B,Hq,Nq,D", 1, kFloats, "normal", "queries");
constexpr attune_tensor_spec kK = Input("k", "B,Hkv,Nk,D", 1, kFloats, "normal", "keys");
constexpr attune_tensor_spec kV = Input("v", "B,Hkv,Nk,Dv", 1, kFloats, "normal", "values");
constexpr attune_tensor_spec kQCmp =
    Optional(nullptr, "q_cmp", "B,Hq,Nq,D", "normal", "queries of the compressed keys; absent = q");
constexpr attune_tensor_spec kPeK = Weight("0", kUncompressed, "pe_k_cmp", "Hkv,p.cmp_block,D", "normal(0,0.1)",
                                           "added to the keys of a block before compression");
constexpr attune_tensor_spec kPeV = Weight("0", kUncompressed, "pe_v_cmp", "Hkv,p.cmp_block,Dv", "normal(0,0.1)",
                                           "added to the values of a block before compression");
constexpr attune_tensor_spec kGCmp = Gate("g_cmp"), kGSlc = Gate("g_slc"), kGSwa = Gate("g_swa");
constexpr attune_tensor_spec kOCmp = Branch("o_cmp", "p.use_cmp"), kOSlc = Branch("o_slc", "p.use_slc"),
                             kOSwa = Branch("o_swa", "p.use_swa");
constexpr attune_tensor_spec kLseCmp = Lse("lse_cmp", "p.use_cmp"), kLseSlc = Lse("lse_slc", "p.use_slc"),
                             kLseSwa = Lse("lse_swa", "p.use_swa");

#define ATTUNE_NSA_INPUTS                                                                                          \
  kQ, kK, kV, Optional("p.use_swa", "k_swa", "B,Hkv,Nk,D", "normal", "keys of the window; absent = k"),           \
      Optional("p.use_swa", "v_swa", "B,Hkv,Nk,Dv", "normal", "values of the window; absent = v"),                \
      Optional(kUncompressed, "k_cmp_src", "B,Hkv,Nk,D", "normal", "keys that are compressed; absent = k"),       \
      Optional(kUncompressed, "v_cmp_src", "B,Hkv,Nk,Dv", "normal", "values that are compressed; absent = v"),    \
      InputIf(kIfSelecting, "p.cmp_mode==given", "k_cmp", "B,Hkv,Nc,D", 1, kFloats, "normal",                     \
              "ready compressed keys"),                                                                            \
      InputIf("p.cmp_mode==given&&p.use_cmp", "p.cmp_mode==given", "v_cmp", "B,Hkv,Nc,Dv", 1, kFloats, "normal",  \
              "ready compressed values"),                                                                          \
      kQCmp,                                                                                                       \
      Weight("(p.cmp_mode==weighted||p.cmp_mode==linear)&&(p.use_cmp||p.use_slc&&!has(block_indices))", kLearned, \
             "w_k_cmp", kWeightK, "weight(p.cmp_block)", "compresses the keys"),                                  \
      Weight("(p.cmp_mode==weighted||p.cmp_mode==linear)&&p.use_cmp", kLearned, "w_v_cmp", kWeightV,              \
             "weight(p.cmp_block)", "compresses the values"),                                                      \
      kPeK, kPeV, kGCmp, kGSlc, kGSwa,                                                                             \
      InputIf("0", "p.use_slc", "block_indices", "B,Hkv,Nq,S", 0, kI32, "distinct(cdiv(Nk,p.sel_block))",         \
              "replaces the selection; -1 = empty slot"),                                                          \
      InputIf("0", "has(block_indices)", "block_counts", "B,Hkv,Nq", 0, kI32, "ints(0,S)",                        \
              "use slots 0..count-1")

constexpr attune_tensor_spec kForwardTensors[] = {
    ATTUNE_NSA_INPUTS,
    Output("o", "B,Hq,Nq,Dv", 1, kFloats, 0, "sum of the gated branches"),
    kOCmp,
    kOSlc,
    kOSwa,
    kLseCmp,
    kLseSlc,
    kLseSwa,
    Indices("p.use_slc&&!has(block_indices)"),
    Compressed("k_cmp_out", "B,Hkv,Nc,D", "p.cmp_mode==mean||has(w_k_cmp)", "compressed keys"),
    Compressed("v_cmp_out", "B,Hkv,Nc,Dv", "p.cmp_mode==mean||has(w_v_cmp)", "compressed values"),
};

constexpr attune_tensor_spec kBackwardTensors[] = {
    ATTUNE_NSA_INPUTS,
    Tensor(ATTUNE_SAVED, "o", "B,Hq,Nq,Dv", 1, kFloats, 0, "0", nullptr, nullptr, "zeros", "of the forward; not used"),
    kOCmp,
    kOSlc,
    kOSwa,
    kLseCmp,
    kLseSlc,
    kLseSwa,
    Indices("p.use_slc&&!has(block_indices)"),
    Tensor(ATTUNE_IN, "do", "B,Hq,Nq,Dv", 1, kFloats, ATTUNE_OR_F32, nullptr, nullptr, "o", "normal",
           "upstream gradient of o"),
    Gradient("dq", "like q", nullptr, "q", "gradient of q"),
    Gradient("dk", "like k", nullptr, "k", "gradient of k"),
    Gradient("dv", "like v", nullptr, "v", "gradient of v"),
    Gradient("dk_swa", "like k_swa", "has(k_swa)", "k_swa", "gradient of k_swa"),
    Gradient("dv_swa", "like v_swa", "has(v_swa)", "v_swa", "gradient of v_swa"),
    Gradient("dk_cmp_src", "like k_cmp_src", "has(k_cmp_src)", "k_cmp_src", "gradient of k_cmp_src"),
    Gradient("dv_cmp_src", "like v_cmp_src", "has(v_cmp_src)", "v_cmp_src", "gradient of v_cmp_src"),
    Gradient("dk_cmp", "like k_cmp", "has(k_cmp)", "k_cmp", "gradient of k_cmp"),
    Gradient("dv_cmp", "like v_cmp", "has(v_cmp)", "v_cmp", "gradient of v_cmp"),
    Gradient("dq_cmp", "like q_cmp", "has(q_cmp)", "q_cmp", "gradient of q_cmp"),
    Gradient("dw_k_cmp", "like w_k_cmp", "has(w_k_cmp)", "w_k_cmp", "gradient of w_k_cmp"),
    Gradient("dw_v_cmp", "like w_v_cmp", "has(w_v_cmp)", "w_v_cmp", "gradient of w_v_cmp"),
    Gradient("dpe_k_cmp", "like pe_k_cmp", "has(pe_k_cmp)", "pe_k_cmp", "gradient of pe_k_cmp"),
    Gradient("dpe_v_cmp", "like pe_v_cmp", "has(pe_v_cmp)", "pe_v_cmp", "gradient of pe_v_cmp"),
    GateGradient("dg_cmp", "like g_cmp", "has(g_cmp)", "g_cmp", "gradient of g_cmp"),
    GateGradient("dg_slc", "like g_slc", "has(g_slc)", "g_slc", "gradient of g_slc"),
    GateGradient("dg_swa", "like g_swa", "has(g_swa)", "g_swa", "gradient of g_swa"),
};
#undef ATTUNE_NSA_INPUTS

constexpr attune_tensor_spec State(const char* name, const char* shape, uint32_t flags, const char* allowed,
                                   const char* doc) {
  return Tensor(ATTUNE_STATE, name, shape, 1, kFloats, flags, "0", allowed, nullptr, "normal", doc);
}
constexpr attune_tensor_spec StateOut(const char* name, const char* shape, uint32_t flags, const char* when,
                                      const char* pair, const char* doc) {
  return Tensor(ATTUNE_STATE_OUT, name, shape, 1, kFloats, flags, when, when, pair, "zeros", doc);
}
// Unlike in forward, the compressed values are always made: they are state.
constexpr char kStepWeights[] = "(p.cmp_mode==weighted||p.cmp_mode==linear)&&(p.use_cmp||p.use_slc)";

constexpr attune_tensor_spec kStepTensors[] = {
    kQ,
    Input("k", "B,Hkv,Nn,D", 1, kFloats, "normal", "new keys"),
    Input("v", "B,Hkv,Nn,Dv", 1, kFloats, "normal", "new values"),
    kQCmp,
    Weight(kStepWeights, kLearned, "w_k_cmp", kWeightK, "weight(p.cmp_block)", "compresses the keys"),
    Weight(kStepWeights, kLearned, "w_v_cmp", kWeightV, "weight(p.cmp_block)", "compresses the values"),
    kPeK,
    kPeV,
    kGCmp,
    kGSlc,
    kGSwa,
    State("k_cache_state", "B,Hkv,Np,D", 0, nullptr, "keys of earlier calls, oldest first"),
    State("v_cache_state", "B,Hkv,Np,Dv", 0, nullptr, "values of earlier calls"),
    State("k_cmp_state", "B,Hkv,Ncp,D", ATTUNE_OR_F32, kStateAllowed, "compressed keys of the Np cached tokens"),
    State("v_cmp_state", "B,Hkv,Ncp,Dv", ATTUNE_OR_F32, kStateAllowed, "compressed values of the Np cached tokens"),
    Output("o", "B,Hq,Nq,Dv", 1, kFloats, 0, "sum of the gated branches"),
    kOCmp,
    kOSlc,
    kOSwa,
    kLseCmp,
    kLseSlc,
    kLseSwa,
    Indices("p.use_slc"),
    StateOut("k_cache_state_out", "B,Hkv,Nk,D", 0, nullptr, "k_cache_state", "cache followed by k"),
    StateOut("v_cache_state_out", "B,Hkv,Nk,Dv", 0, nullptr, "v_cache_state", "cache followed by v"),
    StateOut("k_cmp_state_out", "B,Hkv,Nc,D", ATTUNE_OR_F32, kStateAllowed, "k_cmp_state", "with the new entries"),
    StateOut("v_cmp_state_out", "B,Hkv,Nc,Dv", ATTUNE_OR_F32, kStateAllowed, "v_cmp_state", "with the new entries"),
};

#define ATTUNE_NSA_RULES(selecting)                                                                               \
  Rule(ATTUNE_E_PARAM, "p.use_cmp||p.use_slc||p.use_swa", "at least one of use_cmp, use_slc, use_swa"),           \
      Rule(ATTUNE_E_PARAM,                                                                                        \
           "!(p.use_cmp||" selecting ")||p.cmp_block%p.cmp_stride==0&&(!p.use_slc||p.sel_block%p.cmp_stride==0)", \
           "cmp_stride must divide cmp_block and sel_block"),                                                     \
      Rule(ATTUNE_E_PARAM, "!(" selecting ")||p.sel_block>=p.cmp_block", "sel_block must be at least cmp_block"), \
      Rule(ATTUNE_E_PARAM, "!(" selecting ")||p.top_n>=p.n_init+p.n_local",                                       \
           "top_n must be at least n_init + n_local"),                                                            \
      Rule(ATTUNE_E_SHAPE, "Hkv>=1&&Hq%Hkv==0", "Hq must be a multiple of Hkv"),                                  \
      Rule(ATTUNE_E_SHAPE, "D>=1&&Dv>=1", "D and Dv must be at least 1"),                                         \
      Rule(ATTUNE_E_SHAPE, "Nq<=Nk", "Nq may not exceed Nk")

// Of forward and of backward.
constexpr attune_rule kForwardRules[] = {
    ATTUNE_NSA_RULES("p.use_slc&&!has(block_indices)"),
    Rule(ATTUNE_E_SHAPE, "!has(k_cmp)||Nc>=(Nk>=p.cmp_block)*((Nk-p.cmp_block)/p.cmp_stride+1)",
         "k_cmp has fewer entries than complete windows"),
};
constexpr attune_rule kStepRules[] = {
    Rule(ATTUNE_E_UNSUPPORTED, "p.cmp_mode!=given", "step computes the compressed keys itself"),
    ATTUNE_NSA_RULES("p.use_slc"),
    Rule(ATTUNE_E_SHAPE, "Nn>=0&&Np>=0", "Nk may not be less than Np"),
    Rule(ATTUNE_E_INVALID, "has(k_cache_state)==has(v_cache_state)",
         "k_cache_state and v_cache_state come together or not at all"),
    Rule(ATTUNE_E_INVALID, "has(k_cmp_state)==has(v_cmp_state)",
         "k_cmp_state and v_cmp_state come together or not at all"),
    Rule(ATTUNE_E_INVALID, "Ncp==0||!p.use_cmp&&!p.use_slc||has(k_cache_state)==has(k_cmp_state)",
         "the caches of keys and of compressed keys come together"),
};
#undef ATTUNE_NSA_RULES

constexpr attune_tolerance kTolerances[] = {
    Tolerance(ATTUNE_F32, 1e-3, 2e-4),
    Tolerance(ATTUNE_BF16, 1.6e-2, 1e-2),
    Tolerance(ATTUNE_F16, 2e-3, 2e-3),
};

constexpr attune_preset kPresets[] = {
    Preset("paper", 0, "forward", "", "", "", "the parameters of the paper"),
    Preset("fla_old", 0, "forward", "cmp_block=64;cmp_stride=64;sel_block=64;n_init=0;n_local=1", "", "",
           "first fla release"),
    Preset("fla_new", 0, "forward", "cmp_block=64;cmp_stride=64;sel_block=64;n_init=1;n_local=2", "", "",
           "later fla releases"),
    Preset("demo", ATTUNE_DEMO, "forward", "top_n=4;window=64", "", "g_cmp; g_slc; g_swa",
           "default blocks, 4 of 8 blocks and a window of 64; gates uniform"),
    Preset("prefill", ATTUNE_BENCH, "forward", "", "B=1,Hq=16,Hkv=4,Nq=4096,Nk=4096,D=64,Dv=64", "g_cmp; g_slc; g_swa",
           "prompt of 4096 tokens, four query heads per key head"),
    Preset("long", ATTUNE_BENCH, "forward", "", "B=1,Hq=16,Hkv=1,Nq=16384,Nk=16384,D=128,Dv=128", "",
           "prompt of 16384 tokens, sixteen query heads on one key head"),
    Preset("selection", ATTUNE_BENCH, "forward", "use_cmp=false;use_swa=false",
           "B=1,Hq=16,Hkv=1,Nq=2048,Nk=2048,D=64,Dv=64", "block_indices", "selected blocks alone, given"),
    Preset("chunk", ATTUNE_BENCH, "forward", "", "B=1,Hq=16,Hkv=4,Nq=256,Nk=8192,D=64,Dv=64", "",
           "256 new tokens of 8192"),
    Preset("decode", ATTUNE_BENCH, "step", "", "B=1,Hq=16,Hkv=4,Nq=1,Nk=8193,D=128,Dv=128,Np=8192",
           "k_cache_state; v_cache_state; k_cmp_state; v_cmp_state", "one new token, caches kept by the operator"),
    Preset("backward", ATTUNE_BENCH, "backward", "", "B=1,Hq=16,Hkv=4,Nq=1024,Nk=1024,D=64,Dv=64", "dq; dk; dv",
           "gradients of q, k and v"),
};

}  // namespace tables
}  // namespace nsa
#endif  // ATTUNE_NSA_TABLES_H_
