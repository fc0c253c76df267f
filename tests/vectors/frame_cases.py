"""Cases for the codec and for every message; the good payloads are those of the transcripts."""

from __future__ import annotations

import struct
from typing import Any

from secure_fed_diffusion.secagg import codec, shamir, tag
from secure_fed_diffusion.secagg.phases import Kind

from .alterations import MISMATCH, case, cut, flipped, numbers, replaced, spoilt
from .fixed import LOW_ORDER, P25519, SESSION_ID, fixed, little
from .forms import Json, u32
from .transcripts import SPECS

Bad = list[tuple[str, Json, str]]


def payload_of(transcripts: list[Json], name: str, phase: str, *, upwards: bool, number: int = 0) -> str:
    """The first payload of that name, phase and direction, without its signature."""
    transcript = next(t for t in transcripts if t["name"] == name)
    signed = SPECS[name]["params"].get("profile") == "active"
    for frame in transcript["rounds"][number]["frames"]:
        if frame["phase"] == phase and (frame["to"] == "server") == upwards:
            whole = frame["frame"][2 * codec.HEADER_BYTES :]
            return cut(whole, 64) if signed and upwards else whole
    raise AssertionError(f"{name} has no such frame")


def of_length(payload: str) -> Bad:
    """A payload of another length."""
    return spoilt("payload", payload, "FrameError", bits_too=False)


def of_a_table(payload: str, row_bytes: int, at: int = 0) -> Bad:
    """A table, `at` bytes into the payload, whose count or order is false."""
    raw = bytes.fromhex(payload)
    (count,) = struct.unpack_from("<I", raw, at)
    start, stop = at + 4, at + 4 + count * row_bytes
    rows = [raw[i : i + row_bytes] for i in range(start, stop, row_bytes)]

    def rebuilt(rows: list[bytes], n_rows: int) -> str:
        return (raw[:at] + struct.pack("<I", n_rows) + b"".join(rows) + raw[stop:]).hex()

    return [
        (what, {"payload": altered}, "FrameError")
        for what, altered in (
            ("a count of one more", rebuilt(rows, count + 1)),
            ("a count of one less", rebuilt(rows, count - 1)),
            ("a count of 2^32 - 1", rebuilt(rows, 2**32 - 1)),
            ("the first two rows exchanged", rebuilt([rows[1], rows[0], *rows[2:]], count)),
            ("the first row twice", rebuilt([rows[0], *rows], count + 1)),
        )
    ]


def codec_cases() -> list[Json]:
    payload, signature = fixed("payload", 40), fixed("signature", 64)
    header = {"kind": "SHARES", "session_id": SESSION_ID, "client_id": 7}
    frame = codec.pack(
        Kind.SHARES, session_id=bytes.fromhex(SESSION_ID), client_id=7, payload=bytes.fromhex(payload)
    ).hex()
    fields = {
        "the magic": flipped(frame, 0),
        "the version": flipped(frame, 4),
        "the kind": flipped(frame, 5),
        "the client id": flipped(frame, 6),
        "the length": flipped(frame, 10),
        "the session": flipped(frame, 18),
        "the last bit of the session": flipped(frame, 49, 7),
    }
    rows = {3: b"ab", 5: b"cd", 2**32 - 1: b"ef"}
    table = codec.write_table(rows, width=2).hex()
    longer = struct.pack("<Q", 41).hex()
    differing: Bad = [
        *replaced("kind", {"another": "ADVERT"}, MISMATCH),
        *numbers("client_id", 7, (6, 2**32 - 1)),
        *spoilt("session_id", SESSION_ID, MISMATCH)[3:],
        *spoilt("payload", payload, MISMATCH),
    ]
    return [
        case(
            "codec.pack",
            "without a signature",
            {**header, "payload": payload, "signature": ""},
            differing,
        ),
        case(
            "codec.pack",
            "with a signature",
            {**header, "payload": payload, "signature": signature},
            [*differing, ("no signature", {"signature": ""}, MISMATCH)],
        ),
        case(
            "codec.unpack",
            "a frame",
            {**header, "frame": frame},
            [
                *replaced("frame", {f"{what} altered": bad for what, bad in fields.items()}, "FrameError"),
                *spoilt("frame", frame, "FrameError", bits_too=False),
                ("the header cut", {"frame": frame[: 2 * codec.HEADER_BYTES - 2]}, "FrameError"),
                (
                    "longer, and the length with it",
                    {"frame": frame[:20] + longer + frame[36:] + "00"},
                    MISMATCH,
                ),
                ("another kind is due", {"kind": "ADVERT"}, "FrameError"),
                ("another session is due", {"session_id": fixed("other")}, "FrameError"),
                *numbers("client_id", 7, (6,), "FrameError"),
            ],
        ),
        case("codec.signed_bytes", "a payload", {**header, "payload": payload}, differing),
        case(
            "codec.table",
            "three rows of two bytes",
            {"payload": table, "width": 2},
            [*of_length(table), *of_a_table(table, 6), *numbers("width", 2, (1, 3), "FrameError")],
        ),
        case(
            "codec.table",
            "no rows",
            {"payload": u32(0), "width": 2},
            [
                *of_length(u32(0)),
                ("a count of 1", {"payload": u32(1)}, "FrameError"),
                ("a count of 2^32 - 1", {"payload": u32(2**32 - 1)}, "FrameError"),
            ],
        ),
    ]


def message_cases(transcripts: list[Json]) -> list[Json]:
    def get(name: str, phase: str, *, up: bool, number: int = 0) -> str:
        return payload_of(transcripts, name, phase, upwards=up, number=number)

    def message(which: str, name: str, payload: str, bad: Bad, **inputs: Any) -> Json:
        return case(f"messages.{which}", name, {"payload": payload, **inputs}, [*of_length(payload), *bad])

    cases = []
    for name in ("semi_honest", "semi_honest_three_rounds", "active"):
        n_rounds = SPECS[name]["params"].get("n_rounds", 1)
        advert = get(name, "advertise", up=True)
        swapped = {what: little(u) + advert[64:] for what, u in LOW_ORDER.items()}
        not_canonical = {"p": little(P25519) + advert[64:], "p + 9": little(P25519 + 9) + advert[64:]}
        cases.append(
            message(
                "advert",
                name,
                advert,
                [
                    *replaced("payload", {**swapped, **not_canonical}, "FrameError"),
                    ("one key for two uses", {"payload": advert[:-64] + advert[:64]}, "FrameError"),
                    *numbers("n_rounds", n_rounds, (n_rounds + 1,), "FrameError"),
                ],
                n_rounds=n_rounds,
            )
        )
    for name in ("semi_honest", "active", "active_sparse"):
        params = SPECS[name]["params"]
        listed = get(name, "share_keys", up=False)
        n_rows = struct.unpack("<I", bytes.fromhex(listed[:8]))[0]
        row_bytes = (len(listed) // 2 - 4) // n_rows
        one, two = (8 + 8 + 2 * row_bytes * i for i in (0, 1))  # where the first two adverts begin
        copied = listed[:two] + listed[one : one + 64] + listed[two + 64 :]
        other_rounds = {**params, "n_rounds": 2}
        cases.append(
            message(
                "advert_list",
                name,
                listed,
                [
                    *of_a_table(listed, row_bytes),
                    (
                        "a key of low order",
                        {"payload": listed[:one] + little(1) + listed[one + 64 :]},
                        "FrameError",
                    ),
                    ("two clients with one key", {"payload": copied}, "FrameError"),
                    ("rounds of another number", {"params": other_rounds}, "FrameError"),
                ],
                params=params,
            )
        )
    commitment = get("active_sparse", "choose", up=False)
    cases.append(
        message(
            "commitment",
            "active_sparse",
            commitment,
            [
                ("padding not zero", {"payload": flipped(commitment, -1, 7)}, "FrameError"),
                ("another root", {"payload": flipped(commitment, 0)}, MISMATCH),
                *numbers("n_clients", 6, (9,), "FrameError"),
            ],
            n_clients=6,
        )
    )
    chosen = get("active_sparse", "choose", up=True)
    cases.append(message("choice", "active_sparse", chosen, of_a_table(chosen, 4)))
    for name in ("semi_honest", "semi_honest_three_rounds", "active", "verifiable_two_rounds"):
        params = SPECS[name]["params"]
        n_rounds = params.get("n_rounds", 1)
        row_bytes = 4 + 66 * n_rounds + 16 + (32 if params.get("verifiable") else 0)
        other = {**params, "n_rounds": n_rounds + 1}
        shares = get(name, "share_keys", up=True)
        delivery = get(name, "masked_input", up=False)
        wrong = ("rounds of another number", {"params": other}, "FrameError")
        at = 32 * n_rounds
        cases.append(
            message("shares", name, shares, [*of_a_table(shares, row_bytes, at), wrong], params=params)
        )
        cases.append(
            message(
                "share_delivery", name, delivery, [*of_a_table(delivery, row_bytes), wrong], params=params
            )
        )
    cases.append(_sparse_delivery())
    for name in ("semi_honest", "active", "active_sparse", "verifiable_two_rounds", "unsafe_unmasked"):
        params = SPECS[name]["params"]
        masked = get(name, "masked_input", up=True)
        bad: Bad = [
            ("a value more", {"params": {**params, "dimension": params["dimension"] + 1}}, "FrameError"),
            ("another vector", {"payload": flipped(masked, 0)}, MISMATCH),
        ]
        if params["dimension"] * params["modulus_bits"] % 8:
            bad.append(("padding not zero", {"payload": flipped(masked, -1, 7)}, "FrameError"))
        if params.get("verifiable"):
            for what, value in (("p", tag.PRIME), ("2^64 - 1", 2**64 - 1)):
                lie = cut(masked, 8) + little(value, 8)
                bad.append((f"the tag {what}, not reduced", {"payload": lie}, "FrameError"))
        cases.append(message("masked_input", name, masked, bad, params=params))
    result = get("verifiable_two_rounds", "verify", up=False, number=1)
    cases.append(
        message(
            "masked_input",
            "verifiable_two_rounds, the total shown",
            result,
            [
                ("the tag p", {"payload": cut(result, 8) + little(tag.PRIME, 8)}, "FrameError"),
                ("the tag altered", {"payload": flipped(result, -8)}, MISMATCH),
            ],
            params=SPECS["verifiable_two_rounds"]["params"],
        )
    )
    survivors = get("semi_honest", "unmask", up=False)
    cases.append(
        message(
            "survivors",
            "semi_honest",
            survivors,
            [
                ("padding not zero", {"payload": flipped(survivors, 0, 4)}, "FrameError"),
                ("another member", {"payload": flipped(survivors, 0, 0)}, MISMATCH),
                *numbers("n_clients", 4, (9,), "FrameError"),
            ],
            n_clients=4,
        )
    )
    signatures = get("active", "unmask", up=False)
    cases.append(message("consistency_list", "active", signatures, of_a_table(signatures, 68)))
    unmasked = {name: get(name, "unmask", up=True) for name in ("semi_honest", "active")}
    return cases + [_unmask(name, payload) for name, payload in unmasked.items()]


def _sparse_delivery() -> Json:
    """A delivery with both lists in it, by hand: the small transcript has an empty second one."""
    params = SPECS["active_sparse"]["params"]
    row = {v: fixed(f"sealed {v}", 82) for v in (3, 5)}
    table = u32(2) + "".join(u32(v) + sealed for v, sealed in row.items())
    payload = table + u32(2) + u32(7) + u32(11)
    return case(
        "messages.share_delivery",
        "active_sparse, with clients that did not share back",
        {"payload": payload, "params": params},
        [
            *of_length(payload),
            *of_a_table(payload, 86),
            ("a client in both lists", {"payload": table + u32(2) + u32(5) + u32(11)}, "FrameError"),
            ("the second list out of order", {"payload": table + u32(2) + u32(11) + u32(7)}, "FrameError"),
            ("the second list left out", {"payload": table}, "FrameError"),
        ],
    )


def _unmask(name: str, payload: str) -> Json:
    raw = bytes.fromhex(payload)
    (n_first,) = struct.unpack_from("<I", raw)
    at = 4 + 37 * n_first
    first, second = raw[:at], raw[at:]
    own_id = first[4:8]
    both = first + struct.pack("<I", 1) + own_id + second[8 : 8 + 33].ljust(33, b"\0")
    outside = first[:8] + shamir.PRIME.to_bytes(33, "little") + raw[41:]
    return case(
        "messages.unmask_shares",
        name,
        {"payload": payload},
        [
            *of_length(payload),
            *of_a_table(payload, 37),
            ("a client in both tables", {"payload": both.hex()}, "FrameError"),
            ("a share outside the field", {"payload": outside.hex()}, "FrameError"),
            ("a share altered", {"payload": flipped(payload, 8)}, MISMATCH),
        ],
    )
