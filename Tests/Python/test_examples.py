"""The examples print what they promise."""

import os
import pathlib
import re
import shutil
import subprocess
import sys

import pytest

EXAMPLES = pathlib.Path(__file__).resolve().parents[2] / "examples"
NUMBER = re.compile(r"-?\d+(?:\.\d+)?")


def run(*command, **options):
    done = subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, **options
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def same(got, want):
    """Equal text; numbers may differ in their last printed digit."""
    assert NUMBER.sub("#", got) == NUMBER.sub("#", want)
    for a, b in zip(NUMBER.findall(got), NUMBER.findall(want)):
        digits = len(b.partition(".")[2])
        assert abs(float(a) - float(b)) <= (1.01 * 10**-digits if digits else 0), (a, b, got)


def test_python(build):
    env = {**os.environ, "PYTHONPATH": str(build / "python"), "ATTUNE_WISDOM": ""}
    out = run(sys.executable, EXAMPLES / "python" / "attention.py", env=env)
    same(out, (EXAMPLES / "python" / "expected.txt").read_text())


@pytest.mark.parametrize("compiler", ["cc", "g++"])
def test_c_engine(build, tmp_path, compiler):
    if not shutil.which(compiler):
        pytest.skip(f"no {compiler}")
    source = [EXAMPLES / "c-engine" / "main.c"]
    warnings = ["-Wall", "-Wextra", "-Wpedantic", "-Werror"]
    if compiler == "g++":
        source = ["-x", "c++", *source, "-x", "none"]
    run(compiler, *warnings, *source, *flags(build), "-o", tmp_path / "engine")
    out = run(tmp_path / "engine", env={**os.environ, "LD_LIBRARY_PATH": str(build / "lib")})
    same(out, (EXAMPLES / "c-engine" / "expected.txt").read_text())


def flags(build):
    """What the README says, where pkg-config is installed; else what it would answer."""
    if shutil.which("pkg-config"):
        env = {**os.environ, "PKG_CONFIG_PATH": str(build / "lib" / "pkgconfig")}
        return run("pkg-config", "--cflags", "--libs", "attune", env=env).split()
    return [f"-I{build / 'include'}", f"-L{build / 'lib'}", "-lattune"]


def test_examples_are_short():
    for name in ("c-engine/main.c", "python/attention.py"):
        assert len((EXAMPLES / name).read_text().splitlines()) < 60, name
