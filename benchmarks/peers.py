"""What ours is measured against: the memory limit, the seeds' NumPy, and PyTorch's optimizers."""

import itertools
import logging
import math
import os
import time
import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from limit import Array, limit
from rmsprop import Rule, reference
from rmsprop.kernels.cpu import KINDS, Batch, flags_of, scalars_of
from rmsprop.kernels.threads import threads
from rmsprop.numpy import Optimizer

# PyTorch before Numba starts threads. Both bring an OpenMP; if the system's, which Numba loads, comes first,
# torch.set_num_threads makes PyTorch's sqrt of 10,000 numbers take 4 ms instead of 5 us.
# Without caches of what PyTorch compiled before, as otherwise compiling would seem to cost nothing.
os.environ.setdefault("TORCHINDUCTOR_FORCE_DISABLE_CACHES", "1")
if TYPE_CHECKING:
    import torch
else:
    try:
        import torch
    except ModuleNotFoundError:
        torch = None

Run = Callable[[], Any]

LINE = 16  # float32 numbers in a cache line
RULE = Rule.from_dialect("torch", lr=1e-3)

LIMIT = "memory limit: v+=g; p-=g"
KERNEL = "ours: kernel"
OURS = "ours: update()"
FRESH = "ours: update(), new gradients"
SEEDS = "NumPy as in the seeds"
TENSORS = "ours: rmsprop.torch"
BFLOAT16 = "ours: rmsprop.torch, bfloat16"
BYTE = "ours: rmsprop.torch, 1 byte"
LOOP = "torch RMSprop, loop"
FOREACH = "torch RMSprop, foreach"
COMPILED = "torch RMSprop, compiled"
ADAGRAD = "torch Adagrad, fused"


class Workload:
    """Parameters and gradients that all contenders share; each keeps its own state.

    They lie in two blocks, each array on a cache line of its own, so that the limit walks the same memory.
    """

    def __init__(self, shapes: Iterable[tuple[int, ...]]):
        by_name = {str(k): shape for k, shape in enumerate(shapes)}
        counts = [math.prod(shape) for shape in by_name.values()]
        starts = list(itertools.accumulate([-(-n // LINE) * LINE for n in counts], initial=0))
        some = np.random.default_rng(0).standard_normal(1 << 20, dtype=np.float32)
        self.size = sum(counts)
        self.blocks = np.zeros(starts[-1], np.float32), np.resize(some, starts[-1])

        def cut(block: Array) -> dict[str, Array]:
            places = zip(by_name.items(), starts[:-1], counts, strict=True)
            return {k: block[low : low + n].reshape(shape) for (k, shape), low, n in places}

        self.p, self.g = (cut(block) for block in self.blocks)


class Contender(NamedTuple):
    """One who takes steps on a workload."""

    run: Run
    steps: int = 0  # taken already
    note: str = ""


class Missing(Exception):
    """Why a contender cannot take part here."""


def _memory_limit(work: Workload) -> Contender:
    """Over one array of as many elements: that there are many arrays is no excuse."""
    p, g = work.blocks
    return Contender(limit(p, g, np.ones_like(p)))


def _kernel(work: Workload) -> Contender:
    rows = [
        (p.reshape(-1), work.g[k].reshape(-1), np.zeros(p.size, p.dtype), None, None)
        for k, p in work.p.items()
    ]
    kind = KINDS[rows[0][0].dtype.name]
    batch, flags, h = (
        Batch.of(rows, (kind, kind, kind)),
        flags_of(RULE),
        scalars_of(RULE, RULE.lr, 1),
    )
    return Contender(lambda: batch.step(flags, h))


def _update(work: Workload) -> Contender:
    """The NumPy optimizer, with its Python and its checks, on the same arrays at every step."""
    optimizer = Optimizer(RULE)
    return Contender(lambda: optimizer.update(work.p, work.g))


def _fresh(work: Workload) -> Contender:
    """The same, but each step brings gradients in array objects that the step before did not see."""
    optimizer = Optimizer(RULE)
    sets = itertools.cycle([{k: g.view() for k, g in work.g.items()} for _ in range(2)])
    return Contender(lambda: optimizer.update(work.p, next(sets)))


class SeedsRMSprop:
    """The optimizer of the seeds (slide B4): a new array for every operation."""

    def __init__(self, learning_rate: float = 0.01, decay_rate: float = 0.9, epsilon: float = 1e-8):
        self.learning_rate, self.decay_rate, self.epsilon = learning_rate, decay_rate, epsilon
        self.cache: dict[str, Array] = {}

    def update(self, params: dict[str, Array], grads: dict[str, Array]) -> None:
        d, lr, eps = self.decay_rate, self.learning_rate, self.epsilon
        for name, g in grads.items():
            cache = self.cache.get(name)
            if cache is None:
                cache = np.zeros_like(params[name])
            self.cache[name] = cache = d * cache + (1 - d) * np.square(g)
            params[name] -= lr * g / (np.sqrt(cache) + eps)


def _seeds(work: Workload) -> Contender:
    optimizer = SeedsRMSprop(RULE.lr, RULE.decay, RULE.eps)
    return Contender(lambda: optimizer.update(work.p, work.g))


def require_torch() -> None:
    """Raise Missing without PyTorch; give it as many threads as ours has."""
    if torch is None:
        raise Missing("not installed: pip install torch")
    torch.set_num_threads(threads())


def parameters(work: Workload) -> "list[torch.Tensor]":
    """The workload's memory as PyTorch's parameters, with their gradients."""
    require_torch()
    found = [torch.from_numpy(p) for p in work.p.values()]
    for p, g in zip(found, work.g.values(), strict=True):
        p.grad = torch.from_numpy(g)
    return found


def _tensors(work: Workload, state_dtype: str | None = None) -> Contender:
    """The PyTorch front-end, with float32 state or less."""
    params = parameters(work)
    from rmsprop.torch import RMSprop

    dtype: Any = state_dtype and getattr(torch, state_dtype)
    return Contender(RMSprop(params, lr=RULE.lr, state_dtype=dtype).step)


def _torch_rmsprop(work: Workload, foreach: bool) -> Contender:
    params = parameters(work)
    kwargs = {"lr": RULE.lr, "alpha": RULE.decay, "eps": RULE.eps, "foreach": foreach}
    return Contender(torch.optim.RMSprop(params, **kwargs).step)


def _torch_adagrad(work: Workload) -> Contender:
    """PyTorch's CPU has no fused RMSprop. This moves the same bytes and computes almost the same."""
    return Contender(torch.optim.Adagrad(parameters(work), lr=RULE.lr, fused=True).step)


def _torch_compiled(work: Workload) -> Contender:
    step = _torch_rmsprop(work, foreach=True).run
    step()  # makes the state, which is not compiled
    torch.compiler.reset()
    compiled = torch.compile(step)
    start = time.perf_counter()
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for _ in range(3):
                compiled()
    except Exception as error:  # whatever becomes of a missing C++ compiler
        raise Missing(f"cannot compile: {str(error).strip().splitlines()[0][:50]}") from error
    finally:
        logging.disable(logging.NOTSET)
    seconds = time.perf_counter() - start
    return Contender(compiled, 4, f"compiles for {seconds:.1f} s before the first step")


ALL: dict[str, Callable[[Workload], Contender]] = {
    LIMIT: _memory_limit,
    KERNEL: _kernel,
    OURS: _update,
    FRESH: _fresh,
    TENSORS: _tensors,
    BFLOAT16: lambda work: _tensors(work, "bfloat16"),
    BYTE: lambda work: _tensors(work, "uint8"),
    SEEDS: _seeds,  # who comes next finds the caches and the page tables in a bad state
    LOOP: lambda work: _torch_rmsprop(work, foreach=False),
    FOREACH: lambda work: _torch_rmsprop(work, foreach=True),
    COMPILED: _torch_compiled,
    ADAGRAD: _torch_adagrad,
}


def gather(work: Workload, names: Sequence[str]) -> tuple[dict[str, Run], dict[str, str]]:
    """The contenders of these names, and what there is to say of some, by name."""
    runs, notes = {}, {}
    for name in names:
        try:
            contender = ALL[name](work)
        except Missing as reason:
            notes[name] = str(reason)
            continue
        runs[name] = contender.run
        if contender.note:
            notes[name] = contender.note
    return runs, notes


def verify(names: Sequence[str]) -> None:
    """Stop unless these contenders take the reference's steps on small arrays."""
    for name in names:
        if name == LIMIT:
            continue
        work = Workload([(300, 701), (64,), (1,)])  # enough for two threads
        try:
            contender = ALL[name](work)
        except Missing:
            continue
        for _ in range(3):
            contender.run()
        rule = Rule.from_dialect("adagrad", lr=RULE.lr) if name == ADAGRAD else RULE
        for k, p in work.p.items():
            expected = after(rule, np.zeros_like(p), work.g[k], contender.steps + 3)
            if name in (BFLOAT16, BYTE):  # rounded, a byte also held at its block's floor
                off = np.linalg.norm(p - expected) / np.linalg.norm(expected)
                assert off < 0.05, f"{name} is off by {off}"
            else:
                np.testing.assert_allclose(p, expected, rtol=2e-5, atol=1e-7, err_msg=name)


def after(rule: Rule, p: Array, g: Array, steps: int) -> Array:
    """Where the reference is after some steps with one gradient."""
    state = reference.init(rule, p)
    for _ in range(steps):
        p, state = reference.update(rule, p, g, state)
    return p
