"""Finds libattune and declares its functions. The GIL is released during every call."""

import ctypes
import os

from . import _abi
from ._error import Error, failure

_loaded = None


def _candidates():
    """Places to look, best first. An explicit choice is never silently replaced by another file."""
    chosen = os.environ.get("ATTUNE_LIBRARY")
    if chosen and os.getuid() == os.geteuid():  # like every variable, ignored in set-uid mode
        return [chosen]
    here = os.path.dirname(os.path.abspath(__file__))  # <prefix>/python/attune -> <prefix>/lib
    beside = os.path.join(os.path.dirname(os.path.dirname(here)), "lib", "libattune.so.1")
    return ([beside] if os.path.exists(beside) else []) + ["libattune.so.1"]


def library():
    """The loaded library with typed functions. Raises Error E_LOAD that names what was tried."""
    global _loaded
    if _loaded is None:
        reasons = []
        for path in _candidates():
            try:
                lib = ctypes.CDLL(path)
                break
            except OSError as why:
                reasons.append(str(why))
        else:
            raise failure(
                "E_LOAD",
                "ATTUNE_LIBRARY",
                "cannot load libattune; set ATTUNE_LIBRARY to its path. Tried: "
                + "; ".join(reasons),
            )
        for name, (result, arguments) in _abi.FUNCTIONS.items():
            try:
                function = getattr(lib, name)
            except AttributeError:
                raise failure("E_ABI", name, f"{path} has no function {name}") from None
            function.restype, function.argtypes = result, arguments
        _loaded = lib
    return _loaded


def call(name, *arguments):
    """Calls a function whose last argument is the error record; raises what it reports."""
    lib = library()
    record = _abi.new(_abi.ErrorRecord)
    status = getattr(lib, name)(*arguments, ctypes.byref(record))
    if status != 0:
        raise _raised(lib, status, record)


def _raised(lib, status, record):
    code = lib.attune_status_name(status)
    code = code.decode("ascii", "replace") if code else f"E_{-status}"
    text = record.message.decode("utf-8", "replace") or f"{code} without an explanation"
    return Error(
        code, status, record.argument.decode("utf-8", "replace"), tuple(record.detail), text
    )


def version():
    """(major, minor, patch) of the library in use."""
    parts = [ctypes.c_uint32() for _ in range(3)]
    library().attune_version(*map(ctypes.byref, parts))
    return tuple(part.value for part in parts)


class Handle:
    """Owns one object of the library and frees it when the last reference goes.

    Whoever calls into the library holds a reference meanwhile: close() in one thread cannot free
    what another thread is using, and there is no lock that a fork could leave taken.
    """

    __slots__ = ("pointer", "_free", "_keep")

    def __init__(self, pointer, free, keep=()):
        self.pointer, self._free, self._keep = pointer, free, keep

    def __del__(self):
        self._free(self.pointer)
