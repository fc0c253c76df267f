"""Sums of a warm-up that one record may be in, and what is known by whoever knows all the other records.

Each sum is of a federation of its own: three clients, and a coin that says whether client 0 holds the
candidate too.  The rounds before the release in question run over the real frames, so that it depends on what
they announced as it does in a run.  The other records' sum and the candidate's vector are known exactly.

>>> view = SumsAndRecords(
...     totals=np.array([[7.0], [5.0]]), others=np.array([[5.0], [5.0]]), candidates=np.ones((2, 1)), copies=2
... )
>>> attack(view).tolist()
[True, False]
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from secure_fed_diffusion.data.images import ImageSet
from secure_fed_diffusion.dp.grid import IntegerGrid
from secure_fed_diffusion.federation.settings import RunSettings
from threat_models.adversaries.curious_server import SumsAndRecords
from threat_models.claim import Arm, Counts, Staged
from threat_models.staging.denoisers import MlpDenoiser
from threat_models.staging.small_federation import Floats, Integers, chosen_digits, federation

CLIENTS, EACH = 3, 40
COINS = 24  # sums of one trial

Rows = Callable[[ImageSet, IntegerGrid, npt.NDArray[np.float32]], Integers]
"""`rows(records, grid, announced)`: what these records add to the sum, together, on the grid: (length,)."""


def stage_sums(
    arm: Arm, seed: int, *, settings: RunSettings, rows: Rows, copies: int
) -> Staged[SumsAndRecords]:
    """Sum three clients' records, many times; a coin each says whether client 0 has the candidate.

    The release is the last one of the warm-up of `settings`.  `copies`: how many times client 0 holds the
    candidate in the arm `dropped`.
    """
    coins = np.random.default_rng([seed, 21]).integers(2, size=COINS).astype(bool)
    copies = copies if arm is Arm.DROPPED else 1
    noise = float(arm is not Arm.OFF)
    sums = [
        _one_sum(settings, rows, seed * COINS + i, noise=noise, copies=copies if coin else 0)
        for i, coin in enumerate(coins)
    ]
    totals, others, candidates = (np.stack(part) for part in zip(*sums, strict=True))
    view = SumsAndRecords(totals=totals, others=others, candidates=candidates, copies=copies)
    return Staged(view=view, truth=coins)


def _one_sum(
    settings: RunSettings, rows: Rows, seed: int, *, noise: float, copies: int
) -> tuple[Floats, Floats, Floats]:
    """Return the sum, that of the known records, and the candidate's vector."""
    images = [chosen_digits(EACH, 1000 * seed + c) for c in range(CLIENTS)]
    known = list(images)
    candidate = chosen_digits(1, seed, split="public")
    images[0] = ImageSet(
        np.concatenate([images[0].images, *[candidate.images] * copies]),
        np.concatenate([images[0].labels, *[candidate.labels] * copies]),
    )
    staged = federation(settings, MlpDenoiser, images, seed=seed, noise=noise)
    number = settings.warmup.rounds
    for earlier in range(1, number):
        staged.server.apply(staged.run_round(earlier))
    grid, announced = staged.release_of(number).grid, staged.announced(number)
    total = sum(staged.contribution(c, number) for c in range(CLIENTS))
    others = sum(rows(part, grid, announced) for part in known)
    row = rows(candidate, grid, announced)
    return np.asarray(total), grid.to_float(np.asarray(others)), grid.to_float(row)


def attack(view: SumsAndRecords) -> npt.NDArray[np.bool_]:
    """Say of each candidate whether the rest of the sum is nearer to its copies than to nothing.

    Between two Gaussians of one spherical covariance that is the likelihood-ratio test.
    """
    along = np.einsum("ij,ij->i", view.totals - view.others, view.candidates)
    nearer: npt.NDArray[np.bool_] = along > view.copies * np.square(view.candidates).sum(axis=1) / 2.0
    return nearer


def judge(guesses: npt.NDArray[np.bool_], truth: npt.NDArray[np.bool_]) -> Counts:
    """Count the right answers."""
    return Counts(int((guesses == truth).sum()), len(truth))
