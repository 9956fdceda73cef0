"""Stand-in for ``nvdiffrast.torch``: imports, and raises on use."""

from threestudio_asd.portable.placeholder import refusing

ADVICE = (
    "nvdiffrast is missing or unusable on this device, and there is no stand-in for its rasteriser"
    " yet: install nvdiffrast from its repository and run on CUDA (DMTet stages and textured"
    " export need it; NeRF stages and export without textures do not)."
)

__getattr__ = refusing("nvdiffrast.torch", ADVICE)
