"""What is done to a frame of a transcript, and the error that is due."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping

from secure_fed_diffusion.secagg import codec

from .forms import Json


def spoil(frame: bytes, change: Json, others: Mapping[str, bytes]) -> bytes:
    """Carry out a change as the files describe it."""
    spoilt = bytearray(frame)
    if "flip_bit" in change:
        spoilt[change["of_byte"]] ^= 1 << change["flip_bit"]
    elif "set_byte" in change:
        spoilt[change["set_byte"]] = change["to"]
    elif "cut" in change:
        del spoilt[len(spoilt) - change["cut"] :]
    elif "extend" in change:
        spoilt += bytes.fromhex(change["extend"])
    elif "frame" in change:
        return others[change["frame"]]
    if change.get("length_corrected"):
        spoilt[10:18] = struct.pack("<Q", len(spoilt) - codec.HEADER_BYTES)
    return bytes(spoilt)


def changes(frame: bytes, *, upwards: bool, signed: bool, others: Mapping[str, bytes]) -> Iterator[Json]:
    """What is done to a frame, and the error that is due."""
    last = len(frame) - 1
    yield {"name": "cut by one byte", "cut": 1, "error": "FrameError"}
    yield {"name": "longer by one byte", "extend": "00", "error": "FrameError"}
    yield {"name": "header alone", "cut": len(frame) - codec.HEADER_BYTES, "error": "FrameError"}
    yield {
        "name": "longer by a byte, length corrected",
        "extend": "00",
        "length_corrected": True,
        "error": "FrameError",
    }
    yield {
        "name": "cut by a byte, length corrected",
        "cut": 1,
        "length_corrected": True,
        "error": "FrameError",
    }
    yield {"name": "another magic", "flip_bit": 0, "of_byte": 0, "error": "FrameError"}
    yield {"name": "another version", "flip_bit": 0, "of_byte": 4, "error": "FrameError"}
    yield {"name": "an unknown kind", "set_byte": 5, "to": 255, "error": "FrameError"}
    other_kind = 2 if frame[5] != 2 else 1
    wrong_kind = "PhaseError" if upwards else "FrameError"
    yield {"name": "another kind", "set_byte": 5, "to": other_kind, "error": wrong_kind}
    yield {"name": "another client's id", "flip_bit": 1, "of_byte": 6, "error": "FrameError"}
    yield {"name": "another length", "flip_bit": 0, "of_byte": 10, "error": "FrameError"}
    yield {"name": "another session", "flip_bit": 7, "of_byte": 49, "error": "FrameError"}
    if upwards and signed:
        yield {"name": "payload altered", "flip_bit": 0, "of_byte": codec.HEADER_BYTES, "error": "FrameError"}
        yield {"name": "signature altered", "flip_bit": 0, "of_byte": last - 40, "error": "FrameError"}
        yield {"name": "no signature", "cut": 64, "length_corrected": True, "error": "FrameError"}
    for which in others:
        yield {"name": f"the frame {which}", "frame": which, "error": "FrameError"}
