"""What the paper says of the systems that it is compared with, checked on our own records of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from paper.claims import ALIKE, PAPER, REACHED, Claim, all_of, evidence_of, printed_areas
from paper.literature import key_of
from paper.literature_table import named
from paper.records import Record, values_of

SLOW = 10  # times the other's time; the paper says "very slow" and gives no number


def literature_claims(records: Sequence[Record]) -> tuple[Claim, ...]:
    """Every sentence, checked on systems scored by their own residual."""
    return tuple(check(records) for check in CHECKS)


def features_reach_their_area(records: Sequence[Record]) -> Claim:
    """Napoletano et al. 2018: "up to 0.974" on NanoTWICE."""
    (printed,) = (one.value for one in printed_areas(PAPER, "nanotwice", "Napoletano et al. 2018"))
    text = f"Pretrained features reach a pixel AUROC of {printed:g} on NanoTWICE, missing it by at most {REACHED:g}"
    found = [record for record in records if (record["set"], _key(record)) == ("nanotwice", "cnn-dictionary")]
    areas = {named(record): value for record in found for value in values_of([record])}
    rows = [f"{name}: {value:.3f}" for name, value in areas.items()]
    return Claim(text, all_of(value >= printed - REACHED for value in areas.values()), evidence_of(rows))


def ssim_is_comparable_without_a_prior(records: Sequence[Record]) -> Claim:
    """SSIM needs no pretrained network and comes close to the system that does."""
    text = f"SSIM comes within {ALIKE:g} of pixel AUROC of the dictionary of pretrained features on NanoTWICE, or above"
    return _ahead(records, "ssim", "cnn-dictionary", text, by=-ALIKE, sets=("nanotwice",))


def searching_is_slow(records: Sequence[Record]) -> Claim:
    """AnoGAN is "very slow", because it searches; a network with an encoder is not."""
    text = f"AnoGAN takes more than {SLOW} times as long for an image as BiGAN"
    seconds = {
        key: {record["set"]: record["system"]["core_seconds_per_image"] for record in records if _key(record) == key}
        for key in ("anogan", "bigan")
    }
    pairs = {name: (slow, seconds["bigan"].get(name)) for name, slow in seconds["anogan"].items()}
    known = {name: (slow, quick) for name, (slow, quick) in pairs.items() if slow and quick}
    rows = [f"{name}: {slow:.0f} s and {quick:.2f} s of one core" for name, (slow, quick) in known.items()]
    return Claim(text, all_of(slow > SLOW * quick for slow, quick in known.values()), evidence_of(rows))


def adversarial_training_is_worse_by_pixels(records: Sequence[Record]) -> Claim:
    """Adversarial training with a score for each pixel may be worse than SSIM."""
    text = f"SSIM is ahead of l1 with an adversarial loss on every set, by more than {ALIKE:g} of pixel AUROC"
    return _ahead(records, "ssim", "l1-adversarial", text, by=ALIKE)


CHECKS: tuple[Callable[[Sequence[Record]], Claim], ...] = (
    features_reach_their_area,
    ssim_is_comparable_without_a_prior,
    searching_is_slow,
    adversarial_training_is_worse_by_pixels,
)


def _ahead(records: Sequence[Record], one: str, other: str, text: str, *, by: float, sets: Sequence[str] = ()) -> Claim:
    """Whether the area of one system exceeds that of another by a difference, on these sets or all."""
    ours, theirs = _areas(records, one), _areas(records, other)
    both = [name for name in ours if name in theirs and (not sets or name in sets)]
    rows = [f"{name}: {ours[name]:.3f} and {theirs[name]:.3f}" for name in both]
    return Claim(text, all_of(ours[name] > theirs[name] + by for name in both), evidence_of(rows))


def _areas(records: Sequence[Record], key: str) -> dict[str, float]:
    """The pixel AUROC of a system by set, of its first seed."""
    found = {record["set"]: values_of([record]) for record in reversed(records) if _key(record) == key}
    return {name: values[0] for name, values in found.items() if values}


def _key(record: Record) -> str:
    return key_of(record["name"], record["set"])
