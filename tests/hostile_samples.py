"""A small and complete file of every kind that `rmsprop.convert` reads, for test_convert_hostile.py."""

import io
import json
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy

from rmsprop import Rule
from rmsprop.convert import kinds
from rmsprop.convert.checkpoint import Checkpoint, Entry
from rmsprop.convert.keras import archive as keras_archive
from rmsprop.convert.keras import hdf5
from rmsprop.convert.optax import msgpack_files
from rmsprop.convert.tensorflow import bundle_writing
from rmsprop.convert.translation import LAYOUTS
from rmsprop.numpy import Optimizer

Files = dict[str, bytes]  # by name, "" where the sample is one file
SHAPES = {"dense/kernel": (3, 4), "dense/bias": (4,), "last/kernel": (4, 2), "last/bias": (2,)}


def a(shape: Any, seed: int = 0) -> Any:
    return np.random.default_rng(seed).uniform(0.1, 1, shape).astype(np.float32)


def checkpoint(kind: str, dialect: str = "torch") -> Checkpoint:
    rule = Rule.from_dialect(dialect, lr=0.01, momentum=0.0 if kind == "bitsandbytes" else 0.9)
    slots = "vb" if rule.momentum else "v"
    entries = {n: Entry({s: a(x) for s in slots}, a(x, 1)) for n, x in SHAPES.items()}
    return Checkpoint(kind, dialect, [rule.to_dict()], entries, 7, LAYOUTS[kind])


def torch_content(kind: str) -> Any:
    """What torch.save is given."""
    import torch

    from rmsprop.torch import RMSprop

    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
    # Of one byte each: the smallest parameter that is kept so has 4,096 elements.
    large = [torch.nn.Parameter(torch.ones(64, 64))] if kind == "onebyte" else [*model.parameters()]
    if kind == "onebyte":
        optimizer = RMSprop(large, lr=0.1, state_dtype=torch.uint8)
    else:
        optimizer = RMSprop(large, lr=0.1, momentum=0.9, centered=True)
    for _ in range(2):
        torch.stack([(p**2).sum() for p in large]).sum().backward()
        optimizer.step()
    state = optimizer.state_dict()
    if kind == "checkpoint":
        return {"epoch": 3, "model": model.state_dict(), "optimizer": state, "args": {"name": "x"}}
    if kind == "bitsandbytes":
        module = kinds.module("bitsandbytes")
        return module.state_dict_of(checkpoint("bitsandbytes"))
    return state


def saved(content: Any, legacy: bool = False) -> bytes:
    import torch

    buffer = io.BytesIO()
    torch.save(content, buffer, _use_new_zipfile_serialization=not legacy)
    return buffer.getvalue()


def sb3_members() -> Files:
    state = torch_content("torch")
    names = [f"p{k}" for k in state["state"]]
    policy = {n: s["square_avg"] for n, s in zip(names, state["state"].values(), strict=True)}
    data = {"policy_kwargs": {":type:": "<class 'dict'>", ":serialized:": "gAV9lC4=",
            "optimizer_class": "<class 'torch.optim.rmsprop.RMSprop'>"}, "gamma": 0.99}  # fmt: skip
    return {
        "data": json.dumps(data).encode(),
        "policy.pth": saved(policy),
        "policy.optimizer.pth": saved(state),
        "_stable_baselines3_version": b"2.7.0",
    }


def archive(members: list[tuple[str, bytes]], packed: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(buffer, "w", packed) as made:
        warnings.simplefilter("ignore")  # two members of one name are what is wanted
        for name, content in members:
            made.writestr(name, content)
    return buffer.getvalue()


def keras_config() -> dict[str, Any]:
    """As Keras 3 writes it, but for what it says of initializers and the like."""

    def layer(name: str, units: int) -> dict[str, Any]:
        config = {"name": name, "trainable": True, "units": units, "use_bias": True}
        return {"module": "keras.layers", "class_name": "Dense", "config": config}

    first = {"module": "keras.layers", "class_name": "InputLayer",
             "config": {"batch_shape": [None, 3], "name": "input"}}  # fmt: skip
    optimizer = {"module": "keras.optimizers", "class_name": "RMSprop", "registered_name": "RMSprop",
                 "config": {"name": "rm_sprop", "learning_rate": 0.01, "rho": 0.9, "momentum": 0.9,
                            "epsilon": 1e-7, "centered": False, "weight_decay": None}}  # fmt: skip
    return {
        "module": "keras",
        "class_name": "Sequential",
        "config": {"name": "m", "layers": [first, layer("dense", 4), layer("last", 2)]},
        "compile_config": {"optimizer": optimizer, "loss": "mse"},
    }


def keras_tree() -> hdf5.Tree:
    names = {"": "", "layers": "", "optimizer": "", "optimizer/vars": "rm_sprop", "vars": "m"}
    for group, name in (("dense", "dense"), ("dense_1", "last")):
        names |= {f"layers/{group}": "", f"layers/{group}/vars": name}
    shapes = [*SHAPES.values()]
    places = ["dense/vars/0", "dense/vars/1", "dense_1/vars/0", "dense_1/vars/1"]
    arrays = {f"layers/{p}": a(s) for p, s in zip(places, shapes, strict=True)}
    state = [np.array(7, np.int32), np.array(0.01, np.float32), *map(a, shapes), *map(a, shapes)]
    return hdf5.Tree(names, arrays | {f"optimizer/vars/{k}": x for k, x in enumerate(state)})


def keras_members(config: Any, tree: hdf5.Tree) -> list[tuple[str, bytes]]:
    words = json.dumps(config).encode()
    parts = [
        (keras_archive.METADATA, b'{"keras_version": "3.15.1"}'),
        (keras_archive.CONFIG, words),
    ]
    return [*parts, (keras_archive.WEIGHTS, hdf5.write(tree))]


def tf1_arrays() -> dict[str, Any]:
    found = {f"{n}{end}": a(s) for n, s in SHAPES.items() for end in ("", "/RMSProp", "/RMSProp_1")}
    return found | {"global_step": np.array(7)}


def optax_tree() -> dict[str, Any]:
    layers = {"dense": {"kernel": a((3, 4)), "bias": a(4)}, "last": {"kernel": a((4, 2))}}
    state = [{"nu": layers}, {"count": np.int32(7)}, {"trace": layers}]
    return {"params": layers, "opt_state": state, "step": 7}


def of_folder(folder: Path) -> Files:
    found = {p.relative_to(folder).as_posix(): p for p in folder.rglob("*") if p.is_file()}
    return {name: path.read_bytes() for name, path in sorted(found.items())}


def tf1_files(folder: Path) -> Files:
    bundle_writing.write_bundle(folder / "m", tf1_arrays())
    (folder / "checkpoint").write_text('model_checkpoint_path: "m"\n')
    return of_folder(folder)


def orbax_files(folder: Path) -> Files:
    kinds.module("orbax").write(folder / "o", checkpoint("optax", "optax"), None)
    return of_folder(folder / "o")


def numpy_file(folder: Path) -> Files:
    optimizer = Optimizer(Rule.from_dialect("hinton", lr=0.01, momentum=0.9))
    optimizer.update({n: a(s) for n, s in SHAPES.items()}, {n: a(s) for n, s in SHAPES.items()})
    optimizer.save(folder / "a")
    return of_folder(folder)


def written_file(folder: Path) -> Files:
    kinds.module("numpy").write(folder / "a", checkpoint("numpy", "keras"), None)
    return of_folder(folder)


def one(make: Callable[[], bytes]) -> Callable[[Path], Files]:
    return lambda folder: {"": make()}


SAMPLES: dict[str, tuple[str, Callable[[Path], Files]]] = {
    "torch": (".pt", one(lambda: saved(torch_content("torch")))),
    "checkpoint": (".pt", one(lambda: saved(torch_content("checkpoint")))),
    "onebyte": (".pt", one(lambda: saved(torch_content("onebyte")))),
    "bitsandbytes": (".pt", one(lambda: saved(torch_content("bitsandbytes")))),
    "legacy": (".pt", one(lambda: saved(torch_content("checkpoint"), legacy=True))),
    "sb3": (".zip", one(lambda: archive([*sb3_members().items()], zipfile.ZIP_DEFLATED))),
    "parameters": (
        ".safetensors",
        one(lambda: safetensors.numpy.save({n: a(s) for n, s in SHAPES.items()})),
    ),
    "numpy": (".safetensors", numpy_file),
    "written": (".safetensors", written_file),
    "keras": (".keras", one(lambda: archive(keras_members(keras_config(), keras_tree())))),
    "weights": (".weights.h5", one(lambda: hdf5.write(keras_tree()))),
    "tf1": ("", tf1_files),
    "msgpack": (".msgpack", one(lambda: msgpack_files.packed(optax_tree()))),
    "orbax": ("", orbax_files),
}
"""The ending of each kind's name, and what makes its files in an empty folder."""
