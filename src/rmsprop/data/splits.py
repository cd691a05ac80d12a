"""Which rows are for training, for validation and for the test: decided by a seed, class by class."""

import numpy as np

# One fifth of the rows each for test and validation; where the test rows are given, validation
# takes one sixth of the training rows, which for MNIST is the usual 50,000 and 10,000.
FOLDS, FOLDS_BESIDE_TEST = 5, 6

Rows = tuple[np.ndarray, np.ndarray]  # x as read (n, features) or (n, height, width), y (n,)


def split_rows(
    kind: str,
    classes: tuple[str, ...],
    train: Rows,
    test: Rows | None = None,
    validation: Rows | None = None,
    *,
    seed: int,
) -> tuple[dict[str, Rows], str]:
    """The three parts of rows as read, and in words how they came about; arguments as in build.

    Raises
    ------
    ValueError
        For too few rows of a class to split, or a class without training rows.

    Examples
    --------
    >>> import numpy as np
    >>> rows = np.array(list("abcdefghij"), object), np.array([0, 1] * 5)
    >>> parts, how = split_rows("binary", ("no", "yes"), rows, seed=0)
    >>> [len(x) for x, _ in parts.values()], how
    ([6, 2, 2], 'training 60 %, validation 20 %, test 20 % by seed, stratified')
    """
    absent = [c for i, c in enumerate(classes) if not np.any(train[1] == i)]
    if absent:
        raise ValueError(
            f"Each class needs training rows, but there are none of {', '.join(absent)}. "
            "Add some, or drop the rows of this class from the other splits."
        )
    return _split(kind, classes, seed, train, test, validation)


def _split(
    kind: str,
    classes: tuple[str, ...],
    seed: int,
    train: Rows,
    test: Rows | None,
    validation: Rows | None,
) -> tuple[dict[str, Rows], str]:
    """The three parts, and in words how they came about."""
    if test is not None and validation is not None:
        return {"train": train, "validation": validation, "test": test}, "all three as given"
    x, y = train
    folds = _folds(y, FOLDS if test is None else FOLDS_BESIDE_TEST, kind, classes, seed)

    def take(rows: np.ndarray) -> Rows:
        return x[rows], y[rows]

    how = "test as given; training 5/6, validation 1/6"
    if test is None:
        test, how = take(folds.pop()), "training 60 %, validation 20 %, test 20 %"
    validation = take(folds.pop())
    train = take(np.concatenate(folds))
    stratified = "" if kind == "regression" else ", stratified"
    parts = {"train": train, "validation": validation, "test": test}
    return parts, f"{how} by seed{stratified}"


def _folds(
    y: np.ndarray, k: int, kind: str, classes: tuple[str, ...], seed: int
) -> list[np.ndarray]:
    """k disjoint, shuffled index arrays that together hold all rows; classes spread evenly.

    Not two calls of train_test_split: on small classes the second one can leave a class out of the
    validation rows; folds hold at least one row of each class that has k.
    """
    from sklearn.model_selection import KFold, StratifiedKFold  # here, for it takes a second

    counts = [len(y)] if kind == "regression" else np.bincount(y, minlength=len(classes)).tolist()
    least = int(np.argmin(counts))
    if counts[least] < k:
        who = f"Class {classes[least]!r}" if classes else "The data set"
        each = " of each class" if classes else ""
        raise ValueError(
            f"{who} has {counts[least]} rows, but this split needs at least {k}{each}. Add rows, "
            "drop the class, or give the splits: x_train, y_train, x_val, y_val, x_test, y_test in an "
            ".npz; of texts train.tsv, validation.tsv and test.tsv in a folder."
        )
    splitter = KFold if kind == "regression" else StratifiedKFold
    folds = splitter(k, shuffle=True, random_state=seed).split(np.zeros(len(y)), y)
    rng = np.random.default_rng(seed)  # a fold comes in file order, which may be class by class
    return [rng.permutation(fold) for _, fold in folds]
