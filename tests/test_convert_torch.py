"""Optimizer state in PyTorch's files, stable-baselines3's and bitsandbytes': read, written, gone on from."""

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import needs
from rmsprop import Rule

torch = needs.package("torch")

from rmsprop.convert.checkpoint import Checkpoint  # noqa: E402
from rmsprop.convert.torch import files as torch_files  # noqa: E402
from rmsprop.convert.torch import lowbit, safetensors_files  # noqa: E402
from rmsprop.torch import RMSprop, from_rule, memory  # noqa: E402

NAMES = ["0.weight", "0.bias", "1.weight", "1.bias", "2.weight", "2.bias"]
STATE = {"v": "square_avg", "m": "grad_avg", "b": "momentum_buffer"}
ALL = {"momentum": 0.9, "centered": True, "weight_decay": 1e-3}


def network(seed: int = 0, dtype: Any = torch.float32) -> Any:
    torch.manual_seed(seed)
    layers = torch.nn.Linear(5, 7), torch.nn.BatchNorm1d(7), torch.nn.Linear(7, 3)
    return torch.nn.Sequential(*layers).to(dtype)


def train(model: Any, optimizer: Any, steps: int = 3, seed: int = 1) -> None:
    random = torch.Generator().manual_seed(seed)
    dtype = next(model.parameters()).dtype
    for _ in range(steps):
        optimizer.zero_grad()
        x = torch.randn(8, 5, generator=random, dtype=torch.float64).to(dtype)
        model(x).square().sum().backward()
        optimizer.step()


def trained(make: Any = torch.optim.RMSprop, dtype: Any = torch.float32, **options: Any) -> Any:
    model = network(dtype=dtype)
    optimizer = make(model.parameters(), **{"lr": 0.01, **options})
    train(model, optimizer)
    return model, optimizer


def same_bits(a: Any, b: Any) -> None:
    a, b = np.asarray(a), np.asarray(b)
    assert a.dtype == b.dtype
    assert a.shape == b.shape
    np.testing.assert_array_equal(
        a.view(np.uint8) if a.ndim else a, b.view(np.uint8) if b.ndim else b
    )


def goes_on(model: Any, optimizer: Any, state_dict: dict[str, Any], other: Any) -> None:
    """A copy of the model with another optimizer of this state makes the same steps, bit for bit."""
    twin = copy.deepcopy(model)
    second = other(twin.parameters())
    second.load_state_dict(state_dict)
    train(model, optimizer, 2, seed=2)
    train(twin, second, 2, seed=2)
    for p, q in zip(model.parameters(), twin.parameters(), strict=True):
        assert torch.equal(p, q)


def full(checkpoint: Checkpoint) -> Checkpoint:
    """As a translation leaves it: the groups tell all of their rules."""
    checkpoint.groups = [checkpoint.rule(k).to_dict() for k in range(len(checkpoint.groups))]
    return checkpoint


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
@pytest.mark.parametrize("options", [{}, ALL], ids=["plain", "all"])
@pytest.mark.parametrize("make", [torch.optim.RMSprop, RMSprop], ids=["torch", "ours"])
@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_a_state_dict_comes_back_bit_for_bit_and_goes_on(
    tmp_path: Path, make: Any, options: dict[str, Any], dtype: Any, legacy: bool
) -> None:
    model, optimizer = trained(make, dtype, **options)
    path = tmp_path / "optimizer.pt"
    torch.save(optimizer.state_dict(), path, _use_new_zipfile_serialization=not legacy)
    found = torch_files.read(path, {})
    whose = "torch" if make is torch.optim.RMSprop else ""  # ours tell the whole rule
    assert (found.kind, found.dialect, found.layout) == ("torch", whose, "torch")
    assert (found.step, found.named, list(found.entries)) == (3, False, [*"012345"])
    assert found.rule() == Rule.from_dialect("torch", lr=0.01, **options)
    for entry, state in zip(found.entries.values(), optimizer.state.values(), strict=True):
        assert {STATE[s] for s in entry.slots} == set(state) - {"step"}
        for slot, values in entry.slots.items():
            same_bits(values, state[STATE[slot]])
    torch_files.write(tmp_path / "new.pt", full(found))
    written = torch.load(tmp_path / "new.pt", weights_only=True)
    goes_on(model, optimizer, written, lambda ps: make(ps, lr=0.5))


@pytest.mark.parametrize("dialect", ["torch", "keras", "tf1", "optax", "timm", "sb3"])
def test_every_switch_of_our_groups_comes_back(tmp_path: Path, dialect: str) -> None:
    rule = Rule.from_dialect(dialect, lr=0.003, momentum=0.8, nesterov=True, weight_decay=0.01)
    model = network()
    optimizer = from_rule(model.parameters(), rule)
    train(model, optimizer)
    torch.save(optimizer.state_dict(), tmp_path / "a.pt")
    found = torch_files.read(tmp_path / "a.pt", {"lr": 7.0})
    assert (found.dialect, found.rule()) == ("", rule)
    goes_on(model, optimizer, torch_files.state_dict_of(found), lambda ps: from_rule(ps, rule))


KEYS = [
    ("model", "optimizer"),
    ("state_dict", "optimizer_states"),
    ("model_state_dict", "optimizer_state_dict"),
]


@pytest.mark.parametrize("keys", KEYS)
def test_a_training_checkpoint_names_its_state(tmp_path: Path, keys: tuple[str, str]) -> None:
    model, optimizer = trained(**ALL)
    state: Any = optimizer.state_dict()
    state = [state] if keys[1] == "optimizer_states" else state
    scheduler = {"base_lrs": [0.01], "last_epoch": 3}
    content = {"epoch": 3, keys[0]: model.state_dict(), keys[1]: state, "scheduler": scheduler}
    torch.save(content, tmp_path / "a.pt")
    found = torch_files.read(tmp_path / "a.pt", {})
    assert (list(found.entries), found.named) == (NAMES, True)
    assert set(found.left) == {
        "epoch",
        "scheduler",
        *(f"1.{n}" for n in ("running_mean", "running_var")),
    } | {"1.num_batches_tracked"}
    for name, p in model.named_parameters():
        same_bits(found.entries[name].value, p.detach())
        same_bits(found.entries[name].slots["v"], optimizer.state[p]["square_avg"])
    torch_files.write(tmp_path / "b.pt", full(found))
    again = torch_files.read(tmp_path / "b.pt", {})
    assert list(again.entries) == NAMES
    assert again.rule() == found.rule()
    for name in NAMES:
        same_bits(again.entries[name].value, found.entries[name].value)
        same_bits(again.entries[name].slots["m"], found.entries[name].slots["m"])


def test_a_model_alone_and_nothing_else(tmp_path: Path) -> None:
    model = network().bfloat16()
    torch.save(model.state_dict(), tmp_path / "a.pt")
    found = torch_files.read(tmp_path / "a.pt", {"lr": 0.1})
    assert (list(found.entries), found.groups, found.step) == (NAMES, [{"lr": 0.1}], None)
    for name, p in model.named_parameters():
        same_bits(found.entries[name].value, p.detach().float())
    safetensors = needs.package("safetensors.torch")
    safetensors.save_file(model.state_dict(), tmp_path / "a.safetensors", {"format": "pt"})
    other = safetensors_files.read(tmp_path / "a.safetensors", {"lr": 0.1})
    assert (sorted(NAMES), other.layout, set(other.left)) == (
        list(other.entries),
        "torch",
        set(found.left),
    )
    for name in NAMES:
        same_bits(other.entries[name].value, found.entries[name].value)


def test_groups_with_their_own_rates_names_and_tensors(tmp_path: Path) -> None:
    model = network()
    named = dict(model.named_parameters())
    weights = [(n, p) for n, p in named.items() if n.endswith("weight")]
    biases = [(n, p) for n, p in named.items() if n.endswith("bias")]
    rate = torch.tensor(0.25)
    groups = [{"params": weights, "lr": rate}, {"params": biases, "lr": 0.5, "alpha": 0.9}]
    optimizer = torch.optim.RMSprop(groups, capturable=False, foreach=False)
    named["1.bias"].requires_grad_(False)  # never updated
    train(model, optimizer)
    torch.save(
        {"model": model.state_dict(), "optimizer": optimizer.state_dict()}, tmp_path / "a.pt"
    )
    found = torch_files.read(tmp_path / "a.pt", {})
    assert list(found.entries) == [n for n, _ in (*weights, *biases)]
    assert found.named
    assert [(r.lr, r.decay) for r in map(found.rule, (0, 1))] == [(0.25, 0.99), (0.5, 0.9)]
    assert [entry.group for entry in found.entries.values()] == [0, 0, 0, 1, 1, 1]
    assert not found.entries["1.bias"].slots
    assert "1.bias" in " ".join(found.notes)
    for name, p in named.items():
        same_bits(found.entries[name].value, p.detach())
    torch_files.write(tmp_path / "b.pt", full(found))
    again = torch_files.read(tmp_path / "b.pt", {})
    assert list(again.entries) == list(found.entries)
    assert again.named
    state = torch.load(tmp_path / "b.pt", weights_only=True)["optimizer_state_dict"]
    parts = [[p for _, p in part] for part in (weights, biases)]
    twin = torch.optim.RMSprop([{"params": part} for part in parts], foreach=False)
    twin.load_state_dict(state)
    assert [g["lr"] for g in twin.param_groups] == [0.25, 0.5]
    for p, s in optimizer.state.items():
        assert torch.equal(twin.state[p]["square_avg"], s["square_avg"])


def test_groups_without_names_are_matched_only_where_shapes_are_certain(tmp_path: Path) -> None:
    model = torch.nn.Sequential(*(torch.nn.Linear(5, 5) for _ in range(2)))
    groups = [{"params": part.parameters()} for part in reversed(model)]
    optimizer = torch.optim.RMSprop(groups)
    train(model, optimizer)
    torch.save(
        {"model": model.state_dict(), "optimizer": optimizer.state_dict()}, tmp_path / "a.pt"
    )
    found = torch_files.read(tmp_path / "a.pt", {})
    assert not found.named
    assert "several groups without names" in " ".join(found.notes)
    assert list(found.entries) == [*"0123"]
    assert found.entries["0"].value is None
    model = network()
    named = dict(model.named_parameters())
    parts = [[named[n] for n in names] for names in (NAMES[4:], NAMES[:2])]
    optimizer = torch.optim.RMSprop([{"params": part} for part in parts])
    train(model, optimizer)
    content = {k: p for k, p in model.state_dict().items() if not k.startswith("1.")}
    torch.save({"model": content, "optimizer": optimizer.state_dict()}, tmp_path / "b.pt")
    found = torch_files.read(tmp_path / "b.pt", {})
    assert found.named
    assert list(found.entries) == [*NAMES[4:], *NAMES[:2]]


def test_tied_weights_are_one_parameter(tmp_path: Path) -> None:
    model = torch.nn.Sequential(torch.nn.Linear(5, 5, bias=False), torch.nn.Linear(5, 5))
    model[1].weight = model[0].weight
    optimizer = torch.optim.RMSprop(model.parameters())
    train(model, optimizer)
    torch.save(
        {"model": model.state_dict(), "optimizer": optimizer.state_dict()}, tmp_path / "a.pt"
    )
    found = torch_files.read(tmp_path / "a.pt", {})
    assert list(found.entries) == ["0.weight", "1.bias"]
    assert found.left == {"1.weight": "the same tensor as 0.weight"}


def test_a_model_of_other_shapes_does_not_name_the_state(tmp_path: Path) -> None:
    optimizer = trained()[1]
    model = {f"w{k}": torch.ones(3, 2) for k in range(6)}
    torch.save({"model": model, "optimizer": optimizer.state_dict()}, tmp_path / "a.pt")
    found = torch_files.read(tmp_path / "a.pt", {})
    assert list(found.entries) == [*"012345"]
    assert set(found.left) == set(model)
    assert "could not be matched" in " ".join(found.notes)


def test_names_in_groups_do_not_hinder_an_optimizer_without(tmp_path: Path) -> None:
    model, optimizer = trained()
    found = torch_files.of_state_dict(optimizer.state_dict(), names=NAMES)
    state = torch_files.state_dict_of(found)
    assert state["param_groups"][0]["param_names"] == NAMES
    goes_on(model, optimizer, state, lambda ps: torch.optim.RMSprop(ps))
    for name, p in model.named_parameters():
        found.entries[name].value = p.detach().numpy()
    state = torch_files.state_dict_of(found)  # the file's model tells the names
    assert "param_names" not in state["param_groups"][0]
    second = torch.optim.RMSprop(model.parameters())
    second.load_state_dict(state)
    second.add_param_group({"params": [torch.zeros(2)]})


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.uint8], ids=["bfloat16", "uint8"])
def test_our_low_bit_state_is_read_exactly(tmp_path: Path, kind: Any) -> None:
    torch.manual_seed(0)
    shapes = [(65, 300), (5000,), (64, 80)]
    ps = [torch.nn.Parameter(torch.randn(*shape)) for shape in shapes]
    last = torch.randn(8, 16, 7, 7).to(memory_format=torch.channels_last)
    ps += [torch.nn.Parameter(last), torch.nn.Parameter(torch.randn(90, 70).T)]
    optimizer = RMSprop(ps, lr=0.01, momentum=0.5, state_dtype=kind, stochastic_rounding=True)
    for _ in range(3):
        for p in ps:
            p.grad = torch.randn_like(p) * 10.0 ** torch.randint(-9, 3, p.shape)
        optimizer.step()
    torch.save(optimizer.state_dict(), tmp_path / "a.pt")
    found = torch_files.read(tmp_path / "a.pt", {})
    coded = 0
    for entry, p in zip(found.entries.values(), ps, strict=True):
        state = optimizer.state[p]
        stored: Any = memory.kept(state, "v")
        exponents = state.get("square_avg_exponent")
        coded += exponents is not None
        same_bits(entry.slots["v"], memory.load(stored, torch.float32, exponents).contiguous())
        same_bits(entry.slots["b"], state["momentum_buffer"].float().contiguous())
    assert coded == (4 if kind == torch.uint8 else 0)
    assert ("one byte" in " ".join(found.notes)) == (kind == torch.uint8)


def test_codes_of_another_layout_are_refused() -> None:
    codes = np.zeros((8, 512), np.uint8)
    for exponents in (np.zeros((8, 3), np.uint8), np.zeros((8, 2, 1), np.uint8)):
        with pytest.raises(ValueError, match=r"take exponents of the shape \(8, 2\)"):
            lowbit.decode(codes, exponents)
    with pytest.raises(ValueError, match="never writes"):
        lowbit.decode(codes + 249, np.zeros((8, 2), np.uint8))
    assert lowbit.decode(codes[:0], np.zeros((0, 2), np.uint8)).shape == (0, 512)
