"""How many cores this process may use."""

import os


def cores() -> int:
    """How many cores this process may use: ``OMP_NUM_THREADS``, which torch obeys, too, if it is
    set; else what affinity and, in a container, its quota leave."""
    wanted = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    if wanted.isdigit() and int(wanted) > 0:
        return int(wanted)
    from loky import cpu_count

    return cpu_count()
