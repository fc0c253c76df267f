"""How a run is audited while it runs: how many canaries, how sure the bounds, how rare a false alarm.

>>> AuditSettings(canaries=200).confidence
0.95
"""

from __future__ import annotations

from dataclasses import dataclass

from secure_fed_diffusion.errors import ConfigError

MAX_CANARIES = 1 << 16


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditSettings:
    """`canaries` synthetic records in all, on coordinates of their own; 0 switches the audit off.

    `confidence` is that of each lower bound; `false_alarm` is the probability, over the whole run, that
    the conformance tests accuse a run that does what its plan says.
    """

    canaries: int = 0
    confidence: float = 0.95
    false_alarm: float = 0.01

    def __post_init__(self) -> None:
        if not 0 <= self.canaries <= MAX_CANARIES:
            raise ConfigError(
                f"expected 0 <= canaries <= {MAX_CANARIES}, got {self.canaries}", key="audit.canaries"
            )
        for name, low in (("confidence", 0.5), ("false_alarm", 0.0)):
            value = getattr(self, name)
            if not low < value < 1.0:
                raise ConfigError(f"expected {low:g} < {name} < 1, got {value}", key=f"audit.{name}")
