"""Training end to end in PyTorch: what a whole step takes, and what part of it the optimizer is.

An MLP 784-128-10 at batch 128 and a small character-level transformer (2 layers of 128, 16 texts of 64
characters): forward, backward and the optimizer's step, on random numbers of the right shapes.  Only the
optimizer differs; what it saves is all that can be saved.

Target: no slower than with torch.optim.RMSprop, in whichever of its two ways is faster.

    python benchmarks/torch_train.py [--quick] [--json [FILE]]
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from nets import CONTEXT, loss_of, mlp, transformer
from peers import FOREACH, LOOP, TENSORS, Missing, require_torch, torch
from tables import Report, main
from timing import Times

BYTE = "ours, 1-byte state"
SYMBOLS, STEPS = 48, 20
NETS: dict[str, Callable[[int], Any]] = {
    "MLP 784-128-10, batch 128": mlp,
    "transformer, 2 x 128, batch 16 x 64": lambda seed: transformer(seed, SYMBOLS),
}


def batch(net: str) -> tuple[Any, Any]:
    some = torch.Generator().manual_seed(0)
    if net.startswith("MLP"):
        return torch.randn(128, 784, generator=some), torch.randint(10, (128,), generator=some)
    x = torch.randint(SYMBOLS, (16, CONTEXT), generator=some)
    return x, x.roll(-1, 1)


def optimizers() -> dict[str, Callable[[Any], Any]]:
    from rmsprop.torch import RMSprop

    return {
        TENSORS: lambda p: RMSprop(p, lr=1e-4),
        BYTE: lambda p: RMSprop(p, lr=1e-4, state_dtype=torch.uint8),
        FOREACH: lambda p: torch.optim.RMSprop(p, lr=1e-4, foreach=True),
        LOOP: lambda p: torch.optim.RMSprop(p, lr=1e-4, foreach=False),
    }


def whole(net: str, make: Callable[[Any], Any] | None) -> Callable[[], None]:
    """Some training steps; without an optimizer, forward and backward alone."""
    model, (x, y) = NETS[net](0), batch(net)
    optimizer = make(model.parameters()) if make else None

    def run() -> None:
        for _ in range(STEPS):
            model.zero_grad()
            loss_of(model, x, y).backward()
            if optimizer is not None:
                optimizer.step()

    return run


def measure(report: Report) -> None:
    try:
        require_torch()
    except Missing as reason:
        print(f"left out: {reason}")
        return
    for net in NETS:
        runs = {name: whole(net, make) for name, make in optimizers().items()}
        times = report.race({"no optimizer": whole(net, None), **runs}, 15)
        times = Times({k: s / STEPS for k, s in times.seconds.items()}, times.others)
        shares = {
            name: 1 - float(np.median(times.seconds["no optimizer"] / times.seconds[name]))
            for name in runs
        }
        notes = {
            name: f"{share:.0%} of the step is the optimizer" for name, share in shares.items()
        }
        report.table(f"{net}: one training step", times, base=TENSORS, notes=notes)
        best = min(times.ratio(FOREACH, TENSORS), times.ratio(LOOP, TENSORS))
        report.target(f"{net}: x faster than with torch's own", best, at_least=1)


if __name__ == "__main__":
    main("torch_train", __doc__, measure)
