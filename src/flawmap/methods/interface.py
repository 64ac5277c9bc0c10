"""What a method is: the types of its row in `flawmap.methods.table`. A method is fitted to patches of good images, and
a fitted one scores patches of any other.

Shapes: N batch, C channels, P patch side.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from flawmap.core.group import ALONE, Group
from flawmap.core.runtime import Runtime
from flawmap.core.settings import MethodSettings

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray
    from torch import Tensor

    from flawmap.core.arrays import Array
    from flawmap.methods.config import Config
    from flawmap.nets.engines import Graph
    from flawmap.nets.layers import Ranges


class Patches(Protocol):
    """Where patches of good images come from; `flawmap.data.patches.PatchSource` is one."""

    def draw(self, count: int, rng: np.random.Generator) -> NDArray[np.int64]:
        """(count,) numbers of patches, drawn uniformly from all places where a patch fits."""

    def cut(self, drawn: NDArray[np.int64]) -> NDArray[np.float32]:
        """(count, C, P, P) in [0, 1]: the patches with these numbers."""


@dataclass(frozen=True)
class Row:
    """One line of a training's history. loss: mean since the row before. rate: the learning rate. seconds: so far."""

    step: int
    loss: float
    validation: float | None
    rate: float
    seconds: float


@dataclass(frozen=True)
class Progress:
    """What a caller is told after every row."""

    row: Row
    steps: int
    patches_per_second: float
    seconds_left: float


@dataclass(frozen=True)
class FitContext:
    """What a fit is given besides settings and patches.

    validation: (N, C, P, P) held-out good patches, for the history. checkpoint: a file to save the state to now and
    then, and to continue from with `resume`. data_digest: names the training data; a checkpoint of other data is
    refused. on_progress: called after every row of the history. looks: how many states of the fit a caller wants to
    compare, at even distances, its end among them; on_look: given each but the last, as a step and its tensors. group:
    the processes that share a training by gradients.
    """

    validation: NDArray[np.float32] | None = None
    checkpoint: Path | None = None
    resume: bool = False
    data_digest: str = ""
    on_progress: Callable[[Progress], None] = lambda progress: None
    looks: int = 1
    on_look: Callable[[int, dict[str, Tensor]], None] = lambda step, tensors: None
    group: Group = ALONE


@dataclass(frozen=True)
class State:
    """A fitted method, at rest.

    tensors: what the model file stores as weights. facts: whatever else scoring needs, as JSON's types.
    provenance: how the fit went, as JSON's types, for the model file; `training` holds its numbers. history: one row
    for each step that was logged. graph: the network of an exported model, instead of tensors. ranges: of its parts,
    for whole numbers of 8 bits; empty: not found.
    """

    tensors: dict[str, Tensor]
    facts: dict[str, Any] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)
    history: tuple[Row, ...] = ()
    graph: Graph | None = None
    ranges: tuple[Ranges, ...] = ()


class PatchScores(NamedTuple):
    """What a method says of N patches. At least one of both is given.

    residual: (N, K, P, P), (N, P, P) for K = 1 or, one for each patch, (N,); larger is worse. reconstruction:
    (N, C, P, P).
    """

    residual: Array | None
    reconstruction: Array | None = None


@dataclass(frozen=True)
class ImageEncoder:
    """The half of a network that sees an image once, where neighbouring patches share what it computes.

    encode: an image (1, C, H, W), whose sides are multiples of `spacing`, to its features (1, F, H / spacing,
    W / spacing). reach: pixels beyond its own square, of side `spacing`, that a feature depends on.
    """

    encode: Callable[[Array], Array]
    spacing: int
    reach: int


@dataclass(frozen=True)
class PatchScorer:
    """A fitted method that is ready to score.

    score: patches (N, C, P, P) float32 in [0, 1] to their scores; batches are of one size. It runs without gradients,
    unless it enables them itself. encoder: given where an image is encoded once; then score takes the patches' features
    (N, F, P / spacing, P / spacing), too.
    device: where the tensors lie that it takes and gives; None: it takes and gives NumPy's arrays. precision: of the
    network's arithmetic, "float32" or "bfloat16".
    compare: given where overlapping reconstructions are averaged before they are compared (Bergmann et al. 2019,
    section 4.2): an image and its reconstruction, (1, C, H, W) each, to (1, K, H, W). None: the residuals of patches
    are averaged.
    context: rows above and below a pixel that `compare` looks at. batch: most patches at once. parts: K, the number of
    residuals.
    """

    score: Callable[..., PatchScores]
    device: torch.device | None
    precision: str
    batch: int
    compare: Callable[[Array, Array], Array] | None = None
    context: int = 0
    parts: int = 1
    encoder: ImageEncoder | None = None


class Method(NamedTuple):
    """One row of the table.

    settings: a type of settings whose `name` has one value, the row's key. fit: settings, patches and context to a
    state. scorer: settings, a state and a runtime to what scores patches.
    """

    settings: type[MethodSettings]
    fit: Callable[[Config, Patches, FitContext], State]
    scorer: Callable[[Config, State, Runtime], PatchScorer]
