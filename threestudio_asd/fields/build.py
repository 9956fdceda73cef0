"""The fields that a config's methods name, and their share in a step."""

import inspect
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn

from threestudio_asd.distill.methods import Method
from threestudio_asd.distill.noising import NOISINGS
from threestudio_asd.distill.settings import merged
from threestudio_asd.errors import UserError
from threestudio_asd.fields.base import FIELDS, NoiseField

# What every field is given.
_COMMON = ("latent_shape", "device")


class NoiseFields(nn.Module):
    """The noise fields that the noisings of ``methods`` read, by name; none for most methods.

    Args:
        latent_shape: (C, H, W) of the teacher's latents.
        device: Where their buffers are made.
        options: Of the fields, such as ``theta`` of a map; each field takes those it has.

    Raises:
        UserError: An option that none of them has, or a bad value; a noising that names a field but
            no setting ``noise_refresh``.
        NotRegisteredError: A noising names a field that nobody registered.
    """

    def __init__(
        self,
        methods: Iterable[Method],
        latent_shape: tuple[int, int, int],
        device: torch.device | str,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        kinds = {}
        for noising in (NOISINGS.get(method.noising) for method in methods):
            if noising.field is not None:
                kinds[noising.field] = FIELDS.get(noising.field)
                if "noise_refresh" not in noising.settings:
                    raise UserError(
                        f"The noising of the field '{noising.field}' declares no noise_refresh, the"
                        " share that is renewed in a step; add it to its settings, 0.0 for none."
                    )
        known = {name: _options(kind) for name, kind in kinds.items()}
        given = dict(options or {})
        owner = f"the methods' noise fields ({', '.join(kinds) or 'there are none'})"
        merged({k: None for own in known.values() for k in own}, given, "noise_field", owner)
        self.by_name = nn.ModuleDict()
        for name in sorted(kinds):  # whatever the order of stages, the same draws
            own = {option: given[option] for option in known[name] if option in given}
            self.by_name[name] = kinds[name](latent_shape, device, **own)

    def of(self, method: Method) -> NoiseField | None:
        """The field of the method's noising."""
        name = NOISINGS.get(method.noising).field
        return None if name is None else self.by_name[name]

    def refresh(self, method: Method, settings: Mapping[str, float]) -> None:
        """A step of training with ``method`` begins: its field is renewed by the share
        ``noise_refresh`` of ``settings``."""
        field = self.of(method)
        if field is not None:
            field.refresh(settings["noise_refresh"])


def _options(kind: Any) -> list[str]:
    return [name for name in inspect.signature(kind).parameters if name not in _COMMON]
