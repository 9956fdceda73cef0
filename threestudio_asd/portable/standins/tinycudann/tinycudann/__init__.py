from threestudio_asd.portable.tinycudann import *  # noqa: F403
