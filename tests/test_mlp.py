"""The multi-layer perceptron: gradients, losses, buffers, extreme numbers, errors."""

import copy
import tracemalloc
from itertools import product
from typing import Any

import numpy as np
import pytest
from scipy.special import expit, log_softmax, softmax

import needs
from rmsprop.models import MLP, mlp

pytestmark = pytest.mark.filterwarnings("error")

ACTIVATIONS = ["relu", "sigmoid", "tanh"]
OUTPUTS = {"softmax_cross_entropy": 4, "binary_cross_entropy": 1, "squared_error": 3}
HIDDEN = [(), (5,), (6, 4, 5)]
each_loss = pytest.mark.parametrize("loss", OUTPUTS)
RNG = np.random.default_rng


def task(loss: str, n: int = 7, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Random rows of 5 inputs and targets that fit the loss."""
    rng = RNG(seed)
    x, k = rng.normal(size=(n, 5)), OUTPUTS[loss]
    return x, rng.normal(size=(n, k)) if loss == "squared_error" else rng.integers(0, max(k, 2), n)


def model(loss: str, hidden: tuple[int, ...] = (6,), **options: Any) -> MLP:
    """A model for `task` in float64, its biases away from 0."""
    options = {"dtype": np.float64} | options
    net = MLP((5, *hidden, OUTPUTS[loss]), loss=loss, **options)
    for name, p in net.params.items():
        if name.startswith("b"):
            p[:] = RNG(len(name) + p.size).normal(0, 0.3, p.shape)
    return net


def expected_loss(loss: str, z: np.ndarray, y: np.ndarray) -> float:
    """The loss by formulas of other shapes than the model's."""
    if loss == "softmax_cross_entropy":
        return -log_softmax(z, axis=1)[np.arange(len(y)), y].mean()
    if loss == "binary_cross_entropy":
        return np.logaddexp(0, np.where(y == 1, -z[:, 0], z[:, 0])).mean()
    return ((z - y) ** 2).sum() / z.size


def linear(loss: str, outputs: int, dtype: Any = np.float32) -> MLP:
    """A linear model whose scores are its inputs."""
    net = MLP((outputs, outputs), loss=loss, dtype=dtype)
    net.params["w1"][:] = np.eye(outputs)
    return net


@pytest.mark.parametrize(
    ("activation", "loss", "hidden"), list(product(ACTIVATIONS, OUTPUTS, HIDDEN))
)
def test_gradients_are_those_of_finite_differences(activation, loss, hidden):
    net, (x, y) = model(loss, hidden, activation=activation, seed=1), task(loss)
    value, grads = net.loss_and_grads(x, y)
    assert value == pytest.approx(net.loss(x, y), rel=1e-14)
    assert list(grads) == list(net.params)
    h = 1e-5
    for name, p in net.params.items():
        slopes = np.empty_like(p)
        for i in np.ndindex(p.shape):
            kept = p[i]
            p[i] = kept + h
            above = net.loss(x, y)
            p[i] = kept - h
            slopes[i] = (above - net.loss(x, y)) / (2 * h)
            p[i] = kept
        error = np.linalg.norm(slopes - grads[name])
        assert error < 1e-6 * np.linalg.norm(slopes), f"{name}: {error}"


@each_loss
def test_scores_and_loss_are_the_formulas(loss):
    net, (x, y) = model(loss, (6, 4), activation="sigmoid"), task(loss)
    p, a = net.params, x
    for i in (1, 2):
        a = expit(a @ p[f"w{i}"] + p[f"b{i}"])
    z = a @ p["w3"] + p["b3"]
    np.testing.assert_allclose(net.scores(x), z, rtol=1e-13)
    assert net.loss(x, y) == pytest.approx(expected_loss(loss, z, y), rel=1e-13)
    assert net.loss_and_grads(x, y)[0] == net.loss(x, y)


@each_loss
def test_loss_and_gradients_are_those_of_torch(loss):
    torch = needs.package("torch")
    net, (x, y) = model(loss, (6, 4), activation="tanh"), task(loss)
    p = {name: torch.tensor(array, requires_grad=True) for name, array in net.params.items()}
    a, target, functional = torch.tensor(x), torch.tensor(y), torch.nn.functional
    for i in (1, 2):
        a = torch.tanh(a @ p[f"w{i}"] + p[f"b{i}"])
    z = a @ p["w3"] + p["b3"]
    theirs = {
        "softmax_cross_entropy": lambda: functional.cross_entropy(z, target),
        "binary_cross_entropy": lambda: functional.binary_cross_entropy_with_logits(
            z[:, 0], target.double()
        ),
        "squared_error": lambda: functional.mse_loss(z, target),
    }[loss]()
    theirs.backward()
    value, grads = net.loss_and_grads(x, y)
    assert value == pytest.approx(theirs.item(), rel=1e-12)
    for name, grad in grads.items():
        np.testing.assert_allclose(grad, p[name].grad.numpy(), rtol=1e-11, atol=1e-14)


@pytest.mark.parametrize("size", [1e4, -1e4])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_extreme_logits_give_a_finite_loss_and_gradient(size, dtype):
    binary, many = (
        linear("binary_cross_entropy", 1, dtype),
        linear("softmax_cross_entropy", 3, dtype),
    )
    right, wrong = int(size > 0), int(size < 0)
    for y, loss in ((right, 0.0), (wrong, 1e4)):
        value, grads = binary.loss_and_grads([[size]], [y])
        assert value == loss
        assert grads["b1"][0] == (right - y)
    z = np.array([[size, -size, 0.0]])
    for y, loss in ((z.argmax(), 0.0), (z.argmin(), 2e4)):
        value, grads = many.loss_and_grads(z, [y])
        assert value == loss
        np.testing.assert_array_equal(grads["b1"], np.eye(3)[z.argmax()] - np.eye(3)[y])
    for net, x in ((binary, z.reshape(3, 1)), (many, z)):
        np.testing.assert_array_equal(net.predict_proba(x).sum(axis=1), 1)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_extreme_activations_saturate(activation):
    net = MLP((1, 2, 1), activation=activation, loss="squared_error", dtype=np.float64)
    net.params["w1"][:], net.params["w2"][:] = [[1.0, -1.0]], [[1.0], [10.0]]
    high = {"relu": 1e4, "sigmoid": 1.0, "tanh": 1.0 - 10.0}[activation]
    low = {"relu": 1e5, "sigmoid": 10.0, "tanh": -1.0 + 10.0}[activation]
    np.testing.assert_array_equal(net.scores([[1e4], [-1e4]]), [[high], [low]])
    assert np.isfinite(net.loss_and_grads([[1e4], [-1e4]], [0, 0])[1]["w1"]).all()


@pytest.mark.parametrize("bad", [np.inf, -np.inf, np.nan, 1e38])
@pytest.mark.parametrize("activation", ACTIVATIONS)
@each_loss
def test_a_diverged_model_raises_no_warning(loss, activation, bad):
    net, (x, y) = model(loss, (6, 6), activation=activation, dtype=np.float32), task(loss)
    for p in net.params.values():
        p[:] = bad
    value, _ = net.loss_and_grads(x, y)
    assert type(value) is float
    assert not np.isfinite(value) or (bad == 1e38 and activation != "relu")
    assert np.isnan(net.loss(x, y)) or net.loss(x, y) == value
    net.predict(x)
    net.score(x, y)
    if loss != "squared_error":
        net.predict_proba(x)
        net.accuracy(x, y)


@each_loss
def test_gradient_buffers_are_the_same_at_every_call(loss):
    net = model(loss)
    _, first = net.loss_and_grads(*task(loss))
    ids = {name: (id(g), g.ctypes.data) for name, g in first.items()}
    first.clear()  # the dict is the caller's; the arrays are the model's
    for n in (7, 3, 12, 7, 1):
        net.loss(*task(loss, 40))
        _, grads = net.loss_and_grads(*task(loss, n))
        assert {name: (id(g), g.ctypes.data) for name, g in grads.items()} == ids
        assert all(g.shape == net.params[name].shape for name, g in grads.items())


@pytest.mark.parametrize("activation", ACTIVATIONS)
@each_loss
def test_a_step_allocates_no_layer(loss, activation):
    batch, hidden = 256, 512
    net = model(loss, (hidden, hidden), activation=activation, dtype=np.float32)
    x, y = task(loss, batch)
    x = x.astype(np.float32)
    calls = [(x, y), (x[:100], y[:100])]
    for call in calls:
        net.loss_and_grads(*call)
    tracemalloc.start()
    try:
        for call in calls:
            net.loss_and_grads(*call)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < batch * hidden * 4 / 8


@each_loss
def test_batches_of_other_sizes_share_the_buffers_and_leave_no_trace(loss):
    used, (x, y) = model(loss), task(loss, 40)
    for n in (32, 8, 1, 40, 5, 6, 7, 9, 32, 8):
        value, grads = used.loss_and_grads(x[:n], y[:n])
        fresh, expected = model(loss).loss_and_grads(x[:n], y[:n])
        assert value == fresh
        for name, grad in grads.items():
            np.testing.assert_array_equal(grad, expected[name])
        assert len(used._views) <= mlp.CACHED_VIEWS
        base = used._largest.outputs[0]
        assert all(np.shares_memory(view.outputs[0], base) for view in used._views.values())


@each_loss
def test_evaluation_runs_in_bounded_batches(loss, monkeypatch):
    net, (x, y) = model(loss), task(loss, 50)
    whole = net.loss(x, y), net.scores(x)
    monkeypatch.setattr(mlp, "EVAL_ELEMENTS", 6 * 16)  # 16 rows of the widest layer
    net = model(loss)
    assert net.loss(x, y) == pytest.approx(whole[0], rel=1e-13)
    np.testing.assert_allclose(net.scores(x), whole[1], rtol=1e-12)
    assert len(net._largest.ones) == 16
    monkeypatch.setattr(mlp, "EVAL_ELEMENTS", 1)
    assert net.loss(x, y) == pytest.approx(whole[0], rel=1e-13)


def test_scores_are_the_callers_own():
    net, (x, _) = model("squared_error"), task("squared_error")
    first = net.scores(x)
    kept = first.copy()
    net.scores(-x)
    np.testing.assert_array_equal(first, kept)


@pytest.mark.parametrize(
    ("options", "variance"),
    [
        ({"activation": "relu"}, 2 / 300),
        ({"activation": "tanh"}, 2 / 500),
        ({"activation": "sigmoid"}, 2 / 500),
        ({"activation": "relu", "init": "xavier"}, 2 / 500),
        ({"activation": "tanh", "init": "he"}, 2 / 300),
    ],
)
def test_initial_weights_have_the_variance_of_the_papers(options, variance):
    w = MLP((300, 200, 2), seed=3, **options).params["w1"]
    assert w.std() == pytest.approx(variance**0.5, rel=0.01)  # 60,000 draws: 3.5 deviations
    assert abs(w.mean()) < 4 * (variance / w.size) ** 0.5


def test_params_are_named_shaped_and_started_by_the_seed():
    one, same, other = MLP((7, 4, 2)), MLP((7, 4, 2), dtype=np.float64), MLP((7, 4, 2), seed=1)
    shapes = {name: p.shape for name, p in one.params.items()}
    assert shapes == {"w1": (7, 4), "b1": (4,), "w2": (4, 2), "b2": (2,)}
    assert {p.dtype for p in one.params.values()} == {np.dtype(np.float32)}
    for name, p in one.params.items():
        np.testing.assert_array_equal(p, same.params[name].astype(np.float32))
        assert p.any() == name.startswith("w")
    assert (one.params["w1"] != other.params["w1"]).all()


@pytest.mark.parametrize(
    ("outputs", "loss"), [(1, "binary_cross_entropy"), (2, "softmax_cross_entropy")]
)
def test_gradient_descent_learns_xor_beside_a_constant_input(outputs, loss):
    x, y = np.array([[0, 0, 1], [0, 1, 1], [1, 0, 1], [1, 1, 1]]), np.array([0, 1, 1, 0])
    net = MLP((3, 8, outputs), activation="tanh", loss=loss)
    losses = []
    for _ in range(600):
        value, grads = net.loss_and_grads(x, y)
        losses.append(value)
        for name, p in net.params.items():
            p -= 0.5 * grads[name]
    assert losses[-1] < 0.1 < losses[0]
    np.testing.assert_array_equal(net.predict(x), y)
    assert net.accuracy(x, y) == net.score(x, y) == 1
    assert net.accuracy(x, 1 - y) == 0
    np.testing.assert_array_equal(net.predict_proba(x).argmax(axis=1), y)


def test_probabilities_are_the_softmax_and_the_sigmoid():
    net, (x, _) = model("softmax_cross_entropy"), task("softmax_cross_entropy", 200)
    np.testing.assert_allclose(net.predict_proba(x), softmax(net.scores(x), axis=1), rtol=1e-13)
    net = model("binary_cross_entropy")
    z = net.scores(x)[:, 0]
    expected = np.stack([expit(-z), expit(z)], axis=1)
    np.testing.assert_allclose(net.predict_proba(x), expected, rtol=1e-13)
    np.testing.assert_array_equal(net.predict(x), z > 0)


def test_r_squared_is_that_of_sklearn():
    from sklearn.metrics import r2_score

    net, (x, y) = model("squared_error"), task("squared_error", 30)
    assert net.score(x, y) == pytest.approx(r2_score(y, net.scores(x)), rel=1e-12)
    y[:, 0] = 4.0  # a constant target counts 0
    assert net.score(x, y) == pytest.approx(r2_score(y, net.scores(x)), rel=1e-12)
    assert net.score(x, net.scores(x)) == 1
    one = MLP((5, 1), loss="squared_error")
    one.params["b1"][:] = 1e4
    near = (1e4 + RNG(2).normal(size=(30, 1))).astype(np.float32)  # needs sums in float64
    expected = r2_score(near.astype(np.float64), one.scores(x).astype(np.float64))
    assert one.score(x, near) == pytest.approx(expected, rel=1e-12)
    assert one.predict(x).shape == (30,)
    assert one.score(x, one.predict(x)) == 1
    assert net.predict(x).shape == (30, 3)


@pytest.mark.parametrize("convert", [list, np.int8, np.uint8, np.uint64, np.float32, "column"])
@each_loss
def test_targets_of_any_real_kind_mean_the_same(loss, convert):
    net, (x, y) = model(loss), task(loss)
    y = np.abs(y).round().astype(int)
    expected = net.loss(x, y)
    if convert == "column":
        y = y.reshape(7, -1)
    else:
        y = y.tolist() if convert is list else y.astype(convert)
    assert net.loss_and_grads(x, y)[0] == net.loss(x, y) == expected


@pytest.mark.parametrize("loss", ["binary_cross_entropy", "squared_error"])
def test_a_column_and_a_row_of_targets_are_not_broadcast(loss):
    net = linear(loss, 1)
    x, y = RNG(0).normal(size=(9, 1)), RNG(1).integers(0, 2, 9)
    value, grads = net.loss_and_grads(x, y)
    kept = copy.deepcopy(grads)
    assert net.loss_and_grads(x, y[:, None])[0] == value
    assert all((kept[name] == g).all() for name, g in grads.items())


def test_inputs_of_any_layout_and_real_kind_mean_the_same():
    net, (x, y) = model("softmax_cross_entropy"), task("softmax_cross_entropy")
    x = x.round(1) * 10
    expected = net.loss_and_grads(x, y)[0]
    wide = np.zeros((14, 10))
    wide[::2, ::2] = x
    for same in (x.tolist(), np.asfortranarray(x), x.astype(np.float32), wide[::2, ::2]):
        assert net.loss_and_grads(same, y)[0] == pytest.approx(expected, rel=1e-13)
    assert net.loss(x.astype(np.int8), y) == pytest.approx(net.loss(x.astype(np.int8) * 1.0, y))


def test_a_copy_is_independent():
    net, (x, y) = model("squared_error"), task("squared_error")
    value, grads = net.loss_and_grads(x, y)
    kept = copy.deepcopy(grads)
    other = copy.deepcopy(net)
    assert other.loss_and_grads(-x, y)[0] != value
    assert all((kept[name] == g).all() for name, g in grads.items())


SOFTMAX, BINARY, SQUARED = OUTPUTS
ROWS = np.zeros((6, 5))
BAD_MODELS = [  # sizes, options, error, what it says
    ((5,), {}, ValueError, r"two or more, each at least 1; got \(5,\)\. Give"),
    ((), {}, ValueError, "two or more"),
    ((5, 0, 2), {}, ValueError, "at least 1; got"),
    ((5, -3, 2), {}, ValueError, "at least 1; got"),
    ((5, 3.0, 2), {}, TypeError, r"integers; got \(5, 3\.0, 2\)\. Give"),
    ("784", {}, TypeError, "integers; got '784'"),
    (784, {}, TypeError, "integers; got 784"),
    ((5, 2), {"loss": BINARY}, ValueError, "end with 1 for binary_cross_entropy"),
    ((5, 1), {"loss": SOFTMAX}, ValueError, "2 or more for softmax_cross_entropy"),
    ((5, 2), {"activation": "rleu"}, ValueError, "got 'rleu'. Did you mean 'relu'?"),
    ((5, 2), {"activation": "gelu?"}, ValueError, "one of relu, sigmoid, tanh; got 'gelu"),
    ((5, 2), {"activation": None}, ValueError, "got None"),
    ((5, 2), {"loss": "cross_entropy"}, ValueError, "got 'cross_entropy'. Did you mean '.*_cross"),
    ((5, 2), {"loss": "mean_squared_error"}, ValueError, "Did you mean 'squared_error'?"),
    ((5, 2), {"init": "xaver"}, ValueError, "one of auto, he, xavier; .* Did you mean 'xavier'?"),
    ((5, 2), {"dtype": np.int32}, TypeError, "float32 or float64; got int32. Use"),
    ((5, 2), {"dtype": np.float16}, TypeError, "got float16"),
    ((5, 2), {"dtype": complex}, TypeError, "got complex128"),
]
BAD_BATCHES = [  # loss, x, y, error, what it says
    (SOFTMAX, np.zeros((6, 4)), [0] * 6, ValueError, r"\(batch, 5\).*got \(6, 4\)\. Use x.resh"),
    (SOFTMAX, np.zeros(5), [0], ValueError, r"got \(5,\)\. Use x\.reshape\(-1, 5\) for one row"),
    (SOFTMAX, np.zeros((6, 5, 1)), [0] * 6, ValueError, r"got \(6, 5, 1\)"),
    (SOFTMAX, np.zeros((0, 5)), [], ValueError, r"at least one row; got \(0, 5\)"),
    (SOFTMAX, ROWS * 1j, [0] * 6, TypeError, "x must be real numbers; got dtype complex128"),
    (SOFTMAX, np.full((6, 5), "a"), [0] * 6, TypeError, "x must be real numbers; got dtype <U1"),
    (SOFTMAX, ROWS, [0] * 5, ValueError, r"shape \(6,\) or \(6, 1\).*got \(5,\)\. Use y\.arg"),
    (SOFTMAX, ROWS, np.eye(6, 4), ValueError, "argmax.* if they are one-hot"),
    (SOFTMAX, ROWS, 1, ValueError, r"got \(\)"),
    (SOFTMAX, ROWS, [0, 1, 2, 3, 4, 0], ValueError, "0 to 3 here; got 4. Renumber"),
    (SOFTMAX, ROWS, [0, 1, 2, 3, -1, 0], ValueError, "0 to 3 here; got -1"),
    (SOFTMAX, ROWS, [0, 1, 2, 0.5, 1, 0], ValueError, "whole; got 0.5. Round"),
    (SOFTMAX, ROWS, [0, 1, np.nan, 0, 1, 0], ValueError, "whole; got nan"),
    (SOFTMAX, ROWS, list("abcdab"), TypeError, "names of classes with np.unique"),
    (BINARY, ROWS, [0, 1, 2, 0, 1, 0], ValueError, "0 to 1 here; got 2"),
    (BINARY, ROWS, [-1, 1, -1, 1, 1, 1], ValueError, "0 to 1 here; got -1"),
    (BINARY, ROWS, np.zeros((6, 6), int), ValueError, r"got \(6, 6\)"),
    (BINARY, ROWS, np.zeros((1, 6), int), ValueError, r"got \(1, 6\)"),
    (SQUARED, ROWS, np.zeros((6, 2)), ValueError, r"shape \(6, 3\).*got \(6, 2\)\. Reshape"),
    (SQUARED, ROWS, np.zeros(6), ValueError, r"got \(6,\)"),
    (SQUARED, ROWS, np.zeros((6, 3), complex), TypeError, "targets must be real numbers"),
]


@pytest.mark.parametrize(("sizes", "options", "error", "says"), BAD_MODELS)
def test_bad_models_are_refused(sizes, options, error, says):
    with pytest.raises(error, match=says):
        MLP(sizes, **options)


@pytest.mark.parametrize("method", ["loss_and_grads", "loss", "score"])
@pytest.mark.parametrize(("loss", "x", "y", "error", "says"), BAD_BATCHES)
def test_bad_batches_are_refused(loss, x, y, error, says, method):
    with pytest.raises(error, match=says):
        getattr(model(loss), method)(x, y)


@pytest.mark.parametrize(("method", "rest"), [("predict_proba", ()), ("accuracy", ([0] * 6,))])
def test_a_regression_has_no_classes(method, rest):
    with pytest.raises(ValueError, match=f"{method} needs classes; got squared_error. Use"):
        getattr(model(SQUARED), method)(ROWS, *rest)
