"""What the server proposes and every client checks: the form of a set-up, and how values enter the ring.

A proposal travels with the first message of a set-up; its digest is part of the session, so clients that are
shown different ones share no key.  A client's own `secagg.Policy` decides whether it takes part.

Values: a client's change of the model, clipped, is scaled by its share of `max_weight` and rounded without
bias; its weight is a coordinate of its own, so the weighted mean takes one sum:
Δ = max_weight · Σ round(Δ_i · w_i / max_weight) / Σ w_i.  With weighting "equal" each weight is 1.

Not protected against: a clip that is too small.  The client, and only the client, is told what was clipped.

>>> proposal = Proposal(clip=8.0)
>>> proposal.params(n_clients=4, dimension=651).threshold, proposal.grid(4).fraction_bits
(3, 25)
>>> proposal.step(n_clients=4, total_weight=40_000) < 1e-6
True
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from hashlib import sha256

from ..errors import ConfigError
from ..secagg import FixedPoint, SecAggParams
from ..secagg.params import require_integer

WEIGHTINGS = ("examples", "equal")


@dataclass(frozen=True, slots=True, kw_only=True)
class Proposal:
    """The server's side of the agreement.

    `n_rounds`: rounds that one key set-up pays for.  `threshold_share`: it takes more than this share of the
    holders of a client's secrets to recover them, and to end a round.  `clip`: the largest change of a
    parameter in a round, and the largest metric.  `max_weight`: the most examples that a client may count
    with.  `weighting`: by "examples", as FedAvg does, or "equal", where nothing is said of their number.
    `metrics`: those whose weighted mean is taken along; all others stay at the client.
    """

    n_rounds: int = 1
    profile: str = "semi_honest"
    threshold_share: float = 2 / 3
    n_neighbours: int | None = None
    modulus_bits: int = 32
    clip: float = 8.0
    max_weight: int = 10_000
    weighting: str = "examples"
    weight_key: str = "num-examples"
    metrics: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        metrics: object = self.metrics
        if isinstance(metrics, str):
            raise ConfigError("expected several names, not one text", key="metrics")
        require_integer("max_weight", self.max_weight, 1, 1 << 31)
        if not (math.isfinite(self.clip) and self.clip > 0):
            raise ConfigError(f"expected a finite clip > 0, got {self.clip}", key="clip")
        if not 0 < self.threshold_share < 1:
            raise ConfigError(
                f"expected a share in (0, 1), got {self.threshold_share}", key="threshold_share"
            )
        if self.profile not in ("semi_honest", "active"):
            raise ConfigError(f"expected semi_honest or active, got {self.profile!r}", key="profile")
        if self.weighting not in WEIGHTINGS:
            raise ConfigError(f"expected one of {WEIGHTINGS}, got {self.weighting!r}", key="weighting")
        object.__setattr__(self, "metrics", tuple(self.metrics))
        if self.weight_key in self.metrics or len(set(self.metrics)) != len(self.metrics):
            raise ConfigError("expected distinct names, without the weight's", key="metrics")

    @property
    def largest_weight(self) -> int:
        """The weight that a client's change enters the ring with in full."""
        return 1 if self.weighting == "equal" else self.max_weight

    def params(self, *, n_clients: int, dimension: int) -> SecAggParams:
        """Return the parameters of a set-up among `n_clients`; `dimension` counts the extra coordinates too.

        Raises:
            ConfigError: they contradict each other.
        """
        n_holders = n_clients if self.n_neighbours is None else self.n_neighbours + 1
        return SecAggParams(
            n_clients=n_clients,
            threshold=min(n_holders, math.floor(self.threshold_share * n_holders) + 1),
            dimension=dimension,
            modulus_bits=self.modulus_bits,
            n_neighbours=self.n_neighbours,
            profile=self.profile,
            n_rounds=self.n_rounds,
        )

    def grid(self, n_clients: int) -> FixedPoint:
        """Return the finest grid on which the sum of `n_clients` scaled vectors, and of weights, cannot wrap.

        Raises:
            ConfigError: the ring has no headroom.
        """
        if (n_clients * self.largest_weight) >> self.modulus_bits:
            raise ConfigError(
                f"no headroom for n_clients={n_clients} times max_weight={self.largest_weight}",
                key="modulus_bits",
            )
        return FixedPoint.finest(clip=self.clip, modulus_bits=self.modulus_bits, max_clients=n_clients)

    def step(self, *, n_clients: int, total_weight: int) -> float:
        """Return the bound on the rounding error of each coordinate of the mean."""
        return math.ldexp(n_clients * self.largest_weight / total_weight, -self.grid(n_clients).fraction_bits)

    @property
    def digest(self) -> bytes:
        """SHA-256 over every field, 32 bytes."""
        return sha256(json.dumps(asdict(self), sort_keys=True).encode()).digest()


SINGLE_ROUNDS = Proposal()
