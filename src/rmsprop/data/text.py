"""Texts as numbers: tokens of a text, the vocabulary of many, token ids padded to one length."""

import functools
import operator
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np

# Neither can come out of tokens(): one is empty, one holds angle brackets. "?" would not do, for it
# is a token.
PADDING, UNKNOWN = "", "<unknown>"
WORDS = 5000  # of a vocabulary, unless the caller says otherwise
LONGEST = 64  # tokens kept of a text

APOSTROPHES = str.maketrans({"’": "'", "ʼ": "'"})  # typesetter's, and the one that is a letter


def tokens(text: str) -> list[str]:
    """Words in lower case, numbers, and each ! and ?; all else divides them.

    A word is a run of letters and digits of any script, with their accents and vowel signs;
    apostrophes inside it belong to it ("don't"), and points or commas between two digits ("3.5").
    The text is first brought to Unicode's form NFKC, so that the same word is always written with
    the same characters, and curly apostrophes become straight ones. Scripts that put no space
    between words (Chinese, Thai) give one token a phrase.

    Parameters
    ----------
    text
        Any string, also an empty one.

    Raises
    ------
    TypeError
        For anything but a string.

    Examples
    --------
    >>> tokens("It’s 3.5 stars: DON'T miss the café’s 'finale'!")
    ["it's", '3.5', 'stars', "don't", 'miss', 'the', "café's", 'finale', '!']
    """
    if not isinstance(text, str):
        raise TypeError(f"A text must be a str, got {type(text).__name__}.")
    lower = unicodedata.normalize("NFKC", text).lower()
    # Again, for some letters have one character in lower case only: J with a caron becomes ǰ.
    return _pattern().findall(unicodedata.normalize("NFKC", lower).translate(APOSTROPHES))


def make_vocabulary(texts: Iterable[str], words: int = WORDS) -> tuple[str, ...]:
    """The words of each token id: padding, the unknown word, then the most frequent tokens.

    Only ever from training texts: from others too, it would tell what the test holds.

    Parameters
    ----------
    texts
        The training texts.
    words
        Keep this many at most, at least 1; of equally frequent ones the first by code point.

    Returns
    -------
    tuple of str
        At most words + 2; a word's place is its id. 0 is PADDING, 1 is UNKNOWN.

    Raises
    ------
    ValueError
        For words below 1, or texts without a single token.
    TypeError
        Where words is not an integer, or a text not a string.

    Examples
    --------
    >>> make_vocabulary(["a good film", "a bad film", "a plot"], words=3)
    ('', '<unknown>', 'a', 'film', 'bad')
    """
    words = at_least_one("words", words)
    counts = Counter(token for text in _several(texts) for token in tokens(text))
    if not counts:
        raise ValueError(
            "A vocabulary needs a word, but no training text holds one: a letter, a digit, ! or ?."
        )
    ranked = sorted(counts, key=lambda token: (-counts[token], token))
    return (PADDING, UNKNOWN, *ranked[:words])


def encode(texts: Iterable[str], vocabulary: Sequence[str], longest: int = LONGEST) -> np.ndarray:
    """Token ids of each text, its first ones, padded with 0 on the right.

    Parameters
    ----------
    texts
        n texts. One without a token counts as one unknown word, so that none has length 0.
    vocabulary
        As make_vocabulary gives it; words it lacks become 1.
    longest
        Tokens kept of a text, at least 1.

    Returns
    -------
    (n, length) int32
        The length is that of the longest text, but at most longest and at least 1.

    Raises
    ------
    ValueError
        For longest below 1, or a vocabulary that does not start with PADDING and UNKNOWN.
    TypeError
        Where longest is not an integer, or texts are one string.

    Examples
    --------
    >>> vocabulary = make_vocabulary(["a good film", "a bad film"])
    >>> encode(["a film", "a GREAT film!", ""], vocabulary)
    array([[2, 3, 0, 0],
           [2, 1, 3, 1],
           [1, 0, 0, 0]], dtype=int32)
    """
    longest = at_least_one("longest", longest)
    if tuple(vocabulary[:2]) != (PADDING, UNKNOWN):
        raise ValueError(
            f"A vocabulary must start with {PADDING!r} and {UNKNOWN!r}, got "
            f"{list(vocabulary[:2])}. Make it with make_vocabulary."
        )
    ids = {word: i for i, word in enumerate(vocabulary)}
    rows = [[ids.get(token, 1) for token in tokens(text)[:longest]] for text in _several(texts)]
    encoded = np.zeros((len(rows), max(map(len, rows), default=1) or 1), np.int32)
    for i, row in enumerate(rows):
        encoded[i, : len(row) or 1] = row or 1
    return encoded


def at_least_one(name: str, value: int) -> int:
    """The value as an int; a ValueError below 1, a TypeError where it is no integer.

    Examples
    --------
    >>> at_least_one("words", 0)
    Traceback (most recent call last):
    ValueError: words must be at least 1, got 0.
    """
    try:
        value = operator.index(value)
    except TypeError as error:
        raise TypeError(f"{name} must be an integer, got {value!r}.") from error
    if value < 1:
        raise ValueError(f"{name} must be at least 1, got {value}.")
    return value


def _several(texts: Iterable[str]) -> Iterable[str]:
    """The same; but one string would pass for a list of its letters."""
    if isinstance(texts, str):
        raise TypeError(f"texts must be a list of texts, got one text. Write [{texts[:20]!r}].")
    return texts


@functools.cache
def _pattern() -> re.Pattern[str]:
    """What a token looks like. Made once, for re has no class of its own for combining marks."""
    codes = (*range(0x300, 0x20000), *range(0xE0100, 0xE01F0))
    marks = "".join(chr(code) for code in codes if unicodedata.category(chr(code))[0] == "M")
    part = rf"[^\W_](?:[^\W_]|[{marks}])*"
    return re.compile(rf"{part}(?:(?:'|(?<=\d)[.,](?=\d)){part})*|[!?]")
