"""The kinds of sum of a run, what a contribution to each is, and what it costs.

They are class means, class covariances and training.

A release fixes, in one place, the grid that bounds a contribution, the noise that goes with it, the ring
that holds the sum and the public divisor.  `ReleasePlanner.releases` is a function of the noise multiplier
of the training alone, which is what the calibration turns.  Each phase of a batch schedule is a release of
its own, with its own mechanism: rates, noise and charges of two phases are never mixed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from secure_fed_diffusion import secagg
from secure_fed_diffusion.dp.grid import IntegerGrid
from secure_fed_diffusion.dp.mechanism import INNER_STDDEV, Mechanism
from secure_fed_diffusion.dp.noise import discrete_gaussian
from secure_fed_diffusion.entropy import Entropy
from secure_fed_diffusion.errors import ConfigError
from secure_fed_diffusion.federation.class_covariances import covariance_length
from secure_fed_diffusion.federation.phases import PhaseSettings
from secure_fed_diffusion.federation.schedule import PHASES, ReleaseName
from secure_fed_diffusion.federation.settings import (
    FederationSettings,
    LocalSettings,
    Mode,
    ModeSettings,
    SecureSumSettings,
    StepSettings,
)
from secure_fed_diffusion.federation.warmup_settings import CovarianceSettings, WarmupSettings
from secure_fed_diffusion.secagg.params import MIN_MODULUS_BITS

FLOAT_RING_BITS = 48  # updates that are no integers: 2^-20 of their range even under weights of 2^20
MAX_RECORDS = 1 << 20  # most records a client may weigh with in FedAvg
WRAP_STDDEVS = 12.0  # a coordinate of the noise is farther out with probability below 1e-32
BATCH_SLACK = 1.5  # a Poisson sample this much above its expected size may wrap a coordinate
NOISE_BLOCK = 1 << 16  # draws: a multiple of the piece in which the sampler reads its stream
_LEAST_FRACTION_BITS = 12

_KINDS: dict[Mode, Literal["shares", "central", "local", "none"]] = {
    "none": "none",
    "central": "central",
    "local": "local",
    "distributed": "shares",
    "client": "shares",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """A kind of sum: what its contributions are, and what one of them costs.

    The ring has room for a sample 1.5 times its expected size with every record at its bound on one
    coordinate, and for noise of 12 standard deviations, exceeded with probability below 1e-32 a
    coordinate: a matter of correctness, never of privacy, since a reduction is post-processing.
    """

    name: ReleaseName
    mechanism: Mechanism
    steps: int  # uses of the mechanism in one charge
    length: int  # coordinates of the sum, the weight of FedAvg and the canaries included
    grid: IntegerGrid  # of the clipped vectors
    fixed_point: secagg.FixedPoint | None  # encodes updates that are not on the grid
    modulus_bits: int
    divisor: int  # public: the expected batch, which sizes the ring and divides a sum of gradients
    canaries: int = 0  # the last coordinates: the auditor's, and no part of the model


@dataclass(frozen=True, slots=True, kw_only=True)
class ReleasePlanner:
    """What the releases of a plan depend on, the noise multiplier apart.

    `public_records` is the declared size of all data together; it sizes the warm-up's ring, so a wrong
    declaration can cost the correctness of that sum and never privacy.
    """

    mode: Mode
    recipe: ModeSettings
    federation: FederationSettings
    secure_sum: SecureSumSettings
    warmup: WarmupSettings
    image_shape: tuple[int, int, int]
    n_classes: int
    dimension: int  # trainable parameters
    public_records: int
    canaries: int = 0  # coordinates appended to a sum of gradients

    def releases(self, multiplier: float) -> dict[ReleaseName, Release]:
        """Describe all releases with `multiplier` as the training's, in the guard view.

        A phase of a schedule has `multiplier` times its own `noise_scale`.
        """
        described: dict[ReleaseName, Release] = {"prototypes": self._warm_up("prototypes", self.warmup)}
        if self.warmup.covariances.draws:
            described["covariances"] = self._warm_up("covariances", self.warmup.covariances)
        if not isinstance(self.recipe, StepSettings):
            return described | {"training": self._training("training", multiplier)}
        for name, phase in zip(PHASES, self.recipe.phases, strict=False):
            described[name] = self._training(name, multiplier * phase.noise_scale, phase)
        return described

    @property
    def _cohort(self) -> int:
        return self.federation.clients_per_round

    def _mechanism(self, grid: IntegerGrid, dimension: int, multiplier: float, rate: float) -> Mechanism:
        """Put the noise where the mode has it: with the server, with each client, or in shares.

        Guarantees: in the guard view, at the fewest honest survivors, the noise multiplier of the
        dominating continuous Gaussian is `multiplier`.
        """
        kind = _KINDS[self.mode]
        by_client = self.mode == "client"
        whole = math.sqrt((multiplier * grid.norm_bound) ** 2 + INNER_STDDEV**2)
        honest = self.federation.min_survivors - self.federation.colluders
        own = {"local": whole, "shares": whole / math.sqrt(honest)}
        return Mechanism(
            kind=kind,
            unit="client" if by_client else "example",
            relation="zero_out" if by_client else "add_remove",
            sampling_rate=1.0 if by_client else rate,
            sensitivity=float(grid.norm_bound),
            share_stddev=own.get(kind, 0.0),
            server_stddev=whole if kind == "central" else 0.0,
            min_survivors=self.federation.min_survivors,
            integer=True,
            dimension=dimension,
        )

    def _warm_up(self, name: ReleaseName, released: WarmupSettings | CovarianceSettings) -> Release:
        """Describe class means or covariances: one use of the mechanism a charge, at their own multiplier."""
        if isinstance(released, CovarianceSettings):
            length = covariance_length(
                self.image_shape, n_classes=self.n_classes, frequencies=released.frequencies
            )
        else:
            length = self.n_classes * (math.prod(self.image_shape) + 1)
        grid = IntegerGrid.for_dimension(length, released.clip_norm)
        mechanism = self._mechanism(grid, length, released.noise_multiplier, released.sampling_rate)
        records = self.public_records * self._cohort / self.federation.clients
        batch = self._cohort if self.mode == "client" else records * released.sampling_rate
        return Release(
            name=name,
            mechanism=mechanism,
            steps=1,
            length=length,
            grid=grid,
            fixed_point=None,
            modulus_bits=self._integer_ring(mechanism, batch),
            divisor=max(1, round(batch)),
        )

    def _training(self, name: ReleaseName, multiplier: float, phase: PhaseSettings | None = None) -> Release:
        """Describe the sum that trains: gradients (of a `phase`), clipped updates, or float updates."""
        recipe = self.recipe
        clip_norm = recipe.clip_norm if phase is None or phase.clip_norm is None else phase.clip_norm
        gamma = recipe.clip_gamma if recipe.clipping == "automatic" else None
        grid = IntegerGrid.for_dimension(self.dimension, clip_norm, gamma=gamma)
        if phase is not None:
            rate, divisor = phase.sampling_rate, phase.divisor
        else:
            rate, divisor = getattr(recipe, "sampling_rate", 1.0), self._cohort
        # A canary is one coordinate and no real record touches it: neither the grid nor the ring changes.
        length = self.dimension + self.canaries
        mechanism = self._mechanism(grid, length, multiplier, rate)
        weighted = self.mode == "none"
        if isinstance(recipe, StepSettings) or self.mode == "client":
            fixed_point, bits = None, self._integer_ring(mechanism, divisor)
        else:
            fixed_point = self._float_ring(recipe.update_range, MAX_RECORDS if weighted else 1)
            bits = fixed_point.modulus_bits
        return Release(
            name=name,
            mechanism=mechanism,
            steps=recipe.steps if isinstance(recipe, LocalSettings) else 1,
            length=length + 1 if weighted else length,
            grid=grid,
            fixed_point=fixed_point,
            modulus_bits=bits,
            divisor=divisor,
            canaries=self.canaries,
        )

    def _integer_ring(self, mechanism: Mechanism, batch: float) -> int:
        """Return the bits for `batch` vectors at their bound and the noise of a full cohort, or refuse."""
        draws = 1 if mechanism.kind == "central" else self._cohort
        noise = WRAP_STDDEVS * mechanism.draw_stddev * math.sqrt(draws)
        needed = math.ceil(math.log2(2 * (BATCH_SLACK * batch * mechanism.sensitivity + noise) + 2))
        configured = self.secure_sum.modulus_bits
        if configured == "auto":
            return max(MIN_MODULUS_BITS, needed)
        if configured < needed:
            raise ConfigError(
                f"no headroom: this plan's sums and noise need {needed} bits, got {configured}",
                key="secagg.modulus_bits",
            )
        return configured

    def _float_ring(self, update_range: float, max_weight: int) -> secagg.FixedPoint:
        """Return the finest encoding of float updates in the ring, or refuse a ring that is too coarse."""
        configured = self.secure_sum.modulus_bits
        bits = FLOAT_RING_BITS if configured == "auto" else configured
        try:
            encoding = secagg.FixedPoint.finest(
                clip=update_range, modulus_bits=bits, max_clients=self._cohort, max_weight=max_weight
            )
        except ConfigError as error:
            raise ConfigError(f"no headroom in {bits} bits: {error}", key="secagg.modulus_bits") from error
        if encoding.fraction_bits < _LEAST_FRACTION_BITS:
            raise ConfigError(
                f"{bits} bits leave steps of 2^-{encoding.fraction_bits}, coarser than "
                f"2^-{_LEAST_FRACTION_BITS}",
                key="secagg.modulus_bits",
            )
        return encoding


def draw_noise(stddev: float, length: int, entropy: Entropy) -> npt.NDArray[np.int64]:
    """Draw the noise of one vector (length,), in whole blocks of the sampler's stream.

    So a coordinate's noise depends on no coordinate after it, and under one stream the model's noise is
    the same with canaries behind it and without.
    """
    whole = -(-length // NOISE_BLOCK) * NOISE_BLOCK
    return discrete_gaussian(stddev, whole, entropy)[:length]
