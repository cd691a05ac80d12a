"""Data sets that need no file: three drawn from a seed, and scikit-learn's bundled digits."""

from typing import Any

import numpy as np

from rmsprop.data.dataset import Dataset, build


def moons(n: int = 1000, *, noise: float = 0.2, seed: int = 0, split: int | None = None) -> Dataset:
    """Two interleaved half circles in the plane: the smallest problem a line cannot solve.

    Parameters
    ----------
    n
        Rows over all splits, at least 10.
    noise
        Standard deviation of the Gaussian noise on each coordinate, before scaling.
    seed
        Draws the points.
    split
        Seed of the split; None is `seed`.

    Raises
    ------
    ValueError
        For too few rows to split.

    Examples
    --------
    >>> moons()
    Dataset('moons', binary, 2 features, 1 output, rows 600/200/200)
    """
    from sklearn.datasets import make_moons

    # Not random_state=seed: the split draws from that stream.
    rng: Any = np.random.RandomState(np.random.PCG64(seed))
    points: Any = make_moons(n, noise=noise, random_state=rng)
    source = f"scikit-learn make_moons, n={n}, noise={noise}"
    return build(
        "moons", "binary", ("upper", "lower"), points, seed=_split(seed, split), source=source
    )


def xor(n: int = 1000, *, noise: float = 0.4, seed: int = 0, split: int | None = None) -> Dataset:
    """Noisy exclusive or: clouds around (+-1, +-1), labelled by whether the signs differ.

    A third input is the constant 1, which stands in for a bias; x is therefore left unscaled.

    Parameters
    ----------
    n
        Rows over all splits, at least 10; the four clouds share them evenly.
    noise
        Standard deviation of a cloud; 0.4 leaves 1.2 % of the points beyond an axis.
    seed
        Draws the points.
    split
        Seed of the split; None is `seed`.

    Raises
    ------
    ValueError
        For too few rows to split.

    Examples
    --------
    >>> xor().train.x[:, 2].min()
    np.float32(1.0)
    """
    rng = np.random.default_rng(
        [seed, 1]
    )  # with the seed alone, the noise would be a model's weights
    corner = np.arange(n) % 4
    signs = np.stack([corner // 2, corner % 2], axis=1)
    points = 2.0 * signs - 1.0 + noise * rng.standard_normal((n, 2))
    x = np.column_stack([points, np.ones(n)])
    y = signs[:, 0] ^ signs[:, 1]
    source = f"drawn: corners (+-1, +-1) plus N(0, {noise}^2), and a constant input, n={n}"
    classes = ("same sign", "different sign")
    return build(
        "xor", "binary", classes, (x, y), seed=_split(seed, split), source=source, scale=False
    )


def linear(
    n: int = 1000,
    *,
    features: int = 5,
    noise: float = 1.0,
    seed: int = 0,
    split: int | None = None,
) -> Dataset:
    """A linear regression with known weights w.

    ::

        y = x w + noise*N(0, 1)        x ~ N(0, I)        w ~ N(0, I)

    Parameters
    ----------
    n
        Rows over all splits, at least 5.
    features
        Input columns.
    noise
        Standard deviation of the noise on y; noise**2 is the best reachable squared error.
    seed
        Draws x, w and the noise.
    split
        Seed of the split; None is `seed`.

    Raises
    ------
    ValueError
        For too few rows to split.

    Examples
    --------
    >>> linear().train.y.shape
    (600, 1)
    """
    # Not the stream of `seed` alone: a model of the same seed draws its start from that, and w
    # would be it.
    rng = np.random.default_rng([seed, 1])
    w = rng.standard_normal(features)
    x = rng.standard_normal((n, features))
    y = np.sum(x * w, axis=1) + noise * rng.standard_normal(n)
    weights = ", ".join(f"{value:.4f}" for value in w)
    source = f"drawn: y = x w + N(0, {noise}^2), x ~ N(0, I), w = ({weights}), n={n}"
    return build("linear", "regression", (), (x, y), seed=_split(seed, split), source=source)


def digits(*, seed: int = 0) -> Dataset:
    """1,797 real handwritten digits of 8x8 pixels, 0 to 16, offline with scikit-learn.

    Source: E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, UCI, CC BY 4.0.

    Parameters
    ----------
    seed
        Decides the split.

    Examples
    --------
    >>> digits().images.shape
    (359, 8, 8)
    """
    from sklearn.datasets import load_digits

    bundle: Any = load_digits()
    return build(
        "digits",
        "multiclass",
        tuple("0123456789"),
        (bundle.images.astype(np.uint8), bundle.target.astype(np.int64)),
        seed=seed,
        source="Optical Recognition of Handwritten Digits, UCI, as bundled with scikit-learn",
        licence="CC BY 4.0",
    )


def _split(seed: int, split: int | None) -> int:
    return seed if split is None else split
