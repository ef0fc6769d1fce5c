"""Inputs that models make by a formula: slopes per head, rotary tables.

numpy arrays of f32, computed in double. The C functions of attune/helpers.h compute the same.
"""

import numpy as np

from ._error import failure


def alibi_slopes(heads):
    """Slopes of ALiBi (arXiv:2108.12409), [heads]: 2^(-8 (i + 1) / p) for the first p heads, p the
    largest power of two <= heads; the others take every other slope of the series for 2 p."""
    return _alibi(_count("heads", heads, 1)).astype(np.float32)


def decay_slopes(heads, layer, layers, rule="alibi"):
    """Decay slopes of linear attention for one layer, [heads]; a state decays by exp(-slope) per
    token. layer counts from 0. A checkpoint works with its own rule only:

    rule       slope of head i of n in layer l of L
    alibi      ALiBi's slope times 1 - l / (L - 1) + 1e-5 (L = 1: 1 + 1e-5). TransNormerLLM, vLLM
    geometric  2^(-8 (i + 1) / n) (1 - l / (L - 1 + 1e-5) + 1e-5). MiniMax in transformers
    linear     (8 / n) (1 - l / L) i. The TransNormerLLM paper, flash-linear-attention
    """
    heads, layers = _count("heads", heads, 1), _count("layers", layers, 1)
    layer = _count("layer", layer, 0)
    if layer >= layers:
        raise failure("E_PARAM", "layer", f"layer is {layer}, expected less than layers = {layers}")
    i = np.arange(heads)
    if rule == "linear":
        slopes = 8 / heads * (1 - layer / layers) * i
    elif rule == "geometric":
        slopes = 2.0 ** (-8 * (i + 1) / heads) * (1 - layer / (layers - 1 + 1e-5) + 1e-5)
    elif rule == "alibi":
        slopes = _alibi(heads) * ((1 - layer / (layers - 1) if layers > 1 else 1) + 1e-5)
    else:
        known = "alibi, geometric, linear"
        raise failure("E_PARAM", "rule", f"rule is {rule!r}, expected one of {known}")
    return slopes.astype(np.float32)


def rotary_tables_2d(height, width, channels):
    """(sin, cos), each [height * width, channels], for a grid of tokens in row-major order and
    rotations of neighbouring channels (2m, 2m + 1).

    With m = channels / 4 the angles are 10000^(-i / (m - 1)), i < m (m = 1: 1), each for two
    channels; the first half of the channels turns by the token's row times the angle, the second
    half by its column. channels is a multiple of 4.
    """
    height, width = _count("height", height, 0), _count("width", width, 0)
    channels = _count("channels", channels, 4)
    if channels % 4:
        raise failure("E_PARAM", "channels", f"channels is {channels}, expected a multiple of 4")
    m = channels // 4
    angles = np.repeat(10000.0 ** (-np.arange(m) / max(m - 1, 1)), 2)
    row, column = np.divmod(np.arange(height * width), max(width, 1))
    turns = np.hstack([row[:, None] * angles, column[:, None] * angles])
    return np.sin(turns).astype(np.float32), np.cos(turns).astype(np.float32)


def _alibi(heads):
    p = 1 << (heads.bit_length() - 1)
    first, doubled = (2.0 ** (-8 * (np.arange(n) + 1) / n) for n in (p, 2 * p))
    return np.concatenate([first, doubled[::2][: heads - p]])


def _count(name, value, least):
    """value as an integer that is at least `least`."""
    try:
        count = int(value.__index__())
    except AttributeError:
        raise failure("E_PARAM", name, f"{name} is {value!r}, expected an integer") from None
    if count < least:
        raise failure("E_PARAM", name, f"{name} is {count}, expected at least {least}")
    return count
