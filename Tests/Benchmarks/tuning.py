#!/usr/bin/env python3
"""How good the tuner's choices are: the default mode against exhaustive search, over a grid of problems of all operators.

Each problem is tuned twice in the default mode, each time from nothing, and once exhaustively. The exhaustive run times all
candidates against each other in the same rounds, so it says what the other choices are worth: how much slower than the best
they are, and whether they are slower than the candidate that runs untuned. `--threads 1,2`, `--json FILE`.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import environment

ATTUNE = environment.BUILD / "bin/attune"
TOKENS = [128, 512]
# Of each entry; every preset of every operator would take an hour.
PRESETS = {"forward": 2, "step": 2}


def attune(*words):
    done = subprocess.run([ATTUNE, *map(str, words)], stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout) if done.stdout.startswith("{") else None


def sized(shape, tokens):
    """The preset's shape with another number of tokens; one query against a cache stays one query."""
    sizes = dict(item.split("=") for item in shape.split(","))
    if "Nk" not in sizes and "Np" not in sizes:
        return None
    for name in ("Nq", "Nk"):
        if name in sizes and sizes[name] != "1":
            sizes[name] = str(tokens)
    if "Np" in sizes:
        sizes["Np"] = str(4 * tokens)
        sizes.pop("Nk", None)
    return ",".join(f"{k}={v}" for k, v in sizes.items())


def grid(threads):
    lines = []
    for operator in attune("list", "--json")["operators"]:
        described = attune("describe", operator["id"], "--json")
        seen, left = set(), dict(PRESETS)
        for preset in described["presets"]:
            if "bench" not in preset["flags"] or not left.get(preset["entry"]):
                continue
            left[preset["entry"]] -= 1
            for tokens in TOKENS:
                shape = sized(preset["shape"], tokens)
                key = (preset["entry"], shape, preset["params"], preset["tensors"])
                if shape is None or key in seen:
                    continue
                seen.add(key)
                params = dict(item.split("=") for item in preset["params"].split(";") if item)
                line = {"op": operator["id"], "entry": preset["entry"], "shape": shape,
                        "params": {k.strip(): literal(v.strip()) for k, v in params.items()}}  # fmt: skip
                if preset["tensors"]:
                    line["extras"] = preset["tensors"]
                lines += [line | {"threads": n} for n in threads]
    return lines


def literal(text):
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def records(path):
    found = {}
    for line in path.read_text().splitlines():
        record = json.loads(line.split(" ", 1)[1])
        if record["kind"] == "tuned":
            found[record["family"], tuple(record["sizes"].items())] = record
    return found


def name(candidate):
    return candidate["kernel"], candidate["knobs"], candidate["workers"]


def tune(lines, mode, folder, label):
    shapes, wisdom = folder / "shapes.jsonl", folder / f"{label}.jsonl"
    shapes.write_text("".join(json.dumps(line) + "\n" for line in lines))
    begin = time.monotonic()
    attune("tune", "--shapes", shapes, "--mode", mode, "--out", wisdom, "--json")
    print(f"{label}: {time.monotonic() - begin:.0f} s", flush=True)
    return wisdom


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", default="1,2", type=lambda s: [int(n) for n in s.split(",")])
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    environment.clean()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        lines = grid(options.threads)
        first = tune(lines, "measure", folder, "measure")
        again = tune(lines, "measure", folder, "measure, again from nothing")
        everything = tune(lines, "exhaustive", folder, "exhaustive")
        before = first.read_bytes()
        tune(lines, "measure", folder, "measure")
        rows = compare(records(first), records(again), records(everything))
        silent = first.read_bytes() == before
    return report(rows, silent, options.json)


def compare(first, again, everything):
    rows = []
    for key, exhaustive in everything.items():
        if key not in first or key not in again:
            continue
        ratios = {name(t): t["ratio"] for t in exhaustive["trials"] if t["ratio"] > 0}
        # What dropped out early was slower, and the least of few noisy numbers is no measure.
        rounds = max((t["rounds"] for t in exhaustive["trials"]), default=0)
        best = min((t["ratio"] for t in exhaustive["trials"] if t["ratio"] > 0 and t["rounds"] == rounds), default=0)
        one, two = (ratios.get(name(r[key]["winner"])) for r in (first, again))
        # A choice that dropped out before the first round was at least three times slower than the best.
        rows.append({
            "family": key[0], "sizes": dict(key[1]), "candidates": len(exhaustive["trials"]),
            "chosen": name(first[key]["winner"]), "best": name(exhaustive["winner"]),
            "loss": (one or 3 * best) / best - 1 if best else None, "to_default": one,
            "agree": name(first[key]["winner"]) == name(again[key]["winner"])
            or (one is not None and two is not None and abs(one / two - 1) <= 0.03),
        })  # fmt: skip
    return [row for row in rows if row["loss"] is not None]


def report(rows, silent, path):
    for row in sorted(rows, key=lambda r: r["loss"]):
        sizes = ",".join(f"{k}={v}" for k, v in row["sizes"].items())
        print(f"{row['loss'] * 100:6.1f} %  {row['candidates']:4d}  {' '.join(map(str, row['chosen'])):44s} {row['family'][:40]} {sizes}")
    losses = [row["loss"] for row in rows]
    summary = {
        "problems": len(rows), "within_5_percent": sum(x <= 0.05 for x in losses) / max(len(rows), 1),
        "worst": max(losses, default=0), "median": statistics.median(losses or [0]),
        "slower_than_default": max((r["to_default"] - 1 for r in rows if r["to_default"]), default=0),
        "agree": sum(r["agree"] for r in rows) / max(len(rows), 1), "second_run_measured_nothing": silent,
    }  # fmt: skip
    print(
        f"\n{summary['problems']} problems: {summary['within_5_percent'] * 100:.1f} % within 5 % of the best, worst "
        f"{summary['worst'] * 100:.1f} %, slower than untuned by at most {summary['slower_than_default'] * 100:.1f} %, "
        f"{summary['agree'] * 100:.1f} % the same in two runs, a second process measured "
        f"{'nothing' if silent else 'something'}"
    )
    if path:
        path.write_text(json.dumps({"summary": summary, "rows": rows}, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
