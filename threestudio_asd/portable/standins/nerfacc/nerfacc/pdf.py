from threestudio_asd.portable.nerfacc import __getattr__  # noqa: F401
