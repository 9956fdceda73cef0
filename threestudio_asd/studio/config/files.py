"""From the name of a config to its file."""

from importlib import resources
from pathlib import Path

from threestudio_asd.errors import UserError

PACKAGE = "threestudio_asd"


def find_config(name: str) -> Path:
    """The file that ``--config name`` means.

    A path (``.yaml`` may be left out) first; else one of the configs that come with the package:
    ``tiny/asd-nerf``, ``configs/tiny/asd-nerf.yaml``.

    Raises:
        UserError: there is neither; the message lists the package's configs.
    """
    for path in (Path(name), Path(f"{name}.yaml")):
        if path.is_file():
            return path
    root = packaged_configs()
    short = name.removeprefix("./").removeprefix("configs/").removesuffix(".yaml")
    packaged = root / f"{short}.yaml"
    if packaged.is_file():
        return packaged
    known = sorted(str(p.relative_to(root).with_suffix("")) for p in root.rglob("*.yaml"))
    raise UserError(
        f"there is no config {name}: give the path of a YAML file, or one of"
        f" {', '.join(known) or '(none found)'}."
    )


def packaged_configs() -> Path:
    """The folder of the package's configs; in a checkout, ``configs/`` at its root."""
    package = Path(str(resources.files(PACKAGE)))
    installed = package / "configs"
    return installed if installed.is_dir() else package.parent / "configs"
