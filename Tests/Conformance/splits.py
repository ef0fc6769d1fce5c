"""Any split of the tokens over several steps gives the rows and states of one. Like checks.py."""

import numpy as np

import judge
import layouts
import problems
import runner
import storage
from lab import NotApplicable

WORDS = ("f32", "bf16", "f16")


def any_split(lab, subject, share):
    """Steps into fresh memory, and in place in states that have the strides of their capacity."""
    entry = lab.entry(subject)
    if entry["kind"] != "step":
        raise NotApplicable("the entry keeps no state")
    states = tuple(n for n, t in entry["_tensors"].items() if t["role"] == "state_out")
    ran, knobs = 0, lab.forced(subject)
    for seed in range(max(4, share // 4)):
        rng = np.random.default_rng([seed, 17])
        n = int(rng.choice((1, 2, 5, 33, 70, 130)))
        whole = _whole(lab, subject, seed, n, states)
        kernel, parts = next(knobs), cuts(rng, n)
        place = Fresh() if seed % 2 else InPlace()
        try:
            got = chain(lab, whole, kernel, parts, place)
        except runner.Declined as why:
            reason = why
            continue
        note = f"kernel {kernel}, {place}, seed {seed}, tokens {parts}"
        judge.check(lab, whole, got, lab.expected(whole), note)
        ran += 1
    if not ran:
        raise NotApplicable(f"{subject} took none of the problems; last reason: {reason}")
    return ran


def _whole(lab, subject, seed, n, states):
    """A problem of n tokens and no earlier ones that asks for all states."""
    symbols = lab.entry(subject)["_symbols"]
    tokens = {s: n for s in ("N", "Nq", "Nk", "Nn") if s in symbols}
    sizes = tokens | ({"Np": 0} if "Np" in symbols else {})
    how = {"plain": True, "params": lab.needed(subject), "sizes": sizes, "tensors": states}
    word = WORDS[seed % 3]
    return next(lab.drawn(subject, f"tokens to split, {word} {seed}", (word,), **how)).problem


def cuts(rng, n):
    """[(begin, end)] over n tokens: single tokens, an empty piece, pieces of any size."""
    ends = sorted(rng.integers(0, n + 1, rng.integers(1, 6)).tolist() + [min(1, n), n])
    return list(zip([0, *ends[:-1]], ends))


class Fresh:
    """Every step writes its states to new memory."""

    def __str__(self):
        return "fresh states"

    def begin(self, whole):
        """Called with the problem of all tokens."""

    def states(self, part):
        """{output: array} for the state outputs of a step."""
        return {n: storage.empty(part.shape[n], part.word[n]) for n in state_outputs(part)}


class InPlace(Fresh):
    """States grow in a room of their final size, full of NaN behind what is valid."""

    def __str__(self):
        return "states in place"

    def begin(self, whole):
        self.rooms = {}
        for n in state_outputs(whole):
            dtype = storage.empty((), whole.word[n]).dtype
            room, _ = layouts.room([d + 2 for d in whole.shape[n]], dtype, "unaligned")
            if dtype.kind == "f" or whole.word[n] == "bf16":
                room[...] = storage.encode(np.float32(np.nan), whole.word[n])
            self.rooms[n] = room

    def states(self, part):
        return {
            n: self.rooms[n][tuple(slice(d) for d in part.shape[n])] for n in state_outputs(part)
        }


def chain(lab, whole, kernel, parts, place):
    """Runs the tokens of a problem in pieces. {output: rows of all pieces, and the last states}."""
    entry = whole.op["_entries"][whole.entry]
    tokens = {problems.bare_symbols(whole, n)[2] for n in ("q", "k")}
    place.begin(whole)
    states, rows = {}, {n: [] for n in whole.outputs}
    for begin, end in parts:
        memory = {n: cut(whole, n, tokens, begin, end) for n in whole.inputs} | states
        word = {n: whole.word[n] for n in whole.shape} | {
            n: whole.word[state_output(entry, n)] for n in states
        }
        part = problems.Problem.bound(
            whole.op, whole.entry, whole.params, memory, word, whole.outputs
        )
        outputs = {
            n: np.full(part.shape[n], 0, storage.empty((), part.word[n]).dtype)
            for n in part.outputs
        } | place.states(part)
        runner.call(lab.two, part, kernel, part.memory, outputs)
        for n, x in outputs.items():
            rows[n].append(storage.decode(x.copy(), part.word[n]))
        states = {entry["_tensors"][n]["pair"]: outputs[n] for n in state_outputs(part)}
    return {n: joined(whole, n, tokens, pieces) for n, pieces in rows.items()}


def cut(problem, name, tokens, begin, end):
    """The tensor's part of some tokens; all of it where it has no dim of tokens."""
    x = problem.memory[name]
    for axis, symbol in enumerate(problems.bare_symbols(problem, name)):
        if symbol in tokens:
            x = x[(slice(None),) * axis + (slice(begin, end),)]
    return x


def joined(problem, name, tokens, pieces):
    """The rows of all steps one after the other; of a state the last."""
    axes = [a for a, s in enumerate(problems.bare_symbols(problem, name)) if s in tokens]
    if name in state_outputs(problem) or not axes:
        return pieces[-1]
    return np.concatenate(pieces, axes[0])


def state_outputs(problem):
    specs = problem.op["_entries"][problem.entry]["_tensors"]
    return [n for n in problem.outputs if specs[n]["role"] == "state_out"]


def state_output(entry, state):
    return next(n for n, t in entry["_tensors"].items() if t["pair"] == state)


CHECKS = (any_split,)
