"""What a run may set about who takes part in a round, and how what they send is summed.

Every value is checked here, before any work; how they fit together is checked by `plan`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from secure_fed_diffusion.errors import ConfigError
from secure_fed_diffusion.secagg.params import MAX_MODULUS_BITS, MIN_MODULUS_BITS

MAX_ROUNDS_PER_SETUP = 1000  # the secrets of so many rounds to come lie at each client


def require(condition: bool, key: str, expected: str, value: object) -> None:
    """Refuse a value of a configuration.

    Raises:
        ConfigError: names the key, what was expected, and the value.
    """
    if not condition:
        finite = "" if not isinstance(value, float) or math.isfinite(value) else "a finite number, "
        raise ConfigError(f"expected {finite}{expected}, got {value!r}", key=key)


@dataclass(frozen=True, slots=True, kw_only=True)
class Vanish:
    """A rehearsed loss: `client` is gone from before it sends `phase` of `round`, for that round."""

    round: int
    client: int
    phase: str = "masked_input"

    def __post_init__(self) -> None:
        """Refuse phases in which no client sends."""
        phases = ("advertise", "choose", "share_keys", "masked_input", "consistency", "unmask")
        require(self.phase in phases, "federation.vanish.phase", f"one of {', '.join(phases)}", self.phase)
        require(self.round >= 1, "federation.vanish.round", "a round counted from 1", self.round)


@dataclass(frozen=True, slots=True, kw_only=True)
class FederationSettings:
    """Who takes part in a round.

    `min_survivors` is the least number of contributions a released sum may hold; the noise is
    calibrated so that this many, less `colluders`, already suffice.  `reserved_attempts` repeats, over the
    whole run, are paid for in advance: a round that failed after its frames left is charged and done again.
    (`warmup.reserved_attempts`, where it is set, is what the rounds of the warm-up have instead.)
    `declared_records` is what the clients say in public that they hold together; it sizes the rings, so a
    wrong figure costs correctness of the sum at worst, never privacy.
    `masked` is for the modes that promise nothing against the server (`none`, `central`) alone.
    """

    clients: int = 8
    clients_per_round: int = 6
    colluders: int = 1
    min_survivors: int = 5
    reserved_attempts: int = 2
    declared_records: int = 1200
    masked: bool = True
    vanish: tuple[Vanish, ...] = ()

    def __post_init__(self) -> None:
        """Refuse cohorts that cannot be formed."""
        require(self.clients >= 2, "federation.clients", ">= 2", self.clients)
        require(
            2 <= self.clients_per_round <= self.clients,
            "federation.clients_per_round",
            f"2 <= clients_per_round <= federation.clients={self.clients}",
            self.clients_per_round,
        )
        require(
            1 <= self.min_survivors <= self.clients_per_round,
            "federation.min_survivors",
            f"1 <= min_survivors <= federation.clients_per_round={self.clients_per_round}",
            self.min_survivors,
        )
        require(
            0 <= self.colluders < self.min_survivors,
            "federation.colluders",
            f"0 <= colluders < federation.min_survivors={self.min_survivors}",
            self.colluders,
        )
        require(self.declared_records >= 1, "federation.declared_records", ">= 1", self.declared_records)
        require(self.reserved_attempts >= 0, "federation.reserved_attempts", ">= 0", self.reserved_attempts)
        for event in self.vanish:
            require(
                0 <= event.client < self.clients,
                "federation.vanish.client",
                f"a client in 0..{self.clients - 1}",
                event.client,
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class SecureSumSettings:
    """The secure aggregation of one round; `modulus_bits` "auto" is the narrowest ring with headroom.

    `profile` "active" holds against a server that lies: clients sign every frame and the survivor list.
    "semi_honest" needs one exchange less, and a server that follows the protocol.
    `rounds_per_setup` above 1 makes one key set-up of all clients pay for so many attempts at rounds: two
    exchanges less in each, and a client that missed the set-up waits for the next one.
    """

    profile: Literal["active", "semi_honest"] = "active"
    threshold: int = 5
    n_neighbours: int | None = None
    modulus_bits: int | Literal["auto"] = "auto"
    rounds_per_setup: int = 1

    def __post_init__(self) -> None:
        """Refuse rings that do not exist."""
        bits = self.modulus_bits
        require(
            bits == "auto" or MIN_MODULUS_BITS <= bits <= MAX_MODULUS_BITS,
            "secagg.modulus_bits",
            f'"auto" or {MIN_MODULUS_BITS} <= modulus_bits <= {MAX_MODULUS_BITS}',
            bits,
        )
        require(self.threshold >= 2, "secagg.threshold", ">= 2", self.threshold)
        require(
            1 <= self.rounds_per_setup <= MAX_ROUNDS_PER_SETUP,
            "secagg.rounds_per_setup",
            f"1 <= rounds_per_setup <= {MAX_ROUNDS_PER_SETUP}",
            self.rounds_per_setup,
        )
