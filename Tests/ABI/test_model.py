"""The executable model: descriptors register, presets and golden calls bind, spoiled ones do not.

The host is held to the model by test_refusals.py and by the tables of expressions.py and
presets.py.
"""

import copy
import json
from pathlib import Path

import pytest

import model
from negative import NEGATIVE

ROOT = Path(__file__).resolve().parents[2]
DESCRIPTORS = ROOT / "Tests/AttuneCoreTests/Descriptors"
OPERATORS = sorted(path.stem for path in DESCRIPTORS.glob("*.json"))


@pytest.fixture(scope="module")
def descriptors():
    return model.load(DESCRIPTORS)


def case(op, name):
    path = ROOT / "plugins" / op / "cases" / name / "case.json"
    return json.loads(path.read_text())


@pytest.mark.parametrize("op", OPERATORS)
def test_presets_bind(descriptors, op):
    for preset in descriptors[op]["presets"]:
        assert model.generate(descriptors[op], preset).cost["flops"] >= 0


@pytest.mark.parametrize("op", OPERATORS)
def test_golden_calls_bind(descriptors, op):
    folder = ROOT / "plugins" / op / "cases"
    bound = 0
    for path in sorted(folder.glob("*/case.json")):
        for call, tensors, params in model.bound_calls(
            descriptors[op], json.loads(path.read_text())
        ):
            given = model.complete(descriptors[op], call["entry"], tensors, params)
            env = model.bind(descriptors[op], call["entry"], given, params)
            for name, (shape, _) in tensors.items():
                assert shape is None or env.shape[name] == shape, (path, name)
            bound += 1
    assert bound > 0


@pytest.mark.parametrize("op,name,entry,change,code", NEGATIVE)
def test_spoiled_calls_are_refused(descriptors, op, name, entry, change, code):
    calls = model.bound_calls(descriptors[op], case(op, name))
    _, tensors, params = next(call for call in calls if call[0]["entry"] == entry)
    tensors = model.complete(descriptors[op], entry, tensors, params)
    with pytest.raises(model.Refused) as refusal:
        model.bind(descriptors[op], *model.spoil(change, entry, tensors, params))
    assert refusal.value.code == code


def _first(descriptor):
    return descriptor["entries"][0]


BROKEN = {
    "unknown symbol": lambda d: _first(d)["tensors"][0].update(shape="B,Hq,Nq,Z"),
    "half an expression": lambda d: _first(d)["rules"][0].update(expr="Hq%"),
    "f64 as a number": lambda d: _first(d).update(flops="p.scale"),
    "default of no value": lambda d: d["params"][0].update(default="nope"),
    "reserved name": lambda d: _first(d)["tensors"][0].update(name="params"),
    "too many nodes": lambda d: _first(d)["rules"][0].update(expr="1" + "+1" * 100),
    "unbound symbol": lambda d: _first(d).update(symbols=_first(d)["symbols"] + ",Zz"),
    "shape in a condition": lambda d: _first(d)["tensors"][1].update(needed="Nq>1"),
    "repeated tensor": lambda d: _first(d)["tensors"].append(_first(d)["tensors"][0]),
    "pair of nothing": lambda d: d["entries"][1]["tensors"][-1].update(pair="nothing"),
}


@pytest.mark.parametrize("what", BROKEN)
def test_broken_descriptors_are_refused(what):
    descriptor = json.loads((DESCRIPTORS / f"{OPERATORS[-1]}.json").read_text())
    model.prepare(copy.deepcopy(descriptor))
    BROKEN[what](descriptor)
    with pytest.raises(model.Bad):
        model.prepare(descriptor)
