"""The results of commands as tables for people."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from flawmap.commands.console import print_line
from flawmap.reporting.labels import HELD_OUT, IMAGE_METRICS, PIXEL_METRICS, decision_rows, rule_text, share_text

SHOWN = 12  # rows of a list before it is cut


def show_counts(console: Console, report: dict[str, Any]) -> None:
    for place, count in report["images"].items():
        print_line(console, f"{Path(report['folder']) / place}: {count} image{'s' if count > 1 else ''}")


def show_training(console: Console, report: dict[str, Any]) -> None:
    training, data = report["provenance"].get("training", {}), report["provenance"]["data"]
    left_out = f", {data['skipped']} left out" if data["skipped"] else ""
    speed = f"{training['patches_per_second']:.0f} patches/s" if training else None
    facts(
        console,
        [
            ("model", report["model"]),
            ("trained", _trained(training)),
            ("speed", speed),
            ("loss", _loss(training)),
            ("threshold", _threshold(report)),
            ("images", f"{data['images']} good images or areas{left_out}, split {data['split_sha256'][:12]}"),
            ("chosen", _chosen(report["provenance"])),
            ("quicker", _quicker(report["provenance"])),
        ],
    )
    show_check(console, report["check"])


def _chosen(provenance: dict[str, Any]) -> str | None:
    """The candidate that was trained, among how many; None where there was no choice."""
    choice = provenance.get("choice", {})
    return f"{choice['chosen']}, of {len(choice['trials'])} candidates" if choice.get("trials") else None


def _quicker(provenance: dict[str, Any]) -> str | None:
    """The quicker way to score that was kept, and the mean over pasted defects by each; None: there was no choice."""
    found = provenance.get("choice", {}).get("quicker")
    if not found:
        return None
    means = ", ".join(f"{row['mean']:.4f} by {way or 'the settings'}" for way, row in found["worth"].items())
    return f"{found['kept'] or 'none costs little'}; pasted defects {means}"


def show_check(console: Console, check: dict[str, Any] | None) -> None:
    """The self-check: the smallest size found by kind and contrast, and the changes that are tolerated."""
    if check is None:
        return
    contrasts = list(dict.fromkeys(row["contrast"] for row in check["sizes"]))
    table = table_of("smallest size found at 90 %", *(f">contrast {contrast:.0%}" for contrast in contrasts))
    kinds = dict.fromkeys(row["kind"] for row in check["sizes"])
    for kind in kinds:
        cells = [_smallest(row) for row in check["sizes"] if row["kind"] == kind]
        table.add_row(kind.replace("_", " "), *cells)
    console.print(table)
    table = table_of("tolerated", "up to", "beyond")
    for row in check["tolerance"]:
        steps = list(row["rejected"])
        place = steps.index(row["last"]) + 1 if row["last"] else 0
        beyond = "not tried" if place == len(steps) else _broken(row, steps[place])
        table.add_row(row["change"], row["last"] or "nothing", beyond)
    console.print(table)
    if check["warning"]:
        print_line(console, check["warning"], style="yellow")


def _smallest(row: dict[str, Any]) -> str:
    if row["smallest"]:
        return f"{row['smallest']} pixels"
    return f"over {max(map(int, row['rates']))} pixels" if row["rates"] else ""


def _broken(row: dict[str, Any], step: str) -> str:
    (rejected, good), (found, flawed) = row["rejected"][step], row["found"][step]
    hits = f", {found} of {flawed} defects found" if flawed else ""
    return f"{step}: {rejected} of {good} good parts rejected{hits}"


def show_inspections(console: Console, report: dict[str, Any]) -> None:
    rows = report["images"]
    table = table_of("image", ">score", "verdict", ">regions", ">pixels")
    for row in rows[: 4 * SHOWN]:
        score = "" if row["score"] is None else f"{row['score']:.4f}"
        table.add_row(_image(row), score, row["verdict"], str(row["regions"]), str(row["flawed_pixels"]))
    console.print(table)
    if len(rows) > 4 * SHOWN:
        print_line(console, f"... and {len(rows) - 4 * SHOWN} more, all in inspections.jsonl")
    flawed = sum(row["verdict"] == "flawed" for row in rows)
    unreadable = [row for row in rows if row["error"] is not None]
    tail = f", {len(unreadable)} unreadable" if unreadable else ""
    print_line(console, f"{_images(rows)}: {flawed} flawed{tail}; written to {report['folder']}")
    _show_notes(console, rows)
    for row in unreadable[:SHOWN]:
        named = row["error"] if row["path"] in row["error"] else f"{_image(row)}: {row['error']}"
        print_line(console, named, style="red")


def _show_notes(console: Console, rows: list[dict[str, Any]]) -> None:
    """What was noted about image files, each sentence once."""
    noted: dict[str, list[str]] = {}
    for row in rows:
        for note in row["notes"]:
            noted.setdefault(note, []).append(_image(row))
    for note, images in list(noted.items())[:SHOWN]:
        print_line(console, f"{images[0]}: {note}" if len(images) == 1 else f"{len(images)} images: {note}")
    if len(noted) > SHOWN:
        print_line(console, f"... and {len(noted) - SHOWN} more notes, all in inspections.jsonl")


def _image(row: dict[str, Any]) -> str:
    return row["path"] if row["page"] is None else f"{row['path']}, page {row['page']}"


def show_evaluation(console: Console, report: dict[str, Any]) -> None:
    pixel, image = report["pixel"], report["image"]
    table = table_of("metric", ">value")
    for label, value in decision_rows(report["decision"]):
        table.add_row(label, value)
    for name, metric in PIXEL_METRICS.items():
        table.add_row(metric.label, _number(pixel[name], pixel["undefined"].get(name)))
        if pixel["intervals"][name] is not None:
            low, high = (_number(end) for end in pixel["intervals"][name])
            table.add_row(f"  {pixel['intervals']['level']:.0%} interval over images", f"{low} to {high}")
    for name, metric in IMAGE_METRICS.items():
        table.add_row(metric.label, _number(image[name]) if image else f"none: {report['image_reason']}")
    if report["held_out"]:
        table.add_row(HELD_OUT, f"{report['held_out']['false_positive_rate']:.2e}")
    console.print(table)
    for problem in (*report["unreadable"][:SHOWN], *report["notes"][:SHOWN]):
        print_line(console, f"{problem['path']}: {problem['problem']}")
    outside = [row["path"] for row in report["per_image"] if row["label"] == "outside"]
    if outside:
        print_line(
            console, f"counted as neither good nor defective, flaws all outside the region: {', '.join(outside)}"
        )
    lost = f", {len(report['unreadable'])} not counted" if report["unreadable"] else ""
    print_line(console, f"{_images(report['per_image'])}{lost}; written to {report['folder']}")


def show_data(console: Console, report: dict[str, Any]) -> None:
    print_line(console, f"{report['root']}: {report['layout']} layout")
    table = table_of("split", "label", "kind", ">images")
    for row in report["counts"]:
        table.add_row(row["split"], row["label"], row["kind"], str(row["images"]))
    console.print(table)
    masks = {state: n if isinstance(n, int) else len(n) for state, n in report["masks"].items() if n}
    counted = {
        "sizes": {f"{row['width']} x {row['height']}": row["images"] for row in report["sizes"]},
        "modes": report["modes"],
        "masks": masks or {"none": 0},
        "values of a mask": {f"{n} different": count for n, count in report["mask_values"].items()},
        "groups": report["groups"],
    }
    facts(console, [(name, _counts(counts)) for name, counts in counted.items() if counts])
    for sentence in report["facts"]:
        print_line(console, sentence)
    for title, entries in (
        ("unlike the others", [f"{entry['path']}: {entry['reason']}" for entry in report["outliers"]]),
        ("masks missing", report["masks"].get("missing", [])),
        ("masks without a flaw", report["masks"].get("empty", [])),
        ("masks of another size", report["masks"].get("wrong size", [])),
        ("flaws all outside the region: neither good nor defective", report["outside"]),
        ("the same content", [", ".join(group) for group in report["duplicates"]]),
        ("problems", [f"{entry['path']}: {entry['problem']}" for entry in report["problems"]]),
        ("ignored", [f"{entry['path']}: {entry['reason']}" for entry in report["ignored"]]),
    ):
        if entries:
            _list(console, title, entries)


def show_info(console: Console, report: dict[str, Any]) -> None:
    config, made = report["config"], report["provenance"]
    data, training, features = made.get("data"), made.get("training", {}), made.get("features")
    latent = f", d = {config['method']['latent']}" if "latent" in config["method"] else ""
    where = data and f"{data['images']} images or areas ({data['layout']}), split {data['split_sha256'][:12]}"
    facts(
        console,
        [
            ("file", report["file"]),
            ("version", report["version"]),
            ("format", str(report["format"])),
            ("method", f"{config['method']['name']}, residual {config['residual'].get('name') or 'of the method'}"),
            ("patches", f"{config['model']['patch']} pixels, {config['model']['channels']} channel(s){latent}"),
            ("scoring", _scoring(config, report["border"])),
            ("threshold", _threshold(report)),
            ("trained", _trained(training)),
            ("loss", _loss(training)),
            ("data", where or "unknown"),
            ("features", features and f"{features['network']}, SHA-256 {features['sha256'][:12]}"),
            ("seed", str(config["training"]["seed"])),
            ("created", made.get("created", "unknown")),
            (
                "versions",
                ", ".join(f"{name} {number}" for name, number in made.get("versions", {}).items()) or "unknown",
            ),
            ("chosen", _chosen(made)),
            ("quicker", _quicker(made)),
            ("runs here", _runs_here(report["here"])),
        ],
    )
    _show_variants(console, report["here"], report["variants"])
    show_check(console, report["check"])


def _runs_here(here: dict[str, Any]) -> str:
    """The engine and precision of this machine, and since when it is known to be the fastest."""
    known = f"measured {here['measured']}" if here["measured"] else "the first inspection measures"
    return f"{here['engine']}, {here['precision']}" + (f" ({known})" if len(here["variants"]) > 1 else "")


def _show_variants(console: Console, here: dict[str, Any], record: dict[str, Any] | None) -> None:
    """What was compared with the calibration, and the times of those that this machine may take."""
    if record is None:
        return
    times = here["milliseconds"] or {}
    shown = record["good"] + record["flawed"]
    table = table_of("engine and precision", f">verdicts changed, of {shown}", ">map differs", ">ms here, one core")
    rows = [{"engine": "torch", "precision": record["reference"], "changed": 0, "largest": 0.0}, *record["compared"]]
    for row in rows:
        name = f"{row['engine']} {row['precision']}"
        taken = times.get(name)
        differs = f"{row['largest']:.2g} of the threshold" if row["largest"] else "calibrated with it"
        table.add_row(name, str(row["changed"]), differs, "" if taken is None else f"{taken:.1f}")
    console.print(table)


def _trained(training: dict[str, Any]) -> str | None:
    """How long a training was; None for a method without steps."""
    if not training:
        return None
    return f"{training['steps']} steps, {training['patches']:,} patches, {training['seconds'] / 60:.1f} min"


def _loss(training: dict[str, Any]) -> str | None:
    if not training:
        return None
    known = f" (a constant reconstruction: {training['constant_loss']:.4f})" if "constant_loss" in training else ""
    return f"{training['loss']:.4f}{known}"


def show_calibration(console: Console, report: dict[str, Any]) -> None:
    print_line(console, f"threshold  {_threshold(report)}")
    print_line(console, f"written to {report['model']}")


def show_drift(console: Console, report: dict[str, Any]) -> None:
    alarm = "none" if report["alarm"] is None else f"at image {report['alarm']}: {_alarming(report)}"
    moved = ", ".join(f"{name} {spreads:+.1f}" for name, spreads in report["moved"].items())
    higher = f"{report['higher']:.0%} of recent images score above a calibrated one (50 %: no difference)"
    facts(
        console,
        [
            ("images", f"{report['recent']} recent, {report['calibrated']} calibrated"),
            ("scores", f"{higher}, p = {report['test']:.3g} (Mann-Whitney)"),
            ("alarm", alarm),
            ("moved", f"{moved} (spreads of good images)" if moved else None),
            ("looks like", report["looks_like"]),
        ],
    )
    for problem in report["unreadable"][:SHOWN]:
        print_line(console, f"{problem['path']}: {problem['problem']}", style="red")
    print_line(console, f"look at {Path(report['folder']) / 'monitor.png'}")


def _alarming(report: dict[str, Any]) -> str:
    return Path(report["images"][report["alarm"] - 1]["path"]).name


def show_points(console: Console, report: dict[str, Any]) -> None:
    table = table_of("", "operating point", ">threshold", ">mask", ">area", "zone", "found")
    for name, point in report["points"].items():
        mask = "" if point["mask"] is None else f"{point['mask']:.4g}"
        mark = "*" if name == report["active"] else ""
        zone = "" if point["zone"] is None else f"{point['zone']['pixels']:,} pixels"
        table.add_row(
            mark, name, f"{point['threshold']:.6g}", mask, str(point["area"]), zone, rule_text(point["found"])
        )
    console.print(table)


def _threshold(report: dict[str, Any]) -> str:
    point = report["points"].get(report["active"])
    if point is None:
        return "none"
    name = "" if report["active"] == "default" else f" ({report['active']})"
    return f"{point['threshold']:.6g}{name}  {rule_text(point['found'])}"


def _scoring(config: dict[str, Any], border: list[float] | None) -> str:
    """How an image is scored, in a line."""
    said = [f"stride {config['tiling']['stride']}", f"opening {config['threshold']['opening']}"]
    if smoothing := config["residual"].get("smoothing"):
        said.append(f"smoothed by {smoothing:g} pixels")
    if border is not None:
        said.append(f"border correction (up to {max(border):.1f} times the interior)")
    return ", ".join(said)


def show_weights(console: Console, report: dict[str, Any]) -> None:
    if report["fetched"] is not None:
        print_line(console, report["fetched"])
        return
    table = table_of("network", "state", "file")
    for row in report["weights"]:
        table.add_row(row["network"], row["state"], row["file"].removeprefix(report["folder"])[1:])
    console.print(table)
    print_line(console, f"in {report['folder']}")


def show_demo(console: Console, report: dict[str, Any]) -> None:
    pixel, image = PIXEL_METRICS["auroc"].short, IMAGE_METRICS["auroc"].short
    overlap = PIXEL_METRICS["au_pro_30"].short
    table = table_of("method", f">{pixel}", f">{overlap}", f">{image}", ">found", ">rejected", ">minutes")
    for row in report["methods"]:
        figures = (row["pixel_auroc"], row["au_pro_30"], row["image_auroc"])
        shares = (share_text(row["decision"], name) for name in ("found", "rejected"))
        table.add_row(row["name"], *(_number(figure) for figure in figures), *shares, f"{row['minutes']:.1f}")
    console.print(table)
    print_line(console, f"look at {report['page']}")


def show_plan(console: Console, report: dict[str, Any]) -> None:
    table = table_of("state", "training", "data set", "method", ">seed", "budget")
    for row in report["plan"]:
        budget = ", ".join(f"{value:g} {name}" for name, value in row["budget"].items())
        table.add_row(row["state"], row["name"], row["title"], row["method"], str(row["seed"]), budget)
    console.print(table)


def show_reproduction(console: Console, report: dict[str, Any]) -> None:
    ways = list(dict.fromkeys(way for row in report["trainings"] for way in row["ours"]))
    table = table_of("training", "data set", *(f">AUROC {way}" for way in ways), ">paper")
    for row in report["trainings"]:
        origin = "" if row["mark"] == "text" else " (second-hand)"
        theirs = "" if row["paper"] is None else f"{row['paper']:.3f}{origin}"
        table.add_row(row["name"], row["title"], *(_number(row["ours"].get(way)) for way in ways), theirs)
    if report["trainings"]:
        console.print(table)
    for claim in report["claims"]:
        verdict = {True: "holds", False: "does not hold", None: "open"}[claim["holds"]]
        print_line(console, f"{verdict}: {claim['text']} ({claim['evidence']})")
    if report["timing"] is not None:
        timed = report["timing"]
        patch, image = timed["ms_per_patch"]["1"], timed["image"]["seconds"]["whole"]
        print_line(console, f"{patch:.2f} ms a patch (paper, Tesla V100: 2.23), {image:.2f} s an image (3.61)")
    for failure in report["failed"]:
        print_line(console, f"{failure['name']} failed: {failure['error']}", style="red")
    print_line(console, f"look at {report['page']}")


def _number(value: float | None, reason: str | None = None) -> str:
    return f"{value:.4f}" if value is not None else f"none: {reason}" if reason else "none"


def _images(rows: list[Any]) -> str:
    return f"{len(rows)} image{'' if len(rows) == 1 else 's'}"


def _counts(counts: dict[str, int]) -> str:
    entries = [f"{name}: {count}" if count else name for name, count in counts.items()]
    more = f", ... and {len(entries) - SHOWN} more" if len(entries) > SHOWN else ""
    return ", ".join(entries[:SHOWN]) + more


def _list(console: Console, title: str, entries: list[str]) -> None:
    print_line(console, f"{title} ({len(entries)}):")
    for entry in entries[:SHOWN]:
        print_line(console, f"  {entry}")
    if len(entries) > SHOWN:
        print_line(console, f"  ... and {len(entries) - SHOWN} more (--json lists all)")


def facts(console: Console, facts: list[tuple[str, str | None]]) -> None:
    """Names and values; those without a value are left out."""
    table = Table.grid(padding=(0, 2))
    for name, value in facts:
        if value is not None:
            table.add_row(name, value)
    console.print(table)


def table_of(*columns: str) -> Table:
    """Columns by name; a leading > sets one flush right."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in columns:
        table.add_column(name.removeprefix(">"), justify="right" if name.startswith(">") else "left", overflow="fold")
    return table
