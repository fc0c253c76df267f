"""Runs to be killed: a process that has imported everything, and forks one real process for each run.

Noise and samples are keyed by (client, round) and by nothing else, so a repeated round gives the same
numbers: HERE ALONE, to compare a killed run with an uninterrupted one.  Every frame that a client hands
out is noted outside the run's folder before anybody reads it.

    python -m tests.federation.killing     orders as lines of JSON on stdin, answers on stdout
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch

from secure_fed_diffusion import config
from secure_fed_diffusion.data.datasets import load
from secure_fed_diffusion.diffusion.unet import build_unet
from secure_fed_diffusion.dp import epsilon
from secure_fed_diffusion.federation import assessment, workroom
from secure_fed_diffusion.federation import prepare as prepare_module
from secure_fed_diffusion.federation.contribution import Contributor
from secure_fed_diffusion.federation.messages import ANNOUNCE, ROUND, STEPS, Announcement, Opening
from secure_fed_diffusion.federation.settings import RunSettings
from secure_fed_diffusion.training import exactness
from tests.federation.small import seeded, settings_for

RESERVED = 2
_WRITE = os.write  # as it is before anything counts
SETTINGS = settings_for(
    "distributed",
    "data.train_limit=60",
    "federation.clients=4",
    "federation.colluders=0",
    "warmup.draws=0",
    "model.channels=[4,4]",
    'model.down_blocks=["DownBlock2D","DownBlock2D"]',
    'model.up_blocks=["UpBlock2D","UpBlock2D"]',
    "model.middle_block=false",
    "federation.clients_per_round=3",
    "federation.min_survivors=3",
    f"federation.reserved_attempts={RESERVED}",
    "federation.declared_records=60",
    "secagg.threshold=3",
    "modes.distributed.rounds=3",
    "modes.distributed.divisor=12",
)


class _Clockwork:
    """Counts what touches the disk or leaves a client, and kills this process at event number `last`."""

    def __init__(self, last: int | None) -> None:
        self.count, self._last = 0, last

    def tick(self) -> bool:
        """Count one event; True where this is the last."""
        self.count += 1
        return self.count == self._last

    def around(self, call: Callable[..., Any]) -> Callable[..., Any]:
        """Return `call` with an event before it and one after it."""

        def watched(*args: Any, **kwargs: Any) -> Any:
            if self.tick():
                die()
            answer = call(*args, **kwargs)
            if self.tick():
                die()
            return answer

        return watched

    def torn(self, write: Callable[[int, Any], int]) -> Callable[[int, Any], int]:
        """Return `write` with an event in the middle of it."""

        def watched(descriptor: int, data: Any) -> int:
            if self.tick():
                write(descriptor, bytes(data)[: len(data) // 2])
                die()
            return write(descriptor, data)

        return watched


def die() -> None:
    """SIGKILL: no handler, no flush, no `finally`."""
    os.kill(os.getpid(), signal.SIGKILL)


class _Quiet:
    def round(self, record: dict[str, Any]) -> None:
        """Say nothing."""

    def note(self, text: str) -> None:
        """Say nothing."""


def _freeze() -> None:
    """Key every draw by client and round, so that an attempt changes nothing."""
    honest, together = Contributor.vector, workroom.vectors

    def frozen(contributor: Contributor, number: int) -> Contributor:
        key = contributor.client_id, number
        return replace(contributor, entropy=seeded("noise", *key), coins=seeded("coins", *key))

    def vector(self: Contributor, release: Any, weights: Any, *, number: int, attempt: int) -> Any:
        return honest(frozen(self, number), release, weights, number=number, attempt=0)

    def vectors(them: Any, release: Any, weights: Any, *, number: int, attempt: int) -> Any:
        return together([frozen(each, number) for each in them], release, weights, number=number, attempt=0)

    Contributor.vector = vector  # type: ignore[method-assign]
    workroom.vectors = vectors


def _note_frames(
    handler: Callable[[bytes], bytes], client_id: int, dimension: int, notes: int
) -> Callable[[bytes], bytes]:
    """Return a handler that notes each contribution (client, round, attempt) as it leaves."""
    current = (0, 0)

    def watched(frame: bytes) -> bytes:
        nonlocal current
        answer = handler(frame)
        if frame[0] in (ANNOUNCE, ROUND):
            announcement = (
                Announcement.decode(frame, dimension)
                if frame[0] == ANNOUNCE
                else Opening.decode(frame, dimension).announcement
            )
            current = announcement.round, announcement.attempt
        if frame[0] in (STEPS["masked_input"], ROUND):
            entry = [client_id, *current, sha256(answer).hexdigest()]
            _WRITE(notes, json.dumps(entry).encode() + b"\n")
        return answer

    return watched


def execute(folder: Path, notes: Path, last_event: int | None, settings: RunSettings) -> None:
    """Run in `folder`, or go on with what a kill left there; the number of events is written beside it."""
    clockwork = _Clockwork(last_event)
    _freeze()
    os.write = clockwork.torn(os.write)
    for name in ("fsync", "replace"):
        setattr(os, name, clockwork.around(getattr(os, name)))
    resume = (folder / "ledger.jsonl").exists()
    # What costs time and touches neither a charge nor a frame is left out.
    exactness.is_position_independent = lambda *_, **__: True
    assessment.HOLDOUT_RECORDS = 16
    run = prepare_module.prepare(settings, folder, config_text=config.dump(settings), resume=resume)
    run.assessment.measure = lambda *_, **__: {}  # type: ignore[method-assign]
    out = os.open(notes, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    handlers = run.engine.handlers
    for client_id, handler in dict(handlers).items():
        handlers[client_id] = clockwork.around(_note_frames(handler, client_id, run.plan.dimension, out))
    run.execute(_Quiet())
    run.ledger.close()
    notes.with_suffix(".events").write_text(str(clockwork.count))


def warm_up() -> None:
    """Compute what every run computes alike, before the first fork; no gradient, torch forbids that here."""
    dataset = load(SETTINGS.data)
    model = build_unet(
        SETTINGS.model,
        image_shape=dataset.image_shape,
        n_classes=dataset.n_classes,
        n_timesteps=SETTINGS.diffusion.timesteps,
    )
    plan = prepare_module.plan_for(SETTINGS, dataset, model)
    for view in plan.views():
        for steps in range(1, plan.max_charges()["training"] + 1):
            for accountant in ("pld", "rdp"):
                counts = {plan.releases["training"].mechanism: steps}
                epsilon(counts, delta=plan.privacy.delta, view=view, accountant=accountant)


def serve() -> None:
    """Fork a process for each order, kill it when the order says so, and answer with its wait status."""
    for line in sys.stdin:
        order = json.loads(line)
        started = time.monotonic()
        child = os.fork()
        if child == 0:
            status = 1
            try:
                os.dup2(2, 1)
                secure_sum = replace(SETTINGS.secagg, rounds_per_setup=order["rounds_per_setup"])
                settings = replace(SETTINGS, secagg=secure_sum)
                execute(Path(order["folder"]), Path(order["notes"]), order["last_event"], settings)
                status = 0
            except BaseException as error:  # the child must never come back into this loop
                print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
            finally:
                os._exit(status)
        if order["after_seconds"] is not None:
            time.sleep(order["after_seconds"])
            os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        answer = {"killed": os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL}
        answer |= {"ended": os.WIFEXITED(status) and os.WEXITSTATUS(status) == 0}
        print(json.dumps({**answer, "seconds": time.monotonic() - started}), flush=True)


if __name__ == "__main__":
    torch.set_num_threads(1)
    warm_up()
    serve()
