"""`flawmap export`: an exported model scores the same and is a model in every command; one that differs is refused."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import flawmap
from flawmap.commands import export as module
from flawmap.commands.cli import main
from flawmap.commands.export import export
from flawmap.core.errors import ArtifactError, ConfigError
from flawmap.core.runtime import Runtime
from flawmap.data.defects import add_flaw
from flawmap.data.synthetic import good_images
from flawmap.evaluation.agreement import Agreement
from flawmap.imaging.writing import write_image
from flawmap.methods.overrides import override
from flawmap.methods.presets import preset
from flawmap.scoring.detector import Detector
from flawmap.scoring.exported import read_exported
from flawmap.scoring.model_file import load_artifact, save_artifact, version_hash

SMALL: dict[str, Any] = {
    "model": {"patch": 32},
    "method": {"latent": 8},
    "tiling": {"stride": 20},
    "training": {"steps": 30, "batch": 8, "device": "cpu", "precision": "float32", "plateau_steps": 0},
    "evidence": {"enabled": True, "scales": [0.0, 2.0]},
    "threshold": {"rule": "conformal", "alpha": 0.2, "mask": "pasted"},
    "split": {"validation": 0.4, "test": 0},
}
FLOAT32 = Runtime("cpu", "float32")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `m.flawmap`, `m.onnx`, `m.xml` and `flawed`, images with a flaw each."""
    folder = tmp_path_factory.mktemp("export")
    (folder / "good").mkdir()
    (folder / "flawed").mkdir()
    for number, image in enumerate(good_images("cloth", 15, (90, 100), 0)):
        levels = np.rint(image[:, :, 0] * 255).astype(np.uint8)
        write_image(folder / "good" / f"{number:02d}.png", levels)
        if number < 3:
            flawed, _ = add_flaw(image, "cut", number, size=30)
            write_image(folder / "flawed" / f"{number}.png", np.rint(flawed[:, :, 0] * 255).astype(np.uint8))
    flawmap.train(folder / "good", folder / "m.flawmap", override(preset("fast"), SMALL))
    export(folder / "m.flawmap", [folder / "flawed"], "onnx")
    export(folder / "m.flawmap", [folder / "flawed"], "openvino")
    return folder


@pytest.mark.parametrize(("name", "engine"), [("m.onnx", "onnxruntime"), ("m.xml", "openvino")])
def test_an_export_is_the_model(made: Path, name: str, engine: str) -> None:
    """The same settings, points and evidence; its own engine without a word; the map is that of torch but for rounding,
    the mask and the verdict are the same."""
    original = Detector.load(made / "m.flawmap", FLOAT32)
    exported = Detector.load(made / name)
    assert exported.runtime.engine == engine
    assert exported.precision_name == "float32"
    assert exported.config == original.config
    assert exported.artifact.points == original.artifact.points
    assert exported.artifact.good_scores == original.artifact.good_scores
    assert exported.artifact.weights == {}
    for path in (made / "flawed").iterdir():
        before, after = original.inspect(path), exported.inspect(path)
        assert np.abs(before.residual - after.residual).max() <= 1e-3 * before.threshold
        assert np.array_equal(before.mask, after.mask)
        assert (before.verdict, before.p_value) == (after.verdict, after.p_value)


@pytest.fixture(scope="module")
def once(made: Path) -> Path:
    """`once.flawmap`, the same network whose encoder sees an image once, and its exports."""
    artifact = load_artifact(made / "m.flawmap")
    tiling = {"encoder": "image", "stride": 16}
    save_artifact(replace(artifact, config=override(artifact.config, {"tiling": tiling})), made / "once.flawmap")
    for form in ("onnx", "openvino"):
        export(made / "once.flawmap", [made / "flawed"], form)
    return made


@pytest.mark.parametrize(("name", "files"), [("once.onnx", 2), ("once.xml", 5)])
def test_encoder_and_rest_are_two_networks(once: Path, name: str, files: int, tmp_path: Path) -> None:
    """The same map as torch's; without the encoder, or with another, nothing is read."""
    original, exported = Detector.load(once / "once.flawmap", FLOAT32), Detector.load(once / name)
    for path in (once / "flawed").iterdir():
        before, after = original.inspect(path), exported.inspect(path)
        assert np.abs(before.residual - after.residual).max() <= 1e-3 * before.threshold
    moved = [once / name, once / f"{name}-encoder"]
    if name.endswith(".xml"):
        moved += [once / f"once{suffix}" for suffix in (".bin", ".json", ".bin-encoder")]
    assert len(moved) == files
    for path in moved:
        (tmp_path / path.name).write_bytes(path.read_bytes())
    assert Detector.load(tmp_path / name).scorer.encoder is not None
    encoder = tmp_path / f"{name}-encoder"
    encoder.write_bytes(encoder.read_bytes()[:-1])
    with pytest.raises(ArtifactError, match="is damaged: its content does not have the SHA-256"):
        Detector.load(tmp_path / name)
    encoder.unlink()
    with pytest.raises(
        ArtifactError, match=r"no exported model .*: No such file or directory \(.*once\.(onnx|xml)-encoder\)$"
    ):
        Detector.load(tmp_path / name)


def test_an_export_keeps_its_kind_of_encoder(once: Path) -> None:
    """Its graphs are made for one of both."""
    changed = load_artifact(once / "m.onnx").rescored(
        {"tiling": {"encoder": "image", "stride": 16}, "evidence": {"enabled": False}}
    )
    with pytest.raises(ConfigError) as caught:
        Detector.of(changed)
    assert str(caught.value) == (
        "the exported network has tiling.encoder patches, got image; use the .flawmap file, or leave it as it is"
    )


def test_eight_bits_of_encoder_and_rest(once: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both are smaller."""
    target = tmp_path / "small.xml"
    monkeypatch.setattr(module, "_refuse", lambda report: None)
    report = export(once / "once.flawmap", [once / "flawed"], "openvino", target, int8=True)
    assert 0 < report.largest < 2
    for suffix in (".bin", ".bin-encoder"):
        small, large = (path.with_suffix(suffix).stat().st_size for path in (target, once / "once.xml"))
        assert small < 0.4 * large
    assert Detector.load(target).inspect(next((once / "flawed").iterdir())).score > 0


def test_openvino_reads_onnx_too(made: Path) -> None:
    """Both engines take an ONNX file."""
    path = next((made / "flawed").iterdir())
    found = Detector.load(made / "m.onnx", Runtime(engine="openvino")).inspect(path)
    assert found.score == pytest.approx(Detector.load(made / "m.onnx").inspect(path).score, rel=1e-4)


def test_the_onnx_file_is_a_plain_one(made: Path) -> None:
    """Any reader of ONNX takes it, with the header as metadata and a free number of patches."""
    onnx = pytest.importorskip("onnx")
    loaded = onnx.load(made / "m.onnx")
    onnx.checker.check_model(loaded)
    assert [entry.key for entry in loaded.metadata_props] == ["flawmap"]
    assert json.loads(loaded.metadata_props[0].value)["config"]["model"] == {"patch": 32, "channels": 1}
    assert loaded.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "N"


def test_every_command_takes_it(made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Inspected, described, and calibrated anew: the network stays byte for byte."""
    out = tmp_path / "out"
    assert main(["inspect", str(made / "m.onnx"), str(made / "flawed"), "-o", str(out), "-q"]) == 0
    assert len((out / "inspections.jsonl").read_text().splitlines()) == 3
    assert main(["info", str(made / "m.xml"), "--json"]) == 0
    origin = json.loads(capsys.readouterr().out)["provenance"]["exported"]
    assert (origin["format"], origin["int8"]) == ("openvino", False)
    for name in ("m.onnx", "m.xml"):
        target = tmp_path / name
        given = ["--set-threshold", "3", "--name", "high", "-o", str(target), "-q"]
        assert main(["calibrate", str(made / name), *given]) == 0
        before, after = read_exported(made / name)[1], read_exported(target)[1]
        assert before == after
        assert version_hash(target) != version_hash(made / name), "another threshold is another model"
        assert load_artifact(target).threshold == 3


WITHOUT_TORCH = """
import sys
if sys.argv[1] == "blocked":
    sys.modules["torch"] = None  # an import of it fails
from flawmap.commands.cli import main
code = main(sys.argv[2:])
print(code, sys.modules.get("torch") is None)
"""


@pytest.mark.parametrize("name", ["m.onnx", "m.xml", "once.onnx"])
@pytest.mark.parametrize("torch_is", ["blocked", "free"])
def test_an_inspection_without_torch(once: Path, name: str, torch_is: str, tmp_path: Path) -> None:
    """Where torch cannot be imported, and where it can, none is: the same rows as those of the .flawmap file."""
    command = ["inspect", str(once / name), str(once / "flawed"), "-q", "-o"]
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH, torch_is, *command, str(tmp_path / "ours")],
        capture_output=True,
        text=True,
        check=True,
    )
    assert (done.stdout.splitlines()[-1], done.stderr) == ("0 True", "")
    command[1] = str((once / name).with_suffix(".flawmap"))
    assert main([*command, str(tmp_path / "theirs"), "--precision", "float32"]) == 0
    ours, theirs = (
        [json.loads(line) for line in (tmp_path / folder / "inspections.jsonl").read_text().splitlines()]
        for folder in ("ours", "theirs")
    )
    assert len(ours) == 3
    for own, other in zip(ours, theirs, strict=True):
        assert own["score"] == pytest.approx(other["score"], rel=1e-4)
        assert [region["box"] for region in own["regions"]] == [region["box"] for region in other["regions"]]
        for key in ("path", "verdict", "flawed_pixels", "p_value", "threshold"):
            assert own[key] == other[key]


def test_a_model_file_without_torch(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Weights are torch's: the package is named, and the way out."""
    monkeypatch.setitem(sys.modules, "torch", None)
    assert main(["inspect", str(made / "m.flawmap"), str(made / "flawed"), "-o", str(tmp_path / "o"), "-q"]) == 2
    assert capsys.readouterr().err == (
        f"error: {made / 'm.flawmap'} needs the package torch, which is not installed; use an exported model, .onnx or "
        ".xml, or pip install torch\n"
    )


@pytest.mark.parametrize(
    "command",
    [
        ["info", "m.onnx"],
        ["watch", "m.xml", "flawed", "--once", "-q"],
        ["calibrate", "m.onnx", "--set-threshold", "3", "-o", "c.onnx", "-q"],
    ],
)
def test_other_commands_without_torch(
    made: Path, command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model is described, calibrated by hand, and watches a folder."""
    monkeypatch.chdir(tmp_path)
    given = [str(made / part) if (made / part).exists() else part for part in command]
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH, "blocked", *given], capture_output=True, text=True, check=True
    )
    assert (done.stdout.splitlines()[-1], done.stderr) == ("0 True", "")


def test_the_terminal_says_what_was_compared(made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Difference, verdicts and speed, on a terminal and as JSON; `--most` leaves images out."""
    given = ["export", str(made / "m.flawmap"), str(made / "flawed"), "--to", "onnx", "-o", str(tmp_path / "a.onnx")]
    assert main(given) == 0
    said = capsys.readouterr().out
    assert "3 images, 3 pasted defects: all verdicts the same" in said
    assert "of the threshold at most, 0.001 is allowed" in said
    assert main([*given, "--most", "2", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["images"], report["pasted"], report["changed"], report["int8"]) == (2, 2, [], False)
    assert report["largest"] <= report["bound"] == 0.001
    assert (tmp_path / "a.onnx").stat().st_size > report["size"], "the network, and the header behind it"


def test_a_difference_is_refused(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Maps beyond the bound and changed verdicts: an error, and no file."""
    target = tmp_path / "a.onnx"
    graph = module.exported_graph

    def other(network: Any, *rest: Any, **options: Any) -> Any:
        with torch.no_grad():
            network.decoder[-1].bias += 0.5
        return graph(network, *rest, **options)

    monkeypatch.setattr(module, "exported_graph", other)
    with pytest.raises(ArtifactError, match=r"the export is not the same: its maps differ by .* of the threshold"):
        export(made / "m.flawmap", [made / "flawed", made / "good"], "onnx", target)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("form", "name"), [("onnx", "small.onnx"), ("openvino", "small.xml")])
def test_eight_bits_are_smaller(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: Any, name: str
) -> None:
    """Post-training quantisation on the images' own patches, for both engines; a verdict that changes refuses it."""
    target = tmp_path / name
    with monkeypatch.context() as patch:
        patch.setattr(module, "agreement", lambda before, after: Agreement(("a.png",), 0.1))
        with pytest.raises(
            ArtifactError,
            match=r"^the export is not the same: 1 verdicts change, first of all that of a.png. Nothing was written; "
            r"export without --int8$",
        ):
            export(made / "m.flawmap", [made / "flawed"], form, target, int8=True)
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr(module, "_refuse", lambda report: None)  # so short a training may not bear it
    report = export(made / "m.flawmap", [made / "flawed"], form, target, int8=True)
    assert (report.int8, report.bound) == (True, None)
    assert 0 < report.largest < 2
    plain, whole = read_exported(made / f"m{target.suffix}")[1], read_exported(target)[1]
    small, large = (len(graph.model if form == "onnx" else graph.weights) for graph in (whole, plain))
    assert small < 0.4 * large
    assert Detector.load(target).inspect(next((made / "flawed").iterdir())).score > 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["m.onnx", "--to", "openvino"], "m.onnx is exported already; export from its .flawmap file"),
        (["m.flawmap", "--to", "onnx", "-o", "m.xml"], "a model exported to onnx is a .onnx file, got m.xml"),
    ],
)
def test_what_cannot_be_exported(
    made: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was asked, and what to do."""
    monkeypatch.chdir(made)
    model, *options = arguments
    assert main(["export", model, "flawed", *options, "-q"]) == 2
    assert capsys.readouterr().err == f"error: {message}\n"


def test_torch_does_not_run_an_export(made: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Nor does ONNX Runtime run OpenVINO's files."""
    given = ["inspect", str(made / "m.xml"), str(made / "flawed"), "-o", str(tmp_path / "o"), "-q"]
    for engine in ("torch", "onnxruntime"):
        assert main([*given, "--engine", engine]) == 2
        assert capsys.readouterr().err == (
            f"error: the engine {engine} does not run a model exported to openvino; use --engine openvino, or the "
            ".flawmap file\n"
        )


# -------------------------------------------------------------------------------------------------------------- damage


@pytest.mark.parametrize("name", ["m.onnx", "m.xml", "m.bin", "m.json"])
def test_damage_is_noticed(made: Path, tmp_path: Path, name: str) -> None:
    """A flipped bit anywhere, and a file that ends early."""
    files = [made / "m.onnx"] if name == "m.onnx" else [made / f"m{suffix}" for suffix in (".xml", ".bin", ".json")]
    for file in files:
        (tmp_path / file.name).write_bytes(file.read_bytes())
    whole, model = (made / name).read_bytes(), tmp_path / ("m.onnx" if name == "m.onnx" else "m.xml")
    load_artifact(model)
    for place in (len(whole) // 3, len(whole) - 200):
        damaged = bytearray(whole)
        damaged[place] ^= 4
        (tmp_path / name).write_bytes(bytes(damaged))
        with pytest.raises(ArtifactError):
            load_artifact(model)
    (tmp_path / name).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ArtifactError):
        load_artifact(model)
    (tmp_path / name).unlink()
    with pytest.raises(ArtifactError, match="no exported model"):
        load_artifact(model)


def test_a_foreign_onnx_file_is_named(tmp_path: Path) -> None:
    """An ONNX model of someone else has no header of ours."""
    (tmp_path / "other.onnx").write_bytes(b"\x08\x07")
    with pytest.raises(
        ArtifactError, match=r"is no model that flawmap exported, or is damaged: it has no flawmap header"
    ):
        load_artifact(tmp_path / "other.onnx")
