"""Objectives for searches on a cluster: found by file and name, by processes that pytest knows nothing of."""

import math
import os
import sys
import time
from pathlib import Path
from typing import Any

from rmsprop.search.workers import Config, Report


def square(config: Config, report: Report) -> float:
    return (config["x"] - 0.3) ** 2


def noted(config: Config, report: Report) -> float:
    """Says in a file which trial is where; on a node that has a file there too it stays, to be killed."""
    import ray

    where = ray.get_runtime_context().get_node_id()
    name = f"{config['k']} {time.time_ns()} {where}"
    Path(config["folder"], name).touch()
    time.sleep(0.2)
    last = config["k"] == 15 and not Path(config["folder"], where).exists()
    end = time.monotonic() + 60
    while Path(config["folder"], where).exists() or (
        last and not Path(config["folder"], "go").exists()
    ):
        assert time.monotonic() < end, "neither killed nor told to go on"
        time.sleep(0.02)
    return float(config["k"])


def levels(config: Config, report: Report) -> float:
    """Reports its own value 20 times; Pruned passes through where the search says so."""
    for step in range(20):
        report(step, config["level"])
    return config["level"]


def process(config: Config, report: Report) -> float:
    """What a process of the cluster is like: threads, the standard output, the folder."""
    import numba
    from threadpoolctl import threadpool_info

    blas = max((library["num_threads"] for library in threadpool_info()), default=1)
    assert numba.get_num_threads() == blas == 1
    assert sys.stdout is sys.stderr
    assert Path.cwd() == Path(config["folder"])
    return 1.0


def spoiled(config: Config, report: Report) -> Any:
    """Each value of `kind` ends in another way."""
    kind = config["kind"]
    if kind == "raises":
        raise RuntimeError("the disk is on fire")
    if kind == "hangs":
        time.sleep(600)
    if kind == "computes":
        sum(range(10**13))  # in C, without letting other threads on
    if kind == "nan":
        return math.nan
    if kind == "exits":
        sys.exit("goodbye")
    if kind == "dies":
        os._exit(3)
    if kind == "text":
        return "a lot"
    if kind == "misreports":
        report(-1, 0.0)
    return 1.0
