"""The libraries, each as it is called by someone who wants it fast.

A contender is a function of (problem, threads) that prepares everything outside of the clock and
returns (run, output): run() computes, output() gives o as an array. run alone keeps alive what it
needs; run.enter, if there is one, makes a context manager to call it in. A contender raises
ImportError when the library is absent and Declined when the library does not take the problem.
"""

import numpy as np

import onnx_models
import openvino_models
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


def onnx_mha_folded(problem, threads):
    """The query heads of a group as rows of one head."""
    return onnx_models.multi_head_attention(problem.folded(), threads)


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
        "Attention-23": onnx_models.attention,
        "MultiHeadAttention": onnx_models.multi_head_attention,
        "MultiHeadAttention folded": onnx_mha_folded,
        "GroupQueryAttention": onnx_models.group_query_attention,
    },
    "OpenVINO": {
        "openvino": openvino_models.attention,
        "openvino cached": openvino_models.cached_attention,
    },
    "numpy": {"numpy": numpy},
}
