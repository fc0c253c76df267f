"""Phases of a training: from one round on, another sampling rate and what goes with it.

Each phase is a mechanism of its own in plan, ledger, audit and every institution's budget, and its rounds are
charged as that: a phase is never averaged with another.  Its noise multiplier is the run's one calibrated
multiplier times `noise_scale`; both are fixed before any work and public.  See docs/privacy.md, section 8.

Not protected against: a schedule that somebody chose by looking at private data.

>>> PhaseSettings(from_round=200, sampling_rate=0.05, divisor=2750).noise_scale
1.0
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from secure_fed_diffusion.federation.participation import require

MAX_PHASES = 8  # each is a mechanism in the ledger, with a name in the frames


@dataclass(frozen=True, slots=True, kw_only=True)
class PhaseSettings:
    """From training round `from_round` on, counted from 1: another rate, and the divisor that suits it."""

    from_round: int
    sampling_rate: float
    divisor: int
    clip_norm: float | None = None  # None: the table's; the noise is relative to it, so it costs nothing
    noise_scale: float = 1.0


def check_phases(
    phases: Sequence[PhaseSettings], entries: Sequence[PhaseSettings], key: str, *, rounds: int
) -> None:
    """Check the `entries` of a batch schedule, and that they come in order; `phases` are all that follow.

    Raises:
        ConfigError: names the key, the value and the bound.
    """
    most = f"at most {MAX_PHASES} phases, the table's own among them"
    require(len(phases) <= MAX_PHASES, key, most, len(phases))
    before = 0
    for phase in entries:
        first, rate = phase.from_round, phase.sampling_rate
        require(first > before, f"{key}.from_round", f"entries in order, so > {before}", first)
        require(first <= rounds, f"{key}.from_round", f"<= rounds={rounds}", first)
        require(0 < rate <= 1, f"{key}.sampling_rate", "0 < sampling_rate <= 1", rate)
        require(phase.divisor >= 1, f"{key}.divisor", ">= 1", phase.divisor)
        for name, value in (("clip_norm", phase.clip_norm), ("noise_scale", phase.noise_scale)):
            require(value is None or 1e-12 <= value <= 1e12, f"{key}.{name}", "in [1e-12, 1e12]", value)
        before = first
