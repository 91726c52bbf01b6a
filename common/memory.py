"""Checks that something fits into the memory before it is allocated.

Linux promises more memory than there is and kills the process that uses it, without a message.
"""

from contextlib import suppress
from pathlib import Path

import torch

from common.errors import UserError

GROUP = Path("/sys/fs/cgroup")
# Of a container, in today's and in the former form: its limit, and what it uses of it.
GROUPS = (("memory.max", "memory.current"), ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"))


def check_fits(what: str, numbers: int, device: torch.device | str = "cpu") -> None:
    """Refuse what is certainly too large.

    Args:
        what: which settings make it as large as it is.
        numbers: float32s that it needs at least.
        device: that is to hold them.

    Raises:
        UserError: there is less memory than that.
    """
    there = free_bytes(torch.device(device))
    if 4 * numbers > there:
        raise UserError(
            f"{what} does not fit into the memory: it needs at least {4 * numbers / 1e9:,.1f} GB, "
            f"{there / 1e9:,.1f} GB are free"
        )


def free_bytes(device: torch.device) -> float:
    """Memory that can still be had; infinite where the system does not tell."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    free = [float("inf"), *(_left_in_group(*names) for names in GROUPS)]
    with suppress(OSError):
        rows = [line.split() for line in Path("/proc/meminfo").read_text().splitlines()]
        free.append(sum(1024 * int(row[1]) for row in rows if row[0] in ("MemAvailable:", "SwapFree:")))
    with suppress(OSError, ImportError):  # Windows has no such limits
        import resource

        limit = resource.getrlimit(resource.RLIMIT_AS)[0]
        if limit != resource.RLIM_INFINITY:
            pages = int(Path("/proc/self/statm").read_text().split()[0])
            free.append(limit - pages * resource.getpagesize())
    return max(0.0, min(free))


def _left_in_group(limit: str, usage: str) -> float:
    """What a container may still use; its cache of files, which counts as used, makes room."""
    try:
        used = int((GROUP / usage).read_text())
        words = (GROUP / usage).with_name("memory.stat").read_text().split()
        cache = int(words[words.index("inactive_file") + 1])
        return int((GROUP / limit).read_text()) - used + cache
    except (OSError, ValueError):  # no container, or one without a limit
        return float("inf")
