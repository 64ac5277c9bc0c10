"""Scoring an archive on Ray: a stream from the listing through readers and resident detectors into parts."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from flawmap.cluster.workers import Workers, actors_of, check_installed, started
from flawmap.core.errors import ConfigError
from flawmap.core.events import SILENT, Events
from flawmap.core.files import atomic, writable_folder
from flawmap.core.runtime import Runtime
from flawmap.scoring.detector import Detector
from flawmap.scoring.model_file import load_artifact, model_sha256

if TYPE_CHECKING:
    from flawmap.cluster.parts import Parts
    from flawmap.cluster.sources import Source
    from flawmap.cluster.stages import Scoring


@dataclass(frozen=True)
class ArchiveOutputs:
    """What is decided by and written. threshold: instead of the model's own. masks: PATH_mask.png of every image.
    skip_duplicates: images with the same bytes as another one get a row that names it, and no scores."""

    threshold: float | None = None
    masks: bool = False
    skip_duplicates: bool = False


@dataclass(frozen=True)
class ArchiveSummary:
    """What became of an archive. images: all of it; before: done by earlier runs; the others: of this run alone.

    seconds: of this run. utilisation: the share of the detectors' time that images took, without start-up of the
    cluster but with that of the detectors; None: nothing was scored. waiting: images that a run would score, by their
    rows' paths; None: it was no dry run.
    """

    folder: str
    images: int
    before: int
    scored: int = 0
    flawed: int = 0
    unreadable: int = 0
    duplicates: int = 0
    actors: int = 0
    seconds: float = 0.0
    utilisation: float | None = None
    waiting: tuple[str, ...] | None = None
    dry_run: bool = False

    @property
    def remaining(self) -> int:
        return self.images - self.before - self.scored - self.unreadable - self.duplicates


def score_archive(
    model: Path,
    inputs: Sequence[Path | str],
    out: Path,
    *,
    workers: Workers | None = None,
    outputs: ArchiveOutputs | None = None,
    runtime: Runtime | None = None,
    point: str | None = None,
    dry_run: bool = False,
    events: Events = SILENT,
) -> ArchiveSummary:
    """Score the images of an archive that have no row in the output folder yet.

    Args:
        inputs: see `cluster.sources.sources_of`. dry_run: look at what is to be done, and start nothing.
    Raises:
        InputError: Ray is not installed, or there is no image. ConfigError: the model has no threshold, or the folder
            holds scores of another model or other settings. OutputError: the disk is full; what was written stays.
    """
    check_installed()
    from flawmap.cluster.parts import check_run, opened_folder, read_scores  # noqa: PLC0415 - needs the extra
    from flawmap.cluster.sources import sources_of  # noqa: PLC0415
    from flawmap.cluster.stream import rows_of  # noqa: PLC0415

    workers, outputs = workers or Workers(), outputs or ArchiveOutputs()
    scoring = _scoring(model, workers, outputs, runtime or Runtime(), point)
    sources = sources_of(inputs)
    run = _identity(scoring, inputs, outputs)
    check_run(out, run)
    waiting = _without(sources, read_scores(out, ["path"])["path"].to_pylist())
    named = tuple(source.path for source in waiting) if dry_run else None
    summary = ArchiveSummary(str(out), len(sources), len(sources) - len(waiting), waiting=named, dry_run=dry_run)
    events.message(f"{summary.before} of {summary.images} images are done, {summary.remaining} remain")
    if dry_run or not summary.remaining:
        return summary
    with opened_folder(writable_folder(out), run) as parts, started(workers.address):
        before = read_scores(out, ["path", "image_sha256", "duplicate_of"]).to_pylist()
        first = {row["image_sha256"]: row["duplicate_of"] or row["path"] for row in before if row["image_sha256"]}
        workers = replace(workers, actors=actors_of(workers))
        waiting = _without(sources, (row["path"] for row in before))
        rows = rows_of(waiting, scoring, workers, first if outputs.skip_duplicates else None)
        return _gathered(rows, parts, summary, workers, events)


def _scoring(model: Path, workers: Workers, outputs: ArchiveOutputs, runtime: Runtime, point: str | None) -> Scoring:
    from flawmap.cluster.stages import Scoring  # noqa: PLC0415 - needs the extra

    runtime = workers.placed(runtime)
    artifact = load_artifact(model).at_point(point)
    if not workers.gpus:  # one precision for all machines, that of this one
        detector = Detector.of(artifact, runtime)
        runtime = replace(detector.runtime, precision=detector.precision_name)
        detector.point(outputs.threshold)
    elif artifact.threshold is None and outputs.threshold is None:
        raise ConfigError(f"{model} has no threshold; give one with --threshold")
    return Scoring(artifact, model_sha256(model), runtime, outputs.threshold, outputs.masks, workers.threads)


def _identity(scoring: Scoring, inputs: Sequence[Path | str], outputs: ArchiveOutputs) -> dict[str, Any]:
    """What decides the rows of a folder; a run with another identity is refused."""
    from flawmap.cluster.sources import is_url, without_secrets  # noqa: PLC0415 - needs the extra

    names = [without_secrets(str(one)) if is_url(str(one)) else str(Path(one).absolute()) for one in inputs]
    return {
        "inputs": sorted(names),
        "model_sha256": scoring.model_sha256,
        "point": scoring.artifact.active,
        "device": scoring.runtime.device,
        "precision": scoring.runtime.precision,
        "engine": scoring.runtime.engine,
        **asdict(outputs),
    }


def _without(sources: Sequence[Source], paths: Iterable[str]) -> list[Source]:
    """The images whose rows have none of these paths."""
    done = set(paths)
    return [source for source in sources if source.path not in done]


def _gathered(
    rows: Iterator[dict[str, Any]], parts: Parts, summary: ArchiveSummary, workers: Workers, events: Events
) -> ArchiveSummary:
    """Write rows as they come, and tell how it goes."""
    start, busy, number, todo = time.monotonic(), 0.0, workers.actors or 1, summary.remaining
    summary = replace(summary, actors=number)
    for row in rows:
        mask = row.pop("mask")
        if mask is not None:
            _write_mask(Path(summary.folder), row["path"], mask)
        parts.add(row)
        busy += row["seconds"] or 0.0
        passed = time.monotonic() - start
        summary = replace(_counted(summary, row), seconds=passed, utilisation=min(1.0, busy / (number * passed)))
        done = todo - summary.remaining
        left = summary.remaining * passed / done
        speed = f"{done / passed:.1f} images/s, {left / 60:.1f} min left, detectors busy {summary.utilisation:.0%}"
        events.progress(summary.images - summary.remaining, summary.images, speed)
    return summary


def _counted(summary: ArchiveSummary, row: dict[str, Any]) -> ArchiveSummary:
    if row["error"] is not None:
        return replace(summary, unreadable=summary.unreadable + 1)
    if row["duplicate_of"] is not None:
        return replace(summary, duplicates=summary.duplicates + 1)
    return replace(summary, scored=summary.scored + 1, flawed=summary.flawed + (row["verdict"] == "flawed"))


def _write_mask(out: Path, path: str, mask: bytes) -> None:
    """OUT/masks/PATH_mask.png. The whole path with its suffix, so that a.png and a.bmp do not meet."""
    parts = [part for part in PurePosixPath(path.replace("://", "/")).parts if part not in ("/", "..")]
    place = (out / "masks").joinpath(*parts)
    writable = place.parent
    writable.mkdir(parents=True, exist_ok=True)
    with atomic(place.with_name(f"{place.name}_mask.png")) as file:
        file.write_bytes(mask)
