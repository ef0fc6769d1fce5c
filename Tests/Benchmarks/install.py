"""The libraries to compare with, in a virtual environment of their own: build/bench-venv.

Each is optional: what cannot be installed is written down with pip's reason and stays absent.
Nothing but the comparison needs them.
"""

import json
import platform
import re
import subprocess
import sys

from environment import ABSENT, VENV

PYTHON = VENV / "bin/python"
NEEDED = ["numpy", "ml_dtypes", "threadpoolctl"]
OPTIONAL = {"torch": ["torch"], "onnxruntime": ["onnxruntime", "onnx"], "openvino": ["openvino"]}


def pip(*arguments):
    """(pip's output, None) or (None, the last line of what it complained about)."""
    command = [PYTHON, "-m", "pip", "--disable-pip-version-check", *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode == 0:
        return done.stdout, None
    lines = done.stderr.strip().splitlines() or [f"pip ended with status {done.returncode}"]
    return None, lines[-1].removeprefix("ERROR: ")


def failure(module):
    """Why the module cannot be imported; None when it can."""
    done = subprocess.run([PYTHON, "-c", f"import {module}"], capture_output=True, text=True)
    return None if done.returncode == 0 else done.stderr.strip().splitlines()[-1]


def torch():
    """PyTorch for CPUs. Linux wheels of the package index are often built for CUDA: they need 3 GB
    of its libraries to be imported at all, so such a one is not taken."""
    # A wheel that this machine's pip was given by --find-links comes first.
    _, missing = pip("install", "--quiet", "--no-index", "--no-deps", "torch")
    if missing and platform.system() == "Linux":
        report, why = pip("install", "--quiet", "--dry-run", "--no-deps", "--report", "-", "torch")
        if why:
            return why
        found = json.loads(report)["install"][0]["metadata"]
        if any(re.match("nvidia-|cuda-", need) for need in found.get("requires_dist", [])):
            return (
                f"pip finds torch {found['version']}, which needs the libraries of CUDA; "
                "PIP_EXTRA_INDEX_URL=PyTorch's index of CPU wheels (see its installation page) helps"
            )
    return pip("install", "--quiet", "torch")[1]


def install():
    """Makes the environment complete; returns {library: reason} of what stays absent. Libraries
    that failed are tried again each time."""
    if not PYTHON.exists():
        subprocess.run([sys.executable, "-m", "venv", VENV], check=True)
    _, why = pip("install", "--quiet", *NEEDED)
    if why:
        raise SystemExit(f"the comparison needs {', '.join(NEEDED)}: {why}")
    absent = {}
    for library, packages in OPTIONAL.items():
        if not any(map(failure, packages)):
            continue
        print(f"installing {library} in {VENV.name} ...", flush=True)
        why = torch() if library == "torch" else pip("install", "--quiet", *packages)[1]
        why = why or next(filter(None, map(failure, packages)), None)
        if why:
            absent[library] = why
    ABSENT.write_text(json.dumps(absent, indent=2) + "\n")
    return absent


if __name__ == "__main__":
    for library, reason in install().items():
        print(f"{library}: absent: {reason}")
