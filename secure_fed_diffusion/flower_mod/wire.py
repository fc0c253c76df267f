"""What passes between the two ends: one ConfigRecord beside the app's own records.

| request | fields beside `step` | answer |
|---|---|---|
| identify | – | `client_id` |
| advertise | `terms`, `client_id` | frame |
| choose, share_keys, consistency, unmask | `session`, frame | frame |
| masked_input | `session`, frame, `number`, `participants`; the app's records | frame |

The announcement of a round and the frame that opens it are one message.  A frame travels as an Array of
bytes, which Flower cuts into pieces when it is large.

Not protected against: anything; what a frame guarantees, `secagg` says.
"""

from __future__ import annotations

import json
import struct
from dataclasses import asdict, dataclass
from typing import Any, TypeVar, cast, get_origin

from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict

from ..errors import ConfigError, FrameError
from ..secagg import Roster, Session
from ..secagg.session import DIGEST_BYTES
from .proposal import Proposal

RECORD = "secure_aggregation"
FRAME = "secure_aggregation.frame"
IDENTIFY = "identify"
RUN_LABEL = b"secure_fed_diffusion flower_mod v3"
NONCE_BYTES = 16
BYTE_FIELDS = {"model_digest": DIGEST_BYTES, "config_digest": DIGEST_BYTES, "nonce": NONCE_BYTES}
Field = TypeVar("Field", int, str, bytes, list[Any])


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What both ends make a session from; the run's number and the roster each end knows for itself."""

    proposal: Proposal
    round: int
    attempt: int
    cohort: tuple[int, ...]
    dimension: int
    model_digest: bytes
    config_digest: bytes  # of the run's configuration (`records.config_digest`)
    nonce: bytes  # so that no two set-ups of a run are one, whoever counts the attempts

    def session(self, *, run_id: int, roster: Roster | None) -> Session:
        """Return the session that these terms and this run make.

        Raises:
            ConfigError: they contradict each other.
        """
        return Session(
            run_id=RUN_LABEL
            + struct.pack("<Q", run_id)
            + self.nonce
            + self.config_digest
            + self.proposal.digest,
            round=self.round,
            attempt=self.attempt,
            cohort=self.cohort,
            params=self.proposal.params(n_clients=len(self.cohort), dimension=self.dimension),
            model_digest=self.model_digest,
            roster=roster if self.proposal.profile == "active" else None,
        )

    def to_json(self) -> str:
        """Return the form in which they travel and are kept."""
        as_hex = {name: getattr(self, name).hex() for name in BYTE_FIELDS}
        return json.dumps({**asdict(self), **as_hex})

    @classmethod
    def from_json(cls, text: str) -> Terms:
        """Undo `to_json`.

        Raises:
            FrameError: no terms.
        """
        try:
            fields = json.loads(text)
            cohort = tuple(fields.pop("cohort"))
            if any(type(client_id) is not int for client_id in cohort):
                raise TypeError
            held = {name: bytes.fromhex(fields.pop(name)) for name in BYTE_FIELDS}
            if any(len(held[name]) != length for name, length in BYTE_FIELDS.items()):
                raise ValueError
            return cls(proposal=Proposal(**fields.pop("proposal")), cohort=cohort, **held, **fields)
        except (AttributeError, KeyError, TypeError, ValueError, ConfigError):
            raise FrameError("not the terms of a set-up") from None


def request(step: str, *, frame: bytes | None = None, **fields: int | str | bytes | list[int]) -> RecordDict:
    """Return a message's content, to which a round adds the app's own records."""
    content = RecordDict({RECORD: ConfigRecord({"step": step, **fields})})
    if frame is not None:
        content[FRAME] = _as_array(frame)
    return content


def answer(frame: bytes) -> RecordDict:
    """Return a client's content: a frame and nothing else."""
    return RecordDict({FRAME: _as_array(frame)})


def frame_of(content: RecordDict) -> bytes:
    """Return the frame of a request or an answer.

    Raises:
        FrameError: there is none.
    """
    record = content.array_records.get(FRAME)
    if record is None or list(record) != ["frame"]:
        raise FrameError("a message without a frame")
    return record["frame"].data


def field(content: RecordDict, name: str, kind: type[Field]) -> Field:
    """Return one field of a request or an answer.

    Raises:
        FrameError: missing, or of another type.
    """
    record = content.config_records.get(RECORD)
    value = None if record is None else record.get(name)
    if not isinstance(value, get_origin(kind) or kind) or isinstance(value, bool):
        raise FrameError(f"a message without {name}")
    return cast(Field, value)


def is_request(content: RecordDict) -> bool:
    """Tell whether a message is one of this protocol."""
    return RECORD in content.config_records


def strip(content: RecordDict) -> None:
    """Take this protocol's records out, so that the app sees its own alone."""
    content.pop(RECORD, None)
    content.pop(FRAME, None)


def n_bytes(content: RecordDict) -> int:
    """Return the size of what a content holds, without Flower's own framing."""
    arrays = sum(len(array.data) for record in content.array_records.values() for array in record.values())
    configs = sum(record.count_bytes() for record in content.config_records.values())
    return arrays + configs + sum(record.count_bytes() for record in content.metric_records.values())


def _as_array(frame: bytes) -> ArrayRecord:
    return ArrayRecord({"frame": Array("uint8", (len(frame),), "bytes", frame)})
