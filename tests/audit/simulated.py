"""Canaries of a simulated run: the Gaussian mechanism on the grid, right or broken on purpose."""

from __future__ import annotations

import numpy as np

from secure_fed_diffusion.audit.observations import CanaryObservations

MAGNITUDE = 1024


def run(
    rng: np.random.Generator,
    *,
    n_canaries: int,
    n_rounds: int = 1,
    rate: float = 1.0,
    multiplier: float = 1.0,
    noise_factor: float = 1.0,
    real_rate: float | None = None,
    real_magnitude: int = MAGNITUDE,
    included: np.ndarray | None = None,
    noise: np.ndarray | None = None,
    counts: np.ndarray | None = None,
) -> CanaryObservations:
    """Return what an auditor sees; `noise_factor`, `real_rate`, `real_magnitude` break the plan."""
    shape = (n_rounds, n_canaries)
    if included is None:
        included = rng.random(n_canaries) < 0.5
    if counts is None:
        counts = rng.random(shape) < (rate if real_rate is None else real_rate)
    counts = (counts & included).astype(np.int64)
    stddev = multiplier * MAGNITUDE
    if noise is None:
        noise = rng.normal(size=shape)
    return CanaryObservations(
        sums=np.rint(real_magnitude * counts + noise_factor * stddev * noise).astype(np.int64),
        included=included,
        counts=counts,
        rates=np.full(shape, rate),
        magnitudes=np.full(n_rounds, MAGNITUDE),
        noise_stddevs=np.full(n_rounds, stddev),
        sensitivities=np.full(n_rounds, float(MAGNITUDE)),
    )
