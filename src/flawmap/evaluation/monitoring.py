"""Whether images of today still are what a decision was calibrated on: a test, an alarm for a stream, and a name.

The test compares two samples of scores. The alarm is a conformal test martingale: while new images are exchangeable
with the calibrated ones it stays small, and it exceeds 1 / delta at any time with a probability of at most delta. The
name is that of the change whose effect on six numbers of an image is most like what is seen.

References:
    Mann and Whitney 1947, doi:10.1214/aoms/1177730491. Vovk, Nouretdinov and Gammerman 2003, for the martingale; Vovk
    et al. 2021, Retrain or not retrain: conformal test martingales for change-point detection, for its bets.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import mannwhitneyu

from flawmap.core.errors import ConfigError
from flawmap.imaging.changes import TRAITS

BETS = (-1.0, 0.0, 1.0)  # slopes of the bets on a p-value
JUMP = 0.01  # share of the capital that changes its bet at every image
DELTA = 0.01  # probability of an alarm, at any time, while nothing has changed
MOVED = 3.0  # spreads of good images: from there the images themselves have changed


@dataclass(frozen=True)
class Drift:
    """How recent images differ from calibrated ones.

    calibrated, recent: numbers of images. test: two-sided p-value of the scores' equality. higher: the share of pairs
    in which the recent image scores higher; 0.5: no difference. capital: the martingale after each image. alarm: the
    number of the first image at which it exceeds 1 / DELTA, counted from 1; None: it never does. moved: by how many
    spreads of calibrated images each of TRAITS has moved; empty: the model knows none. looks_like: the name of a
    change; None: none.
    """

    calibrated: int
    recent: int
    test: float
    higher: float
    capital: tuple[float, ...]
    alarm: int | None
    moved: dict[str, float]
    looks_like: str | None

    def to_dict(self) -> dict[str, Any]:
        """As JSON's types."""
        return vars(self) | {"capital": list(self.capital)}


def drift(
    calibrated: Sequence[float],
    recent: Sequence[float],
    traits: Sequence[Sequence[float]],
    check: Mapping[str, Any] | None,
    seed: int = 0,
) -> Drift:
    """Compare recent images with calibrated ones.

    Args:
        calibrated: scores of held-out good images, ascending. recent: of recent images, in the order of time.
        traits: of each recent image, see `imaging.changes.traits`. check: the model's self-check, as JSON's types;
            None: none. seed: of the draws that break ties.
    Raises:
        ConfigError: no scores of either kind.
    """
    if not calibrated:
        raise ConfigError("this model keeps no scores of good images; calibrate it first (flawmap calibrate)")
    if not recent:
        raise ConfigError("no recent image could be scored")
    statistic, test = mannwhitneyu(recent, calibrated, alternative="two-sided")
    capital = martingale(online_p_values(calibrated, recent, seed))
    above = np.flatnonzero(capital > 1 / DELTA)
    moved = _moved(traits, check) if check is not None else np.zeros(0)
    return Drift(
        calibrated=len(calibrated),
        recent=len(recent),
        test=float(test),
        higher=float(statistic / (len(recent) * len(calibrated))),
        capital=tuple(capital.tolist()),
        alarm=int(above[0]) + 1 if len(above) else None,
        moved=dict(zip(TRAITS, moved.tolist(), strict=False)),
        looks_like=None if check is None else looks_like(moved, check),
    )


def online_p_values(calibrated: Sequence[float], recent: Sequence[float], seed: int = 0) -> NDArray[np.float64]:
    """(N,): the p-value of each recent score among the calibrated ones and all recent ones before it, ties broken at
    random. While all are exchangeable they are independent and uniform on [0, 1].

    calibrated: ascending.
    """
    known, random = list(calibrated), np.random.default_rng(seed)
    found = np.empty(len(recent))
    for number, score in enumerate(recent):
        above, ties = len(known) - bisect_right(known, score), bisect_right(known, score) - bisect_left(known, score)
        found[number] = (above + random.random() * (ties + 1)) / (len(known) + 1)
        insort(known, score)
    return found


def martingale(p_values: NDArray[np.float64]) -> NDArray[np.float64]:
    """(N,): the capital after each p-value of a bettor who begins with 1 and bets that they are not uniform.

    A bet of slope e multiplies its capital by 1 + e (p - 1/2); a little capital changes its bet at every step, so that
    a change is noticed whenever it comes (the simple jumper).
    """
    shares = np.full(len(BETS), 1 / len(BETS))
    capital = np.empty(len(p_values))
    for number, p_value in enumerate(p_values):
        shares = (1 - JUMP) * shares + JUMP * shares.sum() / len(BETS)
        shares *= 1 + np.array(BETS) * (p_value - 0.5)
        capital[number] = shares.sum()
    return capital


def looks_like(moved: NDArray[np.float64], check: Mapping[str, Any]) -> str | None:
    """The change of the self-check whose effect on an image's numbers points the same way; None: nothing has moved.

    moved: (6,), in spreads of good images.
    """
    if not len(moved) or np.abs(moved).max() < MOVED:
        return None
    effects = {row["change"]: np.array(row["signature"]) for row in check["tolerance"]}
    alike = {
        name: float(effect @ moved / (np.linalg.norm(effect) * np.linalg.norm(moved)))
        for name, effect in effects.items()
        if np.linalg.norm(effect) > 0
    }
    return max(alike, key=lambda name: alike[name]) if alike else None


def _moved(traits: Sequence[Sequence[float]], check: Mapping[str, Any]) -> NDArray[np.float64]:
    usual = np.array([check["traits"][name] for name in TRAITS])
    return np.asarray((np.median(np.array(traits), axis=0) - usual[:, 0]) / usual[:, 1])
