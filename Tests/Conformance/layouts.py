"""The same values in other memory: the strides, alignments and gaps that callers really have."""

import numpy as np

LAYOUTS = ("plain", "token_major", "sliced", "unaligned", "broadcast")
GUARD = 0xA5
MARGIN = 64  # bytes of guard before and after an array


def shared(values):
    """Batch entry 0 for all, with stride 0."""
    one = values.ndim == 4 and values.shape[0] > 1
    return np.broadcast_to(values[:1], values.shape) if one else values


def laid_out(values, layout):
    """A view with the same values in other memory; broadcast: as they are, shared from the start."""
    if layout == "broadcast":
        return values
    view, _ = room(values.shape, values.dtype, layout)
    view[...] = values
    return view


def room(shape, dtype, layout):
    """(view of that shape, all bytes of the memory it lies in). Every byte is GUARD, and there is
    more of it before, after and, by layout, between the rows.

    token_major  [B,N,H,D] in memory
    sliced       rows of a larger array
    unaligned    every row begins at another remainder of 64 bytes, the first one element late
    """
    size, dims = np.dtype(dtype).itemsize, list(shape)
    if layout in ("sliced", "unaligned") and dims:
        dims = [n + 1 for n in dims[:-1]] + [dims[-1] + (3 if layout == "sliced" else 1)]
    if layout == "token_major" and len(dims) == 4:
        dims[1], dims[2] = dims[2], dims[1]
    count = int(np.prod(dims))
    whole = np.full(count * size + 2 * MARGIN + 64, GUARD, np.uint8)
    begin = -whole.ctypes.data % 64 + MARGIN + (size if layout == "unaligned" else 0)
    view = whole[begin : begin + count * size].view(dtype).reshape(dims)
    if layout == "token_major" and len(dims) == 4:
        view = view.swapaxes(1, 2)
    return view[tuple(slice(n) for n in shape)], whole
