"""What test_triton.py runs in processes of its own, where Triton's interpreter takes the place of a GPU.

    python triton_worker.py FILE PART OF

runs those of `CASES` that fall to this part with backend="triton" and writes, pickled, what each returned and
how it launched the kernel.  TRITON_INTERPRET=1 must stand before Triton is imported, hence the process;
the tests run the same cases with backend="numba".
"""

import pickle
import sys
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import needs
from cases import RULES
from rmsprop import Rule
from test_torch_kernels import LAYOUTS, accepts, names, parameters

torch = needs.package("torch")

from rmsprop.torch import RMSprop, from_rule, gpu, memory  # noqa: E402

Array = np.ndarray[Any, Any]
Tensor = Any
Past = list[dict[str, Any]]
F64, F32, F16, BF16, U8 = torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.uint8


# A case takes a backend and returns what is to be compared.


def look(optimizer: Any, params: list[Tensor], scale: float = 1.0) -> dict[str, Any]:
    """Parameters, gradients and state as float64 arrays in logical order; None for what is not kept."""
    found = []
    for p in params:
        kept, numbers = optimizer.state.get(p, {}), {}
        for slot in "vmb":
            t = memory.kept(kept, slot)
            exponents = kept[memory.EXPONENT] if t is not None and t.dtype == U8 else None
            numbers[slot] = None if t is None else memory.load(t, F64, exponents).numpy().copy()
        g = None if p.grad is None else p.grad.double().numpy() / scale
        t = float(kept.get("step", 0.0))
        found.append({"p": p.detach().double().numpy().copy(), "g": g, "t": t, **numbers})
    return {"lr": float(optimizer.param_groups[0]["lr"]), "params": found}


def warmed(optimizer: Any, params: list[Tensor], rule: Rule) -> None:
    """A state as if parameter k had made k + 2 steps, with which no rule starts by dividing 0 by 0."""
    some = torch.Generator().manual_seed(9)
    state: dict[int, Any] = {}
    for k, p in enumerate(params):
        state[k] = {"step": torch.tensor(k + 2.0)}
        for slot, low, high in (("v", 1, 2), ("m", -0.03, 0.03), ("b", -1, 1)):
            if slot in rule.slots:
                x = low + (high - low) * torch.rand(p.shape, generator=some, dtype=F64)
                state[k][memory.SLOTS[slot]] = x.to(p.dtype)
    optimizer.load_state_dict(optimizer.state_dict() | {"state": state})


def walk(
    backend: str, rule: Rule, shapes: Any, *, dtype: Any = F32, g: Any = None, steps: int = 3,
    layout: tuple[str, str] = ("contiguous", "contiguous"), warm: bool = False, still: bool = False,
    then: str = "", tensor_lr: bool = False, **options: Any,
) -> Past:  # fmt: skip
    """Some steps: what is there before the first and after each.

    Parameters
    ----------
    dtype, g
        Of the parameters and, where it is another, of the gradients.
    layout
        How parameters and gradients lie in memory.
    warm, still
        Start from `warmed`; leave the first parameter without a gradient at the second step.
    then
        Go on after half of the steps with a new optimizer of this backend, which loads the state.
    tensor_lr
        The rate as a tensor, which Triton reads itself (capturable=True).
    """
    params = [torch.nn.Parameter(LAYOUTS[layout[0]](p.detach())) for p in parameters(shapes, dtype)]
    rate: Any = torch.tensor(rule.lr) if tensor_lr else rule.lr
    if tensor_lr:
        options["capturable"] = backend == "triton"
    optimizer = from_rule(params, rule, rate, backend=backend, **options)
    if warm:
        warmed(optimizer, params, rule)
    some = torch.Generator().manual_seed(1)
    past = [look(optimizer, params)]
    for t in range(steps):
        if then and t == steps // 2:
            known = optimizer.state_dict()
            optimizer = from_rule(params, rule, rate, backend=then, **options)
            known["param_groups"][0]["backend"] = then
            optimizer.load_state_dict(known)
        for p in params:
            if g is not None:
                p.grad_dtype = g
            x = torch.randn(p.shape, generator=some, dtype=F64) * 10.0 ** (t % 3 - 1)
            p.grad = LAYOUTS[layout[1]](x.to(g or dtype))
        if still and t == 1:
            params[0].grad = None
        group = optimizer.param_groups[0]
        if tensor_lr:
            group["lr"].mul_(0.5)
        else:
            group["lr"] = rule.lr / (1 + t)
        optimizer.step()
        past.append(look(optimizer, params))
    return past


def scaled(
    backend: str, rule: Rule, *, unscale: bool = False, dtype: Any = F32, lr: Any = None,
    **options: Any,
) -> Past:  # fmt: skip
    """Steps under GradScaler with fused=True, of which the first and the third overflow."""
    params = parameters([(16, 257), (7,)], dtype)
    options["capturable"] = backend == "triton" and lr is not None
    optimizer = from_rule(params, rule, lr, backend=backend, fused=True, **options)
    scaler: Any = torch.amp.GradScaler("cpu", init_scale=2.0**10, growth_interval=100)
    some = torch.Generator().manual_seed(2)
    past = [look(optimizer, params)]
    for t in range(5):
        optimizer.zero_grad()
        xs = [torch.randn(p.shape, generator=some).to(dtype) for p in params]
        if t in (0, 2):
            xs[t // 2].view(-1)[3] = [np.inf, 0.0, np.nan][t]
        scale = scaler.get_scale()
        scaler.scale(sum((p * x).float().sum() for p, x in zip(params, xs, strict=True))).backward()
        if unscale:
            scaler.unscale_(optimizer)
        scaler.step(optimizer)
        scaler.update()
        past.append(look(optimizer, params, 1.0 if unscale else scale))
    return past


def average(backend: str, state: Any, shape: tuple[int, int], steps: int) -> list[Array]:
    """v after some of many steps; the first row's gradient is random, the second's always 0.7."""
    weight = torch.nn.Parameter(torch.zeros(shape))
    rule = Rule(lr=0.0, decay=0.9)
    optimizer = from_rule([weight], rule, state_dtype=state, backend=backend)
    looks = []
    for t in range(steps):
        weight.grad = gradient(shape, t)
        optimizer.step()
        if looked_at(t):
            looks.append(look(optimizer, [weight])["params"][0]["v"])
    return looks


def looked_at(t: int) -> bool:
    """Steps with about one independent sample of v each."""
    return t >= 40 and t % 20 == 19


def gradient(shape: tuple[int, int], t: int) -> Tensor:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(t))
    x[1] = 0.7
    return x


def small_steps(backend: str) -> Array:
    """Of bfloat16 parameters from 1, a tenth of a unit in the last place each: [steps + 1, elements]."""
    weight = torch.nn.Parameter(torch.ones(2048, dtype=BF16))
    options: dict[str, Any] = {"backend": backend, "stochastic_rounding": True}
    optimizer = RMSprop([weight], lr=2.0**-8 / 10, alpha=0.0, eps=0.0, **options)
    found = [weight.detach().double().numpy().copy()]
    for _ in range(40):
        weight.grad = torch.ones_like(weight)
        optimizer.step()
        found.append(weight.detach().double().numpy().copy())
    return np.array(found)


def draws(backend: str) -> Past:
    """One step of equal elements: what differs among them is noise."""
    params = [torch.nn.Parameter(torch.ones(4096, dtype=BF16)) for _ in range(2)]
    rule = Rule(lr=0.01, decay=0.9, centered=True, momentum=0.9, weight_decay=0.1)
    options: dict[str, Any] = {"state_dtype": BF16, "stochastic_rounding": True}
    optimizer = from_rule(params, rule, backend=backend, **options)
    for p in params:
        p.grad = torch.full_like(p, 0.7)
    optimizer.step()
    return [look(optimizer, params)]


def extremes(backend: str) -> Past:
    """Rows of a byte each: of nothing, with what overflows, huge, tiny, with a NaN; then plain steps."""
    weight = torch.nn.Parameter(torch.zeros(20, 256))
    options: dict[str, Any] = {"state_dtype": U8, "backend": backend}
    optimizer = RMSprop([weight], alpha=0.5, eps=0.0, **options)
    x = torch.ones(20, 256)
    x[0], x[1, 0], x[2, 0], x[3], x[4, 5], x[5, 7] = 0.0, 1e30, 1e18, 1e-18, np.nan, -np.inf
    past = []
    for t in range(4):
        weight.grad = x if t == 0 else torch.full_like(weight, 1e-3)
        optimizer.step()
        past.append(look(optimizer, [weight]))
    return past


def from_numba(backend: str, name: str) -> Past:
    """The same steps, begun by Numba."""
    case: Any = CASES[f"{name}, seed 0"]
    return case("numba", then=backend)


def overflow_on_two_devices(backend: str) -> Past:
    """GradScaler adds up what it found on each device that holds a part of the model."""
    params = parameters([(5,)], F32)
    optimizer: Any = from_rule(params, RULES["corrected"], backend=backend, fused=True)
    past = []
    for found_inf in (0.0, 2.0, 0.0):
        params[0].grad = torch.ones(5)
        optimizer.grad_scale, optimizer.found_inf = torch.tensor(1.0), torch.tensor(found_inf)
        optimizer.step()
        past.append(look(optimizer, params))
    return past


def captured(backend: str, rule: Rule) -> Past:
    """Steps as a CUDA graph would replay them: gradients, rate and state stay where they are."""
    params = parameters([(3, 5), (7,)], F32)
    options: dict[str, Any] = {"backend": backend, "capturable": backend == "triton"}
    optimizer = from_rule(params, rule, torch.tensor(0.01), **options)
    for p in params:
        p.grad = torch.ones_like(p)
    past = []
    for _ in range(2):
        optimizer.step()
        past.append(look(optimizer, params))
    return past


SIZES = [(), (0,), (1,), (255,), (256,), (257,), (2047,), (2048,), (2049,), (2, 0, 3), (6, 300)]
ROWS = [
    (17, 255), (16, 256), (16, 257), (14, 300), (3, 2047), (2, 2048), (2, 2049), (128, 33), (7,),
]  # fmt: skip
"""Matrices that are large enough for one byte: rows shorter, as long and longer than blocks and tiles."""
STATES = {"plain": None, "float32": F32, "float64": F64, "bfloat16": BF16, "uint8": U8}
MIXES = [
    *[(p, p) for p in (F64, F32, F16, BF16)],
    *[(F32, BF16), (F32, F16), (F16, F32), (BF16, F32), (F64, F32), (F32, F64)],
]
PLACES = [
    ("channels last", "contiguous"), ("contiguous", "with gaps"), ("transposed", "offset"),
    ("with gaps", "a part"), ("offset", "channels last"), ("a part", "transposed"),
]  # fmt: skip
KERAS = Rule.from_dialect("keras", lr=0.125, momentum=0.5, weight_decay=0.25)
ALL = Rule.from_dialect(
    "keras", lr=0.01, momentum=0.9, nesterov=True, bias_correction=True, weight_decay=0.1,
    centered=True, maximize=True, clip_value=2.0, initial_scale=1.0,
)  # fmt: skip
SCALED = ["plain", "clip-norm", "clip-global-norm", "corrected-all", "corrected-decoupled", "adam"]
RATES = ["plain", "decoupled-all", "lr-in-buffer", "adamw", "sgd"]
CAPTURED = ["plain", "corrected", "decoupled", "maximize"]
EXCHANGED = {"float64": F64, "bfloat16": BF16, "uint8": U8}
MANY = [(k % 5, 1 + k % 3) for k in range(200)]

CASES: dict[str, Callable[[str], Any]] = {
    **{
        f"{name} {names(dtype)}": partial(
            walk, rule=rule, shapes=[(3, 5), (0,), (300,)], dtype=dtype, warm=True, still=True
        )
        for name, rule in RULES.items()
        for dtype in (F64, F32)
    },
    **{
        f"{names(p)} with {names(g)}, {name}": partial(
            walk, rule=KERAS, shapes=[(14, 300)], dtype=p, g=None if p == g else g,
            state_dtype=state, steps=2,
        )
        for p, g in MIXES if accepts(p, g)
        for name, state in STATES.items()
    },
    **{
        f"sizes, {name}": partial(walk, rule=KERAS, shapes=shapes, state_dtype=STATES[name])
        for name, shapes in {"plain": SIZES, "bfloat16": SIZES, "uint8": ROWS}.items()
    },
    "sizes, bfloat16 parameters": partial(
        walk, rule=KERAS, shapes=SIZES, dtype=BF16, state_dtype=BF16, stochastic_rounding=True
    ),
    **{
        f"{p} by {g}, {name}": partial(
            walk, rule=KERAS, shapes=[(6, 8, 10, 10)], layout=(p, g), state_dtype=STATES[name],
            steps=2,
        )
        for p, g in PLACES
        for name in ("plain", "bfloat16", "uint8")
    },
    **{
        f"{name}, scaled": partial(scaled, rule=RULES[name]) for name in SCALED
    },
    **{
        f"scaled, {name}": partial(scaled, rule=KERAS, state_dtype=STATES[name], unscale=unscale)
        for name, unscale in (("plain", True), ("bfloat16", False), ("uint8", False))
    },
    **{
        f"{name}, tensor lr": partial(
            walk, rule=RULES[name], shapes=[(3, 5), (7,)], dtype=F64, tensor_lr=True, steps=4
        )
        for name in RATES
    },
    **{
        f"{name}, {way}": partial(
            walk, rule=KERAS, shapes=[(14, 300)], state_dtype=state, steps=4,
            dtype=F64 if name == "float64" else BF16, stochastic_rounding=True, **more,
        )
        for name, state in EXCHANGED.items()
        for way, more in {
            "seed 0": {}, "again": {}, "seed 1": {"seed": 1}, "resumed": {"then": "triton"},
            "to numba": {"then": "numba"},
        }.items()
    },
    **{
        f"{name}, from numba": partial(from_numba, name=name)
        for name in EXCHANGED
    },
    "average, bfloat16": partial(average, state=BF16, shape=(2, 1024), steps=100),
    "average, uint8": partial(average, state=U8, shape=(2, 2048), steps=100),
    "small steps": small_steps,
    "draws": draws,
    **{f"{name}, captured": partial(captured, rule=RULES[name]) for name in CAPTURED},
    "extremes": extremes,
    "overflow on two devices": overflow_on_two_devices,
    "many": partial(walk, rule=RULES["momentum"], shapes=MANY, steps=1),
    "everything": partial(
        scaled, rule=ALL, dtype=BF16, state_dtype=U8, stochastic_rounding=True,
        lr=torch.tensor(0.01),
    ),
}  # fmt: skip


class Launches:
    """The kernel, which notes how it is launched: the types of its arguments, and its constants.

    "again" are the arguments that the launch before had too: the same tensors.
    """

    def __init__(self, kernel: Any):
        self.kernel, self.names, self.seen = kernel, kernel.arg_names, list[Any]()
        self.before: tuple[Any, ...] = ()

    def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., Any]:
        def launch(*args: Any, **constants: Any) -> None:
            types = dict(zip(self.names, [x.dtype for x in args], strict=False))
            # Triton's own types by their names.
            plain = {key: getattr(x, "name", x) for key, x in constants.items()}
            again = {key for key, x, y in zip(types, args, self.before, strict=False) if x is y}
            self.seen.append({"grid": grid, "types": types, "constants": plain, "again": again})
            self.before = args
            self.kernel[grid](*args, **constants)

        return launch


def main(file: str, part: str, of: str) -> None:
    kernels = gpu.kernel()
    kernels.step = launches = Launches(kernels.step)
    found = {}
    for name in list(CASES)[int(part) :: int(of)]:
        launches.seen = []
        try:
            result = CASES[name]("triton")
        except Exception:
            found[name] = {"error": traceback.format_exc()}
        else:
            found[name] = {"result": result, "launches": launches.seen}
    Path(file).write_bytes(pickle.dumps(found))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(*sys.argv[1:])
