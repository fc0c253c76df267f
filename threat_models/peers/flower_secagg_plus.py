"""Flower's SecAgg+ (flwr 1.41) under the attacks that ours is under.

Each client is the library's own `secaggplus_mod`, with its own state; the server of these stages sends it
configurations that a malicious server could send.  Nothing of the library is changed, no network is used, and
the defaults of `SecAggPlusWorkflow` hold unless the attack is to propose others.

What the code does (flwr 1.41.0; read again before quoting it for another version):

- `client/mod/secure_aggregation/secaggplus_mod._unmask` answers `active_nids` and `dead_nids` as they come:
  it never asks whether the two lists have a client in common (T7);
- `_setup` stores threshold, share number, range and modulus as the server sends them, without a bound: a
  cohort of one (T14c; `SecAggPlusWorkflow` itself asks for two), modulus 2 with range 1 (T14d);
- `_share_keys` compares the client's OWN keys with the list and takes every other key unsigned (T14);
- `_unmask` looks up the share of every client in `dead_nids`: one that fell silent before it shared is a
  `KeyError` at everyone, since `SecAggPlusWorkflow.unmask_stage` names it (T35);
- `common/secure_aggregation/secaggplus_utils.pseudo_rand_gen` folds its seed to 32 bits by XOR (28 that vary,
  where the seed is a key in base64) and draws from numpy's `RandomState`, never `mod_range - 1` (T10);
- `secaggplus_mod` empties the array record of the client's answer; `num_examples` and the metrics stay (T17).

Not shown: what TLS and node authentication of Flower's SuperLink protect against; they are no defence against
the server itself, which is who attacks here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from threat_models.adversaries.curious_server import ClientFrames, PairMaskedVector
from threat_models.adversaries.malicious_server import FLOWER, Exchange, Frame
from threat_models.adversaries.network import Aftermath
from threat_models.claim import Arm, NotInstalledError, Staged
from threat_models.peers.folded_seeds import SLICE, candidate_of
from threat_models.staging.reading import NOTHING, Vector
from threat_models.staging.recorded_round import DIMENSION, Truth

VERSION = "1.41.0"
NAME = f"flwr {VERSION} SecAgg+"

VICTIM = 1
_CLIP, _RANGE, _MODULUS, _MAX_WEIGHT = 8.0, 1 << 22, 1 << 32, 1000.0
_SETUP, _SHARE, _COLLECT, _UNMASK = "setup", "share_keys", "collect_masked_vectors", "unmask"


def library() -> Any:
    """Return the modules of flwr that are used.

    Raises:
        NotInstalledError: flwr is absent, or another version: these findings are about this one.
    """
    try:
        import flwr

        from threat_models.peers import _flwr
    except ImportError:
        raise NotInstalledError("flwr is not installed") from None
    if flwr.__version__ != VERSION:
        raise NotInstalledError(f"flwr is {flwr.__version__}, these findings are about {VERSION}")
    return _flwr


class PeerRound:
    """Clients of SecAgg+ in this process, and every record that passed; the caller is the server."""

    def __init__(self, seed: int, n_clients: int, threshold: int, **terms: Any) -> None:
        self.flwr = library()
        self.node_ids = tuple(range(VICTIM, VICTIM + n_clients))
        self.terms: dict[str, Any] = {
            "sample_num": n_clients,
            "share_num": n_clients,
            "threshold": threshold,
            "clipping_range": _CLIP,
            "target_range": _RANGE,
            "mod_range": _MODULUS,
            "max_weight": _MAX_WEIGHT,
            **terms,
        }
        generator = np.random.default_rng(seed)
        # multiples of the quantiser's step, at full weight: stochastic rounding leaves them as they are
        steps = generator.integers(0, self.terms["target_range"], (n_clients, DIMENSION), endpoint=True)
        self.quantised = dict(zip(self.node_ids, steps, strict=True))
        step = 2 * _CLIP / self.terms["target_range"]
        self.clients = {
            v: self.flwr.Client(v, self.quantised[v] * step - _CLIP, num_examples=int(_MAX_WEIGHT))
            for v in self.node_ids
        }
        self.frames: list[Frame] = []

    def ask(self, node_id: int, stage: str, configs: Mapping[str, Any]) -> dict[str, Any]:
        """Send one client a configuration; return its answer."""
        self.frames.append(Frame("server", node_id, stage, _plain(configs)))
        answer: dict[str, Any] = self.clients[node_id].ask(stage, configs)
        self.frames.append(Frame(node_id, "server", stage, _plain(answer)))
        return answer

    def set_up(self) -> dict[int, list[bytes]]:
        """Run the first stage; return everyone's two public keys."""
        answers = {v: self.ask(v, _SETUP, self.terms) for v in self.node_ids}
        return {v: [answer["pk1"], answer["pk2"]] for v, answer in answers.items()}

    def share(self, publics: Mapping[int, Sequence[bytes]]) -> dict[int, tuple[list[int], list[bytes]]]:
        """Run the second stage; return what was sealed for each client: by whom, and the ciphertexts."""
        inbox: dict[int, tuple[list[int], list[bytes]]] = {v: ([], []) for v in self.node_ids}
        for v in self.node_ids:
            answer = self.ask(v, _SHARE, {str(u): list(pair) for u, pair in publics.items()})
            for receiver, sealed in zip(answer["dsts"], answer["ctxts"], strict=True):
                inbox[receiver][0].append(v)
                inbox[receiver][1].append(sealed)
        return inbox

    def collect(self, node_id: int, sources: list[int], sealed: list[bytes]) -> None:
        """Run the third stage for one client."""
        self.ask(node_id, _COLLECT, {"srcs": sources, "ctxts": sealed})

    def staged(self, *, victim: int = VICTIM, **told: Any) -> Staged[Exchange]:
        """Return the trial."""
        view = Exchange(
            protocol=FLOWER,
            victim=victim,
            threshold=self.terms["threshold"],
            frames=tuple(self.frames),
            **told,
        )
        return Staged(view, Truth(self.quantised[victim].astype(np.uint64)))


def both_kinds_of_share(arm: Arm, seed: int) -> Staged[Exchange]:
    """T7: name the victim in both lists."""
    a_round = PeerRound(seed, n_clients=3, threshold=2)
    inbox = a_round.share(a_round.set_up())
    for v, (sources, sealed) in inbox.items():
        a_round.collect(v, sources, sealed)
    for v in a_round.node_ids:
        a_round.ask(v, _UNMASK, {"active_nids": list(a_round.node_ids), "dead_nids": [VICTIM]})
    return a_round.staged()


def substituted_keys(arm: Arm, seed: int) -> Staged[Exchange]:
    """T14: give the victim keys of the server's own for everyone else; seal shares of its own for it."""
    a_round = PeerRound(seed, n_clients=3, threshold=2)
    publics = a_round.set_up()
    others = [v for v in a_round.node_ids if v != VICTIM]
    own = {v: a_round.flwr.key_pairs() for v in others}  # ((secret, public) for masks, the same to seal)
    told = {v: [own[v][0][1], own[v][1][1]] if v in own else pair for v, pair in publics.items()}
    a_round.ask(VICTIM, _SHARE, {str(v): pair for v, pair in told.items()})
    sealed = [a_round.flwr.seal_empty(own[v][1][0], publics[VICTIM][1], v, VICTIM) for v in others]
    a_round.collect(VICTIM, others, sealed)
    return a_round.staged(own_secrets={v: (own[v][1][0], own[v][0][0]) for v in others})


def cohort_of_one(arm: Arm, seed: int) -> Staged[Exchange]:
    """T14c: propose a cohort of one and threshold 1; the sum is the victim's vector."""
    a_round = PeerRound(seed, n_clients=1, threshold=1)
    inbox = a_round.share(a_round.set_up())
    a_round.collect(VICTIM, *inbox[VICTIM])
    a_round.ask(VICTIM, _UNMASK, {"active_nids": [VICTIM], "dead_nids": []})
    return a_round.staged()


def modulus_of_two(arm: Arm, seed: int) -> Staged[Exchange]:
    """T14d: propose modulus 2 and range 1; masks drawn below modulus - 1 are zero, and signs go in clear."""
    a_round = PeerRound(seed, n_clients=3, threshold=2, target_range=1, mod_range=2)
    inbox = a_round.share(a_round.set_up())
    a_round.collect(VICTIM, *inbox[VICTIM])
    return a_round.staged()


def dropout_at_set_up(arm: Arm, seed: int) -> Staged[Aftermath]:
    """T35: run the library's own workflow with one of five clients silent from a stage of the set-up on."""
    totals: list[npt.NDArray[np.int64] | None] = []
    for node_id, stage in ((1, _SETUP), (2, _SETUP), (1, _SHARE), (4, _SHARE)):
        a_round = PeerRound(seed, n_clients=5, threshold=4 - 1)
        aggregate = a_round.flwr.run_workflow(a_round.clients, 3, {node_id: stage})
        totals.append(None if aggregate is None else np.rint(aggregate * 2**16).astype(np.int64))
    return Staged(Aftermath(totals=tuple(totals)), None)


def folded_seed(arm: Arm, seed: int) -> Staged[PairMaskedVector]:
    """T10: run a round of two clients and take the victim's own mask off, as the server does."""
    a_round = PeerRound(seed, n_clients=2, threshold=2)
    inbox = a_round.share(publics := a_round.set_up())
    for v, (sources, sealed) in inbox.items():
        a_round.collect(v, sources, sealed)
    peer = VICTIM + 1
    shares = []
    for v in a_round.node_ids:
        answer = a_round.ask(v, _UNMASK, {"active_nids": list(a_round.node_ids), "dead_nids": []})
        shares.append(answer["shares"][answer["nids"].index(VICTIM)])
    collected = (f for f in a_round.frames if f.sender == VICTIM and f.phase == _COLLECT)
    masked = [a_round.flwr.array(part) for part in next(collected).content["masked_params"]]
    own = a_round.flwr.mask(a_round.flwr.combine(shares), _MODULUS, [part.shape for part in masked])
    vector = np.concatenate(a_round.flwr.subtract(masked, own)) & (_MODULUS - 1)
    mask_seed = a_round.flwr.folded(a_round.clients[VICTIM], publics[peer][0])
    view = PairMaskedVector(
        vector=vector.astype(np.uint32),
        own_id=VICTIM,
        peer_id=peer,
        own_public=publics[VICTIM][0],
        peer_public=publics[peer][0],
        round_id=b"",
        search_from=candidate_of(mask_seed) // SLICE * SLICE,
        first_value=_RANGE,  # the client's weight, in clear: here the largest
    )
    return Staged(view, a_round.quantised[VICTIM].astype(np.uint32))


def counts_beside_the_vector(arm: Arm, seed: int) -> Staged[ClientFrames]:
    """T17: what the server's library hands it of a client's answer, eight bytes for a number."""
    count = int(np.random.default_rng(seed).integers(1_000, 100_000))
    a_round = PeerRound(seed, n_clients=3, threshold=2, max_weight=100_000.0)
    a_round.clients[VICTIM].num_examples = count
    inbox = a_round.share(a_round.set_up())
    sources, sealed = inbox[VICTIM]
    answer = a_round.clients[VICTIM].exchange(_COLLECT, {"srcs": sources, "ctxts": sealed})
    values = a_round.flwr.values_of(answer)
    return Staged(ClientFrames(frames=values, count_coordinate=None, told_counts={}), count)


def read_input(view: Exchange) -> Vector:
    """Take off every mask of the victim's vector that shares or the server's own keys open."""
    flwr = library()
    seeds: dict[int, list[bytes]] = {}
    mask_keys: dict[int, list[bytes]] = {}
    asked: Mapping[str, Any] = {}
    told: Mapping[str, Any] = {}
    peers: tuple[int, ...] = ()
    masked: list[npt.NDArray[np.int64]] = []
    modulus = 0
    for frame in view.frames:
        content = frame.content
        if frame.receiver == view.victim and frame.phase == _SETUP:
            modulus = content["mod_range"]
        elif frame.receiver == view.victim and frame.phase == _SHARE:
            told = content
        elif frame.receiver == view.victim and frame.phase == _COLLECT:
            peers = content["srcs"]
        elif frame.sender == view.victim and frame.phase == _COLLECT:
            masked = [flwr.array(part) for part in content["masked_params"]]
        elif frame.sender == view.victim and frame.phase == _SHARE:
            for receiver, sealed in zip(content["dsts"], content["ctxts"], strict=True):
                if receiver in view.own_secrets:
                    seed, mask_key = flwr.open_sealed(
                        view.own_secrets[receiver][0], _own_public(view), sealed
                    )
                    seeds.setdefault(view.victim, []).append(seed)
                    mask_keys.setdefault(view.victim, []).append(mask_key)
        elif frame.phase == _UNMASK and frame.sender == "server":
            asked = content
        elif frame.phase == _UNMASK:
            n_seeds = len(asked["active_nids"])
            for place, (owner, share) in enumerate(zip(content["nids"], content["shares"], strict=True)):
                (seeds if place < n_seeds else mask_keys).setdefault(owner, []).append(share)
    if not masked:
        return NOTHING
    shapes = [part.shape for part in masked]
    found = masked
    if len(own := seeds.get(view.victim, [])) >= view.threshold:
        found = flwr.subtract(found, flwr.mask(flwr.combine(own[: view.threshold]), modulus, shapes))
    key_shares = mask_keys.get(view.victim, [])
    secret = flwr.combine(key_shares[: view.threshold]) if len(key_shares) >= view.threshold else None
    for peer in peers:
        if peer in view.own_secrets:
            shared = flwr.agree(view.own_secrets[peer][1], _own_public(view, mask=True))
        elif secret is not None:
            shared = flwr.agree(secret, told[str(peer)][0])
        else:
            continue
        stream = flwr.mask(shared, modulus, shapes)
        found = flwr.subtract(found, stream) if view.victim > peer else flwr.add(found, stream)
    return (found[1] & (modulus - 1)).astype(np.uint64)


def _own_public(view: Exchange, *, mask: bool = False) -> bytes:
    """Return the victim's public key to agree on masks, or on sealing keys, with."""
    answers = (f.content for f in view.frames if f.sender == view.victim and f.phase == _SETUP)
    return next(answer["pk1" if mask else "pk2"] for answer in answers)


def _plain(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return a record with tuples for lists, as views hold them."""
    return {key: tuple(value) if isinstance(value, list) else value for key, value in record.items()}
