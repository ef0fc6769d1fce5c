"""A context that runs its tasks in the caller's parallel_for, for which the package has no word."""

import ctypes

import attune
from attune import _abi
from attune._library import Handle, call, library

_TaskFunction = ctypes.CFUNCTYPE(
    None, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint32
)
_ParallelFor = ctypes.CFUNCTYPE(
    ctypes.c_int32, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64, _TaskFunction, ctypes.c_void_p
)


@_ParallelFor
def _backwards(_, n, grain, function, argument):
    """All pieces on this thread, the last first, of uneven sizes, by changing workers."""
    end, turn = n, 0
    while end > 0:
        begin = max(0, end - max(1, grain) * (1 + turn % 3))
        if begin < grain:  # a piece is never smaller than grain
            begin = 0
        function(argument, begin, end, turn % 3)
        end, turn = begin, turn + 1
    return 0


def context(*, tune, wisdom, plugin_path):
    """A Context whose tasks run in `_backwards`: the package has no word for that option."""
    made = attune.Context.__new__(attune.Context)
    options = _abi.new(
        _abi.ContextOptions,
        workers=3,
        tune_mode=_abi.TUNE.index(tune),
        wisdom=wisdom.encode(),
        plugin_path=None if plugin_path is None else str(plugin_path).encode(),
        parallel_for=ctypes.cast(_backwards, ctypes.c_void_p),
    )
    pointer = ctypes.c_void_p()
    call("attune_context_create", ctypes.byref(options), ctypes.byref(pointer))
    handle = Handle(pointer, library().attune_context_release, options)
    made._handle, made._descriptors = handle, {}
    return made
