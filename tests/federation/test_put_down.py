"""A client that is put down after every frame, killed while it answers, or rolled back."""

from __future__ import annotations

import shutil
import stat
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from secure_fed_diffusion.dp.chain import decode
from secure_fed_diffusion.entropy import system
from secure_fed_diffusion.errors import PhaseError, PolicyError, PrivacyError, RunError
from secure_fed_diffusion.federation.plan import Plan
from secure_fed_diffusion.federation.rounds import Outcome, run_rounds
from secure_fed_diffusion.federation.state import LATCH, STATE, ClientFiles, FileLatch
from secure_fed_diffusion.training.vectors import flatten
from tests.federation.lasting import Child, Institution, with_folders
from tests.federation.small import Federation, federation, settings_for

ONE, SEVERAL = "secagg.rounds_per_setup=1", "secagg.rounds_per_setup=5"
SHORT = ("warmup.draws=0", "modes.none.rounds=2", "modes.distributed.rounds=2")


def play(it: Federation) -> torch.Tensor:
    for outcome in run_rounds(it.plan, it.server, it.engine, it.book, first=1, note=print):
        it.server.apply(outcome.total)
    return flatten(it.server.model)


@pytest.mark.parametrize("profile", ["active", "semi_honest"])
@pytest.mark.parametrize("rounds_per_setup", [ONE, SEVERAL])
def test_clients_put_down_after_every_frame_give_the_same_weights(
    rounds_per_setup: str, profile: str, tmp_path: Path
) -> None:
    settings = settings_for("distributed", rounds_per_setup, f"secagg.profile={profile}", *SHORT)
    expected = play(federation(settings, noise=False, seed="same"))
    it = federation(settings, noise=False, seed="same")
    with_folders(it, tmp_path, purse=it.book)
    assert torch.equal(play(it), expected)
    assert len(it.book.charges) == 2 * 5


class Noisy:
    """Contributes fresh noise at each call, whatever the model: two calls never agree."""

    def __init__(self, client_id: int, plan: Plan) -> None:
        self.client_id, self.plan = client_id, plan

    def vector(self, release, weights, *, number: int, attempt: int):
        return np.frombuffer(system(8 * release.length), dtype=np.uint64)


def small_and_noisy(folder: Path, *overrides: str) -> tuple[Federation, dict[int, Institution]]:
    """Six clients whose ledgers, in mode none, cost no time."""
    it = federation(settings_for("none", *SHORT, *overrides))
    them = with_folders(it, folder)
    for client_id, institution in them.items():
        institution.contributor = Noisy(client_id, it.plan)
        it.engine.handlers[client_id] = it.clients[client_id].handle  # most of them live in memory
        it.clients[client_id]._contributor = institution.contributor
    return it, them


def first_round(it: Federation) -> Outcome:
    return next(run_rounds(it.plan, it.server, it.engine, it.book, first=1, note=print))


def charges(folder: Path) -> list[tuple[int, int]]:
    path = folder / "ledger.jsonl"
    data = path.read_bytes() if path.exists() else b""
    return [(entry.fields["round"], entry.fields["attempt"]) for entry in decode(data)[0][1:]]


def killed_at(event: int, phase: int, rounds_per_setup: str, folder: Path) -> tuple[bool, list[object]]:
    """Kill one client at an event of one exchange, then send it the same frame again.

    Returns whether it was killed, and its two answers to the frame after that.
    """
    it, them = small_and_noisy(folder, rounds_per_setup)
    victim = it.plan.rounds[0].cohort[1]
    child = Child(them[victim].handle)
    seen: list[bytes] = []
    said: list[object] = []

    def handle(frame: bytes) -> bytes:
        seen.append(frame)
        if len(seen) - 1 == phase:
            child.last = event
            first, child.last = child(frame), None
            if first is not None:
                said.append(None)
            said.extend((child(frame), child(frame)))
            answer = said[-1]
        else:
            answer = child(frame)
        if isinstance(answer, str):
            raise RunError(answer)
        assert answer is not None
        return answer

    it.engine.handlers[victim] = handle
    outcome = first_round(it)
    assert set(it.plan.rounds[0].cohort) - {victim} <= set(outcome.survivors)
    assert max(Counter(charges(them[victim].folder)).values(), default=0) <= 1
    if victim in outcome.survivors:
        assert charges(them[victim].folder) == [(1, 0)]
    killed = len(said) == 2
    return killed, said


def check_kill(event: int, phase: int, rounds_per_setup: str, folder: Path) -> str:
    """Check that a killed client answers with one frame for good, or with an error of the tree."""
    killed, said = killed_at(event, phase, rounds_per_setup, folder)
    if not killed:
        return "survived"
    again, once_more = said
    if isinstance(again, bytes):
        assert again == once_more
        return "answered"
    assert isinstance(once_more, str)
    assert again.split(":")[0] in ("PrivacyError", "PolicyError", "PhaseError")
    return again.split(":")[0]


@pytest.mark.parametrize("rounds_per_setup", [ONE, SEVERAL])
@pytest.mark.parametrize("event", [1, 4, 9])
def test_a_killed_client_answers_the_same_frame_alike_or_not_at_all(
    event: int, rounds_per_setup: str, tmp_path: Path
) -> None:
    assert check_kill(event, 2, rounds_per_setup, tmp_path) != "survived"


@pytest.mark.slow
@pytest.mark.parametrize("rounds_per_setup", [ONE, SEVERAL])
@pytest.mark.parametrize("phase", range(5))
def test_every_point_of_every_exchange_may_be_the_last(
    phase: int, rounds_per_setup: str, tmp_path: Path
) -> None:
    endings = []
    while not endings or endings[-1] != "survived":
        event = len(endings) + 1
        endings.append(check_kill(event, phase, rounds_per_setup, tmp_path / str(event)))
    print(phase, rounds_per_setup, endings)
    assert endings.count("answered") >= 1  # the last event is after the state was written
    if phase in (0, 1, 2):  # fresh keys, shares or noise: nothing can be made again after the latch
        assert set(endings) & {"PrivacyError", "PolicyError"}


def first_frames(it: Federation, client_id: int) -> list[tuple[bytes, bytes]]:
    """Note the frames of one client in the first round, and its answers."""
    noted: list[tuple[bytes, bytes]] = []
    honest = it.engine.handlers[client_id]

    def handle(frame: bytes) -> bytes:
        noted.append((frame, honest(frame)))
        return noted[-1][1]

    it.engine.handlers[client_id] = handle
    first_round(it)
    return noted


@pytest.mark.parametrize("rounds_per_setup", [ONE, SEVERAL])
def test_the_last_frame_is_answered_again_and_no_other(rounds_per_setup: str, tmp_path: Path) -> None:
    it, them = small_and_noisy(tmp_path, rounds_per_setup)
    me = it.plan.rounds[0].cohort[0]
    it.engine.handlers[me] = them[me].handle
    noted = first_frames(it, me)
    assert len(noted) == 5
    assert them[me].handle(noted[-1][0]) == noted[-1][1]
    for frame, _ in noted[1:-1]:
        with pytest.raises((PhaseError, PrivacyError)):
            them[me].handle(frame)
    with pytest.raises(PolicyError, match="answered before"):
        them[me].handle(noted[0][0])
    assert charges(them[me].folder) == [(1, 0)]


@pytest.mark.parametrize("rounds_per_setup", [ONE, SEVERAL])
def test_a_state_that_is_put_back_makes_no_second_contribution(rounds_per_setup: str, tmp_path: Path) -> None:
    it, them = small_and_noisy(tmp_path, rounds_per_setup)
    me = it.plan.rounds[0].cohort[0]
    folder, honest = them[me].folder, them[me].handle
    backups: list[Path] = []

    def handle(frame: bytes) -> bytes:
        if folder.exists():
            backups.append(tmp_path / f"backup{len(backups)}")
            shutil.copytree(folder, backups[-1])
        return honest(frame)

    it.engine.handlers[me] = handle
    noted = first_frames(it, me)
    masked_input = noted[2][0]
    before = backups[1]  # of the third frame
    shutil.copy(before / STATE, folder / STATE)
    with pytest.raises(PrivacyError, match="was charged before"):
        honest(masked_input)
    shutil.copy(before / STATE, folder / STATE)
    shutil.copy(before / "ledger.jsonl", folder / "ledger.jsonl")
    with pytest.raises(PolicyError, match="answered before, in another way"):
        honest(masked_input)


def test_a_folder_that_is_put_back_whole_is_shown_by_the_head_that_it_signed(tmp_path: Path) -> None:
    it, them = small_and_noisy(tmp_path, SEVERAL)
    rounds = [planned.cohort for planned in it.plan.rounds]
    me = next(iter(set(rounds[0]) & set(rounds[1])))
    for institution in them.values():
        institution.heads = True
    it.engine.handlers = {c: institution.handle for c, institution in them.items()}
    from secure_fed_diffusion.federation.heads import HeadBook

    it.server._heads = HeadBook("run", them[me].roster)
    loop = run_rounds(it.plan, it.server, it.engine, it.book, first=1, note=print)
    folder, honest = them[me].folder, them[me].handle
    backups: list[Path] = []

    def handle(frame: bytes) -> bytes:
        if folder.exists():
            backups.append(tmp_path / f"backup{len(backups)}")
            shutil.copytree(folder, backups[-1])
        return honest(frame)

    it.engine.handlers[me] = handle
    it.server.apply(next(loop).total)
    shutil.rmtree(folder)
    shutil.copytree(backups[1], folder)  # before its first contribution: its slot, its charge, its latch
    it.book.charges.append((0, 1, 0, "training", 1))
    said: list[str] = []

    def watched(frame: bytes) -> bytes:
        try:
            return honest(frame)
        except Exception as error:
            said.append(str(error))
            raise

    it.engine.handlers[me] = watched
    assert me not in next(loop).survivors
    assert "it was rolled back" in said[0]


def test_the_state_is_for_its_owner_alone_and_the_latch_holds_no_secret(tmp_path: Path) -> None:
    it, them = small_and_noisy(tmp_path, SEVERAL)
    me = it.plan.rounds[0].cohort[0]
    it.engine.handlers[me] = them[me].handle
    first_round(it)
    assert stat.S_IMODE((them[me].folder / STATE).stat().st_mode) == 0o600
    assert not list(them[me].folder.glob("*.new"))
    lines = (them[me].folder / LATCH).read_text().splitlines()
    assert [len(line.split(" ")[1]) for line in lines] == [64] * 5  # digests of what left


@pytest.mark.parametrize("change", ["run", "plan", "client", "cut", "flipped"])
def test_a_state_of_another_or_a_damaged_one_is_refused(change: str, tmp_path: Path) -> None:
    it, them = small_and_noisy(tmp_path, SEVERAL)
    me, other = it.plan.rounds[0].cohort[:2]
    it.engine.handlers[me] = them[me].handle
    noted = first_frames(it, me)
    path = them[me].folder / STATE
    data = path.read_bytes()
    if change == "plan":
        longer = federation(settings_for("none", *SHORT, "modes.none.learning_rate=0.5"))
        them[me].contributor = Noisy(me, longer.plan)
    elif change == "client":
        them[me].contributor, them[me].key = Noisy(other, it.plan), them[other].key
    elif change == "run":
        path.write_bytes(data.replace(b'"run":"run"', b'"run":"fun"'))
    else:
        path.write_bytes(data[:-1] if change == "cut" else data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(RunError, match=r"another run, plan, client|cut or damaged"):
        them[me].handle(noted[-1][0])


def test_two_processes_do_not_answer_for_one_client(tmp_path: Path) -> None:
    with ClientFiles(tmp_path), pytest.raises(RunError, match="in use by another process"):
        ClientFiles(tmp_path)
    ClientFiles(tmp_path).close()


def test_a_latch_remembers_what_was_whole_and_forgets_what_was_torn(tmp_path: Path) -> None:
    latch = FileLatch(tmp_path / LATCH)
    assert latch(b"step", b"one")
    latch.close()
    with (tmp_path / LATCH).open("ab") as file:
        file.write(b"aa")  # a kill came here: nothing left for it
    latch = FileLatch(tmp_path / LATCH)
    assert not latch(b"step", b"two")
    assert latch(b"\xaa", b"three")
    latch.close()
    with pytest.raises(RunError, match="closed"):
        latch(b"more", b"four")
    (tmp_path / LATCH).write_bytes(b"not hexadecimal\n")
    with pytest.raises(RunError, match="was altered"):
        FileLatch(tmp_path / LATCH)


def test_a_client_in_memory_is_not_put_down(tmp_path: Path) -> None:
    it = federation(settings_for("none", *SHORT))
    with pytest.raises(PhaseError, match="lives in memory alone"):
        it.clients[0].save()
