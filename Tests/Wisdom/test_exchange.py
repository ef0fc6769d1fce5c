"""Import, export and forget through the C API, and files that cannot be used."""

import os
import resource
import signal
import stat

import pytest

import attune
import wisdom_file
from conftest import status


def refusal(code, f, *arguments):
    with pytest.raises(attune.Error) as caught:
        f(*arguments)
    assert caught.value.code == code, caught.value
    return caught.value


def test_lines_made_elsewhere_are_read(open_context, cpu, tmp_path):
    source = tmp_path / "in.jsonl"
    later = {"schema": 1, "kind": "later", "x": 1}
    records = [wisdom_file.record(cpu, n) for n in (1, 2)] + [wisdom_file.record("elsewhere", 1)]
    wisdom_file.write(source, [*records, later, records[0] | {"date": -1}])
    own = tmp_path / "own.jsonl"
    with open_context(own) as context:
        want = {"accepted": 2, "duplicate": 0, "foreign_cpu": 1, "damaged": 1, "unknown": 1}
        assert context.wisdom_import(source) == want
        assert context.wisdom_import(source) == want | {"accepted": 0, "duplicate": 2}
        assert status(context)["records"] == 2
        context.wisdom_export(tmp_path / "out.jsonl")
    for path in (own, tmp_path / "out.jsonl"):
        found = wisdom_file.read(path.read_bytes())
        assert sorted(map(str, found[1:])) == sorted(map(str, [*records, later]))
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_forget(open_context, cpu, tmp_path):
    path = tmp_path / "w"
    wisdom_file.write(path, [wisdom_file.record(cpu, 1, op=op) for op in ("a.op", "b.op")])
    with open_context(path) as context:
        error = refusal("E_NOT_FOUND", context.wisdom_forget, "c.op")
        assert "c.op" in str(error)
        context.wisdom_forget("a.op")
        assert wisdom_file.keys(wisdom_file.read(path.read_bytes())) == {("b.op", 1)}
        refusal("E_NOT_FOUND", context.wisdom_forget, "a.op")
        context.wisdom_forget()
        assert wisdom_file.keys(wisdom_file.read(path.read_bytes())) == set()


def test_what_cannot_be_imported(open_context, tmp_path):
    novel, newer = tmp_path / "novel", tmp_path / "newer"
    novel.write_text("It was a dark night.\n")
    newer.write_bytes(wisdom_file.header(2))
    with open_context() as context:
        assert refusal("E_NOT_FOUND", context.wisdom_import, tmp_path / "no").argument == "path"
        refusal("E_IO", context.wisdom_import, tmp_path)
        refusal("E_IO", context.wisdom_import, "/dev/zero")
        refusal("E_CORRUPT", context.wisdom_import, novel)
        assert "schema 2" in str(refusal("E_CORRUPT", context.wisdom_import, newer))
        refusal("E_IO", context.wisdom_export, tmp_path)
        refusal("E_IO", context.wisdom_export, "/dev/null")
        refusal("E_IO", context.wisdom_export, tmp_path / "no" / "where")
    assert novel.read_text() == "It was a dark night.\n"


def test_a_file_that_cannot_be_used_costs_one_line_of_the_log(open_context, logged, tmp_path, cpu):
    source = tmp_path / "in"
    wisdom_file.write(source, [wisdom_file.record(cpu, 1)])
    fifo, novel = tmp_path / "fifo", tmp_path / "novel"
    os.mkfifo(fifo)
    novel.write_text("It was a dark night.\n")
    for path in (fifo, novel, tmp_path, "/proc/self/w", tmp_path / "no" / "where", novel / "w"):
        logged.clear()
        with open_context(path) as context:
            for _ in range(3):
                assert context.wisdom_import(source)["damaged"] == 0
            now = status(context)
            assert now["records"] == now["unsaved"] == 1 and now["memory_only"]
        told = [text for level, text in logged if level != "info"]
        assert len(told) == 1 and str(path) in told[0], logged
    assert novel.read_text() == "It was a dark night.\n"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["fifo", "in", "novel"]


def test_full_disk(open_context, in_child, cpu, tmp_path):
    """A file size limit fails the write where a full disk would."""
    source, path = tmp_path / "in", tmp_path / "w"
    wisdom_file.write(source, [wisdom_file.record(cpu, n) for n in range(50)])
    wisdom_file.write(path, [wisdom_file.record(cpu, 99)])
    before = path.read_bytes()

    def fill():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))
        context = open_context(path)
        assert context.wisdom_import(source)["accepted"] == 50
        assert status(context)["unsaved"] == 50 and "too large" in status(context)["memory_only"]
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
        assert path.read_bytes() == before
        context.close()  # there is room again

    assert os.waitpid(in_child(fill), 0)[1] == 0
    assert len(wisdom_file.keys(wisdom_file.read(path.read_bytes()))) == 51
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in", "w", "w.lock"]
