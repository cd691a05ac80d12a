"""Optimizer state in PyTorch's files, stable-baselines3's and bitsandbytes': read, written, gone on from."""

import argparse
import copy
import struct
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import needs
from rmsprop import Rule

torch = needs.package("torch")

from rmsprop.convert.checkpoint import Checkpoint, Entry  # noqa: E402
from rmsprop.convert.torch import bitsandbytes, lowbit, safetensors_files  # noqa: E402
from rmsprop.convert.torch import files as torch_files  # noqa: E402
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


def old_groups(optimizer: Any) -> dict[str, Any]:
    """A state dict as PyTorch before 1.12 and stable-baselines3 write it."""
    state = optimizer.state_dict()
    names = ("lr", "momentum", "alpha", "eps", "centered", "weight_decay", "params")
    state["param_groups"] = [{k: g[k] for k in names} for g in state["param_groups"]]
    for entry in state["state"].values():
        entry["step"] = int(entry["step"])
    return state


def test_whose_groups_without_torchs_keys_are() -> None:
    theirs = sb3_class()
    model, optimizer = trained(theirs)
    found = torch_files.of_state_dict(optimizer.state_dict())
    assert found.dialect == "sb3"
    assert "RMSpropTFLike" in found.notes[0]
    assert found.rule() == Rule.from_dialect("sb3")
    state = torch_files.state_dict_of(full(found))
    assert state["param_groups"][0].keys() == optimizer.state_dict()["param_groups"][0].keys()
    assert state["state"][0]["step"] == 3
    assert isinstance(state["state"][0]["step"], int)
    goes_on(model, optimizer, state, theirs)
    found = torch_files.of_state_dict(old_groups(trained()[1]))
    assert found.dialect == "torch"
    assert "1.12" in found.notes[0]
    optimizer = trained(theirs)[1]
    for entry in optimizer.state.values():
        entry["step"] = 100_000
    found = torch_files.of_state_dict(optimizer.state_dict())
    assert found.dialect == ""
    assert "name whose it is" in found.notes[0]
    with pytest.raises(ValueError, match="does not say whose RMSprop"):
        found.rule()


def test_timms_groups() -> None:
    """timm.optim.RMSpropTF's state dict, by hand: its own keys beside PyTorch's old ones."""
    state = old_groups(trained(momentum=0.9)[1])
    for group in state["param_groups"]:
        group |= {"decoupled_decay": True, "lr_in_momentum": False}
    found = torch_files.of_state_dict(state)
    rule = found.rule()
    assert found.dialect == "timm"
    assert (rule.decoupled_weight_decay, rule.lr_in_momentum) == (
        True,
        False,
    )
    assert rule.eps_in_sqrt
    assert rule.initial_scale == 1
    again = torch_files.state_dict_of(full(found))
    assert again["param_groups"] == state["param_groups"]


def sb3_class() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        # Its TensorBoard would load TensorFlow, whose LLVM cannot be in a process with Numba's.
        patch.setitem(sys.modules, "tensorflow", None)
        name = "stable_baselines3.common.sb2_compat.rmsprop_tf_like"
        return needs.package(name).RMSpropTFLike


@pytest.mark.parametrize("theirs", [False, True], ids=["torch", "sb3"])
def test_stable_baselines_goes_on_from_a_copy(tmp_path: Path, theirs: bool) -> None:
    """A2C, discrete and continuous: the copy holds the same bits, and learns on to the same bits."""
    own = sb3_class()  # first, for what it leaves out
    from rmsprop.convert.torch import sb3

    a2c = needs.package("stable_baselines3").A2C
    environment = "Pendulum-v1" if theirs else "CartPole-v1"
    kwargs = {"optimizer_class": own, "optimizer_kwargs": {"alpha": 0.98, "eps": 1e-5}}
    model = a2c(
        "MlpPolicy", environment, seed=0, device="cpu", policy_kwargs=kwargs if theirs else None
    )
    model.learn(60)
    source, target = tmp_path / "a.zip", tmp_path / "b.zip"
    model.save(source)
    found = sb3.read(source, {})
    names = [name for name, _ in model.policy.named_parameters()]
    assert (found.kind, found.dialect) == ("sb3", "sb3" if theirs else "torch")
    assert (list(found.entries), found.step, found.named) == (names, 12, True)
    assert found.rule() == Rule.from_dialect(
        found.dialect, lr=7e-4, decay=0.98 if theirs else 0.99, eps=1e-5
    )
    for name, p in model.policy.named_parameters():
        same_bits(found.entries[name].value, p.detach())
        same_bits(found.entries[name].slots["v"], model.policy.optimizer.state[p]["square_avg"])
    sb3.write(target, full(found), source)
    assert sb3.read(target, {}).rule() == found.rule()
    ends = []
    for path in (source, target):
        again = a2c.load(path, env=model.get_env(), device="cpu")
        again.set_random_seed(3)
        again.learn(40, reset_num_timesteps=True)
        ends.append([p.detach().clone() for p in again.policy.parameters()])
    for p, q in zip(*ends, strict=True):
        assert torch.equal(p, q)
    before = target.read_bytes()
    found.groups[0] |= {"momentum": 0.9, "lr_in_momentum": True}
    refusals: list[tuple[Any, str]] = [
        (source, "does not compute Rule"),
        (None, "--like MODEL.zip"),
    ]
    for like, message in refusals:
        with pytest.raises(ValueError, match=message):
            sb3.write(target, found, like)
    found.groups[0] |= {"momentum": 0.0, "lr_in_momentum": False}
    found.entries.pop(names[0])
    with pytest.raises(ValueError, match="its policy has other parameters"):
        sb3.write(target, found, source)
    assert target.read_bytes() == before
    assert sorted(tmp_path.iterdir()) == [source, target]


def of_bitsandbytes(block: int, wrapped: bool) -> tuple[dict[str, Any], list[Any]]:
    """The state of its RMSprop8bit, laid out by hand from its source, and the numbers that it stands for."""
    rng = np.random.default_rng(0)
    qmap = torch.from_numpy(bitsandbytes.dynamic_map())
    state, values = {}, []
    for k, shape in enumerate([(65, 100), (5,)]):
        entry: dict[str, Any] = {"step": 4}
        if k:
            small = rng.random(shape).astype(np.float32)
            tensors = {"state1": torch.from_numpy(small)}
            values.append(small)
        else:
            codes = rng.integers(127, 256, shape).astype(np.uint8)
            scales = rng.random(-(-codes.size // block)).astype(np.float32)
            tensors = {
                "state1": torch.from_numpy(codes),
                "qmap1": qmap,
                "absmax1": torch.from_numpy(scales),
            }
            flat = [qmap.numpy()[c] * scales[i // block] for i, c in enumerate(codes.reshape(-1))]
            values.append(np.array(flat, np.float32).reshape(shape))
        state[k] = entry | ({"__bnb_optimizer_quant_state__": tensors} if wrapped else tensors)
    group = {"lr": 0.01, "betas": (0.95, 0.5), "eps": 1e-6, "weight_decay": 0.1, "params": [0, 1]}
    return {"state": state, "param_groups": [group]}, values


@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize("block", [256, 2048])
def test_bitsandbytes_state(tmp_path: Path, block: int, wrapped: bool) -> None:
    state, values = of_bitsandbytes(block, wrapped)
    torch.save(state, tmp_path / "a.pt")
    found = bitsandbytes.read(tmp_path / "a.pt", {})
    assert (found.kind, found.dialect, found.step) == ("bitsandbytes", "torch", 4)
    assert found.rule() == Rule.from_dialect(
        "torch", lr=0.01, decay=0.95, eps=1e-6, weight_decay=0.1
    )
    assert "ignores it" in " ".join(found.notes)
    for entry, v in zip(found.entries.values(), values, strict=True):
        same_bits(entry.slots["v"], v)


def test_bitsandbytes_codes_are_the_nearest_and_come_back(tmp_path: Path) -> None:
    """Each number is within half a step of the map; what was stored once is stored the same again."""
    rng = np.random.default_rng(0)
    v = (rng.random((70, 100)) * 10.0 ** rng.integers(-6, 1, (70, 100))).astype(np.float32)
    v[3:6] = 0
    entries = {"w": Entry({"v": v}), "b": Entry({"v": v[0, :5].copy()}), "new": Entry()}
    made = full(Checkpoint("torch", "torch", [{"lr": 0.1}], entries, 9))
    bitsandbytes.write(tmp_path / "a.pt", made)
    found = bitsandbytes.read(tmp_path / "a.pt", {})
    assert list(found.entries) == ["w", "b", "new"]
    assert found.step == 9
    assert found.rule() == made.rule()
    same_bits(found.entries["b"].slots["v"], entries["b"].slots["v"])
    stored = found.entries["w"].slots["v"]
    qmap = bitsandbytes.dynamic_map().astype(np.float64)
    for i in range(0, v.size, 256):
        block, kept = v.reshape(-1)[i : i + 256], stored.reshape(-1)[i : i + 256]
        nearest = np.abs(block[:, None] / max(block.max(), 1e-30) - qmap).min(axis=1) * block.max()
        assert np.abs(kept - block.astype(np.float64)).max() <= nearest.max() * (1 + 1e-5) + 1e-12
        assert (np.abs(kept - block) <= nearest * (1 + 1e-4) + 1e-6 * block.max()).all()
    bitsandbytes.write(tmp_path / "b.pt", full(found))
    same_bits(bitsandbytes.read(tmp_path / "b.pt", {}).entries["w"].slots["v"], stored)
    for fields, message in (
        ({"momentum": 0.9}, "ignores momentum"),
        ({"eps_in_sqrt": True}, "torch's rule only"),
    ):
        made.groups = [Rule.from_dict(dict(fields)).to_dict()]
        with pytest.raises(ValueError, match=message):
            bitsandbytes.write(tmp_path / "c.pt", made)


def changed(edit: Any, make: Any = torch.optim.RMSprop, **options: Any) -> dict[str, Any]:
    """A state dict with something wrong."""
    state = trained(make, **options)[1].state_dict()
    edit(state)
    return state


def of_group(**values: Any) -> Any:
    return lambda state: state["param_groups"][0].update(values)


def of_entry(key: int = 0, **values: Any) -> Any:
    return lambda state: state["state"][key].update(values)


def two(make: Any) -> Any:
    return lambda: {"g": make(lambda _: None), "d": [make(lambda _: None)]}


Adam = torch.optim.Adam
REFUSED: dict[str, tuple[Any, str]] = {
    "Adam": (lambda: changed(lambda _: None, Adam), "keeps exp_avg, exp_avg_sq.* not RMSprop's"),
    "Adam, not stepped": (lambda: Adam([torch.ones(2)]).state_dict(), "no alpha: this is not RMSprop"),
    "Adadelta": (lambda: changed(lambda _: None, torch.optim.Adadelta), "keeps acc_delta"),
    "several": (two(changed), r"holds 2 optimizers \(g, d\[0\]\).*alone"),
    "nothing": (lambda: {"epoch": 3}, "holds neither an optimizer's"),
    "nan rate": (lambda: changed(of_group(lr=float("nan"))), "group 0 .*lr must be a number at least 0"),
    "huge rate": (lambda: changed(of_group(lr=10**400)), "lr must be a number at least 0"),
    "rate of two": (lambda: changed(of_group(lr=torch.ones(2))), "lr in the groups is no number"),
    "decay": (lambda: changed(of_group(alpha=1.0)), r"decay must be a number in \[0, 1\)"),
    "steps": (lambda: changed(of_entry(step=2.5)), "step must be a whole number"),
    "step nan": (lambda: changed(of_entry(step=torch.tensor(float("nan")))), "step must be a whole"),
    "shapes": (lambda: changed(of_entry(momentum_buffer=torch.ones(3))), "averages of 0 differ in shape"),
    "integers": (lambda: changed(of_entry(square_avg=torch.ones(7, 5).int())), "is of torch.int32"),
    "complex": (
        lambda: changed(of_entry(square_avg=torch.ones(7, 5, dtype=torch.complex64))),
        "square_avg of 0 is complex: torch averages real and imaginary parts apart",
    ),
    "sparse": (lambda: changed(of_entry(square_avg=torch.ones(7, 5).to_sparse())), "only dense ones"),
    "expanded": (
        lambda: changed(of_entry(square_avg=torch.ones(1).expand(1 << 40))),
        "claims [0-9,]+ bytes of tensors",
    ),
    "views": (
        lambda: {"model": dict.fromkeys([f"w{k}" for k in range(2000)], torch.ones(30_000))},
        "views of the same storage",
    ),
    "objects": (
        lambda: {"args": argparse.Namespace(a=1), **changed(lambda _: None)},
        r"holds objects \(argparse.Namespace\) that only unpickling could make.*optimizer.state_dict\(\)",
    ),
    "damaged group": (lambda: changed(of_group(params=3)), "group 0 of the optimizer has no list"),
    "a deep list": (lambda: deep(100), "nested more than 16 deep"),
    "codes alone": (
        lambda: changed(lambda s: s["state"][0].update(square_avg_code=torch.ones(7, 5).byte())),
        "needs square_avg_exponent",
    ),
}  # fmt: skip


def deep(depth: int) -> Any:
    found: Any = []
    for _ in range(depth):
        found = [found]
    return {"a": found}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused(tmp_path: Path, name: str) -> None:
    make, message = REFUSED[name]
    path = tmp_path / "a.pt"
    torch.save(make(), path)
    with pytest.raises(ValueError, match=rf"(?s){path}.*{message}"):
        torch_files.read(path, {})


def test_bias_correction_needs_one_step_for_all(tmp_path: Path) -> None:
    state = changed(of_entry(1, step=torch.tensor(7.0)))
    found = torch_files.of_state_dict(state)
    assert found.step == 7
    assert "3 to 7 times" in found.notes[0]
    rule = Rule(bias_correction=True)
    state = changed(of_entry(1, step=torch.tensor(7.0)), lambda ps, **_: from_rule(ps, rule))
    with pytest.raises(ValueError, match="needs one step for all"):
        torch_files.of_state_dict(state)
    found.groups, found.step = [rule.to_dict()], None
    with pytest.raises(ValueError, match="which is not known"):
        torch_files.state_dict_of(found)


def test_files_that_are_not_there_or_not_files(tmp_path: Path) -> None:
    from rmsprop.convert.torch import sb3

    for read in (torch_files.read, sb3.read, safetensors_files.read):
        with pytest.raises(FileNotFoundError, match="missing is missing"):
            read(tmp_path / "missing", {})
        for content in (b"", b"PK\x03\x04", b"\x80\x02", b"hello" * 100):
            (tmp_path / "a").write_bytes(content)
            with pytest.raises(ValueError, match=str(tmp_path / "a")):
                read(tmp_path / "a", {})
    with pytest.raises(ValueError, match="gather the state first"):
        torch_files.read(tmp_path, {})


def zipped(path: Path, pickled: bytes, data: bytes = bytes(16)) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in (("data.pkl", pickled), ("data/0", data), ("version", b"3\n")):
            archive.writestr(f"a/{name}", content)
    return path


def claiming(numel: int, size: int) -> bytes:
    """The pickle of a state dict with one tensor, which claims `numel` float32 in its storage."""

    def text(s: str) -> bytes:
        return b"X" + struct.pack("<I", len(s)) + s.encode()

    def whole(n: int) -> bytes:
        return b"\x8a\x08" + struct.pack("<q", n)

    storage = (
        b"("
        + text("storage")
        + b"ctorch\nFloatStorage\n"
        + text("0")
        + text("cpu")
        + whole(numel)
        + b"tQ"
    )
    rest = whole(0) + b"(" + whole(size) + b"t(" + whole(1) + b"t\x89ccollections\nOrderedDict\n)R"
    made = b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + rest + b"tR"
    return b"\x80\x02}" + text("w") + made + b"s."


def test_hostile_pickles_do_nothing(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    command = f"touch {mark}".encode()
    system = b"\x80\x02cposix\nsystem\nX" + struct.pack("<I", len(command)) + command + b"\x85R."
    deep_key = b"\x80\x02}K\x01" + b"\x85" * 2_000_000 + b"K\x01s."  # hash() of it ends the process
    cases = {
        r"holds objects \(posix.system\)": system,
        "nested more than 100 deep": deep_key,
        "damaged": claiming(1 << 28, 1 << 28),
        "is damaged": claiming(-5, 4),
        "claims": claiming(1 << 50, 1 << 50),
        "one process's shards": b"\x80\x02ctorch.distributed.checkpoint.metadata\nMetadata\n)\x81.",
        r"damaged|neither": b"\x80\x02c__builtin__\nbytearray\n\x8a\x02\xff\x7f\x85R.",
    }
    for message, pickled in cases.items():
        with pytest.raises(ValueError, match=message if message != "claims" else "damaged"):
            torch_files.read(zipped(tmp_path / "a.pt", pickled), {})
    (tmp_path / "b.pt").write_bytes(system)
    with pytest.raises(ValueError, match=r"b\.pt"):
        torch_files.read(tmp_path / "b.pt", {})
    assert not mark.exists()


def test_a_bit_flipped_in_any_tensor_is_seen(tmp_path: Path) -> None:
    torch.save(trained()[1].state_dict(), tmp_path / "a.pt")
    data = (tmp_path / "a.pt").read_bytes()
    with zipfile.ZipFile(tmp_path / "a.pt") as archive:
        members = [m for m in archive.infolist() if "/data/" in m.filename]
    assert len(members) == 12
    for member in members:
        lengths = struct.unpack_from(
            "<HH", data, member.header_offset + 26
        )  # of its name, and of the rest
        broken = bytearray(data)
        broken[member.header_offset + 30 + sum(lengths)] ^= 1
        (tmp_path / "a.pt").write_bytes(broken)
        with pytest.raises(ValueError, match="damaged: the checksum of"):
            torch_files.read(tmp_path / "a.pt", {})


def test_members_that_claim_more_than_there_is(tmp_path: Path) -> None:
    from rmsprop.convert.torch import sb3

    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("policy.pth", bytes(1 << 25))
        archive.writestr("policy.optimizer.pth", b"")
    with pytest.raises(ValueError, match="made to fill the memory"):
        sb3.read(tmp_path / "a.zip", {})
    with zipfile.ZipFile(tmp_path / "a.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/data.pkl", bytes(1 << 25))
    with pytest.raises(ValueError, match=r"is compressed, as torch\.save never does"):
        torch_files.read(tmp_path / "a.pt", {})
