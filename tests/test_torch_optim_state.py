"""rmsprop.torch.RMSprop's state: its names, saved and loaded, to and from torch.optim.RMSprop, and copied.

Most are PyTorch's own tests, by the list in test_torch_optim.
"""

import functools
import inspect
import io
import itertools
import pickle
from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest

import needs
from test_torch_optim import (
    BACKENDS,
    FEW,
    INPUTS,
    TORCHS,
    TRAINED,
    Regression,
    assert_same,
    by_backend,
    over,
    state_of,
)

torch = needs.package("torch")
RMSprop = needs.package("rmsprop.torch").RMSprop
ALL = {"momentum": 0.9, "centered": True, "weight_decay": 0.05}
NAMES = ("square_avg", "momentum_buffer", "grad_avg")

# Names, and what is saved.


@over(INPUTS)
def test_state_names(options: dict[str, Any]) -> None:
    """Those of torch, each there from the first step and only if the rule needs it."""
    problem = Regression()
    optimizer = RMSprop(problem.params, **options)
    group = optimizer.param_groups[0]
    assert state_of(optimizer) == [{}, {}]
    expected = {
        "step", "square_avg",
        *(["momentum_buffer"] if group["momentum"] > 0 else []),
        *(["grad_avg"] if group["centered"] else []),
    }  # fmt: skip
    for steps in (1, 2):
        problem.train(optimizer, 1)
        for p, state in zip(problem.params, state_of(optimizer), strict=True):
            assert set(state) == expected
            assert state.pop("step").equal(torch.tensor(float(steps)))
            assert {x.shape for x in state.values()} == {p.shape}


def test_arguments_and_groups_have_torchs_names() -> None:
    theirs = [*inspect.signature(torch.optim.RMSprop).parameters]
    assert [*inspect.signature(RMSprop).parameters][: len(theirs)] == theirs
    torchs = torch.optim.RMSprop([torch.ones(1)])
    ours = RMSprop([torch.ones(1)])
    defaults = {name: ours.defaults[name] for name in torchs.defaults}
    assert defaults == torchs.defaults
    assert set(torchs.param_groups[0]) < set(ours.param_groups[0])


def reloaded(state_dict: Any) -> Any:
    """Through a file, which is loaded as one of somebody else's."""
    file = io.BytesIO()
    torch.save(state_dict, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def without_names(state_dict: dict[str, Any]) -> dict[str, Any]:
    state_dict = deepcopy(state_dict)
    for group in state_dict["param_groups"]:
        group.pop("param_names", None)
    return state_dict


def assert_equal_dicts(found: dict[str, Any], expected: dict[str, Any]) -> None:
    """To the bit."""
    assert found["param_groups"] == expected["param_groups"]
    assert_same(found["state"], expected["state"], 0.0, 0.0)


named = pytest.mark.parametrize(
    "names", [(False, False), (True, False), (False, True), (True, True)]
)


def maybe_named(problem: Regression, name: bool) -> list[Any]:
    return list(zip(["weight", "bias"], problem.params, strict=True)) if name else problem.params


@over(TRAINED)
def test_state_dict_is_deterministic(options: dict[str, Any]) -> None:
    first = Regression()
    by = RMSprop(maybe_named(first, True), **options)
    first.train(by, 10)
    second = Regression()
    for p, q in zip(second.params, first.params, strict=True):
        p.data.copy_(q.data)
    by_second = RMSprop(maybe_named(second, False), **options)
    given = by.state_dict()
    kept = deepcopy(given)
    by_second.load_state_dict(deepcopy(given))  # as in torch, a state dict is not a copy
    assert_equal_dicts(given, kept)
    first.train(by, 10)
    second.train(by_second, 10)
    assert_same(second.params, first.params, 0.0, 0.0)
    assert_equal_dicts(without_names(by_second.state_dict()), without_names(by.state_dict()))
    # A group that stands twice is written twice.
    by_second.param_groups.extend(by_second.param_groups)
    groups = without_names(by_second.state_dict())["param_groups"]
    assert groups == 2 * without_names(by.state_dict())["param_groups"]


@named
@by_backend
def test_loads_named_and_unnamed(backend: str, names: tuple[bool, bool]) -> None:
    """Names outlive loading, if one of the two had them."""
    problem = Regression()
    by = RMSprop(maybe_named(problem, names[0]), backend=backend)
    problem.train(by, 2)
    other = RMSprop(maybe_named(problem, names[1]), backend=backend)
    other.load_state_dict(by.state_dict())
    problem.train(other, 1)
    expected = ["weight", "bias"] if any(names) else None
    assert other.state_dict()["param_groups"][0].get("param_names") == expected


@by_backend
def test_loads_in_another_order(backend: str) -> None:
    """State goes by position; by name with a hook, as torch's documentation has it."""
    first, second = Regression(), Regression()
    by = RMSprop(maybe_named(first, True), backend=backend, **ALL)
    first.train(by, 3)
    second.weight.data, second.bias.data = first.weight.data.clone(), first.bias.data.clone()
    by_second = RMSprop(maybe_named(second, True)[::-1], backend=backend, **ALL)

    def by_name(optimizer: Any, given: dict[str, Any]) -> dict[str, Any]:
        given = deepcopy(given)
        at = dict(zip(given["param_groups"][0]["param_names"], itertools.count()))
        order = optimizer.param_groups[0]["param_names"]
        given["state"] = {k: given["state"][at[name]] for k, name in enumerate(order)}
        given["param_groups"][0]["param_names"] = order
        return given

    by_second.register_load_state_dict_pre_hook(by_name)
    by_second.load_state_dict(by.state_dict())
    first.train(by, 3)
    second.train(by_second, 3)
    assert_same([second.params, state_of(by_second)], [first.params, state_of(by)[::-1]], 0.0, 0.0)


@over({name: INPUTS[name] for name in ("default", "momentum", "all of ours", "dialect tf1")})
@by_backend
def test_loads_older_state_dict(options: dict[str, Any], backend: str) -> None:
    """Of a torch that had neither foreach, maximize, differentiable nor capturable; centered, momentum."""
    problem = Regression()
    optimizer = RMSprop(problem.params, backend=backend, **options)
    problem.train(optimizer, 3)
    old = deepcopy(optimizer.state_dict())
    for name in ("foreach", "differentiable", "maximize", "capturable"):
        del old["param_groups"][0][name]
    expected = Regression()
    for p, q in zip(expected.params, problem.params, strict=True):
        p.data.copy_(q.data)
    by_expected = RMSprop(expected.params, backend=backend, **options)
    by_expected.load_state_dict(deepcopy(optimizer.state_dict()))
    optimizer.load_state_dict(old)
    for of, by in ((problem, optimizer), (expected, by_expected)):
        of.train(by, 2)
    assert_same(problem.params, expected.params, 0.0, 0.0)


@over(TRAINED)
def test_saved_and_loaded_are_equal(options: dict[str, Any]) -> None:
    problem = Regression()
    optimizer = RMSprop(maybe_named(problem, True), **options)
    problem.train(optimizer, 3)
    assert_equal_dicts(reloaded(optimizer.state_dict()), optimizer.state_dict())


@by_backend
@pytest.mark.parametrize(
    ("dtype", "state_dtype"),
    [
        (torch.float16, None),
        (torch.bfloat16, None),
        (torch.bfloat16, torch.bfloat16),
        (torch.float32, torch.bfloat16),
    ],
)
def test_loading_keeps_the_dtype_of_state(backend: str, dtype: Any, state_dtype: Any) -> None:
    """torch's own loading would cast it to the parameter's; training goes on to the bit."""
    problem, other = Regression(dtype), Regression(dtype)
    options = {"backend": backend, "state_dtype": state_dtype, **ALL}
    optimizer, by_other = RMSprop(problem.params, **options), RMSprop(other.params, **options)
    problem.train(optimizer, 3)
    for p, q in zip(other.params, problem.params, strict=True):
        p.data.copy_(q.data)
    by_other.load_state_dict(reloaded(optimizer.state_dict()))
    for of, by in ((problem, optimizer), (other, by_other)):
        of.train(by, 3)
        for state in state_of(by):
            assert {state[name].dtype for name in NAMES} == {state_dtype or torch.float32}
            assert state["step"].equal(torch.tensor(6.0))
    assert_same([other.params, state_of(by_other)], [problem.params, state_of(optimizer)], 0.0, 0.0)


@over(TRAINED)
def test_loads_step_that_is_a_number(options: dict[str, Any]) -> None:
    """As it was saved by PyTorch before 1.12."""
    problem = Regression()
    optimizer = RMSprop(problem.params, **options)
    problem.train(optimizer, 3)
    given = deepcopy(optimizer.state_dict())
    for state in given["state"].values():
        state["step"] = state["step"].item()
    optimizer.load_state_dict(given)
    problem.train(optimizer, 1)
    assert [state["step"] for state in state_of(optimizer)] == [torch.tensor(4.0)] * 2


@pytest.mark.parametrize(
    ("params", "words"),
    [
        ([{"params": [torch.ones(2)]}, {"params": [torch.ones(2)]}], "number of parameter groups"),
        ([torch.ones(2)], "doesn't match the size"),
    ],
)
def test_loading_refuses(params: list[Any], words: str) -> None:
    problem = Regression()
    optimizer = RMSprop(problem.params)
    problem.train(optimizer, 1)
    with pytest.raises(ValueError, match=words):
        RMSprop(params).load_state_dict(optimizer.state_dict())


@by_backend
@over(TORCHS)
def test_checkpoints_of_torch(options: dict[str, Any], backend: str) -> None:
    """torch, then ours from its checkpoint, then torch from ours: as if torch had gone on alone."""
    alone, shared = Regression(), Regression()
    alone.train(torch.optim.RMSprop(alone.params, **options), 60)
    checkpoint = None
    for make in (torch.optim.RMSprop, functools.partial(RMSprop, backend=backend)) * 2:
        # Other options: those of the checkpoint hold.
        optimizer = make(shared.params, lr=3.0, alpha=0.5, momentum=0.3)
        if checkpoint:
            optimizer.load_state_dict(reloaded(checkpoint))
        else:
            optimizer = make(shared.params, **options)
        shared.train(optimizer, 15)
        checkpoint = optimizer.state_dict()
    assert_same(shared.params, alone.params)


# Hooks.


@over(FEW)
def test_state_dict_hooks(options: dict[str, Any]) -> None:
    def before(by: Any) -> None:
        by.state["test"] = 1

    def after(_: Any, state_dict: dict[str, Any]) -> dict[str, Any]:
        return {**state_dict, "seen": state_dict["state"].pop("test", None)}

    optimizer = RMSprop(Regression().params, **options)
    handle = optimizer.register_state_dict_post_hook(after)
    assert optimizer.state_dict()["seen"] is None
    handle.remove()
    optimizer.register_state_dict_pre_hook(before)
    assert optimizer.state_dict()["state"]["test"] == 1
    optimizer.register_state_dict_post_hook(after)
    found = optimizer.state_dict()
    assert found["seen"] == 1
    assert "test" not in found["state"]


@over(FEW)
def test_load_state_dict_hooks(options: dict[str, Any]) -> None:
    def change(_: Any, state_dict: dict[str, Any]) -> None:
        state_dict["param_groups"][0]["lr"] = 0.002

    def replace(_: Any, state_dict: dict[str, Any]) -> dict[str, Any]:
        state_dict = deepcopy(state_dict)
        state_dict["param_groups"][0]["lr"] = 0.003
        return state_dict

    rates: list[float] = []

    def load(*hooks: Any, prepend: bool = False) -> float:
        optimizer = RMSprop(Regression().params, **options)
        for hook in hooks:
            optimizer.register_load_state_dict_pre_hook(hook, prepend=prepend)
        optimizer.register_load_state_dict_post_hook(
            lambda by: rates.append(by.param_groups[0]["lr"])
        )
        optimizer.load_state_dict(optimizer.state_dict())
        return optimizer.param_groups[0]["lr"]

    found = [load(), load(change), load(change, replace), load(change, replace, prepend=True)]
    assert found == rates == [0.01, 0.002, 0.003, 0.002]


def test_loaded_state_is_what_the_post_hook_sees_and_leaves() -> None:
    problem, seen = Regression(torch.bfloat16), []
    optimizer = RMSprop(problem.params)
    problem.train(optimizer, 3)
    expected = deepcopy(state_of(optimizer))

    def zero(by: Any) -> None:
        seen.extend(deepcopy(state_of(by)))
        for state in state_of(by):
            state["square_avg"].zero_()

    optimizer.register_load_state_dict_post_hook(zero)
    optimizer.load_state_dict(deepcopy(optimizer.state_dict()))
    assert_same(seen, expected, 0.0, 0.0)
    assert all(not state["square_avg"].any() for state in state_of(optimizer))


# Copies.

COPIES: dict[str, Callable[[Any], Any]] = {
    "deepcopy": deepcopy,
    "pickle": lambda optimizer: pickle.loads(pickle.dumps(optimizer)),
}


@pytest.mark.parametrize("copy", COPIES.values(), ids=COPIES.keys())
@over(TRAINED)
def test_copies(options: dict[str, Any], copy: Callable[[Any], Any]) -> None:
    """A copy has parameters and state of its own: neither moves the other's, and both do the same."""
    problem = Regression()
    optimizer = RMSprop(problem.params, **options)
    problem.train(optimizer, 3)
    other = copy(optimizer)
    params = other.param_groups[0]["params"]
    start = deepcopy([problem.params, state_of(optimizer)])
    assert_same([params, state_of(other)], start, 0.0, 0.0)
    grads = [p.grad.clone() for p in problem.params]

    def step(by: Any) -> list[Any]:
        for p, grad in zip(by.param_groups[0]["params"], grads, strict=True):
            p.grad = grad.clone()
        by.step()
        return deepcopy([by.param_groups[0]["params"], state_of(by)])

    first = step(optimizer)
    assert not torch.equal(first[0][0], start[0][0])
    assert_same([params, state_of(other)], start, 0.0, 0.0)
    assert_same(step(other), first, 0.0, 0.0)
    assert_same([problem.params, state_of(optimizer)], first, 0.0, 0.0)
    assert_same(step(other), step(optimizer), 0.0, 0.0)


@pytest.mark.parametrize("copy", COPIES.values(), ids=COPIES.keys())
@over(FEW)
def test_copies_have_all_attributes(options: dict[str, Any], copy: Callable[[Any], Any]) -> None:
    problem = Regression()
    optimizer = RMSprop(problem.params, **options)
    if not options.get("differentiable"):
        problem.train(optimizer, 3)

    def public(by: Any) -> set[str]:
        return {name for name in vars(by) if not name.startswith("_")}

    other = copy(optimizer)
    assert public(other) == public(optimizer)
    assert other.defaults == optimizer.defaults


def test_copy_with_its_model() -> None:
    """Copied together they stay together, as in averaging, meta-learning and population training."""
    for backend in BACKENDS:
        problem = Regression()
        optimizer = RMSprop(problem.params, backend=backend)
        problem.train(optimizer, 2)
        other, by_other = deepcopy((problem, optimizer))
        other.train(by_other, 2)
        assert not torch.equal(other.weight, problem.weight)
        problem.train(optimizer, 2)
        assert_same(other.params, problem.params, 0.0, 0.0)
