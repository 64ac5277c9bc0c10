"""Where a model decides: what is a flaw, how far it reaches, and how small it may be."""

from __future__ import annotations

import sys
from typing import Any, Self

from pydantic import Field

from flawmap.core.settings import Settings
from flawmap.scoring.zones import Zone


class OperatingPoint(Settings):
    """A decision's limits, of opened residuals (or evidence).

    threshold: an image is flawed where a pixel lies above it. mask: pixels above this level belong to a flaw; None: the
    threshold. Below the threshold, flaws grow down to it (hysteresis); above the threshold, a flaw shrinks to it where
    it reaches so high. area: pixels; smaller regions are no flaws. zone: where it decides; None: everywhere. found:
    how, as JSON's types.
    """

    threshold: float
    mask: float | None = None
    area: int = Field(1, ge=1)
    zone: Zone | None = None
    found: dict[str, Any] = Field(default_factory=dict)

    def at(self, threshold: float) -> Self:
        """The same with another threshold."""
        return self.model_copy(update={"threshold": threshold})

    def summary(self) -> dict[str, Any]:
        """As JSON's types, for people and their programs: of a zone its size alone."""
        zone = None if self.zone is None else self.zone.summary()
        return self.model_dump(mode="json") | {"zone": zone}


UNDECIDED = OperatingPoint(threshold=sys.float_info.max)
"""Nothing lies above it: for a model without a threshold, and for scores alone."""
