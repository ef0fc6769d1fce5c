"""Arrays of every storage type for the tests, without a package that knows bfloat16."""

import ctypes

import numpy as np

from attune import _abi

NUMPY = {
    "f32": np.float32,
    "f16": np.float16,
    "f64": np.float64,
    "i32": np.int32,
    "i64": np.int64,
    "u8": np.uint8,
    "bool": np.bool_,
    "i8": np.int8,
}
_DLPACK = {word: (code, bits) for word, code, bits in _abi.DTYPES}


class Managed(ctypes.Structure):
    """DLManagedTensor."""

    _fields_ = [("tensor", _abi.Tensor), ("manager", ctypes.c_void_p), ("deleter", ctypes.c_void_p)]


_new_capsule = ctypes.pythonapi.PyCapsule_New
_new_capsule.restype = ctypes.py_object
_new_capsule.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]


class Exported:
    """A numpy array offered through __dlpack__ only, as element type `word`; bf16 as uint16."""

    def __init__(self, bits, word):
        assert bits.dtype.itemsize * 8 == _DLPACK[word][1]
        self.bits, self.word, self.exports, self.shape = bits, word, 0, bits.shape
        rank = bits.ndim
        self._shape = (ctypes.c_int64 * max(rank, 1))(*bits.shape)
        self._strides = (ctypes.c_int64 * max(rank, 1))(*(s // bits.itemsize for s in bits.strides))
        device, dtype = _abi.Device(1, 0), _abi.DType(*_DLPACK[word], 1)
        tensor = _abi.Tensor(bits.ctypes.data, device, rank, dtype, self._shape, self._strides, 0)
        self._managed = Managed(tensor, None, None)

    def __dlpack_device__(self):
        return 1, 0

    def __dlpack__(self, stream=None):
        self.exports += 1
        return _new_capsule(ctypes.addressof(self._managed), b"dltensor", None)


def to_bf16(x):
    """float32 -> the upper halves, rounded to nearest, ties to even."""
    bits = np.ascontiguousarray(x, np.float32).view(np.uint32).astype(np.uint64)
    rounded = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
    return np.where(np.isnan(x), np.uint16(0x7FC0), rounded)


def from_bf16(bits):
    return (np.ascontiguousarray(bits).astype(np.uint32) << 16).view(np.float32)


def empty(shape, word):
    """Memory of a storage type; bf16 as uint16."""
    return np.empty(shape, np.uint16 if word == "bf16" else NUMPY[word])


def encode(values, word):
    """float or int values -> memory of the storage type, rounded once."""
    if word == "bf16":
        return to_bf16(values)
    if np.dtype(NUMPY[word]).kind in "iu":
        values = np.rint(values)
    return np.asarray(values).astype(NUMPY[word])


def decode(memory, word):
    """What a kernel is to see: the stored values."""
    return from_bf16(memory) if word == "bf16" else memory


def array(memory, word):
    """What is handed to the package."""
    return Exported(memory, word) if word == "bf16" else memory
