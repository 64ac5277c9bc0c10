"""From an image file to its mask, beside a plain PyTorch script that goes patch by patch; and how long one image waits.

    python benchmarks/inspection.py [--repeats 7] [--threads N] [--images 8] [--model FILE --data FOLDER] [--json FILE]

Without a model, one of table 1 with 500 latent dimensions is initialised on fibres like NanoTWICE's: how long it
takes does not depend on the weights. The image has 1024 x 696 pixels, the stride is 30 where a row names no other:
620 patches. What wider strides cost in quality, strides.py tells. The plain script is the obvious one: patches one by
one through the network in contiguous float32, added up where they overlap, SSIM by grouped convolutions, one grey
opening, a threshold. "times" is how many times as fast as the first row of the case. Floor: the network's operations
at the rate of this machine's largest product of matrices in the same numbers, measured beside it. The folder goes
through `flawmap inspect`, with masks and overlays; its milliseconds are of one image.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

import flawmap
import step
from flawmap.core.runtime import Runtime
from flawmap.data.finding import find_images
from flawmap.data.patches import PatchSource, TrainingImage
from flawmap.data.synthetic import good_images
from flawmap.imaging.morphology import opened
from flawmap.imaging.writing import write_image
from flawmap.methods.autoencoder import build_network
from flawmap.methods.overrides import override
from flawmap.methods.presets import preset
from flawmap.nets.similarity import CONSTANTS
from flawmap.nets.ssim import window_weights
from flawmap.scoring.detector import Detector
from flawmap.scoring.model_file import DEFAULT, Artifact, save_artifact
from flawmap.scoring.operating_point import OperatingPoint
from flawmap.scoring.tiling import Grid
from measuring import Row, medians, parsed, parser, report

SIZE, LATENT, STRIDE, SEED = (1024, 696), 500, 30, 0
CHANGES = {
    "model": {"channels": 1},
    "method": {"latent": LATENT},
    "tiling": {"stride": STRIDE},
    "residual": {"ssim": {"constants": "wang"}},
}
WAYS: dict[str, dict[str, Any]] = {
    "": {},
    "stride 44": {"stride": 44},
    "stride 60": {"stride": 60},
    "stride 84": {"stride": 84},
    "encoder once, stride 64": {"stride": 64, "encoder": "image"},
}
SIDES = (128, 256, 512)  # of small images, for their latency
PRODUCT = 2048  # side of the matrices whose product gives the rate


def initialised(images: Sequence[NDArray[np.float32]]) -> Artifact:
    """A model that was not trained, with a threshold."""
    config = override(preset("fast"), CHANGES)
    network = step.initialised(config, PatchSource(map(TrainingImage, images), config.model.patch))
    return Artifact(config, network.state_dict(), {DEFAULT: OperatingPoint(threshold=0.9)}, {}, {"data": {"split": {}}})


@torch.no_grad()
def by_patches(network: nn.Module, detector: Detector, path: Path) -> NDArray[np.bool_]:
    """What a plain script does: one patch at a time, in float32."""
    image = torch.from_numpy(detector.read(path).pixels.transpose(2, 0, 1).copy())
    total, cover = torch.zeros_like(image), torch.zeros_like(image)
    side = detector.config.model.patch
    for top, left in Grid(side, STRIDE).positions((image.shape[1], image.shape[2])):
        place = (slice(None), slice(top, top + side), slice(left, left + side))
        total[place] += network(image[place][None])[0]
        cover[place] += 1
    rebuilt = total / cover
    residual = (1 - plain_ssim(image[None], rebuilt[None], window_of(detector))) / 2
    found = np.zeros(image.shape[1:], np.float32)
    margin = (image.shape[1] - residual.shape[2]) // 2
    found[margin:-margin, margin:-margin] = residual[0, 0]
    limit = detector.artifact.threshold
    assert limit is not None
    return opened(found, detector.config.threshold.opening) > limit


def window_of(detector: Detector) -> Tensor:
    """The detector's window as pytorch-msssim has it, (1, 1, 1, K)."""
    return window_weights(detector.config.residual.ssim).float()[None, None, None]


def plain_ssim(p: Tensor, q: Tensor, window: Tensor) -> Tensor:
    """The map of SSIM as pytorch-msssim computes it before it takes the mean."""
    from pytorch_msssim.ssim import gaussian_filter  # noqa: PLC0415 - of the dev extra

    c1, c2 = CONSTANTS["wang"]
    mean_p, mean_q = gaussian_filter(p, window), gaussian_filter(q, window)
    sigma_p = gaussian_filter(p * p, window) - mean_p**2
    sigma_q = gaussian_filter(q * q, window) - mean_q**2
    sigma_pq = gaussian_filter(p * q, window) - mean_p * mean_q
    above = (2 * mean_p * mean_q + c1) * (2 * sigma_pq + c2)
    similarity: Tensor = above / ((mean_p**2 + mean_q**2 + c1) * (sigma_p + sigma_q + c2))
    return similarity


def operations(network: nn.Module, side: int) -> int:
    """Multiplications and additions of a patch's way through the network's convolutions."""
    found: list[int] = []

    def note(layer: nn.Module, given: tuple[Tensor], made: Tensor) -> None:
        assert isinstance(layer, nn.Conv2d | nn.ConvTranspose2d)
        inner = layer.kernel_size[0] * layer.kernel_size[1] * layer.in_channels
        places = given[0] if isinstance(layer, nn.ConvTranspose2d) else made
        found.append(2 * inner * layer.out_channels * places.shape[-1] * places.shape[-2])

    layers = [layer for layer in network.modules() if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d)]
    hooks = [layer.register_forward_hook(note) for layer in layers]
    with torch.no_grad():
        network(torch.zeros(1, layers[0].in_channels, side, side))
    for hook in hooks:
        hook.remove()
    return sum(found)


def rate(precision: str) -> float:
    """Operations a second of a large product of matrices."""
    matrix = torch.randn(PRODUCT, PRODUCT).to(getattr(torch, precision))
    (row,) = medians("", "", {"product": lambda: matrix @ matrix}, 7)
    assert row.milliseconds is not None
    return 2e3 * PRODUCT**3 / row.milliseconds


def whole_image(detector: Detector, path: Path, repeats: int) -> list[Row]:
    own = build_network(detector.config)
    own.load_state_dict(detector.artifact.weights)
    network = step.plain_copy(own)
    works: dict[str, Callable[[], object]] = {"patch by patch, float32": lambda: by_patches(network, detector, path)}
    own_precision = str(detector.scorer.precision).removeprefix("torch.")
    for precision in dict.fromkeys(("float32", own_precision)):
        for name, tiling in WAYS.items():
            config = override(detector.config, {"tiling": tiling})
            other = Detector.of(replace(detector.artifact, config=config), Runtime("cpu", precision))
            works[", ".join(filter(None, ("flawmap", precision, name)))] = partial(other.inspect, path)
    rows = medians("inspection", "file to mask", works, repeats, warm=1)
    image = detector.read(path).pixels
    count = len(Grid(detector.config.model.patch, detector.config.tiling.stride).positions(image.shape[:2]))
    needed = count * operations(network, detector.config.model.patch)
    floor = 1e3 * needed / rate(detector.scorer.precision)
    rows[-len(WAYS)].figures = {"patches": count, "GFLOP": needed / 1e9, "floor ms": floor}
    return rows


def latencies(detector: Detector, repeats: int) -> list[Row]:
    """Small images, each alone: what one waits for."""
    rng = np.random.default_rng(SEED)
    rows: list[Row] = []
    for side in SIDES:
        look = partial(detector.inspect, rng.random((side, side, 1), np.float32))
        rows += medians("inspection", f"{side} x {side}", {"flawmap": look}, repeats)
    return rows


def folder(detector: Detector, paths: Sequence[Path], work: Path) -> list[Row]:
    """Through the command, one after the other and all at once, everything written; milliseconds of one image."""
    model = work / "model.flawmap"
    save_artifact(detector.artifact, model)
    works: dict[str, Callable[[], object]] = {
        "one command for each": lambda: [flawmap.inspect(model, [path], work / "one") for path in paths],
        "one command": lambda: flawmap.inspect(model, list(paths), work / "all"),
    }
    rows = medians("inspection", f"folder of {len(paths)}", works, 3, warm=1)
    for row in rows:
        assert row.milliseconds is not None
        row.milliseconds /= len(paths)
    return rows


def main(arguments: Sequence[str] | None = None) -> int:
    options = parser(__doc__, repeats=7)
    options.add_argument("--images", type=int, default=8, help="in the folder")
    options.add_argument("--size", default=f"{SIZE[0]}x{SIZE[1]}", help="of an image, WIDTHxHEIGHT, pixels")
    options.add_argument("--model", type=Path, help="a trained one instead")
    options.add_argument("--data", type=Path, help="and a folder of its images")
    given = parsed(options, arguments)
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        if given.data:
            paths = [image.path for image in find_images([given.data])][: given.images]
        else:
            width, height = map(int, given.size.split("x"))
            images = list(good_images("fibres", given.images, (width, height), SEED))
            paths = [work / f"{number}.png" for number in range(given.images)]
            for path, image in zip(paths, images, strict=True):
                write_image(path, np.rint(image * 255).astype(np.uint8))
        detector = (
            Detector.load(given.model, Runtime("cpu"))
            if given.model
            else Detector.of(initialised(images[:5]), Runtime("cpu"))
        )
        rows = [
            *whole_image(detector, paths[0], given.repeats),
            *latencies(detector, given.repeats),
            *folder(detector, paths, work),
        ]
    precision = str(detector.scorer.precision).removeprefix("torch.")
    report(rows, given, precision=precision, method=detector.config.method.name)
    return 0


if __name__ == "__main__":
    sys.exit(main())
