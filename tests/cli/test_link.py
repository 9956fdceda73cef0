"""``link`` writes the drop-in, takes it away again, and touches nothing that is not its own."""

import pytest
from fake_threestudio import clone, write_checkout

from threestudio_asd.cli.main import main


@pytest.fixture
def checkout(tmp_path):
    return write_checkout(tmp_path / "threestudio")


def contents(folder):
    return {
        str(path.relative_to(folder)): None if path.is_dir() else path.read_bytes()
        for path in folder.rglob("*")
    }


def refused(capsys, *argv):
    assert main(["link", *map(str, argv)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


def test_link_writes_the_drop_in_once_and_remove_undoes_it(checkout, capsys):
    before = contents(checkout)
    assert main(["link", str(checkout)]) == 0
    assert capsys.readouterr().out.startswith(f"linked: {checkout}/custom/threestudio-asd\n")
    folder = checkout / "custom/threestudio-asd"
    assert sorted(path.name for path in folder.iterdir()) == ["README.md", "__init__.py", "configs"]
    assert (folder / "configs/tiny/asd-nerf.yaml").is_file()
    written = contents(checkout)

    assert main(["link", str(checkout)]) == 0
    assert capsys.readouterr().out.startswith("already linked")
    assert contents(checkout) == written

    (folder / "__pycache__").mkdir()
    assert main(["link", str(checkout), "--remove"]) == 0
    assert contents(checkout) == before
    assert main(["link", "--remove", str(checkout)]) == 0
    assert "nothing to remove" in capsys.readouterr().out


def test_an_outdated_drop_in_is_renewed(checkout):
    assert main(["link", str(checkout)]) == 0
    folder = checkout / "custom/threestudio-asd"
    current = contents(folder)
    first = (folder / "__init__.py").read_text().splitlines()[0]
    (folder / "__init__.py").write_text(f"{first}\nimport an_older_release\n")
    (folder / "configs").unlink()
    (folder / "configs").symlink_to("/nowhere")
    assert main(["link", str(checkout)]) == 0
    assert contents(folder) == current


@pytest.mark.parametrize("lacking", ["launch.py", "threestudio/__init__.py"])
def test_a_folder_that_is_no_checkout_is_refused(checkout, capsys, lacking):
    (checkout / lacking).unlink()
    assert "is no checkout of threestudio" in refused(capsys, checkout)
    assert not (checkout / "custom/threestudio-asd").exists()


def test_an_old_checkout_is_refused(tmp_path, capsys):
    old = write_checkout(tmp_path / "old", version="0.1.0")
    assert f"{old} is threestudio 0.1.0; 0.2.3 or newer is needed" in refused(capsys, old)


@pytest.mark.parametrize("remove", [[], ["--remove"]])
def test_a_foreign_folder_is_left_alone(checkout, capsys, remove):
    folder = checkout / "custom/threestudio-asd"
    folder.mkdir()
    (folder / "__init__.py").write_text("print('mine')\n")
    before = contents(checkout)
    assert "exists and is not ours" in refused(capsys, checkout, *remove)
    assert contents(checkout) == before


def test_a_users_file_in_the_drop_in_keeps_it_from_being_removed(checkout, capsys):
    assert main(["link", str(checkout)]) == 0
    capsys.readouterr()
    mine = checkout / "custom/threestudio-asd/mine.yaml"
    mine.write_text("a: 1\n")
    assert "holds files that are not ours: mine.yaml" in refused(capsys, checkout, "--remove")
    assert mine.is_file()


@pytest.mark.parametrize(
    ("remove", "message"), [([], "works as it is"), (["--remove"], "delete it yourself")]
)
def test_a_clone_needs_no_link_and_is_not_removed(checkout, capsys, remove, message):
    folder = clone(checkout)
    assert message in refused(capsys, checkout, *remove)
    assert (folder / "threestudio_asd").is_dir()
