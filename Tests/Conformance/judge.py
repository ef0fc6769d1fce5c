"""Whether the outputs of a problem are right."""

import numpy as np

import compare
import storage
import witness


def check(lab, problem, got, want, note):
    """Compares all outputs by the operator's tolerance for the storage type. Returns (elements,
    those left out because a selection hangs on the rounding there)."""
    rtol, atol = compare.tolerance(lab.operators[problem.op["id"]], stored(problem))
    rule = rtol, atol, _floor(problem)
    for n in problem.outputs:
        assert got[n].shape == want[n].shape, f"{n} is {got[n].shape}, not {want[n].shape}\n{note}"
    wrong = {n: compare.mismatches(got[n], want[n], *rule) for n in problem.outputs}
    left_out = 0
    if any(mask.any() for mask in wrong.values()):
        for n, mask in witness.unsettled(problem, rtol, atol).items():
            left_out += int((wrong[n] & mask).sum())
            wrong[n] &= ~mask
    for n, mask in wrong.items():
        if mask.any():
            settled = np.where(mask, got[n], want[n])
            text = compare.difference(settled, want[n], *rule)
            raise AssertionError(f"{n} {text}\n{note}\n{problem}")
    return sum(want[n].size for n in problem.outputs), left_out


def stored(problem):
    """The storage type that the tolerance is chosen by: the coarsest one of dtype_var 1 or of an
    output."""
    specs = problem.op["_entries"][problem.entry]["_tensors"]
    words = {problem.word[n] for n in problem.outputs} | {
        problem.word[n]
        for n in problem.shape
        if specs[n]["dtype_var"] == 1 and "or_f32" not in specs[n]["flags"]
    }
    return next((word for word in ("bf16", "f16") if word in words), "f32")


def _floor(problem):
    """Least max|want| of a gradient: it is a sum of terms as large as the upstream gradient, which
    may cancel to nothing, so its error is counted in tenths of such a term."""
    entry = problem.op["_entries"][problem.entry]
    if entry["of"] is None:
        return 0.0
    sent = [n for n in problem.inputs if entry["_tensors"][n]["pair"] is not None]
    decoded = [storage.decode(problem.memory[n], problem.word[n]) for n in sent]
    return 0.1 * max((float(np.abs(x).max(initial=0.0)) for x in decoded), default=0.0)
