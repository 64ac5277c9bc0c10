"""The rows of an archive's images as detectors give them, through Ray Data: each image once, whatever dies on the way.

Ray repeats what a dead process or machine had begun, so rows come once each. Of images that kill detectors, see
`shared.Suspects`.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import pyarrow
import ray
from ray.data import ActorPoolStrategy, DataContext, Dataset, ExecutionResources, TaskPoolStrategy
from ray.exceptions import RayError

import flawmap
from flawmap.cluster import stages
from flawmap.cluster.shared import FirstSeen, Suspects, beside
from flawmap.core.errors import FlawmapError, LostProcessError
from flawmap.core.files import first_few

if TYPE_CHECKING:
    from flawmap.cluster.sources import Source
    from flawmap.cluster.workers import Workers

READ_AHEAD = 512 * 2**20  # bytes of files that wait for detectors, about
FILES_AT_ONCE = 32  # of a reading task, at most: a task's start costs as much as some small files


def rows_of(
    sources: Sequence[Source], scoring: stages.Scoring, workers: Workers, first: dict[str, str] | None
) -> Iterator[dict[str, Any]]:
    """The rows of images, as they are done. first: by hash the path that came first; None: duplicates are scored.

    Raises:
        ConfigError: a machine has another flawmap. OutputError: one has no room for an image. LostProcessError:
            detectors do not start, or die whatever the image.
    """
    seen = None if first is None else beside(FirstSeen, first)
    waiting = {source.path for source in sources}
    try:
        for row in _streamed(sources, scoring, workers, seen):
            if row["path"] in waiting:
                waiting.remove(row["path"])
                yield row
    except RayError as error:
        raise _explained(error) from error
    if waiting:
        raise LostProcessError(f"Ray lost {len(waiting)} images, such as {first_few(sorted(waiting))}; run it again")


def _streamed(
    sources: Sequence[Source], scoring: stages.Scoring, workers: Workers, seen: Any
) -> Iterator[dict[str, Any]]:
    with DataContext.current(_context()):
        scored = _planned(sources, scoring, workers, seen)
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # an error that ends the run is told once, by flawmap
    for table in scored.iter_batches(batch_format="pyarrow", batch_size=None):
        assert isinstance(table, pyarrow.Table)
        yield from table.to_pylist()


def _context() -> DataContext:
    """Ray Data's settings for one run; those of the process stay as they are."""
    context = DataContext.get_current().copy()
    context.enable_progress_bars = False
    context.execution_options.resource_limits = ExecutionResources(object_store_memory=READ_AHEAD)
    return context


def _planned(sources: Sequence[Source], scoring: stages.Scoring, workers: Workers, seen: Any) -> Dataset:
    """The stages of the stream, not begun yet."""
    actors = workers.actors or 1
    size = max(1, min(FILES_AT_ONCE, len(sources) // (4 * actors)))
    pieces = [sources[start : start + size] for start in range(0, len(sources), size)]
    listed = ray.data.from_arrow(
        [pyarrow.Table.from_pylist([one._asdict() for one in part], stages.SOURCES) for part in pieces]
    )
    files = listed.map_batches(
        partial(stages.read_files, seconds=workers.read_timeout, first_seen=seen),
        batch_format="pyarrow",
        batch_size=None,
        compute=TaskPoolStrategy(size=max(2, actors)),
        num_cpus=0,  # readers wait for disks and networks; the CPUs belong to the detectors
    )
    return files.map_batches(
        stages.ScoreImages,
        fn_constructor_args=(ray.put(scoring), flawmap.__version__, beside(Suspects)),
        batch_format="pyarrow",
        batch_size=None,
        compute=ActorPoolStrategy(size=actors),
        num_cpus=workers.cpus,
        num_gpus=workers.gpus,
    )


def _explained(error: RayError) -> FlawmapError:
    """The error of flawmap for which a task or a detector ended, or what Ray says."""
    found = _within(error)
    if found is None:
        return LostProcessError(f"{_first_line(error)}; what was scored stays, and the same command goes on")
    return type(found)(_first_line(found))  # Ray adds lines of its own


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0].rstrip(".")


def _within(error: BaseException) -> FlawmapError | None:
    """The error of flawmap that an error of Ray wraps."""
    inner = (getattr(error, "cause", None), error.__cause__, *error.args)
    found = next(filter(None, (_within(one) for one in inner if isinstance(one, BaseException))), None)
    return found or (error if isinstance(error, FlawmapError) else None)
