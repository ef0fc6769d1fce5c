"""What a descriptor must fulfil to be registered, and what a parameter may be set to.

A descriptor is the dictionary of Tests/AttuneCoreTests/Descriptors/*.json. `prepare` adds what it
parsed under names that begin with "_".
"""

import json
import math
import os
import re

from .grammar import DTYPES, FLAT, LIMIT, Bad, Parser, Shape, split

ROLES = ["in", "out", "weight", "state", "state_out", "saved"]
KINDS = {"forward": 1, "backward": 2, "step": 3, "special": 4}
CODES = ["E_INVALID", "E_UNSUPPORTED", "E_NOT_FOUND", "E_SHAPE", "E_DTYPE", "E_LAYOUT", "E_PARAM"]
RESERVED = {"kernel", "outputs", "out", "entry", "params"}


class Refused(Exception):
    """A call that is not accepted: `code` says why."""

    def __init__(self, code, text):
        super().__init__(f"{code}: {text}")
        self.code = code


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
    if (
        len(entries) != len(op["entries"])
        or len(entries) > LIMIT["entries"]
        or "forward" not in entries
    ):
        raise Bad("entry names")
    if {t["dtype"] for t in op["tolerance"]} - set(DTYPES):
        raise Bad("tolerance")
    for e in op["entries"]:
        where = f"{op['id']}.{e['name']}"
        e["_tensors"] = {t["name"]: t for t in e["tensors"]}
        e["_symbols"] = names(e["symbols"])
        if (
            len(e["_tensors"]) != len(e["tensors"])
            or len(e["tensors"]) > LIMIT["tensors"]
            or len(e["_symbols"]) > LIMIT["symbols"]
        ):
            raise Bad(f"{where}: too many or repeated names")
        if set(e["_symbols"]) & (set(DTYPES) | set(FLAT)):
            raise Bad(f"{where}: symbol hides a word of the grammar")
        if (
            e["kind"] not in KINDS
            or (e["kind"] == "backward")
            != (e["of"] is not None and e["name"].startswith("backward"))
            and e["kind"] == "backward"
        ):
            raise Bad(f"{where}: kind")
        if e["of"] is not None and e["of"] not in entries:
            raise Bad(f"{where}: of")
        bound = set()
        for t in e["tensors"]:
            if not word.fullmatch(t["name"]) or t["name"] in RESERVED or t["name"] in op["_params"]:
                raise Bad(f"{where}: tensor name {t['name']}")
            if (
                t["role"] not in ROLES
                or set(t["dtypes"]) - set(DTYPES)
                or not t["dtypes"]
                or set(t["flags"]) - {"or_f32", "strided_last"}
            ):
                raise Bad(f"{where}: {t['name']}: role, dtypes or flags")
            t["_out"] = (
                t["role"] in ("out", "state_out") or t["role"] == "saved" and e["of"] is None
            )
            t["_shape"] = Shape(t["shape"], op, e)
            check_gen(t["gen"], op, e)
            for key in ("needed", "allowed"):
                t["_" + key] = (
                    Parser(t[key], op, e, symbols=False).tree if t[key] is not None else ("int", 1)
                )
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
        lost = [
            s for s in e["_symbols"] if s not in bound and s not in {x for x, _, _ in e["_let"]}
        ]
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
        raise Bad(
            f"{op['id']}: {sorted(loose)} appear in shapes, conditions or costs"
            " but are not structural"
        )
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
    if sum("demo" in p["flags"] for p in op["presets"]) != 1 or not any(
        "bench" in p["flags"] for p in op["presets"]
    ):
        raise Bad(f"{op['id']}: one demo preset and at least one bench preset")
    return op


def legal(p, v, error=None):
    """The stored value of a parameter, or refuse."""

    def no(why):
        raise (
            Bad(f"{p['name']}: {why}")
            if error is Bad
            else Refused("E_PARAM", f"{p['name']}: {why}")
        )

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
    if (
        lo is not None
        and (v < lo or v == lo and "min_open" in p["flags"])
        or hi is not None
        and (v > hi or v == hi and "max_open" in p["flags"])
    ):
        no(f"{v} is outside its range")
    return v


GENS = dict(
    normal=(0, 2),
    uniform=(2,),
    zeros=(0,),
    ones=(0,),
    weight=(1,),
    bernoulli=(1,),
    ints=(2,),
    cuts=(1,),
    lengths=(2,),
    pages=(1,),
    distinct=(1,),
    slopes=(0,),
    sin=(0,),
    cos=(0,),
)


def check_gen(text, op, e):
    m = re.fullmatch(r"([a-z]+)(?:\((.*)\))?", text)
    args = split(m[2], ",") if m and m[2] else []
    if not m or len(args) not in GENS.get(m[1], ()):
        raise Bad(f"{op['id']}.{e['name']}: gen {text!r}")
    for a in args:
        if not re.fullmatch(r"-?\d+(\.\d*)?", a):
            Parser(a, op, e)


def load(folder):
    ops = {}
    for f in sorted(os.listdir(folder)):
        if f.endswith(".json"):
            op = json.load(open(os.path.join(folder, f)))
            ops[op["id"]] = prepare(op)
    return ops
