"""Two small networks in NumPy, PyTorch and JAX, and how each framework's own RMSprop trains them.

What test_convert_round_trips.py and roundtrip_keras.py share.  Each framework has a function `begin`, which
trains with the framework's own optimizer, writes its file after STEPS and returns where it is after twice as
many; and `finish`, which goes on from a translated file, in the framework's own way.

All numbers are powers of two or sums of few, so that no framework rounds them to its own dtype.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rmsprop import Rule

Array = np.ndarray[Any, Any]
Params = dict[str, Array]
STEPS, ROWS = 6, 7
NUMBERS = {"lr": 2.0**-7, "decay": 0.875, "eps": 2.0**-20}


@dataclass(frozen=True)
class Case:
    """What is trained, and with which rule."""

    net: str
    dtype: str
    centered: bool
    scheduled: bool
    momentum: float = 0.75

    def rule(self, dialect: str) -> Rule:
        return Rule.from_dialect(dialect, **NUMBERS, momentum=self.momentum, centered=self.centered)

    def rate(self, step: int) -> float:
        """The learning rate of a step, counted from 0: it falls before and after the translation."""
        falls = sum(step > at for at in BOUNDARIES) if self.scheduled else 0
        return NUMBERS["lr"] * 0.5**falls

    @property
    def tolerance(self) -> float:
        return 1e-12 if self.dtype == "float64" else 1e-6


BOUNDARIES = (2, STEPS + 1)
CASES = {
    "mlp-float64-centered-schedule": Case("mlp", "float64", True, True),
    "conv-float64-centered": Case("conv", "float64", True, False),
    "mlp-float32": Case("mlp", "float32", False, False),
    "conv-float32-schedule": Case("conv", "float32", False, True),
}
SHAPES = {
    "mlp": {"first/kernel": (5, 4), "first/bias": (4,), "last/kernel": (4, 4), "last/bias": (4,)},
    "conv": {
        "first/kernel": (3, 3, 2, 3),
        "first/bias": (3,),
        "last/kernel": (12, 4),
        "last/bias": (4,),
    },
}
INPUT = {"mlp": (5,), "conv": (4, 4, 2)}
FLAT = [2, 2, 3]
"""What the convolution gives, (height, width, channels)."""


def initial(case: Case) -> Params:
    """In Keras's names and layout."""
    rng = np.random.default_rng(1)
    return {
        name: rng.uniform(-1, 1, shape).astype(case.dtype)
        for name, shape in SHAPES[case.net].items()
    }


def data(case: Case) -> tuple[Array, Array]:
    rng = np.random.default_rng(2)
    x, y = rng.normal(0, 1, (ROWS, *INPUT[case.net])), rng.normal(0, 1, (ROWS, 4))
    return x.astype(case.dtype), y.astype(case.dtype)


# NumPy.


def grads(case: Case, p: Params) -> Params:
    """Of the mean squared error, by hand."""
    x, y = data(case)
    windows = x
    if case.net == "conv":
        windows = np.lib.stride_tricks.sliding_window_view(x, (3, 3), axis=(1, 2))
        z = np.einsum("nhwcij,ijco->nhwo", windows, p["first/kernel"]) + p["first/bias"]
    else:
        z = x @ p["first/kernel"] + p["first/bias"]
    h = np.tanh(z)
    flat = h.reshape(len(x), -1)
    out = flat @ p["last/kernel"] + p["last/bias"]
    d_out = 2 * (out - y) / y.size
    d_z = (d_out @ p["last/kernel"].T).reshape(h.shape) * (1 - h**2)
    if case.net == "conv":
        d_kernel = np.einsum("nhwcij,nhwo->ijco", windows, d_z)
        d_bias = d_z.sum((0, 1, 2))
    else:
        d_kernel, d_bias = x.T @ d_z, d_z.sum(0)
    found = (d_kernel, d_bias, flat.T @ d_out, d_out.sum(0))
    return {
        name: np.asarray(g, case.dtype) for name, g in zip(SHAPES[case.net], found, strict=True)
    }


def numpy_train(case: Case, optimizer: Any, p: Params, steps: int) -> None:
    for _ in range(steps):
        optimizer.update(p, grads(case, p))


def numpy_begin(case: Case, path: Path) -> Params:
    from rmsprop import convert
    from rmsprop.numpy import Optimizer

    optimizer, p = Optimizer(case.rule("hinton"), learning_rate=case.rate), initial(case)
    numpy_train(case, optimizer, p, STEPS)
    found = convert.read(optimizer)
    for name, entry in found.entries.items():
        entry.value = p[name]
    convert.write(found, path)
    numpy_train(case, optimizer, p, STEPS)
    return p


def numpy_finish(case: Case, rule: Rule, path: Path, like: Path | None) -> Params:
    from rmsprop import convert
    from rmsprop.numpy import Optimizer

    optimizer = Optimizer(rule, learning_rate=case.rate)
    optimizer.load(path)
    values = {name: entry.value for name, entry in convert.read(path).entries.items()}
    p = {name: np.array(value) for name, value in values.items() if value is not None}
    numpy_train(case, optimizer, p, STEPS)
    return p


# PyTorch: channels first, flattened so.


def torch_model(case: Case) -> Any:
    import torch

    class Net(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            conv = case.net == "conv"
            self.first: Any = torch.nn.Conv2d(2, 3, 3) if conv else torch.nn.Linear(5, 4)
            self.last = torch.nn.Linear(12 if conv else 4, 4)

        def forward(self, x: Any) -> Any:
            x = x.permute(0, 3, 1, 2) if case.net == "conv" else x
            return self.last(torch.tanh(self.first(x)).flatten(1))

    return Net().to(getattr(torch, case.dtype))


def to_torch(case: Case, p: Params) -> dict[str, Any]:
    """Written out, and not by the code under test."""
    import torch

    if case.net == "conv":
        first = p["first/kernel"].transpose(3, 2, 0, 1)
        last = p["last/kernel"].reshape(2, 2, 3, 4).transpose(3, 2, 0, 1).reshape(4, 12)
    else:
        first, last = p["first/kernel"].T, p["last/kernel"].T
    found = {
        "first.weight": first,
        "first.bias": p["first/bias"],
        "last.weight": last,
        "last.bias": p["last/bias"],
    }
    return {name: torch.tensor(np.ascontiguousarray(a)) for name, a in found.items()}


def of_torch(case: Case, model: Any) -> Params:
    p = {name: t.detach().numpy().copy() for name, t in model.state_dict().items()}
    if case.net == "conv":
        first = p["first.weight"].transpose(2, 3, 1, 0)
        last = p["last.weight"].reshape(4, 3, 2, 2).transpose(2, 3, 1, 0).reshape(12, 4)
    else:
        first, last = p["first.weight"].T, p["last.weight"].T
    return {
        "first/kernel": first,
        "first/bias": p["first.bias"],
        "last/kernel": last,
        "last/bias": p["last.bias"],
    }


def torch_train(case: Case, model: Any, optimizer: Any, first: int, steps: int) -> None:
    import torch

    x, y = (torch.tensor(a) for a in data(case))
    for step in range(first, first + steps):
        for group in optimizer.param_groups:
            group["lr"] = case.rate(step)
        optimizer.zero_grad()
        torch.nn.functional.mse_loss(model(x), y).backward()
        optimizer.step()


def torch_begin(case: Case, path: Path) -> Params:
    import torch

    model = torch_model(case)
    model.load_state_dict(to_torch(case, initial(case)))
    numbers: dict[str, Any] = {
        "lr": NUMBERS["lr"],
        "alpha": NUMBERS["decay"],
        "eps": NUMBERS["eps"],
    }
    optimizer = torch.optim.RMSprop(
        model.parameters(), **numbers, momentum=case.momentum, centered=case.centered
    )
    torch_train(case, model, optimizer, 0, STEPS)
    for group in optimizer.param_groups:  # as a scheduler leaves it
        group["lr"] = case.rate(STEPS)
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, path)
    torch_train(case, model, optimizer, STEPS, STEPS)
    return of_torch(case, model)


def torch_like(case: Case, folder: Path) -> Path:
    import torch

    torch.save(torch_model(case).state_dict(), folder / "model.pt")
    return folder / "model.pt"


def torch_finish(case: Case, rule: Rule, path: Path, like: Path | None) -> Params:
    import torch

    from rmsprop.torch import from_rule

    saved = torch.load(path, weights_only=True)
    model = torch_model(case)
    model.load_state_dict(saved["model_state_dict"])
    native = rule == case.rule("torch")
    optimizer: Any = (
        torch.optim.RMSprop(model.parameters(), lr=1.0)
        if native
        else from_rule(model.parameters(), rule)
    )
    optimizer.load_state_dict(saved["optimizer_state_dict"])
    torch_train(case, model, optimizer, STEPS, STEPS)
    return of_torch(case, model)


# JAX, with Optax: parameters as Flax would nest them.


def nested(p: Params) -> dict[str, dict[str, Array]]:
    found: dict[str, dict[str, Array]] = {}
    for name, a in p.items():
        layer, _, part = name.partition("/")
        found.setdefault(layer, {})[part] = a
    return found


def flattened(tree: Any) -> Params:
    return {
        f"{layer}/{part}": np.array(a) for layer, parts in tree.items() for part, a in parts.items()
    }


def optax_train(
    case: Case, optimizer: Any, state: Any, p: Any, first: int, steps: int
) -> tuple[Any, Any]:
    import jax
    import jax.numpy as jnp
    import optax

    x, y = (jnp.asarray(a) for a in data(case))

    def loss(p: Any) -> Any:
        if case.net == "conv":
            z = jax.lax.conv_general_dilated(
                x, p["first"]["kernel"], (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
            )
        else:
            z = x @ p["first"]["kernel"]
        h = jnp.tanh(z + p["first"]["bias"]).reshape(len(x), -1)
        return jnp.mean((h @ p["last"]["kernel"] + p["last"]["bias"] - y) ** 2)

    @jax.jit
    def step(state: Any, p: Any) -> tuple[Any, Any]:
        updates, state = optimizer.update(jax.grad(loss)(p), state, p)
        return state, optax.apply_updates(p, updates)

    for _ in range(steps):
        state, p = step(state, p)
    return state, p


def optax_schedule(case: Case) -> Any:
    import optax

    return optax.piecewise_constant_schedule(
        NUMBERS["lr"], dict.fromkeys((at + 1 for at in BOUNDARIES), 0.5)
    )


def optax_own(case: Case) -> Any:
    """Optax's own."""
    import optax

    rate = optax_schedule(case) if case.scheduled else NUMBERS["lr"]
    return optax.rmsprop(
        rate, NUMBERS["decay"], NUMBERS["eps"], momentum=case.momentum, centered=case.centered
    )


def optax_begin(case: Case, path: Path) -> Params:
    import flax.serialization
    import jax
    import jax.numpy as jnp

    optimizer = optax_own(case)
    p = jax.tree.map(jnp.asarray, nested(initial(case)))
    state, p = optax_train(case, optimizer, optimizer.init(p), p, 0, STEPS)
    path.write_bytes(flax.serialization.to_bytes({"params": p, "opt_state": state}))
    state, p = optax_train(case, optimizer, state, p, STEPS, STEPS)
    return flattened(p)


def optax_like(case: Case, folder: Path) -> Path:
    """Optax's own state where it can go on; it is used for the sources whose rule is Optax's."""
    import flax.serialization
    import jax
    import jax.numpy as jnp

    p = jax.tree.map(jnp.asarray, nested(initial(case)))
    tree = {"params": p, "opt_state": optax_own(case).init(p)}
    path = folder / "like.msgpack"
    path.write_bytes(flax.serialization.to_bytes(tree))
    return path


def optax_finish(case: Case, rule: Rule, path: Path, like: Path | None) -> Params:
    import flax.serialization
    import jax
    import jax.numpy as jnp

    from rmsprop.jax import from_rule

    rate = optax_schedule(case) if case.scheduled else None
    optimizer: Any = optax_own(case) if like else from_rule(rule, rate)
    p = jax.tree.map(jnp.asarray, nested(initial(case)))
    tree = {"params": p, "opt_state": optimizer.init(p)}
    tree = flax.serialization.from_bytes(tree, path.read_bytes())
    tree = jax.tree.map(jnp.asarray, tree)
    _, p = optax_train(case, optimizer, tree["opt_state"], tree["params"], STEPS, STEPS)
    return flattened(p)


BEGIN: dict[str, Callable[[Case, Path], Params]] = {
    "numpy": numpy_begin,
    "torch": torch_begin,
    "optax": optax_begin,
}
FINISH: dict[str, Callable[[Case, Rule, Path, Path | None], Params]] = {
    "numpy": numpy_finish,
    "torch": torch_finish,
    "optax": optax_finish,
}
