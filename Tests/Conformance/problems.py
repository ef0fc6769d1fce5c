"""Random problems of an entry, drawn from its descriptor alone; Tests/ABI/model.py judges them."""

import copy
import pathlib
import re
import sys

import numpy as np

import storage

sys.path.append(str(pathlib.Path(__file__).resolve().parent.parent / "ABI"))
import model  # noqa: E402

# Sizes by the kind of symbol: batch, heads, tokens, channels. Odd ones, neighbours of tile sizes.
SIZES = [
    (r"B|P", (1, 2, 3)),
    (r"Hq", (1, 2, 3, 4, 6)),
    (r"Hkv", (1, 2, 3)),
    (r"N\w*|T\w*", (0, 1, 1, 2, 3, 7, 15, 16, 17, 31, 33, 40, 63, 64, 65, 127, 129, 200)),
    (r"D\w*", (1, 3, 8, 16, 24, 32, 40, 64, 65, 128)),
    (r".*", (1, 2, 3, 4, 5, 8, 16)),
]
INTEGERS = (0, 1, 2, 3, 4, 5, 8, 16, 17, 33)
REALS = (0.0, 0.1, 0.125, 0.3, 0.5, 0.7, 1.0)
ATTEMPTS = 1000


class Problem:
    """params: the ones given. shape, word: of every tensor that takes part, outputs among them.
    memory: of every input."""

    def __init__(self, op, entry, params, shape, word, outputs, symbols):
        self.op, self.entry, self.params, self.shape, self.word = op, entry, params, shape, word
        self.outputs, self.symbols, self.memory = outputs, symbols, {}

    @property
    def inputs(self):
        return [name for name in self.shape if name not in self.outputs]

    def __str__(self):
        tensors = ", ".join(f"{n} {self.word[n]}{list(s)}" for n, s in self.shape.items())
        return f"{self.op['id']} {self.entry}: {tensors}; {self.params}"


def prepared(descriptor):
    """The descriptor with everything parsed."""
    return model.prepare(copy.deepcopy(descriptor))


class NoProblem(Exception):
    """The descriptor allows no such problem, or it is too rare to be found."""


def draw(op, entry, rng, storage_word, plain=False, params=(), sizes=(), tensors=()):
    """A legal problem with storage type `storage_word` of dtype_var 1. Raises NoProblem.

    plain    default parameters and needed tensors only, apart from:
    params   {name: value} that is fixed
    sizes    {symbol: size}
    tensors  optional ones that take part
    """
    e = op["_entries"][entry]
    vary = [t for t in e["tensors"] if t["dtype_var"] == 1] or e["tensors"]
    if not any(storage_word in t["dtypes"] for t in vary):
        raise NoProblem(f"{op['id']} {entry} does not take {storage_word}")
    refusal = None
    for _ in range(ATTEMPTS):
        try:
            return _attempt(op, e, rng, storage_word, plain, dict(params), dict(sizes), tensors)
        except (model.Refused, model.Unbound) as why:
            refusal = why
    raise NoProblem(f"{op['id']} {entry}: no legal problem in {ATTEMPTS} draws, last: {refusal}")


def _attempt(op, e, rng, storage_word, plain, fixed, sizes, extra):
    params = {**({} if plain else _params(op, rng)), **fixed}
    for p in op["params"]:
        if "required" in p["flags"] and p["name"] not in params:
            params[p["name"]] = _value(p, rng)
    par = {p["name"]: model.legal(p, params.get(p["name"], p["default"])) for p in op["params"]}
    env = model.Env(par, {}, {})
    soft = {s for s, is_soft, _ in e["_let"] if is_soft}
    env.sym.update(sizes)
    for s in e["_symbols"]:
        if s not in env.sym and (s not in soft or rng.random() < 0.5):
            env.sym[s] = int(
                rng.choice(next(sizes for form, sizes in SIZES if re.fullmatch(form, s)))
            )
    for _ in (0, 1):  # a default may need a symbol that a later one makes
        for s, _, x in e["_let"]:
            if s not in env.sym:
                try:
                    env.sym[s] = model.value(x, env)
                except model.Unbound:
                    pass
    word = _words(e, rng, storage_word, plain)
    present = _present(e, rng, env, word, plain, extra)
    outputs = []
    for name in present:
        t = e["_tensors"][name]
        env.dtype[name] = word[name]
        env.shape[name] = None
        if t["_out"]:
            outputs.append(name)
    for name in present:
        if name not in outputs:
            env.shape[name] = _shape(e, name, env, rng)
            if min(env.shape[name], default=0) < 0 or np.prod(env.shape[name]) > 2**21:
                raise model.Refused("E_SHAPE", "too large for a test, or negative")
    tensors = {n: (env.shape[n], None if n in outputs else word[n]) for n in present}
    bound = model.bind(op, e["name"], tensors, params)
    shape = {n: tuple(bound.shape[n]) for n in present}
    if max(map(np.prod, shape.values()), default=0) > 2**21:
        raise model.Refused("E_SHAPE", "too large for a test")
    word = {n: bound.dtype[n] for n in present}
    return Problem(op, e["name"], params, shape, word, outputs, bound)


def _params(op, rng):
    return {p["name"]: _value(p, rng) for p in op["params"] if rng.random() < 0.4}


def _value(p, rng):
    if p["kind"] == "enum":
        return str(rng.choice(p["names"]))
    if p["kind"] == "bool":
        return bool(rng.integers(2))
    pool = INTEGERS if p["kind"] == "i64" else REALS
    return (int if p["kind"] == "i64" else float)(rng.choice(pool))


def _words(e, rng, storage_word, plain):
    """Element type of every tensor: dtype_var 1 as asked, other vars as that or any."""
    var, word = {1: storage_word}, {}
    for name, t in e["_tensors"].items():
        n = t["dtype_var"]
        if n not in var and n:
            same = storage_word in t["dtypes"] and (plain or rng.random() < 0.7)
            var[n] = storage_word if same else str(rng.choice(t["dtypes"]))
        if n == 0:
            word[name] = str(rng.choice(t["dtypes"]))
        elif "or_f32" in t["flags"] and rng.random() < 0.5:
            word[name] = "f32"
        else:
            word[name] = var[n]
    return word


def _present(e, rng, env, word, plain, extra):
    """Names of the tensors that take part. States come together, other optional inputs with
    probability 1/4."""
    state = not plain and rng.random() < 0.5
    optional = 0.0 if plain or rng.random() < 0.3 else 0.25
    chosen = []
    for name, t in e["_tensors"].items():
        env.shape[name], env.dtype[name] = None, word[name]  # for has() and dt() of what follows
        if not model.value(t["_allowed"], env):
            take = False
        elif name in extra or model.value(t["_needed"], env):
            take = True
        elif t["_out"]:
            take = rng.random() < 0.7
        else:
            take = state if t["role"] == "state" else rng.random() < optional
        if take:
            chosen.append(name)
        else:
            del env.shape[name], env.dtype[name]
    if not any(e["_tensors"][n]["_out"] for n in chosen):
        raise model.Refused("E_INVALID", "nothing to compute")
    env.shape.clear()
    env.dtype.clear()
    return chosen


def _shape(e, name, env, rng):
    shape = e["_tensors"][name]["_shape"]
    if shape.like:
        like = env.shape.get(shape.like)
        return like if like is not None else _shape(e, shape.like, env, rng)
    dims = shape.pick(env)
    if dims is None:
        raise model.Refused("E_SHAPE", f"{name} has no shape here")
    return [model.value(forms[rng.integers(len(forms))], env) for _, _, forms in dims]


# ---- values


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


# ---- layouts


def laid_out(values, layout):
    """A view with the same values in other memory."""
    if values.ndim < 2:
        return values
    if layout == "token_major" and values.ndim == 4:  # [B,N,H,D] in memory
        return np.ascontiguousarray(values.swapaxes(1, 2)).swapaxes(1, 2)
    if layout == "sliced":  # rows of a larger array, beginning one element late
        room = np.empty([n + 1 for n in values.shape[:-1]] + [values.shape[-1] + 3], values.dtype)
        view = room[
            tuple(slice(1, None) for _ in values.shape[:-1]) + (slice(1, values.shape[-1] + 1),)
        ]
        view[...] = values
        return view
    if (
        layout == "broadcast" and values.ndim == 4 and values.shape[0] > 1
    ):  # one batch entry for all
        return np.broadcast_to(values[:1], values.shape)
    return values
