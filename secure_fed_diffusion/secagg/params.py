"""What a round agrees on (`SecAggParams`) and what one client puts up with (`Policy`).

The parameters are proposed by the server and enter the session id, so two parties that differ in
one of them share no key.  The policy belongs to the CLIENT: it never travels, and what lies outside
it is refused before a key exists.  Both are plain values, checked when they are made.

Not protected against: a policy that its owner made too loose.  `Policy()` is the safe one.

Sources: threshold and majority: Bonawitz et al., CCS 2017, section 6; neighbours: Bell et al.,
CCS 2020, section 3 (k and t for 2^-40 security); weak servers' proposals: secure_aggregation
weaknesses "threshold 1", "modulus 2".

>>> SecAggParams(n_clients=5, threshold=4, dimension=1_000, modulus_bits=32).frame_vector_bytes
4000
"""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import ConfigError, PolicyError
from .phases import PROFILES

MIN_MODULUS_BITS = 8
MAX_MODULUS_BITS = 64
MAX_CLIENTS = 1 << 20
MAX_DIMENSION = 1 << 32


@dataclass(frozen=True, slots=True, kw_only=True)
class SecAggParams:
    """The public parameters of one round.

    `threshold` is the number of shares that recover a secret.  With the complete graph
    (`n_neighbours=None`) it is also the least number of survivors, and a majority: 2t > n, so that
    no two disjoint groups can recover the two secrets of one client.  With `n_neighbours=k` each
    client shares with k neighbours and itself, and 2t >= k.
    """

    n_clients: int
    threshold: int
    dimension: int
    modulus_bits: int
    n_neighbours: int | None = None
    profile: str = "semi_honest"

    def __post_init__(self) -> None:
        require_integer("n_clients", self.n_clients, 2, MAX_CLIENTS)
        require_integer("threshold", self.threshold, 2, self.n_clients, upper_name="n_clients")
        require_integer("dimension", self.dimension, 1, MAX_DIMENSION)
        require_integer("modulus_bits", self.modulus_bits, MIN_MODULUS_BITS, MAX_MODULUS_BITS)
        if self.profile not in PROFILES:
            raise ConfigError(f"expected one of {', '.join(PROFILES)}, got {self.profile!r}", key="profile")
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

    @property
    def n_holders(self) -> int:
        """How many clients hold a share of one client's secrets, itself included."""
        return self.n_clients if self.n_neighbours is None else self.n_neighbours + 1

    @property
    def frame_vector_bytes(self) -> int:
        """The bytes of one packed vector on the wire."""
        return (self.dimension * self.modulus_bits + 7) // 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """The least that one client asks of a round; the default is safe, `accepting` is for rehearsals.

    `min_survivors` is the least number of inputs that may be in a published sum; `min_neighbours`
    counts only where the graph is not complete.  Two survivors are too few by default: each would
    read the other's input off the sum.
    """

    min_cohort: int = 3
    min_survivors: int = 3
    min_threshold: int = 2
    min_neighbours: int = 12
    min_modulus_bits: int = MIN_MODULUS_BITS
    max_modulus_bits: int = MAX_MODULUS_BITS
    max_dimension: int = 1 << 28
    profiles: tuple[str, ...] = ("semi_honest",)

    def __post_init__(self) -> None:
        for name in ("min_cohort", "min_survivors", "min_threshold"):
            require_integer(f"policy.{name}", getattr(self, name), 2, MAX_CLIENTS)
        require_integer("policy.min_neighbours", self.min_neighbours, 2, MAX_CLIENTS)
        require_integer("policy.max_dimension", self.max_dimension, 1, MAX_DIMENSION)
        require_integer("policy.max_modulus_bits", self.max_modulus_bits, MIN_MODULUS_BITS, MAX_MODULUS_BITS)
        require_integer(
            "policy.min_modulus_bits", self.min_modulus_bits, MIN_MODULUS_BITS, self.max_modulus_bits
        )

    @classmethod
    def accepting(cls, params: SecAggParams) -> Policy:
        """Return the policy that accepts just `params`: for a client whose owner chose them himself."""
        return cls(
            min_cohort=params.n_clients,
            min_survivors=params.threshold,
            min_threshold=params.threshold,
            min_neighbours=params.n_neighbours or 2,
            min_modulus_bits=params.modulus_bits,
            max_modulus_bits=params.modulus_bits,
            max_dimension=params.dimension,
            profiles=(params.profile,),
        )

    def check(self, params: SecAggParams) -> None:
        """Refuse parameters outside this policy.

        Raises:
            PolicyError: names the parameter, what was proposed and the bound.
        """
        if params.profile not in self.profiles:
            raise PolicyError(f"proposed profile={params.profile}; this client accepts {self.profiles}")
        _at_least("n_clients", params.n_clients, self.min_cohort)
        _at_least("threshold", params.threshold, self.min_threshold)
        if params.n_neighbours is not None:
            _at_least("n_neighbours", params.n_neighbours, self.min_neighbours)
        _at_least("modulus_bits", params.modulus_bits, self.min_modulus_bits)
        _at_most("modulus_bits", params.modulus_bits, self.max_modulus_bits)
        _at_most("dimension", params.dimension, self.max_dimension)

    def check_survivors(self, n_survivors: int) -> None:
        """Refuse a sum of too few inputs.

        Raises:
            PolicyError: fewer than `min_survivors`.
        """
        _at_least("n_survivors", n_survivors, self.min_survivors)


def require_integer(key: str, value: int, lower: int, upper: int, upper_name: str = "") -> None:
    """Refuse, under the name `key`, what is not an integer in lower..upper."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise ConfigError(f"expected an integer, got {type(value).__name__}", key=key)
    if not lower <= value <= upper:
        bound = f"{upper_name}={upper}" if upper_name else f"{upper}"
        raise ConfigError(f"expected {lower} <= {key} <= {bound}, got {value}", key=key)


def _at_least(name: str, proposed: int, bound: int) -> None:
    if proposed < bound:
        raise PolicyError(f"proposed {name}={proposed}; this client asks for at least {bound}")


def _at_most(name: str, proposed: int, bound: int) -> None:
    if proposed > bound:
        raise PolicyError(f"proposed {name}={proposed}; this client accepts at most {bound}")


SAFE_POLICY = Policy()
