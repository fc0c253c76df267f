"""T10: a generator whose seeds can be tried one after the other.

Every peer that folds a shared secret to a short seed before it makes a mask of it (Flower: 32 bits, a full
search in 93 s; Flamingo's code: 16 bits) is opened by trying them all.  Ours keys AES-256 with 256 bits that
HKDF derives.  A client whose operating system hands out keys of a guessable generator is open all the same.

The searches here are over 2^16 seeds, so that they fit a table; the work grows linearly.

Source: secure_aggregation.md, section 2, weakness 1; Debian's CVE-2008-0166 for the third arm.
"""

from __future__ import annotations

import hmac
import struct
from contextlib import nullcontext
from hashlib import sha256

import numpy as np
import numpy.typing as npt

from secure_fed_diffusion import entropy, secagg
from secure_fed_diffusion.secagg import keys
from threat_models.adversaries.curious_server import PairMaskedVector
from threat_models.claim import Arm, Claim, Staged, Tags, Threshold
from threat_models.peers import flower_secagg_plus as flower
from threat_models.peers import folded_seeds
from threat_models.staging import forging
from threat_models.staging.secagg_round import Round, make_params, make_session
from threat_models.staging.two_vectors import NOTHING, Ring, share_read
from threat_models.weakened.masks_and_seeds import APPLY, without_full_width_seeds
from threat_models.weakened.patching import without

DIMENSION, VICTIM, PEER = 64, 0, 1
SMALL = 1 << 12  # updates are small in the ring: how a right guess is known
SEEDS = 1 << 16
BOOT_SEEDS = 1 << 12  # of the third arm's generator: its only input is a small number


def boot_generator(boot_seed: int) -> entropy.Entropy:
    """Return a generator that a small number decides."""
    return entropy.Keystream(sha256(struct.pack("<Q", boot_seed)).digest()).read


def stage(arm: Arm, seed: int) -> Staged[PairMaskedVector]:
    """Run a round of two clients; the server has the victim's vector under one pairwise mask."""
    session = make_session(make_params(2, 2, dimension=DIMENSION), run_id=f"seed {seed}".encode())
    generator = np.random.default_rng(seed)
    with without(without_full_width_seeds) if arm is Arm.OFF else nullcontext():
        a_round = Round(session, label=f"{seed}")
        if arm is Arm.DROPPED:
            source = boot_generator(int(generator.integers(BOOT_SEEDS)))
            a_round.clients[VICTIM] = secagg.Client(session, VICTIM, policy=a_round.policy, entropy=source)
        a_round.vectors = {v: generator.integers(SMALL, size=DIMENSION, dtype=np.uint64) for v in range(2)}
        a_round.run_to("masked_input")
        frames = a_round.answers()
        vector = forging.masked_vector_of(a_round, frames[VICTIM])
        publics, slot_id = forging.mask_publics_of(a_round), forging.round_id(a_round)
        a_round.close(frames)
        replies = {v: forging.unmask_shares_of(a_round, frame) for v, frame in a_round.answers().items()}
        own_seed = forging.combined({v: reply.self_mask[VICTIM] for v, reply in replies.items()}, 2)
        APPLY(vector, minus=[keys.self_mask_key(own_seed, slot_id=slot_id, client_id=VICTIM).stream])
    view = PairMaskedVector(
        vector=vector,
        own_id=VICTIM,
        peer_id=PEER,
        own_public=publics[VICTIM],
        peer_public=publics[PEER],
        round_id=slot_id,
    )
    return Staged(view, a_round.vectors[VICTIM].astype(np.uint32))


def attack(view: PairMaskedVector) -> Ring:
    """Try every generator that a small number decides, then every short seed of a mask."""
    if view.search_from is not None:  # a peer whose masks have 32-bit seeds
        return folded_seeds.unmask(view)
    for boot_seed in range(BOOT_SEEDS):
        draw = boot_generator(boot_seed)
        draw(keys.KEY_BYTES)  # a client draws its sealing key first
        private = keys.PrivateKey(draw(keys.KEY_BYTES))
        if private.public == view.own_public:
            key = keys.pair_mask_key(
                private, view.peer_public, slot_id=view.round_id, own_id=view.own_id, peer_id=view.peer_id
            )
            return _unmasked(view.vector, key.stream)
    ids = struct.pack("<II", min(view.own_id, view.peer_id), max(view.own_id, view.peer_id))
    info = b"".join(struct.pack("<H", len(part)) + part for part in (keys.LABEL_PAIR_MASK, ids)) + b"\x01"
    for candidate in range(SEEDS):  # HKDF's first block is the stream's key (RFC 5869)
        pseudorandom = hmac.digest(view.round_id, struct.pack("<H", candidate), "sha256")
        stream = hmac.digest(pseudorandom, info, "sha256")
        if _unmasked(view.vector[:4], stream).max() < SMALL:
            return _unmasked(view.vector, stream)
    return NOTHING


def _unmasked(vector: npt.NDArray[np.uint32], stream: bytes) -> Ring:
    """Take the mask off; the victim has the lower id, so it added it."""
    mask = np.frombuffer(entropy.Keystream(stream).read(4 * len(vector)), dtype="<u4")
    return vector - mask


CLAIM = Claim(
    id="T10",
    title="A generator with few seeds",
    adversary="curious_server",
    asset="one client's vector",
    statement="No search over short seeds opens a mask: every mask has a 256-bit key of its own.",
    defence="AES-256 in counter mode, keyed by HKDF from the whole shared secret",
    dropped_assumption="the client's operating system has a sound generator",
    view=PairMaskedVector,
    stage=stage,
    attack=attack,
    judge=share_read,
    metric="share of the victim's coordinates read exactly",
    threshold=Threshold(succeeds=0.99, fails=0.01),
    source="secure_aggregation.md, section 2; CVE-2008-0166",
    tags=Tags(stride=("Information disclosure",), linddun=("Data disclosure",)),
    peers={flower.NAME: flower.folded_seed},
)
