"""Which texels of a noise field a pixel covers, in Warp; :mod:`.surface_noise` says what and why.

Arrays: ``corners`` (B * (H + 1) * (W + 1)) of points, ``covered`` and ``counts`` (B * H * W),
``owners`` (B, T), ``texels`` (T, C), ``noise`` (B * H * W, C).
"""

import functools
from types import SimpleNamespace
from typing import no_type_check

from threestudio_asd.kernels._warp import made_once, warp

wp = warp()

# Products are not fused with sums, so that a point falls into the same texel on every device.
kernel = functools.partial(
    wp.kernel, module="unique", enable_backward=False, module_options={"fuse_fp": False}
)
Points = wp.array(dtype=wp.vec3)
Flags = wp.array(dtype=wp.uint8)
Owners = wp.array2d(dtype=wp.int64)


@no_type_check  # annotations of kernels are Warp types
@made_once
def build_surface() -> SimpleNamespace:
    """``claim``: every sample asks for its texel; ``gather``: a pixel adds up those that it got.

    A texel goes to the least of its samples' keys: the squared distance from its centre in the
    upper half, the sample's number in the lower. A work item is a pixel; in ``claim`` ``inner`` is
    a sample of it.
    """

    @wp.func
    def coordinate(at: float):
        """The texel along one axis; far outside, that at the edge of what integers count."""
        return wp.uint32(wp.int32(wp.clamp(wp.floor(at), -1.0e9, 1.0e9)))

    @wp.func
    def row_of(at: wp.vec3, mask: wp.uint32):
        """The row of the texel that holds a point."""
        x = coordinate(at[0])
        y = coordinate(at[1])
        z = coordinate(at[2])
        h = x * wp.uint32(2654435761) + y * wp.uint32(805459861) + z * wp.uint32(3674653429)
        h = (h ^ (h >> wp.uint32(16))) * wp.uint32(2246822507)
        h = (h ^ (h >> wp.uint32(13))) * wp.uint32(3266489909)
        return wp.int32((h ^ (h >> wp.uint32(16))) & mask)

    @wp.func
    def off_centre(at: wp.vec3):
        """The squared distance to the texel's centre, in steps of 2^-30 of its side's square."""
        x = at[0] - wp.floor(at[0]) - 0.5
        y = at[1] - wp.floor(at[1]) - 0.5
        z = at[2] - wp.floor(at[2]) - 0.5
        return wp.int64((x * x + y * y + z * z) * 1073741824.0)

    @wp.func
    def sample_at(
        corners: Points, pixel: int, height: int, width: int, sample: int, side: int,
        per_texel: float,
    ):  # fmt: skip
        """One of the side x side points of a pixel's patch, in texels."""
        row = pixel // width
        first = (row + row // height) * (width + 1) + pixel % width
        u = (float(sample % side) + 0.5) / float(side)
        v = (float(sample // side) + 0.5) / float(side)
        top = corners[first] * (1.0 - u) + corners[first + 1] * u
        below = first + width + 1
        bottom = corners[below] * (1.0 - u) + corners[below + 1] * u
        p = top * (1.0 - v) + bottom * v
        return p * per_texel + wp.vec3(0.5, 0.5, 0.5)

    @kernel
    def claim(
        first: int, stride: int, height: int, width: int, side: int, per_texel: float,
        corners: Points, covered: Flags, owners: Owners,
    ):  # fmt: skip
        item, sample = wp.tid()
        pixel = first + stride * item
        if covered[pixel] != wp.uint8(0):
            size = height * width
            image = pixel // size
            mask = wp.uint32(owners.shape[1] - 1)
            at = sample_at(corners, pixel, height, width, sample, side, per_texel)
            number = wp.int64((pixel % size) * side * side + sample)
            key = off_centre(at) * wp.int64(4294967296) + number
            wp.atomic_min(owners, image, row_of(at, mask), key)

    @kernel
    def gather(
        first: int, stride: int, height: int, width: int, side: int, per_texel: float,
        corners: Points, covered: Flags, owners: Owners, texels: wp.array2d(dtype=float),
        noise: wp.array2d(dtype=float), counts: wp.array(dtype=wp.int32),
    ):  # fmt: skip
        item, _inner = wp.tid()
        pixel = first + stride * item
        if covered[pixel] == wp.uint8(0):
            return
        size = height * width
        samples = side * side
        image = pixel // size
        mask = wp.uint32(owners.shape[1] - 1)
        count = wp.int32(0)
        for sample in range(samples):
            at = sample_at(corners, pixel, height, width, sample, side, per_texel)
            row = row_of(at, mask)
            number = wp.int64((pixel % size) * samples + sample)
            if (owners[image, row] & wp.int64(4294967295)) == number:
                count += 1
                for c in range(texels.shape[1]):
                    noise[pixel, c] = noise[pixel, c] + texels[row, c]
        counts[pixel] = count
        for c in range(texels.shape[1]):
            noise[pixel, c] = noise[pixel, c] / wp.sqrt(float(wp.max(count, 1)))

    return SimpleNamespace(claim=claim, gather=gather)
