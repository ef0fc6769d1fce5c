"""The command line: words, JSON keys, exit codes and .npy files. `verify` has a file of its own."""

import json
import os
import subprocess

import numpy as np
import pytest
from conftest import BUILD, ROOT

ATTUNE = BUILD / "bin" / "attune"
DATA = ROOT / "examples" / "data"
F32 = np.float32


def attune(*words, **environment):
    return subprocess.run(
        [ATTUNE, *map(str, words)], capture_output=True, text=True, env=os.environ | environment
    )


def answer(*words, code=0):
    """The JSON document that a command prints, alone on stdout."""
    done = attune(*words, "--json")
    assert done.returncode == code, done.stderr
    return json.loads(done.stdout)


def refused(*words, says):
    """A usage or input error: exit 2, nothing on stdout, one line on stderr."""
    done = attune(*words)
    assert (done.returncode, done.stdout) == (2, ""), done
    assert done.stderr.startswith("attune: ") and done.stderr.count("\n") == 1
    assert says in done.stderr
    return done.stderr


@pytest.fixture(scope="module")
def registry():
    return answer("list")


@pytest.fixture(scope="session")
def op(tmp_path_factory):
    """An operator whose forward is content with q, k and v, and whose o has the shape of v."""
    folder = tmp_path_factory.mktemp("op")
    words = [f"{name}={DATA / f'layer0_{name}.npy'}" for name in "qkv"]
    for found in answer("list")["operators"]:
        done = attune("run", found["id"], "--in", *words, "--out", f"o={folder / 'o.npy'}")
        if done.returncode == 0 and np.load(folder / "o.npy").shape == (1, 12, 512, 32):
            return found["id"]
    pytest.skip("no operator takes q, k and v alone")


@pytest.fixture
def qkv(tmp_path):
    """Small real tensors and the words that feed them."""
    words = ["--in"]
    arrays = {}
    for name in "qkv":
        arrays[name] = np.ascontiguousarray(np.load(DATA / f"layer0_{name}.npy")[:, :2, :80, :8])
        np.save(tmp_path / f"{name}.npy", arrays[name])
        words.append(f"{name}={tmp_path / name}.npy")
    return arrays, words


# ---- list, describe, doctor ----------------------------------------------------------------------


def test_list_shows_every_operator(registry):
    assert registry["schema"] == "attune.describe/1" and registry["operators"]
    plain, why = attune("list"), attune("list", "--why")
    assert plain.returncode == why.returncode == 0
    for op in registry["operators"]:
        assert op["id"] in plain.stdout
        for entry in op["entries"]:
            assert any(k["usable"] for k in entry["kernels"])
            assert all(k["name"] in why.stdout for k in entry["kernels"])


def test_no_kernel_of_the_project_is_dropped(registry):
    """A dropped kernel is one whose descriptor has a fault: only its reason is left of it."""
    for operator in registry["operators"]:
        for entry in operator["entries"]:
            assert [k for k in entry["kernels"] if "flags" not in k] == []


def test_list_tells_why_a_kernel_is_not_usable(registry):
    capped = attune("list", "--why", ATTUNE_MAX_ISA="sse4").stdout
    wide = {
        k["name"]
        for op in registry["operators"]
        for e in op["entries"]
        for k in e["kernels"]
        if any(bit.startswith("avx") for bit in k["isa"])
    }
    for name in wide:
        lines = [line for line in capped.splitlines() if f" {name} " in line]
        assert lines and all(" no: " in line for line in lines)


def test_lines_fit_100_columns(registry):
    describe = [["describe", op["id"]] for op in registry["operators"]]
    for words in [["list"], ["list", "--why"], *describe]:
        long = [s for s in attune(*words).stdout.splitlines() if len(s) > 100 and "/" not in s]
        assert not long


def test_describe_is_the_descriptor(registry):
    for op in registry["operators"]:
        d = answer("describe", op["id"])
        assert d["id"] == op["id"]
        text = attune("describe", op["id"]).stdout
        for entry in d["entries"]:
            assert all(t["name"] in text for t in entry["tensors"])
            assert sum("reference" in k["flags"] for k in entry["kernels"]) == 1


def test_doctor():
    d = answer("doctor")
    assert d["cpu"]["isa_level"] and d["operators"] and d["plugins"] and d["search_path"]
    empty = attune("doctor", ATTUNE_MAX_ISA="sse4")
    assert empty.returncode == 0 and "ATTUNE_MAX_ISA=sse4" in empty.stdout


def test_doctor_tells_why_a_plugin_is_refused(tmp_path):
    (tmp_path / "attune_broken.so").write_bytes(b"no ELF" * 100)
    d = json.loads(attune("doctor", "--json", ATTUNE_PLUGIN_PATH=str(tmp_path)).stdout)
    assert any("attune_broken.so" in p for p in d["problems"])
    record = next(p for p in d["plugins"] if p["path"].endswith("attune_broken.so"))
    assert record["status"] == "refused" and record["code"] and record["reason"]


# ---- usage ---------------------------------------------------------------------------------------


def test_help_and_version():
    assert attune("--help").returncode == 0
    assert attune("--version").stdout.strip().count(".") == 2


def test_usage_errors(op):
    refused("nonsense", says="nonsense")
    refused("run", says="<op>")
    refused("describe", "no_such_operator", says="no_such_operator")
    refused("run", "no_such_operator", says="no_such_operator")
    refused("run", op, "--threads", "0", says="--threads")
    refused("run", op, "--entry", "sideways", says="it has forward")
    refused("run", op, "--tune", "harder", says="choose one of off")
    refused("run", op, "--in", "q", says="NAME=VALUE")
    refused("verify", says="--golden")
    refused("bench", says="operator")
    refused("bench", op, "--shape", "B", says="SYMBOL=INTEGER")
    refused("bench", op, "--dtype", "f8", says="--dtype f8")


# ---- run -----------------------------------------------------------------------------------------


def test_run_writes_what_the_kernels_agree_on(op, qkv, tmp_path):
    _, words = qkv
    for kernel in [None, "reference"]:
        force = ["--kernel", kernel] if kernel else []
        done = attune("run", op, *words, *force, "--out", f"o={tmp_path / str(kernel)}.npy")
        assert done.returncode == 0, done.stderr
    got, want = np.load(tmp_path / "None.npy"), np.load(tmp_path / "reference.npy")
    assert got.dtype == F32 and got.shape == (1, 2, 80, 8)
    assert np.abs(want).max() > 0
    assert np.abs(got - want).max() <= 1e-4 * np.abs(want).max()


def test_run_prints_a_digest(op, qkv, tmp_path):
    _, words = qkv
    d = answer("run", op, *words, "--out", f"o={tmp_path / 'o.npy'}")
    o = np.load(tmp_path / "o.npy")
    made = next(x for x in d["outputs"] if x["name"] == "o")
    assert made["shape"] == list(o.shape) and made["not_finite"] == 0
    assert np.isclose(made["max"], o.max()) and np.isclose(made["mean"], o.mean(dtype=float))
    assert "1x2x80x8" in attune("run", op, *words).stdout


@pytest.mark.parametrize("version", [(1, 0), (2, 0)])
def test_npy_order_and_version_do_not_matter(op, qkv, tmp_path, version):
    arrays, words = qkv
    attune("run", op, *words, "--out", f"o={tmp_path / 'want.npy'}")
    for name, array in arrays.items():
        with open(tmp_path / f"{name}.npy", "wb") as file:
            np.lib.format.write_array(file, np.asfortranarray(array), version)
    done = attune("run", op, *words, "--out", f"o={tmp_path / 'got.npy'}")
    assert done.returncode == 0, done.stderr
    assert np.array_equal(np.load(tmp_path / "got.npy"), np.load(tmp_path / "want.npy"))


def test_half_precision_goes_in_and_out(op, qkv, tmp_path):
    arrays, words = qkv
    attune("run", op, *words, "--out", f"o={tmp_path / 'want.npy'}")
    for name, array in arrays.items():
        np.save(tmp_path / f"{name}.npy", array.astype(np.float16))
    attune("run", op, *words, "--out", f"o={tmp_path / 'got.npy'}")
    got, want = np.load(tmp_path / "got.npy"), np.load(tmp_path / "want.npy")
    assert got.dtype == np.float16 and np.abs(got - want).max() < 1e-2 * np.abs(want).max()


def test_the_library_says_which_type_it_wants(op, qkv, tmp_path):
    arrays, words = qkv
    np.save(tmp_path / "q.npy", arrays["q"].astype(np.float64))
    says = refused("run", op, *words, says="E_DTYPE")
    assert "q is f64" in says and "f32" in says


def test_bad_npy_files(op, qkv, tmp_path):
    arrays, words = qkv
    good = (tmp_path / "q.npy").read_bytes()
    header = lambda text: b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text
    dims = lambda shape: header(b"{'descr': '<f4', 'fortran_order': False, 'shape': %s, }" % shape)
    bad = {
        b"": "signature",
        good[:8]: "signature",
        good[:40]: "cut off",
        good[:-4]: "bytes of data",
        b"\x93NUMPX" + good[6:]: "signature",
        b"\x93NUMPY\x09\x00" + good[8:]: "version 9",
        header(b"{'descr': '<f4', 'fortran_order': False, 'shape': (1, 2"): "malformed",
        header(b"{'descr': '<f4', 'fortran_order': Maybe, 'shape': (1,), }"): "malformed",
        header(b"{'descr': '<f4', 'shape': (1,), }"): "malformed",
        header(b""): "malformed",
        header(b"{'descr': [('x', '<f4')], 'fortran_order': False, 'shape': (1,), }"): "malformed",
        dims(b"(-1,)"): "malformed",
        dims(b"(99999999999999999999,)"): "malformed",
        dims(b"(9223372036854775807, 9223372036854775807)"): "too large",
        dims(b"(4611686018427387904,)"): "too large",
        dims(b"(1099511627776,)"): "",
        dims(b"(1,1,1,1,1,1,1,1,1)"): "dims",
    }
    for content, says in bad.items():
        (tmp_path / "q.npy").write_bytes(content)
        refused("run", op, *words, "--out", f"o={tmp_path / 'o.npy'}", says=says)
        assert not (tmp_path / "o.npy").exists()
    np.save(tmp_path / "q.npy", arrays["q"].astype(">f4"))
    refused("run", op, *words, says="big-endian")
    np.save(tmp_path / "q.npy", arrays["q"].astype(np.complex64))
    refused("run", op, *words, says="'<c8'")
    (tmp_path / "q.npy").unlink()
    refused("run", op, *words, says="No such file")


def test_a_refused_call_writes_nothing(op, qkv, tmp_path):
    arrays, words = qkv
    np.save(tmp_path / "k.npy", arrays["k"][:, :, :, :4])
    refused("run", op, *words, "--out", f"o={tmp_path / 'o.npy'}", says="E_SHAPE")
    assert not (tmp_path / "o.npy").exists()
    np.save(tmp_path / "k.npy", arrays["k"])
    refused("run", op, *words[:-1], says=" v ")
    refused("run", op, *words, "--param", "no_such_parameter=1", says="no_such_parameter")
    refused("run", op, *words, "--in", words[1], says="twice")
    refused("run", op, *words, "--out", f"o={tmp_path / 'nowhere' / 'o.npy'}", says="nowhere")


# ---- bench, demo ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def small(op):
    """Sizes for `bench --shape` from the first bench preset, shrunk."""
    preset = next(p for p in answer("describe", op)["presets"] if p["flags"] == ["bench"])
    sizes = dict(item.split("=") for item in preset["shape"].split(","))
    return ",".join(f"{n}={min(int(x), 64 if n[0] in 'ND' else 2)}" for n, x in sizes.items())


def test_bench_json(op, small):
    d = answer("bench", op, "--shape", small, "--threads", 1, "--kernel", "all")
    assert {"op", "entry", "shape", "params", "dtype", "threads", "results", "cpu"} <= set(d)
    assert d["peak_gflops"] > 0 and d["read_bytes_per_s"] > 0 and d["threads"] == 1
    for item in small.split(","):
        name, size = item.split("=")
        assert d["shape"][name] == int(size)
    assert "reference" in [r["kernel"] for r in d["results"]]
    for r in d["results"]:
        assert {"kernel", "knobs", "median_ns", "min_ns", "gflops", "bytes_per_s"} <= set(r)
        assert 0 < r["min_ns"] <= r["median_ns"] and r["rounds"] >= 3
        assert np.isclose(r["gflops"], d["flops"] / r["median_ns"])
        assert np.isclose(r["bytes_per_s"], d["bytes"] / r["median_ns"] * 1e9)


def test_bench_table(op, small):
    done = attune("bench", op, "--shape", small, "--kernel", "reference", "--dtype", "bf16")
    assert done.returncode == 0, done.stderr
    assert "PEAK %" in done.stdout and "reference" in done.stdout


def test_bench_overhead():
    d = answer("bench", "--overhead")
    assert d["kernel_ns"] > 0 and d["execute_ns"] < 1e6 and d["run_ns"] < 1e6


def test_demo(registry):
    d = answer("demo", "--data", DATA)
    assert d["ok"] and not d["failures"] and d["layers"] == ["layer0", "layer5"]
    assert {o["op"] for o in d["operators"]} <= {o["id"] for o in registry["operators"]}
    assert all(o["error"] < 1e-2 and o["gflops"] > 0 for o in d["operators"])
    done = attune("demo", "--data", DATA)
    assert done.returncode == 0 and done.stdout.splitlines()[-1].startswith("all is well")


def test_demo_finds_its_data_beside_the_program():
    if not (BUILD / "share" / "attune" / "data").exists():
        pytest.skip("no data is staged")
    done = subprocess.run([ATTUNE, "demo"], cwd="/", capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_demo_without_data(tmp_path):
    refused("demo", "--data", tmp_path, says="--data")
