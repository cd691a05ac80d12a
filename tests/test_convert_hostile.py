"""Files from strangers: 10,000 damaged ones, those made to run code or fill the memory; and full disks.

All reading is done by hostile_worker.py, in processes of their own, so that a crash or a hang is seen.
"""

import base64
import json
import os
import pickle
import subprocess
import sys
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

import needs

torch = needs.package("torch")
h5py = needs.package("h5py")
msgpack = needs.package("msgpack")
needs.installed("tensorstore")
needs.installed("orbax")

import hostile_samples as samples  # noqa: E402
import hostile_worker as worker  # noqa: E402
from rmsprop import convert  # noqa: E402
from rmsprop.convert.checkpoint import Checkpoint, Entry  # noqa: E402
from rmsprop.convert.keras import archive as keras_archive  # noqa: E402
from rmsprop.convert.keras import hdf5  # noqa: E402
from rmsprop.convert.optax import msgpack_files  # noqa: E402
from rmsprop.convert.tensorflow import tables  # noqa: E402

pytestmark = pytest.mark.long
COUNT = 715  # of each kind: 10,010 in all
KINDS = ["torch", "checkpoint onebyte", "bitsandbytes legacy", "sb3", "parameters numpy written tf1",
         "keras msgpack", "weights", "orbax"]  # fmt: skip


def run(what: str, folder: Path, *words: str) -> Any:
    """What the worker found; a worker that dies says while reading what."""
    paths = [str(Path(convert.__file__).parents[2]), os.environ.get("PYTHONPATH", "")]
    env = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths)), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, worker.__file__, what, str(folder), *words]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=600)
    now = folder / "now"
    doing = now.read_text() if now.exists() else ""
    assert done.returncode == 0, f"it died at {doing.strip()!r}: {done.stderr[-3000:]}"
    return json.loads(done.stdout.splitlines()[-1])


def test_all_kinds_are_tried() -> None:
    kinds = " ".join(KINDS).split()
    assert sorted(kinds) == sorted(samples.SAMPLES)
    assert len(kinds) * COUNT >= 10_000


@pytest.mark.parametrize("kinds", KINDS)
def test_damaged_files_give_clear_errors(kinds: str, tmp_path: Path) -> None:
    """A ValueError of one line that names the file, within 5 s and 3 GB; or it still reads."""
    found = run("fuzz", tmp_path, str(COUNT), *kinds.split())
    assert not found["wrong"], "\n".join(found["wrong"])
    for kind in kinds.split():
        tally = found["tally"]
        assert tally[f"{kind} refused"] + tally.get(f"{kind} read", 0) == COUNT
        assert tally[f"{kind} refused"] > COUNT // 3


@pytest.mark.parametrize("how", ["full", "raise"])
def test_a_target_is_written_whole_or_not_at_all(how: str, tmp_path: Path) -> None:
    assert not run("write", tmp_path, how)["wrong"]


def test_killed_writers_leave_a_whole_target(tmp_path: Path) -> None:
    found = run("kill", tmp_path)
    assert found["killed"] == worker.KILLS * len(worker.TARGETS)
    assert not found["wrong"]


@pytest.mark.parametrize(
    "kind", [k for k in worker.TARGETS if k not in ("keras", "weights", "sb3")]
)
def test_a_refused_translation_touches_nothing(kind: str, tmp_path: Path) -> None:
    name, to, _ = worker.TARGETS[kind]
    entry = Entry({"v": samples.a(3)}, samples.a(3))
    rule = {"lr": 0.1, "momentum": 0.9, "centered": False}
    found = Checkpoint("torch", "torch", [rule], {"w": entry}, 7, "torch")
    found.entries["b"] = Entry({}, samples.a(2))  # never updated: that is lost
    found.groups.append({"lr": 0.2, "momentum": 0.0})
    found.entries["b"].group = 1
    target = tmp_path / "in" / name
    dialect = "sb3" if to == "torch" else "torch"
    with pytest.raises(convert.Unfaithful, match="nothing is written"):
        convert.write(found, target, to, dialect=dialect)
    assert not target.parent.exists()
    worker.written(kind, target.parent, 0.01)
    before = samples.of_folder(target.parent)
    with pytest.raises(convert.Unfaithful, match="nothing is written"):
        convert.write(found, target, to, dialect=dialect)
    assert samples.of_folder(target.parent) == before


# What strangers make.


class Evil:
    def __init__(self, mark: Path):
        self.mark = mark

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.mark}",)


def evil_pickles(cases: Path, mark: Path) -> None:
    evil = {"state": {}, "param_groups": [{"params": [0], "lr": Evil(mark)}]}
    (cases / "evil.pt").write_bytes(samples.saved(evil))
    (cases / "evil_legacy.pt").write_bytes(samples.saved(evil, legacy=True))
    (cases / "evil_pickle.pt").write_bytes(pickle.dumps(Evil(mark), protocol=2))
    members = samples.sb3_members()
    data = json.loads(members["data"])
    data["policy_kwargs"][":serialized:"] = base64.b64encode(pickle.dumps(Evil(mark))).decode()
    with_data = members | {"data": json.dumps(data).encode()}
    (cases / "READS_evil_data.zip").write_bytes(samples.archive([*with_data.items()]))
    with_policy = members | {"policy.pth": samples.saved({"w": Evil(mark)})}
    (cases / "evil_policy.zip").write_bytes(samples.archive([*with_policy.items()]))
    with_optimizer = members | {"policy.optimizer.pth": samples.saved(evil)}
    (cases / "evil_optimizer.zip").write_bytes(samples.archive([*with_optimizer.items()]))
    outside = [*members.items(), ("../evil", b"x"), (f"/{mark}", b"x")]
    (cases / "READS_names_outside.zip").write_bytes(samples.archive(outside))


def evil_keras(cases: Path, mark: Path) -> None:
    members = samples.keras_members(samples.keras_config(), samples.keras_tree())
    outside = samples.archive([*members, ("../evil", b"x")])
    (cases / "names_outside.keras").write_bytes(outside)
    code = base64.b64encode(b"\xe3\x00\x00").decode()
    function = {
        "class_name": "__lambda__",
        "config": {"code": code, "defaults": None, "closure": None},
    }
    layers = {
        "lambda": {"module": "keras.layers", "class_name": "Lambda",
                   "config": {"name": "x", "function": function}},
        "module": {"module": "os", "class_name": "system", "registered_name": "os>system",
                   "config": {"name": "x", "command": f"touch {mark}"}},
    }  # fmt: skip
    for name, layer in layers.items():
        config = samples.keras_config()
        config["config"]["layers"].insert(1, layer)
        members = samples.keras_members(config, samples.keras_tree())
        (cases / f"READS_{name}.keras").write_bytes(samples.archive(members))
    config = samples.keras_config()
    config["compile_config"]["optimizer"] = layers["module"]
    members = samples.keras_members(config, samples.keras_tree())
    (cases / "READS_module_optimizer.keras").write_bytes(samples.archive(members))


def evil_hdf5(cases: Path, secret: Path) -> None:
    other = secret.with_suffix(".h5")
    with h5py.File(other, "w") as file:
        file["x"] = np.ones(3, np.float32)
    raw = hdf5.write(samples.keras_tree())
    names = ("link", "soft", "stored", "virtual", "cycle", "bomb", "wide", "objects")
    for name in names:
        (cases / f"{name}.weights.h5").write_bytes(raw)
    path = "layers/dense/vars/0"
    for name in names:
        with h5py.File(cases / f"{name}.weights.h5", "r+") as file:
            del file[path]
            if name == "link":
                file[path] = h5py.ExternalLink(str(other), "/x")
            elif name == "soft":
                file[path] = h5py.SoftLink("/layers/dense/vars/1")
            elif name == "stored":
                size = secret.stat().st_size // 4 * 4
                outside = [(str(secret), 0, size)]
                file.create_dataset(path, (size // 4,), "f4", external=outside)
            elif name == "virtual":
                layout = h5py.VirtualLayout((3,), "f4")
                layout[:] = h5py.VirtualSource(str(other), "x", (3,))
                file.create_virtual_dataset(path, layout)
            elif name == "cycle":
                file["layers/dense/again"] = file["layers"]
            elif name == "bomb":
                zeros = zlib.compress(bytes(2**26))
                made = file.create_dataset(
                    path, (2**28,), "f4", chunks=(2**24,), compression="gzip"
                )
                for k in range(16):
                    made.id.write_direct_chunk((k * 2**24,), zeros)
            elif name == "wide":
                file.create_dataset(path, (2**40,), "f4", chunks=(2**20,))
            else:
                group = file["layers"]
                for k in range(100_001):
                    group.id.links.create_hard(f"{k}".encode(), group.id, b"dense")


def bombs(cases: Path) -> None:
    """256 MB of zeros in 256 kB."""
    members = [("weights.keras", keras_archive.WEIGHTS), ("config.keras", keras_archive.CONFIG)]
    members += [("policy.zip", "policy.pth"), ("data.zip", "data"), ("a.pt", "a/data.pkl")]
    for name, member in members:
        known = samples.sb3_members() if name.endswith("zip") else {}
        if name.endswith("keras"):
            known = dict(samples.keras_members(samples.keras_config(), samples.keras_tree()))
        path = cases / f"bomb_{name}"
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
            for key, content in (known | {member: b""}).items():
                if key != member:
                    archive.writestr(key, content)
            with archive.open(member, "w") as file:
                for _ in range(16):
                    file.write(bytes(2**24))


def evil_folders(cases: Path, secret: Path) -> None:
    for name in ("linked_file", "linked_folder", "pipe_inside"):
        (cases / name).mkdir()
        for path, content in samples.orbax_files(cases.parent / name).items():
            (cases / name / path).parent.mkdir(parents=True, exist_ok=True)
            (cases / name / path).write_bytes(content)
    (cases / "linked_file" / "manifest.ocdbt").unlink()
    (cases / "linked_file" / "manifest.ocdbt").symlink_to(secret)
    (cases / "linked_folder" / "more").symlink_to(secret.parent)
    os.mkfifo(cases / "pipe_inside" / "pipe")
    for name, prefix in (("up", "../secret"), ("absolute", str(secret)), ("dots", "..")):
        (cases / f"tf_{name}").mkdir()
        (cases / f"tf_{name}" / "checkpoint").write_text(f'model_checkpoint_path: "{prefix}"\n')
    for name in ("empty.pt", "empty.keras", "empty_folder"):
        (cases / name).mkdir()


def odd_files(cases: Path) -> None:
    for ending in (
        "pt",
        "zip",
        "safetensors",
        "keras",
        "h5",
        "weights.h5",
        "msgpack",
        "index",
        "bin",
    ):
        (cases / f"empty_file.{ending}").touch()
        os.mkfifo(cases / f"pipe.{ending}")
        (cases / f"zero.{ending}").symlink_to("/dev/zero")
        (cases / f"loop.{ending}").symlink_to(cases / f"loop.{ending}")
        with (cases / f"sparse.{ending}").open("wb") as file:  # 10 GB, none of them written
            file.truncate(10 * 10**9)
    starts = {"pk.pt": b"PK\x03\x04", "pickle.pt": b"\x80\x02", "hdf.h5": b"\x89HDF\r\n\x1a\n",
              "map.msgpack": b"\x81\xa1w\xc6\xff\xff\xff\xff"}  # fmt: skip
    for name, start in starts.items():
        with (cases / f"sparse_{name}").open("wb") as file:
            file.write(start)
            file.truncate(10**8 if name == "map.msgpack" else 2 * 10**9)
    with (cases / "sparse_end.index").open("wb") as file:
        file.truncate(10 * 10**9 - 8)
        file.seek(0, 2)
        file.write(tables.MAGIC.to_bytes(8, "little"))
    (cases / "MANY_operations.pt").write_bytes(b"\x80\x02N" + b"\x94" * 12_000_000)


def many(cases: Path) -> None:
    """Slow for what is in them, and not for how they are made."""
    one = np.ones(1, np.float32)
    tiny = {f"layer{k}": one for k in range(50_000)}
    (cases / "MANY_READS.safetensors").write_bytes(safetensors.numpy.save(tiny))
    long = {"w" * 1_000_000: one, "v" * 1_000_000: one}
    (cases / "MANY_READS_long.safetensors").write_bytes(safetensors.numpy.save(long))
    tiny = dict([*tiny.items()][:20_000])
    tree = {"params": tiny, "opt_state": [{"nu": tiny}, {}, {}]}
    (cases / "MANY_READS.msgpack").write_bytes(msgpack_files.packed(tree))
    content: dict[str, Any] = {"state": {k: {"square_avg": torch.ones(1)} for k in range(10_000)}}
    content["param_groups"] = [{"lr": 0.1, "alpha": 0.9, "params": [*range(10_000)]}]
    (cases / "MANY_READS.pt").write_bytes(samples.saved(content))


def test_what_strangers_make_is_refused_quickly(tmp_path: Path) -> None:
    """Nothing runs, nothing outside is read, nothing fills the memory, and nothing waits for ever."""
    cases, mark, secret = tmp_path / "cases", tmp_path / "mark", tmp_path / "secret"
    cases.mkdir()
    secret.write_text("a secret of 32 bytes, not to read")
    evil_pickles(cases, mark)
    evil_keras(cases, mark)
    evil_hdf5(cases, secret)
    bombs(cases)
    evil_folders(cases, secret)
    odd_files(cases)
    many(cases)
    found = run("look", tmp_path)
    assert len(found) == len([*cases.iterdir()]) > 60
    wrong = []
    for name, told in found.items():
        expected = "read" if "READS" in name else "refused"
        slow = 60 if name.startswith("MANY") else 10  # on a busy machine; a hang is longer
        large = 2000 if name.startswith("MANY") else 300
        if told["said"] != expected or told["seconds"] > slow or told["MB"] > large:
            wrong.append(f"{name}: {told}")
        if "secret of" in told["text"]:
            wrong.append(f"{name} tells {told['text']}")
    assert not wrong, "\n".join(wrong)
    assert not mark.exists()
    assert not [*tmp_path.rglob("evil")]


# The command line.


def command(*words: str) -> subprocess.CompletedProcess[bytes]:
    paths = [str(Path(convert.__file__).parents[2]), os.environ.get("PYTHONPATH", "")]
    env = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))}
    return subprocess.run(
        [sys.executable, "-m", "rmsprop.cli", *words], env=env, capture_output=True, timeout=120
    )


BAD = "w\x1b]0;title\x07\x1b[2J\r\n\x9b31m[red]x[/blue]\u202e"


def test_names_do_not_reach_the_terminal_raw(tmp_path: Path) -> None:
    path, state = tmp_path / "a.safetensors", tmp_path / "state.safetensors"
    path.write_bytes(safetensors.numpy.save({BAD: np.ones(2, np.float32)}))
    made = samples.checkpoint("numpy", "keras")
    made.entries[BAD] = made.entries.pop("dense/bias")
    convert.write(made, state)
    like = samples.checkpoint("numpy", "keras")
    convert.write(like, tmp_path / "like.safetensors")
    target = tmp_path / "b.msgpack"
    for words, code in (
        (["inspect", str(path)], 0),
        (["inspect", str(state)], 0),
        (["convert", str(state), str(target), "--dry-run"], 0),
        (["convert", str(path), str(target)], 2),
        (["convert", str(state), str(target), "--like", str(tmp_path / "like.safetensors")], 2),
    ):
        done = command(*words)
        assert done.returncode == code, done.stderr
        text = (done.stdout + done.stderr).decode()
        assert not {c for c in text if not c.isprintable()} - {"\n"}, words
    assert not target.exists()


@pytest.mark.parametrize("verb", ["inspect", "convert"])
def test_the_command_line_refuses_in_one_line(verb: str, tmp_path: Path) -> None:
    evil_pickles(tmp_path, tmp_path / "mark")
    (tmp_path / "empty.keras").touch()
    (tmp_path / "text.msgpack").write_text("no map")
    os.mkfifo(tmp_path / "pipe.pt")
    header = json.dumps({BAD: {"dtype": "I64", "shape": "x", "data_offsets": [0, 8]}}).encode()
    bad = len(header).to_bytes(8, "little") + header + bytes(8)
    (tmp_path / "name.safetensors").write_bytes(bad)
    for name in (
        "evil.pt",
        "empty.keras",
        "text.msgpack",
        "pipe.pt",
        "name.safetensors",
        "none.pt",
    ):
        more = [str(tmp_path / "out.pt"), "--from", "torch"] if verb == "convert" else []
        done = command(verb, str(tmp_path / name), *more)
        text = done.stderr.decode()
        assert done.returncode == 2, (name, text)
        assert text.startswith("rmsprop: ")
        assert text.count("\n") == 1, text
        assert text.strip().isprintable(), text
        assert not done.stdout
    assert not (tmp_path / "out.pt").exists()
    assert not (tmp_path / "mark").exists()
