"""The layout that compilers see is the one written down, and nothing in it is hidden."""

import re

import layout
import pytest
from abi_support import COMPILERS, ROOT

GOLDEN = layout.GOLDEN.read_text()


def sizes(text):
    return {
        name: int(size) for name, size in re.findall(r"^struct attune_(\w+) size (\d+)", text, re.M)
    }


@pytest.mark.parametrize("compiler,standard", COMPILERS)
def test_layout_is_the_golden(compiler, standard):
    assert layout.dump((compiler, f"-std={standard}")) == GOLDEN, "changed on purpose? make abi"


def test_every_build_holds_the_sizes():
    """Sources/CAttune/abi_check.c asserts the size of each struct, none left out."""
    asserted = re.findall(
        r"^ATTUNE_SIZE\(attune_(\w+), (\d+)\);",
        (ROOT / "Sources/CAttune/abi_check.c").read_text(),
        re.M,
    )
    assert {name: int(size) for name, size in asserted} == sizes(GOLDEN)


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
