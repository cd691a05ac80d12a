"""The settings of a training: flags or one TOML file, and the task and the rule that they name."""

import json
import tomllib
import types
import typing
from dataclasses import asdict, dataclass, is_dataclass, replace
from pathlib import Path
from typing import Any

from rmsprop import data
from rmsprop.entries import Entry, entry
from rmsprop.rule import Rule, near
from rmsprop.tasks import RECURRENT, Task, read_by, split_name
from rmsprop.user_code import find, load_module

# Learning rates at which the tasks of the README do well with the cosine schedule: where to begin, not a
# tuned choice, which `rmsprop compare` finds.
_LR = {"mlp": 0.003, "cnn": 0.001, "rnn": 0.003, "gru": 0.002, "lstm": 0.002}
_LR_OF = {"linear": 0.03}
_CLIP_NORM = 1.0
"""The default for recurrent networks, whose gradients can explode."""
_RECURRENT = "rmsprop:decay=0.99"
_STYLE = "rmsprop-torch:lr=0.01"
"""The default for pixels: `style.RULE`."""


@dataclass(frozen=True)
class Settings:
    """All that decides a training; None is the task's or the rule's own default.

    Attributes
    ----------
    task
        A name such as mnist-cnn or style, the path of data, or `path/to/file.py:make_task`.
    optimizer
        As in `entries.entry`: rmsprop-keras:momentum=0.9, adam; None is rmsprop as it suits the task.
    lr, clip_norm
        The learning rate, and the global norm that gradients are clipped to; 0 clips nothing.
    schedule, warm_up, steps, patience, seed
        As in `train.train`.
    network, framework, hidden, activation, embedding, pool, dropout, words, longest, batch_size, epochs, \
data_dir, split_seed
        As in `tasks.Task`.
    content, style, size, scales, features, weights, pooling, content_weight, style_weight, tv_weight, \
recolour, start
        As in `style.StyleTask`.
    """

    task: str
    optimizer: str | None = None
    lr: float | None = None
    schedule: str = "cosine"
    warm_up: int = 0
    clip_norm: float | None = None
    epochs: int | None = None
    steps: int | None = None
    batch_size: int | None = None
    patience: int | None = None
    seed: int = 0
    network: str | None = None
    framework: str | None = None
    hidden: tuple[int, ...] | None = None
    activation: str | None = None
    embedding: int | None = None
    pool: str | None = None
    dropout: float | None = None
    words: int | None = None
    longest: int | None = None
    data_dir: str | None = None
    split_seed: int | None = None
    content: str | None = None
    style: str | None = None
    size: int | None = None
    scales: int | None = None
    features: str | None = None
    weights: str | None = None
    pooling: str | None = None
    content_weight: float | None = None
    style_weight: float | None = None
    tv_weight: float | None = None
    recolour: bool | None = None
    start: str | None = None

    @property
    def is_style(self) -> bool:
        """Whether the task is a style transfer."""
        return self.task == "style"

    @property
    def is_own(self) -> bool:
        """Whether the task comes from the user's code."""
        file, colon, name = self.task.rpartition(":")
        return bool(colon and file and name.isidentifier())


TASK_FIELDS = (
    "network", "framework", "hidden", "activation", "embedding", "pool", "dropout", "words", "longest",
    "data_dir", "split_seed",
)  # fmt: skip
STYLE_FIELDS = (
    "content", "style", "size", "scales", "features", "weights", "pooling", "content_weight", "style_weight",
    "tv_weight", "recolour", "start",
)  # fmt: skip
_KINDS = typing.get_type_hints(Settings)


def read(path: str | Path) -> dict[str, Any]:
    """The settings in a TOML file, checked one by one.

    Raises
    ------
    FileNotFoundError
        Where it is not there.
    ValueError
        For what is not TOML, an unknown key (with the near one), or a value of another type.
    """
    path = Path(path)
    try:
        found = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise FileNotFoundError(f"There is no file {path}.") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not a TOML file: {error}") from error
    try:
        return {key: _checked(key, value) for key, value in found.items()}
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def to_toml(settings: Settings) -> str:
    """The TOML of these settings, without those that are None.

    Examples
    --------
    >>> print(to_toml(Settings("digits", lr=0.01, hidden=(32, 16))), end="")
    task = "digits"
    lr = 0.01
    schedule = "cosine"
    warm_up = 0
    seed = 0
    hidden = [32, 16]
    """
    # A string, number, list or truth value of JSON is one of TOML too, but for the delete character.
    return "".join(
        f"{name} = {json.dumps(value, ensure_ascii=False)}\n".replace("\x7f", "\\u007f")
        for name, value in asdict(settings).items()
        if value is not None
    )


def resolved(settings: Settings, task: Any, rule: Rule) -> Settings:
    """The settings with the defaults of the task and the rule written out, to repeat a run with.

    Examples
    --------
    >>> settings = Settings("xor")
    >>> task = make_task(settings)
    >>> resolved(settings, task, make_entry(settings, task).rule).epochs
    40
    """
    found: dict[str, Any] = {"lr": rule.lr, "clip_norm": rule.clip_global_norm or 0.0}
    if settings.is_style or settings.steps is None:
        found["epochs"] = task.epochs
    if settings.is_style:
        found |= {name: getattr(task, name) for name in STYLE_FIELDS}
        found |= {name: _absolute(found[name]) for name in ("content", "style", "weights")}
    else:
        found |= {"batch_size": task.batch_size, "task": _absolute(settings.task)}
        if not settings.is_own:
            found |= {name: getattr(task, name) for name in read_by(task.data, task.network)}
            found["data_dir"] = _absolute(found["data_dir"])
    optimizer = settings.optimizer or _suited(settings, task)
    return replace(settings, optimizer=optimizer, **found)


def _absolute(where: str | None) -> str | None:
    """A path that holds from any folder, with what follows a colon; a name as it is."""
    if where is None or split_name(where)[0] in data.NAMES:
        return where
    file, colon, name = where.rpartition(":") if ":" in where else (where, "", "")
    return f"{Path(file).resolve()}{colon}{name}" if Path(file).exists() else where


def _suited(settings: Settings, task: Any) -> str:
    """The optimizer where none is named."""
    if settings.is_style:
        return _STYLE
    return _RECURRENT if getattr(task, "network", "") in RECURRENT else "rmsprop"


def make_task(settings: Settings) -> Any:
    """The task that the settings name: a `Task`, a `StyleTask` or what the user's function returns.

    Raises
    ------
    ValueError
        For settings that the task does not have, and as the task; for user's code that fails.
    """
    given = {k: v for k, v in asdict(settings).items() if v is not None}
    pace = {k: given[k] for k in ("epochs", "batch_size") if k in given}
    if settings.is_style:
        from rmsprop.style import StyleTask

        _refuse(given, (*TASK_FIELDS, "batch_size", "patience"), "the task style")
        chosen: dict[str, Any] = {
            k: given[k] for k in (*STYLE_FIELDS, "epochs", "seed") if k in given
        }
        if "steps" in given:  # each epoch leaves a picture; the last may be shorter
            chosen["epochs"] = min(chosen.get("epochs", StyleTask.epochs), given["steps"])
            chosen["steps_per_epoch"] = -(-given["steps"] // chosen["epochs"])
        return StyleTask(**chosen)
    if "epochs" in given and "steps" in given:
        raise ValueError("give epochs or steps, not both")
    if settings.is_own:
        _refuse(given, (*TASK_FIELDS, *STYLE_FIELDS), settings.task)
        return _replaced(_own(settings.task), pace)
    _refuse(given, STYLE_FIELDS, settings.task)
    return Task.of(settings.task, **{k: given[k] for k in TASK_FIELDS if k in given} | pace)


def make_entry(settings: Settings, task: Any) -> Entry:
    """The optimizer that the settings name, with the learning rate and the clipping that suit the task."""
    found = entry(settings.optimizer or _suited(settings, task))
    network = getattr(task, "network", "mlp")
    fields: dict[str, Any] = {}
    if settings.lr is not None:
        fields["lr"] = settings.lr
    elif not found.fixed and found.is_rmsprop:
        fields["lr"] = _LR_OF.get(settings.task) or _LR[network]
    if settings.clip_norm is not None and settings.clip_norm < 0:
        raise ValueError(f"clip_norm must be 0 (clip nothing) or more; got {settings.clip_norm}")
    rule = found.rule
    clips = rule.clip_value or rule.clip_norm or rule.clip_global_norm
    if settings.clip_norm is not None:
        fields["clip_global_norm"] = settings.clip_norm or None
    elif network in RECURRENT and not clips:
        fields["clip_global_norm"] = _CLIP_NORM
    return Entry(found.label, found.rule.replace(**fields), True)


def _own(where: str) -> Any:
    """What the user's function returns, if it can be trained."""
    file, _, name = where.rpartition(":")
    function = find(load_module(file), name, " that returns a task")
    try:
        task = function()
    except Exception as error:  # whatever the user's code raises
        raise ValueError(f"{where} raises {type(error).__name__}: {error}") from error
    needed = ("name", "epochs", "batch_size", "steps_per_epoch", "metric", "to_dict", "learner")
    missing = [n for n in needed if not hasattr(task, n)]
    if missing:
        raise ValueError(
            f"{where} must return a task, as rmsprop.tasks.OwnTask; it returned a "
            f"{type(task).__name__}, which has no {', '.join(missing)}"
        )
    return task


def _replaced(task: Any, changes: dict[str, Any]) -> Any:
    """A task like the user's, with other epochs or batch size."""
    changes = {k: v for k, v in changes.items() if v != getattr(task, k)}
    if changes and not is_dataclass(task):
        raise ValueError(
            f"{', '.join(changes)} can be set only of a task that is a dataclass, as OwnTask"
        )
    return replace(task, **changes) if changes else task  # type: ignore[type-var]


def _refuse(given: dict[str, Any], names: tuple[str, ...], what: str) -> None:
    """Refuse settings that would do nothing."""
    found = [name for name in names if name in given]
    if found:
        raise ValueError(f"{what} does not take {', '.join(found)}")


def _checked(key: str, value: Any) -> Any:
    """The value of a key, of the type that it must have."""
    if key not in _KINDS:
        raise ValueError(f"no setting is named {key!r}{near(key, _KINDS)}")
    kinds = [kind for kind in _alternatives(_KINDS[key]) if kind is not type(None)]
    kind = kinds[0]
    if kind is float and type(value) is int:
        return float(value)
    if typing.get_origin(kind) is tuple:
        if isinstance(value, list) and all(type(v) is int for v in value):
            return tuple(value)
    elif type(value) is kind:
        return value
    wanted = {
        str: "text in quotes",
        int: "a whole number",
        float: "a number",
        bool: "true or false",
    }
    raise ValueError(f"{key} must be {wanted.get(kind, 'a list of whole numbers')}; got {value!r}")


def _alternatives(kind: Any) -> tuple[Any, ...]:
    return typing.get_args(kind) if isinstance(kind, types.UnionType) else (kind,)
