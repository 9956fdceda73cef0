"""Noise that sticks to a surface: pixels add up the texels of a world-space grid that they cover.

Space is divided into cubes, texels of side h; each has a standard normal number for each channel,
in the row of a table that a hash of its three coordinates names. A pixel's patch is the surface
between the points that its four corners see; side x side samples of it say which texels it covers:

    n(pixel) = sum of its K texels / sqrt(K)

A texel at which several pixels of an image meet goes to the one with the sample that is nearest to
the texel's centre; the same decides where two texels share a row. So, whatever the geometry is,

- n has variance 1: it is a sum of K different numbers, over sqrt(K);
- pixels of one image are independent: no number is in two of them;
- a piece of surface brings the same numbers into every image: they depend on its place alone. Two
  pixels of two images that cover A and B have the correlation |A and B| / sqrt(|A| |B|).

After CFD (arXiv:2501.05445), which rasterises the patches into squares by direction and distance
from the origin; the idea of summing what a pixel covers is that of Chang et al. 2024 (How I Warped
Your Noise).
"""

from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from threestudio_asd.errors import UserError
from threestudio_asd.kernels._warp import as_array, check_tensor, launch_split, threads_for, warp

#: What a row holds that no sample has asked for.
NOBODY = 2**63 - 1
MAX_LOG2_ROWS = 28
#: Of an image; their number is the lower half of an owner.
MAX_SAMPLES = 2**31
# The hash: a sum of multiples, then MurmurHash3's mixer, of 32 bits; the kernels have it, too.
FACTORS = (2654435761, 805459861, 3674653429)
MIXERS = ((16, 2246822507), (13, 3266489909))
_WORD = 2**32 - 1


def surface_noise(
    texels: Float[Tensor, "T C"],
    corners: Float[Tensor, "B H1 W1 3"],
    covered: Bool[Tensor, "B H W"],
    texel_size: float | int,
    side: int = 8,
) -> tuple[Float[Tensor, "B C H W"], Int[Tensor, "B H W"]]:
    """The noise of the pixels, float32, without gradients.

    Args:
        texels: The table; T is a power of two.
        corners: What the corners of the pixels see, H1 = H + 1 and W1 = W + 1.
        covered: The pixels whose four corners see the surface.
        texel_size: h, in scene units.
        side: Samples of a patch along each of its sides; texels between them are missed.

    Returns:
        The noise, 0 where a pixel has no texel, and the number K of each pixel's texels.

    Raises:
        UserError: on wrong shapes, types or sizes.
    """
    from threestudio_asd.kernels._surface_kernels import build_surface

    images, height, width = _check(texels, corners, covered, texel_size, side)
    pixels, device = images * height * width, texels.device
    noise = texels.new_zeros(pixels, texels.shape[1])
    counts = torch.zeros(pixels, dtype=torch.int32, device=device)
    if pixels == 0:
        return _pictures(noise, counts, covered)
    texels = texels.detach().contiguous()
    points = corners.detach().flatten(0, 2).contiguous()
    flags = covered.flatten().to(torch.uint8)
    owners = torch.full((images, len(texels)), NOBODY, dtype=torch.int64, device=device)
    arrays = [as_array(points, warp().vec3), as_array(flags), as_array(owners)]
    args = [height, width, side, 1.0 / texel_size, *arrays]
    kernels = build_surface()
    # In one CPU thread: its atomic operations are none between threads.
    launch_split(kernels.claim, pixels, args, device, inner=side**2)
    args += [as_array(texels), as_array(noise), as_array(counts)]
    threads = threads_for(pixels, pixels * side**2, device)
    launch_split(kernels.gather, pixels, args, device, threads)
    return _pictures(noise, counts, covered)


def _pictures(noise: Tensor, counts: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
    images = noise.view(*like.shape, noise.shape[1]).movedim(-1, 1)
    return images.contiguous(), counts.view(like.shape)


def surface_noise_reference(
    texels: Float[Tensor, "T C"],
    corners: Float[Tensor, "B H1 W1 3"],
    covered: Bool[Tensor, "B H W"],
    texel_size: float | int,
    side: int = 8,
) -> tuple[Float[Tensor, "B C H W"], Int[Tensor, "B H W"]]:
    """Plain torch. Same result as :func:`surface_noise`."""
    at = patch_samples(corners, side) * (1.0 / texel_size) + 0.5
    rows = texel_rows(at, len(texels))  # (B, H, W, S)
    number = torch.arange(rows[0].numel(), device=rows.device).view(rows.shape[1:])
    x, y, z = (at - at.floor() - 0.5).unbind(-1)
    keys = ((x * x + y * y + z * z) * 2.0**30).nan_to_num().long() * 2**32 + number
    keys = torch.where(covered[..., None], keys, NOBODY)
    owners = torch.full((len(rows), len(texels)), NOBODY, device=rows.device)
    owners.scatter_reduce_(1, rows.flatten(1), keys.flatten(1), "amin")
    got = (owners.gather(1, rows.flatten(1)).view_as(rows) == keys) & covered[..., None]
    counts = got.sum(-1)
    total = torch.einsum("bhws,bhwsc->bchw", got.to(texels), texels[rows])
    return total / counts.clamp_min(1).sqrt()[:, None], counts.int()


def patch_samples(corners: Float[Tensor, "B H1 W1 3"], side: int) -> Float[Tensor, "B H W S 3"]:
    """The side^2 points of every pixel's patch, bilinear between its corners."""
    at = (torch.arange(side, dtype=corners.dtype, device=corners.device) + 0.5) / side
    u, v = at.repeat(side)[:, None], at.repeat_interleave(side)[:, None]
    left, right = corners[:, :, :-1, None], corners[:, :, 1:, None]
    across = left * (1 - u) + right * u
    return across[:, :-1] * (1 - v) + across[:, 1:] * v


def texel_rows(at: Float[Tensor, "*n 3"], rows: int) -> Int[Tensor, "*n"]:
    """The row, of a table of 2^k, of the texel that holds a point x: at = x / h + 1/2.

    Texels are centred on the multiples of their side, so that planes through the origin do not run
    between them.
    """
    texel = at.floor().clamp(-1e9, 1e9).long()
    hashed = (texel * texel.new_tensor(FACTORS)).sum(-1) & _WORD
    for shift, factor in MIXERS:
        hashed = ((hashed ^ (hashed >> shift)) * factor) & _WORD
    return (hashed ^ (hashed >> 16)) & (rows - 1)


def _check(
    texels: Any, corners: Any, covered: Any, texel_size: Any, side: int
) -> tuple[int, int, int]:
    """(B, H, W), after checking that all arguments fit."""
    check_tensor("texels", texels, "(T, C)", ndim=2)
    check_tensor("corners", corners, "(B, H + 1, W + 1, 3)", ndim=4, last=3, like=texels)
    rows = len(texels)
    if texels.dtype != torch.float32 or rows & (rows - 1) or not 1 <= rows <= 2**MAX_LOG2_ROWS:
        raise UserError(
            f"texels must be float32 with a power of two of rows, up to 2^{MAX_LOG2_ROWS}; got "
            f"{texels.dtype} with {rows}."
        )
    expected = (corners.shape[0], corners.shape[1] - 1, corners.shape[2] - 1)
    if covered.dtype != torch.bool or covered.shape != expected or covered.device != texels.device:
        raise UserError(
            f"covered must be bool {expected} on {texels.device}, one for each pixel between the "
            f"corners; got {covered.dtype} {tuple(covered.shape)} on {covered.device}."
        )
    if not texel_size > 0 or side < 1:
        raise UserError(f"texel_size and side must be positive; got {texel_size} and {side}.")
    if expected[1] * expected[2] * side**2 >= MAX_SAMPLES:
        raise UserError(f"{expected[1]} x {expected[2]} pixels of {side}^2 samples are too many.")
    return expected
