"""The benchmark of a round counts every second once, and for the part that it belongs to."""

from __future__ import annotations

import time
from typing import Any

import pytest

from secure_fed_diffusion.benchmarks import round as round_benchmark
from secure_fed_diffusion.benchmarks.meter import Meter
from secure_fed_diffusion.benchmarks.round import GRADIENTS, PARTS
from secure_fed_diffusion.errors import ConfigError

TINY = [
    "federation.clients=3",
    "federation.clients_per_round=3",
    "federation.min_survivors=3",
    "federation.declared_records=48",
    "secagg.threshold=3",
    "model.channels=[8, 8]",
    "model.norm_groups=4",
    "model.attention_head_dim=4",
    "modes.distributed.sampling_rate=0.25",
    "modes.distributed.divisor=12",
    "modes.distributed.micro_batch=16",
]


@pytest.fixture(scope="module")
def figures() -> dict[str, Any]:
    return round_benchmark.run(overrides=TINY)


def test_both_ways_have_every_part_and_shares_of_one_whole(figures: dict[str, Any]) -> None:
    parts = {part for _, _, part in PARTS}
    for way in ("alone", "together"):
        shares = figures["shares"][way]
        assert set(shares) == {*parts, "all_but_gradients"}
        assert set(figures["seconds"][way]) == parts
        assert all(0 <= share < 1 for share in shares.values())
        assert 0 < shares[GRADIENTS] < 1
        assert sum(shares[part] for part in parts) == pytest.approx(1.0, abs=0.2)  # medians, one by one
        assert shares["all_but_gradients"] == pytest.approx(1 - shares[GRADIENTS], abs=1e-9)
        for part in (GRADIENTS, "clip_and_round", "key_setup", "frames"):
            assert figures["seconds"][way][part] > 0
    assert 0 < figures["together_over_alone"] < 2


def test_what_was_counted_is_put_back(figures: dict[str, Any]) -> None:
    for place, name, _ in PARTS:
        assert "counted" not in getattr(place, name).__qualname__


def test_a_part_inside_another_is_counted_once(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 1.0, 4.0, 10.0])
    monkeypatch.setattr(time, "process_time", lambda: next(clock))
    meter = Meter()
    with meter.running("outer"), meter.running("inner"):
        pass
    assert meter.spent == {"outer": 7.0, "inner": 3.0}


def test_what_is_computed_step_by_step_is_counted_for_its_own_part() -> None:
    meter, seen = Meter(), []

    def numbers() -> Any:
        yield 1
        yield 2

    with meter.running("outside"):
        seen += [(number, [part for part, _ in meter._open]) for number in meter.around("inside", numbers)()]
    assert seen == [(1, ["outside"]), (2, ["outside"])]
    assert set(meter.spent) == {"outside", "inside"}


def test_fewer_than_three_repetitions_are_refused() -> None:
    with pytest.raises(ConfigError, match="repetitions"):
        round_benchmark.run(repetitions=2)
