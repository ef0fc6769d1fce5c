"""What the command line measures: the limits of this machine, and what a call costs."""

import json
import subprocess

import environment


def attune_cli(*arguments):
    command = [environment.BUILD / "bin/attune", *map(str, arguments), "--json"]
    return json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)


def limits(op, params=""):
    """What one thread of this machine can do, as `attune bench` measures it beside any problem of
    the operator; params: what it must be given, "a=1;b=2"."""
    given = ["--shape", "B=1,Hq=8,Hkv=8,Nq=64,Nk=64,D=64,Dv=64"]
    for param in filter(None, params.split(";")):
        given += ["--param", param]
    found = attune_cli("bench", op, "--threads", 1, *given)
    return {name: found[name] for name in ("cpu", "peak_gflops", "read_bytes_per_s")}
