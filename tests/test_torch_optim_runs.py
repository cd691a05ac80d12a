"""rmsprop.torch.RMSprop over whole runs: the same as torch.optim.RMSprop, whatever changes midway.

A run is a function of the constructor, so that the same lines train with torch's optimizer and with ours.
Then what surrounds a run: compiled steps, complex numbers, scaled losses, memory, gradients through a step.
"""

import functools
import itertools
import tracemalloc
from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest

import needs
from test_torch_optim import (
    INPUTS,
    OURS,
    TORCHS,
    TRAINED,
    Regression,
    assert_same,
    by_backend,
    over,
    state_of,
)

torch = needs.package("torch")
RMSprop = needs.package("rmsprop.torch").RMSprop
schedulers = torch.optim.lr_scheduler
Tensor = Any
Make = Callable[..., Any]
DOUBLE = torch.float64

# Long runs.

SWITCHES: list[dict[str, Any]] = [
    {"momentum": momentum, "centered": centered, "weight_decay": decay, "maximize": maximize}
    for momentum, centered, decay, maximize in itertools.product(
        [0.0, 0.9], [False, True], [0.0, 0.01], [False, True]
    )
]
STEPS, SIZE = 1000, 6
NAMES = ("square_avg", "momentum_buffer", "grad_avg")


def long_run(make: Make) -> tuple[Tensor, Tensor]:
    """Every combination as a group of its own: parameters and state, [steps, groups, 4, elements]."""
    random = torch.Generator().manual_seed(0)
    params = [torch.ones(SIZE, dtype=DOUBLE) * (k + 1) for k in range(len(SWITCHES))]
    scales = torch.logspace(-4, 2, SIZE, dtype=DOUBLE)
    optimizer = make(
        [{"params": [p], **options} for p, options in zip(params, SWITCHES, strict=True)]
    )
    seen = torch.zeros(STEPS, len(SWITCHES), 4, SIZE, dtype=DOUBLE)
    for t in range(STEPS):
        grads = torch.randn(len(SWITCHES), SIZE, dtype=DOUBLE, generator=random) * scales
        for k, group in enumerate(optimizer.param_groups):
            group["lr"] = 0.01 * (1 + (t * (k + 1)) % 7) / (1 + t / 100)
            params[k].grad = grads[k]
        optimizer.step()
        for k, p in enumerate(params):
            seen[t, k, 0] = p
            for slot, name in enumerate(NAMES, 1):
                if name in optimizer.state[p]:
                    seen[t, k, slot] = optimizer.state[p][name]
    return seen, torch.stack([optimizer.state[p]["step"] for p in params])


@functools.cache
def long_run_of_torch() -> tuple[Tensor, Tensor]:
    return long_run(functools.partial(torch.optim.RMSprop, foreach=False))


@by_backend
def test_thousand_steps(backend: str) -> None:
    """Within 1e-12 of the largest value so far, at every step."""
    expected, steps = long_run_of_torch()
    found, counted = long_run(functools.partial(RMSprop, backend=backend))
    assert (
        expected[-1].ne(0).any(-1).sum() == 16 * 2 + 8 + 8
    )  # parameter and v; b of half; m of half
    largest = expected.abs().cummax(0).values
    worst = ((found - expected).abs() / largest.clamp_min(1e-300)).amax((0, 3))
    assert worst.max() <= 1e-12, worst
    assert counted.equal(steps)
    assert steps.eq(STEPS).all()


# Runs in which something changes midway.

ALL = {"momentum": 0.9, "centered": True, "weight_decay": 0.05}
Reached = tuple[list[Tensor], Any]
Change = Callable[[int, Regression, Any], Any]


def trained(make: Make, change: Change, steps: int = 12, **options: Any) -> Reached:
    """Steps of a problem in float64; `change` may do what it likes before each one."""
    problem = Regression()
    optimizer = make(problem.params, **{**ALL, **options})
    for t in range(steps):
        change(t, problem, optimizer)
        problem.train(optimizer, 1)
    return problem.params, optimizer


def switched(**values: list[Any]) -> Callable[[Make], Reached]:
    """Options of the group that take the next value every four steps."""

    def change(t: int, _: Regression, optimizer: Any) -> None:
        optimizer.param_groups[0].update({name: x[t // 4] for name, x in values.items()})

    return lambda make: trained(make, change, **{name: x[0] for name, x in values.items()})


def scheduled(build: Callable[[Any], Any], **options: Any) -> Callable[[Make], Reached]:
    """Twenty steps by a scheduler, which is stepped before each but the first."""

    def run(make: Make) -> Reached:
        made: list[Any] = []

        def change(t: int, _: Regression, optimizer: Any) -> None:
            if not made:
                made.append(build(optimizer))
            elif isinstance(made[0], schedulers.ReduceLROnPlateau):
                made[0].step(t % 3)
            else:
                made[0].step()

        return trained(make, change, 20, **deepcopy(options))

    return run


def frozen(make: Make) -> Reached:
    return trained(make, lambda t, problem, _: problem.weight.requires_grad_(not 3 <= t < 7))


def group_added(make: Make) -> Reached:
    problem = Regression()
    optimizer = make([problem.weight], **ALL)
    problem.train(optimizer, 4)
    optimizer.add_param_group({"params": [problem.bias], "lr": 0.05, "momentum": 0.5})
    problem.train(optimizer, 8)
    return problem.params, optimizer


def tensor_lr(make: Make) -> Reached:
    rate = torch.tensor(0.01, dtype=DOUBLE)
    return trained(make, lambda *_: rate.mul_(1.1), lr=rate)


def gradients_kept(make: Make) -> Reached:
    """zero_grad(set_to_none=False): a parameter that the loss leaves out has a gradient of zeros."""
    problem, other = Regression(), torch.nn.Parameter(torch.ones(3, dtype=DOUBLE))
    optimizer = make([*problem.params, other], **ALL)
    for t in range(9):
        optimizer.zero_grad(set_to_none=t % 3 == 0)
        (problem.loss() + (other.sum() if t < 5 else 0)).backward()
        optimizer.step()
    return [*problem.params, other], optimizer


def layouts(make: Make) -> Reached:
    """Views of one tensor, transposed, strided, channels last; gradients of other strides, expanded."""
    torch.manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, dtype=DOUBLE)

    flat = draw(40)
    params = [
        flat[:10], flat[10:30].view(4, 5), flat[30:].view(2, 5).t(), draw(6, 8)[::2, 1::3],
        draw(3, 0), draw(2, 3, 4, 5).to(memory_format=torch.channels_last), draw(),
    ]  # fmt: skip
    optimizer = make(params, **ALL)
    for t in range(6):
        for k, p in enumerate(params):
            whole, turned = draw(*p.shape), draw(*reversed(p.shape))
            turned = turned.permute([*reversed(range(p.dim()))])
            p.grad = (whole, turned, draw().expand(p.shape))[(t + k) % 3]
        optimizer.step()
    return params, optimizer


def by_closure(make: Make) -> Reached:
    problem = Regression()
    optimizer = make(problem.params, **ALL)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = problem.loss()
        loss.backward()
        return loss

    losses = [optimizer.step(closure) for _ in range(5)]
    return [torch.stack(losses), *problem.params], optimizer


def complex_numbers(make: Make) -> Reached:
    torch.manual_seed(0)
    params = [torch.randn(4, 3, dtype=torch.complex128), torch.randn(4, 3, dtype=DOUBLE)]
    optimizer = make(params, **ALL)
    for _ in range(6):
        for p in params:
            p.grad = torch.randn_like(p)
        optimizer.step()
    return params, optimizer


def state_cleared(make: Make) -> Reached:
    return trained(make, lambda t, _, optimizer: t == 6 and optimizer.state.clear())


def data_replaced(make: Make) -> Reached:
    """The parameter lies elsewhere midway, as after model.to(...)."""

    def change(t: int, problem: Regression, _: Any) -> None:
        if t == 6:
            problem.weight.data = 2 * problem.weight.data

    return trained(make, change)


RUNS: dict[str, Callable[[Make], Reached]] = {
    "frozen and thawed": frozen,
    "momentum changes": switched(momentum=[0.9, 0.5, 0.99]),
    "momentum off and on": switched(momentum=[0.9, 0.0, 0.9]),
    "weight decay changes": switched(weight_decay=[0.0, 0.1, 0.0]),
    "alpha and eps change": switched(alpha=[0.99, 0.5, 0.9], eps=[1e-8, 1e-2, 0.0]),
    "centered off and on": switched(centered=[True, False, True]),
    "maximize switches": switched(maximize=[False, True, False]),
    "group added": group_added,
    "tensor lr": tensor_lr,
    "OneCycleLR": scheduled(lambda by: schedulers.OneCycleLR(by, max_lr=0.1, total_steps=21)),
    "OneCycleLR, tensor lr": scheduled(
        lambda by: schedulers.OneCycleLR(by, max_lr=0.1, total_steps=21),
        lr=torch.tensor(0.01, dtype=DOUBLE),
    ),
    "CosineAnnealingLR": scheduled(lambda by: schedulers.CosineAnnealingLR(by, 7)),
    "ReduceLROnPlateau": scheduled(lambda by: schedulers.ReduceLROnPlateau(by, patience=1)),
    "gradients kept": gradients_kept,
    "layouts": layouts,
    "closure": by_closure,
    "complex": complex_numbers,
    "state cleared": state_cleared,
    "data replaced": data_replaced,
}  # fmt: skip


@pytest.mark.parametrize("backend", ["auto", "foreach"])
@pytest.mark.parametrize("run", RUNS.values(), ids=RUNS.keys())
def test_changes_midway(run: Callable[[Make], Reached], backend: str) -> None:
    reached = []
    for make in (functools.partial(RMSprop, backend=backend), torch.optim.RMSprop):
        params, optimizer = run(make)
        groups = [[g["lr"], g["momentum"], g["alpha"]] for g in optimizer.param_groups]
        reached.append(([p.detach() for p in params], state_of(optimizer), groups))
    assert_same(*reached)


@by_backend
def test_momentum_raised_from_zero(backend: str) -> None:
    """The buffer begins at zero when momentum begins; torch.optim.RMSprop raises KeyError."""
    ours, theirs = Regression(), Regression()
    by, by_theirs = RMSprop(ours.params, backend=backend), torch.optim.RMSprop(theirs.params)
    ours.train(by, 3)
    theirs.train(by_theirs, 3)
    for p in theirs.params:
        by_theirs.state[p]["momentum_buffer"] = torch.zeros_like(p)
    by.param_groups[0]["momentum"] = by_theirs.param_groups[0]["momentum"] = 0.9
    ours.train(by, 3)
    theirs.train(by_theirs, 3)
    assert_same([ours.params, state_of(by)], [theirs.params, state_of(by_theirs)])


@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")  # torch._inductor's own
@pytest.mark.parametrize(
    ("compiler", "backend"), [("eager", "numba"), ("eager", "foreach"), ("aot_eager", "foreach")]
)
def test_compiled_training(compiler: str, backend: str) -> None:
    """A compiled function that steps the optimizer does as the plain one, with a rate that changes."""
    plain, compiled = Regression(), Regression()
    optimizers = [RMSprop(x.params, backend=backend, **ALL) for x in (plain, compiled)]

    def train(problem: Regression, optimizer: Any) -> Tensor:
        optimizer.zero_grad()
        loss = problem.loss()
        loss.backward()
        optimizer.step()
        return loss.detach()

    torch.compiler.reset()
    compiled_train = torch.compile(train, backend=compiler)
    try:
        for t in range(4):
            for optimizer in optimizers:
                optimizer.param_groups[0]["lr"] = torch.tensor(0.01 / (t + 1), dtype=DOUBLE)
            assert_same(compiled_train(compiled, optimizers[1]), train(plain, optimizers[0]))
    finally:
        torch.compiler.reset()
    assert_same([compiled.params, state_of(optimizers[1])], [plain.params, state_of(optimizers[0])])


# Complex parameters are pairs of real ones.

COMPLEX = {name: options for name, options in TRAINED.items() if options.get("backend") != "numba"}


@over(COMPLEX)
@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128], ids=str)
def test_complex(options: dict[str, Any], dtype: Any) -> None:
    torch.manual_seed(0)
    mixed = [torch.randn(10, 5, dtype=dtype), torch.randn(10, dtype=dtype), torch.randn(10, 5)]
    mixed = [p.requires_grad_() for p in mixed]
    real = [as_real(p).detach().clone().requires_grad_() for p in mixed]
    optimizer, reals = RMSprop(mixed, **options), RMSprop(real, **options)
    rtol = 64 * torch.finfo(dtype).eps  # the same arithmetic, fused differently
    for _ in range(3):
        for p, q in zip(mixed, real, strict=True):
            p.grad = torch.randn_like(p)
            q.grad = as_real(p.grad).clone()
        optimizer.step()
        reals.step()
        assert_same([as_real(p) for p in mixed], real, rtol, rtol)
    for found, expected in zip(state_of(optimizer), state_of(reals), strict=True):
        assert_same({name: as_real(x) for name, x in found.items()}, expected, rtol, rtol)


def as_real(x: Tensor) -> Tensor:
    return torch.view_as_real(x) if x.is_complex() else x


@over(COMPLEX)
def test_complex_2d(options: dict[str, Any]) -> None:
    def rosenbrock(x: Tensor, y: Tensor) -> Tensor:
        return ((1 - x) ** 2 + 100 * (y - x**2) ** 2).abs()

    torch.manual_seed(0)
    whole = torch.randn(2, dtype=torch.complex128, requires_grad=True)
    parts = [whole.real.detach().clone(), whole.imag.detach().clone()]
    parts = [part.requires_grad_() for part in parts]
    optimizer, of_parts = RMSprop([whole], **options), RMSprop(parts, **options)
    for _ in range(3):
        for by, z in ((optimizer, whole), (of_parts, torch.complex(*parts))):
            by.zero_grad()
            rosenbrock(*z).backward()
            by.step()
        assert_same([whole.real, whole.imag], parts)


# Scaled losses.


@pytest.mark.parametrize("fused", [None, True], ids=["", "fused"])
@pytest.mark.parametrize("unscaled", [False, True], ids=["", "unscaled before"])
@by_backend
@over({name: INPUTS[name] for name in ("default", "momentum", "all of ours", "dialect graves")})
def test_grad_scaler(
    options: dict[str, Any], backend: str, unscaled: bool, fused: bool | None
) -> None:
    """A scale changes nothing; a gradient that overflows skips the step and halves the scale."""
    plain, scaled = Regression(), Regression()
    by, by_scaled = [
        RMSprop(x.params, backend=backend, fused=fused, **options) for x in (plain, scaled)
    ]
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**12)
    for i in range(5):
        by_scaled.zero_grad()
        scaler.scale(scaled.loss()).backward()
        if i == 2:
            scaled.bias.grad[3] = torch.inf
        if unscaled:
            scaler.unscale_(by_scaled)
        scaler.step(by_scaled)
        scaler.update()
        if i != 2:
            plain.train(by, 1)
        assert_same(scaled.params, plain.params)
    assert scaler.get_scale() == 2.0**11
    assert_same(state_of(by_scaled), state_of(by))
    plain.train(by, 1)
    scaled.train(by_scaled, 1)  # and without a scaler again
    assert_same(scaled.params, plain.params)


@pytest.mark.parametrize("scale", [None, 1.0, 8.0])
@by_backend
def test_no_step_if_found_inf(backend: str, scale: float | None) -> None:
    params = [torch.ones(1) for _ in range(5)]
    for p in params:
        p.grad = torch.full_like(p, 8.0)
    optimizer = RMSprop(params, momentum=0.9, backend=backend)
    optimizer.grad_scale = None if scale is None else torch.full((1,), scale)
    optimizer.found_inf = torch.ones(())
    optimizer.step()
    assert_same(params, [torch.ones(1)] * 5, 0.0, 0.0)
    assert all(float(state.get("step", 0)) == 0 for state in state_of(optimizer))
    optimizer.found_inf = torch.zeros(())
    optimizer.step()
    g = 8.0 / (scale or 1.0)
    assert_same(state_of(optimizer)[0]["square_avg"], torch.full((1,), 0.01 * g * g), 1e-6)


# Memory.


def peak_bytes(action: Callable[[], Any]) -> int:
    """The most that it held at a time beyond what was there, in tensors and in NumPy arrays."""
    tracemalloc.start()
    try:
        with torch.profiler.profile(profile_memory=True) as profiler:
            action()
        arrays = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    events = profiler.profiler.kineto_results.events()
    held, most = 0, 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        if event.name() == "[memory]":
            held += event.nbytes()
            most = max(most, held)
    return most + arrays


@over({name: TORCHS[name] for name in ("default", "maximize, weight_decay", "momentum")})
def test_peak_memory(options: dict[str, Any]) -> None:
    """A step by numba needs no memory of the parameters' size; foreach, two of them, as in torch."""
    size = 1 << 20

    def measure(make: Any, **chosen: Any) -> float:
        params = [torch.rand(size // 8, requires_grad=True) for _ in range(8)]
        optimizer = make(params, **options, **chosen)
        for p in params:
            p.grad = torch.rand_like(p)
        optimizer.step()
        return peak_bytes(optimizer.step) / (4 * size)

    one_by_one = measure(torch.optim.RMSprop, foreach=False)
    assert one_by_one >= 1 / 8  # it is measured at all
    assert measure(RMSprop, backend="numba") < 0.1
    assert measure(RMSprop, backend="foreach") <= one_by_one + 2


# Gradients through a step.

DIFFERENTIABLE = {
    "default": {},
    "torch's": {"maximize": True, "momentum": 0.9, "centered": True, "weight_decay": 0.1},
    "tensor lr": {"lr": torch.tensor(0.9, dtype=torch.float64), "momentum": 0.9},
    **OURS,
}


@over(DIFFERENTIABLE)
def test_differentiable(options: dict[str, Any]) -> None:
    """By parameter, gradient and state, against differences."""
    torch.manual_seed(0)
    options = {"lr": 0.9, **options, "differentiable": True}

    def leaf(scale: float = 1.0) -> Tensor:
        return (scale * torch.rand(10, dtype=torch.float64)).requires_grad_()

    # A small mean: at a large one the centered root has no derivative.
    names = ["square_avg", "momentum_buffer", "grad_avg"]

    def step(p: Tensor, grad: Tensor, *slots: Tensor) -> tuple[Tensor, ...]:
        p = p.clone()
        p.grad = grad
        optimizer = RMSprop([p], **options)
        start = {name: x.clone() for name, x in zip(names, slots, strict=True)}
        optimizer.state[p].update(step=torch.zeros((), dtype=torch.float64), **start)
        optimizer.step()
        return (p, *[optimizer.state[p][name] for name in names])

    assert torch.autograd.gradcheck(step, (leaf(), leaf(), leaf(), leaf(), leaf(0.01)))


@over({"default": {}, "momentum": {"momentum": 0.9}, "decoupled": OURS["decoupled"]})
def test_differentiable_lr(options: dict[str, Any]) -> None:
    """Two steps of training, by the learning rate that they took."""

    def trained(lr: Tensor) -> Tensor:
        p = torch.linspace(0.5, 1, 4, dtype=torch.float64).requires_grad_().clone()
        optimizer = RMSprop([p], **{**options, "lr": lr}, differentiable=True)
        for _ in range(2):
            (p.grad,) = torch.autograd.grad((p.clone() ** 2).sum(), p, create_graph=True)
            optimizer.step()
        return (p**2).sum()

    lr = torch.tensor(0.01, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(trained, (lr,))
    assert torch.autograd.grad(trained(lr), lr)[0] < 0
