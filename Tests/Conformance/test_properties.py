"""What the mathematics of an operator promises: every function of properties/OP.py, with the
oracle, with noise, for which it must fail, and, where the registry has the operator, with every
kernel of its forward."""

import importlib.util
import inspect
import pathlib
import zlib

import numpy as np
import pytest

from lab import Lab
from operator_calls import Kernel, Noisy, Oracle

FOLDER = pathlib.Path(__file__).resolve().parent / "properties"
LAB = Lab()
REPEATS = 2


def functions(path):
    """The properties of a file, by name."""
    spec = importlib.util.spec_from_file_location(f"properties_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    found = inspect.getmembers(module, inspect.isfunction)
    return {n: f for n, f in found if n[0] != "_" and f.__module__ == spec.name}


def properties():
    for path in sorted(FOLDER.glob("*.py")):
        subjects = [s for s in LAB.subjects() if (s.op, s.entry) == (path.stem, "forward")]
        callers = ["noise", "oracle", *(s.kernel for s in subjects)]
        for name, function in functions(path).items():
            for caller in callers:
                yield pytest.param(path.stem, function, caller, id=f"{path.stem}-{name}-{caller}")


@pytest.mark.parametrize("op,function,caller", properties())
def test_property(op, function, caller):
    seed = zlib.crc32(function.__name__.encode())
    if caller == "noise":  # a property that noise has says nothing
        with pytest.raises(AssertionError):
            function(Noisy(op, np.random.default_rng(seed)))
        return
    for repeat in range(REPEATS):
        rng = np.random.default_rng([repeat, seed])
        function(Oracle(op, rng) if caller == "oracle" else Kernel(LAB, op, caller, rng))
