"""An institution's process is lost before each phase of a round: who is in the sum, and what the records say.

The same failures of real processes are in `tests/deployment`.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from secure_fed_diffusion.dp.ledger import Ledger, verify
from secure_fed_diffusion.engines.in_process import InProcessEngine
from secure_fed_diffusion.errors import RunError
from secure_fed_diffusion.federation.book import Book, BookedServer
from secure_fed_diffusion.federation.rounds import run_rounds
from secure_fed_diffusion.institution.keys import read_signing_key
from secure_fed_diffusion.secagg import codec
from secure_fed_diffusion.secagg.messages import Shares
from secure_fed_diffusion.secagg.phases import Kind
from secure_fed_diffusion.secagg.signing import SIGNATURE_BYTES
from tests.institution.consortium import Coordinator, coordinator

PHASES = ("advertise", "share_keys", "masked_input", "consistency", "unmask")
LOST = 3


def with_book(of: Coordinator, folder: Path) -> Book:
    """Give the coordinator its own record, as it has it where clients are other processes."""
    folder.mkdir()
    terms = of.plan.terms(of.run_id, of.agreement.config_digest, by_server=True)
    book = Book(Ledger.create(folder / "ledger.jsonl", terms), folder / "attempts.txt")
    of.server = BookedServer(
        of.run_id, of.plan, of.model, of.server._objective, book=book, heads=of.heads, roster=of.roster
    )
    return book


def charges(ledger: Path) -> set[tuple[int, int, int]]:
    verify(ledger)
    lines = [json.loads(line) for line in ledger.read_text().splitlines()[1:]]
    return {(line["client_id"], line["round"], line["attempt"]) for line in lines}


@pytest.mark.parametrize("phase", PHASES)
def test_a_process_that_is_lost_before_a_phase_costs_that_round_alone(tmp_path: Path, phase: str) -> None:
    of = coordinator(tmp_path / "consortium")
    book = with_book(of, tmp_path / "server")
    of.join()
    lost_at = PHASES.index(phase)

    def absent(number: int, client_id: int, at: str) -> bool:
        gone = number == 1 and client_id == LOST and PHASES.index(at) >= lost_at
        if gone and LOST in of.institutions:
            of.restart(LOST)  # its memory is gone, its disk is not
        return gone

    engine = InProcessEngine(dict(of.handlers()), absent)
    rounds = run_rounds(of.plan, of.server, engine, book, first=1, note=lambda text: None)
    first, second = (next(rounds), next(rounds))
    contributed = lost_at > PHASES.index("masked_input")
    assert first.survivors == ((0, 1, 2, 3) if contributed else (0, 1, 2))
    assert first.dropped == {LOST: phase}
    assert second.survivors == (0, 1, 2, 3)
    assert (first.attempt, second.attempt) == (0, 0)
    counted = charges(tmp_path / "server" / "ledger.jsonl")
    asked = lost_at >= PHASES.index("masked_input")
    assert ((LOST, 1, 0) in counted) == asked
    for client_id, path in enumerate(of.paths):
        own = charges(path.parent / "state" / "runs" / of.run_id / "ledger.jsonl")
        assert own <= counted
        for outcome in (first, second):
            if client_id in outcome.survivors:
                assert (client_id, outcome.planned.number, outcome.attempt) in own


def test_too_few_that_are_left_end_the_run_by_name_and_the_next_run_goes_on(tmp_path: Path) -> None:
    of = coordinator(tmp_path / "consortium", "federation.reserved_attempts=0")
    for path in of.paths:
        path.write_text(path.read_text().replace("epsilon = 8.0", "epsilon = 30.0"))
    book = with_book(of, tmp_path / "server")
    of.join()
    engine = InProcessEngine(dict(of.handlers()), lambda number, client_id, at: client_id >= 2)
    with pytest.raises(RunError, match=r"round 1 failed, and all repeats .* are used"):
        next(run_rounds(of.plan, of.server, engine, book, first=1, note=lambda text: None))
    again = Coordinator(of.settings, of.folder, of.paths, "6b" * 16, of.institutions)
    book = with_book(again, tmp_path / "again")
    again.join()
    outcomes = run_rounds(again.plan, again.server, again.engine(), book, first=1, note=lambda text: None)
    assert [outcome.survivors for outcome in outcomes] == [(0, 1, 2, 3)] * 2


@pytest.mark.parametrize("rounds_per_setup", [1, 2])
def test_a_client_that_seals_garbage_costs_nobody_a_charge(tmp_path: Path, rounds_per_setup: int) -> None:
    """All refuse and name it; nobody's record was touched for a round that could have no sum."""
    of = coordinator(tmp_path / "consortium", f"secagg.rounds_per_setup={rounds_per_setup}")
    book = with_book(of, tmp_path / "server")
    of.join()
    handlers = dict(of.handlers())

    def saboteur(frame: bytes) -> bytes:
        answer = handlers[LOST](frame)
        return garbled(of, answer) if phase_of(answer) is Kind.SHARES else answer

    engine = InProcessEngine({**handlers, LOST: saboteur})
    with pytest.raises(RunError) as caught:
        next(run_rounds(of.plan, of.server, engine, book, first=1, note=lambda text: None))
    assert f"the shares that client {LOST} sealed" in str(caught.value)
    for client_id in range(LOST):
        path = of.paths[client_id]
        assert charges(path.parent / "state" / "runs" / of.run_id / "ledger.jsonl") == set()


def phase_of(answer: bytes) -> Kind | None:
    return codec.peek_kind(answer) if answer[:4] == codec.MAGIC else None


def garbled(of: Coordinator, answer: bytes) -> bytes:
    """Flip a bit of each share that this client sealed, and sign that."""
    session_id = answer[codec.HEADER_BYTES - 32 : codec.HEADER_BYTES]
    params = of.plan.secagg_params("training")
    shares = Shares.decode(memoryview(answer)[codec.HEADER_BYTES : -SIGNATURE_BYTES], params)
    sealed = {v: bytes([part[0] ^ 1]) + part[1:] for v, part in shares.sealed.items()}
    payload = Shares(commitments=shares.commitments, sealed=sealed).encode(params)
    signed = codec.signed_bytes(Kind.SHARES, session_id=session_id, client_id=LOST, payload=payload)
    signature = read_signing_key(of.paths[LOST].parent / "signing.key").sign(signed)
    return codec.pack(
        Kind.SHARES, session_id=session_id, client_id=LOST, payload=payload, signature=signature
    )
