"""Checks of keys that are hidden by structure, and of rows that see none. Like checks.py."""

import itertools

import numpy as np

import judge
import problems
import runner
import storage
from lab import NotApplicable

SIZES = (2, 17, 64, 65, 130)


def hidden_keys(lab, subject, share):
    """What is hidden is not read into any arithmetic: NaN there changes no bit."""

    def compare(problem, way, kernel):
        n = problem.shape["k"][2]
        if way == "causal" and problem.op["_entries"][problem.entry]["of"] is not None:
            _later_keys(lab, problem, kernel, n)
        hidden, rows = _hidden(problem, way, n)
        clean = lab.run(problem, kernel)
        got = lab.run(_poisoned(problem, hidden, ("k", "v")), kernel)
        for name in _watched(problem, way):
            a, b = (x[name][:, :, :rows] if rows < n else x[name] for x in (clean, got))
            assert a.tobytes() == b.tobytes(), f"NaN in hidden keys changes {name}"

    return _over_ways(lab, subject, max(1, share // 20), SIZES, compare)


def _later_keys(lab, problem, kernel, n):
    """The gradients of a key are made of the queries that see it."""
    cut = n // 2 + 1
    early = np.broadcast_to(np.arange(n)[None, :] < cut, (problem.shape["q"][0], n))
    sent = [x for x in problem.inputs if x in ("q", "do")]
    clean, got = lab.run(problem, kernel), lab.run(_poisoned(problem, early, sent), kernel)
    for name in [x for x in problem.outputs if x in ("dk", "dv")]:
        a, b = (x[name][:, :, cut:] for x in (clean, got))
        assert a.tobytes() == b.tobytes(), f"NaN in earlier queries changes {name} of later keys"


def empty_rows(lab, subject, share):
    """Queries that see no key, among others that do."""

    def compare(problem, way, kernel):
        if way != "causal":
            hidden = problem.memory[way].copy()
            hidden[0] = problem.shape["k"][2] if way == "key_start" else 0
            problem = problem.having(problem.memory | {way: hidden})
        judge.check(lab, problem, lab.run(problem, kernel), lab.expected(problem), way)

    return _over_ways(lab, subject, max(1, share // 16), (9, 66), compare, fewer_keys=4)


def _over_ways(lab, subject, share, sizes, compare, fewer_keys=0):
    """compare(problem, way, kernel) for every way to hide keys, for several sizes. fewer_keys: with
    causal, there are so many more queries than keys."""
    ran, reason, knobs = 0, "the entry has no way to hide keys", lab.forced(subject)
    for (way, params, tensors), n in itertools.product(_ways(lab, subject), sizes):
        keys = n - fewer_keys * (way == "causal")
        size = {"B": 2, "N": n, "Nq": n, "Nk": keys, "Nn": keys, "Np": 0}
        params = lab.needed(subject) | params
        how = {"plain": True, "params": params, "tensors": tensors, "sizes": size}
        try:
            trials = lab.drawn(subject, f"hidden by {way}", ("f32", "bf16"), **how)
            for trial in itertools.islice(trials, share):
                kernel = next(knobs)
                try:
                    compare(trial.problem, way, kernel)
                except runner.Declined as why:
                    reason = why
                    continue
                except AssertionError as why:
                    note = f"kernel {kernel}, {way}, {trial.note}\n{trial.problem}"
                    raise AssertionError(f"{why}\n{note}") from None
                ran += 1
        except NotApplicable as why:  # the operator has no such problem
            reason = why
    if not ran:
        raise NotApplicable(str(reason))
    return ran


def _ways(lab, subject):
    """Ways to hide keys that this entry knows: (name, parameters, tensors)."""
    entry = lab.entry(subject)
    if not {"q", "k", "v"} <= set(entry["_tensors"]):
        return
    if "causal" in lab.prepared[subject.op]["_params"]:
        yield "causal", {"causal": True}, ()
    for name in ("seqlens_k", "key_start", "key_mask"):
        if name in entry["_tensors"]:
            yield name, {}, (name,)


def _hidden(problem, way, n):
    """(mask [B, Nk] of hidden keys, number of leading rows that do not see them)."""
    key = np.arange(n)[None, :]
    if way == "causal":
        cut = int(np.random.default_rng(n).integers(1, n))
        return np.broadcast_to(key >= cut, (problem.shape["k"][0], n)), cut
    limit = problem.memory[way]
    if way == "key_mask":
        return limit == 0, n
    return (key >= limit[:, None] if way == "seqlens_k" else key < limit[:, None]), n


def _poisoned(problem, hidden, names):
    """The problem with NaN in those rows of the tensors."""
    memory = dict(problem.memory)
    for name in names:
        memory[name] = memory[name].copy()
        memory[name].swapaxes(1, 2)[hidden] = storage.encode(np.float32(np.nan), problem.word[name])
    return problem.having(memory)


def _watched(problem, way):
    """Outputs that hidden keys may not change: all gradients, unless later queries see the keys;
    else what has a row per query."""
    if problem.op["_entries"][problem.entry]["of"] is not None and way != "causal":
        return problem.outputs
    query = problems.bare_symbols(problem, "q")[2]
    axes = {n: problems.bare_symbols(problem, n) for n in problem.outputs if n not in ("dk", "dv")}
    return [n for n, symbols in axes.items() if len(symbols) > 2 and symbols[2] == query]


CHECKS = (hidden_keys, empty_rows)
