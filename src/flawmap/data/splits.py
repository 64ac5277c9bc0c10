"""Which good images, or which areas of them, are trained on, validate, and are held out. Decided by content and seed.

More than five good images are parted whole. Of five or fewer none can be spared, so each gives up a strip at one of
its ends: half of it validates, half is held out. Parts never overlap, and nothing depends on folders' or files' names
(but `last`, which goes by name): an image's role follows from its SHA-256 and the seed.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from flawmap.core.errors import ArtifactError, ConfigError, InputError
from flawmap.core.files import natural_key, sha256_of
from flawmap.core.settings import ImageSettings, SplitSettings
from flawmap.data.layouts import Sample
from flawmap.imaging.codecs import read_header
from flawmap.imaging.reading import read_image
from flawmap.imaging.resize import working_size
from flawmap.imaging.roi import bounding_box, roi_mask

Box = tuple[int, int, int, int]
"""left, top, right, bottom in the image's own pixels; right and bottom are outside."""
Role = Literal["train", "validation", "test"]

ROLES: tuple[Role, ...] = ("train", "validation", "test")
FEW = 5
"""Up to so many good images are parted by areas."""
STRIP = 0.125
"""Width of a strip, as a share of the longer side; wider where the patch asks for it."""


class GoodSample(Protocol):
    """What a split needs to know of a sample."""

    @property
    def path(self) -> Path: ...
    @property
    def split(self) -> str: ...
    @property
    def label(self) -> str: ...


@dataclass(frozen=True)
class ImageRegion:
    """A part of an image file, named by its content. box None: all of it."""

    path: Path
    sha256: str
    box: Box | None = None


@dataclass(frozen=True)
class Split:
    """The areas of each role, in natural order of their paths."""

    train: tuple[ImageRegion, ...]
    validation: tuple[ImageRegion, ...]
    test: tuple[ImageRegion, ...]

    def to_dict(self) -> dict[str, list[dict[str, Any]]]:
        """JSON's types for the model file. Files go by their names and digests: folders are nobody's business."""
        return {
            role: [
                {"file": area.path.name, "sha256": area.sha256, "box": list(area.box) if area.box else None}
                for area in self._areas(role)
            ]
            for role in ROLES
        }

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Split:
        """The inverse of `to_dict`, but for the folders. Raises ArtifactError over anything else."""
        try:
            return cls(*(tuple(_area(entry) for entry in data[role]) for role in ROLES))
        except (KeyError, TypeError, ValueError) as error:
            raise ArtifactError(f"the model file's record of its training images is damaged: {error!r}") from None

    @property
    def digest(self) -> str:
        """SHA-256 over roles, contents and boxes; equal for equal splits, wherever the files lie."""
        parts = sorted([role, area.sha256, list(area.box or ())] for role in ROLES for area in self._areas(role))
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()

    def role_of(self, sha256: str) -> Role | Literal["areas"] | None:
        """The role of a file's content: "areas" if only parts of it have one, None if it was never seen."""
        for role in ROLES:
            for area in self._areas(role):
                if area.sha256 == sha256:
                    return role if area.box is None else "areas"
        return None

    def _areas(self, role: Role) -> tuple[ImageRegion, ...]:
        areas: tuple[ImageRegion, ...] = getattr(self, role)
        return areas


def refuse_trained(split: Split, paths: Iterable[Path]) -> None:
    """Raise InputError if an image that is to be scored as unseen was trained on, in whole or in parts."""
    seen = [path for path in paths if split.role_of(sha256_of(path)) in ("train", "areas")]
    if seen:
        names = ", ".join(str(path) for path in seen[:3]) + (", ..." if len(seen) > 3 else "")
        raise InputError(
            f"{len(seen)} of the images to be scored as unseen were trained on: {names}; leave them out, "
            "or score the areas of the split that were held out"
        )


def split_good(
    samples: Sequence[GoodSample],
    settings: SplitSettings,
    minimum_side: int,
    bounds: Callable[[Path], Box] | None = None,
) -> Split:
    """Part the good images among `samples` into training, validation and held-out test areas.

    Good images of the data set's own test folder are test images; then no share is taken for test, unless `last` is
    set. Files of one content have one role.

    Args:
        minimum_side: the smallest useful side of an area, the patch's in the image's own pixels.
        bounds: the box of an image within which areas are cut, of a region of interest; None: the whole image. Used
            where areas are cut, of five or fewer images.
    Raises:
        InputError: no good image, one content in train and test, or an image too small to give up a strip.
        ConfigError: the shares leave nothing to train on.
    """
    good = _hashed(sample.path for sample in samples if sample.split == "train" and sample.label == "good")
    held = _hashed(sample.path for sample in samples if sample.split == "test" and sample.label == "good")
    if not good:
        raise InputError("no good image to train on")
    contents = {area.sha256: area.path for area in held}
    for area in good:
        if area.sha256 in contents:
            raise InputError(
                f"{area.path} and {contents[area.sha256]} are the same image, in training and in test; remove one"
            )
    good, last = _take_last(good, settings.last)
    share = 0.0 if held or settings.last is not None else settings.test
    if len({area.sha256 for area in good}) > FEW:
        split = _by_images(good, settings.validation, share, settings.seed)
    else:
        split = _by_areas(good, settings, share > 0, minimum_side, bounds)
    return Split(split.train, split.validation, _ordered((*split.test, *last, *held)))


def _hashed(paths: Iterable[Path]) -> list[ImageRegion]:
    return [ImageRegion(path, sha256_of(path)) for path in sorted(paths, key=natural_key)]


def _take_last(good: list[ImageRegion], count: int | None) -> tuple[list[ImageRegion], list[ImageRegion]]:
    """The images without, and the ones among, the last `count` by name; a copy of one of them goes with it."""
    if not count:
        return good, []
    if count >= len(good):
        raise ConfigError(
            f"the last {count} images are to be held out, but there are {len(good)} good ones; take fewer"
        )
    kept = {area.sha256 for area in good[-count:]}
    rest = [area for area in good if area.sha256 not in kept]
    if not rest:
        raise ConfigError(f"all good images are copies of the last {count}; there is nothing left to train on")
    return rest, [area for area in good if area.sha256 in kept]


def _by_images(good: list[ImageRegion], validation: float, test: float, seed: int) -> Split:
    """Whole images by their rank in a hash of seed and content: adding an image moves few others."""
    contents = sorted({area.sha256 for area in good}, key=lambda sha256: _draw(seed, sha256))
    tested, validated = (
        max(1, math.floor(share * len(contents) + 0.5)) if share > 0 else 0 for share in (test, validation)
    )
    if tested + validated >= len(contents):
        raise ConfigError(
            f"{validated} validation and {tested} test images of {len(contents)} leave none to train on; "
            "lower the shares"
        )
    roles: dict[str, Role] = dict.fromkeys(contents, "train")
    roles |= dict.fromkeys(contents[:tested], "test")
    roles |= dict.fromkeys(contents[tested : tested + validated], "validation")
    return Split(*(tuple(area for area in good if roles[area.sha256] == role) for role in ROLES))


def _by_areas(
    good: list[ImageRegion],
    settings: SplitSettings,
    test: bool,
    minimum_side: int,
    bounds: Callable[[Path], Box] | None,
) -> Split:
    roles: list[Role] = ["validation"] if settings.validation > 0 else []
    if test:
        roles.append("test")
    if not roles:
        return Split(tuple(good), (), ())
    parts: dict[Role, list[ImageRegion]] = {role: [] for role in ROLES}
    for area in good:
        header = read_header(area.path)
        box = bounds(area.path) if bounds is not None else (0, 0, header.width, header.height)
        draw = _draw(settings.seed, area.sha256)[0]
        cut = cut_strip(box, roles if draw & 1 else roles[::-1], minimum_side, at_end=bool(draw & 2))
        if cut is None:
            raise InputError(_too_small(area.path, box, len(roles), minimum_side))
        for role, piece in cut.items():
            parts[role].append(ImageRegion(area.path, area.sha256, piece))
    return Split(*(tuple(parts[role]) for role in ROLES))


def cut_strip(box: Box, roles: Sequence[Role], minimum_side: int, *, at_end: bool) -> dict[Role, Box] | None:
    """A box parted into training and a strip at an end of its longer side for one or two other roles.

    The strip is `minimum_side` or an eighth of the longer side wide, whichever is larger, and divided across between
    two roles; where a half would be too low, two strips stand side by side. No side of any part is shorter than
    `minimum_side`; None if that cannot be. The parts cover the box and do not overlap.
    """
    left, top, right, bottom = box
    if bottom - top > right - left:
        lying = cut_strip((top, left, bottom, right), roles, minimum_side, at_end=at_end)
        return lying and {role: (part[1], part[0], part[3], part[2]) for role, part in lying.items()}
    length, height = right - left, bottom - top
    wide = max(minimum_side, math.ceil(STRIP * length))
    across = len(roles) == 2 and height // 2 >= minimum_side
    total = wide if across else wide * len(roles)
    if height < minimum_side or length - total < minimum_side:
        return None
    start = right - total if at_end else left
    parts: dict[Role, Box] = {"train": (left, top, start, bottom) if at_end else (left + total, top, right, bottom)}
    if across:
        middle = top + height // 2
        parts[roles[0]] = (start, top, start + wide, middle)
        parts[roles[1]] = (start, middle, start + wide, bottom)
    else:
        parts |= {role: (start + i * wide, top, start + (i + 1) * wide, bottom) for i, role in enumerate(roles)}
    return parts


def _too_small(path: Path, box: Box, roles: int, minimum_side: int) -> str:
    width, height = box[2] - box[0], box[3] - box[1]
    # The shorter side has to hold one part, the longer one the training part and each strip (an eighth of it).
    longer = (roles + 1) * minimum_side
    return (
        f"{path} has {width} x {height} usable pixels, too few to keep a strip for validation or test: {longer} x "
        f"{minimum_side} are needed; give more than {FEW} good images, larger ones, a smaller patch, or keep none "
        "(--set split.validation=0 --last 0)"
    )


def _draw(seed: int, sha256: str) -> bytes:
    return hashlib.sha256(f"{seed}:{sha256}".encode()).digest()


def _ordered(areas: Iterable[ImageRegion]) -> tuple[ImageRegion, ...]:
    return tuple(sorted(areas, key=lambda area: (natural_key(area.path), area.box or (0, 0, 0, 0))))


def _area(entry: dict[str, Any]) -> ImageRegion:
    box = entry["box"]
    if box is not None:
        left, top, right, bottom = (int(side) for side in box)
        box = (left, top, right, bottom)
    return ImageRegion(Path(str(entry["file"])), str(entry["sha256"]), box)


def split_dataset(samples: Sequence[Sample], images: ImageSettings, split: SplitSettings, patch: int) -> Split:
    """`split_good` with what the image settings say: a patch's side in the image's own pixels, and the region.

    Args:
        patch: P, pixels of the worked image.
    """
    good = [sample.path for sample in samples if (sample.split, sample.label) == ("train", "good")]
    factors = [min(_factors(path, images)) for path in good] if isinstance(images.scale, tuple) else [images.scale]
    side = math.ceil(patch / min(factors)) if factors else patch

    def bounds(path: Path) -> Box:
        inside = roi_mask(path, read_image(path, images).pixels, images.roi)
        assert inside is not None
        return bounding_box(inside)

    return split_good(samples, split, side, None if images.roi.everywhere else bounds)


def _factors(path: Path, images: ImageSettings) -> tuple[float, float]:
    header = read_header(path)
    height, width = working_size(header.height, header.width, images.scale)
    return height / header.height, width / header.width
