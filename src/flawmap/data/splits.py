"""Which good images, or which areas of them, are trained on, validate, and are held out. Decided by content and seed.

More than five good images are split whole. Each has a number from 0 to 1, a hash of the seed and of its content, or of
its group where it has one. Below the validation fraction it validates, above 1 minus the test fraction it is held out,
in between it is trained on. So a new image never moves another one to another role. Of five or fewer images none can be
spared. Each gives up a strip at one of its ends: half of it validates, half is held out. Nothing depends on the names
of folders or files (but `last`, which goes by name).
"""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from flawmap.core.errors import ArtifactError, ConfigError, InputError
from flawmap.core.files import first_few, natural_key
from flawmap.core.settings import ImageSettings, SplitSettings
from flawmap.data.index import ImageIndex
from flawmap.data.samples import Sample
from flawmap.imaging.reading import opened_image
from flawmap.imaging.resize import working_size
from flawmap.imaging.roi import Box, find_roi

Role = Literal["train", "validation", "test"]

ROLES: tuple[Role, ...] = ("train", "validation", "test")
VALIDATION, FALLBACK, MOST = 0.1, 0.2, 0.6
"""The fraction of the good images that validates unless one is set: at least; where there are too few for what a
decision needs; and at most."""
SPARE = 1.25
"""Times the images that are needed: a hash decides over each, so their number varies."""
FEW = 5
"""Up to so many good images are split by areas."""
STRIP = 0.125
"""Width of a strip, as a fraction of the longer side; wider where the patch asks for it."""


@dataclass(frozen=True)
class ImageRegion:
    """A part of an image file, named by its content. box: in the image's own pixels; None: all of it. group: the roll,
    the lot or the camera that it comes from; empty: none is known."""

    path: Path
    sha256: str
    box: Box | None = None
    group: str = ""

    @property
    def unit(self) -> str:
        """Alike for images that say nothing new beside each other: of one group, or of one content."""
        return f"group {self.group}" if self.group else self.sha256


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
                for area in getattr(self, role)
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
        return self._digest(ROLES)

    @property
    def training_digest(self) -> str:
        """The same over what a training sees: without the held-out test images, which may change between two runs."""
        return self._digest(("train", "validation"))

    def role_of(self, sha256: str) -> Role | Literal["areas"] | None:
        """The role of a file's content: "areas" if only parts of it have one, None if it was never seen."""
        return self._role_by_content.get(sha256)

    @cached_property
    def _role_by_content(self) -> dict[str, Role | Literal["areas"]]:
        roles: dict[str, Role | Literal["areas"]] = {}
        for role in ROLES:
            for area in getattr(self, role):
                roles.setdefault(area.sha256, role if area.box is None else "areas")
        return roles

    def _digest(self, roles: Sequence[Role]) -> str:
        parts = sorted([role, area.sha256, list(area.box or ())] for role in roles for area in getattr(self, role))
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def refuse_trained(split: Split, paths: Iterable[Path], index: ImageIndex) -> None:
    """Raise InputError if an image that is to be scored as unseen was trained on, in whole or in parts."""
    seen = [path for path in paths if split.role_of(index.sha256(path)) in ("train", "areas")]
    if seen:
        raise InputError(
            f"{len(seen)} of the images to be scored as unseen were trained on: {first_few(seen)}; leave them out, "
            "or score the areas of the split that were held out"
        )


def split_good(
    samples: Sequence[Sample],
    settings: SplitSettings,
    minimum_side: int,
    bounds: Callable[[Path], Box] | None = None,
    index: ImageIndex | None = None,
    *,
    needed: int = 0,
) -> Split:
    """Split the good images among `samples` into training, validation and held-out test areas.

    Good images of the data set's own validation and test folders have that role; then no fraction is taken for it,
    unless `last` is set. Files of one content have one role, and so have the images of one group.

    Args:
        minimum_side: the smallest useful side of an area, the patch's in the image's own pixels.
        bounds: the box of an image within which areas are cut, of a region of interest; None: the whole image. Used
            where areas are cut, of five or fewer images.
        needed: images that a decision by validation images asks for; where no fraction is set, so many are held out, if
            enough are left to train on.
    Raises:
        InputError: no good image, one content or group with two roles, or an image too small to give up a strip.
        ConfigError: the fractions leave nothing to train on.
    """
    index = index or ImageIndex()
    every = {role: _hashed(samples, role, index) for role in ROLES}
    good = every["train"]
    if not good:
        raise InputError("no good image to train on")
    _refuse_two_roles(every)
    good, last = _take_last(good, settings.last)
    validation = 0.0 if every["validation"] else settings.validation
    if validation is None:
        wanted = SPARE * needed / len({image.unit for image in good})
        validation = max(VALIDATION, wanted) if wanted <= MOST else FALLBACK
    test = 0.0 if every["test"] or settings.last is not None else settings.test
    if len({image.sha256 for image in good}) > FEW:
        roles = roles_of([image.unit for image in good], validation, test, settings.seed)
        split = Split(*(tuple(image for image in good if roles[image.unit] == role) for role in ROLES))
    else:
        strips = _held_out(validation, test)
        split = _by_areas(good, strips, settings.seed, minimum_side, bounds or index.box)
    return Split(
        split.train, _ordered((*split.validation, *every["validation"])), _ordered((*split.test, *last, *every["test"]))
    )


def _hashed(samples: Sequence[Sample], role: Role, index: ImageIndex) -> list[ImageRegion]:
    good = [sample for sample in samples if sample.label == "good" and sample.split == role]
    found = [ImageRegion(sample.path, index.sha256(sample.path), group=sample.group) for sample in good]
    return sorted(found, key=lambda image: natural_key(image.path))


def _refuse_two_roles(every: dict[Role, list[ImageRegion]]) -> None:
    """No content and no group may have two roles, and no content two groups."""
    contents: dict[str, tuple[Role, ImageRegion]] = {}
    groups: dict[str, tuple[Role, ImageRegion]] = {}
    for role, images in every.items():
        for image in images:
            before, other = contents.setdefault(image.sha256, (role, image))
            both = f"{other.path} and {image.path}"
            if before != role:
                raise InputError(f"{both} are the same image, in {_noun(before)} and in {_noun(role)}; remove one")
            if other.unit != image.unit:
                raise InputError(f"{both} are the same image, but of different groups; give them one group")
            before, other = groups.setdefault(image.unit, (role, image))
            if before != role:
                raise InputError(
                    f"{other.path} and {image.path} are of one group, in {_noun(before)} and in "
                    f"{_noun(role)}; the images of a group share a role"
                )


def _noun(role: Role) -> str:
    return "training" if role == "train" else role


def _take_last(good: list[ImageRegion], count: int | None) -> tuple[list[ImageRegion], list[ImageRegion]]:
    """The images without, and the ones among, the last `count` by name; copies and images of their groups go along."""
    if not count:
        return good, []
    if count >= len(good):
        raise ConfigError(
            f"the last {count} images are to be held out, but there are {len(good)} good ones; take fewer"
        )
    kept = {image.unit for image in good[-count:]}
    rest = [image for image in good if image.unit not in kept]
    if not rest:
        raise ConfigError(
            f"all good images are copies of the last {count}, or of their groups; there is nothing left to train on"
        )
    return rest, [image for image in good if image.unit in kept]


def roles_of(keys: Iterable[str], validation: float, test: float, seed: int) -> dict[str, Role]:
    """The role of each key, of an image or of a group: it depends on the key and the seed alone.

    Where a fraction above 0 would get no key, or training none, the key whose number is nearest takes that role: the
    only case in which a new key can move another one.

    Raises:
        ConfigError: there are fewer keys than roles.
    """
    places = {key: int.from_bytes(_draw(seed, key)[:6]) / 2**48 for key in sorted(set(keys))}
    roles: dict[str, Role] = {
        key: "validation" if place < validation else "test" if place >= 1 - test else "train"
        for key, place in places.items()
    }
    wanted: list[Role] = [*_held_out(validation, test), "train"]
    if len(places) < len(wanted):
        raise ConfigError(
            f"{len(places)} groups of images cannot be split into {', '.join(sorted(wanted))}; give more groups, or "
            "set the fractions of the others to 0"
        )
    edges = {"validation": (0.0, validation), "test": (1 - test, 1.0), "train": (validation, 1 - test)}
    for role in wanted:
        if role not in roles.values():
            counts = Counter(roles.values())
            spare = [key for key in places if counts[roles[key]] > 1]
            low, high = edges[role]
            roles[min(spare, key=lambda key: (max(low - places[key], places[key] - high), key))] = role
    return roles


def _held_out(validation: float, test: float) -> list[Role]:
    """The roles beside training that a fraction above 0 asks for."""
    shares: dict[Role, float] = {"validation": validation, "test": test}
    return [role for role, share in shares.items() if share > 0]


def _by_areas(
    good: list[ImageRegion], roles: Sequence[Role], seed: int, minimum_side: int, bounds: Callable[[Path], Box]
) -> Split:
    if not roles:
        return Split(tuple(good), (), ())
    parts: dict[Role, list[ImageRegion]] = {role: [] for role in ROLES}
    for area in good:
        box = bounds(area.path)
        draw = _draw(seed, area.sha256)[0]
        cut = cut_strip(box, roles if draw & 1 else roles[::-1], minimum_side, at_end=bool(draw & 2))
        if cut is None:
            width, height = box[2] - box[0], box[3] - box[1]
            # The shorter side has to hold one part, the longer one the training part and each strip (an eighth of it).
            longer = (len(roles) + 1) * minimum_side
            raise InputError(
                f"{area.path} has {width} x {height} usable pixels, too few to keep a strip for validation or test: "
                f"{longer} x {minimum_side} are needed; give more than {FEW} good images, larger ones, a smaller "
                "patch, or keep none (--set split.validation=0 --set split.last=0)"
            )
        for role, piece in cut.items():
            parts[role].append(replace(area, box=piece))
    return Split(*(tuple(parts[role]) for role in ROLES))


def cut_strip(box: Box, roles: Sequence[Role], minimum_side: int, *, at_end: bool) -> dict[Role, Box] | None:
    """A box split into training and a strip at an end of its longer side for one or two other roles.

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


def _draw(seed: int, key: str) -> bytes:
    return hashlib.sha256(f"{seed}:{key}".encode()).digest()


def _ordered(areas: Iterable[ImageRegion]) -> tuple[ImageRegion, ...]:
    return tuple(sorted(areas, key=lambda area: (natural_key(area.path), area.box or (0, 0, 0, 0))))


def _area(entry: dict[str, Any]) -> ImageRegion:
    box = entry["box"]
    if box is not None:
        left, top, right, bottom = (int(side) for side in box)
        box = (left, top, right, bottom)
    return ImageRegion(Path(str(entry["file"])), str(entry["sha256"]), box)


def split_dataset(
    samples: Sequence[Sample],
    images: ImageSettings,
    split: SplitSettings,
    patch: int,
    index: ImageIndex | None = None,
    *,
    needed: int = 0,
) -> Split:
    """`split_good` with what the image settings say: a patch's side in the image's own pixels, and the region.

    Args:
        patch: P, pixels at the working scale. needed: see `split_good`.
    """
    index = index or ImageIndex()
    good = [sample.path for sample in samples if (sample.split, sample.label) == ("train", "good")]
    factors = [_factor(path, images, index) for path in good] if isinstance(images.scale, tuple) else [images.scale]
    side = math.ceil(patch / min(factors)) if factors else patch

    def bounds(path: Path) -> Box:
        with opened_image(path, images) as image:
            return find_roi(image, images.roi).box

    return split_good(samples, split, side, None if images.roi.everywhere else bounds, index, needed=needed)


def _factor(path: Path, images: ImageSettings, index: ImageIndex) -> float:
    header = index.header(path)
    height, width = working_size(header.height, header.width, images.scale)
    return min(height / header.height, width / header.width)
