"""Lists of an inspection that survive its interruption, and files of JSON and CSV."""

from __future__ import annotations

import csv
import json
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from flawmap.core.errors import ConfigError, InputError, OutputError
from flawmap.core.records import Inspection, Region
from flawmap.reporting.logs import InspectionLog, read_lines, write_csv, write_json
from flawmap.reporting.pages import Page, write_page

SCHEMA = {"schema": "flawmap.inspection/1"}
RUN = {"model": "0a1b", "threshold": 0.25}


def an_inspection(path: str | None, regions: int = 2, score: float = 0.75) -> Inspection:
    found = tuple(
        Region(9 + place, (place, 2, 3, 4), (place + 1 / 3, 3.5), 0.75 + place, 0.5) for place in range(regions)
    )
    return Inspection(30, 20, score, 0.25, "flawed", 9, found, path)


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "inspections.jsonl").read_text("utf-8").splitlines()]


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "regions.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# -------------------------------------------------------------------------------------------------------------- lists


def test_the_lists_hold_the_records(tmp_path: Path) -> None:
    """Each image is one line of JSON, equal to its record, each region one row of CSV with the same numbers."""
    images = [an_inspection("b/1.png"), an_inspection("b/2.png", 0), an_inspection('c, "3"\nü.png', 1)]
    with InspectionLog(tmp_path, RUN) as log:
        for image in images:
            assert log.add(image) == SCHEMA | image.to_dict()
        log.add(images[1], page=3)
        log.fail(Path("d.png"), "truncated")
    *read, page, failed = lines(tmp_path)
    assert read == [SCHEMA | image.to_dict() for image in images]
    assert page == SCHEMA | images[1].to_dict() | {"page": 3}
    assert failed == SCHEMA | {"path": "d.png", "error": "truncated"}
    table = rows(tmp_path)
    assert [(row["path"], row["region"]) for row in table] == [
        ("b/1.png", "1"),
        ("b/1.png", "2"),
        ('c, "3"\nü.png', "1"),
    ]
    for row, region in zip(table[:2], images[0].regions, strict=True):
        record = region.to_dict()
        assert [int(row[key]) for key in ("left", "top", "width", "height")] == record["box"]
        assert [float(row["centroid_x"]), float(row["centroid_y"])] == record["centroid"]
        assert (int(row["area"]), float(row["peak"]), float(row["mean"])) == (region.area, region.peak, region.mean)
    assert names(tmp_path) == [".lock", ".run.json", "inspections.jsonl", "regions.csv"]


def test_every_line_is_in_the_file_before_the_next_image(tmp_path: Path) -> None:
    """Whoever is killed between two images leaves the lines of all images before."""
    with InspectionLog(tmp_path, RUN) as log:
        for place in range(3):
            log.add(an_inspection(f"{place}.png"))
            assert [line["path"] for line in lines(tmp_path)] == [f"{number}.png" for number in range(place + 1)]


def test_memory_does_not_grow_with_the_images(tmp_path: Path) -> None:
    """Lines stay in the file: a folder of many images takes what one of few does, while it runs and at its end."""
    large = an_inspection("a.png", regions=60)
    with InspectionLog(tmp_path, RUN) as log:
        log.add(large)
        tracemalloc.start()
        for _ in range(300):
            log.add(large)
        held, _ = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (tmp_path / "inspections.jsonl").stat().st_size > 1_500_000
    assert held < 200_000
    assert peak < 500_000
    assert len(rows(tmp_path)) == 301 * len(large.regions)


def test_an_interruption_keeps_the_finished_images(tmp_path: Path) -> None:
    """Ctrl-C passes through, and both lists hold what was finished."""
    with pytest.raises(KeyboardInterrupt), InspectionLog(tmp_path, RUN) as log:  # noqa: PT012 - the log ends within
        log.add(an_inspection("1.png"))
        raise KeyboardInterrupt
    assert [line["path"] for line in lines(tmp_path)] == ["1.png"]
    assert len(rows(tmp_path)) == 2


def test_a_full_disk_leaves_whole_lines(tmp_path: Path) -> None:
    """A write that stops half way is an OutputError, and the half line is cut off again."""
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    with InspectionLog(tmp_path, RUN) as log:
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
            with pytest.raises(OutputError, match="cannot be written: "):  # noqa: PT012 - some line is too much
                for place in range(100):
                    log.add(an_inspection(f"{place}.png"))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        kept = [line["path"] for line in lines(tmp_path)]
        assert 1 <= len(kept) < 10
        assert kept == [f"{place}.png" for place in range(len(kept))]
    assert len(rows(tmp_path)) == 2 * len(kept)


def test_a_torn_last_line_is_left_out(tmp_path: Path) -> None:
    """A line without its end is no line; what stands before it is read."""
    path = tmp_path / "a.jsonl"
    path.write_text('{"path": "1.png"}\n{"path": "2.p')
    assert list(read_lines(path)) == [{"path": "1.png"}]


def test_resuming_keeps_what_was_done_and_tries_the_rest_again(tmp_path: Path) -> None:
    """Lines of images are kept, those of images that could not be read and a torn one are not."""
    with InspectionLog(tmp_path, RUN) as log:
        log.add(an_inspection("1.png"))
        log.fail("2.png", "truncated")
    with (tmp_path / "inspections.jsonl").open("a") as file:
        file.write('{"path": "3.p')
    with InspectionLog(tmp_path, RUN, resume=True) as log:
        assert [line["path"] for line in log.kept] == ["1.png"]
        log.add(an_inspection("2.png"))
    assert [line["path"] for line in lines(tmp_path)] == ["1.png", "2.png"]
    assert len(rows(tmp_path)) == 4


def test_another_models_lines_are_not_gone_on_with(tmp_path: Path) -> None:
    """Resuming under another run is refused, the lists stay; without resuming they are replaced."""
    with InspectionLog(tmp_path, RUN) as log:
        log.add(an_inspection("1.png"))
    with pytest.raises(ConfigError) as caught, InspectionLog(tmp_path, RUN | {"model": "ffff"}, resume=True):
        pass
    assert str(caught.value) == (
        f"{tmp_path} holds an inspection by another model or other settings: model was 0a1b, is ffff; name another "
        "folder with -o, or inspect without --resume to replace it"
    )
    assert [line["path"] for line in lines(tmp_path)] == ["1.png"]
    with InspectionLog(tmp_path, RUN | {"model": "ffff"}) as log:
        log.add(an_inspection("2.png"))
    assert [line["path"] for line in lines(tmp_path)] == ["2.png"]


def test_results_never_stand_beside_those_of_another_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A new run that is killed as it begins has removed the old lines and regions before it takes their place."""
    with InspectionLog(tmp_path, RUN) as log:
        log.add(an_inspection("1.png"))
    other = RUN | {"model": "ffff"}

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("flawmap.reporting.logs.write_json", killed)
        with pytest.raises(KeyboardInterrupt), InspectionLog(tmp_path, other):
            pass
    assert lines(tmp_path) == []
    with InspectionLog(tmp_path, RUN, resume=True) as log:
        assert log.kept == ()
        assert not (tmp_path / "regions.csv").exists()


def test_two_inspections_do_not_share_a_folder(tmp_path: Path) -> None:
    """The second one is refused while the first one runs, and not after."""
    with InspectionLog(tmp_path, RUN) as log:
        with pytest.raises(ConfigError, match="another inspection is writing to "), InspectionLog(tmp_path, RUN):
            pass
        log.add(an_inspection("1.png"))
    with InspectionLog(tmp_path, RUN, resume=True) as log:
        assert len(log.kept) == 1


def test_names_that_are_no_text_come_back(tmp_path: Path) -> None:
    """A file name of bytes that are not UTF-8 is read back from the JSON as it was, and stops neither list nor page."""
    name = b"\xff\xfe.png".decode("utf-8", "surrogateescape")
    with InspectionLog(tmp_path, RUN) as log:
        log.add(an_inspection(name))
        log.fail(name, "foreign")
    assert [line["path"] for line in lines(tmp_path)] == [name, name]
    write_page(Page(name, ""), tmp_path / "page.html")
    assert b"<title>\\udcff\\udcfe.png</title>" in (tmp_path / "page.html").read_bytes()


def test_a_score_that_is_no_number_is_refused(tmp_path: Path) -> None:
    """NaN has no place in JSON; the error names the image and the lists stay whole."""
    with InspectionLog(tmp_path, RUN) as log:
        with pytest.raises(InputError, match=r"^x\.png: JSON holds finite numbers only"):
            log.add(an_inspection("x.png", score=float("nan")))
        log.add(an_inspection("y.png"))
    assert [line["path"] for line in lines(tmp_path)] == ["y.png"]


# ----------------------------------------------------------------------------------------------------------- JSON, CSV


def test_write_json(tmp_path: Path) -> None:
    """Keys keep their order, the text is indented and ends in a new line; infinity leaves the old file untouched."""
    path = tmp_path / "a.json"
    write_json(path, {"z": 1, "a": [0.5, None], "ü": "ß"})
    assert path.read_text("utf-8") == '{\n  "z": 1,\n  "a": [\n    0.5,\n    null\n  ],\n  "ü": "ß"\n}\n'
    with pytest.raises(InputError, match=r"a\.json: JSON holds finite numbers only, got NaN or infinity; write None"):
        write_json(path, {"z": float("inf")})
    assert json.loads(path.read_text("utf-8"))["z"] == 1
    assert names(tmp_path) == ["a.json"]


def test_no_cell_is_a_formula(tmp_path: Path) -> None:
    """Spreadsheets show names that begin like a formula and run none; numbers and gaps stay what they are."""
    path = tmp_path / "a.csv"
    write_csv(path, ("name", "value"), [("=1+1", -2.5), ("+a", None), ("-b", 0), ("@c", 1), ("d=", 2)])
    with path.open(newline="", encoding="utf-8") as file:
        assert list(csv.reader(file)) == [
            ["name", "value"],
            ["'=1+1", "-2.5"],
            ["'+a", ""],
            ["'-b", "0"],
            ["'@c", "1"],
            ["d=", "2"],
        ]
