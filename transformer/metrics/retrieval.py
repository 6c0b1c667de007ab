"""How often what is sought is among the first that are found."""

import numpy as np


def recall(scores_BN: np.ndarray, right_B: np.ndarray, k: int) -> float:
    """Returns the share of rows whose right column is among the `k` with the highest scores.

    Of the columns with an equal score, half count as above it.

    Args:
      scores_BN: of queries and what is sought.
      right_B: of each query, the column that it seeks.
      k: columns that are looked at.
    """
    own_B1 = scores_BN[np.arange(len(right_B)), right_B][:, None]
    above_B = (scores_BN > own_B1).sum(axis=1) + (np.sum(scores_BN == own_B1, axis=1) - 1) / 2
    return float((above_B < k).mean())
