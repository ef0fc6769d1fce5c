"""The C programs of this folder against the staged library.

One test here per TEST there, each in a process of its own.
"""

import re
import subprocess

import pytest
from abi_support import BUILD, CC, HERE, WARNINGS, run

PROGRAMS = {"null": [], "errors": [], "bindings": [], "execute": ["malloc_count.c"]}


def names(program):
    return re.findall(r"^TEST\((\w+)\)", (HERE / f"{program}.c").read_text(), re.M)


@pytest.fixture(scope="session")
def programs(library, tmp_path_factory):
    """Compiles a program on its first use."""
    folder, made = tmp_path_factory.mktemp("programs"), {}

    def program(name):
        if name not in made:
            made[name] = folder / name
            # A program does not need every helper of call.h.
            options = [*WARNINGS, "-Wno-unused-function", "-O1", "-g", "-pthread"]
            sources = [HERE / f"{name}.c", *(HERE / extra for extra in PROGRAMS[name])]
            run(CC, "-std=c11", *options, "-I", BUILD / "include", *sources, "-o", made[name],
                "-L", library.parent, f"-Wl,-rpath,{library.parent}", "-lattune", "-lm")  # fmt: skip
        return made[name]

    return program


@pytest.mark.parametrize("program,test", [(p, t) for p in PROGRAMS for t in names(p)])
def test_program(programs, fixture_plugin, program, test):
    done = subprocess.run(
        [programs(program), fixture_plugin, test], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, f"exit {done.returncode}: {done.stdout}{done.stderr}"


def test_a_failing_check_fails(programs, fixture_plugin, tmp_path):
    """Without the plugin nothing can work: the frame must say so."""
    done = subprocess.run(
        [programs("execute"), tmp_path, "every_kernel_computes"], capture_output=True, text=True
    )
    assert done.returncode == 1 and "org.attune.fixture" in done.stderr, done.stderr
