"""Variants of computing a network, an engine and a precision each, and which of them score as the model was calibrated.

The record is made where good images are at hand, see `evaluation.agreement`, and stands in the model file.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any, NamedTuple

from pydantic import Field

from flawmap.core.settings import Numbers, Settings
from flawmap.scoring.operating_point import OperatingPoint


class Variant(NamedTuple):
    """engine: of `nets.engines.ENGINES`. precision: one of its precisions."""

    engine: str
    precision: str

    def __str__(self) -> str:
        return f"{self.engine} {self.precision}"


_Ranges = Annotated[tuple[Numbers, ...], Field(strict=False)]  # `nets.layers.Ranges`, from JSON's lists


class Compared(Settings):
    """A variant beside the reference on the same images. changed: how many verdicts differ. largest: the largest
    difference of the maps at a pixel, as a share of the threshold."""

    engine: str
    precision: str
    changed: int
    largest: float

    @property
    def variant(self) -> Variant:
        return Variant(self.engine, self.precision)


class Variants(Settings):
    """What was compared, and how.

    threshold, area: of the operating point that decided. reference: the precision in which torch gave the verdicts, in
    which the model was calibrated. good, flawed: images that were shown, without and with a pasted defect. ranges: of
    the network's parts, for whole numbers of 8 bits.
    """

    threshold: float
    area: int
    reference: str
    good: int
    flawed: int
    compared: tuple[Compared, ...] = Field(strict=False)
    ranges: tuple[_Ranges, ...] = Field((), strict=False)

    def hold_at(self, points: Iterable[OperatingPoint]) -> bool:
        """Whether these points decide as the one did at which verdicts were compared."""
        return all((point.threshold, point.area) == (self.threshold, self.area) for point in points)

    @property
    def kept(self) -> list[Variant]:
        """Those that kept every verdict, the reference first."""
        return [Variant("torch", self.reference), *(one.variant for one in self.compared if not one.changed)]

    @property
    def refused(self) -> list[Variant]:
        """Those that changed one."""
        return [one.variant for one in self.compared if one.changed]

    def summary(self) -> dict[str, Any]:
        """As JSON's types, without the ranges."""
        return self.model_dump(mode="json", exclude={"ranges"})
