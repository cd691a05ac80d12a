"""The archive that a `.keras` file is, in memory; a `.weights.h5` file is one of its members."""

import json
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rmsprop.convert.checkpoint import Array
from rmsprop.convert.keras import hdf5
from rmsprop.convert.keras import layers as keras_layers
from rmsprop.convert.keras.hdf5 import Tree
from rmsprop.convert.keras.layers import Node, Variable
from rmsprop.convert.keras.state import Setting, State

CONFIG, METADATA, WEIGHTS = "config.json", "metadata.json", "model.weights.h5"
OPTIMIZER, INNER = "optimizer/vars", "optimizer/inner_optimizer/vars"
_JSON_BYTES, _MEMBERS, _ASSETS = 16 * 2**20, 10_000, "assets/"


@dataclass
class Parts:
    """A file, in memory."""

    tree: Tree
    config: dict[str, Any] | None = None
    others: dict[str, bytes] = field(default_factory=dict)

    def compiled(self) -> dict[str, Any]:
        found = (self.config or {}).get("compile_config")
        return found if isinstance(found, dict) else {}

    def state(self) -> tuple[str, list[Array]]:
        """Where the optimizer's variables are, and what they are."""
        group = INNER if INNER in self.tree.names else OPTIMIZER
        names = [p for p in self.tree.arrays if p.rpartition("/")[0] == group]
        numbered = [f"{group}/{k}" for k in range(len(names))]
        if set(numbered) != set(names):
            raise ValueError("the optimizer's variables are not numbered from 0")
        return group, [self.tree.arrays[p] for p in numbered]

    def model(self) -> Node:
        return keras_layers.model_of(self.tree, self.config)


def load(path: Path) -> Parts:
    """The content of a file, guarded."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist")
    hdf5.imported()
    if not zipfile.is_zipfile(path):
        return Parts(hdf5.read(path, str(path)))
    try:
        members = _members(path)
        config = json.loads(members.pop(CONFIG, b"null"))
        metadata = json.loads(members.get(METADATA, b"null"))
    except (
        zipfile.BadZipFile,
        OSError,
        ValueError,
        NotImplementedError,
        RuntimeError,
        EOFError,
    ) as e:
        raise ValueError(f"{path} is damaged, or not a .keras file: {e}; save it again") from e
    weights = members.pop(WEIGHTS, None)
    if not isinstance(config, dict) or weights is None:
        raise ValueError(f"{path} is not a .keras file: it lacks {CONFIG} or {WEIGHTS}")
    version = str(metadata.get("keras_version", "3")) if isinstance(metadata, dict) else "3"
    if version.startswith(("1.", "2.")):
        raise ValueError(
            f"{path} was saved by Keras {version}: load it with Keras 3 and save it again"
        )
    return Parts(hdf5.read(weights, f"{path}: {WEIGHTS}"), config, members)


def _members(path: Path) -> dict[str, bytes]:
    """What is in the archive; every size is checked before memory is taken for it."""
    found: dict[str, bytes] = {}
    size, total = path.stat().st_size, 0
    with zipfile.ZipFile(path) as archive:
        if len(archive.infolist()) > _MEMBERS:
            raise ValueError(f"it has more than {_MEMBERS} members")
        for info in archive.infolist():
            name = info.filename
            if name not in (CONFIG, METADATA, WEIGHTS) and not name.startswith(_ASSETS):
                raise ValueError(f"it holds {name!r}, which no .keras file does")
            if name in found:
                raise ValueError(f"it holds {name!r} twice")
            if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise ValueError(f"{name} is packed in a way that Keras does not use")
            total += info.file_size
            if info.file_size > 100 * info.compress_size + 2**24 or total > 100 * size + 2**24:
                raise ValueError(f"{name} claims {info.file_size} bytes of a file of {size}")
            if name in (CONFIG, METADATA) and info.file_size > _JSON_BYTES:
                raise ValueError(f"{name} has {info.file_size} bytes, more than {_JSON_BYTES}")
            with archive.open(info) as member:
                found[name] = member.read(info.file_size)
    return found


def pack(path: Path, parts: Parts, weights: bytes) -> None:
    """An archive as Keras writes it: nothing compressed."""
    assert parts.config is not None
    config = json.dumps(parts.config).encode()
    members = {METADATA: b"{}", CONFIG: config} | parts.others | {WEIGHTS: weights}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)


def ordered(parts: Parts, node: Node, setting: Setting, state: State) -> list[Variable] | None:
    """The trained variables in the order of the state; None where that is not certain."""
    if not state.lists:
        return keras_layers.certain(node)
    shapes = [a.shape for a in next(iter(state.lists.values()))]
    every = keras_layers.in_order(keras_layers.thawed(node), parts.tree, shapes)
    return every or keras_layers.in_order(node, parts.tree, shapes)


def said(error: BaseException) -> str:
    return "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
