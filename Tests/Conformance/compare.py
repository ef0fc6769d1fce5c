"""The rule by which a kernel is compared: |got - want| <= atol * max|want| + rtol * |want| + floor,
infinities equal, no NaN that was not expected, integers equal. floor is 0, but for sums that cancel
(gradients): the rounding of their terms."""

import numpy as np


def tolerance(descriptor, word):
    """(rtol, atol) of a storage type."""
    found = [t for t in descriptor["tolerance"] if t["dtype"] == word]
    assert found, f"{descriptor['id']} states no tolerance for {word}"
    return found[0]["rtol"], found[0]["atol"]


def difference(got, want, rtol, atol, floor=0.0):
    """None when got matches, else a sentence."""
    if got.shape != want.shape:
        return f"shape {got.shape}, expected {want.shape}"
    if want.dtype.kind != "f":
        wrong = np.argwhere(got != want)
        return (
            None if len(wrong) == 0 else f"{len(wrong)} integers differ, first at {tuple(wrong[0])}"
        )
    got, want = got.astype(np.float64), want.astype(np.float64)
    finite = np.isfinite(want)
    if not np.array_equal(got[~finite], want[~finite], equal_nan=True):
        return "infinities or NaN at other places"
    if not finite.any():
        return None
    if not np.isfinite(got[finite]).all():
        return f"{(~np.isfinite(got[finite])).sum()} elements are not finite"
    with np.errstate(invalid="ignore"):  # where both are infinite
        error = np.abs(got - want)
    limit = atol * np.abs(want[finite]).max() + rtol * np.abs(want) + floor
    ratio = np.where(finite, error / np.maximum(limit, 1e-300), 0.0)
    worst = np.unravel_index(np.argmax(ratio), ratio.shape)
    if ratio[worst] <= 1:
        return None
    where = tuple(map(int, worst))
    times = f"{ratio[worst]:.3g} times the tolerance"
    return f"at {where}: {got[worst]!r}, expected {want[worst]!r}, {times}"
