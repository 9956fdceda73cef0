"""The measures: a row each. Those of the judge, of shapes and of sets are computed together
(``figures``, ``report.summary``); one of your own brings its function.
"""

from collections.abc import Callable
from dataclasses import dataclass

from threestudio_asd.compare.measure import metrics
from threestudio_asd.compare.measure.outcome import Outcome
from threestudio_asd.errors import AlreadyRegisteredError

Compute = Callable[[Outcome, str], float | list[float] | None]


@dataclass(frozen=True)
class Measure:
    """A row.

    Args:
        title: For tables and charts.
        better: +1 the more the better, -1 the less, 0 the nearer to 0 (the truth's).
        note: What it is of, in which units.
        quality: Whether the tables of robustness show it.
        compute: ``(outcome, prompt) -> `` a number, one for each picture, or None where a result
            has none; absent where the measure is found together with others.
    """

    title: str
    better: int
    note: str
    quality: bool = False
    compute: Compute | None = None


MEASURES: dict[str, Measure] = {
    "right": Measure(
        "judged right", 1, "share named with the right object and colour", quality=True
    ),
    "p_pair": Measure(
        "probability of the pair", 1, "the judge's, of object and colour", quality=True
    ),
    "p_object": Measure("probability of the object", 1, "the judge's"),
    "p_color": Measure("probability of the colour", 1, "the judge's"),
    "kid": Measure(
        "KID", -1, "judge's features, against renders of the caption; mean of prompts", quality=True
    ),
    "saturation": Measure("saturation - truth's", 0, "above 0: over-saturated", quality=True),
    "sharpness": Measure("sharpness - truth's", 0, "below 0: over-smoothed", quality=True),
    "diversity": Measure("diversity", 1, "distance in the judge's features between results"),
    "drift": Measure("drift", -1, "RMS change over the last half of the steps"),
    "silhouette_iou": Measure(
        "silhouette IoU", 1, "with the true scene, at the best rotation", quality=True
    ),
    "surface_fscore": Measure(
        "surface F-score", 1, f"within {metrics.SURFACE_TOLERANCE}", quality=True
    ),
    "volume_iou": Measure("volume IoU", 1, "of the body; a filled mug is wrong", quality=True),
    "janus": Measure(
        "Janus rate", -1, "share of which another side looks like the front", quality=True
    ),
    "azimuth_error": Measure("azimuth error", -1, "degrees from the asked front to the found"),
}
COSTS = {
    "seconds": "seconds",
    "unet_evaluations": "UNet evaluations per step and picture",
    "unet_evaluations_in_all": "UNet evaluations of a run",
    "unet_evaluations_with_gradient": "of them with gradient",
    "peak_memory_mb": "peak memory, MB",
    "diverged": "diverged",
}


def register_measure(
    name: str, title: str, better: int, note: str, quality: bool = True
) -> Callable[[Compute], Compute]:
    """Decorator: measure ``(outcome, prompt)`` of every cell that is run from now on.

    Raises:
        AlreadyRegisteredError: The name is taken.
    """
    if name in MEASURES:
        raise AlreadyRegisteredError(f"The measure '{name}' is there already; choose another name.")

    def register(compute: Compute) -> Compute:
        MEASURES[name] = Measure(title, better, note, quality, compute)
        return compute

    return register
