"""RMSprop for torch in several processes: DDP, FSDP2, ZeRO, distributed checkpoints, and after a fork.

Two processes train once for the whole file (distributed_worker.py); the tests read what they wrote, and
compare it with one process, here, that has the whole batch.
"""

import io
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import distributed_worker as worker
import needs

torch = needs.package("torch")
rmsprop_torch = needs.package("rmsprop.torch")
if not torch.distributed.is_available():
    needs.lacking("this torch has no distributed package")

# What torch's checkpoints say wherever there is no process group, asked for or not.
pytestmark = pytest.mark.filterwarnings("ignore:torch.distributed is disabled:UserWarning")

CLOSE = 1e-10
Tensors = dict[str, Any]


class Pair:
    """What both processes wrote, and why where they did not."""

    def __init__(self, folder: Path):
        self.folder = folder
        self._alone = {kind: self._one(worker.uninterrupted, kind) for kind in worker.CHECKPOINTS}
        self._alone |= {kind: self._one(worker.lone_saved, kind) for kind in worker.PLACED}
        self.output = run("pair", folder, ranks=2)

    def _one(self, train: Callable[[Path, str], Any], kind: str) -> Any:
        try:
            return train(self.folder / "by one", kind)
        except Exception as error:  # a failure of the tests that look at it, and of no other
            return error

    def alone(self, kind: str) -> Any:
        """The run of one process, which saved what the pair resumed."""
        run = self._alone[kind]
        if isinstance(run, Exception):
            raise run
        return run

    def ranks(self, case: str) -> list[dict[str, Any]]:
        """The results of a case, by rank; fails with the tracebacks where one is missing."""
        stem = self.folder / case.replace(" ", "-")
        paths = [Path(f"{stem}.{rank}.pt") for rank in (0, 1)]
        if not all(path.exists() for path in paths):
            reasons = [path.with_suffix(".txt") for path in paths]
            told = [path.read_text() for path in reasons if path.exists()]
            pytest.fail("\n".join([f"{case} failed", *told, *self.output]), pytrace=False)
        return [torch.load(path, weights_only=True) for path in paths]

    def both(self, case: str, *keys: str) -> list[Tensors]:
        """A part of a case's results on each rank, after a look that their bits agree."""
        parts: list[Any] = self.ranks(case)
        for key in keys:
            parts = [part[key] for part in parts]
        assert_same(*parts)
        return parts


def run(role: str, folder: Path, ranks: int) -> list[str]:
    """Run the worker's processes to their end; what each said, and its exit code."""
    command = [sys.executable, worker.__file__, role, str(folder)]
    logs = [folder / f"{role}.{rank}.log" for rank in range(ranks)]
    processes: list[subprocess.Popen[bytes]] = []
    try:
        for rank, log in enumerate(logs):
            with log.open("wb") as file:
                processes.append(
                    subprocess.Popen([*command, str(rank)], stdout=file, stderr=subprocess.STDOUT)
                )
        ends = [process.wait(worker.LIMIT + 20) for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()
    return [
        f"{role} {rank}: exit code {end}\n{log.read_text()}"
        for rank, (end, log) in enumerate(zip(ends, logs, strict=True))
    ]


def assert_same(one: Any, other: Any) -> None:
    """The same tensors under the same names: dtypes, shapes and bits."""
    assert list(one) == list(other)
    for name, x in one.items():
        y = other[name]
        assert x.dtype == y.dtype, name
        assert torch.equal(x, y), name


def assert_close(one: Tensors, other: Tensors) -> None:
    """The same names, and values that differ by rounding in float64 alone."""
    assert list(one) == list(other)
    for name, x in one.items():
        torch.testing.assert_close(
            x, other[name], rtol=0, atol=CLOSE, msg=lambda m, n=name: f"{n}: {m}"
        )


def assert_near(found: Tensors, start: Tensors, end: Tensors) -> None:
    """Parameters that went from the start to within a tenth of the way's length of the end."""
    for name in found:
        if "/" not in name:
            off, way = (found[name] - end[name]).norm(), (end[name] - start[name]).norm()
            assert off < 0.1 * way, (name, off.item(), way.item())


def assert_as_stored(found: Any, saved: Any) -> None:
    """The same numbers, up to the rounding of one byte and its floor, 2^-30 of the largest."""
    assert not isinstance(found, str), found
    torch.testing.assert_close(found, saved, rtol=1 / 8, atol=saved.max().item() * 2**-29)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return Pair(tmp_path_factory.mktemp("pair"))


@pytest.fixture(scope="module")
def alone() -> Tensors:
    """What one process makes of the whole batch."""
    model, optimizer = worker.alone()
    losses = worker.train(model, optimizer, worker.STEPS)
    assert losses[-1] < losses[0] / 2
    return worker.snapshot(model, optimizer)


def test_both_processes_end_well(pair: Pair) -> None:
    for said in pair.output:
        assert "exit code 0" in said, said


# Training.


def test_ddp_equals_one_process(pair: Pair, alone: Tensors) -> None:
    for end in pair.both("ddp", "end"):
        assert_close(end, alone)


def test_ddp_rounds_alike_on_both_ranks(pair: Pair) -> None:
    end = pair.both("ddp uint8", "end")[0]
    assert end["0.weight/square_avg_code"].dtype == torch.uint8


@pytest.mark.parametrize("backend", worker.BACKENDS)
def test_fsdp_equals_one_process(pair: Pair, alone: Tensors, backend: str) -> None:
    for end in pair.both(f"fsdp {backend}", "end"):
        assert_close(end, alone)


def test_fsdp_takes_the_kernel_unasked(pair: Pair) -> None:
    assert_same(pair.both("fsdp auto", "end")[0], pair.both("fsdp numba", "end")[0])


@pytest.mark.parametrize("backend", worker.BACKENDS)
def test_fsdp_state_lies_as_its_parameter(pair: Pair, backend: str) -> None:
    for rank, result in enumerate(pair.ranks(f"fsdp {backend}")):
        layout = result["layout"]
        rows = [part["local"][0] for name, part in layout.items() if "/" not in name]
        assert rows == ([4, 4, 3, 3, 1, 1], [3, 3, 2, 2, 0, 0])[rank]
        states = {name: part for name, part in layout.items() if "/" in name}
        kinds = {name.rpartition("/")[2] for name in states}
        assert kinds == {"step", "square_avg", "grad_avg", "momentum_buffer"}
        for name, part in states.items():
            parameter = layout[name.partition("/")[0]]
            if not name.endswith("/step"):
                assert part == parameter, name


@pytest.mark.parametrize("clip", worker.CLIPS)
def test_fsdp_clips_by_the_norm_of_the_whole(pair: Pair, clip: str) -> None:
    model, _ = worker.alone()
    optimizer = rmsprop_torch.from_rule(model.parameters(), worker.clipping(clip))
    worker.train(model, optimizer, worker.STEPS)
    for end in pair.both(f"fsdp {clip}", "end"):
        assert_close(end, worker.snapshot(model, optimizer))


def test_fsdp_skips_an_overflow_on_every_rank(pair: Pair, alone: Tensors) -> None:
    """A GradScaler's step that one rank's shard overflows is a step of none."""
    for result in pair.ranks("fsdp scaled"):
        assert result["scale"] == 128.0
        assert_close(result["end"], alone)


def test_mixed_precision_trains(pair: Pair) -> None:
    """Forward and backward in bfloat16; the optimizer sees float32 alone."""
    for result in pair.ranks("mixed"):
        assert result["losses"][-1] < result["losses"][0] / 2
        assert {part["dtype"] for part in result["layout"].values()} == {torch.float32}
    pair.both("mixed", "end")


def test_zero_equals_one_process(pair: Pair, alone: Tensors) -> None:
    """In training, in the state that it gathers, and after another loaded that state."""
    whole = {name: x for name, x in alone.items() if "/" not in name}
    for trained in pair.both("zero", "trained"):
        assert_close(trained, whole)
    model, optimizer = worker.alone()
    worker.train(model, optimizer, worker.STEPS + worker.MORE)
    for end in pair.both("zero", "end"):
        assert_close(end, {name: p.detach() for name, p in worker.parameters(model).items()})


def test_what_zero_gathers_loads_in_one_process(pair: Pair, alone: Tensors) -> None:
    for result in pair.ranks("zero"):
        model, optimizer = worker.alone()
        with torch.no_grad():
            for name, p in worker.parameters(model).items():
                p.copy_(result["trained"][name])
        optimizer.load_state_dict(result["state"])
        assert_close(worker.snapshot(model, optimizer), alone)
        worker.train(model, optimizer, worker.MORE)
        assert_close(
            {name: p.detach() for name, p in worker.parameters(model).items()}, result["end"]
        )


# Checkpoints.


def test_a_checkpoint_goes_on_anywhere(pair: Pair) -> None:
    """Saved by one process or two, resumed by one or two: all end where one uninterrupted run does."""
    kind = "float64"
    end = pair.alone(kind)["end"]
    for by_pair in pair.ranks(f"checkpoint {kind}"):
        for run in by_pair.values():
            assert_close(run["end"], end)
    for flat in (False, True):
        assert_close(worker.resumed(pair.folder / "by two", kind, flat)["end"], end)


@pytest.mark.parametrize("kind", worker.CHECKPOINTS)
def test_a_resumed_run_has_the_same_bits(pair: Pair, kind: str) -> None:
    """On as many processes as before; the noise of state in few bits goes on too."""
    end = pair.both(f"checkpoint {kind}", "run", "end")[0]
    assert_same(pair.both(f"checkpoint {kind}", "from two", "end")[0], end)


@pytest.mark.parametrize("kind", ["bfloat16", "uint8"])
def test_few_bits_go_on_anywhere(pair: Pair, kind: str) -> None:
    """On another number of processes the noise is another; beside the way that is gone, it is small."""
    two = pair.ranks(f"checkpoint {kind}")[0]["run"]
    one = pair.alone(kind)
    name = "square_avg_code" if kind == "uint8" else "square_avg"
    for run in (one, two):
        assert run["saved"][f"0.weight/{name}"].dtype == getattr(torch, kind)
    resumed = worker.resumed(pair.folder / "by two", kind, False)["end"]
    assert_near(resumed, two["saved"], two["end"])
    for run in ("from one", "flat from one"):
        assert_near(pair.both(f"checkpoint {kind}", run, "end")[0], one["saved"], one["end"])


@pytest.mark.parametrize("kind", worker.CHECKPOINTS)
@pytest.mark.parametrize("run", ["from two", "from one", "flat from one"])
def test_two_processes_load_what_was_saved(pair: Pair, kind: str, run: str) -> None:
    by_pair = pair.both(f"checkpoint {kind}", "run", "saved")[0]
    saved = by_pair if run == "from two" else pair.alone(kind)["saved"]
    for loaded in pair.both(f"checkpoint {kind}", run, "loaded"):
        assert_same(loaded, saved)


@pytest.mark.parametrize("kind", worker.CHECKPOINTS)
@pytest.mark.parametrize("flat", [False, True])
def test_one_process_loads_what_two_saved(pair: Pair, kind: str, flat: bool) -> None:
    saved = pair.both(f"checkpoint {kind}", "run", "saved")[0]
    assert_same(worker.resumed(pair.folder / "by two", kind, flat)["loaded"], saved)


@pytest.mark.parametrize("case", ["vector", "columns"])
def test_state_loads_as_the_same_numbers_or_not_at_all(pair: Pair, case: str) -> None:
    """A vector of 2^20 elements, and a matrix cut along its rows: one byte for one process only."""
    by_two = pair.ranks(f"checkpoint {case}")
    found = [worker.lone_loaded(pair.folder / "by two", case)]
    found += [result["from one"] for result in by_two]
    saved = [by_two[0]["saved"], *[pair.alone(case)] * 2]
    for x, y in zip(found, saved, strict=True):
        if isinstance(x, str):
            assert "square_avg" in x
        else:
            assert_as_stored(x, y)


# One process: torch.save, and a fork.


@pytest.mark.parametrize("kind", worker.CHECKPOINTS)
def test_torch_save_round_trips(kind: str) -> None:
    """Through torch.load(weights_only=True): the same bits, and the same steps after them."""
    model, optimizer = worker.start(kind)
    worker.train(model, optimizer, worker.MORE)
    file = io.BytesIO()
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, file)
    file.seek(0)
    loaded = torch.load(file, weights_only=True)
    other, its = worker.start(kind, seed=9)
    other.load_state_dict(loaded["model"])
    its.load_state_dict(loaded["optimizer"])
    assert its.state_dict()["param_groups"] == optimizer.state_dict()["param_groups"]
    assert_same(worker.snapshot(other, its), worker.snapshot(model, optimizer))
    worker.train(model, optimizer, worker.MORE)
    worker.train(other, its, worker.MORE)
    assert_same(worker.snapshot(other, its), worker.snapshot(model, optimizer))


def test_a_forked_loader_steps(tmp_path: Path) -> None:
    """A dataset in a forked worker steps nets of its own and its parent's; the parent goes on."""
    output = run("fork", tmp_path, ranks=1)
    assert "exit code 0" in output[0], output[0]
    seen = torch.load(tmp_path / "fork.pt", weights_only=True)
    assert len(seen["items"]) == 2
    for item, parent in zip(seen["items"], seen["parent"], strict=True):
        for x, y in zip(item, seen["small"] + parent, strict=True):
            assert torch.equal(x, y)
