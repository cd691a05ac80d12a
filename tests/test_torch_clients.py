"""Real clients of torch.optim train with `rmsprop.torch.RMSprop`, given the class and nothing else.

Each runs offline, on a model and on data made on the spot: transformers' Trainer, Lightning, skorch,
stable-baselines3, and the loop of torch's own manual.  Where a client keeps the optimizer in a file, a
run that is resumed from it ends where an uninterrupted one does, bit for bit.  Where the same client
runs with the optimizer that ours replaces, the parameters agree up to rounding.

timm cannot be imported without torchvision: what its optimizer computes is written down here.
"""

import functools
import itertools
import os
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import needs
from cases import FLOAT64, assert_within, mixed_gradients

torch = needs.package("torch")
RMSprop = needs.package("rmsprop.torch").RMSprop

pytestmark = pytest.mark.long

Array = np.ndarray[Any, Any]
Options = dict[str, Any]

# What the clients' checkpoints have to bring back: every slot, in each kind of state.  eps lies above the
# gradients that are nothing but rounding, as that of a key's bias: over their own root they would be steps.
KEPT: dict[str, Options] = {
    "plain": {"lr": 5e-3, "eps": 1e-6},
    "all-slots": {
        "lr": 1e-3, "eps": 1e-6, "momentum": 0.9, "centered": True, "weight_decay": 0.01
    },
    "bfloat16": {"lr": 1e-3, "eps": 1e-6, "momentum": 0.9, "state_dtype": torch.bfloat16},
    "uint8": {
        "lr": 1e-3, "eps": 1e-6, "momentum": 0.9, "centered": True, "state_dtype": torch.uint8
    },
}  # fmt: skip
SAME = {name: options for name, options in KEPT.items() if "state_dtype" not in options}
"""Of these, the ones that torch.optim.RMSprop takes too."""

# How far two runs of some 20 steps may end apart.  Under autocast, a last digit can decide how a weight is
# rounded to bfloat16, which moves a gradient by up to 1/256 of itself.
CLOSE = {torch.float32: 1e-5, torch.bfloat16: 1e-3}

each_kept = pytest.mark.parametrize("options", KEPT.values(), ids=KEPT)
each_same = pytest.mark.parametrize("options", SAME.values(), ids=SAME)


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """On models this small, a second thread only waits: for seconds, where something else runs too."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def assert_equal(found: Any, expected: Any, atol: float = 0.0) -> None:
    """Two state_dicts of models hold the same numbers, up to `atol`."""
    assert found.keys() == expected.keys()
    for name, weight in expected.items():
        torch.testing.assert_close(
            found[name], weight, rtol=0.0, atol=atol, msg=lambda text, name=name: f"{name}: {text}"
        )


def assert_moved(found: Any, start: Any) -> None:
    assert all(not torch.equal(found[name], weight) for name, weight in start.items())


def assert_fell(losses: list[float], share: float = 0.95) -> None:
    """The last quarter of the losses lies under this share of the first."""
    quarter = len(losses) // 4
    assert np.isfinite(losses).all()
    assert np.mean(losses[-quarter:]) < share * np.mean(losses[:quarter]), losses


def assert_kept(optimizer: Any, options: Options) -> None:
    """It is ours, unwrapped, and what it keeps is of the dtype that was asked for."""
    assert type(optimizer) is RMSprop
    kept = [
        state.get("square_avg", state.get("square_avg_code")) for state in optimizer.state.values()
    ]
    dtypes = {t.dtype for t in kept}
    assert options.get("state_dtype", torch.float32) in dtypes


def mlp(seed: int) -> Any:
    """64 features, 10 classes; the first layer has the 4,096 weights from which on uint8 is kept."""
    torch.manual_seed(seed)
    return torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 10))


def labelled(rows: int = 64) -> Any:
    """A data set that a small net learns: the class is that of the nearest of a few centres."""
    noise = torch.Generator().manual_seed(0)
    centres = torch.randn(10, 64, generator=noise)
    y = torch.arange(rows) % 10
    x = centres[y] + 2.0 * torch.randn(rows, 64, generator=noise)
    return torch.utils.data.TensorDataset(x, y)


class TestTransformers:
    """transformers.Trainer, on a GPT-2 of 2 layers and random tokens that it learns by heart."""

    STEPS = 12

    def train(
        self, folder: Path, optimizer: Any, options: Options, seed: int = 0, **more: Any
    ) -> Any:
        """A trainer that has trained; with `resume`, from this checkpoint."""
        transformers = needs.package("transformers")
        needs.package("accelerate")
        resume, steps = more.pop("resume", None), more.pop("max_steps", self.STEPS)
        transformers.set_seed(seed)
        sizes = {"vocab_size": 128, "n_positions": 8, "n_embd": 32, "n_layer": 2, "n_head": 2}
        config = transformers.GPT2Config(**sizes, bos_token_id=0, eos_token_id=0)
        tokens = torch.randint(128, (16, 8), generator=torch.Generator().manual_seed(1))
        trainer = transformers.Trainer(
            model=transformers.GPT2LMHeadModel(config),
            args=transformers.TrainingArguments(
                output_dir=str(folder), max_steps=steps, save_steps=self.STEPS // 2,
                per_device_train_batch_size=4, logging_steps=1, report_to="none", use_cpu=True,
                disable_tqdm=True, **more,
            ),
            train_dataset=[{"input_ids": row, "labels": row} for row in tokens],
            optimizer_cls_and_kwargs=(optimizer, dict(options)),
        )  # fmt: skip
        trainer.remove_callback(transformers.PrinterCallback)
        trainer.train(resume_from_checkpoint=resume)
        assert trainer.state.global_step == steps
        return trainer

    @staticmethod
    def losses(trainer: Any) -> list[float]:
        return [row["loss"] for row in trainer.state.log_history if "loss" in row]

    @each_kept
    def test_learns_and_resumes(self, tmp_path: Path, options: Options) -> None:
        whole = self.train(tmp_path / "whole", RMSprop, options)
        assert_kept(whole.optimizer.optimizer, options)
        assert_fell(self.losses(whole))
        half = tmp_path / "whole" / f"checkpoint-{self.STEPS // 2}"
        again = self.train(tmp_path / "again", RMSprop, options, seed=9, resume=str(half))
        assert_equal(again.model.state_dict(), whole.model.state_dict())

    @each_same
    def test_equals_torch(self, tmp_path: Path, options: Options) -> None:
        ours = self.train(tmp_path / "ours", RMSprop, options)
        theirs = self.train(tmp_path / "theirs", torch.optim.RMSprop, options)
        assert_equal(ours.model.state_dict(), theirs.model.state_dict(), atol=CLOSE[torch.float32])

    @pytest.mark.parametrize("first", ["torch's", "ours"])
    def test_takes_over_the_checkpoint(self, tmp_path: Path, first: str) -> None:
        """A run that one of the two began, the other ends, as if it had been there from the start."""
        both, options = [torch.optim.RMSprop, RMSprop], SAME["all-slots"]
        begins, ends = both if first == "torch's" else both[::-1]
        whole = self.train(tmp_path / "whole", begins, options)
        half = tmp_path / "whole" / f"checkpoint-{self.STEPS // 2}"
        again = self.train(tmp_path / "again", ends, options, resume=str(half))
        assert type(again.optimizer.optimizer) is ends
        assert_equal(again.model.state_dict(), whole.model.state_dict(), atol=CLOSE[torch.float32])

    def test_autocast(self, tmp_path: Path) -> None:
        """bf16=True: the products are taken in bfloat16, the weights and the state are float32."""
        options = SAME["all-slots"]
        plain = self.train(tmp_path / "plain", RMSprop, options)
        mixed = self.train(tmp_path / "mixed", RMSprop, options, bf16=True)
        assert self.losses(mixed) != self.losses(plain)
        assert_fell(self.losses(mixed))
        state = mixed.optimizer.optimizer.state
        assert {s["square_avg"].dtype for s in state.values()} == {torch.float32}

    @each_same
    def test_autocast_equals_torch(self, tmp_path: Path, options: Options) -> None:
        """One step only: from the second on, a key's bias follows what is rounded, not what is learned."""
        ours, theirs = (
            self.train(tmp_path / kind.__module__, kind, options, bf16=True, max_steps=1)
            for kind in (RMSprop, torch.optim.RMSprop)
        )
        assert_equal(ours.model.state_dict(), theirs.model.state_dict(), atol=1e-6)


@pytest.mark.filterwarnings("ignore:.isinstance.treespec, LeafSpec.. is deprecated:FutureWarning")
@pytest.mark.filterwarnings("ignore:The '.*dataloader' does not have many workers")
class TestLightning:
    """lightning.Trainer: a schedule that moves lr and momentum, accumulated and clipped gradients."""

    EPOCHS = 4

    def train(
        self, folder: Path, optimizer: Any, options: Options, seed: int = 0, **more: Any
    ) -> Any:
        """The module and its losses; with `resume`, from this checkpoint."""
        lightning = needs.package("lightning")
        resume, epochs = more.pop("resume", None), self.EPOCHS

        class Module(lightning.LightningModule):
            def __init__(self) -> None:
                super().__init__()
                self.net, self.losses = mlp(seed), []

            def training_step(self, batch: Any) -> Any:
                loss = torch.nn.functional.cross_entropy(self.net(batch[0]), batch[1])
                self.losses.append(loss.item())
                return loss

            def configure_optimizers(self) -> Any:
                self.mine = optimizer(self.parameters(), **options)
                schedule = torch.optim.lr_scheduler.OneCycleLR(
                    self.mine, 3e-3, total_steps=4 * epochs, cycle_momentum="momentum" in options
                )
                return [self.mine], [{"scheduler": schedule, "interval": "step"}]

        module = Module()
        trainer = lightning.Trainer(
            accelerator="cpu", max_epochs=epochs, default_root_dir=folder, logger=False,
            enable_progress_bar=False, enable_model_summary=False, accumulate_grad_batches=2,
            gradient_clip_val=0.5,
            callbacks=[lightning.pytorch.callbacks.ModelCheckpoint(
                folder, filename="{epoch}", save_top_k=-1
            )],
            **more,
        )  # fmt: skip
        batches = torch.utils.data.DataLoader(labelled(), batch_size=8)
        trainer.fit(module, batches, ckpt_path=resume)
        assert trainer.global_step == 4 * epochs
        return module

    @pytest.mark.filterwarnings("ignore:The dirpath has changed from")
    @each_kept
    def test_learns_and_resumes(self, tmp_path: Path, options: Options) -> None:
        whole = self.train(tmp_path / "whole", RMSprop, options)
        assert_kept(whole.mine, options)
        assert_fell(whole.losses)
        half = tmp_path / "whole" / f"epoch={self.EPOCHS // 2 - 1}.ckpt"
        again = self.train(tmp_path / "again", RMSprop, options, seed=9, resume=half)
        assert len(again.losses) == len(whole.losses) // 2
        assert_equal(again.state_dict(), whole.state_dict())

    @each_same
    @pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
    def test_equals_torch(self, tmp_path: Path, options: Options, precision: str) -> None:
        ours, theirs = (
            self.train(tmp_path / kind.__module__, kind, options, precision=precision)
            for kind in (RMSprop, torch.optim.RMSprop)
        )
        assert_moved(ours.net.state_dict(), mlp(0).state_dict())
        dtype = torch.float32 if precision == "32-true" else torch.bfloat16
        assert_equal(ours.state_dict(), theirs.state_dict(), atol=CLOSE[dtype])


class TestSkorch:
    """skorch.NeuralNetClassifier, on scikit-learn's digits."""

    @staticmethod
    def digits() -> tuple[Array, Array]:
        x, y = needs.package("sklearn.datasets").load_digits(return_X_y=True)
        return (x[:400] / 16).astype(np.float32), y[:400].astype(np.int64)

    @staticmethod
    def net(optimizer: Any, options: Options, seed: int = 0) -> Any:
        skorch = needs.package("skorch")
        return skorch.NeuralNetClassifier(
            mlp(seed), criterion=torch.nn.CrossEntropyLoss, optimizer=optimizer, max_epochs=4,
            train_split=None, batch_size=50, verbose=0,
            **{f"optimizer__{name}": value for name, value in options.items()},
        )  # fmt: skip

    @each_kept
    def test_learns_and_resumes(self, tmp_path: Path, options: Options) -> None:
        x, y = self.digits()
        net = self.net(RMSprop, options).fit(x, y)
        assert_kept(net.optimizer_, options)
        assert net.score(x, y) > 0.7
        files = {f"f_{part}": tmp_path / part for part in ("params", "optimizer", "history")}
        net.save_params(**files)

        again = self.net(RMSprop, options, seed=9).initialize()
        again.load_params(**files)
        for each in (net, again):
            each.partial_fit(x, y)
        assert len(again.history) == 8
        assert_equal(again.module_.state_dict(), net.module_.state_dict())

        fresh = self.net(RMSprop, options, seed=9).initialize()
        fresh.load_params(f_params=files["f_params"])
        fresh.partial_fit(x, y)
        with pytest.raises(AssertionError, match="Tensor-likes are not equal"):
            assert_equal(fresh.module_.state_dict(), net.module_.state_dict())

    @each_same
    def test_equals_torch(self, options: Options) -> None:
        x, y = self.digits()
        ours, theirs = (self.net(o, options).fit(x, y) for o in (RMSprop, torch.optim.RMSprop))
        assert_equal(
            ours.module_.state_dict(), theirs.module_.state_dict(), atol=CLOSE[torch.float32]
        )

    def test_settings_of_a_search(self) -> None:
        """What scikit-learn sets by name reaches the optimizer of the next fit."""
        x, y = self.digits()
        net = needs.package("sklearn.base").clone(self.net(RMSprop, {"lr": 1e-3}))
        net.set_params(optimizer__momentum=0.5, optimizer__dialect="timm").fit(x, y)
        (group,) = net.optimizer_.param_groups
        assert (group["momentum"], group["eps"], group["lr_in_momentum"]) == (0.5, 1e-10, True)

    def test_momentum_raised_between_fits(self) -> None:
        """On a net that is trained, set_params writes into the groups: here it asks for a new buffer."""
        x, y = self.digits()
        net = self.net(RMSprop, {"lr": 1e-3}).fit(x, y)
        before = net.history[-1, "train_loss"]
        net.set_params(optimizer__momentum=0.5).partial_fit(x, y)
        assert all("momentum_buffer" in state for state in net.optimizer_.state.values())
        assert net.history[-1, "train_loss"] < before


A2C_SETTINGS: Options = {"alpha": 0.99, "eps": 1e-5, "weight_decay": 0}
"""What A2C gives its optimizer when the user gives none."""


class TestStableBaselines:
    """stable-baselines3's A2C on CartPole.

    Its RMSpropTFLike rounds in another order than ours does: after 120 updates, weights of up to 1 are within
    1e-7 of each other, a unit or two in the last place of a float32, and 1e-6 is allowed.  An action is
    drawn by comparing a probability with a random number: all of them are the same.
    """

    @staticmethod
    def a2c(policy: Options | None, **more: Any) -> Any:
        sb3 = needs.package("stable_baselines3")
        return sb3.A2C(
            "MlpPolicy", "CartPole-v1", seed=0, device="cpu", policy_kwargs=policy, **more
        )

    @staticmethod
    def actions(model: Any, steps: int, seed: int = 0) -> list[int]:
        """What the model did while it learned; every random number follows from the seed."""
        callbacks, done = needs.package("stable_baselines3.common.callbacks"), []

        class Watch(callbacks.BaseCallback):
            def _on_step(self) -> bool:
                done.append(int(self.locals["actions"][0]))
                return True

        model.set_random_seed(seed)
        model.learn(steps, callback=Watch(), reset_num_timesteps=False)
        assert len(done) == steps
        return done

    @pytest.mark.parametrize(
        "more", [{}, {"momentum": 0.5, "centered": True}], ids=["plain", "all"]
    )
    def test_equals_rmsprop_tf_like(self, more: Options) -> None:
        theirs = needs.package("stable_baselines3.common.sb2_compat.rmsprop_tf_like").RMSpropTFLike
        options = A2C_SETTINGS | more
        old = self.a2c({"optimizer_class": theirs, "optimizer_kwargs": options})
        options = {"dialect": "sb3", **options}
        new = self.a2c(
            {"optimizer_class": RMSprop, "optimizer_kwargs": options}, use_rms_prop=False
        )
        assert (type(old.policy.optimizer), type(new.policy.optimizer)) == (theirs, RMSprop)
        start = {name: x.clone() for name, x in new.policy.state_dict().items()}
        assert self.actions(new, 600) == self.actions(old, 600)
        assert_moved(new.policy.state_dict(), start)
        assert_equal(new.policy.state_dict(), old.policy.state_dict(), atol=1e-6)

    def test_equals_the_default(self) -> None:
        """With use_rms_prop=True and no class of one's own, A2C takes torch.optim.RMSprop."""
        old = self.a2c(None, use_rms_prop=True)
        assert type(old.policy.optimizer) is torch.optim.RMSprop
        new = self.a2c({"optimizer_class": RMSprop, "optimizer_kwargs": A2C_SETTINGS})
        assert self.actions(new, 600) == self.actions(old, 600)
        assert_equal(new.policy.state_dict(), old.policy.state_dict(), atol=CLOSE[torch.float32])

    @pytest.mark.parametrize(
        "more", [{}, {"momentum": 0.5, "state_dtype": torch.uint8}], ids=["plain", "uint8"]
    )
    def test_a_saved_model_goes_on(self, tmp_path: Path, more: Options) -> None:
        options = {"dialect": "sb3", **A2C_SETTINGS, **more}
        model = self.a2c({"optimizer_class": RMSprop, "optimizer_kwargs": options})
        self.actions(model, 300)
        model.save(tmp_path / "model.zip")
        loaded = type(model).load(tmp_path / "model.zip", device="cpu")
        assert_kept(loaded.policy.optimizer, options)
        new_env = needs.package("gymnasium").make
        done = []
        for each in (model, loaded):  # neither environments nor random numbers are in the file
            each.set_env(each._wrap_env(new_env("CartPole-v1"), verbose=0))
            done.append(self.actions(each, 200, seed=1))
        assert done[0] == done[1]
        assert_equal(loaded.policy.state_dict(), model.policy.state_dict())


class TimmRMSpropTF(torch.optim.Optimizer):
    """What timm.optim.RMSpropTF of timm 1.0.31 computes: timm/optim/rmsprop_tf.py, one tensor at a time."""

    def __init__(self, params: Any, lr: float = 1e-2, **options: Any) -> None:
        numbers = {"alpha": 0.9, "eps": 1e-10, "weight_decay": 0.0, "momentum": 0.0}
        switches = {"centered": False, "decoupled_decay": False, "lr_in_momentum": True}
        super().__init__(params, {"lr": lr, **numbers, **switches, **options})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        for group in self.param_groups:
            lr, rest = group["lr"], 1.0 - group["alpha"]
            for p in group["params"]:
                state, g = self.state[p], p.grad
                v = state.setdefault("square_avg", torch.ones_like(p))
                if group["decoupled_decay"]:
                    p.mul_(1.0 - lr * group["weight_decay"])
                else:
                    g = g + group["weight_decay"] * p
                v.add_(g.square() - v, alpha=rest)
                spread = v
                if group["centered"]:
                    m = state.setdefault("grad_avg", torch.zeros_like(p))
                    m.add_(g - m, alpha=rest)
                    spread = v - m.square()
                root = (spread + group["eps"]).sqrt()
                if not group["momentum"]:
                    p.addcdiv_(g, root, value=-lr)
                    continue
                b = state.setdefault("momentum_buffer", torch.zeros_like(p))
                inside, outside = (lr, 1.0) if group["lr_in_momentum"] else (1.0, lr)
                b.mul_(group["momentum"]).addcdiv_(g, root, value=inside)
                p.sub_(b, alpha=outside)


def timm_cases() -> Iterator[Any]:
    decays = {"": (0.0, False), "-coupled": (0.01, False), "-decoupled": (0.01, True)}
    for mu, centered, (name, decay), inside in itertools.product(
        (0.0, 0.9), (False, True), decays.items(), (True, False)
    ):
        if mu or inside:  # without a buffer, lr stands nowhere else
            label = f"mu{mu:g}{'-centered' * centered}{name}{'' if inside else '-lr-outside'}"
            yield pytest.param({"momentum": mu, "centered": centered}, *decay, inside, id=label)


class TestFormulas:
    """Against the two optimizers themselves in float64: 1,000 steps, each with a learning rate of its own."""

    STEPS = 1_000

    def run(self, make: Callable[[Any], Any], scale: float) -> dict[str, Array]:
        """The parameters and the state after every step, [steps, ...]."""
        rng = np.random.default_rng(0)
        weight = torch.nn.Parameter(torch.tensor(rng.normal(0, 1, (4, 6))))
        grads = scale * mixed_gradients(self.STEPS, 24, FLOAT64.dtype).reshape(-1, 4, 6)
        optimizer, seen = make([weight]), {}
        for lr, g in zip(0.01 * rng.uniform(0.5, 1.5, self.STEPS), grads, strict=True):
            optimizer.param_groups[0]["lr"] = lr
            weight.grad = torch.tensor(g)
            optimizer.step()
            for name, value in {"p": weight.detach(), **optimizer.state[weight]}.items():
                if name != "step":
                    seen.setdefault(name, []).append(value.numpy().copy())
        return {name: np.stack(rows) for name, rows in seen.items()}

    def assert_follow(
        self, ours: Callable[..., Any], theirs: Callable[[Any], Any], coupled: bool
    ) -> None:
        """Both backends, at every step within 1e-12 of the largest value so far.

        A parameter whose gradient is little but its own decay, divided by its own root mean square, jumps
        about zero by a whole learning rate: chaos, in which no two roundings stay together.  Gradients of a
        run with a coupled decay are therefore large, 1e-2 to 1e7 in place of 1e-6 to 1e3.
        """
        scale = 1e4 if coupled else 1.0
        expected = self.run(theirs, scale)
        for backend in ("numba", "foreach"):
            found = self.run(functools.partial(ours, backend=backend), scale)
            assert found.keys() == expected.keys()
            for name, rows in expected.items():
                assert found[name].dtype == np.float64
                allowed = FLOAT64.rtol * np.maximum.accumulate(np.abs(rows), axis=0)
                what = f"{backend}: {name}[step, row, column]"
                assert_within(found[name], rows, allowed, what)

    @pytest.mark.parametrize("weight_decay", [0.0, 0.01])
    @pytest.mark.parametrize("centered", [False, True])
    @pytest.mark.parametrize("momentum", [0.0, 0.9])
    def test_sb3(self, momentum: float, centered: bool, weight_decay: float) -> None:
        theirs = needs.package("stable_baselines3.common.sb2_compat.rmsprop_tf_like").RMSpropTFLike
        options = {"momentum": momentum, "centered": centered, "weight_decay": weight_decay}
        self.assert_follow(
            functools.partial(RMSprop, dialect="sb3", **options),
            functools.partial(theirs, **options),
            coupled=bool(weight_decay),
        )

    @pytest.mark.parametrize(("options", "decay", "decoupled", "inside"), list(timm_cases()))
    def test_timm(self, options: Options, decay: float, decoupled: bool, inside: bool) -> None:
        options = {"weight_decay": decay, **options}

        def ours(params: Any, backend: str) -> Any:
            # The dialect sets lr_in_momentum; a group may set it otherwise, as timm's keyword does.
            group = {"params": params} | ({} if inside else {"lr_in_momentum": False})
            return RMSprop(
                [group],
                dialect="timm",
                decoupled_weight_decay=decoupled,
                backend=backend,
                **options,
            )

        def theirs(params: Any) -> Any:
            return TimmRMSpropTF(
                params, decoupled_decay=decoupled, lr_in_momentum=inside, **options
            )

        self.assert_follow(ours, theirs, coupled=bool(decay) and not decoupled)


class TestLoop:
    """The loop of torch's manual: a DataLoader, autocast to bfloat16, and a GradScaler, on the CPU."""

    @staticmethod
    def train(
        optimizer: Any, options: Options, clip: bool = True, spoiled: int | None = None
    ) -> tuple[Any, ...]:
        """The model, its optimizer and its losses; the batch of this number holds an infinity."""
        model = mlp(0)
        tuned = optimizer(model.parameters(), **options)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(tuned, 5)
        scaler = torch.amp.GradScaler("cpu")
        order = torch.Generator().manual_seed(0)
        loader = torch.utils.data.DataLoader(labelled(), 16, shuffle=True, generator=order)
        losses: list[float] = []
        for _ in range(5):
            for x, y in loader:
                before = pickle.dumps((model.state_dict(), tuned.state_dict()))
                with torch.autocast("cpu", torch.bfloat16):
                    loss = torch.nn.functional.cross_entropy(model(x), y)
                if len(losses) == spoiled:
                    loss = loss * torch.inf
                tuned.zero_grad()
                scaler.scale(loss).backward()
                if clip:
                    scaler.unscale_(tuned)
                    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                scaler.step(tuned)
                scaler.update()
                after = pickle.dumps((model.state_dict(), tuned.state_dict()))
                assert (after == before) == (len(losses) == spoiled)
                losses.append(loss.item())
            schedule.step()
        assert scaler.get_scale() == 2.0**16 * (1 if spoiled is None else 0.5)
        return model, tuned, losses

    @each_kept
    def test_learns(self, options: Options) -> None:
        _, optimizer, losses = self.train(RMSprop, options)
        assert_kept(optimizer, options)
        assert_fell(losses)

    @each_same
    @pytest.mark.parametrize("spoiled", [None, 6])
    @pytest.mark.parametrize("clip", [False, True])
    @pytest.mark.filterwarnings("ignore:Detected call of .lr_scheduler")
    def test_equals_torch(self, options: Options, clip: bool, spoiled: int | None) -> None:
        """A step whose gradients overflowed is left out, by both."""
        ours, mine, losses = self.train(RMSprop, options, clip, spoiled)
        theirs, other, _ = self.train(torch.optim.RMSprop, options, clip, spoiled)
        steps = {float(state["step"]) for state in mine.state.values()}
        assert steps == {len(losses) - (spoiled is not None)}
        assert steps == {float(state["step"]) for state in other.state.values()}
        assert_equal(ours.state_dict(), theirs.state_dict(), atol=CLOSE[torch.bfloat16])

    def test_threads_stay_as_they_are(self) -> None:
        """Numba, when its own threads start, sets the number that torch.set_num_threads had set."""
        script = """if True:
            import torch
            from rmsprop.torch import RMSprop

            torch.set_num_threads(1)
            weight = torch.nn.Parameter(torch.ones(1_000_000))
            weight.sum().backward()
            RMSprop([weight], backend="numba").step()
            assert torch.get_num_threads() == 1, torch.get_num_threads()
        """
        settings = {**os.environ, "NUMBA_NUM_THREADS": "2"}
        done = subprocess.run(
            [sys.executable, "-c", script],
            env=settings,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr
