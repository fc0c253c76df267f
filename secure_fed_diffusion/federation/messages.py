"""The frames between a client and the server: what opens a round, and what wraps the secure sum's own.

Every frame starts with one byte that names its step.  An announcement carries the round, the attempt,
the model and the heads that the clients signed; a client takes everything else (cohort, clip, noise,
ring) from its own plan.  The frames of the secure sum are passed on as they are.
"""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from secure_fed_diffusion.errors import FrameError
from secure_fed_diffusion.federation.heads import HEAD_BYTES, SignedHead

ANNOUNCE = 0  # server: round, attempt, model
# server: the secure sum's frame for that phase
STEPS = {"share_keys": 1, "masked_input": 2, "unmask": 3, "choose": 4, "consistency": 5}
NAMES = {code: name for name, code in STEPS.items()}

_HEADER = struct.Struct("<BIIQI")


@dataclass(frozen=True, slots=True)
class Announcement:
    """What opens one attempt at one round; `weights` is float32 of shape (d,), `heads` are signed."""

    round: int
    attempt: int
    weights: npt.NDArray[np.float32]
    heads: tuple[SignedHead, ...] = ()

    @property
    def model_digest(self) -> bytes:
        """SHA-256 of the weights: part of the session, so two models can share no mask."""
        return hashlib.sha256(self.weights.astype("<f4").tobytes()).digest()

    def encode(self) -> bytes:
        """Return the frame."""
        header = _HEADER.pack(ANNOUNCE, self.round, self.attempt, len(self.weights), len(self.heads))
        heads = b"".join(head.encode() for head in self.heads)
        return header + self.weights.astype("<f4").tobytes() + heads

    @classmethod
    def decode(cls, frame: bytes, dimension: int) -> Announcement:
        """Read a frame that must hold `dimension` weights, all finite.

        Raises:
            FrameError: wrong length, another model's size, or a weight that is no number.
        """
        model_end = _HEADER.size + 4 * dimension
        if len(frame) < model_end or frame[0] != ANNOUNCE:
            raise FrameError(f"expected an announcement of at least {model_end} bytes, got {len(frame)}")
        _, number, attempt, length, n_heads = _HEADER.unpack_from(frame)
        if len(frame) != model_end + n_heads * HEAD_BYTES:
            raise FrameError(
                f"expected an announcement of {model_end} bytes and {n_heads} heads, got {len(frame)}"
            )
        if length != dimension:
            raise FrameError(f"expected a model of {dimension} parameters, got {length}")
        weights = np.frombuffer(frame[_HEADER.size : model_end], dtype="<f4").astype(np.float32)
        if not np.isfinite(weights).all():
            raise FrameError("the announced model holds a weight that is no finite number")
        heads = tuple(
            SignedHead.decode(frame[start : start + HEAD_BYTES])
            for start in range(model_end, len(frame), HEAD_BYTES)
        )
        return cls(number, attempt, weights, heads)


def wrap(phase: str, frame: bytes) -> bytes:
    """Mark the secure sum's frame with the phase whose answer it asks for."""
    return bytes([STEPS[phase]]) + frame


def unwrap(frame: bytes) -> tuple[str, bytes]:
    """Return the phase and the secure sum's frame.

    Raises:
        FrameError: no such step.
    """
    if not frame or frame[0] not in NAMES:
        raise FrameError("a frame that belongs to no step of a round")
    return NAMES[frame[0]], frame[1:]


def encode_plain(vector: npt.NDArray[np.uint64]) -> bytes:
    """Return the frame of an unmasked contribution (modes `none` and `central` with `masked = false`)."""
    return vector.astype("<u8").tobytes()


def decode_plain(frame: bytes, length: int, client_id: int) -> npt.NDArray[np.uint64]:
    """Read an unmasked contribution of `length` coordinates.

    Raises:
        FrameError: wrong length.
    """
    if len(frame) != 8 * length:
        raise FrameError(
            f"client {client_id} sent {len(frame)} bytes, expected {8 * length}", culprits=(client_id,)
        )
    return np.frombuffer(frame, dtype="<u8").astype(np.uint64)
