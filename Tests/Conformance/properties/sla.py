"""Properties of block-sparse attention with a linear part; x is called like the operator."""

import numpy as np

BLOCKS = {"block_q": 4, "block_k": 4, "top_ratio": 0.34}


def _problem(x, Nq=12, Nk=32):
    return x.attention(Nq=Nq, Nk=Nk)


def _weights(x):
    return {"w_proj": x.normal(16, 16) / 4, "b_proj": x.normal(16)}


def _dense(t):
    """Attention of all to all: o, lse."""
    s = t["q"] @ np.repeat(t["k"], 2, 1).swapaxes(2, 3) * t["q"].shape[3] ** -0.5
    m = s.max(-1, keepdims=True)
    e = np.exp(s - m)
    z = e.sum(-1, keepdims=True)
    return e @ np.repeat(t["v"], 2, 1) / z, (m + np.log(z))[..., 0]


def _run(x, t, *more, **params):
    return x(**t, **BLOCKS | params, outputs=("o", *more))


def all_blocks_without_projection_is_dense(x):
    t = _problem(x)
    o, lse = _dense(t)
    r = _run(x, t, "lse_s", top_ratio=1.0)
    x.close(r["o"], o)
    x.close(r["lse_s"], lse)
    fewer = _run(x, t, "lse_s")["lse_s"]
    assert (fewer <= lse + 1e-5).all() and (fewer < lse - 1e-3).any()


def nothing_is_left_to_the_complement(x):
    t, w = _problem(x), _weights(x)
    r = _run(x, t | w, "o_l", top_ratio=1.0, linear_scope="complement")
    assert (r["o_l"] == 0).all()
    x.close(r["o"], _dense(t)[0] + w["b_proj"])


def no_negligible_block_is_the_complement(x):
    t = _problem(x) | _weights(x)
    a, b = (_run(x, t, linear_scope=scope)["o"] for scope in ("complement", "marginal"))
    x.close(a, b, 1e-6)


def tokens_of_a_block_have_no_order(x):
    t = _problem(x) | _weights(x)
    o = _run(x, t)["o"]
    inside = np.concatenate([b + x.rng.permutation(4) for b in range(0, 32, 4)])
    blocks = (4 * x.rng.permutation(8)[:, None] + np.arange(4)).ravel()
    for order in (inside, blocks):
        x.close(_run(x, t | {n: t[n][:, :, order].copy() for n in "kv"})["o"], o)
    rows = np.concatenate([b + x.rng.permutation(4) for b in range(0, 12, 4)])
    x.close(_run(x, t | {"q": t["q"][:, :, rows].copy()})["o"], o[:, :, rows])


def a_shift_of_all_keys_changes_no_block(x):
    t = _problem(x)
    a = _run(x, t, "block_map", "o_s")
    b = _run(x, t | {"k": t["k"] + x.normal(24)}, "block_map", "o_s")
    x.close(b["block_map"], a["block_map"])
    x.close(b["o_s"], a["o_s"])


def linear_in_values(x):
    t, other, w = _problem(x), x.normal(2, 2, 32, 16), _weights(x)
    run = lambda v: _run(x, t | w | {"v": v})["o"] - w["b_proj"]
    x.close(run(t["v"] + other), run(t["v"]) + run(other))


def values_of_one_show_the_weights(x):
    t = _problem(x)
    t["v"][...] = 1
    for scope, tol in (("all", 1e-4), ("complement", 1e-5), ("marginal", 1e-5)):
        r = _run(x, t, "o_s", "o_l", linear_scope=scope)
        x.close(r["o_s"], 1)
        x.close(r["o_l"], 1, tol)


def every_row_of_blocks_has_its_counts(x):
    t = _problem(x)
    r = _run(x, t, "block_map", top_ratio=0.4, low_ratio=0.3, linear_scope="marginal")
    assert ((r["block_map"] == 1).sum(-1) == 3).all()
    assert ((r["block_map"] == -1).sum(-1) == 2).all()


def one_block_is_dense(x):
    t = _problem(x, Nk=4)
    x.close(_run(x, t)["o"], _dense(t)[0])


def padded_channels_change_nothing(x):
    """With the true scale; relu features of zero are zero."""
    t = _problem(x)
    wide = {n: np.concatenate([t[n], np.zeros((*t[n].shape[:3], 8), np.float32)], 3) for n in "qk"}
    mode = {"scale": 24**-0.5, "feature_map": "relu"}
    x.close(_run(x, t | wide, **mode)["o"], _run(x, t, **mode)["o"])


def one_token(x):
    t = _problem(x, 1, 1)
    soft = lambda y: np.exp(y) / np.exp(y).sum(-1, keepdims=True)
    s = (soft(t["q"].astype(np.float64)) * np.repeat(soft(t["k"]), 2, 1)).sum(-1, keepdims=True)
    v = np.repeat(t["v"], 2, 1)
    r = _run(x, t, "o_s", "o_l")
    x.close(r["o_s"], v, 1e-6)
    x.close(r["o_l"], v * s / (1e-5 + s))


def _one_block_of_queries(x, **params):
    """A problem of one query block, the tokens of one head's critical blocks, its o_l."""
    t = _problem(x, Nq=4)
    mode = {"linear_scope": "complement"} | params
    r = _run(x, t, "block_map", "o_l", **mode)
    return t, mode, np.repeat(r["block_map"][0, 0, 0] == 1, 4), r["o_l"][0, 0]


def values_of_critical_blocks_are_not_in_the_complement(x):
    """However large they are."""
    t, mode, critical, o_l = _one_block_of_queries(x)
    for factor in (1e5, -1e20):
        v = t["v"].copy()
        v[0, 0, critical] *= np.float32(factor)
        x.close(_run(x, t | {"v": v}, "o_l", **mode)["o_l"][0, 0], o_l)


def keys_beside_a_dominant_block_keep_their_weights(x):
    """The critical block has nearly all of the features; the rest is small, but exact."""
    t = _problem(x, Nq=4)
    t["q"], t["k"] = np.abs(t["q"]), t["k"] - 3
    t["k"][:, :, 8:12] = 200
    mode = {"linear_scope": "complement", "feature_map": "elu1", "top_ratio": 0.13}
    r = _run(x, t, "block_map", "o_l", **mode)
    assert (r["block_map"] == np.where(np.arange(8) == 2, 1, 0)).all()
    phi = lambda y: np.where(y > 0, y + 1, np.exp(np.minimum(y, 0))).astype(np.float64)
    left = np.delete(np.arange(32), np.arange(8, 12))
    k, v = (np.repeat(t[n][:, :, left], 2, 1) for n in "kv")
    a = phi(t["q"]) @ phi(k).swapaxes(2, 3)
    x.close(r["o_l"], a @ v / a.sum(-1, keepdims=True))
