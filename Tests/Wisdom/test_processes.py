"""Many processes on one file: nothing is lost, nobody waits for ever, nobody ever reads half a file."""

import os
import random
import signal
import time

import attune
import wisdom_file

PROCESSES, SHAPES, KILLS = 8, 100, 200


def context(path):
    """Nothing of a log function: a forked child would call into the parent's Python."""
    return attune.Context(threads=1, wisdom=path)


def pieces(folder, cpu, count, first=0):
    """Files of one record each."""
    files = []
    for n in range(first, first + count):
        files.append(folder / f"piece{n}")
        wisdom_file.write(files[-1], [wisdom_file.record(cpu, n)])
    return files


def test_no_record_is_lost(in_child, cpu, tmp_path):
    path = tmp_path / "shared" / "w.jsonl"
    path.parent.mkdir()
    shares = [pieces(tmp_path, cpu, SHAPES, p * SHAPES) for p in range(PROCESSES)]

    def work(share):
        signal.alarm(120)  # a deadlock ends here
        with context(path) as mine:
            for piece in share:
                assert mine.wisdom_import(piece)["accepted"] == 1

    children = [in_child(work, share) for share in shares]
    assert [os.waitpid(child, 0)[1] for child in children] == [0] * PROCESSES
    found = wisdom_file.read(path.read_bytes())
    assert len(wisdom_file.keys(found)) == PROCESSES * SHAPES
    assert sorted(p.name for p in path.parent.iterdir()) == ["w.jsonl", "w.jsonl.lock"]


def test_killed_writers_leave_a_whole_file(in_child, cpu, tmp_path):
    path = tmp_path / "shared" / "w.jsonl"
    path.parent.mkdir()
    files = pieces(tmp_path, cpu, 40)
    large = tmp_path / "large"  # so that a save takes a while
    wisdom_file.write(large, [wisdom_file.record(cpu, 1000 + n) for n in range(300)])
    with context(path) as first:
        first.wisdom_import(large)
    # In the file for good, whatever happens to the writers of the rest.
    kept = wisdom_file.keys(wisdom_file.read(path.read_bytes()))
    assert len(kept) == 300

    def work(seed):
        order = random.Random(seed)
        while True:
            with context(path) as mine:
                mine.wisdom_forget()
                mine.wisdom_import(large)
                mine.wisdom_import(order.choice(files))

    chance = random.Random(7)
    left = 0
    for kill in range(KILLS):
        child = in_child(work, kill)
        end = time.monotonic() + chance.uniform(0.002, 0.06)
        while time.monotonic() < end:
            wisdom_file.read(path.read_bytes()) if kill % 20 == 0 else time.sleep(0.002)
        os.kill(child, signal.SIGKILL)
        assert os.waitpid(child, 0)[1] == signal.SIGKILL
        wisdom_file.read(path.read_bytes())
        left += any(".tmp." in p.name for p in path.parent.iterdir())
    with context(path) as last:
        last.wisdom_forget()
        last.wisdom_import(large)
    assert wisdom_file.keys(wisdom_file.read(path.read_bytes())) == kept
    assert sorted(p.name for p in path.parent.iterdir()) == ["w.jsonl", "w.jsonl.lock"]
    assert left > 0, "no writer was killed in the middle of a save: the test proves nothing"


def test_a_forked_child_goes_on(in_child, cpu, tmp_path):
    """The context is the parent's, and a thread of it may be saving at this very moment."""
    import threading

    path = tmp_path / "w"
    files = pieces(tmp_path, cpu, 60)
    parent = context(path)
    stop = threading.Event()

    def save():
        while not stop.is_set():
            parent.wisdom_forget()
            for piece in files[:20]:
                parent.wisdom_import(piece)

    def child_work(n):
        parent.wisdom_import(files[20 + n])
        parent.close()

    threads = [threading.Thread(target=save) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        for n in range(20):
            child = in_child(child_work, n)
            end = time.monotonic() + 20
            while (done := os.waitpid(child, os.WNOHANG))[0] == 0:
                if time.monotonic() > end:
                    os.kill(child, signal.SIGKILL)
                    os.waitpid(child, 0)
                    raise AssertionError("a forked child hangs")
                time.sleep(0.005)
            assert done[1] == 0
            wisdom_file.read(path.read_bytes())
    finally:
        stop.set()
        for thread in threads:
            thread.join(30)
    parent.close()
    wisdom_file.read(path.read_bytes())


def test_a_stopped_writer_holds_nobody_up(in_child, cpu, tmp_path):
    import fcntl

    path = tmp_path / "w"
    piece = pieces(tmp_path, cpu, 1)[0]
    with open(tmp_path / "w.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        begin = time.monotonic()
        held = attune.Context(threads=1, wisdom=path, log=lambda *_: None)
        held.wisdom_import(piece)
        assert 1.5 < time.monotonic() - begin < 6
        assert not path.exists()
    held.close()
    assert len(wisdom_file.keys(wisdom_file.read(path.read_bytes()))) == 1
