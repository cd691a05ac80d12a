"""Damage to the files of hostile_samples.py: to their bytes, and to what they say under right checksums."""

import copy
import io
import json
import os
import shutil
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy

from hostile_samples import (
    SAMPLES,
    Files,
    archive,
    keras_config,
    keras_members,
    keras_tree,
    of_folder,
    optax_tree,
    saved,
    sb3_members,
    tf1_arrays,
    torch_content,
)
from rmsprop import files
from rmsprop.convert.keras import hdf5
from rmsprop.convert.optax import msgpack_files
from rmsprop.convert.tensorflow import bundle, bundle_writing, tables

NAMES = ["", ".", "../../x", "/etc/passwd", "a\nb", "\x1b[2J\x1b]0;x\x07", "\u202e", "[bold]x[/y]", "a\\b",
         "square_avg", "vars", "0", "-1", "é" * 300, "w" * 70_000]  # fmt: skip
NUMBERS = [0, 1, -1, 2, 255, 2**16, 2**31 - 1, -(2**31), 2**32, 2**53 + 1, 2**63 - 1, -(2**63), 2**64 - 1,
           0.5, -0.5, 1e-320, 1e38, 1e308, float("nan"), float("inf"), float("-inf")]  # fmt: skip
HUGE = [2**64, 10**30, 10**400]
WILD = [
    *NUMBERS,
    None,
    True,
    False,
    "",
    "x",
    [],
    {},
    [[]],
    {"": None},
    [1, 2, 3],
    {"0": 1},
    *NAMES[:10],
]
LENGTHS = [
    0,
    1,
    127,
    128,
    255,
    2**15,
    2**16 - 1,
    2**24,
    2**31 - 1,
    2**31,
    2**32 - 1,
    2**40,
    2**63,
    2**64 - 1,
]


def wild_array(rng: Any) -> Any:
    dtypes = ["f2", "f4", "f8", "i1", "i4", "i8", "u1", "u8", "?", "c8", "c16"]
    shapes = [(), (0,), (1,), (3, 4), (4,), (4, 2), (2,), (4, 3), (0, 2**40), (1,) * 30, (64, 64)]
    found = np.full(shapes[rng.integers(len(shapes))], 1, dtypes[rng.integers(len(dtypes))])
    if found.dtype.kind == "f" and rng.random() < 0.5:
        found = np.asarray(found * found.dtype.type([np.nan, np.inf, -1, 3e-5][rng.integers(4)]))
    return found


def broken(raw: bytes, rng: Any) -> bytes:
    """Bytes with one to three kinds of damage."""
    b = bytearray(raw)
    for _ in range(int(rng.choice([1, 1, 1, 2, 3]))):
        n = len(b)
        if n < 2:
            return bytes(b) + b"x"
        i, j = (int(x) for x in rng.integers(0, n, 2))
        size = int(min(rng.integers(1, 64), n))
        how = rng.integers(10)
        if how == 0:
            del b[i:]
        elif how == 1:
            for k in rng.integers(0, n, rng.integers(1, 9)):
                b[k] ^= 1 << int(rng.integers(8))
        elif how == 2:
            b[i : i + size] = bytes([int(rng.choice([0, 255, 65, 128]))]) * len(b[i : i + size])
        elif how == 3:
            b[i : i + size] = rng.bytes(len(b[i : i + size]))
        elif how == 4:
            b[i : i + size] = b[j : j + size]
        elif how == 5:
            del b[i : i + size]
        elif how == 6:
            b[i:i] = b[j : j + size]
        elif how == 7:
            word = ["<H", ">H", "<I", ">I", "<Q", ">Q"][rng.integers(6)]
            value = LENGTHS[rng.integers(len(LENGTHS))] % 256 ** struct.calcsize(word)
            b[i : i + struct.calcsize(word)] = struct.pack(word, value)
        elif how == 8:
            i, j = sorted((i, j))
            b[i : i + size], b[j : j + size] = b[j : j + size], b[i : i + size]
        else:
            b[i] = int(rng.integers(256))
    return bytes(b)


def nodes(tree: Any) -> list[tuple[Any, Any]]:
    """Every (container, key)."""
    found = []
    for key in tree if isinstance(tree, dict) else range(len(tree)):
        found.append((tree, key))
        if isinstance(tree[key], (dict, list)):
            found += nodes(tree[key])
    return found


def wild(tree: Any, rng: Any, leaf: Callable[[Any], Any] | None = None) -> Any:
    """A tree with one to three nodes that are wild, missing, renamed, added, moved or nested."""
    tree = copy.deepcopy(tree)
    for _ in range(int(rng.choice([1, 1, 2, 3]))):
        every = nodes(tree)
        if not every:
            return tree
        where, key = every[rng.integers(len(every))]
        how = rng.integers(8)
        if how < 3:
            pool = WILD if rng.random() < 0.9 else HUGE
            where[key] = copy.deepcopy(pool[rng.integers(len(pool))])
        elif how == 3 and leaf:
            where[key] = leaf(rng)
        elif how == 4:
            del where[key]
        elif how == 5:
            name = NAMES[rng.integers(len(NAMES))]
            if isinstance(where, dict):
                where[name] = where.pop(key)
            else:
                where.append(name)
        elif how == 6:
            other, name = every[rng.integers(len(every))]
            where[key] = copy.deepcopy(other.get(name) if isinstance(other, dict) else where[key])
        else:
            depth = int(rng.choice([1, 5, 40, 150]))
            for _ in range(depth):
                where[key] = [where[key]] if rng.random() < 0.5 else {"x": where[key]}
    return tree


def smart_torch(kind: str, raw: Files, rng: Any) -> bytes:
    import torch

    if rng.random() < 0.4 and kind != "legacy":
        return rebuilt(raw[""], rng)
    content = wild(contents(kind), rng, lambda r: torch.from_numpy(wild_array(r)))
    return saved(content, legacy=kind == "legacy")


_kept: dict[str, Any] = {}


def contents(kind: str) -> Any:
    if kind not in _kept:
        _kept[kind] = torch_content("checkpoint" if kind == "legacy" else kind)
    return _kept[kind]


def rebuilt(raw: bytes, rng: Any) -> bytes:
    """An archive with one member that is damaged, missing, doubled or renamed, and right checksums."""
    with zipfile.ZipFile(io.BytesIO(raw)) as found:
        members = [(info.filename, found.read(info)) for info in found.infolist()]
    k, how = int(rng.integers(len(members))), rng.integers(8)
    name, content = members[k]
    if how < 4:
        members[k] = name, changed(name, content, rng)
    elif how == 4:
        del members[k]
    elif how == 5:
        members.append((name, broken(content, rng)))
    elif how == 6:
        members[k] = NAMES[rng.integers(2, len(NAMES) - 1)] or "x", content
    else:
        members[k] = name, b""
    return archive(members, zipfile.ZIP_DEFLATED if rng.random() < 0.3 else zipfile.ZIP_STORED)


def changed(name: str, content: bytes, rng: Any) -> bytes:
    if content[:2] in (b'{"', b"{}"):
        return json.dumps(wild(json.loads(content), rng)).encode()
    if content[:2] == b"PK" and rng.random() < 0.7:
        return rebuilt(content, rng)
    return broken(content, rng)


def smart_sb3(kind: str, raw: Files, rng: Any) -> bytes:
    members = _kept.setdefault("sb3", sb3_members())
    if rng.random() < 0.5:
        return rebuilt(raw[""], rng)
    name = ["policy.pth", "policy.optimizer.pth"][rng.integers(2)]
    new = smart_torch("torch", {"": members[name]}, rng)
    return archive([*(members | {name: new}).items()], zipfile.ZIP_DEFLATED)


def smart_safetensors(kind: str, raw: Files, rng: Any) -> bytes:
    data = next(iter(raw.values()))
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    if kind == "parameters" or rng.random() < 0.3:
        new = json.dumps(wild(header, rng)).encode()
        return len(new).to_bytes(8, "little") + new + data[8 + size :]
    told = json.loads(header["__metadata__"]["rmsprop"])
    del told["sha256"]
    arrays = safetensors.numpy.load(data)
    told, arrays = (wild(told, rng), arrays) if rng.random() < 0.7 else (told, wilder(arrays, rng))
    path = Path(os.environ["TMPDIR"]) / "signed"
    files.save_arrays(path, arrays, told)
    return path.read_bytes()


def wilder(arrays: dict[str, Any], rng: Any) -> dict[str, Any]:
    """Arrays by name, one of which is missing, renamed, added or another."""
    arrays = dict(arrays)
    names = [*arrays]
    name, how = names[rng.integers(len(names))], rng.integers(4)
    if how == 0:
        del arrays[name]
    elif how == 1:
        arrays[NAMES[rng.integers(2, len(NAMES) - 1)]] = arrays.pop(name)
    else:
        other = NAMES[rng.integers(2, len(NAMES) - 1)] if how == 2 else name
        found = wild_array(rng)
        arrays[other] = found.real.copy() if found.dtype.kind == "c" else found
    return arrays


def wild_tree(rng: Any) -> bytes:
    """A file of weights whose groups and datasets are other than Keras's."""
    tree = keras_tree()
    if rng.random() < 0.3:
        group = [*tree.names][rng.integers(len(tree.names))]
        tree.names[group] = NAMES[rng.integers(2, len(NAMES) - 2)]
    for _ in range(int(rng.integers(1, 3))):
        paths = [*tree.arrays]
        path = paths[rng.integers(len(paths))]
        if rng.random() < 0.3:
            new = NAMES[rng.integers(2, len(NAMES) - 1)].strip("/.") or "x"
            tree.arrays[f"{path.rpartition('/')[0]}/{new}"] = tree.arrays.pop(path)
        elif rng.random() < 0.3:
            del tree.arrays[path]
        else:
            found = wild_array(rng)
            tree.arrays[path] = found if found.size < 2**20 else found[:0]
    try:
        return hdf5.write(tree)
    except (ValueError, OSError):  # HDF5 has no such name
        return hdf5.write(keras_tree())


def smart_keras(kind: str, raw: Files, rng: Any) -> bytes:
    if kind == "weights":
        return wild_tree(rng)
    if rng.random() < 0.3:
        return rebuilt(raw[""], rng)
    config = wild(keras_config(), rng) if rng.random() < 0.7 else keras_config()
    members = keras_members(config, keras_tree())
    if rng.random() < 0.4:
        members[2] = (members[2][0], wild_tree(rng))
    return archive(members)


def smart_msgpack(kind: str, raw: Files, rng: Any) -> bytes:
    while True:
        try:
            return msgpack_files.packed(wild(optax_tree(), rng, wild_array))
        except (OverflowError, RecursionError, TypeError):  # msgpack has no such number
            continue


def smart_tf1(kind: str, raw: Files, rng: Any) -> Files:
    """An index and data of other tensors, or with damage that is signed."""
    entries = [*tables.table(raw["m.index"])]
    data, how = raw["m.data-00000-of-00001"], rng.integers(3)
    if how == 0:
        made = wilder(tf1_arrays(), rng)
        made = {n: x for n, x in made.items() if x.dtype.name in bundle.WRITTEN and n.isprintable()}
        folder = Path(os.environ["TMPDIR"]) / "tf"
        shutil.rmtree(folder, ignore_errors=True)
        bundle_writing.write_bundle(folder / "m", made)
        return raw | of_folder(folder)
    k = int(rng.integers(len(entries)))
    key, value = entries[k]
    if how == 1:
        entries[k] = key, broken(value, rng)
    else:
        entries[k] = (
            NAMES[rng.integers(len(NAMES))].encode() if rng.random() < 0.5 else broken(key, rng),
            value,
        )
    entries = [*dict(sorted(entries)).items()]
    return raw | {"m.index": tables.table_bytes(entries), "m.data-00000-of-00001": data}


def smart_orbax(kind: str, raw: Files, rng: Any) -> Files:
    name = "_METADATA"
    return raw | {name: json.dumps(wild(json.loads(raw[name]), rng)).encode()}


SMART: dict[str, Callable[[str, Files, Any], bytes | Files]] = {
    **dict.fromkeys(("torch", "checkpoint", "onebyte", "bitsandbytes", "legacy"), smart_torch),
    **dict.fromkeys(("parameters", "numpy", "written"), smart_safetensors),
    **dict.fromkeys(("keras", "weights"), smart_keras),
    "sb3": smart_sb3, "tf1": smart_tf1, "msgpack": smart_msgpack, "orbax": smart_orbax,
}  # fmt: skip


def mutated(kind: str, raw: Files, rng: Any) -> Files:
    if rng.random() < 0.5:
        found = SMART[kind](kind, raw, rng)
        return {next(iter(raw)): found} if isinstance(found, bytes) else found
    name = [*raw][rng.integers(len(raw))]
    if len(raw) > 1 and rng.random() < 0.1:
        return {n: x for n, x in raw.items() if n != name}
    return raw | {name: broken(raw[name], rng)}


def lay(folder: Path, kind: str, content: Files) -> Path:
    """The files on disk; where to read them."""
    ending, several = SAMPLES[kind][0], kind in ("tf1", "orbax")
    target = folder / f"a{ending}"
    if not several:
        target.write_bytes(next(iter(content.values())))
        return target
    shutil.rmtree(target, ignore_errors=True)
    for name, data in content.items():
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        (target / name).write_bytes(data)
    return target
