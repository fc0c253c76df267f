"""One client of one round, sans I/O: server frames in, its own frames out.

    advertise() -> share_keys(frame) -> masked_input(frame, vector) -> unmask(frame)

The machine runs each step once, in this order.  Any exception, its own included, fails it for good
and burns its secrets; start a new attempt with a new client.  A client that fails is a dropout for
the others.

Guarantees (profile `semi_honest`; the server and at most t - 1 holders of a client's shares, all
following the protocol): they learn of the honest clients' vectors their sum over the survivors.

Not protected against: a server that shows different survivor lists to different clients beyond what
the majority threshold gives (see README), nor one that invents clients: keys are not signed.
What the SUM says about a member is for differential privacy.

Source: Bonawitz et al., CCS 2017, figure 4; Bell et al., CCS 2020, algorithm 2.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Set
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from ..entropy import Entropy, system
from ..errors import ConfigError, FrameError, PhaseError, PolicyError, TooFewClientsError
from . import codec, keys, masks, shamir
from .encoding import reduce_in_place, to_ring
from .messages import Advert, AdvertList, MaskedInput, ShareDelivery, Shares, Survivors, UnmaskShares
from .params import SAFE_POLICY, Policy
from .phases import Machine, Step
from .seal import SharePair, seal, unseal
from .session import Session


@dataclass(slots=True)
class _Own:
    """What one client keeps to itself until its masked input is made."""

    cipher_key: keys.PrivateKey
    mask_key: keys.PrivateKey
    seed: bytes = field(repr=False)


class Client:
    """A one-shot, fail-closed machine; `phase` is the step that is due, "done" or "failed".

    Raises:
        PolicyError: the session's parameters lie outside this client's policy.
        ConfigError: the client is not in the session's cohort.
    """

    def __init__(
        self, session: Session, client_id: int, *, policy: Policy = SAFE_POLICY, entropy: Entropy = system
    ) -> None:
        policy.check(session.params)
        if client_id not in session.graph:
            raise ConfigError(f"client {client_id} is not in the cohort", key="client_id")
        self.session = session
        self.client_id = client_id
        self._policy = policy
        self._entropy = entropy
        self._machine = Machine(session.params.profile)
        self._neighbours = session.graph.neighbours(client_id)
        self._own: _Own | None = None
        self._opening_keys: dict[int, bytes] = {}
        self._mask_publics: dict[int, bytes] = {}
        self._held: dict[int, SharePair] = {}

    @property
    def phase(self) -> str:
        """The step that is due, "done" or "failed"."""
        return self._machine.phase

    def advertise(self) -> bytes:
        """Make two fresh key pairs and advertise their public halves."""
        with self._step("advertise") as step:
            own = _Own(
                cipher_key=keys.PrivateKey(self._entropy(keys.KEY_BYTES)),
                mask_key=keys.PrivateKey(self._entropy(keys.KEY_BYTES)),
                seed=self._entropy(keys.KEY_BYTES),
            )
            self._own = own
            advert = Advert(cipher_key=own.cipher_key.public, mask_key=own.mask_key.public)
            return self._pack(step, advert.encode())

    def share_keys(self, server_frame: bytes) -> bytes:
        """Take the neighbours' adverts; seal for each its shares of the mask key and the seed.

        Raises:
            FrameError: a bad frame, a client that is no neighbour, this client's own key reflected.
            TooFewClientsError: fewer holders than the threshold.
        """
        with self._step("share_keys") as step:
            own = self._secrets()
            adverts = AdvertList.decode(self._unpack(step, server_frame)).adverts
            self._require_known(adverts.keys(), self._neighbours, "advertised")
            self._require_holders(len(adverts) + 1)
            own_keys = {own.cipher_key.public, own.mask_key.public}
            for peer, advert in adverts.items():
                if not own_keys.isdisjoint((advert.cipher_key, advert.mask_key)):
                    raise FrameError(f"client {peer} advertises this client's own key", culprits=(peer,))
            holders = (self.client_id, *adverts)
            threshold = self.session.params.threshold
            key_shares = self._split(own.mask_key.secret, holders, threshold)
            seed_shares = self._split(own.seed, holders, threshold)
            self._held = {self.client_id: SharePair(key_shares[self.client_id], seed_shares[self.client_id])}
            sealed = {}
            for peer, advert in adverts.items():
                to_peer, self._opening_keys[peer] = keys.seal_keys(
                    own.cipher_key,
                    advert.cipher_key,
                    session_id=self.session.id,
                    own_id=self.client_id,
                    peer_id=peer,
                )
                sealed[peer] = seal(
                    to_peer,
                    SharePair(key_shares[peer], seed_shares[peer]),
                    session_id=self.session.id,
                    sender=self.client_id,
                    receiver=peer,
                )
            self._mask_publics = {peer: advert.mask_key for peer, advert in adverts.items()}
            commitment = keys.commit_seed(own.seed, session_id=self.session.id, client_id=self.client_id)
            return self._pack(step, Shares(commitment=commitment, sealed=sealed).encode())

    def masked_input(self, server_frame: bytes, vector: npt.ArrayLike) -> bytes:
        """Take the sealed shares; return the vector under the self mask and the pairwise masks.

        `vector` has shape (dimension,) and integers in [0, 2^modulus_bits); it is not changed.

        Guarantees: the frame is uniform on the ring to whoever lacks the seed, or one pairwise key.

        Raises:
            FrameError: a bad frame; shares that do not open name their sender.
            TooFewClientsError: fewer holders than the threshold shared.
            ConfigError: the vector is not one of the ring.
        """
        with self._step("masked_input") as step:
            own = self._secrets()
            sealed = ShareDelivery.decode(self._unpack(step, server_frame)).sealed
            self._require_known(sealed.keys(), self._opening_keys, "shared")
            self._require_holders(len(sealed) + 1)
            session_id = self.session.id
            for peer, shares in sealed.items():
                self._held[peer] = unseal(
                    self._opening_keys[peer],
                    shares,
                    session_id=session_id,
                    sender=peer,
                    receiver=self.client_id,
                )
            masked = to_ring(vector, self.session.params)
            pair_keys = {
                peer: keys.pair_mask_key(
                    own.mask_key,
                    self._mask_publics[peer],
                    session_id=session_id,
                    own_id=self.client_id,
                    peer_id=peer,
                )
                for peer in sealed
            }
            self_key = keys.self_mask_key(own.seed, session_id=session_id, client_id=self.client_id)
            # The lower id adds, the higher one subtracts: the pair cancels in the sum.
            masks.apply(
                masked,
                plus=[self_key, *(key for peer, key in pair_keys.items() if peer > self.client_id)],
                minus=[key for peer, key in pair_keys.items() if peer < self.client_id],
            )
            modulus_bits = self.session.params.modulus_bits
            reduce_in_place(masked, modulus_bits)
            held = self._held
            self._burn()  # from here on only the shares of others are needed
            self._held = held
            return self._pack(step, MaskedInput(vector=masked, modulus_bits=modulus_bits).encode())

    def unmask(self, server_frame: bytes) -> bytes:
        """Take the survivor list; return for each client that shared exactly one kind of share.

        Guarantees: every share is out of the machine's state before the reply leaves; the dropped
        are the complement of the one list that came; no client is answered for twice.

        Raises:
            PolicyError: this client is not on the list, the list is too short for its policy, or it
                names a neighbour that never shared.
            TooFewClientsError: fewer holders than the threshold survived, or their graph fell apart.
        """
        with self._step("unmask") as step:
            held = self._held
            self._burn()
            present = Survivors.decode(
                self._unpack(step, server_frame), self.session.params.n_clients
            ).present
            self._policy.check_survivors(int(np.count_nonzero(present)))
            graph = self.session.graph
            survivors = {v for v in (self.client_id, *self._neighbours) if present[graph.index(v)]}
            if self.client_id not in survivors:
                raise PolicyError("the survivor list leaves out this client, whose input was delivered")
            strangers = sorted(survivors - held.keys())
            if strangers:
                raise PolicyError(f"the survivor list names clients that shared no keys: {strangers}")
            self._require_holders(len(survivors))
            if not graph.is_connected(present):
                raise TooFewClientsError("the survivors' graph fell apart: partial sums would be readable")
            reply = UnmaskShares(
                self_mask={owner: pair.self_mask for owner, pair in held.items() if owner in survivors},
                mask_key={owner: pair.mask_key for owner, pair in held.items() if owner not in survivors},
            )
            return self._pack(step, reply.encode())

    def _burn(self) -> None:
        """Forget every secret; Python cannot overwrite them."""
        self._own = None
        self._opening_keys = {}
        self._mask_publics = {}
        self._held = {}

    def _secrets(self) -> _Own:
        if self._own is None:
            raise PhaseError("this client's secrets are burned")
        return self._own

    @contextmanager
    def _step(self, phase: str) -> Iterator[Step]:
        try:
            with self._machine.step(phase) as step:
                yield step
        except BaseException:
            self._burn()
            raise

    def _pack(self, step: Step, payload: codec.Buffer) -> bytes:
        return codec.pack(step.sends, session_id=self.session.id, client_id=self.client_id, payload=payload)

    def _unpack(self, step: Step, frame: bytes) -> memoryview:
        if step.receives is None:
            raise FrameError(f"step {step.phase} takes no frame")
        return codec.unpack(frame, step.receives, session_id=self.session.id, client_id=self.client_id)

    def _split(self, secret: bytes, holders: tuple[int, ...], threshold: int) -> dict[int, int]:
        value = int.from_bytes(secret, "little")
        return shamir.split(value, holders, threshold=threshold, entropy=self._entropy)

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
