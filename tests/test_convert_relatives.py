"""Optimizers that are like PyTorch's: timm's, stable-baselines3's, bitsandbytes'; and which is which."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import needs
from rmsprop import Rule

torch = needs.package("torch")

from rmsprop.convert.checkpoint import Checkpoint, Entry  # noqa: E402
from rmsprop.convert.torch import bitsandbytes  # noqa: E402
from rmsprop.convert.torch import files as torch_files  # noqa: E402
from test_convert_torch import full, goes_on, same_bits, trained  # noqa: E402


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
