"""Runs a problem through one kernel and watches the memory around it."""

import numpy as np

import attune
import layouts
import storage


class Declined(Exception):
    """The kernel says that it cannot take this problem."""


def run(context, problem, kernel, layout="plain"):
    """{output: values}. Raises Declined. Outputs begin as NaN (integers: as bytes GUARD); inputs
    may not change and nothing may be written beside the elements of an output."""
    inputs = {n: layouts.laid_out(problem.memory[n], layout) for n in problem.inputs}
    before = {n: x.tobytes() for n, x in inputs.items()}
    rooms = {n: _garbage(problem.shape[n], problem.word[n], layout) for n in problem.outputs}
    outputs = {n: view for n, (view, _) in rooms.items()}
    call(context, problem, kernel, inputs, outputs)
    changed = [n for n, x in inputs.items() if x.tobytes() != before[n]]
    assert not changed, f"{kernel} wrote to its inputs {changed}"
    result = {n: storage.decode(x.copy(), problem.word[n]) for n, x in outputs.items()}
    for name, (view, whole) in rooms.items():
        view[...] = np.frombuffer(bytes([layouts.GUARD]) * view.itemsize, view.dtype)[0]
        assert (whole == layouts.GUARD).all(), f"{kernel} wrote outside of {name}"
    return result


def call(context, problem, kernel, inputs, outputs):
    """Runs on exactly this memory. Raises Declined."""
    try:
        context.run(
            problem.op["id"],
            entry=problem.entry,
            kernel=kernel,
            outputs=(),
            out={n: storage.array(x, problem.word[n]) for n, x in outputs.items()},
            **{n: storage.array(x, problem.word[n]) for n, x in inputs.items()},
            **problem.params,
        )
    except attune.Error as error:
        if error.code == "E_UNSUPPORTED" and kernel is not None:
            raise Declined(str(error)) from error
        raise


def _garbage(shape, word, layout):
    """Output memory in which an element that is not written fails any comparison."""
    dtype = storage.empty((), word).dtype
    view, whole = layouts.room(shape, dtype, "plain" if layout == "broadcast" else layout)
    if view.dtype.kind == "f" or word == "bf16":
        view[...] = storage.encode(np.float32(np.nan), word)
    return view, whole
