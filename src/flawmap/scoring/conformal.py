"""Decisions with a known rate of false positives: split conformal prediction on the scores of held-out good images.

Let n good images be held out, and a new good image come from where they came from. Then all n + 1 scores are equally
likely to be the largest, the second largest and so on. So the p-value of the new one is at most alpha with a
probability of at most alpha, whatever the scores' distribution, and for every n.

References:
    Vovk, Gammerman and Shafer 2005, Algorithmic Learning in a Random World; Laxhammar and Falkman 2010,
    doi:10.1145/1833280.1833381, for the detection of anomalies; Bates et al. 2023, doi:10.1214/22-AOS2244.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence


def p_value(score: float, good: Sequence[float]) -> float:
    """The share of images, this one among them, that score at least as high; from 1 / (n + 1) to 1.

    good: (n,) scores of held-out good images, ascending.

    >>> p_value(0.5, [0.1, 0.5, 0.9]), p_value(1.0, [0.1, 0.5, 0.9])
    (0.75, 0.25)
    """
    return (len(good) - bisect_left(good, score) + 1) / (len(good) + 1)


def score_limit(good: Sequence[float], alpha: float) -> float | None:
    """The score above which an image has a p-value of at most alpha; None where n is too small for any to have one.

    good: (n,) scores of held-out good images, ascending. alpha: in (0, 1).

    >>> score_limit([0.1, 0.5, 0.9], 0.25), score_limit([0.1, 0.5, 0.9], 0.5), score_limit([0.1, 0.5, 0.9], 0.1)
    (0.9, 0.5, None)
    """
    allowed = math.floor(alpha * (len(good) + 1) + 1e-9)  # images at most that score as high, a new one among them
    return good[len(good) - allowed] if 1 <= allowed <= len(good) else None


def images_needed(alpha: float) -> int:
    """The smallest number of held-out good images for which a score can have a p-value of at most alpha.

    >>> images_needed(0.05), images_needed(0.01)
    (19, 99)
    """
    return math.ceil(1 / alpha - 1e-9) - 1
