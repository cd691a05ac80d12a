"""TensorFlow's file format: checksums, and files that nobody vouches for."""

import struct
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from rmsprop.convert.tensorflow import tf1
from rmsprop.convert.tensorflow.bundle import read_bundle, shard_path
from rmsprop.convert.tensorflow.crc32c import crc32c, masked
from rmsprop.convert.tensorflow.tables import (
    FOOTER,
    MAGIC,
    number_bytes,
    slice_key,
    table,
    table_bytes,
)
from test_convert_tf1 import written

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
