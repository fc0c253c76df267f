"""What it cost: ε of the steps that were taken, as one view sees them.

Two accountants, both of dp_accounting: "pld" (privacy loss distributions, rounded pessimistically; the
add and the remove direction are composed apart and the larger one counts) and "rdp" (Rényi, an upper
bound by another road, for add/remove and zero-out alone).  GDP is refused: it under-reports.

An integer mechanism is accounted as post-processing of the continuous subsampled Gaussian.  What that
leaves out is computed and carried: a pointwise log-ratio η per coordinate (`discretisation_loss`) and the
total variation κ of each draw of noise:

    δ(ε) <= e^{Tdη}·δ_cont(ε − 2Tdη) + (1 + e^ε)·T·d·n·κ

κ is carried as a logarithm, so that ε is finite up to about 670.

Not claimed: amplification by choosing clients (`CLIENT_SAMPLING`), by shuffling, or by hiding
checkpoints; adversaries who break the masks, or AES-256-CTR, which draws noise and coins in every mode (ε
is against computationally bounded ones: one without bounds tries all keys).

Source: Doroshenko et al. 2022 (connect the dots); Mironov, Talwar and Zhang 2019 (RDP of the sampled
Gaussian); docs/privacy.md for the integers and for replace-one.

>>> epsilon({}, delta=1e-5, view=View(name="released_model"))
0.0
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, get_args

import dp_accounting
import numpy as np
import numpy.typing as npt
from absl import logging as absl_logging
from dp_accounting.rdp import rdp_privacy_accountant

from secure_fed_diffusion.dp.mechanism import CLIENT_SAMPLING, INNER_STDDEV, Mechanism, View
from secure_fed_diffusion.dp.noise import log_convolution_loss, log_lattice_loss, log_sampling_distance
from secure_fed_diffusion.dp.privacy_loss import MIN_MULTIPLIER, Steps, delta_curve, deltas, epsilon_at
from secure_fed_diffusion.errors import ConfigError, PrivacyError

__all__ = [
    "CLIENT_SAMPLING",
    "Accountant",
    "delta",
    "delta_curve",
    "discretisation_loss",
    "epsilon",
    "renyi_divergence",
]

Accountant = Literal["pld", "rdp"]

MIN_SHARE_STDDEV = 8.0
"""Narrowest discrete Gaussian, in grid units, that an integer mechanism may use."""

RENYI_ORDERS: tuple[float, ...] = tuple(map(float, rdp_privacy_accountant.DEFAULT_RDP_ORDERS))
"""The orders at which Rényi divergences are known."""

NEGLIGIBLE_LOSS = 1e-9
"""Largest T·d·η with which an integer mechanism is accounted at all."""

_MIN_DELTA = 1e-10  # beyond: little more than the transform's rounding
_SLACKS = (1e-9, 1e-6, 1e-3, 0.1, 0.5)  # shares of δ that may be set aside for κ; the first that suffices


def _is_not_library_chatter(record: logging.LogRecord) -> bool:
    """Tell apart dp_accounting's warnings: it drops RDP orders that do not converge, which is sound."""
    return "dp_accounting" not in record.pathname


absl_logging.get_absl_logger().addFilter(_is_not_library_chatter)


def epsilon(
    counts: Mapping[Mechanism, int], *, delta: float, view: View, accountant: Accountant = "pld"
) -> float:
    """Return ε at `delta` of `counts` steps of each mechanism, composed, as `view` sees them.

    Guarantees: an upper bound at each mechanism's least number of survivors, under no assumption about
    who chose the clients (`CLIENT_SAMPLING`), by "pld" up to what `privacy_loss.transform_allowance` says
    of itself; `math.inf` where nothing protects, or δ is within that allowance (1e-10 from 4e5 steps on);
    0.0 where nothing was released.

    Raises:
        PrivacyError: the accountant is refused, the units differ, or the grid is too coarse for the noise.
    """
    if not _MIN_DELTA <= delta < 1.0:
        raise ConfigError(f"expected {_MIN_DELTA} <= δ < 1, got {delta}", key="delta")
    profile = _profile(counts, view, accountant)
    if profile is None:
        return math.inf
    if not profile.steps:
        return 0.0
    if accountant == "pld":

        def cost(part: float) -> float:
            return epsilon_at(profile.steps, part, profile.replace)
    else:

        def cost(part: float) -> float:
            return _rdp_epsilon(profile.steps, part)

    return _with_corrections(cost, delta, profile.loss, profile.log_draws)


def delta(
    counts: Mapping[Mechanism, int], *, epsilon: float, view: View, accountant: Accountant = "pld"
) -> float:
    """Return δ at `epsilon` of `counts` steps of each mechanism, composed, as `view` sees them.

    Guarantees: an upper bound, as for `epsilon`, the integer mechanism's corrections included; 1.0 where
    nothing protects, 0.0 where nothing was released.

    Raises:
        PrivacyError: as for `epsilon`.
    """
    if not epsilon >= 0.0:
        raise ConfigError(f"expected ε >= 0, got {epsilon}", key="epsilon")
    profile = _profile(counts, view, accountant)
    if profile is None:
        return 1.0
    if not profile.steps:
        return 0.0
    inner = epsilon - 2.0 * profile.loss
    if accountant == "pld":
        found = float(deltas(profile.steps, np.array([inner]), profile.replace)[0])
    else:
        total = _rdp_total(profile.steps)
        # P(S) - e^ε' Q(S) grows by at most -ε' from ε = 0 to a negative ε', which the library refuses
        at_least_zero = max(0.0, inner)
        found = float(rdp_privacy_accountant.compute_delta(RENYI_ORDERS, total, at_least_zero)[0])
        found += at_least_zero - inner
    log_draws = float(np.logaddexp(0.0, epsilon)) + profile.log_draws
    return min(1.0, found * math.exp(profile.loss) + math.exp(min(0.0, log_draws)))


def renyi_divergence(counts: Mapping[Mechanism, int], *, order: float, view: View) -> float:
    """Return the Rényi divergence of `order`, one of `RENYI_ORDERS`, of `counts` steps as `view` sees them.

    Guarantees: an upper bound for the continuous mechanism; an integer one differs from post-processing of
    it by a log-ratio of at most 1e-9 over all steps and by the sampler's total variation.  `math.inf`
    where nothing protects.

    Raises:
        PrivacyError: as for `epsilon` with the accountant "rdp".
    """
    if order not in RENYI_ORDERS:
        raise ConfigError(f"expected one of {RENYI_ORDERS}, got {order}", key="order")
    profile = _profile(counts, view, "rdp")
    if profile is None:
        return math.inf
    return float(_rdp_total(profile.steps)[RENYI_ORDERS.index(order)])


@dataclass(frozen=True, slots=True, kw_only=True)
class _Profile:
    """What a view sees of all steps: the continuous pairs, and what the integers add."""

    steps: Steps
    replace: bool
    loss: float  # T·d·η
    log_draws: float  # log of T·d·n·κ


def _profile(counts: Mapping[Mechanism, int], view: View, accountant: str) -> _Profile | None:
    """Return what `view` sees, or None where nothing protects; refuse what has no proof."""
    _check(accountant)
    taken = {mechanism: count for mechanism, count in counts.items() if count}
    if any(count < 0 for count in taken.values()):
        raise ConfigError("expected counts >= 0", key="counts")
    if len({(mechanism.unit, mechanism.relation) for mechanism in taken}) > 1:
        raise PrivacyError("mechanisms of different units or relations have no common ε")
    replace = any(mechanism.relation == "replace_one" for mechanism in taken)
    if replace and accountant == "rdp":
        raise PrivacyError(
            "RDP is refused for replace_one: two clipped vectors lie up to 2·C apart and dp_accounting's RDP "
            "counts one C, so it under-reports (google/differential-privacy #378); use pld"
        )
    steps: dict[tuple[float, float], int] = {}
    loss, log_draws = 0.0, -math.inf
    for mechanism, count in taken.items():
        multiplier = mechanism.noise_multiplier(view)
        if multiplier < MIN_MULTIPLIER:
            return None
        pair = (multiplier, mechanism.sampling_rate)
        steps[pair] = steps.get(pair, 0) + count
        loss += count * discretisation_loss(mechanism, view)
        log_draws = float(np.logaddexp(log_draws, math.log(count) + _log_draw_distance(mechanism, view)))
    if loss > NEGLIGIBLE_LOSS:
        raise PrivacyError(
            f"the grid is too coarse for the noise: T·d·η = {loss:.3g}, at most {NEGLIGIBLE_LOSS}"
        )
    composed = tuple(sorted((multiplier, rate, count) for (multiplier, rate), count in steps.items()))
    return _Profile(steps=composed, replace=replace, loss=loss, log_draws=log_draws)


def _check(accountant: str) -> None:
    if accountant not in get_args(Accountant):
        if accountant == "gdp":
            raise PrivacyError("the GDP accountant is refused: it under-reports (3.72 where PLD says 6.71)")
        known = ", ".join(get_args(Accountant))
        raise ConfigError(f"expected one of {known}, got {accountant!r}", key="accountant")


def _with_corrections(cost: Callable[[float], float], delta: float, loss: float, log_draws: float) -> float:
    """Return the least ε with e^loss·δ_cont(ε − 2·loss) + (1 + e^ε)·e^log_draws <= delta, from above."""
    if log_draws == -math.inf:
        return cost(delta * math.exp(-loss)) + 2.0 * loss
    for slack in _SLACKS:
        candidate = cost(delta * (1.0 - slack) * math.exp(-loss)) + 2.0 * loss
        if np.logaddexp(0.0, candidate) + log_draws <= math.log(slack * delta):
            return candidate
    return math.inf


def discretisation_loss(mechanism: Mechanism, view: View) -> float:
    """Return d·η of one step: its pointwise log-ratio to post-processing of the continuous Gaussian.

    η adds up, per coordinate: lemma (a), the sum of the shares against one discrete Gaussian; lemma (b),
    that one against rounding a continuous one; the shares' own sampler. Zero for a float mechanism.

    Raises:
        PrivacyError: a share's stddev is below `MIN_SHARE_STDDEV` grid units.
    """
    shares = mechanism.noise_shares(view)
    if not mechanism.integer or shares == 0:
        return 0.0
    stddev = mechanism.draw_stddev
    if stddev < MIN_SHARE_STDDEV:
        raise PrivacyError(f"expected a draw's stddev >= {MIN_SHARE_STDDEV} grid units, got {stddev:.4g}")
    logs = [log_lattice_loss(stddev**2 * k / (k + 1)) for k in range(1, shares)]
    logs.append(log_lattice_loss(INNER_STDDEV**2))
    logs.append(log_convolution_loss(stddev) + math.log(shares))
    # The term of lemma (b) alone is 1e-136, far above the smallest float: the sum cannot vanish.
    return math.exp(_log_sum(logs) + math.log(mechanism.dimension))


def _log_sum(logs: list[float]) -> float:
    top = max(logs)
    return top + math.log(math.fsum(math.exp(value - top) for value in logs))


def _log_draw_distance(mechanism: Mechanism, view: View) -> float:
    """Return log of d·n·κ of one step: what the sampler's finite precision adds; -inf for none."""
    if not mechanism.integer:
        return -math.inf
    draws = mechanism.dimension * mechanism.noise_shares(view)
    return math.log(draws) + log_sampling_distance(mechanism.draw_stddev)


@lru_cache(maxsize=65536)
def _rdp_epsilon(steps: Steps, delta: float) -> float:
    value, _ = rdp_privacy_accountant.compute_epsilon(RENYI_ORDERS, _rdp_total(steps), delta)
    return float(value)


def _rdp_total(steps: Steps) -> npt.NDArray[np.float64]:
    """Return the Rényi divergences of all `steps` at the default orders."""
    total = np.zeros(len(RENYI_ORDERS))
    for multiplier, rate, count in steps:
        total += count * _rdp_curve(multiplier, rate)
    return total


@lru_cache(maxsize=256)
def _rdp_curve(multiplier: float, rate: float) -> npt.NDArray[np.float64]:
    """Return one step's Rényi divergences at the default orders, infinite where they did not converge."""
    accountant = rdp_privacy_accountant.RdpAccountant()
    gaussian = dp_accounting.GaussianDpEvent(multiplier)
    accountant.compose(gaussian if rate == 1.0 else dp_accounting.PoissonSampledDpEvent(rate, gaussian))
    curve = np.asarray(accountant._rdp, dtype=np.float64)
    # A rounding error below zero would make the library report ε = 0.
    return np.where(curve > 0.0, curve, np.inf)
