"""The bytes on the wire, from fixed randomness: a change of the format cannot go unnoticed.

When a change is meant, raise `codec.VERSION` (or the labels in `keys` and `session`) with it and
put the new digests here.
"""

from __future__ import annotations

from hashlib import sha256

import pytest

from secure_fed_diffusion import secagg
from secure_fed_diffusion.secagg.phases import PROFILES

from .rounds import fixed_entropy, make_params, make_session, make_vectors

GOLDEN = {
    "complete": {
        "advertise": "b708a3992742dec5",
        "share_keys": "a2805fe03ca9da0f",
        "masked_input": "e415520afc2e5a8e",
        "unmask": "659b0dee7d6b0ff4",
        "session": "81cefab265c08e81",
        "total": "1b5fc01e4b4ce10b",
    },
    "sparse": {
        "advertise": "c874bc4b01957a5d",
        "share_keys": "e502b912423a5e1b",
        "masked_input": "171f14edf1aed8b0",
        "unmask": "3868a5c5efb46c6d",
        "session": "22c2719d71ffa8b2",
        "total": "1b5fc01e4b4ce10b",
    },
}


def digests(case: str) -> dict[str, str]:
    threshold, n_neighbours = (5, None) if case == "complete" else (4, 6)
    params = make_params(9, threshold, dimension=21, modulus_bits=20, n_neighbours=n_neighbours)
    session = make_session(params, range(100, 109), run_id=b"golden", model_digest=b"m" * 32)
    result = secagg.simulate(
        params,
        make_vectors(session),
        dropouts={101: "share_keys", 103: "masked_input", 108: "unmask"},
        entropy=fixed_entropy("golden"),
        session=session,
    )
    by_phase = {step.phase: sha256() for step in PROFILES["semi_honest"]}
    for entry in result.transcript:
        by_phase[entry.phase].update(f"{entry.sender}>{entry.receiver}:{len(entry.frame)}:".encode())
        by_phase[entry.phase].update(entry.frame)
    found = {phase: digest.hexdigest()[:16] for phase, digest in by_phase.items()}
    found["session"] = session.id.hex()[:16]
    found["total"] = sha256(result.total.astype("<u8").tobytes()).hexdigest()[:16]
    return found


@pytest.mark.parametrize("case", GOLDEN)
def test_the_wire_format_has_not_changed(case: str) -> None:
    assert digests(case) == GOLDEN[case]


def test_the_total_does_not_depend_on_the_graph() -> None:
    assert digests("complete")["total"] == digests("sparse")["total"]
