"""Checks of what a kernel computes. Each returns the number of problems that the kernel took.

share: how many problems a kernel has to take in the main check; the others do a part of it.
"""

import numpy as np

import judge
import layouts
import runner
from lab import NotApplicable

LEFT_OUT = 1e-3  # share of the elements that may be left out as unsettled


def witness(lab, subject, share):
    """Odd sizes, neighbours of tiles, groups of heads, strides, unaligned rows, storage types, all
    options, every value of every knob."""
    ran = elements = left_out = 0
    for trial, name, got in lab.taken(subject, share):
        note = f"kernel {name}, {trial.note}"
        counted = judge.check(lab, trial.problem, got, lab.want(trial), note)
        ran, elements, left_out = ran + 1, elements + counted[0], left_out + counted[1]
    assert ran == share, f"{subject} took only {ran} problems of {share}"
    assert left_out <= LEFT_OUT * elements, f"{left_out} of {elements} elements hang on rounding"
    return ran


def any_layout(lab, subject, share):
    """The same values in every layout."""
    ran = 0
    for trial, name, _ in lab.taken(subject, max(2, share // 8)):
        plain = lab.run(trial.problem, name)
        for layout in layouts.LAYOUTS[1:-1]:
            got = lab.run(trial.problem, name, layout)
            note = f"kernel {name}, {trial.note}, but layout {layout}"
            judge.check(lab, trial.problem, got, plain, note)
            ran += 1
    return ran


def same_bits(lab, subject, share):
    """The same bits, however the tasks are spread."""
    if "invariant" not in lab.kernel(subject)["flags"]:
        raise NotApplicable("the kernel does not promise it")
    ran = 0
    for trial, name, got in lab.taken(subject, max(6, share // 3)):
        for spread, context in lab.spreads.items():
            again = runner.run(context, trial.problem, name, trial.layout)
            for n in trial.problem.outputs:
                note = f"{n} differs with {spread}, kernel {name}, {trial.note}\n{trial.problem}"
                assert again[n].tobytes() == got[n].tobytes(), note
        ran += 1
    return ran


def huge_scores(lab, subject, share):
    """Scores of a hundred and more, exact in float32: exp of them overflows, ties share.

    Not thousands: there one rounding of a score is already worth the whole tolerance."""
    specs = lab.entry(subject)["_tensors"]
    if "scale" not in lab.prepared[subject.op]["_params"] or not {"q", "k", "v"} <= set(specs):
        raise NotApplicable("no scores to scale")
    params = lab.needed(subject) | {"scale": 0.25}
    how = {"plain": True, "params": params, "sizes": {"D": 64}, "exact": True}
    trials = lab.drawn(subject, "huge scores", **how)
    ran = 0
    for trial, name, got in lab.taken(subject, max(3, share // 6), trials):
        note = f"kernel {name}, {trial.note}"
        judge.check(lab, trial.problem, got, lab.want(trial), note)
        ran += 1
    return ran


CHECKS = (witness, any_layout, same_bits, huge_scores)
