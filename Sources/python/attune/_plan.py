"""A plan: a checked problem with its chosen kernel, to be executed any number of times."""

import ctypes

from . import _abi
from ._error import Error, failure
from ._frame import Frame
from ._library import Handle, call, library
from ._problem import merge_outputs, parameters, tensor_refs, text, views
from ._tensors import empty, word_of


class Result(dict):
    """Outputs by name."""

    def __missing__(self, name):
        have = ", ".join(self) or "nothing"
        raise KeyError(f"{name}: this call computed {have}; ask for more with outputs=(...)")


class Plan:
    """Made by Context.plan. Safe from any thread, concurrently. Closed by close(), `with` or the
    garbage collector."""

    def __init__(self, handle, op, signature, names):
        self._handle, self._signature, self._names = handle, signature, names
        self.op, self.entry = op, signature.entry["name"]
        self._frames = []  # of earlier calls; each call under way has taken its own

    @classmethod
    def _create(cls, context, op, signature, given, params, kernel, wanted, conditional=()):
        """Asks the library. Outputs that are needed in some modes only are asked for and dropped
        when it says no: whether they belong to this mode is the library's to decide."""
        while True:
            names = list(given) + [name for name in (*wanted, *conditional) if name not in given]
            refs, values = tensor_refs(names, given), parameters(params, signature)
            problem = _abi.new(
                _abi.Problem,
                op=text("op", op),
                entry=text("entry", signature.entry["name"]),
                kernel=None if kernel is None else text("kernel", kernel),
                tensors=_abi.span(refs) if names else _abi.Span(),
                params=_abi.span(values) if params else _abi.Span(),
            )
            pointer = ctypes.c_void_p()
            try:
                call(
                    "attune_plan_create",
                    context.pointer,
                    ctypes.byref(problem),
                    ctypes.byref(pointer),
                )
                break
            except Error as error:
                if error.code != "E_INVALID" or error.argument not in conditional:
                    raise
                conditional = [name for name in conditional if name != error.argument]
        handle = Handle(pointer, library().attune_plan_release, context)
        return cls(handle, op, signature, names)

    def _open(self):
        handle = self._handle
        if handle is None:
            raise failure("E_INVALID", "plan", f"this plan of {self.op} {self.entry} is closed")
        return handle

    @property
    def info(self):
        """dict: plugin, kernel, knobs, workers, source, rigor, expected_ns (None: unknown),
        workspace_bytes."""
        handle, record = self._open(), _abi.new(_abi.PlanInfo)
        call("attune_plan_query", handle.pointer, ctypes.byref(record))
        word = lambda words, i: words[i] if i < len(words) else str(i)
        string = lambda s: s.decode("utf-8", "replace") if s else ""
        return {
            "plugin": string(record.plugin),
            "kernel": string(record.kernel),
            "knobs": string(record.knobs),
            "workers": record.workers,
            "source": word(_abi.SOURCE, record.source),
            "rigor": word(_abi.TUNE, record.rigor),
            "expected_ns": record.expected_ns or None,
            "workspace_bytes": record.workspace_bytes,
        }

    def tensor(self, name):
        """(element type, shape) of a tensor of the plan: ("f32", (1, 8, 1024, 64))."""
        return self._tensor(self._open(), name)

    @staticmethod
    def _tensor(handle, name):
        record, shape, strides = _abi.Tensor(), (ctypes.c_int64 * 8)(), (ctypes.c_int64 * 8)()
        call(
            "attune_plan_tensor",
            handle.pointer,
            text("tensor", name),
            ctypes.byref(record),
            shape,
            strides,
        )
        return word_of(record.dtype), tuple(shape[: record.ndim])

    @property
    def shapes(self):
        """{tensor: shape} of everything that takes part."""
        handle = self._open()
        return {name: self._tensor(handle, name)[1] for name in self._names}

    def execute(self, /, *, out=None, **arguments):
        """Computes. Takes the tensors of the plan by name and any parameters that may change per
        call.

        out     {name: array} for outputs to be written in place. The other outputs of the plan are
                allocated in the plan's shapes, in the array kind of q; when the sizes are smaller
                than the plan's, give them.

        Returns a Result with every output of the plan. Raises Error; after a refused call nothing
        was written.
        """
        handle, signature = self._open(), self._signature
        try:
            frame = self._frames.pop()
        except IndexError:
            frame = None
        if frame:
            outputs = frame.fill(arguments, out)
            if outputs is not None:
                call("attune_plan_execute", handle.pointer, ctypes.byref(frame.bindings))
                self._frames.append(frame)
                return Result(outputs)
        tensors, params = signature.split(arguments)
        given = views(merge_outputs(tensors, out, signature), signature)
        return self._execute(handle, given, params)

    def _execute(self, handle, given, params):
        signature = self._signature
        for name in given:
            if name not in self._names:
                have = ", ".join(self._names)
                raise failure(
                    "E_INVALID", name, f"{name} is no tensor of this plan, which has {have}"
                )
        like = given.get("q") or next(iter(given.values()), None)
        bound, finish, made = {}, {}, set()
        for name in self._names:
            if name in given:
                bound[name] = given[name]
                finish[name] = lambda array=given[name].array: array
                continue
            if not signature.is_output(name):
                raise failure("E_INVALID", name, f"{name} is missing: the plan was made with it")
            word, shape = self._tensor(handle, name)
            bound[name], finish[name] = empty(name, shape, word, like.array if like else None)
            made.add(name)
        frame = Frame(bound, parameters(params, signature), signature, made)
        call("attune_plan_execute", handle.pointer, ctypes.byref(frame.bindings))
        if frame.reusable:
            self._frames.append(frame)
        return Result((name, finish[name]()) for name in self._names if signature.is_output(name))

    def close(self):
        """Gives the plan up; calls under way end normally."""
        self._handle = None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def __repr__(self):
        if self._handle is None:
            return f"<attune.Plan {self.op} {self.entry}, closed>"
        info = self.info
        return f"<attune.Plan {self.op} {self.entry}: {info['kernel']} {info['knobs']}>".replace(
            " >", ">"
        )
