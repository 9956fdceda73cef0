"""The shipped YAML files, and what one of them changes in another."""

from pathlib import Path

from omegaconf import OmegaConf

CONFIGS = Path(__file__).parent.parent / "configs"


def leaves(node, prefix=""):
    """Dotted path -> value, lists as values."""
    found = {}
    for key, value in node.items():
        path = f"{prefix}{key}"
        found |= leaves(value, f"{path}.") if isinstance(value, dict) else {path: value}
    return found


def changes(name, twin):
    """Path -> (value, twin's value) where they differ; "absent" where there is none."""
    one, other = (leaves(OmegaConf.to_container(OmegaConf.load(CONFIGS / n))) for n in (name, twin))
    pairs = {p: (one.get(p, "absent"), other.get(p, "absent")) for p in one | other}
    return {path: pair for path, pair in pairs.items() if pair[0] != pair[1]}
