"""A trusted server's noisy sums: the package's own grid, noise and accounting, for methods that are not ours.

Formal guarantees: sensitivity `grid.norm_bound` (integer L2), discrete Gaussian noise from the operating
system's CSPRNG, unit one example, relation add or remove, view the released model, accountant PLD.  With
ε = inf nothing is added and nothing is promised.

>>> plan = Plan.calibrated(dimension=10, clip_norm=1.0, epsilon=1.0, delta=1e-5)
>>> plan.epsilon_spent <= 1.0, round(plan.noise_stddev / plan.grid.norm_bound, 1)
(True, 3.7)
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from secure_fed_diffusion.dp.accounting import epsilon as spent
from secure_fed_diffusion.dp.calibration import calibrate
from secure_fed_diffusion.dp.grid import IntegerGrid
from secure_fed_diffusion.dp.mechanism import INNER_STDDEV, Mechanism, View
from secure_fed_diffusion.dp.noise import discrete_gaussian
from secure_fed_diffusion.entropy import Entropy, system

VIEW = View(name="released_model")
UNIT, RELATION = "example", "add_remove"


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """`steps` noisy sums of `dimension` coordinates, each of a Poisson sample at `sampling_rate`."""

    grid: IntegerGrid
    dimension: int
    steps: int
    sampling_rate: float
    noise_stddev: float  # in grid units; 0: no noise, no promise
    epsilon_spent: float
    delta: float

    @classmethod
    def calibrated(
        cls,
        *,
        dimension: int,
        clip_norm: float,
        epsilon: float,
        delta: float,
        steps: int = 1,
        sampling_rate: float = 1.0,
    ) -> Plan:
        """Return the plan with the least noise that keeps ε over all `steps`.

        Guarantees: `epsilon_spent`, by PLD, is at most `epsilon`.
        """
        (plan,) = cls.together(
            [(dimension, clip_norm)], epsilon=epsilon, delta=delta, steps=steps, sampling_rate=sampling_rate
        )
        return plan

    @classmethod
    def together(
        cls,
        vectors: Sequence[tuple[int, float]],
        *,
        epsilon: float,
        delta: float,
        steps: int = 1,
        sampling_rate: float = 1.0,
    ) -> tuple[Plan, ...]:
        """Return a plan for each of `vectors`, (dimension, clip norm), at one noise multiplier, the least.

        Guarantees: the ε over all steps of all of them, by PLD, is at most `epsilon`; each says that ε.
        """
        grids = [IntegerGrid.for_dimension(dimension, clip_norm) for dimension, clip_norm in vectors]

        def mechanisms(multiplier: float) -> list[Mechanism]:
            return [
                Mechanism(
                    kind="central",
                    unit=UNIT,
                    relation=RELATION,
                    sampling_rate=sampling_rate,
                    sensitivity=float(grid.norm_bound),
                    share_stddev=0.0,
                    server_stddev=math.hypot(multiplier * grid.norm_bound, INNER_STDDEV),
                    min_survivors=1,
                    integer=True,
                    dimension=dimension,
                )
                for grid, (dimension, _) in zip(grids, vectors, strict=True)
            ]

        def uses(multiplier: float) -> Counter[Mechanism]:
            counted: Counter[Mechanism] = Counter()
            for mechanism in mechanisms(multiplier):
                counted[mechanism] += steps
            return counted

        stddevs, cost = [0.0] * len(grids), math.inf
        if not math.isinf(epsilon):
            multiplier = calibrate(uses, target_epsilon=epsilon, delta=delta, view=VIEW)
            stddevs = [mechanism.server_stddev for mechanism in mechanisms(multiplier)]
            cost = spent(uses(multiplier), delta=delta, view=VIEW)
        return tuple(
            cls(
                grid=grid,
                dimension=dimension,
                steps=steps,
                sampling_rate=sampling_rate,
                noise_stddev=stddev,
                epsilon_spent=cost,
                delta=delta,
            )
            for grid, (dimension, _), stddev in zip(grids, vectors, stddevs, strict=True)
        )

    def release(self, total: npt.NDArray[np.int64], entropy: Entropy = system) -> npt.NDArray[np.float64]:
        """Return an exact sum of grid vectors (dimension,) with its noise, in the vectors' own unit.

        Guarantees: one of the `steps` that were accounted for, if each record added a row of `grid.round`.
        """
        if total.shape != (self.dimension,):
            raise ValueError(f"expected {self.dimension} coordinates, got {total.shape}")
        if self.noise_stddev:
            total = total + discrete_gaussian(self.noise_stddev, self.dimension, entropy)
        return self.grid.to_float(total)
