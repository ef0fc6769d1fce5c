"""Run every case of a golden directory through the oracles.

    python check.py [directory ...] [--op NAME] [--case NAME] [-v]

Takes every case.json below the directories (default: the plugins of this repository). Prints, per case, the worst
|difference| / (atol + rtol*|expected|) and, with -v or on failure, one line per tensor. Exit status 1 on any violation.
The runner knows no operator: it follows `pass` and `steps` of case.json only.
"""
import argparse
import importlib
import json
import os
import pathlib
import sys

import numpy as np

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)


def pick(tensors, ref):
    """A reference of a step: a whole tensor, a slice [start, stop) of one axis, or one index of an axis (axis dropped)."""
    x = tensors[ref["tensor"]]
    if "index" in ref:
        return np.take(x, ref["index"], ref["axis"])
    if "start" in ref:
        return x[(slice(None),) * ref["axis"] + (slice(ref["start"], ref["stop"]),)]
    return x


def plan(case):
    """The calls of a case: `steps`, or what `pass` abbreviates."""
    if case.get("steps"):
        return case["steps"]
    whole = lambda names: {n: {"tensor": n} for n in names}
    upstream = [n for n in case["inputs"] if n[0] == "d" and n[1:] in case["outputs"]]
    calls = [{"entry": "forward", "feed": whole(n for n in case["inputs"] if n not in upstream), "expect": whole(case["outputs"])}]
    if case["pass"] == "forward+backward":
        calls.append({"entry": "backward", "feed": whole(case["inputs"]), "expect": whole(case["grads"])})
    return calls


class Report:
    def __init__(self, tolerance):
        self.tol, self.rows, self.seen, self.bad = tolerance, [], set(), []

    def compare(self, name, label, got, want, ignore=()):
        """|got - want| <= atol + rtol*|want|; infinities and integers exactly; NaN never; boxes of `ignore` are skipped."""
        self.seen.add(name)
        if got is None or np.shape(got) != want.shape:
            self.bad.append(label)
            self.rows.append((label, np.nan, np.inf, f"shape {None if got is None else np.shape(got)}, expected {want.shape}"))
            return
        use = np.ones(want.shape, bool)
        for box in ignore:
            use[tuple(slice(a, b) for a, b in box)] = False
        g, w = np.asarray(got)[use].astype(np.float64), want[use].astype(np.float64)
        t = self.tol["per_tensor"].get(name, self.tol) if want.dtype.kind == "f" else {"rtol": 0.0, "atol": 0.0}
        fin = np.isfinite(w)
        diff = np.abs(g[fin] - w[fin])
        lim = t["atol"] + t["rtol"] * np.abs(w[fin])
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio = np.where(diff == 0, 0.0, diff / lim)
        worst, text = (float(diff.max()), float(ratio.max())) if diff.size else (0.0, 0.0), ""
        if not (diff <= lim).all():
            text = "out of tolerance"
        elif not (g[~fin] == w[~fin]).all() or np.isnan(w).any():
            text, worst = "infinity or NaN mismatch", (worst[0], np.inf)
        if text:
            self.bad.append(label)
        self.rows.append((label, *worst, text))


def case_id(path):
    """(operator, case) of a case directory."""
    with open(os.path.join(path, "case.json")) as f:
        case = json.load(f)
    return case["op"], case["case"]


def run(path):
    with open(os.path.join(path, "case.json")) as f:
        case = json.load(f)
    assert case["format"] == "attune-golden/1"
    mod = importlib.import_module(case["op"])
    stored, meta = {}, {}
    for section in ("inputs", "outputs", "grads", "debug"):
        for name, e in case[section].items():
            meta[name] = e
            if "file" in e:
                x = np.load(os.path.join(path, e["file"]))
                assert list(x.shape) == e["shape"] and str(x.dtype) == e["dtype"], (path, name)
                stored[name] = x
            else:
                stored[name] = np.array(e["value"], np.float64)
    report, registers, produced = Report(case["tolerance"]), {}, {}
    for i, call in enumerate(plan(case)):
        feed = {slot: pick(stored, ref) for slot, ref in call["feed"].items()}
        feed.update({slot: registers[r] for slot, r in call.get("state_in", {}).items()})
        upstream = [n for n in feed if n[0] == "d" and n[1:] in case["outputs"]]
        args = [{n: x for n, x in feed.items() if n not in upstream}, {**case["params"], **call.get("params", {})}]
        if call["entry"].endswith("backward"):
            args.append({n: feed[n] for n in upstream})
        result = getattr(mod, call["entry"])(*args)
        registers.update({r: result[slot] for slot, r in call.get("state_out", {}).items()})
        for slot, ref in call["expect"].items():
            label = ref["tensor"] if not case.get("steps") else f"{i}:{call['entry']}.{slot}"
            ignore = meta[ref["tensor"]].get("ignore", ()) if set(ref) == {"tensor"} else ()
            report.compare(ref["tensor"], label, result.get(slot), pick(stored, ref), ignore)
        for name, x in result.items():
            produced.setdefault(name, x)
    for name, e in case["debug"].items():                     # debug values: checked when the oracle produces them
        if name in produced:
            report.compare(name, "debug:" + name, produced[name], stored[name], e.get("ignore", ()))
    missing = [n for s in ("outputs", "grads", "debug") for n in case[s] if n not in report.seen]
    report.bad += ["never compared: " + n for n in missing]
    return case, report


def main():
    ap = argparse.ArgumentParser(description="float64 oracles against golden vectors")
    ap.add_argument("directories", nargs="*", default=[os.path.join(HERE, "..", "..", "..", "plugins")])
    ap.add_argument("--op")
    ap.add_argument("--case")
    ap.add_argument("-v", "--verbose", action="store_true")
    a = ap.parse_args()
    failed, total, summary = 0, 0, {}
    paths = sorted(str(f.parent) for root in a.directories for f in pathlib.Path(root).rglob("case.json"))
    for path in paths:
        op, name = case_id(path)
        if (a.op and op != a.op) or (a.case and name != a.case):
            continue
        if not os.path.exists(os.path.join(HERE, op + ".py")):
            print(f"     {op}/{name}: no oracle of that name")
            continue
        case, r = run(path)
        worst = max((x[2] for x in r.rows), default=0.0)
        total, failed = total + 1, failed + bool(r.bad)
        n, w = summary.get(op, (0, 0.0))
        summary[op] = n + 1, max(w, worst)
        print(f"{'FAIL' if r.bad else 'ok  '} {op + '/' + name:48s} {case['pass']:17s} worst ratio {worst:.2e}" + (f"  {r.bad}" if r.bad else ""))
        if a.verbose or r.bad:
            for label, d, q, text in r.rows:
                print(f"       {label:28s} max|diff| {d:.2e}   diff/tolerance {q:.2e} {text}")
    print("\nop           cases   worst diff/tolerance")
    for op, (n, w) in sorted(summary.items()):
        print(f"{op:12s} {n:5d}   {w:.3f}")
    print(f"{total} cases, {failed} failed")
    sys.exit(1 if failed or not total else 0)


if __name__ == "__main__":
    main()
