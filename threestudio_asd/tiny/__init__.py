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


def editions(name: str) -> list[Path]:
    """The folders of an embedded model, oldest edition first; none if there is no such model."""
    folders = {
        json.loads((path / "report.json").read_text())["edition"]: path
        for path in WEIGHTS.glob(f"{name}-*")
    }
    return [folders[edition] for edition in sorted(folders)]


def model_folder(name: str) -> str:
    """The folder of an embedded model; ``${asd_model:NAME}`` in configs.

    ``tiny-shapes`` is its newest edition. A folder's name ends in a hash of its content, so that no
    cache mixes two editions; under that name, such as ``tiny-shapes-f539b32f``, each stays at hand.

    Raises:
        UserError: No such model, or no such edition, in this installation.
    """
    if (WEIGHTS / name / "report.json").exists() and (WEIGHTS / name / "model_index.json").exists():
        return str(WEIGHTS / name)
    found = editions(name)
    if found:
        return str(found[-1])
    models = sorted({path.name.rpartition("-")[0] for path in WEIGHTS.glob("*-*")})
    known = [each for model in models for each in (model, *(e.name for e in editions(model)))]
    raise UserError(
        f"Unknown embedded model '{name}'; "
        + (f"choose one of: {', '.join(known)}." if known else "this installation has none.")
    )
