"""What an execution really runs: every instruction of two calls, by function."""

import bisect
import collections
import os
import re

import pytest
from abi_support import BUILD, CC, HERE, WARNINGS, run, tool

# Reference counts, exclusivity checks, lazy globals, dynamic casts, the heap, locks.
FORBIDDEN = re.compile(
    r"swift_(retain|release|bridgeObject|allocObject|slowAlloc|once|beginAccess|dynamicCast|getType)"
    r"|^_?_?(libc_)?(malloc|calloc|realloc|free|memalign|posix_memalign|aligned_alloc)$"
    r"|pthread_(mutex|rwlock|once)|^(mmap|munmap|brk)$"
)


def symbols(path):
    """Function addresses of a file in order, and their names; of libc only the dynamic ones are there."""
    table = {}
    for options in [("-D",), ()]:
        for line in run(tool("nm"), "--defined-only", *options, path).splitlines():
            address, kind, name = line.split(maxsplit=2)
            if kind in "tTwWiu":
                table.setdefault(int(address, 16), []).append(name.split("@")[0])
    addresses = sorted(table)
    return addresses, [" ".join(sorted(set(table[a]))) for a in addresses]


@pytest.fixture(scope="module")
def tracer(library, tmp_path_factory):
    path = tmp_path_factory.mktemp("trace") / "trace"
    run(
        *(CC, "-std=c11", *WARNINGS, "-Wno-unused-function", "-O1", "-I", BUILD / "include"),
        *(HERE / "trace.c", "-o", path, "-L", library.parent, f"-Wl,-rpath,{library.parent}"),
        *("-lattune", "-lm"),
    )
    return path


@pytest.mark.parametrize("kernel", ["tasks", "native"])
def test_execution_runs_nothing_slow(tracer, fixture_plugin, kernel):
    rows = run(tracer, fixture_plugin, env=os.environ | {"ATTUNE_TEST_KERNEL": kernel}).splitlines()
    tables, steps = {}, collections.Counter()
    for address, count, path in (row.split() for row in rows):
        if not path.startswith("/"):
            continue
        if path not in tables:
            tables[path] = symbols(path)
        addresses, names = tables[path]
        i = bisect.bisect_right(addresses, int(address, 16)) - 1
        steps[names[i] if i >= 0 else "?"] += int(count)
    assert any("attune_plan_execute" in name for name in steps), steps
    assert any("AttuneCore" in name for name in steps), steps
    slow = {name: n for name, n in steps.items() if any(map(FORBIDDEN.search, name.split()))}
    assert not slow, f"{slow} in {sum(steps.values())} instructions"
