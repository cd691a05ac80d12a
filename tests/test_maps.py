"""Response maps of tasks, and `rmsprop map` from the command to its files."""

import json
from pathlib import Path

import numpy as np
import pytest

from rmsprop.entries import entries
from rmsprop.ledger import Ledger
from rmsprop.maps import surface_map, task_map, within
from rmsprop.space import Range
from rmsprop.surfaces import SURFACES
from rmsprop.tasks import OwnTask, Task
from rmsprop.train import train
from trained import rmsprop

LR, DECAY = Range("lr", 1e-3, 1.0, count=4), Range("decay", 0.5, 0.99, count=3)
RMSPROP = entries(["rmsprop"], [])
XOR = Task.of("xor", epochs=4)


class Alone:
    """A task that is trained one by one: it is no `Task`, so that nothing is known of its network."""

    def __init__(self) -> None:
        self.name, self.epochs, self.batch_size, self.metric = "alone", 4, 32, "accuracy"
        self.steps_per_epoch = XOR.steps_per_epoch

    def to_dict(self) -> dict:
        return XOR.to_dict()

    def learner(self, rule, plan, seed):
        return XOR.learner(rule, plan, seed)


@pytest.mark.parametrize("task", [XOR, Alone()], ids=["at once", "one by one"])
def test_a_cell_is_what_train_says(task):
    study = task_map(task, RMSPROP, LR, DECAY, seeds=2, target=0.9)
    assert study["settings"]["at_once"] == (task is XOR)
    found = study["maps"][0]
    for i, j in ((0, 0), (2, 3), (1, 1)):
        rule = RMSPROP[0].rule.replace(lr=LR.values()[j], decay=DECAY.values()[i])
        runs = [train(XOR, rule, seed=seed, schedule="cosine") for seed in (0, 1)]
        assert found["diverged"][i, j] == np.mean([run.diverged for run in runs])
        if any(run.diverged for run in runs):
            assert np.isnan(found["score"][i, j])
            continue
        scores = [[x or 0.0 for x in run.validation_score] for run in runs]
        assert found["score"][i, j] == pytest.approx(np.mean([s[-1] for s in scores]), abs=0.011)
        losses = [run.validation_loss[-1] or 0.0 for run in runs]
        assert found["loss"][i, j] == pytest.approx(np.mean(losses), rel=1e-3)
        firsts = [next((k for k, x in enumerate(s) if x >= 0.9), None) for s in scores]
        if None in firsts:
            assert np.isnan(found["steps"][i, j])
        else:
            steps = [run.steps[k or 0] for run, k in zip(runs, firsts, strict=True)]
            assert found["steps"][i, j] == np.mean(steps)
    assert found["best"]["outcome"] == np.nanmax(found["score"])
    start, best = found["start"]["score"], found["best"]["outcome"]
    near = found["score"] - start >= 0.95 * (best - start)
    np.testing.assert_array_equal(within(found), near)
    assert found["tunability"] == near.mean()


def test_other_outcomes_and_a_default_target():
    for outcome in ("loss", "steps"):
        study = task_map(XOR, RMSPROP, LR, DECAY, outcome=outcome)
        found = study["maps"][0]
        assert found["best"]["outcome"] == np.nanmin(found[outcome])
        highest = np.nanmax(found["score"])
        assert study["settings"]["target"] == round(0.99 * float(highest), 4)


def test_one_by_one_goes_on_with_what_was_kept(tmp_path):
    path = tmp_path / "runs.jsonl"
    first = task_map(Alone(), RMSPROP, LR, DECAY, ledger=Ledger(path))
    lines = path.read_text().splitlines()
    assert len(lines) == 13  # Keras's defaults lie on the map, and are run too
    path.write_text("\n".join(lines[:5]) + "\n")
    again = task_map(Alone(), RMSPROP, LR, DECAY, ledger=Ledger(path, resume=True))
    np.testing.assert_array_equal(first["maps"][0]["score"], again["maps"][0]["score"])


def test_divergence_is_no_outcome():
    task = Task.of("linear", epochs=2)
    rates, decays = Range("lr", 0.01, 1e6, count=4), Range("weight_decay", 1e-6, 1e-3, count=2)
    study = task_map(task, entries(["sgd"], []), rates, decays)
    found = study["maps"][0]
    assert found["diverged"][:, -1].tolist() == [1.0, 1.0]
    assert np.isnan(found["score"][:, -1]).all()
    assert found["best"]["column"] < 3


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"x": DECAY}, "two different numbers"),
        ({"outcome": "speed"}, "outcome must be one of"),
        ({"competitors": []}, "at least one optimizer"),
        ({"seeds": 0}, "seeds must be 1 or more"),
        ({"x": Range("lr", 0.1, 1, count=500), "y": Range("eps", 0.1, 1, count=500)}, "at most 100,000 runs"),
        ({"x": Range("learning_rate", 0.1, 1)}, "the rule has no 'learning_rate'"),
        ({"x": Range("momentum", 0.0, 2.0, "linear")}, "momentum must be a number in"),
    ],
)  # fmt: skip
def test_what_cannot_be_a_map_is_refused(options, said):
    given = {"competitors": RMSPROP, "x": LR, "y": DECAY} | options
    with pytest.raises(ValueError, match=said):
        task_map(XOR, given.pop("competitors"), given.pop("x"), given.pop("y"), **given)


def test_the_users_own_network_is_mapped_at_once():
    task = OwnTask("mine", XOR.dataset, lambda seed: XOR.model(seed), epochs=2)
    assert task_map(task, RMSPROP, LR, DECAY)["settings"]["at_once"]


AXES = ("--x", "lr=1e-4:1:log:20", "--y", "decay=0.5:0.999:log1m:12")


def test_the_command_writes_pictures_and_arrays(tmp_path):
    words = ("map", "booth", *AXES, "--optimizers", "rmsprop,adam", "--steps", "100")
    result = rmsprop(*words, "--starts", "3", "--target", "1", "--out", str(tmp_path / "map"))
    assert result.code == 0, result.err
    assert "within 5% of the best" in " ".join(result.out.split())
    assert all(len(line) <= 80 for line in result.out.splitlines() if "Picture" not in line)
    names = sorted(path.name for path in (tmp_path / "map").iterdir())
    assert names == ["map.npz", "map.png", "map.svg", "run.json"]
    lr, decay = Range("lr", 1e-4, 1, count=20), Range("decay", 0.5, 0.999, count=12)
    both = entries(["rmsprop", "adam"], [])
    study = surface_map(SURFACES["booth"], both, lr, decay, steps=100, starts=3, target=1.0)
    with np.load(tmp_path / "map" / "map.npz", allow_pickle=False) as arrays:
        np.testing.assert_array_equal(arrays["x"], lr.values())
        np.testing.assert_array_equal(arrays["y"], decay.values())
        for k in (0, 1):
            for name in ("loss", "final", "steps", "diverged"):
                np.testing.assert_array_equal(arrays[f"{k}/{name}"], study["maps"][k][name])
    record = json.loads((tmp_path / "map" / "run.json").read_text())
    assert record["maps"][1]["best"] == study["maps"][1]["best"]
    assert record["command"].startswith("rmsprop map booth")
    assert "<svg" in (tmp_path / "map" / "map.svg").read_text()


def test_the_command_maps_a_task_and_a_users_surface(tmp_path: Path):
    words = ("map", "xor", "--epochs", "2", "--x", "lr=1e-3:1:log:4", "--y", "eps=1e-8:1:log:3")
    result = rmsprop(*words, "--out", str(tmp_path / "task"), "--json")
    assert result.code == 0, result.err
    assert json.loads(result.out)["task"]["name"] == "xor"
    mine = tmp_path / "mine.py"
    mine.write_text("def bowl(x, y):\n    return (x - 1) ** 2 + 3 * y ** 2\n")
    result = rmsprop("map", f"{mine}:bowl", *AXES, "--steps", "50", "--out", str(tmp_path / "own"))
    # Of a function of one's own the minimum is not known: the map is of the steps to leave the domain.
    assert result.code == 0, result.err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("booth", "--x", "lr=1:0.1"), "must run from low to a higher end"),
        (("booth", "--x", "lr=0.1,1"), "an axis is a range"),
        (("booth", "--y", "lr=0.1:1"), "lr"),
        (("booth", "--y", "beta=0.1:0.9"), "'beta'"),
        (("booth", "--y", "centered=0:1"), "centered is a switch"),
        (("booth", "--epochs", "3"), "does not take --epochs"),
        (("xor", "--starts", "3"), "does not take --starts"),
        (("booth", "--start", "1,2", "--starts", "3"), "not both"),
        (("both",), "did you mean 'booth'"),
        (("saddle", "--outcome", "loss"), "take outcome='steps'"),
        (("booth", "--x", "lr=0.1:1:log:5000", "--y", "eps=0.1:1:log:5000"), "at most 4,000,000 runs"),
    ],
)  # fmt: skip
def test_bad_input_is_told_in_a_line(words, said, tmp_path):
    result = rmsprop("map", *words, "--out", str(tmp_path / "out"))
    assert result.code == 2
    assert said in result.err
    assert len(result.err.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()
