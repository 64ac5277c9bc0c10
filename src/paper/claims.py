"""What a paper says, and whether our own figures bear it out."""

from __future__ import annotations

from typing import NamedTuple


class Claim(NamedTuple):
    """One statement, whether it holds on the figures at hand (None: they do not say), and the figures that say so.

    A claim that does not hold is reported like one that does: nothing is tuned until it does.
    """

    text: str
    holds: bool | None
    evidence: str
