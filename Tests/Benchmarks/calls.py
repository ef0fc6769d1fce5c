"""Calls of any operator at sizes given by name, with tensors made from the descriptor alone."""

import contextlib
import functools
import pathlib
import sys

import numpy as np

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "Tests" / "Conformance"))
import problems  # noqa: E402
import storage  # noqa: E402
import values  # noqa: E402
from problems import model  # noqa: E402

import attune  # noqa: E402

SMALL = 512  # tokens that are drawn; longer tensors repeat them


@functools.cache
def descriptor(context, op):
    """The operator with everything parsed."""
    return problems.prepared(context.describe(op))


def sizes_text(sizes):
    return ",".join(f"{name}={size}" for name, size in sizes.items())


def drawn(op, entry, params, sizes, tensors):
    """The problem of these sizes with every input filled by its generator, f32 where that is
    allowed. Raises model.Refused."""
    preset = {"entry": entry, "params": params, "shape": sizes_text(sizes), "tensors": tensors}
    bound = model.generate(op, preset | {"name": entry})
    specs = op["_entries"][entry]["_tensors"]
    outputs = [n for n in bound.shape if specs[n]["_out"]]
    word = {n: _word(specs[n]) for n in bound.shape}
    given = model_params(op, params)
    problem = problems.Problem(op, entry, given, bound.shape, word, outputs, bound)
    return values.fill(problem, np.random.default_rng(0))


def _word(spec):
    return "f32" if "f32" in spec["dtypes"] or "or_f32" in spec["flags"] else spec["dtypes"][0]


def model_params(op, text):
    """"a=true;b=2" as {name: value}."""
    read = {"bool": lambda v: v == "true", "i64": int, "f64": float, "enum": str}
    pairs = (item.split("=") for item in filter(None, text.split(";")))
    return {name: read[op["_params"][name]["kind"]](value) for name, value in pairs}


class Call:
    """A plan of an entry with all of its tensors in memory, the outputs touched.

    sizes    {symbol: size}; tokens are Nq, Nk
    tensors  optional ones that take part, as a preset lists them: "slopes; kv_state"
    memory   arrays that are used instead of made ones
    """

    def __init__(self, context, op, entry, params, sizes, tensors="", memory=(), kernel=None):
        described = descriptor(context, op)
        few = {n: min(s, SMALL) if n.startswith("N") else s for n, s in sizes.items()}
        if "Np" in few:  # as many new tokens behind the earlier ones
            few["Np"] = few["Nk"] - (sizes["Nk"] - sizes["Np"])
        pattern = drawn(described, entry, params, few, tensors)
        preset = {"name": entry, "entry": entry, "params": params, "tensors": tensors}
        bound = model.generate(described, preset | {"shape": sizes_text(sizes)})
        self.flops, self.params, given = bound.cost["flops"], pattern.params, dict(memory)
        self.inputs, self.outputs = {}, {}
        for name, shape in bound.shape.items():
            if name in pattern.outputs:
                made = given.get(name)
                self.outputs[name] = _touched(shape, pattern.word[name]) if made is None else made
            else:
                made = given.get(name)
                self.inputs[name] = _repeated(pattern.memory[name], shape) if made is None else made
        wanted = list(self.outputs)
        self.plan = context.plan(
            op, entry=entry, kernel=kernel, outputs=wanted, **self.inputs, **self.params
        )
        self.info = self.plan.info

    def __call__(self):
        self.plan.execute(**self.inputs, out=self.outputs)


def _touched(shape, word):
    out = storage.empty(shape, word)
    out[...] = 0
    return out


def _repeated(small, shape):
    """The values of `small` one after the other until `shape` is full."""
    if small.shape == tuple(shape):
        return np.ascontiguousarray(small)
    big = np.empty(shape, small.dtype)
    flat, source = big.reshape(-1), np.ascontiguousarray(small).reshape(-1)
    for begin in range(0, flat.size, source.size):
        part = flat[begin : begin + source.size]
        part[...] = source[: part.size]
    return big


def roomy_states(context, op, params, sizes, tensors):
    """{state or state output: array} in which every state that grows with the tokens lies at the
    beginning of its successor, so that a step writes in place."""
    described = descriptor(context, op)
    entry = "step"
    preset = {"name": entry, "entry": entry, "params": params, "tensors": tensors}
    bound = model.generate(described, preset | {"shape": sizes_text(sizes)})
    specs, memory = described["_entries"][entry]["_tensors"], {}
    for name, shape in bound.shape.items():
        state = specs[name]["pair"]
        if specs[name]["role"] != "state_out" or state not in bound.shape:
            continue
        few, kind = [min(n, SMALL) for n in shape], storage.empty((), _word(specs[name])).dtype
        room = _repeated(np.random.default_rng(1).standard_normal(few).astype(kind), shape)
        memory[name] = room
        memory[state] = room[tuple(slice(n) for n in bound.shape[state])]
    return memory


@contextlib.contextmanager
def reported(what):
    """Says which measurement a refusal belongs to."""
    try:
        yield
    except (attune.Error, model.Refused) as why:
        raise SystemExit(f"{what}: {why}") from why
