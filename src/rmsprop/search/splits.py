"""What one seed, or one split of the data, alone would have said of a ranking."""

import math
from typing import Any

from rmsprop import statistics

Record = dict[str, Any]


def single_splits(order: list[Record]) -> Record | None:
    """What one seed (with its split) alone would have said, where each trial is the mean of several.

    Returns
    -------
    dict
        "seeds"; "rows": for each trial in the order of the ranking the "interval" of its scores and that of
        its paired "behind" the best; "same": in how many seeds the best of that seed alone is the best of
        all; "ties": in how many several share the best score; "alone": how often chance names the best where
        each trial is scored with a seed of its own, as where each is split anew; "named": the trials that
        single seeds name, without ties, with how many did.
    """
    whole = [t for t in order if len(t.get("scores") or ()) > 1]
    if len(whole) < 2:
        return None
    scores = [t["scores"] for t in whole]
    seeds = len(scores[0])
    rows = []
    for t in whole:
        behind = [a - b for a, b in zip(scores[0], t["scores"], strict=True)]
        rows.append(
            {
                "number": t["number"],
                "interval": statistics.interval(t["scores"]),
                "behind": statistics.interval(behind),
            }
        )
    named: dict[int, int] = {}
    ties = 0
    for k in range(seeds):
        highest = max(row[k] for row in scores)
        best = [t["number"] for t, row in zip(whole, scores, strict=True) if row[k] == highest]
        if len(best) > 1:
            ties += 1
        else:
            named[best[0]] = named.get(best[0], 0) + 1
    return {
        "seeds": seeds,
        "rows": rows,
        "same": named.get(whole[0]["number"], 0),
        "ties": ties,
        "alone": alone(scores),
        "named": dict(sorted(named.items(), key=lambda pair: -pair[1])),
    }


def alone(scores: list[list[float]]) -> float:
    """The chance that the first has the best score where each draws one of its own at random; ties shared.

    ::

        P = mean over its scores s of product over the others of P(theirs < s), ties broken evenly
    """
    first, others = scores[0], scores[1:]
    total = 0.0
    for s in first:
        # The polynomial of how many others tie with s, given that none is above.
        ties = [1.0]
        for other in others:
            below = sum(x < s for x in other) / len(other)
            same = sum(x == s for x in other) / len(other)
            ties = [
                below * (ties[k] if k < len(ties) else 0.0) + same * (ties[k - 1] if k else 0.0)
                for k in range(len(ties) + 1)
            ]
        total += math.fsum(chance / (k + 1) for k, chance in enumerate(ties))
    return total / len(first)
