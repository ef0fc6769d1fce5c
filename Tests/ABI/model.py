"""Executable model of the descriptor rules of ABI 1.0: expressions, shapes, validation, binding.

    python model.py check DESCRIPTORS GOLDEN [GOLDEN ...]   validate all descriptors and presets, bind every call of
                                                            every case, refuse the negative cases with the stated code
    python model.py show DESCRIPTORS OP ENTRY               one line per tensor

Needs Python 3.8 and nothing else. The host must decide exactly as this file does.
"""
import json, math, os, re, sys

from negative import NEGATIVE  # calls that must be refused

DTYPES = ["f32", "bf16", "f16", "f64", "i32", "i64", "u8", "bool", "i8"]
SIZE = dict(f32=4, bf16=2, f16=2, f64=8, i32=4, i64=8, u8=1, bool=1, i8=1)
ROLES = ["in", "out", "weight", "state", "state_out", "saved"]
KINDS = {"forward": 1, "backward": 2, "step": 3, "special": 4}
CODES = ["E_INVALID", "E_UNSUPPORTED", "E_NOT_FOUND", "E_SHAPE", "E_DTYPE", "E_LAYOUT", "E_PARAM"]
LIMIT = dict(expr=256, nodes=128, shape=256, let=512, name=63, tensors=64, params=64, symbols=64, rules=32, entries=16, rank=8)
RESERVED = {"kernel", "outputs", "out", "entry", "params"}
FLAT = {"min": 2, "max": 2, "cdiv": 2}


class Refused(Exception):
    def __init__(self, code, text):
        super().__init__(f"{code}: {text}")
        self.code = code


class Bad(Exception):
    """A descriptor that may not be registered."""


class Unbound(Exception):
    pass


# ---- expressions: text -> nested tuples -> int64 --------------------------------------------------------------------

TOKEN = re.compile(r"\s*(?:(\d+\.\d*(?:[eE][-+]?\d+)?|\d+[eE][-+]?\d+|\d+)|(p\.\w+|k\.\w+|\$workers|[A-Za-z_]\w*)|(\|\||&&|==|!=|<=|>=|[-+*/%<>()!,]))")


class Parser:
    """`scope`: op, entry (dicts) or None; knobs: allow k.* and $workers; symbols: allow symbols."""

    def __init__(self, text, op, entry, symbols=True, knobs=None):
        if len(text) > LIMIT["expr"]:
            raise Bad(f"expression longer than {LIMIT['expr']}: {text}")
        self.text, self.op, self.entry, self.symbols, self.knobs, self.nodes = text, op, entry, symbols, knobs, 0
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
            if left[0] == "enum":                       # p.layout==thd: the word belongs to that parameter
                word = self.next()
                names = left[1]["names"]
                if op not in ("==", "!=") or word not in names:
                    raise Bad(f"{left[1]['name']} has no value {word!r} in {self.text!r}")
                right = ("int", names.index(word))
            elif left[0] == "f64":                      # p.softcap>0: only against a number
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
    if not -2**63 <= x < 2**63:
        raise Unbound("overflow")
    return x


def value(e, env):
    """env: sym {name: int}, par {name: number}, shape {tensor: list}, dtype {tensor: str}, knob {}"""
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
    return fit({"+": lambda: a + b, "-": lambda: a - b, "*": lambda: a * b, "/": lambda: a // b, "%": lambda: a % b,
                "==": lambda: int(a == b), "!=": lambda: int(a != b), "<=": lambda: int(a <= b), ">=": lambda: int(a >= b),
                "<": lambda: int(a < b), ">": lambda: int(a > b), "min": lambda: min(a, b), "max": lambda: max(a, b),
                "cdiv": lambda: -(-a // b)}[k]())


class Env:
    def __init__(self, par, shape, dtype):
        self.sym, self.par, self.shape, self.dtype, self.knob = {}, par, shape, dtype, {"$workers": 1}


# ---- shapes ---------------------------------------------------------------------------------------------------------

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
                bare = (m[1], int((m[2] or "+") + (m[3] or "0"))) if m and m[1] in entry["_symbols"] else None
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


# ---- registration ---------------------------------------------------------------------------------------------------

def names(text):
    return [x.strip() for x in text.split(",")] if text else []


def prepare(op):
    """Validate one descriptor and parse everything in it. Raises Bad."""
    word = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,%d}" % (LIMIT["name"] - 1))
    op["_params"] = {p["name"]: p for p in op["params"]}
    if len(op["_params"]) != len(op["params"]) or len(op["params"]) > LIMIT["params"]:
        raise Bad("parameter names")
    for p in op["params"]:
        if not word.fullmatch(p["name"]) or p["name"] in RESERVED:
            raise Bad(f"parameter name {p['name']}")
        if "required" not in p["flags"]:
            legal(p, p["default"], Bad)
    op["_used"] = set()
    entries = {e["name"]: e for e in op["entries"]}
    op["_entries"] = entries
    if len(entries) != len(op["entries"]) or len(entries) > LIMIT["entries"] or "forward" not in entries:
        raise Bad("entry names")
    if {t["dtype"] for t in op["tolerance"]} - set(DTYPES):
        raise Bad("tolerance")
    for e in op["entries"]:
        where = f"{op['id']}.{e['name']}"
        e["_tensors"] = {t["name"]: t for t in e["tensors"]}
        e["_symbols"] = names(e["symbols"])
        if len(e["_tensors"]) != len(e["tensors"]) or len(e["tensors"]) > LIMIT["tensors"] or len(e["_symbols"]) > LIMIT["symbols"]:
            raise Bad(f"{where}: too many or repeated names")
        if set(e["_symbols"]) & (set(DTYPES) | set(FLAT)):
            raise Bad(f"{where}: symbol hides a word of the grammar")
        if e["kind"] not in KINDS or (e["kind"] == "backward") != (e["of"] is not None and e["name"].startswith("backward")) and e["kind"] == "backward":
            raise Bad(f"{where}: kind")
        if e["of"] is not None and e["of"] not in entries:
            raise Bad(f"{where}: of")
        bound = set()
        for t in e["tensors"]:
            if not word.fullmatch(t["name"]) or t["name"] in RESERVED or t["name"] in op["_params"]:
                raise Bad(f"{where}: tensor name {t['name']}")
            if t["role"] not in ROLES or set(t["dtypes"]) - set(DTYPES) or not t["dtypes"] or set(t["flags"]) - {"or_f32", "strided_last"}:
                raise Bad(f"{where}: {t['name']}: role, dtypes or flags")
            t["_out"] = t["role"] in ("out", "state_out") or t["role"] == "saved" and e["of"] is None
            t["_shape"] = Shape(t["shape"], op, e)
            check_gen(t["gen"], op, e)
            for key in ("needed", "allowed"):
                t["_" + key] = Parser(t[key], op, e, symbols=False).tree if t[key] is not None else ("int", 1)
            if not t["_out"]:
                for _, dims in t["_shape"].alts:
                    bound |= {b[0] for _, b, _ in dims if b}
            pair = t["pair"]
            if (t["role"] == "state_out") != (pair is not None and e["of"] is None):
                raise Bad(f"{where}: {t['name']}: pair")
            if pair is not None:
                home = e if e["of"] is None else entries[e["of"]]
                if pair not in {x["name"] for x in home["tensors"]}:
                    raise Bad(f"{where}: {t['name']}: pair {pair} not in {home['name']}")
                if e["of"] is None and e["_tensors"][pair]["role"] != "state":
                    raise Bad(f"{where}: {t['name']}: pair is no state")
        e["_let"] = []
        if len(e["let"] or "") > LIMIT["let"]:
            raise Bad(f"{where}: let too long")
        for item in filter(None, split(e["let"] or "", ";")):
            s, x = item.split("=", 1)
            soft = x.startswith("?")
            if s.strip() not in e["_symbols"]:
                raise Bad(f"{where}: let {s} is no symbol")
            e["_let"].append((s.strip(), soft, Parser(x[1:] if soft else x, op, e).tree))
        e["_derived"] = {s for s, soft, _ in e["_let"] if not soft}
        lost = [s for s in e["_symbols"] if s not in bound and s not in {x for x, _, _ in e["_let"]}]
        if lost:
            raise Bad(f"{where}: nothing binds {lost}")
        for b in filter(None, split(e["buckets"] or "", ";")):
            s, rule = b.split(":")
            if rule not in ("pow2", "half2", "exact") or Parser(s, op, e).tree is None:
                raise Bad(f"{where}: bucket {b}")
        e["_cost"] = {k: Parser(e[k], op, e).tree for k in ("flops", "bytes") if e[k] is not None}
    structural = {p["name"] for p in op["params"] if "structural" in p["flags"]}
    loose = op["_used"] - structural
    if loose:
        raise Bad(f"{op['id']}: {sorted(loose)} appear in shapes, conditions or costs but are not structural")
    for e in op["entries"]:
        if len(e["rules"]) > LIMIT["rules"]:
            raise Bad("too many rules")
        for r in e["rules"]:
            if r["code"] not in CODES:
                raise Bad(f"rule code {r['code']}")
            r["_expr"] = Parser(r["expr"], op, e).tree
    for p in op["presets"]:
        if p["entry"] not in entries or set(p["flags"]) - {"demo", "bench"}:
            raise Bad(f"preset {p['name']}")
    if sum("demo" in p["flags"] for p in op["presets"]) != 1 or not any("bench" in p["flags"] for p in op["presets"]):
        raise Bad(f"{op['id']}: one demo preset and at least one bench preset")
    return op


def legal(p, v, error=None):
    """The stored value of a parameter, or refuse."""
    def no(why):
        raise (Bad(f"{p['name']}: {why}") if error is Bad else Refused("E_PARAM", f"{p['name']}: {why}"))
    if p["kind"] == "enum":
        if v not in p["names"]:
            no(f"{v!r} is none of {p['names']}")
        return p["names"].index(v)
    if p["kind"] == "bool":
        if not isinstance(v, bool):
            no(f"{v!r} is no bool")
        v = int(v)
    elif p["kind"] == "i64":
        if isinstance(v, bool) or not isinstance(v, int):
            no(f"{v!r} is no integer")
    else:
        if isinstance(v, bool) or not isinstance(v, (int, float)) or not math.isfinite(v):
            no(f"{v!r} is no finite number")
        v = float(v)
    lo, hi = p["min"], p["max"]
    if lo is not None and (v < lo or v == lo and "min_open" in p["flags"]) or hi is not None and (v > hi or v == hi and "max_open" in p["flags"]):
        no(f"{v} is outside its range")
    return v


# ---- binding --------------------------------------------------------------------------------------------------------

def bind(op, entry, tensors, params):
    """tensors: {name: (shape or None for an output to be made, dtype or None)}. Returns Env with symbols and all shapes."""
    if entry not in op["_entries"]:
        raise Refused("E_NOT_FOUND", f"{op['id']} has no entry {entry}")
    e = op["_entries"][entry]
    for n in tensors:                                                             # 1 names
        if n not in e["_tensors"]:
            raise Refused("E_INVALID", f"{op['id']} {entry} has no tensor {n}")
    par = {}
    for n in params:                                                              # 2 parameters
        if n not in op["_params"]:
            raise Refused("E_PARAM", f"{op['id']} has no parameter {n}")
    for p in op["params"]:
        if p["name"] not in params and "required" in p["flags"]:
            raise Refused("E_PARAM", f"{p['name']} is required")
        par[p["name"]] = legal(p, params.get(p["name"], p["default"]))
    env = Env(par, {n: (list(s) if s is not None else None) for n, (s, _) in tensors.items()}, {})
    env.dtype = {n: d for n, (_, d) in tensors.items() if d}
    try:
        for n, t in e["_tensors"].items():                                        # 3 presence
            if n in tensors and not value(t["_allowed"], env):
                raise Refused("E_INVALID", f"tensor {n} is not used by this mode")
            if n not in tensors and value(t["_needed"], env):
                raise Refused("E_INVALID", f"tensor {n} is missing")
            if n in tensors and tensors[n][0] is None and not t["_out"]:
                raise Refused("E_INVALID", f"tensor {n} is an input without a shape")
        var = {}                                                                  # 4 storage types
        for n, t in e["_tensors"].items():
            d = env.dtype.get(n)
            if d and t["dtype_var"] and "or_f32" not in t["flags"]:
                if var.setdefault(t["dtype_var"], d) != d:
                    raise Refused("E_DTYPE", f"{n} is {d}, expected {var[t['dtype_var']]}")
        for n, t in e["_tensors"].items():
            if n not in tensors:
                continue
            d = env.dtype.setdefault(n, var.get(t["dtype_var"], t["dtypes"][0]))
            if d not in t["dtypes"] or "or_f32" in t["flags"] and t["dtype_var"] in var and d not in ("f32", var[t["dtype_var"]]):
                raise Refused("E_DTYPE", f"{n} may not be {d}")
        late = []                                                                 # 5 bind bare symbols
        for n, t in e["_tensors"].items():
            s = env.shape.get(n)
            if s is None or t["_shape"].like:
                continue
            dims = t["_shape"].pick(env, len(s))
            if dims is None:
                raise Refused("E_SHAPE", f"{n} has rank {len(s)}")
            for i, (text, bare, exprs) in enumerate(dims):
                if bare and not t["_out"] and bare[0] not in e["_derived"] and bare[0] not in env.sym:
                    env.sym[bare[0]] = s[i] - bare[1]
                    if env.sym[bare[0]] < 0:
                        raise Refused("E_SHAPE", f"{n} dim {i} ({text}) is {s[i]}")
                else:
                    late.append((n, i, text, exprs, s[i]))
        for s, soft, x in e["_let"]:                                              # 6 derived symbols
            if soft:
                try:
                    if s not in env.sym:
                        env.sym[s] = value(x, env)
                except Unbound:
                    pass
            else:
                env.sym[s] = value(x, env)
        for r in e["rules"]:                                                      # 7 rules
            if not value(r["_expr"], env):
                raise Refused(r["code"], r["text"])
        for n, i, text, exprs, got in late:                                       # 8 the other dims
            want = [value(x, env) for x in exprs]
            if got not in want:
                raise Refused("E_SHAPE", f"{n} dim {i} ({text}) is {got}, expected {want}")
        for n, t in e["_tensors"].items():                                        # 9 outputs to be made, `like`
            if n not in tensors:
                continue
            s = t["_shape"]
            if s.like:
                want = env.shape.get(s.like)
                want = want if want is not None else made(e["_tensors"][s.like], env)
            elif env.shape[n] is None:
                want = made(t, env)
            else:
                continue
            if env.shape[n] is None:
                env.shape[n] = want
            elif env.shape[n] != want:
                raise Refused("E_SHAPE", f"{n} is {env.shape[n]}, expected {want}")
        env.cost = {k: value(x, env) for k, x in e["_cost"].items()}
        if any(v < 0 for v in env.cost.values()):
            raise Refused("E_SHAPE", "negative cost")
    except Unbound as u:
        raise Refused("E_SHAPE", f"{op['id']} {entry}: {u}")
    return env


def made(t, env, last=False):
    """Shape of a tensor that the call does not bring: of 'a|b' the first (an output) or the last (generated input)."""
    dims = t["_shape"].pick(env)
    if dims is None:
        raise Refused("E_SHAPE", f"{t['name']} has no shape here")
    return [value(x[-1 if last else 0], env) for _, _, x in dims]


def generate(op, preset):
    """Shapes of a problem from symbols (presets, bench --shape): needed inputs, the listed optional ones, needed outputs."""
    e = op["_entries"][preset["entry"]]
    params = {}
    for item in filter(None, split(preset["params"], ";")):
        n, v = item.split("=")
        p = op["_params"][n]
        params[n] = {"bool": lambda: v == "true", "i64": lambda: int(v), "f64": lambda: float(v), "enum": lambda: v}[p["kind"]]()
    par = {p["name"]: legal(p, params.get(p["name"], p["default"])) for p in op["params"]}
    env = Env(par, {}, {})
    env.sym = {k.strip(): int(v) for k, v in (x.split("=") for x in filter(None, preset["shape"].split(",")))}
    if not preset["shape"]:                                # a demo takes q, k, v from data; this is the size of the data we ship
        env.sym = dict(B=1, Hq=12, Hkv=12, Nq=512, Nk=512, D=32, Dv=32)
    extra = {}
    for item in filter(None, split(preset["tensors"], ";")):
        n, _, g = item.partition("=")
        extra[n.strip()] = g
        if n.strip() not in e["_tensors"]:
            raise Bad(f"preset {preset['name']}: no tensor {n}")
        env.shape[n.strip()] = None
    for _ in (0, 1):
        for s, soft, x in e["_let"]:
            try:
                if s not in env.sym:
                    env.sym[s] = value(x, env)
            except Unbound:
                pass
    tensors = {}
    for n, t in e["_tensors"].items():
        if n in extra or value(t["_needed"], env):
            env.shape[n] = None if t["_out"] else made(t, env, True)
            tensors[n] = (env.shape[n], None)
            if extra.get(n):
                check_gen(extra[n], op, e)
    got = bind(op, preset["entry"], tensors, params)
    for k, v in env.sym.items():
        if got.sym.get(k, v) != v:
            raise Bad(f"{op['id']} preset {preset['name']}: {k} is {got.sym[k]}, asked {v}")
    return got


# generator of test data -> numbers of arguments; an argument is a number or an expression
GENS = dict(normal=(0, 2), uniform=(2,), zeros=(0,), ones=(0,), weight=(1,), bernoulli=(1,), ints=(2,), cuts=(1,), lengths=(2,),
            pages=(1,), distinct=(1,), slopes=(0,), sin=(0,), cos=(0,))


def check_gen(text, op, e):
    m = re.fullmatch(r"([a-z]+)(?:\((.*)\))?", text)
    args = split(m[2], ",") if m and m[2] else []
    if not m or len(args) not in GENS.get(m[1], ()):
        raise Bad(f"{op['id']}.{e['name']}: gen {text!r}")
    for a in args:
        if not re.fullmatch(r"-?\d+(\.\d*)?", a):
            Parser(a, op, e)


# ---- the check ------------------------------------------------------------------------------------------------------

def load(folder):
    ops = {}
    for f in sorted(os.listdir(folder)):
        if f.endswith(".json"):
            op = json.load(open(os.path.join(folder, f)))
            ops[op["id"]] = prepare(op)
    return ops


def calls(case):
    """(entry, params, feed, state_in, state_out, expect) of a case, see golden/README.md."""
    if case.get("steps"):
        return case["steps"]
    whole = lambda ns: {n: {"tensor": n} for n in ns}
    up = [n for n in case["inputs"] if n[0] == "d" and n[1:] in case["outputs"]]
    out = [{"entry": "forward", "feed": whole(n for n in case["inputs"] if n not in up), "expect": whole(case["outputs"])}]
    if case["pass"] == "forward+backward":
        out.append({"entry": "backward", "feed": whole(case["inputs"]), "expect": whole(case["grads"])})
    return out


SHORT = {"float32": "f32", "int32": "i32", "uint8": "u8", "int64": "i64"}


def bound_calls(op, case):
    """Yield (call, tensors, params) for every call, shapes only; registers are carried along."""
    info = {n: x for key in ("inputs", "outputs", "grads") for n, x in case[key].items()}

    def cut(ref):
        s = list(info[ref["tensor"]]["shape"])
        if "index" in ref:
            del s[ref["axis"]]
        elif "start" in ref:
            s[ref["axis"]] = ref["stop"] - ref["start"]
        return s, SHORT[info[ref["tensor"]]["dtype"]]
    reg = {}
    for c in calls(case):
        t = {slot: cut(r) for slot, r in c["feed"].items()}
        t.update({slot: reg[r] for slot, r in (c.get("state_in") or {}).items()})
        t.update({slot: cut(r) for slot, r in c["expect"].items()})
        for slot in c.get("state_out") or {}:
            t.setdefault(slot, (None, None))
        params = {**case["params"], **(c.get("params") or {})}
        yield c, t, params
        env = bind(op, c["entry"], complete(op, c["entry"], t, params), params)
        for slot, r in (c.get("state_out") or {}).items():
            reg[r] = (env.shape[slot], env.dtype[slot])


def complete(op, entry, t, params):
    """Needed outputs that a case does not compare are requested all the same."""
    e, t = op["_entries"][entry], dict(t)
    par = {p["name"]: legal(p, params.get(p["name"], p["default"])) for p in op["params"] if p["name"] in params or "required" not in p["flags"]}
    env = Env(par, {n: s for n, (s, _) in t.items()}, {n: d for n, (_, d) in t.items() if d})
    for n, x in e["_tensors"].items():
        if x["_out"] and n not in t and value(x["_needed"], env):
            t[n] = (None, None)
    return t


def check(folder, goldens):
    ops, bad = load(folder), 0
    print("descriptors:", ", ".join(f"{o}({sum(len(e['tensors']) for e in d['entries'])} tensors, {len(d['entries'])} entries)" for o, d in ops.items()))
    n = 0
    for op in ops.values():
        for p in op["presets"]:
            generate(op, p)
            n += 1
    print(f"presets bound: {n}")
    cases = {}
    for root in goldens:
        count, fwd = {}, 0
        for name in sorted(os.listdir(root)):
            for case in sorted(os.listdir(os.path.join(root, name))) if os.path.isdir(os.path.join(root, name)) else []:
                f = os.path.join(root, name, case, "case.json")
                if not os.path.exists(f):
                    continue
                c = json.load(open(f))
                cases[name, case] = c
                try:
                    for call, t, params in bound_calls(ops[name], c):
                        env = bind(ops[name], call["entry"], complete(ops[name], call["entry"], t, params), params)
                        assert env.cost["flops"] >= 0 and all(env.shape[x] == s for x, (s, _) in t.items() if s is not None)
                        count[name] = count.get(name, 0) + 1
                except Exception as x:
                    bad += 1
                    print(f"FAIL {name}/{case} {call['entry']}: {type(x).__name__} {x}")
        print(f"calls bound in {len(count)} operators: {sum(count.values())}", count)
    done = 0
    for name, case, entry, change, code in NEGATIVE:
        if (name, case) not in cases:
            continue
        _, t, params = next(x for x in bound_calls(ops[name], cases[name, case]) if x[0]["entry"] == entry)
        t, params = complete(ops[name], entry, t, params), dict(params)
        for key, v in change.items():
            kind, _, arg = key.partition(" ")
            if kind == "drop":
                for x in v.split():
                    t.pop(x)
            elif kind == "shape":
                t[arg] = (v, t[arg][1] if arg in t else None)
            elif kind == "type":
                t[arg] = (t[arg][0], v)
            elif kind == "add":
                t[arg] = (v[0], v[1])
            elif kind == "set":
                params[arg] = v
            elif kind == "unset":
                params.pop(arg, None)
            elif kind == "entry":
                entry = v
        try:
            bind(ops[name], entry, t, params)
            got = "accepted"
        except Refused as r:
            got = r.code
        done += 1
        if got != code:
            bad += 1
            print(f"FAIL negative {name}/{case} {entry} {change}: {got}, expected {code}")
    print(f"negative cases: {done} of {len(NEGATIVE)}" + ("" if done else " (their base cases are in golden/, not here)"))
    if 0 < done < len(NEGATIVE):
        bad += 1
    broken = refuse_descriptors(ops)
    print(f"broken descriptors refused: {broken[0]} of {broken[1]}")
    bad += broken[1] - broken[0]
    print("FAILED" if bad else "all passed")
    return 1 if bad else 0


def refuse_descriptors(ops):
    """Descriptors that registration must not accept."""
    import copy
    strip = lambda x: {k: strip(v) for k, v in x.items() if k[0] != "_"} if isinstance(x, dict) else [strip(v) for v in x] if isinstance(x, list) else x
    edits = [lambda d: d["entries"][0]["tensors"][0].update(shape="B,Hq,Nq,Z"), lambda d: d["entries"][0]["rules"][0].update(expr="Hq%"),
             lambda d: d["entries"][0].update(flops="p.scale"), lambda d: d["params"][0].update(default="nope"),
             lambda d: d["entries"][0]["tensors"][0].update(name="params"), lambda d: d["entries"][0]["rules"][0].update(expr="1" + "+1" * 100),
             lambda d: d["entries"][0].update(symbols=d["entries"][0]["symbols"] + ",Zz"), lambda d: d["entries"][0]["tensors"][1].update(needed="Nq>1"),
             lambda d: d["entries"][0]["tensors"].append(d["entries"][0]["tensors"][0]), lambda d: d["entries"][1]["tensors"][-1].update(pair="nothing")]
    good = 0
    for edit in edits:
        d = copy.deepcopy(strip(ops["softmax"]))
        edit(d)
        try:
            prepare(d)
            print("FAIL: accepted a broken descriptor", edits.index(edit))
        except Bad:
            good += 1
    return good, len(edits)


if __name__ == "__main__":
    if len(sys.argv) > 3 and sys.argv[1] == "check":
        sys.exit(check(sys.argv[2], sys.argv[3:]))
    if len(sys.argv) == 5 and sys.argv[1] == "show":
        for t in load(sys.argv[2])[sys.argv[3]]["_entries"][sys.argv[4]]["tensors"]:
            print(f"{t['name']:22}{t['role']:10}{t['shape']:60}{'|'.join(t['dtypes']):14} needed {t['needed'] or 'always'}  allowed {t['allowed'] or 'always'}")
        sys.exit(0)
    sys.exit(__doc__)
