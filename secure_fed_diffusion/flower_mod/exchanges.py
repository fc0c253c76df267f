"""One exchange with the nodes: requests out, answers in, polled at our own pace, and what it took.

Flower's `Grid.send_and_receive` looks for replies every 3 s; this one looks every `poll_seconds` and stops
when all have answered or the time is up.  A reply is matched by the message that it answers, so one that
comes after its exchange is over is never taken.

A round's record keeps why a node was left out, in the node's own words.  The mod says no other than its own
texts, none of which depends on the data; what an exception in the app says may, so Flower's report of one is
not repeated.  A client that lies says what it likes, on one line of at most `LONGEST_REFUSAL` characters.

Not protected against: the other fixed poll, a SuperNode that looks for messages every 3 s.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid

from . import wire

LONGEST_REFUSAL = 300
APP_FAILED = (0, 1, 2)  # flwr.common.constant.ErrorCode: Flower sends what an exception in the app says


@dataclass(frozen=True, slots=True, kw_only=True)
class Exchange:
    """What one exchange took: seconds of the wall clock, and bytes without Flower's own framing."""

    step: str
    asked: int
    answered: int
    seconds: float
    bytes_down: int
    bytes_up: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Envelope:
    """What the strategy wrote on its messages: which function of the app, which group, how long they live."""

    message_type: str
    group_id: str
    ttl: float

    @classmethod
    def of(cls, message: Message) -> Envelope:
        """Read it off a message."""
        metadata = message.metadata
        return cls(message_type=metadata.message_type, group_id=metadata.group_id, ttl=metadata.ttl)


@dataclass(slots=True, kw_only=True)
class RoundRecord:
    """What a round took, who is in its mean, who was left out and why, and how it ended.

    `survivors` are the nodes in the mean, ascending; of a round that failed none.  `refusals` says of each
    node that was left out with a word what that was: the node's own, or what is wrong with its frame.  Of a
    round that ended well, a node in neither did not answer in time, or waits for the next set-up; one in both
    failed after its input had come.  `error` is the typed error's name and text, or empty.
    """

    round: int
    exchanges: list[Exchange] = field(default_factory=list)
    server_seconds: float = 0.0
    survivors: tuple[int, ...] = ()
    refusals: dict[int, str] = field(default_factory=dict)
    n_clients: int = 0
    error: str = ""

    def leave_out(self, node_id: int, said: str) -> str:
        """Write down why a node is out; return it as it is kept."""
        cut = said if len(said) <= LONGEST_REFUSAL else said[: LONGEST_REFUSAL - 1] + "…"
        self.refusals[node_id] = "".join(c if c.isprintable() else " " for c in cut)
        return self.refusals[node_id]

    def commonest_refusal(self) -> str:
        """Return what most nodes were left out for, and how many these are; empty without refusals."""
        if not self.refusals:
            return ""
        [(said, count)] = Counter(self.refusals.values()).most_common(1)
        return f"{count} of {len(self.refusals)} refusals: {said}"


def refusal_in(reply: Message) -> str:
    """Return what a node says where it answers with an error, else nothing."""
    if not reply.has_error():
        return ""
    error = reply.error
    if error.code in APP_FAILED:
        return f"the app failed outside the mod (Flower's error {error.code}); the node's own log says how"
    return error.reason or f"Flower's error {error.code}"


def exchange(
    grid: Grid,
    step: str,
    requests: Mapping[int, RecordDict],
    *,
    take: Callable[[int, Message], None],
    envelope: Envelope,
    seconds: float | None,
    poll_seconds: float,
) -> Exchange:
    """Send each node its request and hand each answer to `take(node_id, reply)` as it comes."""
    started = time.monotonic()
    messages = [
        Message(content, node_id, envelope.message_type, ttl=envelope.ttl, group_id=envelope.group_id)
        for node_id, content in requests.items()
    ]
    answered, bytes_up = 0, 0
    for node_id, reply in replies(grid, messages, seconds=seconds, poll_seconds=poll_seconds):
        take(node_id, reply)
        answered += not reply.has_error()
        bytes_up += wire.n_bytes(reply.content) if reply.has_content() else 0
    return Exchange(
        step=step,
        asked=len(messages),
        answered=answered,
        seconds=time.monotonic() - started,
        bytes_down=sum(wire.n_bytes(content) for content in requests.values()),
        bytes_up=bytes_up,
    )


def replies(
    grid: Grid, messages: list[Message], *, seconds: float | None, poll_seconds: float
) -> Iterator[tuple[int, Message]]:
    """Push the messages; yield (node, reply) until all have answered or the time is up."""
    ends = None if seconds is None else time.monotonic() + seconds
    pushed = set(grid.push_messages(messages))
    waiting = {
        message.metadata.message_id: message.metadata.dst_node_id
        for message in messages
        if message.metadata.message_id in pushed
    }
    while waiting:
        for reply in grid.pull_messages(list(waiting)):
            node_id = waiting.pop(reply.metadata.reply_to_message_id, None)
            if node_id is not None:
                yield node_id, reply
        if not waiting or (ends is not None and time.monotonic() >= ends):
            return
        time.sleep(poll_seconds)
