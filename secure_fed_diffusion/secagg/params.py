"""What a key set-up and its rounds agree on: the parameters that the server proposes.

They enter the session id, so two parties that differ in one of them share no key.  They are plain
values, checked when they are made; what a CLIENT puts up with is its own `Policy`.

Not protected against: parameters that are consistent but weak; that is for the policy to refuse.

Sources: threshold and majority: Bonawitz et al., CCS 2017, section 6; neighbours: Bell et al.,
CCS 2020, section 3 (k and t for 2^-40 security).

>>> SecAggParams(n_clients=5, threshold=4, dimension=1_000, modulus_bits=32).frame_vector_bytes
4000
>>> SecAggParams.for_population(1_000, corrupt=0.05, dropout=0.05, adversary="curious",
...                             dimension=10, modulus_bits=32).n_neighbours
30
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ..errors import ConfigError
from .phases import PROFILES, VERIFY, Step
from .population import neighbours_and_threshold

MIN_MODULUS_BITS = 8
MAX_MODULUS_BITS = 64
MAX_VERIFIABLE_BITS = 60  # a difference of two totals must not vanish modulo the tag's prime
MAX_CLIENTS = 1 << 20
MAX_DIMENSION = 1 << 32
MAX_ROUNDS = 1 << 16
PROFILE_NAMES = ("semi_honest", "active", "unsafe_unmasked")


@dataclass(frozen=True, slots=True, kw_only=True)
class SecAggParams:
    """The public parameters of one key set-up.

    `threshold` is the number of shares that recover a secret.  With the complete graph
    (`n_neighbours=None`) it is also the least number of survivors, and a majority: 2t > n, so that
    no two disjoint groups can recover the two secrets of one client.  With `n_neighbours=k` each
    client shares with k neighbours and itself, and 2t >= k; under `active` 2t > k + 1, for the same reason
    as above.

    `n_rounds` is how many rounds the set-up pays for.  `verifiable` lets each client check the sum
    that it is shown; it needs the active profile, the complete graph and at most 60 bits, and takes
    vectors whose centred values stay within `max_centred`.
    """

    n_clients: int
    threshold: int
    dimension: int
    modulus_bits: int
    n_neighbours: int | None = None
    profile: str = "semi_honest"
    n_rounds: int = 1
    verifiable: bool = False

    def __post_init__(self) -> None:
        require_integer("n_clients", self.n_clients, 2, MAX_CLIENTS)
        require_integer("threshold", self.threshold, 2, self.n_clients, upper_name="n_clients")
        require_integer("dimension", self.dimension, 1, MAX_DIMENSION)
        require_integer("modulus_bits", self.modulus_bits, MIN_MODULUS_BITS, MAX_MODULUS_BITS)
        require_integer("n_rounds", self.n_rounds, 1, MAX_ROUNDS)
        if self.profile not in PROFILE_NAMES:
            known = ", ".join(PROFILE_NAMES)
            raise ConfigError(f"expected one of {known}, got {self.profile!r}", key="profile")
        if self.profile == "unsafe_unmasked" and self.n_rounds > 1:
            raise ConfigError("unsafe_unmasked has no set-up that could pay for more", key="n_rounds")
        if self.verifiable:
            self._require_verifiable()
        if self.n_neighbours is None:
            if 2 * self.threshold <= self.n_clients:
                raise ConfigError(
                    f"expected a majority, 2 * threshold > n_clients={self.n_clients}, got {self.threshold}",
                    key="threshold",
                )
            return
        require_integer("n_neighbours", self.n_neighbours, 2, self.n_clients - 1, upper_name="n_clients - 1")
        if self.n_neighbours % 2:
            raise ConfigError(f"expected an even number, got {self.n_neighbours}", key="n_neighbours")
        if not self.n_neighbours <= 2 * self.threshold <= 2 * self.n_holders:
            raise ConfigError(
                f"expected n_neighbours / 2 <= threshold <= n_neighbours + 1 with "
                f"n_neighbours={self.n_neighbours}, got {self.threshold}",
                key="threshold",
            )
        if self.client_chosen_graph and 2 * self.threshold <= self.n_holders:
            raise ConfigError(
                f"expected a majority of the holders, 2 * threshold > n_neighbours + 1 with "
                f"n_neighbours={self.n_neighbours}, got {self.threshold}",
                key="threshold",
            )

    def _require_verifiable(self) -> None:
        if self.profile != "active" or self.n_neighbours is not None:
            raise ConfigError(
                "needs the profile active and the complete graph: the key of the check is one that all "
                f"clients share and the server cannot replace; got {self.profile}, "
                f"n_neighbours={self.n_neighbours}",
                key="verifiable",
            )
        if self.modulus_bits > MAX_VERIFIABLE_BITS:
            raise ConfigError(
                f"needs modulus_bits <= {MAX_VERIFIABLE_BITS}, got {self.modulus_bits}", key="verifiable"
            )
        if not self.max_centred:
            raise ConfigError(
                f"no headroom for {self.n_clients} clients in {self.modulus_bits} bits", key="verifiable"
            )

    @classmethod
    def for_population(
        cls,
        n_clients: int,
        *,
        corrupt: float,
        dropout: float,
        adversary: Literal["curious", "active"],
        dimension: int,
        modulus_bits: int,
        n_rounds: int = 1,
    ) -> SecAggParams:
        """Return the sparsest graph that is 2^-40 secure and 2^-20 correct for these shares of clients.

        Raises:
            ConfigError: no sparse graph is; the message says whether the complete one would do.
        """
        n_neighbours, threshold = neighbours_and_threshold(
            n_clients, corrupt=corrupt, dropout=dropout, adversary=adversary
        )
        return cls(
            n_clients=n_clients,
            threshold=threshold,
            dimension=dimension,
            modulus_bits=modulus_bits,
            n_neighbours=n_neighbours,
            profile="active" if adversary == "active" else "semi_honest",
            n_rounds=n_rounds,
        )

    @property
    def steps(self) -> tuple[Step, ...]:
        """The steps of a client; a server's are those in which a client answers."""
        name = "active_sparse" if self.client_chosen_graph else self.profile
        return (*PROFILES[name], VERIFY) if self.verifiable else PROFILES[name]

    @property
    def signed(self) -> bool:
        """Whether every client frame is signed."""
        return self.profile == "active"

    @property
    def client_chosen_graph(self) -> bool:
        """Whether each client picks its neighbours itself."""
        return self.profile == "active" and self.n_neighbours is not None

    @property
    def n_holders(self) -> int:
        """How many clients hold a share of one client's secrets, itself included."""
        return self.n_clients if self.n_neighbours is None else self.n_neighbours + 1

    @property
    def colluders(self) -> int:
        """How many of the holders of a client's shares may work with the server before its input is open.

        Under `active`, where that server lies, 2t - holders - 1; else t - 1; unmasked, none.
        """
        if self.profile == "unsafe_unmasked":
            return 0
        return 2 * self.threshold - self.n_holders - 1 if self.signed else self.threshold - 1

    @property
    def max_centred(self) -> int:
        """The largest magnitude that keeps a verifiable sum of all clients from wrapping."""
        return ((1 << (self.modulus_bits - 1)) - 1) // self.n_clients

    @property
    def frame_vector_bytes(self) -> int:
        """The bytes of one packed vector on the wire."""
        return (self.dimension * self.modulus_bits + 7) // 8


def require_integer(key: str, value: int, lower: int, upper: int, upper_name: str = "") -> None:
    """Refuse, under the name `key`, what is not an integer in lower..upper."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise ConfigError(f"expected an integer, got {type(value).__name__}", key=key)
    if not lower <= value <= upper:
        bound = f"{upper_name}={upper}" if upper_name else f"{upper}"
        raise ConfigError(f"expected {lower} <= {key} <= {bound}, got {value}", key=key)
