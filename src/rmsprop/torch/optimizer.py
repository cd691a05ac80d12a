"""The PyTorch optimizers: `RMSprop`, and any rule as `RuleOptimizer`."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from rmsprop.rule import Rule
from rmsprop.torch import groups, memory
from rmsprop.torch.plan import Plan, norms

PLANS = 8
"""How many plans are kept beside one for each group."""


def _step(optimizer: "RuleOptimizer", closure: Callable[[], Any] | None) -> Any:
    loss = None
    if closure is not None:
        with torch.enable_grad():
            loss = closure()
    with torch.no_grad():
        optimizer._forget_if_replaced()
        joint, before = optimizer._joint_norm(), 0
        for k, group in enumerate(optimizer.param_groups):
            optimizer._update(k, group, group["params"], before, joint)
            before += len(group["params"])
    return loss


def _untraced(optimizer: "RuleOptimizer", closure: Callable[[], Any] | None) -> Any:
    """Under `torch.compile`: what the kernels do to memory cannot be traced."""
    untraced: Any = torch.compiler.disable(_step)
    return untraced(optimizer, closure)


class RuleOptimizer(torch.optim.Optimizer):
    """A `rmsprop.Rule` as a `torch.optim.Optimizer`; `from_rule` makes one.

    Parameters
    ----------
    params
        Parameters, named parameters, or dicts with "params" and values of their own, as everywhere in
        `torch.optim`. Keys of a group: `lr`, `alpha` (the rule's decay) and the rule's other fields.
    rule
        The update.
    lr
        Learning rate, a number or a tensor of one element, in place of the rule's.
    state_dtype
        What `square_avg`, `grad_avg` and `momentum_buffer` are kept in: None, float32 (float64 for float64
        parameters); torch.float32; torch.bfloat16; or torch.uint8, one byte for `square_avg` and bfloat16
        for the others, for parameters of at least 4,096 elements. The last two are rounded stochastically.
    stochastic_rounding
        Round bfloat16 parameters stochastically, so that steps below half a unit in their last place are
        not lost. It takes the place of a float32 copy.
    seed
        What stochastic rounding draws from, with the step and the parameter's place: the same seed, the same
        bits.
    backend
        "numba" (CPU), "triton" (GPU), "foreach" (PyTorch's own operations, anywhere); "auto" takes the
        fastest that can serve each parameter.
    capturable, foreach, differentiable
        As in `torch.optim`; `foreach=True` is backend="foreach".
    fused
        As in `torch.optim.Adam`, under GradScaler: True leaves unscaling the gradients, and skipping the
        step where one overflowed, to the step itself, which saves a pass over them.

    Raises
    ------
    TypeError, ValueError
        For a value out of its range. RuntimeError at a step with a sparse gradient, or which a backend
        that was asked for by name cannot make.

    Examples
    --------
    >>> from rmsprop import Rule
    >>> weight = torch.nn.Parameter(torch.ones(2))
    >>> optimizer = RuleOptimizer([weight], Rule.from_dialect("adam", lr=0.1))
    >>> weight.square().sum().backward()
    >>> optimizer.step()
    >>> weight.data
    tensor([0.9000, 0.9000])
    """

    def __init__(
        self,
        params: ParamsT,
        rule: Rule,
        lr: float | Tensor | None = None,
        *,
        state_dtype: torch.dtype | None = None,
        stochastic_rounding: bool = False,
        seed: int = 0,
        backend: str = "auto",
        capturable: bool = False,
        foreach: bool | None = None,
        fused: bool | None = None,
        differentiable: bool = False,
    ):
        options = {
            "state_dtype": state_dtype,
            "stochastic_rounding": stochastic_rounding,
            "seed": seed,
            "backend": backend,
            "capturable": capturable,
            "foreach": foreach,
            "fused": fused,
            "differentiable": differentiable,
        }
        defaults = groups.of_rule(rule) | ({} if lr is None else {"lr": lr}) | options
        groups.check(defaults)
        self._plans: dict[Any, Plan] = {}
        self._entries: list[int] = []
        self._loading: dict[str, Any] | None = None
        super().__init__(params, defaults)

    @property
    def _step_supports_amp_scaling(self) -> bool:
        """What GradScaler asks before it hands over `grad_scale` and `found_inf`."""
        return bool(self.defaults["fused"])

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group, with its own values for what it names; raises as the class does."""
        super().add_param_group(param_group)
        try:
            groups.check(self.param_groups[-1])
        except (TypeError, ValueError):
            self.param_groups.pop()
            raise

    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        """Move every parameter that has a gradient one step, in place.

        Parameters
        ----------
        closure
            Evaluates the model again and returns the loss, which `step` then returns.
        """
        return (_untraced if torch.compiler.is_compiling() else _step)(self, closure)

    def _forget_if_replaced(self) -> None:
        """Plans know the dicts of the state; a user may have put others in their place."""
        if self._entries != list(map(id, self.state.values())):
            self._plans.clear()

    def _joint_norm(self) -> float | None:
        """Of the gradients of all groups whose rule clips by it."""
        clipped = [group["params"] for group in self.param_groups if group["clip_global_norm"]]
        grads = [p.grad for params in clipped for p in params if p.grad is not None]
        scale = getattr(self, "grad_scale", None)
        return float(np.hypot.reduce(norms(grads, scale))) if grads else None

    def _update(
        self,
        key: Any,
        group: dict[str, Any],
        params: list[Tensor],
        before: int,
        joint: float | None = None,
    ) -> None:
        """Step those of a group's parameters that have a gradient; `before` counts those ahead of them."""
        grads: list[Any] = [p.grad for p in params]
        rule = groups.rule_of(group)
        plan = self._plans.get(key)
        if plan is None or not plan.holds(rule, group, params, grads):
            places = [k for k, g in enumerate(grads) if g is not None]
            if len(places) < len(params):
                params = [params[k] for k in places]
                grads = [grads[k] for k in places]
                key = key, *places
            if not params:
                return
            plan = self._plans.get(key)
            if plan is None or not plan.holds(rule, group, params, grads):
                plan = self._plan(key, rule, group, params, grads, [before + k for k in places])
        scale, found_inf = getattr(self, "grad_scale", None), getattr(self, "found_inf", None)
        plan.step(groups.rate_of(group), grads, scale, found_inf, joint)

    def _plan(
        self,
        key: Any,
        rule: Rule,
        group: dict[str, Any],
        params: Any,
        grads: Any,
        places: list[int],
    ) -> Plan:
        """A new plan; a few are kept, for gradients that come and go."""
        groups.check(group)
        self._plans.pop(key, None)
        while len(self._plans) >= self._most_plans():
            del self._plans[next(iter(self._plans))]
        seeds = [group["seed"] * 1_000_003 + place for place in places]
        entries = self._start(group, params)
        self._plans[key] = Plan(rule, group, params, grads, entries, seeds)
        self._entries = list(map(id, self.state.values()))
        return self._plans[key]

    def _most_plans(self) -> int:
        return PLANS + len(self.param_groups)

    def _start(self, group: dict[str, Any], params: list[Tensor]) -> list[memory.Entry]:
        """The state of these parameters, with all that the rule keeps."""
        rule, entries = groups.rule_of(group), [self.state[p] for p in params]
        for p, entry in zip(params, entries, strict=True):
            memory.start(entry, p, rule, group)
        return entries

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from what `state_dict` returned, or that of `torch.optim.RMSprop`.

        The groups take the saved values, as everywhere in `torch.optim`, but for `state_dtype` and `backend`;
        what the saved groups do not name stays as it is. State is brought to this optimizer's `state_dtype`,
        not to its parameter's dtype; where it has it already, it is loaded exactly.

        Raises
        ------
        ValueError
            For a state that means something else here, before anything has changed.
        RuntimeError
            For codes whose exponents are missing or of another layout.
        """
        # As the last of the hooks, it sees what the user's own have made of the state.
        last = self.register_load_state_dict_pre_hook(_fill)
        try:
            super().load_state_dict(state_dict)
        finally:
            last.remove()
            self._loading = None
        self._plans.clear()

    def __setstate__(self, state: dict[str, Any]) -> None:
        # Plans hold addresses: a copy, or a pickle, that kept them would step the original's memory.
        self._plans, self._entries = {}, []
        self._loading = getattr(self, "_loading", None)
        super().__setstate__(state)
        for group in self.param_groups:
            for key, value in (groups.of_rule(Rule()) | groups.OPTIONS).items():
                group.setdefault(key, self.defaults.get(key, value))
            for p in group["params"]:
                entry = self.state.get(p, {})
                if "step" in entry and not torch.is_tensor(entry["step"]):
                    entry["step"] = torch.tensor(
                        float(entry["step"]), dtype=torch.float32, device="cpu"
                    )
        if self._loading is not None:  # before the user's post-hooks
            self._restore(self._loading)

    @torch.no_grad()
    def _restore(self, state_dict: dict[str, Any]) -> None:
        """Undo what the base class has done to the state: it casts all of it to the parameters' dtype."""
        for saved, group in zip(state_dict["param_groups"], self.param_groups, strict=True):
            for key, p in zip(saved["params"], group["params"], strict=True):
                if key in state_dict["state"]:
                    state = state_dict["state"][key]
                    memory.restore(self.state[p], state, p, group["state_dtype"])


def _fill(optimizer: Any, state_dict: dict[str, Any]) -> dict[str, Any]:
    """The last hook before a state is loaded: check it, and keep it for `_restore`."""
    optimizer._loading = groups.filled(state_dict, optimizer.param_groups)
    return optimizer._loading


class RMSprop(RuleOptimizer):
    """RMSprop, in place of `torch.optim.RMSprop`: the same numbers and state, faster and smaller.

    ::

        v <- alpha*v + (1-alpha)*g^2
        p <- p - lr*g/(sqrt(v) + eps)

    and with momentum, centering and weight decay as `print(Rule.from_dialect(dialect, ...).equations())`
    shows them. The differences from `torch.optim.RMSprop`: the centered variance is kept at 0 where
    rounding makes it negative (there: NaN); momentum may be raised from 0 in the middle of a run (there:
    KeyError); the state of float16 and bfloat16 parameters is float32, and stays so when it is loaded.

    Parameters
    ----------
    params
        Parameters, named parameters, or dicts with "params" and values of their own.
    lr, alpha, eps, weight_decay, momentum, centered
        As in `torch.optim.RMSprop`; None is the dialect's default, for torch .01, .99, 1e-8, 0, 0 and False.
        `lr` may be a tensor of one element.
    capturable, foreach, maximize, differentiable
        As in `torch.optim.RMSprop`. `foreach=True` takes PyTorch's own operations.
    dialect
        Whose RMSprop to be: "torch", "keras", "tf1", "optax", "timm", "sb3", "hinton", "graves".
    nesterov, bias_correction, decoupled_weight_decay
        Switches of `rmsprop.Rule`; None is the dialect's default.
    state_dtype, stochastic_rounding, seed, backend, fused
        As in `RuleOptimizer`.

    Raises
    ------
    TypeError, ValueError
        For a value out of its range.
    RuntimeError
        At a step with a sparse gradient, or that the backend asked for by name cannot make.

    Examples
    --------
    >>> model = torch.nn.Linear(3, 1)
    >>> optimizer = RMSprop(model.parameters(), lr=0.01, momentum=0.9, state_dtype=torch.bfloat16)
    >>> model(torch.ones(2, 3)).sum().backward()
    >>> optimizer.step()
    >>> optimizer.state[model.weight]["square_avg"].dtype
    torch.bfloat16

    References
    ----------
    Tieleman and Hinton, Lecture 6.5, COURSERA, 2012; torch.optim.RMSprop (PyTorch 2.13).
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor | None = None,
        alpha: float | None = None,
        eps: float | None = None,
        weight_decay: float | None = None,
        momentum: float | None = None,
        centered: bool | None = None,
        capturable: bool = False,
        foreach: bool | None = None,
        maximize: bool = False,
        differentiable: bool = False,
        *,
        dialect: str = "torch",
        nesterov: bool | None = None,
        bias_correction: bool | None = None,
        decoupled_weight_decay: bool | None = None,
        state_dtype: torch.dtype | None = None,
        stochastic_rounding: bool = False,
        seed: int = 0,
        backend: str = "auto",
        fused: bool | None = None,
    ):
        given = {
            "lr": 0.0 if isinstance(lr, Tensor) else lr,
            "decay": alpha,
            "eps": eps,
            "weight_decay": weight_decay,
            "momentum": momentum,
            "centered": centered,
            "maximize": maximize,
            "nesterov": nesterov,
            "bias_correction": bias_correction,
            "decoupled_weight_decay": decoupled_weight_decay,
        }
        rule = groups.in_torchs_words(dialect, given)
        super().__init__(
            params,
            rule,
            lr,
            state_dtype=state_dtype,
            stochastic_rounding=stochastic_rounding,
            seed=seed,
            backend=backend,
            capturable=capturable,
            foreach=foreach,
            fused=fused,
            differentiable=differentiable,
        )


def from_rule(
    params: ParamsT, rule: Rule, lr: float | Tensor | None = None, **options: Any
) -> RuleOptimizer:
    """An optimizer for any rule: RMSprop in any dialect, SGD, momentum, AdaGrad, Adam, AdamW.

    Parameters
    ----------
    params, rule, lr, **options
        As in `RuleOptimizer`.

    Examples
    --------
    >>> weight = torch.nn.Parameter(torch.ones(2))
    >>> from_rule([weight], Rule.from_dialect("momentum", lr=0.1)).param_groups[0]["momentum"]
    0.9
    """
    return RuleOptimizer(params, rule, lr, **options)
