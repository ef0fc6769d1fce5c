"""The inline functions of attune/helpers.h against those of the Python package and against golden
inputs."""

import itertools

import attune
import numpy as np
import pytest
from abi_support import CC, CXX_COMPILERS, HERE, ROOT, WARNINGS, run

RULES = ("alibi", "geometric", "linear")
E_PARAM = -7


@pytest.fixture(scope="module", params=[(CC, "c11"), (CXX_COMPILERS[0], "c++17")], ids="-".join)
def helpers(request, tmp_path_factory):
    compiler, standard = request.param
    program = tmp_path_factory.mktemp("helpers") / "helpers"
    language = "c++" if "++" in compiler else "c"
    run(compiler, f"-std={standard}", *WARNINGS, "-I", ROOT / "include", "-x", language,
        HERE / "helpers.c", "-o", program, "-lm")  # fmt: skip
    return lambda *words: run(program, *words).split()


def numbers(words):
    return np.array(words, np.float32)


def same(got, want):
    np.testing.assert_allclose(got, np.ravel(want), rtol=2e-7, atol=1e-7)


def test_alibi(helpers):
    for heads in (1, 2, 3, 6, 8, 12, 64, 71):
        same(numbers(helpers("alibi", heads)), attune.alibi_slopes(heads))


def test_decay(helpers):
    places = ((0, 1), (0, 12), (5, 12), (11, 12))
    for heads, (layer, layers) in itertools.product((1, 6, 8, 20), places):
        for i, rule in enumerate(RULES):
            got = numbers(helpers("decay", i, heads, layer, layers))
            same(got, attune.decay_slopes(heads, layer, layers, rule))


def test_tables(helpers):
    for sizes in ((7, 7, 32), (5, 13, 16), (3, 2, 4), (0, 3, 8)):
        same(numbers(helpers("tables", *sizes)), attune.rotary_tables_2d(*sizes))


def test_golden(helpers):
    cases = ROOT / "plugins"
    slopes = np.load(cases / "lightning/cases/decay_partial_block_h6/slopes.npy")
    np.testing.assert_allclose(numbers(helpers("decay", 0, 6, 3, 12)), slopes, rtol=1e-6)
    folder = cases / "mala/cases/rope_7x7"
    want = [np.load(folder / f"{name}.npy").ravel() for name in ("sin", "cos")]
    np.testing.assert_allclose(numbers(helpers("tables", 7, 7, 32)), np.hstack(want), atol=2e-6)


@pytest.mark.parametrize(
    "words,argument",
    [
        (("alibi", 0), "heads"),
        (("decay", 3, 4, 0, 8), "rule"),
        (("decay", 0, 0, 0, 8), "heads"),
        (("decay", 0, 4, 0, 0), "layers"),
        (("decay", 0, 4, 8, 8), "layer"),
        (("decay", 0, 4, -1, 8), "layer"),
        (("tables", -1, 2, 8), "height"),
        (("tables", 2, -1, 8), "width"),
        (("tables", 2, 2, 6), "channels"),
        (("tables", 2, 2, 0), "channels"),
    ],
)
def test_refusals(helpers, words, argument):
    assert helpers(*words) == [str(E_PARAM), argument]
