"""Signatures and docstrings of operators, made from their descriptors."""

import inspect
import keyword

from ._problem import is_output


def make_function(context, op, descriptor, signature):
    """A function that runs one entry, with __signature__ and __doc__."""
    entry = signature.entry["name"]

    def function(**arguments):
        return context.run(op, entry=entry, **arguments)

    function.__name__ = function.__qualname__ = op if entry == "forward" else f"{op}_{entry}"
    function.__doc__ = document(descriptor, signature.entry)
    function.__signature__ = python_signature(descriptor, signature.entry)
    return function


def python_signature(descriptor, entry):
    """Tensors first (optional ones default to None), then parameters with their defaults."""
    rows = [
        (spec["name"], inspect.Parameter.empty if spec["needed"] is None else None)
        for spec in entry["tensors"]
        if not is_output(spec, entry)
    ]
    for spec in descriptor["params"]:
        rows.append(
            (
                spec["name"],
                inspect.Parameter.empty if "required" in spec["flags"] else spec["default"],
            )
        )
    rows += [("kernel", None), ("outputs", None), ("out", None)]
    return inspect.Signature(
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default)
        for name, default in rows
        if not keyword.iskeyword(name)
    )


def document(descriptor, entry):
    """The docstring of one entry."""
    lines = [
        f"{descriptor['title']} ({descriptor['id']} {descriptor['version']}, {entry['name']})",
        "",
    ]
    lines += [part for part in (descriptor["doc"], entry["doc"]) if part]
    if descriptor.get("reference"):
        lines.append(f"Reference: {descriptor['reference']}")
    inputs = [spec for spec in entry["tensors"] if not is_output(spec, entry)]
    results = [spec for spec in entry["tensors"] if is_output(spec, entry)]
    for title, rows in (
        ("Tensors", [_tensor_line(spec) for spec in inputs]),
        ("Parameters", [_param_line(spec) for spec in descriptor["params"]]),
        ("Outputs", [_tensor_line(spec) for spec in results]),
    ):
        if rows:
            lines += ["", title, "-" * len(title), *rows]
    return "\n".join(lines)


def _tensor_line(spec):
    when = {None: "", "0": ", optional"}.get(spec["needed"], f", needed if {spec['needed']}")
    doc = f": {spec['doc']}" if spec["doc"] else ""
    return f"{spec['name']} [{spec['shape']}] {'|'.join(spec['dtypes'])}{when}{doc}"


def _param_line(spec):
    kind = "|".join(spec["names"]) if spec["kind"] == "enum" else spec["kind"]
    default = "required" if "required" in spec["flags"] else f"default {spec['default']}"
    doc = f": {spec['doc']}" if spec["doc"] else ""
    return f"{spec['name']} {kind}, {default}{doc}"
