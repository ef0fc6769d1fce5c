"""The oracles themselves: against the cases of the plugins, finite differences and splits."""

import pathlib
import subprocess
import sys

ORACLE = pathlib.Path(__file__).resolve().parent / "oracle"


def run(script):
    done = subprocess.run([sys.executable, ORACLE / script], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_cases():
    assert ", 0 failed" in run("check.py")


def test_gradients_and_streaming():
    assert run("selftest.py").endswith("ok\n")
