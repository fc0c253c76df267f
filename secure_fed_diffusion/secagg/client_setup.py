"""The key set-up at one client: advertise, choose neighbours, entrust shares, and open what others entrust.

Everything secret lies on the keyring; `take_round` hands out what one round needs, once.  `Client`
frames, signs and orders the steps; nothing here looks at a frame's header.

Guarantees: who may be a neighbour or a holder follows from the session, or from this client's own coins
after the server's commitment, never from a list that the server sends.  Under `active` the ids of the rounds
hang on the adverts that this client was shown.

Not protected against: under `semi_honest`, a server that puts its own keys in an advert.

Source: Bonawitz et al., CCS 2017, figure 4, rounds 0 and 1; Bell et al., CCS 2020, section 5.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Set
from typing import Any

from ..entropy import Entropy
from ..errors import FrameError, PhaseError, PolicyError, TooFewClientsError
from . import choice, codec, keys, shamir
from .client_round import ClientRound
from .keyring import Keyring, RoundSecrets
from .messages import Advert, AdvertList, Choice, Commitment, ShareDelivery, Shares
from .phases import Kind
from .policy import Policy
from .seal import CONTRIBUTION_BYTES, Entrusted, SharePair, seal, unseal
from .session import NO_COMMITMENT, Session, Slot
from .signing import SIGNATURE_BYTES
from .tag import GroupKey


class ClientSetup:
    """One client's part of a set-up; `keyring` is empty once burned."""

    def __init__(self, session: Session, client_id: int, entropy: Entropy) -> None:
        self.session = session
        self.client_id = client_id
        self.keyring = Keyring()
        self.commitment = NO_COMMITMENT
        self._entropy = entropy
        self._chosen: tuple[int, ...] = ()  # whom it picked, where clients pick
        self._peers: frozenset[int] | None = None  # whom it masks with, known once the shares are open

    def advertise(self) -> bytes:
        """Make fresh key pairs, one for sealing and one for each round, and advertise the public halves."""
        params, ring = self.session.params, self.keyring
        ring.cipher_key = self._entropy(keys.KEY_BYTES)
        ring.rounds = {
            number: RoundSecrets(self._entropy(keys.KEY_BYTES), self._entropy(keys.KEY_BYTES))
            for number in range(params.n_rounds)
        }
        if params.verifiable:
            ring.contribution = self._entropy(CONTRIBUTION_BYTES)
        return self._own_advert().encode()

    def choose(self, payload: memoryview) -> bytes:
        """Take the server's commitment to the adverts; draw the neighbours from the whole cohort.

        Whom the server calls present does not steer the draw: it could name its own clients alone.
        """
        params = self.session.params
        commitment = Commitment.decode(payload, params.n_clients)
        if not commitment.members.present[self.session.graph.index(self.client_id)]:
            raise PolicyError("the commitment leaves out this client, whose advert was delivered")
        if not self._is_committed_to(commitment.root, self.client_id, self._own_advert(), commitment.path):
            raise PolicyError("the commitment is to another advert than this client's own")
        others = [v for v in self.session.cohort if v != self.client_id]
        self.commitment = commitment.root
        self._chosen = choice.draw(others, params.n_neighbours or len(others), self._entropy)
        return Choice(neighbours=self._chosen).encode()

    def share_keys(self, payload: memoryview) -> bytes:
        """Take the neighbours' adverts; seal for each holder its shares of every round's secrets."""
        adverts = AdvertList.decode(payload, self.session.params)
        neighbours = self.session.graph.neighbours(self.client_id)
        self._require_known(adverts.adverts.keys(), neighbours, "advertised")
        self._check_adverts(adverts)
        if self.session.params.signed and not self.session.params.client_chosen_graph:
            shown = {self.client_id: self._own_advert(), **adverts.adverts}
            self.commitment = choice.tree_of(
                self.session.cohort, {v: advert.encode() for v, advert in shown.items()}
            ).root
        holders = adverts.adverts.keys() & set(self.holders())
        self._require_holders(len(holders) + 1)
        entrusted = self._split_secrets((self.client_id, *sorted(holders)))
        self.keyring.hold(self.client_id, entrusted.pop(self.client_id).pairs)
        sealed = {}
        for peer, advert in adverts.adverts.items():
            to_peer = self._agree(peer, advert.cipher_key)
            if peer in entrusted:
                sealed[peer] = seal(
                    to_peer,
                    entrusted[peer],
                    session_id=self.session.id,
                    sender=self.client_id,
                    receiver=peer,
                )
        self.keyring.mask_publics = {v: advert.mask_keys for v, advert in adverts.adverts.items()}
        commitments = tuple(
            keys.commit_seed(own.seed, session_id=self.session.id, client_id=self.client_id, number=number)
            for number, own in self.keyring.rounds.items()
        )
        return Shares(commitments=commitments, sealed=sealed).encode(self.session.params)

    def open(self, payload: memoryview) -> None:
        """Open what others sealed for this client, the first time that it comes; it holds for all rounds."""
        delivery = ShareDelivery.decode(payload, self.session.params)
        if self._peers is not None:
            return
        ring = self.keyring
        peers = frozenset(delivery.sealed) | frozenset(delivery.masks_only)
        self._require_known(peers, ring.opening_keys, "shared")
        self._require_holders(1 + len(peers.intersection(self.holders())))
        contributions = {self.client_id: ring.contribution}
        for peer, sealed in delivery.sealed.items():
            entrusted = unseal(
                ring.opening_keys[peer],
                sealed,
                session_id=self.session.id,
                sender=peer,
                receiver=self.client_id,
                n_rounds=self.session.params.n_rounds,
            )
            ring.hold(peer, entrusted.pairs)
            contributions[peer] = entrusted.contribution
        if self.session.params.verifiable:
            ring.group_key = GroupKey.combine(contributions, session_id=self.session.id).secret
        ring.cipher_key, ring.contribution, ring.opening_keys = b"", b"", {}
        self._peers = peers

    def check_participants(self, slot: Slot) -> None:
        """Insist that in THIS round the input is masked with enough of the holders of its secrets.

        Guarantees: with 2t > holders + colluders no participants that a server names leave the input under
        masks that it can take off.

        Raises:
            TooFewClientsError: fewer holders than the threshold take part.
        """
        if self._peers is not None:
            masked_with = (self._peers | {self.client_id}).intersection(slot.participants)
            self._require_holders(len(masked_with.intersection(self.holders())))

    def take_round(self, slot: Slot, policy: Policy) -> ClientRound:
        """Return what the round needs, and forget it: its secrets and those of all rounds before it."""
        ring = self.keyring
        if self._peers is None:
            raise PhaseError("the shares of this set-up are not open")
        self.check_participants(slot)
        own, held = ring.take_round(slot.number)
        here = set(slot.participants)
        return ClientRound(
            session=self.session,
            slot=slot,
            client_id=self.client_id,
            policy=policy,
            own=own,
            mask_publics={v: ring.mask_publics[v][slot.number] for v in self._peers & here},
            held={owner: pair for owner, pair in held.items() if owner in here},
            holders=frozenset(self.holders()) & (self._peers | {self.client_id}),
            tag_key=GroupKey(ring.group_key).of_round(slot.id) if ring.group_key else None,
        )

    def holders(self) -> tuple[int, ...]:
        """Return who is to hold this client's shares, itself first."""
        return (self.client_id, *(self._chosen or self.session.graph.neighbours(self.client_id)))

    def _own_advert(self) -> Advert:
        ring = self.keyring
        mask_keys = tuple(keys.PrivateKey(own.mask_key).public for own in ring.rounds.values())
        return Advert(cipher_key=keys.PrivateKey(ring.cipher_key).public, mask_keys=mask_keys)

    def _check_adverts(self, adverts: AdvertList) -> None:
        """Refuse a reflected key and, under `active`, an advert without signature or path."""
        own_keys = set(self._own_advert().public_keys)
        for peer, advert in adverts.adverts.items():
            if not own_keys.isdisjoint(advert.public_keys):
                raise FrameError(f"client {peer} advertises this client's own key", culprits=(peer,))
            if self.session.roster is None:
                continue
            proof, payload = adverts.proofs[peer], advert.encode()
            signature, path = proof[:SIGNATURE_BYTES], proof[SIGNATURE_BYTES:]
            signed = codec.signed_bytes(
                Kind.ADVERT, session_id=self.session.id, client_id=peer, payload=payload
            )
            if not self.session.roster.verify(peer, signed, signature):
                raise FrameError(f"the advert of client {peer} does not bear its signature")
            if self.session.params.client_chosen_graph and not self._is_committed_to(
                self.commitment, peer, advert, path
            ):
                raise FrameError(f"the advert of client {peer} is not the one that the server committed to")

    def _is_committed_to(self, root: bytes, client_id: int, advert: Advert, path: bytes) -> bool:
        return choice.leads_to(
            root,
            choice.leaf(client_id, advert.encode()),
            index=self.session.graph.index(client_id),
            n_leaves=self.session.params.n_clients,
            path=path,
        )

    def _split_secrets(self, holders: tuple[int, ...]) -> dict[int, Entrusted]:
        """Share every round's two secrets among the holders."""
        threshold = self.session.params.threshold
        pairs: dict[int, list[SharePair]] = {v: [] for v in holders}
        for own in self.keyring.rounds.values():
            mask_key, seed = (
                shamir.split(
                    int.from_bytes(secret, "little"), holders, threshold=threshold, entropy=self._entropy
                )
                for secret in own
            )
            for v in holders:
                pairs[v].append(SharePair(mask_key[v], seed[v]))
        return {v: Entrusted(tuple(pairs[v]), self.keyring.contribution) for v in holders}

    def _agree(self, peer: int, peer_public: bytes) -> bytes:
        """Return the key that seals for the peer; keep the one that opens what it seals."""
        to_peer, from_peer = keys.seal_keys(
            keys.PrivateKey(self.keyring.cipher_key),
            peer_public,
            session_id=self.session.id,
            own_id=self.client_id,
            peer_id=peer,
        )
        self.keyring.opening_keys[peer] = from_peer
        return to_peer

    def _require_known(self, named: Set[int], known: Collection[int], what: str) -> None:
        strangers = sorted(named - set(known))
        if strangers:
            raise FrameError(f"the server says that {strangers} {what}: none that this client can know of")

    def _require_holders(self, n_holders: int) -> None:
        threshold = self.session.params.threshold
        if n_holders < threshold:
            raise TooFewClientsError(
                f"client {self.client_id}: expected threshold={threshold} holders, {n_holders} left"
            )

    def to_dict(self) -> dict[str, Any]:
        """Return what a snapshot needs, as JSON types: as secret as a private key."""
        return {
            "keyring": self.keyring.to_dict(),
            "commitment": self.commitment.hex(),
            "chosen": list(self._chosen),
            "peers": None if self._peers is None else sorted(self._peers),
        }

    def load_dict(self, saved: Mapping[str, Any]) -> None:
        """Take up what `to_dict` wrote."""
        self.keyring = Keyring.from_dict(saved["keyring"])
        self.commitment = bytes.fromhex(saved["commitment"])
        self._chosen = tuple(saved["chosen"])
        self._peers = None if saved["peers"] is None else frozenset(saved["peers"])
