"""The data sets of the experiments: where they lie, and which settings each needs. No torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from flawmap.core.errors import ConfigError
from flawmap.core.settings import MethodSettings

FABRICS = ("fabric03", "fabric04")


@dataclass(frozen=True)
class DataSet:
    """A data set of the experiments.

    key: its short name. folder: below the folder of all data sets. title: its name for readers, with details after a
    comma or in brackets. changes: laid over a preset's settings for every training on it. residual: our own way to
    score it, laid over a method's; chosen by flaws pasted into good images, see `benchmarks/choose.py`.
    """

    key: str
    folder: str
    title: str
    changes: Mapping[str, Any] = field(hash=False)
    residual: Mapping[str, Any] = field(default_factory=dict, hash=False)

    def changes_for(self, method: MethodSettings) -> dict[str, Any]:
        """The changes that concern trainings by this method: a setting of methods counts for those that have it."""
        own = {key: value for key, value in self.changes.get("method", {}).items() if key in type(method).model_fields}
        return {**self.changes, "method": own}

    @property
    def short(self) -> str:
        """The title without its details."""
        return self.title.partition(",")[0].partition(" (")[0]


_FABRIC = {"split": {"last": 5}}
_WEAVE_RESIDUAL = {"ssim": {"window": "gaussian", "size": 11}, "smoothing": 4, "border_correction": True}
SETS: tuple[DataSet, ...] = (
    DataSet(
        "nanotwice",
        "nanotwice",
        "NanoTWICE (nanofibres)",
        {"method": {"latent": 500}},
        {"ssim": {"window": "uniform", "size": 11}, "smoothing": 8, "border_correction": True},
    ),
    DataSet(
        "grid",
        "mvtec_grid_512",
        "MVTec AD grid, scale 0.5",
        {"images": {"scale": 0.5}, "split": {"last": 60}},
        _WEAVE_RESIDUAL,
    ),
    DataSet(
        "fabric03",
        "aitex_fabric03",
        "AITEX fabric 03 (plain weave)",
        {"images": {"roi": {"box": (1280, 0, 4050, 256)}}, **_FABRIC},
        _WEAVE_RESIDUAL,
    ),
    DataSet(
        "fabric04",
        "aitex_fabric04",
        "AITEX fabric 04 (twill)",
        {"images": {"roi": {"box": (640, 0, 4050, 256)}}, **_FABRIC},
        _WEAVE_RESIDUAL,
    ),
)
"""The most important one first; fabric 04, on which nothing was chosen, last."""


def chosen_sets(keys: Sequence[str], sets: Sequence[DataSet] = SETS) -> tuple[DataSet, ...]:
    """The data sets of these keys, in the table's order; no keys: all. Raises ConfigError over an unknown key."""
    known = {dataset.key: dataset for dataset in sets}
    unknown = [key for key in keys if key not in known]
    if unknown:
        raise ConfigError(f"there is no set {unknown[0]!r}; the sets are {', '.join(known)}")
    return tuple(dataset for dataset in sets if not keys or dataset.key in keys)
