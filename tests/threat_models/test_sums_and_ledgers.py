"""The claims on sums, masks, metadata, rollback and ledgers: each arm on its side at one seed."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from scipy.stats import norm

from secure_fed_diffusion.dp import Mechanism, View, epsilon
from secure_fed_diffusion.errors import ConfigError, PolicyError
from tests.federation.small import seeded
from threat_models import trials
from threat_models.claim import Arm, Claim
from threat_models.claims import (
    t04_which_update,
    t05_cohorts,
    t06_participation_log,
    t09_masks_used_twice,
    t09b_old_frames,
    t10_weak_generator,
    t11_small_ring,
    t17_metadata,
    t18_rollback,
    t19_ledgers,
)
from threat_models.staging.noisy_sums import predictable, sums
from threat_models.weakened.patching import without

CLAIMS = (
    t04_which_update.CLAIM,
    t05_cohorts.CLAIM,
    *t06_participation_log.CLAIMS,
    t09_masks_used_twice.CLAIM,
    t09b_old_frames.CLAIM,
    t10_weak_generator.CLAIM,
    t11_small_ring.CLAIM,
    t17_metadata.CLAIM,
    t18_rollback.CLAIM,
    t19_ledgers.CLAIM,
)


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: claim.id)
def test_each_arm_is_on_its_side_at_one_seed(claim: Claim[Any, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("secure_fed_diffusion.entropy.system", seeded("noise"))  # one seed is a small sample
    middle = (claim.threshold.succeeds + claim.threshold.fails) / 2
    result = trials.run(claim, seeds=(0,))
    for name, column in result.arms.items():
        assert column.error is None, (claim.id, name, column.error)
        assert column.mean is not None
        assert (column.mean > middle) == (column.expected == "succeeds"), (claim.id, name, column.mean)


def test_the_bound_of_t4_is_the_accountant_s() -> None:
    """Opposite vectors at the clip: a Gaussian of sensitivity 2; no test beats Φ(1/σ)."""
    sigma = t04_which_update.NOISE_MULTIPLIER
    best = float(norm.cdf(1 / sigma))
    assert best < t04_which_update.CLAIM.threshold.fails
    mechanism = Mechanism(
        kind="central",
        unit="example",
        relation="add_remove",
        sampling_rate=1.0,
        sensitivity=1.0,
        share_stddev=0.0,
        server_stddev=sigma,
        min_survivors=1,
        integer=False,
        dimension=1,
    )
    delta = 1e-2
    spent = epsilon({mechanism: 1}, delta=delta, view=View(name="released_model"), accountant="pld")
    # To replace is to remove and to add: (2ε, (1 + e^ε)δ), so a test is right at most this often.
    limit = (math.exp(2 * spent) + (1 + math.exp(spent)) * delta) / (1 + math.exp(2 * spent))
    assert best <= limit < 1


def test_a_sum_has_as_much_noise_as_the_plan_says_and_a_known_generator_takes_it_off() -> None:
    """4,096 coordinates: a standard deviation has a relative error of 1.1 %; 6 % is five of them."""
    zeros = {v: np.zeros(4096) for v in range(3)}
    total = sums([zeros], n_clients=3, noise_multiplier=2.0)[0]
    assert abs(np.std(total) - 2.0) < 0.12
    twice = [sums([zeros], n_clients=3, noise_multiplier=2.0, source=predictable(4))[0] for _ in range(2)]
    assert np.array_equal(*twice)


def test_the_terms_of_t11_are_refused_where_the_grid_is_made() -> None:
    with pytest.raises(ConfigError, match="no headroom"):
        t11_small_ring.secagg.FixedPoint(
            clip=t11_small_ring.CLIP,
            fraction_bits=t11_small_ring.FRACTION_BITS,
            modulus_bits=t11_small_ring.SMALL_RING_BITS,
            max_clients=t11_small_ring.N_CLIENTS,
        )


def test_the_rolled_back_client_of_t18_is_silent_and_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    said = []

    class Told(PolicyError):
        def __init__(self, message: str, **more: Any) -> None:
            said.append(message)
            super().__init__(message, **more)

    monkeypatch.setattr("secure_fed_diffusion.secagg.answers.PolicyError", Told)
    staged = t18_rollback.stage(Arm.ON, 0)
    assert len(staged.view.vectors) == 1
    assert said == ["step masked_input of this session was answered before, in another way"]


def test_a_weakening_is_undone_whatever_happens() -> None:
    def without_pi(patch: Any) -> None:
        patch.setattr(math, "pi", 3)
        patch.setattr("math.e", 2)

    kept = math.pi, math.e
    seen = []
    try:
        with without(without_pi):
            seen.append((math.pi, math.e))
            raise ZeroDivisionError
    except ZeroDivisionError:
        seen.append((math.pi, math.e))
    assert seen == [(3, 2), kept]


def test_ledgers_of_neighbours_are_the_same_file_but_where_the_plan_was_tuned() -> None:
    whole, neighbour = (
        t19_ledgers.published(0, without_last=without_last, sampling_rate=0.25)
        for without_last in (False, True)
    )
    assert whole == neighbour
    assert whole != t19_ledgers.published(0, without_last=False, sampling_rate=0.26)
