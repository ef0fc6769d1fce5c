"""Properties of attention with routed heads; x is called like the operator."""

import numpy as np

HEADS = {"n_shared": 1, "top_k": 2}


def _problem(x, N=13):
    """Four heads: one shared, two of three routed ones per token."""
    t = x.attention(Hkv=4, Nq=N, Nk=N)
    return t | {"logits_r": x.normal(2, N, 3), "logits_h": x.normal(2, N, 2)}


def _qkv(t):
    return {n: t[n] for n in "qkv"}


def _dense(t):
    s = t["q"] @ t["k"].swapaxes(2, 3) * t["q"].shape[3] ** -0.5
    e = np.exp(s - s.max(-1, keepdims=True))
    return e @ t["v"] / e.sum(-1, keepdims=True)


def all_heads_open_is_dense(x):
    t = _problem(x)
    o = _dense(t)
    x.close(x(**_qkv(t), gate_mode="qnorm", n_shared=0, top_k=4)["o"], o)
    gates = np.ones((2, 13, 4), np.float32)
    x.close(x(**_qkv(t), gate_mode="given", g_head=gates, **HEADS)["o"], o)
    equal = np.zeros((2, 13, 4), np.float32)
    x.close(x(**_qkv(t), logits_r=equal, n_shared=0, top_k=4)["o"], o)


def gates_add_up(x):
    g = x(**_problem(x), **HEADS, outputs=("o", "g_head_out"))["g_head_out"]
    assert (g >= 0).all() and ((g[..., 1:] != 0).sum(-1) == 2).all()
    routed, shared = g[..., 1:].sum(-1) / 2, g[..., 0]
    x.close(routed + shared, 2)


def a_shift_of_logits_changes_nothing(x):
    t = _problem(x)
    o = x(**t, **HEADS)["o"]
    for name in ("logits_r", "logits_h"):
        x.close(x(**t | {name: t[name] + np.float32(0.75)}, **HEADS)["o"], o)


def closed_heads_are_zero(x):
    r = x(**_problem(x), **HEADS, outputs=("o", "g_head_out"))
    closed = r["g_head_out"].swapaxes(1, 2) == 0
    assert closed.sum() == 2 * 13 and (r["o"][closed] == 0).all()


def queries_of_closed_heads_are_not_read(x):
    t = _problem(x)
    r = x(**t, **HEADS, outputs=("o", "g_head_out"))
    t["q"][r["g_head_out"].swapaxes(1, 2) == 0] = np.nan
    x.same(x(**t, **HEADS)["o"], r["o"])


def keys_do_not_route(x):
    t = _problem(x)
    other = {"k": x.normal(*t["k"].shape), "v": x.normal(*t["v"].shape)}
    a, b = (x(**u, **HEADS, outputs=("o", "g_head_out"))["g_head_out"] for u in (t, t | other))
    x.same(a, b)


def groups_are_repeated_heads(x):
    t = x.attention(Nq=13, Nk=13) | {"logits_r": x.normal(2, 13, 3), "logits_h": x.normal(2, 13, 2)}
    repeated = {n: np.repeat(t[n], 2, 1) for n in "kv"}
    x.close(x(**t | repeated, **HEADS)["o"], x(**t, **HEADS)["o"])


def permuted_routed_heads_permute_outputs(x):
    t, order = _problem(x), [0, 3, 1, 2]
    moved = {n: t[n][:, order].copy() for n in "qkv"}
    moved["logits_r"] = t["logits_r"][..., [2, 0, 1]].copy()
    x.close(x(**t | moved, **HEADS)["o"], x(**t, **HEADS)["o"][:, order])


def equal_logits_open_the_first_heads(x):
    t = _problem(x)
    t["logits_r"][...] = 0
    g = x(**t, **HEADS, outputs=("o", "g_head_out"))["g_head_out"]
    assert (g[..., 1:3] > 0).all() and (g[..., 3] == 0).all()


def decoding_is_prefill(x):
    t = _problem(x)
    whole, rows = x(**t, **HEADS, causal=True)["o"], []
    for begin, end in ((0, 5), (5, 6), (6, 13)):
        part = {n: t[n][:, :, begin:end].copy() for n in "qkv"}
        part |= {n: t[n][:, begin:end].copy() for n in ("logits_r", "logits_h")}
        if begin:
            part |= {f"{n}_cache_state": t[n][:, :, :begin].copy() for n in "kv"}
        rows.append(x("step", **part, **HEADS, causal=True)["o"])
    x.close(np.concatenate(rows, 2), whole)


def uniform_routing_has_unit_balance(x):
    """l_aux is the number of routed heads times mean probability times share: here top_k."""
    t = _problem(x, 12)
    t["logits_r"] = np.tile(np.float32(1e-4) * np.eye(3, dtype=np.float32), (2, 4, 1))
    t["logits_r"] *= -1  # every head is left out equally often
    r = x(**t, **HEADS, outputs=("o", "l_aux"))
    x.close(r["l_aux"], 2, 1e-3)


def doubled_values_double_outputs(x):
    t = _problem(x)
    a, b = (x(**u, **HEADS, outputs=("o", "lse")) for u in (t, t | {"v": 2 * t["v"]}))
    x.close(b["o"], 2 * a["o"])
    open_rows = np.isfinite(a["lse"])
    x.close(b["lse"][open_rows], a["lse"][open_rows])


def all_tokens_may_choose_one_head(x):
    t = _problem(x)
    t["logits_r"][...] = [5, 0, 0]
    r = x(**t, n_shared=1, top_k=1, outputs=("o", "g_head_out"))
    assert (r["g_head_out"][..., 1] > 0).all() and (r["o"][:, 2:] == 0).all()
    assert np.isfinite(r["o"]).all()


def logit_gradients_of_a_token_cancel(x):
    t = _problem(x)
    r = x("backward", **t, **HEADS, do=x.normal(2, 4, 13, 16), outputs=("dlogits_r", "dlogits_h"))
    for name in ("dlogits_r", "dlogits_h"):
        x.close(r[name].sum(-1), 0)
