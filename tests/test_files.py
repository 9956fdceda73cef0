"""A file appears whole, or nothing changes."""

import pytest

from threestudio_asd.files import folder_written_whole, written_whole


def test_the_name_appears_with_the_content(tmp_path):
    path = tmp_path / "new folder/figures.json"
    with written_whole(path) as partial:
        partial.write_text("whole")
        assert not path.exists() and partial.parent == path.parent
    assert path.read_text() == "whole"
    assert list(path.parent.iterdir()) == [path]


def test_an_error_leaves_what_was_there(tmp_path):
    path = tmp_path / "figures.json"
    path.write_text("old")
    with pytest.raises(ZeroDivisionError), written_whole(path) as partial:
        partial.write_text("ne")
        raise ZeroDivisionError
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_appears_whole_or_not_at_all(tmp_path):
    path = tmp_path / "models/new"
    with pytest.raises(ZeroDivisionError), folder_written_whole(path) as partial:
        (partial / "half").write_text("ha")
        raise ZeroDivisionError
    assert list(path.parent.iterdir()) == []
    with folder_written_whole(path) as partial:
        (partial / "whole").write_text("whole")
        assert not path.exists()
    assert list(path.parent.iterdir()) == [path]
    assert (path / "whole").read_text() == "whole"
