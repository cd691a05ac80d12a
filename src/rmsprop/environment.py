"""What a figure depends on besides the code: versions and machine."""

import importlib.metadata
import os
import platform
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from threadpoolctl import threadpool_info

PACKAGES = ("rmsprop", "numpy", "numba", "scikit-learn", "matplotlib")
WITH_TORCH = (*PACKAGES, "torch")


def describe(packages: tuple[str, ...] = PACKAGES) -> dict[str, Any]:
    """The moment, the versions that matter and the machine, ready for JSON.

    Examples
    --------
    >>> sorted(describe())
    ['created', 'machine', 'versions']
    """
    versions = {"python": platform.python_version()}
    for name in packages:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": versions,
        "machine": {
            "system": f"{platform.system()} {platform.machine()}",
            "processor": _processor(),
            "cores": os.cpu_count(),
            "blas": _blas(),
        },
    }


def _blas() -> str:
    """The library behind NumPy's matrix products, which decides the last bits of a trained network."""
    pools = [pool for pool in threadpool_info() if pool["user_api"] == "blas"]
    if not pools:
        return "unknown"
    # SciPy's wheel brings another one, and which is listed first changes from one process to the next.
    pool = max(pools, key=lambda pool: "/numpy" in Path(pool["filepath"]).as_posix())
    return f"{pool['internal_api']} {pool['version']} {pool.get('architecture', '')}".strip()


def _processor() -> str:
    if sys.platform == "linux":
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            for line in file:
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    return platform.processor() or "unknown"
