"""The staged tree as its users meet it: pkg-config, CMake, moved elsewhere, installed by make."""

import os
import shutil
import subprocess

import pytest
from abi_support import BUILD, CC, CXX_COMPILERS, HERE, ROOT, run

MAIN = """
#include <attune/attune.h>
#include <stdio.h>
int main(void) {
  uint32_t v[3];
  attune_context *context = NULL;
  attune_error e = ATTUNE_ERROR;
  if (attune_version(&v[0], &v[1], &v[2]) || attune_context_create(NULL, &context, &e)) return 1;
  printf("%u.%u.%u\\n", v[0], v[1], v[2]);
  attune_context_release(context);
  return 0;
}
"""
VERSION = next(
    line.split()[-1]
    for line in (ROOT / "Makefile").read_text().splitlines()
    if line.startswith("VERSION")
)


@pytest.fixture(scope="module")
def installed(library, tmp_path_factory):
    """`make install` into another place, without building again."""
    root = tmp_path_factory.mktemp("install")
    run("make", "-C", ROOT, "--no-print-directory", "copy", f"DESTDIR={root}", "PREFIX=/opt/attune",
        f"B={BUILD}")  # fmt: skip
    return root / "opt/attune"


def build_and_run(flags, tmp_path, compiler, **options):
    source, program = tmp_path / ("main.cpp" if "++" in compiler else "main.c"), tmp_path / "main"
    source.write_text(MAIN)
    run(compiler, source, *flags, "-o", program)
    return run(program, **options).strip()


@pytest.mark.parametrize("compiler", [CC, CXX_COMPILERS[0]])
def test_program_against_the_installed_tree(installed, tmp_path, compiler):
    flags = [
        "-I",
        installed / "include",
        "-L",
        installed / "lib",
        "-lattune",
        f"-Wl,-rpath,{installed}/lib",
    ]
    assert build_and_run(flags, tmp_path, compiler) == VERSION


def test_pkg_config_follows_the_tree(installed, tmp_path):
    """The file finds the tree from its own place."""
    text = (installed / "lib/pkgconfig/attune.pc").read_text()
    assert str(BUILD) not in text and "prefix=${pcfiledir}/../..\n" in text
    if not shutil.which("pkg-config"):
        return
    environment = os.environ | {"PKG_CONFIG_PATH": str(installed / "lib/pkgconfig")}
    flags = run("pkg-config", "--cflags", "--libs", "attune", env=environment).split()
    options = {"env": os.environ | {"LD_LIBRARY_PATH": str(installed / "lib")}}
    assert build_and_run(flags, tmp_path, CC, **options) == VERSION
    assert run("pkg-config", "--modversion", "attune", env=environment).strip() == VERSION


def test_cmake_finds_the_tree(installed, tmp_path):
    config = (installed / "lib/cmake/attune/attuneConfig.cmake").read_text()
    assert str(BUILD) not in config and "${CMAKE_CURRENT_LIST_DIR}/../../.." in config
    if not shutil.which("cmake"):
        return
    (tmp_path / "main.c").write_text(MAIN)
    shutil.copytree(HERE / "fixture", tmp_path / "fixture")
    (tmp_path / "CMakeLists.txt").write_text(
        "cmake_minimum_required(VERSION 3.16)\nproject(x C)\n"
        f"find_package(attune {VERSION} REQUIRED)\n"
        "add_executable(x main.c)\ntarget_link_libraries(x attune::attune)\n"
        "attune_add_plugin(fixture fixture/plugin.c)\n"
    )
    run("cmake", "-S", tmp_path, "-B", tmp_path / "out", f"-DCMAKE_PREFIX_PATH={installed}")
    run("cmake", "--build", tmp_path / "out")
    assert run(tmp_path / "out/x").strip() == VERSION
    assert (tmp_path / "out/attune_fixture.so").exists()


def test_installed_command_finds_its_plugins(installed):
    """With an empty environment, from another directory."""
    out = subprocess.run(
        [installed / "bin/attune", "list"], cwd="/", env={}, capture_output=True, text=True
    )
    staged = sorted(p.name for p in (BUILD / "lib/attune/plugins/1").glob("attune_*.so"))
    assert staged == sorted(p.name for p in (installed / "lib/attune/plugins/1").iterdir())
    assert out.returncode == 0, out.stderr
    for name in staged:
        assert name.removeprefix("attune_").removesuffix(".so") in out.stdout


def test_same_files_are_installed(installed):
    def files(top, products):
        return sorted(
            str(p.relative_to(top)) for x in products for p in (top / x).rglob("*")
            if not p.is_dir() and "__pycache__" not in p.parts
        )  # fmt: skip

    products = ["bin", "lib", "include", "python", "share"]
    assert files(installed, products) == files(BUILD, products)
    for header in (ROOT / "include/attune").iterdir():
        assert (installed / "include/attune" / header.name).read_bytes() == header.read_bytes()
