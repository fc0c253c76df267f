"""The frames between a client and the server: what opens a round, and what wraps the secure sum's own.

Every frame starts with one byte that names its step.  An announcement carries the round, the attempt,
the model and the heads that the clients signed; a client takes everything else (cohort, clip, noise,
ring) from its own plan.  The frames of the secure sum are passed on as they are.

Where one key set-up pays for several rounds, a `SetupCall` opens it, and an `Opening` is an announcement
together with the slot of the set-up that it uses up and the secure sum's frame that opens that slot: one
exchange instead of three.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import get_args

import numpy as np
import numpy.typing as npt

from secure_fed_diffusion.errors import FrameError
from secure_fed_diffusion.federation.heads import HEAD_BYTES, SignedHead
from secure_fed_diffusion.federation.schedule import ReleaseName

ANNOUNCE = 0  # server: round, attempt, model
# server: the secure sum's frame for that phase
STEPS = {"share_keys": 1, "masked_input": 2, "unmask": 3, "choose": 4, "consistency": 5}
NAMES = {code: name for name, code in STEPS.items()}
SETUP = 6  # server: begin a key set-up for several rounds
ROUND = 7  # server: announcement, slot, and the secure sum's frame that opens it
NONCE_BYTES = 16

_HEADER = struct.Struct("<BIIQI")
_SETUP = struct.Struct(f"<BB{NONCE_BYTES}s")
_ROUND = struct.Struct("<BIQ")
_RELEASES: tuple[ReleaseName, ...] = get_args(ReleaseName)
_LABEL_BINDING = b"secure_fed_diffusion round, attempt and model of a slot v1"


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

    @property
    def binding(self) -> bytes:
        """SHA-256 of round, attempt and model: what a slot of a set-up is bound to."""
        place = struct.pack("<II", self.round, self.attempt)
        return hashlib.sha256(_LABEL_BINDING + place + self.model_digest).digest()

    def encode(self) -> bytes:
        """Return the frame."""
        header = _HEADER.pack(ANNOUNCE, self.round, self.attempt, len(self.weights), len(self.heads))
        heads = b"".join(head.encode() for head in self.heads)
        return header + self.weights.astype("<f4").tobytes() + heads

    @classmethod
    def decode(cls, frame: bytes | memoryview, dimension: int) -> Announcement:
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
            SignedHead.decode(bytes(frame[start : start + HEAD_BYTES]))
            for start in range(model_end, len(frame), HEAD_BYTES)
        )
        return cls(number, attempt, weights, heads)


@dataclass(frozen=True, slots=True)
class SetupCall:
    """What begins a key set-up over all clients: the sums that it is for, and a name used once."""

    release: ReleaseName
    nonce: bytes

    def encode(self) -> bytes:
        """Return the frame."""
        return _SETUP.pack(SETUP, _RELEASES.index(self.release), self.nonce)

    @classmethod
    def decode(cls, frame: bytes) -> SetupCall:
        """Read a frame.

        Raises:
            FrameError: wrong length, or no such release.
        """
        if len(frame) != _SETUP.size or frame[0] != SETUP or frame[1] >= len(_RELEASES):
            raise FrameError(f"expected the call of a set-up of {_SETUP.size} bytes, got {len(frame)}")
        _, release, nonce = _SETUP.unpack(frame)
        return cls(_RELEASES[release], nonce)


@dataclass(frozen=True, slots=True)
class Opening:
    """What opens one attempt in a slot of a set-up; `frame` is the secure sum's own for this client."""

    slot: int
    announcement: Announcement
    frame: bytes

    @classmethod
    def decode(cls, frame: bytes, dimension: int) -> Opening:
        """Read a frame that must hold a model of `dimension` weights.

        Raises:
            FrameError: wrong length, or a bad announcement.
        """
        if len(frame) < _ROUND.size or frame[0] != ROUND:
            raise FrameError(f"expected the opening of a round, got {len(frame)} bytes")
        _, slot, length = _ROUND.unpack_from(frame)
        end = _ROUND.size + length
        if end > len(frame):
            raise FrameError(f"truncated: {len(frame)} bytes, the announcement ends at {end}")
        announced = memoryview(frame)[_ROUND.size : end]
        return cls(slot, Announcement.decode(announced, dimension), frame[end:])


class Openings(Mapping[int, bytes]):
    """The frames that open one attempt, by client; put together when asked for.

    Their model is the same, so a thousand of them take no more memory than one.
    """

    def __init__(self, slot: int, announcement: Announcement, frames: Mapping[int, bytes]) -> None:
        announced = announcement.encode()
        self._common = _ROUND.pack(ROUND, slot, len(announced)) + announced
        self._frames = frames

    def __getitem__(self, client_id: int) -> bytes:
        return self._common + self._frames[client_id]

    def __iter__(self) -> Iterator[int]:
        return iter(self._frames)

    def __len__(self) -> int:
        return len(self._frames)

    @property
    def n_bytes(self) -> int:
        """The length of all frames together."""
        return len(self) * len(self._common) + sum(map(len, self._frames.values()))


def count_bytes(frames: Mapping[int, bytes]) -> int:
    """Return the length of all frames together."""
    return frames.n_bytes if isinstance(frames, Openings) else sum(map(len, frames.values()))


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
