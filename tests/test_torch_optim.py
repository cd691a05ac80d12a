"""PyTorch's own tests of an optimizer, on rmsprop.torch.RMSprop: what it is given, and what a step does.

The inputs are those of PyTorch's own `OptimizerInfo` of RMSprop, and ours; `PYTORCH_TESTS` says for each of
PyTorch's tests which of ours has its idea, or why none can.  State that is saved, loaded and copied is in
test_torch_optim_state, and whole runs are in test_torch_optim_runs.
"""

import itertools
import re
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

import needs
from rmsprop import DIALECTS

torch = needs.package("torch")
common = needs.package("torch.testing._internal.common_optimizers")
RMSprop = needs.package("rmsprop.torch").RMSprop
Tensor = Any

# The methods of PyTorch's test/test_optim.py, of test/test_torch.py and test/test_cuda.py where they step an
# optimizer, and of test/optim/test_optim.py, from `test_rmsprop` on.
PYTORCH_TESTS = {
    "test_optim_infos_do_not_specify_global_cliquey_kwargs": "test_inputs_leave_the_flags_alone",
    "test_errors": "test_errors",
    "test_forloop_goes_right_direction": "test_goes_right_direction",
    "test_forloop_goes_right_direction_multigpu": "Not here: two GPUs.",
    "test_param_group_with_lrscheduler_goes_right_direction": "test_groups_with_schedulers",
    "test_tensor_lr": "test_tensor_lr",
    "test_rosenbrock_sparse": "Not for RMSprop: no sparse gradients, which test_errors covers.",
    "test_complex": "test_complex",
    "test_complex_2d": "test_complex_2d",
    "test_foreach_matches_forloop": "test_matches_torch",
    "test_mixed_device_dtype": "test_mixed_dtypes",
    "test_set_default_dtype_works_with_foreach": "test_default_dtype",
    "test_foreach_large_tensor": "Not here: 72 GB of a GPU.",
    "test_peak_memory_foreach": "test_peak_memory",
    "test_fused_matches_forloop": "test_matches_torch",
    "test_fused_error_on_params_on_meta": "test_meta_parameters",
    "test_fused_large_tensor": "Not here: 64 GB.",
    "test_fused_does_not_step_if_foundinf": "test_no_step_if_found_inf",
    "test_fused_cpu_matches_cuda": "Not here: a GPU.",
    "test_cpu_load_state_dict": "Not here: a GPU, to which state of the CPU is loaded.",
    "test_param_groups_weight_decay": "test_groups_weight_decay",
    "test_param_groups_lr": "test_groups_lr",
    "test_step_is_noop_when_params_have_no_grad": "test_no_step_without_gradients",
    "test_step_is_noop_for_zero_grads": "test_no_step_for_zero_gradients",
    "test_optimizer_can_be_printed": "test_can_be_printed",
    "test_state_dict_deterministic": "test_state_dict_is_deterministic",
    "test_can_load_older_state_dict": "test_loads_older_state_dict",
    "test_can_load_from_to_named_state_dict": "test_loads_named_and_unnamed",
    "test_save_load_equality_with_weights_only": "test_saved_and_loaded_are_equal",
    "test_load_nontensor_step": "test_loads_step_that_is_a_number",
    "test_state_dict_with_cuda_params": "Not here: a GPU.",
    "test_state_dict_pre_hook": "test_state_dict_hooks",
    "test_state_dict_post_hook": "test_state_dict_hooks",
    "test_state_dict_pre_post_hook": "test_state_dict_hooks",
    "test_load_state_dict_pre_hook_and_prepend": "test_load_state_dict_hooks",
    "test_load_state_dict_post_hook": "test_load_state_dict_hooks",
    "test_load_state_dict_pre_post_hook": "test_load_state_dict_hooks",
    "test_step_post_hook": "test_step_hooks",
    "test_step_pre_hook": "test_step_hooks",
    "test_step_all_hooks": "test_step_hooks_of_all_optimizers",
    "test_deepcopy_copies_all_public_attrs": "test_copies_have_all_attributes",
    "test_second_order_optims_return_consistent_types": "Not for RMSprop: first order.",
    "test_defaults_changed_to_foreach": "test_default_backend",
    "test_non_empty_state": "test_state_names",
    "test_grad_scaling_autocast_fused_optimizers": "test_grad_scaler",
    "test_graph_optims": "Not here: CUDA graphs need a GPU.",
    "test_graph_grad_scaling": "Not here: CUDA graphs need a GPU.",
    "test_rmsprop": "test_differentiable",
    "test_differentiable_lr": "test_differentiable_lr",
    "test_differentiable_weight_decay": "Not for RMSprop: in PyTorch too, only SGD and Adam.",
    "test_complex_foreach_matches_single_and_compiles": "test_compiled_training",
}

# What torch.optim.RMSprop has not. Not centered and corrected at once: the first variance is 0.
OURS: dict[str, dict[str, Any]] = {
    "nesterov": {"momentum": 0.9, "nesterov": True, "weight_decay": 0.1},
    "nesterov, centered, maximize": {
        "momentum": 0.5, "nesterov": True, "centered": True, "maximize": True,
    },
    "bias correction": {"bias_correction": True},
    "bias correction, momentum": {"bias_correction": True, "momentum": 0.9},
    "decoupled": {"weight_decay": 0.1, "decoupled_weight_decay": True},
    "decoupled, maximize, momentum": {
        "weight_decay": 0.1, "decoupled_weight_decay": True, "maximize": True, "momentum": 0.9,
    },
    "all of ours": {
        "nesterov": True, "bias_correction": True, "decoupled_weight_decay": True,
        "weight_decay": 0.1, "momentum": 0.5, "maximize": True,
    },
    **{f"dialect {name}": {"dialect": name, "lr": 0.01} for name in DIALECTS},
}  # fmt: skip
BACKENDS = ["numba", "foreach"]


def inputs(device: Any, dtype: Any = None) -> list[Any]:
    """PyTorch's inputs of RMSprop, and ours."""
    ours = [common.OptimizerInput(None, dict(kwargs), name) for name, kwargs in OURS.items()]
    return [*common.optim_inputs_func_rmsprop(device, dtype), *ours]


def error_inputs(device: Any, dtype: Any) -> list[Any]:
    """PyTorch's inputs that RMSprop refuses, and ours."""

    def refused(kwargs: dict[str, Any], error: type[Exception], words: str) -> Any:
        given = common.OptimizerInput(None, kwargs, words)
        return common.ErrorOptimizerInput(given, error_type=error, error_regex=words)

    sparse = torch.nn.Parameter(torch.zeros(3, device=device, dtype=dtype))
    sparse.grad = sparse.detach().to_sparse()
    return [
        *common.optim_error_inputs_func_rmsprop(device, dtype),
        refused({"lr": -1.0}, ValueError, "Invalid learning rate: -1.0"),
        refused({"eps": -1.0}, ValueError, "Invalid epsilon value: -1.0"),
        refused({"alpha": -0.5}, ValueError, "Invalid alpha value: -0.5"),
        refused({"alpha": 1.0}, ValueError, "Invalid alpha value: 1.0"),
        refused({"momentum": 1.5}, ValueError, "Invalid momentum value: 1.5"),
        refused({"weight_decay": -0.1}, ValueError, "Invalid weight_decay value: -0.1"),
        refused({"nesterov": True}, ValueError, "nesterov.*momentum"),
        refused({"dialect": "tensorflow"}, ValueError, "tensorflow.*tf1"),
        refused({"backend": "cuda"}, ValueError, "cuda.*foreach"),
        refused({"state_dtype": torch.int32}, ValueError, "int32"),
        *[
            common.ErrorOptimizerInput(
                common.OptimizerInput([sparse], {"backend": backend}, "sparse gradient"),
                error_on=common.OptimizerErrorEnum.STEP_ERROR,
                error_type=RuntimeError,
                error_regex="does not support sparse gradients",
            )
            for backend in ("auto", *BACKENDS)
        ],
    ]


INFO = common.OptimizerInfo(
    RMSprop,
    optim_inputs_func=inputs,
    optim_error_inputs_func=error_inputs,
    has_capturable_arg=True,
)
TORCHS = {given.desc: given.kwargs for given in common.optim_inputs_func_rmsprop("cpu")}
INPUTS = {given.desc: given.kwargs for given in inputs("cpu")}
# As PyTorch combines them with its flags, and with each of our backends.
FLAGGED = {
    f"{name}, {flag}={value}": {**kwargs, flag: value}
    for name, kwargs in INPUTS.items()
    for flag, value in [
        *[(flag, True) for flag in INFO.supported_impls],
        ("foreach", False),
        *[("backend", backend) for backend in BACKENDS],
    ]
}
TRAINED = {name: kwargs for name, kwargs in FLAGGED.items() if not kwargs.get("differentiable")}
FEW = {name: kwargs for name, kwargs in FLAGGED.items() if name.startswith("default,")}


def over(configs: dict[str, Any]) -> Any:
    """The test runs with each of these as `options`."""
    return pytest.mark.parametrize("options", configs.values(), ids=configs.keys())


by_backend = pytest.mark.parametrize("backend", BACKENDS)


class Regression:
    """PyTorch's little problem, |W x + b|^2, the same at every start."""

    def __init__(self, dtype: Any = torch.float64, contiguous: bool = True, seed: int = 0):
        random = torch.Generator().manual_seed(seed)

        def draw(*shape: int) -> Tensor:
            return torch.randn(*shape, 2, generator=random, dtype=torch.float64).to(dtype)

        def parameter(*shape: int) -> Tensor:
            wide = draw(*shape)[..., 0]
            return torch.nn.Parameter(wide.clone() if contiguous else wide)

        self.weight, self.bias, self.x = parameter(10, 5), parameter(10), draw(5)[..., 0]
        self.params = [self.weight, self.bias]

    def loss(self) -> Tensor:
        return (self.weight.mv(self.x) + self.bias).pow(2).sum()

    def train(self, optimizer: Any, steps: int, after: Callable[[Tensor], Any] = id) -> None:
        """Steps of the optimizer; `after` each one is called with the loss."""
        for _ in range(steps):
            optimizer.zero_grad()
            loss = self.loss()
            loss.backward()
            optimizer.step()
            after(loss.detach())

    def gain(self, before: Tensor, options: dict[str, Any]) -> float:
        """By how much the loss went the right way."""
        change = (before - self.loss()).item()
        return -change if options.get("maximize") else change


def assert_same(
    found: Any, expected: Any, rtol: float = 1e-12, atol: float = 1e-14, **checks: bool
) -> None:
    """Tensors, lists and dicts of them, equal up to rounding; NaN nowhere."""
    torch.testing.assert_close(found, expected, rtol=rtol, atol=atol, **checks)


def state_of(optimizer: Any) -> list[dict[str, Tensor]]:
    """The state of each parameter in their order; empty where none is yet."""
    params = [p for group in optimizer.param_groups for p in group["params"]]
    return [dict(optimizer.state[p]) if p in optimizer.state else {} for p in params]


# What it is given.


def test_every_test_of_pytorch_has_one_here_or_a_reason() -> None:
    files = [*Path(__file__).parent.glob("test_torch_optim*.py")]
    assert len(files) == 3
    written = {name for file in files for name in re.findall(r"def (test_\w+)", file.read_text())}
    for theirs, ours in PYTORCH_TESTS.items():
        assert theirs.startswith("test_")
        assert ours in written or re.fullmatch(r"Not (here|for RMSprop): .+\.", ours), theirs


def test_inputs_leave_the_flags_alone() -> None:
    for given in inputs("cpu"):
        assert not {"foreach", "fused", "differentiable", "backend"} & set(given.kwargs)
    assert set(TORCHS) < set(INPUTS)


@pytest.mark.parametrize("given", error_inputs("cpu", torch.float32), ids=lambda e: e.error_regex)
def test_errors(given: Any) -> None:
    params, kwargs = given.optimizer_error_input.params, given.optimizer_error_input.kwargs
    params = [torch.nn.Parameter(torch.zeros(1))] if params is None else params
    late = given.error_on is common.OptimizerErrorEnum.STEP_ERROR
    optimizer = RMSprop(params, **kwargs) if late else None
    expect = pytest.warns if issubclass(given.error_type, Warning) else pytest.raises
    with expect(given.error_type, match=given.error_regex):
        optimizer.step() if optimizer else RMSprop(params, **kwargs)


@over(FLAGGED)
def test_can_be_printed(options: dict[str, Any]) -> None:
    printed = repr(RMSprop(Regression().params, **options))
    assert printed.startswith("RMSprop (\nParameter Group 0\n")
    for name, value in options.items():
        if name not in ("dialect", "lr"):  # the dialect is spelled out in switches
            assert f"    {name}: {value}\n" in printed


# Which way it goes.


@pytest.mark.parametrize("with_schedulers", [False, True], ids=["", "schedulers"])
@over(TRAINED)
def test_goes_right_direction(options: dict[str, Any], with_schedulers: bool) -> None:
    found = INFO.scheduler_inputs if with_schedulers else [[]]
    for constructors, contiguous in itertools.product(found, [True, False]):
        problem = Regression(contiguous=contiguous)
        assert problem.weight.is_contiguous() == contiguous
        before = problem.loss()
        optimizer = RMSprop(problem.params, **options)
        problem.train(optimizer, 20, step_all([make(optimizer) for make in constructors]))
        assert problem.gain(before, options) > 0
        assert bool(constructors) == (optimizer.param_groups[0]["lr"] != optimizer.defaults["lr"])


def step_all(schedulers: list[Any]) -> Callable[[Tensor], None]:
    """Step these with the loss, if they want it."""

    def step(loss: Tensor) -> None:
        for scheduler in schedulers:
            plateau = isinstance(scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau)
            scheduler.step(loss) if plateau else scheduler.step()

    return step


@by_backend
def test_groups_with_schedulers(backend: str) -> None:
    for constructors in INFO.scheduler_inputs:
        problem = Regression()
        before = problem.loss()
        groups = [{"params": [problem.weight]}, {"params": [problem.bias], "lr": 0.005}]
        optimizer = RMSprop(groups, backend=backend)
        problem.train(optimizer, 20, step_all([make(optimizer) for make in constructors]))
        assert problem.gain(before, {}) > 0
        rates = [group["lr"] for group in optimizer.param_groups]
        assert rates[0] == pytest.approx(2 * rates[1]) != pytest.approx(0.01)


@by_backend
@over({name: INPUTS[name] for name in (*TORCHS, "decoupled", "dialect keras", "dialect tf1")})
def test_groups_weight_decay(options: dict[str, Any], backend: str) -> None:
    """The group without decay moves as if it were alone; the other one decays."""
    problem, plain = Regression(), Regression()
    options = {"weight_decay": 0.1, "backend": backend, **options}
    plain_options = {**options, "weight_decay": 0.0}
    optimizer = RMSprop(
        [{"params": [problem.weight], **options}, {"params": [problem.bias], **plain_options}],
        **{name: options[name] for name in ("dialect", "backend", "lr") if name in options},
    )
    alone = RMSprop(plain.params, **plain_options)
    for _ in range(3):
        for of, by in ((problem, optimizer), (plain, alone)):
            for k, p in enumerate(of.params):
                p.grad = torch.full_like(p, 0.1 + k)
            by.step()
    assert_same(problem.bias, plain.bias)
    assert not torch.allclose(problem.weight, plain.weight)


@over(TRAINED)
def test_groups_lr(options: dict[str, Any]) -> None:
    """What a group says goes before what the optimizer was given; the next group moves at its rate."""
    problem, other = Regression(), torch.nn.Parameter(torch.ones(2))
    before = problem.loss()
    optimizer = RMSprop(
        [{"params": problem.params, "lr": 1e-3}, {"params": [other]}], **{**options, "lr": 1e-28}
    )
    other.grad = torch.rand(2)

    for _ in range(20):
        for p in problem.params:
            p.grad = None
        problem.loss().backward()
        optimizer.step()
    assert problem.gain(before, options) > 0
    # Decoupled decay is lr * weight_decay, so this parameter too is where it was.
    assert_same(other, torch.ones(2), atol=0.0, rtol=0.0)


@over(TRAINED)
def test_tensor_lr(options: dict[str, Any]) -> None:
    problem, other = Regression(), Regression()
    rate = torch.tensor(1e-3, dtype=torch.float64)
    by_number = RMSprop(problem.params, **{**options, "lr": 1e-3})
    by_tensor = RMSprop(other.params, **{**options, "lr": rate})
    for factor in (1.0, 0.5, 3.0):
        by_number.param_groups[0]["lr"] *= factor
        rate.mul_(factor)
        problem.train(by_number, 2)
        other.train(by_tensor, 2)
        assert_same(other.params, problem.params)
    assert by_tensor.param_groups[0]["lr"] is rate


# Backends and torch.optim.RMSprop do the same.


def network(dtype: Any) -> tuple[Any, list[Tensor], Tensor]:
    """PyTorch's network, its parameters with one of no dimensions and one of no elements, an input."""
    torch.manual_seed(1)
    nn = torch.nn
    model = nn.Sequential(nn.Linear(2, 3), nn.Sigmoid(), nn.Linear(3, 1), nn.Sigmoid()).to(dtype)
    extra = [torch.rand((), dtype=dtype), torch.empty(0, dtype=dtype)]
    for p in extra:
        p.requires_grad_().grad = torch.ones_like(p)
    x = torch.tensor([[0.1, 0.2], [0.3, 0.4], [0.5, 0.6]], dtype=dtype)
    return model, [*model.parameters(), *extra], x


def assert_train_alike(
    make: Callable[..., Any],
    other: Callable[..., Any],
    dtype: Any = torch.float64,
    **tolerance: Any,
) -> None:
    """Seven steps of both, with one without gradients and two with a layer frozen."""
    runs = []
    for constructor in (make, other):
        model, params, x = network(dtype)
        optimizer, seen = constructor(params), []
        for i in range(7):
            model.zero_grad()
            if i in (3, 5):
                model[2].requires_grad_(i == 5)
            if i != 2:
                model(x).sum().backward()
            optimizer.step()
            seen.append(deepcopy(([p.detach() for p in params], state_of(optimizer))))
        runs.append(seen)
    assert_same(*runs, **tolerance)


@pytest.mark.parametrize(("dtype", "rtol"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
@by_backend
@over(TORCHS)
def test_matches_torch(options: dict[str, Any], backend: str, dtype: Any, rtol: float) -> None:
    assert_train_alike(
        lambda params: RMSprop(params, backend=backend, **options),
        lambda params: torch.optim.RMSprop(params, foreach=False, **options),
        dtype,
        rtol=rtol,
        atol=rtol / 100,
    )


@over(TORCHS)
def test_capturable_matches_torch(options: dict[str, Any]) -> None:
    rate = torch.tensor(0.01, dtype=torch.float64)
    assert_train_alike(
        lambda params: RMSprop(params, **{**options, "lr": rate}, capturable=True),
        lambda params: torch.optim.RMSprop(params, **{**options, "lr": rate}, foreach=False),
    )


@over({name: INPUTS[name] for name in OURS})
def test_backends_match(options: dict[str, Any]) -> None:
    assert_train_alike(
        *[lambda params, by=by: RMSprop(params, backend=by, **options) for by in BACKENDS]
    )


@over({name: INPUTS[name] for name in ("default", "momentum", "all of ours", "dialect tf1")})
def test_mixed_dtypes(options: dict[str, Any]) -> None:
    """Backends agree for each parameter's dtype, and a parameter does not see its neighbours'."""
    dtypes = [torch.float64, torch.float32, torch.float16, torch.bfloat16]

    def run(chosen: list[Any], backend: str) -> list[Any]:
        torch.manual_seed(0)
        start, grads = torch.rand(2, 3, dtype=torch.float64), torch.randn(7, 2, 3)
        params = [start.to(dtype, copy=True).requires_grad_() for dtype in chosen]
        optimizer = RMSprop(params, backend=backend, **options)
        for grad in grads:
            for p in params:
                p.grad = grad.to(p.dtype)
            optimizer.step()
        return list(zip([p.detach() for p in params], state_of(optimizer), strict=True))

    together = run(dtypes, "numba")
    for dtype, numba, foreach in zip(dtypes, together, run(dtypes, "foreach"), strict=True):
        alone = run([dtype], "numba")[0]
        assert_same(numba, alone, 0.0, 0.0)
        # A half may be rounded to either side; its state is float32 and is not rounded to halves.
        assert_same(foreach[0], numba[0], rtol=2 * torch.finfo(dtype).eps, atol=1e-6)
        assert {x.dtype for x in numba[1].values()} <= {
            torch.float32,
            dtype if dtype.itemsize > 2 else torch.float32,
        }


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16], ids=str)
@by_backend
def test_default_dtype(backend: str, dtype: Any) -> None:
    """The number of steps is never counted in halves, in which 2,049 is not."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        assert_train_alike(
            lambda params: RMSprop(params, momentum=0.9, backend=backend),
            lambda params: torch.optim.RMSprop(params, momentum=0.9, foreach=False),
            check_dtype=False,
        )
        p = torch.ones(2, requires_grad=True)
        p.grad = torch.ones(2)
        optimizer = RMSprop([p], backend=backend)
        optimizer.step()
        assert optimizer.state[p]["step"].dtype in (torch.float32, torch.float64)
    finally:
        torch.set_default_dtype(before)


def test_default_backend() -> None:
    """On the CPU the default is numba; foreach=True asks for the other. Their last bits tell."""
    found = {}
    for name, asked in {
        "default": {}, "numba": {"backend": "numba"},
        "asked": {"foreach": True}, "foreach": {"backend": "foreach"},
    }.items():  # fmt: skip
        torch.manual_seed(0)
        p = torch.randn(10_000, requires_grad=True)
        optimizer = RMSprop([p], momentum=0.9, centered=True, **asked)
        for _ in range(3):
            p.grad = torch.randn(10_000)
            optimizer.step()
        found[name] = p.detach()
    assert found["default"].equal(found["numba"])
    assert found["asked"].equal(found["foreach"])
    assert not found["numba"].equal(found["foreach"])


# Steps that do nothing, and what is called around a step.


@over(FLAGGED)
def test_no_step_without_gradients(options: dict[str, Any]) -> None:
    problem = Regression()
    before = deepcopy(problem.params)
    optimizer = RMSprop(problem.params, **options)
    assert optimizer.step(lambda: torch.tensor([1.0])) == 1
    assert_same(problem.params, before, 0.0, 0.0)
    assert state_of(optimizer) == [{}, {}]


@over(FLAGGED)
def test_no_step_for_zero_gradients(options: dict[str, Any]) -> None:
    options = {**options, "weight_decay": 0.0}
    p = torch.randn(5, 1, dtype=torch.float64)
    before = p.clone()
    p.grad = torch.zeros_like(p)
    optimizer = RMSprop([p], **options)
    for _ in range(2):
        optimizer.step()
    assert_same(p, before, 0.0, 0.0)
    assert state_of(optimizer)[0]["step"] == 2


@over(FEW)
def test_step_hooks(options: dict[str, Any]) -> None:
    p = torch.ones(2)
    p.grad = torch.ones(2)
    optimizer, seen = RMSprop([p], **options), []

    def hook(of: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        assert of is optimizer
        seen.append(float(p[0]))

    handles = [optimizer.register_step_pre_hook(hook), optimizer.register_step_post_hook(hook)]
    optimizer.step()
    optimizer.step()
    for handle in handles:
        handle.remove()
    optimizer.step()
    assert len(seen) == 4
    assert seen[0] == 1 > seen[1] == seen[2] > seen[3] > p[0]


@over(FEW)
def test_step_hooks_of_all_optimizers(options: dict[str, Any]) -> None:
    def record(name: str) -> Callable[..., None]:
        return lambda *_: seen.append(name)

    seen: list[str] = []
    params = [torch.ones(2)]
    optimizers = [RMSprop(params, **options), torch.optim.SGD(params)]
    home = needs.package("torch.optim.optimizer")
    handles = [
        home.register_optimizer_step_pre_hook(record("all, before")),
        home.register_optimizer_step_post_hook(record("all, after")),
        *[by.register_step_pre_hook(record("before")) for by in optimizers],
        *[by.register_step_post_hook(record("after")) for by in optimizers],
    ]
    try:
        for by in optimizers:
            by.step()
        assert seen == ["all, before", "before", "after", "all, after"] * 2
    finally:
        for handle in handles:
            handle.remove()
    optimizers[0].step()
    assert len(seen) == 8


def test_meta_parameters() -> None:
    """Parameters without memory take steps that only make state, as in torch."""
    p = torch.nn.Parameter(torch.empty(2, 3, device="meta"))
    p.grad = torch.empty(2, 3, device="meta")
    optimizer = RMSprop([p], momentum=0.9, centered=True)
    optimizer.step()
    for name in ("square_avg", "momentum_buffer", "grad_avg"):
        assert optimizer.state[p][name].is_meta
        assert optimizer.state[p][name].shape == p.shape


@pytest.mark.parametrize(
    ("p", "options", "words"),
    [
        (torch.ones(2, 3, device="meta"), {}, "CPU"),
        (torch.ones(2, dtype=torch.complex64), {}, "complex64"),
        (torch.ones(2), {"differentiable": True}, "differentiated"),
        (torch.ones(2), {"capturable": True}, "CUDA graphs"),
    ],
    ids=lambda x: x if isinstance(x, str) else "",
)
def test_numba_refuses(p: Tensor, options: dict[str, Any], words: str) -> None:
    """Asked for by name, numba takes nothing else's place; "auto" steps it."""
    p.grad = torch.ones_like(p)
    with pytest.raises(RuntimeError, match=f"backend='numba'.*{words}.*'auto'"):
        RMSprop([p], backend="numba", **options).step()
    optimizer = RMSprop([p], **options)
    optimizer.step()
    assert optimizer.state[p]["step"] == 1
