"""What the staged binaries offer and need."""

import re

import pytest
from abi_support import BUILD, C_COMPILERS, COMPILERS, ROOT, build_plugin, plugins, run, tool

import layout

LIBRARY_NEEDS = {
    "libc.so.6",
    "libm.so.6",
    "libstdc++.so.6",
    "libgcc_s.so.1",
    "ld-linux-x86-64.so.2",
}
PLUGIN_NEEDS = {"libc.so.6", "libm.so.6"}


def dynamic(path):
    return run(tool("objdump"), "-p", path)


def needed(path):
    return set(re.findall(r"NEEDED\s+(\S+)", dynamic(path)))


def exported(path):
    """Symbols with their version nodes."""
    lines = run(tool("nm"), "-D", "--defined-only", path).splitlines()
    return {line.split()[-1]: line.split()[-2] for line in lines if line.split()[-2] != "A"}


def test_library_exports_the_header_and_nothing_else(library):
    prototypes = layout.functions(layout.source("attune.h", BUILD / "include"))
    functions = {re.search(r"(\w+)\s*\(", p)[1] for p in prototypes}
    assert len(functions) > 10
    assert exported(library) == {f"{name}@@ATTUNE_1": "T" for name in functions}


def test_library_needs_the_c_runtime_only(library):
    assert needed(library) <= LIBRARY_NEEDS


def test_library_has_its_name_and_stays_loaded(library):
    text = dynamic(library)
    assert re.search(r"SONAME\s+libattune\.so\.1\n", text)
    assert int(re.search(r"FLAGS_1\s+0x([0-9a-f]+)", text)[1], 16) & 0x8, "not marked NODELETE"
    assert set(re.findall(r"R(?:UN)?PATH\s+(\S+)", text)) <= {"$ORIGIN"}
    assert "TEXTREL" not in text


def test_library_links(library):
    assert library.is_symlink() and library.resolve().name == "libattune.so.1"


def test_library_has_no_foundation(library):
    names = run(tool("nm"), library)
    assert len(names.splitlines()) > 1000, "the symbol table is gone: this test sees nothing"
    assert "10Foundation" not in names and "FoundationEssentials" not in names


def test_there_are_plugins():
    assert plugins(), f"no plugin in {BUILD}"


@pytest.mark.parametrize("path", plugins(), ids=lambda p: p.name)
def test_plugin_exports_one_symbol_and_needs_libc(path):
    assert exported(path) == {"attune_plugin_entry_v1": "T"}
    assert needed(path) <= PLUGIN_NEEDS
    sections = run(tool("objdump"), "-h", path)
    assert ".note.attune" in sections
    assert ".note.gnu.build-id" in sections, "the tuner cannot tell its builds apart by name"


@pytest.mark.parametrize("compiler,standard", COMPILERS)
def test_plugin_out_of_the_tree(compiler, standard, tmp_path):
    """One line and the staged headers build a plugin, in C and in C++."""
    output = tmp_path / "attune_fixture.so"
    build_plugin(compiler, standard, BUILD / "include", output)
    functions = [name for name, kind in exported(output).items() if kind in "Tt"]
    assert functions == ["attune_plugin_entry_v1"]
    if compiler in C_COMPILERS:
        assert needed(output) <= PLUGIN_NEEDS


def test_version_is_told_once():
    makefile = re.search(r"^VERSION := (\S+)", (ROOT / "Makefile").read_text(), re.M)[1]
    config = (BUILD / "lib/pkgconfig/attune.pc").read_text()
    assert f"\nVersion: {makefile}\n" in config
    newest = re.search(r"^## \[?(\d+\.\d+\.\d+)", (ROOT / "CHANGELOG.md").read_text(), re.M)[1]
    assert newest == makefile
