"""Where in an image an operating point decides."""

from __future__ import annotations

import base64
import binascii
import zlib
from functools import cached_property
from pathlib import Path
from typing import Self

import numpy as np
from pydantic import Field, model_validator

from flawmap.core.errors import ConfigError, InputError
from flawmap.core.records import Mask
from flawmap.core.settings import Settings
from flawmap.imaging.reading import ImageRows
from flawmap.imaging.roi import Roi


class Zone(Settings):
    """A mask of the image's own size, packed into the model's header. Only what lies inside has a residual.

    It narrows the region of interest for one operating point: a model may have several, each with its own threshold.
    width, height: pixels. bits: the mask's rows, 8 pixels a byte, compressed.
    """

    width: int = Field(gt=0)
    height: int = Field(gt=0)
    bits: str

    @model_validator(mode="after")
    def _whole(self) -> Self:
        try:
            size = len(self._bytes())
        except (binascii.Error, zlib.error) as error:
            raise ValueError(f"bits do not hold a mask: {error}") from None
        if size != (self.width * self.height + 7) // 8:
            raise ValueError(f"bits hold {size} bytes, not those of {self.width} x {self.height} pixels")
        return self

    def _bytes(self) -> bytes:
        return zlib.decompress(base64.b64decode(self.bits, validate=True))

    @classmethod
    def of(cls, mask: Mask) -> Zone:
        """That of a mask (H, W) bool, True = inside. ConfigError if nothing is inside."""
        if not mask.any():
            raise ConfigError("the zone's mask is empty: no pixel of it is above 0; draw the zone white on black")
        height, width = mask.shape
        packed = zlib.compress(np.packbits(mask).tobytes(), 9)
        return cls(width=width, height=height, bits=base64.b64encode(packed).decode("ascii"))

    @cached_property
    def mask(self) -> Mask:
        """(H, W) bool."""
        bits = np.unpackbits(np.frombuffer(self._bytes(), np.uint8), count=self.width * self.height)
        return bits.astype(np.bool_).reshape(self.height, self.width)

    def within(self, roi: Roi, image: ImageRows) -> Roi:
        """The region of interest of an image as far as it lies in the zone. Its box, and so its patches, stay.

        Raises:
            InputError: the image has another size, or nothing of its region lies in the zone.
        """
        height, width, _ = image.shape
        name = image.path or Path("the image")
        if (height, width) != (self.height, self.width):
            raise InputError(
                f"{name} is {width} x {height} pixels, the zone of the operating point {self.width} x {self.height}; a "
                "zone has its images' size"
            )
        inside = roi.rows(0, height, width) & self.mask
        if not inside.any():
            raise InputError(f"nothing of the region of interest of {name} lies in the zone of the operating point")
        return Roi(roi.box, inside)

    def summary(self) -> dict[str, int]:
        """For people: its size and how many pixels lie inside."""
        return {"width": self.width, "height": self.height, "pixels": int(self.mask.sum())}
