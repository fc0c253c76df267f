"""Clients computed together: to the bit what each computes alone, and no record in another client's sum."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from secure_fed_diffusion.audit.canaries import Canaries, Planted, SampleNotes
from secure_fed_diffusion.federation import contribution
from secure_fed_diffusion.federation.contribution import Contributor
from secure_fed_diffusion.federation.together import Joined, vectors
from secure_fed_diffusion.training import integer_sums
from secure_fed_diffusion.training import vectors as flat
from tests.federation.small import Federation, federation, seeded, settings_for


def sides(it: Federation, *key: Any) -> tuple[list[Contributor], np.ndarray[Any, Any]]:
    """Return contributors whose coins and noise the key decides, and the weights that they were shown."""
    weights = flat.flatten(it.server.model).numpy()
    return [
        replace(each, entropy=seeded("noise", c, *key), coins=seeded("coins", c, *key))
        for c, each in it.contributors.items()
    ], weights


@pytest.mark.parametrize("size", [16, 64])
@pytest.mark.parametrize("rate", [0.02, 0.25, 1.0])
def test_each_vector_is_to_the_bit_what_its_client_computes_alone(size: int, rate: float) -> None:
    it = federation(
        settings_for(
            "distributed",
            f"modes.distributed.micro_batch={size}",
            f"modes.distributed.sampling_rate={rate}",
            "diffusion.noise_multiplicity=2",
        )
    )
    release = it.plan.releases["training"]
    alone, weights = sides(it, rate)
    expected = [each.vector(release, weights, number=3, attempt=1) for each in alone]
    beside, _ = sides(it, rate)
    found = vectors(beside, release, weights, number=3, attempt=1)
    assert len({vector.tobytes() for vector in expected}) == len(expected)
    for one, other in zip(expected, found, strict=True):
        assert one.dtype == other.dtype
        assert np.array_equal(one, other)


@pytest.mark.parametrize("mode", ["distributed", "central", "local", "client", "none"])
def test_every_mode_and_release_is_computed_the_same(mode: str) -> None:
    it = federation(settings_for(mode))
    for release in it.plan.releases.values():
        alone, weights = sides(it, release.name)
        expected = [each.vector(release, weights, number=2, attempt=0) for each in alone]
        beside, _ = sides(it, release.name)
        found = vectors(beside, release, weights, number=2, attempt=0)
        for one, other in zip(expected, found, strict=True):
            assert np.array_equal(one, other)


@pytest.mark.parametrize("mode", ["distributed", "central"])
def test_canaries_are_added_and_noted_as_each_client_alone_does(mode: str) -> None:
    it = federation(settings_for(mode, "audit.canaries=40", f"modes.{mode}.sampling_rate=0.5"))
    release = it.plan.releases["training"]
    assert release.canaries == 40
    dealt = Canaries.flip(40, clients=6, entropy=seeded("coins of the canaries"))
    found, counts = {}, {}
    for way in ("alone", "beside"):
        notes = SampleNotes()
        clients, weights = sides(it, mode)
        clients = [
            replace(each, planted=Planted(coordinates=dealt.of(each.client_id), notes=notes))
            for each in clients
        ]
        if way == "alone":
            found[way] = [each.vector(release, weights, number=2, attempt=1) for each in clients]
        else:
            found[way] = vectors(clients, release, weights, number=2, attempt=1)
        counts[way] = notes.counts(2, 1, range(6), 40)
    assert all(np.array_equal(one, other) for one, other in zip(*found.values(), strict=True))
    assert np.array_equal(counts["alone"], counts["beside"])
    assert counts["beside"].any()


def test_clients_without_a_sampled_record_add_their_noise_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    it = federation(settings_for("distributed"))
    release = it.plan.releases["training"]
    contributors, weights = sides(it)
    monkeypatch.setattr(contribution, "poisson_sample", lambda n, *_: np.zeros(n, dtype=bool))
    found = vectors(contributors, release, weights, number=2, attempt=0)
    again, _ = sides(it)  # the same streams from their beginning
    for client_id, vector in enumerate(found):
        noise = again[client_id]._with_noise(np.zeros(release.length, dtype=np.int64), release)
        assert np.array_equal(vector.view(np.int64), noise)


def test_another_client_s_records_change_nothing() -> None:
    it = federation(settings_for("distributed", "modes.distributed.sampling_rate=1.0"))
    release = it.plan.releases["training"]
    contributors, weights = sides(it)
    other, _ = sides(it)
    brighter = np.full_like(other[1].images.images, 255)
    changed = type(other[1].data)(replace(other[1].images, images=brighter), patch=1, device="cpu")
    other[1] = replace(other[1], data=changed)
    before = vectors(contributors, release, weights, number=2, attempt=0)
    after = vectors(other, release, weights, number=2, attempt=0)
    same = [np.array_equal(one, two) for one, two in zip(before, after, strict=True)]
    assert same == [client_id != 1 for client_id in range(len(same))]


def test_a_norm_may_depend_on_how_many_rows_a_micro_batch_has(monkeypatch: pytest.MonkeyPatch) -> None:
    """It has one number of rows, alone and together, so what another number would give is nobody's matter."""
    it = federation(
        settings_for(
            "distributed", "modes.distributed.micro_batch=16", "modes.distributed.sampling_rate=0.25"
        )
    )
    release = it.plan.releases["training"]
    honest = integer_sums.row_norms
    monkeypatch.setattr(integer_sums, "row_norms", lambda parts: honest(parts) * (1 + len(parts[0]) / 100))
    alone, weights = sides(it)
    expected = [each.vector(release, weights, number=2, attempt=0) for each in alone]
    beside, _ = sides(it)
    found = vectors(beside, release, weights, number=2, attempt=0)
    assert all(np.array_equal(one, other) for one, other in zip(expected, found, strict=True))


def test_joined_samples_give_each_record_as_its_own_sample_does() -> None:
    it = federation(settings_for("distributed"))
    release = it.plan.releases["training"]
    contributors, weights = sides(it)
    samples = [each.drawn(release, weights, (0, each.client_id, 1, 0))[0] for each in contributors]
    whole = Joined(samples)
    assert len(whole) == sum(map(len, samples))
    places = torch.arange(len(whole)).flip(0)[::3]
    found = whole.at(places)
    owners = [(c, i) for c, sample in enumerate(samples) for i in range(len(sample))]
    for row, place in enumerate(places.tolist()):
        client_id, own = owners[place]
        expected = samples[client_id].at(torch.tensor([own]))
        assert torch.equal(found.images[row], expected.images[0])
        assert torch.equal(found.draws.noise[row], expected.draws.noise[0])
        assert int(found.labels[row]) == int(expected.labels[0])
        assert torch.equal(found.draws.timesteps[row], expected.draws.timesteps[0])
