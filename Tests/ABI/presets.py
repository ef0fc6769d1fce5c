"""Writes symbols, shapes and types of every preset by the model: the host must find the same ones.

    python3 Tests/ABI/presets.py DESCRIPTORS > Tests/AttuneCoreTests/Presets.json
"""
import json
import sys

import model


def main(folder):
    rows = []
    for op in model.load(folder).values():
        for preset in op["presets"]:
            env = model.generate(op, preset)
            tensors = {n: [env.dtype[n], s] for n, s in env.shape.items()}
            row = dict(op=op["id"], preset=preset["name"], symbols=env.sym, tensors=tensors)
            row["flops"] = env.cost["flops"]
            rows.append(json.dumps(row, separators=(",", ":")))
    print("[" + ",\n".join(rows) + "]")


if __name__ == "__main__":
    main(sys.argv[1])
