"""Properties of attention in compressed, selected and sliding branches; x is called like the
operator."""

import numpy as np

SMALL = {"cmp_block": 4, "cmp_stride": 2, "sel_block": 4, "top_n": 4, "n_init": 1, "n_local": 2}
SMALL |= {"window": 6}
BRANCHES = ("cmp", "slc", "swa")


def _problem(x, N=29):
    return x.attention(Nq=N, Nk=N)


def _dense(t):
    """Causal attention: o, lse."""
    s = t["q"] @ np.repeat(t["k"], 2, 1).swapaxes(2, 3) * t["q"].shape[3] ** -0.5
    s = np.where(np.tril(np.ones(s.shape[2:], bool)), s, -np.inf)
    m = s.max(-1, keepdims=True)
    e = np.exp(s - m)
    z = e.sum(-1, keepdims=True)
    return e @ np.repeat(t["v"], 2, 1) / z, (m + np.log(z))[..., 0]


def _all(x, t, *more, **params):
    outputs = ("o", *(f"{n}_{c}" for n in ("o", "lse") for c in BRANCHES), *more)
    return x(**t, **SMALL | params, outputs=outputs)


def selecting_all_blocks_is_dense(x):
    t = _problem(x)
    r = _all(x, t, top_n=8)
    for got, want in zip((r["o_slc"], r["lse_slc"]), _dense(t)):
        x.close(got, want)


def a_wide_window_is_dense(x):
    t = _problem(x)
    r = _all(x, t, window=29)
    for got, want in zip((r["o_swa"], r["lse_swa"]), _dense(t)):
        x.close(got, want)


def compressing_nothing_is_dense(x):
    t = _problem(x)
    r = _all(x, t, cmp_block=1, cmp_stride=1)
    for got, want in zip((r["o_cmp"], r["lse_cmp"]), _dense(t)):
        x.close(got, want)


def forced_blocks_are_selected(x):
    t = _problem(x)
    indices = _all(x, t, "block_indices_out", top_n=3)["block_indices_out"]
    for i in range(29):
        forced = {0, i // 4 - 1, i // 4} - {-1}
        for row in indices[:, :, i].reshape(-1, 3):
            assert {int(j) for j in row if j >= 0} == forced, (i, row)


def later_tokens_change_nothing(x):
    t = _problem(x)
    new = {n: x.normal(*t[n].shape)[:, :, 17:] for n in "qkv"}
    later = {n: np.concatenate([t[n][:, :, :17], new[n]], 2) for n in new}
    shorter = {n: t[n][:, :, :17].copy() for n in "qkv"}
    want = x(**t, **SMALL)["o"][:, :, :17]
    x.close(x(**later, **SMALL)["o"][:, :, :17], want)
    x.close(x(**shorter, **SMALL)["o"], want)


def decoding_is_prefill(x):
    t, names = _problem(x), ("k_cache_state", "v_cache_state", "k_cmp_state", "v_cmp_state")
    rows, held = [], {}
    for begin, end in ((0, 5), (5, 6), (6, 7), (7, 20), (20, 29)):
        part = {n: t[n][:, :, begin:end].copy() for n in "qkv"}
        outputs = ("o", *(f"{n}_out" for n in names))
        r = x("step", **part, **held, **SMALL, outputs=outputs)
        held = {n: np.ascontiguousarray(r[f"{n}_out"], np.float32) for n in names}
        rows.append(r["o"])
    x.close(np.concatenate(rows, 2), x(**t, **SMALL)["o"])


def all_compressions_can_be_the_mean(x):
    t = _problem(x)
    want = _all(x, t)
    weights = dict.fromkeys(("w_k_cmp", "w_v_cmp"), np.full((2, 4), 0.25, np.float32))
    stacked = {
        "w_k_cmp": np.tile(np.eye(24, dtype=np.float32) / 4, (2, 4, 1)),
        "w_v_cmp": np.tile(np.eye(16, dtype=np.float32) / 4, (2, 4, 1)),
    }
    for mode, w in (("weighted", weights), ("linear", stacked)):
        x.close(_all(x, t | w, cmp_mode=mode)["o_cmp"], want["o_cmp"])


def the_order_of_given_blocks_is_free(x):
    t = _problem(x)
    r = _all(x, t, "block_indices_out")
    given = r["block_indices_out"].astype(np.int32)
    shuffled = given[..., [2, 0, 3, 1]].copy()
    padded = np.full((*given.shape[:3], 6), -1, np.int32)
    padded[..., [0, 2, 3, 5]] = given
    for indices in (given, shuffled, padded):
        again = x(**t, **SMALL, block_indices=indices, outputs=("o", "o_slc"))
        x.close(again["o_slc"], r["o_slc"])
        x.close(again["o"], r["o"])


def a_constant_position_code_moves_lse_alone(x):
    """A shift of all compressed keys adds the same to all scores of a row."""
    t = _problem(x)
    a = _all(x, t, "block_indices_out")
    b = _all(x, t | {"pe_k_cmp": x.normal(2, 4, 24)}, "block_indices_out")
    x.close(b["o_cmp"], a["o_cmp"])
    x.close(b["block_indices_out"], a["block_indices_out"])
    rows = np.isfinite(a["lse_cmp"])
    assert (np.abs(a["lse_cmp"][rows] - b["lse_cmp"][rows]) > 1e-3).mean() > 0.9


def gates_switch_branches(x):
    t = _problem(x)
    r = _all(x, t)
    for branch in BRANCHES:
        gates = {f"g_{c}": np.full((2, 4, 29), c == branch, np.float32) for c in BRANCHES}
        x.close(x(**t, **SMALL, **gates)["o"], r[f"o_{branch}"], 1e-6)
    x.close(r["o"], sum(r[f"o_{c}"] for c in BRANCHES), 1e-6)


def rows_before_the_first_block_are_empty(x):
    r = _all(x, _problem(x))
    assert (r["o_cmp"][:, :, :3] == 0).all() and (r["lse_cmp"][:, :, :3] == -np.inf).all()
    assert np.isfinite(r["lse_cmp"][:, :, 3:]).all() and np.isfinite(r["o"]).all()
