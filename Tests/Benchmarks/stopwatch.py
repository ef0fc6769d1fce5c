"""Times contenders against each other in one process.

Rounds are interleaved and each runs every contender once in random order: a slow second of the
machine hits all of them. Libraries keep threads that spin for a while after a call, which on few
cores slows whoever comes next: before each turn the process has to have come to rest.
"""

import contextlib
import random
import statistics
import time

SLOW = 2.5  # times the fastest: what takes longer is measured in few rounds only
SETTLE_LIMIT = 0.3  # longest wait; the spinning in use ends after some milliseconds
PATIENCE = 4  # times as long as asked for, until a busy machine is quiet
clock = time.perf_counter  # or time.process_time, which a busy machine disturbs less: one thread only
TURN = 0.004  # shorter calls are repeated within a turn, so that clock and wake-up do not count


class Lane:
    """One contender. samples: seconds of one call, one per round; first: what a call took before."""

    def __init__(self, run):
        self.run, self.samples = run, []
        self.enter = getattr(run, "enter", contextlib.nullcontext)
        settle()
        with self.enter():
            run()
            begin = clock()
            run()
            self.first = clock() - begin
        self.batch = max(1, round(TURN / self.first))

    def turn(self):
        run, batch = self.run, self.batch
        with self.enter():
            run()  # its threads wake, its caches fill
            begin = clock()
            for _ in range(batch):
                run()
            self.samples.append((clock() - begin) / batch)

    @property
    def median(self):
        return statistics.median(self.samples)

    def ratio(self, base):
        """How many times longer than `base`: the median over rounds of the ratio within a round."""
        return statistics.median(a / b for a, b in zip(self.samples, base.samples))


def settle():
    """Waits until no thread of this process computes."""
    limit = time.perf_counter() + SETTLE_LIMIT
    while time.perf_counter() < limit:
        begin = time.process_time()
        time.sleep(0.001)
        if time.process_time() - begin < 0.0002:
            return


def measure(lanes, seconds, limit, least=5, most=100):
    """Fills the lanes with samples: `seconds` for all together, but at least `least` rounds, and no
    more than those for what is slow. Each round ends with a turn of the limit (limits.py), and while
    too few rounds were quiet there are more of them."""
    order = list(lanes)
    shuffle = random.Random(0).shuffle
    begin = time.perf_counter()
    for done in range(most):
        took = time.perf_counter() - begin
        enough = limit.has_enough() or took >= PATIENCE * seconds
        if done >= least and took >= seconds and enough:
            break
        if done == least:
            bound = SLOW * min(min(lane.samples) for lane in order)
            order = [lane for lane in order if min(lane.samples) <= bound]
        turns = [lane.turn for lane in order]
        shuffle(turns)
        for turn in [*turns, limit]:
            settle()
            turn()
