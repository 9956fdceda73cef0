"""An empty folder to work in."""

import pytest


@pytest.fixture
def workspace(tmp_path, monkeypatch):
    """The test runs in a folder of its own; returns it."""
    monkeypatch.chdir(tmp_path)
    return tmp_path
