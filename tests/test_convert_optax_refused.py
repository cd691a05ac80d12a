"""What is refused of Optax's states, and damaged and hostile files."""

import itertools
import os
import sys
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

from rmsprop import Rule  # noqa: E402
from rmsprop.convert.checkpoint import Checkpoint, Entry  # noqa: E402
from rmsprop.convert.optax import msgpack_files, orbax_files  # noqa: E402
from rmsprop.convert.optax import states as optax_states  # noqa: E402
from test_convert_optax import (  # noqa: E402
    KINDS,
    SCHEDULE,
    arrays,
    complaint,
    maker,
    read,
    save,
    trained,
    write,
    x64,
)

__all__ = ["x64"]  # a fixture for all tests here


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
