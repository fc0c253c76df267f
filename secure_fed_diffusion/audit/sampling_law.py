"""The exact law of how many of many independent coins of different rates come up.

Not covered: coins that depend on each other; that is what the dispersion tests of `conformance` look for.

Source: Hong 2013, "On computing the distribution function for the Poisson binomial distribution", eq. 6
(the characteristic function, inverted by a discrete Fourier transform).

>>> law = CountLaw.of(np.array([0.5, 0.5]))
>>> law.masses().round(2).tolist()
[0.25, 0.5, 0.25]
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.optimize import brentq

Floats = npt.NDArray[np.float64]

_PRECISION = 5e-3  # of the excess


@dataclass(frozen=True, slots=True, kw_only=True)
class CountLaw:
    """The number of successes among coins: `groups` holds (rate, how many coins)."""

    groups: tuple[tuple[float, int], ...]

    @classmethod
    def of(cls, rates: Floats) -> CountLaw:
        """Return the law of these coins, whatever the array's shape."""
        values, numbers = np.unique(rates, return_counts=True)
        return cls(
            groups=tuple((float(rate), int(number)) for rate, number in zip(values, numbers, strict=True))
        )

    @property
    def n_coins(self) -> int:
        """How many coins there are."""
        return sum(number for _, number in self.groups)

    def masses(self, factor: float = 1.0) -> Floats:
        """Return P(count = 0 … n) with every rate times `factor`, at most 1."""
        size = self.n_coins + 1
        angles = np.exp(2j * np.pi * np.arange(size) / size)
        transform = np.ones(size, dtype=np.complex128)
        for rate, number in self.groups:
            scaled = min(1.0, rate * factor)
            transform *= (1.0 + scaled * (angles - 1.0)) ** number
        masses: Floats = np.clip(np.fft.fft(transform).real / size, 0.0, 1.0)
        return masses

    def two_sided(self, count: int) -> float:
        """Return twice the smaller tail at `count`, at most 1; exact down to about 1e-15."""
        masses = self.masses()
        return min(1.0, 2.0 * float(min(masses[: count + 1].sum(), masses[count:].sum())))

    def detectable_excess(self, level: float, power: float) -> float | None:
        """Return the least relative excess of the rates that the test at `level` catches with `power`.

        None if not even rates of 1 would be.
        """
        upper = np.cumsum(self.masses()[::-1])[::-1]  # P(count >= i)
        critical = int(np.argmax(upper <= level / 2.0))
        if upper[critical] > level / 2.0:
            return None
        low, high = 1.0, 1.0 / min(rate for rate, _ in self.groups)
        if self._power(high, critical) < power:
            return None
        found = brentq(lambda factor: self._power(factor, critical) - power, low, high, xtol=_PRECISION)
        return float(found) + _PRECISION - 1.0

    def _power(self, factor: float, critical: int) -> float:
        return float(self.masses(factor)[critical:].sum())
