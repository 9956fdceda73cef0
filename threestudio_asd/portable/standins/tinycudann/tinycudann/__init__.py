from threestudio_asd.portable.tinycudann import *  # noqa: F403
from threestudio_asd.portable.tinycudann import __getattr__  # noqa: F401
