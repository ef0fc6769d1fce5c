"""Values of a problem's inputs, by the generators that the descriptor names."""

import re

import numpy as np

import storage
from problems import NoProblem, model


def fill(problem, rng, exact=False):
    """Gives every input values by its generator. exact: small integers instead of normal numbers,
    so that scores are huge and yet every product and sum in them is exact in float32."""
    e = problem.op["_entries"][problem.entry]
    for name in problem.inputs:
        t, shape, word = e["_tensors"][name], problem.shape[name], problem.word[name]
        gen, numbers = _gen(t["gen"], problem, e)
        values = _GENERATORS[gen](rng, shape, *numbers)
        if gen == "normal" and word in ("i8", "u8"):  # codes of a quantised tensor
            values = np.clip(
                np.rint(values * 40 + (128 if word == "u8" else 0)),
                *((0, 255) if word == "u8" else (-127, 127)),
            )
        elif gen == "normal" and exact:
            values = np.clip(np.rint(values * 4), -8, 8)
        problem.memory[name] = storage.encode(values, word)
    return problem


def _gen(text, problem, e):
    name, _, rest = text.partition("(")
    arguments = [a.strip() for a in model.split(rest[:-1], ",")] if rest else []
    return name, [_number(a, problem, e) for a in arguments]


def _number(text, problem, e):
    if re.fullmatch(r"-?\d+(\.\d*)?", text):
        return float(text)
    return model.value(model.Parser(text, problem.op, e).tree, problem.symbols)


def _lengths(rng, shape, low, high):
    x = rng.integers(min(low, high), high + 1, shape)
    if x.size:
        x.flat[rng.integers(x.size)] = high
    return x


def _cuts(rng, shape, n):
    if shape[0] == 1 and n > 0:
        raise NoProblem(f"no sequence for {n} tokens")
    x = np.sort(rng.integers(0, n + 1, shape))
    x[0], x[-1] = 0, n
    if len(x) >= 5:
        x[2] = x[1]
    return x


def _pages(rng, shape, n):
    size, pages = int(np.prod(shape)), max(int(n), 1)
    return np.concatenate([rng.permutation(pages) for _ in range(size // pages + 1)])[
        :size
    ].reshape(shape)


def _distinct(rng, shape, n):
    x = np.full(shape, -1)
    for row in x.reshape(-1, shape[-1]) if x.size else ():
        m = int(rng.integers(0, min(shape[-1], n) + 1))
        row[:m] = np.sort(rng.permutation(int(n))[:m])
    return x


def _rotation(function):
    def table(rng, shape):
        position, i = np.arange(shape[0])[:, None], np.arange(shape[1]) // 2
        return function(position * 10000.0 ** (-2 * i / shape[1]))

    return table


_GENERATORS = {
    "normal": lambda rng, s, m=0.0, d=1.0: rng.normal(m, d, s),
    "uniform": lambda rng, s, a, b: rng.uniform(a, b, s),
    "zeros": lambda rng, s: np.zeros(s),
    "ones": lambda rng, s: np.ones(s),
    "weight": lambda rng, s, n: rng.normal(0, max(n, 1) ** -0.5, s),
    "bernoulli": lambda rng, s, p: (rng.random(s) < p).astype(float),
    "ints": lambda rng, s, a, b: rng.integers(int(a), int(max(a, b)) + 1, s),
    "lengths": lambda rng, s, a, b: _lengths(rng, s, int(a), int(b)),
    "cuts": lambda rng, s, n: _cuts(rng, s, int(n)),
    "pages": _pages,
    "distinct": lambda rng, s, n: _distinct(rng, s, n),
    "slopes": lambda rng, s: np.broadcast_to(2.0 ** (-8 * (np.arange(s[-1]) + 1) / s[-1]), s),
    "sin": _rotation(np.sin),
    "cos": _rotation(np.cos),
}
