"""What a network on texts has to beat: logistic regression on counts of words."""

from typing import Any

import numpy as np

from rmsprop.data.dataset import Dataset, Split


def baseline(data: Dataset) -> float:
    """Accuracy on the test texts of a logistic regression that counts words and ignores order.

    minimise  |w|^2 / 2 + sum over rows of -log p(y | counts),  the penalty of scikit-learn's C = 1.

    It chooses nothing by validation, so it is fitted on the training and the validation rows.

    Parameters
    ----------
    data
        A Dataset of texts; counts are of its tokens, with the vocabulary of its training texts.

    Returns
    -------
    float
        Share of the test rows classified rightly, 0 to 1.

    Raises
    ------
    ValueError
        For a data set without texts.

    Examples
    --------
    >>> from rmsprop.data import from_texts
    >>> baseline(from_texts("films", (["a good film", "a bad film"] * 10, ["yes", "no"] * 10)))
    1.0
    """
    if data.vocabulary is None:
        raise ValueError(
            f"This baseline counts words, but {data.name} has no texts. Load a .tsv or 'reviews'."
        )
    from scipy.sparse import vstack
    from sklearn.linear_model import LogisticRegression  # here, for it takes a second

    size = len(data.vocabulary)
    counts = vstack([_counts(data.train, size), _counts(data.validation, size)], format="csr")
    labels = np.concatenate([data.train.y, data.validation.y])
    # The default's 100 iterations can be few for long texts, and end in a warning.
    model = LogisticRegression(C=1.0, max_iter=10_000).fit(counts, labels)
    return float(np.mean(model.predict(_counts(data.test, size)) == data.test.y))


def _counts(split: Split, size: int) -> Any:
    """How often each word stands in each row, (n, size - 2); padding and unknown words left out.

    Left out as a vectorizer leaves them: a count of the unknown words measured no better.
    """
    from scipy.sparse import csr_matrix

    rows, columns = np.nonzero(split.x > 1)
    words = split.x[rows, columns] - 2
    return csr_matrix((np.ones(len(rows)), (rows, words)), shape=(len(split), size - 2))
