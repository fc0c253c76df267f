"""Canaries by themselves: fair coins, an owner each, a gradient that needs the clip, and two files."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import torch

from secure_fed_diffusion.audit.canaries import GRADIENT_NORM, Canaries, Planted, SampleNotes, magnitude
from secure_fed_diffusion.audit.journal import AuditTerms, Journal, RoundNotes, observations
from secure_fed_diffusion.audit.settings import AuditSettings
from secure_fed_diffusion.dp.grid import IntegerGrid
from secure_fed_diffusion.errors import ConfigError, RunError
from secure_fed_diffusion.training.integer_sums import integer_sum


def some_canaries() -> Canaries:
    return Canaries(
        owners=np.array([0, 1, 2, 0, 1], dtype=np.int64),
        included=np.array([True, True, False, False, True]),
    )


def notes(number: int, **changes: object) -> RoundNotes:
    values = {
        "number": number,
        "attempt": 0,
        "release": "training",
        "survivors": (0, 1),
        "sampling_rate": 0.5,
        "sensitivity": 16.0,
        "noise_stddev": 40.0,
        "magnitude": 15,
        "sums": np.array([15, -3, 4, 0, 2], dtype=np.int64),
        "counts": np.array([1, 0, 0, 0, 0], dtype=np.int64),
    }
    return RoundNotes(**{**values, **changes})


def test_the_coins_are_fair_and_come_from_the_operating_system() -> None:
    # 40,000 coins: outside 6.1 standard deviations with probability below 2e-9
    one, two = (Canaries.flip(40_000, clients=3) for _ in range(2))
    assert abs(int(one.included.sum()) - 20_000) < 610
    assert abs(int((one.included != two.included).sum()) - 20_000) < 610


def test_every_bit_of_the_entropy_is_one_coin() -> None:
    coins = Canaries.flip(13, clients=4, entropy=lambda n: bytes(range(0b10100000, 0b10100000 + n)))
    assert coins.included.astype(int).tolist() == [1, 0, 1, 0, 0, 0, 0, 0, 1, 0, 1, 0, 0]


def test_canaries_are_dealt_in_turn_and_a_client_has_only_its_own() -> None:
    canaries = Canaries.flip(11, clients=4)
    assert canaries.owners.tolist() == [0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2]
    held = [canaries.of(client_id).tolist() for client_id in range(4)]
    assert sorted(j for mine in held for j in mine) == np.flatnonzero(canaries.included).tolist()
    assert all(canaries.owners[j] == client_id for client_id, mine in enumerate(held) for j in mine)


def test_a_canary_whose_client_is_not_in_the_sum_has_rate_zero() -> None:
    assert some_canaries().rates(0.25, (0, 2)).tolist() == [0.25, 0.0, 0.25, 0.25, 0.0]


def test_only_what_survivors_drew_in_this_very_attempt_is_counted() -> None:
    book = SampleNotes()
    book.write(0, 3, 0, np.array([0, 3]))  # an attempt that failed
    book.write(0, 3, 1, np.array([3]))
    book.write(1, 3, 1, np.array([1, 4]))  # a client that was lost
    book.write(2, 4, 0, np.array([2]))  # another round
    assert book.counts(3, 1, (0, 2), 5).tolist() == [0, 0, 0, 1, 0]
    assert book.counts(4, 0, (2,), 5).tolist() == [0, 0, 1, 0, 0]


@pytest.mark.parametrize("dimension", [50, 160_000])
@pytest.mark.parametrize("clip_norm", [0.05, 1.0, 3.7])
def test_the_real_clip_and_grid_bring_a_canary_to_its_magnitude(dimension: int, clip_norm: float) -> None:
    grid = IntegerGrid.for_dimension(dimension, clip_norm)
    mine = Planted(coordinates=np.array([0, 2, 3]), notes=SampleNotes())
    rows = mine.gradients(
        np.array([0, 3]), dimension=dimension, n_canaries=4, clip_norm=clip_norm, micro_batch=1
    )
    parts = [torch.from_numpy(part) for part in rows]
    assert len(parts) == 2
    assert [float(part.norm()) for part in parts] == pytest.approx([GRADIENT_NORM * clip_norm] * 2)
    total = integer_sum(({"canaries": part} for part in parts), grid, dimension + 4)
    assert not total[:dimension].any()
    assert total[dimension:].tolist() == [magnitude(grid), 0, 0, magnitude(grid)]
    assert 0.999 * grid.norm_bound < magnitude(grid) <= grid.norm_bound


def test_coins_are_read_back_are_their_owner_s_alone_and_are_never_tossed_again(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    assert journal.read_terms() is None
    canaries = Canaries.flip(9, clients=2)
    terms = AuditTerms(canaries=canaries, confidence=0.9, false_alarm=0.02, planned_rounds=7)
    journal.write_terms(terms)
    again = journal.read_terms()
    assert again is not None
    assert np.array_equal(again.canaries.included, canaries.included)
    assert np.array_equal(again.canaries.owners, canaries.owners)
    assert (again.confidence, again.false_alarm, again.planned_rounds) == (0.9, 0.02, 7)
    assert journal.coins_path.stat().st_mode & 0o777 == 0o600
    with pytest.raises(RunError, match="tossed once"):
        journal.write_terms(terms)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        '{"owners": [0]}',
        '{"owners": [0, 1], "included": [1], "confidence": 0.9, "false_alarm": 0.1}',
    ],
)
def test_a_file_without_coins_is_refused(tmp_path: Path, text: str) -> None:
    journal = Journal(tmp_path)
    journal.coins_path.write_text(text)
    with pytest.raises(RunError, match="holds no coins"):
        journal.read_terms()


def test_rounds_are_read_back_as_they_were_written_but_for_a_torn_line(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    assert journal.rounds() == ()
    journal.append(notes(1, release="prototypes", sums=None, counts=None))
    journal.append(notes(2))
    with journal.lines_path.open("a") as file:
        file.write('{"round": 3, "sums": [1, 2')
    first, second = journal.rounds()
    assert first.sums is None
    for field in fields(RoundNotes):
        ours, theirs = getattr(second, field.name), getattr(notes(2), field.name)
        assert np.array_equal(ours, theirs), field.name
    journal.cut(1)
    assert [line.number for line in journal.rounds()] == [1]


def test_a_bad_line_in_the_middle_is_named(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.append(notes(1))
    journal.lines_path.write_text(journal.lines_path.read_text() + "{}\n")
    journal.append(notes(3))
    with pytest.raises(RunError, match="line 2"):
        journal.rounds()


def test_what_the_auditors_see_comes_from_the_rounds_that_carry_canaries() -> None:
    canaries = some_canaries()
    warm_up = notes(1, release="prototypes", sums=None, counts=None)
    assert observations(canaries, [warm_up]) is None
    seen = observations(canaries, [warm_up, notes(2), notes(3, survivors=(1, 2), noise_stddev=50.0)])
    assert seen is not None
    assert seen.n_rounds == 2
    assert seen.rates.tolist() == [[0.5, 0.5, 0.0, 0.5, 0.5], [0.0, 0.5, 0.5, 0.0, 0.5]]
    assert seen.noise_stddevs.tolist() == [40.0, 50.0]
    assert seen.residuals()[0].tolist() == [0, -3, 4, 0, 2]
    assert np.array_equal(seen.included, canaries.included)


def test_a_line_holds_the_canaries_coordinates_and_public_facts_alone() -> None:
    line = json.loads(notes(2).to_json())
    assert set(line) == {
        *("round", "attempt", "release", "survivors", "sampling_rate", "sensitivity", "noise_stddev"),
        *("magnitude", "sums", "counts"),
    }
    assert len(line["sums"]) == len(line["counts"]) == 5


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"canaries": -1}, "audit.canaries"),
        ({"canaries": 1 << 17}, "audit.canaries"),
        ({"confidence": 0.5}, "audit.confidence"),
        ({"confidence": 1.0}, "audit.confidence"),
        ({"false_alarm": 0.0}, "audit.false_alarm"),
        ({"false_alarm": float("nan")}, "audit.false_alarm"),
    ],
)
def test_settings_that_mean_nothing_are_refused_by_name(changes: dict[str, float], key: str) -> None:
    with pytest.raises(ConfigError) as caught:
        AuditSettings(**changes)
    assert caught.value.key == key
