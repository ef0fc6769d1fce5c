"""Causal linear attention with a decay per head, as OpenNLPLab/lightning-attention and the MiniMax
model of huggingface/transformers compute it without a kernel."""

import torch

BLOCK = 256  # of the model code


def powers(slopes, exponents):
    """exp(-slope * exponent), one matrix or column per head; exponents < 0 give 0."""
    weights = torch.exp(-slopes.view(-1, 1, 1) * exponents.clamp(min=0))
    return weights * (exponents >= 0)


def masked(given, params):
    """The reference of the kernels' authors: all scores, times the matrix of decays."""
    q, k, v = (given[name] for name in "qkv")
    i = torch.arange(q.shape[2], dtype=torch.float32)
    return ((q @ k.transpose(2, 3)) * powers(given["slopes"], i[:, None] - i)) @ v


def blocks(given, params):
    """The model's own loop: scores within a block, a state between blocks."""
    q, k, v = (given[name] for name in "qkv")
    slopes, n = given["slopes"], q.shape[2]
    state = torch.zeros(*q.shape[:2], q.shape[3], v.shape[3])
    rows = []
    for begin in range(0, n, BLOCK):
        cut = slice(begin, min(begin + BLOCK, n))
        qi, ki, vi = q[:, :, cut], k[:, :, cut], v[:, :, cut]
        i = torch.arange(qi.shape[2], dtype=torch.float32)
        inner = ((qi @ ki.transpose(2, 3)) * powers(slopes, i[:, None] - i)) @ vi
        rows.append(inner + (qi * powers(slopes, i[:, None] + 1)) @ state)
        kept = torch.exp(-slopes * len(i)).view(-1, 1, 1) * state
        state = kept + (ki * powers(slopes, len(i) - 1 - i[:, None])).transpose(2, 3) @ vi
    return torch.cat(rows, 2)


FORMS = {"all scores": masked, "blocks of 256": blocks}
