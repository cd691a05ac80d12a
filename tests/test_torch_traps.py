"""What could go wrong without a word where a kernel walks raw memory: one test for each trap."""

import copy
import gc
import weakref
from collections.abc import Callable
from typing import Any

import pytest

import needs
from rmsprop import Rule

torch = needs.package("torch")

from rmsprop.torch import RMSprop, from_rule, optimizer, step_in_backward  # noqa: E402

nn = torch.nn
Tensor = Any


def both(run: Callable[[Any], Any]) -> tuple[Any, Any]:
    """What the same lines give with our optimizer and with PyTorch's."""
    return run(RMSprop), run(torch.optim.RMSprop)


def stepped(p: Tensor, make: Any = RMSprop, steps: int = 1, **options: Any) -> Any:
    """An optimizer of one parameter that has made some steps of ones."""
    found = make([p], **options)
    for _ in range(steps):
        p.grad = torch.ones_like(p)
        found.step()
    return found


# Autograd and memory.


@pytest.mark.parametrize("backend", ["numba", "foreach"])
def test_autograd_knows_that_parameters_have_moved(backend: str) -> None:
    torch.manual_seed(0)
    g, d = nn.Linear(2, 2), nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 1))
    score = d(g(torch.ones(4, 2))).mean()
    score.backward(retain_graph=True)
    RMSprop(d.parameters(), backend=backend).step()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        score.backward()


def test_a_weight_that_is_used_again_after_its_step_in_backward() -> None:
    x, w = torch.ones(1, 3), [nn.Parameter(torch.full((3, 3), 0.1)) for _ in range(2)]
    step_in_backward(w, lr=0.5)
    h = x @ w[0]
    loss = torch.tanh(h @ w[1].detach()).sum() + torch.tanh(h @ w[1]).sum()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


@pytest.mark.parametrize(
    "views",
    [
        lambda w: [w, w.view(-1)],
        lambda w: [w[:, ::2], w[:, 1::2], w[:600]],
        lambda w: [w.view(-1)[10:], w.view(-1)[:20]],
    ],
    ids=["tied", "columns and rows", "ends"],
)
def test_parameters_that_share_memory_take_turns(views: Any) -> None:
    def run(make: Any) -> Tensor:
        memory = torch.zeros(1024, 512)
        params = [nn.Parameter(v) for v in views(memory)]
        found = make(params, lr=1.0, momentum=0.5)
        for _ in range(4):
            for k, p in enumerate(params):
                p.grad = torch.full_like(p, k + 1.0)
            found.step()
        return memory

    ours, theirs = both(run)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def test_shared_memory_is_refused_by_name() -> None:
    w = torch.zeros(4)
    params = [nn.Parameter(w), nn.Parameter(w)]
    found = RMSprop(params, backend="numba")
    for p in params:
        p.grad = torch.ones(4)
    with pytest.raises(RuntimeError, match="shares memory"):
        found.step()


def test_a_parameter_transposed_in_place() -> None:
    def run(make: Any) -> Tensor:
        p = nn.Parameter(torch.zeros(2, 2))
        found = stepped(p, make, lr=0.1)
        p.data = p.data.t()
        p.grad = None
        p.grad = torch.tensor([[1.0, -1.0], [1.0, 1.0]])
        found.step()
        return p.detach()

    ours, theirs = both(run)
    torch.testing.assert_close(ours, theirs)


def test_a_parameter_of_another_dtype_in_the_same_memory() -> None:
    block = torch.zeros(16)
    p = nn.Parameter(block[:8])
    found = stepped(p, lr=0.1)
    p.data = block.view(torch.float16)[:8]
    p.data.zero_()
    block[4:] = 7.0
    p.grad = None
    p.grad = torch.ones(8, dtype=torch.float16)
    found.step()
    assert (block[4:] == 7).all(), "what lies beside is left alone"
    assert (p < 0).all()


def test_a_gradient_of_another_size() -> None:
    layer = nn.Embedding(10, 4)
    found = RMSprop(layer.parameters())
    layer(torch.tensor([1])).sum().backward()
    layer.weight.data = torch.cat([layer.weight.data, torch.zeros(5000, 4)])
    with pytest.raises(RuntimeError, match="another size"):
        found.step()


def test_gradients_that_say_minus() -> None:
    def run(make: Any) -> list[float]:
        re, im = nn.Parameter(torch.ones(1)), nn.Parameter(torch.ones(1))
        found = make([re, im], lr=0.1)
        (torch.complex(re, im).conj() * torch.tensor([1 + 2j])).real.sum().backward()
        found.step()
        return [re.item(), im.item()]

    ours, theirs = both(run)
    assert ours == pytest.approx(theirs, abs=1e-6)


def test_gradients_without_memory() -> None:
    def run(make: Any) -> Tensor:
        p = nn.Parameter(torch.ones(1000))
        found = stepped(p, make, momentum=0.5)
        p.grad = torch._efficientzerotensor(1000)
        found.step()
        return p.detach()

    ours, theirs = both(run)
    torch.testing.assert_close(ours, theirs)


def test_a_nan_of_any_bits_is_the_largest_of_its_block() -> None:
    p = nn.Parameter(torch.zeros(16, 256))
    found = RMSprop([p], state_dtype=torch.uint8)
    p.grad = torch.ones_like(p)
    p.grad[0, 0] = torch.tensor(0x7FFFFFFF, dtype=torch.int32).view(torch.float32)
    found.step()
    codes = found.state[p]["square_avg_code"]
    assert codes[0, 0] >= codes[0, 1:].max()


# State from elsewhere.


@pytest.mark.parametrize(
    "spoil",
    [
        lambda s: s.update(square_avg_exponent=torch.zeros(2, dtype=torch.uint8)),
        lambda s: s.update(square_avg_exponent=s["square_avg_exponent"].float()),
        lambda s: s.update(square_avg_exponent=s["square_avg_exponent"].unsqueeze(-1)),
        lambda s: s.pop("square_avg_exponent"),
    ],
)
@pytest.mark.parametrize("by_loading", [True, False])
def test_exponents_that_are_not_the_codes(spoil: Any, by_loading: bool) -> None:
    p = nn.Parameter(torch.zeros(1024, 512))
    found = stepped(p, state_dtype=torch.uint8)
    state = copy.deepcopy(found.state_dict())
    spoil(state["state"][0] if by_loading else found.state[p])
    found._plans.clear()  # a view of the same memory would not be noticed
    with pytest.raises(RuntimeError, match="square_avg_exponent does not belong"):
        found.load_state_dict(state) if by_loading else found.step()


def test_momentum_that_comes_later_has_the_means_dtype() -> None:
    p = nn.Parameter(torch.zeros(100_000))
    found = stepped(p, centered=True)
    found.param_groups[0].update(state_dtype=torch.bfloat16, momentum=0.9)
    found.step()
    state = found.state[p]
    assert state["momentum_buffer"].dtype == state["grad_avg"].dtype == torch.float32
    state["momentum_buffer"] = state["momentum_buffer"].bfloat16()
    with pytest.raises(RuntimeError, match="different dtypes"):
        found.step()


def test_a_state_that_loses_entries_or_has_foreign_ones() -> None:
    def run(make: Any, change: Any) -> Tensor:
        p = nn.Parameter(torch.zeros(50))
        found = stepped(p, make, steps=3, momentum=0.9)
        change(found.state[p])
        found.step()
        return p.detach()

    for change in (lambda s: s.clear(), lambda s: s.update(note="x", extra=None)):
        ours, theirs = (run(make, change) for make in (RMSprop, torch.optim.RMSprop))
        torch.testing.assert_close(ours, theirs)
    p = nn.Parameter(torch.zeros(5))
    found = stepped(p, momentum=0.9)
    del found.state[p]["momentum_buffer"]  # PyTorch raises KeyError; it starts anew here
    found.step()
    assert "momentum_buffer" in found.state_dict()["state"][0]


def test_replaced_state_is_freed_at_once() -> None:
    p = nn.Parameter(torch.zeros(50))
    found = stepped(p)
    old = weakref.ref(found.state[p]["square_avg"])
    found.state[p]["square_avg"] = torch.zeros(50)
    gc.collect()
    assert old() is None


@pytest.mark.parametrize("dtype", [None, torch.bfloat16, torch.uint8])
def test_a_run_is_handed_over_in_another_dtype(dtype: Any) -> None:
    p = nn.Parameter(torch.zeros(64, 100))
    known = stepped(p, state_dtype=torch.uint8, backend="foreach").state_dict()
    other = RMSprop([p], state_dtype=dtype)
    other.load_state_dict(known)
    assert other.param_groups[0]["state_dtype"] == dtype
    assert other.param_groups[0]["backend"] == "auto"
    name = "square_avg_code" if dtype == torch.uint8 else "square_avg"
    assert other.state[p][name].dtype == (dtype or torch.float32)
    if dtype is None:
        torch.optim.RMSprop([p]).load_state_dict(other.state_dict())


@pytest.mark.parametrize("name", ["Adam", "Adadelta", "SGD"])
@pytest.mark.parametrize("steps", [0, 1])
def test_the_state_of_another_optimizer(name: str, steps: int) -> None:
    p = nn.Parameter(torch.zeros(5))
    known = stepped(p, getattr(torch.optim, name), steps, lr=0.1).state_dict()
    found = RMSprop([p])
    with pytest.raises(ValueError, match="not the state of an RMSprop"):
        found.load_state_dict(known)
    assert found.param_groups[0]["lr"] == 0.01


# Groups.


def test_the_joint_norm_is_over_all_groups() -> None:
    a, b = (nn.Parameter(torch.zeros(())) for _ in range(2))
    rule = Rule.from_dialect("sgd", lr=1.0, clip_global_norm=1.0)
    found = from_rule([{"params": [a]}, {"params": [b], "weight_decay": 0.0}], rule)
    a.grad, b.grad = torch.tensor(3.0), torch.tensor(4.0)
    found.step()
    assert (a.item(), b.item()) == pytest.approx((-0.6, -0.8))


def test_numbers_as_tensors() -> None:
    def run(make: Any) -> Tensor:
        p = nn.Parameter(torch.zeros(5))
        found = stepped(p, make, momentum=0.5)
        found.param_groups[0].update(momentum=torch.tensor(0.75), alpha=torch.tensor(0.5))
        for _ in range(3):
            found.step()
            found.param_groups[0]["momentum"] -= 0.125
        return p.detach()

    ours, theirs = both(run)
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"backend": "x"}, ValueError),
        ({"state_dtype": torch.float16}, ValueError),
        ({"seed": 1.5}, TypeError),
        ({"stochastic_rounding": "yes"}, TypeError),
        ({"lr": None}, TypeError),
    ],
)
def test_groups_spoiled_between_steps(options: dict[str, Any], error: Any) -> None:
    p = nn.Parameter(torch.zeros(5))
    found = stepped(p)
    kept = p.detach().clone()
    found.param_groups[0].update(options)
    with pytest.raises(error):
        found.step()
    assert torch.equal(p, kept)
    assert float(found.state[p]["step"]) == 1


def test_what_changes_often_makes_no_new_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    """A momentum that is cycled, weight decay that is scheduled, gradients that come and go."""
    made = []

    class Counted(optimizer.Plan):
        def __init__(self, *args: Any):
            made.append(1)
            super().__init__(*args)

    monkeypatch.setattr(optimizer, "Plan", Counted)
    params = [nn.Parameter(torch.zeros(3)) for _ in range(4)]
    found = RMSprop(params, momentum=0.9, weight_decay=0.1)
    for t in range(20):
        for k, p in enumerate(params):
            p.grad = None if k == t % 3 else torch.ones(3)
        found.param_groups[0].update(momentum=0.9 - 0.01 * t, weight_decay=0.1 + 0.01 * t)
        found.step()
    assert len(made) == 3


# In backward.


def test_step_in_backward_takes_what_rmsprop_takes() -> None:
    net = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 1))
    found = step_in_backward(
        [{"params": net[0].parameters(), "lr": 0.5}, {"params": list(net[1].parameters())[:1]}],
        lr=0.1,
    )
    found.add_param_group({"params": [net[1].bias], "lr": 0.0})
    kept = net[1].bias.detach().clone()
    net(torch.ones(1, 3)).sum().backward()
    assert all(p.grad is None for p in net.parameters())
    assert torch.equal(net[1].bias, kept)
    named = step_in_backward(list(nn.Linear(2, 2).named_parameters()), lr=0.1)
    assert len(named.param_groups[0]["params"]) == 2
    twin = copy.deepcopy(found)
    twin.remove_hooks()
    net(torch.ones(1, 3)).sum().backward()
    assert all(p.grad is None for p in net.parameters()), "the original goes on"
