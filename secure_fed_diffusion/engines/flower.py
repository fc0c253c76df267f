"""Frames carried by Flower (1.41): messages pushed to nodes, replies pulled until a time limit.

The grid is polled every `poll_seconds` (Flower's own `send_and_receive` sleeps for 3 s).  A message carries
one frame and the name of its exchange, used once; a reply counts if it answers a message of THIS exchange,
by the node that it went to, and bears that name.  All else (a reply to an earlier exchange that comes late,
one of a node that was not asked, a second one) is dropped here; a frame that passes still meets the
protocol's own checks of session, round and phase.

A node whose party refuses sends one of our errors by name; the text that it gives is cut, and never trusted.

Not protected against: whoever carries the messages may drop or delay them, which costs the round those
clients; what they hold is for the protocol to protect.

>>> refusal = decode_refusal("PolicyError", "too few")
>>> type(refusal).__name__, str(refusal)
('PolicyError', 'too few')
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from threading import Event
from typing import Any

from flwr.app import ConfigRecord, Message, RecordDict
from flwr.serverapp import Grid

from secure_fed_diffusion import entropy
from secure_fed_diffusion.engines.in_process import Absent, Replies
from secure_fed_diffusion.errors import BY_NAME, FrameError, RunError, SecureFedDiffusionError

ACTION = "frame"
MESSAGE_TYPE = f"query.{ACTION}"
FRAME, REFUSAL = "frame", "refusal"  # the two records that a message may hold
BATCH_BYTES = 16 << 20  # of frames that are pushed at once
MAX_REASON = 500  # characters of a refusal that are kept


def encode_frame(frame: bytes, exchange: str) -> RecordDict:
    """Return the content of a message that carries `frame` in the exchange of that name."""
    return RecordDict({FRAME: ConfigRecord({"bytes": frame, "exchange": exchange})})


def encode_refusal(error: SecureFedDiffusionError, exchange: str) -> RecordDict:
    """Return the content of a reply that refuses."""
    said = {"kind": type(error).__name__, "reason": str(error)[:MAX_REASON], "exchange": exchange}
    return RecordDict({REFUSAL: ConfigRecord(said)})


def decode_refusal(kind: str, reason: str) -> SecureFedDiffusionError:
    """Return the error of our tree that a node named; an unknown name becomes a `RunError`."""
    text = " ".join(reason[:MAX_REASON].split())
    return BY_NAME.get(kind, RunError)(text)


def decode_frame(content: RecordDict) -> tuple[bytes, str]:
    """Return the frame and the exchange's name in a message.

    Raises:
        FrameError: there are none.
    """
    record = content.config_records.get(FRAME, {})
    frame, exchange = record.get("bytes"), record.get("exchange")
    if not isinstance(frame, bytes) or not isinstance(exchange, str):
        raise FrameError("a message without a frame")
    return frame, exchange


def _never(round: int, client_id: int, phase: str) -> bool:  # noqa: A002
    return False


@dataclass(slots=True, kw_only=True)
class FlowerEngine:
    """An `Engine` over Flower's grid; `nodes` are Flower's node ids, by client.

    A client without a node is gone.  `absent` rehearses losses, as in the other engine: a frame that is not
    delivered.  Setting `stopped` ends the exchange that is under way with `KeyboardInterrupt`.
    """

    grid: Grid
    nodes: Mapping[int, int]
    time_limit_seconds: float = 600.0
    poll_seconds: float = 0.1
    absent: Absent = _never
    stopped: Event = field(default_factory=Event)
    clock: Callable[[], float] = time.monotonic

    def exchange(self, frames: Mapping[int, bytes], *, round: int, phase: str) -> Replies:  # noqa: A002
        """Deliver, and gather what comes back within the time limit."""
        began = self.clock()
        name = f"{round}/{phase}/{entropy.system(8).hex()}"
        asked = {
            self.nodes[client_id]: client_id
            for client_id in frames
            if client_id in self.nodes and not self.absent(round, client_id, phase)
        }
        pending = self._push(asked, frames, name)
        answers: dict[int, bytes] = {}
        refusals: dict[int, SecureFedDiffusionError] = {}
        waiting = set(pending)
        while waiting:
            for reply in self.grid.pull_messages(sorted(waiting)):
                message_id = reply.metadata.reply_to_message_id
                node = pending.get(message_id)
                if node is None or message_id not in waiting:
                    continue
                taken = _read(reply, node, name)
                if taken is None:
                    continue
                waiting.discard(message_id)
                if isinstance(taken, bytes):
                    answers[asked[node]] = taken
                else:
                    refusals[asked[node]] = taken
            left = self.time_limit_seconds - (self.clock() - began)
            if not waiting or left <= 0:
                break
            if self.stopped.wait(min(self.poll_seconds, left)):
                raise KeyboardInterrupt
        return Replies(frames=answers, refusals=refusals, client_seconds=self.clock() - began)

    def _push(self, asked: Mapping[int, int], frames: Mapping[int, bytes], name: str) -> dict[str, int]:
        """Send each node its client's frame; return the node of each message that was taken.

        In batches of bounded size: Flower's grid refuses a larger one, and holds all of it in memory.
        """
        nodes: dict[str, int] = {}
        batch: list[Message] = []
        held = 0
        for position, (node, client_id) in enumerate(asked.items(), start=1):
            frame = frames[client_id]
            content = encode_frame(frame, name)
            batch.append(
                Message(content, node, MESSAGE_TYPE, ttl=max(1.0, self.time_limit_seconds), group_id=name)
            )
            held += len(frame)
            if held >= BATCH_BYTES or position == len(asked):
                taken = {identity for identity in self.grid.push_messages(batch) if identity}
                sent = {message.metadata.message_id: message.metadata.dst_node_id for message in batch}
                nodes |= {identity: to for identity, to in sent.items() if identity in taken}
                batch, held = [], 0
        return nodes


def _read(reply: Any, node: int, name: str) -> bytes | SecureFedDiffusionError | None:
    """Return what a reply says, or None where it is none of this exchange."""
    if reply.has_error():  # made by Flower, which knows no exchange; it names the message that failed
        return RunError(f"its node gave no answer (Flower's error {reply.error.code})")
    if reply.metadata.src_node_id != node:
        return None
    refused = reply.content.config_records.get(REFUSAL)
    if refused is not None:
        if refused.get("exchange") != name:
            return None
        return decode_refusal(str(refused.get("kind")), str(refused.get("reason")))
    try:
        frame, exchange = decode_frame(reply.content)
    except FrameError as error:
        return error
    return frame if exchange == name else None
