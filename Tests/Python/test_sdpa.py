"""examples/python/sdpa.py against the definition in float64: the semantics PyTorch documents."""

import importlib.util
import pathlib

import numpy as np
import pytest

PATH = pathlib.Path(__file__).resolve().parents[2] / "examples" / "python" / "sdpa.py"


@pytest.fixture(scope="module")
def sdpa():
    spec = importlib.util.spec_from_file_location("sdpa", PATH)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.scaled_dot_product_attention


def definition(q, k, v, attn_mask=None, is_causal=False, scale=None):
    """The documented equivalent, in float64; rows that see nothing are 0."""
    q, k, v = (x.astype(np.float64) for x in (q, k, v))
    group = q.shape[1] // k.shape[1]
    k, v = np.repeat(k, group, axis=1), np.repeat(v, group, axis=1)
    scores = q @ k.swapaxes(-1, -2) * (q.shape[-1] ** -0.5 if scale is None else scale)
    if is_causal:
        scores = np.where(np.tril(np.ones(scores.shape[-2:], dtype=bool)), scores, -np.inf)
    if attn_mask is not None and attn_mask.dtype == bool:
        scores = np.where(attn_mask, scores, -np.inf)
    elif attn_mask is not None:
        scores = scores + attn_mask
    top = scores.max(axis=-1, keepdims=True, initial=-np.inf)
    weights = np.exp(scores - np.where(np.isfinite(top), top, 0))
    total = weights.sum(axis=-1, keepdims=True)
    return (weights / np.where(total > 0, total, 1)) @ v


def arrays(rng, batch=2, heads=4, kv_heads=4, queries=9, keys=9, width=16, columns=16):
    shapes = [
        (batch, heads, queries, width),
        (batch, kv_heads, keys, width),
        (batch, kv_heads, keys, columns),
    ]
    return [rng.standard_normal(s, dtype=np.float32) for s in shapes]


CASES = {
    "plain": ({}, {}),
    "scale": ({}, {"scale": 0.3}),
    "causal square": ({}, {"is_causal": True}),
    "causal, more keys: top left": ({"keys": 23}, {"is_causal": True}),
    "causal, more queries: top left": ({"queries": 21, "keys": 6}, {"is_causal": True}),
    "grouped heads": ({"heads": 8, "kv_heads": 2}, {"enable_gqa": True}),
    "one head of keys, causal": (
        {"heads": 6, "kv_heads": 1, "keys": 40},
        {"enable_gqa": True, "is_causal": True},
    ),
    "wider values": ({"columns": 40}, {}),
    "long": ({"queries": 200, "keys": 333, "width": 64}, {"is_causal": True}),
}


@pytest.mark.parametrize("name", CASES)
def test_against_definition(ctx, sdpa, name):
    sizes, arguments = CASES[name]
    q, k, v = arrays(np.random.default_rng(1), **sizes)
    want = definition(q, k, v, **{n: x for n, x in arguments.items() if n != "enable_gqa"})
    np.testing.assert_allclose(sdpa(ctx, q, k, v, **arguments), want, rtol=1e-4, atol=2e-6)


@pytest.mark.parametrize("shape", [(9, 9), (1, 9), (2, 1, 1, 9), (2, 4, 9, 9), (1, 4, 9, 1)])
@pytest.mark.parametrize("kind", ["bool", "added", "added with -inf"])
def test_masks_broadcast(ctx, sdpa, shape, kind):
    rng = np.random.default_rng(2)
    q, k, v = arrays(rng)
    mask = rng.random(shape) < 0.7
    if kind != "bool":
        bias = rng.standard_normal(shape, dtype=np.float32)
        mask = np.where(mask, bias, np.float32(-np.inf)) if "inf" in kind else bias
    want = definition(q, k, v, attn_mask=mask)
    np.testing.assert_allclose(sdpa(ctx, q, k, v, attn_mask=mask), want, rtol=1e-4, atol=2e-6)


def test_rows_without_keys_are_zero(ctx, sdpa):
    q, k, v = arrays(np.random.default_rng(3))
    mask = np.ones((9, 9), dtype=bool)
    mask[[0, 4]] = False
    o = sdpa(ctx, q, k, v, attn_mask=mask)
    assert not o[:, :, [0, 4]].any() and np.isfinite(o).all()
    np.testing.assert_allclose(o, definition(q, k, v, attn_mask=mask), rtol=1e-4, atol=2e-6)


@pytest.mark.parametrize(
    "sizes, arguments",
    [
        ({"heads": 4, "kv_heads": 2}, {}),
        ({}, {"is_causal": True, "attn_mask": np.ones((9, 9), bool)}),
    ],
)
def test_refuses_what_pytorch_refuses(ctx, sdpa, sizes, arguments):
    with pytest.raises(ValueError):
        sdpa(ctx, *arrays(np.random.default_rng(4), **sizes), **arguments)
