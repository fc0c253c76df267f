"""How often a run is evaluated, and on how many samples.

>>> EvaluationSettings(every=5).due(9, 12), EvaluationSettings(every=5).due(11, 12)
(True, True)
"""

from __future__ import annotations

from dataclasses import dataclass

from secure_fed_diffusion.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationSettings:
    """Evaluate each `every` rounds and after the last one, on `samples` synthetic images.

    The classifier of TSTR trains for `tstr_epochs`, after the last round only unless `tstr_each`.

    `attacks` runs membership inference and the search for copies on the released model.  Their figures are
    computed from PRIVATE images and are not covered by ε: for the owner of the data, or research data sets.
    """

    every: int = 10
    samples: int = 1000
    tstr_epochs: int = 50
    tstr_each: bool = False
    attacks: bool = False  # reads private images, outside ε; writes attacks.json

    def __post_init__(self) -> None:
        for name, least in (("every", 1), ("samples", 2), ("tstr_epochs", 1)):
            value = getattr(self, name)
            if value < least:
                raise ConfigError(f"expected at least {least}, got {value}", key=f"evaluation.{name}")

    def due(self, round_index: int, n_rounds: int) -> bool:
        """Say whether the round `round_index`, counted from 0, ends with an evaluation."""
        return (round_index + 1) % self.every == 0 or round_index + 1 == n_rounds
