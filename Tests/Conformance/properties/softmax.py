"""Properties of dense softmax and sigmoid attention; x is the kernel (see test_properties.py)."""

import numpy as np

import storage

LSE = {"outputs": ("o", "lse")}
LOWEST = np.finfo(np.float32).min


# ---- weights


def constant_values_come_back(x):
    t = x.attention()
    c = x.normal(16)
    t["v"][...] = c
    x.close(x("forward", **t)["o"], c)
    x.close(x("forward", **t, causal=True)["o"], c)


def a_shift_of_a_row_moves_lse_alone(x):
    t, shift = x.attention(), x.normal(2, 4, 13, 1)
    zero = np.zeros((2, 4, 13, 37), np.float32)
    a, b = x(**t, bias=zero, **LSE), x(**t, bias=zero + shift, **LSE)
    x.close(b["o"], a["o"])
    x.close(b["lse"], a["lse"] + shift[..., 0])


def rows_sum_to_one_less_the_sink(x):
    t, sinks = x.attention(), x.normal(4)
    t["v"][...] = 1
    x.close(x(**t)["o"], 1.0)
    r = x(**t, sinks=sinks, **LSE)
    x.close(r["o"], (1 - np.exp(sinks[:, None] - r["lse"]))[..., None])


def a_sink_without_weight_is_none(x):
    t = x.attention()
    a, b = x(**t, **LSE), x(**t, sinks=np.full(4, -np.inf, np.float32), **LSE)
    x.close(b["o"], a["o"], 1e-6)
    x.close(b["lse"], a["lse"], 1e-6)


def a_large_sink_takes_all(x):
    t = x.attention()
    r = x(**t, sinks=np.full(4, 1e4, np.float32), **LSE)
    assert (r["o"] == 0).all()
    x.close(r["lse"], 1e4, 1e-6)


def a_large_softcap_is_none(x):
    t = x.attention()
    x.close(x(**t, softcap=1e6)["o"], x(**t)["o"], 1e-4)


def softcap_bounds_scores(x):
    """With scores in [-c, c] lse is at most c away from log of the count."""
    t = x.attention()
    r = x(**{**t, "q": t["q"] * 100}, softcap=0.5, **LSE)
    assert (np.abs(r["lse"] - np.log(37)) <= 0.5 + 1e-5).all()


def equal_scores_give_the_mean(x):
    t = x.attention(Nq=7, Nk=7)
    r = x(**t, scale=1e-30, causal=True, **LSE)
    v, count = np.repeat(t["v"], 2, 1), np.arange(1, 8)
    x.close(r["o"], v.cumsum(2) / count[:, None])
    x.close(r["lse"], np.log(count))


# ---- masks


def alignments_of_causal(x):
    t = x.attention(Nq=15, Nk=15)
    square = x(**t, causal=True, **LSE)
    top_left = x(**t, causal=True, q_offset=0, **LSE)
    x.same(top_left["o"], square["o"])
    late = x(**{**t, "q": t["q"][:, :, 8:].copy()}, causal=True, **LSE)
    x.close(late["o"], square["o"][:, :, 8:])
    x.close(late["lse"], square["lse"][:, :, 8:])


def rows_before_the_first_key_are_empty(x):
    t = x.attention(Nq=9, Nk=4)
    r = x(**t, causal=True, **LSE)
    assert (r["o"][:, :, :5] == 0).all() and (r["lse"][:, :, :5] == -np.inf).all()
    assert np.isfinite(r["lse"][:, :, 5:]).all()


def masks_that_say_the_same(x):
    t = x.attention(Nq=16, Nk=16)
    lower = np.tril(np.ones((1, 1, 16, 16), np.uint8))
    bias = np.where(lower, 0, -np.inf).astype(np.float32)
    causal = x(**t, causal=True, **LSE)
    wide = {"causal": True, "window_left": 16}
    for other in ({"window_right": 0}, {"mask": lower}, {"bias": bias}, wide):
        r = x(**t, **other, **LSE)
        x.close(r["o"], causal["o"], 1e-6)
        x.close(r["lse"], causal["lse"], 1e-6)


def the_narrowest_window_returns_values(x):
    t = x.attention(Nq=12, Nk=12)
    r = x(**t, window_left=0, window_right=0, q_offset=0)
    x.close(r["o"], np.repeat(t["v"], 2, 1), 1e-6)


def rows_of_minus_infinity_are_empty(x):
    t, bias = x.attention(), np.zeros((1, 1, 13, 37), np.float32)
    bias[:, :, 3] = -np.inf
    r = x(**t, bias=bias, **LSE)
    assert (r["o"][:, :, 3] == 0).all() and (r["lse"][:, :, 3] == -np.inf).all()
    assert np.isfinite(r["o"]).all()


def rows_of_the_lowest_number_are_means(x):
    """The score is absorbed by the bias, so that all keys weigh the same."""
    t, bias = x.attention(), np.zeros((1, 1, 13, 37), np.float32)
    bias[:, :, 3] = LOWEST
    mean = np.repeat(t["v"].mean(2), 2, 1)
    x.close(x(**t, bias=bias)["o"][:, :, 3], mean)


def huge_scores_stay_finite(x):
    t = x.attention()
    scores = t["q"] @ np.repeat(t["k"], 2, 1).swapaxes(2, 3) * 24**-0.5
    for factor in (1e4, -1e4):
        r, best = x(**{**t, "q": t["q"] * factor}, **LSE), (scores * factor).max(-1)
        assert np.isfinite(r["o"]).all()
        assert (np.abs(r["lse"] - best) <= np.log(37) + 1e-5 * np.abs(best)).all()
        assert (np.abs(r["o"]) <= np.abs(t["v"]).max() * 1.00001).all()


# ---- packing


def _packed(x):
    """Three sequences, one of them empty: (packed tensors, the same as [1,H,N,D] calls)."""
    cuts_q, cuts_k = np.array([0, 5, 5, 14], np.int32), np.array([0, 12, 12, 31], np.int32)
    q, k, v = x.normal(14, 4, 24), x.normal(31, 2, 24), x.normal(31, 2, 16)
    one = lambda a, c, b: np.ascontiguousarray(a[c[b] : c[b + 1]].transpose(1, 0, 2)[None])
    calls = [
        {"q": one(q, cuts_q, b), "k": one(k, cuts_k, b), "v": one(v, cuts_k, b)} for b in range(3)
    ]
    return {"q": q, "k": k, "v": v, "cu_seqlens_q": cuts_q, "cu_seqlens_k": cuts_k}, calls


def packed_is_one_call_per_sequence(x):
    packed, calls = _packed(x)
    for causal in (False, True):
        r = x(**packed, layout="thd", causal=causal, **LSE)
        single = [x(**c, causal=causal, **LSE) for c in calls]
        x.close(r["o"], np.concatenate([s["o"][0].transpose(1, 0, 2) for s in single]))
        x.close(r["lse"], np.concatenate([s["lse"][0] for s in single], 1))


def _paged(x, page_size):
    """Two sequences of 13 and 8 keys whose pages lie anywhere and share one."""
    pages = 2 * -(-13 // page_size)
    kp, vp = x.normal(pages, page_size, 2, 24), x.normal(pages, page_size, 2, 16)
    table = x.rng.permutation(pages).reshape(2, -1).astype(np.int32)
    table[1, 0] = table[0, 0]
    lengths = np.array([13, 8], np.int32)
    gathered = [
        tuple(
            p[table[b]].reshape(-1, *p.shape[2:])[: lengths[b]].transpose(1, 0, 2)[None]
            for p in (kp, vp)
        )
        for b in (0, 1)
    ]
    call = {"q": x.normal(5, 4, 24), "k_pages": kp, "v_pages": vp, "page_table": table}
    call |= {"seqlens_k": lengths, "cu_seqlens_q": np.array([0, 3, 5], np.int32)}
    return call, gathered


def paged_is_gathered(x):
    for page_size in (1, 3, 16):
        call, gathered = _paged(x, page_size)
        for causal in (False, True):
            r = x(**call, layout="paged", causal=causal, **LSE)
            for b, (begin, end) in enumerate(((0, 3), (3, 5))):
                q = np.ascontiguousarray(call["q"][begin:end].transpose(1, 0, 2)[None])
                k, v = map(np.ascontiguousarray, gathered[b])
                s = x(q=q, k=k, v=v, causal=causal, **LSE)
                x.close(r["o"][begin:end], s["o"][0].transpose(1, 0, 2))
                x.close(r["lse"][:, begin:end], s["lse"][0])


def unused_pages_are_not_read(x):
    for page_size in (1, 3, 16):
        call, _ = _paged(x, page_size)
        used = np.zeros(call["k_pages"].shape[:2], bool)
        for pages, n in zip(call["page_table"], call["seqlens_k"]):
            for j in range(n):
                used[pages[j // page_size], j % page_size] = True
        clean = x(**call, layout="paged")["o"]
        for name in ("k_pages", "v_pages"):
            call[name] = np.where(used[..., None, None], call[name], np.float32(np.nan))
        call["page_table"] = np.where(
            np.arange(call["page_table"].shape[1]) * page_size < call["seqlens_k"][:, None],
            call["page_table"],
            -1,
        ).astype(np.int32)
        x.same(x(**call, layout="paged")["o"], clean)


def keys_outside_the_range_are_not_read(x):
    t = x.attention()
    span = {"key_start": np.array([3, 0], np.int32), "seqlens_k": np.array([30, 36], np.int32)}
    clean = x(**t, **span, **LSE)
    for b, (begin, end) in enumerate(((3, 30), (0, 36))):
        for name in ("k", "v"):
            t[name][b, :, :begin] = np.nan
            t[name][b, :, end:] = np.nan
    dirty = x(**t, **span, **LSE)
    x.same(dirty["o"], clean["o"])
    x.same(dirty["lse"], clean["lse"])


# ---- merging


def _parts(x, t, cuts):
    ends = list(zip((0, *cuts), (*cuts, t["k"].shape[2])))
    keys = lambda a, b: {"k": t["k"][:, :, a:b].copy(), "v": t["v"][:, :, a:b].copy()}
    return [x(q=t["q"], **keys(a, b), **LSE) for a, b in ends]


def _merged(x, parts):
    stacked = {f"{n}_parts": np.stack([p[n] for p in parts]) for n in ("o", "lse")}
    return x("merge", **stacked, **LSE)


def merging_parts_is_one_shot(x):
    t = x.attention()
    whole = x(**t, **LSE)
    for cuts in ((20,), (1, 2), (7, 7, 30)):
        merged = _merged(x, _parts(x, t, cuts))
        x.close(merged["o"], whole["o"])
        x.close(merged["lse"], whole["lse"])


def merging_an_empty_part_changes_no_bit(x):
    whole, empty = (x(**x.attention(Nk=n), **LSE) for n in (37, 0))
    assert (empty["o"] == 0).all() and (empty["lse"] == -np.inf).all()
    for parts in ([whole, empty], [empty, whole], [whole]):
        merged = _merged(x, parts)
        x.same(merged["o"], whole["o"])
        x.same(merged["lse"], whole["lse"])
    merged = _merged(x, [empty, empty])
    assert (merged["o"] == 0).all() and (merged["lse"] == -np.inf).all()


def merging_in_any_order(x):
    parts = _parts(x, x.attention(), (7, 20))
    a, b = _merged(x, parts), _merged(x, parts[::-1])
    x.close(b["o"], a["o"], 1e-6)
    x.close(b["lse"], a["lse"], 1e-6)


# ---- symmetry


def groups_are_repeated_heads(x):
    t = x.attention()
    repeated = {"q": t["q"], "k": np.repeat(t["k"], 2, 1), "v": np.repeat(t["v"], 2, 1)}
    x.close(x(**repeated)["o"], x(**t)["o"], 1e-6)


def permuted_heads_permute_outputs(x):
    t = x.attention()
    swapped = {"q": t["q"][:, [2, 3, 0, 1]].copy(), "k": t["k"][:, ::-1].copy()}
    r = x(**swapped, v=t["v"][:, ::-1].copy())
    x.same(r["o"], x(**t)["o"][:, [2, 3, 0, 1]].copy())


def the_order_of_keys_is_free(x):
    t, order = x.attention(), x.rng.permutation(37)
    shuffled = {n: t[n][:, :, order].copy() for n in ("k", "v")}
    x.close(x(q=t["q"], **shuffled)["o"], x(**t)["o"])


def layouts_change_no_bit(x):
    t = x.attention()
    want = x(**t, **LSE)
    for layout in ("token_major", "sliced", "unaligned"):
        got = x(**x.laid_out(t, layout), **LSE)
        x.same(got["o"], want["o"])
        x.same(got["lse"], want["lse"])
    shared = {n: t[n][:1].repeat(2, 0) if n != "q" else t[n] for n in t}
    view = {n: np.broadcast_to(t[n][:1], t[n].shape) if n != "q" else t[n] for n in t}
    x.same(x(**view)["o"], x(**shared)["o"])


def repeats_and_threads_change_no_bit(x):
    t = x.attention(Nq=80, Nk=80)
    want = x(**t, causal=True)["o"]
    for spread in ("2 threads", "1 thread", "the caller's threads"):
        x.same(x(**t, causal=True, spread=spread)["o"], want)


# ---- sigmoid


def sigmoid_adds_over_keys(x):
    t = x.attention()
    part = lambda a, b: {"q": t["q"], "k": t["k"][:, :, a:b].copy(), "v": t["v"][:, :, a:b].copy()}
    run = lambda c: x(**c, activation="sigmoid", sigmoid_bias=-2.0)["o"]
    x.close(run(part(0, 11)) + run(part(11, 37)), run(t))


def a_large_sigmoid_bias_sums_values(x):
    t = x.attention()
    r = x(**t, activation="sigmoid", sigmoid_bias=1e4)
    x.close(r["o"], np.repeat(t["v"].sum(2, keepdims=True), 2, 1))


def sigmoid_weights_do_not_compete(x):
    """Another key with zero value changes nothing."""
    t = x.attention()
    more = {
        "k": np.concatenate([t["k"], x.normal(2, 2, 3, 24)], 2),
        "v": np.concatenate([t["v"], np.zeros((2, 2, 3, 16), np.float32)], 2),
    }
    run = lambda c: x(**c, activation="sigmoid", sigmoid_bias=-1.0)["o"]
    x.close(run({"q": t["q"], **more}), run(t))


# ---- gradients

GRADIENTS = ("dq", "dk", "dv", "dbias", "dsinks")


def gradients_are_finite_differences(x):
    """Along a random direction of each input, against the float64 oracle's forward."""
    import softmax as oracle

    t = x.attention(Nq=7, Nk=11)
    t |= {"bias": x.normal(1, 2, 7, 11), "sinks": x.normal(4)}
    do, dlse = x.normal(2, 4, 7, 16), x.normal(2, 4, 7)
    saved = x(**t, causal=True, **LSE)
    got = x("backward", **t, **saved, do=do, dlse=dlse, causal=True, outputs=GRADIENTS)

    def loss(moved):
        r = oracle.forward({**t, **moved}, {"causal": True})
        return (r["o"] * do).sum() + (r["lse"] * dlse).sum()

    for name in t:
        d = x.rng.standard_normal(t[name].shape)
        moved = [loss({name: t[name].astype(np.float64) + h * d}) for h in (1e-5, -1e-5)]
        want, slope = (moved[0] - moved[1]) / 2e-5, (got["d" + name] * d).sum()
        x.close(np.array(slope), np.array(want), 1e-4)


def gradients_of_a_shift_cancel(x):
    """Adding a constant to a row of scores moves o by nothing, or by what the sink gains."""
    t = x.attention() | {"bias": x.normal(2, 4, 13, 37)}
    for sinks in ({}, {"sinks": x.normal(4)}):
        saved = x(**t, **sinks, **LSE)
        outputs = ("dbias", "dsinks") if sinks else ("dbias",)
        r = x("backward", **t, **sinks, **saved, do=x.normal(2, 4, 13, 16), outputs=outputs)
        rows = r["dbias"].sum(3).sum((0, 2))
        x.close(rows, -r["dsinks"] if sinks else np.zeros(4), 1e-4)


# ---- size


def large_calls_are_their_sequences(x):
    """Tensors that no second-level cache holds are fetched ahead, across tiles, heads, and
    sequences; that changes nothing."""
    for heads, masks in ((6, {}), (2, {"causal": True}), (6, {"causal": True, "window_left": 140})):
        t = x.attention(B=4, Hq=6, Hkv=heads, Nq=280, Nk=300, D=64, Dv=64)
        assert 2 * t["q"].size + 2 * t["k"].size > 2**20
        whole = x(**t, **masks)["o"]
        for b in range(4):
            alone = x(**{n: a[b : b + 1] for n, a in t.items()}, **masks)["o"]
            x.close(whole[b : b + 1], alone, 1e-6)
        flat = {n: a.transpose(0, 2, 1, 3).reshape(-1, a.shape[1], 64) for n, a in t.items()}
        queries, keys = (n * np.arange(5, dtype=np.int32) for n in (280, 300))
        cuts = {"cu_seqlens_q": queries, "cu_seqlens_k": keys}
        packed = x(**flat, **cuts, layout="thd", **masks)["o"]
        x.close(packed.reshape(4, 280, 6, 64).transpose(0, 2, 1, 3), whole, 1e-6)
        cache = {f"{n}_cache_state": t[n][:, :, :170] for n in "kv"}
        new = {n: t[n][:, :, 170:] for n in "kv"}
        x.close(x("step", **t | new, **cache, **masks)["o"], whole, 1e-6)


# ---- precision


def sixteen_bit_outputs_are_rounded_once(x):
    """No further from the exact result on the rounded inputs than the stated bounds."""
    import softmax as oracle

    for word, tol in (("f16", 2e-3), ("bf16", 1e-2)):
        memory = {n: storage.encode(a, word) for n, a in x.attention(Nk=130).items()}
        out = storage.empty((2, 4, 13, 16), word)
        tensors = {n: storage.array(a, word) for n, a in memory.items()}
        x(**tensors, outputs=(), out={"o": storage.array(out, word)})
        want = oracle.forward({n: storage.decode(a, word) for n, a in memory.items()}, {})["o"]
        rounding = 2**-8 if word == "bf16" else 2e-3
        limit = rounding * np.abs(want) + tol * np.abs(want).max()
        assert (np.abs(storage.decode(out, word) - want) <= limit).all(), word
