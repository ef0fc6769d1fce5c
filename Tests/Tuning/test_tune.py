"""`attune tune` and `attune explain`, with a plugin whose kernels are slow, wrong, crash, hang and write where they must not."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
BUILD = Path(os.environ.get("ATTUNE_BUILD", ROOT / "build"))
ATTUNE = BUILD / "bin" / "attune"
OP = "org.example.twice"
SHAPE = "B=8,N=40000"


class Place:
    """A plugin folder, a wisdom file, and the command line among them."""

    def __init__(self, folder):
        self.folder = folder
        self.wisdom = folder / "wisdom.jsonl"
        self.plugins = folder / "plugins"
        self.plugins.mkdir()

    def build(self, *flags):
        compiler = shutil.which("clang") or shutil.which("cc")
        made = self.folder / "made.so"
        subprocess.run(
            [compiler, "-O1", "-shared", "-fPIC", "-Wl,--build-id", f"-I{ROOT / 'include'}", *flags,
             HERE / "plugin.c", "-o", made], check=True)  # fmt: skip
        made.rename(self.plugins / "attune_twice.so")

    def run(self, *words, code=0, **environment):
        done = subprocess.run(
            [ATTUNE, *map(str, words)], capture_output=True, text=True, timeout=300,
            env=os.environ | {"ATTUNE_PLUGIN_PATH": str(self.plugins)} | environment)  # fmt: skip
        assert done.returncode == code, (done.returncode, done.stdout, done.stderr)
        return done

    def tune(self, *words, code=0, mode="measure", patience="2s"):
        done = self.run(
            "tune", *words, "--mode", mode, "--patience", patience, "--budget", "3s", "--out", self.wisdom, "--json", code=code)  # fmt: skip
        return json.loads(done.stdout)

    def explain(self, shape=SHAPE, mode="frozen"):
        return json.loads(
            self.run("explain", OP, "--shape", shape, "--threads", 1, "--tune", mode, "--wisdom", self.wisdom, "--json")
            .stdout)  # fmt: skip

    def lines(self, kind):
        records = [json.loads(line.split(" ", 1)[1]) for line in self.wisdom.read_text().splitlines()]
        return [record for record in records if record["kind"] == kind]


@pytest.fixture
def place(tmp_path):
    return Place(tmp_path)


@pytest.fixture(scope="module")
def tuned(tmp_path_factory):
    """The wild plugin, tuned once."""
    place = Place(tmp_path_factory.mktemp("tuned"))
    place.build()
    place.answer = place.tune(OP, "--shape", SHAPE, "--threads", 1, code=1)
    return place


def test_the_best_setting_of_the_best_kernel_wins(tuned):
    (problem,) = tuned.answer["problems"]
    assert (problem["kernel"], problem["knobs"], problem["error"]) == ("knobbed", "rounds=1", None)
    assert problem["median_ns"] < problem["default_ns"]


def test_bad_kernels_are_quarantined_with_their_reason(tuned):
    reasons = {entry["kernel"]: entry["status"] for entry in tuned.answer["quarantined"]}
    assert reasons == {
        "wrong": "wrong", "outside": "outside", "crashing": "crashed", "hanging": "hung",
    }  # fmt: skip
    assert {record["candidate"]["kernel"] for record in tuned.lines("quarantine")} == set(reasons)


def test_a_kernel_that_declines_only_drops_out(tuned):
    (record,) = tuned.lines("tuned")
    assert {t["status"] for t in record["trials"] if t["kernel"] == "failing"} == {"failed"}
    assert "failing" not in {d["kernel"] for d in tuned.explain()["declined"]}


def test_quarantine_holds_in_every_mode_and_is_explained(tuned):
    for mode in ("frozen", "estimate", "off"):
        found = tuned.explain(mode=mode)
        assert found["kernel"] in ("knobbed", "slow"), mode
        assert {d["kernel"] for d in found["declined"]} >= {"wrong", "outside", "crashing", "hanging"}


def test_the_estimates_choice_is_the_yardstick_though_it_takes_no_small_problem(place):
    place.build("-DTAME", "-DLARGE")
    place.tune(OP, "--shape", SHAPE, "--threads", 1, code=1)
    (record,) = place.lines("tuned")
    yardsticks = {t["kernel"] for t in record["trials"] if t["ratio"] == 1}
    assert yardsticks == {"large"}, record["trials"]
    assert (record["winner"]["kernel"], record["winner"]["knobs"]) == ("knobbed", "rounds=1")


def test_a_new_build_is_tried_again(tuned, tmp_path):
    again = Place(tmp_path)
    shutil.copy(tuned.wisdom, again.wisdom)
    again.build("-DTAME", "-DANOTHER")
    assert not [d for d in again.explain()["declined"] if "build" in d["reason"]]


def test_the_second_run_measures_nothing(tuned):
    before = tuned.wisdom.read_bytes()
    answer = tuned.tune(OP, "--shape", SHAPE, "--threads", 1)
    assert answer["quarantined"] == []
    assert answer["problems"][0]["kernel"] == "knobbed"
    assert tuned.wisdom.read_bytes() == before


def test_a_class_of_sizes_shares_its_record(tuned):
    found = tuned.explain("B=8,N=33000")
    assert (found["source"], found["kernel"]) == ("bucket", "knobbed")
    near = tuned.explain("B=8,N=60000", mode="estimate")
    assert (near["source"], near["kernel"]) == ("neighbour", "knobbed")
    far = tuned.explain("B=8,N=600000", mode="estimate")
    assert far["source"] == "estimate"


def test_frozen_without_a_record_says_so(tuned):
    done = tuned.run("explain", OP, "--shape", "B=3,N=40000", "--tune", "frozen", "--wisdom", tuned.wisdom, code=2)
    assert "E_NOT_TUNED" in done.stderr


def test_a_new_kernel_measures_only_itself_and_the_incumbent(place):
    place.build("-DTAME")
    place.tune(OP, "--shape", SHAPE, "--threads", 1, code=1)
    old = {(t["kernel"], t["knobs"]): t for t in place.lines("tuned")[0]["trials"]}
    place.build("-DTAME", "-DEXTRA")
    place.tune(OP, "--shape", SHAPE, "--threads", 1, code=1)
    new = {(t["kernel"], t["knobs"]): t for t in place.lines("tuned")[0]["trials"]}
    assert ("extra", "") in new
    measured_again = {name for name, t in new.items() if name in old and t["date"] != old[name]["date"]}
    assert measured_again <= {("slow", ""), ("knobbed", "rounds=1"), ("wrong", ""), ("outside", ""), ("failing", "")}


def test_exhaustive_measures_every_setting(place):
    place.build("-DTAME")
    place.tune(OP, "--shape", "B=4,N=1000", "--threads", 1, mode="exhaustive", code=1)
    trials = {(t["kernel"], t["knobs"]) for t in place.lines("tuned")[0]["trials"]}
    assert {("knobbed", f"rounds={r}") for r in (1, 4, 16)} <= trials


def test_a_file_of_shapes_with_a_bad_line(place):
    place.build("-DTAME")
    file = place.folder / "shapes.jsonl"
    file.write_text(
        '{"op": "org.example.twice", "shape": "B=2,N=500", "threads": 1}\n'
        "{broken\n"
        '{"op": "org.example.twice", "tensors": {"v": ["f32", 2, 700], "o": ["f32", 2, 700]}, "threads": 1}\n'
    )
    done = place.run("tune", "--shapes", file, "--mode", "measure", "--out", place.wisdom, "--json", code=1)
    assert f"{file} line 2" in done.stderr
    assert [p["error"] for p in json.loads(done.stdout)["problems"]] == [None, None]


def test_recorded_shapes_can_be_tuned(place):
    place.build("-DTAME")
    log = place.folder / "recorded.jsonl"
    for _ in range(2):
        place.run("bench", OP, "--shape", "B=2,N=300", "--kernel", "slow", "--threads", 1, ATTUNE_RECORD_SHAPES=str(log))
    assert {json.loads(line)["op"] for line in log.read_text().splitlines()} == {OP}
    answer = json.loads(
        place.run("tune", "--shapes", log, "--mode", "measure", "--out", place.wisdom, "--json", code=1).stdout)  # fmt: skip
    assert len(answer["problems"]) == 1 and answer["problems"][0]["error"] is None


def test_foreign_plugins_are_not_measured_in_the_callers_process(place):
    place.build()
    found = place.explain(mode="measure")
    assert found["source"] == "estimate"


def test_the_chart_shows_the_winner(tuned):
    svg = tuned.folder / "chart.svg"
    tuned.run("explain", OP, "--shape", SHAPE, "--threads", 1, "--wisdom", tuned.wisdom, "--tune", "frozen", "--svg", svg)
    text = svg.read_text()
    assert text.startswith("<svg") and "knobbed rounds=1" in text


@pytest.mark.parametrize(
    "words, says",
    [
        (["--budget", "0s"], "--budget 0s"),
        (["--budget", "-5ms"], "--budget -5ms"),
        (["--budget", "5"], "its unit"),
        (["--mode", "harder"], "--mode harder"),
        (["--threads", "0"], "--threads 0"),
        (["--shape", "B=1,N=x"], "N=x"),
    ],
)
def test_wrong_words_are_refused(place, words, says):
    place.build("-DTAME")
    shape = [] if "--shape" in words else ["--shape", "B=1,N=8"]
    budget = [f"{words[0]}={words[1]}"] if words[0] == "--budget" else words
    done = place.run("tune", OP, *shape, *budget, "--out", place.wisdom, code=1 if "--shape" in words else 2)
    assert says in done.stderr + done.stdout
    assert not place.wisdom.exists() or not place.lines("tuned")


def test_unknown_operators_are_named(place):
    assert "nothing.like.it" in place.run("tune", "nothing.like.it", code=2).stderr
