"""Feature matching: the networks against other ways to compute them, files of weights, fetching, and a training."""

from __future__ import annotations

import hashlib
import json
import pickle
import re
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors
import safetensors.torch
import torch
from numpy.typing import NDArray
from scipy.signal import correlate
from torch import Tensor, nn

import flawmap
from flawmap.commands import evaluate as commands_evaluate
from flawmap.commands.cli import main
from flawmap.core.errors import ConfigError, InputError
from flawmap.core.events import Events
from flawmap.core.settings import FeatureName, FeatureSettings
from flawmap.data.patches import PatchSource, TrainingImage
from flawmap.data.synthetic import good_images
from flawmap.imaging.writing import write_image
from flawmap.methods import gradient
from flawmap.methods.autoencoder import train_network
from flawmap.methods.config import Config
from flawmap.methods.interface import FitContext, Progress
from flawmap.methods.losses import l2_loss, loss_of
from flawmap.methods.overrides import override
from flawmap.methods.presets import preset
from flawmap.methods.settings import FeatureMatchingSettings
from flawmap.nets import weights
from flawmap.nets.autoencoder import Autoencoder
from flawmap.nets.initialisation import initialise
from flawmap.nets.layer_table import NetworkShape
from flawmap.nets.pretrained import (
    LAYERS,
    MEAN,
    STD,
    Fire,
    alexnet_layers,
    load_features,
    normalised,
    squeezenet_layers,
)
from flawmap.nets.weights import PINNED, Pinned, fetch_weights, known_weights, weights_file
from flawmap.scoring.model_file import load_artifact

NETWORKS: tuple[FeatureName, ...] = ("alexnet", "squeezenet")


def rand(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def generated(layers: nn.Sequential, seed: int = 0) -> dict[str, Tensor]:
    """Random weights of a network's layers, of a size that keeps signals alive, under torchvision's names."""
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for key, like in layers.state_dict().items():
        fan = max(1, like[0].numel()) if like.ndim > 1 else 100
        state[f"features.{key}"] = torch.randn(like.shape, generator=generator) * (2 / fan) ** 0.5
    return state


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[FeatureName, Path]:
    """A file of generated weights for each network; AlexNet's also holds what is not needed."""
    folder = tmp_path_factory.mktemp("weights")
    alexnet = generated(alexnet_layers()) | {"classifier.6.bias": torch.zeros(1000)}
    torch.save(alexnet, folder / "alexnet.pth")
    safetensors.torch.save_file(generated(squeezenet_layers()), folder / "squeezenet.safetensors")
    return {"alexnet": folder / "alexnet.pth", "squeezenet": folder / "squeezenet.safetensors"}


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, so that nothing of this machine is seen or changed."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "flawmap" / "weights"


def settings_of(
    files: dict[FeatureName, Path], network: FeatureName = "alexnet", **changes: Any
) -> FeatureMatchingSettings:
    return FeatureMatchingSettings(features=FeatureSettings(network=network, weights=files[network]), **changes)


# ----------------------------------------------------------------------------------------------------------- networks


def convolved(maps: NDArray[np.float64], weight: Tensor, bias: Tensor, stride: int, pad: int) -> NDArray[np.float64]:
    """(C, H, W) convolved and cut at 0, by SciPy: every place, of which every stride-th is kept."""
    padded = np.pad(maps, ((0, 0), (pad, pad), (pad, pad)))
    kernels = weight.double().numpy()
    every = np.stack([correlate(padded, kernel, mode="valid")[0] for kernel in kernels])
    return np.maximum(every[:, ::stride, ::stride] + bias.double().numpy()[:, None, None], 0)


def pooled(maps: NDArray[np.float64], *, up: bool) -> NDArray[np.float64]:
    """The largest of 3 x 3, every 2; a last window that hangs over the edge counts if sides are rounded up."""
    sides = [(side - 3 + up) // 2 + 1 for side in maps.shape[1:]]
    rows = [
        [maps[:, 2 * y : 2 * y + 3, 2 * x : 2 * x + 3].max(axis=(1, 2)) for x in range(sides[1])]
        for y in range(sides[0])
    ]
    return np.moveaxis(np.array(rows), -1, 0)


def seen(patch: Tensor) -> NDArray[np.float64]:
    """A patch (1 or 3, P, P) as the networks see it, (3, P, P)."""
    colour = np.broadcast_to(patch.double().numpy(), (3, *patch.shape[1:]))
    return (colour - np.array(MEAN)[:, None, None]) / np.array(STD)[:, None, None]


def alexnet_slowly(patch: Tensor, state: dict[str, Tensor]) -> NDArray[np.float64]:
    def layer(maps: NDArray[np.float64], number: int, stride: int, pad: int) -> NDArray[np.float64]:
        return convolved(
            maps, state[f"features.{number}.weight"], state[f"features.{number}.bias"], stride=stride, pad=pad
        )

    maps = pooled(layer(seen(patch), 0, 4, 2), up=False)
    maps = pooled(layer(maps, 3, 1, 2), up=False)
    return layer(maps, 6, 1, 1)


def squeezenet_slowly(patch: Tensor, state: dict[str, Tensor]) -> NDArray[np.float64]:
    def layer(maps: NDArray[np.float64], name: str, stride: int = 1, pad: int = 0) -> NDArray[np.float64]:
        return convolved(maps, state[f"features.{name}.weight"], state[f"features.{name}.bias"], stride, pad)

    maps = pooled(layer(seen(patch), "0", 2), up=True)
    for number in (3, 4, 5):
        few = layer(maps, f"{number}.squeeze")
        maps = np.concatenate([layer(few, f"{number}.expand1x1"), layer(few, f"{number}.expand3x3", pad=1)])
    return maps


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("channels", [1, 3])
def test_features_equal_a_slow_forward_pass(
    files: dict[FeatureName, Path], network: FeatureName, channels: int
) -> None:
    """Features of a patch are those that SciPy's correlations and a loop over windows give, ReLU included."""
    patch = rand(channels, 33, 36)
    slowly, state = {
        "alexnet": (alexnet_slowly, torch.load(files["alexnet"], weights_only=True)),
        "squeezenet": (squeezenet_slowly, safetensors.torch.load_file(files["squeezenet"])),
    }[network]
    expected = slowly(patch, state)
    found = load_features(FeatureSettings(network=network, weights=files[network]))(patch[None])[0]
    assert expected.max() > 0.1
    assert (expected == 0).any()
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-4, atol=1e-4 * expected.max())


@pytest.mark.parametrize(
    ("network", "side", "shape"),
    [
        ("alexnet", 128, (384, 7, 7)),
        ("alexnet", 32, (384, 1, 1)),
        ("squeezenet", 128, (256, 30, 30)),
        ("squeezenet", 32, (256, 6, 6)),
    ],
)
def test_sizes_of_features(
    files: dict[FeatureName, Path], network: FeatureName, side: int, shape: tuple[int, ...]
) -> None:
    """What the docstring says of a patch of 128; the smallest patch has features too."""
    loaded = load_features(FeatureSettings(network=network, weights=files[network]))
    assert loaded(rand(2, 1, side, side)).shape == (2, *shape)


def test_whole_alexnet_has_the_published_number_of_parameters() -> None:
    """23,296 + 307,392 + 663,936, by hand from sizes of kernels; SqueezeNet 1.0 has 1,248,424."""
    assert sum(tensor.numel() for tensor in alexnet_layers().parameters()) == 23_296 + 307_392 + 663_936
    assert sum(tensor.numel() for tensor in whole_squeezenet().parameters()) == 1_248_424


def test_grey_is_seen_as_equal_red_green_and_blue(files: dict[FeatureName, Path]) -> None:
    """A grey patch and the same in three channels have the same features."""
    network, grey = load_features(FeatureSettings(weights=files["alexnet"])), rand(2, 1, 48, 48)
    assert torch.equal(network(grey), network(grey.expand(-1, 3, -1, -1)))


def test_a_network_is_frozen_and_its_loading_leaves_random_numbers_alone(files: dict[FeatureName, Path]) -> None:
    """No parameter takes gradients, dropout and the like are off, and torch's generator stays where it was."""
    torch.manual_seed(3)
    before = torch.get_rng_state()
    network = load_features(FeatureSettings(weights=files["alexnet"]))
    assert torch.equal(torch.get_rng_state(), before)
    assert not any(parameter.requires_grad for parameter in network.parameters())
    assert not any(module.training for module in network.modules())


@pytest.mark.parametrize(
    ("patches", "message"),
    [
        (
            torch.zeros(1, 1, 31, 40),
            "feature networks need patches of at least 32x32 pixels, got (1, 1, 31, 40); take larger patches "
            "(--set model.patch=64), or another method",
        ),
        (torch.zeros(1, 2, 40, 40), "feature networks see grey or colour, (N, 1 or 3, P, P), got (1, 2, 40, 40)"),
        (torch.zeros(1, 40, 40), "patches must be (N, C, H, W), got (1, 40, 40); for one image pass patches[None]"),
    ],
)
def test_patches_that_do_not_fit_are_refused(patches: Tensor, message: str) -> None:
    """Too small, of two channels, or one patch alone: an error that says what is needed."""
    with pytest.raises(InputError) as caught:
        normalised(patches)
    assert str(caught.value) == message


# --------------------------------------------------------------------------------------------------- the real network


def whole_squeezenet() -> nn.Sequential:
    """SqueezeNet 1.0: the layers whose features are matched, the others, and the classifier, as torchvision's."""
    others = (
        nn.MaxPool2d(3, stride=2, ceil_mode=True),
        Fire(256, 32, 128),
        Fire(256, 48, 192),
        Fire(384, 48, 192),
        Fire(384, 64, 256),
        nn.MaxPool2d(3, stride=2, ceil_mode=True),
        Fire(512, 64, 256),
    )
    classifier = nn.Sequential(nn.Dropout(0.5), nn.Conv2d(512, 1000, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1))
    layers = {"features": squeezenet_layers().extend(others), "classifier": classifier}
    return nn.Sequential(OrderedDict(layers)).eval().requires_grad_(False)


@pytest.fixture(scope="module")
def real_squeezenet(real_data: Path) -> Path:
    path = real_data / "weights" / "squeezenet1_0_imagenet.safetensors"
    if not path.is_file():
        pytest.skip(f"no real weights {path}")
    return path


def photograph(name: str) -> Tensor:
    """A photograph of scikit-image, its middle, (1, 3, 224, 224) in [0, 1]."""
    from skimage import data
    from skimage.transform import resize

    image = getattr(data, name)()
    side = min(image.shape[:2])
    top, left = ((length - side) // 2 for length in image.shape[:2])
    middle = resize(image[top : top + side, left : left + side] / 255, (224, 224), anti_aliasing=True)
    return torch.from_numpy(np.moveaxis(middle, -1, 0).astype(np.float32))[None]


@pytest.mark.parametrize(("name", "classes"), [("chelsea", {281, 282, 285}), ("coffee", {967, 968})])
def test_real_weights_know_photographs(real_squeezenet: Path, name: str, classes: set[int]) -> None:
    """With real weights SqueezeNet sees a cat in a photograph of one, and a cup or espresso in one of that."""
    network = whole_squeezenet()
    network.load_state_dict(safetensors.torch.load_file(real_squeezenet))
    assert int(network(normalised(photograph(name))).argmax()) in classes


def test_the_first_layers_are_those_of_the_whole(real_squeezenet: Path) -> None:
    """Features for matching are what the whole network computes on its way to the classes."""
    whole = whole_squeezenet()
    whole.load_state_dict(safetensors.torch.load_file(real_squeezenet))
    patches = rand(2, 3, 64, 64)
    features = load_features(FeatureSettings(network="squeezenet", weights=real_squeezenet))(patches)
    expected = whole.features[:6](normalised(patches))
    torch.testing.assert_close(features, expected, rtol=1e-4, atol=1e-4 * float(expected.max()))


# --------------------------------------------------------------------------------------------------------------- loss


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("channels", [1, 3])
def test_the_loss_is_0_for_the_same_and_positive_otherwise(
    files: dict[FeatureName, Path], network: FeatureName, channels: int
) -> None:
    """Exactly 0 for a perfect reconstruction, larger than the pixels' part alone for every other one."""
    loss, patches = loss_of(settings_of(files, network)), rand(2, channels, 32, 32)
    assert loss(patches, patches.clone()).item() == 0
    for other in (patches + 0.1, 1 - patches, torch.zeros_like(patches)):
        assert loss(patches, other).item() > l2_loss(patches, other).item() + 1e-3


@pytest.mark.parametrize("feature_weight", [0.0, 0.5, 3.0])
def test_the_loss_is_l2_and_lambda_times_the_features_squared_distance(
    files: dict[FeatureName, Path], feature_weight: float
) -> None:
    """Both terms summed over a patch's elements and averaged over patches, as by hand; lambda is 1 unless told."""
    patches, others = rand(3, 1, 40, 40), rand(3, 1, 40, 40, seed=1)
    network = load_features(FeatureSettings(weights=files["alexnet"]))
    features = (
        sum(float((network(patches[n : n + 1]) - network(others[n : n + 1])).square().sum()) for n in range(3)) / 3
    )
    pixels = float((patches - others).square().sum()) / 3
    found = loss_of(settings_of(files, feature_weight=feature_weight))(patches, others).item()
    assert found == pytest.approx(pixels + feature_weight * features, rel=1e-5)
    assert features > 1
    assert FeatureMatchingSettings().feature_weight == 1


def test_gradients_reach_reconstructions_alone(files: dict[FeatureName, Path]) -> None:
    """Through F to the reconstructions, as in double precision, and from the features to nothing else."""
    loss = loss_of(settings_of(files, feature_weight=2.0))
    patches, reconstructions = rand(2, 1, 48, 48).requires_grad_(), rand(2, 1, 48, 48, seed=1).requires_grad_()
    features = loss(patches, reconstructions) - l2_loss(patches, reconstructions)
    features.backward()  # type: ignore[no-untyped-call]
    assert reconstructions.grad is not None
    assert patches.grad is not None
    assert patches.grad.abs().max() == 0, "the pixels' part cancels, features of patches have no gradient"
    network = alexnet_layers().double()
    state = torch.load(files["alexnet"], weights_only=True)
    network.load_state_dict({key: state[f"features.{key}"] for key in network.state_dict()})
    mean, deviation = (torch.tensor(values, dtype=torch.float64)[:, None, None] for values in (MEAN, STD))
    exact = reconstructions.detach().double().requires_grad_()
    maps = [network((images.expand(-1, 3, -1, -1) - mean) / deviation) for images in (patches.detach().double(), exact)]
    (maps[0] - maps[1]).square().sum().backward()  # 2 lambda / N is 1 of the sum
    assert exact.grad is not None
    scale = float(exact.grad.abs().max())
    torch.testing.assert_close(reconstructions.grad.double(), exact.grad, rtol=1e-3, atol=1e-3 * scale)
    assert scale > 0


@pytest.mark.parametrize("network", NETWORKS)
def test_matching_features_lowers_their_distance(files: dict[FeatureName, Path], network: FeatureName) -> None:
    """A small step of an autoencoder's weights along the features' part of the loss lowers the squared distance that F
    measures by what a first-order expansion says: the step's length times the gradient's squared length."""
    features = load_features(FeatureSettings(network=network, weights=files[network]))
    patches, autoencoder = rand(4, 1, 32, 32), Autoencoder(NetworkShape(32, 1, 8))
    initialise(autoencoder, patches, seed=0)

    def distance() -> Tensor:
        return (features(autoencoder(patches)) - features(patches)).square().sum() / len(patches)

    loss, before = loss_of(settings_of(files, network, feature_weight=10.0)), distance().item()
    reconstructions = autoencoder(patches)
    matching = loss(patches, reconstructions) - l2_loss(patches, reconstructions)
    weights = list(autoencoder.parameters())
    gradients = torch.autograd.grad(matching, weights)
    slope = sum(float(gradient.square().sum()) for gradient in gradients) / 10
    step = 1e-3 * before / slope
    with torch.no_grad():
        for weight, by_weight in zip(weights, gradients, strict=True):
            weight.sub_(step * by_weight)
        lowered = before - distance().item()
    assert lowered == pytest.approx(step * slope, rel=0.1)


@pytest.mark.parametrize("network", NETWORKS)
def test_half_precision_gives_a_float32_loss_near_the_exact_one(
    files: dict[FeatureName, Path], network: FeatureName
) -> None:
    """Under autocast the loss is a float32 scalar within some percent of float32's, and gradients stay finite."""
    loss, patches = loss_of(settings_of(files, network)), rand(2, 1, 64, 64)
    reconstructions = (patches + 0.2 * rand(2, 1, 64, 64, seed=1)).requires_grad_()
    exact = loss(patches, reconstructions).item()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = loss(patches, reconstructions.bfloat16())
    found.backward()  # type: ignore[no-untyped-call]
    assert (found.dtype, found.shape) == (torch.float32, ())
    assert found.item() == pytest.approx(exact, rel=0.05)
    assert reconstructions.grad is not None
    assert bool(reconstructions.grad.isfinite().all())
    assert reconstructions.grad.abs().max() > 0


def test_shapes_that_differ_are_refused(files: dict[FeatureName, Path]) -> None:
    """A colour batch is not compared with a grey one."""
    with pytest.raises(InputError, match=r"must have one shape, got \(2, 3, 32, 32\) and \(2, 1, 32, 32\)"):
        loss_of(settings_of(files))(rand(2, 3, 32, 32), rand(2, 1, 32, 32))


# -------------------------------------------------------------------------------------------------------------- files


def test_both_formats_give_the_same_network(files: dict[FeatureName, Path], tmp_path: Path) -> None:
    """The same weights as .pth and as .safetensors, in half precision too, give the same features."""
    state = torch.load(files["alexnet"], weights_only=True)
    safetensors.torch.save_file(state, tmp_path / "a.safetensors")
    torch.save({key: tensor.half() for key, tensor in state.items()}, tmp_path / "half.pt")
    patches = rand(1, 1, 32, 32)
    exact = load_features(FeatureSettings(weights=files["alexnet"]))(patches)
    assert torch.equal(load_features(FeatureSettings(weights=tmp_path / "a.safetensors"))(patches), exact)
    half = load_features(FeatureSettings(weights=tmp_path / "half.pt"))(patches)
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, exact, rtol=1e-2, atol=1e-2)


class Touches:
    """Unpickled, it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("packed", ["torch", "pickle"])
def test_a_file_that_would_run_code_is_refused(tmp_path: Path, packed: str) -> None:
    """Of a .pth file tensors alone are read: what else is in it does not run."""
    harm, path = tmp_path / "harm", tmp_path / "evil.pth"
    state = {"features.0.weight": Touches(harm)}
    if packed == "torch":
        torch.save(state, path)
    else:
        path.write_bytes(pickle.dumps(state))
    with pytest.raises(InputError, match=r"is damaged, or no file of weights: expected tensors by their names"):
        load_features(FeatureSettings(weights=path))
    assert not harm.exists()
    with path.open("rb") as file:  # the trap is a trap
        torch.load(file, weights_only=False) if packed == "torch" else pickle.load(file)
    assert harm.exists()


def test_weights_of_another_network_are_refused(files: dict[FeatureName, Path], tmp_path: Path) -> None:
    """Missing keys, other shapes and NaN are named, with what was expected."""
    state = torch.load(files["alexnet"], weights_only=True)

    def refused(state: dict[str, Tensor], network: FeatureName = "alexnet") -> str:
        torch.save(state, tmp_path / "x.pth")
        with pytest.raises(InputError) as caught:
            load_features(FeatureSettings(network=network, weights=tmp_path / "x.pth"))
        return str(caught.value).replace(str(tmp_path / "x.pth"), "FILE")

    assert refused({key: tensor for key, tensor in state.items() if key != "features.6.bias"}) == (
        "FILE does not hold the weights of alexnet: expected 6 tensors under torchvision's names, 1 are missing, "
        "features.6.bias for one; name alexnet's file with method.features.weights, or the file's network with "
        "method.features.network"
    )
    assert "18 are missing, features.3.squeeze.weight for one" in refused(state, "squeezenet")
    assert refused(state | {"features.0.weight": torch.zeros(64, 1, 11, 11)}) == (
        "FILE does not hold the weights of alexnet: expected features.0.weight of shape (64, 3, 11, 11), got "
        "(64, 1, 11, 11); name alexnet's file with method.features.weights"
    )
    assert refused(state | {"features.3.bias": torch.full((192,), torch.nan)}) == (
        "FILE is damaged: features.3.bias holds NaN or infinite values; fetch it again"
    )


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.h5", b"", "weights are read from .pth, .pt and .safetensors files, got FILE; convert it"),
        ("a.pth", b"", "FILE is damaged, or no file of weights: expected tensors by their names, and nothing else ("),
        (
            "a.pth",
            b"GIF89a",
            "FILE is damaged, or no file of weights: expected tensors by their names, and nothing else",
        ),
        ("a.safetensors", b"\0" * 40, "FILE is damaged, or no file of weights: expected tensors by their names, and "),
        (
            "a.pth",
            [1, 2],
            "FILE is no file of weights: expected tensors by their names, as torch.save(network.state_dict(), FILE) "
            "writes them, got list; name another with method.features.weights",
        ),
    ],
)
def test_what_is_no_file_of_weights_is_refused(tmp_path: Path, name: str, content: Any, message: str) -> None:
    """Another format, an empty, foreign or damaged file, and a list: an error each, no traceback."""
    path = tmp_path / name
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save(content, path)
    with pytest.raises(InputError) as caught:
        load_features(FeatureSettings(weights=path))
    assert str(caught.value).replace(str(path), "FILE").startswith(message)


def test_missing_files_say_how_to_get_them(tmp_path: Path, cache: Path) -> None:
    """A file that was named and one that was to be fetched are missing in different ways."""
    with pytest.raises(InputError) as caught:
        load_features(FeatureSettings(weights=tmp_path / "no.pth"))
    assert str(caught.value) == (
        f"no file of weights {tmp_path / 'no.pth'}; expected alexnet's as .pth or .safetensors: name another one with "
        "--set method.features.weights=FILE"
    )
    with pytest.raises(InputError) as caught:
        load_features(FeatureSettings())
    assert str(caught.value) == (
        "the pretrained weights of alexnet are needed, but there is no "
        f"{cache / 'alexnet-owt-7be5be79.pth'}; get them with `flawmap weights fetch alexnet`, or name a file with "
        "--set method.features.weights=FILE"
    )


# ----------------------------------------------------------------------------------------------------------- fetching


@pytest.fixture
def published(files: dict[FeatureName, Path], monkeypatch: pytest.MonkeyPatch) -> str:
    """The generated weights as if they were the published ones; their address."""
    url = files["alexnet"].as_uri()
    digest = hashlib.sha256(files["alexnet"].read_bytes()).hexdigest()
    monkeypatch.setitem(PINNED, "alexnet", Pinned(url, digest))
    return url


def test_the_pins_agree_with_the_names() -> None:
    """A digest begins with the digits in the file's name, as its publisher promises."""
    for pinned in PINNED.values():
        assert pinned.url == f"https://download.pytorch.org/models/{pinned.file}"
        assert re.fullmatch(r"([0-9a-f]{8}|[0-9a-f]{64})", pinned.sha256)
        assert pinned.file.endswith(f"-{pinned.sha256[:8]}.pth")
    assert set(PINNED) - {"resnet18"} == set(NETWORKS) == set(LAYERS), "features of ResNet-18 are not matched"


def test_the_cache_follows_the_convention(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """$XDG_CACHE_HOME if it is an absolute path, else ~/.cache."""
    monkeypatch.setattr(Path, "expanduser", lambda path: Path(str(path).replace("~", "/home/me")))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert weights.weights_folder() == tmp_path / "flawmap" / "weights"
    for other in ("relative", ""):
        monkeypatch.setenv("XDG_CACHE_HOME", other)
        assert weights.weights_folder() == Path("/home/me/.cache/flawmap/weights")


def test_what_is_fetched_is_what_trainings_find(cache: Path, files: dict[FeatureName, Path], published: str) -> None:
    """After a fetch the settings need no file; it is told on the way, and a second fetch reads nothing."""
    said: list[str] = []
    counted: list[tuple[int, int, str]] = []

    class Heard(Events):
        def message(self, text: str) -> None:
            said.append(text)

        def progress(self, done: int, total: int, what: str) -> None:
            counted.append((done, total, what))

    path = fetch_weights("alexnet", events=Heard())
    assert path == cache / "alexnet.pth" == weights_file(FeatureSettings())
    assert path.read_bytes() == files["alexnet"].read_bytes()
    assert list(cache.iterdir()) == [path]
    assert said == [f"fetching {published} to {path}"]
    size = path.stat().st_size >> 20
    assert [(done, total) for done, total, _ in counted][: size + 1] == [
        (min(mb, size), size) for mb in range(1, size + 2)
    ]
    assert (
        known_weights()["weights"][0] | {"state": "there", "bytes": path.stat().st_size}
        == (known_weights()["weights"][0])
    )
    assert fetch_weights("alexnet", url="https://nowhere.invalid/x", events=Heard()) == path
    assert said[-1] == f"{path} is there already, and is what was published"


def test_another_file_leaves_nothing_behind(cache: Path, published: str, tmp_path: Path) -> None:
    """What has another digest is refused, whatever its address says, and is not kept."""
    (tmp_path / "other.pth").write_bytes(b"other")
    other = (tmp_path / "other.pth").as_uri()
    with pytest.raises(InputError) as caught:
        fetch_weights("alexnet", url=other)
    expected, got = PINNED["alexnet"].sha256, hashlib.sha256(b"other").hexdigest()
    assert str(caught.value) == (
        f"{other} is not alexnet.pth as published: expected the SHA-256 {expected}, got {got}; nothing was kept: try "
        "again, or another --url"
    )
    assert list(cache.iterdir()) == []


def test_a_file_that_is_something_else_is_not_replaced(tmp_path: Path, published: str) -> None:
    """A file of the user's stays as it is; so does a folder."""
    (tmp_path / "mine").write_bytes(b"mine")
    with pytest.raises(InputError, match=r"mine exists, and is not alexnet\.pth as published .* remove it to fetch"):
        fetch_weights("alexnet", out=tmp_path / "mine")
    assert (tmp_path / "mine").read_bytes() == b"mine"
    with pytest.raises(InputError, match=r"is a folder, the weights are a file; name one in it: -o .*alexnet\.pth"):
        fetch_weights("alexnet", out=tmp_path)


def test_addresses_that_fail(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Plain http, no address at all, a file that is missing, one without end: an error each, and nothing is left."""
    for url in ("http://example.invalid/a.pth", "ftp://x/y", "alexnet.pth", "data:,x"):
        with pytest.raises(InputError) as caught:
            fetch_weights("alexnet", url=url)
        assert str(caught.value) == (f"an address must begin with https:// or file://, got {url}; give another --url")
    missing = (tmp_path / "missing.pth").as_uri()
    with pytest.raises(InputError, match=rf"^{re.escape(missing)} cannot be fetched: .*No such file.*; check the "):
        fetch_weights("alexnet", url=missing)
    (tmp_path / "long").write_bytes(bytes(5000))
    monkeypatch.setattr(weights, "CHUNK", 1000)
    monkeypatch.setattr(weights, "LARGEST", 4999)
    with pytest.raises(InputError, match=r"is longer than \d+ MB, and no file of weights"):
        fetch_weights("alexnet", url=(tmp_path / "long").as_uri())
    assert list(cache.iterdir()) == []


def test_the_command_lists_and_fetches(
    cache: Path, published: str, files: dict[FeatureName, Path], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """`weights list` before and after `weights fetch`; a damaged file is named so."""

    def run(*arguments: str) -> tuple[int, str, str]:
        return main(["weights", *arguments]), *capsys.readouterr()

    code, out, _ = run("list")
    assert code == 0
    assert [line.split() for line in out.splitlines()] == [
        ["network", "state", "file"],
        ["alexnet", "absent", "alexnet.pth"],
        ["squeezenet", "absent", "squeezenet1_0-b66bff10.pth"],
        ["resnet18", "absent", "resnet18-f37072fd.pth"],
        ["in", str(cache)],
    ]
    assert not cache.exists(), "listing makes nothing"
    code, out, err = run("fetch", "alexnet")
    assert (code, out) == (0, f"{cache / 'alexnet.pth'}\n")
    assert err.startswith(f"fetching {published} to {cache / 'alexnet.pth'}\n1/3  MB of alexnet.pth\n")
    code, out, err = run("fetch", "alexnet", "-o", str(tmp_path / "b.pth"), "--json")
    assert (code, json.loads(out)["fetched"]) == (0, str(tmp_path / "b.pth"))
    assert json.loads(out)["weights"][0]["state"] == "there"
    (cache / "alexnet.pth").write_bytes(b"bad")
    assert json.loads(run("list", "--json")[1])["weights"][0]["state"] == "damaged"
    assert run("list", "--quiet") == (0, "", "")
    code, out, err = run("fetch")
    assert (code, out) == (2, "")
    assert "name the network: fetch alexnet, squeezenet or resnet18; see `flawmap weights --help`" in err
    code, out, err = run("list", "alexnet")
    assert code == 2
    assert "list takes no network, --url or --output" in err


# ----------------------------------------------------------------------------------------------------------- training


def config_of(weights_path: Path | None, **changes: Any) -> Config:
    tiny = {
        "model": {"patch": 32},
        "method": {"latent": 8, "features": {"weights": weights_path}},
        "tiling": {"stride": 16},
        "training": {"steps": 5, "batch": 4, "device": "cpu", "precision": "float32"},
    }
    return override(override(preset("fast", "fm"), tiny), changes)


@pytest.fixture
def good(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of synthetic cloth."""
    monkeypatch.setattr("flawmap.commands.train.VALIDATION_PATCHES", 8)
    monkeypatch.setattr("flawmap.commands.train.loss_figure", lambda *_: None)
    monkeypatch.setattr(gradient, "ROW_STEPS", 5)
    folder = tmp_path / "good"
    folder.mkdir()
    for number, image in enumerate(good_images("cloth", 8, (96, 80), 0)):
        write_image(folder / f"{number:03d}.png", np.rint(image[:, :, 0] * 255).astype(np.uint8))
    return folder


def test_a_model_needs_its_features_to_train_and_never_again(
    good: Path, files: dict[FeatureName, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Trained with --method fm, a model holds the autoencoder alone and inspects by l2 when F's file is gone; it still
    says which file that was."""
    here = tmp_path / "f.pth"
    here.write_bytes(files["alexnet"].read_bytes())
    model = tmp_path / "m.flawmap"
    report = flawmap.train(good, model, config_of(here))
    here.unlink()
    artifact = load_artifact(model)
    assert {key.split(".")[0] for key in artifact.weights} == {"encoder", "decoder"}
    assert model.stat().st_size < 4_000_000
    assert artifact.config.mapped.name == "l2"
    assert artifact.config.method.features == FeatureSettings(weights=None), "the digest says more than a place"
    digest = hashlib.sha256(files["alexnet"].read_bytes()).hexdigest()
    assert artifact.provenance["features"] == {"network": "alexnet", "file": "f.pth", "sha256": digest}
    rows = flawmap.inspect(model, [good / "000.png"], tmp_path / "out")
    assert rows[0].error is None
    assert commands_evaluate.model_summary(model, artifact)["features"]["sha256"] == digest
    assert main(["info", str(model)]) == 0
    out = capsys.readouterr().out
    assert re.search(r"^method +fm, residual of the method", out, re.MULTILINE)
    assert re.search(rf"^features +alexnet, SHA-256 {digest[:12]}", out, re.MULTILINE)
    assert report.history[-1].loss > 0


def test_a_training_goes_on_with_a_moved_file_and_not_with_another_one(
    files: dict[FeatureName, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Features count by their content, not by where they lie: the same bits from another folder, or a refusal."""
    monkeypatch.setattr(gradient, "ROW_STEPS", 2)
    source = PatchSource(map(TrainingImage, good_images("cloth", 2, (64, 64), 0)), 32)
    here, there, path = tmp_path / "f.pth", tmp_path / "g.pth", tmp_path / "state"
    here.write_bytes(files["alexnet"].read_bytes())
    straight = train_network(config_of(here), source)

    def interrupt(progress: Progress) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_network(config_of(here), source, FitContext(checkpoint=path, on_progress=interrupt))
    here.rename(there)
    resumed = train_network(config_of(there), source, FitContext(checkpoint=path, resume=True))
    assert [row.loss for row in straight.history] == [row.loss for row in resumed.history]
    other = torch.load(there, weights_only=True)
    other["features.0.bias"] += 1
    torch.save(other, there)
    with pytest.raises(ConfigError) as caught:
        train_network(config_of(there), source, FitContext(checkpoint=path, resume=True))
    assert str(caught.value) == (
        f"{path} was written while training with another file as method.features.weights; name that one, or remove "
        "the checkpoint to start anew"
    )


def test_without_features_nothing_is_trained(good: Path, cache: Path, tmp_path: Path) -> None:
    """Missing weights are told before any image is read, and leave no model."""
    with pytest.raises(InputError, match=r"get them with `flawmap weights fetch alexnet`"):
        flawmap.train(good, tmp_path / "m.flawmap", config_of(None))
    assert not (tmp_path / "m.flawmap").exists()


def test_settings_of_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    """--set reaches the settings of --method fm, and they are refused with another method."""
    arguments = ["train", "--show-config", "--json", "--set", "method.features.weights=a b.pth"]
    arguments += ["--set", "method.features.network=squeezenet"]
    assert main([*arguments, "--method", "fm"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["method"]["features"] == {"network": "squeezenet", "weights": "a b.pth"}
    assert shown["method"]["name"] == "fm"
    assert main(arguments) == 2
    assert (
        capsys.readouterr().err
        == "error: unknown setting method.features; it belongs to the method fm or cnn-dictionary\n"
    )
