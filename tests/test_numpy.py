"""The NumPy front-end: trees, memory of every kind, refusals that change nothing, clipping, NaN policies."""

import re
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import needs
import rmsprop.numpy
from cases import BAD_ARRAYS, RULES
from rmsprop import DIALECTS, Rule, reference
from rmsprop.numpy import SGD, AdaGrad, Adam, Optimizer, RMSprop
from rmsprop.schedules import Cosine, StepDecay
from rmsprop.state import State

Array = np.ndarray[Any, Any]
RNG = np.random.default_rng(0)


def everything(optimizer: Optimizer, *trees: dict[str, Array]) -> Any:
    """All that an update may change, in a form that compares bit for bit."""
    slots = optimizer.state.slots
    state = {
        slot: {path: a.tobytes() for path, a in known.items()} for slot, known in slots.items()
    }
    values = [{path: (a.shape, a.tobytes()) for path, a in tree.items()} for tree in trees]
    return optimizer.step_count, optimizer.skipped, state, values


def stepped(p: Array, g: Array, rule: Rule | None = None, steps: int = 2) -> Array:
    """What plain contiguous copies of these arrays come to."""
    optimizer = Optimizer(rule or Rule(lr=0.1, momentum=0.9))
    p, g = np.ascontiguousarray(p).copy(), np.ascontiguousarray(g).copy()
    for _ in range(steps):
        optimizer.update(p, g)
    return p


def clipped(field: str, most: float) -> Optimizer:
    """p <- p - g, with one clip."""
    return Optimizer(Rule.from_dialect("sgd", lr=1.0, **{field: most}))


class Pair(NamedTuple):
    weight: Any
    bias: Any


class TestTrees:
    def test_every_kind_of_nesting_moves_alike(self) -> None:
        a, b, ga, gb = (RNG.normal(0, 1, 5) for _ in range(4))
        expected = [stepped(a, ga), stepped(b, gb)]
        shapes: list[Callable[[Array, Array], Any]] = [
            lambda x, y: {"x": x, "y": y},
            lambda x, y: [x, y],
            lambda x, y: (x, y),
            lambda x, y: {"layers": [{"w": x}, {"w": y}]},
            lambda x, y: {0: x, 1: y},
            lambda x, y: OrderedDict(x=x, y=y),
            lambda x, y: Pair(x, [y]),
            lambda x, y: {"a": ({"b": [x]},), "c": {}, "d": [y, []]},
        ]
        for shape in shapes:
            optimizer, pair = Optimizer(Rule(lr=0.1, momentum=0.9)), (a.copy(), b.copy())
            tree = shape(*pair)
            for _ in range(2):
                assert optimizer.update(tree, shape(ga, gb)) is tree, "what was passed in"
            for x, y in zip(pair, expected, strict=True):
                np.testing.assert_array_equal(x, y)

    def test_a_single_array(self) -> None:
        p = np.ones((2, 3))
        assert RMSprop(0.1).update(p, np.ones((2, 3))) is p
        assert p[0, 0] != 1.0

    def test_empty_trees(self) -> None:
        for nothing in ({}, [], (), {"a": []}):
            optimizer = RMSprop()
            assert optimizer.update(nothing, nothing) is nothing
            assert optimizer.step_count == 1

    def test_new_gradients_and_new_parameters_under_the_same_paths(self) -> None:
        """The state belongs to the paths, not to the objects."""
        one, two = RMSprop(0.1, momentum=0.9), RMSprop(0.1, momentum=0.9)
        p, rng = {"a": np.ones(4), "b": np.ones(3)}, np.random.default_rng(0)
        q = {k: x.copy() for k, x in p.items()}
        g = {k: np.zeros_like(x) for k, x in p.items()}
        for t in range(6):
            values = {k: rng.normal(0, 1, x.shape) for k, x in p.items()}
            for k, x in g.items():
                x[:] = values[k]
            one.update(p, g)
            if t % 2:  # new objects, and the gradients in another order
                q = {k: x.copy() for k, x in q.items()}
            two.update(q, dict(reversed(list(values.items()))))
        for k, x in p.items():
            np.testing.assert_array_equal(x, q[k])

    def test_gradients_may_be_nested_otherwise_if_the_paths_agree(self) -> None:
        p = {"a": [np.ones(2)]}
        RMSprop().update(p, {"a.0": np.ones(2)})
        assert p["a"][0][0] < 1

    def test_two_paths_that_are_the_same(self) -> None:
        for tree in ({"a.b": np.ones(1), "a": {"b": np.ones(1)}}, {1: np.ones(1), "1": np.ones(1)}):
            with pytest.raises(ValueError, match="two params have the path"):
                RMSprop().update(tree, tree)

    @pytest.mark.parametrize("key", [1.5, None, ("a", 1), b"a"])
    def test_keys_are_strings_or_integers(self, key: Any) -> None:
        with pytest.raises(TypeError, match=re.escape(repr(key))):
            RMSprop().update({key: np.ones(1)}, {key: np.ones(1)})

    @pytest.mark.parametrize("shape", [(), (0,), (0, 3), (1,), (2, 0)])
    def test_scalars_and_empty_arrays(self, shape: tuple[int, ...]) -> None:
        p = {"w": np.ones(shape), "x": np.ones(2)}
        RMSprop(0.1).update(p, {"w": np.full(shape, 2.0), "x": np.ones(2)})
        assert p["w"].shape == shape
        assert (p["w"] < 1).all()
        alone = np.ones(shape)
        RMSprop(0.1, clip_global_norm=1.0, nan_policy="skip").update(alone, np.ones(shape))
        assert (alone < 1).all()

    def test_a_thousand_arrays(self) -> None:
        params = {f"p{k}": np.ones(k % 7) for k in range(1000)}
        grads = {path: np.full(p.shape, 2.0) for path, p in params.items()}
        RMSprop(0.5, decay_rate=0.75, epsilon=1.0).update(params, grads)
        assert all((p == 0.5).all() for p in params.values())


def kinds_of_memory(folder: Path) -> dict[str, Callable[[Array], Array]]:
    """Ways for the same 6 x 10 numbers to lie in memory."""

    def strided(x: Array) -> Array:
        view = np.zeros((12, 30), x.dtype)[::2, ::3]
        view[:] = x
        return view

    def backwards(x: Array) -> Array:
        view = np.zeros_like(x)[::-1, ::-1]
        view[:] = x
        return view

    def unaligned(x: Array) -> Array:
        view = np.zeros(x.nbytes + 1, np.uint8)[1:].view(x.dtype).reshape(x.shape)
        view[:] = x
        return view

    def mapped(x: Array) -> Array:
        view = np.memmap(
            folder / f"{len(list(folder.iterdir()))}.bin", x.dtype, "w+", shape=x.shape
        )
        view[:] = x
        return view

    def subclass(x: Array) -> Array:
        return x.copy().view(type("Mine", (np.ndarray,), {}))

    def inner(x: Array) -> Array:
        view = np.zeros((8, 13), x.dtype)[1:-1, 2:-1]
        view[:] = x
        return view

    return {
        "contiguous": np.copy,
        "Fortran": lambda x: np.asfortranarray(x.copy()),
        "transposed": lambda x: np.ascontiguousarray(x.T).copy().T,
        "strided": strided,
        "backwards": backwards,
        "unaligned": unaligned,
        "memmap": mapped,
        "subclass": subclass,
        "inner": inner,
    }


MEMORY = list(kinds_of_memory(Path()))


class TestMemory:
    @pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
    @pytest.mark.parametrize("kind", MEMORY)
    def test_parameters_and_gradients_of_any_layout(
        self, kind: str, dtype: str, tmp_path: Path
    ) -> None:
        values = [RNG.normal(0, 1, (6, 10)).astype(dtype) for _ in range(3)]
        expected = stepped(values[0], values[1])
        place = kinds_of_memory(tmp_path)[kind]
        for move_p, move_g in ((place, np.copy), (np.copy, place), (place, place)):
            optimizer = Optimizer(Rule(lr=0.1, momentum=0.9))
            p, g = {"p": move_p(values[0])}, {"p": move_g(values[1])}
            kept = p["p"]
            for _ in range(2):
                optimizer.update(p, g)
            assert p["p"] is kept
            np.testing.assert_array_equal(np.asarray(p["p"]), expected)
            np.testing.assert_array_equal(
                np.asarray(g["p"]), values[1], "gradients are not changed"
            )

    @pytest.mark.parametrize("kind", MEMORY)
    def test_the_same_gradient_object_refilled(self, kind: str, tmp_path: Path) -> None:
        """A copy that was made of it at one step must not be used at the next."""
        g = kinds_of_memory(tmp_path)[kind](np.zeros((6, 10)))
        p, q, one, two = np.ones((6, 10)), np.ones((6, 10)), RMSprop(0.1), RMSprop(0.1)
        for t in range(3):
            g[...] = values = np.random.default_rng(t).normal(0, 1, (6, 10))
            one.update(p, g)
            two.update(q, values.copy())
            np.testing.assert_array_equal(p, q)

    @pytest.mark.parametrize("size", [10, 40_000])
    @pytest.mark.parametrize("rule", [Rule(lr=0.1), Rule(lr=0.1, clip_norm=1.0)])
    def test_read_only_gradients(self, rule: Rule, size: int) -> None:
        g = np.broadcast_to(np.float64(2.0), size)
        h = np.full(size, 2.0)
        h.flags.writeable = False
        for grads in (g, h):
            p = np.ones(size)
            Optimizer(rule).update(p, grads)
            np.testing.assert_array_equal(p, stepped(np.ones(size), np.full(size, 2.0), rule, 1))

    def test_read_only_memmap_gradient(self, tmp_path: Path) -> None:
        np.full(40_000, 2.0).tofile(tmp_path / "g")
        g, p = np.memmap(tmp_path / "g", np.float64, "r"), np.ones(40_000)
        RMSprop(0.5, decay_rate=0.75, epsilon=1.0, clip_norm=1e9).update(p, g)
        assert (p == 0.5).all()

    @pytest.mark.parametrize("dtype", ["float32", "float64"])
    def test_gradients_that_overlap_parameters(self, dtype: str) -> None:
        """The result is as if nothing overlapped."""
        views: dict[str, Callable[[Array], tuple[Array, Array]]] = {
            "itself": lambda x: (x[:50], x[:50]),
            "another view of itself": lambda x: (x[:50], x[:50][:]),
            "backwards": lambda x: (x[:50], x[49::-1]),
            "shifted right": lambda x: (x[:50], x[1:51]),
            "shifted left": lambda x: (x[1:51], x[:50]),
            "strided": lambda x: (x[:50], x[::2]),
            "by a strided parameter": lambda x: (x[::2], x[:50]),
            "interleaved": lambda x: (x[::2], x[1::2]),
            "a broadcast element": lambda x: (x[:50], np.broadcast_to(x[7:8], 50)),
        }
        start = RNG.normal(0, 1, 100).astype(dtype)
        for name, view in views.items():
            memory, separate = start.copy(), start.copy()
            p, g = view(memory)
            one, two = Optimizer(RULES["graves"]), Optimizer(RULES["graves"])
            for _ in range(3):
                q, h = (x.copy() for x in view(separate))
                one.update(p, g)
                two.update(q, h)
                view(separate)[0][:] = q
                np.testing.assert_array_equal(memory, separate, name)

    def test_gradients_that_overlap_other_parameters(self) -> None:
        memory, separate = np.arange(1.0, 21.0), np.arange(1.0, 21.0)
        params = {"a": memory[:10], "b": memory[10:]}
        grads = {"a": memory[5:15], "b": memory[:10]}
        two = RMSprop(0.1)
        one = RMSprop(0.1)
        for _ in range(2):
            copies = {"a": separate[5:15].copy(), "b": separate[:10].copy()}
            one.update(params, grads)
            two.update({"a": separate[:10], "b": separate[10:]}, copies)
            np.testing.assert_array_equal(memory, separate)

    def test_one_gradient_for_two_parameters(self) -> None:
        g, params = np.ones(3), {"a": np.zeros(3), "b": np.zeros(3)}
        RMSprop(0.1).update(params, {"a": g, "b": g})
        np.testing.assert_array_equal(params["a"], params["b"])
        assert (g == 1).all()

    @pytest.mark.parametrize(
        "share",
        [
            lambda x: (x, x),
            lambda x: (x, x[:]),
            lambda x: (x[:6], x[5:]),
            lambda x: (x[::2], x[::3]),
            lambda x: (x, x.reshape(3, 4).T),
            lambda x: (x[3:4].reshape(()), x[2:5]),
            lambda x: (x.view(np.float32)[1:3], x),
        ],
    )
    def test_parameters_that_share_memory_are_refused(self, share: Any) -> None:
        memory, c = np.ones(12), np.ones(2)
        a, b = share(memory)
        optimizer = RMSprop()
        with pytest.raises(ValueError, match="share memory") as caught:
            optimizer.update({"a": a, "c": c, "b": b}, {"a": a.copy(), "c": c, "b": b.copy()})
        assert "'a'" in str(caught.value)
        assert "'b'" in str(caught.value)
        assert (memory == 1).all()
        assert optimizer.step_count == 0

    def test_views_of_one_base_without_common_elements_work(self) -> None:
        x = np.ones(12)
        grid = np.ones((4, 6))
        params = {"even": x[::2], "odd": x[1::2], "left": grid[:, :3], "right": grid[:, 3:]}
        RMSprop(0.5, decay_rate=0.75, epsilon=1.0).update(
            params, {path: np.full(p.shape, 2.0) for path, p in params.items()}
        )
        assert (x == 0.5).all()
        assert (grid == 0.5).all()

    @pytest.mark.parametrize(
        "view",
        [
            lambda: np.lib.stride_tricks.as_strided(np.ones(3), (4, 3), (0, 8)),
            lambda: np.lib.stride_tricks.sliding_window_view(np.ones(6), 3, writeable=True),
            lambda: np.lib.stride_tricks.as_strided(np.ones(9), (3, 3), (8, 16)),
        ],
    )
    def test_a_parameter_that_overlaps_itself_is_refused(self, view: Any) -> None:
        p = view()
        with pytest.raises(ValueError, match="elements share memory"):
            RMSprop().update({"w": p}, {"w": np.ones(p.shape)})
        assert (p == 1).all()

    def test_read_only_parameters(self) -> None:
        optimizer, p = RMSprop(), {"w": np.ones(3)}
        optimizer.update(p, {"w": np.ones(3)})
        before = everything(optimizer, p)
        p["w"].flags.writeable = False
        for grads in ({"w": np.ones(3)}, {"w": np.ones(3)}):
            with pytest.raises(ValueError, match="'w' is read-only"):
                optimizer.update(p, grads)
        assert everything(optimizer, p) == before


class TestRefusals:
    """Whatever is wrong, the message says where, and nothing has changed."""

    @pytest.mark.parametrize("place", ["param", "gradient"])
    @pytest.mark.parametrize("kind", BAD_ARRAYS)
    @pytest.mark.parametrize("started", [False, True])
    def test_bad_leaves(self, kind: str, place: str, started: bool) -> None:
        make, word = BAD_ARRAYS[kind]
        optimizer = RMSprop(momentum=0.9)
        params, grads = {"a": np.ones(3), "w": np.ones(3)}, {"a": np.ones(3), "w": np.ones(3)}
        if started:
            optimizer.update(params, grads)
        before = everything(optimizer, params)
        bad: Any = {**(params if place == "param" else grads), "w": make()}
        given = (bad, grads) if place == "param" else (params, bad)
        with pytest.raises(TypeError, match="'w") as caught:
            optimizer.update(*given)
        assert word in str(caught.value)
        assert everything(optimizer, params) == before

    @pytest.mark.parametrize(
        ("names", "words"),
        [
            (["a"], ["no gradient", "'b'"]),
            ([], ["no gradient", "'a'", "'b'"]),
            (["a", "b", "c"], ["'c'", "no parameter", "'a', 'b'"]),
            (["a", "B"], ["no gradient", "'b'"]),
        ],
    )
    def test_missing_and_extra_names(self, names: list[str], words: list[str]) -> None:
        optimizer, params = RMSprop(), {"a": np.ones(2), "b": np.ones(2)}
        with pytest.raises(KeyError) as caught:
            optimizer.update(params, {name: np.ones(2) for name in names})
        for word in words:
            assert word in str(caught.value)
        assert optimizer.step_count == 0
        assert (params["a"] == 1).all()

    def test_list_of_another_length(self) -> None:
        with pytest.raises(KeyError):
            RMSprop().update([np.ones(2), np.ones(2)], [np.ones(2)])

    @pytest.mark.parametrize(
        ("p", "g"),
        [
            ((3, 1), (3,)),
            ((3,), (3, 1)),
            ((3,), (1,)),
            ((2, 3), (3, 2)),
            ((), (1,)),
            ((0,), (1,)),
            ((3,), ()),
        ],
    )
    def test_shapes_that_would_broadcast(self, p: tuple[int, ...], g: tuple[int, ...]) -> None:
        optimizer, params = RMSprop(), {"ok": np.ones(2), "w": np.ones(p)}
        with pytest.raises(ValueError, match="'w'") as caught:
            optimizer.update(params, {"ok": np.ones(2), "w": np.ones(g)})
        assert str(p) in str(caught.value)
        assert str(g) in str(caught.value)
        assert optimizer.step_count == 0
        assert all((x == 1).all() for x in params.values())

    @pytest.mark.parametrize(
        ("other", "error"),
        [
            ({"w": np.ones(4)}, ValueError),
            ({"w": np.ones(3, np.float32)}, ValueError),
            ({"x": np.ones(3)}, KeyError),
            ({"w": np.ones(3), "x": np.ones(3)}, KeyError),
            ({}, KeyError),
        ],
    )
    def test_other_parameters_mid_run(
        self, other: dict[str, Array], error: type[Exception]
    ) -> None:
        optimizer, params = RMSprop(), {"w": np.ones(3)}
        optimizer.update(params, {"w": np.ones(3)})
        before = everything(optimizer, params)
        with pytest.raises(error, match="state"):
            optimizer.update(other, other)
        assert everything(optimizer, params) == before
        optimizer.update(params, {"w": np.ones(3)})
        assert optimizer.step_count == 2, "and it goes on"

    def test_float16_and_float32_share_a_state(self) -> None:
        """Both keep it in float32, so that a model may be cast mid-run."""
        optimizer = RMSprop(0.1)
        optimizer.update({"w": np.ones(3, np.float32)}, {"w": np.ones(3, np.float32)})
        half = {"w": np.ones(3, np.float16)}
        optimizer.update(half, {"w": np.ones(3, np.float16)})
        assert (half["w"] < 1).all()


class TestArguments:
    def test_as_the_seeds_call_it(self) -> None:
        params = {"w": np.array([1.0, 2.0, 3.0]), "b": np.array([0.1])}
        grads = {"w": np.array([0.1, 0.2, 0.3]), "b": np.array([0.01])}
        optimizer = RMSprop(learning_rate=0.01, decay_rate=0.9, epsilon=1e-8)
        returned = optimizer.update(params, grads)
        assert returned is params
        # g/sqrt(0.1 g^2) is sqrt(10), whatever g.
        np.testing.assert_allclose(params["w"], np.array([1, 2, 3]) - 0.01 * np.sqrt(10), rtol=1e-6)
        assert RMSprop(0.5, 0.8, 1e-3, 0.9, True, 0.1).rule == Rule(
            lr=0.5, decay=0.8, eps=1e-3, momentum=0.9, centered=True, weight_decay=0.1
        )

    @pytest.mark.parametrize("dialect", DIALECTS)
    def test_dialects_and_what_replaces_their_fields(self, dialect: str) -> None:
        assert RMSprop(0.5, dialect=dialect).rule == Rule.from_dialect(dialect, lr=0.5)
        changed = RMSprop(
            0.5, 0.8, 1e-3, 0.5, True, 0.1, dialect, nesterov=True, clip_norm=2.0
        ).rule
        assert changed == Rule.from_dialect(
            dialect, lr=0.5, decay=0.8, eps=1e-3, momentum=0.5, centered=True, weight_decay=0.1,
            nesterov=True, clip_norm=2.0,
        )  # fmt: skip

    def test_the_others(self) -> None:
        assert SGD().rule == Rule.from_dialect("sgd")
        assert SGD(0.1, 0.9, True, 0.2).rule == Rule.from_dialect(
            "nesterov", lr=0.1, weight_decay=0.2
        )
        assert AdaGrad().rule == Rule.from_dialect("adagrad")
        assert AdaGrad(0.1, initial_scale=0.5).rule.initial_scale == 0.5
        assert Adam().rule == Rule.from_dialect("adam")
        adamw = Adam(weight_decay=0.01, decoupled_weight_decay=True)
        assert adamw.rule == Rule.from_dialect("adamw")
        assert (
            Adam(0.1, 0.5, 0.7, 1e-3).rule.to_dict()
            == Rule.from_dialect("adam", lr=0.1, momentum=0.5, decay=0.7, eps=1e-3).to_dict()
        )

    def test_bad_arguments(self) -> None:
        with pytest.raises(ValueError, match="did you mean 'torch'"):
            RMSprop(dialect="pytorch")
        with pytest.raises(TypeError, match="did you mean 'nesterov'"):
            RMSprop(nestorov=True)
        with pytest.raises(ValueError, match="give lr="):
            RMSprop(dialect="tf1")
        with pytest.raises(ValueError, match="propagate, skip or raise"):
            RMSprop(nan_policy="ignore")  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="decay"):
            RMSprop(decay_rate=1.0)

    def test_repr(self) -> None:
        optimizer = RMSprop(0.5, momentum=0.9)
        optimizer.update(np.ones(1), np.ones(1))
        assert repr(optimizer) == "RMSprop(Rule(lr=0.5, momentum=0.9), step=1)"
        assert repr(Adam()).startswith("Adam(Rule(lr=0.001, ")


BAD_RATES: list[tuple[Any, type[Exception]]] = [
    (-0.1, ValueError), (float("nan"), ValueError), (float("inf"), ValueError), ("0.1", TypeError),
    (True, TypeError), (1j, TypeError), ([0.1], TypeError),
]  # fmt: skip


class TestLearningRates:
    @pytest.mark.parametrize(("lr", "error"), BAD_RATES)
    def test_refused_when_given_and_when_assigned(self, lr: Any, error: type[Exception]) -> None:
        for make in (RMSprop, SGD, AdaGrad, Adam):
            with pytest.raises(error, match="lr"):
                make(lr)
        optimizer, p = RMSprop(0.1), {"w": np.ones(2)}
        with pytest.raises(error, match="lr"):
            optimizer.learning_rate = lr
        optimizer.update(p, {"w": np.ones(2)})
        assert optimizer.current_learning_rate == 0.1, "the old one stays"

    @pytest.mark.parametrize(
        "bad", [-1.0, float("nan"), float("inf"), None, "fast", 1j, np.ones(2), [0.1], {}]
    )
    def test_schedules_that_go_wrong(self, bad: Any) -> None:
        """At the third step: nothing changes, and a good schedule goes on from there."""
        optimizer, p = RMSprop(lambda step: 0.1 if step < 2 else bad), {"w": np.ones(2)}
        for _ in range(2):
            optimizer.update(p, {"w": np.ones(2)})
        before = everything(optimizer, p)
        with pytest.raises((ValueError, TypeError)):
            optimizer.update(p, {"w": np.ones(2)})
        assert everything(optimizer, p) == before
        optimizer.learning_rate = 0.1
        optimizer.update(p, {"w": np.ones(2)})
        assert optimizer.step_count == 3

    def test_a_schedule_that_raises(self) -> None:
        def schedule(step: int) -> float:
            if step:
                raise RuntimeError("no more")
            return 0.1

        optimizer, p = RMSprop(schedule), {"w": np.ones(2)}
        optimizer.update(p, {"w": np.ones(2)})
        before = everything(optimizer, p)
        with pytest.raises(RuntimeError, match="no more"):
            optimizer.update(p, {"w": np.ones(2)})
        assert everything(optimizer, p) == before

    def test_zero(self) -> None:
        for rule in (RULES["decoupled-all"], RULES["adamw"], RULES["sgd"], RULES["lr-in-buffer"]):
            p = np.linspace(1, 2, 5)
            optimizer = Optimizer(rule, learning_rate=0.0)
            optimizer.update(p, np.ones(5))
            np.testing.assert_array_equal(p, np.linspace(1, 2, 5))
            assert optimizer.step_count == 1
        optimizer = RMSprop(0.0)
        optimizer.update(p, np.ones(5))
        assert optimizer.state_dict()["square_avg"][""][0] > 0, "the average moves on"

    @pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
    def test_huge(self, dtype: str) -> None:
        p = np.ones(3, dtype)
        RMSprop(1e30).update(p, np.ones(3, dtype))
        expected = -1e30 * np.sqrt(10) if dtype != "float16" else -np.inf
        np.testing.assert_allclose(p, expected, rtol=1e-6)

    def test_schedules_count_steps_from_zero(self) -> None:
        seen: list[int] = []

        def schedule(step: int) -> float:
            seen.append(step)
            return 0.1 * (step + 1)

        optimizer, p = SGD(schedule), np.zeros(1)
        for _ in range(3):
            optimizer.update(p, np.ones(1))
        assert p[0] == pytest.approx(-0.6)
        assert set(seen) == {0, 1, 2}
        assert optimizer.current_learning_rate == pytest.approx(0.4), "of the next step"
        assert optimizer.rule.lr == pytest.approx(0.4)

    def test_schedules_and_numbers_assigned_mid_run(self) -> None:
        optimizer, p = SGD(0.5), np.zeros(1)
        optimizer.update(p, np.ones(1))
        optimizer.learning_rate = StepDecay(0.5, every=1, factor=0.5)
        optimizer.update(p, np.ones(1))  # step 1: 0.25
        optimizer.learning_rate = np.float32(1.0)  # type: ignore[assignment]
        optimizer.update(p, np.ones(1))
        assert p[0] == -1.75
        assert RMSprop(Cosine(0.1, steps=10), dialect="tf1").rule.lr == 0.1


class TestNanPolicy:
    BAD = (np.nan, np.inf, -np.inf)

    @pytest.mark.parametrize("size", [5, 40_000])
    @pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
    @pytest.mark.parametrize("bad", BAD)
    def test_skip(self, bad: float, dtype: str, size: int) -> None:
        optimizer = RMSprop(0.1, momentum=0.9, centered=True, nan_policy="skip")
        params = {"a": np.ones(3, dtype), "b": np.ones(size, dtype)}
        good = {path: np.full(p.shape, 0.5, dtype) for path, p in params.items()}
        optimizer.update(params, good)
        before = everything(optimizer, params)
        grads = {"a": good["a"], "b": good["b"].copy()}
        grads["b"][-1] = bad
        for count in (1, 2):
            assert optimizer.update(params, grads) is params
            assert optimizer.skipped == count
        assert everything(optimizer, params)[2:] == before[2:]
        assert optimizer.step_count == 1
        optimizer.update(params, good)
        assert optimizer.step_count == 2
        assert all(np.isfinite(p).all() for p in params.values())

    @pytest.mark.parametrize("started", [False, True])
    def test_raise_names_the_array_and_changes_nothing(self, started: bool) -> None:
        optimizer = RMSprop(0.1, nan_policy="raise")
        params = {"a": np.ones(3), "layer": [np.ones(4), np.ones(2)]}
        good = {"a": np.ones(3), "layer": [np.ones(4), np.ones(2)]}
        if started:
            optimizer.update(params, good)
        bad = {"a": np.ones(3), "layer": [np.array([1, np.nan, np.inf, np.nan]), np.ones(2)]}
        flat = {"a": params["a"], "0": params["layer"][0], "1": params["layer"][1]}
        before = everything(optimizer, flat)
        with pytest.raises(FloatingPointError, match=r"'layer.0'") as caught:
            optimizer.update(params, bad)
        message = str(caught.value)
        assert "2 NaN" in message
        assert "1 infinities of 4 values" in message
        after = everything(optimizer, flat)
        assert (after[0], after[3]) == (before[0], before[3])
        assert not started or after == before
        optimizer.update(params, good)

    def test_finite_gradients_whose_squares_overflow_are_not_refused(self) -> None:
        for policy in ("skip", "raise"):
            optimizer, p = SGD(1e-300, nan_policy=policy), np.ones(2)
            optimizer.update(p, np.full(2, 1e300))
            assert p.tolist() == pytest.approx([0.0, 0.0], abs=1e-15)

    def test_policies_agree_on_finite_gradients(self) -> None:
        found = []
        for policy in ("propagate", "skip", "raise"):
            p, optimizer = np.ones(9), RMSprop(0.1, nan_policy=policy, clip_norm=0.5)
            for t in range(3):
                optimizer.update(p, np.random.default_rng(t).normal(0, 1, 9))
            found.append(p.tobytes())
        assert len(set(found)) == 1


class TestClipping:
    """Against torch.nn.utils where the definitions agree, and by formula where they do not."""

    @given(st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=8), st.floats(1e-3, 1e3))
    @settings(max_examples=50)
    def test_value_is_torchs(self, values: list[float], most: float) -> None:
        torch = needs.package("torch")
        theirs = torch.nn.Parameter(torch.zeros(len(values), dtype=torch.float64))
        theirs.grad = torch.tensor(values, dtype=torch.float64)
        torch.nn.utils.clip_grad_value_([theirs], most)
        p = np.zeros(len(values))
        SGD(1.0, clip_value=most).update(p, np.array(values))
        np.testing.assert_array_equal(-p, theirs.grad.numpy())

    @pytest.mark.parametrize("scale", [1e-3, 1.0, 1e4])
    def test_global_norm_is_torchs_but_for_its_millionth(self, scale: float) -> None:
        """torch divides by the norm + 1e-6, so that it scales gradients just inside the limit too."""
        torch = needs.package("torch")
        grads = {
            "a": RNG.normal(0, scale, (3, 4)),
            "b": RNG.normal(0, scale, 5),
            "c": np.array(scale),
        }
        theirs = [
            torch.nn.Parameter(torch.zeros(g.shape, dtype=torch.float64)) for g in grads.values()
        ]
        for q, g in zip(theirs, grads.values(), strict=True):
            q.grad = torch.tensor(g)
        torch.nn.utils.clip_grad_norm_(theirs, 1.0)
        params = {path: np.zeros(g.shape) for path, g in grads.items()}
        SGD(1.0, clip_global_norm=1.0).update(params, grads)
        for q, p in zip(theirs, params.values(), strict=True):
            assert q.grad is not None
            np.testing.assert_allclose(-p, q.grad.numpy(), rtol=1.1e-6)

    @pytest.mark.parametrize("maximize", [False, True])
    def test_by_formula(self, maximize: bool) -> None:
        sign = 1 if maximize else -1
        grads = {"a": np.array([3.0, 4.0]), "b": np.array([0.6, 0.8]), "c": np.zeros(2)}

        def moved(**clip: float) -> list[list[float]]:
            params = {path: np.zeros(2) for path in grads}
            Optimizer(Rule.from_dialect("sgd", lr=1.0, maximize=maximize, **clip)).update(
                params, grads
            )
            return [(sign * p).tolist() for p in params.values()]

        assert moved(clip_norm=2.5) == [[1.5, 2.0], [0.6, 0.8], [0.0, 0.0]]
        assert moved(clip_norm=5.0) == [[3.0, 4.0], [0.6, 0.8], [0.0, 0.0]]
        assert moved(clip_value=0.7) == [[0.7, 0.7], [0.6, 0.7], [0.0, 0.0]]
        joint = np.sqrt(26.0)
        expected = np.array([[3.0, 4.0], [0.6, 0.8], [0.0, 0.0]]) / joint
        np.testing.assert_allclose(moved(clip_global_norm=1.0), expected, rtol=1e-15)
        assert moved(clip_global_norm=joint + 1e-9) == [[3.0, 4.0], [0.6, 0.8], [0.0, 0.0]]

    @pytest.mark.parametrize("field", ["clip_norm", "clip_global_norm"])
    @pytest.mark.parametrize("size", [2, 40_000])
    def test_norms_that_overflow(self, field: str, size: int) -> None:
        g, p = np.zeros(size), np.zeros(size)
        g[[0, -1]] = 3e300, -4e300
        clipped(field, 5.0).update(p, g)
        np.testing.assert_allclose(p[[0, -1]], [-3.0, 4.0], rtol=1e-14)
        huge = np.full(size, 3e38, np.float32)
        q = np.zeros(size, np.float32)
        clipped(field, 1.0).update(q, huge)
        # The factor, 1.7e-41 for 40,000 of them, is a subnormal float32 of few digits.
        np.testing.assert_allclose(np.linalg.norm(q.astype(float)), 1.0, rtol=1e-4)

    def test_zero_gradients(self) -> None:
        for field in ("clip_norm", "clip_global_norm", "clip_value"):
            p = np.ones(3)
            clipped(field, 1e-3).update(p, np.zeros(3))
            assert p.tolist() == [1.0, 1.0, 1.0]

    def test_infinity_under_a_norm(self) -> None:
        """As torch: the scale is 0, so that infinity becomes NaN and the rest stands still."""
        torch = needs.package("torch")
        values = [1.0, np.inf, -2.0]
        theirs = torch.nn.Parameter(torch.zeros(3, dtype=torch.float64))
        theirs.grad = torch.tensor(values, dtype=torch.float64)
        torch.nn.utils.clip_grad_norm_([theirs], 1.0)
        p = np.zeros(3)
        SGD(1.0, clip_norm=1.0).update(p, np.array(values))
        np.testing.assert_array_equal(-p, theirs.grad.numpy())

    def test_with_several_dtypes(self) -> None:
        grads = {
            "a": np.array([3.0]),
            "b": np.array([4.0], np.float32),
            "c": np.array([12], np.float16),
        }
        params = {path: np.zeros(1, g.dtype) for path, g in grads.items()}
        SGD(1.0, clip_global_norm=1.3).update(params, grads)
        np.testing.assert_allclose([p[0] for p in params.values()], [-0.3, -0.4, -1.2], rtol=1e-3)


class TestRuleMidRun:
    def test_numbers_change(self) -> None:
        rng, optimizer = np.random.default_rng(0), RMSprop(0.1, momentum=0.5)
        p = rng.normal(0, 1, 5)
        q, state = p.copy(), reference.init(optimizer.rule, p)
        changes = {
            "lr": 0.2, "decay": 0.5, "eps": 1e-3, "weight_decay": 0.1, "clip_value": 0.1,
            "nesterov": True, "momentum": 0.9, "maximize": True, "eps_in_sqrt": True,
        }  # fmt: skip
        for name, value in changes.items():
            optimizer.rule = rule = optimizer.rule.replace(**{name: value})
            assert optimizer.rule == rule
            for _ in range(2):
                g = rng.normal(0, 1, 5)
                optimizer.update(p, g)
                ((q,), (state,)) = reference.step(rule, [q], [g], [state])
                np.testing.assert_allclose(p, q, rtol=1e-12, err_msg=name)

    @pytest.mark.parametrize(
        "fields",
        [
            {"centered": True},
            {"second_moment": "sum"},
            {"first_moment": "before"},
            {"lr_in_momentum": True},
        ],
    )
    def test_what_cannot_be_made_up_is_refused(self, fields: dict[str, Any]) -> None:
        optimizer, p = RMSprop(0.1, momentum=0.9), {"w": np.ones(2)}
        optimizer.rule = optimizer.rule.replace(**fields)  # before the first step all is open
        optimizer.rule = RMSprop(0.1, momentum=0.9).rule
        optimizer.update(p, {"w": np.ones(2)})
        before, rule = everything(optimizer, p), optimizer.rule
        with pytest.raises(ValueError, match=next(iter(fields))):
            optimizer.rule = rule.replace(**fields)
        assert optimizer.rule == rule
        assert everything(optimizer, p) == before

    def test_a_schedule_goes_on_unless_the_rate_is_set(self) -> None:
        optimizer = RMSprop(Cosine(0.1, steps=10), clip_norm=1.0)
        optimizer.update(np.ones(2), np.ones(2))
        optimizer.rule = optimizer.rule.replace(momentum=0.9)
        assert optimizer.learning_rate == Cosine(0.1, steps=10)
        assert optimizer.rule.momentum == 0.9
        optimizer.rule = optimizer.rule.replace(lr=0.5)
        assert optimizer.learning_rate == 0.5

    def test_centering_switched_off(self) -> None:
        optimizer, p = RMSprop(0.1, centered=True), np.ones(2)
        optimizer.update(p, np.ones(2))
        optimizer.rule = optimizer.rule.replace(centered=False)
        optimizer.update(p, np.ones(2))
        assert "grad_avg" not in optimizer.state_dict()

    def test_a_buffer_never_comes_back_in_other_units(self) -> None:
        """Off, then on with the learning rate elsewhere, without a step between."""
        optimizer, p = RMSprop(0.1, momentum=0.9, lr_in_momentum=True), np.ones(2)
        optimizer.update(p, np.ones(2))
        on = optimizer.rule
        optimizer.rule = on.replace(momentum=0.0)
        assert "momentum_buffer" not in optimizer.state_dict()
        optimizer.rule = on.replace(lr_in_momentum=False)
        optimizer.update(p, np.zeros(2))
        assert optimizer.state_dict()["momentum_buffer"][""].tolist() == [0.0, 0.0]


class TestFunction:
    @pytest.mark.parametrize("name", RULES)
    def test_equals_the_class_and_changes_nothing(self, name: str) -> None:
        rng, optimizer = np.random.default_rng(0), Optimizer(RULES[name])
        tree = {"a": rng.normal(0, 1, (2, 3)), "b": [rng.normal(0, 1, 4)]}
        mine: Any = {"a": tree["a"].copy(), "b": [tree["b"][0].copy()]}
        params: Any = tree
        state: State | None = None
        for t in range(3):
            grads = {"a": rng.normal(0, 1, (2, 3)), "b": [rng.normal(0, 1, 4)]}
            kept = (params["a"].tobytes(), params["b"][0].tobytes(), grads["a"].tobytes())
            old = None if state is None else {s: k["a"].tobytes() for s, k in state.slots.items()}
            moved, after = rmsprop.numpy.step(RULES[name], params, grads, state)
            assert (params["a"].tobytes(), params["b"][0].tobytes(), grads["a"].tobytes()) == kept
            if state is not None:
                assert state.step == t
                assert {s: k["a"].tobytes() for s, k in state.slots.items()} == old
            params, state = moved, after
            assert state.step == t + 1
            optimizer.update(mine, grads)
            np.testing.assert_array_equal(params["a"], mine["a"])
            np.testing.assert_array_equal(params["b"][0], mine["b"][0])

    def test_keeps_the_kinds_of_containers(self) -> None:
        tree = Pair(np.ones(2), {"x": (np.ones(1), [np.ones(())])})
        moved, _ = rmsprop.numpy.step(Rule(), tree, tree)
        assert type(moved) is Pair
        assert type(moved.bias["x"]) is tuple
        assert type(moved.bias["x"][1]) is list
        assert moved.bias["x"][1][0].shape == ()

    def test_read_only_parameters_are_fine_here(self) -> None:
        p = np.ones(3)
        p.flags.writeable = False
        moved, _ = rmsprop.numpy.step(Rule(), p, np.ones(3))
        assert (moved < 1).all()

    @pytest.mark.parametrize("kind", BAD_ARRAYS)
    def test_refuses_what_the_class_refuses(self, kind: str) -> None:
        bad: Any = {"w": BAD_ARRAYS[kind][0]()}
        with pytest.raises(TypeError):
            rmsprop.numpy.step(Rule(), bad, bad)

    def test_a_state_of_other_parameters(self) -> None:
        _, state = rmsprop.numpy.step(Rule(), np.ones(3), np.ones(3))
        with pytest.raises(ValueError, match="state"):
            rmsprop.numpy.step(Rule(), np.ones(4), np.ones(4), state)
