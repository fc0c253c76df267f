"""How one client's frames are taken and answered: bound to a session or round, signed, each step once.

Guarantees: an answer is bound to the id of the session in the key set-up and to that of the round afterwards;
under profile `active` it is signed with the key that the roster lists.  With a latch no step is ever answered
in two ways, also by two copies of a client, as long as both write to the same latch.

Not protected against: a latch that forgets.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Collection
from hashlib import sha256

from ..errors import ConfigError, FrameError, PhaseError, PolicyError
from . import codec
from .phases import SETUP_PHASES, Step
from .session import Session, Slot
from .signing import SigningKey

Latch = Callable[[bytes, bytes], bool]
"""`latch(key, value)` writes `value` under `key`, durably, unless one is there; True if `value` is there."""


class Answers:
    """What of a client touches frames; `slot` is the round that it is in, None before the first.

    Raises:
        ConfigError: `signer` is not the client's key on the roster.
    """

    def __init__(
        self, session: Session, client_id: int, *, signer: SigningKey | None, latch: Latch | None
    ) -> None:
        _check_signer(session, client_id, signer)
        self._session = session
        self._client_id = client_id
        self._signer = signer
        self._latch = latch

    @property
    def latched(self) -> bool:
        """Whether there is a latch."""
        return self._latch is not None

    def unpack(self, step: Step, frame: bytes, *, slot: Slot | None) -> memoryview:
        """Return what is in a frame of the server's.

        Raises:
            FrameError: of another kind, session, round or client; or the step takes none.
        """
        if step.receives is None:
            raise FrameError(f"step {step.phase} takes no frame")
        bound_to = self._bound_to(step, slot)
        return codec.unpack(frame, step.receives, session_id=bound_to, client_id=self._client_id)

    def pack(
        self, step: Step, payload: codec.Buffer, *, slot: Slot | None, masked_with: Collection[int]
    ) -> bytes:
        """Sign, pack and latch an answer; the signature covers whom the vector is masked with.

        Raises:
            PolicyError: the step was answered before, in another way.
            ConfigError: the latch says neither.
            PhaseError: the step has no answer.
        """
        if step.sends is None:
            raise PhaseError(f"step {step.phase} has no answer")
        bound_to, signature = self._bound_to(step, slot), b""
        if self._signer is not None:
            signature = self._signer.sign(
                codec.signed_bytes(
                    step.sends,
                    session_id=bound_to,
                    client_id=self._client_id,
                    payload=payload,
                    masked_with=masked_with,
                )
            )
        frame = codec.pack(
            step.sends,
            session_id=bound_to,
            client_id=self._client_id,
            payload=payload,
            signature=signature,
        )
        if self._latch is not None:
            is_mine = self._latch(self._latch_key(step, slot), sha256(frame).digest())
            if not isinstance(is_mine, bool):
                raise ConfigError(
                    "expected True or False, whether what lies under the key is now this value; got "
                    f"{type(is_mine).__name__}",
                    key="latch",
                )
            if not is_mine:
                raise PolicyError(f"step {step.phase} of this session was answered before, in another way")
        return frame

    def _bound_to(self, step: Step, slot: Slot | None) -> bytes:
        """Return the id in the frames of this step: the session's in the set-up, then the round's."""
        return self._session.id if step.phase in SETUP_PHASES or slot is None else slot.id

    def _latch_key(self, step: Step, slot: Slot | None) -> bytes:
        """Name what may be answered once: the step, and the secrets that it uses up.

        Those are a round's by its number alone, so a round cannot be entered under a second id.
        """
        number = 0 if step.phase in SETUP_PHASES or slot is None else slot.number
        return struct.pack("<BI", step.sends or 0, number) + self._session.id


def _check_signer(session: Session, client_id: int, signer: SigningKey | None) -> None:
    if session.roster is None:
        if signer is not None:
            raise ConfigError(f"profile {session.params.profile} signs nothing", key="signer")
        return
    if signer is None or session.roster.publics[client_id] != signer.public:
        raise ConfigError(f"expected the key that the roster lists for client {client_id}", key="signer")
