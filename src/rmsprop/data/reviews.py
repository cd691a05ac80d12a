"""Film reviews, positive or negative, from the user's folders."""

from dataclasses import replace
from pathlib import Path

from rmsprop.data import mnist
from rmsprop.data.dataset import Dataset
from rmsprop.data.text import LONGEST, WORDS, at_least_one
from rmsprop.data.text_files import from_texts, read_tables

FILES = ("train.tsv", "test.tsv")
SOURCE = "Movie-review snippets, C. J. Hutto and E. Gilbert, ICWSM 2014"


def load_reviews(
    *,
    data_dir: str | Path | None = None,
    seed: int = 0,
    words: int = WORDS,
    longest: int = LONGEST,
) -> Dataset:
    """Sentences of film reviews, each positive or negative by the mean rating of 20 readers.

    10,568 of them: test.tsv is the test split; seed takes a sixth of train.tsv for validation,
    stratified. Source: C. J. Hutto and E. Gilbert, VADER, ICWSM 2014, MIT.

    Parameters
    ----------
    data_dir
        Where to look first, there and in its folder reviews; then come $RMSPROP_DATA, the same
        way, and the folder reviews in the user's cache. There is no download.
    seed
        Decides the validation rows.
    words, longest
        Size of the vocabulary and tokens kept of a text, as in load_texts.

    Raises
    ------
    FileNotFoundError
        Where they are not found; says which files to put where.
    ValueError
        Where a file does not fit, or words or longest is below 1.

    Examples
    --------
    >>> FILES
    ('train.tsv', 'test.tsv')
    """
    words, longest = at_least_one("words", words), at_least_one("longest", longest)
    places = mnist.folders("reviews", data_dir)
    folder = next((folder for folder in places if not _missing(folder)), None)
    if folder is None:
        raise FileNotFoundError(_not_found(places))
    parts, hashes = read_tables(folder)
    for part in ("train", "test"):
        others = sorted(set(parts[part][1]) - {"0", "1"})
        if others:
            raise ValueError(
                f"{folder / f'{part}.tsv'} is not of the reviews: a label must be 0 (negative) or "
                f"1 (positive), got {others[0]!r}. Load files of your own by their path."
            )
    try:
        data = from_texts(
            "reviews", parts["train"], parts["test"], seed=seed, words=words, longest=longest,
            source=SOURCE, licence="MIT", files={name: hashes[name] for name in FILES},
        )  # fmt: skip
    except ValueError as error:
        raise ValueError(f"{folder}: {error}") from error
    return replace(data, classes=("negative", "positive"))


def _missing(folder: Path) -> list[str]:
    return [name for name in FILES if not (folder / name).is_file()]


def _not_found(places: list[Path]) -> str:
    lines = [
        "The reviews need these two files together in one folder:",
        "  train.tsv",
        "  test.tsv",
        "UTF-8, one review a line, cells divided by tabs and not quoted; a header that names the",
        "columns label (0 negative, 1 positive) and text. Others, such as rating, are not read.",
        "Looked in:",
    ]
    for folder in places:
        missing = _missing(folder)
        state = "none there" if len(missing) == len(FILES) else f"lacks {missing[0]}"
        lines.append(f"  {folder} ({state})")
    return "\n".join(
        [
            *lines,
            "Put them there, or name their folder with data_dir (--data-dir). There is no "
            "download, for their origin publishes another layout: the movie-review snippets of "
            "C. J. Hutto and E. Gilbert, VADER (ICWSM 2014, MIT licence), with a mean rating of "
            "-4 to 4, whose sign is the label. Texts of your own load by their path.",
        ]
    )
