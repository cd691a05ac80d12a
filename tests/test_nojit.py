"""The same kernels as plain Python: what a debugger, or a machine that cannot compile, runs."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import rmsprop

TESTS = Path(__file__).parent


@pytest.mark.long
def test_kernels_run_uncompiled(tmp_path: Path) -> None:
    """The tests marked `nojit`, in a process with NUMBA_DISABLE_JIT=1."""
    environment = os.environ | {
        "NUMBA_DISABLE_JIT": "1",
        "NUMBA_CACHE_DIR": str(tmp_path),
        "PYTHONPATH": str(Path(rmsprop.__file__).parents[1]),
    }
    words = [
        "-m",
        "pytest",
        "-m",
        "nojit",
        "-p",
        "no:cacheprovider",
        *[
            str(TESTS / f"test_{name}.py")
            for name in ("kernels", "lowbit", "stacked", "torch_kernels")
        ],
    ]
    done = subprocess.run(
        [sys.executable, *words],
        cwd=TESTS.parent,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr
    count = int(done.stdout.split(" passed")[0].split()[-1])
    assert count > 200, "or the marker has gone"
    assert not list(tmp_path.rglob("*.nb*")), "nothing was compiled"
