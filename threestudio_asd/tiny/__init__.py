"""tiny-shapes: a world small enough to train a text-to-image model in on a laptop.

Twelve objects in eight colours are signed-distance scenes (:mod:`.scenes`), so that every caption
has a true 3D shape. A latent diffusion model in diffusers' folder format is trained on renders of
them (:mod:`.train`); a separate classifier, the judge (:mod:`.judge`), measures results and never
guides.
"""

import json
from pathlib import Path

from threestudio_asd.errors import UserError

WEIGHTS = Path(__file__).parent / "weights"


def edition(folder: Path) -> int:
    """The edition of a published embedded model, from its report; later ones are greater."""
    return json.loads((folder / "report.json").read_text())["edition"]


def next_edition(weights: Path, folder: Path) -> int:
    """The edition of a model that is to be published as ``folder`` beside the others of its kind in
    ``weights``, whose names begin alike: ``<kind>-<hash>``."""
    kind = folder.name.rpartition("-")[0]
    others = [other for other in weights.glob(f"{kind}-*") if other.name != folder.name]
    return 1 + max((edition(x) for x in others if x.name.rpartition("-")[0] == kind), default=0)


def is_embedded(folder: Path) -> bool:
    """Whether a folder is an edition of the embedded model, in this installation or published."""
    try:
        return edition(folder) > 0
    except (OSError, KeyError, ValueError):
        return False


def model_folder(name: str) -> str:
    """The folder of an embedded model; ``${asd_model:NAME}`` in configs.

    ``tiny-shapes`` is its newest edition. A folder's name ends in a hash of its content, so that no
    cache mixes two editions; under that name, such as ``tiny-shapes-f539b32f``, each stays at hand.

    Raises:
        UserError: No such model, or no such edition, in this installation.
    """
    known = {}
    for folder in sorted(WEIGHTS.glob("*-*"), key=edition):
        known[folder.name] = known[folder.name.rpartition("-")[0]] = str(folder)
    if name not in known:
        raise UserError(
            f"Unknown embedded model '{name}'; "
            + (
                f"choose one of: {', '.join(sorted(known))}."
                if known
                else "this installation has none."
            )
        )
    return known[name]
