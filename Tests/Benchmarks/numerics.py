#!/usr/bin/env python3
"""Measures how far every usable kernel is from float64, and how much of its tolerance that takes.

Walks the registry: seeded random problems of every entry, in every storage type it takes, through
every kernel. The truth is the float64 oracle of Tests/Conformance where there is one; else the
entry's REFERENCE kernel. Inputs are rounded to the storage type first, so that only the kernel's
own error is seen. Prints a Markdown table; --write FILE puts it between that file's two markers.
"""

import argparse
import itertools
import pathlib
import sys

import numpy as np

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "build" / "python"), str(ROOT / "Tests" / "Conformance")]
import compare  # noqa: E402
import runner  # noqa: E402
import witness  # noqa: E402
from lab import Lab, NotApplicable  # noqa: E402

BEGIN, END = "<!-- numerics: begin -->", "<!-- numerics: end -->"
TYPES = ("f32", "bf16", "f16")
FLOOR = 2e-6  # of gradients that cancel: a few roundings of their largest term


class Worst:
    """The largest error seen, as a share of the largest value and of the tolerance."""

    def __init__(self):
        self.relative = self.used = 0.0

    def add(self, got, want, rtol, atol, terms):
        finite = np.isfinite(want)
        if not finite.any():
            return
        got, want = got[finite].astype(np.float64), want[finite].astype(np.float64)
        error, top = np.abs(got - want), np.abs(want).max()
        limit = atol * top + rtol * np.abs(want) + FLOOR * terms
        self.relative = max(self.relative, float(error.max() / max(top, terms, 1e-300)))
        self.used = max(self.used, float((error / np.maximum(limit, 1e-300)).max()))


def measure(rounds):
    """{(op, entry, kernel): {type of the output: Worst}} of all that this machine can run."""
    found, wanted = {}, {}
    lab = Lab()
    for subject in lab.subjects():
        worst = found.setdefault(subject[:3], {})
        for word in TYPES:
            try:
                trials = lab.drawn(subject, f"numerics {word}", words=(word,))
            except NotApplicable:
                continue
            for problem, _, note in itertools.islice(trials, rounds):
                key = (*subject[:2], word, note)
                if key not in wanted:
                    reference = lab.reference(subject.op, subject.entry)
                    wanted[key] = witness.expected(lab.two, problem, reference)
                run(lab, problem, subject, wanted[key], worst)
    return found


def run(lab, problem, subject, want, worst):
    try:
        got = runner.run(lab.two, problem, subject.kernel)
    except runner.Declined:
        return
    terms = want.get(witness.TERMS, 0.0)
    for name in problem.outputs:
        word = problem.word[name]
        if word in TYPES:
            rtol, atol = compare.tolerance(lab.operators[subject.op], loosest(problem, word))
            mine = worst.setdefault(word, Worst())
            mine.add(got[name], np.asarray(want[name]), rtol, atol, terms)


def loosest(problem, word):
    """The type whose tolerance counts: that of the operator's storage type, or of the output."""
    specs = problem.op["_entries"][problem.entry]["_tensors"]
    stored = [problem.word[n] for n in problem.shape if specs[n]["dtype_var"] == 1]
    return max({word, *stored[:1]} & set(TYPES), key=("f32", "f16", "bf16").index)


def table(found):
    lines = [
        "| operator | entry | kernel | f32 | bf16 | f16 | most of its tolerance |",
        "|---|---|---|---|---|---|---|",
    ]
    for names, worst in found.items():
        cells = [f"{worst[w].relative:.1e}" if w in worst else "" for w in TYPES]
        used = max((w.used for w in worst.values()), default=0.0)
        if worst:
            lines.append(f"| {' | '.join([*names, *cells])} | {100 * used:.0f} % |")
    return "\n".join(lines) + "\n"


def put(path, text):
    """Replaces what stands between the two markers of a file."""
    page = path.read_text()
    head, _, rest = page.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not end:
        sys.exit(f"{path} has no lines {BEGIN} and {END}")
    path.write_text(f"{head}{BEGIN}\n{text}{END}{tail}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--rounds", type=int, default=24, help="problems per entry and type")
    parser.add_argument("--write", type=pathlib.Path, help="a page with the two markers")
    options = parser.parse_args()
    found = measure(options.rounds)
    text = table(found)
    print(text, end="")
    if options.write:
        put(options.write, text)
    return int(any(w.used > 1 for kernel in found.values() for w in kernel.values()))


if __name__ == "__main__":
    sys.exit(main())
