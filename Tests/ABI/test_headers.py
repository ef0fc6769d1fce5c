"""Every header compiles alone, as C and C++ of all supported years, without a warning."""

import pytest
from abi_support import COMPILERS, HERE, ROOT, WARNINGS, run

HEADERS = ["types.h", "error.h", "tensor.h", "attune.h", "plugin.h", "helpers.h"]


def compiles(compiler, standard, text, tmp_path, *options):
    source = tmp_path / ("unit.cpp" if "++" in compiler else "unit.c")
    source.write_text(text)
    run(compiler, f"-std={standard}", *WARNINGS, "-Wpadded", *options, "-I", ROOT / "include",
        "-c", source, "-o", tmp_path / "unit.o")  # fmt: skip


def test_the_list_of_headers_is_complete():
    assert sorted(HEADERS) == sorted(p.name for p in (ROOT / "include/attune").iterdir())


@pytest.mark.parametrize("compiler,standard", COMPILERS)
@pytest.mark.parametrize("header", HEADERS)
def test_header_alone(compiler, standard, header, tmp_path):
    text = f"#include <attune/{header}>\n#include <attune/{header}>\ntypedef int used;\n"
    compiles(compiler, standard, text, tmp_path)


@pytest.mark.parametrize("compiler,standard", COMPILERS)
def test_both_sides_in_one_file(compiler, standard, tmp_path):
    for first, second in [("attune", "plugin"), ("plugin", "attune"), ("helpers", "attune")]:
        text = f"#include <attune/{first}.h>\n#include <attune/{second}.h>\ntypedef int used;\n"
        compiles(compiler, standard, text, tmp_path)


@pytest.mark.parametrize("compiler,standard", COMPILERS)
def test_after_the_real_tensor_header(compiler, standard, tmp_path):
    """With DLPack's header first, its types are ours: a DLTensor is passed without a cast."""
    text = """
#include "dlpack_shape.h"
#include <attune/attune.h>
#include <attune/plugin.h>
attune_status pass(const attune_plan *plan, DLTensor *t, attune_error *e);
attune_status pass(const attune_plan *plan, DLTensor *t, attune_error *e) {
  const attune_tensor *const tensors[] = {t};
  attune_bindings b = {sizeof b, 1, tensors, {0, 0, 0}, 0, 0, 0, 0};
  DLTensor made = attune_tensor_make(t->data, ATTUNE_F32, t->ndim, t->shape);
  return attune_data(&made) ? attune_plan_execute(plan, &b, e) : ATTUNE_OK;
}
"""
    compiles(compiler, standard, text, tmp_path, "-I", HERE)


@pytest.mark.parametrize("compiler,standard", COMPILERS)
def test_a_hidden_hole_would_be_seen(compiler, standard, tmp_path):
    """The matrix is worth something only if -Wpadded bites."""
    with pytest.raises(AssertionError, match="pad"):
        compiles(compiler, standard, "struct s { int a; double b; };\nstruct s x;\n", tmp_path)
