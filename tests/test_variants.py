"""Variants of engine and precision: which keep a model's verdicts, what `auto` takes on a machine, and what is kept."""

from __future__ import annotations

import json
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import flawmap
from flawmap.commands.calibrate import calibrate
from flawmap.commands.cli import main
from flawmap.core import processor
from flawmap.core.errors import ConfigError
from flawmap.core.events import Events
from flawmap.core.processor import has_int8
from flawmap.core.records import MappedInspection
from flawmap.core.runtime import Runtime
from flawmap.data.splits import ImageRegion
from flawmap.data.synthetic import good_images
from flawmap.evaluation import agreement as module
from flawmap.evaluation.agreement import agreement, has_variants, variants_here, with_variants
from flawmap.imaging.writing import write_image
from flawmap.methods.autoencoder import build_network
from flawmap.methods.config import Config
from flawmap.methods.overrides import override
from flawmap.methods.presets import preset
from flawmap.nets.engines import ENGINES, runs_here, start_engine
from flawmap.nets.export import Samples, whole_parts
from flawmap.nets.initialisation import initialise
from flawmap.nets.layers import Layers, all_layers, best_range, is_convolution, plain_layers, ranges_of, rounded
from flawmap.nets.onnx_model import onnx_model
from flawmap.scoring import engine_choice
from flawmap.scoring.detector import Detector
from flawmap.scoring.engine_choice import SWITCH, Times, cache_file, candidates, chosen, fastest, known_times
from flawmap.scoring.model_file import Artifact, load_artifact, save_artifact
from flawmap.scoring.operating_point import OperatingPoint
from flawmap.scoring.variants import Compared, Variant, Variants

pytestmark = pytest.mark.skipif(
    any(find_spec(name) is None for name in ("onnx", "onnxruntime", "openvino")), reason="needs the extra export"
)
PATCH = 32
FLOAT32, HALF = Variant("torch", "float32"), Variant("torch", "bfloat16")
ORT, ORT8, OV = Variant("onnxruntime", "float32"), Variant("onnxruntime", "int8"), Variant("openvino", "float32")
SMALL: dict[str, Any] = {
    "model": {"patch": PATCH},
    "method": {"latent": 8},
    "tiling": {"stride": 16},
    "training": {"steps": 30, "batch": 8, "device": "cpu", "precision": "float32", "plateau_steps": 0},
    "threshold": {"rule": "conformal", "alpha": 0.2},
    "split": {"validation": 0.4, "test": 0},
    "check": {"enabled": True},
}


def settings(channels: int = 1, patch: int = PATCH, **changes: Any) -> Config:
    return override(
        preset("fast"), {"model": {"patch": patch, "channels": channels}, "method": {"latent": 8}} | changes
    )


def patches_of(config: Config, count: int, seed: int = 0) -> Tensor:
    side, generator = config.model.patch, torch.Generator().manual_seed(seed)
    return torch.rand(count, config.model.channels or 1, side, side, generator=generator)


def network_of(config: Config) -> Any:
    network = build_network(config)
    initialise(network, patches_of(config, 32), seed=0)
    return network.eval()


# ----------------------------------------------------------------------------------------------------- plain layers


@pytest.mark.parametrize("patch", [32, 64, 128, 256])
@pytest.mark.parametrize("channels", [1, 3])
@torch.no_grad()
def test_plain_convolutions_are_the_transposed_ones(patch: int, channels: int) -> None:
    """The layers that engines get give what PyTorch's own give, to rounding."""
    config = settings(channels, patch)
    network = network_of(config)
    given, plain = patches_of(config, 3), nn.Sequential(*plain_layers(all_layers(network)))
    assert not any(isinstance(layer, nn.ConvTranspose2d) for layer in plain)
    torch.testing.assert_close(plain(given.clone()), network(given), rtol=0, atol=1e-5)


# ------------------------------------------------------------------------------------------------------- whole numbers


@given(low=st.floats(-10, 0), high=st.floats(0.01, 10), values=st.lists(st.floats(-12, 12), min_size=1, max_size=20))
def test_rounding_to_a_range(low: float, high: float, values: list[float]) -> None:
    """Inside the range a value moves by half a step at most, 0 stays 0, twice rounded is once rounded, and values
    outside become its ends."""
    given_values, step = torch.tensor(values), (high - low) / 255
    found = rounded(given_values, (low, high))
    inside = given_values.clamp(low, high)
    assert ((found - inside).abs() <= step * (0.5 + 1e-3) + step).all()
    within = (given_values >= low + step) & (given_values <= high - step)
    assert ((found - given_values).abs()[within] <= step * (0.5 + 1e-3)).all()
    assert rounded(torch.zeros(1), (low, high)) == 0
    torch.testing.assert_close(rounded(found, (low, high)), found, rtol=1e-5, atol=1e-6)


def test_a_range_is_cut_where_that_is_more_exact() -> None:
    """A lonely high value among very many small ones costs more than it is worth; without it nothing is cut."""
    small = torch.linspace(0, 1, 199_999)
    assert best_range([small]) == (0.0, 1.0)
    low, high = best_range([small, torch.tensor([3.0])])
    assert low == 0
    assert 1 < high < 3
    assert best_range([torch.ones(5)])[0] == 0, "0 is always in it"


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize(("half", "first", "last"), [("encoder", 0, 5), ("decoder", 0, 5), ("decoder", 4, 9)])
@torch.no_grad()
def test_eight_bits_are_what_the_formula_says(half: str, first: int, last: int, fused: bool) -> None:
    """ONNX Runtime's result is that of PyTorch with weights and activations rounded by hand: a fifth of the rounding
    error at most, as a value between two steps goes either way. Of few layers, as errors grow from layer to layer."""
    network = network_of(settings())
    chosen_layers = nn.Sequential(*list(getattr(network, half))[first:last])
    inputs = next(layer for layer in chosen_layers if is_convolution(layer)).weight.shape[half == "encoder"]
    side = {("encoder", 0): 32, ("decoder", 0): 1, ("decoder", 4): 4}[half, first]
    values = torch.randn(4, int(inputs), side, side, generator=torch.Generator().manual_seed(1))
    layers = Layers(chosen_layers, ("given", ("N", int(inputs), "H", "W")), ("made", ("N", "O", "R", "S")))
    whole = layers._replace(ranges=ranges_of(layers, [values.clone()]))
    found = _ort(onnx_model(whole, fused=fused), values)
    expected, plain = by_hand(whole, values, fused=fused), layers.layers(values.clone())
    noise = float((expected - plain).abs().mean())
    assert 0 < noise < 0.1 * float(plain.std())
    assert float((found - expected).abs().mean()) < 0.2 * noise


def _ort(model: bytes, given_patches: Tensor) -> Tensor:
    import onnxruntime

    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(None, {session.get_inputs()[0].name: given_patches.numpy()})[0])


def by_hand(layers: Layers, values: Tensor, *, fused: bool) -> Tensor:
    """The slow reference: plain layer after plain layer in float32, with everything rounded that is."""
    assert layers.ranges is not None
    limits = iter(layers.ranges)
    low, high = next(limits)
    values, everything = rounded(values, (low, high)), plain_layers(layers)
    last = [layer for layer in everything if isinstance(layer, nn.Conv2d)][-1]
    for layer, after in zip(everything, [*everything[1:], None], strict=True):
        if isinstance(layer, nn.Conv2d):
            step = layer.weight.abs().amax(dim=(1, 2, 3), keepdim=True) / 127
            weight = (layer.weight / step).round() * step
            values = nn.functional.conv2d(values, weight, layer.bias, layer.stride, layer.padding)
            if layer is not last:
                low, high = next(limits)
                if not (fused and isinstance(after, nn.LeakyReLU)):
                    values = rounded(values, (low, high))
        elif isinstance(layer, nn.LeakyReLU):
            low *= layer.negative_slope
            values = rounded(torch.where(values < 0, layer.negative_slope * values, values), (low, high))
        else:
            values = layer(values)
    return values


@pytest.mark.skipif(not has_int8(), reason="the processor adds 8 bits in 16, which may overflow")
@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("once", [False, True])
@torch.no_grad()
def test_both_engines_run_eight_bits(engine: str, once: bool) -> None:
    """Close to float32 and not equal to it, the encoder by itself too; the same bits again."""
    config = settings()
    network = network_of(config)
    given_patches = patches_of(config, 4)
    features = [network.features(given_patches)] if once else [given_patches]
    for part in whole_parts(network, Samples(features, [given_patches[:1]] if once else []), once=once):
        if part is None:
            continue
        given_values = given_patches[:1] if part.given[0] != "features" else features[0]
        run, plain = start_engine(engine, part, "int8"), part.layers(given_values.clone())
        found = run(given_values)
        assert 1e-5 < float((found - plain).abs().mean()) < 0.1 * float(plain.std())
        assert torch.equal(run(given_values), found)


def test_ranges_of_other_layers_are_refused() -> None:
    """One range for each convolution."""
    layers = all_layers(network_of(settings()))._replace(ranges=((0.0, 1.0),))
    with pytest.raises(ConfigError) as caught:
        onnx_model(layers)
    assert str(caught.value) == (
        "18 ranges of 8 bits belong to these layers, got 1; find them anew by `flawmap calibrate MODEL GOOD`"
    )


# ------------------------------------------------------------------------------------------------------------ agreement


def inspection(score: float, *, threshold: float = 1.0, name: str = "a.png") -> MappedInspection:
    residual = np.zeros((4, 4), np.float32)
    residual[1, 1] = score
    verdict = "flawed" if score > threshold else "ok"
    return MappedInspection(
        width=4,
        height=4,
        score=score,
        threshold=threshold,
        verdict=verdict,
        flawed_pixels=0,
        regions=(),
        path=name,
        notes=(),
        p_value=None,
        residual=residual,
        mask=residual > threshold,
    )


def test_a_changed_verdict_is_named() -> None:
    """Either way; the difference of the maps is a share of the threshold."""
    before = [inspection(1.5, threshold=2), inspection(2.5, threshold=2, name="b.png")]
    found = agreement(before, [inspection(2.1, threshold=2), inspection(1.9, threshold=2)])
    assert found.changed == ("a.png", "b.png")
    assert found.largest == pytest.approx(0.3)
    assert agreement(before, before) == ((), 0.0)


def test_a_score_at_the_threshold_decides_nothing() -> None:
    """A threshold that is a held-out score is met within rounding; a little beyond it counts."""
    assert agreement([inspection(1.0)], [inspection(1.01)]).changed == ()
    assert agreement([inspection(1.0009)], [inspection(0.9)]).changed == ()
    assert agreement([inspection(1.002)], [inspection(0.9)]).changed == ("a.png",)


@pytest.mark.parametrize(
    ("changes", "known"),
    [
        ({}, True),
        ({"method": {"name": "vae", "latent": 8}, "residual": {"name": "probability"}}, False),
        ({"method": {"name": "gmm"}}, False),
    ],
)
def test_which_models_have_variants(changes: dict[str, Any], known: bool) -> None:
    """Those whose network every engine can run."""
    base = {} if changes.get("method", {}).get("name") == "gmm" else {"method": {"latent": 8}}
    config = override(preset("fast", changes.get("method", {}).get("name", "ssim")), base | changes)
    assert has_variants(Artifact(config, {})) is known


# ----------------------------------------------------------------------------------------------------------- the record


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `m.flawmap`, which has a record, and `good`, a few of them new to it."""
    folder = tmp_path_factory.mktemp("variants")
    for place, seed, count in (("good", 0, 15), ("new", 1, 6)):
        (folder / place).mkdir()
        for number, image in enumerate(good_images("cloth", count, (90, 100), seed)):
            write_image(folder / place / f"{number:02d}.png", np.rint(image[:, :, 0] * 255).astype(np.uint8))
    with pytest.MonkeyPatch.context() as patch:  # what costs more than the training
        patch.setattr("flawmap.commands.train.with_self_check", lambda detector, good, events: detector)
        patch.setattr(module, "PARTS", 3)
        flawmap.train(folder / "good", folder / "m.flawmap", override(preset("fast"), SMALL))
    return folder


def test_a_training_ends_with_the_record(made: Path) -> None:
    """Every variant of this machine but the reference; float32 keeps all verdicts, and its maps agree to rounding; the
    file keeps it as it is."""
    artifact = load_artifact(made / "m.flawmap")
    record = artifact.variants
    assert record is not None
    assert (record.reference, record.threshold, record.good) == ("float32", artifact.threshold, 3)
    assert [one.variant for one in record.compared] == [one for one in variants_here() if one != FLOAT32]
    by_variant = {one.variant: one for one in record.compared}
    for variant in (ORT, OV):
        assert by_variant[variant].changed == 0
        assert by_variant[variant].largest < 1e-3
    for variant, one in by_variant.items():
        if variant.precision != "float32":
            assert one.largest > 1e-4
    assert len(record.ranges) == 1
    assert len(record.ranges[0]) == 18


def test_calibration_makes_the_record_anew(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For the new threshold; one that is set by hand leaves the old record, which does not hold there."""
    monkeypatch.setattr(module, "PARTS", 2)
    target = tmp_path / "n.flawmap"
    calibrate(made / "m.flawmap", made / "new", target, runtime=Runtime("cpu", "float32"))
    artifact = load_artifact(target)
    assert artifact.variants is not None
    assert artifact.variants.good == 2
    assert artifact.variants.threshold == artifact.threshold
    calibrate(target, threshold=9.0)
    moved = load_artifact(target)
    assert moved.variants == artifact.variants
    monkeypatch.delenv(SWITCH)
    assert len(candidates(artifact, Runtime("cpu"))) > 1
    assert candidates(moved, Runtime("cpu")) == ()


def test_an_engine_that_fails_costs_no_training(
    made: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It is left out of the record, with a warning."""
    monkeypatch.setattr(module, "PARTS", 1)
    monkeypatch.setattr(module, "variants_here", lambda: [FLOAT32, ORT, OV])
    plain = ENGINES["onnxruntime"]

    def failing(*_: Any) -> Any:
        raise RuntimeError("object is not initialized")

    monkeypatch.setitem(ENGINES, "onnxruntime", plain._replace(start=failing))
    detector = Detector.load(made / "m.flawmap", Runtime("cpu", "float32"))
    image = next((made / "new").iterdir())
    found = with_variants(detector, [ImageRegion(image, "")]).artifact.variants
    assert found is not None
    assert [one.variant for one in found.compared] == [OV]
    assert "onnxruntime float32 cannot be compared: object is not initialized" in caplog.text


def test_other_settings_of_scoring_drop_the_record(made: Path) -> None:
    """They were not compared."""
    assert load_artifact(made / "m.flawmap").rescored({"tiling": {"stride": 8}}).variants is None


def test_eight_bits_by_the_record(made: Path) -> None:
    """`--precision int8` takes the ranges that the model knows."""
    path = next((made / "new").iterdir())
    plain, whole = (
        Detector.load(made / "m.flawmap", Runtime("cpu", precision, "onnxruntime")) for precision in ("float32", "int8")
    )
    assert whole.precision_name == "int8"
    difference = np.abs(plain.inspect(path).residual - whole.inspect(path).residual).max()
    assert 1e-5 < difference < 0.3


# ----------------------------------------------------------------------------------------------------------- the choice


class Heard(Events):
    def __init__(self) -> None:
        self.said: list[str] = []

    def message(self, text: str) -> None:
        self.said.append(text)


def model_with(**kept: int) -> Artifact:
    """A model that compared variants; kept: changed verdicts of engine_precision."""
    compared = tuple(
        Compared(engine=name.split("_")[0], precision=name.split("_")[1], changed=changed, largest=0.1)
        for name, changed in kept.items()
    )
    config = settings()
    record = Variants(threshold=0.5, area=1, reference="float32", good=2, flawed=2, compared=compared)
    point = OperatingPoint(threshold=0.5)
    return Artifact(config, network_of(config).state_dict(), {"default": point}, variants=record)


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder of its own, and a processor with VNNI and without bfloat16."""
    monkeypatch.delenv(SWITCH)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("flawmap.core.device.has_bfloat16", lambda device: False)
    monkeypatch.setattr("flawmap.nets.engines.has_int8", lambda: True)
    monkeypatch.setattr("flawmap.core.device.torch.cuda.is_available", lambda: False)
    return tmp_path


def timed(monkeypatch: pytest.MonkeyPatch, milliseconds: dict[str, float]) -> list[tuple[str, ...]]:
    """Times as if they were measured, of whatever is asked for; what was asked."""
    asked: list[tuple[str, ...]] = []

    def measured(artifact: Artifact, variants: Any) -> Times:
        asked.append(tuple(map(str, variants)))
        times = Times("2026-01-01T00:00:00+00:00", {str(variant): milliseconds[str(variant)] for variant in variants})
        engine_choice._keep(artifact, times)
        return times

    monkeypatch.setattr(engine_choice, "measured_times", measured)
    return asked


@pytest.mark.usefixtures("machine")
def test_the_fastest_that_kept_the_verdicts_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not the fastest of all; it is measured once and said, then known."""
    artifact = model_with(onnxruntime_float32=0, onnxruntime_int8=0, openvino_int8=1)
    times = {"torch float32": 9.0, "onnxruntime float32": 8.0, "onnxruntime int8": 3.0, "openvino int8": 1.0}
    asked, heard = timed(monkeypatch, times), Heard()
    for _ in range(2):
        assert chosen(artifact, Runtime("cpu"), events=heard) == Runtime("cpu", "int8", "onnxruntime")
    assert asked == [("torch float32", "onnxruntime float32", "onnxruntime int8")]
    assert heard.said == [
        "measuring torch float32, onnxruntime float32, onnxruntime int8 on this machine, once",
        *["the network runs by onnxruntime int8, the fastest here that keeps the model's verdicts"] * 2,
    ]
    assert json.loads(cache_file().read_text(encoding="utf-8")).keys() == {engine_choice._key(artifact)}


def test_a_small_lead_changes_nothing() -> None:
    """The usual one stays unless another takes at most nine tenths of its time; one that failed never wins."""
    variants = (FLOAT32, ORT, OV)
    lead = Times("", {"torch float32": 10.0, "onnxruntime float32": 9.1, "openvino float32": float("inf")})
    assert fastest(variants, lead) == FLOAT32
    assert fastest(variants, replace(lead, milliseconds=lead.milliseconds | {"onnxruntime float32": 9.0})) == ORT
    assert lead.to_dict()["milliseconds"]["openvino float32"] is None


@pytest.mark.usefixtures("machine")
def test_it_is_as_before_without_a_record(monkeypatch: pytest.MonkeyPatch) -> None:
    """Or with the switch off, another engine asked for, a GPU, another threshold: the runtime stays as it was."""
    artifact, bare = model_with(onnxruntime_float32=0), replace(model_with(), variants=None)
    asked = timed(monkeypatch, {"torch float32": 9.0, "onnxruntime float32": 1.0})
    moved = artifact.with_point(OperatingPoint(threshold=0.6), "night")
    for model, runtime in (
        (bare, Runtime("cpu")),
        (artifact, Runtime("cpu", engine="torch")),
        (artifact, Runtime("meta", engine="openvino")),
        (moved, Runtime("cpu")),
    ):
        assert chosen(model, runtime) == runtime
    assert chosen(artifact, Runtime("cpu"), points=moved.points.values()) == Runtime("cpu"), "one of both differs"
    monkeypatch.setenv(SWITCH, "off")
    assert chosen(artifact, Runtime("cpu")) == Runtime("cpu")
    assert asked == []
    monkeypatch.delenv(SWITCH)
    assert chosen(artifact, Runtime("cpu")).engine == "onnxruntime"


def test_what_the_processor_lacks_is_no_candidate(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """8 bits without VNNI, and bfloat16; a precision that is asked for narrows the choice."""
    artifact = model_with(onnxruntime_float32=0, onnxruntime_int8=0, torch_bfloat16=0)
    assert candidates(artifact, Runtime("cpu")) == (FLOAT32, ORT, ORT8)
    assert candidates(artifact, Runtime("cpu", "float32")) == (FLOAT32, ORT)
    monkeypatch.setattr("flawmap.nets.engines.has_int8", lambda: False)
    assert candidates(artifact, Runtime("cpu")) == (FLOAT32, ORT)


def test_a_usual_precision_that_changed_a_verdict_is_left(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the processor has bfloat16, torch takes it; if it changed a verdict, float32."""
    monkeypatch.setattr("flawmap.core.device.has_bfloat16", lambda device: True)
    assert candidates(model_with(), Runtime("cpu")) == (HALF, FLOAT32), "not compared: as before"
    refused = model_with(torch_bfloat16=1)
    assert candidates(refused, Runtime("cpu")) == (FLOAT32,)
    assert chosen(refused, Runtime("cpu")) == Runtime("cpu", "float32", "torch")


@pytest.mark.parametrize("content", ["", "[]", "{", '{"KEY": {"milliseconds": 3}}', '{"KEY": {"measured": "x"}}'])
def test_a_damaged_cache_is_no_error(machine: Path, content: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is measured again and written anew; a folder that cannot be made neither."""
    artifact, variants = model_with(onnxruntime_float32=0), (FLOAT32, ORT)
    asked = timed(monkeypatch, {"torch float32": 9.0, "onnxruntime float32": 1.0})
    cache_file().parent.mkdir(parents=True)
    cache_file().write_text(content.replace("KEY", engine_choice._key(artifact)), encoding="utf-8")
    assert known_times(artifact, variants) is None
    assert chosen(artifact, Runtime("cpu")).engine == "onnxruntime"
    assert known_times(artifact, variants) is not None
    (machine / "file").write_text("", encoding="utf-8")
    monkeypatch.setenv("XDG_CACHE_HOME", str(machine / "file"))
    assert chosen(artifact, Runtime("cpu")).engine == "onnxruntime"
    assert len(asked) == 2


@pytest.mark.usefixtures("machine")
def test_times_belong_to_a_shape_and_the_versions(monkeypatch: pytest.MonkeyPatch) -> None:
    """Other weights share them; another stride, kind of encoder, package or instructions do not."""
    artifact = model_with(onnxruntime_float32=0)
    key = engine_choice._key(artifact)
    assert engine_choice._key(replace(artifact, weights={})) == key
    for changes in (
        {"tiling": {"stride": 8}},
        {"tiling": {"encoder": "image", "stride": 16}},
        {"method": {"latent": 9}},
    ):
        assert engine_choice._key(replace(artifact, config=override(artifact.config, changes))) != key
    with monkeypatch.context() as patch:
        patch.setattr(engine_choice, "_version", lambda package: "0")
        assert engine_choice._key(artifact) != key
    monkeypatch.setattr(engine_choice, "processor_flags", lambda: frozenset({"sse2"}))
    assert engine_choice._key(artifact) != key


def test_flags_of_processors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """VNNI with and without AVX-512, ARM's dot products; none without the file, or where oneDNN is held back."""
    monkeypatch.delenv("ONEDNN_MAX_CPU_ISA", raising=False)
    for line, known in (
        ("flags\t\t: fpu avx2 avx_vnni", True),
        ("flags : avx512f avx512_vnni", True),
        ("Features : asimd asimddp", True),
        ("flags : avx2 fma", False),
        ("nothing here", False),
    ):
        (tmp_path / "cpuinfo").write_text(f"processor : 0\n{line}\n", encoding="utf-8")
        monkeypatch.setattr(processor, "CPUINFO", tmp_path / "cpuinfo")
        processor.processor_flags.cache_clear()
        assert processor.has_int8() is known
        with monkeypatch.context() as held_back:
            held_back.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
            assert not processor.has_int8()
    monkeypatch.setattr(processor, "CPUINFO", tmp_path / "absent")
    processor.processor_flags.cache_clear()
    assert processor.has_int8() is False
    processor.processor_flags.cache_clear()


def test_every_precision_of_an_engine_is_tried() -> None:
    """`runs_here` answers for each without an error; torch in float32 runs anywhere."""
    answers = {(name, one): runs_here(name, one) for name, engine in ENGINES.items() for one in engine.precisions}
    assert answers["torch", "float32"]
    assert answers["onnxruntime", "float32"]


# ----------------------------------------------------------------------------------------------------------- whole runs


def test_from_the_command_line(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`info` says that nothing is measured, `info --measure` measures in earnest, `inspect` takes what won and says
    so, and without the cache all is as before."""
    model = str(made / "m.flawmap")
    assert main(["info", model, "--json"]) == 0
    here = json.loads(capsys.readouterr().out)["here"]
    assert (here["engine"], here["variants"], here["measured"]) == ("torch", [], None)
    monkeypatch.delenv(SWITCH)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert main(["info", model]) == 0
    assert "the first inspection measures" in capsys.readouterr().out
    assert main(["info", model, "--measure", "--json"]) == 0
    here = json.loads(capsys.readouterr().out)["here"]
    assert set(here) == {"engine", "precision", "variants", "measured", "milliseconds"}
    assert set(here["milliseconds"]) == set(here["variants"])
    assert all(taken > 0 for taken in here["milliseconds"].values())
    kept = json.loads(cache_file().read_text(encoding="utf-8"))
    for entry in kept.values():
        entry["milliseconds"] = dict.fromkeys(entry["milliseconds"], 9.0) | {"onnxruntime float32": 1.0}
    cache_file().write_text(json.dumps(kept), encoding="utf-8")
    assert main(["inspect", model, str(made / "new"), "-o", str(tmp_path / "out"), "--no-report"]) == 0
    assert "the network runs by onnxruntime float32, the fastest here" in capsys.readouterr().err
    run = json.loads((tmp_path / "out" / ".run.json").read_text(encoding="utf-8"))
    assert (run["engine"], run["precision"]) == ("onnxruntime", "float32")
    assert main(["info", model]) == 0
    said = capsys.readouterr().out
    assert "onnxruntime, float32 (measured 20" in said
    assert "calibrated with it" in said


def test_a_model_of_before_has_no_record(made: Path, tmp_path: Path) -> None:
    """A header without the field is read, and is written again without a record."""
    artifact = replace(load_artifact(made / "m.flawmap"), variants=None)
    header = artifact.header()
    assert header.pop("variants") is None
    save_artifact(artifact, tmp_path / "old.flawmap")
    assert load_artifact(tmp_path / "old.flawmap").variants is None
