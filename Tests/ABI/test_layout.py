"""The layout that compilers see is the one written down, and nothing in it is hidden."""

import re

import layout
import pytest
from abi_support import COMPILERS, ROOT

# The smallest legal size of each struct in minor 0. These never change; a later minor adds a table.
MINOR_0 = """
span 16, semver 16, value 16, device 8, dtype 4, tensor 48, error 512, tensor_spec 80, param_spec 88,
arg 24, knob 40, kernel 168, rule 24, entry 128, preset 56, tolerance 24, op 120, host 40, blas 32,
exec 144, plugin 88, negotiation 32, note 132, context_options 64, tensor_ref 24, param 40, problem 88,
bindings 64, plan_info 64, wisdom_report 24
"""
GOLDEN = layout.GOLDEN.read_text()


def sizes(text):
    return {
        name: int(size) for name, size in re.findall(r"^struct attune_(\w+) size (\d+)", text, re.M)
    }


@pytest.mark.parametrize("compiler,standard", COMPILERS)
def test_layout_is_the_golden(compiler, standard):
    assert layout.dump((compiler, f"-std={standard}")) == GOLDEN, "changed on purpose? make abi"


def test_sizes_of_minor_0():
    assert sizes(GOLDEN) == {n: int(s) for n, s in re.findall(r"(\w+) (\d+)", MINOR_0)}


def test_fields_fill_their_structs():
    """No field is missing from the golden and no struct has a hole."""
    for block in re.split(r"^(?=struct )", GOLDEN, flags=re.M)[1:]:
        head, *rows = block.splitlines()
        size, end = int(head.split()[3]), 0
        for offset, width in (map(int, row.split()[:2]) for row in rows if row.startswith("  ")):
            assert offset == end, head
            end = offset + width
        assert end == size, head


def test_every_struct_can_grow():
    """What callers or plugins fill begins with struct_size; the frozen ones are the exception."""
    frozen = {"span", "semver", "value", "tensor", "device", "dtype", "note"}
    for name, first in re.findall(r"^struct attune_(\w+) .*\n  0 \d+ (\w+):", GOLDEN, re.M):
        assert (first == "struct_size") != (name in frozen), name


def test_version_is_told_once():
    """The golden, the headers' words and the change log agree about the version of the ABI."""
    major = re.search(r"ATTUNE_ABI_MAJOR (\d+)", GOLDEN)[1]
    minor = re.search(r"ATTUNE_ABI_MINOR (\d+)", GOLDEN)[1]
    for header in (ROOT / "include/attune").iterdir():
        assert header.read_text().startswith(f"/* Attune ABI {major}.{minor}"), header
    assert f"ABI {major}.{minor}" in (ROOT / "CHANGELOG.md").read_text()
    assert layout.GOLDEN.name == f"layout-{major}.{minor}.golden"
