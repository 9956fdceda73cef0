"""``link``: put the drop-in into a threestudio checkout's ``custom/`` folder, or take it away."""

import argparse
import shutil
from collections.abc import Sequence
from pathlib import Path

from threestudio_asd.dropin.checkout import TEMPLATE, Checkout, open_checkout
from threestudio_asd.errors import UserError
from threestudio_asd.studio.config.files import packaged_configs

FILES = ("__init__.py", "README.md")
CONFIGS = "configs"  # a link, so that it always shows what the installed package has


def link(checkout: Checkout) -> bool:
    """Write the drop-in; returns whether anything had to change.

    Raises:
        UserError: Another folder lies there, or the place cannot be written.
    """
    folder = checkout.dropin
    if checkout.state == "clone":
        raise UserError(f"{folder} is a clone of threestudio-asd: it works as it is.")
    _refuse_foreign(checkout)
    files = {folder / name: (TEMPLATE / name).read_text() for name in FILES}
    shortcut, target = folder / CONFIGS, packaged_configs().resolve()
    current = all(file.is_file() and file.read_text() == text for file, text in files.items())
    if current and shortcut.is_symlink() and shortcut.resolve() == target:
        return False
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for file, text in files.items():
            file.write_text(text)
        shortcut.unlink(missing_ok=True)
        shortcut.symlink_to(target, target_is_directory=True)
    except OSError as error:
        raise UserError(f"Cannot write {folder}: {error}.") from error
    return True


def unlink(checkout: Checkout) -> bool:
    """Take the drop-in away; returns whether there was one.

    Raises:
        UserError: The folder is a clone, or holds anything that ``link`` did not write.
    """
    folder = checkout.dropin
    if checkout.state == "absent":
        return False
    if checkout.state == "clone":
        raise UserError(f"{folder} is a clone, not a link: delete it yourself if you mean it.")
    _refuse_foreign(checkout)
    ours = {*FILES, CONFIGS, "__pycache__"}
    if others := sorted(path.name for path in folder.iterdir() if path.name not in ours):
        raise UserError(f"{folder} holds files that are not ours: {', '.join(others)}.")
    try:
        (folder / CONFIGS).unlink(missing_ok=True)
        shutil.rmtree(folder)
    except OSError as error:
        raise UserError(f"Cannot remove {folder}: {error}.") from error
    return True


def _refuse_foreign(checkout: Checkout) -> None:
    if checkout.state == "foreign":
        raise UserError(
            f"{checkout.dropin} exists and is not ours: move it away, or rename it with _disabled"
            " at the end."
        )


def main(argv: Sequence[str]) -> None:
    """``threestudio-asd link PATH [--remove]``

    Raises:
        UserError: PATH is no usable checkout, or what lies there is not ours.
    """
    parser = argparse.ArgumentParser(prog="threestudio-asd link", description=__doc__)
    parser.add_argument("path", type=Path, help="a checkout of threestudio")
    parser.add_argument("--remove", action="store_true", help="take the drop-in away again")
    args = parser.parse_args(list(argv))
    checkout = open_checkout(args.path)
    folder = checkout.dropin
    if args.remove:
        print(f"removed {folder}" if unlink(checkout) else f"nothing to remove: no {folder}")
        return
    done = "linked" if link(checkout) else "already linked"
    print(
        f"{done}: {folder}\n"
        f"Try it in {checkout.path}, with the Python that has threestudio-asd:\n"
        f"  python launch.py --config custom/{folder.name}/configs/asd-nerf.yaml --train --gpu 0"
        ' system.prompt_processor.prompt="a red mug"'
    )
