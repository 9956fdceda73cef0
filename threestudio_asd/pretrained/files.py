"""The files of a model in diffusers' folder format: which of them loading reads."""

import hashlib
import re
from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path

# Suffix of a set of weights -> what it may be called, the best suffix first.
_STEMS = {
    "safetensors": "diffusion_pytorch_model|model",
    "bin": "diffusion_pytorch_model|pytorch_model",
}
# Sets that stand in for a plain one that is not there, the best first.
_VARIANTS = ("fp32", "fp16", "bf16", "ema", "non_ema")
_WEIGHTLESS = ("tokenizer", "scheduler")


def component_files(names: Iterable[str], component: str) -> list[str]:
    """Of a model's file names, those that loading ``component`` reads, sorted.

    Configuration and vocabulary, plus one set of weights: the plain one before variants such as
    ``.fp16``, of each safetensors before .bin. Empty if the component is absent or incomplete.
    """
    prefix = f"{component}/" if component else ""
    local = _local(names, component)
    texts = [n for n in local if n.endswith((".json", ".txt", ".model"))]
    _, weights = _weights(local)
    if not texts or not (weights or component in _WEIGHTLESS):
        return []
    return [prefix + n for n in sorted(texts + weights)]


def _local(names: Iterable[str], component: str) -> list[str]:
    """The names of the files in ``component``'s folder, sorted."""
    prefix = f"{component}/" if component else ""
    local = sorted(n[len(prefix) :] for n in names if n.startswith(prefix))
    return [n for n in local if "/" not in n]


def _weights(local: Sequence[str]) -> tuple[str | None, list[str]]:
    """The variant and the files of the best set of weights among a component's files."""
    for variant in (None, *_VARIANTS):
        for suffix, stems in _STEMS.items():
            shard, dotted = r"(-\d{5}-of-\d{5})?", f".{variant}" if variant else ""
            pattern = rf"({stems})({dotted}{shard}|{shard}{dotted})\.{suffix}"
            if found := [n for n in local if re.fullmatch(pattern, n)]:
                return variant, found
    return None, []


def variant_of(folder: Path, component: str) -> str | None:
    """Which variant of ``component``'s weights a model folder offers: None is the plain one."""
    return _weights(_local(file_names(folder), component))[0]


def content_hash(folder: Path, components: Sequence[str]) -> str:
    """SHA-256 over the files that loading ``components`` reads: equal content, equal hash."""
    digest = hashlib.sha256()
    names = file_names(folder)
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


def file_names(folder: Path) -> list[str]:
    """The names, relative to ``folder``, of the files of a model and of its parts."""
    files = (*folder.glob("*"), *folder.glob("*/*"))
    return [file.relative_to(folder).as_posix() for file in files if file.is_file()]
