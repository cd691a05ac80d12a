"""What clipping by the joint norm of all gradients adds to a step, against PyTorch's.

Ours takes the norms in one pass over the gradients, in float64, and the step's own pass scales them;
PyTorch's clip_grad_norm_ takes them in float32, which at 25M numbers is off by 0.1%, and scales the
gradients in a pass of its own.

Target: what clipping adds takes no longer than clip_grad_norm_.

    python benchmarks/norms.py [--quick] [--json [FILE]]

Ours is update() of `rmsprop.numpy`, with and without clip_global_norm. What clipping adds is their
difference in each round.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from peers import RULE, Missing, Workload, parameters, torch
from rmsprop.kernels.norms import norms
from rmsprop.numpy import Optimizer
from tables import Report, main
from timing import Times

CASES = {"1 x 25M": [(25_000_000,)], "1,000 of 64": [(64,)] * 1000}
QUICK = {"1 x 1M": [(1_000_000,)], "1,000 of 64": [(64,)] * 1000}
MAX_NORM = 1.0

PLAIN, CLIPPED = "ours: update()", "ours: update(), clipped"
ADDED, NORMS = "ours: what clipping adds", "ours: the norms alone"
TORCH, TORCH_STEP = "torch clip_grad_norm_", "torch clip_grad_norm_ and step"


def measure(report: Report) -> None:
    for case, shapes in (QUICK if report.quick else CASES).items():
        runs = contenders(Workload(shapes))
        times = report.race(runs, 15)
        added = times.seconds[CLIPPED] - times.seconds[PLAIN]
        times = Times(
            {ADDED: np.maximum(added, 0.01 * times.seconds[CLIPPED])} | times.seconds, times.others
        )
        report.table(f"{case} float32", times, base=ADDED, column="x the added")
        if TORCH in times.seconds and not report.quick:
            claim = f"{case}: x faster than torch's clip_grad_norm_"
            report.target(claim, times.ratio(TORCH, ADDED), at_least=1)


def contenders(work: Workload) -> dict[str, Callable[[], Any]]:
    plain, clipping = Optimizer(RULE), Optimizer(RULE.replace(clip_global_norm=MAX_NORM))
    flat = [g.reshape(-1) for g in work.g.values()]
    runs: dict[str, Callable[[], Any]] = {
        PLAIN: lambda: plain.update(work.p, work.g),
        CLIPPED: lambda: clipping.update(work.p, work.g),
        NORMS: lambda: norms(flat),
    }
    try:
        # Of its own: it scales the gradients in place.
        theirs = Workload([g.shape for g in work.g.values()])
        params = parameters(theirs)
    except Missing as reason:
        print(f"torch: {reason}")
        return runs

    def clip() -> "torch.Tensor":
        return torch.nn.utils.clip_grad_norm_(params, MAX_NORM)

    expected = float(np.linalg.norm(norms(flat)))
    np.testing.assert_allclose(float(clip()), expected, rtol=5e-3)
    optimizer = torch.optim.RMSprop(params, lr=RULE.lr, alpha=RULE.decay)

    def clip_and_step() -> None:
        clip()
        optimizer.step()

    return runs | {TORCH: clip, TORCH_STEP: clip_and_step}


if __name__ == "__main__":
    main("norms", __doc__, measure)
