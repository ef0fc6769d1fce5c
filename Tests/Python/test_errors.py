"""Every kind of bad input: code, argument, both values in the sentence, nothing written."""

import pickle

import numpy as np
import pytest

import attune
from test_api import qkv

F32 = np.float32


def change(**changes):
    """The usual problem with some arguments replaced; None takes one away."""
    x = qkv(nq=9, nk=11)
    x.update(changes)
    return x


def strided(array, strides):
    return np.lib.stride_tricks.as_strided(array, array.shape, strides)


def reversed_rows():
    return qkv()["q"][:, :, ::-1]


def bytes_apart():
    """float32 values 6 bytes apart."""
    record = np.zeros((1, 2, 11, 16), np.dtype([("x", "<f4"), ("pad", "u1", 2)], align=False))
    return record["x"]


def misaligned():
    return np.zeros(1 * 2 * 11 * 16 * 4 + 1, np.uint8)[1:].view(F32).reshape(1, 2, 11, 16)


zeros = lambda *shape: np.zeros(shape, F32)
# arguments, code, argument of the error, what the sentence must contain
REFUSED = {
    "unknown tensor": (change(kk=zeros(1, 2, 11, 16)), "E_INVALID", "kk", ["kk"]),
    "unknown parameter": (change(casual=True), "E_PARAM", "casual", ["casual", "causal"]),
    "missing tensor": (change(k=None), "E_INVALID", "k", ["k"]),
    "no arguments": ({}, "E_INVALID", "q", ["q"]),
    "superfluous tensor": (
        change(page_table=np.zeros((1, 1), np.int32)),
        "E_INVALID",
        "page_table",
        [],
    ),
    "rank": (change(q=zeros(4, 9, 16)), "E_SHAPE", "q", ["3"]),
    "scalar array": (change(q=np.array(1, F32)), "E_SHAPE", "q", ["0"]),
    "head dim": (change(k=zeros(1, 2, 11, 8)), "E_SHAPE", "k", ["8", "16"]),
    "keys and values": (change(v=zeros(1, 2, 12, 16)), "E_SHAPE", "v", ["12", "11"]),
    "heads": (change(k=zeros(1, 3, 11, 16), v=zeros(1, 3, 11, 16)), "E_SHAPE", None, ["Hq", "Hkv"]),
    "output shape": (change(out={"o": zeros(1, 4, 8, 16)}), "E_SHAPE", "o", ["8", "9"]),
    "float64": (change(q=np.zeros((1, 4, 9, 16))), "E_DTYPE", "q", ["f64"]),
    "mixed types": (change(v=np.zeros((1, 2, 11, 16), np.float16)), "E_DTYPE", "v", ["f16", "f32"]),
    "mask of floats": (change(mask=zeros(1, 1, 9, 11)), "E_DTYPE", "mask", ["f32"]),
    "complex": (
        change(q=np.zeros((1, 4, 9, 16), np.complex64)),
        "E_DTYPE",
        "q",
        ["complex64", "float32"],
    ),
    "objects": (change(q=np.zeros((1, 4, 9, 16), object)), "E_DTYPE", "q", ["object", "float32"]),
    "big endian": (change(q=np.zeros((1, 4, 9, 16), ">f4")), "E_DTYPE", "q", [">f4"]),
    "negative stride": (change(q=reversed_rows()), "E_LAYOUT", "q", ["-16"]),
    "last stride": (change(k=zeros(1, 2, 16, 11).swapaxes(2, 3)), "E_LAYOUT", "k", ["11", "1"]),
    "bytes apart": (change(k=bytes_apart()), "E_LAYOUT", "k", ["6", "4"]),
    "misaligned": (change(k=misaligned()), "E_LAYOUT", "k", ["aligned", "4"]),
    "output with stride 0": (
        change(out={"o": strided(zeros(1, 4, 9, 16), (2304, 576, 0, 4))}),
        "E_LAYOUT",
        "o",
        ["overlap"],
    ),
    "read-only output": (
        change(out={"o": np.broadcast_to(F32(0), (1, 4, 9, 16))}),
        "E_INVALID",
        "o",
        ["read-only"],
    ),
    "list": (change(q=[[1.0]]), "E_INVALID", "q", ["list"]),
    "number for a tensor": (change(q=3), "E_INVALID", "q", ["int"]),
    "array for a parameter": (change(causal=np.array([True])), "E_PARAM", "causal", ["ndarray"]),
    "kind": (change(causal=1), "E_PARAM", "causal", ["causal"]),
    "kind of number": (change(window_left=1.5), "E_PARAM", "window_left", ["window_left"]),
    "range": (change(scale=-1.0), "E_PARAM", "scale", ["-1"]),
    "not a number": (change(scale=float("nan")), "E_PARAM", "scale", ["nan"]),
    "infinite": (change(softcap=float("inf")), "E_PARAM", "softcap", ["inf"]),
    "huge integer": (change(q_offset=2**63), "E_PARAM", "q_offset", [str(2**63), "64"]),
    "huge integer for a real": (change(scale=10**400), "E_PARAM", "scale", ["double"]),
    "window": (change(window_left=-2), "E_PARAM", "window_left", ["-2"]),
    "word": (change(layout="bnhd"), "E_PARAM", "layout", ["bnhd", "bhnd"]),
    "dict for a parameter": (change(causal={}), "E_PARAM", "causal", ["dict"]),
    "index data": (
        change(seqlens_k=np.array([12], np.int32)),
        "E_INVALID",
        "seqlens_k",
        ["12", "11"],
    ),
    "unknown output": (change(outputs=("o", "lsee")), "E_INVALID", "lsee", ["lsee", "lse"]),
    "output of another mode": (
        change(activation="sigmoid", outputs=("o", "lse")),
        "E_INVALID",
        "lse",
        ["lse"],
    ),
    "needed output": (change(outputs=("lse",)), "E_INVALID", "o", ["o"]),
    "input as output": (change(outputs=("o", "mask")), "E_INVALID", "mask", ["mask"]),
    "input in out": (change(out={"mask": zeros(1, 1, 1, 1)}), "E_INVALID", "mask", ["input"]),
    "twice": (
        change(o=zeros(1, 4, 9, 16), out={"o": zeros(1, 4, 9, 16)}),
        "E_INVALID",
        "o",
        ["twice"],
    ),
    "out is no dict": (change(out=zeros(1, 4, 9, 16)), "E_INVALID", "out", ["dict", "ndarray"]),
    "entry": (change(entry="forwards"), "E_NOT_FOUND", None, ["forwards", "forward"]),
    "entry type": (change(entry=3), "E_INVALID", "entry", ["int"]),
    "kernel": (change(kernel="fusd"), "E_NOT_FOUND", None, ["fusd"]),
    "kernel type": (change(kernel=b"fused"), "E_INVALID", "kernel", ["bytes"]),
    "NUL": (change(layout="bhnd\0x"), "E_INVALID", "layout", ["NUL"]),
    "surrogate": (change(layout="\udcff"), "E_INVALID", "layout", ["Unicode"]),
}


@pytest.mark.parametrize("what", REFUSED)
def test_refused(ctx, what):
    arguments, code, argument, words = REFUSED[what]
    with pytest.raises(attune.Error) as caught:
        ctx.run("softmax", **arguments)
    error = caught.value
    assert error.code == code, error
    assert argument is None or error.argument == argument, error
    assert error.status < 0 and error.message and error.code in str(error)
    for word in words:
        assert word in error.message, error


@pytest.mark.parametrize(
    "what", ["keys and values", "range", "index data", "negative stride", "head dim"]
)
def test_nothing_is_written(ctx, what):
    o = np.full((1, 4, 9, 16), 7, F32)
    with pytest.raises(attune.Error):
        ctx.run("softmax", **{**REFUSED[what][0], "out": {"o": o}})
    assert (o == 7).all()


@pytest.mark.parametrize("name", ["softmx", "", "softmax@nobody", "../softmax", "SOFTMAX"])
def test_unknown_operator(ctx, name):
    with pytest.raises(attune.Error) as caught:
        ctx.run(name, **qkv())
    assert caught.value.code == "E_NOT_FOUND", caught.value
    if name == "softmx":
        assert "softmax" in caught.value.message


@pytest.mark.parametrize("name", [None, 3, b"softmax", "softmax\0"])
def test_operator_name_of_another_type(ctx, name):
    with pytest.raises(attune.Error) as caught:
        ctx.run(name, **qkv())
    assert (caught.value.code, caught.value.argument) == ("E_INVALID", "op")


@pytest.mark.parametrize(
    "options,argument",
    [
        ({"threads": 0}, "threads"),
        ({"threads": -1}, "threads"),
        ({"threads": 1.5}, "threads"),
        ({"threads": True}, "threads"),
        ({"threads": 2**40}, "threads"),
        ({"tune": "mesure"}, "tune"),
        ({"tune": 3}, "tune"),
        ({"log": "print"}, "log"),
        ({"plugin_path": "a\0b"}, "plugin_path"),
    ],
)
def test_context_options(options, argument):
    with pytest.raises(attune.Error) as caught:
        attune.Context(**options)
    assert (caught.value.code, caught.value.argument) == ("E_INVALID", argument)
    assert (
        str(list(options.values())[0])[:3] in caught.value.message
        or argument in caught.value.message
    )


def test_plan_and_its_tensors(ctx):
    x = qkv()
    with ctx.plan("softmax", **x) as plan:
        refused(lambda: plan.execute(q=x["q"], k=x["k"]), "E_INVALID", "v")
        refused(lambda: plan.execute(**x, bias=np.zeros((1, 1, 1, 1), F32)), "E_INVALID", "bias")
        refused(lambda: plan.execute(**x, causal=True), "E_INVALID", "causal")
        refused(lambda: plan.execute(**x, scale=-1.0), "E_PARAM", "scale")
        refused(lambda: plan.tensor("lse"), "E_NOT_FOUND", None)
        larger = qkv(nk=10)
        refused(lambda: plan.execute(**larger), "E_SHAPE", None)
        other = {n: a.astype(np.float16) for n, a in x.items()}
        refused(lambda: plan.execute(**other), "E_DTYPE", None)
    refused(lambda: plan.execute(**x), "E_INVALID", "plan")
    refused(lambda: plan.info, "E_INVALID", "plan")


def refused(call, code, argument):
    with pytest.raises(attune.Error) as caught:
        call()
    assert caught.value.code == code, caught.value
    assert argument is None or caught.value.argument == argument, caught.value


def test_closed_context():
    context = attune.Context(wisdom="")
    context.close()
    context.close()
    refused(context.operators, "E_INVALID", "context")
    refused(lambda: context.run("softmax", **qkv()), "E_INVALID", "context")


def test_files(tmp_path):
    with attune.Context(wisdom="") as context:
        refused(lambda: context.load(tmp_path / "attune_none.so"), "E_IO", None)
        (tmp_path / "attune_text.so").write_text("no library")
        with pytest.raises(attune.Error):
            context.load(tmp_path / "attune_text.so")


def test_error_pickles(ctx):
    with pytest.raises(attune.Error) as caught:
        ctx.run("softmax", **change(scale=-1.0))
    twin = pickle.loads(pickle.dumps(caught.value))
    assert (twin.code, twin.argument, str(twin)) == ("E_PARAM", "scale", str(caught.value))
