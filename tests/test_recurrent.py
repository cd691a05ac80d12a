"""The recurrent network: gradients, torch's figures, padding, pooling, dropout, buffers, errors."""

import copy
import tracemalloc
from typing import Any

import numpy as np
import pytest

import needs
from rmsprop.models import Recurrent, recurrent
from rmsprop.models.packing import Packing

pytestmark = pytest.mark.filterwarnings("error")

CELLS, POOLS = ["gru", "rnn"], ["last", "mean", "max"]
OUTPUTS = {"softmax_cross_entropy": 4, "binary_cross_entropy": 1, "squared_error": 3}
RNG = np.random.default_rng
LENGTHS = {
    "unsorted": [3, 6, 1, 4, 6, 2, 1],
    "equal": [4, 4, 4, 4, 4, 4, 4],
    "one step": [1] * 7,
    "one row": [5],
}
each_cell = pytest.mark.parametrize("cell", CELLS)
each_pool = pytest.mark.parametrize("pool", POOLS)
each_loss = pytest.mark.parametrize("loss", OUTPUTS)


def texts(lengths: list[int], words: int = 9, longest: int = 8, seed: int = 0) -> np.ndarray:
    """Random token ids, padded with 0 beyond the longest row."""
    x = RNG(seed).integers(1, words, (len(lengths), longest))
    x[np.arange(longest) >= np.array(lengths)[:, None]] = 0
    return x


def targets(loss: str, n: int, seed: int = 1) -> np.ndarray:
    rng, k = RNG(seed), OUTPUTS[loss]
    return rng.normal(size=(n, k)) if loss == "squared_error" else rng.integers(0, max(k, 2), n)


def model(loss: str = "binary_cross_entropy", **options: Any) -> Recurrent:
    """A model in float64 of 3 inputs and 5 units, its biases away from 0."""
    net = Recurrent(3, 5, OUTPUTS[loss], loss=loss, **({"dtype": np.float64, "seed": 2} | options))
    for name in ("b", "c", "b_out"):
        if name in net.params:
            p = net.params[name]
            p[:] = RNG(len(name) + p.size).normal(0, 0.3, p.shape)
    return net


def batch(kind: str, lengths: list[int]) -> tuple[dict[str, Any], np.ndarray]:
    """Options of a model of this kind, and a batch for it."""
    if kind == "texts":
        return {"words": 9}, texts(lengths)
    return {}, RNG(3).normal(size=(len(lengths), max(lengths), 3))


def slopes(net: Recurrent, name: str, loss: Any, h: float = 1e-5) -> np.ndarray:
    """Central differences of the loss for one parameter."""
    p = net.params[name]
    found = np.empty_like(p)
    for i in np.ndindex(p.shape):
        kept = p[i]
        p[i] = kept + h
        above = loss()
        p[i] = kept - h
        found[i] = (above - loss()) / (2 * h)
        p[i] = kept
    return found


@pytest.mark.parametrize("lengths", LENGTHS)
@pytest.mark.parametrize("kind", ["texts", "series"])
@each_pool
@each_cell
def test_gradients_are_those_of_finite_differences(cell, pool, kind, lengths):
    options, x = batch(kind, LENGTHS[lengths])
    net = model(cell=cell, pool=pool, **options)
    y = targets("binary_cross_entropy", len(x))
    value, grads = net.loss_and_grads(x, y)
    assert value == pytest.approx(net.loss(x, y), rel=1e-14)
    assert list(grads) == list(net.params)
    for name, grad in grads.items():
        expected = slopes(net, name, lambda: net.loss(x, y))
        error = np.linalg.norm(expected - grad)
        # With one step no state came before it, and u has no gradient.
        assert error < 1e-6 * np.linalg.norm(expected) + 1e-12, f"{name}: {error}"
        assert grad.any() == (name != "u" or lengths != "one step")


@pytest.mark.parametrize("kind", ["texts", "series"])
@each_pool
@each_cell
def test_gradients_with_dropout_are_those_of_finite_differences(cell, pool, kind):
    options, x = batch(kind, LENGTHS["unsorted"])
    net = model("squared_error", cell=cell, pool=pool, dropout=0.4, **options)
    y = targets("squared_error", len(x))

    def dropped() -> float:
        net.rng = RNG(4)
        return net.loss_and_grads(x, y)[0]

    assert dropped() != net.loss(x, y)
    net.rng = RNG(4)
    kept = copy.deepcopy(net.loss_and_grads(x, y)[1])
    for name, grad in kept.items():
        expected = slopes(net, name, dropped)
        assert np.linalg.norm(expected - grad) < 1e-6 * np.linalg.norm(expected), name


def torch_twin(torch: Any, net: Recurrent) -> tuple[Any, Any, Any]:
    """torch's embedding, recurrence and linear layer with the model's weights."""
    module = {"gru": torch.nn.GRU, "rnn": torch.nn.RNN}[net.cell_name]
    theirs = module(net.inputs, net.hidden, batch_first=True).double()
    linear = torch.nn.Linear(net.hidden, net.outputs).double()
    embedding = None
    p = {name: torch.tensor(array) for name, array in net.params.items()}
    with torch.no_grad():
        if net.words:
            embedding = torch.nn.Embedding(net.words, net.inputs, padding_idx=0).double()
            embedding.weight.copy_(p["embedding"])
        theirs.weight_ih_l0.copy_(p["w"].transpose(1, 2).flatten(0, 1))
        theirs.weight_hh_l0.copy_(p["u"].transpose(1, 2).flatten(0, 1))
        theirs.bias_ih_l0.copy_(p["b"].flatten())
        theirs.bias_hh_l0.zero_()
        if "c" in p:
            theirs.bias_hh_l0[-net.hidden :] = p["c"]
        linear.weight.copy_(p["w_out"].T)
        linear.bias.copy_(p["b_out"])
    return embedding, theirs, linear


def torch_scores(torch: Any, net: Recurrent, twin: tuple[Any, Any, Any], x: np.ndarray) -> Any:
    """The scores of the twin, over packed sequences."""
    embedding, theirs, linear = twin
    utils = torch.nn.utils.rnn
    read = torch.tensor(x) if embedding is None else embedding(torch.tensor(x))
    lengths = torch.tensor((x != 0).sum(axis=1) if embedding else np.full(len(x), x.shape[1]))
    packed = utils.pack_padded_sequence(read, lengths, batch_first=True, enforce_sorted=False)
    out, last = theirs(packed)
    states, _ = utils.pad_packed_sequence(out, batch_first=True)
    real = torch.arange(states.shape[1])[None, :, None] < lengths[:, None, None]
    pooled = {
        "last": lambda: last[0],
        "mean": lambda: (states * real).sum(1) / lengths[:, None],
        "max": lambda: states.masked_fill(~real, -np.inf).max(1).values,
    }[net.pool_name]()
    return linear(pooled)


def torch_grads(net: Recurrent, twin: tuple[Any, Any, Any]) -> dict[str, np.ndarray]:
    """The twin's gradients, named and shaped as the model's."""
    embedding, theirs, linear = twin
    gates = net.cell.gates
    grads = {
        "w": theirs.weight_ih_l0.grad.unflatten(0, (gates, -1)).transpose(1, 2),
        "u": theirs.weight_hh_l0.grad.unflatten(0, (gates, -1)).transpose(1, 2),
        "b": theirs.bias_ih_l0.grad.unflatten(0, (gates, -1)),
        "c": theirs.bias_hh_l0.grad[-net.hidden :],
        "w_out": linear.weight.grad.T,
        "b_out": linear.bias.grad,
    }
    if embedding is not None:
        grads["embedding"] = embedding.weight.grad
    return {name: grads[name].numpy() for name in net.params}


@pytest.mark.parametrize("lengths", LENGTHS)
@pytest.mark.parametrize("kind", ["texts", "series"])
@each_loss
@each_pool
@each_cell
def test_scores_loss_and_gradients_are_those_of_torch(cell, pool, loss, kind, lengths):
    torch = needs.package("torch")
    functional = torch.nn.functional
    options, x = batch(kind, LENGTHS[lengths])
    net, y = model(loss, cell=cell, pool=pool, **options), targets(loss, len(x))
    twin = torch_twin(torch, net)
    z, target = torch_scores(torch, net, twin, x), torch.tensor(y)
    theirs = {
        "softmax_cross_entropy": lambda: functional.cross_entropy(z, target),
        "binary_cross_entropy": lambda: functional.binary_cross_entropy_with_logits(
            z[:, 0], target.double()
        ),
        "squared_error": lambda: functional.mse_loss(z, target),
    }[loss]()
    theirs.backward()
    np.testing.assert_allclose(net.scores(x), z.detach().numpy(), rtol=1e-12, atol=1e-14)
    value, grads = net.loss_and_grads(x, y)
    assert value == pytest.approx(theirs.item(), rel=1e-12)
    for name, expected in torch_grads(net, twin).items():
        np.testing.assert_allclose(grads[name], expected, rtol=1e-12, atol=1e-14, err_msg=name)


@pytest.mark.parametrize("lengths", LENGTHS)
def test_a_packing_holds_every_real_step_once(lengths):
    real = np.array(LENGTHS[lengths])
    packing = Packing.of(real)
    assert (np.diff(packing.lengths) <= 0).all()
    x = texts(LENGTHS[lengths], longest=8)
    flat = x.reshape(-1)[packing.sources(8)]
    assert len(flat) == packing.spans[-1][1] == real.sum()
    states = np.concatenate([np.zeros(len(real), int), flat])
    before, last = states[packing.before()], states[packing.last()]
    for place, row in enumerate(packing.order):
        tokens = x[row, : real[row]]
        mine = packing.places == place
        assert flat[mine].tolist() == tokens.tolist()
        assert before[mine].tolist() == [0, *tokens[:-1]]
        assert last[place] == tokens[-1]


@each_pool
@each_cell
def test_padding_and_the_order_of_rows_change_nothing(cell, pool):
    net, x = model(cell=cell, pool=pool, words=9), texts(LENGTHS["unsorted"])
    y = targets("binary_cross_entropy", len(x))
    expected, grads = net.scores(x), copy.deepcopy(net.loss_and_grads(x, y)[1])
    wider = np.hstack([x, np.zeros((len(x), 30), int)])
    np.testing.assert_array_equal(net.scores(wider), expected)
    order = RNG(5).permutation(len(x))
    np.testing.assert_allclose(net.scores(x[order]), expected[order], rtol=1e-13)
    for row in range(len(x)):
        alone = x[row : row + 1, : np.count_nonzero(x[row])]
        np.testing.assert_allclose(net.scores(alone), expected[row : row + 1], rtol=1e-13)
    net.params["embedding"][0] = np.nan  # padding is never read
    np.testing.assert_array_equal(net.scores(wider), expected)
    for same_x, same_y in ((wider, y), (x[order], y[order])):
        again = net.loss_and_grads(same_x, same_y)[1]
        assert not again["embedding"][0].any()
        for name, grad in grads.items():
            np.testing.assert_allclose(again[name], grad, rtol=1e-11, atol=1e-15)


@each_cell
def test_pictures_are_read_row_by_row(cell):
    net, x = model(cell=cell), RNG(6).normal(size=(4, 6, 3))
    y = [0, 1, 1, 0]
    value = net.loss_and_grads(x, y)[0]
    flat = x.reshape(4, 18)
    assert net.loss_and_grads(flat, y)[0] == value == net.loss(flat, y)
    assert net.loss(flat.tolist(), y) == value
    assert net.loss(np.asfortranarray(x), y) == value
    pixels = (x * 50).astype(np.int8)
    assert net.loss(pixels, y) == net.loss(pixels.astype(float), y)


def test_the_first_of_equal_states_takes_the_gradient_of_max():
    net = Recurrent(1, 1, 1, cell="rnn", pool="max", loss="squared_error", dtype=np.float64)
    for name, value in (("w", 1.0), ("u", 0.0), ("w_out", 1.0)):
        net.params[name][:] = value
    _, grads = net.loss_and_grads([[[0.3], [0.5], [0.5]]], [0.0])
    h = np.tanh(0.5)
    assert grads["w"][0, 0, 0] == pytest.approx(2 * h * (1 - h * h) * 0.5, rel=1e-14)


@each_pool
def test_dropout_draws_anew_in_training_and_not_elsewhere(pool):
    x, y = texts([4] * 200), RNG(0).integers(0, 2, 200)
    net = model(pool=pool, words=9, dropout=0.25)
    plain = model(pool=pool, words=9)
    assert net.loss(x, y) == plain.loss(x, y)
    np.testing.assert_array_equal(net.scores(x), plain.scores(x))
    losses = [net.loss_and_grads(x, y)[0] for _ in range(3)]
    assert len({*losses, plain.loss(x, y)}) == 4
    np.testing.assert_array_equal(net.scores(x), plain.scores(x))
    other = model(pool=pool, words=9, dropout=0.25)
    assert [other.loss_and_grads(x, y)[0] for _ in range(3)] == losses
    pooled = np.ones((4000, 5))
    net._drop(pooled)
    assert set(np.unique(pooled)) == {0.0, 1 / 0.75}
    assert pooled.mean() == pytest.approx(1, abs=4 * (0.25 / 0.75 / pooled.size) ** 0.5)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@each_cell
def test_params_are_named_shaped_and_started_by_the_seed(cell, dtype):
    def start(seed: int, **options: Any) -> dict[str, np.ndarray]:
        return Recurrent(40, 30, 2, cell=cell, seed=seed, loss=SOFTMAX, **options).params

    gates = {"gru": 3, "rnn": 1}[cell]
    params = start(0, words=50, dtype=dtype)
    shapes = {name: p.shape for name, p in params.items()}
    expected = {"embedding": (50, 40), "w": (gates, 40, 30), "u": (gates, 30, 30), "b": (gates, 30)}
    expected |= {"c": (30,)} if cell == "gru" else {}
    assert shapes == expected | {"w_out": (30, 2), "b_out": (2,)}
    assert "embedding" not in start(0)
    assert {p.dtype for p in params.values()} == {np.dtype(dtype)}
    for u in params["u"]:
        np.testing.assert_allclose(u @ u.T, np.eye(30), atol=1e-6)
    assert params["w"].std() == pytest.approx((2 / 70) ** 0.5, rel=4 / (2 * 1200 * gates) ** 0.5)
    assert not params["embedding"][0].any()
    for name, p in params.items():
        np.testing.assert_array_equal(p, start(0, words=50, dtype=dtype)[name])
        assert p.any() == (name not in ("b", "c", "b_out"))
        if p.any():
            assert (p != start(1, words=50, dtype=dtype)[name]).any()


@each_pool
@each_cell
def test_gradient_buffers_are_the_same_at_every_call(cell, pool):
    net = model(cell=cell, pool=pool, words=9)
    ids = None
    for lengths in ([3, 2], [5] * 9, [1], [8, 1, 4], [3, 2]):
        x = texts(lengths)
        y = targets("binary_cross_entropy", len(x))
        net.loss(texts([7] * 20), [0] * 20)
        value, grads = net.loss_and_grads(x, y)
        found = {name: (id(g), g.ctypes.data) for name, g in grads.items()}
        ids = ids or found
        assert found == ids
        fresh, expected = model(cell=cell, pool=pool, words=9).loss_and_grads(x, y)
        assert value == fresh
        for name, grad in grads.items():
            np.testing.assert_array_equal(grad, expected[name])
        grads.clear()  # the dict is the caller's; the arrays are the model's


@each_pool
@each_cell
def test_a_step_allocates_no_layer(cell, pool):
    n, steps, hidden = 64, 32, 64
    net = Recurrent(hidden, hidden, 1, cell=cell, pool=pool, dropout=0.2)
    x = RNG(0).normal(size=(n, steps, hidden)).astype(np.float32)
    y = RNG(1).integers(0, 2, n)
    for rows in (n, 40):
        net.loss_and_grads(x[:rows], y[:rows])
    tracemalloc.start()
    try:
        for rows in (n, 40):
            net.loss_and_grads(x[:rows], y[:rows])
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    # One copy of the batch in the order of its packed rows is not a layer.
    assert peak < 1.5 * x.nbytes


@each_loss
@each_cell
def test_evaluation_runs_in_bounded_batches(cell, loss, monkeypatch):
    net, x = model(loss, cell=cell, words=9), texts(list(RNG(0).integers(1, 9, 50)))
    y = targets(loss, 50)
    whole = net.loss(x, y), net.scores(x), net.predict(x), net.score(x, y)
    for elements in (8 * 15 * 16, 1):
        monkeypatch.setattr(recurrent, "EVAL_ELEMENTS", elements)
        assert net.loss(x, y) == pytest.approx(whole[0], rel=1e-13)
        np.testing.assert_allclose(net.scores(x), whole[1], rtol=1e-12)
        np.testing.assert_array_equal(net.predict(x).argsort(axis=0), whole[2].argsort(axis=0))
        assert net.score(x, y) == pytest.approx(whole[3], rel=1e-12)
    if loss != SQUARED:
        np.testing.assert_allclose(net.predict_proba(x).sum(axis=1), 1, rtol=1e-14)
        assert net.accuracy(x, y) == np.mean(net.predict(x) == y)


@pytest.mark.parametrize("bad", [np.inf, -np.inf, np.nan, 1e38])
@each_pool
@each_cell
def test_a_diverged_model_raises_no_warning(cell, pool, bad):
    net, x = model(cell=cell, pool=pool, words=9, dtype=np.float32), texts(LENGTHS["unsorted"])
    y = targets("binary_cross_entropy", len(x))
    for p in net.params.values():
        p[:] = bad
    value, _ = net.loss_and_grads(x, y)
    assert type(value) is float
    assert not np.isfinite(value) or bad == 1e38
    net.loss(x, y)
    net.predict(x)
    net.predict_proba(x)
    net.accuracy(x, y)


@pytest.mark.parametrize("size", [1e4, -1e4])
@each_cell
def test_extreme_inputs_saturate(cell, size):
    net = model("squared_error", cell=cell, dtype=np.float32)
    x = np.full((2, 4, 3), size)
    value, grads = net.loss_and_grads(x, np.zeros((2, 3)))
    assert np.isfinite(value)
    assert all(np.isfinite(g).all() for g in grads.values())


@each_pool
@each_cell
def test_gradient_descent_learns_which_token_came_first(cell, pool):
    rng = RNG(7)
    x = texts(list(rng.integers(2, 7, 120)), words=5, seed=8)
    y = (x == 1).any(axis=1) if pool == "max" else x[:, 0] == 1
    net = Recurrent(6, 12, 1, cell=cell, pool=pool, words=5)
    losses = []
    for _ in range(400):
        value, grads = net.loss_and_grads(x, y)
        losses.append(value)
        size = sum(float(np.vdot(g, g)) for g in grads.values()) ** 0.5
        for name, p in net.params.items():
            p -= min(1.0, 1 / size) * grads[name]
    assert losses[-1] < 0.05 < losses[0]
    assert net.accuracy(x, y) == 1


def test_a_copy_is_independent():
    net, x = model(words=9), texts([3, 4])
    kept = copy.deepcopy(net.loss_and_grads(x, [0, 1])[1])
    _, grads = net.loss_and_grads(x, [0, 1])
    other = copy.deepcopy(net)
    other.loss_and_grads(x[:, ::-1] * 0 + 3, [1, 1])
    assert all((kept[name] == g).all() for name, g in grads.items())


SOFTMAX, BINARY, SQUARED = OUTPUTS
BAD_MODELS = [  # sizes, options, error, what it says
    ((0, 5, 1), {}, ValueError, "inputs must be at least 1; got 0. Give"),
    ((3, 5.0, 1), {}, TypeError, r"hidden must be an integer; got 5\.0. Give"),
    ((3, 5, 0), {}, ValueError, "outputs must be at least 1; got 0"),
    ((3, 5, 2), {}, ValueError, "outputs must be 1 for binary_cross_entropy, 2 or more.*got 2"),
    ((3, 5, 1), {"loss": SOFTMAX}, ValueError, "got 1 for softmax_cross_entropy. Change"),
    ((3, 5, 1), {"cell": "grus"}, ValueError, "one of rnn, gru; got 'grus'. Did you mean 'gru'?"),
    ((3, 5, 1), {"pool": "maximum"}, ValueError, "one of last, mean, max; .* Did you mean 'max'"),
    ((3, 5, 1), {"words": 1}, ValueError, "words must be at least 2; got 1"),
    ((3, 5, 1), {"words": "all"}, TypeError, "words must be an integer; got 'all'"),
    ((3, 5, 1), {"dropout": 1.0}, ValueError, r"dropout must be in \[0, 1\); got 1\.0. Give"),
    ((3, 5, 1), {"dropout": float("nan")}, ValueError, "dropout must be in .* got nan"),
    ((3, 5, 1), {"dropout": "half"}, TypeError, "dropout must be a number; got 'half'"),
    ((3, 5, 1), {"loss": "cross_entropy"}, ValueError, "got 'cross_entropy'. Did you mean"),
    ((3, 5, 1), {"dtype": np.int32}, TypeError, "float32 or float64; got int32. Use"),
]
IDS = texts([3, 2])
BAD_BATCHES = [  # options, x, y, error, what it says
    ({"words": 9}, IDS.astype(float), [0, 1], TypeError, "integer token ids; got dtype float64"),
    ({"words": 9}, IDS[0], [0], ValueError, r"shape \(batch, steps\).*got \(8,\). Use x.resh"),
    ({"words": 9}, IDS[:0], [], ValueError, r"at least one row and one step; got \(0, 8\)"),
    ({"words": 9}, IDS[:, :0], [0, 1], ValueError, r"got \(2, 0\)"),
    ({"words": 9}, [[1, 9], [1, 2]], [0, 1], ValueError, "0 to 8 here; got 9. Replace"),
    ({"words": 9}, [[1, -1], [1, 2]], [0, 1], ValueError, "0 to 8 here; got -1"),
    ({"words": 9}, [[1, 2], [0, 0]], [0, 1], ValueError, "row 1 begins with the padding id 0. Dr"),
    ({"words": 9}, [[0, 2], [1, 2]], [0, 1], ValueError, "row 0 begins with the padding"),
    ({"words": 9}, [[1, 2, 3], [1, 0, 2]], [0, 1], ValueError, "after the last token; row 1 of x"),
    ({"words": 9}, IDS, [0, 1, 1], ValueError, r"labels must have shape \(2,\)"),
    ({"words": 9}, IDS, [0, 2], ValueError, "0 to 1 here; got 2. Renumber"),
    ({"words": 9}, IDS, [0, 0.5], ValueError, "whole; got 0.5"),
    ({"words": 9}, IDS, list("ab"), TypeError, "labels must be real numbers"),
    ({}, np.zeros((2, 4, 2)), [0, 1], ValueError, r"\(batch, steps, 3\) or.*got \(2, 4, 2\). Resh"),
    ({}, np.zeros((2, 4)), [0, 1], ValueError, r"got \(2, 4\)"),
    ({}, np.zeros(3), [0], ValueError, r"got \(3,\)"),
    ({}, np.zeros((0, 4, 3)), [], ValueError, r"got \(0, 4, 3\)"),
    ({}, np.zeros((2, 0, 3)), [0, 1], ValueError, r"got \(2, 0, 3\)"),
    ({}, np.zeros((2, 4, 3), complex), [0, 1], TypeError, "x must be real numbers"),
    ({"loss": SQUARED}, np.zeros((2, 4, 3)), [0, 1], ValueError, r"targets .*got \(2,\). Reshape"),
]


@pytest.mark.parametrize(("sizes", "options", "error", "says"), BAD_MODELS)
def test_bad_models_are_refused(sizes, options, error, says):
    with pytest.raises(error, match=says):
        Recurrent(*sizes, **options)


@pytest.mark.parametrize("method", ["loss_and_grads", "loss", "score"])
@pytest.mark.parametrize(("options", "x", "y", "error", "says"), BAD_BATCHES)
def test_bad_batches_are_refused(options, x, y, error, says, method):
    with pytest.raises(error, match=says):
        getattr(model(**options), method)(x, y)
