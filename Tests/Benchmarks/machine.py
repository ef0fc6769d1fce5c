"""What the command line measures: the limits of this machine, and what a call costs."""

import json
import subprocess

import environment


def attune_cli(*arguments):
    command = [environment.BUILD / "bin/attune", *map(str, arguments), "--json"]
    return json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)


def limits(op):
    """What one thread of this machine can do, as `attune bench` measures it."""
    shape = "B=1,Hq=1,Hkv=1,Nq=64,Nk=64,D=64,Dv=64"
    found = attune_cli("bench", op, "--threads", 1, "--shape", shape)
    return {name: found[name] for name in ("cpu", "peak_gflops", "read_bytes_per_s")}
