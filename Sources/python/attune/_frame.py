"""The records of an execute call, kept for the next call with arrays of the same kind: making them
anew takes longer than a small kernel."""

import ctypes

import numpy as np

from . import _abi


class Frame:
    """The bindings of one call at a time.

    views      {tensor: View} in the plan's order
    values     ctypes array of attune_param
    made       outputs that the caller did not give
    """

    def __init__(self, views, values, signature, made):
        pointers = (ctypes.POINTER(_abi.Tensor) * len(views))(
            *(ctypes.pointer(view.tensor) for view in views.values())
        )
        self.bindings = _abi.new(
            _abi.Bindings,
            n_tensors=len(pointers),
            tensors=pointers,
            params=_abi.span(values) if len(values) else _abi.Span(),
        )
        # fill() is for arrays of numpy alone.
        self.reusable = not len(values) and all(
            type(view.array) is np.ndarray for view in views.values()
        )
        self._owners = values, [view.owners for view in views.values()]  # no array: they may go
        self._slots = self.reusable and [
            (
                name,
                signature.is_output(name),
                name in made,
                view.array.dtype,
                view.array.shape,
                view.array.strides,
                view.tensor,
            )
            for name, view in views.items()
        ]

    def fill(self, arguments, out):
        """Points the bindings to the arrays of a call. Returns {output: array}, or None when the
        call is of another kind; then the frame is of no use any more."""
        if type(out) is not dict:
            if out is not None:
                return None
            out = {}
        outputs, found = {}, 0
        for name, is_output, made, dtype, shape, strides, tensor in self._slots:
            array = arguments.get(name)
            if array is None and is_output:
                array = out.get(name)
            if array is not None:
                found += 1
            elif made:
                array = np.empty(shape, dtype)
            if (
                type(array) is not np.ndarray
                or array.shape != shape
                or array.strides != strides
                or array.dtype != dtype
            ):
                return None
            if is_output:
                if not array.flags.writeable:
                    return None
                outputs[name] = array
            tensor.data = array.ctypes.data
        return outputs if found == len(arguments) + len(out) else None
