"""Properties of causal linear attention with decay; x is called like the operator."""

import numpy as np

SLOPES = np.array([0.0, 0.01, 0.3, 2.0], np.float32)


def _problem(x, N=29):
    return x.attention(Nq=N, Nk=N) | {"slopes": SLOPES}


def _state(x):
    return {"kv_state": x.normal(2, 4, 24, 16)}


def _both(x, entry="forward", **t):
    return x(entry, **t, outputs=("o", "kv_state_out"))


def _part(t, a, b):
    return {n: y[:, :, a:b].copy() if n in "qkv" else y for n, y in t.items()}


def no_slopes_are_zero_slopes(x):
    t = _problem(x)
    zero, none = t | {"slopes": np.zeros(4, np.float32)}, {n: t[n] for n in "qkv"}
    x.close(x(**none)["o"], x(**zero)["o"], 1e-6)


def prefill_then_steps(x):
    t = _problem(x) | _state(x)
    whole = _both(x, **t)
    for n in (1, 16, 28):
        first = _both(x, **_part(t, 0, n))
        rows = [first["o"]]
        for i in range(n, 29):
            part = _part(t, i, i + 1) | {"kv_state": first["kv_state_out"].astype(np.float32)}
            first = _both(x, "step", **part)
            rows.append(first["o"])
        x.close(np.concatenate(rows, 2), whole["o"])
        x.close(first["kv_state_out"], whole["kv_state_out"])


def linear_in_values_and_queries(x):
    t, other = _problem(x), x.normal(2, 2, 29, 16)
    o, twice = x(**t)["o"], x(**t | {"v": 2 * t["v"]})["o"]
    x.close(twice, 2 * o)
    x.close(x(**t | {"v": t["v"] + other})["o"], o + x(**t | {"v": other})["o"])
    x.close(x(**t | {"q": 4 * t["q"], "k": t["k"] / 4})["o"], o)


def fast_decay_leaves_the_own_token(x):
    t = _problem(x) | {"slopes": np.full(4, 200, np.float32)}
    k, v = np.repeat(t["k"], 2, 1), np.repeat(t["v"], 2, 1)
    x.close(x(**t)["o"], (t["q"] * k).sum(-1, keepdims=True) * v)


def queries_leave_the_state_alone(x):
    t = _problem(x)
    a, b = _both(x, **t), _both(x, **t | {"q": x.normal(*t["q"].shape)})
    x.same(a["kv_state_out"], b["kv_state_out"])


def one_token(x):
    t = _problem(x, 1) | _state(x)
    k, v = np.repeat(t["k"], 2, 1), np.repeat(t["v"], 2, 1)
    old = np.exp(-SLOPES)[:, None, None] * np.einsum("bhnd,bhde->bhne", t["q"], t["kv_state"])
    x.close(x(**t, scale=0.7)["o"], 0.7 * ((t["q"] * k).sum(-1, keepdims=True) * v + old))


def the_quadratic_form(x):
    t = _problem(x, 150)
    i = np.arange(150)
    decay = np.where(i[:, None] >= i, np.exp(-SLOPES[:, None, None] * np.abs(i[:, None] - i)), 0)
    scores = t["q"] @ np.repeat(t["k"], 2, 1).swapaxes(2, 3) * decay
    x.close(x(**t)["o"], scores @ np.repeat(t["v"], 2, 1))


def packed_sequences_are_separate(x):
    t = {n: x.normal(1, h, 29, d) for n, h, d in (("q", 4, 24), ("k", 2, 24), ("v", 2, 16))}
    cuts = np.array([0, 11, 11, 29], np.int32)
    packed = _both(x, **t, slopes=SLOPES, cu_seqlens=cuts)
    for b, (begin, end) in enumerate(((0, 11), (11, 11), (11, 29))):
        if begin == end:
            assert (packed["kv_state_out"][b] == 0).all()
            continue
        one = _both(x, **_part(t, begin, end), slopes=SLOPES)
        x.close(packed["o"][:, :, begin:end], one["o"])
        x.close(packed["kv_state_out"][b], one["kv_state_out"][0])


def later_tokens_change_no_bit(x):
    t = _problem(x)
    new = {n: x.normal(*t[n].shape)[:, :, 20:] for n in "qkv"}
    later = {n: np.concatenate([t[n][:, :, :20], new[n]], 2) for n in new}
    x.same(x(**t | later)["o"][:, :, :20].copy(), x(**t)["o"][:, :, :20].copy())


def zero_keys_decay_the_state(x):
    t = _problem(x) | _state(x)
    longer = {n: np.concatenate([t[n], x.normal(*t[n].shape)[:, :, :3]], 2) for n in "qkv"}
    longer["k"][:, :, 29:] = 0
    want = _both(x, **t)["kv_state_out"] * np.exp(-3 * SLOPES)[:, None, None]
    x.close(_both(x, **t | longer)["kv_state_out"], want)
