"""Pictures of a stored result, made from its image and its map when they are asked for; and a model's card."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import numpy as np
import tifffile
from fastapi.responses import Response

from flawmap.core.documents import document
from flawmap.core.records import MappedInspection
from flawmap.imaging.png import png
from flawmap.reporting.pictures import heatmap, overlay, picture
from flawmap.scoring.inspection import Band, inspected
from flawmap.service.inspector import Model, unpacked_map
from flawmap.service.store import Result, Store

HEAT = 2.5  # thresholds: where the map's colours end


def answer(name: str, result: Result, store: Store, model: Model) -> Response:
    """One of answers.PICTURES. FileNotFoundError: it is not kept any more."""
    if name == "map":
        content = store.file(result.id, "map").read_bytes()
        return Response(content, media_type="application/octet-stream", headers={"Content-Encoding": "gzip"})
    if name == "evidence.tif":
        file = io.BytesIO()
        tifffile.imwrite(file, _map(result, store), compression="zlib")
        return Response(file.getvalue(), media_type="image/tiff")
    return Response(png(_PNG[name](result, store, model)), media_type="image/png")


def _map(result: Result, store: Store) -> Any:
    return unpacked_map(store.file(result.id, "map").read_bytes(), result.width, result.height)


def _image(result: Result, store: Store, model: Model) -> Any:
    return model.detectors[model.active].read(store.file(result.id, "image")).pixels


def decided(result: Result, store: Store, model: Model) -> MappedInspection:
    """The decision once more, from the kept map, at the operating point that made it."""
    residual = _map(result, store)
    point = model.detectors.get(result.point, model.detectors[model.active]).point().at(result.threshold)
    band = Band(0, np.zeros((*residual.shape, 1), np.float32), residual, None, np.ones(residual.shape, np.bool_))
    return inspected([band], point)


_PNG: dict[str, Callable[[Result, Store, Model], Any]] = {
    "mask.png": lambda result, store, model: decided(result, store, model).mask.astype(np.uint8) * 255,
    "overlay.png": lambda result, store, model: overlay(
        _image(result, store, model), decided(result, store, model).mask
    ),
    "evidence.png": lambda result, store, model: heatmap(_map(result, store), 0, HEAT * result.threshold),
    "image.png": lambda result, store, model: picture(_image(result, store, model)),
}


def card(model: Model) -> dict[str, Any]:
    """What a model is and what it is worth, as JSON's types."""
    artifact = model.artifact
    training = artifact.provenance.get("training", {})
    fields = {
        "name": model.name,
        "sha256": model.sha256,
        "method": artifact.config.method.name,
        "patch": artifact.config.model.patch,
        "unit": "evidence" if artifact.evidence is not None else "residual",
        "active": model.active,
        "points": {name: point.summary() for name, point in artifact.points.items()},
        "good_scores": {name: list(artifact.at_point(name).good_scores) for name in artifact.points},
        "opening": artifact.config.threshold.opening,
        "trained": {key: training[key] for key in ("steps", "seconds") if key in training},
        "check": artifact.check,
    }
    return document("model", fields)
