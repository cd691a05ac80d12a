"""One step on a GPU, against the memory limit, PyTorch's optimizers and bitsandbytes.

The limit moves the bytes of a float32 step (20 for a parameter) as the same GPU copies them.  The shapes
are those of `many.py` and one matrix of 100M.  Ours is measured as called from Python and as replayed
from a CUDA graph, with float32, bfloat16 and one byte of state.

Targets: 0.9 of the limit and 2.5 times PyTorch's foreach at 100M; one byte at most 0.75 of float32's time.

    python benchmarks/torch_gpu.py [--quick] [--json [FILE]]

Without a GPU it says so. With TRITON_INTERPRET=1 and --quick it runs through on the CPU: not for figures.
"""

import os
from collections.abc import Callable
from importlib import import_module
from typing import Any

from many import gpt2, mlp, resnet50
from peers import Missing, require_torch, torch
from tables import Report, main

LIMIT, FLOAT32 = "memory limit: copies", "ours, float32"
BFLOAT16, BYTE = "ours, bfloat16 state", "ours, 1-byte state"
GRAPH = "ours, CUDA graph"
LOOP, FOREACH = "torch RMSprop, loop", "torch RMSprop, foreach"
ADAGRAD, ADAM, COMPILED = "torch Adagrad, foreach", "torch Adam, fused", "torch RMSprop, compiled"
BITS = "bitsandbytes RMSprop8bit"
CASES = {
    "1 x 100M": [(100_000, 1000)],
    "GPT-2 small": gpt2(),
    "ResNet-50": resnet50(),
    "1,000 of 64": [(64,)] * 1000,
    "MLP 784-128-10": mlp(),
}
QUICK = {"MLP 784-128-10": mlp()}
Run = Callable[[], Any]


def device() -> Any:
    require_torch()
    if torch.cuda.is_available():
        return torch.device("cuda")
    if os.environ.get("TRITON_INTERPRET") == "1":
        return torch.device("cpu")
    raise Missing("no GPU here")


def parameters(shapes: list[tuple[int, ...]], where: Any) -> list[Any]:
    some = torch.Generator(where).manual_seed(0)
    found = [torch.zeros(shape, device=where) for shape in shapes]
    for p in found:
        p.grad = torch.randn(p.shape, generator=some, device=where)
    return found


def waiting(run: Run) -> Run:
    """Until the device is done: what a caller pays who then needs the result."""

    def whole() -> None:
        run()
        if torch.cuda.is_available():
            torch.cuda.synchronize()

    return whole


def limit(params: list[Any]) -> Run:
    """A copy reads and writes: 20 bytes a parameter are two and a half copies of 4 bytes."""
    count = sum(p.numel() for p in params)
    source = torch.zeros(count * 10, dtype=torch.uint8, device=params[0].device)
    target = torch.empty_like(source)
    return lambda: target.copy_(source)


def graph(params: list[Any]) -> Run:
    from rmsprop.torch import RMSprop

    if not torch.cuda.is_available():
        raise Missing("CUDA graphs need CUDA")
    optimizer = RMSprop(params, lr=1e-3, capturable=True)
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for _ in range(3):
            optimizer.step()
    torch.cuda.current_stream().wait_stream(stream)
    captured = torch.cuda.CUDAGraph()
    with torch.cuda.graph(captured):
        optimizer.step()
    return captured.replay


def bits(params: list[Any]) -> Run:
    try:
        optim = import_module("bitsandbytes.optim")
    except ImportError as error:
        raise Missing("not installed: pip install bitsandbytes") from error
    return optim.RMSprop8bit(params, lr=1e-3).step


def makers() -> dict[str, Callable[[list[Any]], Run]]:
    from rmsprop.torch import RMSprop

    def ours(dtype: Any = None) -> Callable[[list[Any]], Run]:
        return lambda p: RMSprop(p, lr=1e-3, state_dtype=dtype, backend="triton").step

    return {
        LIMIT: limit,
        FLOAT32: ours(),
        BFLOAT16: ours(torch.bfloat16),
        BYTE: ours(torch.uint8),
        GRAPH: graph,
        LOOP: lambda p: torch.optim.RMSprop(p, lr=1e-3, foreach=False).step,
        FOREACH: lambda p: torch.optim.RMSprop(p, lr=1e-3, foreach=True).step,
        COMPILED: lambda p: torch.compile(torch.optim.RMSprop(p, lr=1e-3, foreach=True).step),
        ADAGRAD: lambda p: torch.optim.Adagrad(p, lr=1e-3, foreach=True).step,
        ADAM: lambda p: torch.optim.Adam(p, lr=1e-3, fused=True).step,
        BITS: bits,
    }


def measure(report: Report) -> None:
    try:
        where = device()
    except Missing as reason:
        print(f"left out: {reason}")
        return
    if where.type == "cuda":
        report.environment["gpu"] = torch.cuda.get_device_name()
    for case, shapes in (QUICK if report.quick else CASES).items():
        _measure_case(report, case, shapes, where)


def _measure_case(report: Report, case: str, shapes: list[tuple[int, ...]], where: Any) -> None:
    runs, notes = {}, {}
    for name, make in makers().items():
        if name == COMPILED and (report.quick or case == "1,000 of 64"):
            continue
        try:
            runs[name] = waiting(make(parameters(shapes, where)))
            runs[name]()
        except Missing as reason:
            notes[name] = str(reason)
    times = report.race(runs, 21)
    report.table(f"{case} float32", times, base=FLOAT32, limit=LIMIT, notes=notes)
    if case != "1 x 100M":
        return
    report.target(f"{case}: of the limit", times.ratio(LIMIT, FLOAT32), at_least=0.9)
    report.target(f"{case}: x faster than foreach", times.ratio(FOREACH, FLOAT32), at_least=2.5)
    report.target(f"{case}: 1 byte over float32", times.ratio(BYTE, FLOAT32), at_most=0.75)


if __name__ == "__main__":
    main("torch_gpu", __doc__, measure)
