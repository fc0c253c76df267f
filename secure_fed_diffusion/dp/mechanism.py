"""What happened: one release of one sum, described for whoever computes what it cost.

A `Mechanism` is a fact about a step (who added how much noise, to what sensitivity, at which public
sampling rate); a `View` is an adversary.  `Mechanism.noise_multiplier(view)` is the only place that
knows how much noise a view has to see through; `accounting` turns it into ε.

Units: an example is one record; a person's records are averaged BEFORE the clip, so a person is one
clipped vector; a client is all that one institution contributes.  Relations: add or remove one; replace
one (the neighbour has another vector in its place, with the same coin); zero-out, where a client's
contribution becomes zero and its participation stays visible.

Not protected against: noise that is not there.  A mechanism is what the plan says; that the pipeline
does it is for the tests and the auditors to show, and a client that adds none is a colluder.  A person
whose records lie at two institutions is covered at each of them, and not for both together.

Source: Kairouz, Liu and Steinke 2021, "The Distributed Discrete Gaussian Mechanism for Federated
Learning with Secure Aggregation"; the proof used here is in docs/privacy.md.

>>> step = Mechanism(kind="shares", unit="example", relation="add_remove", sampling_rate=0.1,
...                  sensitivity=1.0, share_stddev=1.0, server_stddev=0.0, min_survivors=4,
...                  integer=False, dimension=10)
>>> step.noise_multiplier(View(name="sum", colluders=3)), step.noise_multiplier(View(name="sum"))
(1.0, 2.0)
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, get_args

from secure_fed_diffusion.errors import ConfigError, PrivacyError

Kind = Literal["shares", "central", "local", "none"]
Unit = Literal["example", "person", "client"]
Relation = Literal["add_remove", "replace_one", "zero_out"]
ViewName = Literal["raw_update", "sum", "released_model"]

INNER_STDDEV = 4.0
"""r of lemma (b), in grid units: the part of the noise that pays for the step to the integers."""

MAX_NORM_BOUND = 1 << 24
"""Largest integer sensitivity: its square stays exact in float64 with room to spare."""

RELATIONS_OF_UNIT: Mapping[Unit, tuple[Relation, ...]] = {
    "example": ("add_remove", "replace_one"),
    "person": ("add_remove", "replace_one"),
    "client": ("zero_out", "replace_one"),  # whether a client took part is visible: it is never removed
}

CLIENT_SAMPLING = "No amplification by client sampling is claimed: the adversary may have chosen the cohort."
"""What every ε of this package assumes about the choice of clients; a report shows it beside ε."""


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """An adversary, named by what it sees; `colluders` participants hand it their own noise shares."""

    name: ViewName
    colluders: int = 0

    def __post_init__(self) -> None:
        if self.name not in get_args(ViewName):
            known = ", ".join(get_args(ViewName))
            raise ConfigError(f"expected one of {known}, got {self.name!r}", key="view")
        if self.colluders < 0 or (self.colluders and self.name != "sum"):
            raise ConfigError(
                f"colluders are counted, from 0, in 'sum' alone, got {self.colluders} in {self.name!r}",
                key="view",
            )

    @classmethod
    def parse(cls, key: str) -> View:
        """Return the view that `View.key` wrote: "raw_update", "sum_c2", "released_model"."""
        match = re.fullmatch(r"sum_c(0|[1-9]\d*)", key)
        if match:
            return cls(name="sum", colluders=int(match[1]))
        if key in ("raw_update", "released_model"):
            return cls(name=key)  # type: ignore[arg-type]
        raise ConfigError(f"expected raw_update, sum_c<colluders> or released_model, got {key!r}", key="view")

    @property
    def key(self) -> str:
        """The view's name in files and tables."""
        return f"sum_c{self.colluders}" if self.name == "sum" else self.name

    @property
    def adversary(self) -> str:
        """One sentence: who looks, and at what."""
        if self.name == "raw_update":
            return "Someone who reads one client's contribution without its mask."
        if self.name == "released_model":
            return (
                "Anyone who holds every checkpoint of the model, and nothing else; noise in shares counts in "
                "full, if every survivor adds its own."
            )
        if self.colluders == 0:
            return (
                "The server, which decodes every sum, alone; noise in shares counts in full, if every "
                "survivor adds its own."
            )
        clients = (
            "1 client that tells it its noise shares"
            if self.colluders == 1
            else f"{self.colluders} clients that tell it their noise shares"
        )
        return f"The server, which decodes every sum, together with {clients}."


@dataclass(frozen=True, slots=True, kw_only=True)
class Mechanism:
    """One step that releases one noisy sum.

    Standard deviations and `sensitivity` share a unit: grid units where `integer`, any other otherwise.
    """

    kind: Kind
    unit: Unit
    relation: Relation
    sampling_rate: float  # Poisson rate, public; 1.0: nobody is left out, a plain Gaussian
    sensitivity: float  # L2 bound of one unit's contribution to the sum
    share_stddev: float  # noise of each participant (shares, local)
    server_stddev: float  # noise of the trusted server (central)
    min_survivors: int  # least number of contributions, hence of noise shares, in any released sum
    integer: bool  # integer contributions and discrete Gaussian noise
    dimension: int  # coordinates of the sum

    def __post_init__(self) -> None:
        if self.relation not in get_args(Relation):
            known = ", ".join(get_args(Relation))
            raise PrivacyError(f"relation {self.relation!r} has no proof here; expected one of {known}")
        for name, literal in (("kind", Kind), ("unit", Unit)):
            if getattr(self, name) not in get_args(literal):
                raise ConfigError(f"expected one of {', '.join(get_args(literal))}", key=f"mechanism.{name}")
        if self.relation not in RELATIONS_OF_UNIT[self.unit]:
            allowed = " or ".join(RELATIONS_OF_UNIT[self.unit])
            raise PrivacyError(f"unit {self.unit!r} goes with {allowed}, got {self.relation!r}")
        if not 0.0 < self.sampling_rate <= 1.0:
            raise ConfigError(
                f"expected 0 < rate <= 1, got {self.sampling_rate}", key="mechanism.sampling_rate"
            )
        if self.unit == "client" and self.sampling_rate != 1.0:
            raise PrivacyError(f"{CLIENT_SAMPLING} Expected rate 1, got {self.sampling_rate}")
        if not (math.isfinite(self.sensitivity) and self.sensitivity > 0):
            raise ConfigError(
                f"expected a positive bound, got {self.sensitivity}", key="mechanism.sensitivity"
            )
        for name in ("share_stddev", "server_stddev"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise ConfigError(f"expected a finite value >= 0, got {value}", key=f"mechanism.{name}")
        if self.share_stddev and self.kind not in ("shares", "local"):
            raise ConfigError(f"kind {self.kind!r} has no noise shares", key="mechanism.share_stddev")
        if self.server_stddev and self.kind != "central":
            raise ConfigError(f"kind {self.kind!r} has no server noise", key="mechanism.server_stddev")
        if self.min_survivors < 1 or self.dimension < 1:
            raise ConfigError(
                f"expected >= 1 survivor and coordinate, got {self.min_survivors} and {self.dimension}",
                key="mechanism",
            )
        if self.integer and not (self.sensitivity.is_integer() and self.sensitivity <= MAX_NORM_BOUND):
            raise ConfigError(
                f"expected an integer of at most {MAX_NORM_BOUND} on the grid, got {self.sensitivity}",
                key="mechanism.sensitivity",
            )

    def noise_shares(self, view: View) -> int:
        """Return how many independent draws the view has to see through; 0 where none.

        Of noise in shares, "sum" without colluders and "released_model" count every survivor's: they hold
        if every survivor adds its own.  Up to c that add none are in "sum" with c colluders, who subtract
        theirs, and in that view alone.
        """
        match self.kind:
            case "shares":
                return {
                    "raw_update": 1,
                    "sum": max(0, self.min_survivors - view.colluders),
                    "released_model": self.min_survivors,
                }[view.name]
            case "central":  # the server that decodes the sum adds the noise itself
                return int(view.name == "released_model")
            case "local":  # noise of several local steps does not add up in proof
                return 1
            case "none":
                return 0

    @property
    def draw_stddev(self) -> float:
        """Standard deviation of one draw of noise, wherever it is drawn."""
        return self.server_stddev if self.kind == "central" else self.share_stddev

    def noise_multiplier(self, view: View) -> float:
        """Return the multiplier of the continuous Gaussian that dominates what `view` sees.

        Guarantees: never more than the noise that is there at `min_survivors`; 0.0 where nothing protects.
        """
        variance = self.noise_shares(view) * self.draw_stddev**2
        if self.integer:
            variance -= INNER_STDDEV**2
        return math.sqrt(max(0.0, variance)) / self.sensitivity

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON types."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Mechanism:
        """Return the mechanism that `to_dict` wrote."""
        expected = {field.name for field in fields(cls)}
        if set(values) != expected:
            raise ConfigError(f"expected the keys {sorted(expected)}, got {sorted(values)}", key="mechanism")
        return cls(**{**values, "sensitivity": float(values["sensitivity"])})
