"""One step of a rule over many tensors in one launch: Triton, for GPUs.

Programs find their tensor and their part of it in a table, so hundreds of tensors are one launch.  The
arithmetic is that of `kernels.element`, line for line; switches and formats are compile-time constants.
All that changes from step to step (the rate, the scale of the gradients, whether they overflowed, the
counters) is read from the device's memory, so a step can be captured in a graph.

The same source runs on the CPU, slowly, where TRITON_INTERPRET=1 is set before Triton is imported.
"""

# pyright: reportArgumentType=false, reportOperatorIssue=false, reportPossiblyUnboundVariable=false
# Inside a kernel Triton's types are not Python's, and branches on constants are taken when it compiles.
import os

import triton
import triton.language as tl

from rmsprop.kernels import element, formats

INTERPRETED = os.environ.get("TRITON_INTERPRET", "0") == "1"

TILE = 2048
"""Elements of a program; eight blocks where v is one byte."""
WARPS = 8

BLOCK = tl.constexpr(formats.BLOCK)
SPAN = tl.constexpr(formats.SPAN)
SCALE = tl.constexpr(element.SCALE)
CLIP = tl.constexpr(element.CLIP)
COUPLED = tl.constexpr(element.COUPLED)
DECOUPLED = tl.constexpr(element.DECOUPLED)
EMA = tl.constexpr(element.EMA)
SUM = tl.constexpr(element.SUM)
BEFORE = tl.constexpr(element.BEFORE)
CENTERED = tl.constexpr(element.CENTERED)
CORRECT = tl.constexpr(element.CORRECT)
EPS_IN_SQRT = tl.constexpr(element.EPS_IN_SQRT)
MOMENTUM = tl.constexpr(element.MOMENTUM)
NESTEROV = tl.constexpr(element.NESTEROV)
LR_IN_MOMENTUM = tl.constexpr(element.LR_IN_MOMENTUM)
HAS_V = tl.constexpr(element.HAS_V)
HAS_M = tl.constexpr(element.HAS_M)
HAS_B = tl.constexpr(element.HAS_B)

COLUMNS = 7
"""Of the table: the addresses of p, g, v, m, b, the exponents of v, and the step."""
_COLUMNS = tl.constexpr(COLUMNS)


@triton.jit
def _root(d, REAL: tl.constexpr):
    if tl.float32 == REAL:
        return tl.sqrt_rn(d)
    return tl.sqrt(d)


@triton.jit
def _quotient(u, d, REAL: tl.constexpr):
    if tl.float32 == REAL:
        return tl.div_rn(u, d)
    return u / d


@triton.jit
def _element(
    FLAGS: tl.constexpr, REAL: tl.constexpr, p, g, v, m, b, scale,
    lr, rho, rho1, eps, mu, mu1, wd, fix_v, fix_b, clip,
):  # fmt: skip
    """`kernels.element.element`."""
    if SCALE & FLAGS:
        g = g * scale
    if CLIP & FLAGS:
        g = tl.where(g > clip, clip, g)
        g = tl.where(g < -clip, -clip, g)
    if COUPLED & FLAGS:
        g = g + wd * p
    if DECOUPLED & FLAGS:
        p = p - lr * wd * p
    if EMA & FLAGS:
        v = rho * v + rho1 * (g * g)
    if SUM & FLAGS:
        v = v + g * g
    u = g
    if BEFORE & FLAGS:
        b = mu * b + mu1 * g
        u = b
        if CORRECT & FLAGS:
            u = b * fix_b
    if HAS_V & FLAGS:
        d = v
        if (CORRECT & FLAGS) and (EMA & FLAGS):
            d = v * fix_v
        if CENTERED & FLAGS:
            m = rho * m + rho1 * g
            mean = m
            if CORRECT & FLAGS:
                mean = m * fix_v
            d = d - mean * mean
            d = tl.where(d < 0, tl.zeros_like(d), d)
        if EPS_IN_SQRT & FLAGS:
            u = _quotient(u, _root(d + eps, REAL), REAL)
        else:
            u = _quotient(u, _root(d, REAL) + eps, REAL)
    if MOMENTUM & FLAGS:
        if LR_IN_MOMENTUM & FLAGS:
            u = lr * u
        b = mu * b + u
        s = b
        if NESTEROV & FLAGS:
            s = mu * b + u
        if LR_IN_MOMENTUM & FLAGS:
            p = p - s
        else:
            p = p - lr * s
    else:
        p = p - lr * u
    return p, v, m, b


@triton.jit
def _narrow(x, TO: tl.constexpr, STOCHASTIC: tl.constexpr, noise):
    """A computed number as it is stored; bfloat16 rounded up with the probability of what is cut off."""
    if STOCHASTIC:
        wide = x.to(tl.float32)
        bits = wide.to(tl.int32, bitcast=True)
        bits = (bits + (noise.to(tl.int32, bitcast=True) & 0xFFFF)) & -65536
        cut = bits.to(tl.float32, bitcast=True)
        return tl.where(wide == wide, cut, wide).to(tl.bfloat16)
    return x.to(TO)


@triton.jit
def _load(at, mask, FULL: tl.constexpr):
    if FULL:
        return tl.load(at)
    return tl.load(at, mask=mask, other=0)


@triton.jit
def _store(at, x, mask, FULL: tl.constexpr):
    if FULL:
        tl.store(at, x)
    else:
        tl.store(at, x, mask=mask)


@triton.jit
def _scalars(
    row, k, gains, h, lr_at, scale_at, FLAGS: tl.constexpr, SIGN: tl.constexpr, LR: tl.constexpr,
    GAINS: tl.constexpr, GRAD_SCALE: tl.constexpr,
):  # fmt: skip
    """The rate, the gradient's factor, the corrections and the count of this step, in float64."""
    lr = tl.load(h)
    if LR:
        lr = tl.load(lr_at).to(tl.float64)
    scale = tl.full((), SIGN, tl.float64)
    if GAINS:
        scale = scale * tl.load(gains + k)
    if GRAD_SCALE:
        scale = scale / tl.load(scale_at).to(tl.float64)
    count = tl.load(tl.load(row + 6).to(tl.pointer_type(tl.float32))).to(tl.float64)
    fix_v = tl.full((), 1.0, tl.float64)
    fix_b = tl.full((), 1.0, tl.float64)
    if CORRECT & FLAGS:
        fix_v = 1.0 / (1.0 - tl.exp(count * tl.load(h + 11)))
        if BEFORE & FLAGS:
            fix_b = 1.0 / (1.0 - tl.exp(count * tl.load(h + 12)))
    return lr, scale, fix_v, fix_b, count


@triton.jit
def _address(row, COLUMN: tl.constexpr, TYPE: tl.constexpr, ALIGNED: tl.constexpr):
    at = tl.load(row + COLUMN).to(tl.pointer_type(TYPE))
    if ALIGNED:
        at = tl.multiple_of(at, 16)
    return at


@triton.jit
def _tile(
    row, k, tile, size, width, gains, seeds, h, lr_at, scale_at,
    FLAGS: tl.constexpr, REAL: tl.constexpr,
    P: tl.constexpr, G: tl.constexpr, V: tl.constexpr, MB: tl.constexpr,
    NOISY_P: tl.constexpr, CODED: tl.constexpr,
    SIGN: tl.constexpr, LR: tl.constexpr, GAINS: tl.constexpr, GRAD_SCALE: tl.constexpr,
    ALIGNED: tl.constexpr, N: tl.constexpr, FULL: tl.constexpr,
):  # fmt: skip
    """One tile of one tensor; FULL where none of it is masked, which makes loads of 16 bytes."""
    if CODED:
        unit = tile * (N // BLOCK) + tl.arange(0, N // BLOCK)
        inside = tl.arange(0, BLOCK)[None, :]
        if FULL:
            i = (tile * N + tl.arange(0, N // BLOCK) * BLOCK)[:, None] + inside
            mask, unit_mask = i < size, unit < size
        else:
            per_row = (width + BLOCK - 1) // BLOCK
            at = (unit % per_row) * BLOCK
            i = (unit // per_row * width + at)[:, None] + inside
            unit_mask = unit < size // width * per_row
            mask = unit_mask[:, None] & (at[:, None] + inside < width)
    else:
        i = tile * N + tl.arange(0, N)
        mask = i < size

    lr, scale, fix_v, fix_b, count = _scalars(
        row, k, gains, h, lr_at, scale_at, FLAGS, SIGN, LR, GAINS, GRAD_SCALE
    )
    noise_p, noise_v, noise_m, noise_b = i, i, i, i
    if NOISY_P or CODED or tl.bfloat16 == V or tl.bfloat16 == MB:
        seed = tl.load(seeds + k) + count.to(tl.int64) * 0x9E3779B1
        noise_p, noise_v, noise_m, noise_b = tl.randint4x(seed, i.to(tl.int32))

    p_at = _address(row, 0, P, ALIGNED) + i
    v_at = _address(row, 2, V, ALIGNED) + i
    m_at = _address(row, 3, MB, ALIGNED) + i
    b_at = _address(row, 4, MB, ALIGNED) + i
    p = _load(p_at, mask, FULL).to(REAL)
    g = _load(_address(row, 1, G, ALIGNED) + i, mask, FULL).to(REAL)
    v, m, b = tl.zeros_like(p), tl.zeros_like(p), tl.zeros_like(p)
    if CODED:
        e_at = _address(row, 5, tl.uint8, False) + unit
        base = tl.maximum(_load(e_at, unit_mask, FULL).to(tl.int32) - SPAN, 0) << 23
        codes = _load(v_at, mask, FULL).to(tl.int32)
        v = ((codes << 20) + base[:, None]).to(tl.float32, bitcast=True).to(REAL)
    elif HAS_V & FLAGS:
        v = _load(v_at, mask, FULL).to(REAL)
    if HAS_M & FLAGS:
        m = _load(m_at, mask, FULL).to(REAL)
    if HAS_B & FLAGS:
        b = _load(b_at, mask, FULL).to(REAL)

    p, v, m, b = _element(
        FLAGS, REAL, p, g, v, m, b, scale.to(REAL),
        lr.to(REAL), tl.load(h + 1).to(REAL), tl.load(h + 2).to(REAL), tl.load(h + 3).to(REAL),
        tl.load(h + 4).to(REAL), tl.load(h + 5).to(REAL), tl.load(h + 6).to(REAL),
        fix_v.to(REAL), fix_b.to(REAL), tl.load(h + 10).to(REAL),
    )  # fmt: skip

    _store(p_at, _narrow(p, P, NOISY_P, noise_p), mask, FULL)
    if HAS_M & FLAGS:
        _store(m_at, _narrow(m, MB, tl.bfloat16 == MB, noise_m), mask, FULL)
    if HAS_B & FLAGS:
        _store(b_at, _narrow(b, MB, tl.bfloat16 == MB, noise_b), mask, FULL)
    if CODED:
        bits = v.to(tl.float32).to(tl.int32, bitcast=True) & 0x7FFFFFFF
        finite = bits < 0x7F800000
        largest = tl.max(tl.where(finite & mask, bits, 0), axis=1)
        exponent = tl.minimum(largest >> 23, 253)
        base = tl.maximum(exponent - SPAN, 0) << 3
        up = (bits + (noise_v.to(tl.int32, bitcast=True) & 0xFFFFF)) >> 20
        code = tl.minimum(tl.maximum(up - base[:, None], 0), 248)
        code = tl.where(finite, code, 248)
        _store(v_at, code.to(tl.uint8), mask, FULL)
        _store(e_at, exponent.to(tl.uint8), unit_mask, FULL)
    elif HAS_V & FLAGS:
        _store(v_at, _narrow(v, V, tl.bfloat16 == V, noise_v), mask, FULL)


@triton.jit
def step(
    table, owner, part, sizes, widths, gains, seeds, h, lr_at, scale_at, found_at,
    FLAGS: tl.constexpr, REAL: tl.constexpr,
    P: tl.constexpr, G: tl.constexpr, V: tl.constexpr, MB: tl.constexpr,
    NOISY_P: tl.constexpr, CODED: tl.constexpr,
    SIGN: tl.constexpr, LR: tl.constexpr, GAINS: tl.constexpr, GRAD_SCALE: tl.constexpr,
    FOUND: tl.constexpr,
    ALIGNED: tl.constexpr, N: tl.constexpr,
):  # fmt: skip
    """Update one tile of one tensor.

    Parameters
    ----------
    table, sizes, widths, gains, seeds
        For each tensor: addresses [tensors, COLUMNS]; its elements; those of a row (blocks do not cross
        rows); what its gradient is multiplied by; what its noise is drawn from.
    owner, part
        For each program: its tensor, and which tile of it.
    h
        `scalars_of`, then log(rho) and log(mu); float64.
    lr_at, scale_at, found_at
        Tensors of one number: the rate, in place of h's; the gradient's scale; whether it overflowed.
    """
    if FOUND:  # noqa: SIM102  (a constant: what is not asked for is not read)
        if tl.load(found_at) != 0:
            return
    k = tl.load(owner + tl.program_id(0)).to(tl.int64)
    tile = tl.load(part + tl.program_id(0)).to(tl.int64)
    size = tl.load(sizes + k)
    width = tl.load(widths + k)
    row = table + k * _COLUMNS
    full = (tile + 1) * N <= size
    if CODED:
        full = full & (width % BLOCK == 0)  # then blocks follow each other without a gap
    if full:
        _tile(
            row, k, tile, size, width, gains, seeds, h, lr_at, scale_at,
            FLAGS, REAL, P, G, V, MB, NOISY_P, CODED, SIGN, LR, GAINS, GRAD_SCALE,
            ALIGNED, N, True,
        )  # fmt: skip
    else:
        _tile(
            row, k, tile, size, width, gains, seeds, h, lr_at, scale_at,
            FLAGS, REAL, P, G, V, MB, NOISY_P, CODED, SIGN, LR, GAINS, GRAD_SCALE,
            ALIGNED, N, False,
        )  # fmt: skip
