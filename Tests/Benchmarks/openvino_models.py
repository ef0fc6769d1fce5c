"""Models for OpenVINO. Contenders by the rules of contenders.py."""

import numpy as np

from problems import Declined


def _compile(model, problem, threads):
    import openvino

    options = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": threads,
        "ENABLE_CPU_PINNING": False,
        # Else f32 is computed in bf16 where the CPU is fast at that, and a cache is kept in 8 bits.
        "INFERENCE_PRECISION_HINT": problem.dtype,
        "KV_CACHE_PRECISION": problem.dtype,
    }
    return openvino.Core().compile_model(model, "CPU", options).create_infer_request()


def _share(x, type):
    """A tensor in the array's memory, which has to outlive it. numpy knows bf16 by extension only."""
    import openvino

    return openvino.Tensor(x.view(np.uint8), list(x.shape), type)


def _repeat(problem, x, type):
    """[B,Hkv,N,D] -> [B,Hq,N,D] in the one form that OpenVINO recognises as grouped heads."""
    import openvino
    from openvino import opset13 as ops

    group = problem.Hq // problem.Hkv
    if group == 1:
        return x
    ones = openvino.op.Constant(type, openvino.Shape([1, 1, group, 1, 1]), [1.0] * group)
    wide = ops.multiply(ops.unsqueeze(x, np.int64(2)), ones)
    shape = np.array([0, problem.Hq, -1, problem.D], np.int64)
    return ops.reshape(wide, shape, special_zero=True)


def attention(problem, threads):
    """ScaledDotProductAttention on given keys and values."""
    import openvino
    from openvino import opset13 as ops

    type = getattr(openvino.Type, problem.dtype)
    q, k, v = inputs = [ops.parameter(list(x.shape), type) for x in problem.tensors]
    wide = (_repeat(problem, x, type) for x in (k, v))
    result = ops.scaled_dot_product_attention(q, *wide, causal=problem.causal)
    request = _compile(openvino.Model([result], inputs), problem, threads)
    for i, x in enumerate(problem.tensors):
        request.set_input_tensor(i, _share(x, type))
    out = np.empty_like(problem.tensors[0])
    request.set_output_tensor(_share(out, type))
    run = lambda: request.infer()
    run.memory = problem.tensors, out
    return run, lambda: out


def cached_attention(problem, threads):
    """Decode with OpenVINO's own cache: all keys but the last are its state, the last one comes with
    the call. The state grows by a key per call and is set back between turns."""
    if not problem.is_decode:
        raise Declined("the cache is for decoding")
    import contextlib

    import openvino
    from openvino import opset13 as ops
    from openvino.op.util import Variable, VariableInfo

    type = getattr(openvino.Type, problem.dtype)
    shape = [-1, problem.Hkv, -1, problem.D]
    q = ops.parameter([-1, problem.Hq, -1, problem.D], type)
    k, v = (ops.parameter(shape, type) for _ in range(2))
    beam = ops.parameter([-1], openvino.Type.i32)  # part of the form that is recognised
    assigns = []

    def cache(x, name):
        info = VariableInfo()
        info.data_shape, info.data_type = openvino.PartialShape(shape), type
        info.variable_id = name
        variable = Variable(info)
        batch = ops.gather(ops.shape_of(x), np.array([0], np.int64), np.int64(0))
        empty = ops.concat([batch, np.array([problem.Hkv, 0, problem.D], np.int64)], 0)
        zero = openvino.op.Constant(type, openvino.Shape([]), [0.0])
        past = ops.read_value(ops.broadcast(zero, empty), variable)
        full = ops.concat([ops.gather(past, beam, np.int64(0)), x], -2)
        assigns.append(ops.assign(full, variable))
        return _repeat(problem, full, type)

    result = ops.scaled_dot_product_attention(q, cache(k, "k"), cache(v, "v"), causal=False)
    model = openvino.Model([ops.result(result)], assigns, [q, k, v, beam], "decode")
    request = _compile(model, problem, threads)
    tensors = problem.tensors
    kept = {n: np.ascontiguousarray(x[:, :, :-1]) for n, x in zip("kv", tensors[1:])}
    given = [tensors[0], *(np.ascontiguousarray(x[:, :, -1:]) for x in tensors[1:])]
    for i, x in enumerate(given):
        request.set_input_tensor(i, _share(x, type))
    request.set_input_tensor(3, openvino.Tensor(np.arange(problem.B, dtype=np.int32)))
    out = np.empty_like(tensors[0])
    request.set_output_tensor(_share(out, type))

    def set_back():
        for state in request.query_state():
            state.state = _share(kept[state.name], type)
        return contextlib.nullcontext()

    def output():
        set_back()
        request.infer()
        return out

    run = lambda: request.infer()
    run.memory, run.enter = (kept, given, out), set_back
    return run, output
