"""One federation, two engines: the same weights to the bit, the same ledger, over the apps Flower loads."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("flwr", reason="the extra `flower` is not installed")

from secure_fed_diffusion.federation.folder import read_lines
from secure_fed_diffusion.federation.settings import MODES
from tests.flower_app.played import (
    Watcher,
    charges,
    in_process,
    leave_out_measurements,
    over_memory,
    simulated,
    tiny,
    weights,
)

SAME = ("round", "kind", "mode", "epsilon", "cohort", "survivors", "dropped", "attempt", "holdout_loss")


@pytest.fixture(autouse=True)
def _fast(monkeypatch: pytest.MonkeyPatch) -> None:
    leave_out_measurements(monkeypatch)


@pytest.mark.parametrize(
    "overrides",
    [
        *((f"privacy.mode={mode}",) for mode in MODES),
        ("privacy.mode=central", "federation.masked=false"),
        ("privacy.mode=distributed", "secagg.rounds_per_setup=3"),
        ("privacy.mode=distributed", "secagg.profile=semi_honest"),
        (
            "privacy.mode=distributed",
            "federation.vanish=[{round=2, client=%d, phase='unmask'}, {round=3, client=%d}]",
        ),
    ],
    ids=lambda overrides: " ".join(overrides).replace("privacy.mode=", "")[:40],
)
def test_both_engines_give_the_same_weights_to_the_bit(overrides: tuple[str, ...], tmp_path: Path) -> None:
    mode = overrides[0].removeprefix("privacy.mode=")
    more = list(overrides[1:])
    if more and "vanish" in more[0]:
        rounds = simulated(tmp_path / "schedule", tiny(mode)).plan.rounds
        more = [more[0] % (rounds[1].cohort[0], rounds[2].cohort[1])]
    settings = tiny(mode, *more)
    here, there = tmp_path / "in_process", tmp_path / "flower"
    told, heard = Watcher(), Watcher()
    in_process(here, settings, told)
    over_memory(simulated(there, settings), heard)
    ours, theirs = weights(here), weights(there)
    assert np.array_equal(ours[0], theirs[0])
    assert ours[1] == theirs[1]
    for one, other in zip(told.records, heard.records, strict=True):
        assert {key: one[key] for key in SAME} == {key: other[key] for key in SAME}
        assert one["bytes_up"] == other["bytes_up"]
    assert [line["round"] for line in read_lines(there / "metrics.jsonl")] == [1, 2, 3]
    ledgers = (there / "clients" / f"{client:04d}" / "ledger.jsonl" for client in range(5))
    own = sorted(itertools.chain(*(charges(ledger) for ledger in ledgers)))
    assert charges(here / "ledger.jsonl") == own
    n_gone = int("vanish" in "".join(more))  # of those who were asked, before they charged themselves
    asked = charges(there / "ledger.jsonl")
    assert set(own) <= set(asked)
    assert len(asked) - len(own) == n_gone
