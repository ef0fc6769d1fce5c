"""Attention operators from plugins, by ctypes.

    import attune
    ctx = attune.Context(threads=2)
    result = ctx.run(ctx.operators()[0], q=q, k=k, v=v, causal=True)
    result["o"]

Arrays are numpy's or anything with __dlpack__ and are never copied. Errors raise attune.Error.
"""

from ._context import Context
from ._error import Error
from ._library import version
from ._plan import Plan, Result
from .helpers import alibi_slopes, decay_slopes, rotary_tables_2d

__all__ = [
    "Context",
    "Error",
    "Plan",
    "Result",
    "alibi_slopes",
    "decay_slopes",
    "rotary_tables_2d",
    "version",
]
