"""Classes of generated examples in given shares, number by number: each prefix has the shares as nearly as whole numbers can.

With shares p_c of k classes and n_c of the first i examples in class c, |n_c - i p_c| <= 1 - 1/(2k - 2) for every i and c
(Tijdeman 1980, "The chairman assignment problem"): of the classes whose share has room for one more the one is chosen that has to
come first. So the class of example i depends on no count and no batch, and as many examples as the data have, or a multiple of
it, have the data's classes exactly. Equal shares go round the classes.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int32


def deal(counts: Sequence[int], num: int) -> Int32[np.ndarray, " num"]:
    """Labels of examples 0 .. num - 1 in the shares of the counts.

    Args:
        counts: of each class, whole numbers that say the shares; a class with none is never dealt.
        num: of examples.

    Raises:
        ValueError: no class has any.
    """
    classes = np.flatnonzero(counts)
    if not len(classes):
        raise ValueError(f"counts are {tuple(counts)}, expected one that is not 0")
    weights = np.asarray(counts, np.int64)[classes]
    total, slack = int(weights.sum()), 2 * len(classes) - 2  # whole numbers, so that the sharing is exact
    owed = np.zeros(len(classes), np.int64)  # total * (i p_c - n_c)
    labels = np.empty(num, np.int32)
    for i in range(num):
        owed += weights
        deadline = ((1.0 - 1.0 / slack) * total - owed) / weights if slack else owed
        chosen = int(np.argmin(np.where(owed * slack >= total, deadline, np.inf))) if slack else 0
        owed[chosen] -= total
        labels[i] = classes[chosen]
    return labels
