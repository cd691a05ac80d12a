"""Sorted tables as LevelDB writes them, and the fields of protocol buffers, of bytes that nobody vouches for.

A table is blocks of keys, each given by what it does not share with the key before it, a block of where
those blocks lie, and a footer that says where that one lies.  Every block has a CRC-32C.

Source: tensorflow/core/lib/io/table_format.txt; protobuf.dev/programming-guides/encoding.
"""

import struct
from collections.abc import Iterator
from typing import Any

from rmsprop.convert.tensorflow.crc32c import crc32c, masked

MAGIC = 0xDB4775248B80FB57
FOOTER, TRAILER = 48, 5
BLOCK_BYTES, RESTART = 1 << 18, 16  # as TensorFlow writes them


class Damaged(ValueError):
    """What is wrong with the bytes; who knows the file's name says so."""


# The table.


def table(raw: bytes) -> Iterator[tuple[bytes, bytes]]:
    """The entries of a table, key and value; keys and blocks ascend, so that nothing is read twice.

    Raises Damaged.

    Examples
    --------
    >>> list(table(table_bytes([(b"a", b"1"), (b"ab", b"2")])))
    [(b'a', b'1'), (b'ab', b'2')]
    """
    if len(raw) < FOOTER or struct.unpack("<Q", raw[-8:])[0] != MAGIC:
        raise Damaged("it does not end as a table does")
    footer = raw[-FOOTER:-8]
    place = 0
    for _ in range(2):
        place = _varint(footer, place)[1]  # of the meta block, which is empty
    index, _ = _handle(footer, place)
    last, end = None, 0
    for _, value in _entries(_block(raw, *index)):
        (offset, size), _ = _handle(value, 0)
        if offset < end:
            raise Damaged("its blocks are not in order")
        end = offset + size + TRAILER
        for key, inner in _entries(_block(raw, offset, size)):
            if last is not None and key <= last:
                raise Damaged("its names are not in order")
            yield key, inner
            last = key


def _handle(raw: bytes, place: int) -> tuple[tuple[int, int], int]:
    offset, place = _varint(raw, place)
    size, place = _varint(raw, place)
    return (offset, size), place


def _block(raw: bytes, offset: int, size: int) -> bytes:
    end = offset + size
    if end + TRAILER > len(raw):
        raise Damaged("a block lies outside it")
    if masked(crc32c(raw[offset : end + 1])) != struct.unpack_from("<I", raw, end + 1)[0]:
        raise Damaged("a block does not have the checksum that it names")
    if raw[end] == 1:
        raise Damaged("it is compressed with Snappy, which is not read here")
    if raw[end]:
        raise Damaged(f"it is compressed in an unknown way, {raw[end]}")
    return raw[offset:end]


def _entries(block: bytes) -> Iterator[tuple[bytes, bytes]]:
    if len(block) < 4:
        raise Damaged("a block is too short")
    end = len(block) - 4 - 4 * struct.unpack("<I", block[-4:])[0]
    if end < 0:
        raise Damaged("a block's restarts are outside it")
    key, place, budget = b"", 0, 100 * len(block) + (1 << 24)
    while place < end:
        shared, place = _varint(block, place)
        fresh, place = _varint(block, place)
        size, place = _varint(block, place)
        if shared > len(key) or place + fresh + size > end:
            raise Damaged("an entry is outside its block")
        key = key[:shared] + block[place : place + fresh]
        place += fresh
        budget -= len(key)  # a short entry can make a long key
        if budget < 0:
            raise Damaged("its names are far larger than the file")
        yield key, block[place : place + size]
        place += size


# Protocol buffers.


def _varint(raw: bytes, place: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if place >= len(raw):
            break
        byte = raw[place]
        place += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value & (1 << 64) - 1, place
    raise Damaged("a number does not end")


def fields(raw: bytes) -> Iterator[tuple[int, Any]]:
    """Number and value of each field: an int, or the bytes of a message.

    Raises Damaged.

    Examples
    --------
    >>> list(fields(b"\\x08\\x96\\x01\\x12\\x01a"))
    [(1, 150), (2, b'a')]
    """
    place = 0
    while place < len(raw):
        tag, place = _varint(raw, place)
        kind = tag & 7
        if kind == 0:
            value, place = _varint(raw, place)
        else:
            if kind == 2:
                size, place = _varint(raw, place)
            elif kind in (1, 5):
                size = 8 if kind == 1 else 4
            else:
                raise Damaged("an entry is not a protocol buffer")
            if place + size > len(raw):
                raise Damaged("an entry ends too early")
            value = raw[place : place + size]
            place += size
            if kind != 2:
                value = int.from_bytes(value, "little")
        yield tag >> 3, value


def signed(value: Any) -> int:
    """A field that must be a number, with its sign.

    Examples
    --------
    >>> signed((1 << 64) - 1)
    -1
    """
    if not isinstance(value, int):
        raise Damaged("an entry has bytes where a number belongs")
    return value - (1 << 64) if value >= 1 << 63 else value


def nested(value: Any) -> bytes:
    """A field that must be bytes.

    Examples
    --------
    >>> nested(b"a")
    b'a'
    """
    if not isinstance(value, bytes):
        raise Damaged("an entry has a number where a message belongs")
    return value


def slice_key(name: str, part: list[tuple[int, int]]) -> str:
    """The key of a slice of a partitioned variable: start and length of each dimension, "ordered code".

    Source: tensorflow/core/lib/strings/ordered_code.cc.

    Examples
    --------
    >>> slice_key("w", [(0, 2)])
    '\\x00w\\x00\\x01\\x01\\x01\\udc80\\udc82'
    """
    # UTF-8 has no byte 255, the other one that ordered code escapes.
    escaped = name.encode().replace(b"\0", b"\0\xff")
    rank = bytes([1, len(part)]) if part else b"\0"
    found = b"\0" + escaped + b"\0\1" + rank
    return (found + b"".join(_ordered(n) for pair in part for n in pair)).decode(
        "utf-8", "surrogateescape"
    )


def _ordered(n: int) -> bytes:
    """A number as bytes that sort as the numbers do: as many leading ones as bytes, then the bits."""
    bits = (n if n >= 0 else ~n).bit_length()
    size = bits // 7 + 1
    ones = ((1 << size) - 1) << (7 * size)
    return ((n ^ ones) & (1 << 8 * size) - 1).to_bytes(size, "big")


# Writing.


def number_bytes(n: int) -> bytes:
    """Seven bits a byte, the lowest first.

    Examples
    --------
    >>> number_bytes(150)
    b'\\x96\\x01'
    """
    found = bytearray()
    while n > 127:
        found.append(n & 127 | 128)
        n >>= 7
    return bytes([*found, n])


def table_bytes(entries: list[tuple[bytes, bytes]]) -> bytes:
    """A table of these entries, whose keys ascend.

    Examples
    --------
    >>> len(table_bytes([]))
    74
    """
    raw, index = bytearray(), []

    def add(block: bytes) -> bytes:
        handle = number_bytes(len(raw)) + number_bytes(len(block))
        raw.extend(block + b"\0" + struct.pack("<I", masked(crc32c(block + b"\0"))))
        return handle

    for group in _groups(entries):
        index.append((group[-1][0], add(_block_bytes(group))))
    footer = add(_block_bytes([])) + add(_block_bytes(index))
    return bytes(raw) + footer.ljust(FOOTER - 8, b"\0") + struct.pack("<Q", MAGIC)


def _groups(entries: list[tuple[bytes, bytes]]) -> Iterator[list[tuple[bytes, bytes]]]:
    group, size = [], 0
    for key, value in entries:
        group.append((key, value))
        size += len(key) + len(value)
        if size >= BLOCK_BYTES:
            yield group
            group, size = [], 0
    if group:
        yield group


def _block_bytes(entries: list[tuple[bytes, bytes]]) -> bytes:
    found, restarts, last = bytearray(), [0], b""
    for k, (key, value) in enumerate(entries):
        shared = 0
        if k and k % RESTART == 0:
            restarts.append(len(found))
        elif k:
            limit = min(len(key), len(last))
            shared = next((i for i in range(limit) if key[i] != last[i]), limit)
        for n in (shared, len(key) - shared, len(value)):
            found += number_bytes(n)
        found += key[shared:] + value
        last = key
    return bytes(found) + struct.pack(f"<{len(restarts) + 1}I", *restarts, len(restarts))
