"""What a problem must give: the float64 oracle of that name if there is one, else REFERENCE."""

import importlib
import pathlib
import sys

import numpy as np

import problems
import runner
import storage

ORACLES = pathlib.Path(__file__).resolve().parent / "oracle"
sys.path.append(str(ORACLES))
INT64_MIN = -(2**63)


def oracle(problem):
    """{name: float64 array} of all that the oracle computes for this problem; {} where none fits."""
    op, name = problem.op, problem.entry
    entry = op["_entries"][name]
    if not (ORACLES / f"{op['id']}.py").exists() or _quantised(problem, entry):
        return {}
    function = getattr(importlib.import_module(op["id"]), name, None)
    if function is None or any(0 in problem.shape[n] for n in problem.inputs):
        return {}  # oracles are written for what is not empty
    params = {p["name"]: p["default"] for p in op["params"] if p["default"] != INT64_MIN}
    params.update(problem.params)
    inputs = {n: storage.decode(problem.memory[n], problem.word[n]) for n in problem.inputs}
    arguments = [inputs, params]
    if entry["of"] is not None:
        upstream = {
            t["name"]: t for t in entry["tensors"] if not t["_out"] and t["pair"] is not None
        }
        arguments[0] = {n: x for n, x in inputs.items() if n not in upstream}
        arguments.append({n: _gradient(n, t, inputs, problem) for n, t in upstream.items()})
    with np.errstate(all="ignore"):
        result = function(*arguments)
    return {n: np.asarray(x) for n, x in result.items() if x is not None}


def _quantised(problem, entry):
    return any(
        entry["_tensors"][n]["dtype_var"] and problem.word[n] in ("i8", "u8")
        for n in problem.inputs
    )


def _gradient(name, spec, inputs, problem):
    """An absent upstream gradient is zero."""
    if name in inputs:
        return inputs[name]
    env = problem.symbols
    if not problems.model.value(spec["_allowed"], env):
        return None
    return np.zeros(problems.model.made(spec, env))


def _rounded(problem, entry):
    """Does a 16-bit tensor bring what the oracle computes itself, exactly?"""
    return any(
        entry["_tensors"][n]["role"] == "saved" and problem.word[n] != "f32"
        for n in problem.inputs
    )


def expected(context, problem, reference):
    """({output: array} for every output of the problem, magnitude of the terms). The latter is what
    a gradient is made of even where it cancels to nothing: the largest of all gradients; else 0."""
    entry = problem.op["_entries"][problem.entry]
    known = oracle(problem)
    terms = max((np.abs(x).max(initial=0) for x in known.values()), default=0.0)
    want = {} if _rounded(problem, entry) else known
    if set(problem.outputs) - set(want):
        computed = runner.run(context, problem, reference)
        want = {n: want.get(n, computed[n]) for n in problem.outputs}
    return want, terms if entry["of"] is not None else 0.0
