"""What the pages show is true: programs are compiled and run, commands work, names exist."""

import json
import os
import pathlib
import re
import shutil
import subprocess
import sys

import pytest

import problems

ROOT = pathlib.Path(__file__).resolve().parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
ABI = (ROOT / "docs/abi.md").read_text()
README = (ROOT / "README.md").read_text()


def blocks(text, language):
    """Code blocks of a language, each with the unnamed block right behind it, if there is one."""
    form = rf"^```{language}\n(.*?)^```\n(?:```\n(.*?)^```\n)?"
    return re.findall(form, text, re.M | re.S)


def run(*command, **options):
    done = subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, **options
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def environment(build, **more):
    return {
        **os.environ,
        "LD_LIBRARY_PATH": str(build / "lib"),
        "PYTHONPATH": str(build / "python"),
        **more,
    }


@pytest.mark.parametrize("standard", ["c11", "c17"])
def test_program_of_the_readme(build, tmp_path, standard):
    if not shutil.which("cc"):
        pytest.skip("no cc")
    [(program, output)] = blocks(README, "c")
    (tmp_path / "program.c").write_text(program)
    run(
        "cc",
        f"-std={standard}",
        "-Wall",
        "-Wextra",
        "-Wpedantic",
        "-Werror",
        tmp_path / "program.c",
        f"-I{build / 'include'}",
        f"-L{build / 'lib'}",
        "-lattune",
        "-o",
        tmp_path / "program",
    )
    assert run(tmp_path / "program", env=environment(build)) == output


def test_python_of_the_readme(build):
    [(program, output)] = blocks(README, "python")
    assert run(sys.executable, "-c", program, env=environment(build)) == output


def test_commands_of_the_readme_exist(build):
    usage = run(build / "bin" / "attune", "--help")
    offered = set(re.findall(r"^  ([a-z]+)  ", usage.partition("SUBCOMMANDS:")[2], re.M))
    shown = set(re.findall(r"\| `attune ([a-z]+)", README))
    assert shown and shown <= offered
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.M))
    assert set(re.findall(r"^    make ([a-z]+)", README, re.M)) <= targets


def test_code_of_the_plugin_page_is_from_the_sources():
    sources = [ROOT / "plugins/_template/plugin.c", ROOT / "examples/my-plugin/plugin.c"]
    words = [" ".join(s.read_text().split()) for s in sources]
    code = blocks((ROOT / "docs/write-a-plugin.md").read_text(), "c")
    assert len(code) >= 5
    for block, _ in code:
        assert any(" ".join(block.split()) in text for text in words), block


def test_commands_of_the_plugin_page(build, tmp_path):
    """The commands in a copy of what they touch: plugins, headers and the staged program."""
    for folder in ("plugins/_template", "plugins/_kit", "include"):
        shutil.copytree(ROOT / folder, tmp_path / folder)
    shutil.copy(ROOT / "plugins/plugins.mk", tmp_path / "plugins/plugins.mk")
    for staged in ("bin", "lib"):
        shutil.copytree(build / staged, tmp_path / "build" / staged, symlinks=True)
    shown = blocks((ROOT / "docs/write-a-plugin.md").read_text(), "sh")
    lines = [line for block, _ in shown for line in block.splitlines() if "pytest" not in line]
    assert len(lines) == 6
    done = {line: run("sh", "-c", line, cwd=tmp_path) for line in lines}
    assert re.search(r"^mine\s+1.0.0", done["build/bin/attune list"], re.M)
    assert re.search(
        r"^state .*\n(?:.*\n)*reference ", done["build/bin/attune bench mine --kernel all"], re.M
    )
    assert "1 of 1" in done["build/bin/attune verify mine --golden plugins --kernel all"]


def test_environment_of_the_abi_page(build):
    """Every variable that a context reads, and none that nobody does."""
    shown = set(re.findall(r"^\| (`ATTUNE_[A-Z_]+`.*?) \|", ABI, re.M))
    shown = {name for cell in shown for name in re.findall(r"ATTUNE_[A-Z_]+", cell)}
    read = {name: "?" for name in shown if name != "ATTUNE_LIBRARY"}
    read.update(ATTUNE_PLUGIN_PATH="/", ATTUNE_WISDOM="none")
    program = (
        "import attune; context = attune.Context(log=lambda *_: None);"
        "print(context._describe('diagnostics', None))"
    )
    seen = json.loads(run(sys.executable, "-c", program, env=environment(build, **read)))
    assert set(seen["environment"]) == set(read)


def test_generators_of_the_abi_page():
    rows = re.findall(
        r"^\| (`.*?) \|", ABI.partition("| generator |")[2].partition("\n\n")[0], re.M
    )
    assert {n for row in rows for n in re.findall(r"`([a-z]+)", row)} == set(problems.model.GENS)


def test_limits_of_the_abi_page():
    source = (ROOT / "Sources/AttuneCore/Expression/Limits.swift").read_text()
    limit = {name: int(n) for name, n in re.findall(r"(\w+) = (\d+)", source)}
    rows = dict(re.findall(r"^\| (.*?) \| (.*?) \|$", ABI.partition("**Limits**")[2], re.M))
    for words, names in {
        "expression, shape / `let`": "expression nodes lets",
        "rank, length of a name": "rank name",
        "tensors, symbols, parameters, native arguments": "tensors",
        "rules per entry, entries and presets per operator, operators per plugin": (
            "rules entries presets"
        ),
        "kernels per entry, knobs per kernel, values per knob": "kernels knobs knobValues",
        "combinations of knobs per entry": "candidates",
    }.items():
        numbers = list(map(int, re.findall(r"\d+", rows[words])))
        assert numbers[: len(names.split())] == [limit[n] for n in names.split()], words
    assert limit["tensors"] == limit["symbols"] == limit["params"] == limit["arguments"]
    assert limit["shape"] == limit["expression"]


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text()):
        assert (page.parent / target).exists(), target


def test_every_folder_of_the_host_is_on_the_map():
    page = (ROOT / "docs/architecture.md").read_text()
    for folder in (ROOT / "Sources" / "AttuneCore").iterdir():
        assert re.search(rf"\b{folder.name}\b", page), folder.name


def test_numbers_of_the_numerics_page():
    """Every row names three words and stays within its tolerance; the script writes such rows."""
    page = (ROOT / "docs/numerics.md").read_text()
    table = page.partition("<!-- numerics: begin -->")[2].partition("<!-- numerics: end -->")[0]
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines()[3:]]
    assert len(rows) > 10
    for row in rows:
        assert len(row) == 7 and all(row[:3]) and 0 <= int(row[6].split()[0]) <= 100, row


def test_numerics_script(build):
    env = environment(build, ATTUNE_LIBRARY=str(build / "lib" / "libattune.so.1"))
    out = run(sys.executable, ROOT / "Tests/Benchmarks/numerics.py", "--rounds", "2", env=env)
    assert len(out.splitlines()) > 10 and "| reference |" in out
