"""Shape checking is on in tests: every jaxtyping annotation of the package is enforced."""

import os

from jaxtyping import install_import_hook

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

# Installed at import time of conftest, before any test module imports the package.
_hook = install_import_hook("threestudio_asd", "beartype.beartype")
_hook.__enter__()
