"""What the mathematics of an operator promises: every function of properties/OP.py, with the oracle
and, as far as the registry has the operator, with every kernel of its forward."""

import importlib.util
import inspect
import pathlib
import zlib

import numpy as np
import pytest

from lab import Lab
from operator_calls import Kernel, Oracle

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
        kernels = [
            s.kernel for s in LAB.subjects() if (s.op, s.entry) == (path.stem, "forward")
        ]
        for name, function in functions(path).items():
            for kernel in ("oracle", *kernels):
                yield pytest.param(path.stem, function, kernel, id=f"{path.stem}-{name}-{kernel}")


@pytest.mark.parametrize("op,function,kernel", properties())
def test_property(op, function, kernel):
    for repeat in range(REPEATS):
        rng = np.random.default_rng([repeat, zlib.crc32(function.__name__.encode())])
        function(Oracle(op, rng) if kernel == "oracle" else Kernel(LAB, op, kernel, rng))
