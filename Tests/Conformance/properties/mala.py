"""Properties of magnitude-aware linear attention; x is called like the operator."""

import numpy as np

EPS = 1e-3


def _phi(t):
    return np.where(t > 0, t + 1, np.exp(np.minimum(t, 0))).astype(np.float64)


def _z(t, scale=24**-0.5):
    """[B,Hq,Nq]: scaled mean score of a row."""
    b = np.repeat(_phi(t["k"]).mean(2), 2, 1)
    return scale * np.einsum("bhnd,bhd->bhn", _phi(t["q"]), b)


def _dense(t, scale=24**-0.5):
    """The score form of the forward without rotation."""
    s = scale * _phi(t["q"]) @ np.repeat(_phi(t["k"]), 2, 1).swapaxes(2, 3) / t["k"].shape[2]
    z, v = _z(t)[..., None], np.repeat(t["v"].astype(np.float64), 2, 1)
    return (1 + 1 / (z + EPS)) * (s @ v) - z * v.mean(2, keepdims=True)


def constant_values(x):
    t, c = x.attention(), x.normal(16)
    t["v"][...] = c
    z = _z(t)[..., None]
    x.close(x(**t, norm_eps=EPS)["o"], c * z / (z + EPS))


def the_order_of_keys_is_free(x):
    t, order = x.attention(), x.rng.permutation(37)
    shuffled = {n: t[n][:, :, order].copy() for n in "kv"}
    x.close(x(q=t["q"], **shuffled)["o"], x(**t)["o"])


def one_key(x):
    t = x.attention(Nk=1)
    s = _z(t)[..., None]
    x.close(x(**t, norm_eps=EPS)["o"], np.repeat(t["v"], 2, 1) * s / (s + EPS))


def the_dense_form(x):
    t = x.attention()
    x.close(x(**t, norm_eps=EPS)["o"], _dense(t))


def no_rotation_is_the_identity(x):
    t = x.attention(Nq=37)
    still = {"sin": np.zeros((37, 24), np.float32), "cos": np.ones((37, 24), np.float32)}
    x.close(x(**t, **still)["o"], x(**t)["o"], 1e-6)


def linear_in_values(x):
    t, other = x.attention(), x.normal(2, 2, 37, 16)
    both = x(**t | {"v": t["v"] + other})["o"]
    x.close(both, x(**t)["o"] + x(**t | {"v": other})["o"])


def doubled_keys_change_nothing(x):
    t = x.attention()
    twice = {n: np.concatenate([t[n], t[n]], 2) for n in "kv"}
    x.close(x(q=t["q"], **twice)["o"], x(**t)["o"])


def longer_queries_sharpen(x):
    """The ratio of the weights of a key that scores high and one that scores low grows."""
    t = {"q": np.ones((1, 1, 1, 4), np.float32), "k": np.zeros((1, 1, 2, 4), np.float32)}
    t["k"][0, 0, 0], t["v"] = 1, np.eye(2, dtype=np.float32)[None, None]
    ratios = []
    for length in (1, 2, 4):
        high, low = x(**t | {"q": t["q"] * length}, scale=0.05)["o"][0, 0, 0]
        ratios.append(high / low)
    assert 2 < ratios[0] < ratios[1] < ratios[2], ratios


def a_causal_row_is_its_prefix(x):
    t = x.attention(Nq=13, Nk=13)
    causal = x(**t, causal=True)["o"]
    for i in (0, 5, 12):
        prefix = {n: t[n][:, :, : i + 1].copy() for n in "kv"}
        row = x(q=t["q"][:, :, i : i + 1].copy(), **prefix)["o"]
        x.close(causal[:, :, i : i + 1], row)


def masked_keys_do_not_count(x):
    t, mask = x.attention(), np.ones((2, 37), np.uint8)
    mask[:, 30:] = 0
    short = {n: t[n][:, :, :30].copy() for n in "kv"}
    x.close(x(**t, key_mask=mask)["o"], x(q=t["q"], **short)["o"])
