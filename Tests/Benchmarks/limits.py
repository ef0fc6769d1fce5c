"""What as many threads of this machine as a kernel uses can do, measured in turns with it: the
machine is shared, and a share of what it could do in another second says little."""

import ctypes
import functools
import os
import statistics
import subprocess

from environment import BUILD, ROOT

TURN = 0.004
BEYOND_CACHES = 512 << 20


@functools.cache
def library():
    """limits.c, compiled when it or what it is made of changed."""
    runtime = ROOT / "Sources/CRuntime"
    sources = [ROOT / "Tests/Benchmarks/limits.c", runtime / "peak.c", runtime / "cpu.c"]
    made = BUILD / "bench/limits.so"
    if not made.exists() or made.stat().st_mtime < max(s.stat().st_mtime for s in sources):
        made.parent.mkdir(parents=True, exist_ok=True)
        fresh = made.with_suffix(f".{os.getpid()}")
        include = [f"-I{runtime / 'include'}", f"-I{ROOT / 'include'}"]
        subprocess.run(
            ["cc", "-O2", "-shared", "-fPIC", "-pthread", *include, *sources, "-o", fresh, "-ldl"],
            check=True,
        )
        fresh.replace(made)
    found = ctypes.CDLL(str(made))
    for function in (found.limits_multiply_adds, found.limits_read):
        function.restype = ctypes.c_double
    return found


class Limit:
    """A contender whose turns measure the limit. rates: of each turn; GFLOP/s or bytes/s."""

    def __init__(self, threads, level, reads=False):
        self.threads, self.level, self.reads = threads, level.encode(), reads
        self.rates = []

    def __call__(self):
        if self.reads:
            rate = library().limits_read(
                self.threads, self.level, ctypes.c_uint64(BEYOND_CACHES), ctypes.c_double(TURN)
            )
        else:
            rate = library().limits_multiply_adds(
                self.threads, self.level, ctypes.c_double(TURN)
            )
        if not rate > 0:
            raise RuntimeError(f"{self.threads} threads of this machine cannot be measured")
        self.rates.append(rate)

    def share(self, work, seconds):
        """Of the limit: work (GFLOP or bytes) done in each of the seconds; median over rounds."""
        return statistics.median(work / s / rate for s, rate in zip(seconds, self.rates))

    def undisturbed(self, work, seconds):
        """The same where neighbours do not disturb: they only ever make a run longer and a limit
        lower, so the seconds that an eighth are below and the limit that an eighth are above."""
        seconds, rates = sorted(seconds), sorted(self.rates, reverse=True)
        return work / seconds[(len(seconds) - 1) // 8] / rates[(len(rates) - 1) // 8]

    @property
    def median(self):
        return statistics.median(self.rates)
