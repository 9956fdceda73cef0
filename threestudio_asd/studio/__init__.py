"""The bundled host: threestudio's extension API on PyPI wheels alone, CPU and CUDA.

It is never imported beside a real threestudio; :mod:`threestudio_asd.host` chooses one of the two.
"""

import sys

if hasattr(sys.modules.get("threestudio"), "__modules__"):
    raise ImportError(
        "threestudio_asd.studio cannot be imported beside a running threestudio: their registries"
        " would differ. Import names from threestudio_asd.host instead."
    )
