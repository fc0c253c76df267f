"""A client that outlives its process answers as if nothing had happened, and never in two ways."""

from __future__ import annotations

import copy
import json
import pickle
from collections.abc import Iterator
from hashlib import sha256
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secure_fed_diffusion import secagg
from secure_fed_diffusion.errors import ConfigError, FrameError, PhaseError, PolicyError
from secure_fed_diffusion.secagg.phases import DONE, FAILED, VERIFY, Step

from .forging import survivor_frame, unmask_shares_of
from .rounds import CASES, Round, fixed_entropy, make_params, make_session, model_of, signing_key

STEPS = [(case, step) for case in CASES for step in make_params(**CASES[case]).steps]


def name(value: object) -> str:
    return value.phase if isinstance(value, Step) else str(value)


class Disk:
    """A latch that a restarted process finds as it was; `keys` are those that were written."""

    def __init__(self) -> None:
        self.keys: dict[bytes, bytes] = {}

    def __call__(self, key: bytes, value: bytes) -> bool:
        return self.keys.setdefault(key, value) == value


def latched(case: str, **changes: Any) -> tuple[Round, Disk]:
    disk = Disk()
    return Round(make_session(make_params(**(CASES[case] | changes))), latches={0: disk}), disk


def restored(a_round: Round, snapshot: bytes, disk: secagg.Latch, label: str = "after") -> secagg.Client:
    return secagg.Client.restore(
        a_round.session,
        0,
        snapshot,
        latch=disk,
        policy=a_round.policy,
        entropy=fixed_entropy(label),
        signer=signing_key(0) if a_round.session.params.signed else None,
    )


def content_of(client: secagg.Client) -> Any:
    """The JSON in a client's snapshot, behind its checksum."""
    return json.loads(client.snapshot()[32:])


def snapshot_of(content: bytes) -> bytes:
    """What a version of us with a fault, not a damaged disk, could have written."""
    return sha256(content).digest() + content


def to_phase(a_round: Round, phase: str) -> Round:
    return a_round.run_to(DONE if phase == VERIFY.phase else phase)


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize(("case", "step"), STEPS, ids=name)
def test_a_client_restored_at_any_step_finishes_with_the_exact_sum(case: str, step: Step, when: str) -> None:
    """Crashed before it answered, or after its answer had left."""
    a_round, disk = latched(case)
    to_phase(a_round, step.phase)
    if when == "before":
        a_round.clients[0] = restored(a_round, a_round.clients[0].snapshot(), disk)
        assert a_round.clients[0].phase == step.phase
    elif step.sends is not None:
        frames = a_round.answers()
        a_round.clients[0] = restored(a_round, a_round.clients[0].snapshot(), disk)
        a_round.close(frames)
    a_round.finish()
    assert a_round.is_exact()
    assert 0 in a_round.server.survivors
    assert all(np.array_equal(total, a_round.server.total) for total in a_round.verified().values())


@pytest.mark.parametrize("case", [case for case in CASES if case != "unsafe_unmasked"])
def test_a_client_restored_after_every_frame_of_three_rounds_stays_exact(case: str) -> None:
    a_round, disk = latched(case, n_rounds=3)
    for number in range(3):
        if number:
            a_round.begin(number)
        while a_round.server.phase != DONE:
            frames = a_round.answers(without=[1] if a_round.server.phase == "masked_input" else [])
            a_round.clients[0] = restored(a_round, a_round.clients[0].snapshot(), disk, f"{len(disk.keys)}")
            a_round.close(frames)
        assert a_round.is_exact()
        a_round.verified()
        a_round.clients[0] = restored(a_round, a_round.clients[0].snapshot(), disk)


# Two copies.


def two_copies(a_round: Round, disk: Disk) -> tuple[secagg.Client, secagg.Client]:
    snapshot = a_round.clients[0].snapshot()
    return restored(a_round, snapshot, disk, "one"), restored(a_round, snapshot, disk, "other")


def test_two_copies_never_unmask_two_survivor_sets() -> None:
    a_round, disk = latched("semi_honest")
    a_round.run_to("unmask")
    one, other = two_copies(a_round, disk)
    first = one.unmask(survivor_frame(a_round, 0, (0, 1, 2, 3)))
    with pytest.raises(PolicyError, match="answered before, in another way"):
        other.unmask(survivor_frame(a_round, 0, (0, 1, 2, 4)))
    assert other.phase == FAILED
    third = restored(a_round, a_round.clients[0].snapshot(), disk)
    assert third.unmask(survivor_frame(a_round, 0, (0, 1, 2, 3))) == first  # a lost reply can be sent again


def test_without_the_latch_two_copies_would_give_both_kinds_of_share() -> None:
    """The control: what the test above would look like to a latch that forgets."""
    a_round = latched("semi_honest")[0].run_to("unmask")
    snapshot = a_round.clients[0].snapshot()
    kinds = set()
    for ids in ((0, 1, 2, 3), (0, 1, 2, 4)):
        copy = restored(a_round, snapshot, lambda key, value: True)
        shares = unmask_shares_of(a_round, copy.unmask(survivor_frame(a_round, 0, ids)))
        kinds.add("self_mask" if 4 in shares.self_mask else "mask_key")
    assert kinds == {"self_mask", "mask_key"}


@pytest.mark.parametrize("case", ["active", "active_sparse", "verifiable"])
def test_two_copies_never_sign_two_survivor_sets(case: str) -> None:
    a_round, disk = latched(case)
    a_round.run_to("consistency")
    one, other = two_copies(a_round, disk)
    everyone = a_round.session.cohort
    one.consistency(survivor_frame(a_round, 0, everyone))
    with pytest.raises(PolicyError, match="answered before"):
        other.consistency(survivor_frame(a_round, 0, everyone[:-1]))


def test_two_copies_never_mask_two_vectors() -> None:
    a_round, disk = latched("semi_honest")
    a_round.run_to("masked_input")
    one, other = two_copies(a_round, disk)
    frame, vector = a_round.inbox[0], a_round.vectors[0]
    first = one.masked_input(frame, vector)
    with pytest.raises(PolicyError, match="answered before"):
        other.masked_input(frame, a_round.vectors[1])
    third = restored(a_round, a_round.clients[0].snapshot(), disk)
    assert third.masked_input(frame, vector) == first


def test_two_copies_never_share_their_secrets_twice_differently() -> None:
    """Two sharings of one secret with different coins would give an observer twice the shares."""
    a_round, disk = latched("semi_honest")
    a_round.run_to("share_keys")
    one, other = two_copies(a_round, disk)
    one.share_keys(a_round.inbox[0])
    with pytest.raises(PolicyError, match="answered before"):
        other.share_keys(a_round.inbox[0])


def test_two_copies_never_choose_twice_and_no_client_advertises_twice() -> None:
    a_round, disk = latched("active_sparse")
    a_round.answer(0)
    with pytest.raises(PolicyError, match="answered before"):
        a_round.new_client(0, latch=disk, label="another").advertise()
    a_round, disk = latched("active_sparse", n_clients=15)
    a_round.run_to("choose")
    one, other = two_copies(a_round, disk)
    one.choose(a_round.inbox[0])
    with pytest.raises(PolicyError, match="answered before"):
        other.choose(a_round.inbox[0])


@pytest.mark.parametrize("difference", ["model", "participants"])
def test_two_copies_never_use_the_secrets_of_one_round_under_two_ids(difference: str) -> None:
    """A round's shares are the same whatever model or participants its id names."""
    a_round, disk = latched("semi_honest", n_rounds=2)
    a_round.finish()
    one, other = two_copies(a_round, disk)
    a_round.clients[0] = one
    a_round.begin(1).run_to("unmask")
    one.unmask(survivor_frame(a_round, 0, (0, 1, 2, 3)))
    twin = Round(a_round.session).finish()
    twin.clients[0] = other
    if difference == "model":
        twin.begin(1, model_digest=model_of(9))
    else:
        twin.begin(1, participants=(0, 1, 2, 4))
    with pytest.raises(PolicyError, match="masked_input of this session was answered before"):
        twin.answer(0)
    assert other.phase == FAILED


def test_a_latch_that_cannot_write_stops_the_answer() -> None:
    def full(key: bytes, value: bytes) -> bool:
        raise OSError("no space left")

    a_round = Round(latches={0: full})
    with pytest.raises(OSError, match="no space"):
        a_round.answer(0)
    assert a_round.clients[0].phase == FAILED


@pytest.mark.parametrize("answer", [None, 1, "yes"])
def test_a_latch_that_does_not_say_whether_its_value_is_there_stops_the_answer(answer: Any) -> None:
    client = secagg.Client(make_session(), 0, latch=lambda key, value: answer)
    with pytest.raises(ConfigError, match="latch: expected True or False"):
        client.advertise()
    assert client.phase == FAILED


def test_no_client_is_restored_without_a_latch() -> None:
    a_round, _ = latched("semi_honest")
    saved = a_round.run_to("masked_input").clients[0].snapshot()
    with pytest.raises(ConfigError, match="latch: expected the latch"):
        secagg.Client.restore(a_round.session, 0, saved, latch=None)  # type: ignore[arg-type]


@pytest.mark.parametrize("duplicate", [pickle.dumps, copy.copy, copy.deepcopy])
def test_a_client_is_not_copied(duplicate: Any) -> None:
    a_round, _ = latched("semi_honest")
    with pytest.raises(PhaseError, match="cannot be copied"):
        duplicate(a_round.clients[0])


def test_the_latch_sees_neither_secrets_nor_frames() -> None:
    a_round, disk = latched("verifiable")
    a_round.finish()
    assert {len(value) for value in disk.keys.values()} == {32}
    assert len(disk.keys) == 5
    assert all(a_round.session.id in key for key in disk.keys)


# What cannot be saved or restored.


def test_a_client_without_a_latch_or_after_a_failure_writes_no_snapshot() -> None:
    a_round, _ = latched("semi_honest")
    with pytest.raises(PhaseError, match="latch"):
        a_round.clients[1].snapshot()
    with pytest.raises(PhaseError):
        a_round.clients[0].unmask(b"")
    with pytest.raises(PhaseError, match="not failed"):
        a_round.clients[0].snapshot()


def test_a_snapshot_that_claims_a_failed_client_is_refused() -> None:
    a_round, disk = latched("semi_honest")
    saved = content_of(a_round.run_to("unmask").clients[0])
    for phase in (FAILED, "consistency", "lunch", None, 3):
        with pytest.raises(FrameError):
            restored(a_round, snapshot_of(json.dumps(saved | {"phase": phase}).encode()), disk)


def test_a_snapshot_of_another_client_or_session_is_refused() -> None:
    a_round, disk = latched("semi_honest")
    snapshot = a_round.clients[0].snapshot()
    with pytest.raises(FrameError, match="another session or client"):
        secagg.Client.restore(a_round.session, 1, snapshot, latch=disk, policy=a_round.policy)
    with pytest.raises(FrameError, match="another session or client"):
        secagg.Client.restore(make_session(attempt=1), 0, snapshot, latch=disk, policy=a_round.policy)


@pytest.mark.parametrize("case", [case for case in CASES if case != "unsafe_unmasked"])
def test_a_snapshot_keeps_nothing_that_was_used_up(case: str) -> None:
    a_round, _ = latched(case, n_rounds=2)
    a_round.run_to("masked_input")
    own = a_round.clients[0]._setup.keyring.rounds[0]
    a_round.close(a_round.answers())
    snapshot = json.dumps(content_of(a_round.clients[0]))
    assert not any(secret.hex() in snapshot for secret in own)
    a_round.run_to("unmask")
    held = a_round.clients[0]._in_round().held
    saved = json.dumps(content_of(a_round.clients[0]))
    assert all(f"{share:x}" in saved for pair in held.values() for share in pair)
    a_round.answer(0)
    snapshot = json.dumps(content_of(a_round.clients[0]))
    assert not any(f"{share:x}" in snapshot for pair in held.values() for share in pair)


def test_a_snapshot_after_the_check_keeps_no_key_of_the_check() -> None:
    a_round, _ = latched("verifiable")
    a_round.finish()
    assert content_of(a_round.clients[0])["round"]["tag_key"]
    a_round.verified()
    assert content_of(a_round.clients[0])["round"]["tag_key"] is None


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.one_of(st.binary(max_size=200), st.text(max_size=200).map(str.encode)))
def test_arbitrary_bytes_are_no_snapshot(garbage: bytes) -> None:
    a_round, disk = latched("semi_honest")
    with pytest.raises(FrameError):
        restored(a_round, garbage, disk)
    with pytest.raises(FrameError):
        restored(a_round, snapshot_of(garbage), disk)


JUNK = [
    None,
    True,
    0,
    -1,
    1.5,
    10**30,
    float("inf"),
    "",
    "zz",
    "0",
    [],
    [1],
    [[]],
    {},
    {"a": 1},
    {"0": 1},
    {"x": "y"},
]


def spoilt(saved: Any) -> Iterator[Any]:
    """The same JSON with each of its parts, in turn, replaced by junk or left out."""
    yield from JUNK
    if isinstance(saved, dict):
        for key in saved:
            yield {k: v for k, v in saved.items() if k != key}
            for part in spoilt(saved[key]):
                yield saved | {key: part}
    elif isinstance(saved, list) and saved:
        for part in spoilt(saved[0]):
            yield [part, *saved[1:]]


@pytest.mark.parametrize("phase", ["share_keys", "unmask", "done"])
def test_a_damaged_snapshot_raises_frame_errors_only(phase: str) -> None:
    a_round, disk = latched("verifiable", n_clients=3, threshold=2)
    saved = content_of(a_round.run_to(phase).clients[0])
    refused = 0
    for damaged in spoilt(saved):
        try:
            client = restored(a_round, snapshot_of(json.dumps(damaged).encode()), disk)
        except FrameError:
            refused += 1
        else:  # a change that is still of the right form
            assert client.phase != FAILED
    assert refused > 300


@pytest.mark.parametrize(
    "bomb", [b"[" * 200_000, b'{"a":' * 100_000, b"1" * 10_000, b"\xff\xfe", b"{}", b"null"]
)
def test_a_snapshot_that_is_no_json_object_is_refused(bomb: bytes) -> None:
    a_round, disk = latched("semi_honest")
    with pytest.raises(FrameError):
        restored(a_round, bomb, disk)
    with pytest.raises(FrameError):
        restored(a_round, snapshot_of(bomb), disk)


def test_a_snapshot_that_was_cut_or_altered_is_refused_as_a_whole() -> None:
    a_round, disk = latched("active")
    snapshot = a_round.run_to("unmask").clients[0].snapshot()
    for place in range(0, len(snapshot), 7):
        altered = snapshot[:place] + bytes([snapshot[place] ^ 1]) + snapshot[place + 1 :]
        for damaged in (altered, snapshot[:place], snapshot[place + 1 :]):
            with pytest.raises(FrameError):
                restored(a_round, damaged, disk)


def test_a_restored_client_is_checked_like_a_new_one() -> None:
    a_round, disk = latched("active")
    snapshot = a_round.run_to("unmask").clients[0].snapshot()
    with pytest.raises(PolicyError):
        secagg.Client.restore(
            a_round.session,
            0,
            snapshot,
            latch=disk,
            policy=secagg.Policy(min_cohort=6),
            signer=signing_key(0),
        )
    with pytest.raises(ConfigError, match="signer"):
        secagg.Client.restore(a_round.session, 0, snapshot, latch=disk, policy=a_round.policy)
