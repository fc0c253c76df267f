"""T21b: was this record in the class covariances?  The asker knows all other records and the announced means.

The second release of the warm-up, taken about the means that the first one announced (`Plan.announced`); its
sums run as T21's.  Given those means the sum is one of two Gaussians again, and the best test is right in at
most Φ(1/2σ) of the cases: Φ(1/10) = 0.54 at the noise multiplier σ = 5, for a record that the clip shortens.
What the means themselves tell is T21's; the ledger adds the two up.

Dropped: k copies move the sum k times as far, which gives Φ(k/2σ); 40 make that Φ(4) = 0.99997.

Source: the tracing attack of Homer et al. 2008 in its strongest form (Dwork et al. 2015, section 2), on the
Gaussian mechanism for covariances (Dwork et al. 2014, "Analyze Gauss").
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from secure_fed_diffusion.data.images import ImageSet
from secure_fed_diffusion.dp.grid import IntegerGrid
from secure_fed_diffusion.federation.class_covariances import covariance_sum
from threat_models.adversaries.curious_server import SumsAndRecords
from threat_models.claim import Arm, Claim, Staged, Tags, Threshold
from threat_models.staging.denoisers import N_CLASSES, SIDE
from threat_models.staging.one_record import CLIENTS, attack, judge, stage_sums
from threat_models.staging.small_federation import Integers, settings_for

COPIES = 40
NOISE_MULTIPLIER = 5.0  # the package's own default for this release
CLIP, FREQUENCIES = 1.0, 4  # of 8 x 8 digits: about the median of ‖z‖², over a quarter of the frequencies


def stage(arm: Arm, seed: int) -> Staged[SumsAndRecords]:
    """Release class means, then sum the class covariances about them; a coin each says who is in both."""
    settings = settings_for(
        "distributed",
        clients=CLIENTS,
        rounds=1,
        warmup__draws=1,
        warmup__sampling_rate=1.0,
        warmup__covariances__draws=1,
        warmup__covariances__noise_multiplier=NOISE_MULTIPLIER,
        warmup__covariances__clip_norm=CLIP,
        warmup__covariances__frequencies=FREQUENCIES,
        federation__colluders=0,
    )
    return stage_sums(arm, seed, settings=settings, rows=_rows, copies=COPIES)


def _rows(records: ImageSet, grid: IntegerGrid, announced: npt.NDArray[np.float32]) -> Integers:
    """Return the sum of the records' rows about the announced means."""
    return covariance_sum(records, announced.reshape(N_CLASSES, 1, SIDE, SIDE), FREQUENCIES, grid)


CLAIM = Claim(
    id="T21b",
    title="Membership in the class covariances",
    adversary="curious_server",
    asset="whether a record was in the class covariances",
    statement=(
        "The sum of the class covariances does not tell whether one record is in it, not even to one who "
        "knows all others and the announced class means: at noise multiplier "
        f"{NOISE_MULTIPLIER:.0f} the best test is right in at most 0.54 of the cases."
    ),
    defence="noise shares in the sums of products and counts",
    dropped_assumption=f"a picture is one record (dropped: the client holds it {COPIES} times)",
    view=SumsAndRecords,
    stage=stage,
    attack=attack,
    judge=judge,
    metric="share of right answers, in or out (a coin: 0.5)",
    threshold=Threshold(succeeds=0.9, fails=0.75),
    source="Homer et al. 2008; Dwork et al. 2014, 2015",
    tags=Tags(stride=("Information disclosure",), linddun=("Detecting",), atlas=("AML.T0024.000",)),
)
