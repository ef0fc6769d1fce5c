"""Prints the layout of the ABI: constants, every field's offset and size, callbacks, functions.

The headers are the only input, so that a new field or function shows up by itself.
`--write` replaces the golden.
"""

import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
HEADERS = ["types.h", "error.h", "tensor.h", "attune.h", "plugin.h"]
GOLDEN = Path(__file__).with_name("layout-1.0.golden")


def source(name, include=ROOT / "include"):
    """A header without comments, preprocessor lines and inline function bodies."""
    text = (include / "attune" / name).read_text()
    text = re.sub(r"/\*.*?\*/", " ", text, flags=re.S)
    text = re.sub(r"#ifdef DLPACK_DLPACK_H_.*?#else", "", text, flags=re.S)
    text = re.sub(r"^\s*#(?:.*\\\n)*.*$", "", text, flags=re.M)
    text = re.sub(r"static inline [^{;]*\{.*?\n\}", "", text, flags=re.S)
    return " ".join(text.split())


def constants(text):
    """Names of all enumerators, in order."""
    for body in re.findall(r"\benum\s*\{([^}]*)\}", text):
        for item in body.split(","):
            if item.strip():
                yield item.split("=")[0].strip()


def fields(declaration):
    """`const char *op, *entry` -> (op, const char *op), (entry, const char *entry)."""
    declaration = " ".join(declaration.split())
    pointer = re.search(r"\(\s*\*\s*(\w+)\s*\)\s*\(", declaration)
    if pointer:
        return [(pointer[1], declaration)]
    base, declarators = re.match(r"((?:const |struct )*\w+)\s*(.*)", declaration).groups()
    names = [d.strip() for d in declarators.split(",")]
    return [(re.search(r"(\w+)(?:\[\w+\])?$", d)[1], f"{base} {d}") for d in names]


def structs(text):
    """(name, [(field, its declaration)]) of every struct that is defined."""
    for name, body in re.findall(r"typedef struct (\w+)\s*\{(.*?)\}\s*\1\s*;", text):
        yield name, [f for d in body.split(";") if d.strip() for f in fields(d)]


def functions(text):
    """Prototypes of the exported functions."""
    return re.findall(r"ATTUNE_EXPORT ([^;]*?\b\w+\s*\([^;]*\))\s*;", text)


def callbacks(text):
    """Function pointer types."""
    return re.findall(r"typedef ([^;{}]*\(\s*\*\s*\w+\s*\)\s*\([^;]*\))\s*;", text)


def program():
    """A C program that prints the layout as its compiler sees it."""
    out = [
        "#ifdef __cplusplus\n#define ALIGN(T) alignof(T)\n#else\n#define ALIGN(T) _Alignof(T)\n#endif",
        "#include <attune/attune.h>",
        "#include <attune/plugin.h>",
        "#include <stdio.h>",
        "int main(void) {",
    ]
    for macro in ["ATTUNE_ABI_MAJOR", "ATTUNE_ABI_MINOR"]:
        out.append(f'  printf("constant {macro} %d\\n", {macro});')
    texts = [source(h) for h in HEADERS]
    for text in texts:
        for name in constants(text):
            out.append(f'  printf("constant {name} %lld\\n", (long long){name});')
    for text in texts:
        for name, members in structs(text):
            out.append(
                f'  printf("struct {name} size %zu align %zu\\n", sizeof({name}), ALIGN({name}));'
            )
            for field, declaration in members:
                out.append(
                    f'  printf("  %zu %zu {field}: {declaration}\\n", '
                    f"offsetof({name}, {field}), sizeof((({name} *)0)->{field}));"
                )
    for kind, lines in [("callback", callbacks), ("function", functions)]:
        for text in texts:
            for line in lines(text):
                out.append(f'  puts("{kind} {line}");')
    out.append("  return 0;\n}")
    return "\n".join(out) + "\n"


def dump(compiler=("cc", "-std=c11")):
    """The layout as `compiler` (a command line) sees it."""
    with tempfile.TemporaryDirectory() as folder:
        suffix = ".cpp" if "++" in compiler[0] else ".c"
        path, binary = Path(folder, "layout" + suffix), Path(folder, "layout")
        path.write_text(program())
        subprocess.run([*compiler, "-I", ROOT / "include", path, "-o", binary], check=True)
        return subprocess.run([binary], check=True, capture_output=True, text=True).stdout


if __name__ == "__main__":
    if sys.argv[1:] == ["--write"]:
        GOLDEN.write_text(dump())
    else:
        sys.stdout.write(dump())
