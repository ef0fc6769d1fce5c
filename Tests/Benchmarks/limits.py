"""What as many threads of this machine as a kernel uses can do, measured in turns with it: the
machine is shared, and a share of what it could do in another second says little."""

import ctypes
import functools
import os
import statistics
import subprocess

from environment import BUILD, ROOT

TURN = 0.004
QUIET = 0.9  # of what multiply-adds that load reach alone; with neighbours 0.4 to 0.85
ENOUGH = 5  # rounds
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
    found.limits_multiply_adds.argtypes = [
        ctypes.c_uint32, ctypes.c_char_p, ctypes.c_double, ctypes.c_bool,
        ctypes.POINTER(ctypes.c_double),
    ]
    return found


class Limit:
    """A contender whose turns measure the limit. rates: of each turn; GFLOP/s or bytes/s.

    Each turn also looks whether neighbours use the same cores: multiply-adds in registers hardly
    notice them, but those that load an operand each, as those of kernels do, get slower. How fast
    they are alone shows in their best microseconds, for neighbours leave gaps."""

    alone = {}  # GFLOP/s of one thread, by level

    def __init__(self, threads, level, reads=False):
        self.threads, self.level, self.reads = threads, level.encode(), reads
        self.rates, self.loaded = [], []

    def multiply_adds(self, loaded):
        best = ctypes.c_double()
        rate = library().limits_multiply_adds(self.threads, self.level, TURN, loaded, best)
        if loaded:
            self.alone[self.level] = max(self.alone.get(self.level, 0), best.value)
        return rate

    def __call__(self):
        if self.reads:
            rate = library().limits_read(
                self.threads, self.level, ctypes.c_uint64(BEYOND_CACHES), ctypes.c_double(TURN)
            )
        else:
            rate = self.multiply_adds(False)
        if not rate > 0:
            raise RuntimeError(f"{self.threads} threads of this machine cannot be measured")
        self.rates.append(rate)
        self.loaded.append(self.multiply_adds(True))

    def quiet(self):
        """Which turns, and the turns before them, met no neighbour: nor, then, did what ran between."""
        least = QUIET * self.threads * self.alone.get(self.level, 0)
        return [min(pair) >= least for pair in zip(self.loaded, self.loaded[:1] + self.loaded)]

    def has_enough(self):
        return sum(self.quiet()) >= ENOUGH

    def share(self, work, seconds):
        """Of the limit: work (GFLOP or bytes) done in each of the seconds; median over rounds."""
        return statistics.median(work / s / rate for s, rate in zip(seconds, self.rates))

    def quiet_share(self, work, seconds):
        """The same over the quiet rounds; None if there are too few."""
        rounds = zip(seconds, self.rates, self.quiet())
        shares = [work / s / rate for s, rate, is_quiet in rounds if is_quiet]
        return statistics.median(shares) if len(shares) >= ENOUGH else None

    @property
    def median(self):
        return statistics.median(self.rates)
