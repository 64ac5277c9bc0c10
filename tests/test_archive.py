"""`flawmap inspect --ray`: the same results as on one machine, in whole parts, and only what is missing."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

import flawmap
from documented import fields_of
from flawmap.commands.cli import main
from flawmap.commands.outputs import SOME_FAILED
from flawmap.core.errors import ConfigError, InputError
from flawmap.core.runtime import Runtime
from flawmap.scoring.detector import Detector
from samples import TINY, trained, write_cloth, write_flawed

pytest.importorskip("ray.data", reason="needs the extra ray")

from flawmap.cluster import parts
from flawmap.cluster.archive import ArchiveOutputs, score_archive
from flawmap.cluster.parts import COLUMNS, part_files, read_scores
from flawmap.cluster.sources import sources_of
from flawmap.cluster.workers import Workers

PLAIN, ONE = Runtime("cpu", "float32"), Workers(actors=1)
pytestmark = [pytest.mark.cluster, pytest.mark.filterwarnings("ignore")]  # Ray's own warnings


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Good cloth, a cut, a copy, and what is no image."""
    folder = tmp_path_factory.mktemp("archive") / "images"
    good = write_cloth(folder, 5, (96, 80))
    (folder / "below").mkdir()
    write_flawed(folder / "below" / "cut.png", good[0], 12)
    (folder / "copy.png").write_bytes((folder / "01.png").read_bytes())
    (folder / "torn.png").write_bytes((folder / "01.png").read_bytes()[:300])
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    write_cloth(folder / "good", 6, (96, 80), seed=3)
    return trained(folder / "good", folder / "m.flawmap", TINY)


def rows(folder: Path) -> dict[str, dict[str, Any]]:
    return {row["path"]: row for row in read_scores(folder).to_pylist()}


def same(row: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name != "seconds"}


def test_same_results_as_on_one_machine(ray_started: None, model: Path, images: Path, tmp_path: Path) -> None:
    """Every field of every image, to the bit; an unreadable one is a row with the same error."""
    summary = score_archive(model, [images], tmp_path, runtime=PLAIN, outputs=ArchiveOutputs(masks=True))
    found = rows(tmp_path)
    assert (summary.images, summary.scored, summary.unreadable, summary.remaining) == (8, 7, 1, 0)
    assert sorted(found) == sorted(one.relative_to(images).as_posix() for one in images.rglob("*.png"))
    run = json.loads((tmp_path / "run.json").read_text(encoding="utf-8"))
    assert (set(run), run["precision"]) == (fields_of("flawmap.archive/1"), "float32")
    assert {"schema", *COLUMNS.names} == fields_of("flawmap.scores/1")
    detector = Detector.load(model, PLAIN)
    for path, row in found.items():
        if path == "torn.png":
            with pytest.raises(InputError) as error:
                detector.inspect(images / path)
            assert row["error"] == str(error.value).replace(str(images / path), path)
            continue
        expected = detector.inspect(images / path).to_dict()
        told = set(COLUMNS.names) & set(expected) - {"path"}
        assert {name: row[name] for name in told} == {name: expected[name] for name in told}
        assert row["error"] is None
    flawmap.inspect(model, [images], tmp_path / "plain", runtime=PLAIN, report=False)
    for path in ("00.png", "below/cut.png"):
        plain = (tmp_path / "plain" / path).with_suffix("")
        mask = (tmp_path / "masks" / f"{path}_mask.png").read_bytes()
        assert mask == plain.with_name(f"{plain.name}_mask.png").read_bytes()


def test_resumes_with_what_is_missing(ray_started: None, model: Path, images: Path, tmp_path: Path) -> None:
    """A part that is lost is scored again, and nothing else; the table is the same."""
    first = images / "0[01].png"
    score_archive(model, [images], tmp_path, runtime=PLAIN, workers=ONE)
    whole = {path: same(row) for path, row in rows(tmp_path).items()}
    table = read_scores(tmp_path)
    (part,) = part_files(tmp_path)
    from pyarrow import parquet

    parquet.write_table(table.slice(0, 5), part)
    summary = score_archive(model, [images], tmp_path, runtime=PLAIN, workers=ONE)
    assert (summary.before, summary.scored + summary.unreadable) == (5, 3)
    assert {path: same(row) for path, row in rows(tmp_path).items()} == whole
    assert len(read_scores(tmp_path)) == 8, "no row twice"
    assert score_archive(model, [images], tmp_path, runtime=PLAIN, workers=ONE).before == 8
    with pytest.raises(ConfigError, match=r"threshold was None, is 0\.5; name another folder with -o"):
        score_archive(model, [images], tmp_path, runtime=PLAIN, workers=ONE, outputs=ArchiveOutputs(threshold=0.5))
    with pytest.raises(ConfigError, match="holds scores by another model or other settings: inputs was"):
        score_archive(model, [str(first)], tmp_path, runtime=PLAIN, workers=ONE)


def test_a_part_waits_from_its_first_row_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The time that a cluster takes to start does not count: no part of a single row comes of it."""
    now = 100.0
    monkeypatch.setattr(parts.time, "monotonic", lambda: now)
    written = parts.Parts(tmp_path)
    for now, expected in ((1000.0, 0), (1029.0, 0), (1030.0, 1), (2000.0, 1), (2029.0, 1), (2031.0, 2)):
        written.add({"path": str(now)})
        assert len(part_files(tmp_path)) == expected, now
    assert [read_scores(tmp_path, ["path"]).num_rows, parts.SECONDS] == [6, 30]


def test_duplicates_are_skipped(ray_started: None, model: Path, images: Path, tmp_path: Path) -> None:
    """One of two equal files is scored, the other names it."""
    summary = score_archive(
        model, [images], tmp_path, runtime=PLAIN, workers=ONE, outputs=ArchiveOutputs(skip_duplicates=True)
    )
    found = rows(tmp_path)
    assert (summary.scored, summary.duplicates) == (6, 1)
    pair = {"01.png": found["01.png"], "copy.png": found["copy.png"]}
    (skipped,) = [path for path, row in pair.items() if row["duplicate_of"]]
    assert pair[skipped]["verdict"] is None
    assert pair[pair[skipped]["duplicate_of"]]["verdict"] is not None


def test_a_manifest_and_a_url(ray_started: None, model: Path, images: Path, tmp_path: Path) -> None:
    """A manifest of paths, one of them missing, beside a folder by URL."""
    (tmp_path / "list.csv").write_text(f"path\n{images / '00.png'}\ngone.png\n", encoding="utf-8")
    given = [tmp_path / "list.csv", f"file://{images}/0[01].png"]
    score_archive(model, given, tmp_path / "out", runtime=PLAIN, workers=ONE)
    found = rows(tmp_path / "out")
    assert found["gone.png"]["error"] == "no such file"
    score = Detector.load(model, PLAIN).inspect(images / "00.png").score
    assert found["00.png"]["score"] == found[(images / "00.png").as_posix()]["score"] == score
    assert len(found) == 4


def test_a_dry_run_starts_nothing(model: Path, images: Path, tmp_path: Path) -> None:
    """It lists and counts."""
    summary = score_archive(model, [images], tmp_path / "out", runtime=PLAIN, workers=ONE, dry_run=True)
    assert summary.waiting == tuple(sorted(one.relative_to(images).as_posix() for one in images.rglob("*.png")))
    assert (summary.images, summary.before, summary.remaining) == (8, 0, 8)
    assert not (tmp_path / "out").exists()


def test_the_command(ray_started: None, model: Path, images: Path, tmp_path: Path, capsys: Any) -> None:
    """Its document, its exit code for unreadable images, and the options that it refuses."""
    arguments = ["inspect", str(model), str(images), "-o", str(tmp_path / "out"), "--ray", "local", "--actors", "1"]
    assert main([*arguments, "--json"]) == SOME_FAILED
    said = json.loads(capsys.readouterr().out)
    assert set(said) == fields_of("flawmap.scoring/1")
    assert (said["scored"], said["unreadable"], said["remaining"]) == (7, 1, 0)
    assert main([*arguments, "--residuals"]) == 2
    assert "it does not take --residuals" in capsys.readouterr().err
    assert main([*arguments, "--no-overlays", "--no-report"]) == 2
    refusal = "--ray writes tables, and masks by --masks; it does not take --no-overlays, --no-report"
    assert capsys.readouterr().err.strip() == f"error: {refusal}"
    assert main([*arguments, "--resume"]) == 0, "nothing is left to do"
    capsys.readouterr()
    assert main([*arguments[:-4], "--dry-run"]) == 2
    needed = "--masks, --skip-duplicates, --dry-run and --read-timeout need --ray, such as --ray local"
    assert needed in " ".join(capsys.readouterr().err.split())


def test_without_ray(model: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error names the command that installs it."""
    monkeypatch.setitem(sys.modules, "ray.data", None)
    with pytest.raises(InputError, match=r"--ray needs the package ray\.data, .* pip install 'flawmap\[ray\]'"):
        score_archive(model, [images], tmp_path)


def test_real_images(ray_started: None, real_data: Path, tmp_path: Path) -> None:
    """NanoTWICE: the same score, regions and verdict as on one machine, of three images."""
    good = sorted((real_data / "nanotwice").rglob("*.tif"))[:3] or sorted((real_data / "nanotwice").rglob("*.png"))[:3]
    (tmp_path / "in").mkdir()
    for place in good:
        (tmp_path / "in" / place.name).symlink_to(place)
    model = trained(tmp_path / "in", tmp_path / "m.flawmap", TINY | {"images": {"scale": 0.5}})
    score_archive(model, [tmp_path / "in"], tmp_path / "out", runtime=PLAIN, workers=ONE)
    detector = Detector.load(model, PLAIN)
    for path, row in rows(tmp_path / "out").items():
        expected = detector.inspect(tmp_path / "in" / path).to_dict()
        assert (row["score"], row["verdict"], row["regions"]) == tuple(
            expected[name] for name in ("score", "verdict", "regions")
        )


def test_sources(images: Path, tmp_path: Path) -> None:
    """Globs, URLs with patterns, and the errors of what names nothing."""
    assert [one.path for one in sources_of([f"{images}/0[01].png"])] == ["00.png", "01.png"]
    assert [one.path for one in sources_of([f"file://{images}/0*.png"])] == [f"0{number}.png" for number in range(5)]
    (tmp_path / "bad.csv").write_text("image\na.png\n", encoding="utf-8")
    with pytest.raises(InputError, match=r"bad\.csv needs a column path, got image"):
        sources_of([tmp_path / "bad.csv"])
    with pytest.raises(InputError, match="s3u://x/y cannot be opened: Protocol not known"):
        sources_of(["s3u://x/y"])


def test_an_object_store(ray_started: None, model: Path, images: Path, tmp_path: Path) -> None:
    """Images in a store that speaks S3, on this machine; the folder's `run.json` does not hold the secret."""
    moto = pytest.importorskip("moto.server", reason="needs the extra dev")
    from pyarrow import fs

    server = moto.ThreadedMotoServer(port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        at = f"scheme=http&endpoint_override={host}:{port}&region=us-east-1"
        store, _ = fs.FileSystem.from_uri(f"s3://key:hidden@bucket?{at}&allow_bucket_creation=true")
        store.create_dir("bucket/line/below")
        for path in ("00.png", "below/cut.png"):
            with store.open_output_stream(f"bucket/line/{path}") as file:
                file.write((images / path).read_bytes())
        score_archive(model, [f"s3://key:hidden@bucket/line?{at}"], tmp_path, runtime=PLAIN, workers=ONE)
    finally:
        server.stop()
    detector = Detector.load(model, PLAIN)
    found = {path: row["score"] for path, row in rows(tmp_path).items()}
    assert found == {path: detector.inspect(images / path).score for path in ("00.png", "below/cut.png")}
    assert "hidden" not in (tmp_path / "run.json").read_text(encoding="utf-8")
