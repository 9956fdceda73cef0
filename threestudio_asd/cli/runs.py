"""The folders of ``demo``: a run that was stopped goes on in its own, others get a new one.

``run.json`` in a run's folder says what it was asked for and whether it is finished. Only the
process that has claimed a folder writes into it.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from threestudio_asd import log
from threestudio_asd.errors import UserError
from threestudio_asd.files import claimed, written_whole
from threestudio_asd.studio.config.experiment import timestamps
from threestudio_asd.studio.config.files import find_config
from threestudio_asd.studio.config.trials import folder_name, make_new

RECORD = "run.json"


@dataclass(frozen=True)
class Run:
    """A claimed folder; ``resumed``: an earlier process was stopped in it."""

    folder: Path
    wanted: dict[str, Any]
    resumed: bool

    def finish(self) -> None:
        """Say that the run is finished: the same command starts a new one."""
        _write_record(self.folder, self.wanted, finished=True)


def asked(prompt: str, configs: Sequence[str], overrides: Sequence[str]) -> dict[str, Any]:
    """The request for a run; runs with an equal one are the same. A changed config is another.

    Raises:
        UserError: No such config.
    """
    digests = {
        config: hashlib.sha256(find_config(config).read_bytes()).hexdigest() for config in configs
    }
    return {"prompt": prompt, "configs": digests, "overrides": list(overrides)}


@contextmanager
def claimed_run(root: Path, tag: str, wanted: dict[str, Any], new: bool) -> Iterator[Run]:
    """The newest run of ``wanted`` below ``root`` if it is not finished, else (or if it is ``new``
    that is wanted, or if a live process has the newest) one in a new folder, ``tag@<time>``.

    Raises:
        UserError: A folder cannot be written to.
    """
    tag = folder_name(tag)
    with ExitStack() as stack:
        try:
            run = (None if new else _unfinished(root, tag, wanted, stack)) or _begun(
                root, tag, wanted, stack
            )
        except OSError as error:
            raise UserError(
                f"cannot keep a run below {root}: {error}. Choose another place with --out."
            ) from error
        yield run


def _unfinished(root: Path, tag: str, wanted: dict[str, Any], stack: ExitStack) -> Run | None:
    folder = _newest(root, tag, wanted)
    if folder is None or _is_finished(folder):
        return None
    if not stack.enter_context(claimed(folder)):
        log.info("%s is being written by another process: this is a new run.", folder)
        return None
    # Read again now that it is ours: it may have been finished meanwhile.
    return None if _is_finished(folder) else Run(folder, wanted, resumed=True)


def _begun(root: Path, tag: str, wanted: dict[str, Any], stack: ExitStack) -> Run:
    folder, _ = make_new(root, tag, timestamps())
    stack.enter_context(claimed(folder))
    _write_record(folder, wanted, finished=False)
    return Run(folder, wanted, resumed=False)


def _newest(root: Path, tag: str, wanted: dict[str, Any]) -> Path | None:
    found = root.iterdir() if root.is_dir() else ()
    for folder in sorted((f for f in found if f.name.startswith(f"{tag}@")), reverse=True):
        record = _read_record(folder)
        if record is not None and {**record, "finished": None} == {**wanted, "finished": None}:
            return folder
    return None


def _is_finished(folder: Path) -> bool:
    record = _read_record(folder)
    return record is None or record["finished"]


def _read_record(folder: Path) -> dict[str, Any] | None:
    path = folder / RECORD
    return json.loads(path.read_text()) if path.is_file() else None


def _write_record(folder: Path, wanted: dict[str, Any], finished: bool) -> None:
    with written_whole(folder / RECORD) as partial:
        partial.write_text(json.dumps({**wanted, "finished": finished}, indent=1) + "\n")
