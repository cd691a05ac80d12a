"""Tasks of the user's own: `rmsprop train file.py:make_task`, and data of the user's own."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import needs
from rmsprop import saved, settings
from rmsprop.evaluate import evaluate
from trained import forget, rmsprop, write_pictures, write_reviews

HEAD = """
import numpy as np
from rmsprop.data import from_arrays
from rmsprop.tasks import OwnTask

x = np.random.default_rng(0).normal(size=(80, 2))
data = from_arrays("mine", {"x": x, "y": (x[:, 0] * x[:, 1] > 0).astype(int)})
"""
TORCH = (
    HEAD
    + """
import torch

class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = torch.nn.Sequential(
            torch.nn.Linear(2, 16), torch.nn.BatchNorm1d(16), torch.nn.ReLU(), torch.nn.Linear(16, 1)
        )
    def forward(self, x):
        return self.layers(x)

def build(seed):
    torch.manual_seed(seed)
    return Net()

def make_task():
    return OwnTask("mine", data, build, batch_size=16, epochs=3)
"""
)
NUMPY = (
    HEAD
    + """
class Logistic:
    def __init__(self, seed):
        self.params = {"w": np.random.default_rng(seed).normal(size=(2, 1)), "b": np.zeros(1)}
        self.grads = {name: np.zeros_like(p) for name, p in self.params.items()}
    def scores(self, x):
        return x @ self.params["w"] + self.params["b"]
    def loss(self, x, y):
        z = self.scores(x)[:, 0]
        return float(np.mean(np.logaddexp(0, z) - y * z))
    def score(self, x, y):
        return float(np.mean((self.scores(x)[:, 0] > 0) == y))
    def loss_and_grads(self, x, y):
        d = (1 / (1 + np.exp(-self.scores(x)[:, 0])) - y)[:, None] / len(y)
        self.grads["w"][...] = x.T @ d
        self.grads["b"][...] = d.sum(0)
        return self.loss(x, y), self.grads

def make_task():
    return OwnTask("mine", data, Logistic, batch_size=16, epochs=3)
"""
)
LEARNER = """
import numpy as np

class Valley:
    rows = 8
    step_count = 0
    def __init__(self, rule, plan):
        self.rule, self.plan, self.w = rule, plan, np.array([3.0, -2.0])
    def step(self, rows):
        loss = self.measure("train")[0]
        self.w -= self.plan(self.step_count) * 2 * self.w
        self.step_count += 1
        return loss
    def measure(self, part):
        return float(self.w @ self.w), None
    def arrays(self):
        return {"params/w": self.w.copy()}
    def header(self):
        return {"step": self.step_count}
    def load(self, arrays, header):
        self.w, self.step_count = arrays["params/w"].copy(), header["step"]

class Descent:
    name, epochs, batch_size, steps_per_epoch, metric = "descent", 3, 4, 2, "none"
    def to_dict(self):
        return {"name": self.name, "metric": self.metric, "kind": "none"}
    def learner(self, rule, plan, seed):
        return Valley(rule, plan)

def make_task():
    return Descent()
"""


def task(folder: Path, text: str, name: str = "make_task") -> str:
    path = folder / "mine.py"
    path.write_text(text, encoding="utf-8")
    return f"{path}:{name}"


def refused(*words: str) -> str:
    """What a command says that is refused: one line, and exit code 2."""
    result = rmsprop(*words)
    assert (result.code, result.out) == (2, ""), result
    assert len(result.err.splitlines()) == 1, result.err
    assert result.err.startswith("rmsprop: ")
    return result.err


# Models


@pytest.mark.parametrize(("text", "arrays"), [(TORCH, 9), (NUMPY, 2)], ids=["torch", "numpy"])
def test_a_model_of_the_users_own_is_trained_kept_evaluated_and_asked(tmp_path, text, arrays):
    if text is TORCH:
        needs.package("torch")
    where, out = task(tmp_path, text), tmp_path / "run"
    result = rmsprop("train", where, "--out", str(out), "--json")
    assert result.code == 0, result.err
    record = json.loads(result.out)
    assert (record["task"], record["metric"]) == ("mine", "accuracy")
    assert record["steps"] == [0, 3, 6, 9]
    assert record["train_loss"][-1] < record["train_loss"][0]
    found = saved.load(out, task=where)
    assert evaluate(found)["score"] == pytest.approx(record["test_score"])
    assert (
        json.loads(rmsprop("evaluate", str(out), "--task", where, "--json").out)
        == record["evaluation"]
    )
    params = saved.files.load_arrays(out / "model.safetensors", saved.MODEL)[0]
    assert len(params) == arrays
    x = found.dataset.test.x[0]
    scaling = found.dataset.provenance["scaling"]
    raw = ",".join(map(repr, (x * scaling["std"] + scaling["mean"]).tolist()))
    (answer,) = json.loads(rmsprop("predict", str(out), "--task", where, "--json", "--", raw).out)
    p = found.probabilities(x[None])[0]
    assert list(answer["classes"].values()) == pytest.approx(sorted(p, reverse=True), rel=1e-4)
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "mine" in page
    assert "Confusion" in page


def test_the_run_is_the_same_again_from_its_settings_and_goes_on(tmp_path):
    where = task(tmp_path, NUMPY)
    words = ("--seed", "3", "--lr", "0.02", "--schedule", "constant")
    assert rmsprop("train", where, *words, "--out", str(tmp_path / "a")).code == 0
    config = str(tmp_path / "a" / "run.toml")
    assert rmsprop("train", "--config", config, "--out", str(tmp_path / "b")).code == 0
    models = [(tmp_path / name / "model.safetensors").read_bytes() for name in "ab"]
    assert models[0] == models[1]
    found = settings.read(config)
    assert found["task"] == where
    assert (found["epochs"], found["batch_size"], found["lr"]) == (3, 16, 0.02)
    again = rmsprop("train", "--config", config, "--out", str(tmp_path / "a"), "--resume")
    assert again.code == 0
    assert (tmp_path / "a" / "model.safetensors").read_bytes() == models[0]


def test_epochs_and_batch_size_stand_over_the_tasks_own(tmp_path):
    where, out = task(tmp_path, NUMPY), tmp_path / "run"
    words = ("--epochs", "2", "--batch-size", "8", "--out", str(out), "--json")
    record = json.loads(rmsprop("train", where, *words).out)
    assert record["steps"] == [0, 6, 12]
    found = settings.read(out / "run.toml")
    assert (found["epochs"], found["batch_size"]) == (2, 8)
    assert evaluate(saved.load(out, task=where))["rows"] == 16


@pytest.mark.parametrize("words", [("--epochs", "2"), ("--batch-size", "2")], ids=str)
def test_they_cannot_be_set_of_a_task_that_is_no_dataclass(tmp_path, words):
    said = refused("train", task(tmp_path, LEARNER), *words, "--out", str(tmp_path / "run"))
    assert "dataclass" in said
    assert words[0][2:].replace("-", "_") in said
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "words", [("--network", "cnn"), ("--hidden", "8"), ("--data-dir", "x"), ("--style", "x.png")],
    ids=str,
)  # fmt: skip
def test_what_the_task_does_not_take_is_refused(tmp_path, words):
    said = refused("train", task(tmp_path, NUMPY), *words, "--out", str(tmp_path / "run"))
    assert "does not take " + words[0][2:].replace("-", "_") in said
    assert not (tmp_path / "run").exists()


def test_a_learner_of_the_users_own_is_trained_and_kept(tmp_path):
    """Without data there is nothing to evaluate: there is a report of the curves."""
    where, out = task(tmp_path, LEARNER), tmp_path / "run"
    result = rmsprop("train", where, "--lr", "0.1", "--schedule", "constant", "--out", str(out),
                     "--json")  # fmt: skip
    assert result.code == 0, result.err
    record = json.loads(result.out)
    assert record["steps"] == [0, 2, 4, 6]
    assert record["validation_loss"][-1] == pytest.approx(13 * 0.8**12)
    assert record["test_score"] is None
    params, header = saved.files.load_arrays(out / "model.safetensors", saved.MODEL)
    np.testing.assert_allclose(params["params/w"], [3 * 0.8**6, -2 * 0.8**6])
    assert header["data"] is None
    assert (out / "report.html").is_file()
    for words in (("evaluate", str(out)), ("predict", str(out), "1")):
        refused(*words, "--task", where)


# Mistakes


@pytest.mark.parametrize(
    ("text", "name", "words"),
    [
        (NUMPY, "make_tsk", ["make_tsk", "make_task"]),
        ("x = 1", "make_task", ["make_task", "it has none"]),
        ("make_task = 3", "make_task", ["must define", "make_task"]),
        ("def make_task(: pass", "make_task", ["SyntaxError", "mine.py"]),
        ("import no_such_module_at_all", "make_task", ["no_such_module_at_all"]),
        ("def make_task(): raise KeyError('here')", "make_task", ["KeyError", "here"]),
        ("def make_task(a): pass", "make_task", ["TypeError", "'a'"]),
        ("def make_task(): return None", "make_task", ["OwnTask", "NoneType", "learner"]),
        ("def make_task(): return {'name': 1}", "make_task", ["OwnTask", "dict", "learner"]),
        (HEAD + "def make_task(): return OwnTask('m', data, lambda seed: object())", "make_task",
         ["loss_and_grads", "torch.nn.Module", "object"]),
        (HEAD + "def make_task(): return OwnTask('m', data, lambda seed: None)", "make_task",
         ["loss_and_grads", "NoneType"]),
        (HEAD + "def make_task(): return OwnTask('m', None, lambda seed: None)", "make_task",
         ["dataset", "NoneType"]),
    ],
    ids=["near", "nothing", "no function", "syntax", "import", "raises", "argument", "None", "dict",
         "object", "no model", "no data"],
)  # fmt: skip
def test_a_mistake_in_the_users_code_is_told_and_leaves_nothing(tmp_path, text, name, words):
    said = refused("train", task(tmp_path, text, name), "--out", str(tmp_path / "run"))
    assert all(word in said for word in words), said
    assert not (tmp_path / "run").exists()


def test_a_file_that_is_not_there_is_told(tmp_path):
    said = refused("train", f"{tmp_path}/none.py:make_task", "--out", str(tmp_path / "run"))
    assert "none.py" in said
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("missing", ["loss", "score", "scores", "params"])
def test_a_model_without_a_method_is_refused_by_its_name(tmp_path, missing):
    text = NUMPY.replace(f"def {missing}(", "def other(")
    text = text.replace("self.params", "self.weights") if missing == "params" else text
    said = refused("train", task(tmp_path, text), "--out", str(tmp_path / "run"))
    assert missing in said
    assert not (tmp_path / "run" / "model.safetensors").exists()


def test_a_module_of_another_shape_is_refused(tmp_path):
    needs.package("torch")
    text = TORCH.replace("torch.nn.Linear(16, 1)", "torch.nn.Linear(16, 2)")
    said = refused("train", task(tmp_path, text), "--out", str(tmp_path / "run"))
    assert "(rows, 1)" in said


def test_code_that_changed_since_is_told(tmp_path):
    where, out = task(tmp_path, NUMPY), tmp_path / "run"
    assert rmsprop("train", where, "--out", str(out)).code == 0
    task(tmp_path, NUMPY.replace("size=(2, 1)", "size=(1, 1)").replace("x @", "x[:, :1] @"))
    assert "another network" in refused("evaluate", str(out), "--task", where)
    task(tmp_path, NUMPY.replace("size=(80, 2)", "size=(90, 2)"))
    assert "changed" in refused("evaluate", str(out), "--task", where)
    (tmp_path / "mine.py").unlink()
    assert "mine.py" in refused("evaluate", str(out), "--task", where)


def test_code_is_run_only_where_it_is_named_again(tmp_path):
    """A folder may come from anywhere, and so may what it names."""
    where, out = task(tmp_path, NUMPY), tmp_path / "run"
    assert rmsprop("train", where, "--out", str(out)).code == 0
    task(tmp_path, "open(__file__ + '.ran', 'w').close()\n" + NUMPY)
    for words in (("evaluate", str(out)), ("predict", str(out), "1,2")):
        assert f"--task {where}" in refused(*words)
        assert not (tmp_path / "mine.py.ran").exists()
    assert rmsprop("evaluate", str(out), "--task", where).code == 0
    assert (tmp_path / "mine.py.ran").exists()


# Data


@pytest.mark.parametrize(
    ("network", "settings"), [("cnn", {}), ("mlp", {}), ("gru", {}), ("lstm", {}), ("rnn", {})]
)
def test_the_users_pictures_go_through_every_network(tmp_path, network, settings):
    if network in ("cnn", "lstm"):
        needs.package("torch")
    data, out = write_pictures(tmp_path / "bars.npz"), tmp_path / "run"
    words = ("--network", network, "--epochs", "6", "--hidden", "16", "--lr", "0.01")
    result = rmsprop("train", str(data), *words, "--batch-size", "8", "--out", str(out), "--json")
    assert result.code == 0, result.err
    record = json.loads(result.out)
    assert record["evaluation"]["classes"] == ["low", "middle", "top"]
    assert record["validation_loss"][-1] < record["validation_loss"][0]


@pytest.mark.parametrize("network", ["rnn", "gru"])
def test_the_users_texts_go_through_recurrent_networks(tmp_path, network):
    data, out = write_reviews(tmp_path / "films.tsv"), tmp_path / "run"
    words = ("--network", network, "--epochs", "8", "--hidden", "16", "--lr", "0.02",
             "--batch-size", "8", "--longest", "12", "--words", "30")  # fmt: skip
    result = rmsprop("train", str(data), *words, "--out", str(out), "--json")
    assert result.code == 0, result.err
    record = json.loads(result.out)
    assert record["evaluation"]["baseline"] == 1.0
    assert record["validation_loss"][-1] < record["validation_loss"][0]
    assert "logistic regression" in record["sentence"]


def test_a_folder_of_texts_is_one_too(tmp_path):
    for label, word in (("yes", "fine"), ("no", "poor")):
        (tmp_path / "notes" / label).mkdir(parents=True)
        for i in range(10):
            text = f"note {i} is {word}"
            (tmp_path / "notes" / label / f"{i}.txt").write_text(text, encoding="utf-8")
    words = ("--epochs", "1", "--hidden", "4", "--out", str(tmp_path / "run"), "--json")
    result = rmsprop("train", str(tmp_path / "notes"), *words)
    assert result.code == 0, result.err
    assert json.loads(result.out)["evaluation"]["classes"] == ["no", "yes"]


def write(path: Path, **arrays: Any) -> Path:
    np.savez(path, **arrays)
    return path


X = np.random.default_rng(0).normal(size=(40, 3))
Y = np.arange(40) % 2
BAD_ARRAYS: dict[str, tuple[dict[str, Any], list[str]]] = {
    "one class": ({"x": X, "y": 0 * Y}, ["differ"]),
    "NaN": ({"x": np.where(X > 2, np.nan, X), "y": Y}, ["finite", "nan"]),
    "NaN label": ({"x": X, "y": np.where(Y, np.nan, 0.0)}, ["finite", "nan"]),
    "empty": ({"x": X[:0], "y": Y[:0]}, ["(0, 3)"]),
    "lengths": ({"x": X, "y": Y[:9]}, ["40", "(9,)"]),
    "four axes": ({"x": np.zeros((40, 2, 2, 3)), "y": Y}, ["(40, 2, 2, 3)"]),
    "names": ({"data": X, "labels": Y}, ["x and y", "data, labels"]),
    "few": ({"x": X[:4], "y": Y[:4]}, ["rows", "5"]),
    "class of the test alone": (
        {"x_train": X[:20], "y_train": Y[:20], "x_test": X[20:], "y_test": Y[20:] + 1},
        ["training rows", "none of 2"],
    ),
}


@pytest.mark.parametrize("name", BAD_ARRAYS)
def test_arrays_that_cannot_be_trained_on_are_told_and_leave_nothing(tmp_path, name):
    arrays, words = BAD_ARRAYS[name]
    path = write(tmp_path / "bad.npz", **arrays)
    said = refused("train", str(path), "--out", str(tmp_path / "run"))
    assert all(word in said for word in [*words, "bad.npz"]), said
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("empty.csv", "", ["empty"]),
        ("head.csv", "a,b,label\n", ["head.csv"]),
        ("nan.csv", "a,label\n" + "1,x\nnan,y\n" * 10, ["line 3", "'a'"]),
        ("one.csv", "a,label\n" + "1,x\n" * 10, ["differ"]),
        ("ragged.csv", "a,label\n1,x\n1,2,y\n", ["line 3", "3 cells"]),
        ("empty.tsv", "", ["empty"]),
        ("head.tsv", "label\ttext\n", ["no row"]),
        ("one.tsv", "label\ttext\n" + "x\tgood\n" * 10, ["differ"]),
        ("columns.tsv", "kind\ttext\n" + "x\tgood\n" * 10, ["label and text"]),
        ("silent.tsv", "label\ttext\n" + "x\t...\ny\t;\n" * 10, ["word"]),
        ("mine.xlsx", "x", [".csv"]),
    ],
    ids=lambda value: value if isinstance(value, str) and value[-4:-3] == "." else "",
)
def test_files_that_cannot_be_trained_on_are_told_and_leave_nothing(tmp_path, name, text, words):
    (tmp_path / name).write_text(text, encoding="utf-8")
    said = refused("train", str(tmp_path / name), "--out", str(tmp_path / "run"))
    assert all(word in said for word in [*words, name]), said
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("none.csv",), "none.csv"),
        (("moons", "--network", "cnn"), "cnn"),
        (("digits-cnn", "--hidden", "-5"), "hidden"),
        (("digits", "--lr", "nan"), "lr"),
        (("digits", "--optimizer", "rmspro"), "rmsprop"),
        (("digits", "--schedule", "cosin"), "cosine"),
        (("digits", "--seed", "-1"), "seed"),
        (("digits", "--warm-up", "-1"), "warm_up"),
        (("digits-rnn", "--dropout", "1.5"), "dropout"),
        (("digits-lstm", "--dropout", "1.5"), "dropout"),
        (("digits-rnn", "--pool", "first"), "pool"),
        (("digits-lstm", "--pool", "first"), "pool"),
        (("digits", "--activation", "rellu"), "relu"),
        (("digit",), "digits"),
        (("digits", "--steps", "5", "--split-seed", "-1"), "seed"),
    ],
)
def test_settings_that_cannot_be_leave_nothing(tmp_path, words, says):
    said = refused("train", *words, "--out", str(tmp_path / "run"))
    assert says in said
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "words", [("--lr", "0.5", "--resume"), ("--hidden", "-3"), ("--warm-up", "-1")], ids=str
)
def test_a_mistake_leaves_the_folder_of_a_finished_run_as_it_was(tmp_path, words):
    out = tmp_path / "run"
    assert rmsprop("train", "moons", "--epochs", "1", "--out", str(out)).code == 0
    before = {p: p.read_bytes() for p in out.rglob("*") if p.is_file()}
    refused("train", "moons", "--epochs", "1", *words, "--out", str(out))
    assert {p: p.read_bytes() for p in out.rglob("*") if p.is_file()} == before
    assert rmsprop("evaluate", str(out)).code == 0


def test_data_read_twice_in_a_process_are_read_as_they_are_now(tmp_path):
    """As in a notebook, where a table is mended between two runs."""
    from rmsprop.tasks import Task

    forget()
    path = write(tmp_path / "mine.npz", x=X, y=Y)
    first = Task.of(str(path)).dataset
    assert Task.of(str(path)).dataset is first
    write(path, x=X + 1, y=1 - Y)
    again = Task.of(str(path)).dataset
    assert again.provenance["files"] != first.provenance["files"]


# Comparisons


@pytest.mark.parametrize("kind", ["digits-rnn", "texts"])
def test_compare_takes_recurrent_networks(tmp_path, kind):
    what = kind if kind == "digits-rnn" else str(write_reviews(tmp_path / "films.tsv"))
    words = ("--epochs", "1", "--seeds", "1", "--search-seeds", "1", "--budget", "2", "--jobs", "1",
             "--optimizers", "rmsprop,sgd", "--hidden", "8", "--batch-size", "64")  # fmt: skip
    result = rmsprop("compare", what, *words, "--out", str(tmp_path / "study"), "--json")
    assert result.code == 0, result.err
    study = json.loads(result.out)
    assert [e["label"] for e in study["entries"]] == ["RMSprop", "SGD"]
    assert study["task"]["network"] == "rnn"
    assert all(e["test_score"]["n"] in (0, 1) for e in study["entries"])
    assert (tmp_path / "study" / "report.html").is_file()
