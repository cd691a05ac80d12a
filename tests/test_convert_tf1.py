"""Checkpoints of TensorFlow 1: what TensorFlow wrote is read, and it trains on from what is written.

TensorFlow runs in one process of its own (tf1_worker.py).
"""

import functools
import json
import os
import struct
import subprocess
import sys
import tempfile
import tracemalloc
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
from rmsprop.convert.tensorflow.crc32c import crc32c, masked
from rmsprop.convert.tensorflow.slots import VALUE
from rmsprop.convert.tensorflow.tables import (
    FOOTER,
    MAGIC,
    number_bytes,
    slice_key,
    table,
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


# Checksums, and files that nobody vouches for.


def test_checksum_of_every_length_and_place() -> None:
    def slow(data: bytes) -> int:
        crc = 0xFFFFFFFF
        for byte in data:
            crc ^= byte
            for _ in range(8):
                crc = (crc >> 1) ^ (0x82F63B78 if crc & 1 else 0)
        return crc ^ 0xFFFFFFFF

    # RFC 3720, B.4
    assert crc32c(bytes(32)) == 0x8A9136AA
    assert crc32c(b"\xff" * 32) == 0x62A8AB43
    assert crc32c(bytes(range(32))) == 0x46DD794E
    a = np.random.default_rng(0).integers(0, 256, 5000, np.uint8)
    for start, stop in [(0, n) for n in (0, 1, 15, 16, 17, 4095, 4096, 4097, 5000)] + [(3, 4200)]:
        assert (
            crc32c(a[start:stop])
            == crc32c(a[start:stop].tobytes())
            == slow(a[start:stop].tobytes())
        )
    assert crc32c(a.reshape(50, 100).T) == slow(a.reshape(50, 100).T.tobytes())


def sample(folder: Path) -> Path:
    """A checkpoint of 1.5 kB with all that there can be: a partitioned variable too."""
    rng = np.random.default_rng(0)
    arrays = {
        f"net/{k}{s}": rng.normal(0, 1, 5) for k in "ab" for s in ("", "/RMSProp", "/RMSProp_1")
    }
    path = written(folder, arrays | {"global_step": np.array(7), "e": rng.normal(0, 1, (2, 3))})
    entries = dict(table(Path(f"{path}.index").read_bytes()))
    part = entries.pop(b"e")
    split = b"\x08\x02\x12\x08\x12\x02\x08\x02\x12\x02\x08\x03\x3a\x06\x0a\x00\x0a\x02\x10\x03"
    key = slice_key("e", [(0, -1), (0, 3)]).encode("utf-8", "surrogateescape")
    entries |= {key: part, b"e": split}
    Path(f"{path}.index").write_bytes(table_bytes(sorted(entries.items())))
    return path


def attempt(path: Path) -> bool:
    """Whether the file is read; what is wrong with it is always said in one way."""
    try:
        tf1.read(path, {"momentum": 0.9})
    except (
        ValueError,
        FileNotFoundError,
    ) as error:  # the latter: an index that names another shard
        assert str(path) in str(error)  # noqa: PT017
        return False
    return True


def test_mutated_files(tmp_path: Path) -> None:
    path = sample(tmp_path)
    assert attempt(path)
    assert read_bundle(path)[0]["e"].shape == (2, 3)
    rng, accepted = np.random.default_rng(1), 0
    expected = {n: a.tobytes() for n, a in read_bundle(path)[0].items()}
    for file in (Path(f"{path}.index"), shard_path(path, 0, 1)):
        whole = file.read_bytes()
        for k in range(500):
            raw = bytearray(whole)
            if k % 5 == 0:
                del raw[int(rng.integers(len(raw))) :]
            elif k % 5 == 1:
                raw.insert(int(rng.integers(len(raw))), int(rng.integers(256)))
            else:
                raw[int(rng.integers(len(raw)))] ^= 1 << int(rng.integers(8))
            file.write_bytes(raw)
            # Zeros that fill the footer, and what stands behind the last tensor, mean nothing.
            if attempt(path):
                accepted += 1
                assert {n: a.tobytes() for n, a in read_bundle(path)[0].items()} == expected
        file.write_bytes(whole)
    assert accepted < 100


EDGES = np.array([0, 1, 2, 3, 8, 18, 40, 58, 127, 128, 255])


def signed_again(raw: bytes) -> bytes:
    """One block and its index, with right checksums, whatever the block holds."""
    block = raw + b"\0" + struct.pack("<I", masked(crc32c(raw + b"\0")))
    empty = b"\0\0\0\0\1\0\0\0"
    handle = number_bytes(0) + number_bytes(len(raw))
    index = bytes([0, 1, len(handle)]) + b"z" + handle + empty
    found, places = block, b""
    for part in (empty, index):
        places += number_bytes(len(found)) + number_bytes(len(part))
        found += part + b"\0" + struct.pack("<I", masked(crc32c(part + b"\0")))
    return found + places.ljust(FOOTER - 8, b"\0") + struct.pack("<Q", MAGIC)


def test_mutated_files_with_right_checksums(tmp_path: Path) -> None:
    path = sample(tmp_path)
    file, rng, read = Path(f"{path}.index"), np.random.default_rng(2), 0
    whole = file.read_bytes()
    whole = whole[: whole.index(masked_of_first_block(whole)) - 1]
    file.write_bytes(signed_again(whole))
    assert attempt(path)
    tracemalloc.start()
    for _ in range(600):
        raw = bytearray(whole)
        for _ in range(int(rng.integers(1, 4))):
            raw[int(rng.integers(len(raw)))] = int(rng.choice(EDGES))
        file.write_bytes(signed_again(bytes(raw)))
        read += attempt(path)
    assert tracemalloc.get_traced_memory()[1] < 20e6
    tracemalloc.stop()
    assert 0 < read < 300


def masked_of_first_block(raw: bytes) -> bytes:
    for end in range(len(raw)):
        crc = struct.pack("<I", masked(crc32c(raw[: end + 1])))
        if raw[end] == 0 and raw[end + 1 : end + 5] == crc:
            return crc
    raise AssertionError("no block")


def item(dtype: int = 2, shape: tuple[int, ...] = (1,), offset: int = 0, size: int = 8) -> bytes:
    dims = b"".join(
        b"\x12" + number_bytes(1 + len(number_bytes(n))) + b"\x08" + number_bytes(n) for n in shape
    )
    shaped = b"\x12" + number_bytes(len(dims)) + dims
    return (
        b"\x08"
        + number_bytes(dtype)
        + shaped
        + b"\x20"
        + number_bytes(offset)
        + b"\x28"
        + number_bytes(size)
    )


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ([(b"w", item(shape=(1 << 40,), size=8 << 40))], "lies beyond the end of"),
        ([(b"w", item(shape=(1 << 62, 4), size=0))], "a shape of"),
        ([(b"w", item(shape=(1,) * 33))], "a shape with 33 dimensions"),
        ([(b"w", item(shape=(2,)))], "of 8 bytes cannot be float64"),
        ([(b"w", item()), (b"x", item(offset=4))], "two tensors lie on the same bytes"),
        ([(b"w", item())], "'w' does not have the checksum that the index names"),
        ([(b"w", item(offset=(1 << 64) - 8))], "lies before the start of its file"),
        ([(b"\xff", item())], "is not UTF-8"),
        ([(b"w" * 5000, item())], "a name has 5000 bytes"),
        ([(b"w", item(shape=(3,)) + b"\x3a\x02\x0a\x00")], "a slice of 'w' is missing"),
        ([(b"w", b"\x0b")], "is not a protocol buffer"),
        # A slice, of a name that is no text, that is itself made of slices.
        ([(b"\0\xff", item() + b"\x3a\x02\x0a\x00"), (b"w", item())], "checksum"),
        ([(b"w", b"\x0a\x01a")], "bytes where a number belongs"),
        ([(b"w", b"\x12\x7f")], "ends too early"),
        ([(b"w", item()), (b"w", item())], "names are not in order"),
    ],
)
def test_hostile_indices(entries: list[tuple[bytes, bytes]], message: str, tmp_path: Path) -> None:
    (tmp_path / "model.index").write_bytes(table_bytes([(b"", b"\x08\x01"), *entries]))
    (tmp_path / "model.data-00000-of-00001").write_bytes(bytes(1000))
    with pytest.raises(ValueError, match=message) as error:
        read_bundle(tmp_path / "model")
    assert "copy" in str(error.value)


def test_hostile_tables(tmp_path: Path) -> None:
    def refuses(raw: bytes, message: str) -> None:
        (tmp_path / "model.index").write_bytes(raw)
        with pytest.raises(ValueError, match=message):
            read_bundle(tmp_path / "model")

    restarts = b"\0\0\0\0\1\0\0\0"
    refuses(b"", "does not end as a table does")
    refuses(table_bytes([]), "its first entry is not the header")
    refuses(table_bytes([(b"", b"\x08\x01\x10\x01")]), "big-endian")
    refuses(table_bytes([(b"", b"")]), "it names 0 shards")
    refuses(signed_again(b"\0"), "a block is too short")
    refuses(signed_again(b"\xff\xff\xff\xff"), "restarts are outside it")
    refuses(signed_again(b"\1\1\1aa" + restarts), "an entry is outside its block")
    refuses(signed_again(b"\xff" * 20 + restarts), "a number does not end")
    # Each entry of four bytes makes a key that is as long as all before it.
    long = b"\0" + number_bytes(100_000) + b"\0" + b"a" * 100_000
    more = b"".join(number_bytes(100_000 + k) + b"\1\0b" for k in range(100_000))
    refuses(signed_again(b"\0\0\2\x08\1" + long + more + restarts), "a name has 100000 bytes")
    with pytest.raises(ValueError, match="names are far larger than the file"):
        sum(1 for _ in table(signed_again(long + more + restarts)))
    snappy = bytearray(table_bytes([(b"", b"\x08\x01")]))
    place = snappy.index(masked_of_first_block(bytes(snappy))) - 1
    snappy[place] = 1
    snappy[place + 1 : place + 5] = struct.pack("<I", masked(crc32c(bytes(snappy[: place + 1]))))
    refuses(bytes(snappy), "compressed with Snappy")
