"""Many Python threads on one context, and processes made by fork."""

import os
import signal
import threading
import time

import numpy as np

import attune
from test_api import close, expected, qkv


def in_threads(count, work):
    failures = []

    def body(i):
        try:
            work(i)
        except BaseException as error:  # noqa: B902
            failures.append(error)

    threads = [threading.Thread(target=body, args=(i,)) for i in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
        assert not thread.is_alive()
    if failures:
        raise failures[0]


def test_concurrent_runs(ctx):
    problems = [qkv(nq=n, nk=2 * n + 1) for n in (1, 7, 16, 33)]
    wants = [expected(**x, causal=True)[0] for x in problems]

    def work(i):
        for step in range(25):
            at = (i + step) % len(problems)
            assert close(ctx.run("softmax", **problems[at], causal=True)["o"], wants[at])

    in_threads(8, work)


def test_concurrent_executes_of_one_plan(ctx):
    plan = ctx.plan("softmax", **qkv(nq=33, nk=65), causal=True)

    def work(i):
        for _ in range(25):
            x = qkv(nq=33, nk=65)
            assert close(plan.execute(**x)["o"], expected(**x, causal=True)[0])

    in_threads(8, work)


def test_first_use_by_many(build):
    with attune.Context(threads=2, tune="measure", wisdom="") as context:
        x = qkv(nq=20, nk=20)
        want = expected(**x)[0]
        in_threads(8, lambda i: close(context.run("softmax", **x)["o"], want) or 1 / 0)


def test_close_while_others_run():
    """The object goes when its last user is done."""
    x = qkv(nq=64, nk=64)
    want = expected(**x)[0]
    context = attune.Context(threads=2, tune="off", wisdom="")
    plan = context.plan("softmax", **x)
    started = threading.Event()

    def work(i):
        try:
            for _ in range(500):
                assert close(plan.execute(**x)["o"], want)
                started.set()
        except attune.Error as error:
            assert (error.code, error.argument) == ("E_INVALID", "plan")

    closer = threading.Thread(target=lambda: (started.wait(60), context.close(), plan.close()))
    closer.start()
    in_threads(4, work)
    closer.join()


def test_the_lock_of_python_is_released(ctx):
    """While one thread computes, another one runs Python."""
    x = qkv(hq=8, hkv=8, nq=768, nk=768, d=64, dv=64)
    kernels = ctx.describe("softmax")["entries"][0]["kernels"]
    reference = next(kernel["name"] for kernel in kernels if "reference" in kernel.get("flags", ()))
    plan, done, ticks = ctx.plan("softmax", **x, kernel=reference), threading.Event(), 0
    o = np.empty_like(x["q"])
    thread = threading.Thread(target=lambda: (plan.execute(**x, out={"o": o}), done.set()))
    thread.start()
    while not done.is_set():
        time.sleep(0.001)
        ticks += 1
    thread.join()
    assert ticks >= 10


def in_child(work):
    """Runs work in a forked child; fails when it fails or hangs."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            assert os.waitstatus_to_exitcode(status) == 0
            return
        time.sleep(0.01)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    raise AssertionError("the child hangs")


def test_fork(ctx):
    x = qkv(nq=65, nk=65)
    want = expected(**x)[0]
    plan = ctx.plan("softmax", **x)
    assert close(
        plan.execute(**x)["o"], want
    )  # the pool has threads now, the child has none of them

    def work():
        assert close(plan.execute(**x)["o"], want)
        assert close(ctx.run("softmax", **x, causal=True)["o"], expected(**x, causal=True)[0])
        with attune.Context(threads=2, tune="off", wisdom="") as fresh:
            assert close(fresh.run("softmax", **x)["o"], want)

    in_child(work)
    assert close(plan.execute(**x)["o"], want)


def test_fork_while_others_compute(ctx):
    x = qkv(nq=65, nk=65)
    want, stop = expected(**x)[0], threading.Event()

    def busy():
        while not stop.is_set():
            ctx.run("softmax", **x)

    threads = [threading.Thread(target=busy) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(5):
            in_child(lambda: close(ctx.run("softmax", **x)["o"], want) or os._exit(3))
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def test_sleeping_workers_keep_their_cpus():
    """A worker that sleeps is kept from its caller's CPU when it is woken, and only then."""
    x = qkv(nq=256, nk=256)
    with attune.Context(threads=2, tune="off", wisdom="") as context:
        with context.plan("softmax", **x, kernel="reference") as plan:
            assert plan.info["workers"] == 2
            before = set(os.listdir("/proc/self/task"))
            plan.execute(**x)
            for _ in range(20):
                time.sleep(0.005)  # longer than a worker polls
                plan.execute(**x)
            time.sleep(0.05)
            workers = set(os.listdir("/proc/self/task")) - before
            for task in workers | {str(threading.get_native_id())}:
                assert os.sched_getaffinity(int(task)) == os.sched_getaffinity(0), task
