"""How well classes are told, and numbers: by scikit-learn and SciPy.

Shape letters: N examples, C classes.
"""

import contextlib
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np


def one_class(scores_NC: np.ndarray, targets_N: np.ndarray) -> dict[str, float]:
    """Returns the metrics of examples of which one class is right.

    `f1` is that of class 1 where there are two, as GLUE has it, and the mean over classes where there are more.

    Args:
      scores_NC: the highest is the guess.
      targets_N: int, the right class.
    """
    from sklearn import metrics

    guesses_N, classes = scores_NC.argmax(axis=1), range(scores_NC.shape[1])
    each: Any = None  # class by itself
    with undefined_is_0():
        f1_C = np.asarray(metrics.f1_score(targets_N, guesses_N, labels=classes, average=each))
        matthews = float(metrics.matthews_corrcoef(targets_N, guesses_N))
    return {
        "accuracy": float(metrics.accuracy_score(targets_N, guesses_N)),
        "f1": float(f1_C[1] if len(classes) == 2 else f1_C.mean()),
        "matthews": matthews,
    }


def several_classes(scores_NC: np.ndarray, targets_NC: np.ndarray) -> dict[str, float]:
    """Returns the metrics of examples of which each class is right or not.

    Args:
      scores_NC: above 0 is a guess that the class is right.
      targets_NC: 1 where it is, else 0.
    """
    from sklearn import metrics

    guesses_NC, right_NC = scores_NC > 0, targets_NC > 0.5
    with undefined_is_0():
        f1 = {f"f1_{how}": float(metrics.f1_score(right_NC, guesses_NC, average=how)) for how in ("micro", "macro")}
    accuracy = float((guesses_NC == right_NC).mean())
    return {"accuracy": accuracy, "exact_match": float((guesses_NC == right_NC).all(axis=1).mean()), **f1}


def numbers(guesses_N: np.ndarray, targets_N: np.ndarray) -> dict[str, float]:
    """Returns the correlations of guessed and right numbers, 0 where either does not vary; and the squared error."""
    from scipy import stats

    with undefined_is_0():
        found = {"pearson": stats.pearsonr, "spearman": stats.spearmanr}
        enough = len(targets_N) > 1
        told = {name: float(of(guesses_N, targets_N).statistic) if enough else 0.0 for name, of in found.items()}
    told = {name: value if np.isfinite(value) else 0.0 for name, value in told.items()}
    return told | {"mse": float(np.square(guesses_N - targets_N).mean())}


def confusion(guesses_N: np.ndarray, targets_N: np.ndarray, labels: Sequence[str]) -> str:
    """Returns a table of how many examples of each class (rows) were told to be of each (columns)."""
    from sklearn import metrics

    table = metrics.confusion_matrix(targets_N, guesses_N, labels=range(len(labels)))
    names = [label if len(label) <= 16 else f"{label[:15]}…" for label in labels]
    cells = [["right \\ told", *names], *([name, *map(str, row)] for name, row in zip(names, table, strict=True))]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "\n".join(
        "  ".join(
            [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        )
        for row in cells
    )


@contextlib.contextmanager
def undefined_is_0() -> Iterator[None]:
    """Within, the libraries do not warn of figures that are undefined, such as those of a class that never occurs."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
