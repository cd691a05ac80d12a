"""One byte for v, as `rmsprop.torch` keeps it, as the numbers that it stands for."""

import numpy as np

from rmsprop.convert.checkpoint import Array
from rmsprop.kernels.formats import BLOCK, SPAN

TOP_CODE, TOP_EXPONENT = 248, 253


def decode(codes: Array, exponents: Array) -> Array:
    """The float32 numbers of codes, exactly: `rmsprop.kernels.formats` says what a code means.

    ::

        x = the float32 with the bits (code + 8*max(e - 30, 0)) << 20,  e the exponent of the block

    Parameters
    ----------
    codes
        uint8, of the parameter's shape and with the strides that it had: blocks follow the order of memory.
    exponents
        uint8, (rows, blocks of a row), or (rows, blocks, 1) where the order of memory is not that of the
        indices.

    Raises
    ------
    ValueError
        Where the exponents are not those of these codes, in this layout of memory.

    Examples
    --------
    >>> decode(np.uint8([[248, 240, 0]]), np.uint8([[127]]))
    array([[2.000000e+00, 1.000000e+00, 9.313226e-10]], dtype=float32)
    """
    if codes.dtype != np.uint8 or exponents.dtype != np.uint8:
        raise ValueError(
            f"codes and exponents are uint8; these are {codes.dtype}, {exponents.dtype}"
        )
    order = sorted(range(codes.ndim), key=lambda k: (codes.shape[k] == 1, -codes.strides[k]))
    if not codes.size:
        return np.zeros(codes.shape, np.float32)
    memory = codes.transpose(order)
    rows, width = _rows(codes)
    expected: tuple[int, ...] = (rows, -(-width // BLOCK))
    if not codes.flags.c_contiguous:
        expected = (*expected, 1)
    if not memory.flags.c_contiguous or exponents.shape != expected:
        raise ValueError(
            f"the codes {codes.shape} take exponents of the shape {expected} in this layout of memory; "
            f"they are {exponents.shape}: save the optimizer's state as it is, without copying its tensors "
            "into another layout"
        )
    if codes.max() > TOP_CODE or exponents.max() > TOP_EXPONENT:
        raise ValueError(
            f"the codes go to {codes.max()} and their exponents to {exponents.max()}, which rmsprop.torch "
            f"never writes (at most {TOP_CODE} and {TOP_EXPONENT})"
        )
    base = np.maximum(exponents.reshape(rows, -1).astype(np.int32) - SPAN, 0) << 23
    bits = memory.reshape(rows, width).astype(np.int32) << 20
    bits += np.repeat(base, BLOCK, axis=1)[:, :width]
    values = bits.view(np.float32).reshape(memory.shape)
    return np.ascontiguousarray(values.transpose(np.argsort(order))).reshape(codes.shape)


def _rows(codes: Array) -> tuple[int, int]:
    """(rows, elements of a row): a row is one index of dimension 0, where it is a run of memory."""
    if codes.ndim < 2 or codes.strides[0] != codes.size // codes.shape[0]:
        return 1, codes.size
    return codes.shape[0], codes.size // codes.shape[0]
