"""Training: the same seed the same run, what its record says, and what becomes of one that diverges."""

import dataclasses
import json
from collections.abc import Iterator
from typing import Any

import numba
import numpy as np
import pytest
from sklearn.metrics import accuracy_score, log_loss, r2_score
from threadpoolctl import threadpool_limits

import needs
import rmsprop.learners.arrays as learning
import rmsprop.train as training
from rmsprop import Rule, reference
from rmsprop.data import Split, batches
from rmsprop.models import MLP
from rmsprop.schedules import Cosine
from rmsprop.tasks import Task
from rmsprop.train import Run, train
from test_tasks import write_csv, write_npz

SGD, ADAM = Rule.from_dialect("sgd", lr=0.1), Rule.from_dialect("adam", lr=0.01)
RMSPROP = Rule(lr=0.005)
DIGITS = Task.of("digits", epochs=4)


def untimed(run: Run) -> dict[str, Any]:
    record = run.to_dict()
    assert len(record.pop("seconds")) == len(record["steps"])
    return record


@pytest.fixture
def models(monkeypatch) -> list[MLP]:
    """The models that `train` makes, in order."""
    made: list[MLP] = []
    make = Task.model

    def model(task: Task, seed: int) -> MLP:
        made.append(make(task, seed))
        return made[-1]

    monkeypatch.setattr(Task, "model", model)
    return made


@pytest.fixture
def orders(monkeypatch) -> list[list[int]]:
    """The order of the rows in each pass that `train` makes."""
    made: list[list[int]] = []

    def recorded(n: int, size: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
        rows = list(batches(n, size, rng))
        made.append(np.concatenate(rows).tolist())
        return iter(rows)

    monkeypatch.setattr(training, "batches", recorded)
    return made


# The same seed, the same run


@pytest.mark.parametrize("rule", [RMSPROP, ADAM, SGD], ids=["rmsprop", "adam", "sgd"])
@pytest.mark.parametrize("schedule", ["constant", "cosine"])
def test_the_same_seed_is_the_same_run_and_another_is_not(rule, schedule):
    first, again, other = (
        untimed(train(DIGITS, rule, seed=seed, schedule=schedule, details=True))
        for seed in (3, 3, 4)
    )
    assert first == again
    assert first["seed"] == 3
    for name in ("train_loss", "validation_loss"):
        assert all(a != b for a, b in zip(first[name], other[name], strict=True))


def test_the_same_seed_gives_every_rule_the_same_start_and_batches(orders):
    runs = [train(DIGITS, rule, seed=5) for rule in (RMSPROP, ADAM, SGD)]
    assert len({run.train_loss[0] for run in runs}) == 1
    assert len({run.validation_loss[0] for run in runs}) == 1
    assert len({run.train_loss[1] for run in runs}) == 3
    passes = [orders[k : k + 4] for k in (0, 4, 8)]
    assert passes[0] == passes[1] == passes[2]
    rows = list(range(len(DIGITS.dataset.train)))
    assert all(sorted(order) == rows for order in orders)  # every row once a pass
    assert len({tuple(order) for order in passes[0]}) == 4  # shuffled anew
    train(DIGITS, SGD, seed=6)
    assert not any(order in passes[0] for order in orders[12:])


def test_a_run_does_not_change_the_random_state_of_numpy_or_another_run():
    state: Any = np.random.get_state()  # noqa: NPY002
    alone = untimed(train(Task.of("moons", epochs=2), RMSPROP, seed=1))
    train(Task.of("moons", epochs=2), ADAM, seed=2)
    assert untimed(train(Task.of("moons", epochs=2), RMSPROP, seed=1)) == alone
    after: Any = np.random.get_state()  # noqa: NPY002
    assert np.array_equal(state[1], after[1])


def test_the_number_of_threads_does_not_change_a_bit():
    task = Task.of("digits", hidden=(512, 256), batch_size=256, epochs=2)
    before, found = numba.get_num_threads(), []
    try:
        for threads in (1, 2):
            numba.set_num_threads(threads)
            with threadpool_limits(threads, user_api="blas"):
                found.append(untimed(train(task, RMSPROP)))
    finally:
        numba.set_num_threads(before)
    assert found[0] == found[1]


# What is recorded


@pytest.mark.parametrize("schedule", ["constant", "cosine"])
@pytest.mark.parametrize("rule", [RMSPROP, ADAM], ids=["rmsprop", "adam"])
def test_a_run_is_the_loop_written_out(rule, schedule):
    """By the reference, one array at a time, from what the documentation promises."""
    task, seed = Task.of("moons", epochs=3), 2
    data, model, rng = task.dataset, task.model(seed), np.random.default_rng(seed)
    x, y = data.train.x, data.train.y
    total = 3 * task.steps_per_epoch
    states = {name: reference.init(rule, p) for name, p in model.params.items()}
    losses, t = [model.loss(x, y)], 0
    for _ in range(3):
        seen = []
        for rows in batches(len(x), 32, rng):
            loss, grads = model.loss_and_grads(x[rows], y[rows])
            seen += [loss] * len(rows)
            lr = rule.lr if schedule == "constant" else Cosine(rule.lr, total)(t)
            for name, p in model.params.items():
                p[...], states[name] = reference.update(
                    rule.replace(lr=lr), p.copy(), grads[name], states[name]
                )
            t += 1
        losses.append(float(np.mean(seen)))
    run = train(task, rule, seed=seed, schedule=schedule)
    assert t == run.steps[-1] == total
    np.testing.assert_allclose(np.array(run.train_loss, float), losses, rtol=2e-5)
    end = model.loss(data.validation.x, data.validation.y)
    assert run.validation_loss[-1] == pytest.approx(end, rel=2e-5)


@pytest.mark.parametrize("name", ["digits", "moons", "xor", "linear"])
def test_the_measurements_are_those_of_the_trained_model(name, models):
    task = Task.of(name, epochs=3)
    run = train(task, RMSPROP, seed=1, schedule="cosine")
    model, data = models[-1], task.dataset
    assert run.steps == [k * task.steps_per_epoch for k in range(4)]
    assert all(
        len(curve) == 4 for curve in (run.train_loss, run.validation_loss, run.validation_score)
    )
    assert run.seconds[0] == 0.0
    assert all(a < b for a, b in zip(run.seconds, run.seconds[1:], strict=False))
    assert (run.task, run.seed, run.schedule) == (name, 1, "cosine")
    assert Rule.from_dict(run.rule) == RMSPROP
    for split, score, loss in (
        (data.validation, run.validation_score[-1], run.validation_loss[-1]),
        (data.test, run.test_score, run.test_loss),
    ):
        if data.kind == "regression":
            prediction = model.predict(split.x)
            assert score == pytest.approx(r2_score(split.y, prediction), abs=1e-6)
            assert loss == pytest.approx(np.mean((split.y[:, 0] - prediction) ** 2), rel=1e-5)
        else:
            assert score == pytest.approx(accuracy_score(split.y, model.predict(split.x)))
            proba = model.predict_proba(split.x).astype(float)
            proba /= proba.sum(axis=1, keepdims=True)
            labels = range(len(data.classes))
            assert loss == pytest.approx(log_loss(split.y, proba, labels=labels), rel=1e-4)


@pytest.mark.parametrize(
    ("name", "rule", "score"),
    [
        ("digits", RMSPROP, 0.93),
        ("digits", SGD, 0.93),
        ("moons", Rule(lr=0.01), 0.93),
        ("xor", Rule(lr=0.01), 0.95),
        ("linear", Rule(lr=0.01), 0.6),
    ],
)
def test_losses_fall_and_scores_rise(name, rule, score):
    run = train(Task.of(name), rule, schedule="cosine")
    first, last = run.train_loss[0], run.train_loss[-1]
    assert first is not None
    assert last is not None
    assert last < 0.6 * first
    assert run.validation_loss[-1] < run.validation_loss[0]  # type: ignore[operator]
    assert run.validation_score[-1] > max(score, run.validation_score[0])  # type: ignore[operator,type-var]
    assert run.test_score is not None
    assert run.test_score > score
    assert not run.diverged


def test_the_test_split_is_not_looked_at_before_the_end(models, monkeypatch):
    task = Task.of("digits", epochs=3)
    data, updates, looks = task.dataset, [0], []
    step = learning.Optimizer.update

    def update(self: Any, params: Any, grads: Any) -> Any:
        updates[0] += "w1" in params
        return step(self, params, grads)

    class Guarded(Split):
        def __getattribute__(self, name: str) -> Any:
            if name in ("x", "y"):
                looks.append(updates[0])
            return super().__getattribute__(name)

    guarded = Guarded(data.test.x, data.test.y)
    monkeypatch.setattr(Task, "dataset", dataclasses.replace(data, test=guarded))
    monkeypatch.setattr(learning.Optimizer, "update", update)
    looks.clear()
    run = train(task, RMSPROP, details=True)
    assert run.test_score is not None
    assert looks
    assert set(looks) == {run.steps[-1]}


# Details


def test_effective_rates_are_quantiles_of_what_each_weight_is_multiplied_by(monkeypatch):
    made = []
    real = learning.Optimizer
    monkeypatch.setattr(
        learning, "Optimizer", lambda *a, **k: made.append(real(*a, **k)) or made[-1]
    )
    run = train(DIGITS, RMSPROP, details=True)
    optimizer = next(o for o in made if o.step_count == run.steps[-1])
    assert run.rates is not None
    assert list(run.rates) == ["w1", "b1", "w2", "b2"]
    for name, rows in run.rates.items():
        assert len(rows) == DIGITS.epochs
        assert all(0 < low <= middle <= high for low, middle, high in rows)  # type: ignore[operator]
        v = optimizer.state.slots["v"][name].astype(np.float64)
        expected = np.quantile(0.005 / (np.sqrt(v) + 1e-8), (0.1, 0.5, 0.9))
        np.testing.assert_allclose(np.array(rows[-1], float), expected, rtol=1e-4)


def test_a_rate_that_the_schedule_takes_down_falls_in_the_record_too():
    constant, cosine = (
        train(DIGITS, RMSPROP, schedule=schedule, details=True).rates
        for schedule in ("constant", "cosine")
    )
    assert constant is not None
    assert cosine is not None
    assert constant["w1"][-1][1] > constant["w1"][0][1]  # type: ignore[operator]
    assert 0 < cosine["w1"][-1][1] < 0.01 * constant["w1"][-1][1]  # type: ignore[operator]


def test_a_rule_without_averages_has_no_effective_rates():
    assert train(DIGITS, SGD, details=True).rates is None
    plain = train(DIGITS, RMSPROP)
    assert plain.rates is None
    assert plain.examples is None


def test_examples_are_what_the_model_says_of_the_first_and_of_its_mistakes(models):
    run = train(Task.of("digits", epochs=2), RMSPROP, details=True)
    data, model = DIGITS.dataset, models[-1]
    predicted = model.predict(data.test.x)
    assert run.examples is not None
    assert [k for k, _ in run.examples[:10]] == list(range(10))
    assert all(says == predicted[k] for k, says in run.examples)
    wrong = np.flatnonzero(predicted != data.test.y)
    assert [k for k, _ in run.examples[10:]] == wrong[wrong >= 10][:10].tolist() != []
    assert train(Task.of("moons", epochs=1), RMSPROP, details=True).examples is None


# Divergence


@pytest.mark.parametrize("name", ["digits", "xor", "linear"])
@pytest.mark.parametrize("details", [False, True])
def test_a_run_that_diverges_stops_and_says_so_without_nan(name, details):
    task = Task.of(name, epochs=20)
    run = train(task, Rule.from_dialect("sgd", lr=1e6), details=details)
    assert run.diverged
    assert run.test_loss is None
    assert run.test_score is None
    text = json.dumps(run.to_dict(), allow_nan=False)
    assert json.loads(text)["diverged"] is True
    if name != "xor":  # whose network dies: its loss is large, and finite
        assert len(run.steps) < 21
        assert None in (run.train_loss[-1], run.validation_loss[-1])
        assert len(run.steps) == len(run.train_loss) == len(run.validation_score)


def test_a_loss_that_ends_above_its_start_has_diverged_though_it_is_finite():
    run = train(Task.of("moons", epochs=5), Rule.from_dialect("sgd", lr=0.01, maximize=True))
    assert None not in run.train_loss
    assert len(run.steps) == 6
    assert run.diverged
    assert run.test_score is not None  # finite, and so measured; a comparison leaves the run out


@pytest.mark.parametrize("name", ["digits", "moons", "linear"])
def test_a_rate_of_nothing_changes_nothing_and_is_no_divergence(name):
    run = train(Task.of(name, epochs=2), RMSPROP.replace(lr=0.0))
    assert not run.diverged
    assert len(set(run.validation_loss)) == 1
    np.testing.assert_allclose(np.array(run.train_loss, float), run.train_loss[0] or 0, rtol=1e-5)


def test_a_schedule_is_one_of_those_that_have_names():
    with pytest.raises(
        ValueError, match="schedule must be one of constant, cosine, step, exponential; got 'cosin'"
    ):
        train(DIGITS, RMSPROP, schedule="cosin")


# The user's own data


def test_a_regression_from_a_csv_is_learnt(tmp_path):
    run = train(
        Task.of(str(write_csv(tmp_path / "rent.csv", rows=300))), Rule(lr=0.01), schedule="cosine"
    )
    assert run.task == "rent"
    assert run.test_score is not None
    assert run.test_score > 0.98


def test_pictures_from_an_npz_are_learnt_and_shown_however_few(tmp_path):
    task = Task.of(str(write_npz(tmp_path / "bars.npz")), batch_size=8)
    run = train(task, Rule(lr=0.01), details=True)
    assert run.test_score == 1.0
    assert run.examples == [[k, int(task.dataset.test.y[k])] for k in range(8)]


@pytest.mark.long
def test_mnist_reaches_what_a_network_of_its_size_can():
    task = Task.of("mnist", data_dir=str(needs.data_dir()))
    run = train(task, Rule(lr=3.16e-3), seed=0, schedule="cosine")
    assert task.to_dict()["widths"] == [784, 128, 10]
    assert run.steps[-1] == 10 * 391
    assert run.test_score is not None
    assert run.test_score >= 0.977
