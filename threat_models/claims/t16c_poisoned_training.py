"""T16c, T16d: what a poisoner costs over a whole run, in prototype accuracy and in FID.

A small run on the digits, five clients, one of which sends minus a thousand times its honest contribution in
every round.  The package runs masked, where there is nothing to cut (T16c off, T16d dropped).  Tried against
it: a server that sees each contribution and cuts it to the median of the round's norms, which the package
does NOT do (on).  FID then stays near that of an honest run; prototype accuracy does not: one liar still
takes away two fifths of the sum, so T16c is a non-claim.

A cut to the norm that an honest client cannot exceed is too loose to help at all: honest gradients and images
point in many directions and stay far below it, and the poisoner does not.

Source: Sun et al. 2019, arXiv 1911.07963 (norm bounds against poisoners).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from threat_models.adversaries.poisoner import OwnContribution
from threat_models.claim import Arm, Claim, Staged, Tags, Threshold
from threat_models.staging.poisoned_training import trained
from threat_models.staging.poisoning import FACTOR, CutRule


@dataclass(frozen=True, slots=True)
class _Run:
    """Which run the judge makes with the poisoner's factor in it."""

    seed: int
    masked: bool
    cut: CutRule | None


def stage_masks_or_cut(arm: Arm, seed: int) -> Staged[OwnContribution]:
    """Under masks (off), or with the median cut in the clear (on)."""
    return _staged(_Run(seed, masked=arm is Arm.OFF, cut=None if arm is Arm.OFF else "median"))


def stage(arm: Arm, seed: int) -> Staged[OwnContribution]:
    """In the clear without a cut (off) and with it (on), or under masks, where none can be made (dropped)."""
    return _staged(_Run(seed, masked=arm is Arm.DROPPED, cut="median" if arm is Arm.ON else None))


def _staged(run: _Run) -> Staged[OwnContribution]:
    """Give the poisoner nothing to see: it decides beforehand."""
    return Staged(view=OwnContribution(honest=np.zeros(0, dtype=np.int64), modulus_bits=0), truth=run)


def attack(view: OwnContribution) -> float:
    """Return the factor for every round."""
    return -float(FACTOR)


def accuracy_lost(factor: float, truth: _Run) -> float:
    """Return how much prototype accuracy the poisoner costs, against the same run without one."""
    honest = trained(truth.seed, masked=truth.masked, factor=1.0, cut=None)
    poisoned = trained(truth.seed, masked=truth.masked, factor=factor, cut=truth.cut)
    return honest.prototype_accuracy - poisoned.prototype_accuracy


def fid_factor(factor: float, truth: _Run) -> float:
    """Return by how much the poisoner multiplies the FID, against the same run without one."""
    honest = trained(truth.seed, masked=truth.masked, factor=1.0, cut=None)
    return trained(truth.seed, masked=truth.masked, factor=factor, cut=truth.cut).fid / honest.fid


_TAGS = Tags(stride=("Tampering",), atlas=("AML.T0018.000", "AML.T0031"))
_DEFENCE = "a cut at the server, measured here and not part of the package"
_DROPPED = "the server sees each contribution (dropped: masks)"

CLAIMS = (
    Claim(
        id="T16c",
        title="Poisoned training, prototype accuracy",
        adversary="poisoner",
        asset="the model's quality",
        statement=(
            "One poisoner of five takes the prototypes away, under masks nearly all of their accuracy; and a "
            "server that saw each contribution and cut it to the median norm would save only part of it."
        ),
        defence=_DEFENCE,
        dropped_assumption=None,
        view=OwnContribution,
        stage=stage_masks_or_cut,
        attack=attack,
        judge=accuracy_lost,
        metric="prototype accuracy lost to the poisoner",
        threshold=Threshold(succeeds=0.15, fails=0.05),
        source="Sun et al. 2019, arXiv 1911.07963",
        promised=False,
        tags=_TAGS,
        long=True,
    ),
    Claim(
        id="T16d",
        title="Poisoned training, FID",
        adversary="poisoner",
        asset="the model's quality",
        statement=(
            "If the server saw each contribution and cut it to the median norm, one poisoner of five would "
            "not double the FID; under masks, as the package runs, nothing stops it."
        ),
        defence=_DEFENCE,
        dropped_assumption=_DROPPED,
        view=OwnContribution,
        stage=stage,
        attack=attack,
        judge=fid_factor,
        metric="FID with the poisoner over FID without",
        threshold=Threshold(succeeds=3.0, fails=2.0),
        source="Sun et al. 2019, arXiv 1911.07963",
        tags=_TAGS,
        long=True,
    ),
)
