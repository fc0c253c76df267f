"""With noise off and the same samples, masked shares, a trusted server and a plain sum are the same."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from secure_fed_diffusion.federation.rounds import run_rounds
from secure_fed_diffusion.secagg.encoding import centred
from secure_fed_diffusion.training.vectors import flatten
from tests.federation.small import Federation, federation, settings_for


def play(it: Federation) -> tuple[list[np.ndarray], torch.Tensor, torch.Tensor]:
    totals = []
    for outcome in run_rounds(it.plan, it.server, it.engine, it.book, first=1, note=print):
        it.server.apply(outcome.total)
        totals.append(outcome.total)
    return totals, flatten(it.server.model), it.server.average.average


@pytest.fixture(scope="module")
def distributed() -> tuple[list[np.ndarray], torch.Tensor, torch.Tensor]:
    return play(federation(settings_for("distributed"), noise=False, seed="same"))


@pytest.mark.parametrize("masked", ["true", "false"])
def test_weights_agree_bit_for_bit(masked: str, distributed: tuple) -> None:
    central = play(
        federation(settings_for("central", f"federation.masked={masked}"), noise=False, seed="same")
    )
    assert len(central[0]) == 4  # one release of class means, three gradient steps
    for ours, theirs in zip(distributed[0], central[0], strict=True):
        assert ours.any()
        assert np.array_equal(ours, theirs)
    assert torch.equal(distributed[1], central[1])
    assert torch.equal(distributed[2], central[2])


def test_another_sample_gives_other_weights(distributed: tuple) -> None:
    other = play(federation(settings_for("distributed"), noise=False, seed="other"))
    assert not torch.equal(distributed[1], other[1])


def test_the_decoded_secure_sum_is_the_integer_sum_of_the_survivors() -> None:
    it = federation(settings_for("distributed"), noise=False, seed="sum")
    twin = federation(settings_for("distributed"), noise=False, seed="sum")
    it.engine.absent = lambda number, client, phase: (client, phase) == (1, "masked_input")
    outcome = next(run_rounds(it.plan, it.server, it.engine, it.book, first=1, note=print))
    release = it.plan.releases["prototypes"]
    vectors = {
        c: twin.contributors[c].vector(release, flatten(twin.server.model).numpy(), number=1, attempt=0)
        for c in outcome.survivors
    }
    assert 1 not in outcome.survivors
    assert np.array_equal(outcome.total, sum(v.view(np.int64) for v in vectors.values()))


@pytest.mark.parametrize("bits", [9, 32, 63, 64])
def test_residues_are_centred(bits: int) -> None:
    edge = 1 << (bits - 1)
    values = [0, 1, -1, edge - 1, -edge]
    ring = np.array([value % (1 << bits) for value in values], dtype=np.uint64)
    assert centred(ring, bits).tolist() == values


def test_with_every_switch_of_the_recipe_the_two_agree_bit_for_bit() -> None:
    """Covariances, automatic clip, two phases, balance, corrected Adam on a cosine, a power average."""
    ends = []
    for mode in ("distributed", "central"):
        switches = (
            "clipping=automatic",
            "schedule=[{from_round=2, sampling_rate=0.5, divisor=120, clip_norm=0.02}]",
            "label_balance=true",
            "server.optimizer=adam_bc",
            "server.schedule=cosine",
            "server.average=power",
        )
        recipe = (f"modes.{mode}.{switch}" for switch in switches)
        settings = settings_for(mode, "warmup.covariances.draws=1", *recipe)
        ends.append(play(federation(settings, noise=False, seed="same")))
    plain = federation(settings_for("distributed"), noise=False, seed="same")
    for ours, theirs in zip(ends[0][0], ends[1][0], strict=True):
        assert ours.any()
        assert np.array_equal(ours, theirs)
    assert torch.equal(ends[0][1], ends[1][1])
    assert torch.equal(ends[0][2], ends[1][2])
    assert not np.array_equal(play(plain)[0][1], ends[0][0][2])
