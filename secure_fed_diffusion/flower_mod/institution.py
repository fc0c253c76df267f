"""One client for the length of one message: its set-ups, its rounds, its encoding.

Each message is a process of its own in Flower, so every step starts from the disk and ends on it (`store`).

Guarantees: as in `client`.  In a round: the terms are checked again, the frame is opened, the round's masks
leave the disk, and only then does the app train; whatever goes wrong from there on is one constant text.

Not protected against: that one bit a round, and the time that training took.

Source: secagg/README.md.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp.typing import ClientAppCallable

from ..entropy import Entropy
from ..errors import (
    ConfigError,
    DataError,
    PhaseError,
    PolicyError,
    RunError,
    SecureAggregationError,
)
from ..secagg import Client, Policy, Session
from ..secagg.answers import Latch
from ..secagg.phases import DONE, ROUND_START
from . import records, wire
from .identity import Identity, profile_from_node_config
from .store import Saved, Store

UNUSABLE = "the training gave nothing that can be summed; this round is used up"
log = logging.getLogger("flwr")


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What the owner of the app passed to the mod."""

    policy: Policy
    identity: Callable[[Context], Identity] | None
    weight_key: str
    metrics: frozenset[str]
    weighting: str
    state_dir: Path | None
    entropy: Entropy


class Institution:
    """One client for the length of one message."""

    def __init__(self, message: Message, context: Context, settings: Settings) -> None:
        if not wire.is_request(message.content):
            raise PolicyError("this client trains under secure aggregation only")
        self._message, self._context, self._settings = message, context, settings
        folder = settings.state_dir or _flower_home() / "secure_aggregation"
        self._store = Store(folder / f"{context.run_id}-{self._name()}")

    def answer(self, call_next: ClientAppCallable) -> RecordDict:
        """Run the step that the message asks for.

        Raises:
            SecureAggregationError: it is not due, or not acceptable; where the step itself failed, the
                set-up's secrets are gone.
        """
        content = self._message.content
        step = wire.field(content, "step", str)
        if step == wire.IDENTIFY:
            return RecordDict({wire.RECORD: ConfigRecord({"client_id": self._identity().client_id})})
        if step == "advertise":
            return self._advertise(content)
        terms, client, saved = self._restore(wire.field(content, "session", bytes))
        frame = wire.frame_of(content)
        if step == ROUND_START:
            return self._masked_input(content, terms, client, frame, call_next)
        steps = {
            "choose": client.choose,
            "share_keys": client.share_keys,
            "consistency": client.consistency,
            "unmask": client.unmask,
        }
        if step not in steps:
            raise PhaseError("the server asks for a step that this protocol does not have")
        if saved.in_training:
            raise PhaseError("this client's input of the round has not left")
        return self._take(terms, client, lambda: steps[step](frame), number=saved.round_number)

    def _advertise(self, content: RecordDict) -> RecordDict:
        terms = wire.Terms.from_json(wire.field(content, "terms", str))
        client_id, signer, roster = wire.field(content, "client_id", int), None, None
        if terms.proposal.profile == "active":
            own = self._identity()
            if client_id != own.client_id:
                raise PolicyError(f"the server calls client {own.client_id} by another number")
            signer, roster = own.signer, own.roster
        self._check(terms)
        session = terms.session(run_id=self._context.run_id, roster=roster)
        if self._store.holds(session.id):
            raise PhaseError("this set-up is under way")
        client = Client(
            session,
            client_id,
            policy=self._settings.policy,
            entropy=self._settings.entropy,
            signer=signer,
            latch=self._store.latch,
        )
        return self._take(terms, client, client.advertise)

    def _check(self, terms: wire.Terms) -> None:
        """Refuse terms that this client's own settings, or its node's, do not allow."""
        own, proposal = self._settings, terms.proposal
        profile = profile_from_node_config(self._context)
        if profile is not None and proposal.profile != profile:
            raise PolicyError(f"proposed profile={proposal.profile}; this node accepts {profile}")
        own.policy.check(proposal.params(n_clients=len(terms.cohort), dimension=terms.dimension))
        if proposal.weight_key != own.weight_key or not own.metrics.issuperset(proposal.metrics):
            raise PolicyError("the server asks for a weight or a metric that this client does not name")
        if own.weighting == "equal" and proposal.weighting != "equal":
            raise PolicyError("this client takes part with equal weights only")
        if terms.config_digest != records.config_digest(self._context.run_config):
            raise PolicyError(
                "the server's run configuration is not this node's: an app that trains by it would train by "
                "another one than its peers (does the server pass run_config=context.run_config?)"
            )
        proposal.grid(len(terms.cohort))

    def _masked_input(
        self,
        content: RecordDict,
        terms: wire.Terms,
        client: Client,
        frame: bytes,
        call_next: ClientAppCallable,
    ) -> RecordDict:
        number, participants = (
            wire.field(content, "number", int),
            wire.field(content, "participants", list[Any]),
        )
        wire.strip(content)
        model, metadata = records.Model.of(content), self._message.metadata
        if len(model.values) + len(terms.proposal.metrics) + 1 != terms.dimension:
            raise DataError("another model than the one that the set-up was made for")
        digest = records.content_digest(
            content, message_type=metadata.message_type, group_id=metadata.group_id
        )
        client.begin(number, model_digest=digest, participants=participants)
        client.require_addressed(frame)
        self._enter_round(terms, client, frame, number)
        try:
            vector = self._train(model, terms, call_next)
            return self._take(terms, client, lambda: client.masked_input(frame, vector), number=number)
        except (Exception, SystemExit) as error:
            # What went wrong depends on the data, so the server is not told: Flower would send the text.
            log.error("secure aggregation: %s: %s", type(error).__name__, error)
            if number == terms.proposal.n_rounds - 1:
                self._store.forget(client.session.id)
        raise SecureAggregationError(UNUSABLE)

    def _enter_round(self, terms: wire.Terms, client: Client, frame: bytes, number: int) -> None:
        """Open the frame, and leave on disk a client that cannot enter this round again.

        It is a copy that goes through the step, with zeros and without the latch; its answer is dropped.
        """
        session_id = client.session.id
        try:
            copy = self._restored(terms, client.session, client.client_id, client.snapshot(), latch=_no_latch)
            copy.masked_input(frame, np.zeros(terms.dimension, dtype=np.uint64))
            self._store.save(session_id, _saved(terms, copy, number, in_training=True))
        except BaseException:
            self._store.forget(session_id)
            raise

    def _train(
        self, model: records.Model, terms: wire.Terms, call_next: ClientAppCallable
    ) -> npt.NDArray[np.unsignedinteger[Any]]:
        reply, proposal = call_next(self._message, self._context), terms.proposal
        if reply.has_error():
            raise PhaseError("the app answered with an error")
        weight_key = None if proposal.weighting == "equal" else self._settings.weight_key
        update = model.read(reply.content, weight_key=weight_key, metrics=proposal.metrics)
        vector, n_clipped = encode(update, model, terms, self._settings.entropy)
        if n_clipped:
            log.warning("secure aggregation: %d of %d values were clipped", n_clipped, len(vector))
        return vector

    def _take(
        self, terms: wire.Terms, client: Client, step: Callable[[], bytes], *, number: int = 0
    ) -> RecordDict:
        """Run one step; what it leaves is on disk before its frame is on its way, or nothing is left."""
        session_id = client.session.id
        try:
            frame = step()
            self._store.save(session_id, _saved(terms, client, number))
        except BaseException:
            self._store.forget(session_id)
            raise
        if client.phase == DONE and number == terms.proposal.n_rounds - 1:
            self._store.forget(session_id)
        return wire.answer(frame)

    def _restore(self, session_id: bytes) -> tuple[wire.Terms, Client, Saved]:
        """Return the set-up's terms, its client, and what else was saved."""
        saved = self._store.load(session_id)
        terms = wire.Terms.from_json(saved.terms)
        self._check(terms)
        roster = self._identity().roster if terms.proposal.profile == "active" else None
        session = terms.session(run_id=self._context.run_id, roster=roster)
        if session.id != session_id:
            raise RunError("the set-up was made under another roster or run")
        return terms, self._restored(terms, session, saved.client_id, saved.snapshot), saved

    def _restored(
        self,
        terms: wire.Terms,
        session: Session,
        client_id: int,
        snapshot: bytes,
        latch: Latch | None = None,
    ) -> Client:
        return Client.restore(
            session,
            client_id,
            snapshot,
            latch=latch or self._store.latch,
            policy=self._settings.policy,
            entropy=self._settings.entropy,
            signer=self._identity().signer if terms.proposal.profile == "active" else None,
        )

    def _name(self) -> str:
        """Return what this client's files lie under: its key, since a SuperLink chooses a node's number.

        A node without key files has its number: `active` will refuse it, the other profile signs nothing.
        """
        if self._settings.identity is None:
            return str(self._context.node_id)
        try:
            return self._identity().signer.public.hex()
        except ConfigError:
            return str(self._context.node_id)

    def _identity(self) -> Identity:
        if self._settings.identity is None:
            raise ConfigError("the profile active needs this client's key and roster", key="identity")
        return self._settings.identity(self._context)


def encode(
    update: records.Update, model: records.Model, terms: wire.Terms, entropy: Entropy
) -> tuple[npt.NDArray[np.unsignedinteger[Any]], int]:
    """Return the ring vector (changes, metrics, weight; shape (dimension,)) and how many values were clipped.

    A weight above the proposal's largest one counts as that one: to refuse it would tell the server.
    """
    proposal, grid = terms.proposal, terms.proposal.grid(len(terms.cohort))
    weight = min(update.weight, proposal.largest_weight)
    values = np.concatenate([update.values - model.values, update.metrics])
    n_clipped = int(np.count_nonzero(np.abs(values) > grid.clip)) + (weight != update.weight)
    np.clip(values, -grid.clip, grid.clip, out=values)
    values *= weight / proposal.largest_weight
    vector = grid.encode(values, entropy=entropy).vector
    return np.append(vector, vector.dtype.type(weight)), n_clipped


def _saved(terms: wire.Terms, client: Client, number: int, *, in_training: bool = False) -> Saved:
    return Saved(
        terms=terms.to_json(),
        client_id=client.client_id,
        round_number=number,
        snapshot=client.snapshot(),
        in_training=in_training,
    )


def _no_latch(key: bytes, value: bytes) -> bool:
    return True


def _flower_home() -> Path:
    return Path(os.environ.get("FLWR_HOME") or Path.home() / ".flwr")
