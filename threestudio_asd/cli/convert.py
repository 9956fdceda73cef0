"""``convert``: a file of weights that holds objects, without them; none of its code runs. Or, with
a base model, a file of weights as a model folder."""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from threestudio_asd.errors import UserError


def convert(old: Path, new: Path) -> list[str]:
    """Write the entries of ``old`` that are tensors and plain values to ``new``.

    An entry that holds an object anywhere is left out, for half of it may mislead; of the weights
    (``state_dict``, or a file that is nothing else) the tensors stay.

    Args:
        new: with the suffix .safetensors the weights alone, else what ``torch.load`` reads.

    Returns:
        The names of the entries that were left out.

    Raises:
        UserError: ``old`` cannot be read or has no tensors, or ``new`` exists.
    """
    from threestudio_asd.studio.checkpoint.store import save_atomically

    if new.exists():
        raise UserError(f"{new} exists already: give another name.")
    found = _read(old)
    weights = _tensors(found.get("state_dict", found))
    if not weights:
        raise UserError(
            f"{old} has no tensors outside of objects: save its state_dict() where its code is."
        )
    kept = _kept(found, weights)
    if new.suffix == ".safetensors":
        _write_safetensors(weights, new)
        return [name for name in found if name not in ("state_dict", *weights)]
    save_atomically(kept, new)
    return [str(name) for name in found if name not in kept]


def write_model(old: Path, new: Path, base: str) -> None:
    """Write the weights ``old`` to the folder ``new``, in diffusers' format and single precision.

    Args:
        old: A file of weights, MVDream's say, as for ``ckpt_path``.
        base: The model that it was trained from, which gives what ``old`` lacks.

    Raises:
        UserError: One of them cannot be read, they do not fit, or ``new`` exists.
    """
    from threestudio_asd.pretrained.folders import model_written_whole
    from threestudio_asd.teachers.diffusers import StableDiffusionTeacher
    from threestudio_asd.teachers.views import write_views

    if new.exists():
        raise UserError(f"{new} exists already: give another name.")
    teacher = StableDiffusionTeacher.from_pretrained(base, checkpoint=old)
    with model_written_whole(new, teacher.folder, without=("unet", "vae")) as partial:
        teacher.unet.save_pretrained(partial / "unet")
        teacher.vae.save_pretrained(partial / "vae")
        if teacher.views_at_once > 1:
            write_views(partial / "unet", teacher.views_at_once)


def _read(old: Path) -> Mapping[Any, Any]:
    from threestudio_asd.pretrained import pickles

    if not old.is_file():
        raise UserError(f"There is no such file: {old}.")
    try:
        found = pickles.read(old)
    except Exception as error:  # of whatever kind a damaged pickle causes
        raise UserError(f"{old} cannot be read: it is damaged, or no file of weights.") from error
    return found if isinstance(found, Mapping) else {}


def _tensors(weights: Any) -> dict[str, Any]:
    from torch import Tensor

    pairs = weights.items() if isinstance(weights, Mapping) else ()
    return {name: value for name, value in pairs if isinstance(value, Tensor)}


def _kept(found: Mapping[Any, Any], weights: dict[str, Any]) -> dict[Any, Any]:
    from threestudio_asd.pretrained.pickles import is_plain

    kept = {name: value for name, value in found.items() if is_plain(name) and is_plain(value)}
    return kept | {"state_dict": weights} if "state_dict" in found else kept


def _write_safetensors(weights: dict[str, Any], new: Path) -> None:
    from safetensors.torch import save_file

    from threestudio_asd.files import written_whole

    # Tensors that share memory, which the format has no word for, become ones of their own.
    with written_whole(new) as partial:
        save_file(
            {name: value.detach().clone().contiguous() for name, value in weights.items()}, partial
        )


def main(argv: Sequence[str]) -> None:
    """``threestudio-asd convert OLD NEW [--base MODEL]``; raises UserError as :func:`convert` and
    :func:`write_model`."""
    parser = argparse.ArgumentParser(prog="threestudio-asd convert", description=__doc__)
    parser.add_argument("old", type=Path, help="a file that torch.save wrote")
    parser.add_argument("new", type=Path, help="the file to write (.ckpt, .pt, .safetensors)")
    base = "write a model folder with OLD's weights; MODEL (a folder or hub id) gives the rest"
    parser.add_argument("--base", metavar="MODEL", help=base)
    args = parser.parse_args(list(argv))
    if args.base:
        write_model(args.old, args.new, args.base)
        print(f"wrote {args.new}")
        return
    left = convert(args.old, args.new)
    print(f"wrote {args.new}" + (f"; left out: {', '.join(left)}" if left else ""))
