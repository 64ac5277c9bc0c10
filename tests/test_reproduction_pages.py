"""The pictures, tables and page of the paper's experiments, from made-up records; figures 1 and 5 on tiny cloth."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import flawmap
from flawmap.core.errors import InputError
from flawmap.methods.autoencoder import build_network
from flawmap.methods.overrides import override
from flawmap.methods.presets import preset
from flawmap.scoring.model_file import DEFAULT, Artifact, save_artifact
from flawmap.scoring.operating_point import OperatingPoint
from paper import examples, figures, page
from paper.claims import MARKS, PAPER, Claim, Printed, printed_cells
from paper.page import Publication
from paper.plan import METHODS, TABLE_2
from paper.records import column_runs, main_runs, set_titles
from paper.sets import SETS

pytestmark = pytest.mark.slow

AREAS = {"l2": 0.6137, "vae": 0.6021, "fm": 0.6589, "ssim": 0.9473}
RATES = [0.001, 0.01, 0.05, 0.1, 0.3]
CLAIMS = (
    Claim("SSIM is <ahead> of all | others", True, "0.947 > 0.659"),
    Claim("FM helps on NanoTWICE only", False, "grid: +0.031"),
    Claim("insensitive to K", None, ""),
)
TIMING = {
    "machine": {"processor": "A processor", "threads": 1, "cuda": None},
    "versions": {"torch": "2.13.0"},
    "precision": "bfloat16",
    "ms_per_patch": {"1": 3.021, "32": 0.557},
    "image": {"size": [1024, 696], "windows": 651, "seconds": {"whole": 0.7712, "network": 0.41, "ssim": 0.2}},
}


def a_record(name: str, set_name: str, method: str, seed: int, area: float, **changed: int) -> dict[str, Any]:
    """A record of schema 1 whose ROC curve y = x^p has the area asked for."""
    config = override(
        preset("paper", "ssim" if method == "ssim" else "l2"), {"model": {"channels": 1}, "method": {"latent": 500}}
    )
    settings = config.model_dump(mode="json")
    settings["model"] |= {key: value for key, value in changed.items() if key == "patch"}
    settings["method"] |= {key: value for key, value in changed.items() if key == "latent"}
    settings["residual"]["ssim"]["size"] = changed.get("window", 11)
    x = np.linspace(0, 1, 60)
    share = np.linspace(0.2, 0.9, len(RATES)) * area

    def scored(auroc: float, changes: dict[str, Any]) -> dict[str, Any]:
        metrics = {"auroc": auroc, "average_precision": 0.41, "f1_max": 0.52, "au_pro_30": 0.8, "au_pro_05": 0.6}
        return {
            "changes": changes,
            "threshold": 0.3,
            "metrics": {**metrics, "images": 40, "image_auroc": None},
            "metrics_with_good": None,
            "intervals": {"auroc": [auroc - 0.021, auroc + 0.017]},
            "roc": {"x": x.tolist(), "y": (x ** (1 / auroc - 1)).tolist()},
            "overlap": {
                "rates": RATES,
                "q25": (share / 2).tolist(),
                "q50": share.tolist(),
                "q75": (1.1 * share).tolist(),
            },
            "histogram": {"edges": [0.0, 0.1, 0.2], "good": [95, 5], "defective": [1, 9]},
        }

    return {
        "schema": 1,
        "name": name,
        "set": set_name,
        "title": {dataset.key: dataset.title for dataset in SETS}.get(set_name, set_name),
        "method": method,
        "seed": seed,
        "changes": {"model": changed} if changed else {},
        "command": "flawmap reproduce all",
        "preset": "paper",
        "date": "2026-11-21",
        "machine": {"processor": "A processor", "threads": 1, "cuda": None},
        "versions": {"torch": "2.13.0"},
        "training": {
            "steps": 62_500,
            "patches": 2_000_000,
            "seconds": 1800.0,
            "patches_per_second": 1111.1,
            "loss": 0.2073,
            "validation_loss": 0.2239,
            "constant_loss": 0.91,
            "history": [[1, 0.9, None], [62_500, 0.2073, 0.2239]],
        },
        "settings": settings,
        "seconds_per_image": {"median": 1.586, "least": 1.449, "images": 5},
        "features": None,
        "scorings": {
            "faithful": scored(area, {}),
            "smoothed": scored(min(area + 0.013, 0.999), {"residual": {"smoothing": 8}}),
        },
    }


@pytest.fixture(scope="module")
def records() -> list[dict[str, Any]]:
    """All sets, methods, three seeds of SSIM on NanoTWICE, and some cells of table 2."""
    made = [
        a_record(f"{dataset.key}-{method}-seed0", dataset.key, method, 0, area - 0.01 * place)
        for place, dataset in enumerate(SETS)
        for method, area in AREAS.items()
    ]
    made += [
        a_record(f"nanotwice-ssim-seed{seed}", "nanotwice", "ssim", seed, 0.9473 - 0.004 * seed) for seed in (1, 2)
    ]
    made += [a_record(f"table2-latent{d}", "nanotwice", "ssim", 0, 0.9 + d / 2e4, latent=d) for d in (50, 100, 1000)]
    made += [a_record(f"table2-window{k}", "nanotwice", "ssim", 0, 0.93 - k / 1e3, window=k) for k in (3, 7, 19)]
    made.append(a_record("table2-optimum", "nanotwice", "ssim", 0, 0.9312))
    return made


@pytest.fixture(scope="module")
def drawn(records: list[dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("drawn")
    figures.roc(records, folder / "figure6.png")
    figures.overlap(records, folder / "figure7.png")
    figures.table2(records, folder / "table2.png", PAPER)
    return {path.stem: path for path in sorted(folder.iterdir())}


class Text(HTMLParser):
    """The rows of a page's tables, its text, and whether every element that opens also closes."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.rows: list[list[str]] = []
        self.text: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.ids += [found["id"] or ""] if "id" in found else []
        self.links += [found["href"] or ""] if tag == "a" else []
        if tag not in {"meta", "link", "img"}:
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in {"td", "th"}:
            self.rows[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in {"style", "script"}:
            self.text.append(data)
        if {"td", "th"} & set(self.open):
            self.rows[-1][-1] += data


def written(out: Path, publication: Publication) -> tuple[str, Text]:
    html = page.write(out, publication).read_text("utf-8")
    parsed = Text(html)
    assert parsed.open == []
    return html, parsed


def colours(path: Path) -> set[tuple[int, ...]]:
    """Every colour of a picture."""
    red, green, blue = np.moveaxis(np.asarray(Image.open(path).convert("RGB"), dtype=np.int64), 2, 0)
    packed = np.flatnonzero(np.bincount(((red * 256 + green) * 256 + blue).ravel()))
    return {(int(colour) >> 16, int(colour) >> 8 & 255, int(colour) & 255) for colour in packed}


def rgb(method: str) -> tuple[int, ...]:
    return tuple(bytes.fromhex(figures.LINES[method]["color"][1:]))


# ----------------------------------------------------------------------------------------------------------- drawings


def test_drawings_are_pictures_of_a_sane_size(drawn: dict[str, Path]) -> None:
    """Each drawing is a PNG of one to two and a half thousand pixels, on white, in more than the colours of text."""
    assert list(drawn) == ["figure6", "figure7", "table2"]
    for path in drawn.values():
        with Image.open(path) as image:
            assert image.format == "PNG"
            assert 1000 <= image.width <= 2500
            assert 400 <= image.height <= 2500
            assert image.convert("RGB").getpixel((1, 1)) == (255, 255, 255)
    assert {rgb(method) for method in METHODS} <= colours(drawn["figure6"]) & colours(drawn["figure7"])
    assert not [path for path in drawn["table2"].parent.iterdir() if path.suffix != ".png"]  # nothing half written


def test_methods_differ_in_colour_and_in_line() -> None:
    """No two methods share a colour or a style, so that either tells them apart."""
    for key in ("color", "linestyle"):
        assert len({str(line[key]) for line in figures.LINES.values()}) == len(METHODS) == 4


def test_a_method_that_was_not_run_is_not_drawn(records: list[dict[str, Any]], tmp_path: Path) -> None:
    """Without its records a method leaves no line of its colour; of no records at all there is a drawing, too."""
    few = [record for record in records if record["method"] != "fm" and record["set"] != "grid"]
    figures.roc(few, tmp_path / "few.png")
    assert rgb("ssim") in colours(tmp_path / "few.png")
    figures.roc([], tmp_path / "none.png")
    assert not {rgb(method) for method in METHODS} & colours(tmp_path / "none.png")
    assert rgb("fm") not in colours(tmp_path / "few.png")


def test_what_is_only_recalled_is_not_drawn(records: list[dict[str, Any]], tmp_path: Path) -> None:
    """Recalled cells of table 2 leave the drawing as it is without them; one from the text changes it."""
    recalled = [figure for figure in PAPER if figure.mark == "mem"]
    pictures = {}
    for name, paper in (("none", []), ("recalled", recalled), ("all", PAPER)):
        figures.table2(records, tmp_path / f"{name}.png", paper)
        pictures[name] = np.asarray(Image.open(tmp_path / f"{name}.png"))
    assert len(recalled) > 5
    assert np.array_equal(pictures["none"], pictures["recalled"])
    assert pictures["all"].shape != pictures["none"].shape or (pictures["all"] != pictures["none"]).any()


def test_runs_of_table_2_stay_out_of_figure_6(records: list[dict[str, Any]]) -> None:
    """Figure 6 takes the long runs, by seed; table 2 the short ones, by value, the optimum in every column."""
    assert [run["seed"] for run in main_runs(records, "nanotwice", "ssim")] == [0, 1, 2]
    cells = [column_runs(records, axis) for axis in range(3)]
    assert [list(column) for column in cells] == [[50, 100, 500, 1000], [3, 7, 11, 19], [128]]
    assert [column[value][0]["name"] for column, value in zip(cells, (500, 11, 128), strict=True)] == [
        "table2-optimum"
    ] * 3


def test_cells_of_the_paper_are_found_by_their_names() -> None:
    """The optimum stands in all three columns, the others in their own."""
    columns = [{value: cell.value for value, cell in printed_cells(PAPER, axis).items()} for axis in range(3)]
    assert [column[value] for column, value in zip(columns, (500, 11, 128), strict=True)] == [0.966] * 3
    assert [sorted(column) for column in columns] == [list(axis.values) for axis in TABLE_2]


# --------------------------------------------------------------------------------------------------------------- page


@pytest.fixture(scope="module")
def shown(
    records: list[dict[str, Any]], drawn: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, str, Text]:
    out = tmp_path_factory.mktemp("out") / "new"
    pictures = {**drawn, "figure5-fabric03": drawn["table2"]}
    planned = [*(record["name"] for record in records), "table2-latent200"]
    return out, *written(out, Publication(records, CLAIMS, pictures, TIMING, planned=planned))


def test_the_page_holds_every_figure(records: list[dict[str, Any]], shown: tuple[Path, str, Text]) -> None:
    """Each scoring of each run is a row with its area; each figure of the paper is a row with its origin."""
    rows = shown[2].rows
    for record in records:
        for name, scored in record["scorings"].items():
            area = f"{scored['metrics']['auroc']:.4f}"
            assert any(row[:3] == [record["name"], name, area] for row in rows)
    for figure in PAPER:
        row = [figure.what, figure.set or "–", figure.method or "–", figure.quantity, f"{figure.value:g}"]
        assert [*row, MARKS[figure.mark]] in rows


def test_recalled_figures_never_stand_as_facts(shown: tuple[Path, str, Text]) -> None:
    """Wherever a recalled number stands in a table, its row says that it is recalled and unverified."""
    found = 0
    for value in {f"{figure.value:g}" for figure in PAPER if figure.mark == "mem"}:
        for row in shown[2].rows:
            if value in row[-2:]:
                found += 1
                assert row[-1] == "recalled, unverified"
    assert found >= 2 * sum(figure.mark == "mem" for figure in PAPER) - 4


def test_ours_stand_beside_the_papers(shown: tuple[Path, str, Text]) -> None:
    """The tables of figure 6, figure 7 and table 2 hold mean and range of seeds, and the paper's with its origin."""
    rows = shown[2].rows
    title = set_titles([])["nanotwice"]
    areas = "0.943 (0.939 to 0.947)"
    ssim = [title, "SSIM", "0, 1, 2", areas, "0.926 to 0.964", "0.956 (0.952 to 0.960)", "0.966", "the paper's text"]
    assert ssim in rows
    assert ["NanoTWICE", "Napoletano et al. 2018", "", "–", "", "", "up to 0.974", "the paper's text"] in rows
    assert ["latent dimension d", "d = 200", "–", "not run", "", "0.961", "recalled, unverified"] in rows
    assert ["latent dimension d", "d = 50", "2,000,000", "0.902", "0.915", "0.848", "recalled, unverified"] in rows
    median = 100 * np.mean([(0.2 + 0.7 / 2) * (0.9473 - 0.004 * seed) for seed in range(3)])
    assert any(row[:2] == [title, "SSIM"] and row[3] == f"{median:.1f}\xa0%" and "0.91" in row[5] for row in rows)


def test_claims_are_ticked_crossed_or_open(shown: tuple[Path, str, Text]) -> None:
    """A claim is a row: its text, escaped; whether it holds; its evidence."""
    assert [
        [CLAIMS[0].text, "✓ holds", CLAIMS[0].evidence],
        [CLAIMS[1].text, "✗ does not hold", CLAIMS[1].evidence],
        [CLAIMS[2].text, "– not tested", "–"],
    ] == [row for row in shown[2].rows if row[0] in {claim.text for claim in CLAIMS}]
    assert "1 hold, 1 do not, 1 not tested" in shown[2].text


def test_times_stand_beside_the_papers(shown: tuple[Path, str, Text]) -> None:
    """One patch beside 2.23 ms, one image beside 3.61 s, the parts and the runs' images below."""
    rows = shown[2].rows
    assert ["forward pass of one patch, in batches of 1", "3.02 ms", "2.23 ms (d = 500, Tesla V100)"] in [
        r[:3] for r in rows
    ]
    assert ["one whole image, 1024 x 696, 651 patches", "0.771 s"] in [row[:2] for row in rows]
    assert ["of that: ssim", "0.2 s", "", ""] in rows
    assert ["an image from file to mask, grid-l2-seed0", "1.59 s", "", ""] in rows


def test_the_page_is_one_file_and_its_links_lead_somewhere(
    shown: tuple[Path, str, Text], drawn: dict[str, Path]
) -> None:
    """Pictures are inside, one policy forbids the rest, there is one style and script, every link has its place."""
    _, html, parsed = shown
    assert html.count("data:image/png;base64,") == len(drawn) + 1
    assert (html.count("<style>"), html.count("<script>"), html.count("Content-Security-Policy")) == (1, 1, 1)
    assert {link[1:] for link in parsed.links} == set(parsed.ids) == {*page.TITLES, "runs"}
    assert not re.search(r'(src|href)="(?!data:|#)', html)
    assert "Figure 5, AITEX fabric 03" in " ".join(parsed.text)


def test_gaps_are_said(records: list[dict[str, Any]], tmp_path: Path) -> None:
    """Runs, pictures and times that are missing are "not run"; an empty folder makes a page, too."""
    missing = {"figure6": tmp_path / "missing.png"}
    _, parsed = written(tmp_path, Publication(pictures=missing, planned=["grid-fm-seed0"]))
    assert sum(text == "not run: no picture" for text in parsed.text) == len(page.DRAWN)
    assert ["grid-fm-seed0", "not run", *[""] * 8] in parsed.rows
    assert ["MVTec AD grid", "FM", "", "not run", "", "", ""] in parsed.rows
    assert [row for row in parsed.rows if row[:2] == ["one whole image", "not run"]]
    some = [record for record in records if (record["set"], record["method"]) == ("grid", "l2")]
    undefined = a_record("fabric04-ssim-seed0", "fabric04", "ssim", 0, 0.7)
    for scored in undefined["scorings"].values():
        scored |= {"metrics": {**scored["metrics"], "auroc": None}, "roc": None, "overlap": None, "intervals": {}}
    _, parsed = written(tmp_path, Publication([*some, undefined], paper=()))
    assert any(row[:2] == ["fabric04-ssim-seed0", "faithful"] and row[2] == "–" for row in parsed.rows)
    figures.roc([*some, undefined], tmp_path / "roc.png")
    figures.overlap([*some, undefined], tmp_path / "overlap.png")


# ----------------------------------------------------------------------------------------------------- Markdown, JSON


def tables_of(markdown: str) -> Iterator[list[list[str]]]:
    """The cells of each table, heading first, without its line of dashes."""
    for block in re.findall(r"(?:^\|.*\n)+", markdown, re.MULTILINE):
        rows = [re.split(r"(?<!\\)\|", line)[1:-1] for line in block.splitlines()]
        assert all(re.fullmatch(r"-{2,3}:?", cell) for cell in rows[1])
        yield [[cell.strip().replace("\\|", "|").replace("&lt;", "<") for cell in row] for row in (rows[0], *rows[2:])]


def test_the_markdown_holds_the_pages_tables(shown: tuple[Path, str, Text]) -> None:
    """Every row of the page's tables is one of the Markdown's, all rows of a table have its width."""
    out, _, parsed = shown
    text = (out / page.MARKDOWN).read_text("utf-8")
    tables = list(tables_of(text))
    assert len(tables) == text.count("\n## ") + text.startswith("## ") == 9
    for table in tables:
        assert {len(row) for row in table} == {len(table[0])}
    plain = [[cell.replace("\xa0", " ") for cell in row] for row in parsed.rows]
    assert plain == [row for table in tables for row in table]


def test_markdown_without_anything_is_well_formed() -> None:
    """No records, no claims, no paper: tables with a dash or with what was not run."""
    tables = list(tables_of(page.markdown(Publication(paper=()))))
    assert len(tables) == 9
    assert all(len(row) == len(table[0]) for table in tables for row in table)


def test_programs_read_the_records_without_their_curves(
    records: list[dict[str, Any]], shown: tuple[Path, str, Text]
) -> None:
    """reproduction.json holds metrics and intervals of every run, claims and the paper, and no curves."""
    data = json.loads((shown[0] / page.JSON).read_text("utf-8"))
    assert [record["name"] for record in data["records"]] == [record["name"] for record in records]
    scored = data["records"][0]["scorings"]["faithful"]
    assert scored["metrics"] == records[0]["scorings"]["faithful"]["metrics"]
    assert set(scored) == {"changes", "threshold", "metrics", "metrics_with_good", "intervals"}
    assert data["claims"][1] == {"text": CLAIMS[1].text, "holds": False, "evidence": CLAIMS[1].evidence}
    assert [Printed(**printed) for printed in data["paper"]] == list(PAPER)


# ----------------------------------------------------------------------------------------------------------- examples


@pytest.fixture(scope="module")
def cloth(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Path], Path]:
    """Two untrained models of 32-pixel patches, and a tiny labelled set."""
    folder = tmp_path_factory.mktemp("cloth")
    flawmap.synth(folder / "set", "cloth", good=4, bad=4, size=(64, 64), seed=1)
    models = {}
    for method in ("l2", "ssim"):
        settings = override(preset("fast", method), {"model": {"patch": 32, "channels": 1}, "method": {"latent": 4}})
        models[method] = folder / f"{method}.flawmap"
        weights = build_network(settings).state_dict()
        save_artifact(Artifact(settings, weights, {DEFAULT: OperatingPoint(threshold=0.05)}, {}, {}), models[method])
    return models, folder / "set"


def test_examples_end_to_end(cloth: tuple[dict[str, Path], Path], tmp_path: Path) -> None:
    """An image by two methods makes a picture; without models nothing is written."""
    models, data = cloth
    examples.draw(models, data, tmp_path / "figure1.png", thresholds={"l2": 0.01, "ssim": 0.02})
    with Image.open(tmp_path / "figure1.png") as image:
        assert image.format == "PNG"
        assert image.width == 1860
        assert image.height > 700
    with pytest.raises(InputError, match="examples need at least one model, got none"):
        examples.draw({}, data, tmp_path / "x.png", thresholds={})
    assert [path.name for path in tmp_path.iterdir()] == ["figure1.png"]


@pytest.mark.parametrize(("flaw", "start"), [(100, 1280), (1300, 1280), (2600, 2088), (4040, 3026)])
def test_windows_lie_around_the_flaw_and_inside_the_region(flaw: int, start: int) -> None:
    """A strip's window is 1024 wide, has the largest flaw in its middle where it can, and never leaves the region."""
    truth, inside = np.zeros((256, 4096), np.bool_), np.zeros((256, 4096), np.bool_)
    truth[100:110, flaw - 10 : flaw + 11] = True
    truth[5, 2000] = True  # smaller, and of no account
    inside[:, 1280:4050] = True
    assert examples.window_of(truth, inside) == (slice(0, 256), slice(start, start + 1024))


def test_threshold_at_a_rate_by_definition() -> None:
    """It is the lowest edge with at most the rate above: counted naively on random histograms."""
    rng = np.random.default_rng(0)
    for _ in range(50):
        edges, good = np.sort(rng.random(9)), rng.integers(0, 20, 8)
        rate = float(rng.choice([0.0, 0.05, 0.3]))
        naive = next(edge for place, edge in enumerate(edges) if good[place:].sum() <= rate * good.sum())
        assert examples.threshold_at({"edges": list(edges), "good": list(good)}, rate) == naive
    with pytest.raises(InputError, match="a threshold needs good pixels, got none"):
        examples.threshold_at({"edges": [0, 1], "good": [0]})
