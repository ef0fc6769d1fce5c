"""The rule by which a kernel is compared: |got - want| <= atol * max|want| + rtol * |want| + floor,
infinities equal, no NaN that was not expected, integers equal. floor is 0, but for sums that
cancel: the rounding of their terms."""

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
    wrong = mismatches(got, want, rtol, atol, floor)
    if not wrong.any():
        return None
    at = tuple(map(int, np.argwhere(wrong)[0]))
    return f"at {at}: {got[at]!r}, expected {want[at]!r}, {wrong.sum()} of {wrong.size} differ"


def mismatches(got, want, rtol, atol, floor=0.0):
    """Mask of the elements that are not as wanted."""
    if want.dtype.kind != "f":
        return got != want
    got, want = got.astype(np.float64), want.astype(np.float64)
    finite = np.isfinite(want)
    largest = np.abs(want[finite]).max(initial=0.0)
    with np.errstate(invalid="ignore"):  # where both are infinite
        near = np.abs(got - want) <= atol * largest + rtol * np.abs(want) + floor
    return ~np.where(finite, near, (got == want) | np.isnan(got) & np.isnan(want))
