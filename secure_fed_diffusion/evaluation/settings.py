"""How often a run is evaluated, on how many samples, and by what.

>>> EvaluationSettings(every=5).due(9, 12), EvaluationSettings(every=5).due(11, 12)
(True, True)
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from secure_fed_diffusion.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationSettings:
    """Evaluate each `every` rounds and after the last one, on `samples` synthetic images.

    `after_warmup` also shows what the warm-up alone gave.

    TSTR trains each of `classifiers` for `tstr_epochs`, after the last round only unless `tstr_each`;
    `tstr_floor` trains them on real public images too, once a run.

    `inception_weights` is the file with the weights of FID's own Inception-v3 (absolute; nothing is ever
    downloaded).  Where it is given, `fid_inception` and the like are measured whenever TSTR is.

    None of this touches a private record.  `attacks` does: it runs membership inference and the search for
    copies on the released model.  Their figures are computed from PRIVATE images and are not covered by ε:
    for the owner of the data, or research data sets.
    """

    every: int = 10
    after_warmup: bool = True
    samples: int = 1000
    classifiers: tuple[Literal["cnn", "mlp", "logreg"], ...] = ("cnn",)
    tstr_epochs: int = 50
    tstr_each: bool = False
    tstr_floor: bool = False
    inception_weights: str | None = None
    attacks: bool = False  # reads private images, outside ε; writes attacks.json

    def __post_init__(self) -> None:
        for name, least in (("every", 1), ("samples", 2), ("tstr_epochs", 1)):
            value = getattr(self, name)
            if value < least:
                raise ConfigError(f"expected at least {least}, got {value}", key=f"evaluation.{name}")
        if not self.classifiers or len(set(self.classifiers)) != len(self.classifiers):
            raise ConfigError(
                f"expected each of cnn, mlp, logreg at most once, and one at least, got {self.classifiers}",
                key="evaluation.classifiers",
            )
        weights = self.inception_weights
        if weights is not None and not Path(weights).expanduser().is_absolute():
            raise ConfigError(
                f"expected an absolute path, the same file from wherever a run is started, got {weights!r}",
                key="evaluation.inception_weights",
            )

    def due(self, round_index: int, n_rounds: int) -> bool:
        """Say whether the round `round_index`, counted from 0, ends with an evaluation."""
        return (round_index + 1) % self.every == 0 or round_index + 1 == n_rounds
