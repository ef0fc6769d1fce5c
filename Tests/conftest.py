"""Finds the staged build: ATTUNE_BUILD, else build/ at the root of the repository."""

import os
import pathlib
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
BUILD = pathlib.Path(os.environ.get("ATTUNE_BUILD", ROOT / "build")).resolve()

os.environ["ATTUNE_BUILD"] = str(BUILD)
# Tests neither use nor change what this machine remembers, and two calls of one take the same kernel.
os.environ.setdefault("ATTUNE_WISDOM", "")
os.environ.setdefault("ATTUNE_TUNE", "estimate")
sys.path.insert(0, str(BUILD / "python"))
sys.path.insert(1, str(ROOT / "Sources" / "python"))  # only where nothing is staged
sys.path.append(str(ROOT / "Tests" / "Conformance"))
if not (BUILD / "python").exists() and (BUILD / "lib" / "libattune.so.1").exists():
    os.environ.setdefault("ATTUNE_LIBRARY", str(BUILD / "lib" / "libattune.so.1"))


@pytest.fixture(scope="session")
def build():
    return BUILD


@pytest.fixture(scope="session")
def ctx():
    """A context that does not measure: the first usable kernel runs."""
    import attune

    with attune.Context(threads=2, tune="off", wisdom="") as context:
        yield context
