"""Memory on Linux: a process's peak, and how often it ran short."""

import re
from pathlib import Path

_VMSTAT = Path("/proc/vmstat")


def peak_mb(pid: int | str = "self") -> float | None:
    """The most memory (MiB) that a process held at a time; None where that is not told: on other
    systems, and of a process that has ended."""
    return _number(Path(f"/proc/{pid}/status"), r"VmHWM:\s*(\d+) kB", 1024)


def oom_kills() -> int | None:
    """How many processes the kernel has killed for want of memory since the machine started, in
    containers with a limit of their own, too; None where that is not told."""
    found = _number(_VMSTAT, r"oom_kill (\d+)")
    return None if found is None else int(found)


def _number(path: Path, pattern: str, unit: int = 1) -> float | None:
    try:
        found = re.search(f"^{pattern}$", path.read_text(), re.MULTILINE)
    except OSError:
        return None
    return int(found[1]) / unit if found else None
