"""Learners: a step is the one written out by hand, all that they keep comes back, streams are their own."""

import itertools
import json
from typing import Any

import numpy as np
import pytest

import needs
import rmsprop.numpy
from rmsprop import Rule
from rmsprop.data import Dataset, batches, from_arrays
from rmsprop.data.dataset import Split
from rmsprop.learners import Learner, learner_of
from rmsprop.models import MLP, Recurrent
from rmsprop.state import SLOTS
from rmsprop.tasks import Task

KINDS = ("binary", "multiclass", "regression")
LOSSES = {
    "binary": "binary_cross_entropy",
    "multiclass": "softmax_cross_entropy",
    "regression": "squared_error",
}
RULE = Rule(lr=0.01, decay=0.9, momentum=0.5, clip_global_norm=1.0)


def plan(step: int) -> float:
    return 0.01 / (1 + step)


def table(kind: str, rows: int = 90) -> Dataset:
    """Three columns; labels, or targets, that follow from them."""
    rng = np.random.default_rng(3)
    x = rng.normal(size=(rows, 3))
    score = x @ [1.0, -2.0, 0.5]
    y = {
        "binary": (score > 0).astype(int),
        "multiclass": np.digitize(score, [-1.0, 1.0]),
        "regression": score + 0.1 * rng.normal(size=rows),
    }[kind]
    return from_arrays(kind, {"x": x, "y": y}, kind=kind)


def pictures(rows: int = 60, side: int = 6) -> Dataset:
    y = np.arange(rows) % 3
    x = np.random.default_rng(1).uniform(0, 80, (rows, side, side))
    x[np.arange(rows), y] += 150
    return from_arrays("pictures", {"x": x, "y": y})


def torch_module(outputs: int, dropout: float = 0.0, norm: bool = False) -> Any:
    torch = needs.package("torch")
    nn = torch.nn
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        layers = [nn.Linear(3, 8), nn.BatchNorm1d(8) if norm else nn.Identity(), nn.Tanh()]
        return nn.Sequential(*layers, nn.Dropout(dropout), nn.Linear(8, outputs))


def numpy_learner(kind: str = "multiclass", rule: Rule = RULE, **options: Any) -> Learner:
    data = table(kind)
    model = MLP((3, 8, data.outputs), loss=LOSSES[kind], seed=5, **options)
    return learner_of(model, data, rule, plan)


def torch_learner(
    kind: str = "multiclass", rule: Rule = RULE, seed: int = 0, **options: Any
) -> Learner:
    data = table(kind)
    return learner_of(torch_module(data.outputs, **options), data, rule, plan, seed=seed)


def text_learner(framework: str, dropout: float = 0.5) -> Learner:
    """A GRU on pictures read row by row, with dropout."""
    task = Task("", "gru", framework, hidden=(5,), dropout=dropout)
    data = pictures()
    return learner_of(task.model_for(data, 2), data, RULE, plan, seed=9)


MADE = {
    "numpy": numpy_learner,
    "numpy float64": lambda: numpy_learner(dtype=np.float64),
    "numpy dropout": lambda: text_learner("numpy"),
    "torch": torch_learner,
    "torch dropout": lambda: torch_learner(dropout=0.5),
    "torch buffers": lambda: torch_learner(norm=True, dropout=0.3),
    "torch recurrent": lambda: text_learner("torch"),
    "torch centered": lambda: torch_learner(rule=Rule(lr=0.01, centered=True, momentum=0.9)),
}


def made(name: str) -> Learner:
    if name.startswith("torch"):
        needs.package("torch")
    return MADE[name]()


def dealt(learner: Learner, seed: int = 0, size: int = 16) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rows for _ in range(3) for rows in batches(learner.rows, size, rng)]


def assert_same(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert set(found) == set(expected)
    for name, a in expected.items():
        assert found[name].dtype == a.dtype, name
        np.testing.assert_array_equal(found[name], a, err_msg=name)


def differs(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> bool:
    return any(not np.array_equal(a[name], b[name]) for name in a)


# A step


@pytest.mark.parametrize("name", ["numpy", "torch", "torch recurrent"])
def test_a_step_counts_and_moves_every_parameter(name):
    learner = made(name)
    before = learner.arrays()
    assert learner.step_count == 0
    for k, rows in enumerate(dealt(learner)[:3], 1):
        learner.step(rows)
        assert learner.step_count == k
    after = learner.arrays()
    assert all(not np.array_equal(after[k], a) for k, a in before.items() if k[:7] == "params/")
    assert learner.rows == len(learner.dataset.train)  # type: ignore[attr-defined]


@pytest.mark.parametrize("framework", ["numpy", "torch"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_loss_of_a_step_is_that_before_it(framework, kind):
    learner = made(framework) if kind == "multiclass" else None
    if learner is None:
        learner = numpy_learner(kind) if framework == "numpy" else torch_learner(kind)
    everything = np.arange(learner.rows)
    before = 0.0
    for _ in range(3):
        before = learner.measure("train")[0]
        assert learner.step(everything) == pytest.approx(before, rel=1e-6)
    assert learner.measure("train")[0] != pytest.approx(before, rel=1e-4)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("kind", KINDS)
def test_numpys_run_is_the_loop_written_out_bit_for_bit(kind, dtype):
    learner = numpy_learner(kind, dtype=dtype)
    data = table(kind)
    model = MLP((3, 8, data.outputs), loss=LOSSES[kind], seed=5, dtype=dtype)
    optimizer = rmsprop.numpy.Optimizer(RULE, learning_rate=plan)
    for rows in dealt(learner):
        loss, grads = model.loss_and_grads(data.train.x[rows], data.train.y[rows])
        optimizer.update(model.params, grads)
        assert learner.step(rows) == loss
    expected = {f"params/{name}": p for name, p in model.params.items()}
    for slot in ("v", "b"):
        held = optimizer.state_dict()[SLOTS[slot]]
        assert set(held) == set(model.params)
        expected |= {f"state/{SLOTS[slot]}/{name}": a for name, a in held.items()}
    found = learner.arrays()
    assert_same(found, expected)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "options",
    [{}, {"momentum": 0.9}, {"centered": True}, {"centered": True, "momentum": 0.5}],
    ids=str,
)
def test_torchs_run_is_the_loop_written_out_with_torchs_own_rmsprop(kind, options):
    torch = needs.package("torch")
    functional = torch.nn.functional
    rule = Rule.from_dialect("torch", lr=0.01, **options)
    learner = torch_learner(kind, rule)
    data, module = table(kind), torch_module(table(kind).outputs)
    optimizer = torch.optim.RMSprop(
        module.parameters(), lr=0.01, alpha=rule.decay, eps=rule.eps, **options
    )
    for step, rows in enumerate(dealt(learner)):
        optimizer.param_groups[0]["lr"] = plan(step)
        z, y = module(torch.tensor(data.train.x[rows])), torch.tensor(data.train.y[rows])
        loss = {
            "binary": lambda z=z, y=y: functional.binary_cross_entropy_with_logits(
                z[:, 0], y.float()
            ),
            "multiclass": lambda z=z, y=y: functional.cross_entropy(z, y),
            "regression": lambda z=z, y=y: functional.mse_loss(z, y),
        }[kind]()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        assert learner.step(rows) == pytest.approx(float(loss.detach()), rel=1e-5, abs=1e-6)
    found = learner.arrays()
    for name, p in module.state_dict().items():
        np.testing.assert_allclose(found[f"params/{name}"], p.numpy(), rtol=1e-4, atol=2e-6)
    for k, state in optimizer.state_dict()["state"].items():
        for key in ("square_avg", "momentum_buffer", "grad_avg"):
            assert (key in state) == (f"state/{k}/{key}" in found)
            if key in state:
                expected = state[key].numpy()
                np.testing.assert_allclose(
                    found[f"state/{k}/{key}"], expected, rtol=1e-3, atol=1e-6, err_msg=key
                )


def test_the_rates_of_the_plan_are_those_of_the_steps():
    """A plan of zeros but for step 1 moves the parameters there alone."""
    for framework in ("numpy", "torch"):
        if framework == "torch":
            needs.package("torch")
        data = table("binary")
        model = (
            MLP((3, 1), loss="binary_cross_entropy", seed=1)
            if framework == "numpy"
            else torch_module(1)
        )
        learner = learner_of(model, data, Rule(lr=1.0), lambda step: 0.1 * (step == 1))
        seen = [learner.arrays()]
        for rows in dealt(learner)[:4]:
            learner.step(rows)
            seen.append(learner.arrays())
        params = [{k: a for k, a in arrays.items() if k.startswith("params/")} for arrays in seen]
        moved = [differs(a, b) for a, b in itertools.pairwise(params)]
        assert moved == [False, True, False, False]


# Measurement


@pytest.mark.parametrize("framework", ["numpy", "torch"])
@pytest.mark.parametrize("kind", KINDS)
def test_loss_and_score_are_those_of_scikit_learn(framework, kind):
    metrics = needs.package("sklearn.metrics")
    if framework == "torch":
        needs.package("torch")
    learner: Any = numpy_learner(kind) if framework == "numpy" else torch_learner(kind)
    for rows in dealt(learner):
        learner.step(rows)
    for part in ("train", "validation", "test"):
        split = getattr(learner.dataset, part)
        z, y = learner.scores(split.x).astype(np.float64), split.y
        loss, score = learner.measure(part)
        if kind == "regression":
            expected = metrics.mean_squared_error(y, z), metrics.r2_score(y, z)
        else:
            logits = np.hstack([0 * z, z]) if kind == "binary" else z
            p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
            right = metrics.accuracy_score(y, p.argmax(axis=1))
            expected = metrics.log_loss(y, p, labels=range(p.shape[1])), right
        assert (loss, score) == pytest.approx(expected, rel=1e-5), part


@pytest.mark.parametrize("framework", ["numpy", "torch"])
@pytest.mark.parametrize("met", [True, False])
def test_a_constant_target_counts_1_if_met_exactly_else_0(framework, met):
    """As scikit-learn has it, and as both frameworks and `evaluate` must have it."""
    if framework == "torch":
        needs.package("torch")
    zeros = Split(np.zeros((4, 3), np.float32), np.full((4, 1), 0 if met else 2, np.float32))
    data = Dataset("flat", zeros, zeros, zeros, "regression", (), None, {})
    if framework == "numpy":
        model: Any = MLP((3, 1), loss="squared_error")
    else:
        model = torch_module(1)
        for p in model.parameters():
            p.detach().zero_()
    learner = learner_of(model, data, RULE, plan)
    assert learner.measure("test") == (0.0 if met else 4.0, 1.0 if met else 0.0)


@pytest.mark.parametrize("name", sorted(MADE))
def test_measuring_changes_nothing(name):
    learner = made(name)
    learner.step(np.arange(16))
    before, header = learner.arrays(), json.dumps(learner.header())
    first = [learner.measure(part) for part in ("train", "validation", "test")]
    assert_same(learner.arrays(), before)
    assert json.dumps(learner.header()) == header
    assert [learner.measure(part) for part in ("train", "validation", "test")] == first


@pytest.mark.parametrize("name", ["torch", "torch buffers", "torch recurrent"])
def test_more_rows_than_are_measured_at_once_give_the_same_scores(name, monkeypatch):
    learner: Any = made(name)
    whole = learner.scores(learner.dataset.train.x)
    monkeypatch.setattr("rmsprop.learners.modules.AT_ONCE", 7)
    np.testing.assert_allclose(learner.scores(learner.dataset.train.x), whole, rtol=1e-5, atol=1e-6)


# What it keeps


@pytest.mark.parametrize("name", sorted(MADE))
@pytest.mark.parametrize("steps", [0, 1, 7])
def test_it_goes_on_bit_for_bit_from_what_it_kept(name, steps):
    whole, other = made(name), made(name)
    rows = dealt(whole)
    for batch in rows[:steps]:
        whole.step(batch)
    kept, header = whole.arrays(), json.loads(json.dumps(whole.header(), allow_nan=False))
    losses = [whole.step(batch) for batch in rows[steps:]]
    for batch in rows[4:6]:  # the other has been elsewhere
        other.step(batch)
    other.load(kept, header)
    assert other.step_count == steps
    assert_same(other.arrays(), kept)
    assert [other.step(batch) for batch in rows[steps:]] == losses
    assert_same(other.arrays(), whole.arrays())
    assert other.measure("test") == whole.measure("test")


@pytest.mark.parametrize("name", sorted(MADE))
def test_what_is_kept_is_a_copy(name):
    learner = made(name)
    learner.step(np.arange(16))
    kept, header = learner.arrays(), learner.header()
    frozen = {k: a.copy() for k, a in kept.items()}
    text = json.dumps(header)
    learner.step(np.arange(16))
    assert_same(kept, frozen)
    learner.load(kept, header)
    learner.step(np.arange(16))
    assert_same(kept, frozen)
    assert json.dumps(header) == text


def test_buffers_are_kept_as_they_are():
    learner: Any = made("torch buffers")
    for rows in dealt(learner)[:3]:
        learner.step(rows)
    found = learner.arrays()
    assert found["params/1.num_batches_tracked"] == 3
    assert found["params/1.num_batches_tracked"].dtype == np.int64
    assert np.abs(found["params/1.running_mean"]).max() > 0
    np.testing.assert_array_equal(found["params/1.running_var"], learner.model[1].running_var)


@pytest.mark.parametrize("framework", ["numpy", "torch"])
def test_dropout_draws_in_steps_and_from_the_seed(framework):
    if framework == "torch":
        needs.package("torch")
    one, two = text_learner(framework), text_learner(framework)
    without = text_learner(framework, dropout=0.0)
    rows = np.arange(one.rows)
    assert one.measure("train") == without.measure("train")
    losses = [one.step(rows) for _ in range(3)]
    assert [two.step(rows) for _ in range(3)] == losses
    assert losses[0] != without.step(rows)


def test_another_seed_of_a_module_draws_other_dropout():
    needs.package("torch")
    rows = np.arange(30)
    first = torch_learner(dropout=0.5, seed=0).step(rows)
    assert torch_learner(dropout=0.5, seed=0).step(rows) == first
    assert torch_learner(dropout=0.5, seed=1).step(rows) != first


@pytest.mark.parametrize("name", ["torch", "torch dropout", "torch buffers", "torch recurrent"])
def test_pytorchs_own_stream_is_neither_touched_nor_read(name):
    torch = needs.package("torch")
    found = []
    for start in (1, 2):
        torch.manual_seed(start)
        before = torch.get_rng_state()
        learner = made(name)
        losses = [learner.step(rows) for rows in dealt(learner)[:4]]
        learner.measure("validation")
        learner.load(learner.arrays(), learner.header())
        assert torch.equal(torch.get_rng_state(), before)
        torch.rand(3)  # the user draws in between
        found.append((losses, learner.step(np.arange(16))))
    assert found[0] == found[1]


def test_pytorchs_own_stream_is_put_back_where_a_module_fails():
    torch = needs.package("torch")

    class Fails(torch.nn.Linear):
        def forward(self, input: Any) -> Any:
            torch.rand(5)
            raise RuntimeError("no more")

    learner = learner_of(Fails(3, 3), table("multiclass"), RULE, plan)
    before = torch.get_rng_state()
    with pytest.raises(ValueError, match="no more"):
        learner.step(np.arange(4))
    assert torch.equal(torch.get_rng_state(), before)


# Refusals


@pytest.mark.parametrize(
    ("kind", "outputs"), [("binary", 2), ("multiclass", 1), ("multiclass", 4), ("regression", 3)]
)
def test_a_module_with_another_number_of_outputs_is_refused(kind, outputs):
    needs.package("torch")
    data = table(kind)
    learner = learner_of(torch_module(outputs), data, RULE, plan)
    for use in (lambda: learner.step(np.arange(8)), lambda: learner.measure("test")):
        with pytest.raises(ValueError, match=rf"\(rows, {data.outputs}\).*{kind}.*{outputs}\)"):
            use()


@pytest.mark.parametrize("kind", ["binary", "regression"])
def test_flat_scores_are_refused_and_not_broadcast(kind):
    torch = needs.package("torch")
    module = torch.nn.Sequential(torch.nn.Linear(3, 1), torch.nn.Flatten(0))
    learner = learner_of(module, table(kind), RULE, plan)
    before = learner.arrays()
    with pytest.raises(ValueError, match=r"\(rows, 1\).*got \(8,\)"):
        learner.step(np.arange(8))
    assert_same(learner.arrays(), before)


@pytest.mark.parametrize("framework", ["numpy", "torch"])
@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("shape", ["another network"]),
        ("dtype", ["another network"]),
        ("less", ["another network"]),
        ("more", ["another network", "extra"]),
    ],
)
def test_parameters_of_another_network_are_refused_and_nothing_is_moved(framework, change, words):
    learner = made(framework)
    learner.step(np.arange(16))
    before = learner.arrays()
    kept, header = learner.arrays(), learner.header()
    name = next(k for k in kept if k.startswith("params/") and kept[k].ndim == 2)
    if change == "shape":
        kept[name] = kept[name][:, :-1]
    elif change == "dtype":
        kept[name] = kept[name].astype(np.float16)
    elif change == "less":
        del kept[name]
    else:
        kept["params/extra"] = np.zeros(2, np.float32)
    with pytest.raises(ValueError, match="another network") as caught:
        learner.load(kept, header)
    assert all(word in str(caught.value) for word in words)
    assert_same(learner.arrays(), before)


@pytest.mark.parametrize("framework", ["numpy", "torch"])
def test_a_state_of_another_shape_is_refused(framework):
    learner = made(framework)
    learner.step(np.arange(16))
    before = {k: a for k, a in learner.arrays().items() if k.startswith("params/")}
    kept, header = learner.arrays(), learner.header()
    name = next(k for k in kept if k.startswith("state/") and kept[k].ndim == 2)
    kept[name] = kept[name][:, :-1]
    with pytest.raises(ValueError, match=r"another network|new parameters"):
        learner.load(kept, header)
    after = {k: a for k, a in learner.arrays().items() if k.startswith("params/")}
    assert_same(after, before)


@pytest.mark.parametrize(
    "model", [None, 3, "mlp", object(), lambda x: x], ids=lambda m: type(m).__name__
)
def test_what_is_no_model_is_refused_by_its_type(model):
    with pytest.raises(
        TypeError, match=rf"loss_and_grads.*torch.nn.Module; got {type(model).__name__}"
    ):
        learner_of(model, table("binary"), RULE, plan)


def test_both_frameworks_average_what_the_denominator_is_made_of():
    """With the same weights, v and m after a few steps are the same."""
    torch = needs.package("torch")
    rule = Rule(lr=0.01, decay=0.9, centered=True)
    data = table("binary")
    model = MLP((3, 8, 1), loss="binary_cross_entropy", activation="tanh", seed=4)
    module = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1))
    names = {"0.weight": "w1", "0.bias": "b1", "2.weight": "w2", "2.bias": "b2"}
    module.load_state_dict({k: torch.tensor(model.params[v].T) for k, v in names.items()})
    ours: Any = learner_of(model, data, rule, plan)
    theirs: Any = learner_of(module, data, rule, plan)
    for rows in dealt(ours):
        assert theirs.step(rows) == pytest.approx(ours.step(rows), rel=1e-4)
    found, expected = theirs.averages(), ours.averages()
    assert set(found) == set(names)
    for name, (v, m) in found.items():
        np.testing.assert_allclose(v.T, expected[names[name]][0], rtol=1e-3, atol=1e-9)
        np.testing.assert_allclose(m.T, expected[names[name]][1], rtol=1e-3, atol=1e-7)
        assert not np.array_equal(v, m)


def test_recurrent_models_of_numpy_keep_the_stream_of_their_dropout():
    model = Recurrent(6, 4, 3, loss="softmax_cross_entropy", dropout=0.5)
    learner = learner_of(model, pictures(), RULE, plan)
    header = learner.header()
    learner.step(np.arange(8))
    assert learner.header()["rng"] != header["rng"]
    assert header["rng"] == json.loads(json.dumps(header["rng"]))
