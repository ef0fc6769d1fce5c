"""What the package does when it is used as it should be."""

import gc
import inspect
import subprocess
import sys
import weakref

import numpy as np
import pytest

import attune

RNG = np.random.default_rng(5)


def qkv(b=1, hq=4, hkv=2, nq=9, nk=9, d=16, dv=16):
    shapes = (b, hq, nq, d), (b, hkv, nk, d), (b, hkv, nk, dv)
    q, k, v = (RNG.standard_normal(shape).astype(np.float32) for shape in shapes)
    return dict(q=q, k=k, v=v)


def expected(q, k, v, causal=False, scale=None):
    k, v = (np.repeat(x.astype(np.float64), q.shape[1] // x.shape[1], 1) for x in (k, v))
    s = q.astype(np.float64) @ k.swapaxes(-1, -2) * (scale or q.shape[-1] ** -0.5)
    if causal:
        i, j = np.arange(q.shape[2])[:, None] + k.shape[2] - q.shape[2], np.arange(k.shape[2])
        s = np.where(j <= i, s, -np.inf)
    e = np.exp(s - s.max(-1, keepdims=True))
    return e @ v / e.sum(-1, keepdims=True), np.log(e.sum(-1)) + s.max(-1)


def close(got, want):
    return np.abs(np.asarray(got, np.float64) - want).max() <= 2e-5 * np.abs(want).max()


def test_version():
    major, minor, patch = attune.version()
    assert (major, minor, patch) > (0, 0, 0)


def test_operators_and_describe(ctx):
    assert "softmax" in ctx.operators()
    descriptor = ctx.describe("softmax")
    assert descriptor["id"] == "softmax"
    assert {entry["name"] for entry in descriptor["entries"]} >= {"forward"}
    kernels = descriptor["entries"][0]["kernels"]
    assert any("reference" in kernel.get("flags", ()) for kernel in kernels)
    registry = ctx.describe()
    assert {plugin["status"] for plugin in registry["plugins"]} <= {"loaded", "refused", "shadowed"}


def test_run_returns_what_is_not_optional(ctx):
    x = qkv()
    result = ctx.run("softmax", **x)
    assert list(result) == ["o"]
    assert isinstance(result["o"], np.ndarray) and result["o"].dtype == np.float32
    assert close(result["o"], expected(**x)[0])


def test_run_with_outputs_and_parameters(ctx):
    x = qkv(nq=5)
    result = ctx.run("softmax", **x, causal=True, scale=0.3, outputs=("o", "lse"))
    o, lse = expected(**x, causal=True, scale=0.3)
    assert set(result) == {"o", "lse"}
    assert close(result["o"], o) and close(result["lse"], lse)
    assert set(ctx.run("softmax", **x, outputs="o")) == {"o"}


def test_parameter_kinds(ctx):
    """numpy scalars are numbers; a whole number may stand for a real one; a word is an enum's."""
    x = qkv()
    plain = ctx.run("softmax", **x, scale=1.0, causal=True, window_left=3)["o"]
    other = ctx.run(
        "softmax",
        **x,
        scale=1,
        causal=np.bool_(True),
        window_left=np.int32(3),
        activation="softmax"
    )["o"]
    assert np.array_equal(plain, other)
    assert np.array_equal(
        plain, ctx.run("softmax", **x, scale=np.float32(1), causal=True, window_left=3)["o"]
    )


def test_none_is_absent(ctx):
    x = qkv()
    result = ctx.run("softmax", **x, bias=None, scale=None, kernel=None, outputs=None, out=None)
    assert np.array_equal(result["o"], ctx.run("softmax", **x)["o"])


def test_out_is_written_in_place(ctx):
    x = qkv()
    o = np.full_like(x["q"], np.nan)
    result = ctx.run("softmax", **x, out={"o": o})
    assert result["o"] is o
    assert close(o, expected(**x)[0])
    again = np.full_like(o, np.nan)
    assert ctx.run("softmax", **x, o=again)["o"] is again
    assert np.array_equal(again, o)


def test_kernel_can_be_forced(ctx):
    x = qkv()
    kernels = ctx.describe("softmax")["entries"][0]["kernels"]
    reference = next(kernel["name"] for kernel in kernels if "reference" in kernel.get("flags", ()))
    with ctx.plan("softmax", **x, kernel=reference) as plan:
        assert plan.info["kernel"] == reference and plan.info["source"] == "forced"
    assert close(ctx.run("softmax", **x, kernel=reference)["o"], expected(**x)[0])


def test_plan(ctx):
    x = qkv(nq=7)
    plan = ctx.plan("softmax", **x, causal=True, outputs=("o", "lse"))
    info = plan.info
    assert set(info) == {
        *(
            "plugin",
            "kernel",
            "knobs",
            "workers",
            "source",
            "rigor",
            "expected_ns",
            "workspace_bytes",
        )
    }
    assert info["plugin"] and info["kernel"] and info["workers"] in (1, 2)
    assert info["source"] in ("exact", "bucket", "neighbour", "estimate", "default")
    assert isinstance(info["workspace_bytes"], int)
    assert plan.shapes == {
        "q": (1, 4, 7, 16),
        "k": (1, 2, 9, 16),
        "v": (1, 2, 9, 16),
        "o": (1, 4, 7, 16),
        "lse": (1, 4, 7),
    }
    assert plan.tensor("lse") == ("f32", (1, 4, 7))
    assert (plan.op, plan.entry) == ("softmax", "forward")
    assert info["kernel"] in repr(plan)
    o, lse = expected(**x, causal=True)
    for _ in range(2):
        result = plan.execute(**x)
        assert close(result["o"], o) and close(result["lse"], lse)
    plan.close()
    assert "closed" in repr(plan)


def test_plan_serves_smaller_sizes(ctx):
    """A growing cache: one plan for its capacity, views of the part in use."""
    x = qkv(nq=1, nk=64)
    o = np.empty_like(x["q"])
    with ctx.plan("softmax", **x) as plan:
        for n in (1, 17, 63, 64):
            part = dict(x, k=x["k"][:, :, :n], v=x["v"][:, :, :n])
            plan.execute(**part, out={"o": o})
            assert close(o, expected(**part)[0]), n


def test_per_call_parameters(ctx):
    x = qkv()
    with ctx.plan("softmax", **x, scale=0.5) as plan:
        assert close(plan.execute(**x)["o"], expected(**x, scale=0.5)[0])
        assert close(plan.execute(**x, scale=0.25)["o"], expected(**x, scale=0.25)[0])


def test_calls_of_other_kinds_in_turn(ctx):
    """What a plan keeps from one call for the next must not leak into calls that differ."""
    x = qkv(nq=8, nk=32)
    wide = dict(x, q=np.pad(x["q"], ((0, 0), (0, 0), (0, 3), (0, 0)))[:, :, :8])  # other strides
    short = dict(x, k=x["k"][:, :, :20], v=x["v"][:, :, :20])
    fixed = {name: array.copy() for name, array in x.items()}
    for array in fixed.values():
        array.flags.writeable = False
    with ctx.plan("softmax", **x) as plan:
        for _ in range(2):
            for tensors in (x, x, wide, x, short, short, fixed, x):
                want = expected(**tensors)[0]
                first = plan.execute(**tensors)["o"]
                assert close(first, want)
                o = np.full_like(first, np.nan)
                result = plan.execute(**tensors, out={"o": o})
                assert result["o"] is o and close(o, want)
                assert close(plan.execute(**tensors, o=o)["o"], want)
                assert close(first, want)  # an output of its own each time
        for _ in range(2):
            assert close(plan.execute(**x, scale=0.25)["o"], expected(**x, scale=0.25)[0])
            assert close(plan.execute(**x)["o"], expected(**x)[0])
        o = np.zeros_like(first)
        o.flags.writeable = False
        for out in ({"o": o}, {"q": first}, {"nothing": first}):
            with pytest.raises(attune.Error):
                plan.execute(**x, out=out)
            plan.execute(**x)
        with pytest.raises(attune.Error):
            plan.execute(**x, out={"o": first}, o=first)
        array = weakref.ref(x["q"])
        del x, wide, short, tensors, fixed
        gc.collect()
        assert array() is None


def test_plan_outlives_its_context():
    x = qkv()
    with attune.Context(tune="off", wisdom="") as context:
        plan = context.plan("softmax", **x)
    gc.collect()
    assert close(plan.execute(**x)["o"], expected(**x)[0])


def test_context_options(build):
    plugins = build / "lib" / "attune" / "plugins" / "1"
    for path in (plugins, str(plugins), [plugins]):
        with attune.Context(threads=1, tune="estimate", plugin_path=path, wisdom="") as context:
            assert "softmax" in context.operators()
            assert context.plan("softmax", **qkv()).info["workers"] == 1


def test_log_is_called():
    lines = []
    log = lambda level, text: lines.append((level, text))
    with attune.Context(plugin_path="not/absolute", wisdom="", log=log) as context:
        context.describe()
    assert any(level == "warning" and "not/absolute" in text for level, text in lines), lines


def test_load_adds_a_plugin(build, tmp_path):
    file = build / "lib" / "attune" / "plugins" / "1" / "attune_softmax.so"
    with attune.Context(plugin_path=str(tmp_path), wisdom="") as context:
        if "softmax" not in context.operators():  # the folder beside the library is searched too
            context.load(file)
        assert "softmax" in context.operators()


def test_function_has_signature_and_docstring(ctx):
    softmax = ctx.function("softmax")
    parameters = inspect.signature(softmax).parameters
    assert parameters["q"].default is inspect.Parameter.empty
    assert parameters["bias"].default is None
    assert parameters["causal"].default is False
    assert "softmax" in softmax.__doc__ and "B,Hq,Nq,D" in softmax.__doc__
    x = qkv()
    assert close(softmax(**x, causal=True)["o"], expected(**x, causal=True)[0])


def test_gradient_entry_defaults_to_the_given_tensors(ctx):
    """Every differentiating entry: the gradient of each given tensor, nothing else."""
    for op in ctx.operators():
        for entry in ctx.describe(op)["entries"]:
            if entry["of"] is None:
                continue
            signature = ctx._signature(op, entry["name"])
            wanted, conditional = signature.default_outputs({"q": None, "k": None})
            optional = {n for n, spec in signature.tensors.items() if spec["needed"] == "0"}
            assert {"dq", "dk"} & set(wanted) == {"dq", "dk"} & set(signature.tensors)
            assert "dv" not in set(wanted) & optional


def test_result_says_how_to_get_more(ctx):
    with pytest.raises(KeyError, match="lse.*outputs="):
        ctx.run("softmax", **qkv())["lse"]


def test_objects_are_freed(ctx):
    x = qkv()
    plan = ctx.plan("softmax", **x)
    gone = weakref.ref(plan)
    del plan
    gc.collect()
    assert gone() is None
    before = {name: sys.getrefcount(array) for name, array in x.items()}
    for _ in range(20):
        ctx.run("softmax", **x)
    gc.collect()
    assert before == {name: sys.getrefcount(array) for name, array in x.items()}


def test_nothing_is_left_at_exit(build):
    """Contexts, plans and a log function may be alive when the interpreter ends."""
    code = (
        "import attune, numpy as np\n"
        "c = attune.Context(log=lambda level, text: None, tune='off', wisdom='')\n"
        "x = np.zeros((1, 1, 3, 8), np.float32)\n"
        "p = c.plan('softmax', q=x, k=x, v=x)\n"
        "p.execute(q=x, k=x, v=x)\n"
        "print('done')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment(build)
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "done\n", "")


def environment(build):
    import os

    return {**os.environ, "PYTHONPATH": str(build / "python")}


def test_library_is_found_beside_the_package(build):
    """Staged or installed, the package needs no variable."""
    import os

    env = {
        n: v
        for n, v in environment(build).items()
        if n not in ("ATTUNE_LIBRARY", "LD_LIBRARY_PATH")
    }
    code = "import attune; print(attune.version(), attune.Context(wisdom='').operators() != [])"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=env, cwd=os.sep
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("True\n")


def test_library_by_variable(build, tmp_path):
    env = {**environment(build), "ATTUNE_LIBRARY": str(tmp_path / "libattune.so.1")}
    code = (
        "import attune\n"
        "try:\n    attune.Context()\n"
        "except attune.Error as e:\n    print(e.code, e.argument)\n    print(e)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("E_LOAD ATTUNE_LIBRARY\n") and str(tmp_path) in done.stdout
