"""What the ABI tests share: the compilers of this machine and the staged tree."""

import os
import shutil
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent
BUILD = Path(os.environ.get("ATTUNE_BUILD", ROOT / "build")).resolve()
WARNINGS = ["-Wall", "-Wextra", "-Wpedantic", "-Werror"]

C_COMPILERS = [c for c in ("gcc", "clang") if shutil.which(c)]
CXX_COMPILERS = [c for c in ("g++", "clang++") if shutil.which(c)]
COMPILERS = [(c, s) for c in C_COMPILERS for s in ("c11", "c17")]
COMPILERS += [(c, s) for c in CXX_COMPILERS for s in ("c++11", "c++20")]
assert C_COMPILERS and CXX_COMPILERS, "no C or no C++ compiler on PATH"
CC = C_COMPILERS[0]


def run(*command, **options):
    """Runs a command and returns its stdout; what it printed is in the failure when it fails."""
    done = subprocess.run(
        [str(c) for c in command], capture_output=True, text=True, errors="replace", **options
    )
    assert done.returncode == 0, f"{' '.join(map(str, command))}\n{done.stdout}{done.stderr}"
    return done.stdout


def tool(name):
    """A binary tool: binutils' or the one of LLVM that comes with Swift."""
    found = shutil.which(name) or shutil.which("llvm-" + name)
    assert found, f"{name} is not on PATH"
    return found


def plugins():
    """The staged plugins."""
    return sorted((BUILD / "lib/attune/plugins/1").glob("attune_*.so"))


def build_plugin(compiler, standard, include, output):
    source = HERE / "fixture" / "plugin.c"
    language = ["-x", "c++"] if "++" in compiler else ["-x", "c"]
    run(
        compiler, f"-std={standard}", *WARNINGS, "-O2", "-shared", "-fPIC", "-fvisibility=hidden",
        "-I", include, *language, source, "-o", output,
    )  # fmt: skip
