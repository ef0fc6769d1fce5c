"""attune wisdom: its words, its exit codes, its JSON."""

import json
import os
import subprocess

import pytest

import wisdom_file


@pytest.fixture
def attune_wisdom(build):
    """attune_wisdom(ARGUMENTS..., rc=0, wisdom=FILE): standard output, or standard error if it fails."""

    def run(*arguments, rc=0, wisdom=""):
        done = subprocess.run(
            [build / "bin" / "attune", "wisdom", *map(str, arguments)],
            env=os.environ | {"ATTUNE_WISDOM": str(wisdom)},
            capture_output=True,
            text=True,
        )
        assert done.returncode == rc, done.stdout + done.stderr
        assert rc != 2 or (done.stdout == "" and done.stderr.count("\n") == 1), done.stderr
        return done.stderr if rc == 2 else done.stdout

    return run


def test_show(attune_wisdom, cpu, tmp_path):
    path = tmp_path / "w"
    here, there = wisdom_file.record(cpu, 77), wisdom_file.record("elsewhere", 78, op="b.op")
    machine = {
        "schema": 1, "kind": "machine", "cpu": cpu, "peak_gflops": {"avx2": 50.0, "avx512": 99.0},
        "l2_gbs": 60.0, "l3_gbs": 20.0, "dram_gbs": 8.0, "region_ns": 250.0, "date": 5,
    }  # fmt: skip
    barred = {
        "schema": 1, "kind": "quarantine", "cpu": cpu, "op": "someone.op", "entry": "forward",
        "plugin": "p", "build": "00ff", "candidate": here["winner"] | {"workers": 0},
        "reason": "crashed", "problem": "Nk=5", "date": 1_700_000_000,
    }  # fmt: skip
    wisdom_file.write(path, [here, there, machine, barred])
    shown = attune_wisdom("show", path)
    for word in ("Nk=77", "Nk=78", "tile/3", "bq=64,bk=128", "measure", "2023-11-14", "crashed", "any",
                 "avx512 99", f"{cpu} (this machine)", "elsewhere"):  # fmt: skip
        assert word in shown, word
    assert attune_wisdom("show", wisdom=path) == shown
    assert "Nk=77" not in attune_wisdom("show", path, "--op", "b.op")
    found = json.loads(attune_wisdom("show", path, "--json"))
    assert found["path"] == str(path) and found["cpu"] == cpu
    assert (found["unknown"], found["damaged"]) == (0, 0)

    def line(members, is_here):
        return {k: v for k, v in members.items() if k not in ("schema", "kind")} | {"here": is_here}

    # Sorted by CPU.
    records = sorted([line(here, True), line(there, False)], key=lambda r: r["cpu"])
    assert found["records"] == records
    assert found["machines"] == [line(machine, True)]
    assert found["quarantine"] == [line(barred, True)]


def test_verify(attune_wisdom, cpu, tmp_path):
    path = tmp_path / "w"
    wisdom_file.write(path, [wisdom_file.record(cpu, n) for n in range(3)])
    assert "3 records for this CPU" in attune_wisdom("verify", path)
    data = bytearray(path.read_bytes())
    data[-30] ^= 1
    path.write_bytes(data)
    said = attune_wisdom("verify", path, rc=1).splitlines()
    assert said[0] == f"{path}:4: its checksum does not fit"
    assert "2 records" in said[1] and "1 damaged" in said[1]
    found = json.loads(attune_wisdom("verify", "--json", rc=1, wisdom=path))
    assert (found["records"], found["damaged"]) == (2, 1)
    assert found["faults"] == [{"line": 4, "reason": "its checksum does not fit"}]
    assert path.read_bytes() == data, "verify has written"
    novel = tmp_path / "novel"
    novel.write_text("It was a dark night.\n")
    attune_wisdom("verify", novel, rc=1)
    assert "missing" in attune_wisdom("verify", tmp_path / "missing", rc=2)
    assert attune_wisdom("verify", wisdom=tmp_path / "missing") == "nothing yet\n"
    assert attune_wisdom("show", wisdom=tmp_path / "missing") == "nothing yet\n"
    attune_wisdom("verify", wisdom="", rc=2)


def test_merge(attune_wisdom, cpu, tmp_path):
    a, b = tmp_path / "a", tmp_path / "b"
    fast = wisdom_file.record(cpu, 2, kernel="fast", rigor="patient")
    wisdom_file.write(a, [wisdom_file.record(cpu, 1), wisdom_file.record(cpu, 2)])
    wisdom_file.write(b, [fast, wisdom_file.record("elsewhere", 3)])
    results = set()
    for number, inputs in enumerate([(a, b), (b, a), (a, b, a, b)]):
        out = tmp_path / f"out{number}"
        assert attune_wisdom("merge", out, *inputs) == f"{out}: 3 records\n"
        results.add(out.read_bytes())
    (data,) = results
    winners = {r["sizes"]["Nk"]: r["winner"]["kernel"] for r in wisdom_file.read(data)[1:]}
    assert winners == {1: "tile", 2: "fast", 3: "tile"}
    trials = {r["sizes"]["Nk"]: len(r["trials"]) for r in wisdom_file.read(data)[1:]}
    assert trials == {1: 1, 2: 2, 3: 1}
    assert json.loads(attune_wisdom("merge", a, b, "--json")) == {
        "path": str(a), "records": 3, "damaged": 0,
    }  # fmt: skip
    assert a.read_bytes() == data
    novel = tmp_path / "novel"
    novel.write_text("It was a dark night.\n")
    attune_wisdom("merge", novel, a, rc=2)
    attune_wisdom("merge", tmp_path / "out9", tmp_path / "missing", rc=2)
    assert novel.read_text() == "It was a dark night.\n" and not (tmp_path / "out9").exists()


def test_forget(attune_wisdom, cpu, tmp_path):
    path = tmp_path / "w"
    wisdom_file.write(path, [wisdom_file.record(cpu, 1, op=op) for op in ("a.op", "b.op")])
    assert attune_wisdom("forget", "a.op", wisdom=path) == "forgot a.op\n"
    assert wisdom_file.keys(wisdom_file.read(path.read_bytes())) == {("b.op", 1)}
    assert "E_NOT_FOUND" in attune_wisdom("forget", "a.op", rc=2, wisdom=path)
    assert json.loads(attune_wisdom("forget", "--json", wisdom=path)) == {"forgot": None}
    assert wisdom_file.keys(wisdom_file.read(path.read_bytes())) == set()


def test_doctor(build, cpu, tmp_path):
    path = tmp_path / "w"
    wisdom_file.write(path, [wisdom_file.record(cpu, 1), wisdom_file.record(cpu, 2) | {"date": -1}])

    def doctor(wisdom):
        done = subprocess.run(
            [build / "bin" / "attune", "doctor", "--json"],
            env=os.environ | {"ATTUNE_WISDOM": str(wisdom)},
            stdout=subprocess.PIPE,
        )
        return json.loads(done.stdout)

    found = doctor(path)
    assert (found["wisdom"]["path"], found["wisdom"]["records"]) == (str(path), 1)
    assert any("damaged" in problem for problem in found["problems"])
    assert any(f"{tmp_path} is not a" in problem for problem in doctor(tmp_path)["problems"])
