"""What the page of a search says in words, its winner as lines of Python, and what JSON can hold."""

import math
from typing import Any

from rmsprop import statistics
from rmsprop.plots_scales import dimension_of, words
from rmsprop.plots_search import state_of
from rmsprop.space import Range
from rmsprop.verdict import Unit

Study = dict[str, Any]


def finite(x: Any) -> Any:
    """The same with None for each number that is not finite, as JSON has no word for them.

    Examples
    --------
    >>> finite({"a": [1.0, float("nan")], "b": (True, float("inf"))})
    {'a': [1.0, None], 'b': [True, None]}
    """
    if isinstance(x, dict):
        return {key: finite(value) for key, value in x.items()}
    if isinstance(x, list | tuple):
        return [finite(value) for value in x]
    return None if isinstance(x, float) and not math.isfinite(x) else x


def value(study: Study, x: float | None) -> str:
    """A trial's value for people: an accuracy in per cent, an R^2 in four places, else 4 digits."""
    if x is None:
        return ""
    return f"{x:.4g}" if study["task"] is None else Unit(study["task"]["kind"]).score(x)


def caveats(study: Study) -> list[str]:
    """What the figures do not say."""
    settings, trials = study["settings"], study["trials"]
    found = []
    winner = study["winner"]
    if winner is not None and winner["chosen_by"] == "final runs":
        found.append(
            f"A trial is {_runs(settings['search_seeds'])}. The best of many is flattered by chance, so the "
            f"finalists were run anew with {settings['seeds']} other seeds, which chose the winner."
        )
    elif study["finalists"]:
        found.append(
            "Every finalist failed in some final run: the winner is the best trial, which is flattered by "
            "chance."
        )
    else:
        found.append(
            "There were no final runs: the best of many trials is flattered by chance, and would do worse "
            "with another seed."
        )
    if study["task"] is not None:
        found.append(
            "The winner is chosen on the validation split. The test split is looked at by the final runs "
            "only, and chooses nothing."
        )
    elif study["finalists"]:
        found.append(
            "The winner is chosen by its final runs, so that its mean and interval are a little too good; "
            "config['seed'] is what they differ by, if the function reads it."
        )
    pruned = sum(state_of(t) == "pruned" for t in trials)
    diverged = sum(state_of(t) == "diverged" for t in trials)
    if pruned:
        found.append(
            f"{pruned} of {len(trials)} trials were pruned: at a report they did worse than three quarters "
            "of those before them. One that begins slowly and ends well is lost so."
        )
    if diverged:
        found.append(f"{diverged} of {len(trials)} trials diverged, and count as worse than all.")
    if study["importance"]:
        found.append(
            "Importance (fANOVA) is of the region that was sampled, and of the trials that ended: a number "
            "that was searched in a narrow range looks unimportant, and so does one whose bad values "
            "were pruned."
        )
    if study["splits"] and settings["splits"]:
        found.append(
            "Splits of one data set overlap in their rows, so that intervals over them are narrower than "
            "over new data. The best is chosen on the splits by which it is compared with the others, one by "
            "one: of so many intervals some exclude 0 by chance."
        )
        found.append(
            "Run k of the finalists has seed = k and split_seed = k: winner.toml is run 0 of the winner's."
        )
    edges = _edges(study)
    if edges:
        found.append(
            f"The winner lies at the end of the range of {' and '.join(edges)}: a wider one may do better."
        )
    return found


def _runs(count: int) -> str:
    return "one run" if count == 1 else f"the mean of {count} runs, each with a seed of its own"


def _edges(study: Study) -> list[str]:
    """Ranges of which the winner has nearly an end: within a hundredth of their length."""
    config = study["winner"]["config"] if study["winner"] else {}
    dimensions = [dimension_of(d) for d in study["space"]]
    return [
        d.name
        for d in dimensions
        if isinstance(d, Range) and config and not 0.01 < d.place(config[d.name]) < 0.99
    ]


def single_split(study: Study) -> list[str]:
    """In sentences, what one split of the data (or one seed) alone would have concluded, and how wrongly.

    Parameters
    ----------
    study
        From `search.tune`, whose trials are the mean of several seeds: its "splits" is not None.
    """
    found, one = study["splits"], "split" if study["settings"]["splits"] else "seed"
    seeds, rows = found["seeds"], found["rows"]
    best = next(t for t in study["ranking"] if t["number"] == rows[0]["number"])
    tied = sum(not statistics.excludes_zero(row["behind"]) for row in rows[1:])
    named = [f"trial {number} in {times}" for number, times in found["named"].items()]
    others = seeds - found["same"] - found["ties"]
    texts = [
        f"Over {seeds} {one}s the best is trial {best['number']} ({words(best['config'])}). One {one} alone "
        f"names it in {found['same']} of {seeds} cases, another in {others}"
        f"{' and several that tie in ' + str(found['ties']) if found['ties'] else ''}"
        f"{': ' + ', '.join(named) if named else ''}.",
        f"Where each trial is scored with a {one} of its own, as by who draws it anew for each, the best of "
        f"all comes first with a chance of {_percent(found['alone'])}; a blind draw among {len(rows)} names "
        f"it with {_percent(1 / len(rows))}.",
    ]
    if tied:
        texts.append(
            f"{tied} of the other {len(rows) - 1} cannot be told apart from it by {seeds} {one}s: "
            "that it is better than these, as a ranking says, is not shown."
        )
    else:
        texts.append(f"All others are behind it by more than chance, over {seeds} {one}s.")
    return texts


def _percent(x: float) -> str:
    return f"{100 * x:.0f}%"


def numpy_lines(study: Study) -> str:
    """Lines of Python that make the winner's optimizer for arrays."""
    rule, name = study["winner"]["python"], study["settings"]["schedule"]
    lead = "from rmsprop import Rule\nfrom rmsprop.numpy import Optimizer\n"
    if name == "constant":
        return f"{lead}\noptimizer = Optimizer({rule})"
    return (
        f"{lead}from rmsprop.schedules import named\n\n"
        f"{_steps_line(study)}\n"
        f"rule = {rule}\n"
        f'optimizer = Optimizer(rule, named("{name}", rule.lr, steps))'
    )


def torch_lines(study: Study) -> str:
    """Lines of Python that make the winner's optimizer for the parameters of a `model`."""
    rule, name = study["winner"]["python"], study["settings"]["schedule"]
    made = f"optimizer = from_rule(model.parameters(), {rule})"
    lead = "from rmsprop import Rule\n"
    if name == "constant":
        return f"{lead}from rmsprop.torch import from_rule\n\n{made}"
    return (
        "from torch.optim.lr_scheduler import LambdaLR\n\n"
        f"{lead}from rmsprop.schedules import named\nfrom rmsprop.torch import from_rule\n\n"
        f"{_steps_line(study)}\n{made}\n"
        f'scheduler = LambdaLR(optimizer, named("{name}", 1.0, steps))  # a step after each mini-batch'
    )


def steps_of(study: Study) -> int | None:
    """How many steps a run of the search had; None of a task of one's own that does not say it."""
    task = study["task"]
    if "epochs" not in task or "steps_per_epoch" not in task:
        return None
    return max(1, task["epochs"] * task["steps_per_epoch"])


def _steps_line(study: Study) -> str:
    steps = steps_of(study)
    if steps is None:
        return "steps = 1000  # put the length of your run here"
    return f"steps = {steps}  # those of the search: put the length of your run here"
