"""The calls of a golden case as shapes and types, and ways to spoil them."""

from .binding import bind
from .grammar import Env, value
from .registration import legal


def calls(case):
    """(entry, params, feed, state_in, state_out, expect) of a case, see golden/README.md."""
    if case.get("steps"):
        return case["steps"]
    whole = lambda ns: {n: {"tensor": n} for n in ns}
    up = [n for n in case["inputs"] if n[0] == "d" and n[1:] in case["outputs"]]
    out = [
        {
            "entry": "forward",
            "feed": whole(n for n in case["inputs"] if n not in up),
            "expect": whole(case["outputs"]),
        }
    ]
    if case["pass"] == "forward+backward":
        out.append(
            {"entry": "backward", "feed": whole(case["inputs"]), "expect": whole(case["grads"])}
        )
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
    par = {
        p["name"]: legal(p, params.get(p["name"], p["default"]))
        for p in op["params"]
        if p["name"] in params or "required" not in p["flags"]
    }
    env = Env(par, {n: s for n, (s, _) in t.items()}, {n: d for n, (_, d) in t.items() if d})
    for n, x in e["_tensors"].items():
        if x["_out"] and n not in t and value(x["_needed"], env):
            t[n] = (None, None)
    return t


def spoil(change, entry, tensors, params):
    """The call with one row's change applied, see negative.py."""
    tensors, params = dict(tensors), dict(params)
    for key, new in change.items():
        kind, _, name = key.partition(" ")
        if kind == "drop":
            for dropped in new.split():
                tensors.pop(dropped)
        elif kind == "shape":
            tensors[name] = (new, tensors[name][1] if name in tensors else None)
        elif kind == "type":
            tensors[name] = (tensors[name][0], new)
        elif kind == "add":
            tensors[name] = tuple(new)
        elif kind == "set":
            params[name] = new
        elif kind == "unset":
            params.pop(name, None)
        elif kind == "entry":
            entry = new
        else:
            raise ValueError(f"negative.py: no change {key!r}")
    return entry, tensors, params
