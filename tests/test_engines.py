"""Engines: the same reconstructions and maps as PyTorch's, the same bits every time, exact error texts.

Packages are looked for without importing them: a plain `import openvino` reports itself to its maker.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

import flawmap
from flawmap.commands.cli import main
from flawmap.core.device import has_bfloat16
from flawmap.core.errors import ConfigError, InputError
from flawmap.core.runtime import Runtime
from flawmap.data.synthetic import texture
from flawmap.methods.autoencoder import build_network
from flawmap.methods.config import Config
from flawmap.methods.interface import PatchScores
from flawmap.methods.overrides import override, parse
from flawmap.methods.presets import preset
from flawmap.nets.autoencoder import Autoencoder
from flawmap.nets.engines import COMPILED, ENGINES, start_engine
from flawmap.nets.initialisation import initialise
from flawmap.nets.layers import all_layers, is_convolution
from flawmap.nets.onnx_model import onnx_model
from flawmap.scoring.detector import Detector
from flawmap.scoring.model_file import DEFAULT, Artifact, load_artifact, save_artifact
from flawmap.scoring.operating_point import OperatingPoint

PATCH = 32
OTHERS = [
    pytest.param(
        name,
        marks=pytest.mark.skipif(
            any(find_spec(package) is None for package in ("onnx", name)), reason=f"needs onnx and {name}"
        ),
    )
    for name in ("onnxruntime", "openvino")
]
OPENVINO = OTHERS[1].marks[0]
Pixels = NDArray[np.float32]


def settings(channels: int = 1, **changes: Any) -> Config:
    return parse(
        {
            "model": {"patch": PATCH, "channels": channels},
            "method": {"latent": 8},
            "residual": {"ssim": {"size": 7}},
            "tiling": {"stride": 12},
            **changes,
        }
    )


VAE = settings(method={"name": "vae", "latent": 8}, residual={"name": "l2"})
ONCE = settings(tiling={"encoder": "image", "stride": 16})


def initialised(config: Config) -> Autoencoder:
    """A network whose reconstructions vary from patch to patch."""
    network = build_network(config)
    initialise(network, random_patches(config, 32), seed=0)
    return network.eval()


def random_patches(config: Config, count: int, seed: int = 0) -> Tensor:
    side, generator = config.model.patch, torch.Generator().manual_seed(seed)
    return torch.rand(count, config.model.channels or 1, side, side, generator=generator)


def artifact_of(config: Config) -> Artifact:
    return Artifact(config, initialised(config).state_dict(), {DEFAULT: OperatingPoint(threshold=0.1)})


def detector_of(config: Config, engine: str, precision: str = "float32") -> Detector:
    return Detector.of(artifact_of(config), Runtime("cpu", precision, engine))


def image_of(channels: int = 1, seed: int = 0, size: tuple[int, int] = (70, 50)) -> Pixels:
    return texture("fibres", size, seed) * np.array([1.0, 0.7, 0.4], np.float32)[:channels]


def message_of(call: Callable[[], object], kind: type[Exception]) -> str:
    with pytest.raises(kind) as caught:
        call()
    return str(caught.value)


# --------------------------------------------------------------------------------------------------------------- model


@pytest.mark.parametrize("patch", [32, 64, 128, 256])
@pytest.mark.parametrize("channels", [1, 3])
def test_the_model_is_valid_and_says_its_shapes(patch: int, channels: int) -> None:
    """ONNX's own checker accepts it and infers the shapes that it states: any number of patches of the side P."""
    onnx = pytest.importorskip("onnx")
    config = override(settings(channels), {"model": {"patch": patch}, "method": {"latent": 4}})
    model = onnx.load_from_string(onnx_model(all_layers(build_network(config))))
    onnx.checker.check_model(model, full_check=True)
    for value in (*model.graph.input, *model.graph.output):
        found = [dimension.dim_param or dimension.dim_value for dimension in value.type.tensor_type.shape.dim]
        assert found == ["N", channels, patch, patch]
    assert [model.graph.input[0].name, model.graph.output[0].name] == ["patches", "reconstructions"]


def test_the_model_holds_the_weights_as_they_are() -> None:
    """Every weight of encoder and decoder, bit for bit in some order, and the layers in theirs: convolutions alone, a
    transposed one followed by what moves its pixels."""
    onnx = pytest.importorskip("onnx")
    network = initialised(settings(3))
    graph = onnx.load_from_string(onnx_model(all_layers(network))).graph
    constants = {constant.name: onnx.numpy_helper.to_array(constant) for constant in graph.initializer}
    kept = [values for name, values in constants.items() if name.endswith("weight")]
    own = [layer.weight for layer in (*network.encoder, *network.decoder) if is_convolution(layer)]
    for a, b in zip(kept, own, strict=True):
        assert np.array_equal(np.sort(a, axis=None), np.sort(b.detach().numpy(), axis=None))
    kinds = [node.op_type for node in graph.node]
    assert kinds[:17] == ["Conv", "LeakyRelu"] * 8 + ["Conv"]
    flat, up = ["Conv", "LeakyRelu"], ["Conv", "LeakyRelu", "DepthToSpace", "Slice"]
    first = ["Conv", "LeakyRelu", "DepthToSpace"]
    assert kinds[17:] == [*first, *flat, *flat, *up, *flat, *up, *flat, *up, "Conv", "DepthToSpace", "Slice"]


# ----------------------------------------------------------------------------------------------------------- agreement


@pytest.mark.parametrize("engine", OTHERS)
@pytest.mark.parametrize("config", [settings(), settings(3), VAE], ids=["grey", "colour", "vae"])
@torch.inference_mode()
def test_an_engine_reconstructs_as_torch(engine: str, config: Config) -> None:
    """To 1e-4 in any number of patches; a variational network decodes its mean."""
    network = initialised(config)
    reconstruct = start_engine(engine, all_layers(network), "float32")
    for count in (1, 5, 2):
        patches = random_patches(config, count, seed=count)
        found = reconstruct(patches)
        assert (found.dtype, found.shape) == (torch.float32, patches.shape)
        torch.testing.assert_close(found, network(patches), rtol=0, atol=1e-4)


@pytest.mark.parametrize("engine", OTHERS)
@pytest.mark.parametrize(
    "config",
    [settings(), settings(3), settings(method={"name": "l2", "latent": 8}), VAE, ONCE],
    ids=["grey", "colour", "l2", "vae", "encoded once"],
)
def test_an_engine_s_maps_are_those_of_torch(engine: str, config: Config) -> None:
    """Whole residual maps and reconstructions agree to 1e-4."""
    image = image_of(config.model.channels or 1)
    detector = detector_of(config, engine)
    found, expected = (one.explain(image) for one in (detector, detector_of(config, "torch")))
    assert expected.residual.std() > 1e-3
    np.testing.assert_allclose(found.residual, expected.residual, rtol=0, atol=1e-4)
    np.testing.assert_allclose(found.reconstruction, expected.reconstruction, rtol=0, atol=1e-4)


@OPENVINO
@pytest.mark.skipif(not has_bfloat16(torch.device("cpu")), reason="needs bfloat16 in hardware")
def test_openvino_in_bfloat16_is_close_to_float32() -> None:
    """`auto` takes bfloat16 where it is native. A residual moves, so it is bfloat16 indeed, by less than 0.03."""
    detector = detector_of(settings(), "openvino", precision="auto")
    assert detector.scorer.precision == "bfloat16"
    difference = np.abs(detector.score(image_of()) - detector_of(settings(), "torch").score(image_of()))
    assert 1e-6 < difference.max() < 0.03


@pytest.mark.parametrize("engine", OTHERS)
def test_bits_repeat(engine: str) -> None:
    """Bit for bit: again, after others, by a detector made anew, and by several threads at once."""
    images = [image_of(seed=seed) for seed in range(3)] + [image_of(size=(90, 64), seed=9)]
    detector = detector_of(settings(), engine)
    first = [detector.score(image) for image in images]
    assert np.array_equal(detector_of(settings(), engine).score(images[0]), first[0])
    with ThreadPoolExecutor(3) as threads:
        again = list(threads.map(detector.score, images * 2))
    assert all(np.array_equal(a, b) for a, b in zip(again, first * 2, strict=True))


@pytest.mark.parametrize("engine", OTHERS)
def test_a_detector_gives_an_engine_its_own_batch(engine: str) -> None:
    """Few patches at a time, of an image alone: bits never depend on other images."""
    detector, shapes = detector_of(settings(), engine), []

    def recording(patches: Tensor) -> PatchScores:
        shapes.append(tuple(patches.shape))
        return detector.scorer.score(patches)

    side = PATCH + 11 * detector.config.tiling.stride
    replace(detector, scorer=replace(detector.scorer, score=recording)).score(image_of(size=(side, PATCH)))
    assert ENGINES[engine].batch == 8
    assert shapes == [(6, 1, PATCH, PATCH)] * 2


@OPENVINO
@torch.inference_mode()
def test_many_sizes_of_batches() -> None:
    """OpenVINO compiles for every size that it meets, keeps a few, and compiles again when one comes back."""
    network = initialised(settings())
    reconstruct, patches = (
        start_engine("openvino", all_layers(network), "float32"),
        random_patches(settings(), COMPILED + 2),
    )
    for count in (*range(1, COMPILED + 3), 1):
        torch.testing.assert_close(reconstruct(patches[:count]), network(patches[:count]), rtol=0, atol=1e-4)


@OPENVINO
def test_openvino_reports_nothing() -> None:
    """The package that reports an import of openvino is never loaded, and can be afterwards by who wants it."""
    start_engine("openvino", all_layers(initialised(settings())), "float32")
    assert "openvino" in sys.modules
    assert "openvino_telemetry" not in sys.modules


# ---------------------------------------------------------------------------------------------------------- whole runs


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of cloth with flaws, and a model of it."""
    folder = tmp_path_factory.mktemp("engines")
    flawmap.synth(folder / "cloth", "cloth", good=3, bad=2, size=(64, 64), seed=0)
    tiny = {
        "model": {"patch": PATCH},
        "method": {"latent": 4},
        "training": {"steps": 2, "batch": 4, "precision": "float32"},
    }
    with pytest.MonkeyPatch.context() as patch:  # what costs more than the training
        patch.setattr("flawmap.commands.train.VALIDATION_PATCHES", 8)
        patch.setattr("flawmap.commands.train.loss_figure", lambda *_: None)
        flawmap.train(folder / "cloth", folder / "m.flawmap", override(preset("fast"), tiny))
    return folder


@pytest.mark.parametrize("engine", OTHERS)
def test_inspect_and_evaluate(engine: str, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the command line: the scores of torch to 1e-4, and the engine's name in metrics.json."""
    monkeypatch.setattr("flawmap.commands.evaluate.roc_figure", lambda *_: None)
    monkeypatch.setattr("flawmap.commands.evaluate.evaluation_page", lambda *_, **__: None)
    monkeypatch.setattr("flawmap.commands.evaluate.write_report", lambda *_, **__: None)
    model, cloth = str(trained / "m.flawmap"), trained / "cloth"
    for name in (engine, "torch"):
        options = ["-o", str(tmp_path / name), "--device", "cpu", "--precision", "float32", "--engine", name, "-q"]
        assert main(["inspect", model, str(cloth / "test"), *options]) == 0
    ours, theirs = (
        [json.loads(line)["score"] for line in (tmp_path / name / "inspections.jsonl").read_text().splitlines()]
        for name in (engine, "torch")
    )
    assert len(ours) == 3
    assert ours == pytest.approx(theirs, abs=1e-4)
    options = ["-o", str(tmp_path / "ev"), "--precision", "float32", "--engine", engine, "-q"]
    assert main(["evaluate", model, str(cloth), *options]) == 0
    metrics = json.loads((tmp_path / "ev" / "metrics.json").read_text(encoding="utf-8"))
    assert (metrics["precision"], metrics["engine"]) == ("float32", engine)


def test_the_model_file_knows_no_engine(trained: Path) -> None:
    """The engine belongs to a run: one file serves all of them."""
    assert "engine" not in json.dumps(load_artifact(trained / "m.flawmap").header())


# -------------------------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("config", "options", "message"),
    [
        (settings(), {"engine": "tensorrt"}, "engine must be auto, torch, onnxruntime, openvino, got 'tensorrt'"),
        (
            settings(),
            {"engine": "openvino", "device": "cuda"},
            "the engine openvino runs on the CPU, got the device cuda; use --device cpu, or --engine torch",
        ),
        (
            settings(method={"name": "vae", "latent": 8}, residual={"name": "probability"}),
            {"engine": "onnxruntime"},
            "the residual probability decodes samples, which the engine onnxruntime does not; use --engine torch",
        ),
        (
            settings(),
            {"engine": "onnxruntime", "precision": "bfloat16"},
            "the engine onnxruntime computes in float32 or int8, got the precision bfloat16; use --precision float32, "
            "or --engine torch or openvino",
        ),
        (
            settings(),
            {"engine": "openvino", "precision": "tf32"},
            "precision must be auto, float32 or bfloat16, got 'tf32'",
        ),
        (
            settings(),
            {"engine": "torch", "precision": "int8"},
            "the engine torch computes in float32 or bfloat16, got the precision int8; use --precision float32, or "
            "--engine onnxruntime or openvino",
        ),
        (
            settings(),
            {"engine": "onnxruntime", "precision": "int8"},
            "this model knows no ranges for whole numbers of 8 bits; find them by `flawmap calibrate MODEL GOOD`, or "
            "use --precision float32",
        ),
    ],
)
def test_what_an_engine_cannot_do_is_refused(config: Config, options: dict[str, str], message: str) -> None:
    """Before any package is looked for, with what to do instead."""
    artifact = Artifact(config, build_network(config).state_dict(), {DEFAULT: OperatingPoint(threshold=0.1)})
    assert message_of(lambda: Detector.of(artifact, Runtime(**options)), ConfigError) == message


@pytest.mark.parametrize(
    ("engine", "package"),
    [("onnxruntime", "onnx"), ("onnxruntime", "onnxruntime"), ("openvino", "onnx"), ("openvino", "openvino")],
)
def test_a_missing_package(engine: str, package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error names the extra, before any image is looked for."""
    monkeypatch.setitem(sys.modules, package, None)
    save_artifact(artifact_of(settings()), tmp_path / "m.flawmap")
    found = message_of(
        lambda: flawmap.inspect(tmp_path / "m.flawmap", ["none"], tmp_path / "out", runtime=Runtime(engine=engine)),
        InputError,
    )
    assert found == f"--engine {engine} needs a package that is not installed; pip install 'flawmap[export]'"
    assert not (tmp_path / "out").exists()


@OPENVINO
def test_bfloat16_where_openvino_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """It would run in float32 without a word, and the figures would be said to be of bfloat16."""
    start_engine("openvino", all_layers(initialised(settings())), "float32")
    monkeypatch.setattr(sys.modules["openvino"].Core, "get_property", lambda *_: ["FP32"])
    assert message_of(lambda: detector_of(settings(), "openvino", "bfloat16"), ConfigError) == (
        "the engine openvino has no bfloat16 on this processor; use --precision float32, or --engine torch"
    )


TWICE = """
import gc
import signal
import numpy as np
from flawmap.methods.autoencoder import build_network
from flawmap.methods.presets import preset
from flawmap.nets.engines import start_engine
from flawmap.nets.layers import all_layers
layers = all_layers(build_network(preset("paper")))
first, second = (start_engine("openvino", layers, "float32") for _ in range(2))
for engine in (first, second):
    engine(np.zeros((1, 1, 128, 128), np.float32))
del engine, first
gc.collect()
del second
gc.collect()
try:
    signal.raise_signal(signal.SIGINT)
except KeyboardInterrupt:
    print("interrupted")
"""


@OPENVINO
def test_ctrl_c_after_engines_that_are_gone() -> None:
    """OpenVINO once took the stack for signals with it: Ctrl-C was a segmentation fault."""
    done = subprocess.run([sys.executable, "-c", TWICE], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "interrupted\n"), done.stderr


def test_onnxruntime_takes_float32_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """`auto` is what the engine can do, whatever the processor has."""
    monkeypatch.setattr("flawmap.core.device.has_bfloat16", lambda device: True)
    monkeypatch.setattr("flawmap.methods.autoencoder.start_engine", lambda engine, layers, precision: layers.layers)
    detector = Detector.of(artifact_of(settings()), Runtime(engine="onnxruntime"))
    assert (detector.scorer.device, detector.scorer.precision) == (torch.device("cpu"), "float32")
