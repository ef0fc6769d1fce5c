"""Whether the outputs of a problem are right."""

import numpy as np

import compare
import witness

EXACT = {"f64", "i32", "i64", "u8", "bool", "i8"}  # no tolerance is stated for them
SMALLEST = {"f16": 2.0**-24}  # what lies between two numbers near 0, where it can be seen
LARGEST = {"f32": 3.4028234e38, "bf16": 3.3895313e38, "f16": 65504.0}  # what is larger is infinite
ROUNDINGS = 2e-6  # a few of float32, of the terms that a gradient sums


def check(lab, problem, got, want, note):
    """Compares all outputs, want as of Lab.expected. Returns (elements, those left out because a
    selection hangs on the rounding there)."""
    terms = want[witness.TERMS] if witness.TERMS in want else 0.0
    floor = {n: ROUNDINGS * terms + SMALLEST.get(problem.word[n], 0.0) for n in problem.outputs}
    rules = {n: (*tolerance(lab, problem, n), floor[n]) for n in problem.outputs}
    want = {n: held(want[n], problem.word[n]) for n in problem.outputs}
    for n in problem.outputs:
        assert got[n].shape == want[n].shape, f"{n} is {got[n].shape}, not {want[n].shape}\n{note}"
    wrong = {n: compare.mismatches(got[n], want[n], *rules[n]) for n in problem.outputs}
    left_out = 0
    if any(mask.any() for mask in wrong.values()):
        for n, mask in witness.unsettled(problem, rules).items():
            left_out += int((wrong[n] & mask).sum())
            wrong[n] &= ~mask
    for n, mask in wrong.items():
        if mask.any():
            text = compare.difference(np.where(mask, got[n], want[n]), want[n], *rules[n])
            raise AssertionError(f"{n} {text}\n{note}\n{problem}")
    return sum(want[n].size for n in problem.outputs), left_out


def held(x, word):
    """The values as far as the storage type reaches."""
    if word not in LARGEST:
        return x
    return np.where(np.abs(x) > LARGEST[word], np.copysign(np.inf, x), x)


def tolerance(lab, problem, output):
    """(rtol, atol) for the storage type: of dtype_var 1, or of the output where that is looser."""
    specs = problem.op["_entries"][problem.entry]["_tensors"]
    stored = [
        problem.word[n]
        for n in problem.shape
        if specs[n]["dtype_var"] == 1 and "or_f32" not in specs[n]["flags"]
    ]
    words = {*stored[:1], problem.word[output]} - EXACT
    limits = [compare.tolerance(lab.operators[problem.op["id"]], word) for word in words]
    return max(limits, default=(0.0, 0.0))
