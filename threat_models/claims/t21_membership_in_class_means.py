"""T21: was this record in the class means?  The strongest asker: one who knows all other records.

Without noise the answer is a subtraction.  With it the test is the likelihood ratio of two Gaussians, the
best there is, and its success is what the noise multiplier says: about 0.55 at 4.  A picture that is there
32 times moves the sum 32 times as far: the unit is one record, not one picture.

Source: the tracing attack of Homer et al. 2008 in its strongest form (Dwork et al. 2015, section 2).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from secure_fed_diffusion.data.images import ImageSet
from secure_fed_diffusion.dp.grid import IntegerGrid
from secure_fed_diffusion.federation.class_means import prototype_rows
from threat_models.adversaries.curious_server import SumsAndRecords
from threat_models.claim import Arm, Claim, Staged, Tags, Threshold
from threat_models.staging.denoisers import N_CLASSES
from threat_models.staging.one_record import CLIENTS, attack, judge, stage_sums
from threat_models.staging.small_federation import Integers, settings_for

COPIES = 32
NOISE_MULTIPLIER, CLIP = 4.0, 5.0  # the package's own defaults for this release


def stage(arm: Arm, seed: int) -> Staged[SumsAndRecords]:
    """Sum three clients' class means, many times; a coin each says whether client 0 has the candidate."""
    settings = settings_for(
        "distributed",
        clients=CLIENTS,
        rounds=1,
        warmup__draws=1,
        warmup__sampling_rate=1.0,
        warmup__noise_multiplier=NOISE_MULTIPLIER,
        warmup__clip_norm=CLIP,
        federation__colluders=0,
    )
    return stage_sums(arm, seed, settings=settings, rows=_rows, copies=COPIES)


def _rows(records: ImageSet, grid: IntegerGrid, announced: npt.NDArray[np.float32]) -> Integers:
    """Return the sum of the records' rows, which depend on nothing that was announced."""
    total: Integers = grid.round(prototype_rows(records, N_CLASSES, CLIP)).sum(axis=0)
    return total


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
