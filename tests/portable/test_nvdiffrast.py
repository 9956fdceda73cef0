"""The stand-in for nvdiffrast: its call signatures and conventions."""

import pytest
import torch
from torch.autograd import grad, gradcheck

from threestudio_asd.errors import UserError
from threestudio_asd.portable import nvdiffrast as dr

POS = torch.tensor([[[-0.8, -0.9, 0.1, 1.0], [0.9, -0.7, 0.2, 1.1], [0.1, 0.8, 0.0, 0.9]]])
TRI = torch.tensor([[0, 1, 2]], dtype=torch.int32)


@pytest.mark.parametrize(
    "context", [dr.RasterizeGLContext(device="cpu"), dr.RasterizeCudaContext(device="cpu")]
)
def test_from_vertices_to_an_image_and_back(context):
    pos = POS.clone().requires_grad_()
    rast, rast_db = dr.rasterize(context, pos, TRI, resolution=[12, 16], grad_db=True)
    assert rast.shape == rast_db.shape == (1, 12, 16, 4)
    values, slopes = dr.interpolate(POS.clone(), rast, TRI, rast_db=rast_db, diff_attrs="all")
    assert slopes.shape == (1, 12, 16, 8)
    # What is interpolated lies where the pixel is.
    seen = rast[0, ..., 3] == 1
    y, x = torch.meshgrid(
        (torch.arange(12) + 0.5) / 6 - 1, (torch.arange(16) + 0.5) / 8 - 1, indexing="ij"
    )
    place = values[0, ..., :2] / values[0, ..., 3:]
    torch.testing.assert_close(place[seen], torch.stack([x, y], dim=-1)[seen])
    image = dr.antialias(values, rast, pos, TRI)
    (g,) = grad(image.sum(), pos)
    assert g[..., [0, 1, 3]].abs().min() > 0


def test_ranges_draw_parts_of_one_mesh():
    tri = torch.tensor([[0, 1, 2], [2, 1, 0], [1, 0, 2]], dtype=torch.int32)
    context = dr.RasterizeCudaContext()
    rast, _ = dr.rasterize(context, POS[0], tri, (8, 8), ranges=torch.tensor([[1, 2], [2, 1]]))
    assert [int(part.max()) for part in rast[..., 3]] == [2, 3]
    image = dr.antialias((rast[..., 3:] > 0).float(), rast, POS[0], tri)
    assert image.shape == (2, 8, 8, 1)


def test_options_of_the_derivatives():
    pos = POS.clone().requires_grad_()
    _, kept = dr.rasterize(dr.RasterizeGLContext(), pos, TRI, (8, 8))
    _, cut = dr.rasterize(dr.RasterizeGLContext(), pos, TRI, (8, 8), grad_db=False)
    assert kept.requires_grad
    assert not cut.requires_grad
    _, none = dr.rasterize(dr.RasterizeGLContext(output_db=False), pos, TRI, (8, 8))
    assert none.shape == (1, 8, 8, 0)


def test_antialias_with_kept_topology_and_boost():
    pos = POS.clone().requires_grad_()
    rast, _ = dr.rasterize(dr.RasterizeGLContext(), pos, TRI, (8, 8))
    color = torch.rand(1, 8, 8, 3)
    plain = dr.antialias(color, rast, pos, TRI)
    kept = dr.antialias_construct_topology_hash(TRI)
    boosted = dr.antialias(color, rast, pos, TRI, topology_hash=kept, pos_gradient_boost=3.0)
    torch.testing.assert_close(boosted, plain)
    g = torch.randn_like(color)
    torch.testing.assert_close(grad(boosted, pos, g)[0], 3 * grad(plain, pos, g)[0])


def test_texture_look_up():
    tex = torch.rand(1, 3, 4, 2, dtype=torch.float64, requires_grad=True)
    y, x = torch.meshgrid((torch.arange(3) + 0.5) / 3, (torch.arange(4) + 0.5) / 4, indexing="ij")
    centres = torch.stack([x, y], dim=-1)[None].double()
    for mode in ("auto", "linear", "nearest"):
        torch.testing.assert_close(dr.texture(tex, centres, filter_mode=mode), tex)
    torch.testing.assert_close(dr.texture(tex, centres + 2.0), tex)
    outside = centres + 5.0
    assert dr.texture(tex, outside, boundary_mode="zero").abs().max() == 0
    clamped = dr.texture(tex, outside, boundary_mode="clamp")
    torch.testing.assert_close(clamped, tex[:, -1:, -1:].expand_as(tex))
    # Halfway between two texels of a row.
    between = dr.texture(tex, centres[:, :, :3] + torch.tensor([0.125, 0.0], dtype=torch.float64))
    torch.testing.assert_close(between, (tex[:, :, :3] + tex[:, :, 1:]) / 2)
    uv = torch.rand(1, 5, 3, 2, dtype=torch.float64, requires_grad=True)
    assert gradcheck(lambda t, c: dr.texture(t, c, boundary_mode="zero"), (tex, uv))


def test_what_is_missing_says_so():
    with pytest.raises(UserError, match=r"DepthPeeler is called.*without mipmaps only"):
        dr.DepthPeeler(None)
    tex, uv = torch.rand(1, 2, 2, 1), torch.rand(1, 2, 2, 2)
    with pytest.raises(UserError, match="with mipmaps"):
        dr.texture(tex, uv, uv_da=torch.rand(1, 2, 2, 4))
    with pytest.raises(UserError, match="boundary_mode must be one of wrap"):
        dr.texture(tex, uv, boundary_mode="cube")
    with pytest.raises(UserError, match="1 or 1 images"):
        dr.texture(tex.expand(2, 2, 2, 1), uv)
