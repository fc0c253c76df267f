"""What one client puts up with: bounds that belong to the CLIENT and never travel.

Whatever the server proposes outside them is refused before a key exists; a survivor list below them is
refused before anything is signed or unmasked.

Not protected against: a policy that its owner made too loose.  `Policy()` is the safe one.

Sources: weak servers' proposals, `secure_aggregation` section 2 ("threshold 1", "modulus 2"); the
margin 2t > holders + colluders: Bonawitz et al., CCS 2017, section 6.

>>> Policy().check(SecAggParams(n_clients=5, threshold=4, dimension=10, modulus_bits=32))
"""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import ConfigError, PolicyError
from .params import (
    MAX_CLIENTS,
    MAX_DIMENSION,
    MAX_MODULUS_BITS,
    MAX_ROUNDS,
    MIN_MODULUS_BITS,
    PROFILE_NAMES,
    SecAggParams,
    require_integer,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """The least that one client asks of a round; the default is safe, `accepting` takes what one chose.

    `min_survivors` is the least number of inputs that may be in a published sum; `min_neighbours`
    counts only where the graph is not complete.  Two survivors are too few by default: each would
    read the other's input off the sum.  `colluders` is how many of the holders of this client's shares may
    work with the server: the threshold must exceed that, since as many shares as the threshold open either
    secret; and under `active`, where the server lies, 2 * threshold must exceed the holders by more.
    """

    min_cohort: int = 3
    min_survivors: int = 3
    min_threshold: int = 2
    min_neighbours: int = 12
    colluders: int = 1
    min_modulus_bits: int = MIN_MODULUS_BITS
    max_modulus_bits: int = MAX_MODULUS_BITS
    max_dimension: int = 1 << 28
    max_rounds: int = 1 << 10
    profiles: tuple[str, ...] = ("semi_honest", "active")

    def __post_init__(self) -> None:
        for name in ("min_cohort", "min_survivors", "min_threshold"):
            require_integer(f"policy.{name}", getattr(self, name), 2, MAX_CLIENTS)
        if not set(self.profiles) <= set(PROFILE_NAMES):  # nor one text: it would be read by letters
            known = ", ".join(PROFILE_NAMES)
            raise ConfigError(f"expected some of {known}, got {self.profiles!r}", key="policy.profiles")
        require_integer("policy.min_neighbours", self.min_neighbours, 2, MAX_CLIENTS)
        require_integer("policy.colluders", self.colluders, 0, MAX_CLIENTS)
        require_integer("policy.max_dimension", self.max_dimension, 1, MAX_DIMENSION)
        require_integer("policy.max_rounds", self.max_rounds, 1, MAX_ROUNDS)
        require_integer("policy.max_modulus_bits", self.max_modulus_bits, MIN_MODULUS_BITS, MAX_MODULUS_BITS)
        require_integer(
            "policy.min_modulus_bits", self.min_modulus_bits, MIN_MODULUS_BITS, self.max_modulus_bits
        )

    @classmethod
    def accepting(cls, params: SecAggParams) -> Policy:
        """Return the policy that accepts just `params`: for a client whose owner chose them himself.

        It asks for no more than they give: look at `params.colluders` before you trust them.
        """
        return cls(
            min_cohort=params.n_clients,
            min_survivors=params.threshold,
            min_threshold=params.threshold,
            min_neighbours=params.n_neighbours or 2,
            colluders=params.colluders,
            min_modulus_bits=params.modulus_bits,
            max_modulus_bits=params.modulus_bits,
            max_dimension=params.dimension,
            max_rounds=params.n_rounds,
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
        _at_least("threshold", params.threshold, self.colluders + 1)
        if params.signed:
            # with t shares of each kind a server that splits the holders would learn an input
            _at_least("2 * threshold", 2 * params.threshold, params.n_holders + self.colluders + 1)
        if params.n_neighbours is not None:
            _at_least("n_neighbours", params.n_neighbours, self.min_neighbours)
        _at_least("modulus_bits", params.modulus_bits, self.min_modulus_bits)
        _at_most("modulus_bits", params.modulus_bits, self.max_modulus_bits)
        _at_most("dimension", params.dimension, self.max_dimension)
        _at_most("n_rounds", params.n_rounds, self.max_rounds)

    def check_survivors(self, n_survivors: int) -> None:
        """Refuse a sum of too few inputs.

        Raises:
            PolicyError: fewer than `min_survivors`.
        """
        _at_least("n_survivors", n_survivors, self.min_survivors)


def _at_least(name: str, proposed: int, bound: int) -> None:
    if proposed < bound:
        raise PolicyError(f"proposed {name}={proposed}; this client asks for at least {bound}")


def _at_most(name: str, proposed: int, bound: int) -> None:
    if proposed > bound:
        raise PolicyError(f"proposed {name}={proposed}; this client accepts at most {bound}")


SAFE_POLICY = Policy()
