"""What the checks work on: contexts over one set of plugins, and problems for their entries."""

import itertools
import typing
import zlib

import numpy as np

import attune
import callers
import layouts
import problems
import runner
import storage
import values
import witness

WORDS = ("f32", "f32", "bf16", "f16")


class Subject(typing.NamedTuple):
    """One kernel of one entry."""

    op: str
    entry: str
    kernel: str

    def __str__(self):
        return "-".join(self)


class Trial(typing.NamedTuple):
    """A problem with its layout; note says how to draw it again."""

    problem: problems.Problem
    layout: str
    note: str


class NotApplicable(Exception):
    """A check has nothing to say about this kernel."""


class Lab:
    """plugin_path: search there first. operators: names to work on; default: all that are found."""

    def __init__(self, plugin_path=None, operators=None):
        options = {"tune": "off", "wisdom": "", "plugin_path": plugin_path}
        self.two = attune.Context(threads=2, **options)
        # Ways to spread the tasks of a call, which may not change a bit of the result.
        self.spreads = {
            "1 thread": attune.Context(threads=1, **options),
            "2 threads": self.two,
            "the caller's threads": callers.context(**options),
        }
        names = self.two.operators() if operators is None else operators
        self.operators = {name: self.two.describe(name) for name in names}
        self.prepared = {name: problems.prepared(d) for name, d in self.operators.items()}
        self._at, self._kept, self._wants = None, {}, {}

    def subjects(self):
        """Every kernel that this machine can run, kernels of an entry side by side."""
        return [
            Subject(op, entry["name"], kernel["name"])
            for op, descriptor in self.operators.items()
            for entry in descriptor["entries"]
            for kernel in entry["kernels"]
            if kernel["usable"]
        ]

    def entry(self, subject):
        """The parsed entry."""
        return self.prepared[subject.op]["_entries"][subject.entry]

    def _described(self, op, entry):
        return next(e for e in self.operators[op]["entries"] if e["name"] == entry)

    def kernel(self, subject):
        """The kernel's part of the descriptor."""
        kernels = self._described(subject.op, subject.entry)["kernels"]
        return next(k for k in kernels if k["name"] == subject.kernel)

    def reference(self, op, entry):
        kernels = self._described(op, entry)["kernels"]
        return next(k["name"] for k in kernels if "reference" in k["flags"])

    def forced(self, subject):
        """The kernel's name with knobs, endlessly: every value of every knob soon, every
        combination in the long run."""
        knobs = self.kernel(subject).get("knobs") or []
        if not knobs:
            return itertools.repeat(subject.kernel)
        longest = max(len(k["values"]) for k in knobs)
        return (
            f"{subject.kernel}:"
            + ",".join(
                f"{k['name']}={k['values'][(i + i // longest * j) % len(k['values'])]}"
                for j, k in enumerate(knobs)
            )
            for i in itertools.count()
        )

    def causal(self, subject):
        """Parameters with which later tokens cannot change earlier rows; what a step needs."""
        return {"causal": True} if "causal" in self.prepared[subject.op]["_params"] else {}

    def needed(self, subject):
        """Parameters without which an entry has no problem at all."""
        return self.causal(subject) if self.entry(subject)["kind"] == "step" else {}

    def upstream(self, subject):
        """The inputs that an entry differentiates from: without them every gradient is 0."""
        tensors = self.entry(subject)["_tensors"].items()
        return [n for n, t in tensors if t["pair"] and not t["_out"] and t["role"] == "in"]

    def gradients(self, subject):
        """All outputs of an entry that differentiates."""
        entry = self.entry(subject)
        return [n for n, t in entry["_tensors"].items() if t["_out"] and entry["of"] is not None]

    def tiles(self, op, entry):
        """Knob values of all kernels that can be numbers of tokens."""
        knobs = [n for k in self._described(op, entry)["kernels"] for n in k.get("knobs") or []]
        return sorted({v for n in knobs for v in n["values"] if 4 <= v <= 512})

    def trials(self, subject):
        """Random problems over storage types, layouts and options, endlessly; every third one with
        default options. The same for all kernels of the entry."""
        tiles = self.tiles(subject.op, subject.entry)

        def make(seed, rng):
            plain = seed % 3 == 0
            params = self.needed(subject) if plain else {}
            sent = [n for n in self.upstream(subject) if plain or rng.random() < 0.8]
            how = {"plain": plain, "tiles": tiles, "params": params, "tensors": sent}
            problem = self.draw(subject.op, subject.entry, rng, WORDS[seed % 4], **how)
            layout = layouts.LAYOUTS[seed % 5]
            if layout == "broadcast":
                problem.memory = {n: layouts.shared(x) for n, x in problem.memory.items()}
                self._save(problem)
            return problem, layout

        return self._series(subject, "random", make)

    def suited(self, subject):
        """Problems that the kernel's own condition admits, for kernels that few problems suit.
        Options that suited once are often tried again."""
        op, entry = self.prepared[subject.op], self.entry(subject)
        when = self.kernel(subject).get("when") or "1"
        condition = problems.model.Parser(when, op, entry).tree
        tiles = self.tiles(subject.op, subject.entry)
        known = [(word, self.needed(subject)) for word in WORDS]

        def make(seed, rng):
            for attempt in range(200):
                word, params = known[rng.integers(len(known))]
                params = params if attempt % 4 else {}
                how = {"plain": bool(rng.integers(2)), "tiles": tiles, "params": params}
                how["tensors"] = self.upstream(subject)
                try:
                    problem = problems.draw(op, subject.entry, rng, word, **how)
                    suits = problems.model.value(condition, problem.symbols)
                except (problems.NoProblem, problems.model.Unbound):
                    continue
                if suits:
                    known.append((word, problem.params))
                    values.fill(problem, rng)
                    self._save(problem)
                    return problem, layouts.LAYOUTS[seed % 4]
            raise problems.NoProblem(f"nothing suits {when}")

        return self._series(subject, f"suited to {when}", make)

    def drawn(self, subject, what, words=("f32",), **how):
        """Problems of one kind, in the plain layout; how: see problems.draw. Raises NotApplicable
        when there is none."""

        sent = (*self.upstream(subject), *self.gradients(subject))
        how["tensors"] = (*how.get("tensors", ()), *sent)

        def make(seed, rng):
            word = words[seed % len(words)]
            return self.draw(subject.op, subject.entry, rng, word, **how), "plain"

        trials = self._series(subject, f"{what}, {how}", make)
        first = next(trials, None)
        if first is None:
            raise NotApplicable(f"the entry has no such problem: {what}, {how}")
        return itertools.chain([first], trials)

    def _series(self, subject, name, make):
        """The trials of make(seed, rng), kept for the other kernels of the entry. Ends when there
        is no problem for many seeds."""
        if self._at != subject[:2]:
            self._at, self._kept, self._wants = subject[:2], {}, {}
        kept = self._kept.setdefault(name, [])
        for seed in itertools.count():
            if seed == len(kept):
                rng = np.random.default_rng([seed, zlib.crc32(f"{subject.entry} {name}".encode())])
                try:
                    problem, layout = make(seed, rng)
                    kept.append(Trial(problem, layout, f"{name}: seed {seed}, layout {layout}"))
                except problems.NoProblem:
                    kept.append(None)
            if kept[seed] is not None:
                yield kept[seed]
            elif not any(kept[max(0, seed - 9) : seed + 1]) and seed % len(WORDS) == len(WORDS) - 1:
                return

    def draw(self, op, entry, rng, word, exact=False, **how):
        """A problem with values. Raises problems.NoProblem."""
        problem = problems.draw(self.prepared[op], entry, rng, word, **how)
        values.fill(problem, rng, exact)
        self._save(problem)
        return problem

    def _save(self, problem):
        """Gives the saved inputs of an entry that differentiates the values that the differentiated
        entry makes of the same inputs."""
        op, e = problem.op, problem.op["_entries"][problem.entry]
        saved = [n for n in problem.inputs if e["_tensors"][n]["role"] == "saved"]
        if not saved:
            return
        first = op["_entries"][e["of"]]
        memory = {
            n: x
            for n, x in problem.memory.items()
            if n in first["_tensors"] and not first["_tensors"][n]["_out"]
        }
        word = {n: problem.word[n] for n in (*memory, *saved)}
        forward = problems.Problem.bound(op, e["of"], problem.params, memory, word, saved)
        made = witness.expected(self.two, forward, self.reference(op["id"], e["of"]))
        for n in saved:
            problem.memory[n] = storage.encode(made[n], problem.word[n])

    def want(self, trial):
        """What the problem of a trial must give; computed once for all kernels."""
        if trial.note not in self._wants:
            self._wants[trial.note] = self.expected(trial.problem)
        return self._wants[trial.note]

    def expected(self, problem):
        reference = self.reference(problem.op["id"], problem.entry)
        return witness.expected(self.two, problem, reference)

    def run(self, problem, kernel, layout="plain"):
        return runner.run(self.two, problem, kernel, layout)

    def taken(self, subject, share, trials=None):
        """(trial, kernel with knobs, outputs) of the problems that the kernel takes, until there
        are `share`. Raises NotApplicable when there is none."""
        ran, reason, names = 0, "nothing was drawn", self.forced(subject)
        if trials is None:
            shared = itertools.islice(self.trials(subject), 2 * share)
            trials = itertools.chain(shared, self.suited(subject))
        for trial in itertools.islice(trials, 15 * share):
            name = next(names)
            try:
                got = self.run(trial.problem, name, trial.layout)
            except runner.Declined as why:
                reason = why
                continue
            yield trial, name, got
            ran += 1
            if ran == share:
                return
        if ran == 0:
            raise NotApplicable(f"{subject} took no problem; last reason: {reason}")
