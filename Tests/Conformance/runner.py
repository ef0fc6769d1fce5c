"""Runs a problem through one kernel and watches the memory around it."""

import numpy as np

import problems
import storage

GUARD = 0xA5


class Declined(Exception):
    """The kernel says that it cannot take this problem."""


def run(context, problem, kernel, layout="plain"):
    """{output: values}. Raises Declined. Outputs begin as NaN (integers: as bytes GUARD); inputs
    may not change and nothing may be written between the rows of an output."""
    import attune

    # Values that are shared by the batch are so from the start: what depends on them is not.
    kept = "plain" if layout == "broadcast" else layout
    inputs = {n: problems.laid_out(problem.memory[n], kept) for n in problem.inputs}
    before = {n: x.tobytes() for n, x in inputs.items()}
    outputs = {n: _garbage(problem.shape[n], problem.word[n], layout) for n in problem.outputs}
    arguments = {n: storage.array(x, problem.word[n]) for n, x in inputs.items()}
    out = {n: storage.array(x, problem.word[n]) for n, x in outputs.items()}
    try:
        context.run(
            problem.op["id"],
            entry=problem.entry,
            kernel=kernel,
            outputs=(),
            out=out,
            **arguments,
            **problem.params,
        )
    except attune.Error as error:
        if error.code == "E_UNSUPPORTED" and kernel is not None:
            raise Declined(str(error)) from error
        raise
    changed = [n for n, x in inputs.items() if x.tobytes() != before[n]]
    assert not changed, f"{kernel} wrote to its inputs {changed}"
    result = {n: storage.decode(x.copy(), problem.word[n]) for n, x in outputs.items()}
    for name, x in outputs.items():
        _check_guard(name, x, kernel)
    return result


def save(context, problem, reference):
    """Fills the inputs that an earlier call has saved for this one: with what the entry that this
    one differentiates computes from the other inputs, by its kernel `reference`."""
    entry = problem.op["_entries"][problem.entry]
    saved = [n for n in problem.inputs if entry["_tensors"][n]["role"] == "saved"]
    if not saved:
        return
    specs = problem.op["_entries"][entry["of"]]["_tensors"]
    inputs = [n for n in problem.inputs if n in specs and n not in saved]
    out = {n: (problem.shape[n], problem.word[n]) for n in saved}
    for name, t in specs.items():
        if t["_out"] and t["needed"] is None and name not in saved:
            word = next(problem.word[n] for n in inputs if specs[n]["dtype_var"] == t["dtype_var"])
            out[name] = problems.model.made(t, problem.symbols), word
    memory = {n: storage.empty(shape, word) for n, (shape, word) in out.items()}
    context.run(
        problem.op["id"],
        entry=entry["of"],
        kernel=reference,
        outputs=(),
        out={n: storage.array(x, out[n][1]) for n, x in memory.items()},
        **{n: storage.array(problem.memory[n], problem.word[n]) for n in inputs},
        **problem.params,
    )
    problem.memory.update({n: memory[n] for n in saved})


def _garbage(shape, word, layout):
    """Output memory in which an element that is not written fails any comparison."""
    like = np.zeros(shape, storage.empty((), word).dtype)
    array = problems.laid_out(like, "plain" if layout == "broadcast" else layout)
    whole = _whole(array)
    whole.view(np.uint8).fill(GUARD) if whole.size else None
    if array.dtype.kind == "f" or word == "bf16":
        array[...] = storage.encode(np.float32(np.nan), word)
    return array


def _whole(array):
    while array.base is not None and isinstance(array.base, np.ndarray):
        array = array.base
    return array


def _check_guard(name, array, kernel):
    whole = _whole(array)
    if whole is array or whole.size == array.size:
        return
    array.view(array.dtype)[...] = np.frombuffer(bytes([GUARD]) * array.itemsize, array.dtype)[0]
    assert (whole.view(np.uint8) == GUARD).all(), f"{kernel} wrote outside of {name}"
