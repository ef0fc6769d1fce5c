"""The C structs and constants of the callers' half of the ABI, and the prototypes of its functions.

Mirrors include/attune/{types,tensor,error,attune}.h field by field. Sizes are asserted on import;
the tests compare every offset with what a C compiler says.
"""

import ctypes
from ctypes import (
    CFUNCTYPE,
    POINTER,
    Structure,
    c_char,
    c_char_p,
    c_double,
    c_int32,
    c_int64,
    c_uint8,
    c_uint16,
    c_uint32,
    c_uint64,
    c_void_p,
)

# Element types by index, as types.h numbers them: word, DLPack code, bits.
DTYPES = (
    ("f32", 2, 32),
    ("bf16", 4, 16),
    ("f16", 2, 16),
    ("f64", 2, 64),
    ("i32", 0, 32),
    ("i64", 0, 64),
    ("u8", 1, 8),
    ("bool", 6, 8),
    ("i8", 0, 8),
)
STATUS = {
    "OK": 0,
    "E_INVALID": -1,
    "E_UNSUPPORTED": -2,
    "E_NOT_FOUND": -3,
    "E_SHAPE": -4,
    "E_DTYPE": -5,
    "E_LAYOUT": -6,
    "E_PARAM": -7,
    "E_NOMEM": -8,
    "E_WORKSPACE": -9,
    "E_ABI": -10,
    "E_LOAD": -11,
    "E_DENIED": -12,
    "E_IO": -13,
    "E_CORRUPT": -14,
    "E_NOT_TUNED": -15,
    "E_CANCELLED": -16,
    "E_INTERNAL": -17,
    "E_AMBIGUOUS": -18,
    "E_PLUGIN": -1000,
}
TUNE = ("default", "off", "frozen", "estimate", "measure", "patient", "exhaustive")
SOURCE = ("unknown", "exact", "bucket", "neighbour", "estimate", "default", "forced")
LOG_LEVEL = ("debug", "info", "warning", "error")
PARAM_BOOL, PARAM_I64, PARAM_F64, PARAM_ENUM = 1, 2, 3, 4
CHECKED = 1
DEVICE_CPU = 1
MAX_RANK = 8


class Span(Structure):
    _fields_ = [("data", c_void_p), ("count", c_uint32), ("stride", c_uint32)]


class Value(Structure):
    _fields_ = [("i", c_int64), ("f", c_double)]


class Device(Structure):
    _fields_ = [("device_type", c_int32), ("device_id", c_int32)]


class DType(Structure):
    _fields_ = [("code", c_uint8), ("bits", c_uint8), ("lanes", c_uint16)]


class Tensor(Structure):
    """attune_tensor: byte for byte DLPack's DLTensor."""

    _fields_ = [
        ("data", c_void_p),
        ("device", Device),
        ("ndim", c_int32),
        ("dtype", DType),
        ("shape", POINTER(c_int64)),
        ("strides", POINTER(c_int64)),
        ("byte_offset", c_uint64),
    ]


class ErrorRecord(Structure):
    _fields_ = [
        ("struct_size", c_uint32),
        ("code", c_int32),
        ("source", c_uint32),
        ("reserved", c_uint32),
        ("detail", c_int64 * 2),
        ("argument", c_char * 64),
        ("message", c_char * 416),
    ]


LogFunction = CFUNCTYPE(None, c_void_p, c_int32, c_char_p)


class ContextOptions(Structure):
    _fields_ = [
        ("struct_size", c_uint32),
        ("flags", c_uint32),
        ("workers", c_int32),
        ("tune_mode", c_int32),
        ("plugin_path", c_char_p),
        ("wisdom", c_char_p),
        ("tune_budget_us", c_uint64),
        ("user", c_void_p),
        ("log", LogFunction),
        ("parallel_for", c_void_p),
    ]


class TensorRef(Structure):
    _fields_ = [
        ("struct_size", c_uint32),
        ("reserved", c_uint32),
        ("name", c_char_p),
        ("tensor", POINTER(Tensor)),
    ]


class Param(Structure):
    _fields_ = [
        ("struct_size", c_uint32),
        ("kind", c_uint32),
        ("name", c_char_p),
        ("value", Value),
        ("word", c_char_p),
    ]


class Problem(Structure):
    _fields_ = [
        ("struct_size", c_uint32),
        ("flags", c_uint32),
        ("op", c_char_p),
        ("entry", c_char_p),
        ("kernel", c_char_p),
        ("tensors", Span),
        ("params", Span),
        ("workers", c_int32),
        ("tune_mode", c_int32),
        ("tune_budget_us", c_uint64),
        ("device_type", c_int32),
        ("device_id", c_int32),
    ]


class Bindings(Structure):
    _fields_ = [
        ("struct_size", c_uint32),
        ("n_tensors", c_uint32),
        ("tensors", POINTER(POINTER(Tensor))),
        ("params", Span),
        ("workspace", c_void_p),
        ("workspace_bytes", c_uint64),
        ("cancel", POINTER(c_int32)),
        ("stream", c_void_p),
    ]


class PlanInfo(Structure):
    _fields_ = [
        ("struct_size", c_uint32),
        ("source", c_uint32),
        ("rigor", c_uint32),
        ("workers", c_uint32),
        ("workspace_bytes", c_uint64),
        ("plugin", c_char_p),
        ("kernel", c_char_p),
        ("knobs", c_char_p),
        ("kernel_revision", c_uint32),
        ("reserved", c_uint32),
        ("expected_ns", c_double),
    ]


class WisdomReport(Structure):
    _fields_ = [
        ("struct_size", c_uint32),
        ("accepted", c_uint32),
        ("duplicate", c_uint32),
        ("foreign_cpu", c_uint32),
        ("damaged", c_uint32),
        ("unknown", c_uint32),
    ]


# C name -> (class here, size of ABI 1.0)
STRUCTS = {
    "attune_span": (Span, 16),
    "attune_value": (Value, 16),
    "attune_device": (Device, 8),
    "attune_dtype": (DType, 4),
    "attune_tensor": (Tensor, 48),
    "attune_error": (ErrorRecord, 512),
    "attune_context_options": (ContextOptions, 64),
    "attune_tensor_ref": (TensorRef, 24),
    "attune_param": (Param, 40),
    "attune_problem": (Problem, 88),
    "attune_bindings": (Bindings, 64),
    "attune_plan_info": (PlanInfo, 64),
    "attune_wisdom_report": (WisdomReport, 24),
}
for _name, (_struct, _size) in STRUCTS.items():
    assert (
        ctypes.sizeof(_struct) == _size
    ), f"{_name} is {ctypes.sizeof(_struct)} bytes, not {_size}"

_ERROR = POINTER(ErrorRecord)
# Function -> (result, arguments). Handles are void pointers.
FUNCTIONS = {
    "attune_version": (c_int32, [POINTER(c_uint32)] * 3),
    "attune_status_name": (c_char_p, [c_int32]),
    "attune_context_create": (c_int32, [POINTER(ContextOptions), POINTER(c_void_p), _ERROR]),
    "attune_context_release": (None, [c_void_p]),
    "attune_load": (c_int32, [c_void_p, c_char_p, _ERROR]),
    "attune_describe": (
        c_int32,
        [c_void_p, c_char_p, c_char_p, c_void_p, c_uint64, POINTER(c_uint64), _ERROR],
    ),
    "attune_plan_create": (c_int32, [c_void_p, POINTER(Problem), POINTER(c_void_p), _ERROR]),
    "attune_plan_tensor": (
        c_int32,
        [c_void_p, c_char_p, POINTER(Tensor), POINTER(c_int64), POINTER(c_int64), _ERROR],
    ),
    "attune_plan_query": (c_int32, [c_void_p, POINTER(PlanInfo), _ERROR]),
    "attune_plan_execute": (c_int32, [c_void_p, POINTER(Bindings), _ERROR]),
    "attune_plan_release": (None, [c_void_p]),
    "attune_run": (c_int32, [c_void_p, POINTER(Problem), POINTER(Bindings), _ERROR]),
    "attune_wisdom_import": (c_int32, [c_void_p, c_char_p, POINTER(WisdomReport), _ERROR]),
    "attune_wisdom_export": (c_int32, [c_void_p, c_char_p, _ERROR]),
    "attune_wisdom_forget": (c_int32, [c_void_p, c_char_p, _ERROR]),
}


def new(struct, **fields):
    """A struct with its struct_size filled in."""
    return struct(struct_size=ctypes.sizeof(struct), **fields)


def span(array):
    """attune_span over a ctypes array; the caller keeps the array alive."""
    return Span(ctypes.addressof(array), len(array), ctypes.sizeof(array._type_))
