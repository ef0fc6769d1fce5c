"""Problems that every library can be asked: plain scaled dot product attention, and its right answer.

A plugin whose operator computes it lists such problems in its folder, in baselines.json.
"""

import json
from dataclasses import dataclass, replace
from functools import cached_property

import ml_dtypes
import numpy as np

STORAGE = {"f32": np.float32, "f16": np.float16, "bf16": ml_dtypes.bfloat16}
# Distance from the answer in double precision, as a share of its largest element. Above it a library
# has computed something else. f32: approximate exponentials of ~20 ulp are in use. Two bytes: inputs
# are exact, so what is left is the rounding of weights and output.
TOLERANCE = {"f32": 1e-4, "f16": 4e-3, "bf16": 2e-2}


class Declined(Exception):
    """A library has nothing for a problem; the text says what."""


@dataclass(frozen=True)
class Problem:
    """q [B,Hq,Nq,D], k and v [B,Hkv,Nk,D]. Causal problems have Nq = Nk."""

    op: str
    name: str
    B: int
    Hq: int
    Hkv: int
    Nq: int
    Nk: int
    D: int
    causal: bool = False
    dtype: str = "f32"

    def __post_init__(self):
        if self.dtype not in STORAGE:
            raise ValueError(f"{self.name}: dtype is {self.dtype}, expected one of {set(STORAGE)}")
        if self.causal and self.Nq != self.Nk:
            raise ValueError(f"{self.name}: libraries differ in what causal means for Nq != Nk")

    @cached_property
    def tensors(self):
        """q, k, v as contiguous arrays of the storage type."""
        numbers = np.random.default_rng(0)
        shapes = [(self.Hq, self.Nq), (self.Hkv, self.Nk), (self.Hkv, self.Nk)]
        return [
            numbers.standard_normal((self.B, h, n, self.D), np.float32).astype(STORAGE[self.dtype])
            for h, n in shapes
        ]

    @property
    def is_decode(self):
        """One query: bound by the reading of keys and values."""
        return self.Nq == 1

    def folded(self):
        """The same decode problem for a library that is poor at groups: the query heads of a group
        are rows of one head. Tensors and answer lie in memory as before."""
        if not self.is_decode or self.Hq == self.Hkv:
            raise Declined("only a decode problem with groups can be folded")
        return replace(self, Hq=self.Hkv, Nq=self.Hq // self.Hkv)

    @property
    def flops(self):
        """Useful multiply-adds, counted as two; hidden pairs count nothing."""
        pairs = self.Nq * (self.Nq + 1) // 2 if self.causal else self.Nq * self.Nk
        return 4 * self.B * self.Hq * self.D * pairs

    @property
    def bytes(self):
        """Every tensor once."""
        rows = 2 * self.Hq * self.Nq + 2 * self.Hkv * self.Nk
        return self.B * rows * self.D * np.dtype(STORAGE[self.dtype]).itemsize

    @cached_property
    def answer(self):
        """o [B,Hq,Nq,D] in double precision."""
        q, k, v = (x.astype(np.float64) for x in self.tensors)
        o = np.empty(q.shape)
        hidden = np.triu(np.ones((self.Nq, self.Nk), bool), 1) if self.causal else None
        for b, h in np.ndindex(self.B, self.Hq):
            g = h // (self.Hq // self.Hkv)
            s = q[b, h] @ k[b, g].T * self.D**-0.5
            if self.causal:
                s[hidden] = -np.inf
            s = np.exp(s - s.max(1, keepdims=True))
            o[b, h] = s @ v[b, g] / s.sum(1, keepdims=True)
        return o

    def error(self, o):
        """Largest distance from the answer as a share of its largest element; infinite for NaN."""
        distance = np.abs(np.asarray(o).astype(np.float64).reshape(self.answer.shape) - self.answer)
        return float(np.nan_to_num(distance, nan=np.inf).max() / np.abs(self.answer).max())


def read(path):
    """The problems of a baselines.json; the operator is the folder's name."""
    return [Problem(op=path.parent.name, **fields) for fields in json.loads(path.read_text())]
