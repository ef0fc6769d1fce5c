"""Random problems of an entry, drawn from its descriptor alone; Tests/ABI/model judges them."""

import copy
import pathlib
import re
import sys

import numpy as np

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
ATTEMPTS = 300
ELEMENTS = 2**20  # of the largest tensor
FLOPS = 10**8  # the scalar reference takes a tenth of a second for it


class Problem:
    """params: the ones given. shape, word: of every tensor that takes part, outputs among them.
    memory: of every input."""

    def __init__(self, op, entry, params, shape, word, outputs, symbols):
        self.op, self.entry, self.params, self.shape, self.word = op, entry, params, shape, word
        self.outputs, self.symbols, self.memory = outputs, symbols, {}

    @classmethod
    def bound(cls, op, entry, params, memory, word, wanted=()):
        """The problem of these inputs and the outputs `wanted`, besides those that are needed;
        word: element types of the inputs. Raises model.Refused."""
        tensors = {n: (list(x.shape), word[n]) for n, x in memory.items()}
        tensors.update((n, (None, word.get(n))) for n in wanted)
        tensors = model.complete(op, entry, tensors, params)
        bound = model.bind(op, entry, tensors, params)
        shape = {n: tuple(bound.shape[n]) for n in tensors}
        outputs = [n for n in tensors if n not in memory]
        self = cls(op, entry, params, shape, {n: bound.dtype[n] for n in tensors}, outputs, bound)
        self.memory = dict(memory)
        return self

    def having(self, memory):
        """The same problem with other values."""
        twin = copy.copy(self)
        twin.memory = memory
        return twin

    @property
    def inputs(self):
        return [name for name in self.shape if name not in self.outputs]

    def __str__(self):
        tensors = ", ".join(f"{n} {self.word[n]}{list(s)}" for n, s in self.shape.items())
        return f"{self.op['id']} {self.entry}: {tensors}; {self.params}"


def prepared(descriptor):
    """The descriptor with everything parsed."""
    return model.prepare(copy.deepcopy(descriptor))


def bare_symbols(problem, name):
    """The symbol of every dim of a tensor, None where a dim is more than one symbol."""
    entry = problem.op["_entries"][problem.entry]
    shape = entry["_tensors"][name]["_shape"]
    if shape.like:
        return bare_symbols(problem, shape.like)
    dims = shape.pick(problem.symbols, len(problem.shape[name])) or ()
    return [bare[0] if bare and bare[1] == 0 else None for _, bare, _ in dims]


class NoProblem(Exception):
    """The descriptor allows no such problem, or it is too rare to be found."""


def draw(op, entry, rng, storage_word, plain=False, params=(), sizes=(), tensors=(), tiles=()):
    """A legal problem with storage type `storage_word` of dtype_var 1. Raises NoProblem.

    plain    default parameters and needed tensors only, apart from:
    params   {name: value} that is fixed
    sizes    {symbol: size}
    tensors  optional ones that take part
    tiles    sizes near which the number of tokens is drawn in a third of the cases
    """
    e = op["_entries"][entry]
    vary = [t for t in e["tensors"] if t["dtype_var"] == 1] or e["tensors"]
    if not any(storage_word in t["dtypes"] for t in vary):
        raise NoProblem(f"{op['id']} {entry} does not take {storage_word}")
    refusal, params, sizes = None, dict(params), dict(sizes)
    for _ in range(ATTEMPTS):
        likely = _likely(e["_symbols"], tiles, rng)
        try:
            return _attempt(op, e, rng, storage_word, plain, params, {**likely, **sizes}, tensors)
        except (model.Refused, model.Unbound) as why:
            refusal = why
    raise NoProblem(f"{op['id']} {entry}: no legal problem in {ATTEMPTS} draws, last: {refusal}")


def _pool(symbol):
    return next(sizes for form, sizes in SIZES if re.fullmatch(form, symbol))


def _likely(symbols, tiles, rng):
    """Sizes that go well together, so that fewer draws are refused: heads in groups; in half of the
    cases as many queries as keys; in a third tokens one off a tile's end, or at it."""
    sizes = {}
    if {"Hq", "Hkv"} <= set(symbols):
        sizes["Hkv"] = int(rng.choice(_pool("Hkv")))
        sizes["Hq"] = sizes["Hkv"] * int(rng.integers(1, 5))
    tokens = [s for s in symbols if re.fullmatch("N[qk]?", s)]
    if len(tiles) and rng.random() < 0.33:
        sizes |= {s: max(0, int(rng.choice(tiles)) + int(rng.integers(-1, 2))) for s in tokens}
    if tokens and rng.random() < 0.5:
        sizes |= dict.fromkeys(tokens, sizes.get(tokens[0], int(rng.choice(_pool(tokens[0])))))
    return sizes


def _attempt(op, e, rng, storage_word, plain, fixed, sizes, extra):
    params = {**({} if plain else random_params(op, rng)), **fixed}
    for p in op["params"]:
        if "required" in p["flags"] and p["name"] not in params:
            params[p["name"]] = _value(p, rng)
    par = {p["name"]: model.legal(p, params.get(p["name"], p["default"])) for p in op["params"]}
    env = model.Env(par, {}, {})
    soft = {s for s, is_soft, _ in e["_let"] if is_soft}
    env.sym.update(sizes)
    for s in e["_symbols"]:
        if s not in env.sym and (s not in soft or rng.random() < 0.5):
            env.sym[s] = int(rng.choice(_pool(s)))
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
            if min(env.shape[name], default=0) < 0 or np.prod(env.shape[name]) > ELEMENTS:
                raise model.Refused("E_SHAPE", "too large for a test, or negative")
    tensors = {n: (env.shape[n], None if n in outputs else word[n]) for n in present}
    bound = model.bind(op, e["name"], tensors, params)
    shape = {n: tuple(bound.shape[n]) for n in present}
    if max(map(np.prod, shape.values()), default=0) > ELEMENTS or bound.cost["flops"] > FLOPS:
        raise model.Refused("E_SHAPE", "too large for a test")
    word = {n: bound.dtype[n] for n in present}
    return Problem(op, e["name"], params, shape, word, outputs, bound)


def random_params(op, rng):
    """Some parameters, each within its own bounds."""
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
