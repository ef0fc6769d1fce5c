"""Properties of attention over the keys of largest learned bias; x is called like the operator."""

import numpy as np


def _problem(x, N=29, **sizes):
    t = x.attention(Nq=N, Nk=N, **sizes)
    Hkv, Dv = t["k"].shape[1], t["v"].shape[3]
    w_dt = x.normal(Hkv, Hkv * Dv) / np.float32(Hkv * Dv) ** 0.5
    return t | {"w_dt": w_dt, "b_dt": x.normal(Hkv) / 10, "w_a": x.normal(Hkv)}


def _given(x, N=29):
    """A problem with its biases, of type `given`."""
    t = _problem(x, N)
    bias = x(**t, top_w=N, outputs=("o", "key_bias"))["key_bias"][:, :, None].astype(np.float32)
    return t, {n: t[n] for n in "qkv"} | {"bias": np.ascontiguousarray(bias)}


def _dense(t, bias):
    """Causal attention with a bias [B,Hkv,Nk] per key: o, lse."""
    s = t["q"] @ np.repeat(t["k"], 2, 1).swapaxes(2, 3) * t["q"].shape[3] ** -0.5
    s = s + np.repeat(bias, 2, 1)[:, :, None]
    n = s.shape[2]
    s = np.where(np.tril(np.ones((n, n), bool)), s, -np.inf)
    m = s.max(-1, keepdims=True)
    e = np.exp(s - m)
    z = e.sum(-1, keepdims=True)
    return e @ np.repeat(t["v"], 2, 1) / z, (m + np.log(z))[..., 0]


def keeping_all_keys_is_dense(x):
    t, given = _given(x)
    o, lse = _dense(t, given["bias"][:, :, 0])
    r = x(**t, top_w=29, outputs=("o", "lse"))
    x.close(r["o"], o)
    x.close(r["lse"], lse)


def the_zero_map_is_plain_attention(x):
    """linear with w_a = 0 has no bias, exp with it the constant 1 for every key."""
    t = _problem(x)
    t["w_a"][...] = 0
    o, _ = _dense(t, np.zeros((2, 2, 29)))
    for mode in ("exp", "linear"):
        x.close(x(**t, bias_mode=mode, top_w=29)["o"], o)


def one_kept_key_is_the_first_largest(x):
    t, given = _given(x)
    bias = given["bias"][:, :, 0]
    best = np.array([[[row[: i + 1].argmax() for i in range(29)] for row in b] for b in bias])
    v = np.take_along_axis(t["v"], best[..., None], 2)
    x.close(x(**t, top_w=1)["o"], np.repeat(v, 2, 1))


def a_constant_bias_moves_lse_alone(x):
    _, t = _given(x)
    mode = {"bias_mode": "given", "top_w": 5, "outputs": ("o", "lse")}
    a, b = x(**t, **mode), x(**t | {"bias": t["bias"] + np.float32(0.5)}, **mode)
    x.close(b["o"], a["o"])
    x.close(b["lse"], a["lse"] + 0.5)


def later_tokens_change_nothing(x):
    t = _problem(x)
    new = {n: x.normal(*t[n].shape)[:, :, 17:] for n in "qkv"}
    later = {n: np.concatenate([t[n][:, :, :17], new[n]], 2) for n in new}
    x.close(x(**t | later, top_w=5)["o"][:, :, :17], x(**t, top_w=5)["o"][:, :, :17])


def equal_biases_keep_the_first_keys(x):
    t = _problem(x)
    t["w_a"][...] = 0
    shown = x(**t, top_w=4)["o"]
    early = {n: t[n][:, :, :4].copy() for n in "kv"}
    last = x(**t | early | {"q": t["q"][:, :, -1:].copy()}, mask_mode="none")["o"]
    x.close(shown[:, :, -1:], last)


def deaths_are_those_of_the_kept_set(x):
    """At most one key dies with every new one, as many as are too many."""
    death = x(**_problem(x), top_w=5, outputs=("o", "death"))["death"]
    for row in death.reshape(-1, 29):
        died = row[row < 29]
        assert len(died) == 24 and len(set(died)) == 24, row
        assert (died >= 5).all() and (died >= np.flatnonzero(row < 29)).all(), row


def the_bounded_cache_is_exact(x):
    t, names = _problem(x), ("k_cache_state", "v_cache_state", "key_bias_state")
    rows, held = [], {}
    for begin, end in ((0, 1), (1, 9), (9, 10), (10, 29)):
        part = {n: t[n][:, :, begin:end].copy() for n in "qkv"}
        outputs = ("o", *(f"{n}_out" for n in names))
        r = x("step", **t | part, **held, top_w=5, outputs=outputs)
        held = {n: np.ascontiguousarray(r[f"{n}_out"], np.float32) for n in names}
        assert held["key_bias_state"].shape[2] == min(end, 5)
        rows.append(r["o"])
    x.close(np.concatenate(rows, 2), x(**t, top_w=5)["o"])


def groups_are_repeated_heads(x):
    _, t = _given(x)
    repeated = {n: np.repeat(t[n], 2, 1) for n in ("k", "v", "bias")}
    mode = {"bias_mode": "given", "top_w": 5}
    x.close(x(**t | repeated, **mode)["o"], x(**t, **mode)["o"])


def rows_without_keys_are_empty(x):
    t, mask = _problem(x), np.ones((2, 29), np.uint8)
    mask[0] = 0
    r = x(**t, key_mask=mask, top_w=5, outputs=("o", "lse"))
    assert (r["o"][0] == 0).all() and (r["lse"][0] == -np.inf).all()
    assert np.isfinite(r["o"]).all()


def bias_gradients_of_a_row_cancel(x):
    _, t = _given(x)
    t["bias"] = np.ascontiguousarray(np.broadcast_to(np.repeat(t["bias"], 2, 1), (2, 4, 29, 29)))
    mode = {"bias_mode": "given", "mask_mode": "none", "outputs": ("dbias",)}
    r = x("backward", **t, **mode, do=x.normal(2, 4, 29, 16))
    x.close(r["dbias"].sum(3), 0)


def late_queries_are_the_last_rows(x):
    t = _problem(x)
    whole = x(**t, top_w=5)["o"]
    late = {"q": np.ascontiguousarray(t["q"][:, :, 20:])}
    x.close(x(**t | late, top_w=5)["o"], whole[:, :, 20:])


def given_bias_and_mask_are_the_full_operator(x):
    """The computed biases and kept sets, given: the same attention."""
    t = _problem(x)
    r = x(**t, top_w=5, outputs=("o", "lse", "key_bias", "death"))
    j = np.arange(29)
    keep = (j <= j[:, None]) & (j[:, None] < r["death"][:, :, None])
    given = {n: t[n] for n in "qkv"} | {"mask": keep.astype(np.uint8)}
    given["bias"] = np.ascontiguousarray(r["key_bias"][:, :, None].astype(np.float32))
    g = x(**given, bias_mode="given", mask_mode="given", outputs=("o", "lse"))
    x.close(g["o"], r["o"])
    x.close(g["lse"], r["lse"])


def a_shared_set_is_chosen_among_all_keys(x):
    """Of a shared set a query sees what is not after it, and the last one sees all of it."""
    _, t = _given(x)
    mode = {"bias_mode": "given", "top_w": 5, "outputs": ("o", "death")}
    shared = x(**t, mask_mode="shared", **mode)
    order = np.argsort(-t["bias"][:, :, 0], axis=-1, kind="stable")[..., :5]
    kept = np.zeros((2, 2, 29), bool)
    np.put_along_axis(kept, order, True, -1)
    assert ((shared["death"] == 2**31 - 1) == kept).all()
    assert (shared["death"] == np.where(kept, 2**31 - 1, np.arange(29))).all()
    x.close(shared["o"][:, :, -1], x(**t, **mode)["o"][:, :, -1])


def dropped_keys_do_not_matter(x):
    """K of a key changes nothing for queries that do not keep it."""
    t = _problem(x)
    r = x(**t, top_w=5, outputs=("o", "death"))
    k = t["k"].copy()
    k[r["death"] < 29] += 1  # all that the last query does not keep
    x.close(x(**t | {"k": k}, top_w=5)["o"][:, :, -1], r["o"][:, :, -1])


def gradients_of_empty_rows_are_zero(x):
    t, mask = _problem(x), np.ones((2, 29), np.uint8)
    mask[0] = 0
    outputs = ("dq", "dk", "dv", "dw_dt", "dw_a")
    sent = x.normal(2, 4, 29, 16)
    r = x("backward", **t, key_mask=mask, top_w=5, do=sent, outputs=outputs)
    for name in outputs[:3]:
        assert (r[name][0] == 0).all(), name
    alone = {n: np.ascontiguousarray(t[n][1:]) for n in "qkv"}
    one = x("backward", **t | alone, top_w=5, do=np.ascontiguousarray(sent[1:]), outputs=outputs)
    for name in outputs[3:]:
        x.close(one[name], r[name])


def gradients_reach_v_through_the_bias(x):
    """A direction of v that is orthogonal to do changes the loss through the biases alone."""
    t = _problem(x)
    t["w_a"][...] = 0.5
    sent = np.zeros((2, 4, 29, 16), np.float32)
    sent[..., 0] = 1
    r = x("backward", **t, bias_mode="linear", top_w=29, do=sent, outputs=("dv", "dw_dt"))
    step, along = np.float32(1e-2), x.normal(2, 2, 29, 16)
    along[..., 0] = 0
    loss = [
        (x(**t | {"v": t["v"] + s * step * along}, bias_mode="linear", top_w=29)["o"] * sent).sum()
        for s in (1, -1)
    ]
    want = (loss[0] - loss[1]) / (2 * step)
    x.close((r["dv"] * along).sum(), want, 1e-2)
    assert np.abs(r["dv"][..., 1:]).max() > 1e-4
