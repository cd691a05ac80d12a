"""rmsprop.convert for Optax: against Optax, and the files that Flax and Orbax themselves write and read."""

import functools
import itertools
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
