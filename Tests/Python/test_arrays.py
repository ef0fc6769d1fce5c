"""Arrays of every kind: never copied, owners kept alive, results in the kind of q."""

import gc

import numpy as np
import pytest

import attune
import storage
from attune import _tensors
from test_api import close, expected, qkv


def pointer(view):
    return view.tensor.data + view.tensor.byte_offset


@pytest.mark.parametrize(
    "make",
    [
        lambda a: a,
        lambda a: a[:, :, 2:, 3:],
        lambda a: a.swapaxes(1, 2),
        lambda a: np.broadcast_to(a[:, :1], a.shape),
        lambda a: a[:, :, ::-1],
        lambda a: a[..., ::2],
    ],
    ids=["whole", "sliced", "swapped", "broadcast", "reversed", "every other"],
)
@pytest.mark.parametrize("kind", ["numpy", "dlpack"])
def test_views_are_not_copies(make, kind):
    array = make(np.arange(2 * 3 * 4 * 8, dtype=np.float32).reshape(2, 3, 4, 8))
    view = _tensors.view("q", array if kind == "numpy" else storage.Exported(array, "f32"))
    assert pointer(view) == array.ctypes.data
    assert tuple(view.tensor.shape[: view.tensor.ndim]) == array.shape
    assert tuple(4 * s for s in view.tensor.strides[: view.tensor.ndim]) == array.strides
    assert (view.tensor.dtype.code, view.tensor.dtype.bits, view.tensor.dtype.lanes) == (2, 32, 1)
    assert (view.tensor.device.device_type, view.tensor.device.device_id) == (1, 0)


@pytest.mark.parametrize("word,dtype", storage.NUMPY.items())
def test_element_types(word, dtype):
    view = _tensors.view("q", np.zeros((2, 3), dtype))
    assert _tensors.word_of(view.tensor.dtype) == word


def test_own_export_of_numpy_is_understood():
    """numpy's __dlpack__ speaks both capsule forms."""

    class Wrapped:
        def __init__(self, array):
            self.array = array

        def __dlpack__(self, **arguments):
            return self.array.__dlpack__(**arguments)

    array = np.arange(12, dtype=np.float32).reshape(3, 4)
    view = _tensors.view("q", Wrapped(array))
    assert pointer(view) == array.ctypes.data


def test_layouts_give_the_same_result(ctx):
    x = qkv(b=2, nq=7, nk=12)
    want = ctx.run("softmax", **x)["o"]
    swapped = {n: np.ascontiguousarray(a.swapaxes(1, 2)).swapaxes(1, 2) for n, a in x.items()}
    assert np.array_equal(ctx.run("softmax", **swapped)["o"], want)
    exported = {n: storage.Exported(a, "f32") for n, a in x.items()}
    result = ctx.run("softmax", **exported)["o"]
    assert isinstance(result, np.ndarray) and np.array_equal(result, want)
    assert all(e.exports == 1 for e in exported.values())


def test_strided_output(ctx):
    x = qkv()
    room = np.full((1, 9, 4, 20), 7, np.float32)
    o = room.swapaxes(1, 2)[..., 2:18]
    assert ctx.run("softmax", **x, out={"o": o})["o"] is o
    assert close(o, expected(**x)[0])
    assert (room[..., :2] == 7).all() and (room[..., 18:] == 7).all()


def test_read_only_inputs_and_stride_zero(ctx):
    x = qkv(b=2)
    one = {n: np.broadcast_to(a[:1], a.shape) for n, a in x.items()}
    assert not one["q"].flags.writeable
    result = ctx.run("softmax", **one)["o"]
    assert np.array_equal(result[0], result[1])
    for array in x.values():
        array.flags.writeable = False
    assert close(ctx.run("softmax", **x)["o"], expected(**x)[0])


def test_bool_mask(ctx):
    x = qkv(nq=6, nk=8)
    mask = np.ones((1, 1, 6, 8), bool)
    mask[..., 5:] = False
    got = ctx.run("softmax", **x, mask=mask)["o"]
    assert close(got, expected(x["q"], x["k"][:, :, :5], x["v"][:, :, :5])[0])
    assert np.array_equal(got, ctx.run("softmax", **x, mask=mask.view(np.uint8))["o"])


def test_empty(ctx):
    x = qkv(nq=0)
    assert ctx.run("softmax", **x)["o"].shape == (1, 4, 0, 16)
    x = qkv(nk=0)
    result = ctx.run("softmax", **x, outputs=("o", "lse"))
    assert (result["o"] == 0).all() and (result["lse"] == -np.inf).all()


def test_float16(ctx):
    x = {n: a.astype(np.float16) for n, a in qkv().items()}
    o = ctx.run("softmax", **x)["o"]
    assert o.dtype == np.float16
    want = expected(**x)[0]
    assert np.abs(o - want).max() <= 4e-3 * np.abs(want).max()


def test_bf16_through_dlpack(ctx):
    x = qkv()
    bits = {n: storage.to_bf16(a) for n, a in x.items()}
    want = expected(**{n: storage.from_bf16(b) for n, b in bits.items()})[0]
    o = storage.Exported(np.zeros(want.shape, np.uint16), "bf16")
    exported = {n: storage.Exported(b, "bf16") for n, b in bits.items()}
    assert ctx.run("softmax", **exported, out={"o": o})["o"] is o
    assert np.abs(storage.from_bf16(o.bits) - want).max() <= 0.026 * np.abs(want).max()


def test_bf16_without_a_package_for_it(ctx, monkeypatch):
    """numpy alone has no bf16: the error says what to do."""
    monkeypatch.setitem(__import__("sys").modules, "ml_dtypes", None)
    exported = {n: storage.Exported(storage.to_bf16(a), "bf16") for n, a in qkv().items()}
    with pytest.raises(attune.Error) as caught:
        ctx.run("softmax", **exported)
    assert (caught.value.code, caught.value.argument) == ("E_UNSUPPORTED", "o")
    assert "ml_dtypes" in caught.value.message


def test_bf16_of_ml_dtypes(ctx):
    ml_dtypes = pytest.importorskip("ml_dtypes")
    x = {n: a.astype(ml_dtypes.bfloat16) for n, a in qkv().items()}
    o = ctx.run("softmax", **x)["o"]
    assert o.dtype == ml_dtypes.bfloat16
    want = expected(**{n: a.astype(np.float32) for n, a in x.items()})[0]
    assert np.abs(o.astype(np.float32) - want).max() <= 0.026 * np.abs(want).max()


class Broken:
    """__dlpack__ that misbehaves in some way."""

    def __init__(self, result):
        self.result = result

    def __dlpack__(self, **_):
        if isinstance(self.result, Exception):
            raise self.result
        return self.result


@pytest.mark.parametrize(
    "result", [BufferError("on loan"), RuntimeError("requires grad"), None, 5, "dltensor"]
)
def test_broken_export(ctx, result):
    x = qkv()
    with pytest.raises(attune.Error) as caught:
        ctx.run("softmax", **dict(x, k=Broken(result)))
    assert (caught.value.code, caught.value.argument) == ("E_INVALID", "k")
    if isinstance(result, Exception):
        assert str(result) in caught.value.message


def test_used_capsule_is_refused(ctx):
    x = qkv()
    capsule = x["k"].__dlpack__()
    np.from_dlpack(
        type(
            "Once",
            (),
            {"__dlpack__": lambda s, **_: capsule, "__dlpack_device__": lambda s: (1, 0)},
        )()
    )
    with pytest.raises(attune.Error) as caught:
        ctx.run("softmax", **dict(x, k=Broken(capsule)))
    assert (caught.value.code, caught.value.argument) == ("E_INVALID", "k")


def test_other_device_is_refused(ctx):
    x = qkv()
    k = storage.Exported(x["k"], "f32")
    k._managed.tensor.device.device_type = 2
    with pytest.raises(attune.Error) as caught:
        ctx.run("softmax", **dict(x, k=k))
    assert (caught.value.code, caught.value.argument) == ("E_LAYOUT", "k")
    assert "2" in caught.value.message


def test_vector_lanes_are_refused(ctx):
    x = qkv()
    k = storage.Exported(x["k"], "f32")
    k._managed.tensor.dtype.lanes = 4
    with pytest.raises(attune.Error) as caught:
        ctx.run("softmax", **dict(x, k=k))
    assert (caught.value.code, caught.value.argument) == ("E_DTYPE", "k")


def test_owner_lives_as_long_as_the_call(ctx):
    """The only reference to an exporter may be the argument itself."""
    x = qkv()
    want = ctx.run("softmax", **x)["o"]
    for _ in range(5):
        got = ctx.run(
            "softmax", q=storage.Exported(x["q"].copy(), "f32"), k=x["k"].copy(), v=x["v"].copy()
        )["o"]
        gc.collect()
        assert np.array_equal(got, want)


def test_torch(ctx):
    torch = pytest.importorskip("torch")
    x = qkv()
    t = {n: torch.from_numpy(a) for n, a in x.items()}
    o = ctx.run("softmax", **t)["o"]
    assert isinstance(o, torch.Tensor) and close(o.numpy(), expected(**x)[0])
    out = torch.empty_like(t["q"])
    assert ctx.run("softmax", **t, out={"o": out})["o"] is out
    assert torch.equal(out, o)
    half = ctx.run("softmax", **{n: a.bfloat16() for n, a in t.items()})["o"]
    assert half.dtype == torch.bfloat16 and torch.allclose(half.float(), o, atol=0.03)
    with pytest.raises(attune.Error) as caught:
        ctx.run("softmax", **dict(t, q=t["q"].clone().requires_grad_()))
    assert (caught.value.code, caught.value.argument) == ("E_INVALID", "q")


def test_jax(ctx):
    jax = pytest.importorskip("jax")
    x = qkv()
    j = {n: jax.numpy.asarray(a) for n, a in x.items()}
    o = ctx.run("softmax", **j)["o"]
    assert isinstance(o, jax.Array) and close(np.asarray(o), expected(**x)[0])
    half = ctx.run("softmax", **{n: a.astype(jax.numpy.bfloat16) for n, a in j.items()})["o"]
    assert isinstance(half, jax.Array) and half.dtype == jax.numpy.bfloat16
