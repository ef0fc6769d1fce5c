"""Properties of native sparse attention; x is the kernel (see test_properties.py)."""

import numpy as np

OFF = {"use_cmp": False, "use_slc": False, "use_swa": False}
BLOCKS = {"cmp_block": 8, "cmp_stride": 4, "sel_block": 8, "top_n": 3, "window": 10}
ALL = ("o", "o_cmp", "o_slc", "o_swa", "lse_cmp", "lse_slc", "lse_swa", "block_indices_out")


def _dense(t):
    """Causal attention in float64: (o, lse)."""
    group = t["q"].shape[1] // t["k"].shape[1]
    k, v = (np.repeat(t[n].astype(np.float64), group, 1) for n in ("k", "v"))
    s = t["q"].astype(np.float64) @ k.swapaxes(-1, -2) * t["q"].shape[-1] ** -0.5
    n, m = s.shape[-2:]
    s = np.where(np.arange(m) <= np.arange(n)[:, None] + m - n, s, -np.inf)
    top = s.max(-1, keepdims=True)
    e = np.exp(s - top)
    z = e.sum(-1, keepdims=True)
    return e / z @ v, (top + np.log(z))[..., 0]


def _problem(x, Nq=61, Nk=61):
    return x.attention(Nq=Nq, Nk=Nk)


# ---- branches that are dense attention


def selecting_every_block_is_dense(x):
    t = _problem(x)
    o, lse = _dense(t)
    r = x(**t, **(BLOCKS | {"top_n": 8}), outputs=ALL)
    x.close(r["o_slc"], o)
    x.close(r["lse_slc"], lse)


def a_window_of_all_keys_is_dense(x):
    t = _problem(x)
    o, lse = _dense(t)
    for window in (61, 2**62):
        r = x(**t, **(BLOCKS | {"window": window}), outputs=ALL)
        x.close(r["o_swa"], o)
        x.close(r["lse_swa"], lse)


def blocks_of_one_token_are_dense(x):
    t = _problem(x)
    o, lse = _dense(t)
    one = BLOCKS | {"cmp_block": 1, "cmp_stride": 1}
    r = x(**t, **one, outputs=ALL)
    x.close(r["o_cmp"], o)
    x.close(r["lse_cmp"], lse)


def few_queries_over_many_keys_are_dense(x):
    """Kernels for few queries cut such keys into parts."""
    t = _problem(x, Nq=5, Nk=700)
    o, lse = _dense(t)
    p = {"cmp_block": 1, "cmp_stride": 1, "sel_block": 8, "top_n": 88, "window": 700}
    r = x(**t, **p, outputs=ALL)
    for name in ("cmp", "slc", "swa"):
        x.close(r[f"o_{name}"], o)
        x.close(r[f"lse_{name}"], lse)


# ---- selection


def only_forced_blocks(x):
    t = _problem(x)
    r = x(**t, **BLOCKS, outputs=ALL)["block_indices_out"]
    for i in range(61):
        cur = i // 8
        want = sorted({j for j in (0, cur - 1, cur) if j >= 0})
        assert (r[:, :, i] == want + [-1] * (3 - len(want))).all()


def given_selection_is_computed_selection(x):
    t = _problem(x)
    p = BLOCKS | {"top_n": 5}
    r = x(**t, **p, outputs=ALL)
    again = x(**t, **p, block_indices=r["block_indices_out"], outputs=("o", "o_slc", "lse_slc"))
    for name in ("o", "o_slc", "lse_slc"):
        x.same(again[name], r[name])


def slots_are_a_set(x):
    """Their order, empty slots and repetitions change nothing."""
    t, p = _problem(x), BLOCKS | OFF | {"use_slc": True}
    every = np.tile(np.arange(8, dtype=np.int32), (2, 2, 61, 1))
    index = np.sort(x.rng.permuted(every, axis=3)[..., :4])
    a = x(**t, **p, block_indices=np.ascontiguousarray(index))["o"]
    holes = np.full((2, 2, 61, 1), -1, np.int32)
    mixed = np.concatenate([holes, index[..., ::-1], index[..., :1], holes], 3)
    x.same(x(**t, **p, block_indices=np.ascontiguousarray(mixed))["o"], a)


def equal_scores_choose_the_lower_block(x):
    t = _problem(x)
    p = BLOCKS | {"top_n": 5, "cmp_stride": 8, "scale": 1e-30}
    r = x(**t, **p, outputs=ALL)["block_indices_out"]
    for i in range(61):
        cur = i // 8
        forced = {j for j in (0, cur - 1, cur) if j >= 0}
        free = [j for j in range(cur + 1) if j not in forced][: 5 - len(forced)]
        want = sorted(forced | set(free)) if len(forced) == 3 else sorted(forced)
        assert (r[:, :, i] == want + [-1] * (5 - len(want))).all(), (i, r[0, 0, i], want)


def equal_scores_far_apart_choose_the_lower_block(x):
    t = _problem(x, Nq=3, Nk=1200)
    t["k"][:, :, 8:] = np.tile(t["k"][:, :, :8], (1, 1, 149, 1))
    p = BLOCKS | {"top_n": 9, "cmp_stride": 8}
    r = x(**t, **p, outputs=ALL)["block_indices_out"]
    for i in range(3):
        cur = (1197 + i) // 8
        assert (r[:, :, i] == [*range(7), cur - 1, cur]).all(), r[0, 0, i]


def nan_keeps_indices_distinct(x):
    t = _problem(x)
    t["k"][:, :, 20] = np.nan
    r = x(**t, **(BLOCKS | {"top_n": 5}), outputs=ALL)["block_indices_out"]
    for i in range(61):
        for row in r[:, :, i].reshape(-1, 5):
            chosen = row[row >= 0]
            assert len(set(chosen)) == len(chosen) and (chosen <= i // 8).all()


# ---- causality and splits


def later_tokens_do_not_matter(x):
    t = _problem(x)
    cut = 37
    early = {n: np.ascontiguousarray(a[:, :, :cut]) for n, a in t.items()}
    p = BLOCKS | {"top_n": 4}
    x.close(x(**early, **p)["o"], x(**t, **p)["o"][:, :, :cut], 1e-6)


def chunks_are_one_shot(x):
    t, p = _problem(x), BLOCKS | {"top_n": 4}
    whole = x(**t, **p, outputs=ALL)
    late = x(**{**t, "q": np.ascontiguousarray(t["q"][:, :, 40:])}, **p, outputs=ALL)
    for name in ALL:
        x.close(late[name], whole[name][:, :, 40:], 1e-5)


def steps_are_one_shot(x):
    t, p = _problem(x), BLOCKS | {"top_n": 4}
    whole = x(**t, **p)["o"]
    states, rows = {}, []
    for begin, end in ((0, 30), (30, 31), (31, 32), (32, 52), (52, 61)):
        new = {n: np.ascontiguousarray(a[:, :, begin:end]) for n, a in t.items()}
        r = x("step", **new, **p, **states)
        rows.append(r["o"])
        names = ("k_cache_state", "v_cache_state", "k_cmp_state", "v_cmp_state")
        states = {n: r[n + "_out"] for n in names}
    x.close(np.concatenate(rows, 2), whole)


# ---- compression


def equal_weights_are_the_mean(x):
    t, out = _problem(x), ("o", "k_cmp_out", "v_cmp_out", "block_indices_out")
    D, Dv = t["q"].shape[-1], t["v"].shape[-1]
    mean = x(**t, **BLOCKS, outputs=out)
    one = np.full((2, 8), 1 / 8, np.float32)
    stack = lambda n: np.tile(np.eye(n, dtype=np.float32) / 8, (2, 8, 1))
    for mode, w_k, w_v in (("weighted", one, one), ("linear", stack(D), stack(Dv))):
        r = x(**t, **BLOCKS, cmp_mode=mode, w_k_cmp=w_k, w_v_cmp=w_v, outputs=out)
        for name in out:
            x.close(r[name], mean[name], 2e-6)


def positions_shift_lse_alone(x):
    t = _problem(x)
    plain = x(**t, **BLOCKS, outputs=ALL)
    shifted = x(**t, **BLOCKS, pe_k_cmp=x.normal(2, 8, t["q"].shape[-1]), outputs=ALL)
    x.close(shifted["o"], plain["o"])
    x.same(shifted["block_indices_out"], plain["block_indices_out"])
    assert np.abs(shifted["lse_cmp"] - plain["lse_cmp"])[:, :, 8:].max() > 1e-3


# ---- gates


def gates_switch_branches(x):
    t = _problem(x)
    r = x(**t, **BLOCKS, outputs=ALL)
    for name in ("cmp", "slc", "swa"):
        on = lambda n: np.full((2, 4, 61), n == name, np.float32)
        gates = {f"g_{n}": on(n) for n in ("cmp", "slc", "swa")}
        x.same(x(**t, **BLOCKS, **gates)["o"], r[f"o_{name}"])
        alone = BLOCKS | OFF | {f"use_{name}": True}
        if name != "slc":
            x.same(x(**t, **alone)["o"], r[f"o_{name}"])


def first_rows_see_no_compressed_key(x):
    t = _problem(x)
    r = x(**t, **BLOCKS, outputs=ALL)
    assert (r["o_cmp"][:, :, :7] == 0).all() and (r["lse_cmp"][:, :, :7] == -np.inf).all()
    for name in ALL:
        assert not np.isnan(r[name]).any()
