"""Fixtures of the ABI tests."""

import pytest
from abi_support import BUILD, CC, build_plugin


@pytest.fixture(scope="session")
def library():
    path = BUILD / "lib/libattune.so"
    assert path.exists(), f"{path} is missing: run make"
    return path


@pytest.fixture(scope="session")
def fixture_plugin(tmp_path_factory):
    """The folder of our own plugin, built as an outside author would: the staged headers only."""
    folder = tmp_path_factory.mktemp("plugins")
    build_plugin(CC, "c11", BUILD / "include", folder / "attune_fixture.so")
    return folder
