"""What a problem must give: the float64 oracle of that name if there is one, else REFERENCE."""

import importlib
import pathlib
import sys

import numpy as np

import compare
import problems
import runner
import storage

ORACLES = pathlib.Path(__file__).resolve().parent / "oracle"
sys.path.append(str(ORACLES))
INT64_MIN = -(2**63)
TERMS = "terms of the gradients"


def expected(context, problem, reference):
    """{output: array} for every output of the problem; of an entry that differentiates also TERMS:
    the largest of all gradients, which is what one is made of even where it cancels to nothing, and
    where all of them do, a small part of the gradients that are sent."""
    entry = problem.op["_entries"][problem.entry]
    known = oracle(problem)
    want = {} if _rounded(problem, entry) else {n: known[n] for n in problem.outputs if n in known}
    if set(problem.outputs) - set(want):
        computed = runner.run(context, problem, reference)
        want = {n: want.get(n, computed[n]) for n in problem.outputs}
    if entry["of"] is not None:
        largest = lambda arrays: max((np.abs(x).max(initial=0.0) for x in arrays), default=0.0)
        pairs = {n: entry["_tensors"][n]["pair"] for n in problem.inputs}
        sent = [storage.decode(problem.memory[n], problem.word[n]) for n in pairs if pairs[n]]
        want[TERMS] = max(largest(known.values()), 0.005 * float(largest(sent)))
    return want


def _rounded(problem, entry):
    """Does a 16-bit tensor bring what the oracle computes itself, exactly?"""
    return any(
        entry["_tensors"][n]["role"] == "saved" and problem.word[n] != "f32"
        for n in problem.inputs
    )


def oracle(problem, shaken=None):
    """{name: float64 array} of all that the oracle computes; {} where none fits this problem.
    shaken: function that changes every float input, an array of float64."""
    op, name = problem.op, problem.entry
    entry = op["_entries"][name]
    if not (ORACLES / f"{op['id']}.py").exists() or _quantised(problem, entry):
        return {}
    function = _function(importlib.import_module(op["id"]), entry)
    if function is None or any(0 in problem.shape[n] for n in problem.inputs):
        return {}  # oracles are written for what is not empty
    params = {p["name"]: p["default"] for p in op["params"] if p["default"] != INT64_MIN}
    params.update(problem.params)
    inputs = {n: storage.decode(problem.memory[n], problem.word[n]) for n in problem.inputs}
    if shaken is not None:
        inputs = {
            n: shaken(x.astype(np.float64)) if x.dtype.kind == "f" else x for n, x in inputs.items()
        }
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


def _function(module, entry):
    """A step without a function of its own is the forward with states."""
    own = getattr(module, entry["name"], None)
    return module.forward if own is None and entry["kind"] == "step" else own


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


def unsettled(problem, rules, shakes=6):
    """{output: mask} of the elements that a right kernel may give another value: where the oracle
    itself jumps when its inputs move by a few float32 roundings, because a selection flips.
    rules: {output: limits of compare.mismatches}."""
    want = oracle(problem)
    masks = {n: np.zeros(want[n].shape, bool) for n in problem.outputs if n in want}
    rng = np.random.default_rng(0)
    for _ in range(shakes if masks else 0):
        moved = oracle(problem, lambda x: x * (1 + rng.uniform(-1, 1, x.shape) * 2**-21))
        for n, mask in masks.items():
            mask |= compare.mismatches(moved[n], want[n], *(limit / 2 for limit in rules[n]))
    return masks
