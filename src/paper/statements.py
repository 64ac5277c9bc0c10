"""What the paper prints, as data with its origin, and what it found, as checks on our own records.

Marks say where a figure comes from: "text", the paper's own text; "2nd", a secondary source; "mem", recalled and not
verified, which is shown as "recalled, unverified" or left out, never as a fact.

Reference: Bergmann et al. 2019, arXiv:1807.02011.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from statistics import mean
from typing import Any, Literal, NamedTuple

from paper.claims import Claim
from paper.plan import LATENTS, METHODS, OPTIMUM, PATCHES, WINDOWS, series_of

Record = Mapping[str, Any]
"""One training and its figures, see `runs`."""

Mark = Literal["text", "2nd", "mem"]


class Figure(NamedTuple):
    """A number of the paper.

    what: the figure or table that ours stands in. set, method: keys of the plan; "" where it has none, and other
    systems by their own name. quantity: what was measured, with its unit or setting.
    """

    what: str
    set: str
    method: str
    quantity: str
    value: float
    mark: Mark


def _cells(symbol: str, values: Mapping[int, float]) -> tuple[Figure, ...]:
    return tuple(
        Figure("table2", "nanotwice", "ssim", f"auroc, {symbol} = {value}", found, "mem")
        for value, found in values.items()
    )


PAPER: tuple[Figure, ...] = (
    Figure("figure6", "nanotwice", "l2", "auroc", 0.688, "text"),
    Figure("figure6", "nanotwice", "ssim", "auroc", 0.966, "text"),
    Figure("figure6", "nanotwice", "Napoletano et al. 2018", "auroc, up to", 0.974, "text"),
    Figure("figure6", "grid", "ssim", "auroc, MVTec AD's protocol", 0.94, "2nd"),
    Figure("figure6", "grid", "l2", "auroc, MVTec AD's protocol", 0.90, "2nd"),
    Figure("figure6", "grid", "ssim", "au_pro_30", 0.849, "mem"),
    Figure("figure6", "grid", "l2", "au_pro_30", 0.582, "mem"),
    Figure("figure7", "nanotwice", "ssim", "median overlap at 5 % false positives, more than", 0.91, "text"),
    Figure("figure7", "nanotwice", "Napoletano et al. 2018", "minimal overlap", 0.85, "text"),
    Figure("table2", "nanotwice", "ssim", "auroc, d = 500, K = 11, patch = 128", 0.966, "text"),
    *_cells("d", {50: 0.848, 100: 0.935, 200: 0.961, 1000: 0.962}),
    *_cells("K", {3: 0.889, 7: 0.965, 15: 0.960, 19: 0.952}),
    *_cells("patch", {32: 0.949, 64: 0.959}),
    Figure("timing", "nanotwice", "ssim", "ms a patch, d = 500, Tesla V100", 2.23, "text"),
    Figure("timing", "nanotwice", "ssim", "s an image, stride 30, Tesla V100", 3.61, "text"),
)

# How near is near: the text says "insensitive", "no better", "outperforms", and gives no number for any of them.
ALIKE = 0.01  # AUROC by which two methods must differ before one counts as better
INSENSITIVE = 0.02  # range of AUROC over the cells of a column
REACHED = 0.005  # AUROC by which the paper's own figure may be missed
LARGE_LATENT = 200  # dimensions from which on d is "large enough"
OVERLAP_RATE = 0.05  # false positives, at which the paper gives its overlap


# ------------------------------------------------------------------------------------------------------ what it found


def claims(records: Sequence[Record], scoring: str = "faithful") -> tuple[Claim, ...]:
    """Every statement of the paper on the records of one way of scoring; None where they do not reach."""
    return tuple(statement(records, scoring) for statement in STATEMENTS)


def ssim_leads(records: Sequence[Record], scoring: str) -> Claim:
    """It "outperforms all other tested architectures significantly"."""
    states: list[bool | None] = []
    rows = []
    for name, areas in _areas(records, scoring).items():
        ours = areas.pop("ssim", None)
        states += [
            None if ours is None or method not in areas else ours > areas[method] + ALIKE for method in METHODS[:3]
        ]
        if ours is not None and areas:
            best = max(areas, key=lambda method: areas[method])
            rows.append(f"{name}: SSIM {ours:.3f}, best of the others {best} {areas[best]:.3f}")
    text = f"SSIM is ahead of l2, VAE and FM on every set, by more than {ALIKE:g} of pixel AUROC"
    return Claim(text, _all(states), _evidence(rows))


def vae_is_no_better(records: Sequence[Record], scoring: str) -> Claim:
    """The VAE "could not improve on the deterministic network"."""
    gains = _gains(records, scoring, "vae")
    text = f"The VAE is no better than l2 on any set, by no more than {ALIKE:g} of pixel AUROC"
    return Claim(text, _all(gain <= ALIKE for gain in gains.values()), _evidence(_signed("VAE - l2", gains)))


def fm_helps_on_nanotwice_alone(records: Sequence[Record], scoring: str) -> Claim:
    """Feature matching helps on NanoTWICE and brings no benefit on the fabrics."""
    gains = _gains(records, scoring, "fm")
    states: list[bool | None] = [(gain > ALIKE) == (name == "nanotwice") for name, gain in gains.items()]
    if "nanotwice" not in gains or len(gains) == 1:
        states.append(None)
    text = f"FM is better than l2 on NanoTWICE only, by more than {ALIKE:g} of pixel AUROC"
    return Claim(text, _all(states), _evidence(_signed("FM - l2", gains)))


def ssim_reaches_the_papers_area(records: Sequence[Record], scoring: str) -> Claim:
    """The headline figure, the optimum of table 2."""
    (printed,) = (figure.value for figure in PAPER if figure[:4] == ("figure6", "nanotwice", "ssim", "auroc"))
    values = [value for value, _ in _values(records, scoring, "nanotwice", "ssim")]
    text = f"SSIM reaches a pixel AUROC of {printed:g} on NanoTWICE, missing it by at most {REACHED:g}"
    if not values:
        return Claim(text, None, _evidence([]))
    seeds = f"mean of {len(values)} seeds, {min(values):.3f} to {max(values):.3f}" if len(values) > 1 else "one seed"
    return Claim(text, mean(values) >= printed - REACHED, f"{mean(values):.3f} ({seeds})")


def half_of_the_defects_are_covered(records: Sequence[Record], scoring: str) -> Claim:
    """Figure 7: "more than half of the defects" with an overlap above 91 % at 5 % false positives."""
    text = "SSIM covers more than half of NanoTWICE's defects by more than 91 % at a false positive rate of 5 %"
    medians = []
    for _, record in _values(records, scoring, "nanotwice", "ssim"):
        overlap = record["scorings"][scoring]["overlap"]
        if overlap is not None:
            medians.append(overlap["q50"][overlap["rates"].index(OVERLAP_RATE)])
    if not medians:
        return Claim(text, None, _evidence([]))
    listed = ", ".join(f"{100 * value:.1f} %" for value in medians)
    return Claim(text, mean(medians) > 0.91, f"median overlap {listed}, by seed")


def insensitive(axis: int, name: str) -> Callable[[Sequence[Record], str], Claim]:
    """Table 2: "insensitive" to K and to the patch side, and to d once it is large enough."""

    def statement(records: Sequence[Record], scoring: str) -> Claim:
        cells = {}
        for record in records:
            cell, area = _cell(record), record["scorings"][scoring]["metrics"]["auroc"]
            alike = all(cell[place] == OPTIMUM[place] for place in range(3) if place != axis)
            if is_cell(record) and alike and area is not None and (axis or cell[0] >= LARGE_LATENT):
                cells[cell[axis]] = area
        wanted = TABLE_2_CELLS[axis]
        text = f"The area depends little on {name}: pixel AUROC on NanoTWICE varies by at most {INSENSITIVE:g}"
        spread = max(cells.values(), default=0.0) - min(cells.values(), default=0.0)
        holds = False if spread > INSENSITIVE else True if set(wanted) <= set(cells) else None
        rows = [f"{value}: {cells[value]:.3f}" for value in sorted(cells)]
        return Claim(text, holds, _evidence(rows))

    return statement


TABLE_2_CELLS = (tuple(value for value in LATENTS if value >= LARGE_LATENT), WINDOWS, PATCHES)
STATEMENTS: tuple[Callable[[Sequence[Record], str], Claim], ...] = (
    ssim_leads,
    vae_is_no_better,
    fm_helps_on_nanotwice_alone,
    ssim_reaches_the_papers_area,
    half_of_the_defects_are_covered,
    insensitive(1, "the side K of the SSIM window"),
    insensitive(2, "the side of the patches"),
    insensitive(0, f"the latent dimensions d from {LARGE_LATENT} on"),
)


def comparison(records: Sequence[Record]) -> list[dict[str, Any]]:
    """Ours beside the paper's, a row for each run: {"name", "title", "method", "seed", "ours", "paper", "mark"}.

    ours: pixel AUROC by the way of scoring. paper: what it prints for this set and method, None where nothing or
    nothing verified.
    """
    return [
        {
            **{key: record[key] for key in ("name", "set", "title", "method", "seed")},
            "ours": {name: scoring["metrics"]["auroc"] for name, scoring in record["scorings"].items()},
            **_printed(record),
        }
        for record in records
    ]


def is_cell(record: Record) -> bool:
    """Whether a record is a cell of table 2, which is trained for a shorter time than the runs of the figures."""
    return series_of(record["name"]) == "table2"


def of_the_figures(record: Record) -> bool:
    """Whether a record is of one of the four methods as they are: neither a cell of table 2 nor our own recipe."""
    return series_of(record["name"]) == "figures"


# --------------------------------------------------------------------------------------------------------- the figures


def _printed(record: Record) -> dict[str, Any]:
    """The paper's AUROC for a run, of the verified ones."""
    wanted = "auroc, d = 500, K = 11, patch = 128" if is_cell(record) else "auroc"
    for figure in PAPER:
        named = figure.quantity == wanted or (not is_cell(record) and figure.quantity.startswith("auroc, MVTec"))
        same = (figure.set, figure.method) == (record["set"], record["method"])
        if same and named and figure.mark != "mem" and (not is_cell(record) or _cell(record) == OPTIMUM):
            return {"paper": figure.value, "mark": figure.mark}
    return {"paper": None, "mark": None}


def _cell(record: Record) -> tuple[int, int, int]:
    settings = record["settings"]
    return settings["method"]["latent"], settings["residual"]["ssim"]["size"], settings["model"]["patch"]


def _values(records: Iterable[Record], scoring: str, dataset: str, method: str) -> list[tuple[float, Record]]:
    """The AUROC of every run of a set and method for the figures, where it is defined."""
    chosen = [record for record in records if (record["set"], record["method"]) == (dataset, method)]
    found = [(record["scorings"][scoring]["metrics"]["auroc"], record) for record in chosen if of_the_figures(record)]
    return [(area, record) for area, record in found if area is not None]


def _areas(records: Sequence[Record], scoring: str) -> dict[str, dict[str, float]]:
    """Mean AUROC over seeds, by set and method."""
    names = dict.fromkeys(record["set"] for record in records if of_the_figures(record))
    found = {name: {method: _values(records, scoring, name, method) for method in METHODS} for name in names}
    return {
        name: {method: mean(area for area, _ in values) for method, values in by_method.items() if values}
        for name, by_method in found.items()
    }


def _gains(records: Sequence[Record], scoring: str, method: str) -> dict[str, float]:
    """How much more AUROC a method has than l2, by set; sets without either are left out."""
    areas = _areas(records, scoring)
    return {name: found[method] - found["l2"] for name, found in areas.items() if {method, "l2"} <= set(found)}


def _all(states: Iterable[bool | None]) -> bool | None:
    """Whether all hold: False as soon as one does not, None if there is none or one is open."""
    found = list(states)
    if False in found:
        return False
    return None if not found or None in found else True


def _signed(what: str, gains: Mapping[str, float]) -> list[str]:
    return [f"{name}: {what} {gain:+.3f}" for name, gain in gains.items()]


def _evidence(rows: Sequence[str]) -> str:
    return "; ".join(rows) or "not run"
