"""What test_convert_tf1.py runs in a process of its own, as TensorFlow is slow to load.

    python tf1_worker.py FOLDER

trains with TensorFlow 1's RMSPropOptimizer, saves checkpoints into the folder for the test, restores those
that `rmsprop.convert` writes, and prints one line of JSON: of each check below, "" or the traceback.
"""

import contextlib
import importlib
import itertools
import json
import os
import sys
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from rmsprop import Rule, reference
from rmsprop.convert.checkpoint import Checkpoint, Entry
from rmsprop.convert.tensorflow import tf1
from rmsprop.convert.tensorflow.bundle import read_bundle
from rmsprop.convert.tensorflow.bundle_writing import write_bundle

Array = np.ndarray[Any, Any]
Params = dict[str, Array]
tf: Any  # the process's main program loads it
v1: Any
STEPS = 5
LR, DECAY, EPS = 0.01, 0.9, 1e-3
NAMES = ("first/kernel", "first/bias", "second/kernel", "second/bias")
# Of each run: type, momentum, centered, the optimizer's name, the scope that all stands in.
RUNS = {
    f"{dtype}-{momentum}-{centered}": (dtype, momentum, centered, "RMSProp", "")
    for dtype, momentum, centered in itertools.product(
        ("float32", "float64"), (0.0, 0.9), (False, True)
    )
} | {
    "named": ("float64", 0.9, False, "MyOpt", ""),
    "named-1": ("float64", 0.9, True, "My_1", ""),
    "scope": ("float64", 0.9, True, "RMSProp", "outer/inner"),
}
CHECKS: dict[str, Callable[[Path], None]] = {}


def check(function: Callable[[Path], None]) -> Callable[[Path], None]:
    CHECKS[function.__name__] = function
    return function


# A network, and its gradient by hand.


def data(dtype: str) -> tuple[Array, Array]:
    x = np.random.default_rng(1).normal(0, 1, (16, 4))
    return x.astype(dtype), np.sin(x.sum(axis=1, keepdims=True)).astype(dtype)


def start(dtype: str, scope: str = "") -> Params:
    rng, shapes = np.random.default_rng(0), ((4, 5), (5,), (5, 1), (1,))
    names = [f"{scope}/{name}".lstrip("/") for name in NAMES]
    return {n: rng.normal(0, 0.5, s).astype(dtype) for n, s in zip(names, shapes, strict=True)}


def gradient(params: Params) -> Params:
    """Of mean((tanh(x w1 + b1) w2 + b2 - y)^2)."""
    w1, b1, w2, b2 = params.values()
    x, y = data(w1.dtype.name)
    h = np.tanh(x @ w1 + b1)
    top = 2 * (h @ w2 + b2 - y) / len(x)
    below = (top @ w2.T) * (1 - h**2)
    found = (x.T @ below, below.sum(axis=0), h.T @ top, top.sum(axis=0))
    return dict(zip(params, found, strict=True))


def rule(dtype: str, momentum: float, centered: bool) -> Rule:
    """With the numbers as TensorFlow 1 takes them for float64 parameters too: rounded to float32."""
    lr, decay, eps, mu = (float(np.float32(x)) for x in (LR, DECAY, EPS, momentum))
    return Rule.from_dialect("tf1", lr=lr, decay=decay, eps=eps, momentum=mu, centered=centered)


def go_on(known: Rule, params: Params, states: dict[str, reference.State], steps: int) -> Any:
    for _ in range(steps):
        grads = gradient(params)
        moved = {n: reference.update(known, p, grads[n], states[n]) for n, p in params.items()}
        params = {n: p for n, (p, _) in moved.items()}
        states = {n: s for n, (_, s) in moved.items()}
    return params, states


def as_states(found: Checkpoint) -> dict[str, reference.State]:
    def state(slots: Params) -> reference.State:
        return reference.State(found.step or 0, *(slots.get(s, 0 * slots["v"]) for s in "vmb"))

    return {name: state(entry.slots) for name, entry in found.entries.items()}


# The same in TensorFlow.


class Run:
    """A graph with the network, its optimizer, a Saver, and a session."""

    def __init__(self, dtype: str, momentum: float, centered: bool, name: str, scope: str) -> None:
        self.graph = tf.Graph()
        with self.graph.as_default():
            with v1.variable_scope(scope) if scope else contextlib.nullcontext():
                self.variables = {
                    f"{scope}/{n}".lstrip("/"): v1.get_variable(n, initializer=p)
                    for n, p in start(dtype).items()
                }
                step = v1.get_variable("global_step", initializer=np.int64(0), trainable=False)
                average = np.full(5, 7.0, dtype)
                self.average = v1.get_variable(
                    "bn/moving_mean", initializer=average, trainable=False
                )
                w1, b1, w2, b2 = self.variables.values()
                x, y = data(dtype)
                loss = tf.reduce_mean((tf.tanh(x @ w1 + b1) @ w2 + b2 - y) ** 2)
                self.optimizer = v1.train.RMSPropOptimizer(
                    LR, decay=DECAY, momentum=momentum, epsilon=EPS, centered=centered, name=name
                )
                self.op = self.optimizer.minimize(loss, step, [*self.variables.values()])
            self.step, self.saver = step, v1.train.Saver(max_to_keep=None)
            self.session = v1.Session()
            self.session.run(v1.global_variables_initializer())

    def train(self, steps: int) -> None:
        for _ in range(steps):
            self.session.run(self.op)

    def everything(self) -> dict[str, Array]:
        """Parameters, and slots by name and letter; and the step."""
        found: dict[str, Any] = dict(self.variables) | {"step": self.step}
        letters = {"rms": "v", "mg": "m", "momentum": "b"}
        for name, variable in self.variables.items():
            for slot in self.optimizer.get_slot_names():
                found[f"{name}:{letters[slot]}"] = self.optimizer.get_slot(variable, slot)
        return self.session.run(found)


@check
def runs(folder: Path) -> None:
    """Train and save, twice; the test reads what is saved."""
    for key, options in RUNS.items():
        run = Run(*options)
        for k in (STEPS, 2 * STEPS):
            run.train(STEPS)
            with run.graph.as_default():
                run.saver.save(run.session, str(folder / key / "model.ckpt"), global_step=k)
            np.savez(folder / key / f"{k}.npz", allow_pickle=False, **run.everything())


@check
def restored_from_ours(folder: Path) -> None:
    for key, (dtype, momentum, centered, name, scope) in RUNS.items():
        known, params = rule(dtype, momentum, centered), start(dtype, scope)
        states = {n: reference.init(known, p) for n, p in params.items()}
        middle, kept = go_on(known, params, states, STEPS)
        entries = {
            n: Entry({s: getattr(kept[n], s).astype(dtype) for s in known.slots}, p)
            for n, p in middle.items()
        }
        ours = Checkpoint("tf1", "tf1", [known.to_dict()], entries, STEPS, "keras")
        like = folder / key / f"model.ckpt-{STEPS}"
        plain = key not in ("named", "named-1", "scope")
        run = Run(dtype, momentum, centered, name, scope)
        with run.graph.as_default():
            # Without a template there is nothing but parameters, slots and step.
            trained = [v for v in v1.global_variables() if v is not run.average]
            for template in [like, None][: 1 + plain]:
                tf1.write(folder / key / "ours", ours, template)
                saver = v1.train.Saver(None if template else trained)
                run.session.run(v1.global_variables_initializer())
                saver.restore(run.session, str(folder / key / "ours"))
                run.train(STEPS)
                expected, last = go_on(known, middle, kept, STEPS)
                found = run.everything()
                tolerance = 1e-12 if dtype == "float64" else 2e-6
                assert found["step"] == 2 * STEPS
                for n, p in expected.items():
                    np.testing.assert_allclose(found[n], p, tolerance, tolerance)
                    for slot in known.slots:
                        wanted = getattr(last[n], slot)
                        np.testing.assert_allclose(
                            found[f"{n}:{slot}"], wanted, tolerance, tolerance
                        )


@check
def rounded_numbers_matter(folder: Path) -> None:
    """The numbers as they were given, in float64, are not what TensorFlow 1 computes with."""
    run = Run(*RUNS["float64-0.9-False"])
    run.train(STEPS)
    numbers = {"lr": LR, "decay": DECAY, "eps": EPS, "momentum": 0.9}
    for known, close in (
        (rule("", 0.9, False), True),
        (Rule.from_dialect("tf1", **numbers), False),
    ):
        params = start("float64")
        states = {n: reference.init(known, p) for n, p in params.items()}
        found, _ = go_on(known, params, states, STEPS)
        assert close == np.allclose(
            run.everything()["first/kernel"], found["first/kernel"], 1e-12, 0
        )


@check
def object_based(folder: Path) -> None:
    for centered in (False, True):
        module = tf.Module()
        module.w, module.layers = tf.Variable(np.ones((4, 3))), [tf.Variable(np.full(3, 0.5))]
        weights, step = [module.w, module.layers[0]], tf.Variable(0, dtype=tf.int64)
        optimizer = v1.train.RMSPropOptimizer(LR, DECAY, 0.9, EPS, centered=centered, name="Named")
        for k in range(STEPS):
            with tf.GradientTape() as tape:
                loss = tf.reduce_sum(module.w**2) * tf.reduce_sum(module.layers[0]) * (k + 1)
            optimizer.apply_gradients(zip(tape.gradient(loss, weights), weights, strict=True))
            step.assign_add(1)
        saved = tf.train.Checkpoint(optimizer=optimizer, model=module, global_step=step)
        path = saved.write(str(folder / f"object-{centered}"))
        letters = {"rms": "v", "mg": "m", "momentum": "b"}
        found = {
            f"{name}:{letters[slot]}": optimizer.get_slot(w, slot).numpy()
            for name, w in zip(("model/w", "model/layers/0"), weights, strict=True)
            for slot in optimizer.get_slot_names()
        }
        np.savez(f"{path}.npz", allow_pickle=False, **found)


@check
def other_kinds(folder: Path) -> None:
    """Files that are read with a difference, or refused."""
    makers: dict[str, tuple[str, Any]] = {
        "adam": ("", lambda: v1.train.AdamOptimizer(LR)),
        "adam-named": ("", lambda: v1.train.AdamOptimizer(LR, name="Mine")),
        "partitioned": ("split", lambda: v1.train.RMSPropOptimizer(LR, momentum=0.9)),
        "averaged": ("average", lambda: v1.train.RMSPropOptimizer(LR, momentum=0.9)),
        "v1": ("", lambda: v1.train.RMSPropOptimizer(LR)),
        "half": ("half", lambda: v1.train.RMSPropOptimizer(LR, momentum=0.5)),
        "bfloat16": ("bfloat16", lambda: v1.train.RMSPropOptimizer(LR, momentum=0.5)),
    }
    for key, (what, make) in makers.items():
        with tf.Graph().as_default():
            split = v1.fixed_size_partitioner(3) if what == "split" else None
            value = np.random.default_rng(0).normal(0, 1, (70, 3))
            dtype = what if what in ("half", "bfloat16") else "float32"
            w = v1.get_variable("net/kernel", initializer=tf.cast(value, dtype), partitioner=split)
            whole = tf.convert_to_tensor(w)
            op = make().minimize(tf.reduce_sum(tf.cast(whole, tf.float32) ** 2))
            if what == "average":
                with tf.control_dependencies([op]):
                    op = tf.train.ExponentialMovingAverage(0.5).apply([w])
            form = v1.train.SaverDef.V1 if key == "v1" else v1.train.SaverDef.V2
            saver = v1.train.Saver(write_version=form)
            with v1.Session() as session:
                session.run(v1.global_variables_initializer())
                session.run(op)
                saver.save(session, str(folder / key), write_meta_graph=False)
                np.save(folder / f"{key}.npy", session.run(tf.cast(whole, tf.float32)))


@check
def tensorflow_reads_every_tensor(folder: Path) -> None:
    rng = np.random.default_rng(2)
    arrays: dict[str, Array] = {
        f"layer_{k}/{'x' * (k % 50)}": rng.normal(0, 1, (k % 7, 3)).astype("float32")
        for k in range(9_000)  # more than one block
    }
    arrays |= {
        "scalar": np.array(2.5),
        "step": np.array(-3, np.int64),
        "small": np.array([-7], np.int32),
    }
    arrays |= {"large": rng.normal(0, 1, (300, 500)), "größe": np.array([np.nan, -0.0, np.inf])}
    prefix = str(folder / "many")
    for _ in range(3):  # over itself too: the shard has another name each time
        write_bundle(prefix, arrays)
        reader = tf.train.load_checkpoint(prefix)
        kinds = reader.get_variable_to_dtype_map()
        assert {n: kinds[n].as_numpy_dtype for n in kinds} == {
            n: a.dtype for n, a in arrays.items()
        }
        for found in (reader.get_tensor, read_bundle(prefix)[0].__getitem__):
            for name, a in arrays.items():
                assert found(name).shape == a.shape
                assert found(name).tobytes() == a.tobytes(), name
        assert len(list(folder.glob("many*"))) == 2
    # It does look at the checksums: one bit of a tensor.
    (data_file,) = folder.glob("many.data*")
    raw = bytearray(data_file.read_bytes())
    raw[100] ^= 1
    data_file.write_bytes(raw)
    reader, refused = tf.train.load_checkpoint(prefix), 0
    for name in arrays:
        try:
            reader.get_tensor(name)
        except tf.errors.OpError as error:
            refused += "Checksum does not match" in str(error)
    assert refused == 1


def main() -> None:
    folder, found = Path(sys.argv[1]), {}
    warnings.simplefilter("ignore")  # of what is deprecated in TensorFlow, and that is all here
    for name, run in CHECKS.items():
        try:
            run(folder)
            found[name] = ""
        except Exception:
            found[name] = traceback.format_exc()
    print(json.dumps(found))


if __name__ == "__main__":
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    tf = importlib.import_module("tensorflow")
    v1 = tf.compat.v1
    v1.logging.set_verbosity(v1.logging.ERROR)
    main()
