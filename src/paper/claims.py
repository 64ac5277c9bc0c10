"""What the paper prints, as data with its origin, and what it claims, checked on our own records.

Reference: Bergmann et al. 2019, arXiv:1807.02011.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from statistics import mean
from typing import Any, Literal, NamedTuple

from paper.plan import METHODS, OPTIMUM, TABLE_2, series_of
from paper.records import Record, cell_of, column_runs, curves_of, is_cell, main_runs, values_of


class Claim(NamedTuple):
    """One statement, whether it holds on our values (None: they do not decide it), and these values.

    A claim that does not hold is reported like one that does: nothing is tuned until it does.
    """

    text: str
    holds: bool | None
    evidence: str


MARKS = {"text": "the paper's text", "2nd": "second-hand", "mem": "recalled, unverified"}
"""Where a number of the paper comes from, by its mark."""
VERIFIED = ("text", "2nd")  # only these are compared with ours, or drawn


class Printed(NamedTuple):
    """A number of the paper.

    what: the figure or table it stands in, by the experiment's name. set, method: keys of the plan, or another system's
    own name. quantity: what was measured, with its unit or setting. mark: where we have it from, see MARKS.
    """

    what: str
    set: str
    method: str
    quantity: str
    value: float
    mark: Literal["text", "2nd", "mem"]


def _cells(symbol: str, values: Mapping[int, float]) -> tuple[Printed, ...]:
    return tuple(
        Printed("table2", "nanotwice", "ssim", f"auroc, {symbol} = {value}", found, "mem")
        for value, found in values.items()
    )


PAPER: tuple[Printed, ...] = (
    Printed("figure6", "nanotwice", "l2", "auroc", 0.688, "text"),
    Printed("figure6", "nanotwice", "ssim", "auroc", 0.966, "text"),
    Printed("figure6", "nanotwice", "Napoletano et al. 2018", "auroc, up to", 0.974, "text"),
    Printed("figure6", "grid", "ssim", "auroc, MVTec AD's protocol", 0.94, "2nd"),
    Printed("figure6", "grid", "l2", "auroc, MVTec AD's protocol", 0.90, "2nd"),
    Printed("figure6", "grid", "ssim", "au_pro_30", 0.849, "mem"),
    Printed("figure6", "grid", "l2", "au_pro_30", 0.582, "mem"),
    Printed("figure7", "nanotwice", "ssim", "median overlap at 5 % false positives, more than", 0.91, "text"),
    Printed("figure7", "nanotwice", "Napoletano et al. 2018", "minimal overlap", 0.85, "text"),
    Printed("table2", "nanotwice", "ssim", "auroc, d = 500, K = 11, patch = 128", 0.966, "text"),
    *_cells("d", {50: 0.848, 100: 0.935, 200: 0.961, 1000: 0.962}),
    *_cells("K", {3: 0.889, 7: 0.965, 15: 0.960, 19: 0.952}),
    *_cells("patch", {32: 0.949, 64: 0.959}),
    Printed("timing", "nanotwice", "ssim", "ms a patch, d = 500, Tesla V100", 2.23, "text"),
    Printed("timing", "nanotwice", "ssim", "s an image, stride 30, Tesla V100", 3.61, "text"),
)

# The text says "insensitive", "no better" and "outperforms", and gives no number for any of them: these are ours.
ALIKE = 0.01  # AUROC by which two methods must differ before one counts as better
INSENSITIVE = 0.02  # range of AUROC over the cells of a column
REACHED = 0.005  # AUROC by which the paper's own value may be missed
LARGE_LATENT = 200  # dimensions from which on d is "large enough"
OVERLAP_RATE = 0.05  # false positive rate at which the paper gives its overlap


def printed_areas(paper: Iterable[Printed], set_name: str, method: str) -> list[Printed]:
    """The paper's areas under ROC curves in figure 6, of a set and a method."""
    found = [one for one in paper if (one.what, one.set, one.method) == ("figure6", set_name, method)]
    return [one for one in found if one.quantity.partition(",")[0] == "auroc"]


def printed_cells(paper: Iterable[Printed], axis: int) -> dict[int, Printed]:
    """The paper's areas in one column of table 2, by the value that the quantity names, as "d = 50"."""
    cells = {}
    for one in paper:
        settings = dict(part.split(" = ") for part in one.quantity.split(", ") if " = " in part)
        if one.what == "table2" and TABLE_2[axis].symbol in settings:
            cells[int(settings[TABLE_2[axis].symbol])] = one
    return cells


# ------------------------------------------------------------------------------------------------------ what it claims


def claims(records: Sequence[Record]) -> tuple[Claim, ...]:
    """Every claim of the paper, checked on records scored as the paper scores."""
    return tuple(check(records) for check in CHECKS)


def ssim_leads(records: Sequence[Record]) -> Claim:
    """It "outperforms all other tested architectures significantly"."""
    states: list[bool | None] = []
    rows = []
    for name, areas in _areas(records).items():
        ours = areas.pop("ssim", None)
        others = [method for method in METHODS if method != "ssim"]
        states += [None if ours is None or method not in areas else ours > areas[method] + ALIKE for method in others]
        if ours is not None and areas:
            best = max(areas, key=lambda method: areas[method])
            rows.append(f"{name}: SSIM {ours:.3f}, best of the others {best} {areas[best]:.3f}")
    text = f"SSIM is ahead of l2, VAE and FM on every set, by more than {ALIKE:g} of pixel AUROC"
    return Claim(text, all_of(states), evidence_of(rows))


def vae_is_no_better(records: Sequence[Record]) -> Claim:
    """The VAE "could not improve on the deterministic network"."""
    gains = _gains(records, "vae")
    text = f"The VAE is no better than l2 on any set, by no more than {ALIKE:g} of pixel AUROC"
    return Claim(text, all_of(gain <= ALIKE for gain in gains.values()), evidence_of(_signed("VAE - l2", gains)))


def fm_helps_on_nanotwice_alone(records: Sequence[Record]) -> Claim:
    """Feature matching helps on NanoTWICE and brings no benefit on the fabrics."""
    gains = _gains(records, "fm")
    states: list[bool | None] = [(gain > ALIKE) == (name == "nanotwice") for name, gain in gains.items()]
    if "nanotwice" not in gains or len(gains) == 1:
        states.append(None)
    text = f"FM is better than l2 on NanoTWICE only, by more than {ALIKE:g} of pixel AUROC"
    return Claim(text, all_of(states), evidence_of(_signed("FM - l2", gains)))


def ssim_reaches_the_papers_area(records: Sequence[Record]) -> Claim:
    """The headline value, the optimum of table 2."""
    (printed,) = (one.value for one in printed_areas(PAPER, "nanotwice", "ssim"))
    values = values_of(main_runs(records, "nanotwice", "ssim"))
    text = f"SSIM reaches a pixel AUROC of {printed:g} on NanoTWICE, missing it by at most {REACHED:g}"
    if not values:
        return Claim(text, None, evidence_of([]))
    seeds = f"mean of {len(values)} seeds, {min(values):.3f} to {max(values):.3f}" if len(values) > 1 else "one seed"
    return Claim(text, mean(values) >= printed - REACHED, f"{mean(values):.3f} ({seeds})")


def half_of_the_defects_are_covered(records: Sequence[Record]) -> Claim:
    """Figure 7: "more than half of the defects" with an overlap above 91 % at 5 % false positives."""
    text = "SSIM covers more than half of NanoTWICE's defects by more than 91 % at a false positive rate of 5 %"
    curves = curves_of(main_runs(records, "nanotwice", "ssim"), "overlap")
    medians = [curve["q50"][curve["rates"].index(OVERLAP_RATE)] for curve in curves]
    if not medians:
        return Claim(text, None, evidence_of([]))
    listed = ", ".join(f"{100 * value:.1f} %" for value in medians)
    return Claim(text, mean(medians) > 0.91, f"median overlap {listed}, by seed")


def insensitive(axis: int, name: str) -> Callable[[Sequence[Record]], Claim]:
    """Table 2: "insensitive" to K and to the patch side, and to d once it is large enough."""
    wanted = {value for value in TABLE_2[axis].values if axis or value >= LARGE_LATENT}

    def check(records: Sequence[Record]) -> Claim:
        found = {value: values_of(runs) for value, runs in column_runs(records, axis).items()}
        cells = {value: mean(areas) for value, areas in found.items() if areas and value in wanted}
        text = f"The area depends little on {name}: pixel AUROC on NanoTWICE varies by at most {INSENSITIVE:g}"
        span = max(cells.values(), default=0.0) - min(cells.values(), default=0.0)
        holds = False if span > INSENSITIVE else True if wanted == set(cells) else None
        return Claim(text, holds, evidence_of([f"{value}: {area:.3f}" for value, area in cells.items()]))

    return check


CHECKS: tuple[Callable[[Sequence[Record]], Claim], ...] = (
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

    ours: pixel AUROC by the way of scoring. paper: what it prints for this set and method; None where it prints nothing
    or we could not verify it.
    """
    return [
        {
            **{key: record[key] for key in ("name", "set", "title", "method", "seed")},
            "ours": {name: scoring["metrics"]["auroc"] for name, scoring in record["scorings"].items()},
            **_verified(record),
        }
        for record in records
    ]


def _verified(record: Record) -> dict[str, Any]:
    """The paper's AUROC for a run, of the verified ones."""
    found = printed_areas(PAPER, record["set"], record["method"])
    if is_cell(record):
        found = [printed_cells(PAPER, 0)[OPTIMUM[0]]] if cell_of(record) == OPTIMUM else []
    for one in found:
        if one.mark in VERIFIED:
            return {"paper": one.value, "mark": one.mark}
    return {"paper": None, "mark": None}


def _areas(records: Sequence[Record]) -> dict[str, dict[str, float]]:
    """Mean AUROC over seeds, by set and method."""
    areas: dict[str, dict[str, float]] = {}
    for name in dict.fromkeys(record["set"] for record in records if series_of(record["name"]) == "figures"):
        found = {method: values_of(main_runs(records, name, method)) for method in METHODS}
        areas[name] = {method: mean(values) for method, values in found.items() if values}
    return areas


def _gains(records: Sequence[Record], method: str) -> dict[str, float]:
    """How much more AUROC a method has than l2, by set; sets without either are left out."""
    areas = _areas(records)
    return {name: found[method] - found["l2"] for name, found in areas.items() if {method, "l2"} <= set(found)}


def all_of(states: Iterable[bool | None]) -> bool | None:
    """Whether all hold: False as soon as one does not, None if there is none or one is open."""
    found = list(states)
    if False in found:
        return False
    return None if not found or None in found else True


def _signed(what: str, gains: Mapping[str, float]) -> list[str]:
    return [f"{name}: {what} {gain:+.3f}" for name, gain in gains.items()]


def evidence_of(rows: Sequence[str]) -> str:
    return "; ".join(rows) or "not run"
