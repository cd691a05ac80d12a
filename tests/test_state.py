"""State: copies, files, pickles.  A run that is stopped and resumed is the run that was not stopped."""

import copy
import json
import os
import pickle
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st

import rmsprop
from cases import RULES, dialect_rules
from rmsprop import Rule, files
from rmsprop.numpy import Adam, Optimizer, RMSprop
from rmsprop.schedules import Cosine
from rmsprop.state import State

Array = np.ndarray[Any, Any]
SHAPES = {"w": (2, 3), "s": (), "empty": (0, 2), "päth.0/x y": (4,)}
DTYPES = {"w": "float32", "s": "float64", "empty": "float32", "päth.0/x y": "float64"}


def start() -> dict[str, Array]:
    return {path: np.full(shape, 1.5, DTYPES[path]) for path, shape in SHAPES.items()}


def go(optimizer: Optimizer, params: dict[str, Array], first: int, last: int) -> None:
    for t in range(first, last):
        rng = np.random.default_rng(t)
        grads = {k: np.array(rng.normal(0, 1, p.shape), p.dtype) for k, p in params.items()}
        optimizer.update(params, grads)


def bits(optimizer: Optimizer, params: dict[str, Array]) -> Any:
    state = {
        slot: {k: a.tobytes() for k, a in d.items()} for slot, d in optimizer.state.slots.items()
    }
    return (
        optimizer.step_count,
        optimizer.skipped,
        state,
        {k: p.tobytes() for k, p in params.items()},
    )


def unbroken(rule: Rule, steps: int = 6) -> Any:
    optimizer, params = Optimizer(rule), start()
    go(optimizer, params, 0, steps)
    return bits(optimizer, params)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file to damage."""
    optimizer, params = RMSprop(0.1, momentum=0.9, centered=True), start()
    go(optimizer, params, 0, 3)
    path = tmp_path_factory.mktemp("saved") / "state"
    optimizer.save(path)
    return path


class TestStateDict:
    @pytest.mark.parametrize("name", RULES)
    def test_continues_bit_for_bit(self, name: str) -> None:
        first, params = Optimizer(RULES[name]), start()
        go(first, params, 0, 3)
        second = Optimizer(RULES[name])
        second.load_state_dict(first.state_dict())
        resumed = {path: p.copy() for path, p in params.items()}
        go(second, resumed, 3, 6)
        assert bits(second, resumed) == unbroken(RULES[name])

    def test_contents(self) -> None:
        optimizer, p = RMSprop(0.5, 0.75, momentum=0.9, centered=True), {"w": np.ones(2)}
        optimizer.update(p, {"w": np.full(2, 2.0)})
        state = optimizer.state_dict()
        assert set(state) == {
            "rule", "step", "skipped", "square_avg", "grad_avg", "momentum_buffer",
        }  # fmt: skip
        assert (state["step"], state["skipped"]) == (1, 0)
        assert Rule.from_dict(state["rule"]) == optimizer.rule
        assert state["square_avg"]["w"].tolist() == [1.0, 1.0]
        assert state["grad_avg"]["w"].tolist() == [0.5, 0.5]
        assert set(RMSprop().state_dict()) == {"rule", "step", "skipped"}, "before the first step"

    def test_copies_on_the_way_out_and_in(self) -> None:
        optimizer, p = RMSprop(0.1), {"w": np.ones(2)}
        optimizer.update(p, {"w": np.ones(2)})
        state = optimizer.state_dict()
        state["square_avg"]["w"][:] = 77.0
        assert optimizer.state_dict()["square_avg"]["w"][0] != 77.0
        state = optimizer.state_dict()
        other = RMSprop(0.1)
        other.load_state_dict(state)
        state["square_avg"]["w"][:] = 77.0
        other.update({"w": np.ones(2)}, {"w": np.ones(2)})
        assert other.state_dict()["square_avg"]["w"][0] < 1.0
        assert state["step"] == 1

    def test_load_into_an_optimizer_that_is_running(self) -> None:
        one, two, p, q = RMSprop(0.1), RMSprop(0.1), {"w": np.ones(2)}, {"w": np.ones(2)}
        for _ in range(3):
            one.update(p, {"w": np.ones(2)})
        two.update(q, {"w": np.full(2, 9.0)})
        two.load_state_dict(one.state_dict())
        q["w"][:] = p["w"]
        one.update(p, {"w": np.ones(2)})
        two.update(q, {"w": np.ones(2)})
        np.testing.assert_array_equal(p["w"], q["w"])
        assert two.step_count == 4

    def test_keeps_its_own_numbers_and_schedule(self) -> None:
        one, p = RMSprop(0.1, epsilon=1e-3), {"w": np.ones(2)}
        one.update(p, {"w": np.ones(2)})
        two = RMSprop(Cosine(0.2, steps=10), epsilon=1e-5)
        two.load_state_dict(one.state_dict())
        assert two.rule.eps == 1e-5
        assert two.current_learning_rate == Cosine(0.2, steps=10)(1)

    @pytest.mark.parametrize("step", [0, 2])
    def test_momentum_on_and_off(self, step: int) -> None:
        off, on = RMSprop(0.1), RMSprop(0.1, momentum=0.9)
        p = {"w": np.ones(2)}
        for one, two in ((off, on), (on, off)):
            for _ in range(step):
                one.update(p, {"w": np.ones(2)})
            two.load_state_dict(one.state_dict())
            assert "momentum_buffer" not in two.state_dict()
            two.update(p, {"w": np.ones(2)})
            assert ("momentum_buffer" in two.state_dict()) == (two is on)

    @pytest.mark.parametrize(
        ("source", "target", "word"),
        [
            (RMSprop(0.1), RMSprop(0.1, centered=True), "centered"),
            (RMSprop(0.1), Adam(0.1), "first_moment"),
            (RMSprop(0.1), Optimizer(RULES["adagrad"]), "second_moment"),
            (
                RMSprop(0.1, momentum=0.9),
                RMSprop(0.1, momentum=0.9, lr_in_momentum=True),
                "lr_in_momentum",
            ),
            (RMSprop(0.1, dialect="torch"), Optimizer(RULES["sgd"]), "second_moment"),
        ],
    )
    def test_a_state_that_means_something_else(
        self, source: Optimizer, target: Optimizer, word: str
    ) -> None:
        source, target = copy.deepcopy(source), copy.deepcopy(target)
        p, q = start(), start()
        go(source, p, 0, 2)
        go(target, q, 0, 1)
        before = bits(target, q)
        with pytest.raises(ValueError, match=word):
            target.load_state_dict(source.state_dict())
        assert bits(target, q) == before
        go(target, q, 1, 2)

    @pytest.mark.parametrize(
        "change",
        [
            lambda s: s.pop("rule"),
            lambda s: s.pop("step"),
            lambda s: s.pop("square_avg"),
            lambda s: s.update(step=-1),
            lambda s: s.update(step=1.5),
            lambda s: s.update(step="1"),
            lambda s: s.update(rule=5),
            lambda s: s.update(rule=None),
            lambda s: s["rule"].update(lr=-1),
            lambda s: s["rule"].update(lr="x"),
            lambda s: s["rule"].update(colour=1),
            lambda s: s.update(square_avg=[np.ones(2)]),
            lambda s: s.update(square_avg={"w": [1.0, 1.0]}),
            lambda s: s.update(square_avg={"w": np.ones(3)}),
            lambda s: s.update(square_avg={"w": np.ones((2, 1))}),
            lambda s: s.update(square_avg={"w": np.ones(2, np.float32)}),
            lambda s: s.update(square_avg={"w": np.ones(2, int)}),
            lambda s: s.update(square_avg={"x": np.ones(2)}),
            lambda s: s.update(square_avg={"w": np.ones(2), "x": np.ones(2)}),
            lambda s: s.update(square_avg={}),
            lambda s: s.update(skipped="x"),
            lambda s: s.update(skipped=None),
            lambda s: s.clear(),
        ],
    )
    def test_broken_states_are_refused_and_nothing_changes(self, change: Any) -> None:
        optimizer, p = RMSprop(0.1), {"w": np.ones(2)}
        for _ in range(2):
            optimizer.update(p, {"w": np.ones(2)})
        state = optimizer.state_dict()
        state["step"] = 7
        change(state)
        before = bits(optimizer, p)
        with pytest.raises((ValueError, TypeError, KeyError)):
            optimizer.load_state_dict(state)
        assert bits(optimizer, p) == before
        assert optimizer.step_count == 2
        optimizer.update(p, {"w": np.ones(2)})
        assert optimizer.step_count == 3

    def test_a_state_of_other_shapes_loaded_before_the_first_step(self) -> None:
        """Then it can only be found out at the first step, which changes nothing."""
        one, two, p = RMSprop(0.1), RMSprop(0.1), {"w": np.ones(3)}
        one.update({"w": np.ones(2)}, {"w": np.ones(2)})
        two.load_state_dict(one.state_dict())
        with pytest.raises(ValueError, match="'w'"):
            two.update(p, {"w": np.ones(3)})
        assert (p["w"] == 1).all()
        assert two.step_count == 1


class TestFiles:
    @pytest.mark.parametrize("name", [*RULES, *dialect_rules()])
    def test_continues_bit_for_bit(self, name: str, tmp_path: Path) -> None:
        rule = {**RULES, **dialect_rules()}[name]
        first, params = Optimizer(rule), start()
        go(first, params, 0, 3)
        first.skipped = 4
        first.save(tmp_path / "state")
        second = Optimizer(rule)
        second.load(tmp_path / "state")
        assert (second.skipped, second.step_count) == (4, 3)
        second.skipped = 0
        go(second, params, 3, 6)
        assert bits(second, params) == unbroken(rule)

    def test_float16_parameters(self, tmp_path: Path) -> None:
        one, two = RMSprop(0.1), RMSprop(0.1)
        p, g = {"w": np.ones(3, np.float16)}, {"w": np.array([0.1, -2, 3], np.float16)}
        one.update(p, g)
        one.save(tmp_path / "state")
        two.load(tmp_path / "state")
        assert two.state_dict()["square_avg"]["w"].dtype == np.float32
        q = {"w": p["w"].copy()}
        one.update(p, g)
        two.update(q, g)
        np.testing.assert_array_equal(p["w"], q["w"])

    def test_single_array_and_before_the_first_step(self, tmp_path: Path) -> None:
        one, two = RMSprop(0.1, momentum=0.9), RMSprop(0.1, momentum=0.9)
        one.save(str(tmp_path / "fresh"))
        two.load(str(tmp_path / "fresh"))
        assert two.step_count == 0
        p, q = np.ones(3), np.ones(3)
        one.update(p, np.ones(3))
        one.save(tmp_path / "state.safetensors")
        two.load(tmp_path / "state.safetensors")
        q[:] = p
        one.update(p, np.ones(3))
        two.update(q, np.ones(3))
        np.testing.assert_array_equal(p, q)

    def test_any_safetensors_reader_opens_it(self, tmp_path: Path) -> None:
        optimizer, p = RMSprop(momentum=0.9), {"layer": [np.ones(2)]}
        optimizer.update(p, {"layer": [np.ones(2)]})
        optimizer.save(tmp_path / "state")
        known = safetensors.numpy.load_file(tmp_path / "state")
        assert set(known) == {"square_avg/layer.0", "momentum_buffer/layer.0"}

    def test_saving_replaces_as_a_whole_and_leaves_nothing_over(self, tmp_path: Path) -> None:
        optimizer, p = RMSprop(), {"w": np.ones(2)}
        for _ in range(3):
            optimizer.update(p, {"w": np.ones(2)})
            optimizer.save(tmp_path / "state")
        assert [path.name for path in tmp_path.iterdir()] == ["state"]
        loaded = RMSprop()
        loaded.load(tmp_path / "state")
        assert loaded.step_count == 3
        umask = os.umask(0)
        os.umask(umask)
        assert (tmp_path / "state").stat().st_mode & 0o777 == 0o666 & ~umask

    def test_saving_into_a_new_folder(self, tmp_path: Path) -> None:
        RMSprop().save(tmp_path / "runs" / "one" / "state")
        RMSprop().load(tmp_path / "runs" / "one" / "state")

    def test_where_nothing_can_be_written(self, tmp_path: Path) -> None:
        """We may be root, whom permissions do not stop: a file stands where a folder should."""
        blocked = tmp_path / "file"
        blocked.write_text("mine")
        (tmp_path / "folder").mkdir()
        for path in (blocked / "state", tmp_path / "folder", Path("/dev/full/state")):
            with pytest.raises(OSError, match=re.escape(str(path.parent))):
                RMSprop().save(path)
        assert blocked.read_text() == "mine"
        assert sorted(p.name for p in tmp_path.rglob("*")) == ["file", "folder"]

    @pytest.mark.skipif(sys.platform != "linux", reason="limits the size of files the POSIX way")
    def test_a_full_disk_leaves_the_old_file(self, tmp_path: Path) -> None:
        code = """
import resource, sys
import numpy as np
from rmsprop.numpy import RMSprop
optimizer, p = RMSprop(), np.ones(100_000)
optimizer.update(p, p)
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
try:
    optimizer.save(sys.argv[1])
except OSError as error:
    print("refused")
"""
        small, path = RMSprop(), tmp_path / "state"
        small.update(np.ones(1), np.ones(1))
        small.save(path)
        before = path.read_bytes()
        environment = os.environ | {"PYTHONPATH": str(Path(rmsprop.__file__).parents[1])}
        done = subprocess.run(
            [sys.executable, "-c", code, str(path)], env=environment, capture_output=True, text=True
        )
        assert done.stdout == "refused\n", done.stderr
        assert path.read_bytes() == before
        assert list(tmp_path.iterdir()) == [path]

    def test_an_error_while_writing_leaves_the_old_file(self, tmp_path: Path) -> None:
        path = tmp_path / "text"
        files.write_text(path, "old")

        def write() -> None:
            with files.replacing(path) as temporary:
                temporary.write_text("half")
                raise RuntimeError("stop")

        with pytest.raises(RuntimeError, match="stop"):
            write()
        assert path.read_text() == "old"
        assert list(tmp_path.iterdir()) == [path]

    def test_missing_and_foreign_files(self, tmp_path: Path) -> None:
        optimizer, p = RMSprop(), {"w": np.ones(2)}
        optimizer.update(p, {"w": np.ones(2)})
        before = bits(optimizer, p)
        with pytest.raises(FileNotFoundError):
            optimizer.load(tmp_path / "missing")
        foreign = {
            "empty": b"",
            "text": b"step,loss\n1,2\n" * 10,
            "json": json.dumps({"step": 1}).encode(),
            "npy": b"\x93NUMPY\x01\x00" + bytes(100),
            "zip": b"PK\x03\x04" + bytes(100),
            "huge header": (2**62).to_bytes(8, "little") + b"{}",
            "zeros": bytes(1000),
        }
        for name, content in foreign.items():
            (tmp_path / name).write_bytes(content)
            with pytest.raises(ValueError, match=name):
                optimizer.load(tmp_path / name)
        arrays = {"square_avg/w": np.ones(2)}
        safetensors.numpy.save_file(arrays, tmp_path / "no header")
        safetensors.numpy.save_file(arrays, tmp_path / "other header", {"format": "pt"})
        safetensors.numpy.save_file(arrays, tmp_path / "bad header", {"rmsprop": "{"})
        safetensors.numpy.save_file(arrays, tmp_path / "list header", {"rmsprop": "[]"})
        files.save_arrays(tmp_path / "other kind", arrays, {"kind": "a model"})
        for name in ("no header", "other header", "bad header", "list header", "other kind"):
            with pytest.raises(ValueError, match=name):
                optimizer.load(tmp_path / name)
        with pytest.raises((OSError, ValueError)):
            optimizer.load(tmp_path)
        assert bits(optimizer, p) == before

    @pytest.mark.parametrize(
        ("arrays", "header"),
        [
            ({"step/w": np.ones(2)}, {}),
            ({"rule/w": np.ones(2), "square_avg/w": np.ones(2)}, {}),
            ({"kind/w": np.ones(2), "square_avg/w": np.ones(2)}, {}),
            ({"squareavg/w": np.ones(2)}, {}),
            ({"square_avg/w": np.ones(2)}, {"rule": {"decax": 0.9}}),
            ({"square_avg/w": np.ones(2)}, {"rule": []}),
            ({"square_avg/w": np.ones(2)}, {"rule": 3}),
            ({"square_avg/w": np.ones(2)}, {"rule": {"lr": "x"}}),
            ({"square_avg/w": np.ones(2)}, {"square_avg": 3}),
            ({"square_avg/w": np.ones(2)}, {"skipped": [1]}),
            ({"square_avg/w": np.ones(2)}, {"step": None}),
            ({"square_avg/w": np.ones(3)}, {}),
            ({"square_avg/w": np.ones(2, np.int32)}, {}),
        ],
    )
    def test_files_with_the_right_header_and_the_wrong_content(
        self, arrays: dict[str, Array], header: dict[str, Any], tmp_path: Path
    ) -> None:
        whole = {"kind": "rmsprop.numpy state", "rule": Rule().to_dict(), "step": 5, "skipped": 0}
        files.save_arrays(tmp_path / "x", arrays, whole | header)
        optimizer, p = RMSprop(), {"w": np.ones(2)}
        optimizer.update(p, {"w": np.ones(2)})
        before = bits(optimizer, p)
        with pytest.raises(ValueError, match=r"state|damaged|skipped"):
            optimizer.load(tmp_path / "x")
        assert bits(optimizer, p) == before

    @staticmethod
    def survives(content: bytes, path: Path) -> None:
        """Loading it works, or raises ValueError and changes nothing; and then a step works."""
        optimizer, params = RMSprop(0.1, momentum=0.9, centered=True), start()
        go(optimizer, params, 0, 1)
        before = bits(optimizer, params)
        path.write_bytes(content)
        try:
            optimizer.load(path)
        except (ValueError, KeyError):
            assert bits(optimizer, params) == before
        go(optimizer, params, 1, 2)

    def test_truncated_files(self, saved: Path, tmp_path: Path) -> None:
        whole = saved.read_bytes()
        for length in {*range(0, len(whole), 37), 7, 8, 9, len(whole) - 1}:
            path = tmp_path / "cut"
            path.write_bytes(whole[:length])
            optimizer = RMSprop(0.1, momentum=0.9, centered=True)
            with pytest.raises(ValueError, match="cut"):
                optimizer.load(path)
            assert optimizer.step_count == 0

    @settings(max_examples=300)
    @given(data=st.data())
    def test_mutated_files(self, saved: Path, tmp_path_factory: Any, data: st.DataObject) -> None:
        content = bytearray(saved.read_bytes())
        for _ in range(data.draw(st.integers(1, 3))):
            # Mostly in the header, where a changed byte means something.
            k = data.draw(st.integers(0, 1500) | st.integers(0, len(content) - 1)) % len(content)
            content[k] = data.draw(st.integers(0, 255) | st.sampled_from(b'0123456789"{}[],:wFI'))
        self.survives(bytes(content), tmp_path_factory.getbasetemp() / "mutated")

    def test_header_words_swapped(self, saved: Path, tmp_path: Path) -> None:
        """As a hand with an editor would: each word of the header replaced by one of the same length."""
        whole = saved.read_bytes()
        for old, new in [
            (b"square_avg/w", b"squire_avg/w"), (b"grad_avg", b"grad_avh"), (b"F32", b"I32"),
            (b"F64", b"I64"), (b"F32", b"F64"), (b"F64", b"BF6"), (b"[2,3]", b"[3,2]"),
            (b'\\"lr\\"', b'\\"lq\\"'), (b"false", b"1e999"), (b"true", b"null"),
            (b'\\"step\\": 3', b'\\"step\\": x'), (b"decay", b"decax"), (b"0.9", b"9.9"),
            (b"kind", b"kint"), (b"numpy state", b"torch state"),
        ]:  # fmt: skip
            assert old in whole, old
            self.survives(whole.replace(old, new, 1), tmp_path / "edited")


class TestCopies:
    @pytest.mark.parametrize("how", ["pickle", "deepcopy"])
    @pytest.mark.parametrize("name", RULES)
    def test_continue_correctly_and_apart(self, name: str, how: str) -> None:
        first, params = Optimizer(RULES[name]), start()
        go(first, params, 0, 3)
        if how == "pickle":
            second, copied = pickle.loads(pickle.dumps((first, params)))
        else:
            second, copied = copy.deepcopy((first, params))
        middle = bits(first, params)
        go(second, copied, 3, 6)
        assert bits(second, copied) == unbroken(RULES[name])
        assert bits(first, params) == middle, "the original stands still"
        go(first, params, 3, 6)
        assert bits(first, params) == unbroken(RULES[name])

    @pytest.mark.parametrize("how", ["pickle", "deepcopy"])
    def test_on_the_same_parameters_the_copy_steps_with_its_own_state(self, how: str) -> None:
        """The same objects again: what the original knew of their addresses must not be used."""
        first, params = RMSprop(0.1, momentum=0.9), start()
        go(first, params, 0, 3)
        second = pickle.loads(pickle.dumps(first)) if how == "pickle" else copy.deepcopy(first)
        state = first.state_dict()["square_avg"]["w"].tobytes()
        go(second, params, 3, 6)
        assert first.state_dict()["square_avg"]["w"].tobytes() == state
        assert first.step_count == 3
        assert bits(second, params) == unbroken(first.rule)

    def test_a_copy_outlives_its_original(self) -> None:
        first, params = RMSprop(0.1, momentum=0.9), {"w": np.ones(100_000)}
        first.update(params, {"w": np.ones(100_000)})
        second = copy.deepcopy(first)
        del first
        junk = [np.full(100_000, 7.0) for _ in range(20)]
        second.update(params, {"w": np.ones(100_000)})
        assert all((x == 7.0).all() for x in junk)

    def test_pickles_do_not_carry_the_parameters(self) -> None:
        optimizer, params = RMSprop(0.1), {"w": np.ones(10_000)}
        optimizer.update(params, {"w": np.ones(10_000)})
        assert len(pickle.dumps(optimizer)) < 90_000, "the average is 80,000 bytes"

    def test_of_classes_and_schedules(self) -> None:
        optimizer = Adam(Cosine(0.1, steps=10), nan_policy="skip")
        again = pickle.loads(pickle.dumps(optimizer))
        assert type(again) is Adam
        assert again.learning_rate == Cosine(0.1, steps=10)
        assert (again.rule, again.nan_policy) == (optimizer.rule, "skip")
        assert copy.copy(optimizer).rule == optimizer.rule

    def test_state_copies(self) -> None:
        state = State(3, {"v": {"w": np.ones(2)}})
        other = state.copy()
        other.slots["v"]["w"][:] = 5
        other.step = 4
        assert state.step == 3
        assert state.slots["v"]["w"].tolist() == [1.0, 1.0]
