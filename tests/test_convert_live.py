"""State between live optimizers: PyTorch's, ours, Keras's models, Optax's states."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import needs

keras, torch = needs.package("keras"), needs.package("torch")
jax, optax = needs.package("jax"), needs.package("optax")

from rmsprop import Rule, convert  # noqa: E402
from rmsprop.convert.optax.states import into_state  # noqa: E402
from rmsprop.torch import RMSprop, from_rule  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


def model(seed: int = 0) -> Any:
    torch.manual_seed(seed)
    return torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 2))


def train(net: Any, optimizer: Any, first: int = 0, steps: int = 3) -> None:
    for step in range(first, first + steps):
        x = torch.randn(5, 3, generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        net(x).square().sum().backward()
        optimizer.step()


def assert_same(one: Any, two: Any) -> None:
    for a, b in zip(one.parameters(), two.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-6)


@pytest.mark.parametrize("named", [False, True])
def test_from_timms_rule_to_pytorchs_own_and_back(named: bool) -> None:
    """Parameters travel with the state; the target's own optimizer decides the rule."""
    one, two = model(0), model(1)
    rule = Rule.from_dialect("keras", lr=0.01, momentum=0.9, eps=0.0)
    ours = from_rule(one.named_parameters() if named else one.parameters(), rule)
    train(one, ours)
    theirs = torch.optim.RMSprop(two.named_parameters() if named else two.parameters(), lr=1.0)
    done = convert.write(convert.read(ours), theirs, names="order")
    assert {row.what for row in done.rows if row.part == "b"} == {"divided by lr 0.01"}
    assert theirs.param_groups[0]["lr"] == 0.01
    two.load_state_dict(one.state_dict())
    train(one, ours, 3)
    train(two, theirs, 3)
    assert_same(one, two)
    convert.write(convert.read(theirs), ours, names="order", dialect="keras")
    train(one, ours, 6)
    train(two, theirs, 6)
    assert_same(one, two)


def test_values_of_a_file_go_into_the_parameters(tmp_path: Path) -> None:
    one, two = model(0), model(1)
    optimizer = torch.optim.RMSprop(one.parameters(), lr=0.01, centered=True)
    train(one, optimizer)
    torch.save({"model": one.state_dict(), "optimizer": optimizer.state_dict()}, tmp_path / "a.pt")
    other = RMSprop(two.parameters())
    convert.write(convert.read(tmp_path / "a.pt"), other)
    assert_same(one, two)
    assert other.param_groups[0]["centered"]
    train(one, optimizer, 3)
    train(two, other, 3)
    assert_same(one, two)


def test_parameters_and_names_from_a_file_of_their_own(tmp_path: Path) -> None:
    one = model()
    optimizer = torch.optim.RMSprop(one.parameters(), lr=0.01)
    train(one, optimizer)
    torch.save(optimizer.state_dict(), tmp_path / "optimizer.pt")
    torch.save(one.state_dict(), tmp_path / "model.pt")
    found = convert.read(tmp_path / "optimizer.pt", params=tmp_path / "model.pt")
    assert list(found.entries) == list(one.state_dict())
    for name, p in one.named_parameters():
        np.testing.assert_array_equal(found.entries[name].value, p.detach().numpy())
        np.testing.assert_array_equal(
            found.entries[name].slots["v"], optimizer.state[p]["square_avg"].numpy()
        )
    wrong = {name: p for name, p in one.state_dict().items() if "0" in name}
    torch.save(wrong, tmp_path / "wrong.pt")
    with pytest.raises(ValueError, match="the parameters are not those of the state: 2 there"):
        convert.read(tmp_path / "optimizer.pt", params=tmp_path / "wrong.pt")
    turned = {name: p.t().contiguous() for name, p in one.state_dict().items()}
    torch.save(turned, tmp_path / "turned.pt")
    with pytest.raises(
        ValueError, match=r"'0.weight' is \[3, 4\], and the state of the parameter at"
    ):
        convert.read(tmp_path / "optimizer.pt", params=tmp_path / "turned.pt")


def test_groups_must_be_the_same() -> None:
    one, two = model(), model()
    optimizer = torch.optim.RMSprop(one.parameters(), lr=0.01)
    train(one, optimizer)
    layers = [{"params": two[0].parameters()}, {"params": two[2].parameters()}]
    with pytest.raises(
        ValueError, match="the state has 1 groups of parameters and the optimizer 2"
    ):
        convert.write(convert.read(optimizer), torch.optim.RMSprop(layers, lr=0.01))


def test_from_pytorch_into_an_optax_state_and_a_keras_model() -> None:
    """All three are source and target, by names."""
    one = model()
    rule = Rule.from_dialect("optax", lr=2.0**-7, momentum=0.5)
    ours = from_rule(one.parameters(), rule)
    train(one, ours)
    flax = [("0", "kernel"), ("0", "bias"), ("2", "kernel"), ("2", "bias")]
    params: dict[str, dict[str, Any]] = {"0": {}, "2": {}}
    for (layer, part), p in zip(flax, one.parameters(), strict=True):
        params[layer][part] = jax.numpy.asarray(p.detach().numpy().T)
    optimizer = optax.rmsprop(rule.lr, rule.decay, rule.eps, momentum=rule.momentum)
    like = convert.read({"params": params, "opt_state": optimizer.init(params)})
    names = ["0/kernel", "0/bias", "2/kernel", "2/bias"]
    done = convert.translate(
        convert.read(ours), "optax", like=like, names=lambda name: names[int(name)]
    )
    state = into_state(done.checkpoint, optimizer.init(params))
    back = convert.read(state, "optax", params=params, lr=rule.lr, decay=rule.decay, eps=rule.eps,
                        momentum=rule.momentum)  # fmt: skip
    net = keras.Sequential([keras.Input((3,)), keras.layers.Dense(4), keras.layers.Dense(2)])
    own = keras.optimizers.RMSprop(rule.lr, rule.decay, rule.momentum, rule.eps)
    net.compile(own, loss="mse")
    own.build(net.trainable_variables)
    # A tree of JAX is in the order of its names: the bias first.
    convert.write(back, net, names=dict(zip(names, convert.read(net).entries, strict=True)), step=3)
    assert int(own.iterations) == 3
    for p, v, b in zip(one.parameters(), own._velocities, own._momentums, strict=True):
        kept = ours.state[p]
        np.testing.assert_array_equal(np.asarray(v.value), kept["square_avg"].numpy().T)
        np.testing.assert_array_equal(np.asarray(b.value), kept["momentum_buffer"].numpy().T)


def test_what_is_no_source_and_no_target() -> None:
    with pytest.raises(TypeError, match="cannot read optimizer state from int"):
        convert.read(3)
    done = convert.read(_numpy())
    with pytest.raises(TypeError, match="cannot load optimizer state into object: give a path"):
        convert.write(done, object())
    with pytest.raises(ValueError, match="the target is of torch, and not of keras"):
        convert.write(done, torch.optim.RMSprop(model().parameters()), "keras")
    with pytest.raises(ValueError, match=r"what is to be written at x\? Say --to, one of torch"):
        convert.write(done, "x")
    with pytest.raises(ValueError, match=r"nothing is written for 'kreas'; did you mean 'keras'\?"):
        convert.write(done, "x.keras", "kreas")
    with pytest.raises(ValueError, match=r"keras is written to .keras, .h5; got x.pt"):
        convert.write(done, "x.pt", "keras")
    with pytest.raises(ValueError, match="unknown dialect 'kears'; did you mean 'keras'"):
        convert.read("x.pt", "kears")
    with pytest.raises(TypeError, match="Rule has no field 'rho'"):
        convert.read("x.pt", rho=0.9)
    with pytest.raises(FileNotFoundError, match=r"x.pt does not exist"):
        convert.read("x.pt")


def _numpy() -> Any:
    from rmsprop.numpy import Optimizer

    optimizer = Optimizer(Rule())
    optimizer.update({"w": np.ones(2)}, {"w": np.ones(2)})
    return optimizer
