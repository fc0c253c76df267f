"""What the server proposes and every client checks: the form of a set-up, and how values enter the ring.

A proposal travels with the first message of a set-up; its digest is part of the session, so clients that are
shown different ones share no key.  A client's own `secagg.Policy` decides whether it takes part.

Values: a client's change of the model, clipped, is scaled by its share of `max_weight` and rounded without
bias; its weight is a coordinate of its own, so the weighted mean takes one sum:
Δ = max_weight · Σ round(Δ_i · w_i / max_weight) / Σ w_i.  With weighting "equal" each weight is 1.

What no number of clients can make good is refused when the proposal is made; what depends on their number,
when a set-up is.

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
from collections.abc import Collection
from dataclasses import asdict, dataclass
from hashlib import sha256

from ..errors import ConfigError
from ..secagg import FixedPoint, SecAggParams
from ..secagg.params import (
    MAX_CLIENTS,
    MAX_MODULUS_BITS,
    MAX_ROUNDS,
    MIN_MODULUS_BITS,
    require_integer,
)

WEIGHTINGS = ("examples", "equal")
MIN_CLIENTS = 2


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
        require_integer("n_rounds", self.n_rounds, 1, MAX_ROUNDS)
        require_integer("modulus_bits", self.modulus_bits, MIN_MODULUS_BITS, MAX_MODULUS_BITS)
        require_integer("max_weight", self.max_weight, 1, 1 << 31)
        for key in ("clip", "threshold_share"):
            value = getattr(self, key)
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                raise ConfigError(f"expected a number, got {type(value).__name__}", key=key)
        if not 0 < self.clip < 1 << MAX_MODULUS_BITS:
            raise ConfigError(f"expected a clip in (0, 2^{MAX_MODULUS_BITS}), got {self.clip}", key="clip")
        if not 0 < self.threshold_share < 1:
            raise ConfigError(
                f"expected a share in (0, 1), got {self.threshold_share}", key="threshold_share"
            )
        if self.profile not in ("semi_honest", "active"):
            raise ConfigError(f"expected semi_honest or active, got {self.profile!r}", key="profile")
        if self.weighting not in WEIGHTINGS:
            raise ConfigError(f"expected one of {WEIGHTINGS}, got {self.weighting!r}", key="weighting")
        self._require_names()
        self._require_possible()

    def _require_names(self) -> None:
        metrics: object = self.metrics
        if not isinstance(self.weight_key, str) or not self.weight_key:
            raise ConfigError(f"expected a name, got {self.weight_key!r}", key="weight_key")
        if isinstance(metrics, str) or not isinstance(metrics, Collection):
            raise ConfigError(f"expected several names, got one {type(metrics).__name__}", key="metrics")
        if not all(isinstance(name, str) for name in metrics):
            raise ConfigError("expected names and nothing else", key="metrics")
        object.__setattr__(self, "metrics", tuple(self.metrics))
        if self.weight_key in self.metrics or len(set(self.metrics)) != len(self.metrics):
            raise ConfigError("expected distinct names, without the weight's", key="metrics")

    def _require_possible(self) -> None:
        """Refuse what no number of clients can make good, by the checks of the set-up itself."""
        fewest = MIN_CLIENTS
        if self.n_neighbours is not None:
            require_integer("n_neighbours", self.n_neighbours, 2, MAX_CLIENTS - 1)
            fewest = self.n_neighbours + 1
        elif self.threshold_share < 1 / 2:  # where few clients round it up to a majority, 1/2 gives the same
            raise ConfigError(
                f"expected at least 1/2 (a majority of the clients), got {self.threshold_share}",
                key="threshold_share",
            )
        self.grid(fewest)
        try:
            self.params(n_clients=fewest, dimension=1)
        except ConfigError as error:
            if error.key != "threshold":
                raise
            said = f"{self.threshold_share} gives a threshold that cannot be: {error.reason}"
            raise ConfigError(said, key="threshold_share") from None

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

    def spare(self, n_clients: int) -> int:
        """Return how many dropouts a round among `n_clients` bears, in whatever step.

        A client's own policy may bear fewer.  With `n_neighbours` they are counted among the holders of one
        client's secrets: more are borne where they lie apart.

        Raises:
            ConfigError: no set-up fits this number of clients.
        """
        params = self.params(n_clients=n_clients, dimension=1)
        return params.n_holders - params.threshold

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
