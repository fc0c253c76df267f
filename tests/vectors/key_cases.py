"""Cases for keys, derivations, signatures and the roster."""

from __future__ import annotations

from secure_fed_diffusion.secagg import keys, signing

from .alterations import MISMATCH, case, cut, extended, flipped, numbers, replaced, spoilt
from .fixed import LOW_ORDER, P25519, SESSION_ID, SLOT_ID, fixed, little, public
from .forms import Json, u32


def bad_publics(field: str) -> list[tuple[str, Json, str]]:
    good = public("bob")
    return [
        *replaced(field, {name: little(u) for name, u in LOW_ORDER.items()}, "FrameError"),
        *replaced(field, {"p": little(P25519), "p + 9, which is 9 again": little(P25519 + 9)}, "FrameError"),
        *spoilt(field, good, "FrameError", bits_too=False),
        (f"{field} of another client", {field: public("carol")}, MISMATCH),
    ]


def key_cases() -> list[Json]:
    alice, seed = fixed("alice"), fixed("seed")
    pair = {"own_secret": alice, "peer_public": public("bob"), "own_id": 3, "peer_id": 7}
    derived = {
        "secret": fixed("secret"),
        "label": keys.LABEL_SEAL.hex(),
        "session_id": SESSION_ID,
        "context": u32(3) + u32(7),
        "n_bytes": 32,
    }
    bob = {"own_secret": fixed("bob"), "peer_public": public("alice"), "own_id": 7, "peer_id": 3}
    other_secret = ("own_secret of another client", {"own_secret": fixed("carol")}, MISMATCH)
    swapped_label = ("the label's last byte moved to the context", _moved(derived), MISMATCH)
    return [
        case(
            "entropy.keystream",
            "100 bytes",
            {"key": fixed("key"), "n_bytes": 100},
            [
                *replaced(
                    "key", {f"bit 0 of byte {i}": flipped(fixed("key"), i) for i in range(4)}, MISMATCH
                ),
                *numbers("n_bytes", 100, (99,)),
            ],
        ),
        case(
            "keys.public",
            "a private key",
            {"secret": alice},
            replaced(
                "secret",
                {f"bit 3 of byte {i}": flipped(alice, i, 3) for i in (0, 1, 15, 30, 31)},
                MISMATCH,
            ),
        ),
        case(
            "keys.exchange",
            "two clients",
            {"secret": alice, "peer_public": public("bob")},
            bad_publics("peer_public"),
        ),
        case(
            "keys.derive",
            "with a label and a context",
            derived,
            [
                *spoilt("secret", derived["secret"], MISMATCH),
                *spoilt("label", derived["label"], MISMATCH),
                *spoilt("session_id", SESSION_ID, MISMATCH, bits_too=False)[2:],
                *spoilt("context", derived["context"], MISMATCH),
                swapped_label,
                *numbers("n_bytes", 32, (16, 48)),
            ],
        ),
        *(
            case(
                "keys.pair_mask_key",
                f"at {who}, the same at both",
                {**inputs, "slot_id": SLOT_ID},
                [
                    *bad_publics("peer_public")[:10],
                    other_secret,
                    *spoilt("slot_id", SLOT_ID, MISMATCH),
                    *numbers("own_id", inputs["own_id"], (1, 2**32 - 1)),
                    *numbers("peer_id", inputs["peer_id"], (0, 4)),
                ],
            )
            for who, inputs in (("the lower id", pair), ("the higher id", bob))
        ),
        case(
            "keys.self_mask_key",
            "a seed",
            {"seed": seed, "slot_id": SLOT_ID, "client_id": 3},
            [
                *spoilt("seed", seed, MISMATCH),
                *spoilt("slot_id", SLOT_ID, MISMATCH),
                *numbers("client_id", 3, (0, 2**32 - 1)),
            ],
        ),
        *(
            case(
                "keys.seal_keys",
                f"at {who}, crossed at the other",
                {**inputs, "session_id": SESSION_ID},
                [
                    *bad_publics("peer_public")[:10],
                    other_secret,
                    *spoilt("session_id", SESSION_ID, MISMATCH),
                    ("ids exchanged", {"own_id": inputs["peer_id"], "peer_id": inputs["own_id"]}, MISMATCH),
                ],
            )
            for who, inputs in (("the lower id", pair), ("the higher id", bob))
        ),
        case(
            "keys.commit_seed",
            "a seed of round 2",
            {"seed": seed, "session_id": SESSION_ID, "client_id": 3, "number": 2},
            [
                *spoilt("seed", seed, MISMATCH),
                *spoilt("session_id", SESSION_ID, MISMATCH),
                *numbers("client_id", 3, (2, 2**32 - 1)),
                *numbers("number", 2, (3, 0)),
                ("client and round exchanged", {"client_id": 2, "number": 3}, MISMATCH),
            ],
        ),
    ]


def _moved(derived: Json) -> Json:
    label = derived["label"]
    return {"label": cut(label), "context": label[-2:] + derived["context"]}


def signing_cases() -> list[Json]:
    secrets = {v: fixed(f"signer {v}") for v in (1, 2, 9)}
    publics = {str(v): signing.SigningKey(bytes.fromhex(s)).public.hex() for v, s in secrets.items()}
    message = b"what a client signs".hex()
    signature = signing.SigningKey(bytes.fromhex(secrets[2])).sign(bytes.fromhex(message)).hex()
    order = 2**252 + 27742317777372353535851937790883648493
    scalar = int.from_bytes(bytes.fromhex(signature[64:]), "little")
    second = signature[:64] + little(scalar + order)
    inputs = {"roster": publics, "client_id": 2, "message": message, "signature": signature}
    one_less = {v: key for v, key in publics.items() if v != "9"}
    return [
        case(
            "signing.public",
            "a signing key",
            {"secret": secrets[1]},
            [
                *spoilt("secret", secrets[1], "ConfigError", bits_too=False),
                *spoilt("secret", secrets[1], MISMATCH)[3:],
            ],
        ),
        case(
            "signing.sign",
            "a short message",
            {"secret": secrets[2], "message": message},
            [*spoilt("secret", secrets[2], MISMATCH)[3:], *spoilt("message", message, MISMATCH)],
        ),
        case(
            "signing.verify",
            "a short message",
            inputs,
            [
                *spoilt("signature", signature, MISMATCH),
                *spoilt("message", message, MISMATCH),
                *replaced("client_id", {"another client": 1, "nobody on the roster": 3}, MISMATCH),
                ("a second encoding of the signature's scalar", {"signature": second}, MISMATCH),
            ],
        ),
        case(
            "signing.roster_root",
            "three clients",
            {"publics": publics},
            [
                *replaced(
                    "publics",
                    {
                        "one less": one_less,
                        "two exchanged": {**publics, "1": publics["2"], "2": publics["1"]},
                        "another id": {**one_less, "8": publics["9"]},
                    },
                    MISMATCH,
                ),
                *replaced(
                    "publics",
                    {
                        "nobody": {},
                        "one key twice": {**publics, "1": publics["2"]},
                        "a key cut": {**publics, "1": cut(publics["1"])},
                        "a key too long": {**publics, "1": extended(publics["1"])},
                        "an id of 33 bits": {**publics, str(2**32): public("carol")},
                    },
                    "ConfigError",
                ),
            ],
        ),
    ]
