"""Broken frames: something leaves a client in clear, or outlives the round that it was for."""

from __future__ import annotations

from typing import Any

import numpy as np

from secure_fed_diffusion.federation.client import Client
from secure_fed_diffusion.federation.contribution import Contributor
from secure_fed_diffusion.secagg import keys, masks
from secure_fed_diffusion.secagg.client_round import ClientRound
from secure_fed_diffusion.secagg.encoding import to_ring
from secure_fed_diffusion.secagg.messages import MaskedInput
from secure_fed_diffusion.training.local import LocalOptimizer
from tests.mutants.broken.mutant import Honest, Table

WIRE = Table()
mutant = WIRE.mutant


@mutant(
    masks,
    "apply",
    "Masks are all zero, at the clients and at the server: every frame is in clear.",
    named="frames are uniform",
)
def _no_masks(honest: Honest) -> Honest:
    return lambda vector, *, plus=(), minus=(): None


@mutant(
    ClientRound,
    "masked_input",
    "One client sends its vector without a mask.",
    named="A0 conformance",
)
def _one_client_without_a_mask(honest: Honest) -> Honest:
    def masked_input(self: ClientRound, vector: Any) -> Any:
        if self.client_id != 1:
            return honest(self, vector)
        params = self.session.params
        return MaskedInput(vector=to_ring(vector, params), tag=0).encode(params)

    return masked_input


@mutant(
    keys,
    "self_mask_key",
    "A client's own mask is the same for all: a late frame could be read.",
    named="late frames stay masked",
)
def _no_self_mask(honest: Honest) -> Honest:
    def self_mask_key(seed: bytes, **names: Any) -> Any:
        return honest(bytes(len(seed)), slot_id=bytes(32), client_id=0)

    return self_mask_key


@mutant(
    Client,
    "_witnessed",
    "A client's class counts travel in clear before its contribution.",
    named="nothing else leaves",
)
def _class_counts_in_clear(honest: Honest) -> Honest:
    def witnessed(self: Client, frame: bytes) -> bytes:
        counts = np.bincount(self._contributor.images.labels, minlength=10).astype("<u4").tobytes()
        return honest(self, frame + counts)

    return witnessed


@mutant(
    Contributor,
    "_sample",
    "A client prints how many records it drew.",
    named="nothing else leaves",
)
def _sample_size_on_the_console(honest: Honest) -> Honest:
    def sample(self: Contributor, *arguments: Any) -> Any:
        chosen = honest(self, *arguments)
        print(f"client {self.client_id}: a batch of {len(chosen)}")
        return chosen

    return sample


@mutant(
    LocalOptimizer,
    "build",
    "A client's Adam lives on from round to round, at clients that are charged for single rounds.",
    named="no memory",
)
def _optimiser_s_state_leaks(honest: Honest) -> Honest:
    kept: list[Any] = []

    def build(self: LocalOptimizer, model: Any) -> Any:
        fresh = honest(self, model)
        if kept and type(fresh) is type(kept[-1]):
            fresh.load_state_dict(kept[-1].state_dict())
        kept.append(fresh)
        return fresh

    return build
