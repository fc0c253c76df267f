"""What a run may spend, on what, counted how: the first line of its ledger.

Not protected against: a person whose records are held by two institutions; their losses add up, and no
ledger of one client sees it.

>>> step = Mechanism(kind="none", unit="example", relation="add_remove", sampling_rate=0.1,
...                  sensitivity=1.0, share_stddev=0.0, server_stddev=0.0, min_survivors=1,
...                  integer=False, dimension=1)
>>> view = View(name="released_model")
>>> terms = Terms(run_id="a", config_digest="b", delta=1e-5, budget_epsilon=None, guard=view,
...               accountant="pld", mechanisms={"gradient": step}, views=(view,))
>>> Terms.from_dict(terms.to_dict()) == terms
True
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from types import MappingProxyType
from typing import Any, get_args

from secure_fed_diffusion.dp.accounting import Accountant, epsilon
from secure_fed_diffusion.dp.mechanism import Mechanism, View
from secure_fed_diffusion.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """The promise that a ledger keeps, for each client."""

    run_id: str
    config_digest: str
    delta: float
    budget_epsilon: float | None  # None: no guarantee is given, nothing is ever refused
    guard: View  # the view in which the budget holds
    accountant: Accountant  # the accountant by which it holds
    mechanisms: Mapping[str, Mechanism]
    views: tuple[View, ...]  # the views that are reported, the guard among them or not
    max_charges: Mapping[str, int] = field(default_factory=dict)  # most steps of a mechanism for one client
    note: str = ""
    owner: int | None = None  # the one client whose charges these are; None: those of a whole run
    by_server: bool = False  # the coordinator's book: a charge for each client that it asked

    def __post_init__(self) -> None:
        if self.accountant not in get_args(Accountant):
            raise ConfigError(
                f"expected one of {', '.join(get_args(Accountant))}, got {self.accountant!r}",
                key="accountant",
            )
        if self.budget_epsilon is not None and not self.budget_epsilon > 0:
            raise ConfigError(
                f"expected a positive ε or none, got {self.budget_epsilon}", key="budget_epsilon"
            )
        if not self.mechanisms or not self.views:
            raise ConfigError("expected at least one mechanism and one view", key="terms")
        if self.owner is not None and (type(self.owner) is not int or self.owner < 0):
            raise ConfigError(f"expected a client id or none, got {self.owner!r}", key="owner")
        if type(self.by_server) is not bool or (self.by_server and self.owner is not None):
            raise ConfigError("expected true or false, and no owner of a coordinator's book", key="by_server")
        if unknown := set(self.max_charges) - set(self.mechanisms):
            raise ConfigError(f"no mechanism is called {sorted(unknown)}", key="max_charges")
        object.__setattr__(self, "mechanisms", MappingProxyType(dict(self.mechanisms)))
        object.__setattr__(self, "max_charges", MappingProxyType(dict(self.max_charges)))
        object.__setattr__(self, "views", tuple(self.views))

    def planned(self) -> dict[str, dict[str, float]] | None:
        """Return ε by `View.key` and accountant of every charge that is reserved for a client: the plan's.

        Guarantees: no client's charges come to more, whichever rounds failed and why; `math.inf` where
        nothing protects.  None where some mechanism's
        charges are not counted in advance.

        Raises:
            PrivacyError: as for `accounting.epsilon`.
        """
        if set(self.max_charges) != set(self.mechanisms):
            return None
        counts: Counter[Mechanism] = Counter()
        for name, most in self.max_charges.items():
            counts[self.mechanisms[name]] += most
        return {
            view.key: {
                accountant: epsilon(counts, delta=self.delta, view=view, accountant=accountant)
                for accountant in get_args(Accountant)
            }
            for view in self.views
        }

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON types."""
        written = {
            "run_id": self.run_id,
            "config_digest": self.config_digest,
            "delta": self.delta,
            "budget_epsilon": self.budget_epsilon,
            "guard": self.guard.key,
            "accountant": self.accountant,
            "mechanisms": {name: mechanism.to_dict() for name, mechanism in self.mechanisms.items()},
            "views": [view.key for view in self.views],
            "max_charges": dict(self.max_charges),
            "note": self.note,
        }
        if self.by_server:
            written["by_server"] = True
        return written if self.owner is None else {**written, "owner": self.owner}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Terms:
        """Return the terms that `to_dict` wrote."""
        expected = {item.name for item in fields(cls)}
        if set(values) | {"owner", "by_server"} != expected:
            raise ConfigError(f"expected the keys {sorted(expected)}, got {sorted(values)}", key="terms")
        return cls(
            **{
                **values,
                "guard": View.parse(values["guard"]),
                "mechanisms": {n: Mechanism.from_dict(m) for n, m in values["mechanisms"].items()},
                "views": tuple(View.parse(key) for key in values["views"]),
            }
        )
