"""How long a string attribute says that it is, read from the file's bytes.

HDF5's library takes the memory that a string of variable length claims before it looks whether there are as
many bytes, and offers no way to ask first: a damaged file of 60 kB made it fill 4 GB.  So the claim is read
here, from the object's header, as version 1 of the format has it, which is what h5py and Keras write.

Reference: HDF5 File Format Specification, version 3, IV.A.1.a and IV.A.2.m.
"""

import struct
from typing import BinaryIO

_CONTINUED, _ATTRIBUTE = 0x0010, 0x000C
_STRING = 9  # variable length
_BLOCKS, _BYTES = 64, 1 << 20


def claimed(file: BinaryIO, address: int, name: str) -> int:
    """The length that an object's attribute claims, where that is of variable length; 0 where it is fixed.

    Parameters
    ----------
    file
        The whole file, open.
    address
        Of the object's header.
    name
        Of the attribute.

    Raises
    ------
    ValueError
        For a header that is damaged, or of another version.
    """
    file.seek(address)
    version, _, _, size = struct.unpack("<BxHII", _read(file, 12))
    if version != 1:
        raise ValueError("its headers are not of the version that Keras writes")
    blocks = [(address + 16, size)]
    for _ in range(_BLOCKS):  # they may point to each other in a ring
        if not blocks:
            return 0
        for kind, data in _messages(file, *blocks.pop()):
            if kind == _CONTINUED and len(data) >= 16:
                blocks.append(struct.unpack_from("<QQ", data))
            elif kind == _ATTRIBUTE:
                found = _length(data, name)
                if found is not None:
                    return found
    raise ValueError("a header has too many parts")


def _read(file: BinaryIO, size: int) -> bytes:
    data = file.read(min(size, _BYTES))
    if len(data) != size:
        raise ValueError("a header is cut short")
    return data


def _messages(file: BinaryIO, address: int, size: int) -> list[tuple[int, bytes]]:
    if address > 1 << 62:
        raise ValueError("a header points nowhere")
    file.seek(address)
    block, at, found = _read(file, size), 0, []
    while at + 8 <= size:
        kind, length = struct.unpack_from("<HH", block, at)
        found.append((kind, block[at + 8 : at + 8 + length]))
        at += 8 + length
    return found


def _length(data: bytes, name: str) -> int | None:
    """What one attribute's message claims; None where it is another attribute's."""
    try:
        version, names, types, spaces = struct.unpack_from("<BxHHH", data)
        text = data[8 : 8 + names].split(b"\0")[0]
        if text != name.encode():
            return None
        if version != 1:
            raise ValueError("its headers are not of the version that Keras writes")
        start = 8 + _padded(names)
        if data[start] & 0x0F != _STRING:
            return 0
        return struct.unpack_from("<I", data, start + _padded(types) + _padded(spaces))[0]
    except (struct.error, IndexError) as error:
        raise ValueError("a header is cut short") from error


def _padded(size: int) -> int:
    return -(-size // 8) * 8
