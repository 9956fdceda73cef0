"""Small random models that the tests of teachers start from."""

import shutil
from pathlib import Path

import pytest
from lora_unets import small_unet


@pytest.fixture(scope="module")
def small_unets():
    """Projections of transformers by convolution, as in Stable Diffusion 1, and linear, as in 2;
    each with its weights as they were."""
    unets = [small_unet(linear=False, seed=0), small_unet(linear=True, seed=1)]
    return [(unet, {n: v.clone() for n, v in unet.state_dict().items()}) for unet in unets]


@pytest.fixture
def sd_copy(random_sd, tmp_path):
    """A copy of ``random_sd`` that a test may change."""
    return Path(shutil.copytree(random_sd, tmp_path / "model"))
