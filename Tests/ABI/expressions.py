"""Writes random expressions with their values by the model: the host must agree with every row.

    python3 Tests/ABI/expressions.py > Tests/AttuneCoreTests/Expressions.json

A row is [expression, environment, value]: the value is a number, the name of a fault ("unbound",
"overflow", "division"), or "bad" when the expression may not be registered.
"""
import json
import random

import model

PARAMS = [
    dict(name="flag", kind="bool", names=None, structural=True),
    dict(name="count", kind="i64", names=None, structural=True),
    dict(name="ratio", kind="f64", names=None, structural=True),
    dict(name="mode", kind="enum", names=["plain", "thd", "paged"], structural=True),
    dict(name="loose", kind="i64", names=None, structural=False),
]
SYMBOLS, TENSORS, KNOBS = ["B", "N", "Nk", "D", "U"], ["q", "k", "mask"], ["bq", "bk"]
BIG = [2**31, 2**62, 2**63 - 1, 10**18]


def context():
    op = {"_params": {p["name"]: p for p in PARAMS}, "_used": set()}
    return op, {"_tensors": {t: {} for t in TENSORS}, "_symbols": SYMBOLS}


def environment(rng):
    size = lambda: rng.choice([0, 1, 2, 3, 7, 16, 33, rng.randrange(5000), rng.choice(BIG)])
    present = {t: rng.random() < 0.7 for t in TENSORS}
    known = {t: rng.random() < 0.8 for t in TENSORS}
    return {
        "symbols": [None if s == "U" or rng.random() < 0.1 else size() for s in SYMBOLS],
        "params": [
            rng.randrange(2),
            rng.choice([-5, 0, 64, -(2**63)]),
            rng.choice([0.0, 0.1, -2.5, 1e300]),
            rng.randrange(3),
            9,
        ],
        "dtypes": [rng.randrange(9) if present[t] else -1 for t in TENSORS],
        "shapes": [
            [size() for _ in range(rng.randrange(5))] if present[t] and known[t] else None
            for t in TENSORS
        ],
        "present": [int(present[t]) for t in TENSORS],
        "knobs": [rng.choice([8, 32]), rng.choice([0, 64])],
        "workers": rng.choice([1, 4]),
    }


def as_model(e):
    par = {p["name"]: v for p, v in zip(PARAMS, e["params"])}
    here = [(t, i) for i, t in enumerate(TENSORS) if e["present"][i]]
    dtypes = {t: model.DTYPES[e["dtypes"][i]] for t, i in here}
    env = model.Env(par, {t: e["shapes"][i] for t, i in here}, dtypes)
    env.sym = {s: v for s, v in zip(SYMBOLS, e["symbols"]) if v is not None}
    env.knob = {"$workers": e["workers"], **{"k." + k: v for k, v in zip(KNOBS, e["knobs"])}}
    return env


def number(rng):
    return str(rng.choice([0, 1, 2, 3, 5, 16, 100, rng.choice(BIG)]))


def text(rng, depth):
    """An expression of the grammar, now and then with a word that is not."""
    if depth == 0 or rng.random() < 0.15:
        function, tensor = rng.choice(["has", "dt", "rank", "bytes"]), rng.choice(TENSORS)
        word, compare = rng.choice(PARAMS[3]["names"]), rng.choice(["==", "!="])
        real = rng.choice(["<", "<=", ">", ">=", "==", "!="])
        real += rng.choice(["0", "-2.5", "0.1", "7."])
        odd = rng.choice(["p.loose", "p.ratio", "p.mode", "Z", "p.none", "k.none", "f128", "1.5"])
        leaves = [number(rng), rng.choice(SYMBOLS), rng.choice(SYMBOLS), rng.choice(model.DTYPES)]
        leaves += ["p.flag", "p.count", "$workers", "k.bq", "k.bk", f"{function}({tensor})"]
        leaves += [f"p.mode{compare}{word}", f"p.ratio{real}", odd if rng.random() < 0.06 else "N"]
        return rng.choice(leaves)
    sub = lambda: text(rng, depth - 1)
    kind = rng.randrange(10)
    if kind < 5:
        op = rng.choice(["+", "-", "*", "/", "%", "==", "!=", "<", "<=", ">", ">=", "&&", "||"])
        gap = rng.choice(["", "", " "])
        whole = f"{sub()}{gap}{op}{gap}{sub()}"
        return f"({whole})" if rng.random() < 0.5 else whole
    if kind == 5:
        return rng.choice("-!") + sub()
    if kind == 6:
        return f"({sub()})"
    if kind == 7:
        return f"{rng.choice(['min', 'max', 'cdiv'])}({sub()},{sub()})"
    if kind == 8:
        return f"dim({rng.choice(TENSORS)},{sub()})"
    return f"ftrunc(p.ratio,{sub()})"


def spoiled(rng, source):
    """The same with a few characters changed: mostly no expression any more."""
    chars = list(source)
    for _ in range(rng.randrange(1, 3)):
        at = rng.randrange(len(chars) + 1)
        chars[at : at + rng.randrange(2)] = rng.choice("()+-*/%<>=!&|,.$pk19 eE_\t{?")
    return "".join(chars)


def judge(source, env):
    op, entry = context()
    try:
        tree = model.Parser(source, op, entry, knobs=KNOBS).tree
    except model.Bad:
        return "bad"
    if any(not op["_params"][p]["structural"] for p in op["_used"]):
        return "bad"
    try:
        return int(model.value(tree, env))
    except model.Unbound as fault:
        words = str(fault)
        return words.split()[0] if words.split()[0] in ("division", "overflow") else "unbound"


def main():
    rng = random.Random(1)
    environments = [environment(rng) for _ in range(24)]
    rows = []
    while len(rows) < 4000:
        source = text(rng, rng.choice([1, 2, 2, 3, 3, 4, 5]))
        if rng.random() < 0.2:
            source = spoiled(rng, source)
        at = rng.randrange(len(environments))
        result = judge(source, as_model(environments[at]))
        if result != "bad" or len(source) < 300:
            rows.append([source, at, result])
    write = lambda x: json.dumps(x, separators=(",", ":"))
    lines = lambda xs: "[" + ",\n".join(map(write, xs)) + "]"
    print('{"environments":' + lines(environments) + ',\n"rows":' + lines(rows) + "}")


if __name__ == "__main__":
    main()
