"""A run among institutions: restarts between frames, late frames, what each of them counts."""

from __future__ import annotations

import json
import shutil
import stat
from pathlib import Path

import pytest

from secure_fed_diffusion.dp.ledger import verify
from secure_fed_diffusion.dp.shared import verify_shared
from secure_fed_diffusion.errors import (
    BudgetExceededError,
    ConfigError,
    FrameError,
    LedgerError,
    PhaseError,
    PolicyError,
    RunError,
    SecureAggregationError,
)
from secure_fed_diffusion.federation.heads import SignedHead
from secure_fed_diffusion.federation.records import read_records
from secure_fed_diffusion.federation.rounds import run_rounds
from secure_fed_diffusion.federation.server import Server
from secure_fed_diffusion.institution.check import check
from secure_fed_diffusion.institution.institution import Institution
from secure_fed_diffusion.institution.messages import Acceptance, enclose, join, leave
from secure_fed_diffusion.institution.run_files import close_run
from tests.institution.consortium import Coordinator, coordinator


class Attempts:
    """Counts the attempts that were opened, as a coordinator's own record does."""

    def __init__(self) -> None:
        self.opened: dict[int, int] = {}

    def attempts(self, round: int) -> int:  # noqa: A002
        return self.opened.get(round, 0)

    def paid(self, round: int) -> int:  # noqa: A002
        return self.opened.get(round, 0)

    def note(self, round: int, attempt: int) -> None:  # noqa: A002
        self.opened[round] = attempt + 1


@pytest.fixture
def consortium(tmp_path: Path) -> Coordinator:
    return coordinator(tmp_path / "consortium")


def home(of: Coordinator, client_id: int) -> Path:
    return of.paths[client_id].parent / "state"


def run_folder(of: Coordinator, client_id: int) -> Path:
    return home(of, client_id) / "runs" / of.run_id


def exchange(
    of: Coordinator, frames: dict[int, bytes], *, silent: set[int] = frozenset()
) -> dict[int, bytes]:
    return {
        client_id: of.institution(client_id).handle(enclose(of.run_id, frame))
        for client_id, frame in frames.items()
        if client_id not in silent
    }


def test_a_run_is_counted_by_each_institution_and_settled_when_it_ends(consortium: Coordinator) -> None:
    consortium.join()
    before = verify_shared(home(consortium, 0) / "spent.jsonl")
    assert before.holdings[consortium.run_id].counts == {"training": 3}  # two rounds and the reserved repeat
    rounds = run_rounds(
        consortium.plan, consortium.server, consortium.engine(), Attempts(), first=1, note=lambda text: None
    )
    for outcome in rounds:
        assert outcome.survivors == (0, 1, 2, 3)
        consortium.server.apply(outcome.total)
    head = SignedHead.decode(consortium.leave(0))
    assert head.is_genuine(consortium.run_id, consortium.roster)
    report = verify(run_folder(consortium, 0) / "ledger.jsonl")
    assert head.head.hex() == report.head
    assert report.terms.owner == 0
    assert report.most["training"] == 2
    after = verify_shared(home(consortium, 0) / "spent.jsonl")
    assert after.holdings[consortium.run_id].settled
    assert after.holdings[consortium.run_id].counts == {"training": 2}
    assert after.epsilon < before.epsilon


def test_the_audit_command_reads_an_institution_s_folder(consortium: Coordinator) -> None:
    consortium.join()
    exchange(consortium, consortium.server.open(1, 0))
    records = read_records(run_folder(consortium, 1))
    assert records.shared is not None
    assert records.shared.terms.dataset == "digits, part of institution-1"


def test_every_frame_may_meet_a_new_process(consortium: Coordinator) -> None:
    consortium.join()
    frames = consortium.server.open(1, 0)
    phases = []
    while frames:
        phases.append(consortium.server.phase)
        for client_id in range(4):
            consortium.restart(client_id) if client_id in consortium.institutions else None
        frames = consortium.server.take(exchange(consortium, frames))
    assert "masked_input" in phases
    assert "unmask" in phases
    assert consortium.server.survivors == (0, 1, 2, 3)


def test_a_frame_that_comes_again_after_a_restart_is_answered_as_before(consortium: Coordinator) -> None:
    consortium.join()
    frames = consortium.server.open(1, 0)
    first = exchange(consortium, frames)
    consortium.restart(2)
    assert exchange(consortium, {2: frames[2]})[2] == first[2]


def test_a_process_that_is_lost_before_its_contribution_has_spent_nothing(consortium: Coordinator) -> None:
    consortium.join()
    frames = consortium.server.open(1, 0)
    while consortium.server.phase != "masked_input":
        frames = consortium.server.take(exchange(consortium, frames))
    consortium.server.take(exchange(consortium, frames, silent={3}))
    assert verify(run_folder(consortium, 3) / "ledger.jsonl").most["training"] == 0
    assert verify(run_folder(consortium, 0) / "ledger.jsonl").most["training"] == 1


def test_a_late_frame_of_an_old_attempt_is_refused(consortium: Coordinator) -> None:
    consortium.join()
    old = consortium.server.open(1, 0)
    late = consortium.server.take(exchange(consortium, old))
    later = Server(
        consortium.run_id,
        consortium.plan,
        consortium.model,
        consortium.server._objective,
        roster=consortium.roster,
        heads=consortium.heads,
    )
    exchange(consortium, later.open(1, 1))
    with pytest.raises(SecureAggregationError):
        exchange(consortium, {0: late[0]})


def test_a_frame_of_a_run_that_was_never_joined_is_refused(consortium: Coordinator) -> None:
    frames = consortium.server.open(1, 0)
    with pytest.raises(PhaseError, match="never joined"):
        exchange(consortium, {0: frames[0]})
    assert not (home(consortium, 0) / "runs").exists()


def test_a_frame_of_a_run_that_was_left_is_refused_until_it_is_joined_again(consortium: Coordinator) -> None:
    consortium.join()
    frames = consortium.server.open(1, 0)
    exchange(consortium, frames)
    assert consortium.leave(0) == consortium.leave(0)
    with pytest.raises(PhaseError, match="has left"):
        exchange(consortium, {0: frames[0]})
    consortium.join(0)
    exchange(consortium, {0: consortium.server.open(1, 1)[0]})


def test_leaving_a_run_that_is_unknown_says_nothing(consortium: Coordinator) -> None:
    assert consortium.institution(0).handle(leave("77" * 16)) == b""


def test_a_second_run_is_refused_where_the_first_holds_the_budget(
    consortium: Coordinator, tmp_path: Path
) -> None:
    consortium.join()
    second = Coordinator(
        consortium.settings, consortium.folder, consortium.paths, "6b" * 16, consortium.institutions
    )
    with pytest.raises(BudgetExceededError, match="1 earlier runs hold"):
        second.join(0)
    assert not run_folder(second, 0).exists()


def test_the_first_run_goes_on_where_a_second_one_was_joined_in_between(consortium: Coordinator) -> None:
    for path in consortium.paths:
        path.write_text(path.read_text().replace("epsilon = 8.0", "epsilon = 30.0"))
    second = Coordinator(
        consortium.settings, consortium.folder, consortium.paths, "6b" * 16, consortium.institutions
    )
    consortium.join()
    frames = consortium.server.take(exchange(consortium, consortium.server.open(1, 0)))
    second.join()
    exchange(second, second.server.open(1, 0))
    exchange(consortium, frames)
    assert len(verify_shared(home(consortium, 0) / "spent.jsonl").holdings) == 2


def test_a_run_whose_agreement_changes_is_refused(consortium: Coordinator) -> None:
    from dataclasses import replace

    consortium.join()
    changed = replace(consortium.agreement, config_text=consortium.agreement.config_text + "\n# other\n")
    with pytest.raises(PolicyError, match="changes run"):
        consortium.institution(0).handle(join(changed))


def test_joining_again_changes_nothing(consortium: Coordinator) -> None:
    consortium.join()
    exchange(consortium, consortium.server.open(1, 0))
    kept = {p: p.read_bytes() for p in home(consortium, 0).rglob("*") if p.is_file()}
    consortium.join(0)
    consortium.restart(0)
    consortium.join(0)
    assert {p: p.read_bytes() for p in home(consortium, 0).rglob("*") if p.is_file()} == kept


def test_a_lost_account_is_noticed_before_the_run_goes_on(consortium: Coordinator) -> None:
    consortium.join()
    frames = consortium.server.open(1, 0)
    while consortium.server.phase != "consistency":
        frames = consortium.server.take(exchange(consortium, frames))
    consortium.restart(0)
    (home(consortium, 0) / "spent.jsonl").unlink()
    with pytest.raises(LedgerError, match="lost or exchanged"):
        consortium.join(0)
    with pytest.raises(PhaseError):
        exchange(consortium, {0: frames[0]})


def spend_one_round(of: Coordinator) -> None:
    """Play a whole round, and put institution 0's process down after it."""
    frames = of.server.open(1, 0)
    while frames:
        frames = of.server.take(exchange(of, frames))
    of.restart(0)


def test_no_further_run_is_joined_where_the_account_of_an_earlier_one_was_lost(
    consortium: Coordinator,
) -> None:
    consortium.join()
    spend_one_round(consortium)
    account = home(consortium, 0) / "spent.jsonl"
    whole = account.read_bytes()
    account.unlink()
    second = Coordinator(
        consortium.settings, consortium.folder, consortium.paths, "6b" * 16, consortium.institutions
    )
    with pytest.raises(LedgerError, match=r"run (5a)+ was charged 1 steps .* counts 0: .* restore it"):
        second.join(0)
    assert not account.exists()
    assert not run_folder(second, 0).exists()
    (found,) = [each for each in check(consortium.paths[0], connect=False) if each.what == "budget so far"]
    assert not found.holds
    assert "lost or exchanged" in found.found
    account.write_bytes(whole)
    with pytest.raises(BudgetExceededError, match="1 earlier runs hold"):
        second.join(0)


@pytest.mark.parametrize("kept", ["nothing of the later run", "the end that it was joined again after"])
def test_no_further_run_is_joined_where_the_account_was_put_back(consortium: Coordinator, kept: str) -> None:
    for path in consortium.paths:
        path.write_text(path.read_text().replace("epsilon = 8.0", "epsilon = 60.0"))
    first, later, third = (
        Coordinator(consortium.settings, consortium.folder, consortium.paths, run_id, consortium.institutions)
        for run_id in ("1a" * 16, "2b" * 16, "3c" * 16)
    )
    account = home(consortium, 0) / "spent.jsonl"
    first.join()
    if kept != "nothing of the later run":
        later.join()
        later.leave(0)  # settled for nothing
    earlier = account.read_bytes()
    later.join()
    spend_one_round(later)
    third.join(0)  # the whole file is no hindrance
    third.restart(0)
    account.write_bytes(earlier)
    with pytest.raises(LedgerError, match=r"run (2b)+ was charged 1 steps of 'training' here, .* counts 0"):
        third.join(0)


@pytest.mark.parametrize("lost", ["ledger.jsonl", "."])
def test_a_run_whose_own_ledger_is_lost_stays_counted_in_full(consortium: Coordinator, lost: str) -> None:
    consortium.join()
    frames = consortium.server.open(1, 0)
    while frames:
        frames = consortium.server.take(exchange(consortium, frames))
    consortium.restart(0)
    path = run_folder(consortium, 0) / lost
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    counted = verify_shared(home(consortium, 0) / "spent.jsonl")
    with pytest.raises(LedgerError, match="its own ledger is gone: it stays counted"):
        consortium.join(0)
    with pytest.raises((LedgerError, PhaseError)):
        exchange(consortium, {0: consortium.server.open(2, 0)[0]})
    consortium.institution(0).handle(leave(consortium.run_id))
    after = verify_shared(home(consortium, 0) / "spent.jsonl")
    assert after.epsilon == counted.epsilon > 0
    assert not after.holdings[consortium.run_id].settled


def played_and_put_down(consortium: Coordinator) -> tuple[Path, bytes]:
    """A round later, client 0's process gone: its ledger's path, and what was in it before."""
    consortium.join()
    ledger = run_folder(consortium, 0) / "ledger.jsonl"
    before = ledger.read_bytes()
    frames = consortium.server.open(1, 0)
    while frames:
        frames = consortium.server.take(exchange(consortium, frames))
    consortium.restart(0)
    return ledger, before


def test_a_rolled_back_ledger_is_noticed_at_the_next_announcement(consortium: Coordinator) -> None:
    ledger, before = played_and_put_down(consortium)
    shutil.rmtree(run_folder(consortium, 0) / "client")
    ledger.write_bytes(before)
    with pytest.raises(LedgerError, match="rolled back"):
        exchange(consortium, {0: consortium.server.open(2, 0)[0]})


@pytest.mark.parametrize("way", ["leave", "close by hand"])
def test_a_rolled_back_ledger_frees_nothing(consortium: Coordinator, way: str) -> None:
    ledger, before = played_and_put_down(consortium)
    charged = ledger.read_bytes()
    ledger.write_bytes(before)
    end = {
        "leave": lambda: consortium.institution(0).handle(leave(consortium.run_id)),
        "close by hand": lambda: close_run(home(consortium, 0), consortium.run_id),
    }[way]
    with pytest.raises(LedgerError, match="rolled back"):
        end()
    assert not verify_shared(home(consortium, 0) / "spent.jsonl").holdings[consortium.run_id].settled
    ledger.write_bytes(charged)  # the file as it was: nothing else stands in the way
    assert close_run(home(consortium, 0), consortium.run_id)
    assert verify_shared(home(consortium, 0) / "spent.jsonl").holdings[consortium.run_id].settled


def test_an_altered_agreement_on_disk_is_refused(consortium: Coordinator) -> None:
    consortium.join()
    consortium.restart(0)
    path = run_folder(consortium, 0) / "agreement.json"
    path.write_bytes(path.read_bytes().replace(b"noise_multiplier", b"noise_multiplies"))
    with pytest.raises(RunError, match="was altered"):
        exchange(consortium, {0: consortium.server.open(1, 0)[0]})


def test_two_processes_never_answer_for_one_institution(consortium: Coordinator) -> None:
    consortium.join()
    second = Institution.open(consortium.paths[0])
    with pytest.raises(RunError, match="in use"):
        second.handle(enclose(consortium.run_id, consortium.server.open(1, 0)[0]))


def test_a_changed_budget_is_not_taken_up(consortium: Coordinator) -> None:
    consortium.join(0)
    consortium.restart(0)
    path = consortium.paths[0]
    path.write_text(path.read_text().replace("epsilon = 8.0", "epsilon = 80.0"))
    with pytest.raises(ConfigError, match=r"budget.*begun with budget_epsilon = 8"):
        consortium.join(0)


@pytest.mark.parametrize(
    "frame", [b"", b"\x00", b"\x41", b"\x41short", b"\x42", b"\x43" + bytes(40), b"\xff"]
)
def test_what_is_no_frame_is_refused_by_name(consortium: Coordinator, frame: bytes) -> None:
    with pytest.raises(FrameError):
        consortium.institution(0).handle(frame)


def test_an_acceptance_of_another_client_or_agreement_is_refused(consortium: Coordinator) -> None:
    from dataclasses import replace

    reply = Acceptance.decode(consortium.institution(0).handle(join(consortium.agreement)))
    with pytest.raises(PolicyError, match="did not sign"):
        replace(reply, client_id=1).require(consortium.agreement, consortium.roster)
    with pytest.raises(FrameError, match="another agreement"):
        reply.require(replace(consortium.agreement, run_id="99" * 16), consortium.roster)
    with pytest.raises(FrameError):
        Acceptance.decode(reply.encode()[:-1])


def test_what_an_institution_keeps_names_no_number_of_records(consortium: Coordinator) -> None:
    consortium.join()
    exchange(consortium, consortium.server.open(1, 0))
    agreement = json.loads((run_folder(consortium, 0) / "agreement.json").read_text())
    assert set(agreement) == {
        "run_id",
        "config_text",
        "noise_multiplier",
        "image_shape",
        "class_names",
        "dimension",
        "roster_root",
        "plan_digest",
    }


def test_the_state_is_made_for_its_own_account_alone(tmp_path: Path) -> None:
    of = coordinator(tmp_path)
    of.join(0)
    assert stat.S_IMODE(home(of, 0).stat().st_mode) == 0o700
