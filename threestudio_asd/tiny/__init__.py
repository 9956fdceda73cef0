"""tiny-shapes: a world small enough to train a text-to-image model in on a laptop.

Twelve objects in eight colours are signed-distance scenes (:mod:`.scenes`), so that every caption
has a true 3D shape. A latent diffusion model in diffusers' folder format is trained on renders of
them (:mod:`.train`); a separate classifier, the judge (:mod:`.judge`), measures results and never
guides.
"""

from pathlib import Path

WEIGHTS = Path(__file__).parent / "weights"
