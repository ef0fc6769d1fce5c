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
    ran, knobs, reason = 0, lab.forced(subject), "nothing was drawn"
    for seed in range(max(6, share // 4)):
        rng = np.random.default_rng([seed, 17])
        n = int(rng.choice((1, 2, 5, 33, 70, 130)))
        plain = seed % 3 > 0
        params = {} if plain else problems.random_params(lab.prepared[subject.op], rng)
        whole = _whole(lab, subject, seed, n, states, params)
        if whole is None:
            continue
        kernel, parts = next(knobs), cuts(rng, n)
        place = Fresh() if seed % 2 else InPlace()
        try:
            got = chain(whole, parts, place, _steps_of(lab, kernel))
        except runner.Declined as why:
            reason = why
            continue
        # Some options make a split visible by design: then the oracle's own steps decide.
        want = lab.expected(whole) if plain else chain(whole, parts, Fresh(), _expected_steps(lab))
        note = f"kernel {kernel}, {place}, seed {seed}, tokens {parts}"
        judge.check(lab, whole, got, want, note)
        ran += 1
    if not ran:
        raise NotApplicable(f"{subject} took none of the problems; last reason: {reason}")
    return ran


def _whole(lab, subject, seed, n, states, params):
    """A problem of n tokens and no earlier ones that asks for all states; None: there is none."""
    symbols = lab.entry(subject)["_symbols"]
    tokens = {s: n for s in ("N", "Nq", "Nk", "Nn") if s in symbols}
    sizes = tokens | ({"Np": 0} if "Np" in symbols else {})
    params = params | lab.needed(subject)
    how = {"plain": True, "params": params, "sizes": sizes, "tensors": states}
    word = WORDS[seed % 3]
    try:
        return next(lab.drawn(subject, f"split {seed}", (word,), **how)).problem
    except NotApplicable:
        return None


def _steps_of(lab, kernel):
    """Runs one step by a kernel."""
    return lambda part, outputs: runner.call(lab.two, part, kernel, part.memory, outputs)


def _expected_steps(lab):
    """Runs one step as it must be."""

    def run(part, outputs):
        want = lab.expected(part)
        for n, x in outputs.items():
            x[...] = storage.encode(want[n], part.word[n])

    return run


def cuts(rng, n):
    """[(begin, end)] over n tokens: single tokens, empty pieces, pieces of any size, all small."""
    if rng.random() < 0.4:
        ends = sorted({*range(3, n, 7), 1, n})
    else:
        ends = sorted([*map(int, rng.integers(0, n + 1, rng.integers(1, 6))), 1, n])
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


def chain(whole, parts, place, run):
    """The tokens of a problem in pieces, each by run(problem, output arrays). {output: rows of all
    pieces, and the last states}."""
    entry = whole.op["_entries"][whole.entry]
    tokens = {problems.bare_symbols(whole, n)[2] for n in ("q", "k")}
    place.begin(whole)
    states, rows = {}, {n: [] for n in whole.outputs}
    for begin, end in parts:
        memory = {n: cut(whole, n, tokens, begin, end) for n in whole.inputs} | states
        word = whole.word | {n: whole.word[state_output(entry, n)] for n in states}
        part = problems.Problem.bound(
            whole.op, whole.entry, whole.params, memory, word, whole.outputs
        )
        outputs = {n: storage.empty(part.shape[n], part.word[n]) for n in part.outputs}
        outputs |= place.states(part)
        run(part, outputs)
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
