"""The cores that this process may use: the one counter, which respects a container's quota."""

import math
import os
from pathlib import Path

CGROUP_V2 = Path("/sys/fs/cgroup/cpu.max")
CGROUP_V1 = Path("/sys/fs/cgroup/cpu")


def available_cores() -> int:
    """Cores that this process may run on: its affinity, and the quota of its container."""
    try:
        cores = len(os.sched_getaffinity(0))
    except AttributeError:  # not on macOS
        cores = os.cpu_count() or 1
    quota = _quota()
    return cores if quota is None else max(1, min(cores, math.ceil(quota)))


def _quota() -> float | None:
    """Cores' worth of time that the control group allows; ``None`` if it sets no limit."""
    if CGROUP_V2.is_file():
        limit, period = CGROUP_V2.read_text().split()[:2]
        return None if limit == "max" else int(limit) / int(period)
    quota, period_file = CGROUP_V1 / "cpu.cfs_quota_us", CGROUP_V1 / "cpu.cfs_period_us"
    if quota.is_file() and period_file.is_file():
        limit_us = int(quota.read_text())
        return limit_us / int(period_file.read_text()) if limit_us > 0 else None
    return None
