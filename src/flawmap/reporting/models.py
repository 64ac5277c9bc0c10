"""What reports say of a model. No torch here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flawmap.reporting.labels import rule_text

Facts = tuple[tuple[str, str], ...]
"""Names and values."""


def model_facts(model: Mapping[str, Any]) -> Facts:
    """Names and values of a model's summary (the field `model` of metrics.json); those without a value are left out."""
    training = model["training"]
    latent = "" if model["latent"] is None else f"d = {model['latent']}, "
    facts = (
        ("method", model["method"]),
        ("mapped", _mapped(model)),
        ("patches", f"{model['patch']} pixels, {latent}stride {model['stride']}, seed {model['seed']}"),
        ("trained", training and f"{training['patches']:,} patches in {training['seconds'] / 60:.1f} minutes"),
        ("threshold", _threshold(model)),
        ("operating point", _point(model)),
    )
    return tuple((name, value) for name, value in facts if value)


def _mapped(model: Mapping[str, Any]) -> str:
    """What a map shows."""
    if evidence := model["evidence"]:
        names = " and ".join(name for name in evidence["parts"] if name) or model["method"]
        return f"evidence of {names}, smoothed by {', '.join(f'{scale:g}' for scale in evidence['scales'])} pixels"
    residual = model["residual"]
    if residual["name"] != "ssim":
        return residual["name"] or f"of the method {model['method']}"
    similarity = residual["ssim"]
    size = similarity["size"]
    return f"ssim, {similarity['window']} {size}x{size} window, {similarity['constants']} constants"


def _threshold(model: Mapping[str, Any]) -> str:
    if model["threshold"] is None:
        return "none"
    what = "evidence" if model["evidence"] else "residuals"
    return f"{model['threshold']:.4g} on {what} opened with a circle of diameter {model['opening']}"


def _point(model: Mapping[str, Any]) -> str:
    """The name of the operating point, and its guarantee."""
    point = model["operating_point"]
    return "" if point is None else f"{model['point']} {rule_text(point['found'])}".strip()
