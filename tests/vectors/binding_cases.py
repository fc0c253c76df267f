"""Cases for what binds: session and round ids, graphs, trees, choices, tags."""

from __future__ import annotations

from hashlib import sha256

from secure_fed_diffusion.secagg import tag
from secure_fed_diffusion.secagg.params import SecAggParams

from .alterations import MISMATCH, case, cut, flipped, numbers, replaced, spoilt
from .fixed import SESSION_ID, SLOT_ID, fixed
from .forms import Json, u32
from .operations import perform
from .transcripts import session_json


def session_cases() -> list[Json]:
    cases = []
    for name in ("semi_honest", "active"):
        good = session_json(name)
        params, cohort = good["params"], good["cohort"]
        differing = [
            ("another run", {"run_id": good["run_id"] + "00"}, MISMATCH),
            ("another round", {"round": 1}, MISMATCH),
            ("another attempt", {"attempt": 1}, MISMATCH),
            ("round and attempt exchanged", {"round": 1, "attempt": 0}, MISMATCH),
            ("another model", {"model_digest": flipped(good["model_digest"], 0)}, MISMATCH),
            ("a digest cut", {"model_digest": cut(good["model_digest"])}, "ConfigError"),
            ("a client less", {"cohort": cohort[1:]}, "ConfigError"),
            ("a client twice", {"cohort": [cohort[0], *cohort[:-1]]}, "ConfigError"),
            ("a negative round", {"round": -1}, "ConfigError"),
        ]
        for key, value in (("threshold", 4), ("dimension", 6), ("modulus_bits", 21), ("n_rounds", 2)):
            differing.append((f"{key} {value}", {"params": {**params, key: value}}, MISMATCH))
        if name == "active":
            turned = dict(zip(good["roster"], list(good["roster"].values())[::-1], strict=True))
            differing.append(("another roster", {"roster": turned}, MISMATCH))
            differing.append(("verifiable", {"params": {**params, "verifiable": True}}, MISMATCH))
            differing.append(("no roster", {"roster": None}, "ConfigError"))
        else:
            differing.append(("another cohort", {"cohort": [*cohort[:-1], 99]}, MISMATCH))
        cases.append(case("session.id", name, good, differing))
    session = session_json("semi_honest_three_rounds")
    slot = {
        "session": session,
        "number": 2,
        "model_digest": fixed("model"),
        "participants": [2, 3, 7],
        "commitment": fixed("root"),
    }
    cases.append(
        case(
            "session.slot",
            "round 2, three of four, with a commitment",
            slot,
            [
                *numbers("number", 2, (1,)),
                *numbers("number", 2, (3, -1), "ConfigError"),
                ("another model", {"model_digest": fixed("other model")}, MISMATCH),
                ("another commitment", {"commitment": ""}, MISMATCH),
                ("everyone", {"participants": [2, 3, 5, 7]}, MISMATCH),
                ("too few", {"participants": [2, 3]}, "ConfigError"),
                ("a stranger", {"participants": [2, 3, 8]}, "ConfigError"),
                ("one twice", {"participants": [2, 3, 3]}, "ConfigError"),
            ],
        )
    )
    cohort = list(range(10, 20))
    cases.append(
        case(
            "graph.neighbours",
            "ten clients, four neighbours",
            {"seed": SESSION_ID, "cohort": cohort, "n_neighbours": 4},
            [
                *replaced(
                    "seed", {f"bit 0 of byte {i}": flipped(SESSION_ID, i) for i in (0, 1, 31)}, MISMATCH
                ),
                *numbers("n_neighbours", 4, (2, 6)),
                ("complete", {"n_neighbours": None}, MISMATCH),
                ("another client", {"cohort": [*cohort[:-1], 99]}, MISMATCH),
            ],
        )
    )
    return cases


def choice_cases() -> list[Json]:
    leaves = [u32(v) + fixed(f"advert {v}", 12) for v in range(5)]
    tree = {"leaves": leaves}
    root, _ = perform("choice.root", tree)
    path, _ = perform("choice.path", {**tree, "index": 3})
    turned = {
        "the first two exchanged": [leaves[1], leaves[0], *leaves[2:]],
        "one less": leaves[:-1],
        "a bit": [flipped(leaves[0], 5), *leaves[1:]],
        "the last twice": [*leaves, leaves[-1]],
        "an empty one more": [*leaves, ""],
    }
    node_as_leaf = sha256(bytes([0]) + bytes.fromhex(leaves[3])).hexdigest()
    randomness = fixed("draw", 8 * 4) + "00" * 8
    drawing = {"candidates": [1, 4, 6, 8, 9, 12, 40], "n_neighbours": 4, "randomness": randomness}
    refused = "ff" * 8 + randomness  # 2^64 - 1 is beyond the last multiple of 7, so it is drawn again
    return [
        case(
            "choice.leaf",
            "an advert",
            {"client_id": 7, "advert": fixed("signed advert", 40)},
            [
                *spoilt("advert", fixed("signed advert", 40), MISMATCH),
                *numbers("client_id", 7, (6, 7 << 8)),
            ],
        ),
        case("choice.root", "five leaves", tree, replaced("leaves", turned, MISMATCH)),
        case(
            "choice.path",
            "leaf 3 of 5",
            {**tree, "index": 3},
            [
                *numbers("index", 3, (0, 1, 2, 4)),
                ("a bit of its sibling", {"leaves": _flip(leaves, 2)}, MISMATCH),
            ],
        ),
        case(
            "choice.leads_to",
            "leaf 3 of 5",
            {"root": root, "leaf": leaves[3], "index": 3, "n_leaves": 5, "path": path},
            [
                *spoilt("path", path, MISMATCH),
                *spoilt("leaf", leaves[3], MISMATCH),
                *spoilt("root", root, MISMATCH),
                *numbers("index", 3, (2, 7)),
                *numbers("n_leaves", 5, (4, 9)),
                ("the leaf's hash in its place", {"leaf": node_as_leaf}, MISMATCH),
            ],
        ),
        case(
            "choice.draw",
            "four of seven",
            drawing,
            [
                *numbers("n_neighbours", 4, (8,), "TooFewClientsError"),
                ("too few candidates", {"candidates": [1, 4, 6]}, "TooFewClientsError"),
                *numbers("n_neighbours", 4, (3,)),
                ("other coins", {"randomness": fixed("other coins", 40)}, MISMATCH),
                ("other candidates", {"candidates": [2, 3, 5, 7, 10, 11, 13]}, MISMATCH),
            ],
        ),
        case(
            "choice.draw",
            "a word that would bias is drawn again",
            {**drawing, "randomness": refused},
            [
                *numbers("n_neighbours", 4, (8,), "TooFewClientsError"),
                ("no candidates", {"candidates": []}, "TooFewClientsError"),
                ("too few candidates", {"candidates": [1, 4, 6]}, "TooFewClientsError"),
                *numbers("n_neighbours", 4, (3,)),
                ("other coins", {"randomness": fixed("more coins", 40)}, MISMATCH),
            ],
        ),
    ]


def _flip(leaves: list[str], index: int) -> list[str]:
    return [flipped(leaf, 5) if i == index else leaf for i, leaf in enumerate(leaves)]


def tag_cases() -> list[Json]:
    contributions = {str(v): fixed(f"contribution {v}") for v in (3, 5, 9)}
    shared = {"contributions": contributions, "session_id": SESSION_ID, "slot_id": SLOT_ID}
    bound = SecAggParams(
        n_clients=3, threshold=2, dimension=3, modulus_bits=60, profile="active", verifiable=True
    ).max_centred
    inputs = {3: [str(bound), "-1", "0"], 5: [str(-bound), "7", "1"], 9: ["1", "2", "-3"]}
    tags = {v: int(perform("tag.tag", {**shared, "client_id": v, "values": x})[0]) for v, x in inputs.items()}
    total = [str(sum(int(x[j]) for x in inputs.values())) for j in range(3)]
    joint = str(sum(tags.values()) % tag.PRIME)
    wrong_key = [
        ("another contribution", {"contributions": {**contributions, "3": fixed("lie")}}, MISMATCH),
        ("one contribution less", {"contributions": dict(list(contributions.items())[:2])}, MISMATCH),
        ("another session", {"session_id": SLOT_ID}, MISMATCH),
        ("another round", {"slot_id": SESSION_ID}, MISMATCH),
    ]
    accepted = {**shared, "total": total, "survivors": [3, 5, 9], "tag": joint}
    wrong_total = {
        "one more": [str(int(total[0]) + 1), *total[1:]],
        "turned": total[::-1],
        "zero": ["0", "0", "0"],
        "off by p": [str(int(total[0]) + tag.PRIME // 2), *total[1:]],
    }
    return [
        case(
            "tag.group_key",
            "three contributions",
            {"contributions": contributions, "session_id": SESSION_ID},
            [
                *wrong_key[:3],
                ("two exchanged", {"contributions": _exchanged(contributions)}, MISMATCH),
                ("another id", {"contributions": {**contributions, "8": fixed("contribution 8")}}, MISMATCH),
            ],
        ),
        *(
            case(
                "tag.tag",
                f"client {v}",
                {**shared, "client_id": v, "values": x},
                [
                    *wrong_key,
                    *numbers("client_id", v, (v + 1,)),
                    ("one more", {"values": [str(int(x[0]) + 1), *x[1:]]}, MISMATCH),
                    ("negated", {"values": [str(-int(value)) for value in x]}, MISMATCH),
                ],
            )
            for v, x in inputs.items()
        ),
        case(
            "tag.accepts",
            "the sum of three",
            accepted,
            [
                *wrong_key,
                *replaced("total", wrong_total, MISMATCH),
                *replaced("survivors", {"one less": [3, 5], "another": [3, 5, 8]}, MISMATCH),
                *replaced("tag", {"0": "0", "one more": str(int(joint) + 1)}, MISMATCH),
                ("not reduced", {"tag": str(int(joint) + tag.PRIME)}, MISMATCH),
            ],
        ),
    ]


def _exchanged(contributions: dict[str, str]) -> dict[str, str]:
    return {**contributions, "3": contributions["5"], "5": contributions["3"]}
