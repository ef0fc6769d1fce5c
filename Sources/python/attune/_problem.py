"""From Python arguments to the records of a problem, told apart by the operator's descriptor."""

import ctypes
import numbers

import numpy as np

from . import _abi
from ._error import failure
from ._tensors import is_array, view

_INT64 = range(-(2**63), 2**63)


def text(what, value):
    """A string for C: UTF-8 without a NUL, which C would take for its end."""
    if not isinstance(value, str):
        raise failure("E_INVALID", what, f"{what}: expected a str, got {type(value).__name__}")
    if "\0" in value:
        raise failure("E_INVALID", what, f"{what} holds a NUL character: {value!r}")
    try:
        return value.encode()
    except UnicodeEncodeError as why:
        raise failure("E_INVALID", what, f"{what} is not Unicode text: {why}") from None


def is_output(spec, entry):
    """A saved tensor is an output of the entry that makes it and an input of the one that
    differentiates that entry."""
    return spec["role"] in ("out", "state_out") or (spec["role"] == "saved" and entry["of"] is None)


class Signature:
    """What the descriptor says about one entry. An unknown entry has no names: the library refuses
    it."""

    def __init__(self, descriptor, entry):
        found = [e for e in descriptor["entries"] if e["name"] == entry]
        self.entry = found[0] if found else {"name": entry, "of": None, "tensors": []}
        self.tensors = {spec["name"]: spec for spec in self.entry["tensors"]}
        self.params = {spec["name"]: spec for spec in descriptor["params"]}

    def is_output(self, name):
        return name in self.tensors and is_output(self.tensors[name], self.entry)

    def split(self, arguments):
        """Keyword arguments -> (tensors, parameters). None counts as not given. An unknown name
        goes where its value looks at home, so that the library's own sentence about it (with the
        names that come close) is what is raised."""
        tensors, params = {}, {}
        for name, value in arguments.items():
            if value is None:
                continue
            known_tensor = name in self.tensors
            if known_tensor or (name not in self.params and is_array(value)):
                tensors[name] = value
            else:
                params[name] = value
        return tensors, params

    def default_outputs(self, given):
        """(wanted, conditional): `o` and what is not optional; of an entry that differentiates, the
        gradient of every given tensor. Conditional outputs are needed in some modes and not allowed
        in others."""
        wanted, conditional = [], []
        for name, spec in self.tensors.items():
            if not self.is_output(name):
                continue
            if self.entry["of"] is not None and spec["needed"] == "0":
                if spec["pair"] in given:
                    wanted.append(name)
            elif spec["needed"] is None or name == "o":
                wanted.append(name)
            elif spec["needed"] != "0":
                conditional.append(name)
        return wanted, conditional


def parameter(name, value, spec):
    """One attune_param in the kind of the value. Whole numbers are welcome where a real number is
    meant; everything else that does not fit the parameter is refused by the library."""
    record = _abi.new(_abi.Param, name=text("parameter name", name))
    if isinstance(value, (bool, np.bool_)):
        record.kind, record.value.i = _abi.PARAM_BOOL, int(value)
    elif isinstance(value, numbers.Integral) and spec is not None and spec["kind"] == "f64":
        try:
            record.kind, record.value.f = _abi.PARAM_F64, float(value)
        except OverflowError:
            raise failure("E_PARAM", name, f"{name} is {value}, expected a finite double") from None
    elif isinstance(value, numbers.Integral):
        if int(value) not in _INT64:
            raise failure("E_PARAM", name, f"{name} is {value}, expected a 64-bit integer")
        record.kind, record.value.i = _abi.PARAM_I64, int(value)
    elif isinstance(value, (float, np.floating)):
        record.kind, record.value.f = _abi.PARAM_F64, float(value)
    elif isinstance(value, str):
        record.kind, record.word = _abi.PARAM_ENUM, text(name, value)
    else:
        wanted = f" ({spec['kind']})" if spec is not None else ""
        got = f"{type(value).__name__} {value!r:.40}"
        raise failure(
            "E_PARAM",
            name,
            f"{name} is a parameter{wanted}: expected a bool, number or word, got {got}",
        )
    return record


def parameters(params, signature):
    """ctypes array of attune_param."""
    records = [parameter(name, value, signature.params.get(name)) for name, value in params.items()]
    return (_abi.Param * len(records))(*records)


def views(tensors, signature):
    """{name: View}; what the entry writes must be writable."""
    return {name: view(name, array, signature.is_output(name)) for name, array in tensors.items()}


def tensor_refs(names, given):
    """ctypes array of attune_tensor_ref; a name without a View is an output that is wanted."""
    records = []
    for name in names:
        record = _abi.new(_abi.TensorRef, name=text("tensor name", name))
        if name in given:
            record.tensor = ctypes.pointer(given[name].tensor)
        records.append(record)
    return (_abi.TensorRef * len(records))(*records)


def merge_outputs(tensors, out, signature):
    """The arrays of `out` among the tensors of the call."""
    if out is None:
        return tensors
    if not hasattr(out, "items"):
        raise failure(
            "E_INVALID", "out", f"out: expected a dict of arrays, got {type(out).__name__}"
        )
    merged = dict(tensors)
    for name, array in out.items():
        if name in merged:
            raise failure("E_INVALID", str(name), f"{name} is given twice, also in out")
        if name in signature.tensors and not signature.is_output(name):
            raise failure("E_INVALID", name, f"{name} is an input: out takes outputs only")
        merged[name] = array
    return merged
