"""How much memory there is, and the refusal of what cannot fit into it."""

import contextlib
from pathlib import Path

from snrgate.lab.errors import InputError

__all__ = ["available", "gib", "refuse_beyond_memory"]

_SYSTEM = Path("/proc/meminfo")
_LIMITS = Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")


def available() -> int | None:
    """The bytes of memory that this process may still take, or ``None`` where nothing tells.

    Linux tells what is free on the machine, and what a container may take.
    """
    found = []
    with contextlib.suppress(OSError, ValueError, StopIteration):
        lines = _SYSTEM.read_text().splitlines()
        free = next(line for line in lines if line.startswith("MemAvailable:"))
        found.append(int(free.split()[1]) * 1024)
    with contextlib.suppress(OSError, ValueError):
        limit, taken = (int(path.read_text()) for path in _LIMITS)
        found.append(max(0, limit - taken))
    return min(found, default=None)


def refuse_beyond_memory(what: str, needed: int, instead: str) -> None:
    """Refuse what takes more memory than there is, before any of it is taken.

    Args:
        what: what takes the memory, for the error.
        needed: number of bytes.
        instead: the way out, for the error.

    Raises:
        InputError: there is less.

    Example:
        >>> from snrgate.lab.memory import refuse_beyond_memory
        >>> refuse_beyond_memory("a small thing", 1, "give a smaller one")
    """
    there = available()
    if there is not None and needed > there:
        raise InputError(
            f"{what} takes about {gib(needed)} of memory, and {gib(there)} is free; {instead}"
        )


def gib(size: int) -> str:
    """A number of bytes in GiB.

    Example:
        >>> from snrgate.lab.memory import gib
        >>> gib(3 * 2**29)
        '1.5 GiB'
    """
    return f"{size / 2**30:.1f} GiB"
