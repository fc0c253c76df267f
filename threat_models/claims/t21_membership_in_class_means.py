"""T21: was this record in the class means?  The strongest asker: one who knows all other records.

Without noise the answer is a subtraction.  With it the test is the likelihood ratio of two Gaussians, the
best there is, and its success is what the noise multiplier says: about 0.55 at 4.  A picture that is there
32 times moves the sum 32 times as far: the unit is one record, not one picture.

Source: the tracing attack of Homer et al. 2008 in its strongest form (Dwork et al. 2015, section 2).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from secure_fed_diffusion.data.datasets import ImageSet
from secure_fed_diffusion.federation.class_means import prototype_rows
from threat_models.adversaries.curious_server import SumsAndRecords
from threat_models.claim import Arm, Claim, Counts, Staged, Tags, Threshold
from threat_models.staging.denoisers import N_CLASSES, MlpDenoiser
from threat_models.staging.small_federation import Floats, chosen_digits, federation, settings_for

CLIENTS, EACH, COPIES = 3, 40, 32
COINS = 24  # sums of one trial
NOISE_MULTIPLIER, CLIP = 4.0, 5.0  # the package's own defaults for this release
_ROUND = 1


def _settings() -> Any:
    return settings_for(
        "distributed",
        clients=CLIENTS,
        rounds=1,
        warmup__draws=1,
        warmup__sampling_rate=1.0,
        warmup__noise_multiplier=NOISE_MULTIPLIER,
        warmup__clip_norm=CLIP,
        federation__colluders=0,
    )


def stage(arm: Arm, seed: int) -> Staged[SumsAndRecords]:
    """Sum three clients' class means, many times; a coin each says whether client 0 has the candidate."""
    coins = np.random.default_rng([seed, 21]).integers(2, size=COINS).astype(bool)
    sums = [_one_sum(arm, seed * COINS + i, bool(coin)) for i, coin in enumerate(coins)]
    copies = COPIES if arm is Arm.DROPPED else 1
    totals, others, candidates = (np.stack(part) for part in zip(*sums, strict=True))
    view = SumsAndRecords(totals=totals, others=others, candidates=candidates, copies=copies)
    return Staged(view=view, truth=coins)


def _one_sum(arm: Arm, number: int, is_member: bool) -> tuple[Floats, Floats, Floats]:
    """Return the sum, that of the known records, and the candidate's vector."""
    images = [chosen_digits(EACH, 1000 * number + c) for c in range(CLIENTS)]
    candidate = chosen_digits(1, number, split="public")
    if is_member:
        copies = [candidate] * (COPIES if arm is Arm.DROPPED else 1)
        images[0] = ImageSet(
            np.concatenate([images[0].images, *(part.images for part in copies)]),
            np.concatenate([images[0].labels, *(part.labels for part in copies)]),
        )
    staged = federation(_settings(), MlpDenoiser, images, seed=number, noise=float(arm is not Arm.OFF))
    grid = staged.release_of(_ROUND).grid
    total = sum(staged.contribution(c, _ROUND) for c in range(CLIENTS))
    known = [part.subset(slice(EACH)) for part in images]
    others = sum(grid.round(prototype_rows(part, N_CLASSES, CLIP)).sum(axis=0) for part in known)
    row = grid.round(prototype_rows(candidate, N_CLASSES, CLIP))[0]
    return np.asarray(total), grid.to_float(np.asarray(others)), grid.to_float(row)


def attack(view: SumsAndRecords) -> npt.NDArray[np.bool_]:
    """Say of each candidate whether the rest of the sum is nearer to its copies than to nothing."""
    along = np.einsum("ij,ij->i", view.totals - view.others, view.candidates)
    return along > view.copies * np.square(view.candidates).sum(axis=1) / 2.0


def judge(guesses: npt.NDArray[np.bool_], truth: npt.NDArray[np.bool_]) -> Counts:
    """Count the right answers."""
    return Counts(int((guesses == truth).sum()), len(truth))


CLAIM = Claim(
    id="T21",
    title="Membership in the class means",
    adversary="curious_server",
    asset="whether a record was in the class means",
    statement=(
        "The sum of the class means does not tell whether one record is in it, not even to one who knows all "
        f"others: at noise multiplier {NOISE_MULTIPLIER:.0f} the best test is right in 0.54 of the cases."
    ),
    defence="noise shares in the class sums and counts",
    dropped_assumption=f"a picture is one record (dropped: the client holds it {COPIES} times)",
    view=SumsAndRecords,
    stage=stage,
    attack=attack,
    judge=judge,
    metric="share of right answers, in or out (a coin: 0.5)",
    threshold=Threshold(succeeds=0.9, fails=0.75),
    source="Homer et al. 2008; Dwork et al. 2015",
    tags=Tags(stride=("Information disclosure",), linddun=("Detecting",), atlas=("AML.T0024.000",)),
)
