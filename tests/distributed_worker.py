"""What test_torch_distributed.py runs in processes of its own, and the pieces that it shares with them.

    python distributed_worker.py pair FOLDER RANK     every case of CASES, as one of two ranks
    python distributed_worker.py fork FOLDER          a training run that forks after its first steps

A case returns tensors and plain values, written to FOLDER/<case>.<rank>.pt; one that raises leaves its
traceback in FOLDER/<case>.<rank>.txt.  Each case has a process group of its own, so that one that fails
takes no other with it, and a rank that waits for one that failed is told at once.
"""

import faulthandler
import gc
import itertools
import math
import os
import sys
import traceback
import warnings
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import needs
from rmsprop import Rule

torch = needs.package("torch")
dist = needs.package("torch.distributed")
optimizers = needs.package("rmsprop.torch")

LIMIT = 200
"""Seconds after which a process writes where it hangs and ends."""
STEPS, MORE = 20, 5
SMALL = (3, 7, 5, 1)
"""Widths of a net whose weights are (7, 3), (5, 7) and (1, 5): two ranks get unequal shards, and none."""
LARGE = (100, 64, 300, 33, 5, 4100, 1)
"""Widths of a net that is large enough for state in few bits: (64, 100), (33, 300), (1, 4100), (4100,)."""
HYPER: dict[str, Any] = {
    "lr": 0.01, "alpha": 0.9, "eps": 1e-4, "momentum": 0.9, "centered": True, "weight_decay": 0.01,
}  # fmt: skip
BACKENDS = ("auto", "numba", "foreach")
CLIPS = ("clip_norm", "clip_global_norm")
CHECKPOINTS: dict[str, tuple[Any, dict[str, Any]]] = {
    "float64": (torch.float64, {}),
    "bfloat16": (torch.float32, {"state_dtype": torch.bfloat16}),
    "uint8": (torch.float32, {"state_dtype": torch.uint8}),
}
"""By name: the dtype of the parameters, and the options of the optimizer that is saved."""
PLACED: dict[str, tuple[tuple[int, ...], int]] = {
    "vector": ((1 << 20,), 0),
    "columns": ((64, 128), 1),
}
"""By name: the shape of a lone parameter, large enough for one byte, and the dimension that is sharded."""

Plain = dict[str, Any]
Net = Any
Optimizer = Any


# The task, and what is looked at after it.


def net(widths: tuple[int, ...], dtype: Any, seed: int = 0) -> Net:
    """Linear layers with tanh between them, the same in every process."""
    torch.manual_seed(seed)
    layers: list[Any] = []
    for a, b in itertools.pairwise(widths):
        layers += [torch.nn.Linear(a, b, dtype=dtype), torch.nn.Tanh()]
    return torch.nn.Sequential(*layers[:-1])


def batch(model: Net, rank: int | None = None) -> tuple[Any, Any]:
    """Eight examples for a net of that input and dtype, or the half that a rank gets."""
    weight = next(model.parameters())
    source = torch.Generator().manual_seed(1)
    x = torch.randn(8, weight.shape[1], generator=source, dtype=torch.float64).to(weight.dtype)
    y = x.sum(1, keepdim=True).sin()
    return (x, y) if rank is None else (x[4 * rank : 4 * rank + 4], y[4 * rank : 4 * rank + 4])


def train(model: Net, optimizer: Optimizer, steps: int, rank: int | None = None) -> list[float]:
    """Take that many steps on the batch, or on a rank's half of it; the loss before each."""
    x, y = batch(model, rank)
    losses: list[float] = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = (model(x) - y).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def full(value: Any) -> Any:
    """A copy of a tensor; of a sharded one, the whole."""
    value = value.detach()
    return (value.full_tensor() if hasattr(value, "full_tensor") else value).clone()


def parameters(model: Net) -> dict[str, Any]:
    """The parameters under the names that they have without DDP."""
    return {name.removeprefix("module."): p for name, p in model.named_parameters()}


def snapshot(model: Net, optimizer: Optimizer) -> dict[str, Any]:
    """Every parameter ("0.weight") and tensor of state ("0.weight/square_avg"), in full.

    Where v is one byte, also the numbers that this rank's codes stand for ("0.weight/decoded").
    """
    seen = {name: full(p) for name, p in parameters(model).items()}
    for name, p in parameters(model).items():
        state = optimizer.state[p]
        seen |= {f"{name}/{key}": full(value) for key, value in state.items()}
        if "square_avg_exponent" in state:
            seen[f"{name}/decoded"] = full(
                decoded(state["square_avg_code"], state["square_avg_exponent"])
            )
    return seen


def decoded(codes: Any, exponents: Any) -> Any:
    """What codes of one byte stand for, by the formula in `rmsprop.kernels.formats`; sharded as they are."""
    if hasattr(codes, "to_local"):
        kind = needs.package("torch.distributed.tensor").DTensor
        part = decoded(codes.to_local(), exponents.to_local())
        lie = {"shape": codes.shape, "stride": codes.stride()}
        return kind.from_local(part, codes.device_mesh, codes.placements, run_check=False, **lie)
    rows = codes.shape[0] if codes.dim() > 1 else 1
    if not codes.numel():
        return codes.float()
    above = 8 * (exponents.int() - 30).clamp(min=0).reshape(rows, -1).repeat_interleave(256, dim=1)
    wide = codes.int().reshape(rows, -1)
    bits = (wide + above[:, : wide.shape[1]]) << 20
    return bits.view(torch.float32).reshape(codes.shape)


def clipping(clip: str) -> Rule:
    """A rule that clips the gradients by their norms, low enough to clip all of them always."""
    return Rule.from_dialect("torch", lr=0.01, momentum=0.9, decay=0.9, eps=1e-4, **{clip: 1e-3})


def alone() -> tuple[Net, Optimizer]:
    """The small net and its optimizer in one process: what the others are to equal."""
    model = net(SMALL, torch.float64)
    return model, optimizers.RMSprop(model.parameters(), **HYPER)


# Checkpoints, in any number of processes.


def options_of(flat: bool) -> Any:
    return state_dicts().StateDictOptions(flatten_optimizer_state_dict=flat)


def checkpoints() -> Any:
    return needs.package("torch.distributed.checkpoint")


def state_dicts() -> Any:
    return needs.package("torch.distributed.checkpoint.state_dict")


def save(folder: Path, model: Net, optimizer: Optimizer, flat: bool = False) -> None:
    """Write a distributed checkpoint of both."""
    pair = state_dicts().get_state_dict(model, optimizer, options=options_of(flat))
    state = {"model": pair[0], "optimizer": pair[1]}
    checkpoints().save(state, checkpoint_id=folder)


def load(folder: Path, model: Net, optimizer: Optimizer, flat: bool = False) -> None:
    """Go on from a checkpoint that any number of processes wrote."""
    pair = state_dicts().get_state_dict(model, optimizer, options=options_of(flat))
    state = {"model": pair[0], "optimizer": pair[1]}
    checkpoints().load(state, checkpoint_id=folder)
    state_dicts().set_state_dict(
        model,
        optimizer,
        model_state_dict=state["model"],
        optim_state_dict=state["optimizer"],
        options=options_of(flat),
    )


def start(kind: str, seed: int = 0) -> tuple[Net, Optimizer]:
    """The net and the optimizer of that checkpoint; sharded where there is a process group."""
    dtype, options = CHECKPOINTS[kind]
    model = net(LARGE, dtype, seed)
    if dist.is_initialized():
        shard(model)
    return model, optimizers.RMSprop(model.parameters(), **HYPER | {"lr": 1e-4}, **options)


def uninterrupted(folder: Path, kind: str, rank: int | None = None) -> Plain:
    """Train, save in two forms, train on: the snapshots at the save and at the end."""
    model, optimizer = start(kind)
    train(model, optimizer, MORE, rank)
    for flat in (False, True):
        save(folder / f"{kind}-{flat}", model, optimizer, flat)
    saved = snapshot(model, optimizer)
    train(model, optimizer, MORE, rank)
    return {"saved": saved, "end": snapshot(model, optimizer)}


def resumed(folder: Path, kind: str, flat: bool, rank: int | None = None) -> Plain:
    """Load into a net that started elsewhere, train on: the snapshots after both."""
    model, optimizer = start(kind, seed=9)
    load(folder / f"{kind}-{flat}", model, optimizer, flat)
    loaded = snapshot(model, optimizer)
    train(model, optimizer, MORE, rank)
    return {"loaded": loaded, "end": snapshot(model, optimizer)}


def lone(kind: str) -> tuple[Net, Optimizer]:
    """A module of one parameter, and its optimizer with one byte for v, after no step."""
    shape, dim = PLACED[kind]
    model = torch.nn.Module()
    values = torch.linspace(-1, 1, math.prod(shape)).reshape(shape)
    model.register_parameter("weight", torch.nn.Parameter(values))
    if dist.is_initialized():
        placement = needs.package("torch.distributed.tensor").Shard(dim)
        sharded = needs.package("torch.distributed.fsdp").fully_shard
        sharded(model, mesh=mesh(), shard_placement_fn=lambda p: placement)
    return model, optimizers.RMSprop(model.parameters(), state_dtype=torch.uint8)


def lone_saved(folder: Path, kind: str) -> Any:
    """Step a lone parameter once and save it; v, as numbers."""
    model, optimizer = lone(kind)
    model.weight.grad = model.weight.detach().clone()
    optimizer.step()
    save(folder / kind, model, optimizer)
    return second_moment(model, optimizer)


def lone_loaded(folder: Path, kind: str) -> Any:
    """Load a lone parameter; v, as numbers, or what was said where it could not be loaded."""
    model, optimizer = lone(kind)
    try:
        load(folder / kind, model, optimizer)
    except (Exception, checkpoints().CheckpointException) as error:  # a BaseException
        return f"{type(error).__name__}: {error}"
    return second_moment(model, optimizer)


def second_moment(model: Net, optimizer: Optimizer) -> Any:
    seen = snapshot(model, optimizer)
    return seen["weight/decoded"] if "weight/decoded" in seen else seen["weight/square_avg"]


# The cases of two processes.


def mesh() -> Any:
    return needs.package("torch.distributed.device_mesh").init_device_mesh("cpu", (2,))


def shard(model: Net, **options: Any) -> None:
    """Shard each layer over both ranks, along dimension 0."""
    ranks = mesh()
    fully_shard = needs.package("torch.distributed.fsdp").fully_shard
    for layer in model:
        if list(layer.parameters()):
            fully_shard(layer, mesh=ranks, **options)
    fully_shard(model, mesh=ranks, **options)


def layout(model: Net, optimizer: Optimizer) -> dict[str, Plain]:
    """How each parameter and each tensor of its state lies on this rank."""
    kind = needs.package("torch.distributed.tensor").DTensor

    def of(value: Any, p: Any) -> Plain:
        sharded = isinstance(value, kind)
        return {
            "sharded": sharded,
            "as parameter": sharded
            and (value.placements, value.device_mesh) == (p.placements, p.device_mesh),
            "shape": list(value.shape),
            "local": list(value.to_local().shape) if sharded else None,
            "dtype": value.dtype,
        }

    seen: dict[str, Plain] = {}
    for name, p in parameters(model).items():
        seen[name] = of(p, p)
        seen |= {f"{name}/{key}": of(value, p) for key, value in optimizer.state[p].items()}
    return seen


def ddp(folder: Path, rank: int) -> Plain:
    model = torch.nn.parallel.DistributedDataParallel(net(SMALL, torch.float64))
    optimizer = optimizers.RMSprop(model.parameters(), **HYPER)
    train(model, optimizer, STEPS, rank)
    return {"end": snapshot(model, optimizer)}


def ddp_few(folder: Path, rank: int) -> Plain:
    """State in few bits, whose rounding draws the same on both ranks."""
    model = torch.nn.parallel.DistributedDataParallel(net(LARGE, torch.float32))
    options = CHECKPOINTS["uint8"][1]
    optimizer = optimizers.RMSprop(model.parameters(), **HYPER | {"lr": 1e-4}, **options)
    train(model, optimizer, MORE, rank)
    return {"end": snapshot(model, optimizer)}


def fsdp(backend: str) -> Callable[[Path, int], Plain]:
    def case(folder: Path, rank: int) -> Plain:
        model = net(SMALL, torch.float64)
        shard(model)
        optimizer = optimizers.RMSprop(model.parameters(), **HYPER, backend=backend)
        train(model, optimizer, STEPS, rank)
        return {"end": snapshot(model, optimizer), "layout": layout(model, optimizer)}

    return case


def fsdp_clip(clip: str) -> Callable[[Path, int], Plain]:
    def case(folder: Path, rank: int) -> Plain:
        model = net(SMALL, torch.float64)
        shard(model)
        optimizer = optimizers.from_rule(model.parameters(), clipping(clip))
        train(model, optimizer, STEPS, rank)
        return {"end": snapshot(model, optimizer)}

    return case


def scaled(folder: Path, rank: int) -> Plain:
    """Under a GradScaler, with one step whose gradient overflows in the second rank's shard alone."""
    model = net(SMALL, torch.float64)
    shard(model)
    optimizer = optimizers.RMSprop(model.parameters(), fused=True, **HYPER)
    scaler = torch.amp.GradScaler("cpu", init_scale=256.0)
    x, y = batch(model, rank)
    for k in range(STEPS + 1):
        optimizer.zero_grad()
        scaler.scale((model(x) - y).square().mean()).backward()
        if k == 3 and rank == 1:
            next(model.parameters()).grad.to_local()[0, 0] = float("inf")
        scaler.step(optimizer)
        scaler.update()
    return {"end": snapshot(model, optimizer), "scale": scaler.get_scale()}


def mixed(folder: Path, rank: int) -> Plain:
    """Forward and backward in bfloat16, parameters and state in float32."""
    policy = needs.package("torch.distributed.fsdp").MixedPrecisionPolicy(
        param_dtype=torch.bfloat16, output_dtype=torch.float32
    )
    model = net(SMALL, torch.float32)
    shard(model, mp_policy=policy)
    optimizer = optimizers.RMSprop(model.parameters(), lr=0.01)
    losses = train(model, optimizer, 2 * STEPS, rank)
    return {
        "losses": losses,
        "end": snapshot(model, optimizer),
        "layout": layout(model, optimizer),
    }


def zero(folder: Path, rank: int) -> Plain:
    """Train under ZeroRedundancyOptimizer, consolidate, and go on in another that loads it."""

    def wrapped(model: Net) -> Optimizer:
        return needs.package("torch.distributed.optim").ZeroRedundancyOptimizer(
            model.parameters(), optimizer_class=optimizers.RMSprop, **HYPER
        )

    model = torch.nn.parallel.DistributedDataParallel(net(SMALL, torch.float64))
    optimizer = wrapped(model)
    train(model, optimizer, STEPS, rank)
    trained = {name: full(p) for name, p in parameters(model).items()}
    whole: Plain = {}
    for to in (0, 1):
        optimizer.consolidate_state_dict(to=to)
        if rank == to:
            whole = optimizer.state_dict()
    # A state dict shares its tensors with the optimizer, as those of torch.optim do.
    kept = {k: {key: full(x) for key, x in s.items()} for k, s in whole["state"].items()}
    other = wrapped(model)
    other.load_state_dict(whole)
    train(model, other, MORE, rank)
    return {
        "trained": trained,
        "state": {"state": kept, "param_groups": whole["param_groups"]},
        "end": {name: full(p) for name, p in parameters(model).items()},
    }


def checkpoint(kind: str) -> Callable[[Path, int], Plain]:
    def case(folder: Path, rank: int) -> Plain:
        return {
            "run": uninterrupted(folder / "by two", kind, rank),
            "from two": resumed(folder / "by two", kind, False, rank),
            "from one": resumed(folder / "by one", kind, False, rank),
            "flat from one": resumed(folder / "by one", kind, True, rank),
        }

    return case


def placed(kind: str) -> Callable[[Path, int], Plain]:
    def case(folder: Path, rank: int) -> Plain:
        return {
            "saved": lone_saved(folder / "by two", kind),
            "from one": lone_loaded(folder / "by one", kind),
        }

    return case


CASES: dict[str, Callable[[Path, int], Plain]] = {
    "ddp": ddp,
    "ddp uint8": ddp_few,
    **{f"fsdp {backend}": fsdp(backend) for backend in BACKENDS},
    **{f"fsdp {clip}": fsdp_clip(clip) for clip in CLIPS},
    "fsdp scaled": scaled,
    "mixed": mixed,
    "zero": zero,
    **{f"checkpoint {kind}": checkpoint(kind) for kind in CHECKPOINTS},
    **{f"checkpoint {kind}": placed(kind) for kind in PLACED},
}


# The processes.


def pair(folder: Path, rank: int) -> None:
    """Run every case as one of two ranks."""
    torch.set_num_threads(1)
    gc.freeze()  # all that is imported, so that to collect the rest is quick
    for name, case in CASES.items():
        stem = name.replace(" ", "-")
        dist.init_process_group(
            "gloo",
            init_method=f"file://{folder}/{stem}.meeting",
            rank=rank,
            world_size=2,
            timeout=timedelta(seconds=20),
        )
        try:
            torch.save(case(folder, rank), folder / f"{stem}.{rank}.pt")
        except BaseException:  # as torch's CheckpointException is
            (folder / f"{stem}.{rank}.txt").write_text(traceback.format_exc())
        finally:
            dist.destroy_process_group()
            gc.collect()  # what holds on to the group, so that a rank that waits in it is told


def push(model: Net, optimizer: Optimizer, threads: int) -> None:
    """A step on that many threads, with gradients whose bits no number of threads changes."""
    for p in model.parameters():
        p.grad = 3 * p.detach()
    torch.set_num_threads(threads)
    optimizer.step()
    torch.set_num_threads(1)


class Stepping(torch.utils.data.Dataset):
    """A dataset whose items are the parameters of a net that it trains, and that of its parent."""

    def __init__(self, model: Net, optimizer: Optimizer):
        self.parents = model, optimizer

    def __len__(self) -> int:
        return 2

    def __getitem__(self, k: int) -> list[Any]:
        model, optimizer = alone()
        train(model, optimizer, MORE)
        push(*self.parents, threads=1 + k)  # a loader's own number, and that of a bare fork
        return [full(p) for p in (*model.parameters(), *self.parents[0].parameters())]


def fork(folder: Path) -> None:
    """Step on two threads, fork a loader whose items are steps, and go on stepping."""
    torch.set_num_threads(1)
    model = net((600, 1000), torch.float32)  # large enough that a step is worth two threads
    optimizer = optimizers.RMSprop(model.parameters(), **HYPER)
    push(model, optimizer, threads=2)
    loader = torch.utils.data.DataLoader(
        Stepping(model, optimizer),
        batch_size=None,
        num_workers=1,
        multiprocessing_context="fork",
        timeout=30,
    )
    layer = needs.package("numba").threading_layer()  # raises if one thread did it all
    items = list(loader)
    ours = []
    for _ in items:
        push(model, optimizer, threads=2)
        ours.append([full(p) for p in model.parameters()])
    small, its = alone()
    train(small, its, MORE)
    torch.save(
        {
            "items": items,
            "layer": layer,
            "parent": ours,
            "small": [full(p) for p in small.parameters()],
        },
        folder / "fork.pt",
    )


def main(role: str, folder: str, rank: str = "0") -> None:
    faulthandler.dump_traceback_later(LIMIT, exit=True)
    warnings.filterwarnings("error", module=r"rmsprop\b")
    if role == "pair":
        pair(Path(folder), int(rank))
    else:
        fork(Path(folder))


if __name__ == "__main__":
    # Nothing leaves the machine.
    os.environ["GLOO_SOCKET_IFNAME"] = "lo0" if sys.platform == "darwin" else "lo"
    main(*sys.argv[1:])
