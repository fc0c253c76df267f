"""What tells one federated scenario from another, in words and as columns of the results.

>>> from dataclasses import replace
>>> base = Scenario(clients=30, clients_per_round=10, beta=0.5, local_epochs=1, prox_mu=0.0)
>>> other = replace(base, clients=50, beta=None)
>>> other.axis(base), other.label(base)
('corners', '50 clients, IID')
"""

from __future__ import annotations

from dataclasses import dataclass, fields

from secure_fed_diffusion.federation.settings import RunSettings

AXES = ("base", "clients", "skew", "corners", "local epochs", "participation", "FedProx", "other")
"""What a scenario was run to show, in the order of the tables and figures."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """Who holds what, who takes part, and what a client does at home; `beta` None is IID."""

    clients: int
    clients_per_round: int
    beta: float | None
    local_epochs: int
    prox_mu: float

    @classmethod
    def of(cls, settings: RunSettings) -> Scenario:
        """Return the scenario of a run; local epochs and FedProx are those of mode `none`."""
        return cls(
            clients=settings.federation.clients,
            clients_per_round=settings.federation.clients_per_round,
            beta=None if settings.data.partition == "iid" else settings.data.beta,
            local_epochs=settings.modes.none.local_epochs,
            prox_mu=settings.modes.none.prox_mu,
        )

    def axis(self, base: Scenario) -> str:
        """Return which of `AXES` the scenario lies on, seen from `base`."""
        differing = {
            field.name for field in fields(self) if getattr(self, field.name) != getattr(base, field.name)
        }
        if "prox_mu" in differing:
            return "FedProx"
        return {
            frozenset(): "base",
            frozenset({"clients"}): "clients",
            frozenset({"beta"}): "skew",
            frozenset({"clients", "beta"}): "corners",
            frozenset({"local_epochs"}): "local epochs",
            frozenset({"clients_per_round"}): "participation",
        }.get(frozenset(differing), "other")

    def label(self, base: Scenario) -> str:
        """Say what differs from `base`; of the base itself, all."""
        words = {
            "clients": f"{self.clients} clients",
            "clients_per_round": f"{self.clients_per_round} of {self.clients} a round",
            "beta": "IID" if self.beta is None else f"β = {self.beta:g}",
            "local_epochs": f"{self.local_epochs} local epoch{'s' * (self.local_epochs > 1)}",
            "prox_mu": f"FedProx, μ = {self.prox_mu:g}" if self.prox_mu else "FedAvg",
        }
        if self == base:
            del words["clients"]  # said beside it
            return ", ".join(words.values())
        return ", ".join(text for name, text in words.items() if getattr(self, name) != getattr(base, name))
