"""Keras's `.keras` and `.weights.h5` files without Keras: hostile ones here, Keras's own in a process."""

import io
import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import needs
from rmsprop.convert.keras.files import read

h5py = needs.package("h5py")

LIMIT = 300
"""Seconds that the process may take; it needs 15."""


def test_against_keras(tmp_path: Path) -> None:
    """convert_keras_worker.py, whose own lines say which comparison failed."""
    needs.package("keras")
    needs.package("torch")
    worker = Path(__file__).with_name("convert_keras_worker.py")
    command = ["-m", "pytest", "-p", "no:cacheprovider", "-p", "no:xdist", str(worker)]
    done = subprocess.run(
        [sys.executable, *command, "--basetemp", str(tmp_path / "worker")],
        env=os.environ | {"KERAS_BACKEND": "torch", "TF_CPP_MIN_LOG_LEVEL": "3"},
        cwd=worker.parent.parent,
        capture_output=True,
        text=True,
        timeout=LIMIT,
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert " passed" in done.stdout, done.stdout[-2000:]


def weights_file(path: Path, change: Callable[[Any], Any]) -> Path:
    with h5py.File(path, "w") as file:
        file["layers/dense/vars/0"] = np.ones((2, 2), np.float32)
        change(file)
    return path


def with_soft_link(file: Any) -> None:
    file["layers/other"] = h5py.SoftLink("/layers/dense")


def with_external_link(file: Any) -> None:
    file["layers/other"] = h5py.ExternalLink("other.h5", "/")


def with_cycle(file: Any) -> None:
    file["layers/dense/again"] = file["layers"]


def with_external_data(file: Any) -> None:
    file.create_dataset("x", (2,), "f4", external=[("/etc/hostname", 0, 8)])


def with_virtual_data(file: Any) -> None:
    layout = h5py.VirtualLayout((2, 2), "f4")
    layout[:] = h5py.VirtualSource("other.h5", "x", (2, 2))
    file.create_virtual_dataset("x", layout)


def with_bomb(file: Any) -> None:
    file.create_dataset("x", (2**15, 2**15), "f4", chunks=(2**10, 2**10), compression="gzip")


def with_claim(file: Any) -> None:
    file.create_dataset("x", (2**40,), "f4")


def with_text(file: Any) -> None:
    file["x"] = "text"


def with_reference(file: Any) -> None:
    file.create_dataset("x", (1,), h5py.ref_dtype)


def with_depth(file: Any) -> None:
    file.create_group("a/" * 40)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (with_soft_link, "link to somewhere else, which is not followed"),
        (with_external_link, "link to somewhere else, which is not followed"),
        (with_cycle, "another name of an object"),
        (with_external_data, "its data in another file"),
        (with_virtual_data, "its data in another file"),
        (with_bomb, "claims 4294967296 bytes"),
        (with_claim, "claims 4398046511104 bytes"),
        (with_text, "does not hold numbers"),
        (with_reference, "does not hold numbers"),
        (with_depth, "more than 32 deep"),
    ],
)
def test_weights_of_strangers(change: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        read(weights_file(tmp_path / "m.weights.h5", change), {})


WEIGHTS = "model.weights.h5"


def archive(path: Path, members: list[tuple[str, bytes]], packed: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", packed) as file:
        for name, content in members:
            file.writestr(name, content)
    return path


def weights() -> bytes:
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        file["layers/dense/vars/0"] = np.ones((2, 2), np.float32)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ([("config.json", b"{}")], "lacks config.json or model.weights.h5"),
        ([("config.json", b"{}"), ("code.py", b"")], "holds 'code.py', which no .keras file does"),
        ([("config.json", b"[" * 100_000)], "damaged, or not a .keras file"),
        ([("config.json", b" " * 2**25)], "config.json claims 33554432 bytes"),
        (
            [("config.json", b"{}"), ("metadata.json", b'{"keras_version": "2.15.0"}'), (WEIGHTS, b"")],
            "saved by Keras 2.15.0",
        ),
        ([("config.json", b"{}"), ("model.weights.h5", b"text")], "model.weights.h5 is damaged"),
    ],
)  # fmt: skip
def test_archives_of_strangers(members: Any, message: str, tmp_path: Path) -> None:
    path = archive(tmp_path / "m.keras", members, zipfile.ZIP_DEFLATED)
    with pytest.raises(ValueError, match=message):
        read(path, {})


def test_an_archive_with_a_name_twice(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="Duplicate name"):
        path = archive(tmp_path / "m.keras", [("config.json", b"{}")] * 2)
    with pytest.raises(ValueError, match=r"holds 'config.json' twice"):
        read(path, {})


def test_bidirectional_layers_nested_without_end_are_read_once(tmp_path: Path) -> None:
    config: dict[str, Any] = {
        "module": "keras.layers",
        "class_name": "Dense",
        "config": {"name": "dense"},
    }
    for _ in range(100):
        config = {
            "module": "keras.layers",
            "class_name": "Bidirectional",
            "config": {"layer": config},
        }
    members = [("config.json", json.dumps(config).encode()), ("model.weights.h5", weights())]
    assert read(archive(tmp_path / "m.keras", members), {}).entries == {}


def test_a_file_of_another_kind(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "m.h5", "w") as file:
        file["model_weights/dense/kernel:0"] = np.ones((2, 2), np.float32)
    with pytest.raises(ValueError, match="no variables as Keras 3 stores them"):
        read(tmp_path / "m.h5", {})


def test_without_h5py(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "h5py", None)
    path = archive(tmp_path / "m.keras", [])
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'rmsprop\[convert\]'"):
        read(path, {})
