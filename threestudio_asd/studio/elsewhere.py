"""Names that threestudio registers and this host lacks, and the nearest to each here.

The configs of threestudio name these; threestudio itself runs them, on our stand-ins for its
compiled extensions if need be.
"""

from typing import Any

from omegaconf import OmegaConf

_COARSE = "sds-nerf"
_STAGES = "asd-nerf, asd-geometry and asd-texture (threestudio-asd stages)"
_PICTURES = "asd-nerf, from a text (none takes pictures)"

#: A system of threestudio -> our config that does the most similar work.
SYSTEMS = {
    "control4d-multiview-system": _PICTURES,
    "efficient-dreamfusion-system": _COARSE,
    "fantasia3d-system": "asd-geometry, then asd-texture",
    "image-condition-dreamfusion-system": _PICTURES,
    "instructnerf2nerf-system": _PICTURES,
    "latentnerf-system": _COARSE,
    "magic123-system": _PICTURES,
    "magic3d-system": _STAGES,
    "sjc-system": f"{_COARSE} with system.guidance.use_sjc=true",
    "textmesh-system": _COARSE,
    "zero123-simple-system": _PICTURES,
    "zero123-system": _PICTURES,
}

_SDS = "stable-diffusion-guidance"
_PROMPTS = "stable-diffusion-prompt-processor"

#: Another module of threestudio -> the registered name here that does the most similar work.
PARTS = {
    "co3d-datamodule": "random-camera-datamodule",
    "eff-random-camera-datamodule": "random-camera-datamodule",
    "multiview-camera-datamodule": "random-camera-datamodule",
    "single-image-datamodule": "random-camera-datamodule",
    "custom-mesh": "tetrahedra-sdf-grid with a shape_init",
    "implicit-sdf": "implicit-volume, or tetrahedra-sdf-grid for a surface",
    "volume-grid": "implicit-volume",
    "hybrid-rgb-latent-material": "no-material",
    "neural-radiance-material": "no-material",
    "pbr-material": "diffuse-with-point-light-material",
    "sd-latent-adapter-material": "no-material",
    "textured-background": "neural-environment-map-background",
    "deferred-volume-renderer": "nerf-volume-renderer",
    "gan-volume-renderer": "nerf-volume-renderer",
    "neus-volume-renderer": "nerf-volume-renderer",
    "patch-renderer": "nerf-volume-renderer",
    "deep-floyd-prompt-processor": _PROMPTS,
    "dummy-prompt-processor": _PROMPTS,
    "controlnet-guidance": _SDS,
    "deep-floyd-guidance": _SDS,
    "stable-diffusion-controlnet-guidance": _SDS,
    "stable-diffusion-instructpix2pix-guidance": _SDS,
    "stable-diffusion-unified-guidance": "stable-diffusion-asd-guidance, with a method",
    "stable-zero123-guidance": _SDS,
    "zero123-guidance": _SDS,
    "zero123-unified-guidance": _SDS,
    "perceptual-loss": "none",
}


def advice(name: str) -> str | None:
    """How a config that names threestudio's ``name`` can be run; None if it is not threestudio's.

    Two sentences, for a name that is not registered here.
    """
    if name in SYSTEMS:
        nearest = f"configs here: {SYSTEMS[name]}"
    elif name in PARTS:
        nearest = f"name here: {PARTS[name]}"
    else:
        return None
    return (
        f'"{name}" is threestudio\'s own, which the bundled host lacks; threestudio itself runs '
        "such a config: threestudio-asd upstream CHECKOUT --config ... with the same arguments, "
        f"CHECKOUT being a clone of threestudio. Nearest {nearest}."
    )


def advice_for(cfg: Any) -> str | None:
    """As :func:`advice`, for the first such name among the ``*_type`` keys of a config, before
    anything is registered; an extension may yet define the name."""
    parts = OmegaConf.to_container(cfg, resolve=False)
    system = parts.get("system") or {}
    named = [parts.get("system_type"), parts.get("data_type")]
    named += [value for key, value in system.items() if key.endswith("_type")]
    return next((told for name in named if (told := advice(str(name)))), None)
