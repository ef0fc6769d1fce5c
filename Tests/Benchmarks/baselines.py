#!/usr/bin/env python3
"""Attune beside PyTorch, ONNX Runtime, OpenVINO and numpy on the same problems, in one process.

Each result is compared with an answer in double precision before anything is timed. Times include
the call from Python: a prepared plan with given outputs here, the library's own fastest way there.
Run it by Tests/Benchmarks/run, or with the Python of build/bench-venv.
"""

import environment

environment.clean()  # before numpy is imported

import argparse
import contextlib
import gc
import importlib.metadata
import json
import os
import sys
import time
from pathlib import Path

sys.path.insert(0, str(environment.BUILD / "python"))
library = next((environment.BUILD / "lib").glob("libattune.so.*"), None)
os.environ.setdefault("ATTUNE_LIBRARY", str(library))

import contenders
import limits
import machine
import problems
import stopwatch
from problems import TOLERANCE, Declined

BASE = "attune"  # the contender that the others are divided by
HOPELESS = 3  # a form that takes this many times as long as the best of its library is not timed


def versions():
    found = {"python": sys.version.split()[0], "attune": None}
    for name in ("numpy", "torch", "onnxruntime", "onnx", "openvino"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    import attune

    return found | {"attune": ".".join(map(str, attune.version()))}


def prepare(problem, threads):
    """Asks every contender for its answer. Returns ({contender: lane}, {contender: error},
    {contender: why it is not timed})."""
    lanes, errors, left_out = {}, {}, {}
    for forms in contenders.COLUMNS.values():
        right = {}
        for name, make in forms.items():
            try:
                run, output = make(problem, threads)
                lane = stopwatch.Lane(run)
                errors[name] = problem.error(output())
            except ImportError as why:
                left_out[name] = f"absent: {why}"
            except Declined as why:
                left_out[name] = str(why)
            except Exception as why:  # of foreign code: whatever it is, the others go on
                if name == BASE:
                    raise
                left_out[name] = f"{type(why).__name__}: {why}".strip()
            else:
                if errors[name] <= TOLERANCE[problem.dtype]:
                    right[name] = lane
                elif name == BASE:
                    raise SystemExit(f"{problem.name}: attune is off by {errors[name]:.1e}")
                else:
                    left_out[name] = f"wrong: off by {errors[name]:.1e}"
        best = min((lane.first for lane in right.values()), default=0)
        for name, lane in right.items():
            if lane.first <= HOPELESS * best:
                lanes[name] = lane
            else:
                left_out[name] = f"slow: {lane.first * 1e3:.1f} ms when tried"
    return lanes, errors, left_out


def compare(problem, threads, seconds, level):
    """One row of the table as a dict."""
    lanes, errors, left_out = prepare(problem, threads)
    limit = limits.Limit(threads, level, reads=problem.is_decode)
    stopwatch.measure(lanes.values(), seconds, limit)
    base = lanes[BASE]
    results = {
        name: {
            "median_ms": lane.median * 1e3,
            "min_ms": min(lane.samples) * 1e3,
            "rounds": len(lane.samples),
            "error": errors[name],
            "times_attune": lane.ratio(base),
            "times_attune_min": min(lane.samples) / min(base.samples),
        }
        for name, lane in lanes.items()
    }
    work = problem.bytes if problem.is_decode else problem.flops / 1e9
    return {
        "problem": problem.name,
        "dtype": problem.dtype,
        "threads": threads,
        "kernel": base.run.note,
        "gflops": problem.flops / base.median / 1e9,
        "bytes_per_s": problem.bytes / base.median,
        "bound": "read" if problem.is_decode else "peak",
        "limit": limit.median,
        "limit_share": limit.share(work, base.samples),
        "quiet_share": limit.quiet_share(work, base.samples),
        "quiet_rounds": sum(limit.quiet()),
        "results": results,
        "left_out": left_out,
    }


def cells(row):
    """A row of the table: Attune's time and share of its limit, then how many times longer the
    others take, each in its fastest form."""
    base = row["results"][BASE]
    yield from (row["problem"], row["dtype"], row["threads"], f"{base['median_ms']:.3g} ms")
    yield f"{row['limit_share']:.0%} {row['bound']}"
    yield f"{row['quiet_share']:.0%}" if row["quiet_share"] else "-"
    for column, forms in contenders.COLUMNS.items():
        ratios = [row["results"][name]["times_attune"] for name in forms if name in row["results"]]
        if BASE not in forms:
            yield f"{min(ratios):.2f}" if ratios else "-"


def say(cells):
    print("|", " | ".join(map(str, cells)), "|", flush=True)


def table(chosen, threads, seconds, level):
    """Prints the table while it grows; returns its rows."""
    head = ["problem", "type", "threads", "Attune", "of limit", "when quiet"]
    head += list(contenders.COLUMNS)[1:]
    say(head)
    say(["---"] * 3 + ["---:"] * (len(head) - 3))
    rows = []
    for problem in chosen:
        for n in threads:
            rows.append(compare(problem, n, seconds, level))
            say(cells(rows[-1]))
            gc.collect()  # sessions of libraries keep threads and memory
    return rows


def arguments():
    cpus = len(os.sched_getaffinity(0))
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--only", default="", help="problems with this text in their name or type")
    parser.add_argument("--threads", type=int, nargs="+", default=sorted({1, min(2, cpus)}))
    parser.add_argument(
        "--seconds", type=float, default=4, help="for each problem and thread count"
    )
    parser.add_argument(
        "--cpu-time",
        action="store_true",
        help="count the time on a CPU, not on the wall: for one thread on a busy machine",
    )
    parser.add_argument("--json", type=Path, help="write everything that was measured to this file")
    options = parser.parse_args()
    if options.cpu_time and options.threads != [1]:
        parser.error("--cpu-time needs --threads 1")
    return options


def main():
    options = arguments()
    if options.cpu_time:
        stopwatch.clock = time.process_time
    found = sorted(environment.ROOT.glob("plugins/*/baselines.json"))
    chosen = [
        p for path in found for p in problems.read(path) if options.only in f"{p.name} {p.dtype}"
    ]
    if not chosen:
        raise SystemExit(f"no problem has {options.only!r} in its name or type")
    absent = json.loads(environment.ABSENT.read_text()) if environment.ABSENT.exists() else {}
    limit = machine.limits(chosen[0].op)
    document = {
        **limit,
        "versions": versions(),
        "absent": absent,
        "cpus": len(os.sched_getaffinity(0)),
        "load": os.getloadavg()[0],
        "overhead": machine.attune_cli("bench", "--overhead"),
    }
    print(f"{limit['cpu']['name']}, {limit['cpu']['isa_level']}, {document['cpus']} CPUs,", end=" ")
    print(f"one thread: {limit['peak_gflops']:.0f} GFLOP/s peak,", end=" ")
    print(f"{limit['read_bytes_per_s'] / 1e9:.1f} GB/s read")
    print(", ".join(f"{name} {version}" for name, version in document["versions"].items()))
    for name, reason in absent.items():
        print(f"{name} is absent: {reason}")
    if document["load"] > 0.5:
        print(f"busy machine: load {document['load']:.1f} before anything was timed")
    print("\nAttune: median time of a call, and the median over rounds of its share of what so many")
    print("threads multiply and add (peak) or read from memory in the same round; when quiet: over")
    print("rounds without neighbours on the same cores. Others: how many times as long they take.\n")
    document["rows"] = table(
        chosen, options.threads, options.seconds, limit["cpu"]["isa_level"]
    )
    if options.json:
        options.json.write_text(json.dumps(document, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
