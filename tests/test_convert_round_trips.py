"""Training goes on in another framework: k steps in one and k in the other are 2k steps in the first.

Every ordered pair of NumPy, PyTorch, Optax and Keras on its three backends.  The first half is made by the
framework's own optimizer (Keras's, Optax's, PyTorch's), the second by whatever the file says can go on.
"""

import fcntl
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import needs

jax = needs.package("jax")
for name in ("torch", "optax", "flax", "h5py", "msgpack"):
    needs.package(name)
for name in ("keras", "tensorflow"):  # their processes load them
    needs.installed(name)

from rmsprop import convert  # noqa: E402
from roundtrip_nets import (  # noqa: E402
    BEGIN,
    CASES,
    FINISH,
    FLAT,
    NUMBERS,
    STEPS,
    Case,
    Params,
    optax_like,
    torch_like,
)  # fmt: skip

BACKENDS = ("torch", "jax", "tensorflow")
KERAS = [f"keras-{backend}" for backend in BACKENDS]
FRAMEWORKS = ["numpy", "torch", "optax", *KERAS]
DIALECT = {"numpy": "hinton", "torch": "torch", "optax": "optax"} | dict.fromkeys(KERAS, "keras")
ENDING = {"numpy": "safetensors", "torch": "pt", "optax": "msgpack"} | dict.fromkeys(KERAS, "keras")
pytestmark = pytest.mark.long


def worker(backend: str, *words: str) -> subprocess.Popen[str]:
    command = [sys.executable, str(Path(__file__).parent / "roundtrip_keras.py"), *words]
    quiet = {"KERAS_BACKEND": backend, "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": ""}
    x64 = {"JAX_ENABLE_X64": "1"}
    paths = os.pathsep.join(
        [str(Path(convert.__file__).parents[2]), *filter(None, [os.environ.get("PYTHONPATH")])]
    )
    env = os.environ | quiet | x64 | {"PYTHONPATH": paths}
    return subprocess.Popen(
        command, env=env, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
    )


def wait(processes: list[subprocess.Popen[str]]) -> None:
    for process in processes:
        _, errors = process.communicate(timeout=600)
        assert process.returncode == 0, errors[-3000:]


def once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], None]) -> Path:
    """A folder that the first of pytest's processes to want it fills for all of them."""
    own = factory.getbasetemp()
    root = own.parent if "PYTEST_XDIST_WORKER" in os.environ else own
    folder = root / name
    with (root / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            partial = root / f"{name}.partial"
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir()
            make(partial)
            partial.rename(folder)
    return folder


def file_of(root: Path, framework: str, name: str) -> Path:
    """What a framework wrote after the first half."""
    return root / framework / f"{name}.{ENDING[framework]}"


def end_of(root: Path, framework: str, name: str) -> Params:
    """Where it was after the second."""
    return dict(np.load(root / framework / f"{name}.npz"))


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """FRAMEWORK/CASE.* of every framework and case."""
    return once(tmp_path_factory, "begun", begin)


def begin(root: Path) -> None:
    running = []
    for framework in FRAMEWORKS:
        (root / framework).mkdir()
    for backend in BACKENDS:
        running.append(worker(backend, "begin", str(root / f"keras-{backend}")))
    for framework, run in BEGIN.items():
        for name, case in CASES.items():
            with jax.enable_x64(case.dtype == "float64"):
                found: dict[str, Any] = run(case, file_of(root, framework, name))
            np.savez(root / framework / f"{name}.npz", **found)
    wait(running)


def in_map(case: Case, source: str, target: str) -> Any:
    """What must be said of arrays from JAX and NumPy: which was flattened, and of NumPy also the order."""
    if (source == "torch") == (target == "torch"):
        return None
    flatten = (
        {"layout": "flatten", "sizes": FLAT} if case.net == "conv" else {"layout": "transpose"}
    )
    first = "conv" if case.net == "conv" else "transpose"
    keras = {
        "first/kernel": ("first.weight", {"layout": first}),
        "last/kernel": ("last.weight", flatten),
        "first/bias": ("first.bias", {}),
        "last/bias": ("last.bias", {}),
    }
    if target == "torch":
        return {old: {"to": new} | how for old, (new, how) in keras.items()}
    return {new: {"to": old} | how for old, (new, how) in keras.items()}


def translated(
    begun: Path, source: str, target: str, name: str, folder: Path
) -> tuple[Path, Path | None]:
    """The file for the target, and the template that it was made like."""
    case, path = CASES[name], file_of(begun, source, name)
    told: dict[str, Any] = {"lr": case.rate(STEPS)} if case.scheduled else {}
    if source == "optax":
        told = {**NUMBERS, "momentum": case.momentum, "centered": case.centered} | told
    like: Path | None = None
    if target in KERAS:
        like = file_of(begun, target, name)
    elif target == "torch":
        like = torch_like(case, folder)
    elif target == "optax" and DIALECT[source] in ("optax", "keras"):
        with jax.enable_x64(case.dtype == "float64"):
            like = optax_like(case, folder)
    found = convert.read(path, DIALECT[source], **told)
    result = folder / f"translated.{ENDING[target]}"
    step = STEPS if found.step is None else None
    names = in_map(case, source, target)
    convert.write(found, result, like=like, step=step, names=names)
    return result, like


@pytest.fixture(scope="module")
def finished_in_keras(begun: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with SOURCE-TARGET-CASE.npz for every target that is a Keras."""
    return once(tmp_path_factory, "finished", lambda root: finish(root, begun))


def finish(root: Path, begun: Path) -> None:
    running = []
    for target in KERAS:
        jobs = {}
        for source in FRAMEWORKS:
            for name in CASES:
                if source != target:
                    job = f"{source}-{target}-{name}"
                    (root / job).mkdir()
                    path, _ = translated(begun, source, target, name, root / job)
                    jobs[job] = [name, str(path)]
        table = root / f"{target}.json"
        table.write_text(json.dumps(jobs))
        running.append(worker(target.removeprefix("keras-"), "finish", str(root), str(table)))
    wait(running)


PAIRS = [(a, b) for a in FRAMEWORKS for b in FRAMEWORKS if a != b]


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize(("source", "target"), PAIRS, ids=lambda x: x)
def test_it_goes_on(
    source: str, target: str, name: str, begun: Any, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    case, expected = CASES[name], end_of(begun, source, name)
    if target in KERAS:
        root = request.getfixturevalue("finished_in_keras")
        found = dict(np.load(root / f"{source}-{target}-{name}.npz"))
    else:
        path, like = translated(begun, source, target, name, tmp_path)
        with jax.enable_x64(case.dtype == "float64"):
            found = FINISH[target](case, case.rule(DIALECT[source]), path, like)
    assert set(found) == set(expected)
    for key, a in expected.items():
        assert found[key].dtype == case.dtype
        assert np.abs(found[key] - a).max() <= case.tolerance, key
