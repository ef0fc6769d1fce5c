"""Contexts without plugins: they open in no time, and remember all the same."""

import json
import os

import pytest

import attune


@pytest.fixture(autouse=True)
def no_plugins(monkeypatch, tmp_path):
    monkeypatch.setenv("ATTUNE_DISABLE", "*")
    monkeypatch.setenv("ATTUNE_PLUGIN_PATH", str(tmp_path))


@pytest.fixture
def logged():
    return []


@pytest.fixture
def open_context(logged):
    """open_context(path): a context that remembers in the file, its log lines in `logged`."""

    def make(wisdom=""):
        return attune.Context(
            threads=1, wisdom=wisdom, log=lambda level, text: logged.append((level, text))
        )

    return make


def status(context):
    return json.loads(context._describe("tuning", None))["wisdom"]


@pytest.fixture
def cpu(open_context):
    """What the library calls this machine."""
    with open_context() as context:
        return status(context)["cpu"]


@pytest.fixture
def in_child():
    """in_child(f, ...): runs f in a forked child, which ends without cleaning up; its process id."""

    def start(body, *arguments):
        child = os.fork()
        if child == 0:
            code = 1
            try:
                body(*arguments)
                code = 0
            finally:
                os._exit(code)
        return child

    return start
