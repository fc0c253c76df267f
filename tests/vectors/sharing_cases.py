"""Cases for sharing and sealing."""

from __future__ import annotations

from collections.abc import Callable

from secure_fed_diffusion.secagg import shamir

from .alterations import MISMATCH, case, flipped, numbers, replaced, spoilt
from .fixed import SESSION_ID, SLOT_ID, fixed
from .forms import Json
from .operations import perform


def shamir_cases() -> list[Json]:
    holders, threshold = [0, 2, 5, 4_000_000_000], 3
    randomness = fixed("coefficients", 2 * (33 + 16))
    cases, prime = [], shamir.PRIME
    secrets = {
        "a 32-byte secret": int.from_bytes(bytes.fromhex(fixed("shared")), "little"),
        "the largest secret": prime - 1,
        "zero": 0,
    }
    for name, secret in secrets.items():
        inputs = {
            "secret": str(secret),
            "holders": holders,
            "threshold": threshold,
            "randomness": randomness,
        }
        cases.append(
            case(
                "shamir.split",
                name,
                inputs,
                [
                    *replaced("randomness", {"a bit": flipped(randomness, 40), "zero": "00" * 98}, MISMATCH),
                    *replaced(
                        "secret", {"p": str(prime), "p + 1": str(prime + 1), "-1": "-1"}, "RecoveryError"
                    ),
                    *replaced("secret", {"one more": str((secret + 1) % prime)}, MISMATCH),
                    *replaced("holders", {"one less": holders[:3], "others": [1, 2, 5, 6]}, MISMATCH),
                    *numbers("threshold", threshold, (2,)),
                ],
            )
        )
        shares, _ = perform("shamir.split", inputs)
        some = {v: shares[v] for v in ("2", "5", "4000000000")}
        off_by_one = {**some, "2": str((int(some["2"]) + 1) % prime)}
        cases.append(
            case(
                "shamir.combine",
                name,
                {"shares": some, "threshold": threshold},
                [
                    *replaced(
                        "shares",
                        {
                            "one false": off_by_one,
                            "two exchanged": {**some, "2": some["5"], "5": some["2"]},
                            "another holder's id": {"3": some["2"], **{v: some[v] for v in list(some)[1:]}},
                        },
                        MISMATCH,
                    ),
                    *replaced(
                        "shares", {"all": shares, "one less": dict(list(some.items())[1:])}, "RecoveryError"
                    ),
                    *numbers("threshold", threshold, (2, 4), "RecoveryError"),
                ],
            )
        )
    cases.append(
        case(
            "shamir.lagrange",
            "three holders",
            {"holders": [0, 2, 5]},
            [
                *replaced(
                    "holders",
                    {"another": [0, 2, 4], "one more": [0, 2, 5, 6], "another order": [2, 0, 5]},
                    MISMATCH,
                ),
                *replaced("holders", {"one twice": [0, 2, 2], "the point 0": [-1, 2, 5]}, "RecoveryError"),
            ],
        )
    )
    return cases


def seal_cases() -> list[Json]:
    largest = str(shamir.PRIME - 1)
    cases = []
    for name, pairs, contribution in (
        ("one round", [["1", largest]], ""),
        ("three rounds and a part of the group key", [["1", "2"], ["3", "4"], ["0", largest]], fixed("part")),
    ):
        context = {"key": fixed("sealing"), "session_id": SESSION_ID, "sender": 3, "receiver": 7}
        good = {**context, "pairs": pairs, "contribution": contribution}
        wrong: Callable[[str], list[tuple[str, Json, str]]] = lambda error: [  # noqa: E731
            ("another key", {"key": fixed("another")}, error),
            ("another session", {"session_id": SLOT_ID}, error),
            ("another sender", {"sender": 4}, error),
            ("another receiver", {"receiver": 8}, error),
            ("sent back", {"sender": 7, "receiver": 3}, error),
        ]
        cases.append(
            case(
                "seal.seal",
                name,
                good,
                [*wrong(MISMATCH), ("the pair turned", {"pairs": [pairs[0][::-1], *pairs[1:]]}, MISMATCH)],
            )
        )
        sealed, _ = perform("seal.seal", good)
        cases.append(
            case(
                "seal.unseal",
                name,
                {**context, "sealed": sealed, "n_rounds": len(pairs)},
                [*wrong("FrameError"), *spoilt("sealed", sealed, "FrameError")],
            )
        )
    return cases
