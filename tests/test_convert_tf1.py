"""Checkpoints of TensorFlow 1: what TensorFlow wrote is read, and it trains on from what is written.

TensorFlow runs in one process of its own (tf1_worker.py).
"""

import functools
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import needs
import rmsprop
import tf1_worker as worker
from rmsprop.convert.checkpoint import Checkpoint, Entry
from rmsprop.convert.tensorflow import tf1
from rmsprop.convert.tensorflow.bundle import read_bundle, shard_path
from rmsprop.convert.tensorflow.bundle_writing import write_bundle
from rmsprop.convert.tensorflow.slots import VALUE
from rmsprop.convert.tensorflow.tables import (
    table_bytes,
)

Array = np.ndarray[Any, Any]
SOURCE = Path(rmsprop.__file__).parents[1]
LIMIT = 300
"""Seconds that TensorFlow's process may take; it needs 15 to 30."""


@functools.cache
def scratch() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory()


@functools.cache
def found() -> dict[str, str]:
    """What each check of the worker found: nothing, or a traceback."""
    needs.installed("tensorflow")
    paths = os.pathsep.join([str(SOURCE), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, worker.__file__, scratch().name],
        env=os.environ | {"PYTHONPATH": paths},
        capture_output=True,
        text=True,
        timeout=LIMIT,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout.splitlines()[-1])


def folder() -> Path:
    found()
    return Path(scratch().name)


@pytest.mark.parametrize("name", worker.CHECKS)
def test_in_tensorflow(name: str) -> None:
    assert not found()[name], found()[name]


# What TensorFlow wrote.


@pytest.mark.parametrize("key", worker.RUNS)
def test_every_bit_is_read(key: str) -> None:
    dtype, momentum, centered, _, scope = worker.RUNS[key]
    got = tf1.read(folder() / key / f"model.ckpt-{worker.STEPS}", {"momentum": momentum, "lr": 0.5})
    assert (got.kind, got.dialect, got.layout, got.named) == ("tf1", "tf1", "keras", True)
    assert got.step == worker.STEPS
    assert got.groups == [{"momentum": momentum, "lr": 0.5, "centered": centered}]
    slots = "v" + "m" * centered + "b" * (momentum > 0)
    assert "".join(got.slots()) == slots
    kept = np.load(folder() / key / f"{worker.STEPS}.npz")
    assert sorted(got.entries) == sorted(worker.start(dtype, scope))
    for name, entry in got.entries.items():
        for a, key in [(entry.value, name), *((entry.slots[s], f"{name}:{s}") for s in slots)]:
            assert a is not None
            assert a.dtype == kept[key].dtype == dtype
            assert a.tobytes() == kept[key].tobytes()
        assert entry.role == name.rpartition("/")[2]
    average = f"{scope}/bn/moving_mean".lstrip("/")
    assert got.left == {average: "a variable that the optimizer does not move"}


@pytest.mark.parametrize("key", worker.RUNS)
def test_training_goes_on(key: str) -> None:
    dtype, momentum, centered, _, scope = worker.RUNS[key]
    got = tf1.read(folder() / key / f"model.ckpt-{worker.STEPS}", {"momentum": momentum})
    names = worker.start(dtype, scope)
    params = {n: value for n in names if (value := got.entries[n].value) is not None}
    assert len(params) == 4
    known = worker.rule(dtype, momentum, centered)
    params, states = worker.go_on(known, params, worker.as_states(got), worker.STEPS)
    expected = np.load(folder() / key / f"{2 * worker.STEPS}.npz")
    tolerance = 1e-12 if dtype == "float64" else 2e-6
    for name, p in params.items():
        np.testing.assert_allclose(p, expected[name], tolerance, tolerance)
        for slot in known.slots:
            kept = getattr(states[name], slot)
            np.testing.assert_allclose(kept, expected[f"{name}:{slot}"], tolerance, tolerance)


@pytest.mark.parametrize("centered", [False, True])
def test_object_based(centered: bool) -> None:
    path = folder() / f"object-{centered}"
    got, kept = tf1.read(path, {"momentum": 0.9}), np.load(f"{path}.npz")
    assert got.step == worker.STEPS
    assert got.groups[0]["centered"] == centered
    assert sorted(got.entries) == ["model/layers/0", "model/w"]
    slots = {f"{n}:{s}": a for n, entry in got.entries.items() for s, a in entry.slots.items()}
    assert sorted(slots) == sorted(kept)
    assert all(slots[key].tobytes() == kept[key].tobytes() for key in kept)
    with pytest.raises(
        ValueError, match=r"written by tf.train.Checkpoint, which is not written here"
    ):
        tf1.write(folder() / "no", got, path)


def test_paths() -> None:
    expected = tf1.read(folder() / "float64-0.9-True" / "model.ckpt-10", {"momentum": 0.9})
    prefix = folder() / "float64-0.9-True" / "model.ckpt-10"
    for path in (
        prefix.parent,
        prefix.parent / "checkpoint",
        f"{prefix}.index",
        f"{prefix}.meta",
        f"{prefix}.data-00000-of-00001",
    ):
        got = tf1.read(path, {"momentum": 0.9})
        assert got.step == expected.step == 10
        assert got.entries["first/kernel"].slots["m"].tobytes() == (
            expected.entries["first/kernel"].slots["m"].tobytes()
        )


def test_partitioned_and_averaged() -> None:
    for key in ("partitioned", "averaged"):
        got = tf1.read(folder() / key, {"momentum": 0.9})
        assert list(got.entries) == ["net/kernel"]
        entry = got.entries["net/kernel"]
        assert entry.value is not None
        np.testing.assert_array_equal(entry.value, np.load(folder() / f"{key}.npy"))
        gradient = 2 * np.random.default_rng(0).normal(0, 1, (70, 3)).astype("float32")
        np.testing.assert_allclose(entry.slots["v"], 0.9 + 0.1 * gradient**2, 1e-5)
    average = "net/kernel/ExponentialMovingAverage"
    assert got.left == {average: "ExponentialMovingAverage of net/kernel, which is not RMSProp's"}


def test_narrow_numbers_come_wide() -> None:
    for key in ("half", "bfloat16"):
        got = tf1.read(folder() / key, {"momentum": 0.5}).entries["net/kernel"]
        assert got.value is not None
        assert got.value.dtype == got.slots["v"].dtype == np.float32
        np.testing.assert_array_equal(got.value, np.load(folder() / f"{key}.npy"))
        with pytest.raises(ValueError, match=r"holds 'net/kernel', which cannot be copied"):
            tf1.write(folder() / "no", Checkpoint("tf1"), folder() / key)


def test_other_kinds_are_refused() -> None:
    with pytest.raises(ValueError, match=r"v1 is a V1 checkpoint .*Saver\(write_version="):
        tf1.read(folder() / "v1", {})
    with pytest.raises(ValueError, match="beta1_power says that Adam wrote it"):
        tf1.read(folder() / "adam-named", {"momentum": 0.9})
    got = tf1.read(folder() / "adam", {})
    assert got.notes == ["there are no slots of RMSProp: parameters only"]
    assert got.left["net/kernel/Adam_1"] == "Adam of net/kernel, which is not RMSProp's"


# Errors.

ONE = np.ones(2)
PAIR = {"w": ONE, "w/RMSProp": ONE, "w/RMSProp_1": 2 * ONE}


def written(folder: Path, arrays: dict[str, Array]) -> Path:
    write_bundle(folder / "model", arrays)
    return folder / "model"


def test_momentum_must_be_told(tmp_path: Path) -> None:
    path = written(tmp_path, PAIR)
    with pytest.raises(ValueError, match="a TensorFlow 1 checkpoint keeps") as error:
        tf1.read(path, {"lr": 0.1})
    assert str(error.value) == (
        "a TensorFlow 1 checkpoint keeps a momentum slot whether or not there was momentum: say which, "
        "--from tf1:momentum=0.9 or tf1:momentum=0"
    )
    without = tf1.read(path, {"momentum": 0})
    assert list(without.entries["w"].slots) == ["v"]
    assert without.notes[0].startswith("momentum is 0: the momentum slots hold the last update")
    assert list(tf1.read(path, {"momentum": 0.9}).entries["w"].slots) == ["v", "b"]
    with pytest.raises(
        ValueError, match=r"has 2 slots for each parameter, .*: do not say centered=True"
    ):
        tf1.read(path, {"momentum": 0, "centered": True})
    path = written(tmp_path, PAIR | {"w/RMSProp_2": ONE})
    with pytest.raises(
        ValueError, match=r"has 3 slots for each parameter, .*: do not say centered=False"
    ):
        tf1.read(path, {"momentum": 0, "centered": False})


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        (PAIR | {"w/RMSProp_2": ONE, "w/RMSProp_3": ONE}, r"w has 4 slots named RMSProp"),
        ({"w": ONE, "w/RMSProp": ONE}, r"w has 1 slots named RMSProp"),
        (PAIR | {f"u{k}": ONE for k in ("", "/RMSProp", "/RMSProp_1", "/RMSProp_2")}, "others 3"),
        (PAIR | {"w": ONE.astype("float32")}, "one shape and one floating type"),
        (
            {"w": ONE, **{f"w/{n}": ONE for n in ("A", "A_1", "B", "B_1")}},
            "w has slots of two optimizers",
        ),
        (PAIR | {"global_step": np.array(-1)}, "global_step is -1, but steps count from 0"),
        (
            {f"o/_variables/1{VALUE}": ONE},
            "written by a Keras 3 optimizer: save a .keras file",
        ),
        (
            {f"w/.OPTIMIZER_SLOT/o/rms{VALUE}": ONE, f"w{VALUE}": ONE},
            "o is not tf.compat.v1.train.RMSPropOptimizer but one of Keras",
        ),
    ],
)
def test_what_is_no_such_optimizer(arrays: dict[str, Array], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        tf1.read(written(tmp_path, arrays), {"momentum": 0.9})


def test_complex_numbers(tmp_path: Path) -> None:
    complex64 = b"\x08\x08\x12\x00\x28\x08"
    (tmp_path / "model.index").write_bytes(table_bytes([(b"", b"\x08\x01"), (b"z", complex64)]))
    with pytest.raises(ValueError, match=r"z is complex64: torch averages .* cannot be translated"):
        tf1.read(tmp_path / "model", {})


def test_only_slots_and_only_parameters(tmp_path: Path) -> None:
    slots = {f"a/w/RMSProp{k}": ONE for k in ("", "_1")}
    got = tf1.read(written(tmp_path, slots), {"momentum": 0.9}).entries
    assert list(got) == ["a/w"]
    assert got["a/w"].value is None
    got = tf1.read(written(tmp_path, {"a/w": ONE, "a/b": ONE, "n": np.array(3)}), {})
    assert list(got.entries) == ["a/b", "a/w"]
    assert got.left == {"n": "of type int64"}
    assert got.groups == [{}]


def test_missing_and_foreign_files(tmp_path: Path) -> None:
    with pytest.raises(
        FileNotFoundError, match=r"model\.index does not exist: name a checkpoint by"
    ):
        tf1.read(tmp_path / "model", {})
    with pytest.raises(FileNotFoundError, match=r"checkpoint does not exist: name a checkpoint in"):
        tf1.read(tmp_path, {})
    (tmp_path / "model").write_text("something else")
    with pytest.raises(ValueError, match="model is not a TensorFlow checkpoint"):
        tf1.read(tmp_path / "model", {})
    path = written(tmp_path, PAIR)
    for text in ("", 'model_checkpoint_path: ".."', "model_checkpoint_path: model"):
        (tmp_path / "checkpoint").write_text(text)
        with pytest.raises(ValueError, match="checkpoint names no model_checkpoint_path"):
            tf1.read(tmp_path, {})
    (tmp_path / "checkpoint").write_text('model_checkpoint_path: "/another/machine/model"\n')
    assert "w" in tf1.read(tmp_path, {"momentum": 0}).entries
    shard_path(path, 0, 1).unlink()
    with pytest.raises(
        FileNotFoundError, match="a checkpoint is all its files, copy them together"
    ):
        tf1.read(path, {"momentum": 0})


# Writing.


def test_writing_refuses(tmp_path: Path) -> None:
    def checkpoint(**entries: Entry) -> Checkpoint:
        return Checkpoint("tf1", "tf1", entries=entries, step=1)

    good = Entry({"v": ONE}, ONE)
    like = written(tmp_path, PAIR)
    before = like.with_suffix(".index").read_bytes()
    for bad, template, message in (
        (checkpoint(w=Entry({"v": ONE}, ONE.astype("float32"))), None, "one shape and type"),
        (
            checkpoint(w=Entry({}, np.ones(2, "int32"))),
            None,
            "w is int32: only float32 and float64",
        ),
        (checkpoint(global_step=good), None, "two tensors would be named 'global_step'"),
        (checkpoint(u=good), like, "has no 'u' with 2 slots; it has w with 2"),
        (checkpoint(w=Entry({"v": ONE, "m": ONE}, ONE)), like, "has no 'w' with 3 slots"),
        (checkpoint(), like, "has 'w', but there is no such parameter: name it, --map"),
        (checkpoint(w=Entry({"v": np.ones(3)})), like, r"w/RMSProp is float64\(3,\), in .*\(2,\)"),
    ):
        with pytest.raises(ValueError, match=message):
            tf1.write(like, bad, template)
    with pytest.raises(ValueError, match="is a folder: name a checkpoint in it"):
        tf1.write(tmp_path, checkpoint(w=good))
    for name in ("", "a\0b"):
        with pytest.raises(ValueError, match="TensorFlow has no variable named"):
            write_bundle(like, {name: ONE})
    with pytest.raises(ValueError, match="w is complex128: float32, float64, int32, int64 can"):
        write_bundle(like, {"w": ONE * 1j})
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "model.data-00000-of-00001",
        "model.index",
    ]
    assert like.with_suffix(".index").read_bytes() == before


def test_a_write_that_fails_keeps_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = written(tmp_path, PAIR)
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    replace = Path.replace

    def failing(self: Path, target: Path) -> Path:
        if str(target).endswith(".index"):
            raise OSError(28, "No space left on device")
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", failing)
    with pytest.raises(OSError, match=r"model.index|No space"):
        write_bundle(path, {"w": 5 * ONE})
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before
    monkeypatch.undo()
    # As after a kill between the two: a shard that no index names.
    shard_path(path, 0, 2).write_bytes(b"left over")
    assert read_bundle(path)[0]["w/RMSProp_1"].tolist() == [2, 2]
    write_bundle(path, {"w": 5 * ONE})
    assert read_bundle(path)[0]["w"].tolist() == [5, 5]
    assert len(list(tmp_path.iterdir())) == 2


def test_with_a_template(tmp_path: Path) -> None:
    names = {f"s/s/w/My{k}": k for k in ("", "_1", "_2")}
    like = written(
        tmp_path, dict.fromkeys([*names, "s/w", "s/mean"], ONE) | {"s/global_step": np.array(1)}
    )
    new = Entry({"v": 2 * ONE, "m": 3 * ONE, "b": 4 * ONE}, 5 * ONE)
    tf1.write(tmp_path / "new.index", Checkpoint("tf1", entries={"s/w": new}, step=9), like)
    arrays, _ = read_bundle(tmp_path / "new")
    assert {name: a.reshape(-1)[0] for name, a in arrays.items()} == {
        "s/global_step": 9, "s/mean": 1, "s/s/w/My": 2, "s/s/w/My_1": 3, "s/s/w/My_2": 4, "s/w": 5,
    }  # fmt: skip
