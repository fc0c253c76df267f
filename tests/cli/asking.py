"""What `sfd` answers: a status and two streams, and how a refusal looks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

TWO_ROUNDS = ["--set", "modes.distributed.rounds=1"]  # and one of the warm-up


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    out: str
    err: str


Ask = Callable[..., Answer]


def assert_refused(answer: Answer, status: int, *parts: str) -> None:
    assert answer.status == status, answer
    assert answer.out == ""
    assert answer.err.startswith("sfd: ")
    assert answer.err.count("\n") == 1
    for part in parts:
        assert part in answer.err
