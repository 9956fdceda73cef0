"""The rasteriser's kernels compile for CUDA; no GPU is needed for that."""

import pytest
import torch

from threestudio_asd.kernels._antialias_kernels import build
from threestudio_asd.kernels._raster_kernels import build_cover
from threestudio_asd.kernels._shade_kernels import build_interpolate, build_shade
from threestudio_asd.kernels._warp import warp


def kernels():
    shade, values = build_shade(torch.float32), build_interpolate(torch.float32)
    smooth = build(torch.float32)
    yield build_cover(torch.float32)
    yield from (shade.shade, shade.shade_grad, values.interpolate, values.interpolate_grad)
    yield from (smooth.antialias, smooth.antialias_grad)


@pytest.mark.parametrize("kernel", kernels(), ids=lambda k: k.key.split("__")[-1])
def test_compiles_for_cuda(kernel, tmp_path):
    wp = warp()
    if not wp.get_cuda_supported_archs():
        pytest.skip("this build of Warp has no CUDA compiler")
    wp.compile_aot_module(kernel.module, arch=80, module_dir=tmp_path)
    assert any(file.suffix in (".cubin", ".ptx") for file in tmp_path.iterdir())
