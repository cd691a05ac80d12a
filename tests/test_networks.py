"""Networks in PyTorch: shapes, padding, and the same numbers as NumPy's or as a loop by hand."""

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import needs
from rmsprop.data import from_arrays
from rmsprop.models import Recurrent
from rmsprop.tasks import Task

torch = needs.package("torch")
networks = needs.package("rmsprop.networks")

LENGTHS = [3, 7, 1, 7, 4]
POOLS = ("last", "mean", "max")


def tokens(lengths: list[int] = LENGTHS, longest: int = 7, words: int = 9) -> np.ndarray:
    x = np.random.default_rng(2).integers(1, words, (len(lengths), longest))
    return np.where(np.arange(longest) < np.array(lengths)[:, None], x, 0).astype(np.int32)


def seeded(make: Any) -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        return make()


def scores(network: Any, x: np.ndarray) -> np.ndarray:
    """In double precision, without dropout."""
    network = network.double().eval()
    tensor = torch.tensor(x)
    with torch.no_grad():
        return network(tensor.long() if tensor.ndim == 2 else tensor.double()).numpy()


def twin(net: Recurrent, **options: Any) -> Any:
    """PyTorch's network with the weights of NumPy's, in double precision."""
    network = networks.Recurrent(
        net.inputs, net.hidden, net.outputs, cell=net.cell_name, pool=net.pool_name,
        words=net.words, **options,
    ).double()  # fmt: skip
    p = {name: torch.tensor(a, dtype=torch.float64) for name, a in net.params.items()}
    b_hh = torch.zeros_like(p["b"].flatten())
    if "c" in p:
        b_hh[-net.hidden :] = p["c"]
    state = {
        "cell.weight_ih_l0": p["w"].transpose(1, 2).flatten(0, 1),
        "cell.weight_hh_l0": p["u"].transpose(1, 2).flatten(0, 1),
        "cell.bias_ih_l0": p["b"].flatten(),
        "cell.bias_hh_l0": b_hh,
        "output.weight": p["w_out"].T,
        "output.bias": p["b_out"],
    }
    if net.words is not None:
        state["embedding.weight"] = p["embedding"]
    network.load_state_dict(state)
    return network


def with_random_biases(net: Recurrent) -> Recurrent:
    rng = np.random.default_rng(8)
    for name, p in net.params.items():
        if name in ("b", "c", "b_out"):
            p[:] = rng.normal(size=p.shape)
    return net


# Convolutions


@pytest.mark.parametrize("shape", [(4, 4), (5, 7), (8, 8), (28, 28), (4, 30)])
@pytest.mark.parametrize("hidden", [(), (16,), (12, 6)])
def test_a_cnn_gives_a_score_for_each_class_whatever_the_shape(shape, hidden):
    network = networks.CNN(shape, 3, hidden=hidden)
    assert network(torch.zeros(2, 1, *shape)).shape == (2, 3)
    linear = [m for m in network.dense if isinstance(m, torch.nn.Linear)]
    sizes = [64 * (shape[0] // 4) * (shape[1] // 4), *hidden, 3]
    assert [(m.in_features, m.out_features) for m in linear] == list(itertools.pairwise(sizes))


def test_the_cnn_is_the_one_that_its_docstring_draws():
    functional = torch.nn.functional
    network = seeded(lambda: networks.CNN((9, 6), 4, hidden=(5,)))
    p = {name: a.double() for name, a in network.state_dict().items()}
    x = torch.tensor(np.random.default_rng(0).normal(size=(3, 1, 9, 6)))
    h = x
    for layer in ("convolutions.0", "convolutions.3"):
        h = functional.conv2d(h, p[f"{layer}.weight"], p[f"{layer}.bias"], padding=1)
        h = functional.max_pool2d(functional.relu(h), 2)
    assert h.shape == (3, 64, 2, 1)
    h = functional.relu(h.reshape(3, -1) @ p["dense.0.weight"].T + p["dense.0.bias"])
    expected = h @ p["dense.3.weight"].T + p["dense.3.bias"]
    np.testing.assert_allclose(scores(network, x.numpy()), expected.numpy(), rtol=1e-10)


@pytest.mark.parametrize("shape", [(3, 28), (28, 3), (1, 1)])
def test_images_below_4_pixels_are_refused_with_the_remedy(shape):
    with pytest.raises(ValueError, match=rf"4x4 or more.*got {shape[0]}x{shape[1]}: use an mlp"):
        networks.CNN(shape, 2)


def test_dropout_is_before_the_output_layer_and_only_in_training():
    network = seeded(lambda: networks.CNN((8, 8), 2, hidden=(64,), dropout=0.5))
    x = torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    network.eval()
    assert torch.equal(network(x), network(x))
    seen = []
    network.dense[-1].register_forward_hook(lambda _, inputs, out: seen.append(inputs[0]))
    network.train()
    with torch.random.fork_rng(devices=[]):
        network(x)
    network.eval()
    network(x)
    dropped, whole = seen
    assert 0.2 < float((dropped[whole > 0] == 0).double().mean()) < 0.8
    kept = dropped != 0
    torch.testing.assert_close(dropped[kept], 2 * whole[kept])


# Recurrent networks


@pytest.mark.parametrize("pool", POOLS)
@pytest.mark.parametrize("cell", ["rnn", "gru"])
@pytest.mark.parametrize("kind", ["texts", "images"])
def test_scores_are_those_of_numpy_with_the_same_weights(cell, pool, kind):
    words = 9 if kind == "texts" else None
    net = Recurrent(4, 6, 3, cell=cell, words=words, pool=pool, loss="softmax_cross_entropy",
                    dtype=np.float64)  # fmt: skip
    with_random_biases(net)
    if kind == "texts":
        x = tokens()
        found, expected = scores(twin(net), x), net.scores(x)
    else:
        images = np.random.default_rng(4).normal(size=(5, 1, 7, 4))
        found, expected = scores(twin(net), images), net.scores(images.reshape(5, 28))
    np.testing.assert_allclose(found, expected, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("pool", POOLS)
@pytest.mark.parametrize("kind", ["texts", "images"])
def test_an_lstm_is_the_loop_by_hand(pool, kind):
    words = 9 if kind == "texts" else None
    network = seeded(lambda: networks.Recurrent(4, 6, 2, cell="lstm", words=words, pool=pool))
    p = {name: a.double().numpy() for name, a in network.state_dict().items()}
    if kind == "texts":
        x = tokens()
        rows = [p["embedding.weight"][row[row > 0]] for row in x]
    else:
        x = np.random.default_rng(4).normal(size=(5, 1, 7, 4))
        rows = list(x[:, 0])
    expected = []
    for row in rows:
        h, c, states = np.zeros(6), np.zeros(6), []
        for e in row:
            z = p["cell.weight_ih_l0"] @ e + p["cell.bias_ih_l0"]
            i, f, g, o = np.split(z + p["cell.weight_hh_l0"] @ h + p["cell.bias_hh_l0"], 4)
            i, f, o = (1 / (1 + np.exp(-gate)) for gate in (i, f, o))
            c = f * c + i * np.tanh(g)
            h = o * np.tanh(c)
            states.append(h)
        pooled = {"last": h, "mean": np.mean(states, 0), "max": np.max(states, 0)}[pool]
        expected.append(p["output.weight"] @ pooled + p["output.bias"])
    np.testing.assert_allclose(scores(network, x), expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("pool", POOLS)
@pytest.mark.parametrize("cell", ["rnn", "gru", "lstm"])
def test_padding_and_neighbours_never_change_a_score(cell, pool):
    network = seeded(lambda: networks.Recurrent(4, 6, 2, cell=cell, words=9, pool=pool))
    x = tokens()
    expected = scores(network, x)
    wider = np.hstack([x, np.zeros((len(x), 20), np.int32)])
    np.testing.assert_allclose(scores(network, wider), expected, rtol=1e-12)
    for row in range(len(x)):
        alone = x[row : row + 1, : LENGTHS[row]]
        np.testing.assert_allclose(scores(network, alone), expected[row : row + 1], rtol=1e-12)
    with torch.no_grad():
        network.embedding.weight[0] = torch.nan  # padding is never read
    np.testing.assert_array_equal(scores(network, wider[:, :7]), expected)


@pytest.mark.parametrize("pool", POOLS)
def test_padding_is_not_trained(pool):
    network = seeded(lambda: networks.Recurrent(4, 6, 2, cell="gru", words=9, pool=pool))
    assert not network.embedding.weight[0].any()
    network(torch.tensor(tokens()).long()).sum().backward()
    grad = network.embedding.weight.grad
    assert not grad[0].any()
    assert grad[1:].any()


def test_images_are_read_row_by_row():
    """The last row says more than the first: a change there reaches fewer states."""
    network = seeded(lambda: networks.Recurrent(4, 6, 2, cell="rnn", pool="last"))
    x = np.random.default_rng(4).normal(size=(1, 1, 7, 4))
    states = []
    network.cell.register_forward_hook(lambda _, i, out: states.append(out[0].detach().numpy()))
    scores(network, x)
    changed = x.copy()
    changed[0, 0, 3] += 1
    scores(network, changed)
    before, after = states
    assert before.shape == (1, 7, 6)
    same = [np.array_equal(before[0, t], after[0, t]) for t in range(7)]
    assert same == [True] * 3 + [False] * 4


@pytest.mark.parametrize("cell", ["rnn", "gru", "lstm"])
def test_dropout_of_a_recurrent_network_is_off_where_it_is_evaluated(cell):
    network = seeded(lambda: networks.Recurrent(4, 64, 2, cell=cell, words=9, dropout=0.5))
    x = torch.tensor(tokens()).long()
    network.eval()
    assert torch.equal(network(x), network(x))
    network.train()
    with torch.random.fork_rng(devices=[]):
        assert not torch.equal(network(x), network(x))


@pytest.mark.parametrize("pool", ["first", "", "Last"])
def test_an_unknown_pool_is_refused(pool):
    with pytest.raises(ValueError, match="last, mean, max"):
        networks.Recurrent(2, 3, 1, pool=pool)


# Made by a task


def write_pictures(path: Path, side: int) -> Path:
    x = np.random.default_rng(0).uniform(0, 255, (30, side, side))
    np.savez(path, x=x, y=np.arange(30) % 3)
    return path


@pytest.mark.parametrize("network", ["cnn", "rnn", "gru", "lstm"])
def test_the_seed_is_the_start_and_pytorchs_own_stream_is_left_alone(network):
    task = Task.of("digits", network=network, framework="torch")
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = task.model(3).state_dict()
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    again, other = task.model(3).state_dict(), task.model(4).state_dict()
    assert all(torch.equal(first[k], again[k]) for k in first)
    assert any(not torch.equal(first[k], other[k]) for k in first)


def test_the_settings_of_a_task_reach_the_network():
    cnn = Task.of("digits-cnn", hidden=(9, 7), dropout=0.25).model(0)
    assert [m.out_features for m in cnn.dense if isinstance(m, torch.nn.Linear)] == [9, 7, 10]
    assert cnn.dense[-2].p == 0.25
    lstm = Task.of("digits-lstm", hidden=(11,), pool="max", dropout=0.1).model(0)
    assert (lstm.cell.input_size, lstm.cell.hidden_size, lstm.pool) == (8, 11, "max")
    assert (lstm.dropout.p, lstm.output.out_features) == (0.1, 10)
    x, y = np.random.default_rng(0).normal(size=(20, 5, 6)), np.arange(20) % 2
    data = from_arrays("x", {"x": x, "y": y})
    gru = Task.of("digits", network="gru", framework="torch").model_for(data, 0)
    assert (gru.cell.input_size, gru.output.out_features) == (6, 1)


@pytest.mark.parametrize("hidden", [(-5,), (0,), (8, -1)])
def test_widths_that_cannot_be_are_a_value_error(hidden):
    with pytest.raises(ValueError, match="hidden"):
        Task.of("digits-cnn", hidden=hidden).model(0)


def test_a_cnn_of_small_pictures_or_of_none_is_refused_by_the_task(tmp_path):
    with pytest.raises(ValueError, match="3x3: use an mlp"):
        Task.of(str(write_pictures(tmp_path / "small.npz", 3)), network="cnn").model(0)
    with pytest.raises(ValueError, match="moons has none: use network mlp"):
        Task.of("moons-cnn").model(0)
    assert Task.of(str(write_pictures(tmp_path / "large.npz", 4)), network="cnn").model(0)
