"""Magnitude-aware linear attention as the class of qhfan/MALA computes it."""

import torch
import torch.nn.functional as F


def turned(x, sin, cos):
    """Pairs of neighbouring channels, rotated."""
    swapped = torch.stack([-x[..., 1::2], x[..., ::2]], -1).flatten(-2)
    return x * cos + swapped * sin


def sums(given, params):
    if params.get("causal"):
        return None  # the authors have no causal form
    q, k, v = (given[name] for name in "qkv")
    n, scale = k.shape[2], q.shape[3] ** -0.5
    q, k = F.elu(q) + 1, F.elu(k) + 1
    z = q @ k.mean(2, keepdim=True).transpose(2, 3) * scale
    if "sin" in given:
        q, k = turned(q, given["sin"], given["cos"]), turned(k, given["sin"], given["cos"])
    share = (scale / n) ** 0.5
    kv = (k.transpose(2, 3) * share) @ (v * share)
    return q @ kv * (1 + 1 / (z + 1e-6)) - z * v.mean(2, keepdim=True)


FORMS = {"sums": sums}
