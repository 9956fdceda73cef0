"""The commands. Python 3.8's syntax, so that an older Python can be told that it is too old."""

from threestudio_asd import requirements

_too_old = requirements.python_problem()
if _too_old:
    raise SystemExit(f"error: {_too_old}.")
