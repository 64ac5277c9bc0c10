"""Images that are smaller than a patch: how many pixels they lack, to be filled by reflection."""

from __future__ import annotations

from flawmap.core.errors import InputError


def padding_of(height: int, width: int, patch: int, *, pad: bool) -> tuple[int, int, int, int]:
    """Pixels that an image lacks of a patch at its left, right, top and bottom; zeros unless it is to be padded.

    Raises:
        InputError: it is to be padded, and too small to be reflected to a patch.
    """
    missing = [max(0, patch - side) for side in (height, width)]
    if not pad:
        return 0, 0, 0, 0
    if any(lack > 2 * (side - 1) for lack, side in zip(missing, (height, width), strict=True)):
        least = -(-(patch + 2) // 3)  # each end mirrors at most one pixel less than the side
        raise InputError(
            f"image must be at least {least}x{least} pixels to be padded by reflection to a patch of "
            f"{patch}, got {width}x{height}; use a smaller patch or a larger scale"
        )
    top, left = missing[0] // 2, missing[1] // 2
    return left, missing[1] - left, top, missing[0] - top
