"""Defects that people have drawn as shapes: labelme's JSON beside each image, COCO's JSON for all of them."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Literal, NamedTuple, TypeVar

import numpy as np
from PIL import Image, ImageDraw
from pydantic import BaseModel, Field, ValidationError

from flawmap.core.errors import InputError
from flawmap.core.records import Mask

Number = Annotated[float, Field(allow_inf_nan=False, ge=-1e7, le=1e7)]
Point = tuple[Number, Number]


class Shape(NamedTuple):
    """One defect, in pixels of its image. The top left pixel reaches from (0, 0) to (1, 1), as in labelme and COCO.

    kind: "polygon" of at least three points; "rectangle" by two opposite corners; "circle" by its centre and a point on
    it; "runs": `runs` are the lengths of good and defective pixels in turn, good first, down one column after another;
    "patch": a mask, `patch`, whose top left pixel lies at the one point.
    """

    kind: Literal["polygon", "rectangle", "circle", "runs", "patch"]
    points: tuple[tuple[float, float], ...] = ()
    runs: tuple[int, ...] = ()
    patch: bytes = b""  # a PNG


class Drawing(NamedTuple):
    """What is drawn on one image. file: its name in the annotations. size: (H, W) by the annotations, or None."""

    file: str
    size: tuple[int, int] | None
    shapes: tuple[Shape, ...]
    labels: tuple[str, ...]

    @property
    def kind(self) -> str:
        """The kinds of defect on it, as one name."""
        return "+".join(sorted(set(self.labels))) or "defective"


def rasterised(shapes: Iterable[Shape], shape: tuple[int, int], name: str) -> Mask:
    """The union of shapes on an image of (H, W), as bool; outlines belong to them, as labelme draws them.

    Raises:
        InputError: runs that do not cover the image, or a mask in a mask that cannot be read; it begins with `name`.
    """
    height, width = shape
    picture = Image.new("L", (width, height))
    pen = ImageDraw.Draw(picture)
    mask = np.zeros(shape, np.bool_)
    for drawn in shapes:
        if drawn.kind == "runs":
            mask |= _from_runs(drawn.runs, shape, name)
        elif drawn.kind == "patch":
            left, top = (round(side) for side in drawn.points[0])
            picture.paste(255, (left, top), _patch(drawn.patch, shape, name))
        elif drawn.kind == "polygon":
            pen.polygon(drawn.points, fill=255, outline=255)
        elif drawn.kind == "rectangle":
            (left_, top_), (right, bottom) = np.sort(np.array(drawn.points), axis=0).tolist()
            pen.rectangle((left_, top_, right, bottom), fill=255, outline=255)
        else:
            (x, y), rim = drawn.points
            radius = float(np.hypot(rim[0] - x, rim[1] - y))
            pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=255, outline=255)
    return np.asarray(mask | (np.asarray(picture) > 0))


def _from_runs(runs: Sequence[int], shape: tuple[int, int], name: str) -> Mask:
    if sum(runs) != shape[0] * shape[1]:
        raise InputError(f"{name}: run lengths cover {sum(runs):,} pixels, the image has {shape[0] * shape[1]:,}")
    values = np.repeat(np.arange(len(runs)) % 2 == 1, runs)
    return np.ascontiguousarray(values.reshape(shape[::-1]).T)


def _patch(data: bytes, shape: tuple[int, int], name: str) -> Image.Image:
    try:
        with Image.open(io.BytesIO(data), formats=["PNG"]) as image:
            if image.width > shape[1] or image.height > shape[0]:
                raise InputError(f"{name}: a mask of {image.width} x {image.height} does not fit into the image")
            return image.convert("L").point(lambda value: 255 * (value > 0))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise InputError(f"{name}: a mask in it cannot be read: {error}") from None


# -------------------------------------------------------------------------------------------------------------- labelme


class _LabelmeShape(BaseModel):
    label: str = "defective"
    points: list[Point]
    shape_type: str = "polygon"
    mask: str | None = None


class _Labelme(BaseModel):  # fields have labelme's names
    shapes: list[_LabelmeShape]
    imageHeight: int | None = None
    imageWidth: int | None = None


def read_labelme(path: Path) -> Drawing:
    """The shapes in a JSON file of labelme: polygons, rectangles, circles and masks.

    Raises:
        InputError: it is no such file, or has shapes without an area (points, lines).
    """
    found = _read(_Labelme, path, "labelme's")
    size = (found.imageHeight, found.imageWidth)
    shapes = tuple(_labelme_shape(shape, path) for shape in found.shapes)
    labels = tuple(shape.label for shape in found.shapes)
    whole = None if size[0] is None or size[1] is None else (size[0], size[1])
    return Drawing(path.stem, whole, shapes, labels)


def _labelme_shape(shape: _LabelmeShape, path: Path) -> Shape:
    points = tuple(shape.points)
    needed = {"polygon": 3, "rectangle": 2, "circle": 2, "mask": 1}
    if shape.shape_type not in needed:
        raise InputError(
            f"{path}: a {shape.shape_type} is no area; draw polygons, rectangles, circles or masks around defects"
        )
    if len(points) < needed[shape.shape_type] or (shape.shape_type != "polygon" and len(points) > 2):
        raise InputError(f"{path}: a {shape.shape_type} with {len(points)} points is no area")
    if shape.shape_type == "mask":
        try:
            return Shape("patch", points[:1], patch=base64.b64decode(shape.mask or "", validate=True))
        except ValueError as error:
            raise InputError(f"{path}: a mask in it cannot be read: {error}") from None
    kinds: dict[str, Literal["polygon", "rectangle", "circle"]] = {"rectangle": "rectangle", "circle": "circle"}
    return Shape(kinds.get(shape.shape_type, "polygon"), points)


def looks_like_labelme(path: Path) -> bool:
    """Whether a JSON file beside an image is labelme's; False for anything else that may lie there."""
    return _has_lists(path, "shapes")


# ----------------------------------------------------------------------------------------------------------------- COCO


class _CocoImage(BaseModel):
    id: int | str
    file_name: str
    height: int | None = None
    width: int | None = None


class _CocoRuns(BaseModel):
    counts: str | list[Annotated[int, Field(ge=0)]]


class _CocoAnnotation(BaseModel):
    image_id: int | str
    category_id: int | str = ""
    segmentation: list[list[Number]] | _CocoRuns | None = None
    bbox: list[Number] | None = None


class _CocoCategory(BaseModel):
    id: int | str
    name: str


class _Coco(BaseModel):
    images: list[_CocoImage]
    annotations: list[_CocoAnnotation]
    categories: list[_CocoCategory] = []


def looks_like_coco(path: Path) -> bool:
    """Whether a JSON file holds COCO's lists of images and annotations."""
    return _has_lists(path, "images", "annotations")


def read_coco(path: Path) -> tuple[Drawing, ...]:
    """Each image of a COCO file with what is drawn on it: polygons, run lengths, or else the box.

    Raises:
        InputError: it is no such file.
    """
    found = _read(_Coco, path, "COCO")
    names = {category.id: category.name for category in found.categories}
    drawn: dict[int | str, list[tuple[str, tuple[Shape, ...]]]] = {image.id: [] for image in found.images}
    for annotation in found.annotations:
        if annotation.image_id not in drawn:
            raise InputError(f"{path}: an annotation belongs to the image {annotation.image_id}, which is not listed")
        name = names.get(annotation.category_id, str(annotation.category_id))
        drawn[annotation.image_id].append((name, _coco_shapes(annotation, path)))
    return tuple(
        Drawing(
            image.file_name,
            None if image.height is None or image.width is None else (image.height, image.width),
            tuple(shape for _, shapes in drawn[image.id] for shape in shapes),
            tuple(name for name, _ in drawn[image.id]),
        )
        for image in found.images
    )


def _coco_shapes(annotation: _CocoAnnotation, path: Path) -> tuple[Shape, ...]:
    drawn = annotation.segmentation
    if isinstance(drawn, _CocoRuns):
        runs = drawn.counts if isinstance(drawn.counts, list) else _unpacked(drawn.counts, path)
        return (Shape("runs", runs=tuple(runs)),)
    if drawn:
        if any(len(numbers) < 6 or len(numbers) % 2 for numbers in drawn):
            raise InputError(f"{path}: a polygon needs at least three points, each of two numbers")
        return tuple(Shape("polygon", tuple(zip(numbers[::2], numbers[1::2], strict=True))) for numbers in drawn)
    if annotation.bbox and len(annotation.bbox) == 4:
        left, top, width, height = annotation.bbox
        return (Shape("rectangle", ((left, top), (left + max(width - 1, 0), top + max(height - 1, 0)))),)
    raise InputError(f"{path}: an annotation of the image {annotation.image_id} has neither segmentation nor bbox")


def _unpacked(text: str, path: Path) -> list[int]:
    """COCO's packed run lengths: groups of five bits, a sixth in all but the last; differences from the third on.

    Reference: maskApi.c of pycocotools, rleFrString.
    """
    runs: list[int] = []
    value, bits = 0, 0
    for letter in text:
        code = ord(letter) - 48
        if not 0 <= code < 64:
            raise InputError(f"{path}: run lengths hold the letter {letter!r}, which has no meaning there")
        value |= (code & 31) << bits
        bits += 5
        if code & 32:
            continue
        if code & 16:
            value -= 1 << bits
        runs.append(value + (runs[-2] if len(runs) > 2 else 0))
        value, bits = 0, 0
    if bits or min(runs, default=0) < 0:
        raise InputError(f"{path}: its run lengths are damaged")
    return runs


# ----------------------------------------------------------------------------------------------------------------- JSON

Model = TypeVar("Model", bound=BaseModel)


def _read(model: type[Model], path: Path, what: str) -> Model:
    try:
        return model.model_validate(json.loads(path.read_text(encoding="utf-8-sig")))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"]) or "the file"
        raise InputError(f"{path} is not {what} annotations: {place}: {first['msg']}") from None
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path} is not a JSON file in UTF-8: {error}") from None


def _has_lists(path: Path, *names: str) -> bool:
    """Whether a JSON file is a dictionary that has lists of these names."""
    try:
        text = path.read_bytes()
        data = json.loads(text) if all(f'"{name}"'.encode() in text for name in names) else None
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(data, dict) and all(isinstance(data.get(name), list) for name in names)
