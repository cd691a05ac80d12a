"""One step of many float32 arrays, as a network has them, against PyTorch and NumPy.

Networks' shapes: an MLP 784-128-10 (4 arrays), 1,000 arrays of 64, the convolutions and batch norms of
a ResNet (96 arrays, 18.7M parameters), ResNet-50 (161 arrays, 25.6M) and GPT-2 small (148 arrays, 124M).
The limit moves the bytes of one single array of as many elements.

Targets: as fast as PyTorch's compiled RMSprop and fused Adagrad on the large ones, without
their wait for a compiler; 15 times as fast as PyTorch's loop and 8 times as its foreach on 1,000
arrays of 64; 3 times as fast as both on the MLP.

    python benchmarks/many.py [--quick] [--json [FILE]]

Ours is update() of `rmsprop.numpy` and step() of `rmsprop.torch`, whose Python and checks count.
"""

from peers import (
    ADAGRAD,
    ALL,
    COMPILED,
    FOREACH,
    LIMIT,
    LOOP,
    OURS,
    TENSORS,
    Workload,
    gather,
    verify,
)
from tables import Report, main
from timing import Times

Shapes = list[tuple[int, ...]]


def mlp() -> Shapes:
    return [(784, 128), (128,), (128, 10), (10,)]


def batch_norm(width: int) -> Shapes:
    return [(width,), (width,)]


def resnet(blocks: tuple[int, ...] = (4, 3, 4, 3)) -> Shapes:
    """Convolutions and batch norms of a ResNet of basic blocks, without its classifier."""
    shapes: Shapes = [(64, 3, 7, 7), *batch_norm(64)]
    inputs = 64
    for width, count in zip((64, 128, 256, 512), blocks, strict=True):
        for block in range(count):
            shapes += [
                (width, inputs, 3, 3),
                *batch_norm(width),
                (width, width, 3, 3),
                *batch_norm(width),
            ]
            if block == 0 and inputs != width:
                shapes += [(width, inputs, 1, 1), *batch_norm(width)]
            inputs = width
    return shapes


def resnet50(blocks: tuple[int, ...] = (3, 4, 6, 3)) -> Shapes:
    """All of ResNet-50: bottleneck blocks, batch norms and the classifier."""
    shapes: Shapes = [(64, 3, 7, 7), *batch_norm(64)]
    inputs = 64
    for width, count in zip((64, 128, 256, 512), blocks, strict=True):
        for block in range(count):
            shapes += [
                (width, inputs, 1, 1),
                *batch_norm(width),
                (width, width, 3, 3),
                *batch_norm(width),
            ]
            shapes += [(4 * width, width, 1, 1), *batch_norm(4 * width)]
            if block == 0:
                shapes += [(4 * width, inputs, 1, 1), *batch_norm(4 * width)]
            inputs = 4 * width
    return [*shapes, (1000, inputs), (1000,)]


def gpt2(width: int = 768, layers: int = 12) -> Shapes:
    vector, wide = (width,), 4 * width
    attention = [(width, 3 * width), (3 * width,), (width, width), vector]
    perceptron = [(width, wide), (wide,), (wide, width), vector]
    block = [vector, vector, *attention, vector, vector, *perceptron]
    return [(50257, width), (1024, width), *(block * layers), vector, vector]


CASES = {
    "MLP 784-128-10": mlp(),
    "1,000 of 64": [(64,)] * 1000,
    "ResNet": resnet(),
    "ResNet-50": resnet50(),
    "GPT-2 small": gpt2(),
}
# Numbers that PyTorch would compile for minutes (1,000 arrays) or that need 9 GB.
NOT_COMPILED = {"1,000 of 64"}
NOT_QUICK = {"GPT-2 small"}


def measure(report: Report) -> None:
    names = [name for name in ALL if not (report.quick and name == COMPILED)]
    verify(names)
    for case, shapes in CASES.items():
        if not (report.quick and case in NOT_QUICK):
            _measure_case(report, case, shapes, names)


def _measure_case(report: Report, case: str, shapes: Shapes, names: list[str]) -> None:
    work = Workload(shapes)
    skip = case in NOT_COMPILED
    runs, notes = gather(work, [name for name in names if not (skip and name == COMPILED)])
    if skip and COMPILED in names:
        notes[COMPILED] = "left out: PyTorch compiles 1,000 arrays for minutes"
    times = report.race(runs, 21 if work.size < 100_000_000 else 11)
    title = f"{case}: {len(shapes)} arrays, {work.size:,} parameters"
    report.table(title, times, base=OURS, limit=LIMIT, notes=notes)
    if LOOP in times.seconds:
        _targets(report, case, times)


def _targets(report: Report, case: str, times: Times) -> None:
    def faster(than: str, goal: float) -> None:
        for ours in (OURS, TENSORS):
            if than in times.seconds:
                claim = f"{case}: x faster than {than}, {ours}"
                report.target(claim, times.ratio(than, ours), at_least=goal)

    if case == "1,000 of 64":
        faster(LOOP, 15)
        faster(FOREACH, 8)
    elif case == "MLP 784-128-10":
        faster(LOOP, 3)
        faster(FOREACH, 3)
    else:
        faster(COMPILED, 1)
        faster(ADAGRAD, 1)


if __name__ == "__main__":
    main("many", __doc__, measure)
