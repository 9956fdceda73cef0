"""tiny-shapes: a world small enough to train a text-to-image model in on a laptop.

Twelve objects in eight colours are signed-distance scenes (:mod:`.scenes`), so that every caption
has a true 3D shape. A latent diffusion model in diffusers' folder format is trained on renders of
them (:mod:`.train`); a separate classifier, the judge (:mod:`.judge`), measures results and never
guides.
"""

from pathlib import Path

from threestudio_asd.errors import UserError

WEIGHTS = Path(__file__).parent / "weights"


def model_folder(name: str) -> str:
    """The folder of an embedded model, such as ``tiny-shapes``; ``${asd_model:NAME}`` in configs.

    The folder's name ends in a hash of its content, so that no cache mixes two versions.

    Raises:
        UserError: No such model in this installation.
    """
    found = sorted(WEIGHTS.glob(f"{name}-*"))
    if len(found) != 1:
        known = sorted({path.name.rpartition("-")[0] for path in WEIGHTS.glob("*-*")})
        raise UserError(
            f"Unknown embedded model '{name}'; "
            + (f"choose one of: {', '.join(known)}." if known else "this installation has none.")
        )
    return str(found[0])
