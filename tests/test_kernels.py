"""The kernels: against the reference with random data, bit for bit however the work is shared, and at
the edges of the machine: a compiled-code cache that fails, a fork, two threads of Python.
"""

import contextlib
import itertools
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numba
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import rmsprop
from cases import (
    FLOAT32,
    FLOAT64,
    LARGE_SHAPES,
    RULES,
    SHAPES,
    Precision,
    allowance,
    assert_within,
    mixed_gradients,
    ulp,
)
from rmsprop import Rule, reference
from rmsprop.kernels import element
from rmsprop.kernels.cpu import KINDS, Batch, flags_of, scalars_of
from rmsprop.kernels.norms import norms
from rmsprop.kernels.threads import INTERPRETED
from rmsprop.numpy import Optimizer
from rmsprop.state import SLOTS

Array = np.ndarray[Any, Any]
BIT_NAMES = [
    "SCALE", "CLIP", "COUPLED", "DECOUPLED", "EMA", "SUM", "BEFORE", "CENTERED", "CORRECT", "EPS_IN_SQRT",
    "MOMENTUM", "NESTEROV", "LR_IN_MOMENTUM",
]  # fmt: skip
FLOATS = (KINDS["float64"], KINDS["float64"], KINDS["float64"])
compiled_only = pytest.mark.skipif(INTERPRETED, reason="of compiled code; NUMBA_DISABLE_JIT is set")


@contextlib.contextmanager
def thread_count(n: int) -> Iterator[None]:
    before = numba.get_num_threads()
    numba.set_num_threads(n)
    try:
        yield
    finally:
        numba.set_num_threads(before)


def same_bits(a: Array, b: Array) -> bool:
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


class TestTableOfRules:
    """The rules that all matrices use must mean something."""

    @staticmethod
    def pairs(rules: Iterator[Rule]) -> set[tuple[str, str]]:
        found = set()
        for rule in rules:
            on = [name for name in BIT_NAMES if flags_of(rule) & getattr(element, name)]
            found |= set(itertools.combinations(on, 2))
        return found

    @staticmethod
    def possible() -> Iterator[Rule]:
        switches = {
            "maximize": [False, True], "clip_value": [None, 0.5], "weight_decay": [0, 0.1],
            "decoupled_weight_decay": [False, True], "second_moment": ["ema", "sum", "none"],
            "first_moment": ["after", "before"], "centered": [False, True], "momentum": [0, 0.9],
            "bias_correction": [False, True], "eps_in_sqrt": [False, True], "nesterov": [False, True],
            "lr_in_momentum": [False, True],
        }  # fmt: skip
        for values in itertools.product(*switches.values()):
            with contextlib.suppress(ValueError):
                yield Rule(**dict(zip(switches, values, strict=True)))

    def test_covers_every_pair_of_switches(self) -> None:
        missing = self.pairs(self.possible()) - self.pairs(iter(RULES.values()))
        assert not missing

    def test_flags_are_one_bit_each(self) -> None:
        bits = [getattr(element, name) for name in BIT_NAMES]
        assert sorted(bits) == [1 << k for k in range(len(BIT_NAMES))]


# Against the reference.


@st.composite
def numbers(draw: st.DrawFn, rule: Rule) -> Rule:
    """The same switches with other numbers."""

    def power(low: float, high: float) -> float:
        return 10.0 ** draw(st.floats(low, high))

    fields: dict[str, Any] = {
        "decay": draw(st.sampled_from([0.0, 0.9, 0.9999]) | st.floats(0, 0.9999))
    }
    # Without eps a centered rule divides by nothing but rounding.
    fields["eps"] = power(-8, 0) if rule.centered or draw(st.booleans()) else 0.0
    fields["lr"] = power(-6, 1) if draw(st.booleans()) else draw(st.sampled_from([0.0, 1e-3, 1.0]))
    for name in ("clip_value", "clip_norm", "clip_global_norm"):
        if getattr(rule, name):
            fields[name] = power(-3, 3)
    if rule.weight_decay:
        fields["weight_decay"] = power(-4, 0.5)
    if rule.momentum:
        fields["momentum"] = draw(st.floats(0.01, 0.999))
    if rule.initial_scale:
        fields["initial_scale"] = power(-3, 2)
    return rule.replace(**fields)


@st.composite
def arrays(draw: st.DrawFn, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    """Random numbers of a random scale, with a few others, zeros among them, in random places."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    half = dtype == np.float16
    bound = 4.0 if half else 2.0**40
    scale = 10.0 ** draw(st.integers(-3, 3 if half else 8))
    x = np.array(rng.normal(0, 1, shape) * scale, dtype)
    few = st.sampled_from([0.0, -0.0, 1.0, -1.0]) | st.floats(
        -bound, bound, width=16 if half else 32
    )
    for value in draw(st.lists(few, max_size=4)):
        if x.size:
            x.flat[rng.integers(x.size)] = value
    return x


def state_of(optimizer: Optimizer, path: str, p: Array) -> reference.State:
    """The optimizer's state of one array, in the dtype that it computes in."""
    slots = optimizer.state.slots
    arrays = [slots[s][path].copy() if s in slots else np.zeros_like(p) for s in "vmb"]
    return reference.State(optimizer.step_count, *arrays)


def assert_steps_like_the_reference(
    optimizer: Optimizer, params: dict[str, Array], grads: dict[str, Array], ulps: float
) -> None:
    """One step of the optimizer, from wherever it stands, against one step of the reference."""
    rule = optimizer.rule
    real = {path: np.dtype("f8" if p.dtype == np.float64 else "f4") for path, p in params.items()}
    wide = {path: p.astype(real[path]) for path, p in params.items()}
    states = []
    for path, p in wide.items():
        fresh = reference.init(rule, p)
        states.append(state_of(optimizer, path, p) if optimizer.step_count else fresh)
    with np.errstate(all="ignore"):
        clipped = reference.clip(rule, [grads[path].astype(real[path]) for path in wide])
        expected = [
            reference.update(rule, p, g, s)
            for p, g, s in zip(wide.values(), clipped, states, strict=True)
        ]
        allowed = [
            allowance(rule, p, g, s, p.dtype, ulps)
            for p, g, s in zip(wide.values(), clipped, states, strict=True)
        ]
    optimizer.update(params, grads)
    for path, (moved, after), slack in zip(params, expected, allowed, strict=True):
        with np.errstate(over="ignore"):
            stored = moved.astype(params[path].dtype)
        if params[path].dtype == np.float16:  # and it may be rounded the other way
            slack["p"] = slack["p"] + ulp(np.dtype(np.float16), stored)
            # Where one of two right values is beyond its range, the other need not be.
            beyond = np.abs(moved) + slack["p"] > float(np.finfo(np.float16).max)
            slack["p"] = np.where(beyond & (np.abs(moved) < np.inf), np.inf, slack["p"])
        assert_within(params[path], stored, slack["p"], f"p of {path!r}")
        for slot in rule.slots:
            mine = optimizer.state.slots[slot][path]
            assert mine.dtype == real[path]
            assert_within(mine, getattr(after, slot), slack[slot], f"{slot} of {path!r}")


@pytest.mark.nojit
class TestAgainstReference:
    @pytest.mark.parametrize("precision", [FLOAT32, FLOAT64], ids=["float32", "float64"])
    @pytest.mark.parametrize("name", RULES)
    @settings(max_examples=3 if INTERPRETED else 12)
    @given(data=st.data())
    def test_random(self, name: str, precision: Precision, data: st.DataObject) -> None:
        rule = data.draw(numbers(RULES[name]))
        optimizer = Optimizer(rule)
        shapes = data.draw(st.lists(st.sampled_from(SHAPES), min_size=1, max_size=3))
        params = {str(k): data.draw(arrays(s, precision.dtype)) for k, s in enumerate(shapes)}
        for _ in range(data.draw(st.integers(1, 3))):
            grads = {path: data.draw(arrays(p.shape, p.dtype)) for path, p in params.items()}
            assert_steps_like_the_reference(optimizer, params, grads, precision.ulps)

    @pytest.mark.parametrize("name", ["plain", "corrected-all", "adamw"])
    @settings(max_examples=5 if INTERPRETED else 25)
    @given(data=st.data())
    def test_mixed_dtypes_in_one_dict(self, name: str, data: st.DataObject) -> None:
        pairs = [
            ("float16", "float16"), ("float16", "float32"), ("float32", "float16"),
            ("float32", "float32"), ("float64", "float32"), ("float32", "float64"),
            ("float64", "float64"),
        ]  # fmt: skip
        rule = data.draw(numbers(RULES[name])).replace(lr=0.01, initial_scale=1.0)
        optimizer = Optimizer(rule)
        chosen = data.draw(st.lists(st.sampled_from(pairs), min_size=1, max_size=5))
        shapes = data.draw(st.lists(st.sampled_from(SHAPES), min_size=5, max_size=5))
        few = np.dtype("float16")  # a range that all of them hold
        params = {
            f"{k}:{p}<-{g}": data.draw(arrays(shape, few)).astype(p)
            for k, ((p, g), shape) in enumerate(zip(chosen, shapes, strict=False))
        }
        for _ in range(2):
            grads = {
                path: data.draw(arrays(p.shape, few)).astype(path.split("<-")[1])
                for path, p in params.items()
            }
            assert_steps_like_the_reference(optimizer, params, grads, 4)

    # Corrected and centered, the first step divides by rounding: there is no free run to compare.
    @pytest.mark.parametrize(
        "name", [n for n, r in RULES.items() if not (r.centered and r.bias_correction)]
    )
    def test_many_steps(self, name: str) -> None:
        """25 steps of several arrays, running freely, in float64."""
        rule, rng = RULES[name], np.random.default_rng(0)
        shapes = {"a": (3, 5), "b": (7,), "c": (), "d": (0,), "e": (2, 1, 9)}
        params = {path: rng.normal(0, 1, shape) for path, shape in shapes.items()}
        mirror, optimizer = [p.copy() for p in params.values()], Optimizer(rule)
        states = [reference.init(rule, p) for p in mirror]
        for t in range(25):
            scale = 10.0 ** rng.uniform(-1, 1)
            grads = {path: rng.normal(0, scale, p.shape) for path, p in params.items()}
            optimizer.update(params, grads)
            mirror, states = reference.step(rule, mirror, list(grads.values()), states)
            for path, q, state in zip(params, mirror, states, strict=True):
                np.testing.assert_allclose(params[path], q, 1e-11, 1e-12, err_msg=f"{t}")
                for slot in rule.slots:
                    mine, theirs = optimizer.state.slots[slot][path], getattr(state, slot)
                    np.testing.assert_allclose(mine, theirs, 1e-11, 1e-12, err_msg=f"{slot} {t}")

    def test_every_float16_is_read_and_written_as_numpy_does(self) -> None:
        """p - g is exact in float32 here or rounded once, so only the conversions can differ."""
        p = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
        p = p[np.isfinite(p)]
        if INTERPRETED:
            p = p[::97].copy()
        g = np.random.default_rng(0).permutation(p)
        with np.errstate(over="ignore"):
            expected = (p.astype(np.float32) - g.astype(np.float32)).astype(np.float16)
        moved = p.copy()
        Optimizer(Rule.from_dialect("sgd", lr=1.0)).update(moved, g)
        assert same_bits(moved, expected)

    def test_nan_and_infinity_stay_in_their_element(self) -> None:
        for name, rule in RULES.items():
            if rule.clip_norm or rule.clip_global_norm:
                continue  # there one element scales all
            g = np.full(33, 0.5)
            g[[3, 17, 32]] = np.nan, np.inf, -np.inf
            p = np.ones(33)
            Optimizer(rule).update(p, g)
            assert np.isnan(p[3]), name
            rest = np.delete(p, [3, 17, 32])
            assert np.isfinite(rest).all(), name
            assert (rest == rest[0]).all(), name


@compiled_only
class TestLarge:
    """Sizes at which the work is shared among threads."""

    @pytest.mark.parametrize("shape", LARGE_SHAPES, ids=str)
    @pytest.mark.parametrize("name", ["plain", "corrected-all", "clip-norm", "adamw", "sgd-all"])
    def test_like_the_reference(self, name: str, shape: tuple[int, ...]) -> None:
        for precision in (FLOAT32, FLOAT64):
            optimizer, rng = Optimizer(RULES[name]), np.random.default_rng(0)
            # A long one between small and empty ones, so that shares begin and end within arrays.
            shapes = {"a": (5,), "b": shape, "c": (0,), "d": (17, 3)}
            params = {k: rng.normal(0, 1, s).astype(precision.dtype) for k, s in shapes.items()}
            for _ in range(2):
                grads = {k: rng.normal(0, 1, p.shape).astype(p.dtype) for k, p in params.items()}
                assert_steps_like_the_reference(optimizer, params, grads, precision.ulps)


# Bits.

SIZE = 140_003
CUTS = [0, 1, 18, 18, 4099, 65_537, 70_000, 139_990, SIZE]
ELEMENTWISE = [name for name, r in RULES.items() if not (r.clip_norm or r.clip_global_norm)]


def run(
    rule: Rule, p: Array, grads: Iterable[Array], cuts: Sequence[int], n: int, offset: int = 0
) -> list[bytes]:
    """p and the state after stepping these values as arrays cut like this, on n threads."""

    def pieces(x: Array) -> dict[str, Array]:
        memory = np.empty(x.size + offset, x.dtype)
        memory[offset:] = x
        return {
            str(k): memory[offset + a : offset + b]
            for k, (a, b) in enumerate(itertools.pairwise(cuts))
        }

    params, optimizer = pieces(p), Optimizer(rule)
    with thread_count(n):
        for g in grads:
            optimizer.update(params, pieces(g))
    state = [optimizer.state.slots[slot] for slot in rule.slots]
    return [np.concatenate(list(known.values())).tobytes() for known in (params, *state)]


@compiled_only
class TestBits:
    """The same inputs give the same bits, whoever computes them and however they are cut."""

    @pytest.mark.parametrize("dtype", ["float32", "float64"])
    @pytest.mark.parametrize("name", ELEMENTWISE)
    def test_threads_cuts_and_alignment(self, name: str, dtype: str) -> None:
        rng = np.random.default_rng(0)
        p = rng.normal(0, 1, SIZE).astype(dtype)
        grads = mixed_gradients(2, SIZE, np.dtype(dtype))
        expected = run(RULES[name], p, grads, [0, SIZE], 1)
        assert run(RULES[name], p, grads, [0, SIZE], 2) == expected, "two threads"
        assert run(RULES[name], p, grads, CUTS, 1) == expected, "eight arrays"
        assert run(RULES[name], p, grads, CUTS, 2) == expected, "eight arrays, two threads"
        for offset in (1, 3):
            assert run(RULES[name], p, grads, [0, SIZE], 2, offset) == expected, (
                "not aligned to a vector"
            )
        tail = [0, *range(SIZE - 21, SIZE + 1)]
        assert run(RULES[name], p, grads, tail, 1) == expected, "one element at a time"

    @pytest.mark.parametrize(
        ("param", "grad"),
        [
            ("float16", "float16"),
            ("float16", "float32"),
            ("float32", "float16"),
            ("float64", "float32"),
        ],
    )
    def test_narrow_and_mixed_dtypes(self, param: str, grad: str) -> None:
        rng = np.random.default_rng(0)
        p = rng.normal(0, 1, SIZE).astype(param)
        grads = [rng.normal(0, 1, SIZE).astype(grad) for _ in range(2)]
        expected = run(RULES["corrected-all"], p, grads, [0, SIZE], 1)
        assert run(RULES["corrected-all"], p, grads, [0, SIZE], 2) == expected
        assert run(RULES["corrected-all"], p, grads, CUTS, 2, 1) == expected

    @pytest.mark.parametrize("name", ["clip-norm", "clip-global-norm", "adamw"])
    def test_threads_when_clipping_by_norm(self, name: str) -> None:
        p = np.random.default_rng(0).normal(0, 1, SIZE)
        grads = mixed_gradients(2, SIZE, np.dtype("float64"))
        assert run(RULES[name], p, grads, CUTS, 1) == run(RULES[name], p, grads, CUTS, 2)

    @pytest.mark.long
    def test_other_numbers_of_threads(self) -> None:
        """In a process of its own, as the most that there may be is fixed when Numba starts."""
        code = """
            import hashlib, numba, numpy as np
            from rmsprop import Rule
            from rmsprop.kernels.norms import norms
            from rmsprop.numpy import Optimizer
            rng = np.random.default_rng(0)
            seen = set()
            for n in (1, 2, 3, 5, 7):
                numba.set_num_threads(n)
                rng = np.random.default_rng(0)
                sizes = (7, 300_001, 250_007, 99)
                p = {str(size): rng.normal(0, 1, size).astype("f4") for size in sizes}
                grads = [rng.normal(0, 1, size) for size in (10, 10_001, 32_768, 32_769, 1_000_003)]
                optimizer = Optimizer(Rule(momentum=0.9, centered=True, clip_global_norm=1.0))
                for _ in range(2):
                    optimizer.update(p, {k: rng.normal(0, 1, x.shape).astype("f4") for k, x in p.items()})
                both = norms(grads).tobytes() + b"".join(x.tobytes() for x in p.values())
                seen.add(hashlib.sha256(both).hexdigest())
            print(*seen)
        """
        one = python(code, NUMBA_NUM_THREADS="7", OPENBLAS_NUM_THREADS="1")
        two = python(code, NUMBA_NUM_THREADS="7", OPENBLAS_NUM_THREADS="2")
        assert len(one.split()) == 1
        assert one == two, "nor the number of the BLAS library's threads"


class TestNorms:
    @pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
    def test_against_exact_sums(self, dtype: str) -> None:
        rng = np.random.default_rng(0)
        for size in (0, 1, 5, 1000, 32_768, 32_769, 100_000):
            g = rng.normal(0, 3, size).astype(dtype)
            exact = float(np.sqrt(np.sum(g.astype(np.longdouble) ** 2)))
            assert norms([g])[0] == pytest.approx(exact, rel=1e-14)

    @compiled_only
    @pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
    def test_same_bits_on_one_and_two_threads(self, dtype: str) -> None:
        rng = np.random.default_rng(0)
        grads = [rng.normal(0, 3, n).astype(dtype) for n in (3, 10_001, 32_769, 131_075, 500_001)]
        with thread_count(1):
            one = norms(grads)
        with thread_count(2):
            assert same_bits(norms(grads), one)

    @pytest.mark.parametrize("size", [2, 40_000])
    def test_squares_that_overflow_or_vanish(self, size: int) -> None:
        for scale in (1e-150, 1e200, 1e307):
            g = np.zeros(size)
            g[[0, -1]] = 3 * scale, -4 * scale
            assert norms([g])[0] == pytest.approx(5 * scale, rel=1e-14)
        largest = np.full(size, 1e38, np.float32)
        assert norms([largest])[0] == pytest.approx(1e38 * np.sqrt(size), rel=1e-6)

    @pytest.mark.parametrize("size", [3, 40_000])
    @pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
    def test_nan_and_infinity_show(self, dtype: str, size: int) -> None:
        for bad in (np.nan, np.inf, -np.inf):
            g = np.ones(size, dtype)
            g[1] = bad
            assert not np.isfinite(norms([g])[0])

    @pytest.mark.parametrize("size", [3, 40_000])
    def test_read_only_and_unaligned(self, size: int) -> None:
        g = np.ones(size)
        g.flags.writeable = False
        odd = np.zeros(size * 8 + 1, np.uint8)[1:].view(np.float64)
        odd[:] = 1.0
        assert norms([g, odd]).tolist() == [np.sqrt(size)] * 2


# The machine.


def python(code: str, **env: str) -> str:
    """What a fresh interpreter prints for these lines."""
    lines = [line[12:] for line in code.strip("\n").splitlines()]
    source = str(Path(rmsprop.__file__).parents[1])
    known = {k: v for k, v in os.environ.items() if not k.startswith("NUMBA_")}
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(lines)],
        env=known | {"PYTHONPATH": source} | env,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    for line in done.stderr.splitlines():
        if "Warning:" in line:
            assert "RuntimeWarning: compiled code is not cached" in line, done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    return done.stdout


ONE_STEP = """
            import json, numpy as np
            from rmsprop.kernels.cpu import _driver, specialise
            from rmsprop.numpy import RMSprop
            p = np.ones(140_000, "f4")
            RMSprop(0.5, decay_rate=0.75, epsilon=1.0, clip_norm=1e9).update(p, np.full(140_000, 2, "f4"))
            print(json.dumps([float(p[0]), float(p[-1])]))
"""
# v = 4/4 = 1, u = 2/(1 + 1), p = 1 - 0.5
STEPPED = "[0.5, 0.5]\n"


def snapshot(folder: Path) -> dict[str, tuple[int, int]]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(p.relative_to(folder)): (p.stat().st_mtime_ns, p.stat().st_size) for p in files}


@compiled_only
class TestCompiledCodeCache:
    @pytest.mark.long
    def test_a_folder_that_cannot_be_used(self, tmp_path: Path) -> None:
        blocked = tmp_path / "file"
        blocked.write_text("not a folder")
        assert python(ONE_STEP, NUMBA_CACHE_DIR=str(blocked / "cache")) == STEPPED
        assert python(ONE_STEP, NUMBA_CACHE_DIR=str(blocked)) == STEPPED
        assert blocked.read_text() == "not a folder"

    @pytest.mark.long
    def test_warm_folder_compiles_nothing_and_damage_does_no_harm(self, tmp_path: Path) -> None:
        assert python(ONE_STEP, NUMBA_CACHE_DIR=str(tmp_path)) == STEPPED
        before = snapshot(tmp_path)
        assert len(before) >= 6, "index and code of the loop, the walk and the sums"
        assert python(ONE_STEP, NUMBA_CACHE_DIR=str(tmp_path)) == STEPPED
        assert snapshot(tmp_path) == before, "a second process compiles nothing"

        rng = np.random.default_rng(0)
        for first, suffix in enumerate((".nbi", ".nbc", ".nbc")):
            folder = tmp_path.parent / f"{tmp_path.name}-{first}"
            shutil.copytree(tmp_path, folder)
            for k, path in enumerate(sorted(folder.rglob(f"*{suffix}"))):
                content = path.read_bytes()
                damaged = b"", content[: len(content) // 2], rng.bytes(len(content))
                path.write_bytes(damaged[(first + k) % 3])
            assert python(ONE_STEP, NUMBA_CACHE_DIR=str(folder)) == STEPPED, suffix

    @pytest.mark.long
    def test_new_arithmetic_is_not_answered_from_an_old_cache(self, tmp_path: Path) -> None:
        """Numba looks at the file of the loop only, and the arithmetic stands in another."""
        copy, cache = tmp_path / "src", str(tmp_path / "cache")
        ignore = shutil.ignore_patterns("__pycache__")
        shutil.copytree(Path(rmsprop.__file__).parent, copy / "rmsprop", ignore=ignore)
        assert python(ONE_STEP, NUMBA_CACHE_DIR=cache, PYTHONPATH=str(copy)) == STEPPED
        path = copy / "rmsprop" / "kernels" / "element.py"
        text = path.read_text()
        changed = text.replace("        p = p - lr * u\n", "        p = p + lr * u\n")
        assert changed != text
        path.write_text(changed)
        assert python(ONE_STEP, NUMBA_CACHE_DIR=cache, PYTHONPATH=str(copy)) == "[1.5, 1.5]\n"

    @pytest.mark.long
    def test_every_loop_comes_from_the_cache_the_second_time(self, tmp_path: Path) -> None:
        """Also the loop in blocks: a closure over a compiled function would be new in each process."""
        code = """
            from rmsprop.kernels.cpu import _advancer, _driver
            from rmsprop.kernels.element import EMA
            from rmsprop.kernels.loops import specialise
            for kinds in (("f32",) * 4, ("bf16s", "bf16", "bf16s", "bf16s"), ("f32", "f32", "u8", "bf16s")):
                specialise(EMA, kinds)
            _driver(parallel=False), _driver(parallel=True), _advancer()
        """
        python(code, NUMBA_CACHE_DIR=str(tmp_path))
        first = snapshot(tmp_path)
        assert len([name for name in first if name.endswith(".nbc")]) == 6
        python(code, NUMBA_CACHE_DIR=str(tmp_path))
        assert snapshot(tmp_path) == first

    @pytest.mark.long
    def test_serial_and_parallel_code_are_kept_apart(self, tmp_path: Path) -> None:
        for threads in ("1", "2"):
            found = python(ONE_STEP, NUMBA_CACHE_DIR=str(tmp_path), NUMBA_NUM_THREADS=threads)
            assert found == STEPPED


@compiled_only
class TestProcessesAndThreads:
    @pytest.mark.long
    @pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
    @pytest.mark.parametrize("layer", ["default", "workqueue"])
    def test_a_forked_child_steps(self, layer: str) -> None:
        code = """
            import os, signal, threading, warnings
            import numpy as np
            from rmsprop.kernels import threads
            from rmsprop.numpy import RMSprop
            p, g = np.ones(300_000), np.full(300_000, 2.0)
            optimizer = RMSprop(0.1, clip_norm=1e9)
            optimizer.update(p, g)  # starts the threads, which a child does not have
            held, done = threading.Event(), threading.Event()
            def hold():
                with threads.starting:
                    held.set()
                    done.wait()
            thread = threading.Thread(target=hold)
            thread.start()
            held.wait()  # and a lock that nobody will open in the child
            child = os.fork()
            if child == 0:
                signal.alarm(60)
                optimizer.update(p, g)
                RMSprop(0.1, momentum=0.9).update(p, g)
                os._exit(0 if np.isfinite(p).all() and p[0] == p[-1] != 1 else 1)
            status = os.waitpid(child, 0)[1]
            done.set()
            thread.join()
            optimizer.update(p, g)
            print(status, optimizer.step_count)
        """
        env = {"PYTHONWARNINGS": "ignore::DeprecationWarning", "NUMBA_NUM_THREADS": "2"}
        env |= {} if layer == "default" else {"NUMBA_THREADING_LAYER": layer}
        assert python(code, **env) == "0 2\n"

    @pytest.mark.long
    @pytest.mark.parametrize("layer", ["default", "workqueue"])
    def test_two_python_threads_step_two_optimizers(self, layer: str) -> None:
        """The scheduler that Numba falls back to aborts the process when entered twice at once."""
        code = """
            import threading
            import numpy as np
            from rmsprop.numpy import Adam, RMSprop
            def work(make, p, steps):
                optimizer, rng = make(), np.random.default_rng(1)
                for _ in range(steps):
                    optimizer.update(p, rng.normal(0, 1, p.shape).astype(p.dtype))
            clipped, heavy = lambda: RMSprop(0.1, clip_norm=3.0), lambda: RMSprop(0.1, momentum=0.9)
            makes = [clipped, lambda: Adam(0.1), heavy]
            alone = [np.ones(200_000, "f4") for _ in makes]
            for make, p in zip(makes, alone):
                work(make, p, 12)
            both = [np.ones(200_000, "f4") for _ in makes]
            running = [threading.Thread(target=work, args=(m, p, 12)) for m, p in zip(makes, both)]
            [t.start() for t in running]
            [t.join() for t in running]
            print(all(a.tobytes() == b.tobytes() for a, b in zip(alone, both)))
        """
        env = {} if layer == "default" else {"NUMBA_THREADING_LAYER": layer}
        assert python(code, NUMBA_NUM_THREADS="2", **env) == "True\n"

    def test_first_use_from_many_threads_at_once(self) -> None:
        """Each compiles the same new loop; all must come out right."""
        rule, found = Rule(lr=0.5, decay=0.75, eps=1.0, eps_in_sqrt=True, weight_decay=0.0), []

        def work() -> None:
            p = np.ones(9, np.float32)
            Optimizer(rule).update(p, np.full(9, 2.0, np.float64))
            found.append(p.tolist())

        running = [threading.Thread(target=work) for _ in range(6)]
        for thread in running:
            thread.start()
        for thread in running:
            thread.join()
        expected = np.float32(1 - 0.5 * 2 / np.sqrt(2))
        assert len(found) == 6
        np.testing.assert_allclose(found, np.full((6, 9), expected), rtol=1e-6)


class TestBatch:
    """The table of addresses itself."""

    @pytest.mark.nojit
    def test_steps_rows_of_one_kind(self) -> None:
        rule = Rule(lr=0.5, decay=0.75, eps=1.0)
        rows = [(np.ones(n), np.full(n, 2.0), np.zeros(n), None, None) for n in (3, 0, 5)]
        batch = Batch.of(rows, FLOATS)
        batch.step(flags_of(rule), scalars_of(rule, rule.lr, 1))
        for row in rows:
            assert row[0].tolist() == [0.5] * row[0].size
            assert row[2].tolist() == [1.0] * row[0].size

    @pytest.mark.nojit
    def test_no_rows_and_scales(self) -> None:
        rule = Rule(lr=1.0, second_moment="none", maximize=True)
        Batch.of([], FLOATS).step(flags_of(rule), scalars_of(rule, 1.0, 1))
        rows = [(np.zeros(2), np.ones(2), None, None, None) for _ in range(2)]
        batch = Batch.of(rows, FLOATS)
        batch.step(flags_of(rule), scalars_of(rule, 1.0, 1), np.array([-1.0, -0.25]))
        assert [row[0].tolist() for row in rows] == [[1.0, 1.0], [0.25, 0.25]]

    def test_names_of_slots_are_those_of_torch(self) -> None:
        assert SLOTS == {"v": "square_avg", "m": "grad_avg", "b": "momentum_buffer"}
        assert json.dumps(SLOTS)
