"""The key set-up at the server: gather adverts, choices and sealed shares, and pass each to whom it is for.

What a client sent is passed on as it came, with what vouches for it; nothing here can open a share.

Guarantees: a frame is taken whole or not at all; a client is asked to go on only if enough of its
holders are left to recover its secrets.

Source: Bonawitz et al., CCS 2017, figure 4, rounds 0 and 1; Bell et al., CCS 2020, section 5.
"""

from __future__ import annotations

from collections.abc import Collection

from ..errors import FrameError
from . import choice, codec
from .graph import AnyGraph, ChosenGraph, viable
from .messages import Advert, AdvertList, Choice, Commitment, Members, ShareDelivery, Shares
from .phases import Kind, Step
from .recovery import Recovery
from .server_round import KeySetup, ServerRound, require_connected, require_enough
from .session import NO_COMMITMENT, Session, Slot


class ServerSetup:
    """The server's part of a set-up; `sharers` are the clients that completed it."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.recovery = Recovery(threshold=session.params.threshold)
        self.sharers: frozenset[int] = frozenset()
        self._present: frozenset[int] = frozenset(session.cohort)
        self._graph: AnyGraph = session.graph
        self._tree: choice.MerkleTree | None = None
        self.commitment = NO_COMMITMENT  # to the adverts, under `active`; it enters the ids of the rounds
        self._adverts: dict[int, Advert] = {}
        self._signatures: dict[int, bytes] = {}  # of the adverts
        self._advertised_keys: set[bytes] = set()
        self._choices: dict[int, tuple[int, ...]] = {}
        self._shares: dict[int, Shares] = {}

    def heard(self, phase: str) -> Collection[int]:
        """The clients whose frame of this phase was taken."""
        by_phase: dict[str, Collection[int]] = {
            "advertise": self._adverts,
            "choose": self._choices,
            "share_keys": self._shares,
        }
        return by_phase[phase]

    def take(self, step: Step, client_id: int, payload: memoryview, signature: bytes) -> None:
        """Take one client's answer: check everything, then change the state in one go."""
        if step.sends is Kind.ADVERT:
            self._take_advert(client_id, payload, signature)
        elif step.sends is Kind.CHOICE:
            self._take_choice(client_id, payload)
        else:
            self._take_shares(client_id, payload)

    def close(self, phase: str, silent: frozenset[int]) -> dict[int, bytes]:
        """Close a phase; return the frames that open the next, but for `share_keys`, which ends it."""
        if phase == "advertise":
            return self._close_advertise(silent)
        if phase == "choose":
            self._graph = ChosenGraph(cohort=self.session.cohort, choices=self._choices)
            self._present = self._viable("choose", frozenset(self._choices), silent)
            return self._pass_on_adverts()
        self.sharers = self._viable("share_keys", frozenset(self._shares), silent)
        return {}

    def without_keys(self) -> None:
        """End at once, with the whole cohort: profile unsafe_unmasked."""
        self.sharers = self._present

    def open_round(self, slot: Slot) -> ServerRound:
        """Return a round of the participants that shared keys."""
        return ServerRound(
            KeySetup(
                session=self.session,
                graph=self._graph,
                adverts=self._adverts,
                shares=self._shares,
                sharers=self.sharers.intersection(slot.participants),
                recovery=self.recovery,
            ),
            slot,
        )

    def delivery(self, client_id: int, slot: Slot, *, delivered: bool) -> bytes:
        """Return the frame that opens a round: with the shares sealed for the client, the first time."""
        sealed, masks_only = {}, []
        if not delivered:
            for u in self.sharers.intersection(self._graph.neighbours(client_id)):
                if client_id in self._shares[u].sealed:
                    sealed[u] = self._shares[u].sealed[client_id]
                else:
                    masks_only.append(u)
        payload = ShareDelivery(sealed=sealed, masks_only=masks_only).encode(self.session.params)
        return codec.pack(Kind.SHARE_DELIVERY, session_id=slot.id, client_id=client_id, payload=payload)

    def _take_advert(self, client_id: int, payload: memoryview, signature: bytes) -> None:
        advert = Advert.decode(payload, n_rounds=self.session.params.n_rounds)
        if not self._advertised_keys.isdisjoint(advert.public_keys):
            raise FrameError("another client advertised this public key")
        self._adverts[client_id] = advert
        self._signatures[client_id] = signature
        self._advertised_keys.update(advert.public_keys)

    def _take_choice(self, client_id: int, payload: memoryview) -> None:
        neighbours = Choice.decode(payload).neighbours
        if len(neighbours) != self.session.params.n_neighbours:
            raise FrameError("not a choice of n_neighbours clients")
        if not all(v in self.session.graph for v in neighbours):
            raise FrameError("the client chose somebody outside the cohort")
        if client_id in neighbours:
            raise FrameError("the client chose itself")
        self._choices[client_id] = neighbours

    def _take_shares(self, client_id: int, payload: memoryview) -> None:
        shares = Shares.decode(payload, self.session.params)
        if shares.sealed.keys() != self._present.intersection(self._graph.holders(client_id)) - {client_id}:
            raise FrameError("shares for other clients than the holders that are in")
        self._shares[client_id] = shares

    def _close_advertise(self, silent: frozenset[int]) -> dict[int, bytes]:
        if not self.session.params.client_chosen_graph:
            self._present = self._viable("advertise", frozenset(self._adverts), silent)
            if self.session.params.signed:
                passed_on = {v: self._adverts[v].encode() for v in self._present}
                self.commitment = choice.tree_of(self.session.cohort, passed_on).root
            return self._pass_on_adverts()
        self._present = frozenset(self._adverts)
        require_enough(self.session, "advertise", len(self._present), silent)
        self._tree = choice.tree_of(
            self.session.cohort, {v: self._adverts[v].encode() for v in self._present}
        )
        members = Members.among(self.session.cohort, self._present)
        self.commitment = self._tree.root
        frames = {}
        for v in sorted(self._present):
            path = self._tree.path(self.session.graph.index(v))
            payload = Commitment(root=self.commitment, path=path, members=members).encode()
            frames[v] = self._pack(Kind.COMMITMENT, v, payload)
        return frames

    def _pass_on_adverts(self) -> dict[int, bytes]:
        """Send each client the adverts of its neighbours, with what vouches for them."""
        params, frames = self.session.params, {}
        for v in sorted(self._present):
            neighbours = sorted(self._present.intersection(self._graph.neighbours(v)))
            adverts = AdvertList(
                adverts={u: self._adverts[u] for u in neighbours},
                proofs={u: self._proof(u) for u in neighbours},
            )
            frames[v] = self._pack(Kind.ADVERT_LIST, v, adverts.encode(params))
        return frames

    def _proof(self, client_id: int) -> bytes:
        path = self._tree.path(self.session.graph.index(client_id)) if self._tree else b""
        return self._signatures[client_id] + path

    def _viable(self, phase: str, present: frozenset[int], silent: frozenset[int]) -> frozenset[int]:
        """Leave out those whose secrets could not be recovered, if enough clients remain."""
        require_enough(self.session, phase, len(present), silent)
        left = viable(self._graph, present, self.session.params.threshold)
        require_enough(self.session, phase, len(left), silent, "clients with enough holders")
        require_connected(self.session, self._graph, phase, left, silent)
        return left

    def _pack(self, kind: Kind, client_id: int, payload: bytes) -> bytes:
        return codec.pack(kind, session_id=self.session.id, client_id=client_id, payload=payload)
