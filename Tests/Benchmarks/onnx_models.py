"""One-node models for ONNX Runtime. Contenders by the rules of contenders.py."""

import numpy as np

from problems import Declined

# The package onnx knows later formats than ONNX Runtime may: the one that opset 23 came with.
IR_VERSION = 11
CONTRIB = "com.microsoft"


class _Model:
    """A session of one node, bound to given inputs and outputs; None is an input left out."""

    def __init__(self, problem, threads, operator, inputs, outputs, domain="", **attributes):
        import onnxruntime
        from onnx import TensorProto, helper

        if problem.dtype == "bf16":
            raise Declined("ONNX Runtime has no bf16 attention for CPUs")
        types = {
            np.dtype(np.float32): TensorProto.FLOAT,
            np.dtype(np.float16): TensorProto.FLOAT16,
            np.dtype(np.int32): TensorProto.INT32,
        }
        describe = lambda arrays: [
            helper.make_tensor_value_info(name, types[x.dtype], x.shape)
            for name, x in arrays.items()
        ]
        names = ["" if x is None else name for name, x in inputs.items()]
        inputs = {name: x for name, x in inputs.items() if x is not None}
        node = helper.make_node(operator, names, [*outputs], domain=domain, **attributes)
        graph = helper.make_graph([node], operator, describe(inputs), describe(outputs))
        opsets = [helper.make_opsetid("", 23), helper.make_opsetid(CONTRIB, 1)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        self.session = onnxruntime.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        self.arrays = inputs, outputs  # the bound values do not own their memory
        self.binding = self.session.io_binding()
        # One value for an array that is both input and output: that is how a cache is shared.
        bound = {}

        def value(x):
            at = x.__array_interface__["data"][0]
            if at not in bound:
                bound[at] = onnxruntime.OrtValue.ortvalue_from_numpy(x)
            return bound[at]

        for name, x in inputs.items():
            self.binding.bind_ortvalue_input(name, value(x))
        for name, x in outputs.items():
            self.binding.bind_ortvalue_output(name, value(x))

    def __call__(self):
        self.session.run_with_iobinding(self.binding)


def _tokens_first(x):
    """[B,H,N,D] -> [B,N,H*D], the layout of the contrib operators."""
    b, h, n, d = x.shape
    return np.ascontiguousarray(x.swapaxes(1, 2)).reshape(b, n, h * d)


def _heads_first(problem, x):
    return x.reshape(problem.B, problem.Nq, problem.Hq, problem.D).swapaxes(1, 2)


def attention(problem, threads):
    """ONNX's own operator, Attention of opset 23."""
    q, k, v = problem.tensors
    o = np.empty_like(q)
    run = _Model(
        problem, threads, "Attention", {"q": q, "k": k, "v": v}, {"o": o}, is_causal=int(problem.causal)
    )  # fmt: skip
    return run, lambda: o


def multi_head_attention(problem, threads):
    """A contrib operator, in its own layout."""
    if problem.Hq != problem.Hkv:
        raise Declined("MultiHeadAttention has one key head per query head")
    q, k, v = map(_tokens_first, problem.tensors)
    o = np.empty_like(q)
    run = _Model(
        problem, threads, "MultiHeadAttention", {"q": q, "k": k, "v": v}, {"o": o}, CONTRIB,
        num_heads=problem.Hq, unidirectional=int(problem.causal),
    )  # fmt: skip
    return run, lambda: _heads_first(problem, o)


def group_query_attention(problem, threads):
    """A contrib operator, causal. Prefill: an empty cache, which it fills. Decode: all keys but the
    last are in the cache, the last one comes with the call; the cache is shared, so nothing moves."""
    if not (problem.causal or problem.is_decode):
        raise Declined("GroupQueryAttention is causal")
    q, k, v = problem.tensors
    cache_k, cache_v = k.copy(), v.copy()  # the call writes them
    inputs = {
        "q": _tokens_first(q),
        "k": _tokens_first(k[:, :, -problem.Nq :]),
        "v": _tokens_first(v[:, :, -problem.Nq :]),
        "past_k": cache_k if problem.is_decode else None,
        "past_v": cache_v if problem.is_decode else None,
        "last_key": np.full(problem.B, problem.Nk - 1, np.int32),
        "keys": np.array(problem.Nk, np.int32),
    }
    o = np.empty_like(inputs["q"])
    outputs = {"o": o, "present_k": cache_k, "present_v": cache_v}
    run = _Model(
        problem, threads, "GroupQueryAttention", inputs, outputs, CONTRIB,
        num_heads=problem.Hq, kv_num_heads=problem.Hkv,
    )  # fmt: skip
    return run, lambda: _heads_first(problem, o)
