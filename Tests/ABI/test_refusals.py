"""Calls that must be refused, through the library: the host decides as the model does.

Each row of negative.py takes the call of a golden case and spoils it in one way. Rows of operators that are not in the
tree wait for their folder.
"""

import json
from pathlib import Path

import attune
import numpy as np
import pytest

import model
from negative import NEGATIVE

ROOT = Path(__file__).resolve().parents[2]
DESCRIPTORS = ROOT / "Tests/AttuneCoreTests/Descriptors"
# numpy has no bf16; another 16-bit float is as wrong where a type must match.
NUMPY = dict(
    f32="f4", bf16="f2", f16="f2", f64="f8", i32="i4", i64="i8", u8="u1", bool="?", i8="i1"
)


def known():
    for row in NEGATIVE:
        case = ROOT / "plugins" / row[0] / "cases" / row[1] / "case.json"
        if case.exists():
            yield pytest.param(case, *row, id=f"{row[0]}-{row[1]}-{' '.join(row[3])}")


@pytest.fixture(scope="module")
def context():
    with attune.Context(threads=1) as ctx:
        yield ctx


@pytest.fixture(scope="module")
def descriptors():
    return model.load(DESCRIPTORS)


def plan(context, op, entry, tensors, params):
    """Asks the library for a plan; tensors are {name: (shape or None, type)}."""
    given = {
        name: np.zeros(shape, NUMPY[dtype or "f32"])
        for name, (shape, dtype) in tensors.items()
        if shape is not None
    }
    wanted = tuple(name for name, (shape, _) in tensors.items() if shape is None)
    return context.plan(op, entry=entry, outputs=wanted, **given, **params)


@pytest.mark.parametrize("case,op,name,entry,change,code", known())
def test_refused(context, descriptors, case, op, name, entry, change, code):
    if op not in context.operators():
        pytest.fail(f"{op} has a folder but is not in the registry")
    golden = json.loads(case.read_text())
    calls = model.bound_calls(descriptors[op], golden)
    _, tensors, params = next(call for call in calls if call[0]["entry"] == entry)
    tensors = model.complete(descriptors[op], entry, tensors, params)
    outputs = {n for n, t in descriptors[op]["_entries"][entry]["_tensors"].items() if t["_out"]}
    tensors = {n: (None if n in outputs else s, d) for n, (s, d) in tensors.items()}
    plan(context, op, entry, tensors, params).close()  # unspoiled, it is accepted
    entry, tensors, params = model.spoil(change, entry, tensors, params)
    with pytest.raises(attune.Error) as refusal:
        plan(context, op, entry, tensors, params).close()
    assert refusal.value.code == code, refusal.value
    assert op in str(refusal.value)
