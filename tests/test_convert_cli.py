"""rmsprop convert and rmsprop inspect: what they print, refuse and leave alone."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rmsprop import Rule, convert
from rmsprop.convert import Checkpoint, Entry
from rmsprop.convert.tensorflow.bundle_writing import write_bundle
from test_cli import Command, run  # noqa: F401  (a fixture)

SHAPES = {"dense/kernel": (3, 2), "dense/bias": (2,)}


def made(rule: Rule, **fields: Any) -> Checkpoint:
    rng = np.random.default_rng(0)
    entries = {
        name: Entry(
            {slot: rng.random(shape, np.float32) for slot in rule.slots},
            rng.random(shape, np.float32),
            role=name.partition("/")[2],
        )
        for name, shape in SHAPES.items()
    }
    return Checkpoint("numpy", "", [rule.to_dict()], entries, 7, "keras", **fields)


@pytest.fixture
def state(run: Command) -> str:  # noqa: F811
    """A state of ours, with momentum and the rule of Keras, in the working folder."""
    rule = Rule.from_dialect("keras", lr=0.5, momentum=0.9)
    convert.write(made(rule), Path("state.safetensors"), "numpy")
    return "state.safetensors"


@pytest.fixture
def tf1(run: Command) -> str:  # noqa: F811
    """A TensorFlow 1 checkpoint."""
    arrays = {"global_step": np.array(7)}
    for name, shape in SHAPES.items():
        for suffix in ("", "/RMSProp", "/RMSProp_1"):
            arrays[name + suffix] = np.full(shape, 0.25, np.float32)
    write_bundle("model-7", arrays)
    return "model-7"


def test_inspect(run: Command, state: str) -> None:  # noqa: F811
    done = run("inspect", state)
    assert done.code == 0
    assert "state.safetensors: rmsprop.numpy, step 7" in done.out
    assert "Rule(lr=0.5, eps=1e-07, momentum=0.9" in " ".join(done.out.split())
    assert "dense/kernel  3 x 2  value, v, b (float32)" in done.out
    assert max(map(len, done.out.splitlines())) <= 80
    found = json.loads(run("inspect", state, "--json").out)
    assert found["step"] == 7
    assert found["rules"][0]["momentum"] == 0.9
    assert [p["name"] for p in found["parameters"]] == list(SHAPES)
    assert found["parameters"][0]["holds"] == dict.fromkeys(("value", "v", "b"), "float32")


def test_inspect_names_what_is_assumed(run: Command, tf1: str) -> None:  # noqa: F811
    said = " ".join(run("inspect", tf1).out.split())
    assert "model-7: TensorFlow 1, dialect tf1, step 7" in said
    assert "Not in the file, the dialect's defaults: decay 0.9, eps 1e-10, momentum 0" in said
    assert "whether there was momentum is not said: without, b is the last update" in said
    assert "sqrt(mean v)" in said
    assert "0.5" in said  # the root of 0.25
    told = run("inspect", tf1, "--from", "tf1:momentum=0.9:decay=0.99:eps=1e-8:lr=0.1")
    assert "Not in the file" not in told.out


def test_a_training_of_ours(run: Command) -> None:  # noqa: F811
    """Its newest checkpoint, by the name of its folder."""
    done = run("train", "xor", "--epochs", "2", "--hidden", "4", "--out", "there")
    assert done.code == 0, done.err
    said = run("inspect", "there").out
    assert "there: rmsprop.numpy, step" in said
    done = run("convert", "there", "out.safetensors", "--lr", "0.1")
    assert done.code == 0, done.err
    found = convert.read("out.safetensors")
    assert found.slots() == ("v",)
    assert found.step == convert.read("there").step


def test_inspect_counts_what_is_not_finite(run: Command) -> None:  # noqa: F811
    found = made(Rule())
    found.entries["dense/bias"].slots["v"][0] = np.nan
    convert.write(found, Path("bad.safetensors"), "numpy")
    assert "1 NOT FINITE" in " ".join(run("inspect", "bad.safetensors").out.split())


def test_convert_prints_a_row_for_each_tensor(run: Command, state: str) -> None:  # noqa: F811
    pytest.importorskip("torch")
    done = run("convert", state, "out.pt")
    assert done.code == 0, done.err
    assert max(map(len, done.out.splitlines())) <= 80
    rows = [line.split() for line in done.out.splitlines()]
    assert ["dense/kernel", "dense.weight", "b", "2", "x", "3", "transposed", "yes"] in rows
    assert ["dense/bias", "dense.bias", "v", "2", "copied", "yes"] in rows
    assert "Written: out.pt. Goes on with timm.optim.RMSpropTF" in done.out
    found = convert.read("out.pt")
    assert found.step == 7
    assert found.rule() == Rule.from_dialect("keras", lr=0.5, momentum=0.9)
    source = convert.read(state).entries["dense/kernel"]
    np.testing.assert_array_equal(found.entries["dense.weight"].slots["b"], source.slots["b"].T)


def test_a_tensorflow_run_goes_on_elsewhere(run: Command, tf1: str) -> None:  # noqa: F811
    refused = run("convert", tf1, "out.safetensors", "--lr", "0.1")
    assert refused.code == 2
    assert "say which, --from tf1:momentum=0.9 or tf1:momentum=0" in refused.err
    refused = run("convert", tf1, "out.safetensors", "--from", "tf1:momentum=0.9")
    assert "does not say the learning rate: give it, --lr 0.001" in refused.err
    assert not Path("out.safetensors").exists()
    done = run("convert", tf1, "out.safetensors", "--from", "tf1:momentum=0.9", "--lr", "0.1")
    assert done.code == 0, done.err
    found = convert.read("out.safetensors")
    assert found.rule() == Rule.from_dialect("tf1", lr=0.1, momentum=0.9)
    again = run("convert", "out.safetensors", "again-7", "--to", "tf1")
    assert again.code == 0, again.err
    back = convert.read("again-7", momentum=0.9).entries
    for name, entry in convert.read(tf1, momentum=0.9).entries.items():
        for slot in ("v", "b"):
            np.testing.assert_array_equal(back[name].slots[slot], entry.slots[slot])


def test_what_may_be_flattened_is_asked(run: Command) -> None:  # noqa: F811
    """No TensorFlow checkpoint says how its layers are connected."""
    pytest.importorskip("torch")
    arrays = {}
    for name, shape in {"c/kernel": (3, 3, 1, 4), "d/kernel": (16, 2), "e/kernel": (3, 2)}.items():
        arrays |= {f"{name}{s}": np.ones(shape, np.float32) for s in ("", "/RMSProp", "/RMSProp_1")}
    write_bundle("model", arrays)
    words = ("--from", "tf1:momentum=0", "--lr", "0.1", "--step", "5")
    said = " ".join(run("convert", "model", "out.pt", *words).out.split())
    assert "d/kernel takes 16 numbers and a convolution gives 4 channels: if it stands" in said
    assert "e/kernel takes" not in said


def test_a_loss_is_told_and_nothing_is_written(run: Command, state: str) -> None:  # noqa: F811
    Path("out.safetensors").write_text("old")
    done = run("convert", state, "out.safetensors", "--as", "torch")
    assert done.code == 2
    assert "divided by lr 0.5" in done.out
    assert "Lost (eps): eps stands elsewhere" in done.out
    assert "Nothing is written to out.safetensors." in done.out
    told = "nothing is written to out.safetensors; to accept what is lost: --accept eps"
    assert done.err == f"rmsprop: {told}\n"
    assert Path("out.safetensors").read_text() == "old"
    done = run("convert", state, "out.safetensors", "--as", "torch", "--accept", "eps")
    assert done.code == 0, done.err
    assert convert.read("out.safetensors").rule() == Rule(lr=0.5, eps=1e-7, momentum=0.9)


def test_dry_run_and_json(run: Command, state: str) -> None:  # noqa: F811
    done = run("convert", state, "out.safetensors", "--dry-run")
    assert done.code == 0
    said = " ".join(done.out.split())
    assert "Nothing is written to out.safetensors. Would go on with rmsprop.numpy" in said
    assert not Path("out.safetensors").exists()
    found = json.loads(run("convert", state, "out.safetensors", "--json").out)
    assert found["written"] is True
    assert found["losses"] == []
    assert {row["exact"] for row in found["rows"]} == {"yes"}
    assert len(found["rows"]) == 6
    lost = run("convert", state, "x.safetensors", "--as", "torch", "--json")
    assert lost.code == 2
    assert json.loads(lost.out)["written"] is False


def test_a_map(run: Command, state: str) -> None:  # noqa: F811
    Path("names.toml").write_text(
        '"dense/kernel" = {to = "w", layout = "transpose"}\n"dense/bias" = "b"\n'
    )
    done = run("convert", state, "out.safetensors", "--map", "names.toml")
    assert done.code == 0, done.err
    found = convert.read("out.safetensors").entries
    assert {name: entry.shape for name, entry in found.items()} == {"w": (2, 3), "b": (2,)}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("inspect", "none.pt"), "none.pt does not exist"),
        (("inspect", "."), "the folder . is none of what is known: a PyTorch file"),
        (("convert", "{}", "{}"), "SRC and DST are the same"),
        (("convert", "{}", "out.safetensors", "--lr", "much"), "--lr takes numbers; got 'much'"),
        (("convert", "{}", "out.safetensors", "--from", "kreas"), "did you mean 'keras'?"),
        (("convert", "{}", "out.safetensors", "--from", "bitsandbytes"), "--from says bitsandbytes"),
        (("convert", "{}", "out.safetensors", "--map", "none.toml"), "none.toml"),
        (("convert", "{}", "out.safetensors", "--as", "graves"), "own optimizer computes 'graves'"),
        (("convert", "{}", "out.keras"), "give --like model.keras"),
        (("convert", "{}", "out"), "what is to be written at out? Say --to"),
        (("convert", "{}", "out.npz", "--to", "numpy"), "numpy is written to .safetensors"),
    ],
)  # fmt: skip
def test_errors_are_a_line(words: tuple[str, ...], message: str, run: Command, state: str) -> None:  # noqa: F811
    done = run(*(word.format(state) for word in words))
    assert done.code == 2
    assert done.err.startswith("rmsprop: ")
    assert message in done.err
    assert len(done.err.splitlines()) == 1
    assert [p.name for p in Path().iterdir()] == [state]
