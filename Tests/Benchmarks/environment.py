"""Where things are, and the environment that measurements run in."""

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BUILD = ROOT / "build"
VENV = BUILD / "bench-venv"
ABSENT = VENV / "absent.json"  # what could not be installed: {package: pip's reason}

# Settings of a shell that change how fast a library is. OPENBLAS_CORETYPE alone can halve OpenBLAS.
_PREFIXES = ("OPENBLAS_", "OMP_", "GOMP_", "KMP_", "MKL_", "DNNL_", "ONEDNN_")


def clean():
    """Drops them from this process and its children; to be called before numpy is imported."""
    for name in [name for name in os.environ if name.startswith(_PREFIXES)]:
        del os.environ[name]
    os.environ["PYTHONPATH"] = str(BUILD / "python")
