"""Several runs on one data set: each sees what the others spent, and is refused before any work."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from secure_fed_diffusion import cli, config
from secure_fed_diffusion.dp.shared import verify_shared
from secure_fed_diffusion.errors import BudgetExceededError, ConfigError, LedgerError, RunError
from secure_fed_diffusion.federation.heads import HeadBook, SignedHead, read_roster
from secure_fed_diffusion.federation.prepare import prepare
from secure_fed_diffusion.federation.records import read_records
from secure_fed_diffusion.federation.run import Run
from secure_fed_diffusion.federation.settings import PrivacySettings
from secure_fed_diffusion.secagg import SigningKey
from tests.federation.small import settings_for

SMALLEST = (
    "data.train_limit=60",
    "federation.clients=3",
    "federation.clients_per_round=3",
    "federation.min_survivors=3",
    "federation.colluders=0",
    "federation.declared_records=60",
    "secagg.threshold=3",
    "model.channels=[4,4]",
    "warmup.draws=0",
    "modes.distributed.rounds=2",
    "modes.distributed.divisor=15",
    "modes.central.rounds=2",
    "privacy.epsilon=4.0",
    "privacy.accountant=rdp",
)


@pytest.fixture(autouse=True)
def _no_measurements(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out what costs time and touches no ledger."""
    monkeypatch.setattr(
        "secure_fed_diffusion.training.exactness.is_position_independent", lambda *_, **__: True
    )
    monkeypatch.setattr("secure_fed_diffusion.federation.assessment.Assessment.measure", lambda *_, **__: {})


@pytest.fixture
def spent(tmp_path: Path) -> Path:
    return tmp_path / "spent.jsonl"


class Watcher:
    def __init__(self, stop_after: int | None = None) -> None:
        self.stop_after = stop_after

    def round(self, record: dict[str, Any]) -> None:
        """Play Ctrl-C."""
        if record["round"] == self.stop_after:
            raise KeyboardInterrupt

    def note(self, text: str) -> None:
        """Say nothing."""


def make(folder: Path, spent: Path, budget: float, *overrides: str, resume: bool = False) -> Run:
    shared = (f'privacy.shared_ledger="{spent}"', f"privacy.shared_epsilon={budget}")
    settings = settings_for("distributed", *SMALLEST, *shared, *overrides)
    return prepare(settings, folder, config_text=config.dump(settings), resume=resume)


def finish(run: Run, stop_after: int | None = None) -> None:
    try:
        run.execute(Watcher(stop_after))
    finally:
        run.ledger.close()


def begin(*args: Any) -> None:
    """Make a run, which reserves its part, and leave it there."""
    make(*args).ledger.close()


def test_a_run_that_the_data_sets_budget_does_not_cover_is_refused_before_any_work(
    tmp_path: Path, spent: Path
) -> None:
    begin(tmp_path / "first", spent, 5.0)
    before = spent.read_bytes()
    with pytest.raises(
        BudgetExceededError, match=r"'digits' would reach .* budget is 5; 1 earlier runs hold"
    ):
        make(tmp_path / "second", spent, 5.0)
    assert not (tmp_path / "second").exists()
    assert spent.read_bytes() == before
    begin(tmp_path / "cheaper", spent, 5.0, "privacy.epsilon=1.0")
    assert verify_shared(spent).epsilon <= 5.0


def test_a_run_whose_data_sets_ledger_was_lost_does_not_go_on(tmp_path: Path, spent: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        finish(make(tmp_path / "run", spent, 5.0), stop_after=1)
    spent.unlink()
    begin(tmp_path / "other", spent, 5.0, "privacy.epsilon=1.0")
    with pytest.raises(LedgerError, match="was lost or exchanged"):
        make(tmp_path / "run", spent, 5.0, resume=True)


def test_a_run_is_counted_in_full_until_it_is_over(tmp_path: Path, spent: Path) -> None:
    run = make(tmp_path / "run", spent, 5.0)
    run_id = run.ledger.terms.run_id
    held = verify_shared(spent).holdings[run_id]
    assert (dict(held.counts), held.settled) == ({"training": 3}, False)  # two rounds and a repeat
    with pytest.raises(KeyboardInterrupt):
        finish(run, stop_after=1)
    assert not verify_shared(spent).holdings[run_id].settled
    finish(make(tmp_path / "run", spent, 5.0, resume=True))
    held = verify_shared(spent).holdings[run_id]
    assert (dict(held.counts), held.settled) == ({"training": 2}, True)
    before = spent.read_bytes()
    finish(make(tmp_path / "run", spent, 5.0, resume=True))  # nothing is left to do
    assert spent.read_bytes() == before


ROUNDS = "modes.distributed.rounds=3"


def stop(folder: Path, spent: Path, *, before_settling: bool, monkeypatch: pytest.MonkeyPatch) -> str:
    """Stop a run after its second round, or after its last before it settles; return its id."""
    run = make(folder, spent, 5.0, ROUNDS)
    with monkeypatch.context() as patch:
        if before_settling:
            patch.setattr(Run, "_finish", killed)
        with pytest.raises(KeyboardInterrupt):
            finish(run, stop_after=None if before_settling else 2)
    return run.ledger.terms.run_id


def killed(*_: object) -> None:
    raise KeyboardInterrupt


def cut(path: Path, lines: int) -> bytes:
    """Put a ledger back to its first lines; return what it was."""
    whole = path.read_bytes()
    path.write_bytes(b"".join(whole.splitlines(keepends=True)[:lines]))
    return whole


@pytest.mark.parametrize("before_settling", [False, True])
def test_a_rolled_back_ledger_settles_nothing_and_states_no_epsilon(
    tmp_path: Path, spent: Path, before_settling: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "run"
    run_id = stop(folder, spent, before_settling=before_settling, monkeypatch=monkeypatch)
    before = spent.read_bytes()
    whole = cut(folder / "ledger.jsonl", 4)
    with pytest.raises(LedgerError, match=r"line 5: it is missing: client . signed .* restore the file"):
        make(folder, spent, 5.0, ROUNDS, resume=True)
    assert spent.read_bytes() == before
    assert not (folder / "summary.json").exists()
    (folder / "ledger.jsonl").write_bytes(whole)
    finish(make(folder, spent, 5.0, ROUNDS, resume=True))
    held = verify_shared(spent).holdings[run_id]
    assert (dict(held.counts), held.settled) == ({"training": 3}, True)


def test_a_ledger_that_lost_a_finished_round_is_found_without_any_head(
    tmp_path: Path, spent: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "run"
    run_id = stop(folder, spent, before_settling=True, monkeypatch=monkeypatch)
    cut(folder / "ledger.jsonl", 7)
    for path in (folder / "heads.jsonl", *folder.glob("clients/*/peers.jsonl")):
        path.unlink()
    with pytest.raises(LedgerError, match="holds the sum of round 3, which nobody is charged for"):
        make(folder, spent, 5.0, ROUNDS, resume=True)
    assert not verify_shared(spent).holdings[run_id].settled


def test_what_is_signed_and_not_in_the_ledger_stops_a_run_before_it_settles(
    tmp_path: Path, spent: Path
) -> None:
    folder = tmp_path / "run"
    run = make(folder, spent, 5.0)
    run_id = run.ledger.terms.run_id

    class Beyond(Watcher):
        def round(self, record: dict[str, Any]) -> None:
            key = SigningKey(bytes.fromhex((folder / "clients" / "0001" / "signing.key").read_text()))
            book = HeadBook(
                run_id, read_roster(folder / "roster.json"), folder / "heads.jsonl", keep_all=True
            )
            if record["round"] == 2:
                book.learn(SignedHead.sign(key, run_id=run_id, client_id=1, line=99, head="ab" * 32))
                book.save()

    with pytest.raises(LedgerError, match="client 1 signed line 99"):
        run.execute(Beyond())
    run.ledger.close()
    assert not verify_shared(spent).holdings[run_id].settled
    assert not (folder / "summary.json").exists()


def test_a_kill_between_the_two_ledgers_costs_nothing(tmp_path: Path, spent: Path) -> None:
    begin(tmp_path / "run", spent, 5.0)
    spent.unlink()
    run = make(tmp_path / "run", spent, 5.0, resume=True)
    run.ledger.close()
    assert set(verify_shared(spent).holdings) == {run.ledger.terms.run_id}


def test_a_run_that_lost_the_race_lets_its_own_ledger_go(
    tmp_path: Path, spent: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin(tmp_path / "first", spent, 5.0)
    monkeypatch.setattr("secure_fed_diffusion.federation.shared_budget.SharedBudget.require", lambda _: None)
    for resume in (False, True):
        with pytest.raises(BudgetExceededError, match="earlier runs hold"):
            make(tmp_path / "second", spent, 5.0, resume=resume)


def test_a_run_with_a_trusted_server_shares_the_budget_of_one_without(tmp_path: Path, spent: Path) -> None:
    begin(tmp_path / "first", spent, 9.0)
    begin(tmp_path / "second", spent, 9.0, "privacy.mode=central")
    report = verify_shared(spent)
    guards = [holding.reservation.guard.key for holding in report.holdings.values()]
    assert guards == ["sum_c0", "released_model"]
    assert report.adversary == "every server but those of mode central, with no client"


def test_a_run_that_names_more_colluders_than_an_earlier_one_is_refused_where_that_one_costs_too_much_so(
    tmp_path: Path, spent: Path
) -> None:
    """Three shares of noise protect the first run from its server alone, one from a server with a client."""
    begin(tmp_path / "first", spent, 9.0)
    with pytest.raises(BudgetExceededError, match="this run is to withstand 1 colluder, and with it all"):
        make(tmp_path / "second", spent, 9.0, "federation.colluders=1", "privacy.epsilon=1.0")
    assert not (tmp_path / "second").exists()
    begin(tmp_path / "alike", spent, 9.0, "privacy.epsilon=1.0")


@pytest.mark.parametrize(
    "overrides", [("privacy.mode=none",), ("privacy.mode=client",), ("privacy.delta=1e-6",)]
)
def test_what_cannot_share_the_budget_is_refused(
    overrides: tuple[str, ...], tmp_path: Path, spent: Path
) -> None:
    begin(tmp_path / "first", spent, 9.0, "privacy.epsilon=1.0")
    with pytest.raises((BudgetExceededError, ConfigError)):
        make(tmp_path / "second", spent, 9.0, *overrides)
    assert not (tmp_path / "second").exists()


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"shared_ledger": "/a"}, "privacy.shared_ledger"),
        (
            {"shared_ledger": "a", "shared_epsilon": 3.0},
            "privacy.shared_ledger",
        ),  # depends on where one stands
        ({"shared_epsilon": 3.0}, "privacy.shared_ledger"),
        ({"shared_ledger": "/a", "shared_epsilon": 0.0}, "privacy.shared_epsilon"),
    ],
)
def test_half_a_shared_budget_is_refused_by_its_key(changes: dict[str, Any], key: str) -> None:
    with pytest.raises(ConfigError) as caught:
        PrivacySettings(**changes)
    assert caught.value.key == key


def test_the_audit_shows_both_ledgers(
    tmp_path: Path, spent: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    finish(make(tmp_path / "first", spent, 9.0))
    begin(tmp_path / "second", spent, 9.0)

    def audit(*words: object) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["sfd", "audit", *(str(word) for word in words)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        said = capsys.readouterr()
        return int(ended.value.code or 0), said.out + said.err

    status, words = audit(tmp_path / "first")
    assert status == 0
    assert "budget: ε = 4 (RDP) at δ = 1e-5, unit: example, relation: add_remove, view: sum_c0" in words
    assert f"data set digits: ε = {verify_shared(spent).epsilon:.4f} of 9 at δ = 1e-05 over 2 runs" in words
    status, answer = audit(tmp_path / "first", "--json")
    assert len(json.loads(answer)["shared"]["runs"]) == 2
    lines = spent.read_bytes().splitlines(keepends=True)
    spent.write_bytes(b"".join([*lines[:2], lines[2].replace(b'"training":2', b'"training":1'), *lines[3:]]))
    status, words = audit(tmp_path / "first")
    assert status == 1
    assert f"{spent}, line 3: " in words
    spent.unlink()
    status, words = audit(tmp_path / "first")
    assert status == 1
    assert "no shared ledger at" in words


def test_a_run_that_its_data_sets_ledger_does_not_know_is_found(tmp_path: Path, spent: Path) -> None:
    finish(make(tmp_path / "first", spent, 9.0))
    spent.unlink()
    begin(tmp_path / "second", spent, 9.0)
    read_records(tmp_path / "second")
    with pytest.raises(LedgerError, match="2 steps of 'training', 0 are counted for it"):
        read_records(tmp_path / "first")
    with pytest.raises(RunError, match="no ledger"):
        read_records(tmp_path)
