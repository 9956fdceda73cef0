"""Captions of tiny-shapes and the words its text encoder knows."""

import random

from threestudio_asd.tiny.scenes import COLORS, OBJECTS

VIEWS = ("front", "side", "back", "overhead")
FRONT_THRESHOLD = 45.0
BACK_THRESHOLD = 45.0
OVERHEAD_THRESHOLD = 60.0

PREFIXES = (
    "",
    "a photo of",
    "a picture of",
    "an image of",
    "a 3d render of",
    "a dslr photo of",
    "a high quality photo of",
    "a rendering of",
)
FILLERS = ("simple", "small", "big", "single", "plain", "detailed", "beautiful", "new", "toy")
SUFFIXES = ("3d asset", "high quality", "best quality", "on a grey background", "studio light")
MAX_LENGTH = 20
UNKNOWN = "<unk>"


def view_label(azimuth: float, elevation: float) -> str:
    """threestudio's rule, later ones winning: side, front, back, overhead. Degrees."""
    azimuth = (azimuth + 180) % 360 - 180
    if elevation > OVERHEAD_THRESHOLD:
        return "overhead"
    if azimuth > 180 - BACK_THRESHOLD or azimuth < -180 + BACK_THRESHOLD:
        return "back"
    return "front" if -FRONT_THRESHOLD < azimuth < FRONT_THRESHOLD else "side"


def vocabulary() -> list[str]:
    """Every word of every caption, sorted; special tokens are the tokenizer's own."""
    phrases = [*PREFIXES, *FILLERS, *SUFFIXES, *COLORS, *OBJECTS, *VIEWS]
    phrases += ["a an the", "view normal map", ","]
    return sorted({word for phrase in phrases for word in phrase.split()})


def caption(object_name: str, color_name: str, view: str | None, normal_map: bool) -> str:
    """The plain caption, as a user would write it: ``a red mug, side view``."""
    article = "an" if color_name[0] in "aeiou" else "a"
    text = f"{article} {color_name} {object_name}"
    if view is not None:
        text += f", {view} view"
    return text + (", normal map" if normal_map else "")


def training_caption(
    rng: random.Random, object_name: str, color_name: str, view: str, normal_map: bool
) -> str:
    """A caption with the variety of training: dropped parts, prefixes, fillers, unknown words.

    The empty caption (12 %) is what classifier-free guidance subtracts. Normal maps keep their
    mark in every other caption, otherwise a plain caption would mean both kinds of picture.
    """
    if rng.random() < 0.12:
        return ""
    words = [rng.choice(PREFIXES)] if rng.random() < 0.3 else []
    if rng.random() < 0.9:
        words.append(rng.choice(("a", "the", "an" if color_name[0] in "aeiou" else "a")))
    if rng.random() < 0.1:
        words.append(rng.choice((*FILLERS, UNKNOWN)))
    kind = rng.random()
    words += [color_name] if kind > 0.05 else []
    words += [object_name] if kind < 0.95 else []
    text = " ".join(word for word in words if word)
    if rng.random() < 0.1:
        text += f", {rng.choice((*SUFFIXES, UNKNOWN))}"
    if rng.random() < 0.7:
        text += f", {view} view"
    return text + (", normal map" if normal_map else "")
