from threestudio_asd.portable.nvdiffrast import __getattr__  # noqa: F401
