"""The PyTorch front-end against the reference: every rule, every mix of dtypes, every layout of memory."""

import copy
import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import needs
from cases import RULES
from rmsprop import Rule, reference

torch = needs.package("torch")

from rmsprop.kernels.threads import INTERPRETED  # noqa: E402
from rmsprop.torch import RMSprop, from_rule, memory, plan, step_in_backward  # noqa: E402

Tensor = Any
BACKENDS = ["numba", "foreach"]
SHAPES = [(3, 5), (7,), (), (0,), (2, 0, 3), (2, 1, 9), (17,), (300,)]
FLOATS = [torch.float64, torch.float32, torch.bfloat16, torch.float16]
names = lambda x: str(x).removeprefix("torch.")  # noqa: E731


def parameters(shapes: Any, dtype: Any = torch.float64, seed: int = 0) -> list[Tensor]:
    some = torch.Generator().manual_seed(seed)
    return [
        torch.nn.Parameter(torch.randn(s, generator=some, dtype=torch.float64).to(dtype))
        for s in shapes
    ]


def set_grads(params: list[Tensor], some: Any, scale: float = 1.0) -> None:
    for p in params:
        p.grad = (torch.randn(p.shape, generator=some, dtype=torch.float64) * scale).to(p.dtype)


# Against the reference.


@pytest.mark.nojit
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    "name", [n for n, r in RULES.items() if not (r.centered and r.bias_correction)]
)
def test_every_rule(name: str, backend: str) -> None:
    """Steps of many parameters, one frozen for a while, in float64: parameters and state."""
    rule, some = RULES[name], torch.Generator().manual_seed(1)
    params = parameters(SHAPES)
    optimizer = from_rule(params, rule, backend=backend)
    mirror = [p.detach().numpy().copy() for p in params]
    states = [reference.init(rule, p) for p in mirror]
    for t in range(4 if INTERPRETED else 20):
        set_grads(params, some, 10.0 ** (t % 3 - 1))
        if 2 <= t < 5:
            params[0].grad = None
        lr = optimizer.param_groups[0]["lr"] = 0.01 / (1 + t)
        at = [k for k, p in enumerate(params) if p.grad is not None]
        grads = [params[k].grad.numpy() for k in at]
        moved, after = reference.step(
            rule.replace(lr=lr), [mirror[k] for k in at], grads, [states[k] for k in at]
        )
        for k, p, s in zip(at, moved, after, strict=True):
            mirror[k], states[k] = p, s
        optimizer.step()
    for p, q, state in zip(params, mirror, states, strict=True):
        np.testing.assert_allclose(p.detach().numpy(), q, 1e-11, 1e-12)
        kept = optimizer.state[p]
        assert float(kept["step"]) == state.t
        for slot in rule.slots:
            found = kept[memory.SLOTS[slot]].numpy()
            np.testing.assert_allclose(found, getattr(state, slot), 1e-11, 1e-12)


def accepts(p: Any, g: Any) -> bool:
    """Whether PyTorch lets a gradient of another dtype be set."""
    return p == g or hasattr(torch.nn.Parameter(torch.zeros(1)), "grad_dtype")


@pytest.mark.nojit
@pytest.mark.parametrize(
    "state", [torch.float64, torch.float32, torch.bfloat16, torch.uint8], ids=names
)
@pytest.mark.parametrize("g", FLOATS, ids=names)
@pytest.mark.parametrize("p", FLOATS, ids=names)
def test_any_mix_of_dtypes(p: Any, g: Any, state: Any) -> None:
    """One step from a running state equals the reference's, as far as each is kept."""
    if not accepts(p, g):
        pytest.skip("this PyTorch has no Parameter.grad_dtype")
    rule = Rule.from_dialect("keras", lr=0.125, momentum=0.5, weight_decay=0.25)
    shape = (16, 300)  # 4,096 and more take codes
    weight = parameters([shape], p)[0]
    optimizer = from_rule([weight], rule, state_dtype=state, backend="numba")
    some = torch.Generator().manual_seed(3)
    if p != g:
        weight.grad_dtype = g
    for _ in range(1 if INTERPRETED else 3):
        weight.grad = torch.randn(shape, generator=some).to(g)
        real = np.float64 if p == torch.float64 else np.float32
        before = weight.detach().double().numpy().astype(real)
        kept = optimizer.state[weight]
        v, b = (
            numbers(kept, name, shape).astype(real) for name in ("square_avg", "momentum_buffer")
        )
        at = reference.State(0, v, np.zeros_like(v), b)
        moved, after = reference.update(rule, before, weight.grad.double().numpy().astype(real), at)
        optimizer.step()
        tight = {
            torch.float64: 1e-14,
            torch.float32: 1e-6,
            torch.bfloat16: 2.0**-8,
            torch.float16: 2.0**-11,
        }
        rtol = max(tight[p], 1e-14 if real == np.float64 else 1e-6)
        np.testing.assert_allclose(weight.detach().double().numpy(), moved, rtol, 1e-6)
        # Stochastic rounding goes to either neighbour: twice as far as the nearest.
        loose = {
            torch.float64: rtol,
            torch.float32: 1e-6,
            torch.bfloat16: 2.0**-7,
            torch.uint8: 2.0**-3,
        }
        found = numbers(kept, "square_avg", shape)
        np.testing.assert_allclose(found, after.v, max(rtol, loose[state]), 1e-7)
        other = torch.bfloat16 if state == torch.uint8 else state
        found = numbers(kept, "momentum_buffer", shape)
        np.testing.assert_allclose(found, after.b, max(rtol, loose[other]), 1e-6)
        assert {t.dtype for n, t in kept.items() if n in ("square_avg", memory.CODE)} == {state}


def numbers(kept: dict[str, Any], name: str, shape: Any) -> Any:
    """A state tensor as float64; zeros before the first step."""
    t = memory.kept(kept, "v") if name == "square_avg" else kept.get(name)
    if t is None:
        return np.zeros(shape)
    exponents = kept[memory.EXPONENT] if t.dtype == torch.uint8 else None
    return memory.load(t, torch.float64, exponents).numpy()


# The layout of memory.

LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "contiguous": lambda x: x.clone(),
    "channels last": lambda x: x.to(memory_format=torch.channels_last),
    "transposed": lambda x: x.clone().permute(3, 2, 1, 0).contiguous().permute(3, 2, 1, 0),
    "with gaps": lambda x: torch.stack([x, x], dim=-1)[..., 0],
    "a part": lambda x: torch.cat([x, x], dim=1)[:, : x.shape[1]],
    "offset": lambda x: torch.cat([x.new_zeros(1), x.reshape(-1)])[1:].view_as(x),
}


@pytest.mark.parametrize("state", [None, torch.bfloat16, torch.uint8], ids=names)
@pytest.mark.parametrize("g", LAYOUTS)
@pytest.mark.parametrize("p", LAYOUTS)
def test_any_layout(p: str, g: str, state: Any) -> None:
    """Whatever the layouts of parameter and gradient, the numbers are those of contiguous ones."""
    x = torch.randn((6, 8, 10, 10), generator=torch.Generator().manual_seed(0))
    weight, plain = torch.nn.Parameter(LAYOUTS[p](x)), torch.nn.Parameter(x.clone())
    assert weight.stride() == LAYOUTS[p](x).stride()
    ours, straight = (
        RMSprop([w], momentum=0.9, state_dtype=state, backend="numba") for w in (weight, plain)
    )
    for t in range(3):
        grad = torch.randn(x.shape, generator=torch.Generator().manual_seed(t))
        weight.grad, plain.grad = LAYOUTS[g](grad), grad
        ours.step()
        straight.step()
    # Blocks and noise follow memory, so the same numbers round otherwise.
    tolerance = {None: 0.0, torch.bfloat16: 0.05, torch.uint8: 0.3}[state]
    assert (weight - plain).abs().max() <= tolerance
    if state is None:
        assert torch.equal(ours.state[weight]["square_avg"], straight.state[plain]["square_avg"])


@pytest.mark.parametrize("state", [None, torch.bfloat16, torch.uint8], ids=names)
def test_bits_do_not_depend_on_threads(state: Any) -> None:
    found = []
    for threads in (1, 2):
        known = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            params = parameters([(600, 700), (33,), (1_300_000,)], torch.bfloat16)
            optimizer = RMSprop(params, momentum=0.5, state_dtype=state, stochastic_rounding=True)
            some = torch.Generator().manual_seed(0)
            for _ in range(2):
                set_grads(params, some)
                optimizer.step()
        finally:
            torch.set_num_threads(known)
        found.append([*params, *[x for s in optimizer.state.values() for x in s.values()]])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


# Who serves what.


def served(optimizer: Any) -> list[str]:
    return sorted(
        type(part).__name__ for plan in optimizer._plans.values() for _, part in plan.parts
    )


def test_auto_takes_what_can_serve() -> None:
    params = [*parameters([(2,)]), torch.nn.Parameter(torch.randn(2, dtype=torch.complex64))]
    optimizer = RMSprop(params)
    for p in params:
        p.grad = torch.ones_like(p)
    optimizer.step()
    assert served(optimizer) == ["CpuTable", "Rows"]
    other = RMSprop(params, foreach=True)
    other.step()
    assert served(other) == ["Rows"]


class Marked(torch.Tensor):
    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise AssertionError("not reached")


REFUSED: dict[str, tuple[Callable[[], Any], dict[str, Any], str]] = {
    "complex": (lambda: torch.ones(2, dtype=torch.complex64), {"backend": "numba"}, "complex64"),
    "meta": (lambda: torch.ones(2, device="meta"), {"backend": "numba"}, "meta"),
    "capturable": (
        lambda: torch.ones(2), {"backend": "numba", "capturable": True}, "CUDA graphs"
    ),
    "differentiable": (
        lambda: torch.ones(2), {"backend": "numba", "differentiable": True}, "foreach"
    ),
    "triton on the CPU": (lambda: torch.ones(2), {"backend": "triton"}, "cuda"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_a_backend_by_name_says_why_it_cannot(case: str) -> None:
    make, options, word = REFUSED[case]
    p = torch.nn.Parameter(make())
    optimizer = RMSprop([p], **options)
    p.grad = torch.ones_like(p)
    with pytest.raises(RuntimeError, match=word) as raised:
        optimizer.step()
    assert options["backend"] in str(raised.value)
    assert "backend='" in str(raised.value).partition("use ")[2], "the remedy"


def test_a_tensor_subclass_is_not_walked() -> None:
    p = torch.ones(2)
    assert plan.cpu.refusal(p, p) is None
    assert "Marked" in (plan.cpu.refusal(p.as_subclass(Marked), p) or "")


BAD_OPTIONS: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"lr": -1.0}, ValueError, "Invalid learning rate: -1.0"),
    ({"lr": float("nan")}, ValueError, "Invalid learning rate: nan"),
    ({"lr": torch.tensor([0.1, 0.2])}, ValueError, "Tensor lr must be 1-element"),
    ({"lr": "0.1"}, TypeError, "Invalid learning rate: 0.1"),
    ({"alpha": 1.0}, ValueError, r"Invalid alpha value: 1.0; alpha must be a number in \[0, 1\)"),
    ({"eps": -1e-8}, ValueError, "Invalid epsilon value: -1e-08"),
    ({"momentum": -1.0}, ValueError, "Invalid momentum value: -1.0"),
    (
        {"momentum": 1.5},
        ValueError,
        r"Invalid momentum value: 1.5; momentum must be a number in \[0, 1\]",
    ),
    ({"weight_decay": -0.1}, ValueError, "Invalid weight_decay value: -0.1"),
    ({"nesterov": True}, ValueError, "nesterov=True needs momentum"),
    ({"centered": 1}, TypeError, "True or False"),
    ({"dialect": "keraz"}, ValueError, "did you mean 'keras'"),
    ({"dialect": "optax"}, ValueError, "no default learning rate"),
    ({"backend": "trition"}, ValueError, "did you mean 'triton'"),
    ({"state_dtype": torch.float16}, ValueError, "float16 has no range for squares"),
    ({"state_dtype": "bfloat16"}, ValueError, "torch.bfloat16"),
    ({"seed": 0.5}, TypeError, "seed must be a whole number"),
]


@pytest.mark.parametrize(("options", "error", "text"), BAD_OPTIONS)
def test_bad_options(options: dict[str, Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        RMSprop(parameters([(2,)]), **options)
    if "dialect" not in options:  # the same in a group of its own, which is then not added
        optimizer = RMSprop(parameters([(2,)]))
        with pytest.raises(error, match=text):
            optimizer.add_param_group({"params": parameters([(3,)]), **options})
        assert len(optimizer.param_groups) == 1


def test_a_group_spoiled_later_is_found_at_the_step() -> None:
    (p,) = parameters([(2,)])
    optimizer = RMSprop([p])
    optimizer.param_groups[0]["alpha"] = 2.0
    p.grad = torch.ones_like(p)
    with pytest.raises(ValueError, match=r"Invalid alpha value: 2\.0"):
        optimizer.step()


@pytest.mark.parametrize("warm", [False, True])
@pytest.mark.parametrize("backend", ["auto", "foreach", "numba"])
def test_sparse_gradients_are_refused(backend: str, warm: bool) -> None:
    layer = torch.nn.Embedding(5, 3, sparse=True)
    optimizer = RMSprop(layer.parameters(), backend=backend)
    if warm:  # also when the last gradient was dense
        layer.weight.grad = torch.ones_like(layer.weight)
        optimizer.step()
        optimizer.zero_grad()
    layer(torch.tensor([1, 2])).sum().backward()
    with pytest.raises(RuntimeError, match="does not support sparse gradients"):
        optimizer.step()


def test_centering_cannot_be_switched_on_later() -> None:
    (p,) = parameters([(2,)])
    optimizer = RMSprop([p])
    p.grad = torch.ones_like(p)
    optimizer.step()
    optimizer.param_groups[0]["centered"] = True
    with pytest.raises(ValueError, match="centered=True was switched on after the first step"):
        optimizer.step()


# What moves under the table's feet.


def by_torch(change: Callable[[Any, Tensor], None]) -> tuple[Tensor, Tensor]:
    """Six steps with a change in the middle, by ours and by PyTorch."""
    found = []
    for make in (
        lambda p: RMSprop(p, momentum=0.9),
        lambda p: torch.optim.RMSprop(p, momentum=0.9),
    ):
        weight = torch.nn.Parameter(torch.arange(12.0).reshape(3, 4) / 5)
        optimizer = make([weight])
        some = torch.Generator().manual_seed(0)
        for t in range(6):
            if t == 3:
                change(optimizer, weight)
            weight.grad = torch.randn(weight.shape, generator=some).to(weight.dtype)
            optimizer.step()
        found.append(weight.detach())
    return found[0], found[1]


def _offload(optimizer: Any, weight: Tensor) -> None:
    for t in optimizer.state[weight].values():
        t.data = t.data.clone()


def _replace_state(optimizer: Any, weight: Tensor) -> None:
    optimizer.state[weight] = {k: t.clone() for k, t in optimizer.state[weight].items()}


def _replace_entry(optimizer: Any, weight: Tensor) -> None:
    optimizer.state[weight]["square_avg"] = torch.ones_like(weight)


def _clear(optimizer: Any, weight: Tensor) -> None:
    optimizer.state.clear()


def _new_data(optimizer: Any, weight: Tensor) -> None:
    weight.data = torch.full_like(weight, 3.0)


def _reload(optimizer: Any, weight: Tensor) -> None:
    optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))


def _numbers(optimizer: Any, weight: Tensor) -> None:
    optimizer.param_groups[0].update(lr=0.5, alpha=0.5, eps=1e-3, weight_decay=0.1, maximize=True)


CHANGES = [_offload, _replace_state, _replace_entry, _clear, _new_data, _reload, _numbers]


@pytest.mark.nojit
@pytest.mark.parametrize("change", CHANGES, ids=lambda f: f.__name__.strip("_"))
def test_what_changes_between_steps(change: Callable[[Any, Tensor], None]) -> None:
    ours, theirs = by_torch(change)
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)


def test_the_old_memory_is_not_touched() -> None:
    """After `p.data = ...` steps move the new tensor only."""
    weight = torch.nn.Parameter(torch.zeros(5))
    optimizer = RMSprop([weight])
    for _ in range(2):
        weight.grad = torch.ones(5)
        optimizer.step()
    old, kept = weight.data, weight.detach().clone()
    weight.data = torch.ones(5)
    optimizer.step()
    assert torch.equal(old, kept)
    assert (weight < 1).all()


def test_a_smaller_parameter_in_the_same_memory() -> None:
    """A parameter cut to a part of itself is refused with a state of the old shape, not overrun."""
    weight = torch.nn.Parameter(torch.zeros(8))
    optimizer = RMSprop([weight])
    weight.grad = torch.ones(8)
    optimizer.step()
    weight.data = weight.data[:4]
    weight.grad = torch.ones(4)
    for _ in range(2):  # also when the table is made anew
        with pytest.raises(RuntimeError, match=r"another size|has shape"):
            optimizer.step()
        optimizer._plans.clear()


def test_state_follows_a_model_that_changes_its_layout() -> None:
    layer = torch.nn.Conv2d(32, 64, 3)
    optimizer = RMSprop(layer.parameters(), state_dtype=torch.uint8)
    images = torch.randn(2, 32, 8, 8, generator=torch.Generator().manual_seed(0))
    for memory_format in (torch.contiguous_format, torch.channels_last):
        layer.to(memory_format=memory_format)
        optimizer.zero_grad()
        layer(images).square().sum().backward()
        optimizer.step()
    assert optimizer.state[layer.weight][memory.CODE].stride() == layer.weight.stride()


# Step in backward.


def _net(seed: int = 0) -> Any:
    torch.manual_seed(seed)
    return torch.nn.Sequential(torch.nn.Linear(5, 7), torch.nn.Tanh(), torch.nn.Linear(7, 1))


def test_step_in_backward_equals_step() -> None:
    one, two = _net(), _net()
    plain = RMSprop(one.parameters(), lr=0.01, momentum=0.9)
    inside = step_in_backward(two, lr=0.01, momentum=0.9)
    schedules = [torch.optim.lr_scheduler.StepLR(o, 3, 0.5) for o in (plain, inside)]
    data = torch.randn(10, 5, generator=torch.Generator().manual_seed(1))
    for _ in range(8):
        plain.zero_grad()
        one(data).square().mean().backward()
        two(data).square().mean().backward()
        assert all(p.grad is None for p in two.parameters())
        for optimizer, schedule in zip((plain, inside), schedules, strict=True):
            optimizer.step()
            schedule.step()
    assert all(torch.equal(p, q) for p, q in zip(one.parameters(), two.parameters(), strict=True))
    plain.load_state_dict(inside.state_dict())
    inside.remove_hooks()
    two(data).sum().backward()
    assert all(p.grad is not None for p in two.parameters())


def test_step_in_backward_leaves_frozen_parameters() -> None:
    net = _net()
    net[0].weight.requires_grad_(False)
    kept = net[0].weight.clone()
    optimizer = step_in_backward(net, lr=0.01)
    net(torch.ones(1, 5)).sum().backward()
    assert torch.equal(net[0].weight, kept)
    assert len(optimizer.param_groups[0]["params"]) == 3


PEAK = """
import sys, torch
from rmsprop.torch import RMSprop, step_in_backward
torch.manual_seed(0)
model = torch.nn.Sequential(*[torch.nn.Linear(2000, 2000, bias=False) for _ in range(15)])
inside = sys.argv[1] == "inside"
optimizer = (step_in_backward if inside else lambda m, **k: RMSprop(m.parameters(), **k))(model, lr=1e-9)
for _ in range(2):
    model(torch.ones(1, 2000)).sum().backward()
    optimizer.step()
    optimizer.zero_grad()
lines = open("/proc/self/status").read().splitlines()  # getrusage also counts the parent before exec
print(next(line.split()[1] for line in lines if line.startswith("VmHWM")))
"""


@pytest.mark.skipif(
    not os.path.exists("/proc/self/status"), reason="Linux tells what was held at most"
)
def test_step_in_backward_saves_the_gradients_memory() -> None:
    """Peak memory of whole processes: 15 matrices of 16 MB, of which but two or so exist at a time."""
    peaks = {}
    # glibc keeps what is freed below its threshold, which grows; at a fixed one it gives pages back.
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "1000000"}
    for way in ("after", "inside"):
        done = subprocess.run(
            [sys.executable, "-c", PEAK, way],
            capture_output=True,
            text=True,
            check=True,
            env=environment,
        )
        peaks[way] = int(done.stdout) / 1024
    assert peaks["after"] - peaks["inside"] > 0.7 * 15 * 16, peaks
