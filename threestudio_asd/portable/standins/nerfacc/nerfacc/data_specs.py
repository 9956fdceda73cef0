from threestudio_asd.portable.nerfacc import RayIntervals  # noqa: F401
