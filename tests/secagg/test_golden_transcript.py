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
        "advertise": "0b304f59281f14e8",
        "share_keys": "5704be7c918cf58f",
        "masked_input": "b2874a84c8519da4",
        "unmask": "fd24b7d2ad80d1bb",
        "session": "57fbb75a5db9808a",
        "total": "1b5fc01e4b4ce10b",
    },
    "semi_honest_sparse": {
        "advertise": "5cf05db5253bc7a7",
        "share_keys": "89f2aa929a5bced3",
        "masked_input": "324971c97f119648",
        "unmask": "f351853d36929f97",
        "session": "9aa23e9876526bc4",
        "total": "1b5fc01e4b4ce10b",
    },
    "active": {
        "advertise": "3b2e28defdecd82b",
        "share_keys": "482741e8a85ceaeb",
        "masked_input": "44e9e2c435dc5d81",
        "consistency": "52db6356ab58ca07",
        "unmask": "525c1591a2840954",
        "session": "f72e2acfdac2edd7",
        "total": "1b5fc01e4b4ce10b",
    },
    "active_sparse": {
        "advertise": "2fcd3442748e994b",
        "choose": "d902ed221fb16719",
        "share_keys": "e486dab7d21fed20",
        "masked_input": "9817a256c7d3f33c",
        "consistency": "1de2c45ab44a521b",
        "unmask": "e7730b7fb11a05d4",
        "session": "de225392f020fe25",
        "total": "1b5fc01e4b4ce10b",
    },
    "verifiable": {
        "advertise": "08981a36b9f676e4",
        "share_keys": "c12863f99914da8b",
        "masked_input": "5db8abb131fe558d",
        "consistency": "4b53d5b008c317d4",
        "unmask": "9c7e2d8910f2db3d",
        "verify": "dfd9824b115939e5",
        "session": "f3865338be240970",
        "total": "ef804812f13eaa47",
    },
    "three_rounds": {
        "advertise": "9a887edc8a859c69",
        "share_keys": "ed9c399e10617dbe",
        "masked_input": "6428733dd87924d5",
        "unmask": "dfba3dff88718755",
        "session": "f4d2a1dbbfb24596",
        "total": "41ba38fecbfc8343",
    },
    "unsafe_unmasked": {
        "masked_input": "5e489bb5b2284773",
        "session": "fdff7abae1f43000",
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
