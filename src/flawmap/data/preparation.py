"""The images to train on: looked over once, before any of them is split, cut or trained on."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from flawmap.core.errors import InputError
from flawmap.core.events import SILENT, Events
from flawmap.core.files import first_few
from flawmap.core.settings import ImageSettings
from flawmap.data.facts import ImageFacts, ImageStatistics, all_statistics, image_facts, outliers
from flawmap.data.index import ImageIndex
from flawmap.data.loading import advised, load_region, working_region_size
from flawmap.data.samples import Sample
from flawmap.data.splits import ImageRegion

NAMED = 12
"""Images that are named at most, of each reason."""


@dataclass(frozen=True)
class TrainingSet:
    """What is left to train on. samples: all samples but those left out. facts: of the images to train on.

    left_out: images that were left out, and why.
    """

    samples: tuple[Sample, ...]
    facts: ImageFacts
    left_out: tuple[tuple[Path, str], ...]


def training_set(
    samples: Sequence[Sample],
    images: ImageSettings,
    patch: int,
    *,
    pad: bool = False,
    skip_unreadable: bool = False,
    skip_outliers: bool = False,
    index: ImageIndex | None = None,
    events: Events = SILENT,
) -> TrainingSet:
    """Read all images to train on and to validate, leave out what cannot be trained on, and say what they are like.

    Args:
        patch: P, pixels. pad: whether images that are smaller are extended by reflection; else they are left out.
        skip_unreadable, skip_outliers: leave such images out; else an unreadable image stops the training.
        events: told of images that are left out or unlike the others, of channels and bit depth, and of progress.
    Raises:
        InputError: an image cannot be read and is not to be left out; none is left; or grey and colour are mixed.
    """
    index = index or ImageIndex()
    paths = [sample.path for sample in samples if sample.split != "test"]
    readable, left_out = _readable(paths, images, events, skip=skip_unreadable)
    strange = dict(outliers(readable))
    if skip_outliers:
        readable = [image for image in readable if image.path not in strange]
        left_out.update({path: f"unlike the others: {reason}" for path, reason in strange.items()})
    elif strange:
        named = first_few((f"{path}: {reason}" for path, reason in strange.items()), NAMED, "; ")
        events.message(f"{len(strange)} of {len(paths)} images are unlike the others: {named}")
        events.message("look at them; --skip-outliers leaves them out")
    least = -(-(patch + 2) // 3) if pad else patch  # reflection at both ends makes a side three times as long, less 2
    sizes = {image.path: _working_size(ImageRegion(image.path, ""), images, index) for image in readable}
    small = {path: size for path, size in sizes.items() if min(size) < least}
    too_small = _too_small(small, len(paths), patch, pad=pad)
    if small:
        events.message(too_small)
        left_out.update(dict.fromkeys(small, "smaller than a patch"))
        readable = [image for image in readable if image.path not in small]
    for path, reason in left_out.items():
        if path not in small:
            events.message(f"left out {path}: {reason}")
    kept = tuple(sample for sample in samples if sample.path not in left_out)
    if left_out and not any(sample.split == "train" for sample in kept):
        if small:
            raise InputError(f"no image is left to train on: {too_small}; or take a smaller patch")
        path, reason = next(iter(left_out.items()))
        named = reason if str(path) in reason else f"{path} is {reason}"
        raise InputError(f"none of {len(paths)} images is left to train on: {named}")
    facts = image_facts(readable, images)
    for sentence in facts.sentences:
        events.message(sentence)
    return TrainingSet(kept, facts, tuple(left_out.items()))


def _readable(
    paths: Sequence[Path], images: ImageSettings, events: Events, *, skip: bool
) -> tuple[list[ImageStatistics], dict[Path, str]]:
    found: list[ImageStatistics] = []
    left_out: dict[Path, str] = {}
    with closing(all_statistics(paths, images)) as statistics:
        for path, image in zip(paths, statistics, strict=True):
            if isinstance(image, ImageStatistics):
                found.append(image)
            elif skip:
                left_out[path] = str(image)
            else:
                with advised():
                    raise image
            events.progress(len(found) + len(left_out), len(paths), str(path))
    return found, left_out


def _working_size(area: ImageRegion, images: ImageSettings, index: ImageIndex) -> tuple[int, int]:
    """(height, width)."""
    if images.roi.masks is None and images.roi.brightness is None:
        return working_region_size(area, index.header(area.path), images)[1]
    height, width, _ = load_region(area, images).rows.shape
    return height, width


def _too_small(small: dict[Path, tuple[int, int]], total: int, patch: int, *, pad: bool) -> str:
    size = f"a third of a patch ({patch} x {patch})" if pad else f"a patch ({patch} x {patch})"
    names = first_few((f"{path} ({width} x {height})" for path, (height, width) in small.items()), NAMED)
    advice = "" if pad else "; --set tiling.pad=true trains on them with reflected borders"
    return f"{len(small)} of {total} images are smaller than {size} and are left out: {names}{advice}"
