"""One step of a rule over many tensors in one launch: Triton, for GPUs.

Programs find their tensor and their part of it in a table, so hundreds of tensors are one launch.  The arithmetic
is that of `kernels.element`, line for line; switches and formats are compile-time constants.  All that
changes from step to step (the rate, the scale of the gradients, whether they overflowed, the counters)
is read from the device's memory, so a step can be captured in a graph.

The same source runs on the CPU, slowly, where TRITON_INTERPRET=1 is set before Triton is imported.
"""

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
    if REAL == tl.float32:
        return tl.sqrt_rn(d)
    return tl.sqrt(d)


@triton.jit
def _quotient(u, d, REAL: tl.constexpr):
    if REAL == tl.float32:
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
def step(
    table, owner, part, sizes, widths, gains, seeds, h, lr_at, scale_at, found_at,
    FLAGS: tl.constexpr, REAL: tl.constexpr,
    P: tl.constexpr, G: tl.constexpr, V: tl.constexpr, MB: tl.constexpr,
    NOISY_P: tl.constexpr, CODED: tl.constexpr,
    LR: tl.constexpr, GAINS: tl.constexpr, GRAD_SCALE: tl.constexpr, FOUND: tl.constexpr,
    ALIGNED: tl.constexpr, N: tl.constexpr,
):  # fmt: skip
    """Update one tile of one tensor.

    Parameters
    ----------
    table, sizes, widths, gains, seeds
        For each tensor: addresses [tensors, COLUMNS]; its elements; those of a row (blocks do not cross rows);
        what its gradient is multiplied by; what its noise is drawn from.
    owner, part
        For each program: its tensor, and which tile of it.
    h
        `scalars_of`, then log(rho) and log(mu); float64.
    lr_at, scale_at, found_at
        Tensors of one number: the rate, in place of h's; the gradient's scale; whether it overflowed.
    """
    pid = tl.program_id(0)
    k = tl.load(owner + pid).to(tl.int64)
    tile = tl.load(part + pid).to(tl.int64)
    size = tl.load(sizes + k)
    row = table + k * _COLUMNS
    p_at = tl.load(row).to(tl.pointer_type(P))
    g_at = tl.load(row + 1).to(tl.pointer_type(G))
    v_at = tl.load(row + 2).to(tl.pointer_type(V))
    m_at = tl.load(row + 3).to(tl.pointer_type(MB))
    b_at = tl.load(row + 4).to(tl.pointer_type(MB))
    if ALIGNED:
        p_at = tl.multiple_of(p_at, 16)
        g_at = tl.multiple_of(g_at, 16)
        v_at = tl.multiple_of(v_at, 16)
        m_at = tl.multiple_of(m_at, 16)
        b_at = tl.multiple_of(b_at, 16)

    if CODED:
        width = tl.load(widths + k)
        per_row = (width + BLOCK - 1) // BLOCK
        units = size // width * per_row
        unit = tile * (N // BLOCK) + tl.arange(0, N // BLOCK)
        at = (unit % per_row) * BLOCK
        first = unit // per_row * width + at
        inside = tl.arange(0, BLOCK)[None, :]
        i = first[:, None] + inside
        mask = (unit < units)[:, None] & (at[:, None] + inside < width)
    else:
        i = tile * N + tl.arange(0, N)
        mask = i < size
    if FOUND:
        mask = mask & (tl.load(found_at) == 0)

    lr = tl.load(h)
    if LR:
        lr = tl.load(lr_at).to(tl.float64)
    scale = tl.load(gains + k) if GAINS else tl.full((), 1.0, tl.float64)
    if GRAD_SCALE:
        scale = scale / tl.load(scale_at).to(tl.float64)
    fix_v = tl.full((), 1.0, tl.float64)
    fix_b = tl.full((), 1.0, tl.float64)
    count = tl.load(tl.load(row + 6).to(tl.pointer_type(tl.float32))).to(tl.float64)
    if CORRECT & FLAGS:
        fix_v = 1.0 / (1.0 - tl.exp(count * tl.load(h + 11)))
        if BEFORE & FLAGS:
            fix_b = 1.0 / (1.0 - tl.exp(count * tl.load(h + 12)))

    noise_p, noise_v, noise_m, noise_b = i, i, i, i
    if NOISY_P or CODED or V == tl.bfloat16 or MB == tl.bfloat16:
        seed = tl.load(seeds + k) + count.to(tl.int64) * 0x9E3779B1
        noise_p, noise_v, noise_m, noise_b = tl.randint4x(seed, i.to(tl.int32))

    p = tl.load(p_at + i, mask=mask, other=0.0).to(REAL)
    g = tl.load(g_at + i, mask=mask, other=0.0).to(REAL)
    v, m, b = tl.zeros_like(p), tl.zeros_like(p), tl.zeros_like(p)
    if CODED:
        e_at = tl.load(row + 5).to(tl.pointer_type(tl.uint8)) + unit
        e_mask = unit < units
        if FOUND:
            e_mask = e_mask & (tl.load(found_at) == 0)
        exponent = tl.load(e_at, mask=e_mask, other=0).to(tl.int32)
        base = tl.maximum(exponent - SPAN, 0) << 23
        codes = tl.load(v_at + i, mask=mask, other=0).to(tl.int32)
        v = ((codes << 20) + base[:, None]).to(tl.float32, bitcast=True).to(REAL)
    elif HAS_V & FLAGS:
        v = tl.load(v_at + i, mask=mask, other=0.0).to(REAL)
    if HAS_M & FLAGS:
        m = tl.load(m_at + i, mask=mask, other=0.0).to(REAL)
    if HAS_B & FLAGS:
        b = tl.load(b_at + i, mask=mask, other=0.0).to(REAL)

    p, v, m, b = _element(
        FLAGS, REAL, p, g, v, m, b, scale.to(REAL),
        lr.to(REAL), tl.load(h + 1).to(REAL), tl.load(h + 2).to(REAL), tl.load(h + 3).to(REAL),
        tl.load(h + 4).to(REAL), tl.load(h + 5).to(REAL), tl.load(h + 6).to(REAL),
        fix_v.to(REAL), fix_b.to(REAL), tl.load(h + 10).to(REAL),
    )  # fmt: skip

    tl.store(p_at + i, _narrow(p, P, NOISY_P, noise_p), mask=mask)
    if HAS_M & FLAGS:
        tl.store(m_at + i, _narrow(m, MB, MB == tl.bfloat16, noise_m), mask=mask)
    if HAS_B & FLAGS:
        tl.store(b_at + i, _narrow(b, MB, MB == tl.bfloat16, noise_b), mask=mask)
    if CODED:
        bits = v.to(tl.float32).to(tl.int32, bitcast=True) & 0x7FFFFFFF
        finite = bits < 0x7F800000
        largest = tl.max(tl.where(finite & mask, bits, 0), axis=1)
        exponent = tl.minimum(largest >> 23, 253)
        base = tl.maximum(exponent - SPAN, 0) << 3
        up = (bits + (noise_v.to(tl.int32, bitcast=True) & 0xFFFFF)) >> 20
        code = tl.minimum(tl.maximum(up - base[:, None], 0), 248)
        code = tl.where(finite, code, 248)
        tl.store(v_at + i, code.to(tl.uint8), mask=mask)
        tl.store(e_at, exponent.to(tl.uint8), mask=e_mask)
    elif HAS_V & FLAGS:
        tl.store(v_at + i, _narrow(v, V, V == tl.bfloat16, noise_v), mask=mask)
