"""State of two bytes and of one: its error at each step, its bias over many, its range, its seeds."""

from typing import Any

import numpy as np
import pytest

import needs
from rmsprop import Rule
from rmsprop.kernels import formats
from rmsprop.kernels.cpu import Batch, address, flags_of, scalars_of
from rmsprop.kernels.threads import INTERPRETED

torch = needs.package("torch")

from rmsprop.torch import RMSprop, memory  # noqa: E402

Array = np.ndarray[Any, Any]
Tensor = Any
NAMES = {"bfloat16": torch.bfloat16, "uint8": torch.uint8}
# A number is stored as one of its two neighbours: a unit in the last place of 8 and of 3 bits.
BOUND = {"bfloat16": 2.0**-7, "uint8": 2.0**-3}


class Stored:
    """v of some rows, kept in a format by the kernel itself; parameters do not move."""

    def __init__(self, kind: str, shape: tuple[int, int], decay: float):
        self.rule = Rule(lr=0.0, decay=decay)
        self.p, self.g = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
        self.v = np.zeros(shape, np.uint16 if kind == "bf16s" else np.uint8)
        self.e = np.zeros((shape[0], -(-shape[1] // formats.BLOCK)), np.uint8)
        table = [[address(self.p), address(self.g), address(self.v), 0, 0, address(self.e)]]
        self.batch = Batch(np.array(table), np.array([shape]), ("f32", "f32", kind, "bf16s"))
        self.flags, self.h, self.t = flags_of(self.rule), scalars_of(self.rule, 0.0, 1), 0

    def step(self, g: Array) -> None:
        self.g[:], self.t = g, self.t + 1
        seeds = formats.mixed(np.array([7], np.uint64), np.array([float(self.t)]))
        self.batch.step(self.flags, self.h, seeds=seeds)

    @property
    def numbers(self) -> Array:
        if self.v.dtype == np.uint16:
            return (self.v.astype(np.uint32) << 16).view(np.float32).astype(np.float64)
        base = np.maximum(self.e.astype(np.int64) - formats.SPAN, 0) << 23
        base = np.repeat(base, formats.BLOCK, axis=1)[:, : self.v.shape[1]]
        bits = (self.v.astype(np.int64) << 20) + base
        return bits.astype(np.int32).view(np.float32).astype(np.float64)


KINDS = {"bfloat16": "bf16s", "uint8": "u8"}


@pytest.mark.nojit
@pytest.mark.parametrize("decay", [0.9, 0.99, 0.999])
@pytest.mark.parametrize("name", KINDS)
def test_the_error_of_each_step_is_bounded(name: str, decay: float) -> None:
    """|stored - v| < 2^-7 v (bfloat16) or 2^-3 v (a byte), where v comes of the stored state before."""
    rng = np.random.default_rng(0)
    shape = (2, 300) if INTERPRETED else (7, 1000)
    stored = Stored(KINDS[name], shape, decay)
    scales = np.exp(rng.normal(0, 1, shape))
    for _ in range(5 if INTERPRETED else 200):
        g = (rng.normal(0, 1, shape) * scales).astype(np.float32)
        before = stored.numbers
        stored.step(g)
        exact = decay * before + (1 - decay) * g.astype(np.float64) ** 2
        # Below the floor of its block a byte is held up; that is for the test of the range.
        inside = exact > floor(exact) if name == "uint8" else exact > 0
        error = np.abs(stored.numbers - exact) / exact
        assert inside.mean() > 0.99
        assert error[inside].max() <= BOUND[name] * (1 + 1e-6)


def floor(v: Array) -> Array:
    """The smallest number that a byte tells apart in each element's block."""
    width = v.shape[1]
    padded = np.pad(v, ((0, 0), (0, -width % formats.BLOCK)))
    most = padded.reshape(len(v), -1, formats.BLOCK).max(axis=2)
    exponent = np.floor(np.log2(most)) - formats.SPAN
    return np.repeat(2.0**exponent, formats.BLOCK, axis=1)[:, :width]


@pytest.mark.parametrize("gradients", ["random", "constant", "sparse"])
@pytest.mark.parametrize("decay", [0.9, 0.99, 0.999])
@pytest.mark.parametrize("name", KINDS)
def test_no_bias_over_10_000_steps(name: str, decay: float, gradients: str) -> None:
    """The stored average is right on average, and wanders no further than documented."""
    shape, rng = (8, 512), np.random.default_rng(1)
    stored, exact = Stored(KINDS[name], shape, decay), np.zeros(shape)
    scales = rng.uniform(0.5, 2.0, shape).astype(np.float32)
    some = rng.normal(0, 1, (64, *shape)).astype(np.float32) * scales
    if gradients == "constant":
        some[:] = scales
    if gradients == "sparse":
        some *= rng.random(some.shape) < 0.1
    ratios = []
    for t in range(10_000):
        g = some[rng.integers(64)]
        stored.step(g)
        exact = decay * exact + (1 - decay) * g.astype(np.float64) ** 2
        if t >= 5000 and t % 500 == 499:
            known = exact > exact.max() * 2.0**-20
            ratios.append(stored.numbers[known] / exact[known])
    ratio = np.concatenate(ratios)
    spread = {"bfloat16": 0.08, "uint8": 0.35}[name]
    assert ratio.std() < spread
    # Ten looks at 4,096 elements; with a long memory they hold about one independent sample each.
    independent = ratio.size / (1 + 2 / (1 - decay) / 500)
    assert abs(ratio.mean() - 1) < 5 * ratio.std() / np.sqrt(independent) + 1e-4
    assert ratio.min() > (0.7 if name == "bfloat16" else 0.1), (
        "no step more than three times too long"
    )


def test_nearest_rounding_would_stall() -> None:
    """Why it is stochastic: an average of ones in bfloat16 stops before .5 with decay .999."""
    v = torch.zeros((), dtype=torch.bfloat16)
    for _ in range(5000):
        v = (0.999 * v.float() + 0.001).to(torch.bfloat16)
    assert float(v) <= 0.5
    stored = Stored("bf16s", (1, 1000), 0.999)
    for _ in range(5000):
        stored.step(np.ones((1, 1000), np.float32))
    assert abs(stored.numbers.mean() - (1 - 0.999**5000)) < 0.005


@pytest.mark.nojit
@pytest.mark.parametrize("exponent", [-60, -40, -20, 0, 20])
def test_no_code_makes_a_tiny_average_zero(exponent: int) -> None:
    """Beside gradients 2^30 times as large, a small v is held at the floor: the step is too small."""
    stored = Stored("u8", (1, 512), 0.9)
    g = np.full((1, 512), 2.0**exponent, np.float32)
    g[0, :256:2] = 2.0 ** (exponent + 30)
    g[0, 1] = 0.0
    stored.step(g)
    v, exact = stored.numbers, 0.1 * g.astype(np.float64) ** 2
    tiny = np.zeros((1, 512), bool)
    tiny[0, 1:256:2] = True
    assert (v[tiny] > 0).all()
    assert (v[tiny] >= exact[tiny]).all(), "never too small"
    assert (v[tiny] <= 2 * 2.0 ** (2 * exponent + 60 - formats.SPAN - 3)).all()
    np.testing.assert_allclose(v[~tiny], exact[~tiny], BOUND["uint8"])
    for _ in range(
        5 if INTERPRETED else 200
    ):  # silence: v fades to the smallest that a byte can say, not further
        stored.step(np.zeros((1, 512), np.float32))
        assert (stored.numbers[~tiny] >= 0).all()
    p = torch.nn.Parameter(torch.zeros(1, 512))  # and no step is longer than 1/sqrt(1 - decay) says
    assert (np.sqrt(0.1) * np.abs(g) <= np.sqrt(0.1 * g**2 + 0.9 * stored.numbers) * 1.001).all()
    assert p.numel()


@pytest.mark.skipif(INTERPRETED, reason="addresses of memory that is not there")
@pytest.mark.parametrize("kind", ["f32", "bf16s", "u8"])
def test_elements_beyond_2_to_the_31(kind: str) -> None:
    """The last of 2^33 elements, the rest of which do not exist: their part of the walk is left out."""
    from rmsprop.kernels.cpu import _walk
    from rmsprop.kernels.loops import in_blocks, specialise

    n, before, rule = 512, 1 << 33, Rule(lr=0.5, decay=0.75, eps=1.0)
    p, g, v, e = (
        np.ones(n, "f4"),
        np.full(n, 2, "f4"),
        np.zeros(n, formats.DTYPES[kind]),
        np.zeros(2, "u1"),
    )
    kinds = ("f32", "f32", kind, "f32")
    unit = formats.BLOCK if in_blocks(kinds) else 1
    row = [address(a) - before * a.itemsize for a in (p, g, v)] + [0, 0, address(e) - before // 256]
    low, high = before // unit, (before + n) // unit
    _walk(
        specialise(flags_of(rule), kinds).address, np.array([row]), formats.NOISE.ctypes.data,
        np.array([0, high]), np.array([before + n]), np.ones(1), np.zeros(1, np.int64),
        scalars_of(rule, rule.lr, 1).reshape(1, -1), low, high,
    )  # fmt: skip
    assert (p == 0.5).all()


def weights(shape: tuple[int, ...], dtype: Any = torch.float32) -> Tensor:
    return torch.nn.Parameter(torch.zeros(shape, dtype=dtype))


@pytest.mark.parametrize("backend", ["numba", "foreach"])
def test_zero_one_and_extremes(backend: str) -> None:
    p = weights((20, 256))
    optimizer = RMSprop([p], state_dtype=torch.uint8, backend=backend, alpha=0.5, eps=0.0)
    g = torch.ones(20, 256)
    g[0] = 0.0  # a block of nothing: stays nothing
    g[1, 0] = 1e30  # its square overflows
    g[2, 0] = 1e18
    g[3] = 1e-18
    g[4, 5] = float("nan")
    p.grad = g
    optimizer.step()
    v = decoded(optimizer, p)
    assert (v[0] == 0).all()
    assert (v[5:] == 0.5).all()
    assert torch.isfinite(v).all()
    np.testing.assert_allclose(v[1, 1:], 0.5, 0.13)
    assert v[1, 0] >= v[1, 1:].max(), "not finite: as the largest of its block, which is not harmed"
    np.testing.assert_allclose(v[4, 6:], 0.5, 0.13)
    np.testing.assert_allclose(v[2, 0], 5e35, 0.13)
    np.testing.assert_allclose(v[3], 5e-37, 0.13)
    assert p[4, 5].isnan()
    assert p[4].isnan().sum() == 1
    before = p.detach().clone()
    for _ in range(3):
        p.grad = torch.full_like(p, 1e-3)
        optimizer.step()
    moved = (p - before).abs()
    moved = moved[moved.isfinite()]
    assert moved.max() < 3 * 0.01 / np.sqrt(0.5) * 1.01, "no huge step"


def decoded(optimizer: Any, p: Tensor) -> Tensor:
    kept = optimizer.state[p]
    return memory.load(kept[memory.CODE], torch.float32, kept[memory.EXPONENT])


@pytest.mark.parametrize("backend", ["numba", "foreach"])
def test_what_is_stored_is_a_fixed_point_of_storing(backend: str) -> None:
    """Encoding what was decoded changes nothing, and one stands for itself (initial_scale)."""
    p = weights((16, 300))
    optimizer = RMSprop([p], state_dtype=torch.uint8, dialect="timm", backend=backend)
    optimizer._start(optimizer.param_groups[0], [p])
    assert (decoded(optimizer, p) == 1).all()
    p.grad = torch.randn(16, 300, generator=torch.Generator().manual_seed(0))
    optimizer.step()
    kept = optimizer.state[p]
    v, codes, exponents = (
        decoded(optimizer, p),
        kept[memory.CODE].clone(),
        kept[memory.EXPONENT].clone(),
    )
    memory.store(kept[memory.CODE], v, kept[memory.EXPONENT], None)
    assert torch.equal(kept[memory.CODE], codes)
    assert torch.equal(kept[memory.EXPONENT], exponents)


def run(
    steps: int, seed: int = 0, backend: str = "numba", start: Any = None, **options: Any
) -> Any:
    """Some steps of a bfloat16 matrix, all of it low-bit, going on from `start` (parameter, state)."""
    p = weights((50, 300), torch.bfloat16)
    optimizer = RMSprop(
        [p], momentum=0.5, stochastic_rounding=True, seed=seed, backend=backend, **options
    )
    first = 0
    if start is not None:
        first = int(start[1]["state"][0]["step"])
        p.data.copy_(start[0])
        optimizer.load_state_dict(start[1])
    for t in range(first, first + steps):
        p.grad = torch.randn(p.shape, generator=torch.Generator().manual_seed(t)).bfloat16()
        optimizer.step()
    return p.detach().clone(), optimizer.state_dict()


@pytest.mark.parametrize("backend", ["numba", "foreach"])
@pytest.mark.parametrize("name", NAMES)
def test_seeds(name: str, backend: str) -> None:
    options = {"state_dtype": NAMES[name], "backend": backend}
    first, again, other = run(6, **options), run(6, **options), run(6, seed=1, **options)
    assert torch.equal(first[0], again[0])
    assert not torch.equal(first[0], other[0])
    half = run(3, **options)
    resumed = run(3, start=half, **options)
    assert torch.equal(first[0], resumed[0]), "a run that was resumed draws as one that was not"
    for key, value in first[1]["state"][0].items():
        assert torch.equal(value, resumed[1]["state"][0][key]), key


@pytest.mark.parametrize("name", NAMES)
def test_backends_agree_but_for_the_noise(name: str) -> None:
    one, two = (
        run(30, state_dtype=NAMES[name], backend=b)[0].float() for b in ("numba", "foreach")
    )
    plain = run(30, state_dtype=torch.float32)[0].float()
    spread = (one - two).norm() / plain.norm()
    assert 0 < spread < {"bfloat16": 0.02, "uint8": 0.06}[name]
    assert abs((one - plain).mean()) < 0.01 * plain.abs().mean()


@pytest.mark.parametrize("backend", ["numba", "foreach"])
def test_stochastic_rounding_of_parameters(backend: str) -> None:
    """Steps of a tenth of a unit in the last place: lost by the nearest, right on average otherwise."""
    ends = {}
    for stochastic in (False, True):
        p = torch.nn.Parameter(torch.ones(100, 100, dtype=torch.bfloat16))
        optimizer = RMSprop(
            [p],
            lr=2.0**-8 / 10,
            alpha=0.0,
            eps=0.0,
            backend=backend,
            stochastic_rounding=stochastic,
        )
        for _ in range(40):
            p.grad = torch.ones_like(p)
            optimizer.step()
        ends[stochastic] = p.detach().double()
    assert (ends[False] == 1).all()
    assert abs(ends[True].mean() - (1 - 40 * 2.0**-8 / 10)) < 5e-4


@pytest.mark.parametrize("name", NAMES)
def test_bytes_of_state(name: str) -> None:
    p, bias = weights((512, 1024)), weights((512,))
    optimizer = RMSprop([p, bias], momentum=0.9, centered=True, state_dtype=NAMES[name])
    p.grad, bias.grad = torch.ones_like(p), torch.ones_like(bias)
    optimizer.step()
    size = {k: t.numel() * t.element_size() / p.numel() for k, t in optimizer.state[p].items()}
    first = 1.0 if name == "uint8" else 2.0
    assert size[memory.CODE if name == "uint8" else "square_avg"] == first
    assert size["momentum_buffer"] == size["grad_avg"] == 2.0
    assert size.get(memory.EXPONENT, 0.0) <= 1 / 256
    small = optimizer.state[bias]["square_avg"].dtype
    assert small == (torch.float32 if name == "uint8" else torch.bfloat16)


def test_a_row_is_not_crossed() -> None:
    """Rows of 300: blocks of 256 and 44, so that a row's codes do not depend on another row."""
    p, q = weights((20, 300)), weights((20, 300))
    for w, factor in ((p, 1.0), (q, 1e6)):
        optimizer = RMSprop([w], state_dtype=torch.uint8)
        g = torch.ones(20, 300)
        g[3] *= factor
        w.grad = g
        optimizer.step()
        w.kept = optimizer.state[w]
    same = [k for k in range(20) if torch.equal(p.kept[memory.CODE][k], q.kept[memory.CODE][k])]
    assert p.kept[memory.EXPONENT].shape == (20, 2)
    assert set(same) >= set(range(20)) - {3}
