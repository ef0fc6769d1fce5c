"""Contexts: plugins, threads and remembered choices behind one object."""

import ctypes
import difflib
import json
import os

from . import _abi
from ._error import Error, failure
from ._library import Handle, call, library
from ._plan import Plan
from ._problem import Signature, merge_outputs, text, views
from ._signature import make_function


class Context:
    """Finds the plugins and runs their operators.

    threads      worker threads; default: ATTUNE_THREADS, then one per CPU
    tune         "off", "frozen", "estimate", "measure" (the default), "patient" or "exhaustive"
    plugin_path  a directory or a list of them, searched first instead of ATTUNE_PLUGIN_PATH
    wisdom       file of remembered choices, read-only ones behind ":"; "" for none
    log          called as log(level, text), level "debug", "info", "warning" or "error", from any
                 thread
    checked      red zones, NaN-filled outputs and overlap tests on every call: slow, for tests and
                 bug reports

    Safe from any thread. Closed by close(), `with` or the garbage collector; its plans live on.
    Usable after fork().
    """

    def __init__(
        self, *, threads=None, tune=None, plugin_path=None, wisdom=None, log=None, checked=False
    ):
        options = _abi.new(_abi.ContextOptions, flags=_abi.CHECKED if checked else 0)
        options.workers = _threads(threads)
        options.tune_mode = _tune(tune)
        if plugin_path is not None:
            options.plugin_path = text("plugin_path", _search_path(plugin_path))
        if wisdom is not None:
            options.wisdom = text("wisdom", os.fspath(wisdom))
        if log is not None:
            options.log = _log_function(log)
        pointer = ctypes.c_void_p()
        call("attune_context_create", ctypes.byref(options), ctypes.byref(pointer))
        # The log function in the options must live as long as any plan that may call it: plans hold
        # this handle.
        self._handle = Handle(pointer, library().attune_context_release, options)
        self._descriptors = {}

    def _open(self):
        handle = self._handle
        if handle is None:
            raise failure("E_INVALID", "context", "this context is closed")
        return handle

    # ---- what there is

    def operators(self):
        """Names of the operators that can be run."""
        return [op["id"] for op in self.describe()["operators"] if op.get("usable", True)]

    def describe(self, op=None):
        """The descriptor of an operator as a dict: params, entries with their tensors, kernels,
        presets. Without a name: the registry, with every plugin that was found and the reason why
        one was not used."""
        what, name = ("registry", None) if op is None else ("op", text("op", op))
        return json.loads(self._describe(what, name))

    def _describe(self, what, name):
        handle, need, capacity = self._open(), ctypes.c_uint64(), 1 << 16
        while True:
            buffer = ctypes.create_string_buffer(capacity)
            try:
                call(
                    "attune_describe",
                    handle.pointer,
                    what.encode(),
                    name,
                    buffer,
                    capacity,
                    ctypes.byref(need),
                )
                return buffer.value.decode()
            except Error as error:  # the registry may have grown since the size was asked
                if error.code != "E_WORKSPACE" or need.value <= capacity:
                    raise
                capacity = need.value

    def _signature(self, op, entry):
        text("entry", entry)
        descriptor = self._descriptors.get(text("op", op))
        if descriptor is None:
            descriptor = self._descriptors[op.encode()] = self.describe(op)
        return Signature(descriptor, entry)

    def function(self, op, entry="forward"):
        """run(op, entry=entry, ...) as a function with the descriptor's signature and docstring."""
        return make_function(self, op, self.describe(op), self._signature(op, entry))

    # ---- what it does

    def plan(self, op, /, *, entry="forward", kernel=None, outputs=None, **arguments):
        """Checks a problem and chooses a kernel for it; the arguments are those of run. A Plan
        serves these sizes and every smaller one."""
        return self._plan(op, entry, kernel, outputs, None, arguments)[0]

    def run(self, op, /, *, entry="forward", kernel=None, outputs=None, out=None, **arguments):
        """Computes an entry of an operator.

        op         name of an operator, or "name@plugin.id"
        kernel     "name" or "name:bq=64,bk=128" forces a kernel and its knobs
        outputs    names of the outputs; default: `o` and every output that is not optional, for
                   gradients those of all given tensors
        out        {name: array} to be written in place, besides `outputs`
        arguments  tensors (numpy, or anything with __dlpack__) and parameters by name; None counts
                   as absent

        Returns a Result: outputs by name, in the array kind of q. Raises Error; after a refusal
        nothing was written.
        """
        plan, given, params = self._plan(op, entry, kernel, outputs, out, arguments)
        per_call = {
            n: v
            for n, v in params.items()
            if "structural" not in plan._signature.params[n]["flags"]
        }
        return plan._execute(plan._open(), given, per_call)

    def _plan(self, op, entry, kernel, outputs, out, arguments):
        handle, signature = self._open(), self._signature(op, entry)
        tensors, params = signature.split(arguments)
        given = views(merge_outputs(tensors, out, signature), signature)
        if outputs is None:
            wanted, conditional = signature.default_outputs(given)
        else:
            wanted, conditional = [outputs] if isinstance(outputs, str) else list(outputs), ()
        plan = Plan._create(handle, op, signature, given, params, kernel, wanted, conditional)
        return plan, given, params

    def load(self, path):
        """Adds one plugin file."""
        call("attune_load", self._open().pointer, text("path", os.fspath(path)))
        self._descriptors = {}

    # ---- what was measured

    def wisdom_import(self, path):
        """Joins a file of remembered choices into this context's, and into its file.

        Returns counts of the file's lines: accepted, duplicate, foreign_cpu (kept for the CPU they
        were measured on), damaged (skipped) and unknown (of a later version's kind, kept).
        """
        report = _abi.new(_abi.WisdomReport)
        path = text("path", os.fspath(path))
        call("attune_wisdom_import", self._open().pointer, path, ctypes.byref(report))
        return {name: getattr(report, name) for name, _ in report._fields_ if name != "struct_size"}

    def wisdom_export(self, path):
        """Writes everything remembered to a file, which is replaced as a whole."""
        call("attune_wisdom_export", self._open().pointer, text("path", os.fspath(path)))

    def wisdom_forget(self, op=None):
        """Drops what is remembered about an operator, or about all."""
        name = None if op is None else text("op", op)
        call("attune_wisdom_forget", self._open().pointer, name)

    def close(self):
        """Gives the context up; plans and calls under way keep what they need."""
        self._handle = None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


def _threads(threads):
    if threads is None:
        return 0
    if isinstance(threads, bool) or not isinstance(threads, int) or not 1 <= threads < 2**31:
        raise failure(
            "E_INVALID", "threads", f"threads is {threads!r}, expected a whole number >= 1"
        )
    return threads


def _tune(mode):
    if mode is None:
        return 0
    if mode not in _abi.TUNE:
        near = difflib.get_close_matches(str(mode), _abi.TUNE, 1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise failure(
            "E_INVALID",
            "tune",
            f"tune is {mode!r}, expected one of {', '.join(_abi.TUNE[1:])}{hint}",
        )
    return _abi.TUNE.index(mode)


def _search_path(path):
    if isinstance(path, (str, os.PathLike)):
        return os.fspath(path)
    return os.pathsep.join(os.fspath(directory) for directory in path)


def _log_function(log):
    if not callable(log):
        raise failure("E_INVALID", "log", f"log: expected a function, got {type(log).__name__}")

    def forward(_, level, message):
        word = _abi.LOG_LEVEL[min(max(level, 0), len(_abi.LOG_LEVEL) - 1)]
        log(word, message.decode("utf-8", "replace"))

    return _abi.LogFunction(forward)
