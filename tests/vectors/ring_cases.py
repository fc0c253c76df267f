"""Cases for the ring: packing, fixed point, masks."""

from __future__ import annotations

from .alterations import MISMATCH, case, cut, extended, flipped, numbers, replaced
from .fixed import fixed
from .forms import Json
from .operations import perform


def encoding_cases() -> list[Json]:
    cases = []
    for bits in (8, 9, 12, 16, 20, 24, 31, 32, 33, 48, 60, 64):
        drawn = bytes.fromhex(fixed(f"values {bits}", 8 * 9))
        values = [int.from_bytes(drawn[i : i + 8], "little") >> (64 - bits) for i in range(0, 72, 8)]
        vector = [str(v) for v in (0, (1 << bits) - 1, *values)]
        other = [str(int(vector[0]) ^ 1), *vector[1:]]
        turned = vector[::-1]
        packed, _ = perform("encoding.pack", {"vector": vector, "modulus_bits": bits})
        differing = {"the first value": other, "the order": turned, "one less": vector[1:]}
        last = {"the last value": [*vector[:-1], str(int(vector[-1]) ^ 1)]}
        cases.append(
            case(
                "encoding.pack",
                f"{bits} bits",
                {"vector": vector, "modulus_bits": bits},
                replaced("vector", {**differing, **last, "one more": [*vector, "1"]}, MISMATCH),
            )
        )
        spare = -len(vector) * bits % 8
        padding = [("padding not zero", {"packed": flipped(packed, -1, 7)}, "FrameError")] if spare else []
        wrong_size = [
            ("cut by one byte", {"packed": cut(packed)}, "FrameError"),
            ("longer by one byte", {"packed": extended(packed)}, "FrameError"),
            ("empty", {"packed": ""}, "FrameError"),
            *numbers("dimension", len(vector), (len(vector) - 2, len(vector) + 2), "FrameError"),
        ]
        flips = [("the first bit", {"packed": flipped(packed, 0)}, MISMATCH)]
        inputs = {"packed": packed, "dimension": len(vector), "modulus_bits": bits}
        cases.append(case("encoding.unpack", f"{bits} bits", inputs, [*wrong_size, *padding, *flips]))
        cases.append(
            case(
                "encoding.centred",
                f"{bits} bits",
                {"vector": vector, "modulus_bits": bits},
                replaced("vector", {**differing, **last, "one more": [*vector, "1"]}, MISMATCH),
            )
        )
    return cases


def fixed_point_cases() -> list[Json]:
    grid = {"clip": 1.0, "fraction_bits": 10, "modulus_bits": 24, "max_clients": 100, "max_weight": 5}
    floats = (0.0, 0.5, -0.25, 0.1, 0.9, 0.123, -0.7, -0.99, 1 / 3, -1 / 3, 1e-9, -1e-9, 1.0, -1.0, 7.0, -7.0)
    values = [value.hex() for value in floats]
    coins = fixed("coins", 8 * len(values))
    good = {"grid": grid, "values": values, "weight": 3, "coins": coins}
    encoded, _ = perform("fixed_point.encode", good)
    no_room = {
        "no headroom": {**grid, "max_clients": 5000},
        "61 fraction bits": {**grid, "fraction_bits": 61},
    }
    wrong_grids = {"clip 0": {**grid, "clip": 0.0}, "65 bits": {**grid, "modulus_bits": 65}, **no_room}
    total = encoded["vector"]
    weighted = {"grid": grid, "total": total, "total_weight": 3}
    return [
        case(
            "fixed_point.encode",
            "weight 3, clipped at 1",
            good,
            [
                *numbers("weight", 3, (0, 6), "ConfigError"),
                *numbers("weight", 3, (2,)),
                *replaced("grid", wrong_grids, "ConfigError"),
                *replaced(
                    "coins", {"all zero": "00" * len(floats) * 8, "all one": "ff" * len(floats) * 8}, MISMATCH
                ),
                ("not a number", {"values": ["nan", *values[1:]]}, "DataError"),
                ("infinite", {"values": ["inf", *values[1:]]}, "DataError"),
            ],
        ),
        case(
            "fixed_point.decode",
            "weight 3",
            weighted,
            [
                *replaced("grid", wrong_grids, "ConfigError"),
                *numbers("total_weight", 3, (1,)),
                *replaced(
                    "total", {"a bit": [str(int(total[0]) ^ 1), *total[1:]], "turned": total[::-1]}, MISMATCH
                ),
            ],
        ),
    ]


def mask_cases() -> list[Json]:
    a, b, c = (fixed(f"mask {name}") for name in "abc")
    cases = []
    for bits in (8, 12, 20, 32, 64):
        vector = [str(v % (1 << bits)) for v in (0, 1, (1 << bits) - 1, 5, 77)]
        inputs = {"vector": vector, "modulus_bits": bits, "plus": [a, b], "minus": [c]}
        cases.append(
            case(
                "masks.apply",
                f"{bits} bits, two added and one taken off",
                inputs,
                [
                    *replaced("plus", {"a bit": [flipped(a, 0), b], "one less": [a], "none": []}, MISMATCH),
                    *replaced("minus", {"none": [], "another": [b], "twice": [c, c]}, MISMATCH),
                    ("signs exchanged", {"plus": [c], "minus": [a, b]}, MISMATCH),
                    ("the vector turned", {"vector": vector[::-1]}, MISMATCH),
                ],
            )
        )
    return cases
