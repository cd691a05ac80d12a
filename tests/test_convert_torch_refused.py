"""What is refused of PyTorch's files: other optimizers, damaged and hostile ones."""

import argparse
import struct
import zipfile
from pathlib import Path
from typing import Any

import pytest

import needs
from rmsprop import Rule

torch = needs.package("torch")

from rmsprop.convert.torch import files as torch_files  # noqa: E402
from rmsprop.convert.torch import safetensors_files  # noqa: E402
from rmsprop.torch import from_rule  # noqa: E402
from test_convert_torch import trained  # noqa: E402


def changed(edit: Any, make: Any = torch.optim.RMSprop, **options: Any) -> dict[str, Any]:
    """A state dict with something wrong."""
    state = trained(make, **options)[1].state_dict()
    edit(state)
    return state


def of_group(**values: Any) -> Any:
    return lambda state: state["param_groups"][0].update(values)


def of_entry(key: int = 0, **values: Any) -> Any:
    return lambda state: state["state"][key].update(values)


def two(make: Any) -> Any:
    return lambda: {"g": make(lambda _: None), "d": [make(lambda _: None)]}


Adam = torch.optim.Adam
REFUSED: dict[str, tuple[Any, str]] = {
    "Adam": (lambda: changed(lambda _: None, Adam), "keeps exp_avg, exp_avg_sq.* not RMSprop's"),
    "Adam, not stepped": (lambda: Adam([torch.ones(2)]).state_dict(), "no alpha: this is not RMSprop"),
    "Adadelta": (lambda: changed(lambda _: None, torch.optim.Adadelta), "keeps acc_delta"),
    "several": (two(changed), r"holds 2 optimizers \(g, d\[0\]\).*alone"),
    "nothing": (lambda: {"epoch": 3}, "holds neither an optimizer's"),
    "nan rate": (lambda: changed(of_group(lr=float("nan"))), "group 0 .*lr must be a number at least 0"),
    "huge rate": (lambda: changed(of_group(lr=10**400)), "lr must be a number at least 0"),
    "rate of two": (lambda: changed(of_group(lr=torch.ones(2))), "lr in the groups is no number"),
    "decay": (lambda: changed(of_group(alpha=1.0)), r"decay must be a number in \[0, 1\)"),
    "steps": (lambda: changed(of_entry(step=2.5)), "step must be a whole number"),
    "step nan": (lambda: changed(of_entry(step=torch.tensor(float("nan")))), "step must be a whole"),
    "shapes": (lambda: changed(of_entry(momentum_buffer=torch.ones(3))), "averages of 0 differ in shape"),
    "integers": (lambda: changed(of_entry(square_avg=torch.ones(7, 5).int())), "is of torch.int32"),
    "complex": (
        lambda: changed(of_entry(square_avg=torch.ones(7, 5, dtype=torch.complex64))),
        "square_avg of 0 is complex: torch averages real and imaginary parts apart",
    ),
    "sparse": (lambda: changed(of_entry(square_avg=torch.ones(7, 5).to_sparse())), "only dense ones"),
    "expanded": (
        lambda: changed(of_entry(square_avg=torch.ones(1).expand(1 << 40))),
        "claims [0-9,]+ bytes of tensors",
    ),
    "views": (
        lambda: {"model": dict.fromkeys([f"w{k}" for k in range(2000)], torch.ones(30_000))},
        "views of the same storage",
    ),
    "objects": (
        lambda: {"args": argparse.Namespace(a=1), **changed(lambda _: None)},
        r"holds objects \(argparse.Namespace\) that only unpickling could make.*optimizer.state_dict\(\)",
    ),
    "damaged group": (lambda: changed(of_group(params=3)), "group 0 of the optimizer has no list"),
    "a deep list": (lambda: deep(100), "nested more than 16 deep"),
    "codes alone": (
        lambda: changed(lambda s: s["state"][0].update(square_avg_code=torch.ones(7, 5).byte())),
        "needs square_avg_exponent",
    ),
}  # fmt: skip


def deep(depth: int) -> Any:
    found: Any = []
    for _ in range(depth):
        found = [found]
    return {"a": found}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused(tmp_path: Path, name: str) -> None:
    make, message = REFUSED[name]
    path = tmp_path / "a.pt"
    torch.save(make(), path)
    with pytest.raises(ValueError, match=rf"(?s){path}.*{message}"):
        torch_files.read(path, {})


def test_bias_correction_needs_one_step_for_all(tmp_path: Path) -> None:
    state = changed(of_entry(1, step=torch.tensor(7.0)))
    found = torch_files.of_state_dict(state)
    assert found.step == 7
    assert "3 to 7 times" in found.notes[0]
    rule = Rule(bias_correction=True)
    state = changed(of_entry(1, step=torch.tensor(7.0)), lambda ps, **_: from_rule(ps, rule))
    with pytest.raises(ValueError, match="needs one step for all"):
        torch_files.of_state_dict(state)
    found.groups, found.step = [rule.to_dict()], None
    with pytest.raises(ValueError, match="which is not known"):
        torch_files.state_dict_of(found)


def test_files_that_are_not_there_or_not_files(tmp_path: Path) -> None:
    from rmsprop.convert.torch import sb3

    for read in (torch_files.read, sb3.read, safetensors_files.read):
        with pytest.raises(FileNotFoundError, match="missing is missing"):
            read(tmp_path / "missing", {})
        for content in (b"", b"PK\x03\x04", b"\x80\x02", b"hello" * 100):
            (tmp_path / "a").write_bytes(content)
            with pytest.raises(ValueError, match=str(tmp_path / "a")):
                read(tmp_path / "a", {})
    with pytest.raises(ValueError, match="gather the state first"):
        torch_files.read(tmp_path, {})


def zipped(path: Path, pickled: bytes, data: bytes = bytes(16)) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in (("data.pkl", pickled), ("data/0", data), ("version", b"3\n")):
            archive.writestr(f"a/{name}", content)
    return path


def claiming(numel: int, size: int) -> bytes:
    """The pickle of a state dict with one tensor, which claims `numel` float32 in its storage."""

    def text(s: str) -> bytes:
        return b"X" + struct.pack("<I", len(s)) + s.encode()

    def whole(n: int) -> bytes:
        return b"\x8a\x08" + struct.pack("<q", n)

    storage = (
        b"("
        + text("storage")
        + b"ctorch\nFloatStorage\n"
        + text("0")
        + text("cpu")
        + whole(numel)
        + b"tQ"
    )
    rest = whole(0) + b"(" + whole(size) + b"t(" + whole(1) + b"t\x89ccollections\nOrderedDict\n)R"
    made = b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + rest + b"tR"
    return b"\x80\x02}" + text("w") + made + b"s."


def test_hostile_pickles_do_nothing(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    command = f"touch {mark}".encode()
    system = b"\x80\x02cposix\nsystem\nX" + struct.pack("<I", len(command)) + command + b"\x85R."
    deep_key = b"\x80\x02}K\x01" + b"\x85" * 2_000_000 + b"K\x01s."  # hash() of it ends the process
    cases = {
        r"holds objects \(posix.system\)": system,
        "nested more than 100 deep": deep_key,
        "damaged": claiming(1 << 28, 1 << 28),
        "is damaged": claiming(-5, 4),
        "claims": claiming(1 << 50, 1 << 50),
        "one process's shards": b"\x80\x02ctorch.distributed.checkpoint.metadata\nMetadata\n)\x81.",
        r"damaged|neither": b"\x80\x02c__builtin__\nbytearray\n\x8a\x02\xff\x7f\x85R.",
    }
    for message, pickled in cases.items():
        with pytest.raises(ValueError, match=message if message != "claims" else "damaged"):
            torch_files.read(zipped(tmp_path / "a.pt", pickled), {})
    (tmp_path / "b.pt").write_bytes(system)
    with pytest.raises(ValueError, match=r"b\.pt"):
        torch_files.read(tmp_path / "b.pt", {})
    assert not mark.exists()


def test_a_bit_flipped_in_any_tensor_is_seen(tmp_path: Path) -> None:
    torch.save(trained()[1].state_dict(), tmp_path / "a.pt")
    data = (tmp_path / "a.pt").read_bytes()
    with zipfile.ZipFile(tmp_path / "a.pt") as archive:
        members = [m for m in archive.infolist() if "/data/" in m.filename]
    assert len(members) == 12
    for member in members:
        lengths = struct.unpack_from(
            "<HH", data, member.header_offset + 26
        )  # of its name, and of the rest
        broken = bytearray(data)
        broken[member.header_offset + 30 + sum(lengths)] ^= 1
        (tmp_path / "a.pt").write_bytes(broken)
        with pytest.raises(ValueError, match="damaged: the checksum of"):
            torch_files.read(tmp_path / "a.pt", {})


def test_members_that_claim_more_than_there_is(tmp_path: Path) -> None:
    from rmsprop.convert.torch import sb3

    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("policy.pth", bytes(1 << 25))
        archive.writestr("policy.optimizer.pth", b"")
    with pytest.raises(ValueError, match="made to fill the memory"):
        sb3.read(tmp_path / "a.zip", {})
    with zipfile.ZipFile(tmp_path / "a.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/data.pkl", bytes(1 << 25))
    with pytest.raises(ValueError, match=r"is compressed, as torch\.save never does"):
        torch_files.read(tmp_path / "a.pt", {})
