"""A6, anytime: is there less noise than the plan says? An answer that may be read after every round.

With z the residuals of a round and S₀ the plan's standard deviation, bet on smaller ones s_k < S₀:

    E_r = mean over k of Π N(z; 0, s_k)/N(z; 0, S₀)

is a non-negative martingale that starts at 1 if the noise is what the plan says, so E ever reaches 1/α
with probability at most α, however often and whenever one looks.  (Discrete Gaussians change the expected
factor of a coordinate by less than 1e-48 at σ >= 8 grid units.)

Not seen: too much noise, wrong sampling, noise used twice: `conformance` looks for those.

Source: Ville 1939; Ramdas, Grünwald, Vovk and Shafer 2023 (arXiv 2210.01948), section 3.

>>> from secure_fed_diffusion.audit.observations import CanaryObservations
>>> nothing = np.zeros((3, 20), dtype=np.int64)
>>> silent = CanaryObservations(
...     sums=nothing, included=np.zeros(20, dtype=bool), counts=nothing, rates=np.full((3, 20), 0.1),
...     magnitudes=np.full(3, 16), noise_stddevs=np.full(3, 8.0), sensitivities=np.full(3, 16.0))
>>> alarm_round(e_values(silent), false_alarm=0.01)
1
"""

from __future__ import annotations

import numpy as np
from scipy.special import logsumexp

from secure_fed_diffusion.audit.observations import CanaryObservations, Floats
from secure_fed_diffusion.errors import ConfigError

BETS = (0.97, 0.94, 0.85, 0.6, 0.3)
"""s_k/S₀; each has the same share of the stake."""

_LARGEST = 700.0  # exp of it is still finite


def e_values(observations: CanaryObservations) -> Floats:
    """Return E_r after each round, (R,), from all residuals up to it; at most about 1e304."""
    z = observations.residuals() / observations.noise_stddevs[:, None]
    energy, length = (z**2).sum(axis=1)[:, None], observations.n_canaries
    bets = np.array(BETS)
    gains = -length * np.log(bets) - energy * (bets**-2.0 - 1.0) / 2.0  # (R, K): log of each round's product
    mixed = logsumexp(np.cumsum(gains, axis=0), axis=1) - np.log(len(bets))
    values: Floats = np.exp(np.minimum(mixed, _LARGEST))
    return values


def alarm_round(values: Floats, *, false_alarm: float) -> int | None:
    """Return the first round, from 1, after which E >= 1/`false_alarm`; None if there is none.

    Guarantees: for a run whose noise is the plan's, P(not None) <= `false_alarm`.
    """
    if not 0.0 < false_alarm < 1.0:
        raise ConfigError(f"expected 0 < false_alarm < 1, got {false_alarm}", key="false_alarm")
    reached = np.flatnonzero(values >= 1.0 / false_alarm)
    return int(reached[0]) + 1 if reached.size else None
