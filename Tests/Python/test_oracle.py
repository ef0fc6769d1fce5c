"""Softmax attention against the float64 oracle on problems that hypothesis draws and shrinks."""

import pathlib
import sys

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import compare

sys.path.append(str(pathlib.Path(__file__).resolve().parents[1] / "Conformance" / "oracle"))
import softmax as oracle  # noqa: E402

SETTINGS = settings(
    max_examples=120,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@st.composite
def problems(draw):
    group, hkv = draw(st.integers(1, 4)), draw(st.integers(1, 3))
    b, nq, nk = draw(st.integers(1, 3)), draw(st.integers(1, 80)), draw(st.integers(1, 140))
    d, dv = draw(st.integers(1, 70)), draw(st.integers(1, 70))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    shapes = {"q": (b, hkv * group, nq, d), "k": (b, hkv, nk, d), "v": (b, hkv, nk, dv)}
    tensors = {n: rng.standard_normal(s).astype(np.float32) for n, s in shapes.items()}
    params = {}
    if draw(st.booleans()):
        params["causal"] = True
    if draw(st.booleans()):
        params["q_offset"] = draw(st.integers(-5, 100))
    for name in ("window_left", "window_right"):
        if draw(st.booleans()):
            params[name] = draw(st.integers(-1, 60))
    if draw(st.booleans()):
        params["scale"] = draw(st.floats(0.01, 1.0))
    if draw(st.booleans()):
        heads = draw(st.sampled_from([1, hkv, hkv * group]))
        shape = (draw(st.sampled_from([1, b])), heads, draw(st.sampled_from([1, nq])), nk)
        tensors["mask"] = rng.random(shape) < 0.8
    if draw(st.booleans()):
        tensors["seqlens_k"] = rng.integers(0, nk + 1, b).astype(np.int32)
    return tensors, params


@SETTINGS
@given(problem=problems())
def test_softmax(ctx, problem):
    tensors, params = problem
    got = ctx.run("softmax", **tensors, **params, outputs=("o", "lse"))
    with np.errstate(all="ignore"):
        want = oracle.forward(tensors, params)
    rtol, atol = compare.tolerance(ctx.describe("softmax"), "f32")
    for name in ("o", "lse"):
        text = compare.difference(got[name], want[name], rtol, atol)
        assert text is None, f"{name} {text}"
