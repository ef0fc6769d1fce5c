#!/usr/bin/env python3
"""How the cost of an operator grows with the number of tokens, beside dense attention in the same
run, and how it compares with the form that its authors publish for PyTorch.

A plugin lists what is measured in its folder, in scaling.json, as rows of

  name       what the row is called
  entry      "forward" unless given; "backward". "step": one new token behind `tokens` earlier ones,
             in place
  params     as in a preset: "causal=true"
  tensors    optional tensors that take part, as in a preset
  sizes      {symbol: size} of everything but the tokens
  tokens     numbers of tokens
  dense      {"op", "params", "tensors", "tokens"}: what the row is compared with, dense attention or
             all of the same operator, of the same sizes, timed in turns
  published  numbers of tokens at which the forms in published/NAME.py are timed; needs PyTorch

Run it by `make bench BENCH=--scaling`, or with the Python of build/bench-venv.
"""

import environment

environment.clean()  # before numpy is imported

import argparse
import gc
import importlib.util
import json
import os
import statistics
import sys
import time

sys.path.insert(0, str(environment.BUILD / "python"))
library = next((environment.BUILD / "lib").glob("libattune.so.*"), None)
os.environ.setdefault("ATTUNE_LIBRARY", str(library))

import numpy as np

import attune
import calls
import limits
import machine
import stopwatch

LONG = 3  # seconds; what takes longer is timed once
CHUNK = 4096  # tokens per step while a state is built


class Samples:
    """Seconds of one call, by round. A body that is slow has one sample: how long it took at once."""

    def __init__(self, seconds):
        self.seconds = seconds

    @property
    def median(self):
        return statistics.median(self.seconds)

    def times(self, base):
        """How many times as long as `base`: the median over rounds of the ratio within a round."""
        if len(self.seconds) != len(base.seconds):
            return self.median / base.median
        return statistics.median(a / b for a, b in zip(self.seconds, base.seconds))


def measure(bodies, seconds, clocks=None, limit=None):
    """The samples of each, in turns, each run once before it counts. In each round the limit
    (limits.py) takes a turn, too, and while too few rounds were quiet there are more of them."""
    clocks = clocks or [time.perf_counter] * len(bodies)
    samples = [[] for _ in bodies]

    def turn(i):
        stopwatch.settle()
        body, batch = bodies[i], batches[i]
        begin = clocks[i]()
        for _ in range(batch):
            body()
        samples[i].append((clocks[i]() - begin) / batch)

    batches = [1] * len(bodies)
    for i in range(len(bodies)):
        turn(i)
    firsts = [taken.pop() if taken[0] < LONG else taken[0] for taken in samples]
    batches = [max(1, round(stopwatch.TURN / first)) for first in firsts]
    quick = [i for i, taken in enumerate(samples) if not taken]
    begin = time.perf_counter()
    rounds = 0

    def goes_on():
        if not quick or rounds < 3:
            return rounds < (3 if quick else 1)
        passed = time.perf_counter() - begin
        waits = limit and not limit.has_enough() and passed < stopwatch.PATIENCE * seconds
        return passed < seconds or waits

    while goes_on():
        for i in quick:
            turn(i)
        if limit:
            stopwatch.settle()
            limit()
        rounds += 1
    return [Samples(taken) for taken in samples]


def cpu_clock(threads):
    """Processor time by the number of threads that compute: what a call would take if other
    programs left them alone. Threads that wait actively count."""
    return lambda: time.process_time() / threads


def sizes_of(row, tokens):
    return row["sizes"] | {"Nq": tokens, "Nk": tokens}


def whole(context, op, row, tokens):
    """The row's entry on all tokens at once."""
    return calls.Call(
        context, op, row["entry"], row["params"], sizes_of(row, tokens), row["tensors"]
    )


def step(context, op, row, tokens):
    """A step of one token behind `tokens` others. A cache holds random rows; a state of fixed size
    is that of so many tokens."""
    symbols = calls.descriptor(context, op)["_entries"]["step"]["_symbols"]
    make = lambda sizes, memory: calls.Call(
        context, op, "step", row["params"], row["sizes"] | sizes, row["tensors"], memory
    )
    one = {"Nq": 1, "Nk": tokens + 1, "Np": tokens} if "Np" in symbols else {"Nq": 1, "Nk": 1}
    memory = calls.roomy_states(context, op, row["params"], row["sizes"] | one, row["tensors"])
    if "Np" not in symbols:
        for state in memory.values():
            state[...] = 0
        for begin in range(0, tokens, CHUNK):
            n = min(CHUNK, tokens - begin)
            make({"Nq": n, "Nk": n}, memory)()
    return make(one, memory)


def dense(context, row, tokens):
    """Dense attention of the row's sizes, or its gradients; of one query when the row is a step."""
    wanted = {"params": "", "tensors": ""} | row["dense"]
    entry = "backward" if row["entry"] == "backward" else "forward"
    queries = 1 if row["entry"] == "step" else tokens
    sizes = row["sizes"] | {"Nq": queries, "Nk": tokens}
    return calls.Call(context, wanted["op"], entry, wanted["params"], sizes, wanted["tensors"])


def grow(context, op, row, level, seconds, is_busy):
    """One result per number of tokens."""
    compared = row["dense"]["tokens"] if "dense" in row else []
    for tokens in sorted({*row["tokens"], *compared}):
        mine = (step if row["entry"] == "step" else whole)(context, op, row, tokens)
        other = dense(context, row, tokens) if tokens in compared else None
        bodies = [mine] + ([other] if other else [])
        clocks = [cpu_clock(body.info["workers"]) for body in bodies] if is_busy else None
        limit = limits.Limit(mine.info["workers"], level)
        taken, *others = measure(bodies, seconds, clocks, limit)
        result = {
            "problem": row["name"],
            "tokens": tokens,
            "kernel": " ".join(filter(None, (mine.info["kernel"], mine.info["knobs"]))),
            "seconds": taken.median,
            "tokens_per_s": (1 if row["entry"] == "step" else tokens) / taken.median,
            "peak_gflops": limit.median,
            "peak_share": limit.share(mine.flops / 1e9, taken.seconds),
            "quiet_share": limit.quiet_share(mine.flops / 1e9, taken.seconds),
            "quiet_rounds": sum(limit.quiet()),
            "workspace_bytes": mine.info["workspace_bytes"],
        }
        if others:
            ratio, bound = others[0].times(taken), other.flops / mine.flops
            result |= {"dense_takes": ratio, "flop_bound": bound, "of_bound": ratio / bound}
        del mine, other
        gc.collect()
        yield result


def flatness(context, op, row, level, seconds, is_busy):
    """How much tokens per second (of a step: steps) differ between the row's numbers of tokens: the
    most by the least, less 1. All of them take turns, each for as long as the longest takes: a slow
    second of the machine then hits all alike. Medians over rounds of the share in a round's sum;
    then the same over the quiet rounds, None if there are too few."""
    make = step if row["entry"] == "step" else whole
    bodies = [make(context, op, row, tokens) for tokens in row["tokens"]]
    units = [1 if row["entry"] == "step" else tokens for tokens in row["tokens"]]
    clocks = [cpu_clock(b.info["workers"]) if is_busy else time.perf_counter for b in bodies]

    def took(i, n):
        stopwatch.settle()
        begin = clocks[i]()
        for _ in range(n):
            bodies[i]()
        return (clocks[i]() - begin) / n

    for body in bodies:
        body()  # touches all memory
    firsts = [took(i, 1) for i in range(len(bodies))]
    turn = max(*firsts, stopwatch.TURN)
    batches = [max(1, round(turn / first)) for first in firsts]
    limit = limits.Limit(bodies[0].info["workers"], level)
    rounds = []
    begin = time.perf_counter()

    def quiet():
        return [shares for shares, is_quiet in zip(rounds, limit.quiet()[1:]) if is_quiet]

    def goes_on():
        passed = time.perf_counter() - begin
        waits = len(quiet()) < limits.ENOUGH and passed < stopwatch.PATIENCE * seconds
        return len(rounds) < limits.ENOUGH or passed < seconds or waits

    limit()
    while goes_on():
        rates = [units[i] / took(i, n) for i, n in enumerate(batches)]
        rounds.append([rate / sum(rates) for rate in rates])
        limit()
    spread = lambda shares: max(shares) / min(shares) - 1
    medians = lambda of: [statistics.median(share) for share in zip(*of)]
    enough = len(quiet()) >= limits.ENOUGH
    return spread(medians(rounds)), spread(medians(quiet())) if enough else None


def published(context, op, row, threads, seconds, is_busy):
    """One result per form of published/NAME.py and number of tokens. Nothing is timed whose result
    differs."""
    path = environment.ROOT / "Tests/Benchmarks/published" / f"{op}.py"
    if not path.exists() or importlib.util.find_spec("torch") is None:
        return
    import torch

    torch.set_num_threads(threads)
    spec = importlib.util.spec_from_file_location(f"published_{op}", path)
    forms = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(forms)
    for tokens in row["published"]:
        mine = whole(context, op, row, tokens)
        mine()
        given = {n: torch.from_numpy(x) for n, x in mine.inputs.items()}
        bodies, names = [mine], []
        with torch.inference_mode():
            for name, form in forms.FORMS.items():
                o = form(given, mine.params)
                if o is None:
                    continue
                want = mine.outputs["o"]
                error = float(np.abs(o.numpy() - want).max() / np.abs(want).max())
                if not error < 1e-3:
                    raise SystemExit(f"{op} {row['name']}: {name} is off by {error:.1e}")
                names.append(name)
                bodies.append(lambda form=form: form(given, mine.params))
            clocks = [cpu_clock(threads)] * len(bodies) if is_busy else None
            taken, *others = measure(bodies, seconds, clocks)
        for name, other in zip(names, others):
            yield {
                "problem": row["name"],
                "tokens": tokens,
                "form": name,
                "seconds": taken.median,
                "published_seconds": other.median,
                "ratio": other.times(taken),
            }
        gc.collect()


def read(op):
    """The rows of a plugin, complete; none when it lists none."""
    path = environment.ROOT / "plugins" / op / "scaling.json"
    rows = json.loads(path.read_text()) if path.exists() else []
    absent = {"entry": "forward", "params": "", "tensors": "", "tokens": [], "published": []}
    return [absent | row for row in rows]


def duration(seconds):
    unit, factor = ("s", 1) if seconds >= 1 else ("ms", 1e3) if seconds >= 1e-3 else ("us", 1e6)
    return f"{seconds * factor:.3g} {unit}"


def say(*cells):
    print("|", " | ".join(map(str, cells)), "|", flush=True)


def table(rows, head, cells):
    """Prints a table while its rows are made; returns them."""
    made = []
    for row in rows:
        if not made:
            print()
            say(*head)
            say(*["---"] * len(head))
        made.append(row)
        say(*cells(row))
    return made


def growth_cells(r):
    of = lambda key, form: format(r[key], form) if key in r else ""
    return (
        r["problem"],
        r["tokens"],
        r["kernel"],
        duration(r["seconds"]),
        f"{r['tokens_per_s']:.3g}",
        f"{r['peak_share']:.0%}",
        f"{r['quiet_share']:.0%}" if r["quiet_share"] else "-",
        r["workspace_bytes"],
        of("dense_takes", ".2f"),
        of("of_bound", ".0%"),
    )


def published_cells(r):
    return (
        r["problem"],
        r["tokens"],
        duration(r["seconds"]),
        r["form"],
        duration(r["published_seconds"]),
        f"{r['ratio']:.1f}",
    )


def growth(context, op, rows, level, seconds, is_busy):
    head = ["problem", "tokens", "kernel", "time", "tokens/s", "of peak", "when quiet"]
    head += ["extra bytes", "dense takes", "of flop bound"]
    found = []
    for row in rows:
        found += table(grow(context, op, row, level, seconds, is_busy), head, growth_cells)
        last = found[-1]
        if len(row["tokens"]) > 1 and last["seconds"] < LONG:
            spread = flatness(context, op, row, level, 5 * seconds, is_busy)
            last["spread"], last["quiet_spread"] = spread
            quiet = "too few quiet rounds" if spread[1] is None else f"{spread[1]:.0%} when quiet"
            what = "time per step" if row["entry"] == "step" else "tokens/s"
            span = f"{min(row['tokens'])} to {max(row['tokens'])} tokens"
            print(f"{row['name']}: {what} differs by {spread[0]:.0%} ({quiet}) from {span}, in turns")
            gc.collect()
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--op", nargs="*", help="operators; default: all that list something")
    parser.add_argument("--only", default="", help="rows with this text in their name")
    parser.add_argument("--what", choices=["growth", "published"], help="default: both")
    parser.add_argument("--threads", type=int, default=min(2, len(os.sched_getaffinity(0))))
    parser.add_argument("--seconds", type=float, default=1.5, help="for each number of tokens")
    parser.add_argument(
        "--busy",
        action="store_true",
        help="the machine has other work: take processor time per thread",
    )
    parser.add_argument("--json", help="write everything that was measured to this file")
    options = parser.parse_args()
    context = attune.Context(threads=options.threads, wisdom="", tune="estimate")
    document = {}
    for op in options.op or context.operators():
        rows = [row for row in read(op) if options.only in row["name"]]
        if not rows:
            continue
        limit = machine.limits(op, rows[0]["params"])
        print(f"\n{op}: {limit['cpu']['name']}, {options.threads} threads,", end=" ")
        print(f"{limit['peak_gflops']:.0f} GFLOP/s peak of one alone")
        found = document[op] = {"limits": limit}
        with calls.reported(op):
            if options.what != "published":
                level = limit["cpu"]["isa_level"]
                found["growth"] = growth(context, op, rows, level, options.seconds, options.busy)
            if options.what != "growth":
                head = ["problem", "tokens", "Attune", "published form", "its time", "ratio"]
                results = (
                    result
                    for row in rows
                    for result in published(
                        context, op, row, options.threads, options.seconds, options.busy
                    )
                )
                found["published"] = table(results, head, published_cells)
    if options.json:
        with open(options.json, "w") as file:
            json.dump(document, file, indent=2)
    return 0


if __name__ == "__main__":
    sys.exit(main())
