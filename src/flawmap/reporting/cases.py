"""What the pages of `evaluate` and `demo` show: which images, pictures and values. How they look is `pages`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from flawmap.data.samples import Sample
from flawmap.evaluation.evaluate import Case, relative_name, score_case
from flawmap.evaluation.results import Evaluation
from flawmap.reporting.labels import DECIMALS, HELD_OUT, IMAGE_METRICS, PIXEL_METRICS, decision_rows, share_text
from flawmap.reporting.pages import Figure, Page, PictureRows, Section
from flawmap.reporting.pictures import Levels, heatmap, overlay, picture
from flawmap.reporting.tables import Cell, Table, count, number, percent
from flawmap.scoring.detector import Detector

WORST, BEST, GOOD = 6, 4, 3  # images shown
HEAT = 2.5  # the heat map's scale ends at this many thresholds, so the threshold has a fixed, visible colour
SCALE = ("0", f"{HEAT:g} thresholds")

Row = Mapping[str, Any]
"""One image of an evaluation, as in `per_image` of metrics.json."""
Captioned = tuple[str, Levels]
"""A caption and its picture."""


def evaluation_page(
    detector: Detector,
    evaluation: Evaluation,
    samples: Sequence[Sample],
    *,
    about: Mapping[str, Any],
    root: Path,
    roc: Path,
) -> Page:
    """Metrics, ROC curve, the model's summary, and its worst and best images, scored once more for their pictures."""
    model = about["model"]
    by_path = {relative_name(sample.path, root): sample for sample in samples}
    sections = []
    for heading, rows in _chosen([row.to_dict() for row in evaluation.per_image]):
        images = [_image(detector, score_case(detector, by_path[row["path"]])[0], row) for row in rows]
        if images:
            sections.append(Section(heading, tuple(images)))
    curve = "ROC curve of all pixels, on a linear and a logarithmic axis"
    return Page(
        title=f"{model['file']} on {about['dataset']['name']}",
        lead=f"{len(evaluation.per_image)} images, scored by the method {model['method']} in their own pixels.",
        facts=_facts(about),
        tables=(*_decision_table(evaluation), _metrics_table(evaluation)),
        figures=(Figure(curve, roc.read_bytes()),) if roc.is_file() else (),
        sections=tuple(sections),
        heat=SCALE,
        footer=f"model version {model['version']}, split {(model['split_sha256'] or 'unknown')[:12]}",
    )


def demo_page(
    detectors: Mapping[str, Detector], methods: Sequence[Mapping[str, Any]], samples: Sequence[Sample], command: str
) -> Page:
    """Methods side by side: one table, and for every flawed image a row of pictures by each method.

    methods: those of demo.json.
    """
    flawed = [sample for sample in samples if sample.label == "defective"]
    columns = (
        *("method", PIXEL_METRICS["auroc"].short, PIXEL_METRICS["au_pro_30"].short, IMAGE_METRICS["auroc"].short),
        *("defective images found", "good images rejected", "minutes of training"),
    )
    figures = ("pixel_auroc", "au_pro_30", "image_auroc")
    rows = tuple(
        (
            row["name"],
            *(number(row[key]) for key in figures),
            *(share_text(row["decision"], name) for name in ("found", "rejected")),
            number(row["minutes"], 1),
        )
        for row in methods
    )
    return Page(
        title="flawmap demo: woven cloth",
        lead="Two autoencoders of one shape, trained on the same good cloth for the same time. One minimises and maps "
        "squared differences (l2), the other structural similarity (SSIM). Neither has seen a flaw.",
        facts=(("command", command),),
        tables=(Table("On cloth that neither has seen", columns, rows),),
        sections=(Section("Flawed images", tuple(_compared(sample, detectors) for sample in flawed)),),
        heat=SCALE,
        footer="Synthetic images, made by flawmap.",
    )


# ------------------------------------------------------------------------------------------------------------- images


def _chosen(rows: Sequence[Row]) -> list[tuple[str, list[Row]]]:
    """Headings and the rows under them: least found, most found, good images that score highest."""
    flawed = sorted((row for row in rows if row.get("overlap") is not None), key=lambda row: float(row["overlap"]))
    good = sorted((row for row in rows if row["label"] == "good"), key=lambda row: -float(row["score"]))
    worst = flawed[: min(WORST, (len(flawed) + 1) // 2)]
    best = flawed[len(worst) :][-BEST:][::-1]
    return [
        ("Least of the flaw found", worst),
        ("Most of the flaw found", best),
        ("Good images that score highest", good[:GOOD]),
    ]


def _image(detector: Detector, case: Case, row: Row) -> PictureRows:
    """One image of an evaluation with what was found in it."""
    notes = [f"{row['kind']}", f"score {row['score']:.4f}" + (f" ({row['verdict']})" if row["verdict"] else "")]
    if row.get("overlap") is not None:
        notes.append(f"{row['overlap']:.0%} of the flaw found")
        notes.append(f"{row['false_pixels']:,} pixels too many")
    pixels = detector.read(case.sample.path).pixels
    bold = max(1, round(max(pixels.shape) / 250))  # outlines that show in a picture of some 300 pixels
    pictures = (
        ("image", picture(pixels)),
        ("found in green, truth in red", overlay(pixels, case.inspection.mask, case.truth, width=bold)),
        *_reconstruction(case),
        ("residual, opened", _heat(detector, case)),
    )
    return PictureRows(str(row["path"]), ", ".join(notes), pictures)


def _compared(sample: Sample, detectors: Mapping[str, Detector]) -> PictureRows:
    """One flawed image with a row of pictures by each method."""
    pictures: list[Captioned] = []
    for name, detector in detectors.items():
        case = score_case(detector, sample)[0]
        assert case.truth is not None  # woven flaws all have masks
        made = (*_reconstruction(case), ("residual", _heat(detector, case)), ("mask", picture(case.inspection.mask)))
        pictures.append(("image", picture(detector.read(sample.path).pixels)))
        pictures += [(f"{name}: {caption}", shown) for caption, shown in made]
        pictures.append(("ground truth", picture(case.truth)))
    return PictureRows(f"{sample.kind}, {sample.path.name}", "", tuple(pictures), count=len(detectors))


def _reconstruction(case: Case) -> tuple[Captioned, ...]:
    """The reconstruction with its caption, where the method has one."""
    found = case.explained.reconstruction
    return () if found is None else (("reconstruction", picture(found)),)


def _heat(detector: Detector, case: Case) -> Levels:
    threshold = detector.artifact.threshold or float(case.inspection.residual.max()) or 1.0
    return heatmap(case.inspection.residual, 0.0, HEAT * threshold)


# ------------------------------------------------------------------------------------------------------------- values


def _facts(about: Mapping[str, Any]) -> tuple[tuple[str, str | Cell], ...]:
    model, data = about["model"], about["dataset"]
    training, residual = model["training"], model["residual"]
    mapped = residual["name"] or f"of the method {model['method']}"
    if mapped == "ssim":
        similarity = residual["ssim"]
        size = similarity["size"]
        mapped += f", {similarity['window']} {size}x{size} window, {similarity['constants']} constants"
    latent = "" if model["latent"] is None else f"d = {model['latent']}, "
    trained = training and f"{training['patches']:,} patches in {training['seconds'] / 60:.1f} minutes"
    if evidence := model["evidence"]:
        names = " and ".join(name for name in evidence["parts"] if name) or model["method"]
        mapped = f"evidence of {names}, smoothed by {', '.join(f'{scale:g}' for scale in evidence['scales'])} pixels"
    facts = (
        ("mapped", mapped),
        ("patches", f"{model['patch']} pixels, {latent}stride {model['stride']}, seed {model['seed']}"),
        ("trained", trained),
        ("threshold", _threshold(model)),
        ("images", ", ".join(f"{amount} {label}" for label, amount in data["images"].items())),
        ("working scale", str(data["scale"])),
        ("region of interest", _region(data["region"])),
    )
    return tuple((name, value) for name, value in facts if value)


def _region(region: Mapping[str, Any]) -> str:
    parts = (f"{name} {', '.join(map(str, v)) if isinstance(v, list) else v}" for name, v in region.items())
    return "; ".join(parts) or "everywhere"


def _threshold(model: Mapping[str, Any]) -> str:
    if model["threshold"] is None:
        return "none"
    what = "evidence" if model["evidence"] else "residuals"
    return f"{model['threshold']:.4g} on {what} opened with a circle of diameter {model['opening']}"


def _decision_table(evaluation: Evaluation) -> tuple[Table, ...]:
    rows = decision_rows(None if evaluation.decision is None else evaluation.decision.to_dict())
    best = evaluation.pixel.values["f1_max"]
    if rows and best is not None:
        rows.append((PIXEL_METRICS["f1_max"].label, f"{best:.{DECIMALS}f}"))
    title = "Decisions at the model's own operating point (95% Clopper-Pearson interval)"
    return (Table(title, ("", "value"), tuple(rows)),) if rows else ()


def _metrics_table(evaluation: Evaluation) -> Table:
    everything, defective = evaluation.pixel.to_dict(), evaluation.pixel_defective_images.to_dict()
    level = everything["intervals"]["level"]
    columns = (f"metric ({level:.0%} interval over images)", "all images that count", "defective images alone")
    rows: list[tuple[str | Cell, ...]] = [
        (metric.label, _with_interval(everything, name), _with_interval(defective, name))
        for name, metric in PIXEL_METRICS.items()
    ]
    image, reason = evaluation.image.values if evaluation.image else {}, evaluation.image_reason or ""
    rows += [(metric.label, number(image.get(name), reason=reason), "") for name, metric in IMAGE_METRICS.items()]
    if evaluation.held_out:
        rows.append((HELD_OUT, percent(evaluation.held_out.false_positive_rate, DECIMALS), ""))
        rows.append(("held-out good pixels", count(evaluation.held_out.good_pixels), ""))
    return Table("Metrics", columns, tuple(rows))


def _with_interval(section: Mapping[str, Any], name: str) -> Cell:
    """A metric of a section of metrics.json with its interval, or why there is none."""
    cell = number(section[name], DECIMALS, reason=str(section["undefined"].get(name, "")))
    ends = section["intervals"][name]
    if ends is None:
        return cell
    low, high = (number(end, DECIMALS).text for end in ends)
    return Cell(f"{cell.text} ({low} to {high})", cell.title)
