"""The form of a file of remembered choices, written down a second time: a checked JSON object per line.

Knows nothing of the library, so that a mistake in its reader or writer does not hide itself.
"""

import json

TABLE = []
for i in range(256):
    for _ in range(8):
        i = i >> 1 ^ (0x82F63B78 if i & 1 else 0)
    TABLE.append(i)


def crc32c(data):
    crc = 0xFFFFFFFF
    for byte in data:
        crc = TABLE[(crc ^ byte) & 0xFF] ^ crc >> 8
    return crc ^ 0xFFFFFFFF


def line(members):
    data = json.dumps(members).encode()
    return b"%08x %s\n" % (crc32c(data), data)


def header(schema=1):
    return line({"schema": schema, "kind": "header", "about": "test"})


def record(cpu, nk, op="someone.op", date=1_700_000_000, kernel="tile", **changes):
    """A record of one trial, like no other in its size."""
    candidate = {"kernel": kernel, "revision": 3, "knobs": "bq=64,bk=128", "workers": 2}
    trial = {"status": "ok", "ns": 1234.5, "ratio": 0.75, "spread": 0.01, "rounds": 7, "date": date}
    members = {
        "schema": 1, "kind": "tuned", "cpu": cpu, "op": op, "family": "forward f32 D=64",
        "sizes": {"Nq": 1, "Nk": nk}, "winner": candidate, "rigor": "measure", "weighed": 1,
        "plugin": "org.example", "build": "00ff", "library": "0.1.0", "date": date, "drift": 0.02,
        "loaded": False, "trials": [candidate | trial],
    }  # fmt: skip
    return members | changes


def write(path, records):
    path.write_bytes(header() + b"".join(line(r) for r in records))


def read(data):
    """The objects of a file's lines. Anything wrong with any line is an AssertionError."""
    assert data.endswith(b"\n") or not data, "it ends within a line"
    found = []
    for number, text in enumerate(data.splitlines(), 1):
        stated, body = text[:8], text[9:]
        assert b"%08x" % crc32c(body) == stated and text[8:9] == b" ", f"line {number}: checksum"
        found.append(json.loads(body))
    assert not found or found[0]["kind"] == "header", "it does not begin with the header"
    return found


def keys(found):
    return {(r["op"], r["sizes"]["Nk"]) for r in found if r["kind"] == "tuned"}
