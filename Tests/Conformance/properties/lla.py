"""Properties of local linear attention; x is called like the operator."""

import numpy as np


def _problem(x, N=13, Nk=37):
    return x.attention(Nq=N, Nk=Nk)


def _softmax(t):
    s = t["q"] @ np.repeat(t["k"], 2, 1).swapaxes(2, 3) * t["q"].shape[3] ** -0.5
    n, m = s.shape[2:]
    s = np.where(np.arange(m) <= np.arange(n)[:, None] + m - n, s, -np.inf)
    e = np.exp(s - s.max(-1, keepdims=True))
    return e @ np.repeat(t["v"], 2, 1) / e.sum(-1, keepdims=True)


def a_large_ridge_is_softmax(x):
    t = _problem(x)
    x.close(x(**t, ridge_lambda=1e7)["o"], _softmax(t))


def equal_keys_give_the_mean(x):
    t = _problem(x, Nk=13)
    t["k"][...] = t["k"][:, :, :1]
    mean = np.repeat(t["v"], 2, 1).cumsum(2) / np.arange(1, 14)[:, None]
    x.close(x(**t, ridge_lambda=0.1)["o"], mean)


def one_token_returns_its_value(x):
    t = _problem(x, 1, 1)
    x.close(x(**t)["o"], np.repeat(t["v"], 2, 1))


def constant_values_come_back(x):
    t, c = _problem(x), x.normal(16)
    t["v"][...] = c
    x.close(x(**t)["o"], c, 1e-4)


def values_that_are_keys_show_the_residual(x):
    """sum_j s_j k_j = q - lambda y."""
    t = _problem(x)
    t["v"] = t["k"].copy()
    r = x(**t, ridge_lambda=0.5, outputs=("o", "ridge_y"))
    x.close(r["o"], t["q"] - 0.5 * r["ridge_y"], 1e-3)


def affine_values_are_fitted(x):
    t, slope, shift = _problem(x), x.normal(24, 16) / 5, x.normal(16)
    t["v"] = t["k"] @ slope + shift
    r = x(**t, ridge_lambda=0.5, outputs=("o", "ridge_y"))
    x.close(r["o"], (t["q"] - 0.5 * r["ridge_y"]) @ slope + shift, 1e-3)


def uniform_weights_are_least_squares(x):
    """Ridge towards 0, weights equal: ordinary least squares with intercept, at q."""
    t = x.attention(Nq=3, Nk=60, D=5)
    o = x(**t, scale=1e-30, ridge_lambda=1e-3, causal=False)["o"]
    for b, h, i in ((0, 0, 0), (1, 3, 2)):
        k, v = t["k"][b, h // 2].astype(np.float64), t["v"][b, h // 2].astype(np.float64)
        design = np.concatenate([k, np.ones((60, 1))], 1)
        fit = np.linalg.lstsq(design, v, rcond=None)[0]
        x.close(o[b, h, i], np.append(t["q"][b, h, i], 1) @ fit, 5e-3)


def linear_in_values(x):
    t, other = _problem(x), x.normal(2, 2, 37, 16)
    both = x(**t | {"v": t["v"] + other})["o"]
    x.close(both, x(**t)["o"] + x(**t | {"v": other})["o"], 1e-3)


def rotations_of_keys_and_queries_change_nothing(x):
    t = _problem(x)
    turn = np.linalg.qr(x.rng.standard_normal((24, 24)))[0]
    turned = {n: (t[n] @ turn).astype(np.float32) for n in "qk"}
    x.close(x(**t | turned)["o"], x(**t)["o"], 1e-3)


def both_solvers_agree(x):
    t = _problem(x)
    x.close(x(**t, solver="cg")["o"], x(**t, solver="cholesky")["o"], 1e-3)


def later_tokens_change_nothing(x):
    t = _problem(x, 13, 13)
    later = {n: np.concatenate([t[n][:, :, :8], x.normal(*t[n][:, :, 8:].shape)], 2) for n in "qkv"}
    x.close(x(**t | later)["o"][:, :, :8], x(**t)["o"][:, :, :8], 1e-3)


def decoding_is_prefill(x):
    t = _problem(x, 13, 13)
    whole, rows = x(**t)["o"], []
    for begin, end in ((0, 5), (5, 6), (6, 13)):
        part = {n: t[n][:, :, begin:end].copy() for n in "qkv"}
        held = {f"{n}_cache_state": t[n][:, :, :begin].copy() for n in "kv"} if begin else {}
        rows.append(x("step", **part, **held)["o"])
    x.close(np.concatenate(rows, 2), whole, 1e-3)
