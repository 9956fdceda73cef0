"""All facts of a host."""

from pathlib import Path
from typing import Any

from contract import (
    cameras,
    definitions,
    drawing,
    pictures,
    prompting,
    rendering,
    scheduling,
    tetrahedra,
    training,
    trial,
)
from contract.hosts import Host

# What the bundled host implements, and so what is compared key by key.
ENTRIES = (
    "diffuse-with-point-light-material",
    "dreamfusion-system",
    "dummy-exporter",
    "implicit-volume",
    "mesh-exporter",
    "nerf-volume-renderer",
    "neural-environment-map-background",
    "no-material",
    "nvdiff-rasterizer",
    "prolificdreamer-system",
    "random-camera-datamodule",
    "sdi-system",
    "solid-color-background",
    "stable-diffusion-guidance",
    "stable-diffusion-prompt-processor",
    "stable-diffusion-sdi-guidance",
    "stable-diffusion-vsd-guidance",
    "tetrahedra-sdf-grid",
)


def collect(host: Host, scratch: Path) -> dict[str, Any]:
    """By section; ``scratch`` is an empty folder, and the current one."""
    return {
        "registry": definitions.registry(host),
        "configs": definitions.configs(host, ENTRIES),
        "api": {
            "errors": definitions.errors(host),
            "launch-options": dict.fromkeys(host.launch_options(), True),
            "saving": definitions.signatures(host),
        },
        "resolvers": {
            "names": definitions.resolver_names(host),
            "results": definitions.resolvers(host),
        },
        "schedules": scheduling.schedules(host),
        "optimizers": scheduling.optimizers(host),
        "prompts": prompting.prompts(host),
        "cameras": cameras.cameras(host),
        "statistics": cameras.statistics(host),
        "pictures": pictures.pictures(host, scratch),
        "activations": rendering.activations(host),
        "geometries": rendering.geometries(host),
        "tetrahedra": tetrahedra.tetrahedra(host),
        "drawings": drawing.drawings(host),
        "materials": rendering.materials(host),
        "backgrounds": rendering.backgrounds(host),
        "renders": rendering.renders(host),
        "hooks": training.hooks(host),
        "trials": training.trials(host, scratch),
        "trial": trial.trial(host, scratch),
    }
