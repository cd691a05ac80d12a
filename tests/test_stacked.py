"""Copies trained at once against the same copies trained one by one."""

import time
import warnings
from typing import Any

import numpy as np
import pytest

from rmsprop.data import from_arrays
from rmsprop.models import MLP
from rmsprop.numpy import Optimizer
from rmsprop.rule import Rule
from rmsprop.run import Run
from rmsprop.stacked import StackedMLP, StackedOptimizer, can_stack, train_many
from rmsprop.tasks import OwnTask, Task
from rmsprop.train import train

# Every switch, and a network for each: activation, loss, sizes.
NETWORKS = [
    ("relu", "softmax_cross_entropy", (5, 7, 4)),
    ("tanh", "binary_cross_entropy", (5, 6, 3, 1)),
    ("sigmoid", "squared_error", (5, 4, 2)),
    ("relu", "squared_error", (5, 1)),
    ("sigmoid", "softmax_cross_entropy", (5, 3, 3)),
]
RULES = {
    "hinton": Rule(lr=0.02),
    "torch": Rule.from_dialect("torch", lr=0.01, momentum=0.9, weight_decay=0.01),
    "centered": Rule.from_dialect("torch", lr=0.01, centered=True, momentum=0.5),
    "graves": Rule.from_dialect("graves", lr=0.01),
    "keras": Rule.from_dialect("keras", lr=0.01, momentum=0.9, nesterov=True),
    "tf1": Rule.from_dialect("tf1", lr=0.02, centered=True, momentum=0.3),
    "corrected": Rule(lr=0.01, bias_correction=True, centered=True, eps_in_sqrt=True),
    "sgd": Rule.from_dialect("sgd", lr=0.1, clip_value=0.02),
    "nesterov": Rule.from_dialect("nesterov", lr=0.05, weight_decay=0.1),
    "adagrad": Rule.from_dialect("adagrad", lr=0.05, initial_scale=0.1),
    "adam": Rule.from_dialect("adam", lr=0.01, clip_norm=0.05),
    "adamw": Rule.from_dialect("adamw", lr=0.01, weight_decay=0.1),
    "global": Rule(lr=0.01, clip_global_norm=0.1, momentum=0.9),
    "maximize": Rule(lr=0.001, maximize=True, weight_decay=0.1, decoupled_weight_decay=True),
}
CASES = [(name, NETWORKS[k % len(NETWORKS)]) for k, name in enumerate(RULES)]
CASES += [("hinton", network) for network in NETWORKS[1:]]


def rows(loss: str, sizes: tuple[int, ...], n: int) -> tuple[np.ndarray, np.ndarray]:
    """n rows that fit a network."""
    rng = np.random.default_rng(n)
    x = rng.normal(size=(n, sizes[0]))
    if loss == "squared_error":
        return x, rng.normal(size=(n, sizes[-1]))
    return x, rng.integers(0, max(2, sizes[-1]), n)


def varied(rule: Rule) -> list[Rule]:
    """Rules of the same switches and other numbers."""
    more = [{"lr": rule.lr * 2, "decay": rule.decay * 0.9}, {"lr": rule.lr / 3, "eps": 1e-3}]
    if rule.momentum:
        more[0]["momentum"] = rule.momentum / 2
    for name in ("clip_norm", "clip_global_norm", "clip_value", "weight_decay", "initial_scale"):
        if getattr(rule, name):
            more[1][name] = getattr(rule, name) * 3
    return [rule, *(rule.replace(**fields) for fields in more)]


@pytest.mark.nojit
@pytest.mark.parametrize(("name", "network"), CASES, ids=lambda case: str(case))
def test_a_stack_steps_as_its_copies_would_one_by_one(name: str, network: Any) -> None:
    activation, loss, sizes = network
    rules = varied(RULES[name])

    def new() -> MLP:
        return MLP(sizes, activation=activation, loss=loss, seed=3, dtype=np.float64)

    stack = StackedMLP(new(), len(rules))
    together = StackedOptimizer(rules, stack.starts, np.float64)
    models, alone = [new() for _ in rules], [Optimizer(rule) for rule in rules]
    for n in (8, 8, 5, 8, 1, 8):
        x, y = rows(loss, sizes, n)
        losses = stack.losses_and_grads(x, y)
        together.step(stack.flat, stack.flat_grads, np.array([rule.lr for rule in rules]))
        for c, (model, optimizer) in enumerate(zip(models, alone, strict=True)):
            expected, grads = model.loss_and_grads(x, y)
            optimizer.update(model.params, grads)
            np.testing.assert_allclose(losses[c], expected, rtol=1e-9)
            for key, p in model.params.items():
                np.testing.assert_allclose(stack.grads[key][c], grads[key], rtol=1e-9, atol=1e-13)
                np.testing.assert_allclose(stack.params[key][c], p, rtol=1e-9, atol=1e-13)
            for slot, arrays in optimizer.state.slots.items():
                row = np.concatenate([a.reshape(-1) for a in arrays.values()])
                np.testing.assert_allclose(
                    getattr(together, slot)[c], row, rtol=1e-9, atol=1e-15, err_msg=slot
                )
    assert together.step_count == 6
    assert {s for s in "vmb" if getattr(together, s).size} == set(rules[0].slots)


@pytest.mark.nojit
@pytest.mark.parametrize(("activation", "loss", "sizes"), NETWORKS)
def test_a_stack_measures_as_its_copies_would(activation: str, loss: str, sizes: Any) -> None:
    x, y = rows(loss, sizes, 150)  # more than one slice of an evaluation
    models = [
        MLP(sizes, activation=activation, loss=loss, seed=k, dtype=np.float64) for k in range(3)
    ]
    stack = StackedMLP(models[0], 3)
    for c, model in enumerate(models):
        for name, p in model.params.items():
            stack.params[name][c] = p
    losses, scores = stack.measure(x, y)
    np.testing.assert_allclose(losses, [model.loss(x, y) for model in models], rtol=1e-12)
    np.testing.assert_allclose(scores, [model.score(x, y) for model in models], rtol=1e-9)
    (loss_1,), (score_1,) = stack.part([1]).measure(x, y)
    assert (loss_1, score_1) == (losses[1], scores[1])


def test_a_large_evaluation_is_cut_as_the_models_cut_theirs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for _, loss, sizes in NETWORKS:
        x, y = rows(loss, sizes, 50)
        model = MLP(sizes, loss=loss)
        stack = StackedMLP(model, 5)
        for module in ("models.mlp.EVAL_ELEMENTS", "stacked.mlp.EVAL_ELEMENTS"):
            monkeypatch.setattr(f"rmsprop.{module}", 7 * max(sizes))  # slices of 7 rows,
        monkeypatch.setattr("rmsprop.stacked.mlp.MEASURED", 14 * max(sizes))  # of 2 copies
        losses, scores = stack.measure(x, y)
        np.testing.assert_allclose(losses, [model.loss(x, y)] * 5, rtol=1e-6)
        np.testing.assert_allclose(scores, [model.score(x, y)] * 5, rtol=1e-6)


@pytest.mark.nojit
@pytest.mark.parametrize("name", RULES)
def test_the_bits_of_a_step_are_those_of_the_optimizer(name: str) -> None:
    rules, rng = varied(RULES[name]), np.random.default_rng(0)
    start = rng.normal(size=107).astype(np.float32)
    together = StackedOptimizer(rules, [0, 100, 107], np.float32)
    alone = [([start[:100].copy(), start[100:].copy()], Optimizer(rule)) for rule in rules]
    p = np.tile(start, (3, 1))
    for t in range(1, 6):
        g = rng.normal(size=p.shape).astype(np.float32)
        together.step(p, g, np.array([rule.lr / t for rule in rules]))
        for c, (params, optimizer) in enumerate(alone):
            optimizer.learning_rate = rules[c].lr / t
            optimizer.update(params, [g[c, :100].copy(), g[c, 100:].copy()])
            assert np.array_equal(p[c], np.concatenate(params))


def test_rows_that_are_kept_go_on_as_they_were() -> None:
    rules = [rule for name in ("adam", "global") for rule in varied(RULES[name])]
    g = np.random.default_rng(0).normal(size=(4, 3, 9))
    for three in (rules[:3], rules[3:]):
        whole, part = (StackedOptimizer(three, [0, 4, 9], np.float64) for _ in range(2))
        lrs = np.array([rule.lr for rule in three])
        p, q = np.ones((3, 9)), np.ones((3, 9))
        for t in range(2):
            whole.step(p, g[t], lrs)
            part.step(q, g[t], lrs)
        part.keep([2, 0])
        q = q[[2, 0]]
        for t in range(2, 4):
            whole.step(p, g[t], lrs)
            part.step(q, g[t][[2, 0]], lrs[[2, 0]])
        assert np.array_equal(q, p[[2, 0]])


def test_a_constant_target_scores_as_the_model_says() -> None:
    model = MLP((2, 1), loss="squared_error")
    for x, y in (([[0, 0], [0, 0]], [0, 0]), ([[0, 0], [1, 2]], [3, 3])):
        assert StackedMLP(model, 2).measure(x, y)[1].tolist() == [model.score(x, y)] * 2


def own(kind: str) -> OwnTask:
    """A small task in float64, where both ways agree to the last digits but a few."""
    rng = np.random.default_rng(1)
    x = rng.normal(size=(333, 6))
    labels = np.digitize(x[:, 0] * x[:, 1] + x[:, 2], [-0.5, 0.5])
    if kind == "regression":
        dataset = from_arrays("mine", {"x": x, "y": x[:, 0] * x[:, 1] + 0.1 * x[:, 3]})
    else:
        dataset = from_arrays("mine", {"x": x, "y": labels if kind == "multiclass" else labels > 0})
    loss = {
        "regression": "squared_error",
        "binary": "binary_cross_entropy",
        "multiclass": "softmax_cross_entropy",
    }[kind]

    def build(seed: int) -> MLP:
        sizes = (6, 8, dataset.outputs)
        return MLP(sizes, activation="tanh", loss=loss, seed=seed, dtype=np.float64)

    assert dataset.kind == kind
    return OwnTask("mine", dataset, build, batch_size=16, epochs=3)


def assert_same(run: Run, expected: Run, rtol: float, rows: float = 0.0) -> None:
    """The fields of two runs, but for the seconds; scores within so large a part of the rows."""
    found, wanted = run.to_dict(), expected.to_dict()
    for key in ("task", "rule", "schedule", "seed", "steps", "diverged", "stopped", "rates"):
        assert found[key] == wanted[key], key
    assert len(run.seconds) == len(run.steps)
    assert run.seconds == sorted(run.seconds)
    for key in ("train_loss", "validation_loss", "test_loss"):
        np.testing.assert_allclose(_numbers(found[key]), _numbers(wanted[key]), rtol, err_msg=key)
    for key in ("validation_score", "test_score"):
        np.testing.assert_allclose(
            _numbers(found[key]), _numbers(wanted[key]), rtol, rows, err_msg=key
        )


def _numbers(values: Any) -> np.ndarray:
    return np.array(values, dtype=np.float64)  # None is NaN


@pytest.mark.parametrize("kind", ["regression", "binary", "multiclass"])
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"schedule": "cosine", "warm_up": 5, "seed": 2},
        {"steps": 17, "schedule": "step"},
        {"steps": 5},
    ],
    ids=str,
)
def test_the_runs_are_those_of_train(kind: str, settings: dict[str, Any]) -> None:
    rules = [rule.replace(lr=lr) for rule in RULES.values() for lr in (0.003, 0.01)]
    task = own(kind)
    for run, rule in zip(train_many(task, rules, **settings), rules, strict=True):
        assert_same(run, train(task, rule, **settings), rtol=1e-8, rows=1e-8)


@pytest.mark.parametrize("name", ["digits", "moons", "linear"])
def test_the_runs_of_tasks_by_name_are_those_of_train_in_float32(name: str) -> None:
    task = Task.of(name, epochs=3)
    rules = [Rule(lr=lr, decay=decay) for lr in (3e-4, 3e-3, 0.02) for decay in (0.9, 0.99)]
    rules += [Rule.from_dialect("adam", lr=0.003), Rule(lr=0.001, momentum=0.9, centered=True)]
    near = 2.5 / len(task.dataset.validation)
    for run, rule in zip(train_many(task, rules), rules, strict=True):
        assert_same(run, train(task, rule), rtol=1e-4, rows=near)


def outcome(run: Run) -> dict[str, Any]:
    return {key: value for key, value in run.to_dict().items() if key != "seconds"}


def test_a_copy_has_the_same_bits_alone_and_among_others_and_on_any_threads() -> None:
    task = Task.of("digits", epochs=2)  # 1,079 rows: the last batch has 23
    rules = [Rule(lr=0.0005 * (k + 1), decay=0.9 + k / 400) for k in range(33)]
    found = [outcome(run) for run in train_many(task, rules, threads=1)]
    for threads in (2, 3):
        assert [outcome(run) for run in train_many(task, rules, threads=threads)] == found
    assert [outcome(run) for run in train_many(task, rules[5:7])] == found[5:7]
    assert [outcome(run) for run in train_many(task, rules[32:])] == found[32:]


@pytest.mark.nojit
def test_rules_of_other_switches_are_grouped_and_their_order_is_kept() -> None:
    task, names = own("binary"), ["hinton", "adam", "keras"]
    rules = [RULES[names[k % 3]].replace(lr=0.001 * (k + 1)) for k in range(10)]
    runs = train_many(task, rules, threads=2)
    assert [run.rule for run in runs] == [rule.to_dict() for rule in rules]
    assert [outcome(run) for run in runs] == [
        outcome(train_many(task, [rule])[0]) for rule in rules
    ]


@pytest.mark.parametrize(
    ("kind", "lrs"),
    [("regression", (1.0, 3.0, 30.0, 1e200)), ("multiclass", (1e160, 1e307, 1e3))],
)
def test_copies_that_diverge_stop_where_they_do_alone_and_disturb_no_others(
    kind: str, lrs: tuple[float, ...]
) -> None:
    task, sgd = own(kind), Rule.from_dialect("sgd")
    healthy = [sgd.replace(lr=lr) for lr in (0.01, 0.03, 0.1)]
    rules = [healthy[0], *(sgd.replace(lr=lr) for lr in lrs), *healthy[1:]]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        runs = train_many(task, rules)
    for run, rule in zip(runs, rules, strict=True):
        assert_same(run, train(task, rule), rtol=1e-6, rows=1e-6)
    ended = [not run.finite for run in runs]
    assert any(ended), "or nothing was tested"
    assert min(run.steps[-1] for run in runs) < task.epochs * task.steps_per_epoch
    assert [run.test_loss is None for run in runs] == ended
    kept = [outcome(run) for run, rule in zip(runs, rules, strict=True) if rule in healthy]
    assert kept == [outcome(run) for run in train_many(task, healthy)]


def test_a_start_that_is_not_finite_is_the_end() -> None:
    task = own("regression")

    def build(seed: int) -> MLP:
        model = task.build(seed)
        model.params["w1"][:] = np.inf
        return model

    broken = OwnTask("broken", task.dataset, build)
    run = train_many(broken, [Rule()])[0]
    assert_same(run, train(broken, Rule()), rtol=0)
    assert run.diverged
    assert run.steps == [0]


@pytest.mark.parametrize("threads", [1, 2])
def test_progress_is_told_up_to_the_end(threads: int) -> None:
    task, told = own("binary"), []
    rules = [Rule(lr=lr) for lr in (0.001, 0.002, 0.003, 0.004)] + [RULES["adam"]]
    train_many(
        task, rules, threads=threads, progress=lambda done, total: told.append((done, total))
    )
    total = len(rules) * task.epochs * task.steps_per_epoch
    assert told == sorted(told)
    assert told[-1] == (total, total)
    assert len(told) >= task.epochs


@pytest.mark.parametrize("threads", [1, 2])
def test_what_progress_raises_ends_the_training(threads: int) -> None:
    calls = []

    def stop(done: int, total: int) -> None:
        calls.append(done)
        raise KeyboardInterrupt

    rules = [Rule(lr=lr) for lr in (0.001, 0.002)]
    with pytest.raises(KeyboardInterrupt):
        train_many(Task.of("moons", epochs=1000), rules, threads=threads, progress=stop)
    assert len(calls) <= 2


@pytest.mark.parametrize("threads", [1, 2])
def test_seconds_are_shares_of_the_whole(threads: int) -> None:
    rules = [Rule(lr=lr) for lr in (0.001, 0.002, 0.003, 0.004)]
    began = time.perf_counter()
    runs = train_many(own("binary"), rules, threads=threads)
    whole = time.perf_counter() - began
    assert all(0 < run.seconds[1] < run.seconds[-1] for run in runs)
    assert sum(run.seconds[-1] for run in runs) <= whole


def test_which_tasks_can_be_stacked() -> None:
    assert can_stack(Task.of("digits"))
    assert can_stack(Task.of("linear"))
    assert can_stack(own("binary"))
    assert not can_stack(Task.of("digits-cnn"))
    assert not can_stack(Task.of("digits-rnn"))
    assert not can_stack("digits")


class Other(MLP):
    """A model whose methods may do something else."""


def test_errors_say_what_to_do() -> None:
    task = own("binary")
    other = OwnTask("other", task.dataset, lambda seed: Other((6, 1), loss="binary_cross_entropy"))
    wrong = OwnTask("wrong", task.dataset, lambda seed: MLP((5, 1), loss="binary_cross_entropy"))
    assert not can_stack(other)
    with pytest.raises(ValueError, match="one Rule or more"):
        train_many(task, [])
    with pytest.raises(TypeError, match=r"pass Rule\(lr=0.01\)"):
        train_many(task, [0.01])  # type: ignore[list-item]
    for bad in (other, Task.of("digits-rnn"), Task.of("digits-cnn"), "digits"):
        with pytest.raises(ValueError, match=r"call rmsprop\.train\.train for each rule"):
            train_many(bad, [Rule()])
    with pytest.raises(ValueError, match="x must have shape"):
        train_many(wrong, [Rule()])
    wrong_counts: list[dict[str, Any]] = [
        {"steps": 0},
        {"seed": -1},
        {"warm_up": -1},
        {"threads": 0},
    ]
    for settings in wrong_counts:
        with pytest.raises(ValueError, match=f"{next(iter(settings))} must be at least"):
            train_many(task, [Rule()], **settings)
    with pytest.raises(ValueError, match="warm_up must be 0 or more and below"):
        train_many(task, [Rule()], steps=5, warm_up=5)
    with pytest.raises(ValueError, match="schedule must be one of"):
        train_many(task, [Rule()], schedule="cosinus")
    with pytest.raises(ValueError, match="same switches"):
        StackedOptimizer([RULES["adam"], RULES["sgd"]], [0, 1], np.float64)
    with pytest.raises(TypeError, match="train others one by one"):
        StackedMLP("model", 1)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="copies must be at least 1"):
        StackedMLP(MLP((2, 2)), 0)
    with pytest.raises(ValueError, match="labels must be 0 to 1"):
        StackedMLP(MLP((2, 2)), 1).losses_and_grads([[0, 0]], [2])


@pytest.mark.parametrize("size", [2, 40_000])
def test_a_gradient_whose_squares_overflow_is_clipped_as_alone(size: int) -> None:
    rules = [Rule(lr=0.1, clip_norm=norm) for norm in (0.5, 2.0)]
    g = np.ones((2, size + 1))
    g[0, :2], g[1, :2] = (1e200, 2e200), (1e200, np.inf)
    p = np.ones_like(g)
    StackedOptimizer(rules, [0, size, size + 1], np.float64).step(p, g, np.array([0.1, 0.1]))
    for c, rule in enumerate(rules):
        alone = [np.ones(size), np.ones(1)]
        Optimizer(rule).update(alone, [g[c, :size].copy(), g[c, size:].copy()])
        np.testing.assert_array_equal(p[c], np.concatenate(alone))
