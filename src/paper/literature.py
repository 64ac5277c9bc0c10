"""The systems that the paper is compared with or speaks of, each as a method with its settings. No torch.

All are trained on the same images, and share evidence, calibration and decision with our default.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from flawmap.methods.config import method_type
from flawmap.methods.presets import PRESETS
from flawmap.methods.settings import AdversarialSettings
from paper.sets import FABRICS

LITERATURE = "literature"
EVIDENCE = "evidence"  # the way of scoring that decides
BASE: dict[str, Any] = {
    **{section: PRESETS["auto"][section] for section in ("evidence", "threshold")},
    "split": {"validation": None},  # as many good images as the decision needs
}
"""What decides, for every system alike: laid over a preset and a data set's settings."""
AS_IT_IS: dict[str, Any] = {
    "evidence": {"enabled": False},
    "threshold": {"rule": "quantile", "mask": "threshold"},
}
"""The way of scoring that maps a system's own residual."""
COLLAPSING: dict[str, Any] = {"training": {"plateau_steps": 0, "learning_rate": 5e-4}}
"""A variational autoencoder on faint texture: a code costs more KL divergence than it saves error, so a constant one is
best, and a training that stays there is a result. The others' learning rate of 2e-3 lets it diverge after that."""
CALM: dict[str, Any] = {"training": {"learning_rate": 3e-4}}
"""Two networks on faint texture: with the others' rate of 1e-3 all three trainings of fabric 03 diverged after 440 to
1,100 updates; this is what the error then advises."""
LATENT = {
    name: {**AS_IT_IS, "residual": {"name": name}} for name in ("kl", "euclidean", "bhattacharyya", "relative_kl")
}
"""Further ways to score a variational autoencoder, by its latent distributions."""
WIDE = {"tiling": {"stride": 96}}
"""For methods whose windows are far smaller than a patch: each pixel is computed once or twice."""
DARKEST = {"method": {"darkest": 0.15}}
"""What the authors of the sparse dictionary leave out of NanoTWICE: the dark ground between the fibres."""
SSIM = {"ssim": {**AS_IT_IS, "residual": {"name": "ssim"}}}
"""A further way to score whatever reconstructs."""
PAIR = {"method": {"latent": 100}}
"""Of all adversarial methods on all sets."""
SEARCHED = {**AS_IT_IS, **PAIR, "tiling": {"stride": 64}}
"""A search of 500 steps for every patch: patches side by side, and none for evidence."""
# Parameter updates of gradient training, about ten minutes of one core each: of an autoencoder for patches of 128
# pixels, and of a pair of networks for patches of 64.
STEPS, PAIR_STEPS = 2000, 4000
SEARCHED_IMAGES = 4


class System(NamedTuple):
    """A system of the literature.

    title: for readers. method: ours. changes: its settings. steps: parameter updates, where it is trained by them.
    evidence: whether it is also scored by evidence, which decides. scorings: further ways to score. images: so many
    defective images and as many good ones are scored, evenly chosen; None: all.
    """

    title: str
    method: str
    changes: Mapping[str, Any] = {}
    steps: int = STEPS
    evidence: bool = True
    scorings: Mapping[str, Mapping[str, Any]] = {}
    images: int | None = None


def _cnn(measure: str) -> System:
    changes = {"method": {"measure": measure}, "tiling": {"stride": 64}}
    return System(f"features of regions, {measure}", "cnn-dictionary", changes)


SYSTEMS: dict[str, System] = {
    "ssim": System("SSIM autoencoder", "ssim"),
    "l2": System("l2 autoencoder", "l2"),
    "vae": System("variational autoencoder", "vae", scorings=LATENT),
    "fm": System("feature matching", "fm"),
    "gmm": System("Gaussian mixtures", "gmm", WIDE),
    **{f"cnn-{measure}": _cnn(measure) for measure in ("dictionary", "nearest", "gaussian")},
    "sparse-dictionary": System("sparse dictionary", "sparse-dictionary", WIDE),
    "anogan": System("AnoGAN", "anogan", SEARCHED, PAIR_STEPS, evidence=False, images=SEARCHED_IMAGES),
    "bigan": System("BiGAN", "bigan", PAIR, PAIR_STEPS, scorings=SSIM),
    "l1-adversarial": System("l1 and an adversarial loss", "l1-adversarial", PAIR, PAIR_STEPS, scorings=SSIM),
}
"""Ours first, then in the order in which the paper speaks of them."""


def systems_for(set_name: str) -> dict[str, System]:
    """The systems with the settings that they need on a data set."""
    return {
        key: system._replace(changes={**system.changes, **_own(system.method, set_name)})
        for key, system in SYSTEMS.items()
    }


def _own(method: str, set_name: str) -> Mapping[str, Any]:
    """What a method needs on a data set, by its authors or to be trained at all."""
    if method == "vae" and set_name in FABRICS:
        return COLLAPSING
    if issubclass(method_type(method), AdversarialSettings) and set_name in FABRICS:
        return CALM
    return DARKEST if method == "sparse-dictionary" and set_name == "nanotwice" else {}


def key_of(name: str, set_name: str) -> str:
    """Which of the systems a training or a record of this name is of."""
    return name.removeprefix(f"{LITERATURE}-{set_name}-").rpartition("-seed")[0]
