"""Balanced sampling: shares from noisy counts, rates that never exceed the plan's, and what frames carry."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest
import torch

from secure_fed_diffusion.errors import ConfigError, FrameError
from secure_fed_diffusion.federation.class_means import COUNT_SHARE
from secure_fed_diffusion.federation.label_balance import class_shares, noisy_counts, thin
from secure_fed_diffusion.federation.messages import Announcement
from secure_fed_diffusion.federation.rounds import run_rounds
from secure_fed_diffusion.training.vectors import flatten
from tests.federation.small import Federation, federation, seeded, settings_for

BALANCED = "modes.distributed.label_balance=true"


def balanced(*overrides: str, noise: bool = False) -> Federation:
    return federation(settings_for("distributed", BALANCED, *overrides), noise=noise, seed="s")


def test_counts_are_read_from_the_sum_of_class_means() -> None:
    totals = np.concatenate([np.full(12, 7.0), np.array([3.0, 0.0, 5.0]) * COUNT_SHARE * 2.0])
    assert noisy_counts(totals, n_classes=3, clip_norm=2.0).tolist() == [3.0, 0.0, 5.0]


def test_shares_are_the_rarest_class_over_each_and_are_at_least_the_least() -> None:
    counts = np.array([40.0, 80.0, 400.0, 10.0])
    np.testing.assert_allclose(class_shares(counts, least_share=0.01), [0.25, 0.125, 0.025, 1.0])
    np.testing.assert_allclose(class_shares(counts, least_share=0.2), [1.0, 1.0, 0.2, 1.0])
    for nothing in (np.zeros(3), np.array([-4.0, -1.0, 0.0])):
        assert class_shares(nothing, least_share=0.1).tolist() == [1.0] * 3
    noisy = class_shares(np.array([-5.0, 100.0, 50.0]), least_share=0.1)
    assert (noisy >= 0.0999).all()
    assert (noisy <= 1).all()


def test_each_class_is_thinned_by_its_own_share() -> None:
    """Binomials of 20,000: each is within 5 standard deviations of its mean, a false alarm in 10^6."""
    labels = np.repeat(np.arange(3), 20_000)
    sample = np.arange(len(labels)) + 100
    shares = np.array([1.0, 0.5, 0.1], dtype=np.float32)
    kept = thin(sample, labels, shares, seeded("thin"))
    found = np.bincount(labels[kept - 100], minlength=3)
    assert found[0] == 20_000
    for n, share in zip(found[1:], (0.5, 0.1), strict=True):
        assert abs(n - 20_000 * share) < 5 * np.sqrt(20_000 * share * (1 - share))
    assert set(kept) <= set(sample)


@pytest.mark.parametrize("share", [-1.0, 0.0, 1.0, 7.0, 1e30, float("nan"), float("inf")])
def test_no_share_makes_a_record_more_likely_than_the_plan_says(share: float) -> None:
    sample, labels = np.array([2, 5, 9]), np.array([0, 1, 0])
    kept = thin(sample, labels, np.array([share, share], dtype=np.float32), seeded("x")).tolist()
    assert set(kept) <= {2, 5, 9}
    assert len(kept) == len(set(kept))
    assert kept == ([2, 5, 9] if share >= 1 else [])


def test_a_server_that_lies_about_the_shares_draws_nobody_more_often() -> None:
    it = balanced()
    release = it.plan.releases["training"]
    me = it.contributors[0]
    weights = flatten(it.server.model).numpy()
    asked: list[np.ndarray] = []
    honest = me.data.sample
    me.data.sample = lambda index, *rest: asked.append(index) or honest(index, *rest)  # type: ignore[method-assign]
    for share in (1.0, 50.0):
        announced = np.concatenate([weights, np.full(it.plan.n_classes, share, dtype=np.float32)])
        again = replace(me, coins=seeded("coins"))
        again.vector(release, announced, number=2, attempt=0)
    assert np.array_equal(*asked)
    assert 0 < len(asked[0]) < len(me.images)


def test_the_charge_is_at_the_largest_rate_whatever_the_shares_are() -> None:
    plain = federation(settings_for("distributed")).plan
    plan = balanced(noise=True).plan
    assert plan.releases == plain.releases
    assert plan.max_charges() == plain.max_charges()
    assert plan.noise_multiplier == plain.noise_multiplier
    assert plan.digest != plain.digest
    assert (plain.announced(1), plan.announced(1)) == (plan.dimension, plan.dimension + plan.n_classes)


def test_the_server_announces_shares_of_the_noisy_counts_once_all_class_means_are_known() -> None:
    it = balanced("warmup.draws=2")
    shown: dict[int, np.ndarray] = {}
    honest = it.server.open

    def spy(number: int, attempt: int) -> Mapping[int, bytes]:
        frames = honest(number, attempt)
        for frame in frames.values():
            shown[number] = Announcement.decode(frame, it.plan.announced(number)).weights[it.plan.dimension :]
        return frames

    it.server.open = spy  # type: ignore[method-assign]
    totals = []
    for outcome in run_rounds(it.plan, it.server, it.engine, it.book, first=1, note=print):
        it.server.apply(outcome.total)
        totals.append(outcome.total)
    release = it.plan.releases["prototypes"]
    counts = sum(
        noisy_counts(release.grid.to_float(t), n_classes=it.plan.n_classes, clip_norm=release.grid.clip_norm)
        for t in totals[:2]
    )
    expected = class_shares(counts, least_share=0.1)
    assert len(set(expected.tolist())) > 2
    assert shown[1].tolist() == [1.0] * it.plan.n_classes  # nothing was released yet
    for number in (3, 4, 5):
        np.testing.assert_array_equal(shown[number], expected)


def test_a_server_that_is_put_down_announces_the_same_shares() -> None:
    it = balanced()
    outcome = next(run_rounds(it.plan, it.server, it.engine, it.book, first=1, note=print))
    it.server.apply(outcome.total)
    file = io.BytesIO()
    torch.save(it.server.state_dict(), file)
    file.seek(0)
    other = balanced().server
    other.load_state_dict(torch.load(file, weights_only=True))
    np.testing.assert_array_equal(other.classes.shares, it.server.classes.shares)
    assert (other.classes.shares < 1).any()


def test_shares_are_bound_to_the_round_with_the_weights() -> None:
    weights = np.zeros(5, dtype=np.float32)
    other = weights.copy()
    other[4] = 0.5
    assert Announcement(1, 0, weights).model_digest != Announcement(1, 0, other).model_digest


def test_an_announcement_without_shares_or_with_a_share_that_is_no_number_is_refused() -> None:
    it = balanced()
    member = it.plan.rounds[0].cohort[0]
    weights = flatten(it.server.model).numpy()
    with pytest.raises(FrameError, match="expected"):
        it.clients[member].handle(Announcement(1, 0, weights).encode())
    spoiled = np.append(weights, np.full(it.plan.n_classes, np.nan, dtype=np.float32))
    with pytest.raises(FrameError, match="no finite number"):
        it.clients[member].handle(Announcement(1, 0, spoiled).encode())
    assert not it.book.charges


def test_balance_without_released_counts_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"expected warmup\.draws >= 1") as refused:
        balanced("warmup.draws=0")
    assert refused.value.key == "modes.distributed.label_balance"
