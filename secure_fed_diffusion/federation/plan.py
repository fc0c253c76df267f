"""One object that ties sampler, clip, rounding, noise, divisor, masks and accountant together.

A `Plan` is made once, before any work, and is the same at every client and at the server: nobody takes
a clip, a noise or a cohort from a frame.  It fixes the cohorts in advance (public, balanced: nobody is
amplified by client sampling), counts the most charges that any client can meet, and calibrates the
noise to that count and to the least number of honest survivors.

Guard views, in which the budget holds: `distributed` and `client` the server together with `colluders`
participants; `central` the released model (its server is trusted); `local` the raw update; `none` has
no budget.  Unit: one example (add/remove), in `client` one client (zero-out).

Formal guarantees: at most `max_charges` charges a client, each one use of the release's mechanism; with
the accountant's conversion the whole run is (epsilon, delta) in the guard view, against
computationally bounded adversaries; under the profile semi_honest for a server that follows the protocol,
under active for one that does not.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from secure_fed_diffusion import secagg
from secure_fed_diffusion.diffusion.settings import DiffusionSettings, ModelSettings
from secure_fed_diffusion.dp.mechanism import CLIENT_SAMPLING, View
from secure_fed_diffusion.dp.terms import Terms
from secure_fed_diffusion.federation.checks import (
    remarks,
)
from secure_fed_diffusion.federation.release import Release
from secure_fed_diffusion.federation.schedule import (
    PHASES,
    ReleaseName,
    Round,
    most_participations,
)
from secure_fed_diffusion.federation.settings import (
    FederationSettings,
    Mode,
    ModeSettings,
    PrivacySettings,
    SecureSumSettings,
    StepSettings,
)
from secure_fed_diffusion.federation.warmup_settings import WarmupSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Everything that the clients and the server agree on before the first frame."""

    mode: Mode
    seed: int
    recipe: ModeSettings
    federation: FederationSettings
    secure_sum: SecureSumSettings
    privacy: PrivacySettings
    warmup: WarmupSettings
    diffusion: DiffusionSettings
    model: ModelSettings
    image_shape: tuple[int, int, int]
    n_classes: int
    dimension: int
    releases: Mapping[ReleaseName, Release]
    rounds: tuple[Round, ...]
    guard: View
    noise_multiplier: float  # of the training, in the guard view, times a phase's scale; 0 in mode `none`
    canaries: int = 0  # coordinates that the auditor's records have to themselves, behind the model's
    digest: str = field(init=False, compare=False)

    def __post_init__(self) -> None:
        """Compute `digest`, once: each session and each state of a client asks for it."""
        object.__setattr__(self, "digest", self._digest())

    @property
    def patch(self) -> int:
        """Pixels folded into channels along each axis."""
        return self.model.patch

    @property
    def label_shares(self) -> int:
        """How many numbers, one a class, follow the weights in an announcement: what thins each class."""
        balanced = isinstance(self.recipe, StepSettings) and self.recipe.label_balance
        return self.n_classes if balanced else 0

    def announced(self, number: int) -> int:
        """How many numbers round `number` announces: the weights, then the shares of the classes.

        A round of class covariances announces the class means instead.  All are in the digest that every
        frame of the round is bound to, so clients that were shown others have no mask in common.
        """
        if 1 <= number <= len(self.rounds) and self.rounds[number - 1].release == "covariances":
            return self.n_classes * math.prod(self.image_shape)
        return self.dimension + self.label_shares

    @property
    def masked(self) -> bool:
        """Whether contributions travel under masks."""
        return self.federation.masked or self.mode not in ("none", "central")

    @property
    def budget_epsilon(self) -> float | None:
        """The budget that the ledger keeps, or None where nothing is promised."""
        return None if self.mode == "none" else self.privacy.epsilon

    @property
    def noise_overhead(self) -> float:
        """How much more noise than `central` the sum carries when everyone survives: sqrt(h / h_min)."""
        if self.mode not in ("distributed", "client"):
            return 1.0
        federation = self.federation
        honest = federation.min_survivors - federation.colluders
        return math.sqrt(federation.clients_per_round / honest)

    def views(self) -> tuple[View, ...]:
        """Return the views that are reported each round, the guard among them."""
        colluding = {0, self.federation.colluders}
        sums = tuple(View(name="sum", colluders=c) for c in sorted(colluding))
        return (View(name="raw_update"), *sums, View(name="released_model"))

    def reserved(self, release: ReleaseName) -> int:
        """Return how many repeats of rounds of `release` are paid for in advance."""
        own = self.warmup.reserved_attempts
        return self.federation.reserved_attempts if own is None or release in PHASES else own

    def reserve_key(self, release: ReleaseName) -> str:
        """Return the setting that a round's repeats are counted against; rounds of one key share them."""
        apart = self.warmup.reserved_attempts is not None and release not in PHASES
        return "warmup.reserved_attempts" if apart else "federation.reserved_attempts"

    def max_charges(self) -> dict[str, int]:
        """Return the most uses of each mechanism that one client can be charged for, repeats included."""
        return {
            name: (most + self.reserved(name)) * release.steps if most else 0
            for name, release in self.releases.items()
            for most in [most_participations(self.rounds, name)]
        }

    def _digest(self) -> str:
        """SHA-256 of what is computed, by whom, and what it costs: in every session, so plans share no mask.

        Floats to the last bit.  Left out is what an end decides for itself: where it keeps its own account
        (`privacy.shared_ledger`), and whether the noise was calibrated there or announced.
        """
        agreed = (
            self.terms("", "").to_dict(),
            self.mode,
            self.noise_multiplier,
            self.seed,
            self.recipe,
            self.federation,
            self.secure_sum,
            (self.privacy.epsilon, self.privacy.delta, self.privacy.accountant),
            self.warmup,
            self.diffusion,
            self.model,
            (self.image_shape, self.n_classes, self.dimension, self.canaries),
            [(planned.number, planned.release, planned.cohort) for planned in self.rounds],
        )
        return hashlib.sha256(repr(agreed).encode()).hexdigest()

    @property
    def _profile(self) -> str:
        if not self.masked:
            return "none, contributions travel in clear"
        meaning = {
            "active": "holds against a server that lies",
            "semi_honest": "the server follows the protocol",
        }
        return f"{self.secure_sum.profile}, {meaning[self.secure_sum.profile]}"

    def remarks(self) -> list[str]:
        """Say what is allowed and probably not meant."""
        return remarks(self.mode, self.federation, self.privacy, self.rounds)

    def terms(
        self, run_id: str, config_digest: str, *, owner: int | None = None, by_server: bool = False
    ) -> Terms:
        """Return the terms of this plan's ledger: a whole run's, one client's, or the server's book."""
        return Terms(
            run_id=run_id,
            config_digest=config_digest,
            delta=self.privacy.delta,
            budget_epsilon=self.budget_epsilon,
            guard=self.guard,
            accountant=self.privacy.accountant,
            mechanisms={name: release.mechanism for name, release in self.releases.items()},
            views=self.views(),
            max_charges={} if self.mode == "none" else self.max_charges(),
            note=f"{CLIENT_SAMPLING} Secure sum: {self._profile}.",
            owner=owner,
            by_server=by_server,
        )

    @property
    def rounds_per_setup(self) -> int:
        """How many rounds one key set-up pays for; at 1 each attempt makes its own."""
        return self.secure_sum.rounds_per_setup

    def slots(self, release: ReleaseName) -> int:
        """Return how many attempts a set-up for several rounds pays for: no more than were planned."""
        planned = sum(planned.release == release for planned in self.rounds)
        return max(1, min(self.rounds_per_setup, planned + self.reserved(release)))

    def secagg_params(self, release: ReleaseName) -> secagg.SecAggParams:
        """Return the parameters of the secure sum of `release`.

        A set-up for several rounds is one of all clients.  Its slot 0, bound to the set-up itself, carries
        nothing: the slots from 1 on are bound to the rounds that use them up.
        """
        several = self.rounds_per_setup > 1
        return secagg.SecAggParams(
            n_clients=self.federation.clients if several else self.federation.clients_per_round,
            threshold=self.secure_sum.threshold,
            dimension=self.releases[release].length,
            modulus_bits=self.releases[release].modulus_bits,
            n_neighbours=self.secure_sum.n_neighbours,
            profile=self.secure_sum.profile,
            n_rounds=self.slots(release) + 1 if several else 1,
        )

    def session(
        self,
        run_id: str,
        number: int,
        attempt: int,
        model_digest: bytes,
        *,
        roster: secagg.Roster | None = None,
    ) -> secagg.Session:
        """Return the session of one attempt at one round; the profile active needs the roster."""
        planned = self.rounds[number - 1]
        return secagg.Session(
            run_id=f"{run_id}/{self.digest}".encode(),
            round=number,
            attempt=attempt,
            cohort=planned.cohort,
            params=self.secagg_params(planned.release),
            model_digest=model_digest,
            roster=roster if self.secure_sum.profile == "active" else None,
        )

    def setup_session(
        self, run_id: str, release: ReleaseName, nonce: bytes, *, roster: secagg.Roster | None = None
    ) -> secagg.Session:
        """Return the session of a key set-up for several rounds of `release`; `nonce` tells two apart."""
        return secagg.Session(
            run_id=f"{run_id}/{self.digest}/{release}/{nonce.hex()}".encode(),
            round=0,
            attempt=0,
            cohort=tuple(range(self.federation.clients)),
            params=self.secagg_params(release),
            model_digest=bytes(32),
            roster=roster if self.secure_sum.profile == "active" else None,
        )

    def policy(self) -> secagg.Policy:
        """Return what each client insists on, whatever the server proposes."""
        federation, secure_sum = self.federation, self.secure_sum
        several = self.rounds_per_setup > 1
        return secagg.Policy(
            min_cohort=federation.clients if several else federation.clients_per_round,
            min_survivors=max(2, federation.min_survivors),
            min_threshold=secure_sum.threshold,
            min_neighbours=secure_sum.n_neighbours or 2,
            colluders=federation.colluders,
            max_rounds=self.rounds_per_setup + 1 if several else 1,
            profiles=(secure_sum.profile,),
        )
