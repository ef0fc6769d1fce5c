"""Every usable kernel of every entry of every registered operator, on seeded random problems.

Runs a share by default; ATTUNE_TEST_SHARE=all draws two hundred problems for each kernel. A failure
names the seed and the problem.
"""

import os

import pytest

from groups import GROUPS
from lab import Lab, NotApplicable

SHARE = 200 if os.environ.get("ATTUNE_TEST_SHARE") == "all" else 12
LAB = Lab()
assert LAB.operators, "no operator was found: is the build staged?"


@pytest.mark.parametrize("subject", LAB.subjects(), ids=str)
@pytest.mark.parametrize("group", GROUPS)
def test_kernel(group, subject):
    try:
        ran = GROUPS[group](LAB, subject, SHARE)
    except NotApplicable as why:
        pytest.skip(str(why))
    assert ran
