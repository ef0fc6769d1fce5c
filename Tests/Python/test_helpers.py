"""Slopes and rotary tables against inputs that authors' code made, and against the formulas."""

import pathlib

import numpy as np
import pytest

import attune

CASES = pathlib.Path(__file__).resolve().parents[2] / "plugins"
# Golden inputs and how their makers say they were made.
SLOPES = [
    ("lightning/cases/decay_multiple_of_block", lambda: attune.alibi_slopes(4)),
    ("lightning/cases/decay_partial_block_h6", lambda: attune.decay_slopes(6, 3, 12)),
    ("lightning/cases/minimax_prefill_decode", lambda: attune.decay_slopes(4, 2, 8, "geometric")),
]
TABLES = [("mala/cases/rope_7x7", 7, 7), ("mala/cases/rope_gqa_large", 5, 13)]


@pytest.mark.parametrize("case,make", SLOPES)
def test_slopes_of_golden_cases(case, make):
    np.testing.assert_allclose(make(), np.load(CASES / case / "slopes.npy"), rtol=1e-6)


@pytest.mark.parametrize("case,height,width", TABLES)
def test_tables_of_golden_cases(case, height, width):
    want = [np.load(CASES / case / f"{name}.npy") for name in ("sin", "cos")]
    got = attune.rotary_tables_2d(height, width, want[0].shape[1])
    np.testing.assert_allclose(got, want, atol=2e-6)


def test_alibi():
    assert attune.alibi_slopes(1).tolist() == [2**-8]
    assert attune.alibi_slopes(4).tolist() == [1 / 4, 1 / 16, 1 / 64, 1 / 256]
    assert attune.alibi_slopes(6).tolist() == [1 / 4, 1 / 16, 1 / 64, 1 / 256, 1 / 2, 1 / 8]
    assert attune.alibi_slopes(8).tolist() == [2.0**-i for i in range(1, 9)]
    assert attune.alibi_slopes(8).dtype == np.float32


def test_decay_rules():
    close = lambda got, want: np.testing.assert_allclose(got, want, rtol=1e-6)
    close(attune.decay_slopes(4, 0, 1), np.array([1 / 4, 1 / 16, 1 / 64, 1 / 256]) * (1 + 1e-5))
    close(attune.decay_slopes(2, 3, 4), [2**-4 * 1e-5, 2**-8 * 1e-5])  # hardly any decay
    thirds = 2.0 ** (-8 * np.arange(1, 4) / 3)
    close(attune.decay_slopes(3, 0, 5, "geometric"), thirds * (1 + 1e-5))
    close(attune.decay_slopes(4, 1, 4, "linear"), [0, 1.5, 3, 4.5])
    for rule in ("alibi", "geometric", "linear"):
        for layer in range(7):
            slopes = attune.decay_slopes(5, layer, 7, rule)
            assert slopes.shape == (5,) and (slopes >= 0).all() and np.isfinite(slopes).all()


def test_tables_rotate():
    sin, cos = attune.rotary_tables_2d(3, 4, 8)
    assert sin.shape == cos.shape == (12, 8) and sin.dtype == np.float32
    np.testing.assert_allclose(sin**2 + cos**2, 1, atol=1e-6)
    # Token (2, 3): angles 1 and 1e-4, each for a pair of channels.
    turns = [2, 2, 2e-4, 2e-4, 3, 3, 3e-4, 3e-4]
    np.testing.assert_allclose(sin[11], np.sin(turns), rtol=1e-5)
    assert attune.rotary_tables_2d(0, 4, 8)[0].shape == (0, 8)
    last = attune.rotary_tables_2d(2, 2, 4)[0][3]
    np.testing.assert_allclose(last, np.sin([1, 1, 1, 1]), rtol=1e-6)


@pytest.mark.parametrize(
    "call,argument,words",
    [
        (lambda: attune.alibi_slopes(0), "heads", "heads is 0, expected at least 1"),
        (lambda: attune.alibi_slopes(2.5), "heads", "heads is 2.5, expected an integer"),
        (lambda: attune.decay_slopes(4, 8, 8), "layer", "layer is 8, expected less than"),
        (lambda: attune.decay_slopes(4, -1, 8), "layer", "layer is -1, expected at least 0"),
        (lambda: attune.decay_slopes(4, 0, 0), "layers", "layers is 0, expected at least 1"),
        (lambda: attune.decay_slopes(4, 0, 8, "flat"), "rule", "rule is 'flat', expected one of"),
        (lambda: attune.rotary_tables_2d(-1, 2, 8), "height", "height is -1, expected at least 0"),
        (lambda: attune.rotary_tables_2d(2, 2, 6), "channels", "channels is 6, expected"),
    ],
)
def test_refusals(call, argument, words):
    with pytest.raises(attune.Error, match="E_PARAM") as caught:
        call()
    assert caught.value.argument == argument and words in caught.value.message
