#!/usr/bin/env python3
"""How good the tuner's choices are: one mode against exhaustive search, over a grid of problems of all operators.

Each problem is tuned twice in the mode, each time from nothing, and once exhaustively. A time from a search is no measure of what
it found: the least of hundreds of noisy numbers is too good, and what dropped out early was timed too little. So what was chosen,
the choice without any tuning and the best of the exhaustive run then race once more, whole calls in many rounds of random order
(`attune bench --candidate`): a heat finds the best of them, a second race says how far from it the choices are, and only that counts. The exit code is 1 when a goal is missed. A bad tuner must miss them:
`--mode off` judges the choices of a library that does not tune.
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
# What the tuner promises.
GOALS = {"within_5_percent": 0.95, "worst": 0.15, "slower_than_untuned": 0.03, "agree": 0.95}
# Candidates closer than this are equally good.
BAND = 0.03
ROUNDS = 100
# Of the exhaustive run, by its own times.
BEST = 4


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


def grid(options):
    lines = []
    for operator in attune("list", "--json")["operators"]:
        if options.op and operator["id"] not in options.op:
            continue
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
                lines += [line | {"threads": n} for n in options.threads]
    return lines


def literal(text):
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def words(line):
    """A problem as the command line takes it."""
    found = [line["op"], "--entry", line["entry"], "--shape", line["shape"]]
    for name, value in line["params"].items():
        found += ["--param", f"{name}={value if isinstance(value, str) else json.dumps(value)}"]
    return found + ["--tensors", line.get("extras", ""), "--threads", line["threads"]]


def chosen(line, mode, wisdom=""):
    """What a mode chooses, and what it knows of other candidates; None where nothing can be."""
    answer = attune("explain", *words(line), "--tune", mode, "--wisdom", wisdom, "--json")
    return answer and (name(answer), answer["candidates"])


def name(candidate):
    text = candidate["kernel"] + (":" + candidate["knobs"] if candidate["knobs"] else "")
    return f"{text}@{candidate['workers']}"


def tune(lines, mode, folder, label, budget=None):
    shapes, wisdom = folder / "shapes.jsonl", folder / f"{label}.jsonl"
    shapes.write_text("".join(json.dumps(line) + "\n" for line in lines))
    begin = time.monotonic()
    given = ["--budget", budget] if budget else []
    attune("tune", "--shapes", shapes, "--mode", mode, "--out", wisdom, "--json", *given)
    print(f"{label}: {time.monotonic() - begin:.0f} s", flush=True)
    return wisdom


def race(line, entrants):
    if len(entrants) == 1:
        return {entrants[0]: 1.0}
    options = [word for entrant in entrants for word in ("--candidate", entrant)]
    answer = attune("bench", *words(line), *options, "--rounds", ROUNDS, "--json")
    # Two settings may be one on so small a problem, so by place.
    return dict(zip(entrants, (c["ratio"] for c in answer["candidates"]))) if answer else None


def judge(line, mode, first, again, everything):
    exhaustive = chosen(line, "frozen", everything)
    one, two = (chosen(line, mode, w) for w in (first, again))
    untuned = chosen(line, "estimate")
    if not (exhaustive and one and two and untuned):
        return None
    timed = sorted((c for c in exhaustive[1] if c["ratio"]), key=lambda c: c["ratio"])
    longest = max((c["rounds"] for c in timed), default=0)
    best = timed[:BEST] + [c for c in timed if c["rounds"] == longest][:BEST]
    choices = list(dict.fromkeys([untuned[0], one[0], two[0], exhaustive[0]]))
    heat = race(line, list(dict.fromkeys([*choices, *map(name, best)])))
    if not heat:
        return None
    # The least of several noisy numbers is too good, so the heat only says who is best; a second race says how good.
    fastest = min(heat, key=heat.get)
    ratios = race(line, list(dict.fromkeys([*choices, fastest])))
    if not ratios:
        return None
    loss = lambda entrant: max(ratios[entrant] / ratios[fastest] - 1, 0.0)
    return {
        "problem": line, "candidates": len(exhaustive[1]), "chosen": one[0], "best": fastest,
        "untuned": untuned[0], "heat": heat, "race": ratios, "loss": loss(one[0]),
        "loss_of_untuned": loss(untuned[0]), "loss_of_exhaustive": loss(exhaustive[0]),
        "to_untuned": ratios[one[0]] / ratios[untuned[0]] - 1,
        "agree": one[0] == two[0] or abs(ratios[one[0]] / ratios[two[0]] - 1) <= BAND,
    }  # fmt: skip


def report(rows, silent, path):
    for row in sorted(rows, key=lambda r: r["loss"]):
        line = row["problem"]
        params = ";".join(f"{k}={v}" for k, v in line["params"].items())
        print(
            f"{row['loss'] * 100:6.1f} %  {row['candidates']:4d}  {row['chosen']:44s} best {row['best']:44s} "
            f"{line['op']} {line['entry']} {line['shape']} {params}"
        )
    n = max(len(rows), 1)
    losses = [row["loss"] for row in rows]
    summary = {
        "problems": len(rows), "within_5_percent": sum(x <= 0.05 for x in losses) / n,
        "worst": max(losses, default=0), "median": statistics.median(losses or [0]),
        "slower_than_untuned": max((row["to_untuned"] for row in rows), default=0),
        "agree": sum(row["agree"] for row in rows) / n,
        "untuned_within_5_percent": sum(row["loss_of_untuned"] <= 0.05 for row in rows) / n,
        "untuned_worst": max((row["loss_of_untuned"] for row in rows), default=0),
        "exhaustive_within_5_percent": sum(row["loss_of_exhaustive"] <= 0.05 for row in rows) / n,
        "second_run_measured_nothing": silent,
    }  # fmt: skip
    print(
        f"\n{summary['problems']} problems: {summary['within_5_percent'] * 100:.1f} % within 5 % of the best, worst "
        f"{summary['worst'] * 100:.1f} %, slower than untuned by at most {summary['slower_than_untuned'] * 100:.1f} %, "
        f"{summary['agree'] * 100:.1f} % equally fast in two runs, a second process measured "
        f"{'nothing' if silent else 'something'}\n"
        f"untuned: {summary['untuned_within_5_percent'] * 100:.1f} % within 5 % of the best, worst "
        f"{summary['untuned_worst'] * 100:.1f} %; the exhaustive run's own choices: "
        f"{summary['exhaustive_within_5_percent'] * 100:.1f} % within 5 %"
    )
    least = ("within_5_percent", "agree")
    missed = [k for k, goal in GOALS.items() if (summary[k] < goal) == (k in least) and summary[k] != goal]
    print("goals missed: " + ", ".join(missed) if missed else "all goals are met")
    if path:
        path.write_text(json.dumps({"summary": summary, "missed": missed, "rows": rows}, indent=1))
    return 1 if missed or not rows or not silent else 0


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", default="1,2", type=lambda s: [int(n) for n in s.split(",")])
    parser.add_argument("--op", type=lambda s: s.split(","), help="only these operators, as a,b")
    parser.add_argument("--mode", default="measure", choices=["off", "estimate", "measure", "patient"])
    parser.add_argument("--budget", help="time for one problem instead of the mode's own: 100ms")
    parser.add_argument("--folder", type=Path, help="keeps wisdom there, and does not measure again what is in it")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    environment.clean()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        lines = grid(options)
        everything = tune(lines, "exhaustive", folder, "exhaustive")
        first = again = ""
        silent, mode = True, options.mode
        if mode in ("measure", "patient"):
            first = tune(lines, mode, folder, mode, options.budget)
            again = tune(lines, mode, folder, f"{mode}-again", options.budget)
            before = first.read_bytes()
            tune(lines, mode, folder, mode)
            silent, mode = first.read_bytes() == before, "frozen"
        begin = time.monotonic()
        rows = [row for row in (judge(line, mode, first, again, everything) for line in lines) if row]
        print(f"race: {time.monotonic() - begin:.0f} s", flush=True)
    return report(rows, silent, options.json)


if __name__ == "__main__":
    sys.exit(main())
