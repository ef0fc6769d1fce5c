"""What the mathematics of an operator promises, beyond the oracle: properties/OP.py, every function
there, with every kernel of the operator's forward. Skips what the registry does not have."""

import importlib.util
import inspect
import pathlib
import zlib

import numpy as np
import pytest

import attune
import compare
import layouts
import runner
import storage
from lab import Lab

FOLDER = pathlib.Path(__file__).resolve().parent / "properties"
LAB = Lab()
REPEATS = 2


class Kernel:
    """An operator by one of its kernels, as a property sees it."""

    def __init__(self, op, kernel, rng):
        self.op, self.kernel, self.rng = op, kernel, rng
        self.entries = {e["name"]: e for e in LAB.operators[op]["entries"]}

    def normal(self, *shape):
        return self.rng.standard_normal(shape).astype(np.float32)

    def attention(self, B=2, Hq=4, Hkv=2, Nq=13, Nk=37, D=24, Dv=16):
        """q, k, v."""
        shapes = {"q": (B, Hq, Nq, D), "k": (B, Hkv, Nk, D), "v": (B, Hkv, Nk, Dv)}
        return {n: self.normal(*s) for n, s in shapes.items()}

    def __call__(self, entry="forward", spread="2 threads", **arguments):
        """{output: array}. Entries without a kernel of this name run their first one. Skips when the
        entry does not exist or the kernel declines."""
        if entry not in self.entries:
            pytest.skip(f"{self.op} has no entry {entry} here")
        names = [k["name"] for k in self.entries[entry]["kernels"] if k["usable"]]
        kernel = self.kernel if self.kernel in names else names[0]
        try:
            return LAB.spreads[spread].run(self.op, entry=entry, kernel=kernel, **arguments)
        except attune.Error as error:
            if error.code == "E_UNSUPPORTED":
                pytest.skip(str(error))
            raise

    def laid_out(self, arrays, layout):
        return {n: layouts.laid_out(x, layout) for n, x in arrays.items()}

    def close(self, got, want, tol=1e-5):
        """|got - want| <= tol * max(1, max|want|), infinities equal."""
        got, want = np.broadcast_arrays(got, want)
        floor = 1.0 if want.size else 0.0
        text = compare.difference(got, want.astype(np.float64), 0.0, tol, floor)
        assert text is None, text

    def same(self, got, want):
        """Every bit."""
        assert got.shape == want.shape and got.tobytes() == want.tobytes(), self.bits(got, want)

    @staticmethod
    def bits(got, want):
        return f"{(got != want).sum()} of {got.size} differ, shapes {got.shape} {want.shape}"


def properties():
    for path in sorted(FOLDER.glob("*.py")):
        spec = importlib.util.spec_from_file_location(f"properties_{path.stem}", path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        functions = inspect.getmembers(module, inspect.isfunction)
        own = [f for n, f in functions if n[0] != "_" and f.__module__ == spec.name]
        if path.stem not in LAB.operators:
            skip = pytest.mark.skip(f"{path.stem} is not in the registry")
            yield pytest.param(path.stem, None, None, marks=skip, id=path.stem)
            continue
        for function in own:
            for subject in LAB.subjects():
                if (subject.op, subject.entry) == (path.stem, "forward"):
                    name = f"{path.stem}-{function.__name__}-{subject.kernel}"
                    yield pytest.param(path.stem, function, subject.kernel, id=name)


@pytest.mark.parametrize("op,function,kernel", properties())
def test_property(op, function, kernel):
    for repeat in range(REPEATS):
        rng = np.random.default_rng([repeat, zlib.crc32(function.__name__.encode())])
        function(Kernel(op, kernel, rng))
