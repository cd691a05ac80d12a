"""rmsprop.convert for Optax: against Optax, and the files that Flax and Orbax themselves write and read."""

import functools
import itertools
import os
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import needs

jax = needs.package("jax")
optax = needs.package("optax")
msgpack = needs.package("msgpack")
flax = needs.package("flax.serialization")
train_state = needs.package("flax.training.train_state")
orbax = needs.package("orbax.checkpoint")
jnp = jax.numpy

import rmsprop.jax  # noqa: E402
from rmsprop import Rule  # noqa: E402
from rmsprop.convert.checkpoint import Checkpoint, Entry  # noqa: E402
from rmsprop.convert.optax import msgpack_files, orbax_files  # noqa: E402
from rmsprop.convert.optax import states as optax_states  # noqa: E402

Tree = Any
STEPS = 4
KINDS = ["msgpack", "orbax"]
SHAPES = {"Dense_0": {"kernel": (3, 4), "bias": (4,)}, "Norm": {"scale": ()}}


@pytest.fixture(autouse=True)
def x64() -> Iterator[None]:
    """JAX keeps float64 as float64."""
    with jax.enable_x64(True):
        yield


def arrays(seed: int, dtype: Any = "float64") -> Tree:
    rng = np.random.default_rng(seed)
    return jax.tree.map(
        lambda shape: jnp.asarray(rng.normal(0, 1, shape), dtype),
        SHAPES,
        is_leaf=lambda x: isinstance(x, tuple),
    )


def grads(seed: int, params: Tree) -> Tree:
    """A gradient for each parameter."""
    rng = np.random.default_rng(100 + seed)
    return jax.tree.map(lambda p: jnp.asarray(rng.normal(0, 1, p.shape), p.dtype), params)


@functools.cache
def step_of(optimizer: Any) -> Any:
    """One step, compiled once for each optimizer of the tables below."""

    def step(grads: Tree, state: Tree, params: Tree) -> tuple[Tree, Tree]:
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    return jax.jit(step)


def go_on(optimizer: Any, tree: Tree, first: int, steps: int) -> Tree:
    """Some steps of {"params", "opt_state"}."""
    params, state = tree["params"], tree["opt_state"]
    for k in range(first, first + steps):
        params, state = step_of(optimizer)(grads(k, params), state, params)
    return {"params": params, "opt_state": state}


def trained(optimizer: Any, params: Tree | None = None) -> Tree:
    params = arrays(0) if params is None else params
    return go_on(optimizer, {"params": params, "opt_state": optimizer.init(params)}, 0, STEPS)


def save(kind: str, path: Path, tree: Tree) -> Path:
    """As a user does."""
    if kind == "msgpack":
        path = path.with_suffix(".msgpack")
        path.write_bytes(flax.to_bytes(tree))
        return path
    with orbax.StandardCheckpointer() as saver:
        saver.save(path, tree)
        saver.wait_until_finished()
    return path


def load(kind: str, path: Path, like: Tree) -> Tree:
    """As a user does."""
    if kind == "msgpack":
        return flax.from_bytes(like, path.read_bytes())
    with orbax.StandardCheckpointer() as loader:
        return loader.restore(path, like)


def read(path: Path, **told: Any) -> Checkpoint:
    return (orbax_files if path.is_dir() else msgpack_files).read(path, told)


def write(path: Path, checkpoint: Checkpoint, like: Path | None = None) -> None:
    (msgpack_files if path.suffix == ".msgpack" else orbax_files).write(path, checkpoint, like)


def complaint(path: Path) -> str:
    """Of a file that may be damaged: what is said of it; nothing where it can be read."""
    try:
        assert isinstance(read(path), Checkpoint)
    except ValueError as error:
        return str(error)
    return ""


def same(a: Tree, b: Tree) -> None:
    """Bit for bit, and in the same types."""
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(np.asarray(x), np.asarray(y))
        assert np.asarray(x).dtype == np.asarray(y).dtype


def full(checkpoint: Checkpoint, rule: Rule) -> Checkpoint:
    """As translated to this rule."""
    return replace(checkpoint, groups=[rule.to_dict()], notes=[])


# What optax.rmsprop computes, in all its spellings: how it is made, the rule, and what the state tells of it.

TOLD: dict[str, dict[str, Any]] = {
    "plain": {},
    "momentum": {"momentum": 0.9},
    "centered": {"centered": True},
    "nesterov": {"momentum": 0.9, "nesterov": True, "centered": True},
    "outside": {"eps_in_sqrt": False, "initial_scale": 0.5},
    "corrected": {"bias_correction": True, "momentum": 0.8},
    "all": {"bias_correction": True, "momentum": 0.8, "centered": True, "initial_scale": 0.5},
}
SCHEDULE = optax.linear_schedule(0.1, 0.01, 10)
INJECTED = {"lr": 0.1, "decay": 0.9, "eps": 1e-8, "initial_scale": 0.0}


def maker(fields: dict[str, Any], rate: Any = 0.1) -> Any:
    return _made(tuple(fields.items()), rate)


@functools.cache
def _made(fields: tuple[tuple[str, Any], ...], rate: Any) -> Any:
    return optax.rmsprop(rate, **dict(fields))


WRAPPED: dict[str, tuple[Any, dict[str, Any]]] = {
    "schedule": (maker({"momentum": 0.9}, SCHEDULE), {"momentum": None}),
    "injected": (
        optax.inject_hyperparams(optax.rmsprop)(0.1, momentum=0.9),
        INJECTED | {"momentum": 0.9},
    ),
    "injected schedule": (
        optax.inject_hyperparams(optax.rmsprop)(SCHEDULE),
        INJECTED | {"lr": None},
    ),
    "chain": (
        optax.chain(
            optax.clip_by_global_norm(1.0), optax.add_decayed_weights(0.1), maker({"momentum": 0.9})
        ),
        {"momentum": None},
    ),
    "finite": (optax.apply_if_finite(maker({"centered": True}), 3), {"centered": True}),
    "ours": (rmsprop.jax.rmsprop(0.1, momentum=0.9, centered=True, dialect="torch"), {}),
    "ours in chain": (
        optax.chain(optax.clip(1.0), rmsprop.jax.rmsprop(0.1, dialect="keras")),
        {"momentum": 0.0},
    ),
    "ours injected": (
        optax.inject_hyperparams(rmsprop.jax.rmsprop)(0.1, momentum=0.9, weight_decay=0.1),
        {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.1},
    ),
}


@pytest.mark.parametrize("name", TOLD)
@pytest.mark.parametrize("kind", KINDS)
def test_it_reads_each_state_of_optax_and_writes_one_that_goes_on_as_before(
    kind: str, name: str, tmp_path: Path
) -> None:
    fields = TOLD[name]
    optimizer, rule = maker(fields), Rule.from_dialect("optax", lr=0.1, **fields)
    tree = trained(optimizer)
    told = {"centered": True} if name == "all" else {}
    found = read(save(kind, tmp_path / "a", tree), **told)

    assert (found.kind, found.dialect, found.layout, found.named) == (
        "optax",
        "optax",
        "keras",
        True,
    )
    assert list(found.entries) == ["Dense_0/bias", "Dense_0/kernel", "Norm/scale"]
    assert [e.role for e in found.entries.values()] == ["bias", "kernel", "gamma"]
    assert found.slots() == rule.slots
    averages, _, last = tree["opt_state"]
    kernel = found.entries["Dense_0/kernel"]
    np.testing.assert_array_equal(kernel.value, tree["params"]["Dense_0"]["kernel"])
    np.testing.assert_array_equal(kernel.slots["v"], averages.nu["Dense_0"]["kernel"])
    if "m" in rule.slots:
        np.testing.assert_array_equal(kernel.slots["m"], averages.mu["Dense_0"]["kernel"])
    if "b" in rule.slots:
        np.testing.assert_array_equal(kernel.slots["b"], -last.trace["Dense_0"]["kernel"])
    assert found.step == (STEPS if rule.bias_correction else None)
    expected = {"centered": rule.centered, "bias_correction": rule.bias_correction}
    assert found.groups == [expected | ({} if rule.momentum else {"momentum": 0.0})]

    live = optax_states.of_state(
        tree["opt_state"], tree["params"]
    )  # whose classes say what they are
    assert live.groups == found.groups
    same(
        {n: e.slots for n, e in live.entries.items()},
        {n: e.slots for n, e in found.entries.items()},
    )

    suffix = ".msgpack" if kind == "msgpack" else ""
    checkpoint = full(found, rule)
    write(tmp_path / f"b{suffix}", checkpoint)
    assert "optax.rmsprop(learning_rate=0.1" in checkpoint.notes[0]
    again = load(
        kind, tmp_path / f"b{suffix}", {"params": arrays(1), "opt_state": optimizer.init(arrays(1))}
    )
    same(go_on(optimizer, again, STEPS, 1), go_on(optimizer, tree, STEPS, 1))


@pytest.mark.parametrize("name", WRAPPED)
@pytest.mark.parametrize("kind", KINDS)
def test_a_template_keeps_what_is_wrapped_around_the_state(
    kind: str, name: str, tmp_path: Path
) -> None:
    optimizer, told = WRAPPED[name]
    tree, start = trained(optimizer), {"params": arrays(1), "opt_state": optimizer.init(arrays(1))}
    found = read(save(kind, tmp_path / "a", tree))
    for field, value in told.items():
        if value is not None:
            assert found.groups[0][field] == value, field
        elif field != "lr":
            assert field not in found.groups[0]
    counts = "schedule" in name or "injected" in name or "ours" in name
    assert found.step == (STEPS if counts else None)

    checkpoint = replace(found, groups=[{"lr_in_momentum": True, **found.groups[0]}])
    like, suffix = save(kind, tmp_path / "like", start), ".msgpack" if kind == "msgpack" else ""
    write(tmp_path / f"b{suffix}", checkpoint, like)
    again = load(kind, tmp_path / f"b{suffix}", start)
    if name == "finite":  # which counts what was not finite, and that is not carried over
        assert sorted(found.left) == ["last_finite", "notfinite_count", "total_notfinite"]
        again["opt_state"] = again["opt_state"]._replace(last_finite=tree["opt_state"].last_finite)
    if name == "injected schedule":  # the rate is computed anew at each step
        numbers = tree["opt_state"].hyperparams
        again["opt_state"] = again["opt_state"]._replace(hyperparams=numbers)
    same(go_on(optimizer, again, STEPS, 2), go_on(optimizer, tree, STEPS, 2))

    live = optax_states.of_state(tree["opt_state"], tree["params"])
    assert live.groups == found.groups
    same(
        {n: e.slots for n, e in live.entries.items()},
        {n: e.slots for n, e in found.entries.items()},
    )
    live = replace(live, groups=checkpoint.groups)
    state = optax_states.into_state(live, start["opt_state"])
    same(
        jax.tree.leaves(state),
        jax.tree.leaves(load(kind, tmp_path / f"b{suffix}", start)["opt_state"]),
    )
    assert all(isinstance(x, jax.Array) for x in jax.tree.leaves(state))


@pytest.mark.parametrize("dialect", ["torch", "keras", "tf1"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_rule_that_optax_has_not_is_written_for_ours(
    kind: str, dialect: str, tmp_path: Path
) -> None:
    fields = {"momentum": 0.9, "weight_decay": 0.01, "clip_value": 2.0}
    rule = Rule.from_dialect(dialect, lr=0.1, **fields)
    optimizer = rmsprop.jax.from_rule(rule)
    tree = trained(optimizer)
    found = read(save(kind, tmp_path / "a", tree))
    assert (found.dialect, found.step, found.groups) == ("", STEPS, [{}])
    checkpoint = full(found, rule)
    path = tmp_path / ("b.msgpack" if kind == "msgpack" else "b")
    write(path, checkpoint)
    assert "rmsprop.jax.from_rule(Rule(lr=0.1" in checkpoint.notes[0]
    again = load(kind, path, {"params": arrays(1), "opt_state": optimizer.init(arrays(1))})
    same(go_on(optimizer, again, STEPS, 1), go_on(optimizer, tree, STEPS, 1))


@pytest.mark.parametrize("kind", KINDS)
def test_bfloat16_is_widened_and_a_template_narrows_it_again(kind: str, tmp_path: Path) -> None:
    optimizer = maker({"momentum": 0.9, "centered": True})
    tree = trained(optimizer, arrays(0, "bfloat16"))
    path = save(kind, tmp_path / "a", tree)
    found = read(path)
    assert "two bytes" in found.notes[0]
    kernel: Any = found.entries["Dense_0/kernel"]
    assert {str(a.dtype) for a in (kernel.value, *kernel.slots.values())} == {"float32"}
    np.testing.assert_array_equal(
        kernel.value, np.asarray(tree["params"]["Dense_0"]["kernel"], "float32")
    )
    target = path.with_name(f"b{path.suffix}")
    write(target, found, path)
    same(load(kind, target, tree), tree)
    kernel.slots["v"] = kernel.slots["v"] + np.float32(0.0001)
    with pytest.raises(
        ValueError, match=r"Dense_0/kernel \(v\) is float32, and the template bfloat16, whi"
    ):
        write(target, found, path)
    same(load(kind, target, tree), tree)


@pytest.mark.parametrize("kind", KINDS)
def test_flaxs_train_state_has_its_step_and_its_params(kind: str, tmp_path: Path) -> None:
    params = {"params": arrays(0)}
    made = train_state.TrainState.create(apply_fn=None, params=params, tx=maker({"momentum": 0.9}))
    for k in range(STEPS):
        made = made.apply_gradients(grads=grads(k, params))
    path = save(kind, tmp_path / "a", made)
    for found in (read(path), optax_states.of_state(made)):
        assert found.step == STEPS
        assert list(found.entries) == ["Dense_0/bias", "Dense_0/kernel", "Norm/scale"]
    found.groups[0]["lr_in_momentum"] = True
    empty = train_state.TrainState.create(apply_fn=None, params=params, tx=made.tx)
    like = save(kind, tmp_path / "like", empty)
    target = path.with_name(f"b{path.suffix}")
    write(target, found, like)
    same(jax.tree.leaves(load(kind, target, empty)), jax.tree.leaves(made))


def test_the_state_alone_and_parameters_alone(tmp_path: Path) -> None:
    tree = trained(maker({}))
    for kind in KINDS:
        found = read(save(kind, tmp_path / f"s{kind}", tree["opt_state"]))
        assert list(found.entries) == ["Dense_0/bias", "Dense_0/kernel", "Norm/scale"]
        assert all(e.value is None and list(e.slots) == ["v"] for e in found.entries.values())
        for n, only in enumerate(
            [tree["params"], {"params": tree["params"], "batch_stats": {"a": jnp.ones(1)}}]
        ):
            found = read(save(kind, tmp_path / f"p{n}{kind}", only))
            assert (found.slots(), found.dialect) == ((), "")
            assert found.left == ({"batch_stats": "beside the parameters"} if n else {})
            np.testing.assert_array_equal(
                found.entries["Norm/scale"].value, tree["params"]["Norm"]["scale"]
            )


def test_other_collections_beside_the_parameters_stay_behind() -> None:
    tree = trained(maker({}))
    variables = {"params": tree["params"], "batch_stats": {"mean": jnp.ones(2)}}
    found = optax_states.of_state(tree["opt_state"], variables)
    assert list(found.entries) == ["Dense_0/bias", "Dense_0/kernel", "Norm/scale"]
    assert found.left == {"batch_stats/mean": "beside the parameters"}


def test_lists_single_arrays_and_more_than_ten_of_a_kind() -> None:
    many = [{"w": jnp.full(2, float(k))} for k in range(12)]
    found = optax_states.of_state(maker({}).init(many), many)
    assert list(found.entries) == [f"{k}/w" for k in range(12)]
    last: Any = found.entries["11/w"].value
    assert float(last[0]) == 11
    back = optax_states.into_state(found, maker({}).init(many))
    same(back, maker({}).init(many))
    single = optax_states.of_state(maker({}).init(jnp.ones(3)), jnp.ones(3))
    assert list(single.entries) == ["params"]


def test_a_managers_folder_gives_its_last_step(tmp_path: Path) -> None:
    first, second = trained(maker({})), trained(maker({}), arrays(5))
    with orbax.CheckpointManager(tmp_path / "m") as manager:
        for step, tree in ((9, first), (10, second)):
            manager.save(step, args=orbax.args.StandardSave(tree))
        manager.wait_until_finished()
    found = read(tmp_path / "m")
    assert found.notes == ["of several steps the last is taken, 10"]
    for path, tree in (("m", second), ("m/10", second), ("m/9", first), ("m/9/default", first)):
        value: Any = read(tmp_path / path).entries["Norm/scale"].value
        np.testing.assert_array_equal(value, tree["params"]["Norm"]["scale"])
    with orbax.CheckpointManager(tmp_path / "n", item_names=("params", "opt_state")) as manager:
        items = {name: orbax.args.StandardSave(part) for name, part in first.items()}
        manager.save(1, args=orbax.args.Composite(**items))
        manager.wait_until_finished()
    assert read(tmp_path / "n").slots() == ("v",)
    assert read(tmp_path / "n").entries["Norm/scale"].value is not None


def test_flaxs_arrays_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tree = trained(maker({"momentum": 0.9}))
    whole = read(save("msgpack", tmp_path / "a", tree))
    monkeypatch.setattr(flax, "MAX_CHUNK_SIZE", 24)
    monkeypatch.setattr(msgpack_files, "CHUNK", 24)
    path = save("msgpack", tmp_path / "b", tree)
    assert b"__msgpack_chunked_array__" in path.read_bytes()
    found = read(path)
    same(
        {n: e.slots for n, e in found.entries.items()},
        {n: e.slots for n, e in whole.entries.items()},
    )
    write(tmp_path / "c.msgpack", found, path)
    assert (tmp_path / "c.msgpack").read_bytes() == path.read_bytes()


def test_large_and_small_arrays_are_packed_as_flax_packs_them() -> None:
    rng, dtypes = np.random.default_rng(0), ("float32", "float64", "int32", "bfloat16")
    shapes = ((), (0, 3), (7,), (200, 300), (300, 200))
    tree = {
        f"{dtype} {shape}": np.asarray(jnp.asarray(rng.normal(0, 9, shape), dtype))
        for dtype, shape in itertools.product(dtypes, shapes)
    }
    tree |= {
        "across": np.ones((300, 200)).T,
        "n": 3,
        "x": 1.5,
        "scalar": np.float32(2),
        "none": None,
    }
    tree = dict(sorted(tree.items()))  # as JAX sorts them
    assert msgpack_files.packed(tree) == flax.msgpack_serialize(tree)


def test_names_with_points_make_dicts_in_dicts(tmp_path: Path) -> None:
    rule = Rule.from_dialect("optax", lr=0.1)
    entries = {n: Entry({"v": np.ones(2)}, np.zeros(2)) for n in ("0.weight", "0.bias")}
    checkpoint = Checkpoint("optax", groups=[rule.to_dict()], entries=entries)
    write(tmp_path / "a.msgpack", checkpoint)
    tree = flax.msgpack_restore((tmp_path / "a.msgpack").read_bytes())
    assert sorted(tree["opt_state"]["0"]["nu"]["0"]) == ["bias", "weight"]
    assert list(tree["opt_state"]["1"]) == list(tree["opt_state"]["2"]) == []
    checkpoint.entries["0"] = checkpoint.entries["0.bias"]
    with pytest.raises(
        ValueError, match="'0' stands in the way of another name: rename one with --map"
    ):
        write(tmp_path / "a.msgpack", checkpoint)


REFUSED: dict[str, tuple[Any, str]] = {
    "adam": (optax.adam(0.1), "those of Adam, and of centered RMSprop with bias correction"),
    "sgd": (optax.sgd(0.1, momentum=0.9), "does not stand as optax.rmsprop has it"),
    "before": (
        optax.chain(optax.scale_by_rms(), optax.trace(0.9), optax.scale(-0.1)),
        "0?.*does not stand as optax.rmsprop has it",
    ),
    "masked": (optax.masked(maker({}), {"Dense_0": True, "Norm": False}), "state of optax.masked"),
    "steps": (optax.MultiSteps(maker({}), 2), "state of optax.MultiSteps"),
    "adagrad": (optax.adagrad(0.1), "state of optax.adagrad"),
    "lion": (optax.lion(0.1), "state of optax.lion"),
    "two": (optax.chain(maker({}), maker({})), "second average of squares"),
    "partition": (
        optax.partition({"a": maker({}), "b": optax.sgd(0.1)}, {"Dense_0": "a", "Norm": "b"}),
        "state of optax.partition",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_rmsprops_is_refused(name: str, tmp_path: Path) -> None:
    optimizer, message = REFUSED[name]
    tree = {"params": arrays(0), "opt_state": optimizer.init(arrays(0))}
    live = "another optimizer's, not RMSprop's" if name == "adam" else message
    with pytest.raises(ValueError, match=live):
        optax_states.of_state(tree["opt_state"], tree["params"])
    for kind in KINDS:
        path = save(kind, tmp_path / kind, tree)
        with pytest.raises(ValueError, match=message) as error:
            read(path)
        assert str(error.value).startswith(str(path))


@pytest.mark.parametrize("dtype", ["complex64", "int32"])
def test_numbers_that_are_not_real_are_refused_by_name(dtype: str) -> None:
    params = {"a": jnp.ones(2), "z": jnp.ones(2, dtype)}
    state = [{"nu": {"a": np.ones(2), "z": np.ones(2)}}, {}, {}]
    message = {
        "complex64": r"z \(value\) is complex64: torch averages real and imaginary parts apart",
        "int32": r"z \(value\) is int32: only real floating-point numbers can be translated",
    }[dtype]
    with pytest.raises(ValueError, match=message):
        optax_states.of_state(state, params)


def some(*slots: str, **fields: Any) -> Checkpoint:
    """A checkpoint of one parameter."""
    entry = Entry({slot: np.ones(2) for slot in slots}, np.zeros(2))
    return Checkpoint("optax", "optax", [fields], {"w": entry}, step=fields.pop("step", None))


def template(**fields: Any) -> Any:
    return maker(fields).init({"w": jnp.zeros(2)})


MISFITS: dict[str, tuple[Checkpoint, Any, str]] = {
    "no trace": (
        some("v", "b"),
        template(),
        r"holds b \(trace\), which the template does not keep: .* momentum",
    ),
    "no b": (
        some("v"),
        template(momentum=0.9),
        r"keeps b \(trace\), which the checkpoint lacks: make it without",
    ),
    "no mu": (some("v", "m"), template(), r"holds m \(mu\), .* make it with centered"),
    "no m": (some("v"), template(centered=True), r"keeps m \(mu\), .* make it without centered"),
    "no correction": (
        some("v", bias_correction=True),
        template(),
        "the checkpoint has bias_correction=True, and",
    ),
    "correction": (
        some("v"),
        template(bias_correction=True),
        "the template has bias_correction=True, and",
    ),
    "no step": (
        some("v"),
        maker({}, SCHEDULE).init({"w": jnp.zeros(2)}),
        "the template counts steps, .* --step",
    ),
    "rate": (
        some("v", "b", lr_in_momentum=False),
        template(momentum=0.9),
        "the checkpoint's b does not, or it",
    ),
    "names": (
        some("v"),
        maker({}).init({"u": jnp.zeros(2)}),
        "only the checkpoint has w; only the template has u",
    ),
    "shape": (
        some("v"),
        maker({}).init({"w": jnp.zeros(3)}),
        r"w \(v\) has the shape \(2,\), and the .* \(3,\)",
    ),
    "none": (
        some("v"),
        {"params": {"w": jnp.zeros(2)}},
        r"holds v \(nu\), which the template does not keep",
    ),
}


@pytest.mark.parametrize("name", MISFITS)
def test_a_template_that_does_not_fit_is_refused(name: str) -> None:
    checkpoint, like, message = MISFITS[name]
    with pytest.raises(ValueError, match=message):
        optax_states.into_state(checkpoint, like)


def test_numbers_are_put_where_optax_injects_them_and_what_is_told_fills_in() -> None:
    params = {"w": jnp.zeros(2)}
    fixed = optax.inject_hyperparams(optax.rmsprop)(0.1).init(params)
    found = optax_states.of_state(fixed, told={"lr": 0.5, "momentum": 0.9, "eps_in_sqrt": False})
    assert found.groups[0]["lr"] == 0.1
    assert found.groups[0]["eps_in_sqrt"] is False
    assert found.notes == [
        "the state says lr=0.1, which counts, and not 0.5",
        "the state says momentum=0.0, which counts, and not 0.9",
    ]
    moving = optax.inject_hyperparams(optax.rmsprop)(SCHEDULE).init(params)
    assert "lr follows a schedule" in optax_states.of_state(moving).notes[0]
    assert optax_states.of_state(moving, told={"lr": 0.5}).groups[0]["lr"] == 0.5

    found.groups[0] |= {"lr": 0.25, "decay": 0.75}
    found.step = 7
    state = optax_states.into_state(found, fixed)
    assert (float(state.hyperparams["learning_rate"]), float(state.hyperparams["decay"])) == (
        0.25,
        0.75,
    )
    assert int(state.count) == 7
    state = optax_states.into_state(found, moving)
    assert float(state.hyperparams["learning_rate"]) == float(moving.hyperparams["learning_rate"])
    assert int(state.hyperparams_states["learning_rate"].count) == 7


def test_groups_that_differ_and_counts_that_are_not_known_are_refused() -> None:
    rule = Rule.from_dialect("optax", lr=0.1)
    both = [rule.to_dict(), rule.replace(lr=0.2).to_dict()]
    two = {"a": Entry({"v": np.ones(1)}), "b": Entry({"v": np.ones(1)}, group=1)}
    with pytest.raises(
        ValueError, match=r"2 groups have different numbers, and one optax\.rmsprop has one"
    ):
        optax_states.fresh(Checkpoint("optax", groups=both, entries=two))
    one = {"a": Entry({"v": np.ones(1)})}
    for group in (rule.replace(bias_correction=True), rule.replace(weight_decay=0.1)):
        with pytest.raises(ValueError, match="the state to write counts steps: give --step"):
            optax_states.fresh(Checkpoint("optax", groups=[group.to_dict()], entries=one))
    with pytest.raises(ValueError, match=r"a has \['v'\], and the rule keeps \['v', 'b'\]"):
        optax_states.fresh(
            Checkpoint("optax", groups=[rule.replace(momentum=0.9).to_dict()], entries=one)
        )


def test_trees_that_disagree_are_refused() -> None:
    state = maker({}).init({"a": jnp.ones(2)})
    with pytest.raises(
        ValueError, match=r"v and the parameters are not of the same .* only the parameters has b"
    ):
        optax_states.of_state(state, {"a": jnp.ones(2), "b": jnp.ones(2)})
    with pytest.raises(ValueError, match=r"a has several shapes: v \(2,\), value \(3,\)"):
        optax_states.of_state(state, {"a": jnp.ones(3)})
    with pytest.raises(
        ValueError, match=r"it holds 2 optimizer states \(disc, gen\): give one at a time"
    ):
        optax_states.of_state({"gen": state, "disc": state})
    with pytest.raises(ValueError, match="two arrays are called 'a/b': rename one"):
        optax_states.of_state(maker({}).init({"a": {"b": jnp.ones(1)}, "a/b": jnp.ones(1)}))
    with pytest.raises(
        ValueError, match="holds no state of Optax's and no parameters; what is there: epoch"
    ):
        optax_states.of_state({"epoch": 3})


# Hostile files: each is a few bytes which claim much, or what nobody writes.


def header(shape: Any, kind: str = "float32", content: bytes = b"") -> bytes:
    return msgpack.packb({"w": msgpack.ExtType(1, msgpack.packb((shape, kind, content)))})


HOSTILE: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "damaged or no msgpack file"),
    "text": (b"hello", "damaged or no msgpack file"),
    "huge": (header([2**30, 2**10]), "claims the shape|has 0 bytes; it needs 4398046511104"),
    "larger": (header([2**60]), "shape is no list of sizes"),
    "nothing of much": (header([2**40, 2**40, 0]), "claims the shape"),
    "negative": (header([-1]), "shape is no list of sizes"),
    "short": (header([3], content=b"1234"), r"has 4 bytes; it needs 12"),
    "objects": (header([1], "object", b"12345678"), "is of type 'object'; known: int8"),
    "deep": (b"\x81\xa1a" * 500 + b"\xc0", "nested deeper than 100 levels"),
    "deeper": (b"\x91" * 10_000 + b"\xc0", "damaged or no msgpack file"),
    "long list": (b"\xdd\xff\xff\xff\xff", "damaged or no msgpack file"),
    "keys": (b"\x81\x91\x01\x01", "damaged or no msgpack file"),
    "unknown": (msgpack.packb({"a": msgpack.ExtType(9, b"x")}), "an extension of type 9"),
    "twice": (msgpack.packb({1: 1.0, "1": 2.0}), "two keys beside each other read '1'"),
    "pieces": (
        msgpack.packb(
            {"a": {"__msgpack_chunked_array__": True, "shape": {"0": 2**40}, "chunks": {}}}
        ),
        "pieces do not make its shape",
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_msgpack_files_are_refused(name: str, tmp_path: Path) -> None:
    content, message = HOSTILE[name]
    (tmp_path / "a.msgpack").write_bytes(content)
    with pytest.raises(ValueError, match=message) as error:
        read(tmp_path / "a.msgpack")
    assert str(error.value).startswith(str(tmp_path / "a.msgpack"))


def test_damaged_msgpack_files_give_an_error_or_a_checkpoint(tmp_path: Path) -> None:
    content = save("msgpack", tmp_path / "a", trained(maker({"momentum": 0.9}))).read_bytes()
    rng, path, refused = np.random.default_rng(0), tmp_path / "b.msgpack", 0
    for k in range(200):
        changed = bytearray(content[: len(content) if k % 2 else int(rng.integers(len(content)))])
        for place in rng.integers(len(changed), size=3) if k % 2 else ():
            changed[place] = rng.integers(256)
        path.write_bytes(changed)
        said = complaint(path)
        assert not said or said.startswith(str(path))
        refused += bool(said)
    assert refused > 100


def test_orbax_folders_that_claim_much_or_lead_elsewhere_are_refused(tmp_path: Path) -> None:
    tree = {"params": {"w": np.zeros(8, np.float32)}}
    with orbax.Checkpointer(orbax.PyTreeCheckpointHandler(use_ocdbt=False)) as saver:
        saver.save(tmp_path / "a", tree)
    description = tmp_path / "a" / "params.w" / ".zarray"
    fine = description.read_text()
    assert read(tmp_path / "a").entries["w"].value is not None
    for old, new in (
        ('"shape":[8]', '"shape":[8000000000]'),
        ('"chunks":[8]', '"chunks":[8000000000]'),
    ):
        assert old in fine
        description.write_text(fine.replace(old, new))
        with pytest.raises(ValueError, match="it claims arrays of over 32,000,000,000 bytes"):
            read(tmp_path / "a")
    description.write_text(fine)
    (tmp_path / "secret").write_text("secret")
    (tmp_path / "a" / "link").symlink_to(tmp_path / "secret")
    with pytest.raises(ValueError, match="link, a link or no plain file, which is not followed"):
        read(tmp_path / "a")
    (tmp_path / "a" / "link").unlink()
    os.mkfifo(tmp_path / "a" / "pipe")
    with pytest.raises(ValueError, match="pipe, a link or no plain file"):
        read(tmp_path / "a")


def test_damaged_orbax_folders_give_an_error_or_a_checkpoint(tmp_path: Path) -> None:
    folder = save("orbax", tmp_path / "a", trained(maker({})))
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p.stat().st_size)
    rng, refused = np.random.default_rng(0), 0
    for path, way in itertools.product(files, ("cut", "change", "drop")):
        content = path.read_bytes()
        changed = bytearray(content[: len(content) // 2] if way == "cut" else content)
        for place in rng.integers(len(changed), size=3) if way == "change" else ():
            changed[place] ^= 1 + rng.integers(255)
        path.unlink()
        if way != "drop":
            path.write_bytes(changed)
        said = complaint(folder)
        assert not said or said.startswith(str(folder))
        refused += bool(said)
        path.write_bytes(content)
    assert refused > len(files) / 2
    assert read(folder).slots() == ("v",)


def test_deep_folders_of_orbax_are_refused(tmp_path: Path) -> None:
    folder = save("orbax", tmp_path / "a", {"w": jnp.ones(2)})
    (folder / "_METADATA").write_text('{"tree_metadata": ' + "[" * 10_000 + "]" * 10_000 + "}")
    with pytest.raises(ValueError, match="is damaged: its _METADATA is no JSON: maximum recursion"):
        read(folder)


def test_an_orbax_folder_is_replaced_as_a_whole_and_another_is_left_alone(tmp_path: Path) -> None:
    rule, target = Rule.from_dialect("optax", lr=0.1), tmp_path / "to" / "a"
    entries = {"w": Entry({"v": np.ones(2)}, np.zeros(2))}
    made = Checkpoint("optax", groups=[rule.to_dict()], entries=entries)
    for value in (1.0, 2.0):
        entries["w"].slots["v"] = np.full(2, value)
        write(target, made)
        assert read(target).entries["w"].slots["v"].tolist() == [value, value]
        assert [p.name for p in target.parent.iterdir()] == ["a"]
    entries["w"].slots["v"] = np.array(["a", "b"])
    with pytest.raises(ValueError, match=r"opt_state/0/nu/w is <U1: only real floating-point"):
        write(target, made)
    assert read(target).entries["w"].slots["v"].tolist() == [2.0, 2.0]
    assert [p.name for p in target.parent.iterdir()] == ["a"]
    entries["w"].slots["v"] = np.ones(2)
    with pytest.raises(OSError, match="cannot be written"):
        write(tmp_path / "to" / "a" / "_METADATA" / "b", made)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("x")
    for there in (tmp_path / "mine", tmp_path / "mine" / "thesis.txt"):
        with pytest.raises(ValueError, match="is there, and no folder of one Orbax tree"):
            orbax_files.write(there, made, None)
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "x"


def test_files_that_are_not_there_and_packages_that_are_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (msgpack_files, orbax_files):
        with pytest.raises(FileNotFoundError, match="absent"):
            module.read(tmp_path / "absent", {})
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="is no folder of Orbax's: no _METADATA in it"):
        read(tmp_path / "empty")
    monkeypatch.setitem(sys.modules, "msgpack", None)
    monkeypatch.setitem(sys.modules, "tensorstore", None)
    for module in (msgpack_files, orbax_files):
        with pytest.raises(ModuleNotFoundError, match=r"pip install 'rmsprop\[convert\]'"):
            module.read(tmp_path / "empty", {})
