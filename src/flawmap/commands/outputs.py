"""What several commands share: exit codes, output folders, and what an inspection is to write."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from flawmap.core.files import enough_space, writable_folder

FLAWS_FOUND, SOME_FAILED = 3, 4
"""Exit codes: flaws were found, with --fail-on-flaw; some images or trainings failed, the others are done."""


@dataclass(frozen=True)
class InspectionOutputs:
    """What an inspection decides by and writes.

    threshold: instead of the model's own. residuals: whether the opened residual maps are written, too. overlays:
    whether pictures with the outlined flaws are written.
    """

    threshold: float | None = None
    residuals: bool = False
    overlays: bool = True


def usable_folder(folder: Path, needed: int) -> Path:
    """An output folder, made already or not, that can take so many bytes. OutputError if it cannot."""
    enough_space(folder, needed)
    return writable_folder(folder)
