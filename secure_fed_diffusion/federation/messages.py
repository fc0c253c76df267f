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
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
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

_HEADER = struct.Struct("<BIIQ")
_SETUP = struct.Struct(f"<BB{NONCE_BYTES}s")
_ROUND = struct.Struct("<BI")
_N_HEADS = struct.Struct("<I")
_RELEASES: tuple[ReleaseName, ...] = get_args(ReleaseName)
_LABEL_BINDING = b"secure_fed_diffusion round, attempt and model of a slot v1"

Shown = Callable[[int], Sequence[SignedHead]]
"""`shown(client_id)`: the signed heads that this client is shown."""


@dataclass(frozen=True, slots=True)
class Announcement:
    """What opens one attempt at one round; `weights` is float32 of shape (d,), `heads` are signed.

    In a round of class covariances the class means stand where the weights do.
    """

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
        return self.encode_model() + _encode_heads(self.heads)

    def encode_model(self) -> bytes:
        """Return what the frames to all clients have in common: the frame without the heads."""
        header = _HEADER.pack(ANNOUNCE, self.round, self.attempt, len(self.weights))
        return header + self.weights.astype("<f4").tobytes()

    @classmethod
    def decode(cls, frame: bytes | memoryview, dimension: int) -> Announcement:
        """Read a frame that must hold `dimension` weights, all finite.

        Raises:
            FrameError: wrong length, another model's size, or a weight that is no number.
        """
        announcement, end = cls.read(frame, dimension)
        if end != len(frame):
            raise FrameError(f"expected an announcement of {end} bytes, got {len(frame)}")
        return announcement

    @classmethod
    def read(cls, frame: bytes | memoryview, dimension: int) -> tuple[Announcement, int]:
        """Read a frame that may go on behind its heads; return where they end as well."""
        model_end = _HEADER.size + 4 * dimension
        heads_at = model_end + _N_HEADS.size
        if len(frame) < heads_at or frame[0] != ANNOUNCE:
            raise FrameError(f"expected an announcement of at least {heads_at} bytes, got {len(frame)}")
        _, number, attempt, length = _HEADER.unpack_from(frame)
        if length != dimension:
            raise FrameError(f"expected a model of {dimension} parameters, got {length}")
        weights = np.frombuffer(frame[_HEADER.size : model_end], dtype="<f4").astype(np.float32)
        if not np.isfinite(weights).all():
            raise FrameError("the announced model holds a weight that is no finite number")
        end = heads_at + _N_HEADS.unpack_from(frame, model_end)[0] * HEAD_BYTES
        if end > len(frame):
            raise FrameError(f"truncated: {len(frame)} bytes, the heads end at {end}")
        places = range(heads_at, end, HEAD_BYTES)
        heads = tuple(SignedHead.decode(bytes(frame[start : start + HEAD_BYTES])) for start in places)
        return cls(number, attempt, weights, heads), end


def announced_round(frame: bytes) -> int:
    """Return the number of the round that an announcement or an opening is for; 0 where it is too short."""
    start = _ROUND.size if frame[:1] == bytes([ROUND]) else 0
    if len(frame) < start + _HEADER.size:
        return 0
    return int(_HEADER.unpack_from(frame, start)[1])


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
        _, slot = _ROUND.unpack_from(frame)
        announcement, end = Announcement.read(memoryview(frame)[_ROUND.size :], dimension)
        return cls(slot, announcement, frame[_ROUND.size + end :])


class Frames(Mapping[int, bytes]):
    """Frames by client that begin alike; put together when asked for.

    The model is what they have in common, so a thousand of them take hardly more memory than one.
    """

    def __init__(self, common: bytes, own: Mapping[int, bytes]) -> None:
        self._common, self._own = common, own

    def __getitem__(self, client_id: int) -> bytes:
        return self._common + self._own[client_id]

    def __iter__(self) -> Iterator[int]:
        return iter(self._own)

    def __len__(self) -> int:
        return len(self._own)

    @property
    def n_bytes(self) -> int:
        """The length of all frames together."""
        return len(self) * len(self._common) + sum(map(len, self._own.values()))


def show_nothing(client_id: int) -> Sequence[SignedHead]:
    """Show no heads: `Shown` of a run that has none."""
    return ()


def announcements(announcement: Announcement, cohort: Iterable[int], shown: Shown = show_nothing) -> Frames:
    """Return the frame that announces a round to each of `cohort`."""
    own = {client_id: _encode_heads(shown(client_id)) for client_id in cohort}
    return Frames(announcement.encode_model(), own)


def openings(
    slot: int, announcement: Announcement, frames: Mapping[int, bytes], shown: Shown = show_nothing
) -> Frames:
    """Return what opens a round in a slot of a set-up, to each client of the secure sum's `frames`."""
    own = {client_id: _encode_heads(shown(client_id)) + frame for client_id, frame in frames.items()}
    return Frames(_ROUND.pack(ROUND, slot) + announcement.encode_model(), own)


def _encode_heads(heads: Sequence[SignedHead]) -> bytes:
    return _N_HEADS.pack(len(heads)) + b"".join(head.encode() for head in heads)


def count_bytes(frames: Mapping[int, bytes]) -> int:
    """Return the length of all frames together."""
    return frames.n_bytes if isinstance(frames, Frames) else sum(map(len, frames.values()))


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
