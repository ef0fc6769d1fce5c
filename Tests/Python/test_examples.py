"""The examples print what they promise."""

import os
import pathlib
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest

import attune

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


@pytest.mark.parametrize(
    "script, expected", [("attention.py", "expected.txt"), ("sdpa.py", "expected-sdpa.txt")]
)
def test_python(build, script, expected):
    env = {**os.environ, "PYTHONPATH": str(build / "python"), "ATTUNE_WISDOM": ""}
    out = run(sys.executable, EXAMPLES / "python" / script, env=env)
    same(out, (EXAMPLES / "python" / expected).read_text())


WARNINGS = ["-Wall", "-Wextra", "-Wpedantic", "-Werror"]


@pytest.mark.parametrize("compiler", ["cc", "g++"])
def test_c_engine(build, tmp_path, compiler):
    needs(compiler)
    source = [EXAMPLES / "c-engine" / "main.c"]
    if compiler == "g++":
        source = ["-x", "c++", *source, "-x", "none"]
    run(compiler, *WARNINGS, *source, *flags(build), "-lm", "-o", tmp_path / "engine")
    prints(build, tmp_path / "engine", "c-engine")


@pytest.mark.parametrize("standard", ["c++11", "c++20"])
def test_cpp_engine(build, tmp_path, standard):
    needs("c++")
    source = EXAMPLES / "cpp-engine" / "main.cpp"
    run(
        "c++",
        f"-std={standard}",
        *WARNINGS,
        "-pthread",
        source,
        *flags(build),
        "-o",
        tmp_path / "engine",
    )
    for _ in range(3):  # its threads share the work differently every time
        prints(build, tmp_path / "engine", "cpp-engine")


def test_swift_host(build, tmp_path):
    swiftc = shutil.which("swiftc") or "/opt/swift/usr/bin/swiftc"
    needs(swiftc)
    folder = EXAMPLES / "swift-host"
    run(
        swiftc,
        "-swift-version",
        "6",
        "-warnings-as-errors",
        "-I",
        folder,
        "-Xcc",
        f"-I{build / 'include'}",
        f"-L{build / 'lib'}",
        folder / "main.swift",
        "-o",
        tmp_path / "host",
    )
    prints(build, tmp_path / "host", "swift-host")


@pytest.mark.parametrize("standard", ["c99", "c11", "c17"])
def test_my_plugin(build, tmp_path, standard):
    needs("cc")
    plugins = tmp_path / "plugins"
    plugins.mkdir(mode=0o755)
    source, plugin = EXAMPLES / "my-plugin" / "plugin.c", plugins / "attune_average.so"
    run(
        "cc",
        f"-std={standard}",
        "-Wall",
        "-Wextra",
        "-Werror",
        "-O2",
        "-shared",
        "-fPIC",
        "-fvisibility=hidden",
        f"-I{build / 'include'}",
        source,
        "-o",
        plugin,
    )
    env = {**os.environ, "ATTUNE_PLUGIN_PATH": str(plugins)}
    v = EXAMPLES / "data" / "layer0_v.npy"
    command = [
        build / "bin" / "attune",
        "run",
        "org.example.average",
        "--in",
        f"v={v}",
        "--threads",
        "2",
    ]
    same(run(*command, "--kernel", "mean", env=env), expected("my-plugin"))

    values = np.load(v)
    with attune.Context(plugin_path=plugins, threads=2, wisdom="") as ctx:
        for kernel in ("mean", "reference"):
            o = ctx.run("org.example.average", v=values, kernel=kernel)["o"]
            want = np.cumsum(values, axis=2, dtype=np.float64) / np.arange(1, 513)[:, None]
            assert np.abs(o - want).max() < 2e-6, kernel


def needs(program):
    if not shutil.which(program):
        pytest.skip(f"no {program}")


def expected(example):
    return (EXAMPLES / example / "expected.txt").read_text()


def prints(build, program, example):
    env = {**os.environ, "LD_LIBRARY_PATH": str(build / "lib")}
    same(run(program, env=env), expected(example))


def flags(build):
    """What the READMEs say, where pkg-config is installed; else what it would answer."""
    if shutil.which("pkg-config"):
        env = {**os.environ, "PKG_CONFIG_PATH": str(build / "lib" / "pkgconfig")}
        return run("pkg-config", "--cflags", "--libs", "attune", env=env).split()
    return [f"-I{build / 'include'}", f"-L{build / 'lib'}", "-lattune"]


def test_examples_are_short():
    for name in EXAMPLES.glob("*/*"):
        if name.suffix in (".c", ".cpp", ".h", ".py", ".swift"):
            assert len(name.read_text().splitlines()) < 100, name
