"""The structs, constants and prototypes of the package against the headers, by a C compiler."""

import os
import pathlib
import re
import subprocess

import pytest

from attune import _abi

ROOT = pathlib.Path(__file__).resolve().parents[2]
INCLUDE = ROOT / "include"


@pytest.fixture(scope="module")
def facts(tmp_path_factory):
    """{C expression: value} as the compiler sees it."""
    expressions = []
    for name, (struct, _) in _abi.STRUCTS.items():
        expressions.append(f"sizeof({name})")
        for field, _ in struct._fields_:
            expressions.append(f"offsetof({name}, {field})")
            expressions.append(f"sizeof((({name} *)0)->{field})")
    expressions += ["ATTUNE_" + name for name in _abi.STATUS]
    expressions += ["ATTUNE_" + word.upper() for word, _, _ in _abi.DTYPES]
    expressions += ["ATTUNE_TUNE_" + word.upper() for word in _abi.TUNE]
    expressions += ["ATTUNE_LOG_" + word.upper() for word in _abi.LOG_LEVEL]
    expressions += ["ATTUNE_" + word for word in C_SOURCE]
    expressions += [f"ATTUNE_PARAM_{kind}" for kind in ("BOOL", "I64", "F64", "ENUM")]
    expressions += ["ATTUNE_CHECKED", "ATTUNE_DEVICE_CPU"]
    for index in range(len(_abi.DTYPES)):
        expressions += [f"attune_dtype_of({index}).code", f"attune_dtype_of({index}).bits"]
    folder = tmp_path_factory.mktemp("layout")
    lines = "\n".join(f'  printf("%lld\\n", (long long)({e}));' for e in expressions)
    headers = "".join(f"#include <{h}.h>\n" for h in ("attune/attune", "attune/plugin", "stdio"))
    source = f"{headers}int main(void) {{\n{lines}\n}}\n"
    (folder / "facts.c").write_text(source)
    compiler = os.environ.get("CC", "cc")
    command = [
        compiler,
        "-std=c11",
        "-Wall",
        "-Werror",
        "-I",
        INCLUDE,
        folder / "facts.c",
        "-o",
        folder / "facts",
    ]
    subprocess.run(command, check=True)
    out = subprocess.run([folder / "facts"], check=True, capture_output=True, text=True).stdout
    values = [int(line) for line in out.split()]
    assert len(values) == len(expressions)
    return dict(zip(expressions, values))


C_SOURCE = ("EXACT", "BUCKET", "NEIGHBOUR", "ESTIMATED", "DEFAULTED", "FORCED")


@pytest.mark.parametrize("name", _abi.STRUCTS)
def test_struct(name, facts):
    struct, size = _abi.STRUCTS[name]
    assert facts[f"sizeof({name})"] == size
    for field, _ in struct._fields_:
        place = getattr(struct, field)
        assert facts[f"offsetof({name}, {field})"] == place.offset, field
        assert facts[f"sizeof((({name} *)0)->{field})"] == place.size, field


def test_no_field_is_missing():
    """Fields as the headers spell them, so that a new one cannot be forgotten here."""
    text = "".join(
        (INCLUDE / "attune" / f).read_text() for f in ("types.h", "tensor.h", "error.h", "attune.h")
    )
    text = re.sub(r"/\*.*?\*/", "", text, flags=re.S)
    for name, (struct, _) in _abi.STRUCTS.items():
        body = re.search(r"typedef struct %s \{(.*?)\n?\} %s;" % (name, name), text, re.S).group(1)
        body = re.sub(r"\(\*(\w+)\)\([^;]*\)", r"\1", body)
        fields = [
            re.search(r"(\w+)(\[\d+\])?$", part.strip()).group(1)
            for part in re.split("[;,]", body)
            if part.strip()
        ]
        assert fields == [field for field, _ in struct._fields_], name


def test_constants(facts):
    for name, value in _abi.STATUS.items():
        assert facts["ATTUNE_" + name] == value
    for index, (word, code, bits) in enumerate(_abi.DTYPES):
        assert facts["ATTUNE_" + word.upper()] == index
        assert (
            facts[f"attune_dtype_of({index}).code"],
            facts[f"attune_dtype_of({index}).bits"],
        ) == (code, bits)
    for index, word in enumerate(_abi.TUNE):
        assert facts["ATTUNE_TUNE_" + word.upper()] == index
    for index, word in enumerate(_abi.LOG_LEVEL):
        assert facts["ATTUNE_LOG_" + word.upper()] == index
    assert [facts["ATTUNE_" + word] for word in C_SOURCE] == list(range(1, len(_abi.SOURCE)))
    assert facts["ATTUNE_CHECKED"] == _abi.CHECKED and facts["ATTUNE_DEVICE_CPU"] == _abi.DEVICE_CPU
    kinds = [facts[f"ATTUNE_PARAM_{kind}"] for kind in ("BOOL", "I64", "F64", "ENUM")]
    assert kinds == [_abi.PARAM_BOOL, _abi.PARAM_I64, _abi.PARAM_F64, _abi.PARAM_ENUM]


def test_every_status_is_known():
    text = (INCLUDE / "attune" / "error.h").read_text()
    named = {m[1]: int(m[2]) for m in re.finditer(r"ATTUNE_(OK|E_\w+) = (-?\d+)", text)}
    assert named == _abi.STATUS


def test_every_function_is_declared():
    """Names and numbers of arguments as in the header."""
    text = re.sub(r"/\*.*?\*/", "", (INCLUDE / "attune" / "attune.h").read_text(), flags=re.S)
    declared = {
        m[1]: len(m[2].split(","))
        for m in re.finditer(r"ATTUNE_EXPORT [\w *]+?\b(attune_\w+)\(([^;]*)\);", text)
    }
    assert declared == {name: len(arguments) for name, (_, arguments) in _abi.FUNCTIONS.items()}
