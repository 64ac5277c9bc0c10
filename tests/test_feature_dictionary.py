"""`cnn-dictionary`: means of regions, each measure by another library, and runs from a folder to a verdict."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist
from sklearn.covariance import LedoitWolf
from sklearn.neighbors import NearestNeighbors
from tests.test_backbone import generated

import flawmap
from flawmap.commands.cli import main
from flawmap.core.errors import ArtifactError, ConfigError, InputError
from flawmap.core.runtime import Runtime
from flawmap.core.settings import FeatureName, FeatureSettings
from flawmap.data.patches import PatchSource, TrainingImage
from flawmap.data.synthetic import good_images
from flawmap.imaging.writing import write_image
from flawmap.methods import feature_dictionary
from flawmap.methods.config import Config
from flawmap.methods.feature_dictionary import (
    MEASURES,
    Measure,
    coreset,
    described,
    distances,
    fit,
    region_means,
    scorer,
)
from flawmap.methods.interface import FitContext, State
from flawmap.methods.overrides import override, parse
from flawmap.methods.presets import preset
from flawmap.methods.settings import FeatureDictionarySettings
from flawmap.nets.backbone import load_backbone
from flawmap.nets.taps import TAPS, USUAL_TAPS, Tap
from flawmap.scoring.model_file import DEFAULT, Artifact, load_artifact
from flawmap.scoring.operating_point import OperatingPoint

CPU = Runtime(device="cpu", precision="float32")
SMALL: dict[str, Any] = {
    "name": "cnn-dictionary",
    "region": 16,
    "words": 40,
    "coreset": 50,
    "neighbours": 3,
    "samples": 1000,
}


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> dict[FeatureName, Path]:
    """A file of generated weights for each network."""
    folder = tmp_path_factory.mktemp("weights")
    for network in USUAL_TAPS:
        torch.save(generated(network), folder / f"{network}.pth")
    return {network: folder / f"{network}.pth" for network in USUAL_TAPS}


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fewer patches to fit to."""
    monkeypatch.setattr(feature_dictionary, "PATCHES", 64)


def config_of(file: Path, network: FeatureName = "squeezenet", **method: Any) -> Config:
    features = {"features": {"network": network, "weights": file}}
    return parse(
        {
            "model": {"patch": 64, "channels": 1},
            "method": SMALL | features | method,
            "tiling": {"stride": 16, "weights": "hann"},
            "training": {"steps": 1},
        }
    )


def on_large_patches(config: Config) -> Config:
    return override(config, {"model": {"patch": 128}, "tiling": {"stride": 32}})


@cache
def source(patch: int = 64) -> PatchSource:
    return PatchSource([TrainingImage(image) for image in good_images("cloth", 3, (192, 192), 0)], patch)


def vectors_of(config: Config, count: int = 2) -> torch.Tensor:
    """The regions of good patches that were not fitted to, (n, D)."""
    settings = config.method
    assert isinstance(settings, FeatureDictionarySettings)
    backbone = load_backbone(settings.features, settings.read_layers)
    patches = np.stack([image[:64, :64].transpose(2, 0, 1) for image in good_images("cloth", count, (64, 64), 9)])
    with torch.no_grad():
        return described(torch.from_numpy(patches), backbone, settings).flatten(0, 2)


def measure_of(state: State) -> Measure:
    return Measure(*(state.tensors[name] for name in Measure._fields))


# ------------------------------------------------------------------------------------------------------------- regions


@pytest.mark.parametrize(
    ("side", "region", "tap"),
    [(64, 16, TAPS["squeezenet"]["features.7"]), (128, 32, TAPS["alexnet"]["features.7"]), (32, 32, Tap(1, 0.5, 8))],
)
def test_the_mean_of_a_region_is_that_of_its_pixels(side: int, region: int, tap: Tap) -> None:
    """NumPy's interpolation to every pixel, and the mean over those pixels of the region that lie in the patch."""
    places = (side - int(tap.first)) // tap.spacing
    line = np.random.default_rng(0).random(places)
    centres = tap.first + tap.spacing * np.arange(places)
    pixels = np.interp(np.arange(side) + 0.5, centres, line)
    starts = range(region // 8 - region // 2, side - region // 2, region // 4)
    expected = [pixels[max(0, start) : start + region].mean() for start in starts]
    found = region_means(side, region, tap, places) @ torch.from_numpy(line)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-9)
    assert len(expected) == 4 * side // region


def test_a_vector_holds_both_layers_each_with_a_sum_of_1(weights: dict[FeatureName, Path]) -> None:
    """As the paper normalises; the other measures take the sums as they are."""
    found = vectors_of(config_of(weights["squeezenet"]))
    assert found.shape == (2 * 16 * 16, 128 + 256)
    for part in found.split([128, 256], dim=1):
        torch.testing.assert_close(part.sum(1), torch.ones(len(part)), rtol=1e-5, atol=0)
    other = vectors_of(config_of(weights["squeezenet"], measure="gaussian")).sum(1)
    assert other.std() > 0.01 * other.mean()


# ------------------------------------------------------------------------------------------------------------ measures


@pytest.mark.parametrize(("measure", "neighbours"), [("dictionary", 3), ("nearest", 1)])
def test_distances_are_those_of_scikit_learn(weights: dict[FeatureName, Path], measure: str, neighbours: int) -> None:
    """To the nearest words, among main components in which good regions keep the share of the variance."""
    config = config_of(weights["squeezenet"], measure=measure)
    state = fit(config, source(), FitContext())
    found, vectors = measure_of(state), vectors_of(config)
    main = (vectors.double() - found.mean) @ found.basis.double().T
    expected, _ = NearestNeighbors(n_neighbors=neighbours).fit(found.words.double()).kneighbors(main)
    np.testing.assert_allclose(distances(vectors, found, neighbours), expected.mean(1), rtol=1e-3)
    assert state.facts == {"regions": 1000, "dimensions": len(found.basis), "words": len(found.words)}
    assert len(found.words) == {"dictionary": 40, "nearest": 50}[measure]
    assert 1 < len(found.basis) < 384


def test_the_gaussians_distance_is_the_mahalanobis_distance(weights: dict[FeatureName, Path]) -> None:
    """By scikit-learn's covariance of the same regions, whatever the sizes of the layers."""
    rng = np.random.default_rng(0)
    values = rng.normal(size=(2000, 5)) @ rng.normal(size=(5, 5))
    settings = FeatureDictionarySettings(measure="gaussian")
    basis, words = MEASURES["gaussian"](values, settings, 0)
    other = rng.normal(size=(50, 5))
    measure = Measure(torch.zeros(5), *(torch.from_numpy(part.astype(np.float32)) for part in (basis, words)))
    found = distances(torch.from_numpy(other.astype(np.float32)), measure, 1)
    expected = np.sqrt(LedoitWolf(assume_centered=True).fit(values).mahalanobis(other))
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    config = config_of(weights["squeezenet"], measure="gaussian")
    whole = measure_of(fit(config, source(), FitContext()))
    own = distances(vectors_of(config, 20), whole, 1)
    assert float(own.square().mean()) == pytest.approx(384, rel=0.5), "of good regions, about one for each dimension"


def test_a_coreset_takes_what_is_farthest() -> None:
    """As by all distances, one after the other; the largest distance to it falls with each."""
    values = np.random.default_rng(0).normal(size=(60, 3))
    chosen = [0]
    radii = []
    for _ in range(11):
        nearest = cdist(values, values[chosen]).min(axis=1)
        radii.append(nearest.max())
        chosen.append(int(nearest.argmax()))
    assert coreset(values, 12) == chosen
    assert radii == sorted(radii, reverse=True)


def test_repeated_values_give_fewer_words_and_no_warning() -> None:
    """A material of a few different regions: words may repeat."""
    values = np.repeat(np.eye(4), 50, axis=0) - 0.25
    settings = FeatureDictionarySettings(words=30, coreset=30)
    for name in ("dictionary", "nearest"):
        basis, words = MEASURES[name](values, settings, 0)
        assert len(words) == 30
        assert cdist(values @ basis.T, words).min(axis=1).max() < 1e-6


# ------------------------------------------------------------------------------------------------------------- maps


def detector_of(config: Config) -> flawmap.Detector:
    state = fit(config, source(config.model.patch), FitContext())
    point = {DEFAULT: OperatingPoint(threshold=1.0)}
    return flawmap.Detector.of(Artifact(config, state.tensors, point, facts=state.facts), CPU)


@pytest.mark.parametrize("measure", sorted(MEASURES))
def test_where_tiles_begin_hardly_matters(weights: dict[FeatureName, Path], measure: str) -> None:
    """Rows and columns are cut off an image, so that all patches are others. Where both maps come from whole patches,
    they are the same but for what borders of patches do, if the network's own grid falls on the same pixels."""
    detector = detector_of(on_large_patches(config_of(weights["squeezenet"], measure=measure)))
    image = next(iter(good_images("cloth", 1, (232, 232), 4))).copy()
    image[110:130, 110:130] = image.mean()
    whole, inner = detector.score(image), (slice(32, -32), slice(32, -32))
    for down, right, least in ((8, 8, 0.999), (7, 5, 0.8)):
        cut = detector.score(image[down:, right:])
        assert np.corrcoef(whole[down:, right:][inner].ravel(), cut[inner].ravel())[0, 1] > least


def test_a_border_is_no_flaw(weights: dict[FeatureName, Path]) -> None:
    """On good cloth the outermost pixels have residuals of about the size of the others."""
    detector = detector_of(on_large_patches(config_of(weights["squeezenet"])))
    found = detector.score(next(iter(good_images("cloth", 1, (232, 232), 4))))
    inside = np.zeros(found.shape, bool)
    inside[8:-8, 8:-8] = True
    assert 0.65 < found[~inside].mean() / found[inside].mean() < 1.55


@pytest.mark.parametrize(
    ("network", "channels", "measure"),
    [("squeezenet", 1, "dictionary"), ("alexnet", 3, "nearest"), ("resnet18", 1, "gaussian")],
)
def test_from_a_folder_to_a_page(
    weights: dict[FeatureName, Path], network: FeatureName, channels: int, measure: str, tmp_path: Path
) -> None:
    """No steps, no history, no file of weights after the fit; evidence, verdict and evaluation as by any method."""
    folder = tmp_path / "good"
    folder.mkdir()
    images = list(good_images("cloth", 9, (128, 128), 0))
    for number, image in enumerate(images):
        write_image(folder / f"{number}.png", np.rint(np.repeat(image, channels, 2).squeeze() * 255).astype(np.uint8))
    own = tmp_path / "weights.pth"
    own.write_bytes(weights[network].read_bytes())
    config = override(
        preset("fast", "cnn-dictionary"),
        {
            "model": {"patch": 64},
            "method": SMALL | {"features": {"network": network, "weights": own}, "measure": measure},
            "training": {"steps": 1},
            "evidence": {"enabled": True, "scales": [1.0]},
        },
    )
    report = flawmap.train(folder, tmp_path / "m.flawmap", config)
    own.unlink()
    assert report.history == ()
    artifact = load_artifact(tmp_path / "m.flawmap")
    assert artifact.provenance["features"]["network"] == network
    assert artifact.config.method.features == type(config.method.features)(network=network)
    detector = flawmap.Detector.load(tmp_path / "m.flawmap", CPU)
    image = np.repeat(images[0], channels, 2).copy()
    good = detector.inspect(image)
    image[48:80, 48:80] = image.mean()
    flawed = detector.inspect(image)
    assert flawed.score > good.score
    assert flawed.residual[40:88, 40:88].max() == flawed.score
    assert main(["info", str(tmp_path / "m.flawmap")]) == 0
    (tmp_path / "bad").mkdir()
    write_image(tmp_path / "bad" / "x.png", np.rint(image.squeeze() * 255).astype(np.uint8))
    rows = flawmap.inspect(tmp_path / "m.flawmap", [tmp_path / "bad"], tmp_path / "out")
    assert [row.error for row in rows] == [None]


def test_the_same_seed_gives_the_same_bits(weights: dict[FeatureName, Path]) -> None:
    """And another seed others."""
    config = config_of(weights["squeezenet"])
    one, same, other = (
        fit(changed, source(), FitContext()).tensors
        for changed in (config, config, override(config, {"training": {"seed": 1}}))
    )
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not torch.equal(one["words"], other["words"])


def test_real_weights_see_a_flaw_that_is_as_bright_as_cloth(real_data: Path) -> None:
    """SqueezeNet's own weights, on synthetic cloth with a patch of shuffled pixels."""
    path = real_data / "weights" / "squeezenet1_0_imagenet.safetensors"
    if not path.is_file():
        pytest.skip(f"no real weights {path}")
    for measure in MEASURES:
        detector = detector_of(config_of(path, measure=measure))
        image = next(iter(good_images("cloth", 1, (128, 128), 4))).copy()
        good = detector.score(image)
        shuffled = np.random.default_rng(0).permutation(image[48:80, 48:80].ravel())
        image[48:80, 48:80] = shuffled.reshape(32, 32, 1)
        assert detector.score(image)[56:72, 56:72].min() > 1.2 * good.max()


# -------------------------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"layers": ["layer2"]},
            "method: squeezenet has the layers features.3, features.4, features.5, features.7, features.8, "
            "features.9, features.10, features.12, got layer2",
        ),
        ({"layers": ["features.4", "features.4"]}, "layers must name each layer once, got features.4, features.4"),
        ({"words": 2}, "neighbours must not exceed words, nor words the samples, got 3, 2 and 1000"),
        ({"words": 1001}, "neighbours must not exceed words, nor words the samples, got 3, 1001 and 1000"),
        ({"region": 128}, "region must not exceed the patch, 64, got 128"),
        ({"region": 20}, "method.region: Input should be 16, 32, 64 or 128, got 20"),
    ],
)
def test_settings_that_do_not_fit_are_refused(changes: dict[str, Any], message: str) -> None:
    """Layers of another network, twice the same one, more neighbours than words, more words than regions."""
    with pytest.raises(ConfigError) as caught:
        config_of(Path("weights.pth"), **changes)
    assert message in str(caught.value)


def test_refusals(weights: dict[FeatureName, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another engine, tensors of other settings, no weights, and feature matching with ResNet-18."""
    config = config_of(weights["squeezenet"])
    state = fit(config, source(), FitContext())
    with pytest.raises(ConfigError, match="the method cnn-dictionary has no network that openvino could run"):
        scorer(config, state, Runtime(engine="openvino"))
    other = override(config, {"method": {"layers": ["features.8"]}})
    with pytest.raises(ArtifactError, match="the weights do not fit the settings beside them"):
        scorer(other, state, CPU)
    lacking = State({name: tensor for name, tensor in state.tensors.items() if name != "words"})
    with pytest.raises(ArtifactError, match="the weights do not fit the settings beside them: 'words'"):
        scorer(config, lacking, CPU)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(InputError, match="the pretrained weights of resnet18 are needed, but there is no"):
        override(config, {"method": {"features": {"network": "resnet18", "weights": None}}}).method.files()
    with pytest.raises(ConfigError) as caught:
        parse({"method": {"name": "fm", "features": {"network": "resnet18"}}})
    assert str(caught.value) == (
        "features of resnet18 are not matched; set method.features.network to alexnet or squeezenet"
    )


def test_the_smallest_network_is_usual_for_it_alone() -> None:
    """Unless one is named: SqueezeNet here, AlexNet for feature matching."""
    own = parse({"method": {"name": "cnn-dictionary", "features": {"weights": "x.pth"}}}).method
    assert isinstance(own, FeatureDictionarySettings)
    assert own.features.network == "squeezenet"
    assert FeatureSettings().network == "alexnet"
