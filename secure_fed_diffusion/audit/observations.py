"""What an auditor sees of the canaries of one run: the interface between a run and its auditors.

A canary is a coordinate axis appended to the vectors that are summed; a fair secret coin decides whether
it belongs to the data at all, and if it does, it is sampled, clipped, rounded, noised and masked like
any record.  Everything is in grid units, as the server decoded it, centred.

Not protected: `included` and `counts` are the auditor's secrets; whoever publishes them beside the sums
publishes the canaries' membership (of no person: canaries are made up).  Nothing here says anything of the
coordinates in front of the canaries.

Source: Nasr et al. 2023 (arXiv 2302.07956), section 4; Steinke, Nasr and Jagielski 2023 (arXiv 2305.08846).

>>> seen = CanaryObservations(
...     sums=np.array([[16, 1]]), included=np.array([True, False]), counts=np.array([[1, 0]]),
...     rates=np.array([[0.5, 0.5]]), magnitudes=np.array([16]), noise_stddevs=np.array([8.0]),
...     sensitivities=np.array([16.0]))
>>> seen.n_rounds, seen.n_canaries, seen.residuals().tolist()
(1, 2, [[0, 1]])
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from secure_fed_diffusion.errors import ConfigError

Integers = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CanaryObservations:
    """The canary coordinates of R released sums, and what the auditor knows of the m canaries in them."""

    sums: Integers  # (R, m): released, centred
    included: npt.NDArray[np.bool_]  # (m,): the secret fair coins
    counts: Integers  # (R, m): how often an included canary was sampled; for conformance alone
    rates: Floats  # (R, m): public Poisson rate; 0.0 where the canary's client was not among the survivors
    magnitudes: Integers  # (R,): what one sampled canary adds to its coordinate
    noise_stddevs: Floats  # (R,): what the plan says is in the sum, all survivors' shares together
    sensitivities: Floats  # (R,): Δ, the bound on one record's norm

    def __post_init__(self) -> None:
        if self.sums.ndim != 2 or 0 in self.sums.shape:
            raise ConfigError(f"expected (rounds, canaries), got {self.sums.shape}", key="observations.sums")
        n_rounds, n_canaries = self.sums.shape
        both = (n_rounds, n_canaries)
        shapes: dict[str, tuple[int, ...]] = {"included": (n_canaries,), "counts": both, "rates": both}
        shapes |= dict.fromkeys(("magnitudes", "noise_stddevs", "sensitivities"), (n_rounds,))
        kinds = {"sums": "i", "included": "b", "counts": "i", "magnitudes": "i"}
        for name, shape in shapes.items():
            if getattr(self, name).shape != shape:
                raise ConfigError(
                    f"expected {shape}, got {getattr(self, name).shape}", key=f"observations.{name}"
                )
        for name in ("sums", *shapes):
            kind = getattr(self, name).dtype.kind
            if kind != kinds.get(name, "f"):
                raise ConfigError(f"a dtype of the wrong kind, {kind!r}", key=f"observations.{name}")
        self._check_values()

    def _check_values(self) -> None:
        rules = {
            "counts": (bool(np.all(self.counts >= 0)), "counts >= 0"),
            "rates": (bool(np.all((self.rates >= 0.0) & (self.rates <= 1.0))), "0 <= rate <= 1"),
            "noise_stddevs": (_positive(self.noise_stddevs), "finite values > 0"),
            "sensitivities": (_positive(self.sensitivities), "finite values > 0"),
            "magnitudes": (
                bool(np.all((self.magnitudes >= 1) & (self.magnitudes <= self.sensitivities))),
                "1 <= magnitude <= sensitivity",
            ),
        }
        for name, (holds, rule) in rules.items():
            if not holds:
                raise ConfigError(f"expected {rule}", key=f"observations.{name}")
        if np.any(self.counts[:, ~self.included]):
            raise ConfigError("a canary that was not included was sampled", key="observations.counts")

    @property
    def n_rounds(self) -> int:
        """R, the number of released sums."""
        return int(self.sums.shape[0])

    @property
    def n_canaries(self) -> int:
        """m, the number of canaries, included or not."""
        return int(self.sums.shape[1])

    def upto(self, n_rounds: int) -> CanaryObservations:
        """Return what was seen in the first `n_rounds` rounds."""
        if not 1 <= n_rounds <= self.n_rounds:
            raise ConfigError(f"expected 1 <= {n_rounds} <= {self.n_rounds}", key="n_rounds")
        return CanaryObservations(
            sums=self.sums[:n_rounds],
            included=self.included,
            counts=self.counts[:n_rounds],
            rates=self.rates[:n_rounds],
            magnitudes=self.magnitudes[:n_rounds],
            noise_stddevs=self.noise_stddevs[:n_rounds],
            sensitivities=self.sensitivities[:n_rounds],
        )

    def residuals(self) -> Integers:
        """Return sums − magnitude·counts, (R, m): what must be noise if the run did what its plan says."""
        return self.sums - self.magnitudes[:, None] * self.counts


def _positive(values: Floats) -> bool:
    return bool(np.all(np.isfinite(values) & (values > 0.0)))
