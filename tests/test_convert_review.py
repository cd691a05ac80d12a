"""Translations that once went on wrongly without a word: each is right now, or says what is lost."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import needs

keras, torch = needs.package("keras"), needs.package("torch")
jax, optax = needs.package("jax"), needs.package("optax")

from rmsprop import convert  # noqa: E402
from rmsprop.convert import Checkpoint, Entry, Unfaithful  # noqa: E402
from rmsprop.convert.keras.flatten import MIXED, flattened  # noqa: E402
from rmsprop.torch import from_rule  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
L, N = keras.layers, torch.nn


def stepped(optimizer: Any, *moved: Any) -> Any:
    """The optimizer after a step in which the parameters had gradients 1, 2, ..."""
    torch.stack([(k + 1) * p.sum() for k, p in enumerate(moved)]).sum().backward()
    optimizer.step()
    return optimizer


def parameters(count: int = 2, dtype: Any = torch.float32) -> list[Any]:
    return [N.Parameter(torch.full((3,), 1 / 3, dtype=dtype)) for _ in range(count)]


def state_of(transformation: Any) -> Checkpoint:
    """What `read` makes of an Optax state after a step, with no more told than the learning rate."""
    params = {"w": np.ones(3, np.float32)}
    state = transformation.init(params)
    _, state = transformation.update(params, state, params)
    return convert.read(state, params=params, lr=0.1)


def trained(model: Any, shape: tuple[int, ...], **options: Any) -> Any:
    """A Keras model after two steps."""
    optimizer = keras.optimizers.RMSprop(**options)
    model.compile(optimizer, loss="mse")
    x = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    for _ in range(2):
        model.train_on_batch(x, np.zeros_like(model(x)))
    return model


def dense(**options: Any) -> Any:
    layers = [L.Dense(3, name="a", **options), L.Dense(1, name="b", **options)]
    return keras.Sequential([keras.Input((3,)), *layers])


class TestRule:
    def test_a_buffer_without_its_momentum_is_not_dropped(self) -> None:
        found = state_of(optax.rmsprop(0.1, momentum=0.9))
        with pytest.raises(
            ValueError, match="does not say the momentum: give it, --from optax:mom"
        ):
            convert.translate(found, "torch", step=1)

    def test_nor_that_of_bare_weights(self, tmp_path: Path) -> None:
        model = trained(dense(), (4, 3), momentum=0.9, centered=True)
        model.save_weights(tmp_path / "m.weights.h5")
        with pytest.raises(ValueError, match="does not say the momentum"):
            convert.translate(convert.read(tmp_path / "m.weights.h5"), "torch")

    def test_a_momentum_that_the_state_never_had(self) -> None:
        found = state_of(optax.rmsprop(0.1))
        found.groups[0]["momentum"] = 0.9
        losses = convert.translate(found, "numpy", step=1).losses
        assert [loss.name for loss in losses] == ["momentum"]

    def test_an_empty_first_group_is_nobodys_rule(self) -> None:
        a, b = parameters()
        groups = [{"params": [], "lr": 0.5, "weight_decay": 0.1}, {"params": [a, b]}]
        done = convert.translate(
            convert.read(stepped(torch.optim.RMSprop(groups, lr=0.01), a, b)), "numpy"
        )
        assert not done.losses
        assert (done.checkpoint.rule().lr, done.checkpoint.rule().weight_decay) == (0.01, 0.0)

    def test_one_rate_is_not_given_to_groups_of_several(self) -> None:
        a, b = parameters()
        optimizer = torch.optim.RMSprop([{"params": [a], "lr": 0.1}, {"params": [b], "lr": 0.01}])
        with pytest.raises(ValueError, match="which have different ones: give one for each"):
            convert.translate(convert.read(stepped(optimizer, a, b)), "torch", lr=0.5)

    def test_the_last_rate_of_an_injected_schedule_is_not_the_next(self) -> None:
        falling = optax.piecewise_constant_schedule(0.1, {1: 0.1})
        params = {"w": np.ones(3, np.float32)}
        made = optax.inject_hyperparams(optax.rmsprop)(falling, momentum=0.9)
        _, state = made.update(params, made.init(params), params)
        with pytest.raises(ValueError, match="does not say the learning rate"):
            convert.translate(convert.read(state), "torch")

    @pytest.mark.parametrize("other", [optax.add_decayed_weights(0.1), optax.clip(1.0)])
    @pytest.mark.parametrize("first", [False, True])
    def test_what_is_chained_beside_is_a_loss_until_it_is_said(
        self, other: Any, first: bool
    ) -> None:
        own = optax.rmsprop(0.1)
        found = state_of(optax.chain(other, own) if first else optax.chain(own, other))
        assert [x.name for x in convert.translate(found, "torch", step=1).losses] == ["chain"]
        assert not state_of(own).losses

    def test_what_is_assumed_and_what_the_reader_noted_is_told(self) -> None:
        notes = convert.translate(state_of(optax.rmsprop(0.1)), "torch", step=1).notes
        assert "decay 0.9, eps 1e-08, eps_in_sqrt True, nesterov False" in notes[-1]

    def test_a_dialect_that_contradicts_the_file_is_refused(self) -> None:
        (a,) = parameters(1)
        with pytest.raises(ValueError, match="of the dialect torch, and you say keras"):
            convert.read(stepped(torch.optim.RMSprop([a]), a), "keras")

    def test_one_count_does_not_correct_a_parameter_that_starts_later(self) -> None:
        a, b = parameters()
        rule = convert.Checkpoint("torch", "torch", [{"lr": 0.1}]).rule()
        optimizer = from_rule([("a", a), ("b", b)], rule.replace(bias_correction=True))
        like = Checkpoint("numpy", entries={n: Entry(value=np.ones(3)) for n in "ab"})
        with pytest.raises(ValueError, match="'b' has had no step and others 1: bias correction"):
            convert.translate(convert.read(stepped(optimizer, a)), "numpy", like=like)

    def test_a_parameter_of_no_known_shape_gets_no_state(self) -> None:
        a, b = parameters()
        found = convert.read(stepped(torch.optim.RMSprop([("a", a), ("b", b)]), a))
        with pytest.raises(ValueError, match="'b' has had no step, and nothing says its shape"):
            convert.translate(found, "numpy")
        like = Checkpoint("numpy", entries={n: Entry(value=np.ones(3)) for n in "ab"})
        done = convert.translate(found, "numpy", like=like)
        assert done.checkpoint.entries["b"].slots["v"].shape == (3,)


class TestLiveTorch:
    def test_groups_with_other_members_are_refused(self) -> None:
        a, b, c, d = parameters(4)
        one = torch.optim.RMSprop([{"params": [("a", a)]}, {"params": [("b", b)]}], lr=0.1)
        two = torch.optim.RMSprop([{"params": [("b", d)]}, {"params": [("a", c)]}], lr=0.1)
        with pytest.raises(ValueError, match="is in group 1 of the source and in group 0"):
            convert.write(convert.read(stepped(one, a, b)), two)

    def test_other_optimizers_do_not_take_it(self) -> None:
        a, b = parameters()
        with pytest.raises(ValueError, match="the target is Adam, and no RMSprop"):
            convert.write(convert.read(stepped(torch.optim.RMSprop([a]), a)), torch.optim.Adam([b]))

    @pytest.mark.parametrize("name", ["RMSpropTF", "RMSpropTFLike"])
    def test_a_class_of_another_rule_is_not_taken_for_torchs(self, name: str) -> None:
        a, b = parameters()
        target = type(name, (torch.optim.RMSprop,), {})([b])
        with pytest.raises(Unfaithful, match="eps stands elsewhere"):
            convert.write(convert.read(stepped(torch.optim.RMSprop([a]), a)), target)

    def test_values_of_parameters_without_a_step_come_too(self, tmp_path: Path) -> None:
        a, b, c, d = parameters(4)
        optimizer = stepped(torch.optim.RMSprop([a, b]), a)
        torch.save({"model": {"a": a, "b": b}, "optimizer": optimizer.state_dict()}, tmp_path / "s")
        with torch.no_grad():
            d.zero_()
        convert.write(convert.read(tmp_path / "s"), torch.optim.RMSprop([c, d]))
        assert torch.equal(c, a)
        assert torch.equal(d, b)

    def test_two_bytes_round(self) -> None:
        (a,), (b,) = parameters(1), parameters(1, torch.bfloat16)
        found = convert.read(stepped(torch.optim.RMSprop([a]), a))
        with pytest.raises(Unfaithful, match="precision: 0 would be rounded to the target's two"):
            convert.write(found, torch.optim.RMSprop([b]))
        own = stepped(torch.optim.RMSprop([b]), b)
        (c,) = parameters(1, torch.bfloat16)
        assert not convert.write(convert.read(own), torch.optim.RMSprop([c])).losses


def test_jaxs_order_is_not_taken_for_pytorchs() -> None:
    """JAX puts layer_10 before layer_2."""
    moved = parameters(12)
    found = convert.read(stepped(torch.optim.RMSprop(moved, eps=0), *moved))
    params = {f"layer_{k}": np.ones(3, np.float32) for k in range(12)}
    like = convert.read(optax.rmsprop(0.1).init(params))
    for names in (None, "order"):
        with pytest.raises(
            ValueError, match="the target is of optax, which sorts parameters by their"
        ):
            convert.translate(found, "optax", like=like, names=names)
    done = convert.translate(found, "optax", like=like, names=lambda name: f"layer_{name}")
    assert done.checkpoint.entries["layer_10"].slots["v"] is not None


@pytest.mark.parametrize(
    ("layer", "shape"), [("query", (4, 2, 2)), ("ConvTranspose_0", (3, 3, 2, 2))]
)
def test_flaxs_kernels_that_are_no_plain_convolutions(layer: str, shape: tuple[int, ...]) -> None:
    """Flax does not flip the kernel of a transposed convolution, and PyTorch does."""
    params = {"top": {layer: {"kernel": np.ones(shape, np.float32)}}}
    found = convert.read(optax.rmsprop(0.1).init(params), params=params, lr=0.1)
    with pytest.raises(ValueError, match="cannot be told from its name"):
        convert.translate(found, "torch", step=0)


class TestKeras:
    def test_averages_of_parameters_are_a_loss(self) -> None:
        model = trained(dense(), (4, 3), use_ema=True, ema_overwrite_frequency=2)
        assert [x.name for x in convert.translate(convert.read(model), "torch").losses] == ["ema"]

    def test_half_a_round_of_gradients_is_a_loss(self) -> None:
        model = trained(dense(), (4, 3), gradient_accumulation_steps=3)
        model.train_on_batch(np.ones((4, 3)), np.zeros((4, 1)))
        model.train_on_batch(np.ones((4, 3)), np.zeros((4, 1)))
        found = convert.read(model)
        assert found.step == 1
        assert [x.name for x in convert.translate(found, "torch").losses] == ["accumulation"]

    def test_what_is_excluded_from_weight_decay_is_a_group(self) -> None:
        model, optimizer = dense(), keras.optimizers.RMSprop(weight_decay=0.1)
        optimizer.exclude_from_weight_decay(var_names=["bias"])
        model.compile(optimizer, loss="mse")
        model.train_on_batch(np.ones((4, 3)), np.zeros((4, 1)))
        done = convert.translate(convert.read(model), "torch").checkpoint
        assert {n: done.rule(e.group).weight_decay for n, e in done.entries.items()} == {
            "a.weight": 0.1, "a.bias": 0.0, "b.weight": 0.1, "b.bias": 0.0
        }  # fmt: skip
        whole = convert.translate(convert.read(model), "numpy")
        assert [loss.name for loss in whole.losses] == ["groups"]

    def test_a_buffer_comes_in_the_unit_of_the_targets_own_rate(self) -> None:
        shapes = ((3, 3), (3,), (1, 3), (1,))
        moved = [N.Parameter(torch.ones(shape)) for shape in shapes]
        one = stepped(torch.optim.RMSprop(moved, lr=0.1, momentum=0.9, eps=0), *moved)
        model = dense()
        own = keras.optimizers.RMSprop(0.001, rho=0.99, momentum=0.9, epsilon=0.0)
        model.compile(own, loss="mse")
        done = convert.write(convert.read(one), model)
        assert "the learning rate is the target's own, 0.001" in done.notes
        held = np.asarray(convert.read(model).entries["b/bias"].slots["b"])
        np.testing.assert_allclose(
            held, 0.001 * one.state[moved[3]]["momentum_buffer"].numpy(), rtol=1e-6
        )

    def test_and_of_its_schedules_next_step(self) -> None:
        moved = [N.Parameter(torch.ones(shape)) for shape in ((3, 3), (3,), (1, 3), (1,))]
        one = stepped(torch.optim.RMSprop(moved, lr=0.1, momentum=0.9, eps=0), *moved)
        model, falling = dense(), keras.optimizers.schedules.ExponentialDecay(0.001, 1, 0.5)
        own = keras.optimizers.RMSprop(falling, rho=0.99, momentum=0.9, epsilon=0.0)
        model.compile(own, loss="mse")
        with pytest.raises(ValueError, match="the target's learning rate is a schedule"):
            convert.write(convert.read(one), model)
        assert not convert.write(convert.read(one), model, lr=0.0005).losses

    def test_variables_that_are_no_longer_trained_do_not_lend_their_state(self) -> None:
        model = keras.Sequential([keras.Input((3,)), L.Dense(3, name="a"), L.Dense(3, name="b")])
        model.layers[0].trainable = False
        trained(model, (4, 3))
        model.layers[0].trainable, model.layers[1].trainable = True, False
        with pytest.raises(ValueError, match="trainable was changed"):
            convert.read(model)

    def test_two_bytes_round(self) -> None:
        model = dense(dtype="bfloat16")
        model.compile(keras.optimizers.RMSprop(0.01, rho=0.99, epsilon=0.0), loss="mse")
        moved = [N.Parameter(torch.full(s, 1 / 3)) for s in ((3, 3), (3,), (1, 3), (1,))]
        found = convert.read(stepped(torch.optim.RMSprop(moved, eps=0), *moved))
        with pytest.raises(Unfaithful, match="precision"):
            convert.write(found, model)

    def test_a_gru_that_pytorch_does_not_compute(self) -> None:
        layers = [keras.Input((5, 4)), L.GRU(3, reset_after=False, name="g")]
        model = trained(keras.Sequential(layers), (2, 5, 4))
        assert [x.name for x in convert.translate(convert.read(model), "torch").losses] == ["gru"]

    def test_gates_of_tensorflows_gru_are_not_left_in_their_order(self) -> None:
        entries = {"g/gru_cell/kernel": Entry({"v": np.ones((4, 6))})}
        source = Checkpoint("tf1", "tf1", [{"lr": 0.1, "momentum": 0.0}], entries, 3, "keras")
        there = {"g.weight_ih_l0": Entry(value=np.ones((6, 4)))}
        like = Checkpoint("torch", "torch", [{}], there, layout="torch")
        with pytest.raises(ValueError, match="cannot be told from its name"):
            convert.translate(
                source, "torch", like=like, names={"g/gru_cell/kernel": "g.weight_ih_l0"}
            )


def image(*layers: Any) -> Any:
    return keras.Sequential([keras.Input((6, 6, 2)), *layers])


def orders(model: Any) -> dict[str, Any]:
    return flattened({"config": model.get_config()})


class TestFlatten:
    """Of layers behind a Flatten, wherever it stands."""

    @pytest.mark.parametrize("nested", ["both", "ahead", "behind"])
    def test_in_models_in_models_the_trained_rows_are_those(self, nested: str) -> None:
        body, head = [L.Conv2D(3, 3, name="c"), L.Flatten()], [L.Dense(2, name="d")]
        ahead = [keras.Sequential(body, name="x")] if nested != "behind" else body
        behind = [keras.Sequential(head, name="y")] if nested != "ahead" else head
        model = trained(image(*ahead, *behind), (4, 6, 6, 2))
        done = convert.translate(convert.read(model), "torch").checkpoint
        c, d = ([e for n, e in done.entries.items() if f"{k}." in n] for k in "cd")
        net = N.Sequential(N.Conv2d(2, 3, 3), N.Flatten(), N.Linear(48, 2))
        with torch.no_grad():
            for p, entry in zip(net.parameters(), [*c, *d], strict=True):
                p.copy_(torch.from_numpy(np.array(entry.value)))
        x = np.random.default_rng(1).normal(size=(4, 6, 6, 2)).astype(np.float32)
        ours = net(torch.from_numpy(np.moveaxis(x, -1, 1).copy())).detach().numpy()
        theirs = keras.ops.convert_to_numpy(model(x))
        np.testing.assert_allclose(ours, theirs, atol=1e-5)

    def test_the_same_name_in_another_model_is_another_layer(self) -> None:
        inner = keras.Sequential([keras.Input((48,)), L.Dense(2, name="d")], name="s")
        layers = [L.Conv2D(3, 3), L.Flatten(), L.Dense(4, name="d"), L.Dense(48, name="k"), inner]
        assert orders(image(*layers)) == {"d": (4, 4, 3)}

    def test_channels_first_lie_as_in_pytorch(self) -> None:
        conv = L.Conv2D(3, 3, data_format="channels_first", name="c")
        layers = [keras.Input((2, 6, 6)), conv, L.Flatten(data_format="channels_last")]
        config = {
            "layers": [_config(layer) for layer in layers[1:]] + [_config(L.Dense(1, name="d"))]
        }
        config["layers"][1]["build_config"] = {"input_shape": [None, 3, 4, 4]}
        assert flattened({"config": config}) == {}
        config["layers"][1]["config"]["data_format"] = "channels_first"
        assert flattened({"config": config}) == {"d": (4, 4, 3)}

    def test_sums_keep_an_order_and_concatenations_mix_it(self) -> None:
        for merge, found in ((L.Add(), (4, 4, 3)), (L.Concatenate(), MIXED)):
            x = keras.Input((6, 6, 2))
            pair = [L.Flatten()(L.Conv2D(3, 3)(x)) for _ in range(2)]
            model = keras.Model(x, L.Dense(2, name="d")(merge(pair)))
            assert orders(model) == {"d": found}

    @pytest.mark.parametrize(
        ("layers", "mixed"),
        [
            ([L.Conv2D(3, 3), L.Reshape((-1,)), L.Dense(2, name="d")], {"d"}),
            ([L.TimeDistributed(L.Flatten()), L.LSTM(3, name="d")], {"d"}),
            ([L.GlobalAveragePooling2D(), L.Dense(8, name="d"), L.Reshape((2, 2, 2)),
              L.Conv2DTranspose(1, 2)], {"d", "d/bias"}),
            ([L.Conv2D(3, 3), L.GlobalAveragePooling2D(), L.Dense(2, name="d")], set()),
        ],
    )  # fmt: skip
    def test_orders_that_are_not_known(self, layers: list[Any], mixed: set[str]) -> None:
        model = image(*layers)
        assert {name for name, order in orders(model).items() if order == MIXED} == mixed
        found = convert.read(trained(model, (2, 6, 6, 2)))
        if mixed:
            with pytest.raises(
                ValueError, match="reordered, behind a Flatten or ahead of a Reshape"
            ):
                convert.translate(found, "torch")
        else:
            assert not convert.translate(found, "torch").losses


def _config(layer: Any) -> dict[str, Any]:
    return {"class_name": type(layer).__name__, "config": layer.get_config()}
