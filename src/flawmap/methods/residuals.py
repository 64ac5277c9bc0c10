"""What is mapped when an image is scored: a table of names to functions of an image and its reconstruction."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import TYPE_CHECKING, NamedTuple

from flawmap.core.arrays import Array, namespace_of
from flawmap.core.checks import same_shape
from flawmap.core.errors import InputError
from flawmap.core.settings import LATENT, LatentName, ResidualSettings
from flawmap.nets.similarity import similarity, similarity_parts

if TYPE_CHECKING:
    from flawmap.methods.latent import Latent

LEAST_NOISE = 1e-6  # variance of a pixel; rounding to 8 bits is of this size, and below it nothing is measured


class Decoded(NamedTuple):
    """What a network makes of an image. reconstruction: (N, C, H, W); of a network that samples, the samples' mean.
    None: nothing was decoded.

    variance: variance of the samples, of the same shape. noise: variance of a pixel's error on good patches, a scalar.
    Both None: nothing was sampled. latent: the latent distributions; None: the network has none, or none is measured.
    features: (N, H, W), how far a discriminator's features of both differ; None: there is no discriminator.
    """

    reconstruction: Array | None
    variance: Array | None = None
    noise: Array | None = None
    latent: Latent | None = None
    features: Array | None = None


Residual = Callable[[Array, Decoded, ResidualSettings], Array]


def residual_of(settings: ResidualSettings) -> Callable[[Array, Decoded], Array]:
    """The residual that the settings name: (N, C, H, W) images, and what a network made of them, to (N, H, W)."""
    assert settings.name is not None  # Config.mapped names it
    function = RESIDUALS[settings.name]
    return lambda image, decoded: function(image, decoded, settings)


def l2_residual(image: Array, reconstruction: Array, settings: ResidualSettings) -> Array:
    """Squared difference per pixel, mean over channels.

    image, reconstruction: (N, C, H, W). Returns (N, H, W); 0 = the same, larger is worse.
    """
    same_shape(image, reconstruction, "image", "reconstruction")
    xp = namespace_of(image)
    return xp.mean(xp.square(_float32(reconstruction) - image), axis=1)


def l1_residual(image: Array, reconstruction: Array, settings: ResidualSettings) -> Array:
    """Absolute difference per pixel, mean over channels.

    image, reconstruction: (N, C, H, W). Returns (N, H, W); 0 = the same, larger is worse.

    References:
        Schlegl et al. 2017, arXiv:1703.05921, eq. 3; Baur et al. 2018, arXiv:1804.04488.
    """
    same_shape(image, reconstruction, "image", "reconstruction")
    xp = namespace_of(image)
    return xp.mean(xp.abs(_float32(reconstruction) - image), axis=1)


def ssim_residual(image: Array, reconstruction: Array, settings: ResidualSettings) -> Array:
    """Local structural disagreement: (1 - SSIM) / 2 per pixel, mean over channels.

    With an `l2_weight`, that times the squared difference is added: SSIM looks at structure and hardly at brightness,
    which is all that some flaws change.

    image, reconstruction: (N, C, H, W), intensities in [0, 1]. Returns (N, H, W), without an `l2_weight` in [0, 1]:
    0 = same structure, 1 = inverted structure. Larger is worse. Borders reflect, so no pixel is lost.

    References:
        Wang et al. 2004, doi:10.1109/TIP.2003.819861; Bergmann et al. 2019, eq. 4-8.
    """
    structural = _disagreement(similarity(image, reconstruction, settings.ssim, border="reflect"))
    if settings.l2_weight == 0:
        return structural
    return structural + settings.l2_weight * l2_residual(image, reconstruction, settings)


def probability_residual(image: Array, decoded: Decoded, settings: ResidualSettings) -> Array:
    """The reconstruction probability: -log p(x) per pixel, shifted by a constant to start at 0; mean over channels.

    p is a Gaussian at the samples' mean. Its variance is the samples' own, s^2, which is how much the decoder
    hesitates, plus the noise n, which is how well it draws good patches:

        -log p(x) + log p_0 = (log(1 + s^2 / n) + (x - mean)^2 / (s^2 + n)) / 2,    p_0 = 1 / sqrt(2 pi n)

    Both terms count: "the variability of the decoded outputs", by which Bergmann et al. 2019 describe this residual,
    and the distance to them, without which a network that is wrong and sure of it would find nothing. p_0 is the
    density of a pixel met exactly by samples that agree; it depends on the network alone, so maps of different images
    compare. The distance alone is the residual `l2`, which compares with the decoded mean.

    image: (N, C, H, W) in [0, 1]. Returns (N, H, W) in nats, at least 0: 0 = met exactly, and samples agree. Larger is
    worse: it grows with the distance without bound, and with the variance where s^2 + n exceeds the squared distance.

    References:
        An and Cho 2015, Variational autoencoder based anomaly detection using reconstruction probability.
    Raises:
        InputError: nothing was sampled, or shapes differ.
    """
    mean, variance, noise, *_ = decoded
    if mean is None or variance is None or noise is None:
        raise InputError(
            "the reconstruction probability needs the variance of samples and the noise, got a reconstruction alone; "
            "use a network that samples (vae), or map l2"
        )
    same_shape(image, mean, "image", "reconstruction")
    same_shape(mean, variance, "reconstruction", "variance")
    xp = namespace_of(image)
    least = xp.clip(_float32(noise), LEAST_NOISE, None)
    distance = xp.square(_float32(mean) - image)
    return 0.5 * xp.mean(xp.log1p(variance / least) + distance / (variance + least), axis=1)


def features_residual(image: Array, decoded: Decoded, settings: ResidualSettings) -> Array:
    """How far the discriminator's features of a patch and of its reconstruction differ.

    Its mean over a patch is the discrimination loss of the papers, up to a constant. Returns (N, H, W), at least 0;
    larger is worse.

    References:
        Schlegl et al. 2017, arXiv:1703.05921, eq. 5; Zenati et al. 2018, arXiv:1802.06222, section 3.
    Raises:
        InputError: there is no discriminator.
    """
    if decoded.features is None:
        raise InputError(
            "the residual features needs a discriminator's features, got a reconstruction alone; use a method that has "
            "one (anogan, bigan, l1-adversarial), or map l1"
        )
    return decoded.features


def _part(name: str) -> Residual:
    """One part of SSIM by itself: (1 - luminance) / 2 and so on, as `ssim_residual`."""
    return lambda image, decoded, settings: _disagreement(
        similarity_parts(image, _rebuilt(decoded), settings.ssim, border="reflect")._asdict()[name]
    )


def _of_patches(name: LatentName) -> Residual:
    """A measure of the latent distribution: a patch's one value at each of its pixels."""

    def residual(image: Array, decoded: Decoded, settings: ResidualSettings) -> Array:
        if decoded.latent is None:
            raise InputError(
                f"the residual {name} needs the latent distribution, got a reconstruction alone; use a network that "
                "has one (vae), or map l2"
            )
        measure = import_module("flawmap.methods.latent").MEASURES[name]  # of networks that torch runs
        return measure(decoded.latent)[:, None, None].expand(-1, *image.shape[-2:])

    return residual


def _rebuilt(decoded: Decoded) -> Array:
    assert decoded.reconstruction is not None  # the scorer decodes where a residual compares
    return decoded.reconstruction


def _float32(array: Array) -> Array:
    xp = namespace_of(array)
    return xp.astype(array, xp.float32, copy=False)


def _disagreement(alike: Array) -> Array:
    """(N, C, H, W) in [-1, 1] to (N, H, W) in [0, 1]; rounding may lift the similarity of equal windows above 1."""
    xp = namespace_of(alike)
    return xp.clip((1 - xp.mean(alike, axis=1)) / 2, 0, 1)


RESIDUALS: dict[str, Residual] = {
    "l2": lambda image, decoded, settings: l2_residual(image, _rebuilt(decoded), settings),
    "ssim": lambda image, decoded, settings: ssim_residual(image, _rebuilt(decoded), settings),
    **{name: _part(name) for name in ("luminance", "contrast", "structure")},
    "probability": probability_residual,
    **{name: _of_patches(name) for name in LATENT},
    "l1": lambda image, decoded, settings: l1_residual(image, _rebuilt(decoded), settings),
    "features": features_residual,
}

BEYOND: dict[str, str] = {
    "probability": "the residual probability decodes samples",
    "features": "the residual features compares a discriminator's features",
    **{name: f"the residual {name} reads the latent distribution" for name in LATENT},
}
"""Residuals that need more than a reconstruction, and what: each belongs to one patch."""
