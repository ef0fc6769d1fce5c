"""The checks themselves: a kernel that is wrong on purpose turns red the group that is meant for
it, a right one none."""

import pathlib
import shutil
import subprocess
import tempfile

import pytest

from groups import GROUPS
from lab import Lab, NotApplicable, Subject

HERE = pathlib.Path(__file__).resolve().parent
OPERATOR = "org.example.wrong"
SHARE = 24


@pytest.fixture(scope="module")
def lab():
    compiler = shutil.which("cc") or shutil.which("clang")
    assert compiler, "no C compiler"
    with tempfile.TemporaryDirectory() as folder:
        source, target = HERE / "wrong" / "attention.c", f"{folder}/attune_wrong.so"
        flags = ["-std=gnu11", "-O1", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC"]
        include = HERE.parents[1] / "include"
        command = [compiler, *flags, "-fvisibility=hidden", f"-I{include}", "-o", target, source]
        subprocess.run([*command, "-lm"], check=True)
        yield Lab(plugin_path=folder, operators=[OPERATOR])


def faults():
    """(kernel, entry, group) as the source lists them: FAULT(name, "group", ...)."""
    entry = None
    for line in (HERE / "wrong" / "attention.c").read_text().splitlines():
        if line.startswith("#define") and line.split("(")[0].endswith("_FAULTS"):
            entry = line.split()[1].split("_")[0].lower()
        if line.startswith("  FAULT("):
            name, group = line.split("(", 1)[1].split(",")[:2]
            yield f"wrong_{name}", entry, group.strip(' "')


FAULTS = list(faults())


@pytest.mark.parametrize("kernel,entry,group", FAULTS, ids=[f[0] for f in FAULTS])
def test_group_finds_its_kernel(lab, kernel, entry, group):
    with pytest.raises(AssertionError):
        GROUPS[group](lab, Subject(OPERATOR, entry, kernel), SHARE)


@pytest.mark.parametrize("entry", ["forward", "step"])
@pytest.mark.parametrize("group", GROUPS)
def test_group_passes_a_right_kernel(lab, entry, group):
    try:
        assert GROUPS[group](lab, Subject(OPERATOR, entry, "right"), SHARE)
    except NotApplicable as why:
        pytest.skip(str(why))


def test_every_group_has_a_wrong_kernel():
    assert {group for _, _, group in FAULTS} == set(GROUPS)
