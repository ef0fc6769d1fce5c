"""The libraries, each as it is called by someone who wants it fast.

A contender is a function of (problem, threads) that prepares everything outside of the clock and
returns (run, output): run() computes, output() gives o as an array. run alone keeps alive what it
needs; run.enter, if there is one, makes a context manager to call it in. A contender raises
ImportError when the library is absent and Declined when the library does not take the problem.
"""

import numpy as np

import onnx_models
from problems import Declined


def attune(problem, threads):
    """A plan, outputs preallocated; the Python call is in the time."""
    import attune as library

    context = library.Context(threads=threads, wisdom="")
    q, k, v = problem.tensors
    plan = context.plan(problem.op, q=q, k=k, v=v, causal=problem.causal)
    out = {"o": np.empty_like(q)}
    run = lambda: plan.execute(q=q, k=k, v=v, out=out)
    run.note = " ".join(filter(None, (plan.info["kernel"], plan.info["knobs"])))
    return run, lambda: out["o"]


def torch(problem, threads):
    """The backend that PyTorch chooses itself: its flash kernel where that takes the problem."""
    return _torch(problem, threads, None)


def torch_unfused(problem, threads):
    """The same call without the flash kernel."""
    return _torch(problem, threads, "MATH")


def torch_folded(problem, threads):
    """The query heads of a group as rows of one head."""
    return _torch(problem.folded(), threads, None)


def _torch(problem, threads, backend):
    import contextlib

    import torch as library
    from torch.nn.attention import SDPBackend, sdpa_kernel

    library.set_num_threads(threads)
    as_torch = lambda x: (
        library.from_numpy(x.view(np.int16)).view(library.bfloat16)
        if problem.dtype == "bf16"
        else library.from_numpy(x)
    )
    q, k, v = map(as_torch, problem.tensors)
    options = {"is_causal": problem.causal, "enable_gqa": problem.Hq != problem.Hkv}
    attention = library.nn.functional.scaled_dot_product_attention
    last = []

    def run():
        last[:] = [attention(q, k, v, **options)]

    # Both modes are states of the thread: entered once, so that they cost nothing per call.
    def enter():
        modes = contextlib.ExitStack()
        modes.enter_context(library.inference_mode())
        if backend:
            modes.enter_context(sdpa_kernel(getattr(SDPBackend, backend)))
        return modes

    run.enter = enter
    return run, lambda: last[0].float().numpy()


def onnx_attention(problem, threads):
    """ONNX's own operator, Attention of opset 23."""
    return onnx_models.attention(problem, threads)


def onnx_mha(problem, threads):
    """ONNX Runtime's MultiHeadAttention, in its own layout."""
    return onnx_models.multi_head_attention(problem, threads)


def onnx_gqa(problem, threads):
    """ONNX Runtime's GroupQueryAttention: causal, with its cache."""
    return onnx_models.group_query_attention(problem, threads)


def onnx_mha_folded(problem, threads):
    """The query heads of a group as rows of one head."""
    return onnx_models.multi_head_attention(problem.folded(), threads)


def openvino(problem, threads):
    """ScaledDotProductAttention in a compiled model, which repeats a group's keys as exported models
    do."""
    import openvino as library
    from openvino import opset13 as ops

    type = getattr(library.Type, problem.dtype)
    q, k, v = inputs = [ops.parameter(list(x.shape), type) for x in problem.tensors]
    group = problem.Hq // problem.Hkv

    def repeat(x):  # [B,Hkv,N,D] -> [B,Hq,N,D]
        if group == 1:
            return x
        shape = [problem.B, problem.Hkv, group, problem.Nk, problem.D]
        wide = ops.broadcast(ops.unsqueeze(x, np.int64(2)), np.array(shape, np.int64))
        flat = np.array([problem.B, problem.Hq, problem.Nk, problem.D], np.int64)
        return ops.reshape(wide, flat, special_zero=False)

    result = ops.scaled_dot_product_attention(q, repeat(k), repeat(v), causal=problem.causal)
    options = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": threads,
        "ENABLE_CPU_PINNING": False,
        # Else f32 models are computed in bf16 where the CPU is fast at that.
        "INFERENCE_PRECISION_HINT": problem.dtype,
    }
    model = library.Core().compile_model(library.Model([result], inputs), "CPU", options)
    request = model.create_infer_request()
    share = lambda x: library.Tensor(x.view(np.uint8), list(x.shape), type)
    out = np.empty_like(problem.tensors[0])
    for i, x in enumerate(problem.tensors):
        request.set_input_tensor(i, share(x))
    request.set_output_tensor(share(out))
    run = lambda: request.infer()
    run.memory = problem.tensors, out  # tensors of OpenVINO do not own theirs
    return run, lambda: out


def openvino_folded(problem, threads):
    """The query heads of a group as rows of one head."""
    return openvino(problem.folded(), threads)


def numpy(problem, threads):
    """The floor: two matrix products around a softmax, as written on a blackboard."""
    from threadpoolctl import threadpool_limits

    if problem.dtype == "bf16":
        raise Declined("numpy multiplies no bf16 matrices")
    q, k, v = problem.tensors
    q = q.reshape(problem.B, problem.Hkv, -1, problem.D)
    k = k.swapaxes(2, 3)
    hidden = np.triu(np.ones((problem.Nq, problem.Nk), bool), 1) if problem.causal else None
    scale = np.float32(problem.D**-0.5)
    last = []

    def run():
        s = q @ k
        s *= scale
        if hidden is not None:
            s.reshape(problem.B, problem.Hq, problem.Nq, -1)[..., hidden] = -np.inf
        s -= s.max(-1, keepdims=True)
        np.exp(s, s)
        s /= s.sum(-1, keepdims=True)
        last[:] = [s @ v]

    run.enter = lambda: threadpool_limits(threads, "blas")
    return run, lambda: last[0]


# Column of the table -> its contenders: of several, the fastest stands in the table.
COLUMNS = {
    "Attune": {"attune": attune},
    "PyTorch": {"torch": torch, "torch unfused": torch_unfused, "torch folded": torch_folded},
    "ONNX Runtime": {
        "Attention-23": onnx_attention,
        "MultiHeadAttention": onnx_mha,
        "MultiHeadAttention folded": onnx_mha_folded,
        "GroupQueryAttention": onnx_gqa,
    },
    "OpenVINO": {"openvino": openvino, "openvino folded": openvino_folded},
    "numpy": {"numpy": numpy},
}
