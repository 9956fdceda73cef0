from threestudio_asd.portable.nerfacc import AbstractEstimator  # noqa: F401
