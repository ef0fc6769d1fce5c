"""`attune verify`: golden vectors pass, and fail when they are wrong in any way a case can be."""

import json
import shutil

import numpy as np
import pytest
from conftest import ROOT
from test_cli import F32, attune, op, qkv, refused  # noqa: F401: op and qkv are fixtures


def golden_folders():
    return sorted(p.parent for p in ROOT.glob("plugins/[!_]*/cases/*/case.json"))


def test_golden_vectors_of_the_plugins():
    d = answer_of_verify("--golden", ROOT / "plugins", "--allow-uncovered")
    assert set(d) == {"passed", "failed", "skipped", "covered", "uncovered", "cases"}
    assert d["failed"] == 0 and d["passed"] > 0
    assert d["covered"] + len(d["uncovered"]) == len(golden_folders())
    counted = {"passed": d["passed"], "failed": d["failed"]}
    for status in counted:
        assert sum(c["status"] == status for c in d["cases"]) == counted[status]
    skipped = [c for c in d["cases"] if c["status"] in ("declined", "not-offered")]
    assert len(skipped) == d["skipped"] and all(c["reason"] for c in skipped)
    keys = {"op", "case", "entry", "kernel", "status", "worst", "reason"}
    assert all(set(c) == keys for c in d["cases"])
    assert all(0 <= c["worst"] <= 1 for c in d["cases"] if c["status"] == "passed")


def answer_of_verify(*words):
    done = attune("verify", *words, "--json")
    assert done.returncode in (0, 1), done.stderr
    return json.loads(done.stdout)


@pytest.fixture
def golden(tmp_path, op, qkv):
    """Makes a case of `op` from steps; expected values come from REFERENCE through `run`."""
    arrays, words = qkv
    attune("run", op, *words, "--kernel", "reference", "--out", f"o={tmp_path / 'o.npy'}")
    o = np.load(tmp_path / "o.npy")
    folder = tmp_path / "golden" / op / "case"
    folder.mkdir(parents=True)

    def make(inputs=arrays, outputs={"o": o}, ignore={}, **rest):
        def store(tensors):
            for name, array in tensors.items():
                np.save(folder / f"{name}.npy", array)
            return {
                n: {"file": f"{n}.npy", "shape": a.shape, "dtype": str(a.dtype)} | ignore.get(n, {})
                for n, a in tensors.items()
            }

        case = {
            "format": "attune-golden/1",
            "op": op,
            "case": "case",
            "pass": "forward",
            "params": {},
            "inputs": store(inputs),
            "outputs": store(outputs),
            "grads": {},
            "tolerance": {"rtol": 1e-4, "atol": 1e-5, "per_tensor": {}},
        }
        (folder / "case.json").write_text(json.dumps(case | rest))
        return tmp_path / "golden"

    make.o = o
    make.arrays = arrays
    return make


def statuses(*words):
    """By entry and kernel, of those that took the case."""
    cases = answer_of_verify(*words)["cases"]
    return {(c["entry"], c["kernel"]): c["status"] for c in cases if c["status"] != "declined"}


def test_a_case_passes_and_is_covered(golden):
    done = attune("verify", "--golden", golden())
    assert done.returncode == 0, done.stdout
    assert "1 of 1 cases covered" in done.stdout


@pytest.mark.parametrize("wrong", [1e-3, np.nan, np.inf])
def test_a_wrong_value_fails(golden, wrong):
    o = golden.o.copy()
    o[0, 1, 3, 2] += F32(wrong)
    folder = golden(outputs={"o": o})
    done = attune("verify", "--golden", folder, "--json")
    assert done.returncode == 1
    d = json.loads(done.stdout)
    tried = [c for c in d["cases"] if c["status"] != "declined"]
    assert d["failed"] == len(tried) >= 2 and d["covered"] == 0
    assert all("o[0, 1, 3, 2]" in c["reason"] for c in tried)
    assert attune("verify", "--golden", folder, "--allow-uncovered").returncode == 1


def test_tolerance_of_one_tensor_replaces_both_numbers(golden):
    o = golden.o + F32(1e-3)
    loose = {"rtol": 0, "atol": 0, "per_tensor": {"o": {"rtol": 0, "atol": 2e-3}}}
    strict = {"rtol": 1, "atol": 1, "per_tensor": {"o": {"rtol": 0, "atol": 0}}}
    for tolerance, status in [(loose, "passed"), (strict, "failed")]:
        folder = golden(outputs={"o": o}, tolerance=tolerance)
        assert set(statuses("--golden", folder).values()) == {status}


def test_a_wrong_shape_fails(golden):
    folder = golden(outputs={"o": golden.o[:, :, :-1]})
    assert set(statuses("--golden", folder).values()) == {"failed"}


def test_slices_indices_and_ignored_boxes(golden):
    """Inputs stacked along a new axis, results along an old one; the second half is wrong in a box."""
    stacked = {n: np.stack([a, a]) for n, a in golden.arrays.items()}
    spoilt = np.concatenate([golden.o, golden.o])
    spoilt[1, 0, 2:4, 1:3] = 7
    steps = [
        {
            "entry": "forward",
            "feed": {n: {"tensor": n, "axis": 0, "index": i} for n in "qkv"},
            "expect": {"o": {"tensor": "o", "axis": 0, "start": i, "stop": i + 1}},
        }
        for i in (0, 1)
    ]
    make = lambda box: golden(
        stacked, {"o": spoilt}, {"o": {"ignore": [box]}}, steps=steps, **{"pass": "steps"}
    )
    assert set(statuses("--golden", make([[1, 2], [0, 1], [2, 4], [1, 3]])).values()) == {"passed"}
    for box in [[[0, 1], [0, 1], [2, 4], [1, 3]], [[1, 2], [0, 1], [2, 4], [1, 2]]]:
        cases = answer_of_verify("--golden", make(box))["cases"]
        failed = [c for c in cases if c["status"] != "declined"]
        assert {c["status"] for c in failed} == {"failed"}
        assert all("call 2" in c["reason"] for c in failed)


def test_registers_carry_results_on(golden, op, qkv, tmp_path):
    """o of the first call is v of the second."""
    _, words = qkv
    np.save(tmp_path / "v.npy", golden.o)
    attune("run", op, *words, "--kernel", "reference", "--out", f"o={tmp_path / 'o2.npy'}")
    twice = np.load(tmp_path / "o2.npy")
    assert np.abs(twice - golden.o).max() > 1e-2
    feed = {n: {"tensor": n} for n in "qk"}
    first = {"feed": feed | {"v": {"tensor": "v"}}, "state_out": {"o": "r"}, "expect": {}}
    second = {"feed": feed, "state_in": {"v": "r"}, "expect": {"o": {"tensor": "o"}}}
    steps = [{"entry": "forward"} | call for call in (first, second)]
    arrays = golden.arrays
    right = statuses("--golden", golden(arrays, {"o": twice}, steps=steps))
    assert set(right.values()) == {"passed"}
    wrong = statuses("--golden", golden(arrays, {"o": golden.o}, steps=steps))
    assert set(wrong.values()) == {"failed"}
    refused("verify", "--golden", golden(arrays, {"o": twice}, steps=steps[1:]), says="register r")


def test_absent_entries_and_outputs(golden):
    o = {"o": golden.o}
    feed = {n: {"tensor": n} for n in "qkv"}
    absent = [{"entry": "sideways", "feed": feed, "expect": {"o": {"tensor": "o"}}}]
    done = attune("verify", "--golden", golden(steps=absent), "--json")
    assert done.returncode == 1
    assert [c["status"] for c in json.loads(done.stdout)["cases"]] == ["not-offered"]
    # An output that nobody offers is not requested; the others still count.
    extra = golden(outputs=o | {"nothing": golden.o})
    assert set(statuses("--golden", extra).values()) == {"passed"}
    alone = [{"entry": "forward", "feed": feed, "expect": {"nothing": {"tensor": "o"}}}]
    assert set(statuses("--golden", golden(steps=alone)).values()) == {"not-offered"}


def test_one_kernel_alone_covers_nothing(golden, op):
    folder = golden()
    assert attune("verify", op, "--golden", folder, "--kernel", "reference").returncode == 1
    words = ["--golden", folder, "--kernel", "reference", "--allow-uncovered"]
    assert attune("verify", op, *words).returncode == 0
    assert statuses(*words) == {("forward", "reference"): "passed"}


def test_verify_refuses(golden, tmp_path, op):
    folder = golden()
    refused("verify", "no_such_operator", "--golden", folder, says="no_such_operator")
    refused("verify", "--golden", tmp_path / "nowhere", says="no such folder")
    refused("verify", "--golden", folder, "--kernel", "no_such_kernel", says="no_such_kernel")
    empty = tmp_path / "empty"
    empty.mkdir()
    refused("verify", "--golden", empty, says="no case")
    refused("verify", op, "--golden", empty, says="no case")
    case = folder / op / "case"
    for content in ["", "[]", "{}", '{"format": "attune-golden/1"}']:
        (case / "case.json").write_text(content)
        refused("verify", "--golden", folder, says="case.json")
    golden(format="attune-golden/2")
    refused("verify", "--golden", folder, says="attune-golden/2")
    golden()
    np.save(case / "q.npy", np.zeros(3, F32))
    refused("verify", "--golden", folder, says="q.npy")
    shutil.rmtree(case)
