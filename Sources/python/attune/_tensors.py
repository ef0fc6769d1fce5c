"""Arrays in and out without copying: numpy arrays directly, everything else through __dlpack__.

A View is an array as the library sees it. It owns the descriptor and keeps the array alive; the
data stay the array's.
"""

import ctypes
import sys

import numpy as np

from . import _abi
from ._error import failure

_WORD = {(code, bits): word for word, code, bits in _abi.DTYPES}
_DLPACK = {word: (code, bits) for word, code, bits in _abi.DTYPES}
_NUMPY = {
    "f32": np.float32,
    "f16": np.float16,
    "f64": np.float64,
    "i32": np.int32,
    "i64": np.int64,
    "u8": np.uint8,
    "bool": np.bool_,
    "i8": np.int8,
}
_NUMPY_WORD = {np.dtype(kind): word for word, kind in _NUMPY.items()}
_TORCH = {
    "f32": "float32",
    "bf16": "bfloat16",
    "f16": "float16",
    "f64": "float64",
    "i32": "int32",
    "i64": "int64",
    "u8": "uint8",
    "bool": "bool",
    "i8": "int8",
}


def is_array(value):
    """Does it look like a tensor rather than like the value of a parameter?"""
    return isinstance(value, np.ndarray) or hasattr(value, "__dlpack__")


class View:
    """tensor: the attune_tensor. array: what the caller gave. owners: what else the tensor needs."""

    __slots__ = ("tensor", "array", "owners")

    def __init__(self, tensor, array, *owners):
        # Exporters leave strides of 0 behind where there is no element; none at all reads as compact.
        rank = min(max(tensor.ndim, 0), _abi.MAX_RANK)
        if tensor.shape and 0 in tensor.shape[:rank]:
            tensor = _abi.Tensor.from_buffer_copy(tensor)
            tensor.strides = None
        self.tensor, self.array, self.owners = tensor, array, owners


def view(name, array, writable=False):
    """The View of an array. Raises Error when it cannot be one; type, shape and strides are judged
    by the library."""
    if isinstance(array, np.ndarray):
        return _numpy_view(name, array, writable)
    if hasattr(array, "__dlpack__"):
        return _dlpack_view(name, array, writable)
    raise failure("E_INVALID", name, f"{name} is a tensor: expected an array, got {_kind(array)}")


def _kind(value):
    return f"{type(value).__module__}.{type(value).__qualname__}".replace("builtins.", "")


def _numpy_view(name, array, writable):
    if writable and not array.flags.writeable:
        raise failure(
            "E_INVALID",
            name,
            f"{name} is an output: expected a writable array, got a read-only one",
        )
    word = _NUMPY_WORD.get(array.dtype)
    if word is None and array.dtype.name == "bfloat16":  # of ml_dtypes
        word = "bf16"
    if word is None:
        known = ", ".join([np.dtype(kind).name for kind in _NUMPY.values()] + ["bfloat16"])
        raise failure(
            "E_DTYPE", name, f"{name} is {array.dtype.str} ({array.dtype}), expected one of {known}"
        )
    size = array.dtype.itemsize
    for dim, stride in enumerate(array.strides):
        if stride % size and array.shape[dim] > 1:
            text = f"{name} dim {dim}: stride of {stride} bytes, expected a multiple of {size}"
            raise failure("E_LAYOUT", name, text, (size, stride))
    rank = array.ndim
    shape = (ctypes.c_int64 * max(rank, 1))(*array.shape)
    strides = (ctypes.c_int64 * max(rank, 1))(*(stride // size for stride in array.strides))
    code, bits = _DLPACK[word]
    tensor = _abi.Tensor(
        array.ctypes.data,
        _abi.Device(_abi.DEVICE_CPU, 0),
        rank,
        _abi.DType(code, bits, 1),
        shape,
        strides,
        0,
    )
    return View(tensor, array, shape, strides)


# ---- DLPack


class _Managed(ctypes.Structure):  # up to 0.8: only the first field matters here
    _fields_ = [("tensor", _abi.Tensor), ("manager", ctypes.c_void_p), ("deleter", ctypes.c_void_p)]


class _ManagedVersioned(ctypes.Structure):  # since 1.0
    _fields_ = [
        ("major", ctypes.c_uint32),
        ("minor", ctypes.c_uint32),
        ("manager", ctypes.c_void_p),
        ("deleter", ctypes.c_void_p),
        ("flags", ctypes.c_uint64),
        ("tensor", _abi.Tensor),
    ]


_READ_ONLY, _COPIED = 1, 2
_pointer_of = ctypes.pythonapi.PyCapsule_GetPointer
_pointer_of.restype, _pointer_of.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
_is_capsule = ctypes.pythonapi.PyCapsule_IsValid
_is_capsule.restype, _is_capsule.argtypes = ctypes.c_int, [ctypes.py_object, ctypes.c_char_p]


def _dlpack_view(name, array, writable):
    try:
        try:
            capsule = array.__dlpack__(max_version=(1, 0))  # only this form can say "read-only"
        except TypeError:
            capsule = array.__dlpack__()
    except Exception as why:  # foreign code: torch raises RuntimeError, numpy BufferError, ...
        text = f"{name}: {_kind(array)} cannot be shared through __dlpack__: {why}"
        raise failure("E_INVALID", name, text) from why
    # The capsule is only looked at, not consumed: its destructor calls the deleter with the View.
    if _is_capsule(capsule, b"dltensor_versioned"):
        managed = _ManagedVersioned.from_address(_pointer_of(capsule, b"dltensor_versioned"))
        if managed.major != 1:
            text = f"{name}: __dlpack__ gave version {managed.major}.{managed.minor}, expected 1"
            raise failure("E_INVALID", name, text, (1, managed.major))
        if writable and managed.flags & (_READ_ONLY | _COPIED):
            what = "a read-only one" if managed.flags & _READ_ONLY else "one that __dlpack__ copies"
            raise failure(
                "E_INVALID", name, f"{name} is an output: expected a writable array, got {what}"
            )
    elif _is_capsule(capsule, b"dltensor"):
        managed = _Managed.from_address(_pointer_of(capsule, b"dltensor"))
    else:
        raise failure(
            "E_INVALID", name, f"{name}: __dlpack__ of {_kind(array)} gave no unused DLPack capsule"
        )
    return View(managed.tensor, array, capsule)


# ---- outputs


def _is_torch(array):
    torch = sys.modules.get("torch")  # an array of torch exists only where torch was imported
    return torch if torch is not None and isinstance(array, torch.Tensor) else None


def empty(name, shape, word, like):
    """A new compact output in the array kind of `like`. Returns (View, finish); finish() gives the
    caller's array."""
    torch = _is_torch(like)
    if torch:
        result = torch.empty(shape, dtype=getattr(torch, _TORCH[word]))
        return view(name, result, True), lambda: result
    buffer = np.empty(shape, _numpy_type(name, word))
    namespace = getattr(like, "__array_namespace__", None)
    if isinstance(like, np.ndarray) or namespace is None:
        return view(name, buffer, True), lambda: buffer
    # Arrays of such libraries may be immutable: compute first, hand over after.
    return view(name, buffer, True), lambda: namespace().asarray(buffer)


def _numpy_type(name, word):
    if word != "bf16":
        return _NUMPY[word]
    try:
        import ml_dtypes
    except ImportError:
        text = (
            f"{name} is bf16, which numpy has only with ml_dtypes: install it or give {name} in out"
        )
        raise failure("E_UNSUPPORTED", name, text) from None
    return ml_dtypes.bfloat16


def word_of(dtype):
    """Element type of a DType struct: "f32", ..."""
    return _WORD.get((dtype.code, dtype.bits), f"code {dtype.code}, {dtype.bits} bits")
