"""Inspect a grey image with an exported model, without flawmap and without PyTorch: what a plant's own software copies.

    flawmap export cloth.flawmap cloth/train/good --to onnx
    python examples/standalone.py cloth.onnx cloth/test/cut/000.png mask.png

It needs onnxruntime, NumPy, Pillow and OpenCV. It handles models of the preset `auto` whose network reconstructs, for
grey images of 8 or 16 bits, with a box as region of interest or none, and gives the mask that `flawmap inspect` gives.
"""

from __future__ import annotations

import json
import math
import sys
from typing import Any

import cv2
import numpy as np
import onnxruntime
from numpy.typing import NDArray
from PIL import Image

Map = NDArray[Any]


def opened_network(path: str) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])


def spacing(patch: int) -> int:
    """Pixels between the features of an encoder that sees an image once."""
    return 32 if patch == 256 else 16


def blur(values: Map, weights: Map) -> Map:
    """Weighted means of a separable window; the border mirrors without repeating the outermost pixel."""
    return np.asarray(cv2.sepFilter2D(values, cv2.CV_64F, weights, weights, borderType=cv2.BORDER_REFLECT_101))


def gaussian(size: int, sigma: float) -> Map:
    weights = np.exp(-((np.arange(size) - size // 2) ** 2) / (2 * sigma**2))
    return np.asarray(weights / weights.sum())


def reconstructed(model: str, image: Map, patch: int, tiling: dict[str, Any]) -> Map:
    """Overlapping patches through the network, averaged; the last row and column lie flush with the border."""
    session, features, apart, once = opened_network(model), image, spacing(patch), tiling["encoder"] == "image"
    if once:
        features = opened_network(f"{model}-encoder").run(None, {"image": image[None, None].astype(np.float32)})[0][0]
    tops, lefts = ([*range(0, side - patch, tiling["stride"]), side - patch] for side in image.shape)
    weights = np.sin(np.pi * (np.arange(patch) + 0.5) / patch) ** 2 if tiling["weights"] == "hann" else np.ones(patch)
    window = np.outer(weights, weights)
    total, cover = np.zeros(image.shape), np.zeros(image.shape)
    for top in tops:
        if once:
            rows, side = features[:, top // apart : (top + patch) // apart], patch // apart
            given = {"features": np.stack([rows[:, :, left // apart : left // apart + side] for left in lefts])}
        else:
            cut = np.stack([image[top : top + patch, left : left + patch] for left in lefts])[:, None]
            given = {"patches": cut.astype(np.float32)}
        for left, made in zip(lefts, session.run(None, given)[0], strict=True):
            place = np.s_[top : top + patch, left : left + patch]
            total[place] += made[0] * window
            cover[place] += window
    return np.asarray(total / cover)


def ssim_residual(image: Map, made: Map, settings: dict[str, Any]) -> Map:
    """(1 - SSIM) / 2, with SSIM by the sum t and the difference d of both: (1 - 2 m_d^2 / b1) (1 - 2 s_d^2 / b2)."""
    size, named = settings["size"], settings["constants"]
    c1, c2 = {"paper": (0.01, 0.03), "wang": (1e-4, 9e-4)}[named] if isinstance(named, str) else named
    weights = np.full(size, 1 / size) if settings["window"] == "uniform" else gaussian(size, settings["sigma"])
    mean_t, mean_d = blur(image + made, weights), blur(image - made, weights)
    spread_t = np.maximum(blur((image + made) ** 2, weights) - mean_t**2, 0)
    spread_d = np.maximum(blur((image - made) ** 2, weights) - mean_d**2, 0)
    luminance = 1 - 2 * mean_d**2 / (mean_t**2 + mean_d**2 + 2 * c1)
    return np.asarray(np.clip((1 - luminance * (1 - 2 * spread_d / (spread_t + spread_d + 2 * c2))) / 2, 0, 1))


def smoothed(residual: Map, sigma: float) -> Map:
    if sigma == 0:
        return residual
    return blur(residual, gaussian(2 * min(math.ceil(3 * sigma), min(residual.shape) - 1) + 1, sigma))


def rarity(values: Map, tail: dict[str, Any]) -> Map:
    """-log10 of the share of good values that are as large: a table, and beyond it a generalised Pareto tail."""
    table = np.array(tail["values"])
    excess = np.maximum(values - table[-1], 0) / tail["scale"]
    beyond = excess if tail["shape"] < 1e-6 else np.log1p(tail["shape"] * excess) / tail["shape"]
    return np.asarray(np.interp(values, table, tail["evidence"]) + beyond / math.log(10))


def evidence(residuals: list[Map], profile: dict[str, Any], shape: tuple[int, int]) -> Map:
    """Each residual at each scale as a z-score of good images at that distance from the border, then its rarity."""
    height, width = shape
    down, across = np.arange(height), np.arange(width)
    border = np.minimum(np.minimum(down, height - 1 - down)[:, None], np.minimum(across, width - 1 - across))
    total = np.zeros((height, width))
    for layer in profile["layers"]:
        if layer["weight"] > 0:
            near = np.minimum(border, len(layer["mean"]) - 1)
            residual = smoothed(residuals[layer["part"]], layer["scale"])[:height, :width]
            found = rarity((residual - np.array(layer["mean"])[near]) / np.array(layer["spread"])[near], layer["tail"])
            total += layer["weight"] * np.where(found > 6, 6 + np.log1p(np.maximum(found - 6, 0)), found)
    return rarity(total, profile["total"])


def opened(values: Map, diameter: int) -> Map:
    """Grey-value opening by a circle; a row and a column more, and another anchor, for circles of even diameter."""
    if diameter <= 1:
        return values
    offsets = (2 * np.arange(diameter) - (diameter - 1)) ** 2
    circle = (offsets[:, None] + offsets <= diameter**2).astype(np.uint8)
    even, anchor = 1 - diameter % 2, diameter // 2
    room = cv2.copyMakeBorder(values, 0, even, 0, even, cv2.BORDER_CONSTANT, value=[np.inf])
    eroded = cv2.erode(room, circle, anchor=(anchor, anchor))
    dilated = cv2.dilate(eroded, circle, anchor=(diameter - 1 - anchor,) * 2)
    return dilated[: values.shape[0], : values.shape[1]]


def decided(values: Map, point: dict[str, Any]) -> Map:
    """Pixels that belong to a flaw: hysteresis between the threshold and the level of masks, and a least area."""
    threshold, level = point["threshold"], point["threshold"] if point["mask"] is None else point["mask"]
    mask = np.zeros(values.shape, np.bool_)
    for down, most in [(level, math.inf)] + ([(threshold, level)] if level > threshold else []):
        count, labels = cv2.connectedComponents((values > down).astype(np.uint8), connectivity=8)
        for number in range(1, count):
            region = labels == number
            mask |= region & (threshold < values[region].max() <= most and region.sum() >= point["area"])
    return mask


def inspected(model: str, path: str) -> tuple[Map, Map]:
    """The evidence map and the mask of an image."""
    header = json.loads(opened_network(model).get_modelmeta().custom_metadata_map["flawmap"])
    config, point = header["config"], header["points"][header["active"]]
    stored = np.asarray(Image.open(path))
    white = config["images"]["white"] or np.iinfo(stored.dtype).max
    whole = stored.astype(np.float32) / np.float32(white)
    left, top, right, bottom = config["images"]["roi"]["box"] or (0, 0, whole.shape[1], whole.shape[0])
    image, scale = whole[top:bottom, left:right], config["images"]["scale"]
    size = tuple(scale) if isinstance(scale, list) else tuple(round(side * scale) for side in image.shape[::-1])
    small = image if size == image.shape[::-1] else cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    small, (height, width) = small.astype(np.float64), small.shape
    if config["tiling"]["encoder"] == "image":  # its sides become multiples of the distance of features
        apart = spacing(config["model"]["patch"])
        small = np.pad(small, [(0, -height % apart), (0, -width % apart)], mode="reflect")
    made = reconstructed(model, small, config["model"]["patch"], config["tiling"])
    by_name = {"ssim": ssim_residual(small, made, config["residual"]["ssim"]), "l2": (made - small) ** 2}
    residuals = [by_name[part] for part in config["evidence"]["parts"]]
    values = evidence(residuals, header["evidence"], (height, width))
    large = cv2.resize(values.astype(np.float32), image.shape[::-1], interpolation=cv2.INTER_LINEAR)
    full = np.zeros(whole.shape, np.float32)
    full[top:bottom, left:right] = large
    full = opened(full, config["threshold"]["opening"])
    return full, decided(full, point)


if __name__ == "__main__":
    evidence_map, flaws = inspected(sys.argv[1], sys.argv[2])
    Image.fromarray((flaws * 255).astype(np.uint8)).save(sys.argv[3])
    print(f"score {evidence_map.max():.4f}, {'flawed' if flaws.any() else 'ok'}, {int(flaws.sum())} pixels")
