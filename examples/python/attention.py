"""Runs softmax attention on tensors of a real model and compares with what the model computed.

PYTHONPATH=build/python python3 examples/python/attention.py
"""

import pathlib

import numpy as np

import attune

DATA = pathlib.Path(__file__).resolve().parent.parent / "data"


def main():
    with attune.Context(tune="off") as ctx:
        for layer in (0, 5):
            q, k, v, out = (
                np.load(DATA / f"layer{layer}_{name}.npy") for name in ("q", "k", "v", "out")
            )

            result = ctx.run("softmax", q=q, k=k, v=v, outputs=("o", "lse"))
            error = np.abs(result["o"] - out).max() / np.abs(out).max()
            print(f"layer {layer}: o {result['o'].shape}, within 1e-5 of the model: {error < 1e-5}")

            # A plan checks and chooses once; executing it writes straight into the caller's array.
            o = np.empty_like(q)
            with ctx.plan("softmax", q=q, k=k, v=v, causal=True) as plan:
                plan.execute(q=q, k=k, v=v, out={"o": o})
            print(f"  causal: first token sees itself only: {np.allclose(o[:, :, 0], v[:, :, 0])}")

        try:
            ctx.run("softmax", q=q, k=k[:, :, :100], v=v)
        except attune.Error as error:
            print(f"refused with {error.code}, argument {error.argument}")


if __name__ == "__main__":
    main()
