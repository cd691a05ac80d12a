"""What a test needs and a machine may lack: without it the test skips, with the reason.

RMSPROP_REQUIRE_ALL=1 turns each such skip into a failure.
"""

import importlib
import importlib.machinery
import os
from pathlib import Path
from types import ModuleType
from typing import NoReturn

import pytest


def lacking(reason: str) -> NoReturn:
    """Skip the test, or the whole file when called outside a test; fail where all is required."""
    if os.environ.get("RMSPROP_REQUIRE_ALL") == "1":
        pytest.fail(f"RMSPROP_REQUIRE_ALL=1, but {reason}")
    pytest.skip(reason, allow_module_level=True)


def data_dir() -> Path:
    """The folder with real data sets, RMSPROP_DATA."""
    folder = os.environ.get("RMSPROP_DATA")
    if not folder:
        lacking("RMSPROP_DATA is not set: name the folder that holds mnist/ and reviews/.")
    return Path(folder)


def package(name: str) -> ModuleType:
    """The imported module; one that is installed but broken fails either way."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        lacking(f"{error.name} is not installed: pip install {(error.name or name).split('.')[0]}")


def installed(name: str) -> None:
    """As `package`, without loading it: for what only a process of its own loads."""
    if importlib.machinery.PathFinder.find_spec(name) is None:
        lacking(f"{name} is not installed: pip install {name}")
