"""Every usable kernel of every entry of every registered operator, on seeded random problems.

Runs a share by default; ATTUNE_TEST_SHARE=all draws ten times as many. A failure names the seed and
the problem.
"""

import os

import numpy as np
import pytest

import attune
import compare
import problems
import runner
import witness

ALL = os.environ.get("ATTUNE_TEST_SHARE") == "all"
ROUNDS = 40 if ALL else 4
VARIANTS = [
    ("f32", "plain"),
    ("f32", "token_major"),
    ("f32", "sliced"),
    ("f32", "broadcast"),
    ("bf16", "plain"),
    ("bf16", "sliced"),
    ("f16", "plain"),
    ("f16", "token_major"),
]
CONTEXTS = {n: attune.Context(threads=n, tune="off", wisdom="") for n in (1, 2)}
OPERATORS = {name: CONTEXTS[2].describe(name) for name in CONTEXTS[2].operators()}
PREPARED = {name: problems.prepared(descriptor) for name, descriptor in OPERATORS.items()}
assert OPERATORS, "no operator was found: is the build staged?"


def kernels(reference):
    """(operator, entry, kernel) of everything that this machine can run."""
    for name, descriptor in OPERATORS.items():
        for entry in descriptor["entries"]:
            for kernel in entry["kernels"]:
                if kernel["usable"] and ("reference" in kernel["flags"]) == reference:
                    yield name, entry["name"], kernel["name"]


def ids(rows):
    return ["-".join(row) for row in rows]


EXACT = {"f64", "i32", "i64", "u8", "bool", "i8"}  # storage types that have no tolerance of their own
FAST = list(kernels(False))
EVERY = FAST + list(kernels(True))


def reference_of(op, entry):
    return next(k for o, e, k in EVERY if (o, e) == (op, entry) and (o, e, k) not in FAST)


def knobs_of(op, entry, kernel, rng):
    """The kernel's name, in half of the cases with random knobs."""
    entry = next(e for e in OPERATORS[op]["entries"] if e["name"] == entry)
    knobs = next(k for k in entry["kernels"] if k["name"] == kernel).get("knobs") or []
    if not knobs or rng.random() < 0.5:
        return kernel
    return kernel + ":" + ",".join(f"{k['name']}={int(rng.choice(k['values']))}" for k in knobs)


def upstream(op, entry):
    """The inputs that an entry differentiates from: without them every gradient is 0."""
    tensors = PREPARED[op]["_entries"][entry]["tensors"]
    return [t["name"] for t in tensors if t["pair"] and not t["_out"] and t["role"] == "in"]


def save(problem):
    """Gives the problem the results of the entry that it differentiates, where it takes them."""
    of = problem.op["_entries"][problem.entry]["of"]
    if of is not None:
        runner.save(CONTEXTS[2], problem, reference_of(problem.op["id"], of))


def check(op, problem, got, expected, note):
    """Compares all outputs by the operator's tolerance for the storage type: of dtype_var 1, or of
    the output itself where that is looser. Terms that cancel leave a few roundings of f32."""
    want, terms = expected
    specs = problem.op["_entries"][problem.entry]["_tensors"]
    stored = [
        problem.word[n]
        for n in problem.shape
        if specs[n]["dtype_var"] == 1 and "or_f32" not in specs[n]["flags"]
    ]
    for name in problem.outputs:
        words = {*(stored[:1] or [problem.word[name]]), problem.word[name]} - EXACT
        limits = [compare.tolerance(OPERATORS[op], word) for word in words]
        rtol, atol = max(limits, default=(0.0, 0.0))
        text = compare.difference(got[name], want[name], rtol, atol, 2e-6 * terms)
        assert text is None, f"{name} {text}\n{note}\n{problem}"


def attempts(op, entry, rounds=ROUNDS):
    """(seed, layout, generator of numbers, problem) over the variants that the entry takes."""
    for seed in range(rounds * len(VARIANTS)):
        word, layout = VARIANTS[seed % len(VARIANTS)]
        rng = np.random.default_rng([seed, *entry.encode()])
        plain = seed < len(VARIANTS)
        given = [n for n in upstream(op, entry) if plain or rng.random() < 0.8]
        try:
            problem = problems.draw(PREPARED[op], entry, rng, word, plain=plain, tensors=given)
        except problems.NoProblem:
            continue
        problems.fill(problem, rng)
        if layout == "broadcast":
            problem.memory = {n: problems.laid_out(x, layout) for n, x in problem.memory.items()}
        save(problem)
        yield seed, layout, rng, problem


@pytest.mark.parametrize("op,entry,kernel", EVERY, ids=ids(EVERY))
def test_matches_witness(op, entry, kernel):
    """Odd sizes, groups of heads, strides, unaligned rows, storage types, any options."""
    ran, reason = 0, "nothing was drawn"
    for seed, layout, rng, problem in attempts(
        op, entry, ROUNDS * (1 if (op, entry, kernel) in FAST else 2)
    ):
        forced = knobs_of(op, entry, kernel, rng)
        try:
            got = runner.run(CONTEXTS[2], problem, forced, layout)
        except runner.Declined as why:
            reason = why
            continue
        ran += 1
        want = witness.expected(CONTEXTS[2], problem, reference_of(op, entry))
        check(op, problem, got, want, f"kernel {forced}, seed {seed}, layout {layout}")
    assert ran, f"{kernel} took none of the problems; last reason: {reason}"


@pytest.mark.parametrize("op,entry,kernel", EVERY, ids=ids(EVERY))
def test_huge_scores(op, entry, kernel):
    """Scores of a hundred and more, exact in float32: exp of them overflows, ties share.

    Not thousands: there one rounding of a score is already worth the whole tolerance."""
    specs = PREPARED[op]["_entries"][entry]["_tensors"]
    if "scale" not in PREPARED[op]["_params"] or not {"q", "k", "v"} <= set(specs):
        pytest.skip("no scores to scale")
    ran = 0
    for seed in range(2 * ROUNDS):
        rng = np.random.default_rng([seed, 7])
        try:
            problem = problems.draw(
                PREPARED[op],
                entry,
                rng,
                "f32",
                plain=True,
                params={"scale": 0.25},
                sizes={"D": 64},
                tensors=upstream(op, entry),
            )
        except problems.NoProblem as why:
            pytest.skip(str(why))
        problems.fill(problem, rng, exact=True)
        save(problem)
        try:
            got = runner.run(CONTEXTS[2], problem, kernel)
        except runner.Declined:
            continue
        ran += 1
        check(
            op,
            problem,
            got,
            witness.expected(CONTEXTS[2], problem, reference_of(op, entry)),
            f"seed {seed}",
        )
    assert ran, f"{kernel} took none of the problems"


@pytest.mark.parametrize("op,entry,kernel", FAST, ids=ids(FAST))
def test_same_bits_for_any_number_of_threads(op, entry, kernel):
    ran = 0
    for seed, layout, rng, problem in attempts(op, entry):
        forced = knobs_of(op, entry, kernel, rng)
        try:
            one, two = (runner.run(CONTEXTS[n], problem, forced, layout) for n in (1, 2))
        except runner.Declined:
            continue
        ran += 1
        for name in problem.outputs:
            assert one[name].tobytes() == two[name].tobytes(), f"{name}, seed {seed}\n{problem}"
    assert ran, f"{kernel} took none of the problems"


# ---- what is excluded by structure is not read into any arithmetic


def poisoned(problem, hidden, names=("k", "v")):
    """A copy of the problem with NaN in those rows of the tensors, [B,H,N,..], where `hidden`
    [B, N]."""
    twin = problems.Problem(
        *(
            getattr(problem, n)
            for n in ("op", "entry", "params", "shape", "word", "outputs", "symbols")
        )
    )
    twin.memory = dict(problem.memory)
    for name in names:
        x = problem.memory[name].copy()
        x.swapaxes(1, 2)[hidden] = np.nan
        twin.memory[name] = x
    return twin


def watched(op, entry):
    """Outputs with a row per query, outputs with a row per key."""
    specs = PREPARED[op]["_entries"][entry]["_tensors"]
    outputs = {n for n, t in specs.items() if t["_out"]}
    return [n for n in ("o", "dq") if n in outputs], [n for n in ("dk", "dv") if n in outputs]


def exclusions(op, entry):
    """Ways to hide keys that this entry knows: (name, parameters, tensors)."""
    prepared = PREPARED[op]
    specs = prepared["_entries"][entry]["_tensors"]
    if not {"q", "k", "v"} <= set(specs) or not watched(op, entry)[0]:
        return
    if "causal" in prepared["_params"]:
        yield "causal", {"causal": True}, ()
    for name in ("seqlens_k", "key_start", "key_mask"):
        if name in specs:
            yield name, {}, (name,)


HIDING = [(*row, *way) for row in EVERY for way in exclusions(row[0], row[1])]


def square(op, entry, n, rng, params, tensors):
    """A plain problem with as many keys as queries, and all of its gradients."""
    by_query, by_key = watched(op, entry)
    problem = problems.draw(
        PREPARED[op],
        entry,
        rng,
        "f32",
        plain=True,
        params=params,
        sizes={"B": 2, "Nq": n, "Nk": n, "Nn": n, "Np": 0},
        tensors=(*tensors, *upstream(op, entry), *by_query, *by_key),
    )
    return problems.fill(problem, rng)


@pytest.mark.parametrize(
    "op,entry,kernel,way,params,tensors", HIDING, ids=["-".join(r[:4]) for r in HIDING]
)
def test_hidden_keys_are_not_read(op, entry, kernel, way, params, tensors):
    by_query, by_key = watched(op, entry)
    ran, reason = 0, "nothing was drawn"
    for seed, n in enumerate((2, 17, 64, 65, 130) * ROUNDS):
        rng = np.random.default_rng([seed, 11])
        try:
            problem = square(op, entry, n, rng, params, tensors)
        except problems.NoProblem as why:
            reason = why
            continue
        key, rows = np.arange(n)[None, :], slice(None)
        if way == "causal":
            cut = int(rng.integers(1, n))
            hidden, rows = np.broadcast_to(key >= cut, (2, n)), slice(0, cut)
        elif way == "seqlens_k":
            hidden = key >= problem.memory[way][:, None]
        elif way == "key_start":
            hidden = key < problem.memory[way][:, None]
        else:
            hidden = problem.memory[way] == 0
        try:
            clean = runner.run(CONTEXTS[2], problem, kernel)
            got = runner.run(CONTEXTS[2], poisoned(problem, hidden), kernel)
        except runner.Declined as why:
            reason = why
            continue
        ran += 1
        # With causal the later queries see the hidden keys, and spoil their gradients.
        for name in by_query + ([] if way == "causal" else by_key):
            part = rows if name in by_query else slice(None)
            limits = compare.tolerance(OPERATORS[op], "f32")
            text = compare.difference(got[name][:, :, part], clean[name][:, :, part], *limits)
            assert text is None, f"{name} {text}\nseed {seed}\n{problem}"
    if not ran:
        pytest.skip(str(reason))


GRADIENTS = [
    row
    for row in EVERY
    if watched(*row[:2])[1] and any(way[0] == "causal" for way in exclusions(*row[:2]))
]


@pytest.mark.parametrize("op,entry,kernel", GRADIENTS, ids=ids(GRADIENTS))
def test_earlier_queries_do_not_touch_later_keys(op, entry, kernel):
    """The gradients of a key are made of what sees it."""
    by_key = watched(op, entry)[1]
    ran, reason = 0, "nothing was drawn"
    for seed, n in enumerate((2, 17, 64, 65, 130) * ROUNDS):
        rng = np.random.default_rng([seed, 12])
        try:
            problem = square(op, entry, n, rng, {"causal": True}, ())
            cut = int(rng.integers(1, n))
            early = np.broadcast_to(np.arange(n)[None, :] < cut, (2, n))
            clean = runner.run(CONTEXTS[2], problem, kernel)
            got = runner.run(CONTEXTS[2], poisoned(problem, early, ("q", "do")), kernel)
        except (problems.NoProblem, runner.Declined) as why:
            reason = why
            continue
        ran += 1
        for name in by_key:
            limits = compare.tolerance(OPERATORS[op], "f32")
            text = compare.difference(got[name][:, :, cut:], clean[name][:, :, cut:], *limits)
            assert text is None, f"{name} {text}\nseed {seed}\n{problem}"
    if not ran:
        pytest.skip(str(reason))
