"""The frames around a run's own: join a run, a frame of that run, leave it.

An institution may hold several runs; every frame names the run that it belongs to, so a frame of an old run
that arrives late is refused by that name before anything looks into it.

>>> run, inner = opened(enclose("ab" * 16, b"frame")[1:])
>>> run == "ab" * 16, inner
(True, b'frame')
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from secure_fed_diffusion.errors import FrameError, PolicyError
from secure_fed_diffusion.institution.agreement import Agreement
from secure_fed_diffusion.secagg import Roster, SigningKey

JOIN = 0x40  # coordinator: an agreement; answer: an Acceptance
FRAME = 0x41  # coordinator: a run's id and one of its frames; answer: the client's
LEAVE = 0x42  # coordinator: a run's id, the run is over; answer: the signed head of the ledger

RUN_ID_BYTES = 16
LABEL_JOIN = b"secure_fed_diffusion join v1"
_ACCEPTANCE = struct.Struct("<I32s64s")


def join(agreement: Agreement) -> bytes:
    """Return the frame that proposes `agreement`; sent again, it changes nothing."""
    return bytes([JOIN]) + agreement.encode()


def enclose(run_id: str, frame: bytes) -> bytes:
    """Return a frame of the run `run_id`."""
    return bytes([FRAME]) + bytes.fromhex(run_id) + frame


def leave(run_id: str) -> bytes:
    """Return the frame that ends the run `run_id`."""
    return bytes([LEAVE]) + bytes.fromhex(run_id)


def opened(body: bytes) -> tuple[str, bytes]:
    """Return the run's id and the frame in what stands behind the first byte.

    Raises:
        FrameError: too short.
    """
    if len(body) < RUN_ID_BYTES:
        raise FrameError(f"expected a run's id of {RUN_ID_BYTES} bytes, got {len(body)}")
    return body[:RUN_ID_BYTES].hex(), body[RUN_ID_BYTES:]


@dataclass(frozen=True, slots=True, kw_only=True)
class Acceptance:
    """One institution's word: I take part in this run, under this agreement."""

    client_id: int
    agreement_digest: bytes
    signature: bytes

    @classmethod
    def sign(cls, key: SigningKey, client_id: int, agreement: Agreement) -> Acceptance:
        """Accept `agreement`."""
        digest = bytes.fromhex(agreement.digest)
        signature = key.sign(_statement(client_id, digest))
        return cls(client_id=client_id, agreement_digest=digest, signature=signature)

    def encode(self) -> bytes:
        """Return the frame."""
        return _ACCEPTANCE.pack(self.client_id, self.agreement_digest, self.signature)

    @classmethod
    def decode(cls, frame: bytes) -> Acceptance:
        """Read a frame.

        Raises:
            FrameError: another length.
        """
        if len(frame) != _ACCEPTANCE.size:
            raise FrameError(f"expected an acceptance of {_ACCEPTANCE.size} bytes, got {len(frame)}")
        client_id, digest, signature = _ACCEPTANCE.unpack(frame)
        return cls(client_id=client_id, agreement_digest=digest, signature=signature)

    def require(self, agreement: Agreement, roster: Roster) -> int:
        """Return whose acceptance of `agreement` this is.

        Raises:
            FrameError: of another agreement.
            PolicyError: not signed by the client that it names.
        """
        if self.agreement_digest != bytes.fromhex(agreement.digest):
            raise FrameError(f"client {self.client_id} accepted another agreement")
        statement = _statement(self.client_id, self.agreement_digest)
        if not roster.verify(self.client_id, statement, self.signature):
            raise PolicyError(
                f"an acceptance in the name of client {self.client_id} that its key did not sign"
            )
        return self.client_id


def _statement(client_id: int, digest: bytes) -> bytes:
    return LABEL_JOIN + struct.pack("<I", client_id) + digest
