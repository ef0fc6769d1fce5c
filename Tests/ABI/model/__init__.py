"""Executable model of the descriptor rules of ABI 1.0: what may be registered, how a call is bound.

The host must decide exactly as this does: tests hold it to the model, and the conformance tests
draw their problems from it.
"""

from .binding import bind, generate, made
from .golden_calls import bound_calls, complete, spoil
from .grammar import DTYPES, Bad, Env, Parser, Unbound, split, value
from .registration import GENS, Refused, legal, load, prepare

__all__ = [
    "DTYPES",
    "GENS",
    "Bad",
    "Env",
    "Parser",
    "Refused",
    "Unbound",
    "bind",
    "bound_calls",
    "complete",
    "generate",
    "legal",
    "load",
    "made",
    "prepare",
    "spoil",
    "split",
    "value",
]
