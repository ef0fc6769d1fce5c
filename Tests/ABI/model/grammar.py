"""The expression and shape language of descriptors: text to trees, trees to values.

The host must decide exactly as this file does (Sources/AttuneCore/Expression).
"""

import math
import re

DTYPES = ["f32", "bf16", "f16", "f64", "i32", "i64", "u8", "bool", "i8"]
SIZE = dict(f32=4, bf16=2, f16=2, f64=8, i32=4, i64=8, u8=1, bool=1, i8=1)
LIMIT = dict(
    expr=256,
    nodes=128,
    shape=256,
    let=512,
    name=63,
    tensors=64,
    params=64,
    symbols=64,
    rules=32,
    entries=16,
    rank=8,
)
FLAT = {"min": 2, "max": 2, "cdiv": 2}


class Bad(Exception):
    """A descriptor that may not be registered."""


class Unbound(Exception):
    """A value that an expression needs is not known, or cannot be computed."""


TOKEN = re.compile(
    r"\s*(?:(\d+\.\d*(?:[eE][-+]?\d+)?|\d+[eE][-+]?\d+|\d+)"
    r"|(p\.\w+|k\.\w+|\$workers|[A-Za-z_]\w*)|(\|\||&&|==|!=|<=|>=|[-+*/%<>()!,]))"
)


class Parser:
    """`scope`: op, entry (dicts) or None; knobs: allow k.* and $workers; symbols: allow symbols."""

    def __init__(self, text, op, entry, symbols=True, knobs=None):
        if len(text) > LIMIT["expr"]:
            raise Bad(f"expression longer than {LIMIT['expr']}: {text}")
        self.text, self.op, self.entry, self.symbols, self.knobs, self.nodes = (
            text,
            op,
            entry,
            symbols,
            knobs,
            0,
        )
        self.toks, at = [], 0
        while text[at:].strip():
            m = TOKEN.match(text, at)
            if not m:
                raise Bad(f"cannot read {text[at:]!r} in {text!r}")
            self.toks.append(m[m.lastindex])
            at = m.end()
        self.i = 0
        self.tree = self.binary(0)
        if self.i != len(self.toks):
            raise Bad(f"left over {self.toks[self.i:]} in {text!r}")
        if self.nodes > LIMIT["nodes"]:
            raise Bad(f"more than {LIMIT['nodes']} nodes: {text}")

    def peek(self):
        return self.toks[self.i] if self.i < len(self.toks) else None

    def next(self, want=None):
        t = self.peek()
        if t is None or want and t != want:
            raise Bad(f"expected {want or 'more'} after token {self.i} of {self.text!r}")
        self.i += 1
        return t

    LEVELS = [("||",), ("&&",), ("==", "!=", "<=", ">=", "<", ">"), ("+", "-"), ("*", "/", "%")]

    def binary(self, level):
        if level == len(self.LEVELS):
            return self.unary()
        left = self.binary(level + 1)
        while self.peek() in self.LEVELS[level]:
            op = self.next()
            self.nodes += 1
            if left[0] == "f64" and level != 2:
                raise Bad(f"parameter {left[1]['name']} used as a number in {self.text!r}")
            if left[0] == "enum":  # p.layout==thd: the word belongs to that parameter
                word = self.next()
                names = left[1]["names"]
                if op not in ("==", "!=") or word not in names:
                    raise Bad(f"{left[1]['name']} has no value {word!r} in {self.text!r}")
                right = ("int", names.index(word))
            elif left[0] == "f64":  # p.softcap>0: only against a number
                sign = -1 if self.peek() == "-" and self.next() else 1
                number = self.next()
                if not number[0].isdigit() or not math.isfinite(float(number)):
                    raise Bad(f"{number} is no number in {self.text!r}")
                right = ("num", sign * float(number))
            else:
                right = self.binary(level + 1)
            if right[0] in ("enum", "f64"):
                raise Bad(f"enum and f64 parameters stand left of a comparison: {self.text!r}")
            left = (op, left, right)
            if level == 2:
                break
        if left[0] in ("enum", "f64") and level < 2:
            raise Bad(f"parameter {left[1]['name']} used as a number in {self.text!r}")
        return left

    def unary(self):
        if self.peek() in ("-", "!"):
            self.nodes += 1
            op, child = self.next(), self.unary()
            if child[0] in ("enum", "f64"):
                raise Bad(f"parameter {child[1]['name']} used as a number in {self.text!r}")
            return ("neg" if op == "-" else "not", child)
        return self.atom()

    def tensor(self):
        name = self.next()
        if self.entry is None or name not in self.entry["_tensors"]:
            raise Bad(f"no tensor {name!r} in {self.text!r}")
        return name

    def param(self, name):
        p = self.op["_params"].get(name)
        if not p:
            raise Bad(f"no parameter {name!r} in {self.text!r}")
        self.op.setdefault("_used", set()).add(name)
        return p

    def atom(self):
        t = self.next()
        self.nodes += 1
        if t == "(":
            e = self.binary(0)
            self.next(")")
            return e
        if t[0].isdigit():
            if not t.isdigit() or int(t) >= 2**63:
                raise Bad(f"{t} is no integer of 64 bits in {self.text!r}")
            return ("int", int(t))
        if t.startswith("p."):
            p = self.param(t[2:])
            return (p["kind"] if p["kind"] in ("enum", "f64") else "param", p)
        if t.startswith("k.") or t == "$workers":
            if self.knobs is None or t != "$workers" and t[2:] not in self.knobs:
                raise Bad(f"{t} not allowed in {self.text!r}")
            return ("knob", t)
        if self.peek() == "(":
            self.next("(")
            if t in FLAT:
                a = self.binary(0)
                self.next(",")
                e = (t, a, self.binary(0))
            elif t in ("has", "dt", "rank", "bytes"):
                e = (t, self.tensor())
            elif t == "dim":
                name = self.tensor()
                self.next(",")
                e = ("dim", name, self.binary(0))
            elif t == "ftrunc":
                word = self.next()
                p = self.param(word[2:]) if word.startswith("p.") else {"kind": None}
                if p["kind"] != "f64":
                    raise Bad("ftrunc takes an f64 parameter")
                self.next(",")
                e = ("ftrunc", p, self.binary(0))
            else:
                raise Bad(f"no function {t!r}")
            self.next(")")
            return e
        if t in DTYPES:
            return ("int", DTYPES.index(t))
        if self.symbols and self.entry and t in self.entry["_symbols"]:
            return ("sym", t)
        raise Bad(f"unknown word {t!r} in {self.text!r}")


def fit(x):
    if not -(2**63) <= x < 2**63:
        raise Unbound("overflow")
    return x


def value(e, env):
    """The value of tree `e`: 64-bit integers, checked. Raises Unbound."""
    k = e[0]
    if k in ("int", "num"):
        return e[1]
    if k == "sym":
        if e[1] not in env.sym:
            raise Unbound(e[1])
        return env.sym[e[1]]
    if k in ("param", "enum", "f64"):
        return env.par[e[1]["name"]]
    if k == "knob":
        return env.knob[e[1]]
    if k == "||":
        return int(value(e[1], env) != 0 or value(e[2], env) != 0)
    if k == "&&":
        return int(value(e[1], env) != 0 and value(e[2], env) != 0)
    if k == "neg":
        return fit(-value(e[1], env))
    if k == "not":
        return int(value(e[1], env) == 0)
    if k == "has":
        return int(e[1] in env.shape)
    if k == "dt":
        return DTYPES.index(env.dtype[e[1]]) if e[1] in env.dtype else -1
    if k == "rank":
        return len(env.shape[e[1]]) if env.shape.get(e[1]) is not None else -1
    if k == "dim":
        s, i = env.shape.get(e[1]), value(e[2], env)
        return s[i] if s is not None and 0 <= i < len(s) else -1
    if k == "bytes":
        s = env.shape.get(e[1])
        return fit(math.prod(s) * SIZE[env.dtype[e[1]]]) if s is not None else 0
    if k == "ftrunc":
        x = env.par[e[1]["name"]] * float(value(e[2], env))
        if not math.isfinite(x):
            raise Unbound("overflow")
        return fit(int(x))
    a, b = value(e[1], env), value(e[2], env)
    if k in ("/", "%", "cdiv") and b <= 0:
        raise Unbound("division by a value <= 0")
    return fit(
        {
            "+": lambda: a + b,
            "-": lambda: a - b,
            "*": lambda: a * b,
            "/": lambda: a // b,
            "%": lambda: a % b,
            "==": lambda: int(a == b),
            "!=": lambda: int(a != b),
            "<=": lambda: int(a <= b),
            ">=": lambda: int(a >= b),
            "<": lambda: int(a < b),
            ">": lambda: int(a > b),
            "min": lambda: min(a, b),
            "max": lambda: max(a, b),
            "cdiv": lambda: -(-a // b),
        }[k]()
    )


class Env:
    """What words stand for: sym {name: int}, par {name: number}, shape {tensor: list},
    dtype {tensor: str}, knob {name: int}."""

    def __init__(self, par, shape, dtype):
        self.sym, self.par, self.shape, self.dtype, self.knob = (
            {},
            par,
            shape,
            dtype,
            {"$workers": 1},
        )


def split(text, sep):
    """Split at `sep` outside parentheses and braces."""
    out, depth, last = [], 0, 0
    for i, c in enumerate(text):
        depth += (c in "({") - (c in ")}")
        if c == sep and depth == 0:
            out.append(text[last:i].strip())
            last = i + 1
    return out + [text[last:].strip()]


def split_bar(text):
    """Split at single '|' (never '||')."""
    return [x.strip() for x in re.split(r"(?<!\|)\|(?!\|)", text)]


class Shape:
    def __init__(self, text, op, entry):
        if len(text) > LIMIT["shape"]:
            raise Bad(f"shape too long: {text}")
        self.like, self.alts = None, []
        if text.startswith("like "):
            self.like = text[5:].strip()
            if self.like not in entry["_tensors"]:
                raise Bad(f"like {self.like}: no such tensor")
            return
        for alt in split(text, ";"):
            guard = None
            if alt.startswith("{"):
                g, alt = alt[1:].split("}", 1)
                guard = Parser(g, op, entry, symbols=False).tree
            dims = []
            for d in split(alt, ","):
                m = re.fullmatch(r"([A-Za-z_]\w*)(?:([-+])(\d+))?", d)
                bare = (
                    (m[1], int((m[2] or "+") + (m[3] or "0")))
                    if m and m[1] in entry["_symbols"]
                    else None
                )
                dims.append((d, bare, [Parser(x, op, entry).tree for x in split_bar(d)]))
            if len(dims) > LIMIT["rank"]:
                raise Bad(f"rank over {LIMIT['rank']}")
            self.alts.append((guard, dims))

    def pick(self, env, rank=None):
        """Dims of the first alternative whose guard holds and whose rank fits."""
        for guard, dims in self.alts:
            if (guard is None or value(guard, env)) and rank in (None, len(dims)):
                return dims
        return None
