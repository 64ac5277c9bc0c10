"""The two stages of an archive's pipeline, as they run on the machines of a cluster: reading, and scoring."""

from __future__ import annotations

import errno
import hashlib
import os
import platform
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow
import torch

from flawmap.cluster.limits import in_memory, within
from flawmap.cluster.parts import COLUMNS
from flawmap.cluster.sources import is_url, opened_system
from flawmap.cluster.workers import check_version
from flawmap.core.errors import InputError, OutputError
from flawmap.core.runtime import Runtime
from flawmap.imaging.reading import opened_image
from flawmap.imaging.threads import one_opencv_thread
from flawmap.imaging.writing import write_image
from flawmap.scoring.detector import Detector
from flawmap.scoring.inspection import InspectionBuilder
from flawmap.scoring.model_file import Artifact

SOURCES = pyarrow.schema([("path", pyarrow.string()), ("place", pyarrow.binary())])
FILES = pyarrow.schema(
    [
        ("path", pyarrow.string()),
        ("content", pyarrow.large_binary()),
        ("image_sha256", pyarrow.string()),
        ("error", pyarrow.string()),
        ("duplicate_of", pyarrow.string()),
    ]
)
SCORED = COLUMNS.append(pyarrow.field("mask", pyarrow.large_binary()))


class Scoring(NamedTuple):
    """What decides the scores. threshold: instead of the model's own. masks: whether rows carry the mask as PNG.
    threads: of torch, for each detector."""

    artifact: Artifact
    model_sha256: str
    runtime: Runtime
    threshold: float | None
    masks: bool
    threads: int


def read_files(batch: pyarrow.Table, seconds: float, first_seen: Any = None) -> Iterator[pyarrow.Table]:
    """SOURCES to FILES, an image at a time: its bytes and their hash, or why they cannot be had.

    seconds: that each may take. first_seen: a handle of `shared.FirstSeen`; images whose bytes came before are marked
    and not handed on. None: all are.
    """
    for source in batch.to_pylist():
        row: dict[str, Any] = {"path": source["path"]}
        try:
            row["content"] = within(seconds, partial(_content, source["place"]))
            row["image_sha256"] = hashlib.sha256(row["content"]).hexdigest()
        except Exception as error:  # a file system's driver may raise what it wants; the archive goes on
            row["error"] = _reason(error)
        if first_seen is not None and "error" not in row:
            import ray  # noqa: PLC0415 - of the extra

            first = ray.get(first_seen.claim.remote(row["image_sha256"], row["path"]))
            if first != row["path"]:
                row |= {"content": None, "duplicate_of": first}
        yield pyarrow.Table.from_pylist([row], FILES)


class ScoreImages:
    """A detector that stays, and scores FILES to SCORED. What cannot be scored is a row with an error."""

    def __init__(self, stored: Any, version: str, suspects: Any) -> None:
        """A detector on this machine.

        Args:
            stored: a `Scoring` in Ray's object store, so that all machines score by the very same model.
            version: of the flawmap that stored it. suspects: a handle of `shared.Suspects`.
        Raises:
            ConfigError: this machine has another version.
        """
        import ray  # noqa: PLC0415 - of the extra

        check_version(version)
        scoring: Scoring = ray.get(stored)
        torch.set_num_threads(scoring.threads)
        self._scoring, self._detector = scoring, Detector.of(scoring.artifact, scoring.runtime)
        self._suspects, self._name = suspects, ray.get_runtime_context().get_actor_id()
        self._died, killers = ray.get(suspects.started.remote(self._name))
        self._killers = frozenset(killers)

    def __call__(self, batch: pyarrow.Table) -> Iterator[pyarrow.Table]:
        with tempfile.TemporaryDirectory(prefix="flawmap-") as folder:  # one for all: removing it may take 10 ms
            for number in range(len(batch)):
                (file,) = batch.slice(number, 1).to_pylist()
                yield pyarrow.Table.from_pylist([self._row(file, Path(folder))], SCORED)

    def _row(self, file: dict[str, Any], folder: Path) -> dict[str, Any]:
        content = file.pop("content")
        row = file | {"model_sha256": self._scoring.model_sha256}
        if content is None:
            return row
        if file["path"] in self._killers:
            return row | {"error": "it killed its detector, again and again; try it by flawmap inspect without --ray"}
        if self._died:
            import ray  # noqa: PLC0415 - of the extra

            ray.get(self._suspects.begun.remote(self._name, file["path"]))
        start = time.perf_counter()
        place = _beside(folder, file["path"])
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(content)
            with one_opencv_thread():
                row |= in_memory(self._detector, lambda detector: self._found(detector, place, folder))
        except Exception as error:  # one image of millions must not end the others' work
            if isinstance(error, OSError) and error.errno == errno.ENOSPC:
                raise OutputError(f"{platform.node()} has no room for an image in {folder}: {error}") from error
            row["error"] = _reason(error).replace(str(place), file["path"])
        finally:
            with suppress(OSError):  # it was not written
                place.unlink()
        return row | {"seconds": time.perf_counter() - start}

    def _found(self, detector: Detector, place: Path, folder: Path) -> dict[str, Any]:
        """What `flawmap inspect` finds in an image, by the same steps."""
        with opened_image(place, detector.config.images) as image:
            builder = InspectionBuilder(detector.point(self._scoring.threshold))
            for band in detector.scan(image):
                builder.add(band)
            found = builder.inspection(place, image.notes, detector.artifact.good_scores).to_dict()
        mask = _png(np.concatenate(list(builder.masks())), folder / "mask.png") if self._scoring.masks else None
        names = set(COLUMNS.names) - {"path"}
        return {name: value for name, value in found.items() if name in names} | {"mask": mask}


def _content(place: bytes) -> bytes:
    """The bytes of a file or of what a URL names."""
    name = os.fsdecode(place)
    if not is_url(name):
        path = Path(name)
        if path.exists() and not path.is_file():
            raise InputError(f"{path} is not a regular file; pipes, sockets and devices are not read")
        return path.read_bytes()
    system, inside = opened_system(name)
    return bytes(system.cat_file(inside))


def _beside(folder: Path, path: str) -> Path:
    """A place in a folder that ends as the path does, for a region of interest that is found by the image's name."""
    parts = [part for part in path.replace("://", "/").split("/") if part not in ("", ".", "..")]
    return folder.joinpath("image", *parts[-3:])


def _png(mask: Any, place: Path) -> bytes:
    write_image(place, mask, quick=True)
    return place.read_bytes()


def _reason(error: Exception) -> str:
    """Why an image has no score; of errors that nobody foresaw with their kind."""
    if isinstance(error, InputError):
        return str(error)
    if isinstance(error, FileNotFoundError):
        return "no such file"
    return f"{type(error).__name__}: {error}"
