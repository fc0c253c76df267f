"""The bytes on the wire of every profile, from fixed randomness: no change of the format goes unnoticed.

When a change is meant, raise `codec.VERSION` (or the labels) with it, print `digests` of each case and
put the new ones here.
"""

from __future__ import annotations

from hashlib import sha256

import pytest

from .rounds import Round, make_params, make_session

COHORT = range(100, 109)
SETTINGS = {
    "semi_honest": (make_params(9, 5, dimension=21, modulus_bits=20), 1),
    "semi_honest_sparse": (make_params(9, 4, dimension=21, modulus_bits=20, n_neighbours=6), 1),
    "active": (make_params(9, 5, dimension=21, modulus_bits=20, profile="active"), 1),
    "active_sparse": (make_params(9, 4, dimension=21, modulus_bits=20, n_neighbours=6, profile="active"), 1),
    "verifiable": (
        make_params(9, 5, dimension=21, modulus_bits=20, profile="active", verifiable=True, n_rounds=3),
        3,
    ),
    "three_rounds": (make_params(9, 5, dimension=21, modulus_bits=20, n_rounds=3), 3),
    "unsafe_unmasked": (make_params(9, 5, dimension=21, modulus_bits=20, profile="unsafe_unmasked"), 1),
}
GOLDEN: dict[str, dict[str, str]] = {
    "semi_honest": {
        "advertise": "ea316914413b8d9d",
        "share_keys": "5d2ce463d18cf9ab",
        "masked_input": "59f2ad212f36be3f",
        "unmask": "27f84b557485a218",
        "session": "56f13b8ffc0cecbf",
        "total": "1b5fc01e4b4ce10b",
    },
    "semi_honest_sparse": {
        "advertise": "2333b0e7770c2809",
        "share_keys": "e21a9a3af70c8b81",
        "masked_input": "fc798af9015e461f",
        "unmask": "27e66c2b118aba9e",
        "session": "094badae34886fbe",
        "total": "1b5fc01e4b4ce10b",
    },
    "active": {
        "advertise": "3661c18803553edf",
        "share_keys": "6e92fe5578f15943",
        "masked_input": "040aceab7cc8c12f",
        "consistency": "9ae29ba37a507ca9",
        "unmask": "e2d19d1c517a29eb",
        "session": "2016a1bb30b10cf6",
        "total": "1b5fc01e4b4ce10b",
    },
    "active_sparse": {
        "advertise": "235dae968dd4ad01",
        "choose": "d2d5dca9bec5f34a",
        "share_keys": "65bdb69509006268",
        "masked_input": "094bfb1bad7d4992",
        "consistency": "9395895e25e5cd1f",
        "unmask": "14d8091e736d00e7",
        "session": "d792afad0ea8ed31",
        "total": "1b5fc01e4b4ce10b",
    },
    "verifiable": {
        "advertise": "0c751ac590bc6016",
        "share_keys": "6c4e5417b0672e82",
        "masked_input": "b1009538b72b857a",
        "consistency": "adb155b288a99044",
        "unmask": "16f5e3fc9ca939b3",
        "verify": "2c07cd4bb873f7fa",
        "session": "23818a1c94e8b57c",
        "total": "ef804812f13eaa47",
    },
    "three_rounds": {
        "advertise": "61bd9e657b95983d",
        "share_keys": "ed7b4450f5879a94",
        "masked_input": "81af4584fc7f1211",
        "unmask": "bfebabb61ae75296",
        "session": "790237ad6e1e2b7d",
        "total": "41ba38fecbfc8343",
    },
    "unsafe_unmasked": {
        "masked_input": "8541cbae29a2791f",
        "session": "1fcdeb05c399124c",
        "total": "19a47054ae06c7ea",
    },
}


def digests(case: str) -> dict[str, str]:
    """Short SHA-256 of every frame of a phase, of the session's id and of the totals."""
    params, n_rounds = SETTINGS[case]
    a_round = Round(make_session(params, COHORT, run_id=b"golden", model_digest=b"m" * 32), label="golden")
    by_phase = {step.phase: sha256() for step in params.steps}
    totals = sha256()
    dropouts = {101: "share_keys", 103: "masked_input", 108: "unmask"}
    for number in range(n_rounds):
        if number:
            participants = tuple(v for v in COHORT if v != 100 + number)
            a_round.begin(number, participants=participants)
            dropouts = {102 + number: "masked_input"}
        while (phase := a_round.server.phase) != "done":
            silent = [v for v, when in dropouts.items() if when == phase]
            frames = a_round.answers(without=silent)
            given = a_round.inbox
            for v in sorted(given):
                for direction, frame in ((b"<", given[v]), (b">", frames.get(v, b""))):
                    by_phase[phase].update(direction + f"{v}:{len(frame)}:".encode() + frame)
            a_round.close(frames)
        assert a_round.is_exact()
        for v, frame in a_round.inbox.items():  # the total, where it is to be checked
            by_phase["verify"].update(f"<{v}:{len(frame)}:".encode() + frame)
        a_round.verified()
        totals.update(a_round.server.total.astype("<u8").tobytes())
    found = {phase: digest.hexdigest()[:16] for phase, digest in by_phase.items()}
    return found | {"session": a_round.session.id.hex()[:16], "total": totals.hexdigest()[:16]}


@pytest.mark.parametrize("case", SETTINGS)
def test_the_wire_format_has_not_changed(case: str) -> None:
    assert digests(case) == GOLDEN[case]


def test_the_total_does_not_depend_on_the_profile_or_the_graph() -> None:
    masked = ("semi_honest", "semi_honest_sparse", "active", "active_sparse")
    assert len({GOLDEN[case]["total"] for case in masked}) == 1


def test_no_two_profiles_share_a_session() -> None:
    assert len({golden["session"] for golden in GOLDEN.values()}) == len(SETTINGS)
