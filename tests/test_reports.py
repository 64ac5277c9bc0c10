"""Numbers in tables, tables as Markdown, pictures, and pages that need nothing but themselves."""

from __future__ import annotations

import base64
import hashlib
import io
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from flawmap.core.errors import InputError
from flawmap.evaluation import formulas as evaluation
from flawmap.evaluation.metrics import image_metrics
from flawmap.reporting.labels import IMAGE_METRICS, PIXEL_METRICS
from flawmap.reporting.pages import Figure, Page, PictureRows, Section, render, write_page
from flawmap.reporting.pictures import picture, shrunk
from flawmap.reporting.rendering import source
from flawmap.reporting.tables import Cell, Table, count, markdown, number, percent

HOSTILE = "a<script>alert('1')</script>\"&.png"
RANDOM = np.random.default_rng(0)
NOISE = RANDOM.integers(0, 256, (64, 96), dtype=np.uint8)
VOID = {"meta", "link", "img", "br", "hr", "input", "rect"}


# ------------------------------------------------------------------------------------------------- numbers, pictures


@pytest.mark.parametrize(
    ("cell", "text"),
    [
        (number(0.93149), "0.931"),
        (number(0.93149, 4), "0.9315"),
        (number(1.0), "1.000"),
        (number(0.0), "0.000"),
        (number(0.9995001), "> 0.999"),
        (number(0.0004), "< 0.001"),
        (number(12.9999, 2), "13.00"),
        (number(-0.25, 2), "\N{MINUS SIGN}0.25"),
        (percent(1.0), "100.0\xa0%"),
        (percent(0.99999), "> 99.9\xa0%"),
        (percent(1e-5, 2), "< 0.01\xa0%"),
        (count(1234567), "1,234,567"),
    ],
)
def test_numbers_in_tables(cell: Cell, text: str) -> None:
    """Decimals are fixed, and only what is 0 or 1 is shown as 0 or 1."""
    assert cell.text == text
    assert cell.numeric


def test_a_missing_number_gives_its_reason() -> None:
    """None is an en dash with the reason as its title; NaN is an error."""
    for make in (number, percent, count):
        assert make(None, reason="no good pixels") == Cell("–", "no good pixels")
    assert number(0.123456789).title == "0.123456789"
    for make in (number, percent):
        with pytest.raises(InputError, match="a number in a table must be finite, got nan"):
            make(float("nan"))


def test_every_metric_has_one_label() -> None:
    """The table of labels names what an evaluation measures, each by a label and a short one of its own."""
    assert set(PIXEL_METRICS) == set(evaluation.PIXEL_METRICS)
    assert set(IMAGE_METRICS) == set(image_metrics([0.1, 0.9], [False, True]))
    for place in (0, 1):
        names = [metric[place] for metrics in (PIXEL_METRICS, IMAGE_METRICS) for metric in metrics.values()]
        assert len(set(names)) == len(names)


def test_tables_as_markdown() -> None:
    """A heading, flush numbers, escaped bars and tags, line breaks as spaces, the note below; no rows are a dash."""
    rows = (("cut | <b>", number(0.5)), ("dot\nback\\slash", number(None)), ("all", ""))
    assert markdown([Table("T", ("Kind", "Area"), rows, note="A note."), Table("Empty", ("a", "b"), ())]) == (
        "## T\n\n"
        "| Kind | Area |\n"
        "|---|--:|\n"
        "| cut \\| &lt;b> | 0.500 |\n"
        "| dot back\\\\slash | – |\n"
        "| all |  |\n"
        "\nA note.\n\n"
        "## Empty\n\n"
        "| a | b |\n"
        "|---|---|\n"
        "| – |  |\n"
    )


def test_pictures_are_clipped_not_wrapped() -> None:
    """Values outside [0, 1] become black or white, those inside are rounded, and order is kept."""
    values = np.array([-3.0, -0.004, 0, 0.1, 0.5, 1, 1.004, 40], np.float32)[None, :, None]
    assert picture(values).tolist() == [[0, 0, 0, 26, 128, 255, 255, 255]]
    assert picture(np.repeat(values, 3, axis=2)).shape == (1, 8, 3)
    assert picture(np.array([[True, False]])).tolist() == [[255, 0]]
    assert (picture(np.clip(values, 0, 1)) == picture(values)).all()
    with pytest.raises(InputError, match="NaN"):
        picture(np.full((2, 2, 1), np.nan, np.float32))
    with pytest.raises(InputError, match="must be floating point"):
        picture(np.zeros((2, 2, 1), np.uint8))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((700, 1024), (700, 1024)),
        ((256, 2770), (256, 2770)),
        ((2770, 256), (2770, 256)),
        ((2048, 2448), (1171, 1400)),
        ((512, 4096), (256, 2048)),
        ((10, 20000), (4, 8192)),
    ],
)
def test_pictures_shrink_until_one_side_fits(size: tuple[int, int], expected: tuple[int, int]) -> None:
    """Photographs end at 1400 pixels, strips at a height of 256, everything at 8192; grey means stay."""
    values = np.full(size, 77, np.uint8)
    values[:, ::2] = 79
    small = shrunk(values)
    assert small.shape == expected
    assert small.dtype == np.uint8
    assert abs(float(small.mean()) - 78) < 0.6
    assert shrunk(np.repeat(values[:, :, None], 3, axis=2)).shape == (*expected, 3)


# --------------------------------------------------------------------------------------------------------------- page


class Reader(HTMLParser):
    """Checks the nesting, and collects tags, texts and images."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[str, str]] = []
        self.feed(page)
        self.close()
        assert self.open == [], "every tag is closed"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if data.strip():
            self.texts.append((self.open[-1] if self.open else "", data))

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]

    def text(self, tag: str) -> list[str]:
        return [text for name, text in self.texts if name == tag]

    def pictures(self) -> list[tuple[str, Image.Image]]:
        """Type and content of each picture but the legend's."""
        found = []
        for attributes in self.all("img"):
            kind, content = (attributes["src"] or "").removeprefix("data:").split(";base64,")
            if attributes["alt"] != "to":
                found.append((kind, Image.open(io.BytesIO(base64.b64decode(content)))))
        return found


def a_png() -> bytes:
    file = io.BytesIO()
    Image.fromarray(NOISE).save(file, "PNG")
    return file.getvalue()


def a_page(title: str = "A report") -> Page:
    colour = np.repeat(NOISE[:, :, None], 3, axis=2)
    image = PictureRows(
        title, f"{title} & note", ((title, NOISE), ("mask", (NOISE > 128).astype(np.uint8)), ("overlay", colour))
    )
    metrics = (("l2", number(0.7), count(12)), (title, number(None, reason=f"no {title}"), count(3)))
    return Page(
        title,
        f"Lead {title}",
        (("Version", title), ("Threshold", number(0.25)), ("Rate", percent(None, reason="no good images"))),
        (Table(title, ("Method", title, "Images"), metrics, note=title),),
        (Figure(title, a_png()),),
        (Section(title, (image, image)), Section("Empty")),
        title,
        heat=(title, "1"),
    )


@pytest.mark.parametrize("title", ["A report", HOSTILE])
def test_a_page_is_well_formed_and_refers_to_nothing(title: str) -> None:
    """Tags nest, ids are unique, links lead to them, and nothing points outside: no address, no handler, no style."""
    page = render(a_page(title))
    reader = Reader(page)
    assert page.startswith("<!DOCTYPE html>")
    ids = [attributes["id"] for _, attributes in reader.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    for _, attributes in reader.tags:
        assert not {name for name in attributes if name.startswith("on") or name == "style"}
        for name in ("src", "href", "srcset", "action", "xlink:href", "poster"):
            target = attributes.get(name) or "data:"
            assert target.startswith("data:") or target.removeprefix("#") in ids
    bare = re.sub(r"data:[a-z/]*;base64,[A-Za-z0-9+/=]*", "", page)
    assert not re.search(r"https?:|//|url\(|@import", bare)
    assert len(reader.all("script")) == len(reader.all("style")) == 1


def test_the_policy_forbids_everything_but_the_pages_own_style_and_script() -> None:
    """The policy names style and script by their digests, which are right, and allows pictures as data alone."""
    page = render(a_page())
    reader = Reader(page)
    (policy,) = [meta["content"] or "" for meta in reader.all("meta") if meta.get("http-equiv")]
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == rules["base-uri"] == rules["form-action"] == "'none'"
    assert rules["img-src"] == "data:"
    assert "unsafe" not in policy
    for tag in ("style", "script"):
        (text,) = re.findall(f"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert rules[f"{tag}-src"] == f"'sha256-{digest}'"
    assert page.index("Content-Security-Policy") < page.index("<style>")


def test_hostile_names_stay_text() -> None:
    """A script in a file's name is shown, as it is, wherever it appears, and runs nowhere."""
    page = render(a_page(HOSTILE))
    reader = Reader(page)
    assert "<script>alert" not in page
    for tag in ("title", "h1", "h2", "h3", "th", "figcaption", "footer", "dd", "a"):
        assert HOSTILE in "".join(reader.text(tag))
    assert any(HOSTILE in (image["alt"] or "") for image in reader.all("img"))
    assert any(span.get("title") == f"no {HOSTILE}" for span in reader.all("span"))


def test_every_picture_has_a_name_and_a_size() -> None:
    """Each img has an alt text, unlike its neighbours', and its true width and height; each caption stands below."""
    reader = Reader(render(a_page()))
    assert all(image["alt"] for image in reader.all("img"))
    shown = [image for image in reader.all("img") if image["alt"] != "to"]
    for attributes, (_, content) in zip(shown, reader.pictures(), strict=True):
        assert (attributes["width"], attributes["height"]) == (str(content.width), str(content.height))
    assert {"mask, A report", "overlay, A report"} <= {image["alt"] for image in shown}
    assert reader.text("figcaption").count("mask") == 2
    assert len(reader.all("button")) == len(shown)


def test_masks_are_exact_and_photographs_small() -> None:
    """Masks, drawings and small pictures are PNG, bit for bit; large photographs are JPEG and close to themselves."""
    mask = np.zeros((700, 1024), np.uint8)
    mask[100:140, 3:500] = 255
    ramp = np.add.outer(np.arange(600), np.arange(800)).astype(np.float32)[:, :, None] / 1400
    photograph = picture(np.repeat(ramp, 3, axis=2))
    page = Page(
        "x", "", sections=(Section("y", (PictureRows("z", "", (("a", mask), ("b", NOISE), ("c", photograph))),)),)
    )
    (kind, first), (other, second), (lossy, third) = Reader(render(page)).pictures()
    assert (kind, other, lossy) == ("image/png", "image/png", "image/jpeg")
    assert (np.asarray(first) == mask).all()
    assert (np.asarray(second) == NOISE).all()
    assert np.abs(np.asarray(third).astype(int) - photograph).max() <= 8


def test_outlines_keep_their_colour() -> None:
    """A green line one pixel wide in a large photograph is still green after JPEG."""
    values = np.repeat(RANDOM.integers(90, 160, (400, 600, 1), dtype=np.uint8), 3, axis=2)
    values[200, 50:550] = (0, 230, 90)
    page = Page("x", "", sections=(Section("y", (PictureRows("z", "", (("a", values),)),)),))
    ((kind, content),) = Reader(render(page)).pictures()
    assert kind == "image/jpeg"
    line = np.asarray(content).astype(int)[200, 50:550]
    assert (line[:, 1] - line[:, 0]).mean() > 180


@pytest.mark.parametrize(
    ("size", "pictures", "lines", "columns"),
    [
        ((256, 256), 10, 2, 5),
        ((700, 1024), 5, 1, 5),
        ((700, 1024), 4, 1, 4),
        ((256, 1024), 4, 1, 2),
        ((256, 2770), 4, 1, 1),
        ((128, 128), 1, 1, 3),
        ((128, 128), 8, 1, 4),
    ],
)
def test_wide_pictures_stand_below_each_other(size: tuple[int, int], pictures: int, lines: int, columns: int) -> None:
    """Rows hold what is legible: five squares, four photographs, one strip; a lone picture does not fill the window."""
    case = PictureRows("x", "", tuple((str(place), np.zeros(size, np.uint8)) for place in range(pictures)), count=lines)
    reader = Reader(render(Page("x", "", sections=(Section("y", (case,)),))))
    assert [div["class"] for div in reader.all("div") if "row" in (div.get("class") or "")] == [
        f"row n{columns}"
    ] * lines


def test_columns_of_numbers_are_aligned_right() -> None:
    """Numbers, their headings and empty cells are aligned right, words left; the reasons for dashes stand below."""
    table = Table("T", ("Kind", "Area"), (("cut", number(0.5)), ("dot", number(None, reason="no dots")), ("all", "")))
    reader = Reader(render(Page("x", "", tables=(table,))))
    assert [("class" in cell) for cell in reader.all("th")] == [False, True, False, False, False]
    assert [cell.get("scope") for cell in reader.all("th")] == ["col", "col", "row", "row", "row"]
    assert [cell["class"] for cell in reader.all("td")] == ["n", "n", "n"]
    assert "– no dots" in reader.text("p")


def test_an_empty_page_is_a_page() -> None:
    """Without tables, pictures and footer nothing empty is shown."""
    reader = Reader(render(Page("Title", "Lead")))
    assert reader.text("h1") == ["Title"]
    assert not {"table", "dl", "nav", "footer", "figure", "section"} & {tag for tag, _ in reader.tags}


def test_a_section_holds_a_note_figures_tables_and_images() -> None:
    """Its tables have headings below its own, links lead to its key, and only pictures of images have a legend."""
    table = Table("T", ("a",), (("x",),))
    sections = (
        Section("First", figures=(Figure("F", a_png()),), tables=(table,), note="A note", key="one", link="1"),
        Section("Second", images=(PictureRows("I", "", (("p", NOISE),)),)),
    )
    reader = Reader(render(Page("x", "", sections=sections)))
    assert [link["href"] for link in reader.all("a")] == ["#one", "#section-1"]
    assert reader.text("a") == ["1", "Second"]
    assert [section.get("id") for section in reader.all("section")] == ["one", None, "section-1"]
    assert (reader.text("h2"), reader.text("h3")) == (["First", "Second"], ["T", "I"])
    assert "A note" in reader.text("p")
    assert len([ul for ul in reader.all("ul") if ul.get("class") == "legend"]) == 1


def test_the_legend_has_the_colours_of_the_overlays() -> None:
    """Red is the truth and green is what was found, in the very colours that overlays are drawn in."""
    reader = Reader(render(a_page()))
    assert [rect["stroke"] for rect in reader.all("rect")] == ["rgb(255, 45, 60)", "rgb(0, 230, 90)"]
    texts = reader.text("li")
    assert texts.index("ground truth") + 1 == texts.index("found")


def test_text_has_contrast_in_light_and_dark() -> None:
    """Ink, quiet ink and links reach 4.5 : 1 on the page in both schemes (WCAG 2.2, 1.4.3)."""
    style = source("page.css")

    def luminance(colour: str) -> float:
        levels = np.array([int(colour[place : place + 2], 16) for place in (1, 3, 5)]) / 255
        linear = np.where(levels <= 0.04045, levels / 12.92, ((levels + 0.055) / 1.055) ** 2.4)
        return float(linear @ (0.2126, 0.7152, 0.0722))

    schemes = [dict(re.findall(r"--(\w+): (#[0-9a-f]{6})\b", block)) for block in style.split(":root")[1:3]]
    for scheme in schemes:
        for name in ("ink", "soft", "accent"):
            low, high = sorted((luminance(scheme[name]), luminance(scheme["paper"])))
            assert (high + 0.05) / (low + 0.05) >= 4.5


def test_a_page_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    """The file is the rendered text; a missing folder is named."""
    write_page(a_page(), tmp_path / "page.html")
    assert (tmp_path / "page.html").read_text("utf-8") == render(a_page())
    assert [path.name for path in tmp_path.iterdir()] == ["page.html"]
    with pytest.raises(InputError, match=r"none/page\.html cannot be written"):
        write_page(a_page(), tmp_path / "none" / "page.html")


def test_nonsense_is_refused_when_made() -> None:
    """Each record says what it expected, what came and what to do."""
    with pytest.raises(InputError, match=r"picture 'a' must be uint8 \(H, W\) or \(H, W, 3\), got float64 \(2, 2\)"):
        PictureRows("x", "", (("a", np.zeros((2, 2))),))  # type: ignore[arg-type]
    with pytest.raises(InputError, match="count must divide 1 pictures into rows of one length, got 2"):
        PictureRows("x", "", (("a", NOISE),), count=2)
    with pytest.raises(InputError, match="table 'T': a row needs 2 cells, got 1"):
        Table("T", ("a", "b"), (("x",),))
    with pytest.raises(InputError, match="figure 'F' must be the bytes of a PNG file, got b'GIF'"):
        Figure("F", b"GIF")


def test_reports_load_neither_torch_nor_matplotlib() -> None:
    """Reports are made of numbers and arrays: importing them stays quick."""
    modules = ", ".join(f"flawmap.reporting.{name}" for name in ("pages", "tables", "labels", "pictures", "charts"))
    code = f"import sys, {modules}; print(sorted({{'torch', 'matplotlib'}} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
