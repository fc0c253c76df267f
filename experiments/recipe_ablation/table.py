"""What a change is worth: its mean less that of the recipe, with an interval, as a table and in words.

In accuracy (TSTR) and in FID: a short training moves the images before it moves a classifier trained on them.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from scipy.stats import ttest_ind

from experiments.results import origin_text

Record = Mapping[str, Any]
BASE = "recipe"
TSTR, PROTOTYPES, FID = "tstr_cnn", "prototype_accuracy", "fid_lenet84"


@dataclass(frozen=True, slots=True, kw_only=True)
class Effect:
    """What a change adds to a figure; the 95 % interval of Welch's t, where both were repeated."""

    mean: float
    low: float | None = None
    high: float | None = None

    @property
    def clear(self) -> bool:
        """Whether the interval leaves out zero."""
        return self.low is not None and self.high is not None and (self.low > 0 or self.high < 0)


def variants(records: Sequence[Record]) -> list[str]:
    """Return the variants in the order of the grid."""
    return list(dict.fromkeys(str(record["variant"]) for record in records))


def epsilons(records: Sequence[Record]) -> list[float]:
    """Return the ε, the largest first."""
    return sorted({float(record["epsilon"]) for record in records}, reverse=True)


def values(records: Sequence[Record], variant: str, epsilon: float, key: str) -> list[float]:
    """Return a figure of every repetition; a key may be the beginning of a name."""
    same = [r for r in records if r["variant"] == variant and float(r["epsilon"]) == epsilon]
    return [float(r[name]) for r in same for name in r if name == key or name.startswith(f"{key}_")]


def effect(records: Sequence[Record], variant: str, epsilon: float, key: str = TSTR) -> Effect | None:
    """Return what the change does to TSTR, in points, or to the FID; None where either was not run."""
    unit = 100 if key == TSTR else 1
    changed = [unit * value for value in values(records, variant, epsilon, key)]
    base = [unit * value for value in values(records, BASE, epsilon, key)]
    if not changed or not base:
        return None
    mean = statistics.fmean(changed) - statistics.fmean(base)
    if min(len(changed), len(base)) < 2:
        return Effect(mean=mean)
    between = ttest_ind(changed, base, equal_var=False).confidence_interval(0.95)
    return Effect(mean=mean, low=float(between.low), high=float(between.high))


def by_seed(records: Sequence[Record], variant: str, epsilon: float, key: str) -> list[float]:
    """Return the change's figure less the recipe's, seed by seed: most of them share the warm-up."""
    seeds = sorted({int(record["seed"]) for record in records})
    pairs = [
        [values([r for r in records if r["seed"] == seed], name, epsilon, key) for name in (variant, BASE)]
        for seed in seeds
    ]
    return [changed[0] - base[0] for changed, base in pairs if changed and base]


def finding(records: Sequence[Record]) -> str:
    """Name, for each ε, the changes whose interval leaves out zero, in accuracy and in FID."""
    sentences = []
    for epsilon in epsilons(records):
        if len(values(records, BASE, epsilon, TSTR)) < 2:
            sentences.append(f"At ε = {epsilon:g}, one run of each, which tells nothing from chance.")
            continue
        parts = []
        for key, words, sign in ((TSTR, "more accurate", 1), (FID, "of lower FID", -1)):
            found = {v: e for v in variants(records) if v != BASE and (e := effect(records, v, epsilon, key))}
            better = [f"{v} ({e.mean:+.1f})" for v, e in found.items() if e.clear and sign * e.mean > 0]
            worse = [f"{v} ({e.mean:+.1f})" for v, e in found.items() if e.clear and sign * e.mean < 0]
            parts.append(
                f"{words} than the recipe {', '.join(better) or 'none'}, the opposite "
                f"{', '.join(worse) or 'none'}"
            )
        n = sum(effect(records, v, epsilon) is not None for v in variants(records) if v != BASE)
        sentences.append(f"At ε = {epsilon:g}, {n} changes: {'; '.join(parts)}.")
    sentences.append("Named where a 95 % interval leaves out zero; none is widened for their number.")
    return " ".join(sentences)


def markdown(results: Mapping[str, Any]) -> str:
    """Return the finding and a row for each variant."""
    records: Sequence[Record] = results["records"]
    lines = [
        finding(records),
        "",
        f"{origin_text(results)}:",
        "",
        "| change | ε | runs | TSTR, CNN | against the recipe, points | FID-LeNet84 | against the recipe | "
        "in each seed | prototypes | minutes |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for epsilon in epsilons(records):
        for variant in variants(records):
            if runs := len(values(records, variant, epsilon, TSTR)):
                mean = {
                    key: statistics.fmean(values(records, variant, epsilon, key))
                    for key in (TSTR, PROTOTYPES, FID, "seconds")
                }
                lines.append(
                    f"| {variant} | {epsilon:g} | {runs} | {100 * mean[TSTR]:.1f} % | "
                    f"{_points(None if variant == BASE else effect(records, variant, epsilon))} | "
                    f"{mean[FID]:.1f} | "
                    f"{_points(None if variant == BASE else effect(records, variant, epsilon, FID))} | "
                    f"{_listed([] if variant == BASE else by_seed(records, variant, epsilon, FID))} | "
                    f"{100 * mean[PROTOTYPES]:.1f} % | {mean['seconds'] / 60:.1f} |"
                )
    lines += [
        "",
        "Means over the runs. Against the recipe: difference of the means with Welch's 95 % interval, bold "
        "where it leaves out zero; each stands for itself, none is widened for their number. In each seed: "
        "that FID less the recipe's in seed 0, 1, 2, without what a seed does to both. Minutes of one core, "
        "without the warm-up.",
        "",
        "![What each change is worth](figure.png)",
    ]
    return "\n".join(lines)


def _listed(differences: Sequence[float]) -> str:
    return ", ".join(f"{difference:+.1f}" for difference in differences) or "–"


def _points(found: Effect | None) -> str:
    if found is None:
        return "–"
    if found.low is None or found.high is None:
        return f"{found.mean:+.1f}"
    text = f"{found.mean:+.1f} ({found.low:+.1f} to {found.high:+.1f})"
    return f"**{text}**" if found.clear else text
