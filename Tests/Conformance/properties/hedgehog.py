"""Properties of linear attention with a learned feature map; x is called like the operator."""

import numpy as np


def _problem(x, Nq=13, Nk=13, heads=4):
    t = x.attention(Nq=Nq, Nk=Nk)
    return t | {"w_q": x.normal(4, 24, 8) / 5, "w_k": x.normal(heads, 24, 8) / 5}


def _features(t, w, kind):
    """[P, N] of every token, without the clamp."""
    z = np.einsum("bhnd,hdf->bhnf", t.astype(np.float64), w)
    exp = lambda y: np.exp(y - y.max(-1, keepdims=True))
    if kind == "hedgehog_joint":
        both = exp(np.concatenate([2 * z, -2 * z], -1))
        return both / both.sum(-1, keepdims=True)
    halves = [exp(z), exp(-z)]
    if kind == "hedgehog_softmax":
        halves = [h / h.sum(-1, keepdims=True) for h in halves]
    return np.concatenate(halves, -1)


def _scores(t, kind):
    k = np.repeat(t["k"], 2, 1)
    a = _features(t["q"], t["w_q"], kind) @ _features(k, t["w_k"], kind).swapaxes(2, 3)
    i, j = np.arange(a.shape[2])[:, None] + a.shape[3] - a.shape[2], np.arange(a.shape[3])
    return np.where(j <= i, a, 0)


WINDOW = {"window_factor": np.array([-2.5, -1.0, 0.0, 2.0], np.float32)}


def the_dense_form_of_every_map(x):
    t = _problem(x, Nk=37)
    for kind in ("hedgehog_softmax", "hedgehog_exp", "hedgehog_joint"):
        a = _scores(t, kind)
        want = a @ np.repeat(t["v"], 2, 1) / a.sum(-1, keepdims=True)
        x.close(x(**t, feature_map=kind)["o"], want)


def a_negated_map_swaps_the_halves(x):
    t = _problem(x)
    x.close(x(**t | {"w_q": -t["w_q"], "w_k": -t["w_k"]})["o"], x(**t)["o"])


def constant_values_come_back(x):
    t, c = _problem(x), x.normal(16)
    t["v"][...] = c
    x.close(x(**t)["o"], c)
    x.close(x(**t, **WINDOW, window_mode="sliding", window=4)["o"], c)


def a_wide_window_is_softmax(x):
    t = _problem(x)
    s = t["q"] @ np.repeat(t["k"], 2, 1).swapaxes(2, 3) * 24**-0.5
    s = np.where(np.tril(np.ones((13, 13), bool)), s, -np.inf)
    e = np.exp(s - s.max(-1, keepdims=True))
    want = e @ np.repeat(t["v"], 2, 1) / e.sum(-1, keepdims=True)
    x.close(x(**t, **WINDOW, window_mode="sliding", window=13)["o"], want)


def no_map_gives_the_running_mean(x):
    t = _problem(x)
    t["w_q"][...], t["w_k"][...] = 0, 0
    mean = np.repeat(t["v"], 2, 1).cumsum(2) / np.arange(1, 14)[:, None]
    x.close(x(**t)["o"], mean)


def later_tokens_change_nothing(x):
    t = _problem(x)
    later = {n: np.concatenate([t[n][:, :, :8], x.normal(*t[n][:, :, 8:].shape)], 2) for n in "qkv"}
    for mode in ({}, {**WINDOW, "window_mode": "sliding", "window": 4}):
        x.close(x(**t | later, **mode)["o"][:, :, :8], x(**t, **mode)["o"][:, :, :8])


def one_token_returns_its_value(x):
    t = _problem(x, 1, 1)
    x.close(x(**t)["o"], np.repeat(t["v"], 2, 1))


def a_scalar_bias_changes_nothing(x):
    t = _problem(x)
    bias = {"b_q": x.normal(4, 1), "b_k": x.normal(4, 1)}
    x.close(x(**t, **bias)["o"], x(**t)["o"])


def _steps(x, t, states, mode):
    """Rows of one token after the other."""
    rows, held = [], {}
    wanted = ("o", *(f"{s}_out" for s in states))
    for i in range(t["q"].shape[2]):
        token = {n: t[n][:, :, i : i + 1].copy() for n in "qkv"}
        r = x("step", **t | token, **held, **mode, outputs=wanted)
        rows.append(r["o"])
        held = {s: np.ascontiguousarray(r[f"{s}_out"], np.float32) for s in states}
    return np.concatenate(rows, 2)


def decoding_is_prefill(x):
    t = _problem(x)
    x.close(_steps(x, t, ("kv_state", "k_state"), {}), x(**t)["o"])
    mode = {**WINDOW, "window_mode": "sliding", "window": 4}
    states = ("kv_state", "k_state", "k_cache_state", "v_cache_state")
    x.close(_steps(x, t, states, mode), x(**t, **mode)["o"])


def gradients_of_a_map_without_effect_vanish(x):
    """One token has the weight 1 whatever its features: no gradient reaches the map."""
    t = _problem(x, 1, 1)
    r = x("backward", **t, do=x.normal(2, 4, 1, 16), outputs=("dw_q", "dw_k"))
    x.close(r["dw_q"], 0)
    x.close(r["dw_k"], 0)
