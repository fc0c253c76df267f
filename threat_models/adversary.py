"""Who attacks: what it can do, what it sees, what it is after, and what we do not promise against it.

One file of `threat_models/adversaries` holds one adversary and the `View` classes that it may have; a claim
whose view is not among them is refused.

>>> from threat_models.claim import View
>>> Adversary(name="passer_by", title="Passer-by", capabilities=("reads the headline",), views=(View,),
...           assets=("the headline",), assumptions=("it has no insider",), non_claims=()).name
'passer_by'
"""

from __future__ import annotations

from dataclasses import dataclass, fields

from secure_fed_diffusion.errors import ConfigError

from .claim import View


@dataclass(frozen=True, slots=True, kw_only=True)
class Adversary:
    """An adversary in plain words, and its views by type.

    Args:
        name: its file in `threat_models/adversaries`, without the suffix.
        capabilities: what it can do, the strongest first.
        assumptions: what it is taken not to be able to do, or what must hold around it.
        non_claims: what it gets whatever is switched on.
    """

    name: str
    title: str
    capabilities: tuple[str, ...]
    views: tuple[type[View], ...]
    assets: tuple[str, ...]
    assumptions: tuple[str, ...]
    non_claims: tuple[str, ...]

    def __post_init__(self) -> None:
        """Refuse a view that is none, and a string where a tuple of them is meant."""
        for entry in fields(self):
            if entry.type.startswith("tuple") and not isinstance(getattr(self, entry.name), tuple):
                raise ConfigError(f"{self.name}: expected a tuple", key=entry.name)
        for view in self.views:
            if not (isinstance(view, type) and issubclass(view, View)):
                raise ConfigError(f"{self.name}: expected subclasses of View, got {view!r}", key="views")
