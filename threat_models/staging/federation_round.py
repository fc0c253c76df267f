"""A recorded round whose clients are a federation's own: their plan, their policy, their frames.

The package's `federation.client.Client` answers behind the in-process engine, or behind another one; the
claim is the server.  What is recorded is the secure sum's frames as the engine handed them over, without the
byte that names the step.  Contributions are fixed vectors and nothing is charged: no claim here is about
either.

Not for anything but claims.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from secure_fed_diffusion import config, secagg
from secure_fed_diffusion.engines.in_process import Engine, InProcessEngine
from secure_fed_diffusion.errors import PhaseError
from secure_fed_diffusion.federation.client import Client
from secure_fed_diffusion.federation.messages import Announcement, wrap
from secure_fed_diffusion.federation.plan import Plan
from secure_fed_diffusion.federation.planning import make_plan
from secure_fed_diffusion.federation.release import Release
from threat_models.staging.recorded_round import DIMENSION, RecordedRound
from threat_models.staging.secagg_round import fixed_entropy, make_roster, make_vectors, signing_key

RUN_ID = "staged"


@dataclass(frozen=True, slots=True)
class FixedContribution:
    """A client's part whose vector is decided."""

    client_id: int
    plan: Plan
    fixed: npt.NDArray[np.uint64]

    def vector(self, release: Release, weights: Any, *, number: int, attempt: int) -> npt.NDArray[np.uint64]:
        """Return it."""
        return self.fixed


class Uncharged:
    """Stands where the ledger stands and never refuses."""

    def charge(self, client_id: int, *, round: int, attempt: int, mechanism: str, steps: int = 1) -> None:  # noqa: A002
        """Take a charge."""


class FederationRound(RecordedRound):
    """A recorded round of a plan; `clients` are the machines inside the institutions that told."""

    def __init__(self, plan: Plan, seed: int) -> None:
        cohort = plan.rounds[0].cohort
        roster = make_roster(cohort)
        opening = Announcement(round=1, attempt=0, weights=np.zeros(plan.dimension, dtype=np.float32))
        super().__init__(plan.session(RUN_ID, 1, 0, opening.model_digest, roster=roster), real=())
        self.vectors = make_vectors(self.session, seed)
        self.institutions = {
            v: Client(
                RUN_ID,
                FixedContribution(v, plan, self.vectors[v]),
                Uncharged(),
                roster=roster,
                signer=signing_key(v),
                entropy=fixed_entropy(f"institution {seed} {v}"),
            )
            for v in cohort
        }
        self._opening = opening.encode()
        self._engine = self.make_engine()

    def make_engine(self) -> Engine:
        """Return what carries the frames."""
        return InProcessEngine({v: client.handle for v, client in self.institutions.items()})

    def tell(self, client_ids: Iterable[int]) -> dict[int, dict[int, tuple[int, int]]]:
        """Return the shares that these accomplices hold in the open round."""
        accomplices = tuple(client_ids)
        self.clients = {v: self._machine(v) for v in accomplices}
        return super().tell(accomplices)

    def _machine(self, client_id: int) -> secagg.Client:
        machine = self.institutions[client_id]._secagg
        if machine is None:
            raise PhaseError(f"client {client_id} is in no round")
        return machine

    def _deliver(self, client_id: int, phase: str, frame: bytes) -> bytes:
        """Send one frame and wait for its answer.

        Raises:
            SecureAggregationError: the refusal that came back, by its name.
        """
        outgoing = wrap(phase, frame) if frame else self._opening
        replies = self._engine.exchange({client_id: outgoing}, round=1, phase=phase)
        if client_id in replies.refusals:
            raise replies.refusals[client_id]
        return replies.frames[client_id]


def plan_of(n_clients: int, threshold: int, *, min_survivors: int) -> Plan:
    """Make the plan of one round of mode `distributed` in which everyone takes part, without a model."""
    overrides = {
        "privacy.mode": '"distributed"',
        "privacy.epsilon": "1e9",
        "privacy.noise_multiplier": "1.0",
        "privacy.accountant": '"rdp"',
        "federation.clients": n_clients,
        "federation.clients_per_round": n_clients,
        "federation.min_survivors": min_survivors,
        "federation.colluders": 1,
        "secagg.threshold": threshold,
        "secagg.profile": '"active"',
        "secagg.modulus_bits": 32,
        "warmup.draws": 0,
        "modes.distributed.rounds": 1,
    }
    settings = config.parse("", [f"{key}={value}" for key, value in overrides.items()])
    return make_plan(
        seed=0,
        federation=settings.federation,
        secure_sum=settings.secagg,
        privacy=settings.privacy,
        modes=settings.modes,
        warmup=settings.warmup,
        diffusion=settings.diffusion,
        model=settings.model,
        image_shape=(1, 8, 8),
        n_classes=10,
        dimension=DIMENSION,
        public_records=settings.federation.declared_records,
    )
