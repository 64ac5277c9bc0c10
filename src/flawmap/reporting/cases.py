"""What the pages of `evaluate` and `demo` show: which cases, pictures and figures. How it looks is `reports`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from flawmap.data.layouts import Sample
from flawmap.evaluation.evaluate import Case, relative_name, score_case
from flawmap.evaluation.results import Evaluation
from flawmap.reporting.labels import HELD_OUT, IMAGE_METRICS, PIXEL_METRICS
from flawmap.reporting.pages import Case as CaseRow
from flawmap.reporting.pages import Cell, Figure, Page, Table, count, number, percent
from flawmap.reporting.pictures import heatmap, overlay, picture
from flawmap.scoring.detector import Detector

WORST, BEST, GOOD = 6, 4, 3  # cases shown
HEAT = 2.5  # the heat map's scale ends at so many thresholds: the threshold is a fixed, visible colour


def evaluation_page(
    detector: Detector,
    evaluation: Evaluation,
    samples: Sequence[Sample],
    *,
    about: Mapping[str, Any],
    root: Path,
    roc: Path,
) -> Page:
    """Metrics, ROC curve, the model's card, and its worst and best cases, scored once more for their pictures."""
    model = about["model"]
    by_path = {relative_name(sample.path, root): sample for sample in samples}
    sections = []
    for heading, rows in _chosen([row.to_dict() for row in evaluation.per_image]):
        cases = [_case_row(detector, score_case(detector, by_path[row["path"]])[0], row) for row in rows]
        if cases:
            sections.append((heading, tuple(cases)))
    figures = (
        (Figure("ROC curve of all pixels, on a linear and a logarithmic axis", roc.read_bytes()),)
        if roc.is_file()
        else ()
    )
    return Page(
        title=f"{model['file']} on {about['dataset']['name']}",
        lead=f"{len(evaluation.per_image)} images, scored by the method {model['method']} in their own pixels.",
        facts=_facts(about),
        tables=(_metrics_table(evaluation),),
        figures=figures,
        sections=tuple(sections),
        heat=("0", f"{HEAT:g} thresholds"),
        footer=f"model version {model['version']}, split {(model['split_sha256'] or 'unknown')[:12]}",
    )


def demo_page(
    results: Mapping[str, tuple[Detector, Evaluation, float]], samples: Sequence[Sample], root: Path, command: str
) -> Page:
    """Methods side by side: one table, and for every flawed image a row of pictures by each method."""
    cases = []
    for sample in samples:
        if sample.label != "defective":
            continue
        pictures: list[tuple[str, Any]] = []
        for name, (detector, _, _) in results.items():
            case = score_case(detector, sample)[0]
            pictures.append(("image", picture(detector.read(sample.path).pixels)))
            pictures += [(f"{name}: {what}", shown) for what, shown in _method_pictures(detector, case)]
            assert case.truth is not None  # woven flaws all have masks
            pictures.append(("ground truth", picture(case.truth)))
        cases.append(CaseRow(f"{sample.kind}, {sample.path.name}", "", tuple(pictures), rows=len(results)))
    rows = [
        (
            name,
            number(evaluation.pixel.values["auroc"]),
            number(evaluation.pixel.values["au_pro_30"]),
            number(evaluation.image.values["auroc"] if evaluation.image else None),
            number(minutes, 1),
        )
        for name, (_, evaluation, minutes) in results.items()
    ]
    columns = ("method", "pixel AUROC", "AU-PRO at 30 %", "image AUROC", "minutes of training")
    return Page(
        title="flawmap demo: woven cloth",
        lead="Two autoencoders of one shape, trained on the same good cloth for the same time. One minimises and maps "
        "squared differences (l2), the other structural similarity (SSIM). Neither has seen a flaw.",
        facts=(("command", command),),
        tables=(Table("On cloth that neither has seen", columns, tuple(rows)),),
        figures=(),
        sections=(("Flawed images", tuple(cases)),),
        heat=("0", f"{HEAT:g} thresholds"),
        footer="Synthetic images, made by flawmap.",
    )


def _chosen(rows: Sequence[Mapping[str, Any]]) -> list[tuple[str, list[Mapping[str, Any]]]]:
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


def _case_row(detector: Detector, case: Case, row: Mapping[str, Any]) -> CaseRow:
    said = [f"{row['kind']}", f"score {row['score']:.4f}" + (f" ({row['verdict']})" if row["verdict"] else "")]
    if row.get("overlap") is not None:
        said.append(f"{row['overlap']:.0%} of the flaw found")
        said.append(f"{row['false_pixels']:,} pixels too many")
    pixels = detector.read(case.sample.path).pixels
    shown = [
        ("image", picture(pixels)),
        ("found in green, truth in red", overlay(pixels, case.inspection.mask, case.truth, width=_bold(pixels.shape))),
        *_reconstruction(case),
        ("residual, opened", _heat(detector, case)),
    ]
    return CaseRow(str(row["path"]), ", ".join(said), tuple(shown))


def _method_pictures(detector: Detector, case: Case) -> list[tuple[str, Any]]:
    return [
        *_reconstruction(case),
        ("residual", _heat(detector, case)),
        ("mask", picture(case.inspection.mask)),
    ]


def _reconstruction(case: Case) -> list[tuple[str, Any]]:
    """The reconstruction with its caption, where the method has one."""
    found = case.explained.reconstruction
    return [] if found is None else [("reconstruction", picture(found))]


def _bold(shape: tuple[int, ...]) -> int:
    """Width of outlines that show in a picture of some 300 pixels."""
    return max(1, round(max(shape) / 250))


def _heat(detector: Detector, case: Case) -> Any:
    threshold = detector.artifact.threshold or float(case.inspection.residual.max()) or 1.0
    return heatmap(case.inspection.residual, 0.0, HEAT * threshold)


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
    facts = (
        ("residual", mapped),
        ("patches", f"{model['patch']} pixels, {latent}stride {model['stride']}, seed {model['seed']}"),
        ("trained", trained),
        ("threshold", _threshold(model)),
        ("images", ", ".join(f"{count} {label}" for label, count in data["images"].items())),
        ("working scale", str(data["scale"])),
        ("region of interest", _region(data["region"])),
    )
    return tuple((name, value) for name, value in facts if value)


def _region(region: Mapping[str, Any]) -> str:
    said = (
        f"{name} {', '.join(map(str, value)) if isinstance(value, list) else value}" for name, value in region.items()
    )
    return "; ".join(said) or "everywhere"


def _metrics_table(evaluation: Evaluation) -> Table:
    everything, defective = evaluation.pixel.to_dict(), evaluation.pixel_defective_images.to_dict()
    level = everything["intervals"]["level"]
    columns = (f"metric ({level:.0%} interval over images)", "all images that count", "defective images alone")
    rows: list[tuple[str | Cell, ...]] = [
        (label, _figure(everything, name), _figure(defective, name)) for name, label in PIXEL_METRICS.items()
    ]
    image, reason = evaluation.image.values if evaluation.image else {}, evaluation.image_reason or ""
    for name, label in IMAGE_METRICS.items():
        rows.append((label, number(image.get(name), reason=reason), ""))
    if evaluation.held_out:
        rate = percent(evaluation.held_out.false_positive_rate, 4)
        rows.append((HELD_OUT, rate, ""))
        rows.append(("held-out good pixels", count(evaluation.held_out.good_pixels), ""))
    return Table("Metrics", columns, tuple(rows))


def _figure(figures: Mapping[str, Any], name: str) -> Cell:
    cell = number(figures[name], 4, reason=str(figures["undefined"].get(name, "")))
    ends = figures["intervals"][name]
    if ends is None:
        return cell
    low, high = (number(end, 4).text for end in ends)
    return Cell(f"{cell.text} ({low} to {high})", cell.title)


def _threshold(model: Mapping[str, Any]) -> str:
    if model["threshold"] is None:
        return "none"
    return f"{model['threshold']:.4g} on residuals opened with a circle of diameter {model['opening']}"
