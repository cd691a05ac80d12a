"""Checkpoints: what is kept comes back bit for bit, what is damaged is noticed, and two are kept."""

import json
import math
import re
import shutil
import struct
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from rmsprop import checkpoint, files

Array = np.ndarray[Any, Any]
DTYPES = ("float16", "float32", "float64", "int8", "int16", "int32", "int64", "uint8", "uint16",
          "uint32", "uint64", "bool")  # fmt: skip
KIND = "rmsprop checkpoint"


def header_of(step: int, **more: Any) -> dict[str, Any]:
    return {"step": step} | more


def arrays_of(seed: int, size: int = 7) -> dict[str, Array]:
    rng = np.random.default_rng(seed)
    return {
        "params/w": rng.normal(size=(size, 3)).astype(np.float32),
        "state/square_avg/w": rng.normal(size=(size, 3)).astype(np.float32) ** 2,
        "count": np.arange(3),
    }


def assert_equal_bits(found: dict[str, Array], expected: dict[str, Array]) -> None:
    assert set(found) == set(expected)
    for name, a in expected.items():
        assert (found[name].dtype, found[name].shape) == (a.dtype, a.shape), name
        assert found[name].tobytes() == a.tobytes(), name


def kept(folder: Path) -> list[str]:
    """The checkpoints in a folder, oldest first."""
    return sorted(path.name for path in folder.rglob("step-*.safetensors"))


def found_in(folder: Path) -> tuple[dict[str, Array], dict[str, Any], Path]:
    found = checkpoint.newest(folder)
    assert found is not None
    return found


@pytest.fixture
def two(tmp_path) -> tuple[Path, Path, Path]:
    """A folder with two checkpoints, of steps 5 and 12."""
    old = checkpoint.save(tmp_path, arrays_of(5), header_of(5))
    new = checkpoint.save(tmp_path, arrays_of(12), header_of(12))
    return tmp_path, old, new


# There and back


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(), (0,), (1,), (5,), (3, 0, 2), (2, 3, 4)], ids=str)
def test_every_array_comes_back_bit_for_bit(tmp_path, dtype, shape):
    bits = np.random.default_rng(1).integers(0, 256, math.prod(shape) * 8, dtype=np.uint8)
    if dtype == "bool":
        bits &= 1
    a = bits.view(dtype)[: math.prod(shape)].reshape(shape)
    checkpoint.save(tmp_path, {"a": a}, header_of(1))
    assert_equal_bits(found_in(tmp_path)[0], {"a": a})


def test_nan_infinity_and_the_sign_of_zero_come_back(tmp_path):
    payload = np.array([0x7FC00001, 0xFFC12345, 0x7F800001, 0x80000000], np.uint32)
    odd = {
        "special": np.array([math.nan, math.inf, -math.inf, -0.0, 0.0, 5e-324, 1.7e308]),
        "payload": payload.view(np.float32),
    }
    checkpoint.save(tmp_path, odd, header_of(1))
    assert_equal_bits(found_in(tmp_path)[0], odd)


def test_arrays_that_lie_across_come_back_by_value(tmp_path):
    a = np.arange(24.0).reshape(4, 6)
    views = {
        "fortran": np.asfortranarray(a),
        "transposed": a.T,
        "strided": a[::2, ::3],
        "backwards": a[::-1],
        "broadcast": np.broadcast_to(a[0], (3, 6)),
        "offset": a[1:, 1:],
    }
    before = {name: view.copy() for name, view in views.items()}
    checkpoint.save(tmp_path, views, header_of(1))
    for name, found in found_in(tmp_path)[0].items():
        np.testing.assert_array_equal(found, before[name], err_msg=name)


def test_what_comes_back_may_be_written_to_and_is_the_callers_own(tmp_path):
    path = checkpoint.save(tmp_path, arrays_of(1), header_of(1))
    found = found_in(tmp_path)[0]
    for a in found.values():
        a[...] = 0
    assert_equal_bits(found_in(tmp_path)[0], arrays_of(1))
    path.unlink()
    assert all(not a.any() for a in found.values())  # no view of a file that is gone


def test_the_header_comes_back_exactly(tmp_path):
    generator = np.random.default_rng(7)
    generator.normal(size=3)
    more = {
        "generator": generator.bit_generator.state,  # whole numbers of 128 bits
        "numbers": [0.1 + 0.2, 1e-323, 1.7976931348623157e308, -0.0, 2**63, -(2**70)],
        "text": 'épreuve \u2028 \\ " \x00 \U0001f600',
        "nothing": None,
        "deep": {"a": {"b": [[1, 2.5], [], {}]}},
        "true": True,
    }
    checkpoint.save(tmp_path, arrays_of(1), header_of(3, **more))
    header = found_in(tmp_path)[1]
    assert {key: header[key] for key in more} == more
    assert header["step"] == 3
    assert math.copysign(1, header["numbers"][3]) == -1
    again = np.random.default_rng(0)
    again.bit_generator.state = header["generator"]
    assert again.normal() == generator.normal()


def test_saving_does_not_change_what_is_saved(tmp_path):
    arrays, header = arrays_of(1), header_of(4, deep={"a": [1]})
    checkpoint.save(tmp_path, arrays, header)
    assert_equal_bits(arrays, arrays_of(1))
    assert header == header_of(4, deep={"a": [1]})


@settings(max_examples=60)
@given(
    arrays=st.dictionaries(
        st.text(st.characters(codec="utf-8"), max_size=12).filter(lambda s: s != "__metadata__"),
        hnp.arrays(
            st.sampled_from(["float32", "float64", "int64", "uint8"]),
            hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4),
        ),
        max_size=5,
    ),
    step=st.integers(0, 10**12),
)
def test_any_arrays_under_any_names_come_back(tmp_path_factory, arrays, step):
    folder = tmp_path_factory.mktemp("any")
    checkpoint.save(folder, arrays, header_of(step))
    found, header, _ = found_in(folder)
    assert_equal_bits(found, arrays)
    assert header["step"] == step


def test_the_file_is_plain_safetensors_with_a_digest_in_its_header(tmp_path):
    path = checkpoint.save(tmp_path, arrays_of(1), header_of(123))
    assert path.name == "step-0000000123.safetensors"
    assert_equal_bits(safetensors.numpy.load_file(path), arrays_of(1))
    with safetensors.safe_open(path, framework="numpy") as file:
        header = json.loads(file.metadata()["rmsprop"])
    assert re.fullmatch("[0-9a-f]{64}", header["sha256"])


# Which are kept


def test_the_two_newest_are_kept(tmp_path):
    for step in (1, 2, 10, 11, 200):
        path = checkpoint.save(tmp_path, arrays_of(step), header_of(step))
        assert path.is_file()
        assert found_in(tmp_path)[2] == path
        assert len(kept(tmp_path)) <= 2
    assert kept(tmp_path) == ["step-0000000011.safetensors", "step-0000000200.safetensors"]


def test_newest_goes_by_the_step_and_not_by_the_clock(tmp_path):
    for step in (9_999_999_999, 10_000_000_000):  # one digit more than the name pads to
        path = checkpoint.save(tmp_path, arrays_of(step % 97), header_of(step))
    older = next(p for p in path.parent.glob("step-*") if p != path)
    older.touch()
    assert found_in(tmp_path)[1]["step"] == 10_000_000_000
    assert len(kept(tmp_path)) == 2


def test_the_same_step_again_takes_the_place_of_the_old_and_leaves_the_one_before(two):
    folder, old, new = two
    assert checkpoint.save(folder, arrays_of(99), header_of(12)) == new
    assert kept(folder) == [old.name, new.name]
    assert_equal_bits(found_in(folder)[0], arrays_of(99))


def test_nothing_but_checkpoints_is_looked_at_or_removed(two):
    folder, old, _ = two
    others = [old.parent / name for name in (
        "notes.txt", "step-.safetensors", "step-abc.safetensors", "step-0000000099.safetensors.bak",
        "model.safetensors", "step-0000000098.txt",
    )]  # fmt: skip
    for path in others:
        path.write_text("mine")
    assert found_in(folder)[1]["step"] == 12
    for step in (20, 21):
        checkpoint.save(folder, arrays_of(step), header_of(step))
    assert found_in(folder)[1]["step"] == 21
    assert {"step-0000000020.safetensors", "step-0000000021.safetensors"} < set(kept(folder))
    assert [path.read_text() for path in others] == ["mine"] * len(others)


def test_a_folder_without_checkpoints_has_no_newest(tmp_path):
    assert checkpoint.newest(tmp_path) is None
    assert checkpoint.newest(tmp_path / "none") is None
    assert not (tmp_path / "none").exists()  # looking makes nothing


def test_half_a_file_of_a_process_that_was_killed_is_no_checkpoint(two):
    folder, _, new = two
    half = new.with_name(f".{new.name}.x1y2z3.safetensors")  # as files.replacing names them
    half.write_bytes(new.read_bytes()[:50])
    assert found_in(folder)[2] == new
    checkpoint.save(folder, arrays_of(13), header_of(13))
    assert found_in(folder)[1]["step"] == 13
    assert not half.exists()  # else every kill leaves one for good


def test_a_folder_that_cannot_be_made_is_told(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(OSError, match="file"):
        checkpoint.save(tmp_path / "file", arrays_of(1), header_of(1))
    assert (tmp_path / "file").read_text() == "mine"


def test_a_header_that_is_not_json_is_refused_and_the_old_ones_stay(two):
    folder, old, new = two
    with pytest.raises((TypeError, ValueError)):
        checkpoint.save(folder, arrays_of(1), header_of(13, bad={1, 2}))
    assert sorted(p.name for p in new.parent.iterdir()) == [old.name, new.name]


# Damage


def refused(folder: Path, damaged: Path) -> str:
    """The warning that names the damaged file; the one before it is what comes back."""
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        found = found_in(folder)
    assert found[1]["step"] == 5
    assert_equal_bits(found[0], arrays_of(5))
    assert [w.category for w in told] == [UserWarning]
    text = str(told[0].message)
    assert str(damaged) in text
    return text


def test_every_length_but_the_whole_is_noticed(two):
    folder, _, new = two
    whole = new.read_bytes()
    for length in range(len(whole)):
        new.write_bytes(whole[:length])
        assert len(refused(folder, new)) > len(str(new)) + 10  # with a reason
    new.write_bytes(whole)
    assert found_in(folder)[1]["step"] == 12


def test_every_bit_that_flips_is_noticed(tmp_path):
    """The whole file, bit by bit: lengths, names, shapes, the header's JSON, the digest and the numbers."""
    small = {"params/w": np.arange(4, dtype=np.float32), "n": np.array([3], np.int64)}
    header = header_of(12, rule={"lr": 0.1}, nothing=None)
    path = checkpoint.save(tmp_path, small, header)
    whole, missed, unnamed = path.read_bytes(), [], 0
    for bit in range(8 * len(whole)):
        flipped = bytearray(whole)
        flipped[bit // 8] ^= 1 << bit % 8
        path.write_bytes(flipped)
        with warnings.catch_warnings(record=True):
            warnings.simplefilter("always")
            try:
                if checkpoint.newest(tmp_path) is not None:
                    missed.append((bit, whole[max(0, bit // 8 - 20) : bit // 8 + 20]))
            except ValueError as error:
                unnamed += path.name not in str(error)
    assert not missed, f"{len(missed)} of {8 * len(whole)} bits; the first: {missed[:3]}"
    assert not unnamed


def rewritten(path: Path, change: Callable[[dict[str, Array]], dict[str, Array]]) -> None:
    """The file with other arrays and the header, digest included, that it had."""
    with safetensors.safe_open(path, framework="numpy") as file:
        metadata = file.metadata()
    safetensors.numpy.save_file(change(safetensors.numpy.load_file(path)), path, metadata)


@pytest.mark.parametrize(
    "change",
    [
        lambda a: a | {"params/w": a["state/square_avg/w"], "state/square_avg/w": a["params/w"]},
        lambda a: {"params/v" if k == "params/w" else k: x for k, x in a.items()},
        lambda a: a | {"params/w": a["params/w"].reshape(3, 7)},
        lambda a: a | {"params/w": a["params/w"].view(np.int32)},
        lambda a: a | {"more": np.zeros(0, np.float32)},
        lambda a: {k: x for k, x in a.items() if k != "count"},
        lambda a: a | {"count": a["count"].astype(np.int32)},
    ],
    ids=["swapped", "renamed", "shape", "dtype", "added", "taken", "narrower"],
)
def test_a_whole_file_with_other_arrays_than_were_saved_is_noticed(two, change):
    folder, _, new = two
    rewritten(new, change)
    refused(folder, new)


def test_neither_names_nor_shapes_run_together_in_the_digest(tmp_path):
    """Bytes that move from one array, or from a name, to the next are another checkpoint."""
    a = np.arange(4, dtype=np.uint8)
    pairs = [
        ({"a": a[:1], "b": a[1:]}, {"a": a[:2], "b": a[2:]}),
        ({"a": a, "ab": a}, {"aa": a, "b": a}),
        ({"a": a.reshape(1, 4)}, {"a": a.reshape(4, 1)}),
    ]
    for one, other in pairs:
        path = checkpoint.save(tmp_path, one, header_of(1))
        rewritten(path, lambda _, other=other: other)
        with pytest.raises(ValueError, match=path.name):
            checkpoint.newest(tmp_path)


DAMAGES: dict[str, Callable[[Path], Any]] = {
    "empty": lambda p: p.write_bytes(b""),
    "zeros": lambda p: p.write_bytes(bytes(p.stat().st_size)),
    "text": lambda p: p.write_text("mine"),
    "longer": lambda p: p.write_bytes(p.read_bytes() + b"\0"),
    "a header of 2^60 bytes": lambda p: p.write_bytes(struct.pack("<Q", 2**60) + b"{}"),
    "a tail of zeros": lambda p: p.write_bytes(p.read_bytes()[:-64] + bytes(64)),
    "another kind": lambda p: files.save_arrays(p, arrays_of(1), {"kind": "rmsprop model"}),
    "no digest": lambda p: with_header(p, json.dumps({"kind": KIND, "step": 12})),
    "no header": lambda p: safetensors.numpy.save_file(arrays_of(1), p),
    "a header of another type": lambda p: with_header(p, "[1]"),
    "a header that is no JSON": lambda p: with_header(p, "{kind"),
    "a header too deep to read": lambda p: with_header(p, "[" * 100_000),
    "a folder": lambda p: (p.unlink(), p.mkdir()),
    "a link to nothing": lambda p: (p.unlink(), p.symlink_to("nowhere")),
}


def with_header(path: Path, text: str) -> None:
    safetensors.numpy.save_file(arrays_of(1), path, {"rmsprop": text})


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_named_with_the_reason_and_the_one_before_is_taken(two, damage):
    folder, old, new = two
    DAMAGES[damage](new)
    text = refused(folder, new)
    assert str(old) in text or "before" in text or old.name in text  # what is done instead
    checkpoint.save(folder, arrays_of(13), header_of(13))  # and the run can go on
    assert found_in(folder)[1]["step"] == 13


def test_saving_the_step_of_a_damaged_one_again_mends_it(two):
    folder, _, new = two
    new.write_bytes(b"")
    checkpoint.save(folder, arrays_of(12), header_of(12))
    assert_equal_bits(found_in(folder)[0], arrays_of(12))


def test_a_damaged_one_that_was_passed_over_takes_no_place_of_a_good_one(two):
    """Going on from step 5, the damaged step 12 is still the highest: two good ones are kept all the same."""
    folder, _, new = two
    new.write_bytes(b"")
    for step in (7, 8, 9):
        path = checkpoint.save(folder, arrays_of(step), header_of(step))
    path.write_bytes(path.read_bytes()[:-1])
    with warnings.catch_warnings(record=True):
        warnings.simplefilter("always")
        assert found_in(folder)[1]["step"] == 8


def test_where_all_are_damaged_it_says_what_to_do(two):
    folder, old, new = two
    for path in (old, new):
        path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match="resume") as caught:
        checkpoint.newest(folder)
    assert new.name in str(caught.value) or str(new.parent) in str(caught.value)
    assert old.exists()  # nothing of what may still be of use is removed
    assert new.exists()


def test_a_file_under_another_steps_name_is_not_that_step(two):
    """As a copy by hand: the name decides what is newest, so it must be true."""
    folder, old, new = two
    lie = new.with_name("step-0000000077.safetensors")
    shutil.copy(old, lie)
    with warnings.catch_warnings(record=True):
        warnings.simplefilter("always")
        found = checkpoint.newest(folder)
    assert found is not None
    assert found[1]["step"] == 12


def test_what_is_kept_holds_no_code(tmp_path):
    """Nothing is unpickled: a checkpoint from a stranger can be refused, and cannot run."""
    path = checkpoint.save(tmp_path, arrays_of(1), header_of(1))
    raw = path.read_bytes()
    length = struct.unpack("<Q", raw[:8])[0]
    assert isinstance(json.loads(raw[8 : 8 + length]), dict)
    assert len(raw) == 8 + length + sum(a.nbytes for a in arrays_of(1).values())
