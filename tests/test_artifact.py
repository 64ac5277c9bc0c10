"""Model files: an exact round trip, whole files or none, headers apart from weights, exact error texts."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch

from flawmap.core.errors import ArtifactError, ConfigError, InputError
from flawmap.core.tensor_file import DIGEST, digest_of
from flawmap.methods.autoencoder import build_network
from flawmap.methods.overrides import parse
from flawmap.scoring import model_file as module
from flawmap.scoring.model_file import (
    DEFAULT,
    FORMAT,
    Artifact,
    load_artifact,
    read_header,
    save_artifact,
    version_hash,
)
from flawmap.scoring.operating_point import OperatingPoint

CALIBRATION = {"rule": "quantile", "pixels": 12345, "quantiles": [0.1, 0.25], "note": "über µ"}
FOUND = {"rule": "largest", "good_areas": 2, "images": 2, "warning": None}
PROVENANCE = {"seed": 3, "steps": 100, "versions": {"torch": "2"}, "seconds": 1.25}


def artifact_of(threshold: float | None = 0.1 + 0.2, **model: Any) -> Artifact:
    """A small, untrained model with everything in its header."""
    config = parse(
        {
            "model": {"patch": 32, "channels": 1, **model},
            "method": {"latent": 5, "ssim": {"constants": [1e-3, 2e-3]}},
            "images": {"scale": [64, 48], "roi": {"masks": "where"}},
            "tiling": {"stride": 16},
            "training": {"steps": 5},
        }
    )
    points = {} if threshold is None else {DEFAULT: OperatingPoint(threshold=threshold, found=FOUND)}
    network = build_network(config).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return Artifact(config, network.state_dict(), points, {DEFAULT: CALIBRATION}, PROVENANCE)


def raw(header: Any) -> bytes:
    """A safetensors file with a header of one's own."""
    tensors = {"x": torch.zeros(2)}
    if not isinstance(header, str):
        header = json.dumps(header | {DIGEST: digest_of(header, tensors)} if isinstance(header, dict) else header)
    return safetensors.torch.save(tensors, metadata={"flawmap": header})


def weights_part(blob: bytes) -> bytes:
    """The bytes behind safetensors' header: 8 bytes of its length, then JSON, then values."""
    return blob[8 + int.from_bytes(blob[:8], "little") :]


# --- round trip


@pytest.mark.parametrize("threshold", [None, 0.1 + 0.2, 0, 1e-300])
def test_what_is_saved_comes_back_exactly(threshold: float | None, tmp_path: Path) -> None:
    """Weights bit for bit, settings, threshold, calibration and provenance."""
    saved, path = artifact_of(threshold), tmp_path / "model.flawmap"
    save_artifact(saved, path)
    found = load_artifact(path)
    assert found.config == saved.config
    assert found.threshold == threshold
    assert (found.calibration, found.provenance) == (CALIBRATION, PROVENANCE)
    assert found.header() == saved.header() == read_header(path)
    assert found.weights.keys() == saved.weights.keys()
    for name, tensor in saved.weights.items():
        assert torch.equal(found.weights[name], tensor)
        assert found.weights[name].dtype == tensor.dtype
    build_network(found.config).load_state_dict(found.weights)


def test_the_same_model_is_the_same_bytes(tmp_path: Path) -> None:
    """Saving twice, or loading and saving, gives the same file, and so the same version."""
    saved = artifact_of()
    first, second = tmp_path / "a.flawmap", tmp_path / "b.flawmap"
    save_artifact(saved, first)
    save_artifact(load_artifact(first), second)
    assert first.read_bytes() == second.read_bytes()
    assert version_hash(first) == version_hash(second)
    assert re.fullmatch("[0-9a-f]{12}", version_hash(first))


def test_a_new_threshold_leaves_the_weights_bytes_alone(tmp_path: Path) -> None:
    """Only the header is written anew; the version names another file."""
    path = tmp_path / "model.flawmap"
    save_artifact(artifact_of(), path)
    before, version = path.read_bytes(), version_hash(path)
    save_artifact(
        load_artifact(path).with_point(OperatingPoint(threshold=0.625), calibration={"note": "by hand"}), path
    )
    after, found = path.read_bytes(), load_artifact(path)
    assert weights_part(after) == weights_part(before)
    assert (found.threshold, found.calibration) == (0.625, {"note": "by hand"})
    assert found.provenance == PROVENANCE
    assert version_hash(path) != version


def test_the_header_is_read_without_the_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """read_header never loads a tensor."""
    path = tmp_path / "model.flawmap"
    save_artifact(artifact_of(), path)
    monkeypatch.setattr(safetensors.torch, "load_file", lambda path: pytest.fail("weights were read"))
    header = read_header(path)
    assert header["format"] == FORMAT
    assert header["config"]["method"]["latent"] == 5
    assert header["provenance"] == PROVENANCE


def test_nothing_in_the_file_can_be_executed(tmp_path: Path) -> None:
    """The file is safetensors: a length, JSON, values. No pickle."""
    path = tmp_path / "model.flawmap"
    save_artifact(artifact_of(), path)
    blob = path.read_bytes()
    header = json.loads(blob[8 : 8 + int.from_bytes(blob[:8], "little")])
    assert json.loads(header["__metadata__"]["flawmap"])["format"] == FORMAT
    assert len(weights_part(blob)) == 4 * sum(tensor.numel() for tensor in artifact_of().weights.values())


# --- whole or not at all


@pytest.mark.parametrize("older", [True, False])
def test_a_failed_write_leaves_the_old_file_and_no_part(
    older: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When the disk is full while writing, the older model stays, nothing else does, and the error says why."""
    path = tmp_path / "model.flawmap"
    if older:
        save_artifact(artifact_of(0.5), path)
    before = path.read_bytes() if older else None

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(InputError) as caught:
        save_artifact(artifact_of(0.75), path)
    assert str(caught.value) == f"{path} cannot be written: No space left on device"
    assert list(tmp_path.iterdir()) == ([path] if older else [])
    assert before is None or path.read_bytes() == before


def test_a_folder_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    """The path is named."""
    path = tmp_path / "missing" / "model.flawmap"
    with pytest.raises(InputError) as caught:
        save_artifact(artifact_of(), path)
    assert str(caught.value) == f"{path} cannot be written: No such file or directory"


# --- files that are no models


def test_a_missing_file_says_how_to_make_one(tmp_path: Path) -> None:
    """A folder is no model file either."""
    for path in (tmp_path / "none.flawmap", tmp_path):
        with pytest.raises(ArtifactError) as caught:
            load_artifact(path)
        assert str(caught.value) == f"no model file {path}; `flawmap train DATA -o {path}` makes one"


def test_damaged_and_foreign_files_are_refused(tmp_path: Path) -> None:
    """Empty, cut short anywhere, a text, an image: named as what they are not, with the reason."""
    path = tmp_path / "model.flawmap"
    save_artifact(artifact_of(), path)
    whole = path.read_bytes()
    for blob in (
        b"",
        whole[:5],
        whole[:100],
        whole[: len(whole) // 2],
        whole[:-1],
        whole + b"x",
        b"these are the settings of my camera\n" * 20,
        b"\x89PNG\r\n\x1a\n" + bytes(200),
        b"PK\x03\x04" + bytes(200),
    ):
        path.write_bytes(blob)
        for read in (load_artifact, read_header):
            with pytest.raises(ArtifactError) as caught:
                read(path)
            assert re.fullmatch(
                rf"{re.escape(str(path))} is not a flawmap model, or is damaged: expected a \.flawmap file, "
                r"written by `flawmap train` \(.+\)",
                str(caught.value),
            )


def test_foreign_safetensors_are_refused(tmp_path: Path) -> None:
    """Weights of something else carry no header of ours."""
    path = tmp_path / "other.safetensors"
    for metadata in (None, {"format": "pt"}):
        path.write_bytes(safetensors.torch.save({"x": torch.zeros(2)}, metadata=metadata))
        with pytest.raises(ArtifactError) as caught:
            load_artifact(path)
        assert str(caught.value) == (
            f"{path} is a safetensors file, but not a flawmap model: it has no flawmap header; expected a file written "
            "by `flawmap train`"
        )


@pytest.mark.parametrize("header", ["{", "[1, 2]", "5", "{}", '{"format": "new"}', '{"format": null}'])
def test_an_unreadable_header_is_refused(header: str, tmp_path: Path) -> None:
    """Broken JSON, or JSON without a format."""
    path = tmp_path / "model.flawmap"
    path.write_bytes(raw(header))
    with pytest.raises(ArtifactError) as caught:
        read_header(path)
    assert str(caught.value) == f"{path} is damaged: its header is not readable"


def test_a_newer_format_asks_for_an_update(tmp_path: Path) -> None:
    """Both formats are named."""
    path = tmp_path / "model.flawmap"
    path.write_bytes(raw({**artifact_of().header(), "format": FORMAT + 1}))
    with pytest.raises(ArtifactError) as caught:
        load_artifact(path)
    assert str(caught.value) == (
        f"{path} has format {FORMAT + 1}, this flawmap reads up to {FORMAT}; update flawmap to read it"
    )


@pytest.mark.parametrize("version", [0, -1])
def test_a_format_that_never_was_is_refused(version: int, tmp_path: Path) -> None:
    """There is nothing to bring such a header up from."""
    path = tmp_path / "model.flawmap"
    path.write_bytes(raw({**artifact_of().header(), "format": version}))
    with pytest.raises(ArtifactError) as caught:
        load_artifact(path)
    assert str(caught.value) == f"{path} is damaged: its header names format {version}, which never was"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"config": None}, "settings must be a table of sections, got None"),
        ({"config": {"model": {"patch": 31}}}, "model: patch must be one of 32, 64, 128, 256 pixels, got 31"),
        ({"config": {"modle": {}}}, "unknown setting modle; did you mean model?"),
        ({"points": ["high"]}, "'list' object has no attribute 'items'"),
        ({"calibrations": 5}, "'int' object is not iterable"),
    ],
)
def test_a_header_that_holds_no_model_is_refused(change: dict[str, Any], reason: str, tmp_path: Path) -> None:
    """Settings that make no sense and values of other types are told, with the reason."""
    path = tmp_path / "model.flawmap"
    path.write_bytes(raw({**artifact_of().header(), **change}))
    with pytest.raises(ArtifactError) as caught:
        load_artifact(path)
    assert str(caught.value) == f"{path} is damaged: its header does not hold a model's settings ({reason})"


@pytest.mark.parametrize("key", ["config", "points", "active", "calibrations", "check", "provenance"])
def test_a_header_that_lacks_a_part_is_refused(key: str, tmp_path: Path) -> None:
    """The missing key is named."""
    header = artifact_of().header()
    del header[key]
    path = tmp_path / "model.flawmap"
    path.write_bytes(raw(header))
    with pytest.raises(ArtifactError) as caught:
        load_artifact(path)
    assert str(caught.value) == f"{path} is damaged: its header does not hold a model's settings ('{key}')"


# --- older formats


def test_older_headers_are_brought_up_step_by_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that is two formats old passes through both upgrades, in order, weights untouched."""
    path = tmp_path / "model.flawmap"
    saved = artifact_of()
    save_artifact(saved, path)

    def first(header: dict[str, Any]) -> dict[str, Any]:
        return {**header, "facts": {"trail": ["first"]}, "format": FORMAT + 1}

    def second(header: dict[str, Any]) -> dict[str, Any]:
        return {**header, "facts": {"trail": [*header["facts"]["trail"], "second"]}, "format": FORMAT + 2}

    monkeypatch.setattr(module, "FORMAT", FORMAT + 2)
    monkeypatch.setattr(module, "UPGRADES", {FORMAT: first, FORMAT + 1: second})
    assert read_header(path)["format"] == FORMAT + 2
    found = load_artifact(path)
    assert found.facts == {"trail": ["first", "second"]}
    assert all(torch.equal(found.weights[name], tensor) for name, tensor in saved.weights.items())


def test_there_is_an_upgrade_from_every_older_format() -> None:
    """Whoever raises FORMAT writes the way up from the format before."""
    assert set(module.UPGRADES) == set(range(1, FORMAT))


def test_points_that_shared_a_calibration_have_one_each(tmp_path: Path) -> None:
    """Format 3 knew one calibration for all operating points."""
    header = artifact_of().with_point(OperatingPoint(threshold=0.5), "night").header()
    old = {key: value for key, value in header.items() if key != "calibrations"}
    path = tmp_path / "model.flawmap"
    path.write_bytes(raw({**old, "calibration": CALIBRATION, "format": 3}))
    assert read_header(path)["calibrations"] == {"default": CALIBRATION, "night": CALIBRATION}


# --- damage


def test_every_flipped_byte_is_noticed(tmp_path: Path) -> None:
    """A bit of the header or of the weights that is not what was written: the model is refused, and never scored."""
    path, rng = tmp_path / "model.flawmap", np.random.default_rng(0)
    save_artifact(artifact_of(), path)
    whole = path.read_bytes()
    header = 8 + int.from_bytes(whole[:8], "little")
    places = [*rng.integers(8, header, 40), *rng.integers(header, len(whole), 60)]
    for place in places:
        damaged = bytearray(whole)
        damaged[place] ^= 1 << int(rng.integers(8))
        path.write_bytes(bytes(damaged))
        with pytest.raises(ArtifactError, match=r"damaged|not a flawmap model|format"):
            load_artifact(path)


def test_a_flipped_weight_says_what_to_do(tmp_path: Path) -> None:
    """The message names the file, and what was expected."""
    path = tmp_path / "model.flawmap"
    save_artifact(artifact_of(), path)
    content = bytearray(path.read_bytes())
    content[-5] ^= 16
    path.write_bytes(bytes(content))
    with pytest.raises(ArtifactError) as caught:
        load_artifact(path)
    assert str(caught.value) == (
        f"{path} is damaged: its content does not have the SHA-256 that stands in it; copy it again or train anew"
    )


def test_no_folder_of_the_machine_is_stored(tmp_path: Path) -> None:
    """A folder of masks keeps its name; that of pretrained weights is left out. The model in memory keeps both."""
    config = parse(
        {
            "method": {"name": "fm", "features": {"weights": "/home/me/alexnet.pth"}},
            "images": {"roi": {"masks": "/home/me/masks"}},
        }
    )
    artifact = Artifact(config, {"x": torch.zeros(1)}, {DEFAULT: OperatingPoint(threshold=0.1)})
    save_artifact(artifact, tmp_path / "m.flawmap")
    assert b"/home/me" not in (tmp_path / "m.flawmap").read_bytes()
    found = load_artifact(tmp_path / "m.flawmap").config
    assert found.images.roi.masks == Path("masks")
    assert artifact.config.images.roi.masks == Path("/home/me/masks")


def test_a_folder_of_masks_is_named_where_it_is(tmp_path: Path) -> None:
    """On another machine the folder is given; without it, and for another region, the message says what to do."""
    masks, plain = (Artifact(parse({"images": {"roi": roi}}), {}) for roi in ({"masks": "elsewhere"}, {}))
    assert masks.with_roi_masks(tmp_path).config.images.roi.masks == tmp_path
    with pytest.raises(ConfigError, match="is a folder of masks, elsewhere, which is not here; name it"):
        masks.with_roi_masks(None)
    with pytest.raises(ConfigError, match="is no folder of masks; leave --roi-masks out"):
        plain.with_roi_masks(tmp_path)
    assert plain.with_roi_masks(None) is plain
