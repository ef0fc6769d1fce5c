"""Linear attention with a learned softmax feature map as HazyResearch/lolcats computes it."""

import torch


def features(x, w):
    z = x @ w
    return torch.cat([z.softmax(-1), (-z).softmax(-1)], -1).clamp(min=1e-12)


def plain(params):
    """Is it the form without a window, with the default map?"""
    return params.get("window_mode", "none") == "none" and "feature_map" not in params


def quadratic(given, params):
    """All scores: what the authors train with."""
    if not plain(params):
        return None
    q, k = features(given["q"], given["w_q"]), features(given["k"], given["w_k"])
    a = q @ k.transpose(2, 3)
    if params.get("causal", True):
        a = a.tril()
    return (a @ given["v"]) / (a.sum(-1, keepdim=True) + 1e-12)


def sums(given, params):
    """Sums over all keys, or running ones: the inner products of a causal form are cumulative."""
    if not plain(params):
        return None
    q, k, v = features(given["q"], given["w_q"]), features(given["k"], given["w_k"]), given["v"]
    if not params.get("causal", True):
        total = k.sum(2, keepdim=True)
        return (q @ (k.transpose(2, 3) @ v)) / ((q * total).sum(-1, keepdim=True) + 1e-12)
    if q.shape[2] * q.shape[1] * q.shape[3] * v.shape[3] > 2**29:
        return None  # the states of all tokens would not fit into memory
    states = torch.einsum("bhnf,bhnd->bhnfd", k, v).cumsum(2)
    total = (q * k.cumsum(2)).sum(-1, keepdim=True)
    return torch.einsum("bhnf,bhnfd->bhnd", q, states) / (total + 1e-12)


FORMS = {"all scores": quadratic, "sums": sums}
