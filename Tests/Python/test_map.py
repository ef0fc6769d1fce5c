"""`attune map` finds what an operator is told to read, and the page has every operator."""

import json
import re
import shutil
import subprocess
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
from conftest import ROOT
from test_cli import answer, attune, refused

PAGE = (ROOT / "docs" / "operators.md").read_text()
SMALL = "B=1,Hq=2,Hkv=1,Nq=60,Nk=60,D=16,Dv=16"


def parameters(op):
    return {p["name"] for p in answer("describe", op)["params"]}


@pytest.fixture(scope="module")
def dense():
    """An operator with a causal mask and a window, whose forward is content with q, k and v."""
    for op in answer("list")["operators"]:
        if {"causal", "window_left"} <= parameters(op["id"]):
            if attune("map", op["id"], "--shape", SMALL, "--cells", 4).returncode == 0:
                return op["id"]
    pytest.skip("no operator has a mask and a window")


def matrix(*words):
    return np.array(answer("map", *words)["matrix"])


def test_a_causal_mask_is_a_triangle(dense):
    got = matrix(dense, "--shape", SMALL, "--param", "causal=true", "--cells", 60)
    assert np.array_equal(got > 0, np.tri(60, dtype=bool))
    # The first query reads one key; what it reads is all of its row.
    assert np.isclose(got[0, 0], 1, atol=1e-5)


def test_everything_is_read_without_a_mask(dense):
    d = answer("map", dense, "--shape", SMALL)
    assert d["share"] == 1 and d["linear_in_v"] and np.min(d["matrix"]) > 0


def test_a_window_is_a_band(dense):
    words = ["--param", "causal=true", "window_left=9", "--cells", 60]
    got = matrix(dense, "--shape", SMALL, *words)
    i, j = np.indices(got.shape)
    assert np.array_equal(got > 0, (j <= i) & (i - j <= 9))


def test_small_weights_show(dense):
    """Weights that the sum of f32 cannot hold beside the others: the keys are read all the same."""
    d = answer("map", dense, "--shape", SMALL, "--param", "scale=1.5")
    assert d["share"] == 1 and 0 < np.min(d["matrix"]) < 1e-10


@pytest.mark.parametrize("kernel", ["reference", None])
def test_parts_are_those_of_the_weights(dense, kernel):
    """Against numpy: what a block of keys adds to a row, relative to the row's largest element."""
    data = ROOT / "examples" / "data"
    q, k, v = (np.load(data / f"layer0_{name}.npy")[0, 1].astype(float) for name in "qkv")
    s = q @ k.T / np.sqrt(32)
    p = np.exp(s - s.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    added = np.einsum("ijl,jlc->ijc", p.reshape(512, 8, 64), v.reshape(8, 64, 32))
    part = np.abs(added).max(-1) / np.abs(p @ v).max(-1, keepdims=True)
    want = part.reshape(8, 64, 8).max(1)
    force = ["--kernel", kernel] if kernel else []
    got = matrix(dense, "--head", 1, "--cells", 8, "--data", data, *force)
    assert np.allclose(got, want, rtol=1e-3)


def test_json_has_one_form(dense):
    d = answer("map", dense, "--shape", SMALL, "--cells", 7, "--threads", 2)
    assert d["op"] == dense and d["entry"] == "forward" and d["kernel"] and d["head"] is None
    assert d["shape"]["Nq"] == 60 and d["query_edges"] == d["key_edges"]
    assert d["key_edges"][0] == 0 and d["key_edges"][-1] == 60 and len(d["key_edges"]) == 8
    assert np.array(d["matrix"]).shape == (7, 7)
    again = answer("map", dense, "--shape", SMALL, "--cells", 7, "--threads", 1)
    assert d["matrix"] == again["matrix"]


def test_queries_and_keys_may_differ_in_number(dense):
    shape = "B=2,Hq=2,Hkv=2,Nq=3,Nk=50,D=8,Dv=8"
    assert matrix(dense, "--shape", shape, "--cells", 10).shape == (3, 10)


def test_pictures(dense, tmp_path):
    svg = tmp_path / "map.svg"
    done = attune("map", dense, "--shape", SMALL, "--param", "causal=true", "-o", svg)
    assert done.returncode == 0 and str(svg) in done.stdout
    text = svg.read_text()
    root = ElementTree.fromstring(text)
    assert root.tag.endswith("svg") and len(text) < 100_000
    for word in (dense, "causal=true", "query", "key", "50.8 %"):
        assert word in text
    again = tmp_path / "again.svg"
    attune("map", dense, "--shape", SMALL, "--param", "causal=true", "-o", again)
    assert again.read_text() == text
    # The painted cells are those of the matrix.
    painted = np.zeros((60, 60), int)
    for path in re.findall(r'<path fill="#[0-9a-f]{6}" d="(.*?)"/>', text):
        runs = re.findall(r"M(\d+) (\d+)h(\d+)v1h-\d+z", path)
        assert "".join(f"M{x} {y}h{n}v1h-{n}z" for x, y, n in runs) == path
        for x, y, n in (map(int, run) for run in runs):
            painted[y, x : x + n] += 1
    assert np.array_equal(painted, np.tri(60, dtype=int))


def test_text(dense):
    shown = attune("map", dense, "--shape", SMALL, "--param", "causal=true", "--cells", 5)
    lines = shown.stdout.splitlines()
    assert lines[0] == f"{dense} causal=true" and "60.0 %" in lines[1]
    assert [len(line[1:-1].rstrip()) for line in lines[2:]] == [1, 2, 3, 4, 5]


def test_one_head(dense):
    per_head = [matrix(dense, "--shape", SMALL, "--head", h) for h in range(2)]
    assert not np.array_equal(*per_head)
    assert np.array_equal(np.maximum(*per_head), matrix(dense, "--shape", SMALL))


def test_every_operator_can_be_drawn():
    for op in answer("list")["operators"]:
        d = answer("map", op["id"], "--cells", 4)
        got = np.array(d["matrix"])
        assert got.shape == (4, 4) and np.isfinite(got).all() and (got >= 0).all()
        assert 0 < d["share"] <= 1 and np.diag(got).min() > 0, op["id"]


def test_what_cannot_be_drawn(dense, tmp_path):
    refused("map", says="<op>")
    refused("map", "no_such_operator", says="no_such_operator")
    refused("map", dense, "--shape", SMALL, "--cells", 0, says="--cells is 0")
    refused("map", dense, "--shape", SMALL, "--cells", 513, says="1 to 512")
    refused("map", dense, "--shape", SMALL, "--head", 2, says="--head is 2, expected 0 to 1")
    refused("map", dense, "--shape", SMALL, "--head=-1", says="--head is -1")
    refused("map", dense, "--shape", "B=1,Hq", says="SYMBOL=INTEGER")
    refused("map", dense, "--shape", SMALL, "--data", tmp_path, says="--data")
    refused("map", dense, "--data", tmp_path, says="--data")
    refused("map", dense, "--shape", SMALL, "--param", "nonsense=1", says="nonsense")
    refused("map", dense, "--shape", SMALL, "--param", "window_left=-2", says="window_left")
    refused("map", dense, "--shape", SMALL, "--kernel", "nonsense", says="nonsense")
    refused("map", dense, "--shape", SMALL.replace("=60", "=0"), says="empty")
    refused("map", dense, "--shape", SMALL.replace("=60", "=90000"), says="smaller --shape")
    refused("map", dense, "--shape", SMALL.replace("=60", "=4000000000"), says="")
    refused("map", dense, "--shape", SMALL, "-o", tmp_path / "nowhere" / "m.svg", says="nowhere")
    refused("map", dense, "--shape", SMALL, "-o", tmp_path, says=str(tmp_path))


def template(folder, *changes):
    """Builds the template with some of its text replaced; the environment in which it is found."""
    source = (ROOT / "plugins" / "_template" / "plugin.c").read_text()
    for old, new in changes:
        assert source.count(old) == 1
        source = source.replace(old, new)
    (folder / "plugin.c").write_text(source)
    compiler = shutil.which("cc") or shutil.which("clang")
    if not compiler:
        pytest.skip("no C compiler")
    flags = ["-O1", "-shared", "-fPIC", '-DATTUNE_FOLDER="drawn"', f"-I{ROOT / 'include'}"]
    made = [folder / "plugin.c", "-lm", "-o", folder / "attune_drawn.so"]
    subprocess.run([compiler, *flags, *made], check=True)
    return {"ATTUNE_PLUGIN_PATH": str(folder)}


def test_a_choice_that_depends_on_v(tmp_path):
    """Only the 3 keys of largest v[0] are read. A large change of v would change the choice."""
    kept = """static int kept(const attune_exec* x, int64_t b, int64_t h, int64_t j) {
  int64_t larger = 0;
  for (int64_t i = 0; i < x->symbols[N]; i++)
    larger += *row(x->tensors[V], b, h, i) > *row(x->tensors[V], b, h, j);
  return larger < 3;
}
/* REFERENCE:"""
    skip = "if (!kept(x, b, h, j)) continue;\n        double dot = 0;"
    path = template(tmp_path, ("/* REFERENCE:", kept), ("double dot = 0;", skip))
    rng = np.random.default_rng(0)
    for name in ["q", "k", "v", "out"]:
        np.save(tmp_path / f"layer0_{name}.npy", rng.standard_normal((1, 2, 40, 8), np.float32))
    words = ["drawn", "--data", tmp_path, "--cells", 40, "--head", 1, "--kernel", "reference"]
    done = attune("map", *words, "--json", **path)
    assert done.returncode == 0, done.stderr
    d = json.loads(done.stdout)
    first = np.load(tmp_path / "layer0_v.npy")[0, 1, :, 0]
    columns = np.isin(np.arange(40), np.argsort(first)[-3:])
    assert not d["linear_in_v"] and np.isclose(d["share"], 3 / 40)
    assert np.array_equal(np.array(d["matrix"]) > 0, np.broadcast_to(columns, (40, 40)))


def test_an_operator_without_v(tmp_path):
    preset = ('"forward", "", "", "", "all', '"forward", "", "B=1,H=1,N=4,D=2,Dv=2", "", "all')
    path = template(tmp_path, ('F32_TENSOR("v",', 'F32_TENSOR("u",'), preset)
    done = attune("map", "drawn", "--shape", "B=1,H=1,N=4,D=2,Dv=2", **path)
    assert done.returncode == 2 and "no input v" in done.stderr


def test_a_result_that_is_not_finite(tmp_path):
    path = template(tmp_path, ("dot += (double)q[d] * k[d];", "dot += (double)q[d] * k[d] / 0.0;"))
    words = ["drawn", "--shape", "B=1,H=1,N=4,D=2,Dv=2", "--kernel", "reference"]
    done = attune("map", *words, **path)
    assert done.returncode == 1 and "not finite" in done.stderr


def test_the_page_has_every_operator():
    for op in answer("list")["operators"]:
        if not (ROOT / "plugins" / op["id"]).exists():
            continue
        picture = ROOT / "docs" / "maps" / f"{op['id']}.svg"
        assert f"](maps/{op['id']}.svg)" in PAGE and f"\n## {op['id']}\n" in PAGE, op["id"]
        assert ElementTree.parse(picture).getroot().tag.endswith("svg")
        assert picture.stat().st_size < 100_000
