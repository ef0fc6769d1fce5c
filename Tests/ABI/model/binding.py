"""Executable model of how a call is bound: symbols from shapes, rules, the shapes of outputs.

The host must decide exactly as this file does, in this order.
"""

from .grammar import Bad, Env, Unbound, split, value
from .registration import Refused, check_gen, legal


def bind(op, entry, tensors, params):
    """Symbols and all shapes of a call, as an Env. Raises Refused.

    tensors: {name: (shape or None for an output to be made, dtype or None)}.
    """
    if entry not in op["_entries"]:
        raise Refused("E_NOT_FOUND", f"{op['id']} has no entry {entry}")
    e = op["_entries"][entry]
    for n in tensors:  # 1 names
        if n not in e["_tensors"]:
            raise Refused("E_INVALID", f"{op['id']} {entry} has no tensor {n}")
    par = {}
    for n in params:  # 2 parameters
        if n not in op["_params"]:
            raise Refused("E_PARAM", f"{op['id']} has no parameter {n}")
    for p in op["params"]:
        if p["name"] not in params and "required" in p["flags"]:
            raise Refused("E_PARAM", f"{p['name']} is required")
        par[p["name"]] = legal(p, params.get(p["name"], p["default"]))
    env = Env(par, {n: (list(s) if s is not None else None) for n, (s, _) in tensors.items()}, {})
    env.dtype = {n: d for n, (_, d) in tensors.items() if d}
    try:
        for n, t in e["_tensors"].items():  # 3 presence
            if n in tensors and not value(t["_allowed"], env):
                raise Refused("E_INVALID", f"tensor {n} is not used by this mode")
            if n not in tensors and value(t["_needed"], env):
                raise Refused("E_INVALID", f"tensor {n} is missing")
            if n in tensors and tensors[n][0] is None and not t["_out"]:
                raise Refused("E_INVALID", f"tensor {n} is an input without a shape")
        var = {}  # 4 storage types
        for n, t in e["_tensors"].items():
            d = env.dtype.get(n)
            if d and t["dtype_var"] and "or_f32" not in t["flags"]:
                if var.setdefault(t["dtype_var"], d) != d:
                    raise Refused("E_DTYPE", f"{n} is {d}, expected {var[t['dtype_var']]}")
        for n, t in e["_tensors"].items():
            if n not in tensors:
                continue
            d = env.dtype.setdefault(n, var.get(t["dtype_var"], t["dtypes"][0]))
            if (
                d not in t["dtypes"]
                or "or_f32" in t["flags"]
                and t["dtype_var"] in var
                and d not in ("f32", var[t["dtype_var"]])
            ):
                raise Refused("E_DTYPE", f"{n} may not be {d}")
        late = []  # 5 bind bare symbols
        for n, t in e["_tensors"].items():
            s = env.shape.get(n)
            if s is None or t["_shape"].like:
                continue
            dims = t["_shape"].pick(env, len(s))
            if dims is None:
                raise Refused("E_SHAPE", f"{n} has rank {len(s)}")
            for i, (text, bare, exprs) in enumerate(dims):
                if (
                    bare
                    and not t["_out"]
                    and bare[0] not in e["_derived"]
                    and bare[0] not in env.sym
                ):
                    env.sym[bare[0]] = s[i] - bare[1]
                    if env.sym[bare[0]] < 0:
                        raise Refused("E_SHAPE", f"{n} dim {i} ({text}) is {s[i]}")
                else:
                    late.append((n, i, text, exprs, s[i]))
        for s, soft, x in e["_let"]:  # 6 derived symbols
            if soft:
                try:
                    if s not in env.sym:
                        env.sym[s] = value(x, env)
                except Unbound:
                    pass
            else:
                env.sym[s] = value(x, env)
        for r in e["rules"]:  # 7 rules
            if not value(r["_expr"], env):
                raise Refused(r["code"], r["text"])
        for n, i, text, exprs, got in late:  # 8 the other dims
            want = [value(x, env) for x in exprs]
            if got not in want:
                raise Refused("E_SHAPE", f"{n} dim {i} ({text}) is {got}, expected {want}")
        for n, t in e["_tensors"].items():  # 9 outputs to be made, `like`
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
    """Shape of a tensor that the call does not bring.

    Of 'a|b' the first (an output) or the last (generated input).
    """
    dims = t["_shape"].pick(env)
    if dims is None:
        raise Refused("E_SHAPE", f"{t['name']} has no shape here")
    return [value(x[-1 if last else 0], env) for _, _, x in dims]


def generate(op, preset):
    """Shapes of a problem from symbols (presets, bench --shape).

    It has the needed inputs, the listed optional ones and the needed outputs.
    """
    e = op["_entries"][preset["entry"]]
    params = {}
    for item in filter(None, split(preset["params"], ";")):
        n, v = item.split("=")
        p = op["_params"][n]
        params[n] = {
            "bool": lambda: v == "true",
            "i64": lambda: int(v),
            "f64": lambda: float(v),
            "enum": lambda: v,
        }[p["kind"]]()
    par = {p["name"]: legal(p, params.get(p["name"], p["default"])) for p in op["params"]}
    env = Env(par, {}, {})
    env.sym = {
        k.strip(): int(v)
        for k, v in (x.split("=") for x in filter(None, preset["shape"].split(",")))
    }
    if not preset["shape"]:  # a demo takes q, k, v from data; this is the size of the data we ship
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
