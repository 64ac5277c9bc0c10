"""Resident models and the queue in front of them: images are inspected side by side, as many as there are cores."""

from __future__ import annotations

import gzip
import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from threading import Lock
from typing import Any

import imagecodecs
import numpy as np

from flawmap.core.errors import ConfigError, FlawmapError, InputError
from flawmap.core.files import natural_key
from flawmap.core.parallel import LARGE_PIXELS, ImagePool
from flawmap.core.records import MappedInspection
from flawmap.core.runtime import Runtime
from flawmap.imaging.codecs import read_header
from flawmap.imaging.morphology import outline_of
from flawmap.scoring.detector import Detector
from flawmap.scoring.engine_choice import chosen
from flawmap.scoring.model_file import Artifact, load_artifact, model_sha256
from flawmap.service.store import Result, Store, new_id

NAME_LENGTH = 200  # letters of a sender's name for an image


class Busy(FlawmapError):
    """More images wait than the queue holds."""


@dataclass(frozen=True)
class Model:
    """A model that stays in memory. name: how requests call it. sha256: of its file as it was read."""

    name: str
    path: Path
    sha256: str
    detectors: Mapping[str, Detector]
    active: str

    @classmethod
    def load(cls, name: str, path: Path, runtime: Runtime, roi_masks: Path | None = None) -> Model:
        """Raises ArtifactError for a damaged file, ConfigError for a model without an operating point."""
        artifact = load_artifact(path).with_roi_masks(roi_masks)
        if not artifact.points:
            raise ConfigError(
                f"{path} has no operating point, so nothing can be decided; set one with `flawmap calibrate {path}`"
            )
        first = Detector.of(artifact, chosen(artifact, runtime, points=artifact.points.values()))
        points = {point: replace(first, artifact=artifact.at_point(point)) for point in artifact.points}
        return cls(name, path, model_sha256(path), points, artifact.active)

    @property
    def artifact(self) -> Artifact:
        return self.detectors[self.active].artifact

    def detector(self, point: str | None) -> tuple[str, Detector]:
        """At an operating point; None: the one that decides. InputError: an unknown one."""
        name = point or self.active
        if name not in self.detectors:
            raise InputError(
                f"no operating point {name!r} in the model {self.name}; it has {', '.join(self.detectors)}"
            )
        return name, self.detectors[name]


def loaded_models(paths: Sequence[Path], runtime: Runtime, roi_masks: Path | None = None) -> dict[str, Model]:
    """Models by their files' names without endings; a folder stands for the .flawmap files in it.

    Raises:
        ConfigError: two of one name, or a folder without models. See `Model.load`, too.
    """
    models: dict[str, Model] = {}
    for path in chain.from_iterable(map(_files, paths)):
        if path.stem in models:
            raise ConfigError(f"two models are called {path.stem}: {models[path.stem].path} and {path}; rename one")
        models[path.stem] = Model.load(path.stem, path, runtime, roi_masks)
    return models


def _files(path: Path) -> list[Path]:
    """The model files that a path stands for."""
    if not path.is_dir():
        return [path]
    found = sorted(path.glob("*.flawmap"), key=natural_key)
    if not found:
        raise ConfigError(f"no .flawmap file in the folder {path}; name model files, or a folder that holds some")
    return found


@dataclass(frozen=True)
class Job:
    """An image to be inspected. image: a file of this job alone, which goes when it is done or refused. name: the
    sender's."""

    image: Path
    name: str
    model: Model
    point: str | None = None
    accepted: float = 0.0


class Inspector:
    """Inspects images as they come, and stores what was found. Threads may share it.

    Args:
        queue: images that may wait or be under work; more are refused. keep: whether images and maps are kept.
        on_result: called after each result is stored, on a thread of the pool.
    """

    def __init__(
        self,
        store: Store,
        *,
        queue: int = 32,
        keep: bool = True,
        on_result: Callable[[Result], None] = lambda result: None,
    ) -> None:
        self.store, self.queue = store, queue
        self._keep, self._on_result = keep, on_result
        self._pool, self._lock, self._waiting = ImagePool(), Lock(), 0

    @property
    def waiting(self) -> int:
        """Images that wait or are under work."""
        return self._waiting

    def submit(self, job: Job) -> Future[Result]:
        """The stored result, in time.

        Raises:
            Busy: the queue is full. The future: InputError: the image cannot be read or scored; OutputError: the
                result cannot be stored.
        """
        with self._lock:
            if self._waiting >= self.queue:
                job.image.unlink(missing_ok=True)
                raise Busy(f"{self._waiting} images wait, and the queue holds {self.queue}; send this one later")
            self._waiting += 1
        future = self._pool.submit(self._inspect, replace(job, accepted=time.perf_counter()), _is_large)
        future.add_done_callback(lambda _: self._done(job))
        return future

    def _done(self, job: Job) -> None:
        with self._lock:
            self._waiting -= 1
        job.image.unlink(missing_ok=True)

    def _inspect(self, job: Job) -> Result:
        begun = time.perf_counter()
        point, detector = job.model.detector(job.point)
        try:
            found = detector.inspect(job.image)
        except InputError as error:  # names the image as its sender does
            raise type(error)(str(error).replace(str(job.image), clean_name(job.name))) from None
        ended, number = time.perf_counter(), new_id()
        content = job.image.read_bytes()
        kept = 0
        if self._keep:
            kept = self.store.keep(number, "image", content)
            kept += self.store.keep(number, "map", packed_map(found))
        regions = tuple(region.to_dict() | {"polygon": outline_of(found.mask, region.box)} for region in found.regions)
        timings = {"queued": begun - job.accepted, "inspected": ended - begun}
        result = Result(
            id=number,
            at=time.time(),
            name=clean_name(job.name),
            image_sha256=hashlib.sha256(content).hexdigest(),
            model=job.model.name,
            model_sha256=job.model.sha256,
            point=point,
            verdict=found.verdict,
            score=found.score,
            threshold=found.threshold,
            p_value=found.p_value,
            width=found.width,
            height=found.height,
            flawed_pixels=found.flawed_pixels,
            regions=regions,
            notes=found.notes,
            timings={name: round(seconds, 6) for name, seconds in timings.items()},
            bytes=kept,
        )
        self.store.add(result)
        self._on_result(result)
        return result

    def close(self) -> None:
        """Wait for what has begun; what waits is cancelled."""
        self._pool.close()


def _is_large(job: Job) -> bool:
    try:
        return read_header(job.image).pixels > LARGE_PIXELS
    except InputError:
        return False  # the inspection meets the same error


def packed_map(found: MappedInspection) -> bytes:
    """The opened map as gzip of float32, little-endian, row by row."""
    return bytes(imagecodecs.gzip_encode(np.ascontiguousarray(found.residual, "<f4").tobytes(), level=1))


def unpacked_map(content: bytes, width: int, height: int) -> Any:
    """(H, W) float32."""
    return np.frombuffer(gzip.decompress(content), "<f4").reshape(height, width)


def clean_name(name: str) -> str:
    """A sender's name for an image as a label: one line, no more than so many letters. It is never used as a path."""
    return "".join(letter if letter.isprintable() else "?" for letter in name)[:NAME_LENGTH] or "image"
