from threestudio_asd.portable.nvdiffrast import *  # noqa: F403
from threestudio_asd.portable.nvdiffrast import __getattr__  # noqa: F401
