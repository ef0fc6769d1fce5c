"""An operator as a property sees it: called by names, through one of its kernels or its oracle."""

import importlib

import numpy as np
import pytest

import attune
import compare
import layouts
import witness


class Caller:
    """x(entry, tensors and parameters by name) -> {output: array}; numbers and comparisons."""

    def __init__(self, op, rng):
        self.op, self.rng = op, rng

    def normal(self, *shape):
        return self.rng.standard_normal(shape).astype(np.float32)

    def attention(self, B=2, Hq=4, Hkv=2, Nq=13, Nk=37, D=24, Dv=16):
        """q, k, v. So few rows per group that the kernels for decoding have work."""
        shapes = {"q": (B, Hq, Nq, D), "k": (B, Hkv, Nk, D), "v": (B, Hkv, Nk, Dv)}
        return {n: self.normal(*s) for n, s in shapes.items()}

    def laid_out(self, arrays, layout):
        return {n: layouts.laid_out(a, layout) for n, a in arrays.items()}

    def close(self, got, want, tol=1e-5):
        """|got - want| <= tol * (1 + max|want|), infinities equal."""
        got, want = np.broadcast_arrays(np.asarray(got), np.asarray(want, np.float64))
        text = compare.difference(got, want, 0.0, tol, floor=tol)
        assert text is None, text


class Kernel(Caller):
    """Entries without a kernel of this name run their first one. A call skips the test when there
    is no such entry or the kernel declines."""

    def __init__(self, lab, op, kernel, rng):
        super().__init__(op, rng)
        self.lab, self.kernel = lab, kernel
        self.entries = {e["name"]: e for e in lab.operators[op]["entries"]}

    def __call__(self, entry="forward", spread="2 threads", **arguments):
        if entry not in self.entries:
            pytest.skip(f"{self.op} has no entry {entry} here")
        names = [k["name"] for k in self.entries[entry]["kernels"] if k["usable"]]
        kernel = self.kernel if self.kernel in names else names[0]
        try:
            return self.lab.spreads[spread].run(self.op, entry=entry, kernel=kernel, **arguments)
        except attune.Error as error:
            if error.code == "E_UNSUPPORTED":
                pytest.skip(str(error))
            raise

    def same(self, got, want):
        """Every bit."""
        differ = f"{(got != want).sum()} of {got.size} differ" if got.shape == want.shape else ""
        assert got.shape == want.shape and got.tobytes() == want.tobytes(), differ


class Oracle(Caller):
    """The same properties hold for the oracle: neither it nor a property is believed on its own."""

    def __call__(self, entry="forward", spread=None, outputs=None, out=None, **arguments):
        if out is not None:
            pytest.skip("an oracle has no storage types")
        module = importlib.import_module(self.op)
        function = getattr(module, entry, None)
        if function is None:
            pytest.skip(f"the oracle of {self.op} has no {entry}")
        arrays = {n: a for n, a in arguments.items() if isinstance(a, np.ndarray)}
        if any(0 in a.shape for a in arrays.values()):
            pytest.skip("oracles are written for what is not empty")
        if any(np.isnan(a).any() for a in arrays.values()):
            pytest.skip("an oracle multiplies what is hidden by zero")
        params = {n: a for n, a in arguments.items() if n not in arrays}
        groups = [{n: a for n, a in arrays.items() if n not in _SENT}, params]
        if entry.endswith("backward"):
            groups.append({n: a for n, a in arrays.items() if n in _SENT})
        with np.errstate(all="ignore"):
            return {n: np.asarray(a) for n, a in function(*groups).items() if a is not None}

    def same(self, got, want):
        self.close(got, want, 1e-12)


class Noisy(Oracle):
    """An oracle that is wrong on purpose: no property may hold for it."""

    def __call__(self, *names, **arguments):
        right = super().__call__(*names, **arguments)
        return {n: self._spoiled(a) for n, a in right.items()}

    def _spoiled(self, right):
        if right.dtype.kind in "iu":
            return right + self.rng.integers(0, 2, right.shape)
        if right.dtype.kind != "f":
            return right
        spoiled = right * (1 + self.rng.normal(0, 0.1, right.shape))
        return np.where(np.isfinite(right), spoiled + self.rng.normal(0, 0.1, right.shape), 0.0)


_SENT = ("do", "dlse", "dy", "dl_aux", "dkv_state_out")  # upstream gradients
assert witness.ORACLES.exists()  # the import above makes the oracles importable
