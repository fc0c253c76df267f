"""What the coordinator does: open a round, learn its sum, step the model.

`Server` never sees a contribution: with masks on, `secagg.Server` adds them up and hands over one total.
In mode `central` it is trusted and adds the noise itself, before anything else reads the sum.

Formal guarantee: `apply` uses nothing but the noisy sum (and, in `none`, the exact one), so everything
after it is post-processing.  A sum of fewer than `min_survivors` contributions is never asked for
(`UnderNoisedError`); the clients' own policies refuse to unmask it too.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from secure_fed_diffusion import secagg
from secure_fed_diffusion.diffusion.class_conditional_pipeline import ClassGaussians
from secure_fed_diffusion.diffusion.ema import (
    ExponentialMovingAverage,
    PowerFunctionAverage,
    RunningAverage,
    TailAverage,
)
from secure_fed_diffusion.diffusion.objective import Objective
from secure_fed_diffusion.entropy import Entropy, system
from secure_fed_diffusion.errors import LedgerError, SecureAggregationError, UnderNoisedError
from secure_fed_diffusion.federation.heads import HeadBook, detach
from secure_fed_diffusion.federation.messages import (
    Announcement,
    announcements,
    decode_plain,
    show_nothing,
)
from secure_fed_diffusion.federation.plan import Plan
from secure_fed_diffusion.federation.release import Release, draw_noise
from secure_fed_diffusion.federation.released_classes import ReleasedClasses
from secure_fed_diffusion.federation.schedule import PHASES
from secure_fed_diffusion.federation.settings import ModeSettings
from secure_fed_diffusion.federation.stepping import learning_rate_at
from secure_fed_diffusion.federation.strategies import base_learning_rate, make_strategy
from secure_fed_diffusion.federation.sums import SecureSums
from secure_fed_diffusion.secagg.encoding import centred
from secure_fed_diffusion.training.vectors import flatten, load_flat
from secure_fed_diffusion.training.warmup import train_on_classes

PLAIN = "plain"  # the one phase of a round without masks


class Server:
    """The coordinator of one run; its weights live in `model`."""

    def __init__(
        self,
        run_id: str,
        plan: Plan,
        model: nn.Module,
        objective: Objective,
        *,
        heads: HeadBook | None = None,
        roster: secagg.Roster | None = None,
        entropy: Entropy = system,
    ) -> None:
        self._plan = plan
        self._objective = objective
        self._heads = heads
        self._entropy = entropy
        self.model = model
        self._strategy = make_strategy(plan.recipe, plan.dimension)
        self.average = make_average(plan.recipe, flatten(model))
        self.classes = ReleasedClasses(plan)
        self._sums = SecureSums(run_id, plan, roster=roster, entropy=entropy) if plan.masked else None
        self._plain: dict[int, npt.NDArray[np.uint64]] = {}
        self._number = 0
        self.refused: dict[int, str] = {}

    @property
    def phase(self) -> str:
        """The phase whose answers are awaited: one of the secure sum's, or "plain"."""
        return PLAIN if self._sums is None else self._sums.machine.phase

    @property
    def start(self) -> ClassGaussians | None:
        """What sampling starts from, where the process is truncated."""
        return self.classes.gaussians if self._plan.diffusion.truncation < 1 else None

    @property
    def class_means(self) -> npt.NDArray[np.float32] | None:
        """The class means that were released, (n_classes, c, h, w) in [0, 1]; None where none were."""
        return self.classes.means if self._plan.warmup.draws else None

    @property
    def _release(self) -> Release:
        return self._plan.releases[self._plan.rounds[self._number - 1].release]

    def open(self, number: int, attempt: int) -> Mapping[int, bytes]:
        """Begin an attempt at round `number`; return the frame for each client that it begins with.

        Those are its cohort, or all clients where a new set-up for several rounds comes first.
        """
        self._number = number
        self._plain, self.refused = {}, {}
        shown = self._heads.shown_to if self._heads else show_nothing
        announcement = Announcement(number, attempt, self._announced())
        if self._sums is not None:
            return self._sums.open(announcement, shown)
        return announcements(announcement, self._plan.rounds[number - 1].cohort, shown)

    def _announced(self) -> npt.NDArray[np.float32]:
        """Return what a contribution to the round is computed from: the model, or the class means."""
        if self._release.name == "covariances":
            return self.classes.means.ravel()
        weights: npt.NDArray[np.float32] = flatten(self.model).numpy()
        return np.concatenate([weights, self.classes.shares]) if self._plan.label_shares else weights

    def take(self, replies: Mapping[int, bytes]) -> Mapping[int, bytes]:
        """Take the answers of the current phase; return the frames of the next, or {} once the sum is known.

        A frame that is refused costs its sender the round and nobody else; `refused` says why.

        Raises:
            TooFewClientsError: below the threshold.
            UnderNoisedError: enough for the threshold, too few for the noise.
        """
        if self._sums is None:
            self._take_plain(replies)
            return {}
        phase = self.phase
        for client_id, frame in replies.items():
            try:
                inner = self._heard(client_id, frame) if phase == "masked_input" else frame
                self._sums.receive(client_id, inner)
            except (SecureAggregationError, LedgerError) as error:
                self.refused[client_id] = str(error)
        self._save_heads()
        if phase == "masked_input":
            self._require_noise(len(self._sums.machine.heard))
        frames = self._sums.advance()
        if self._plan.rounds_per_setup > 1 and self.phase == "masked_input":
            self._require_noise(len(frames))  # before anybody pays
        return frames

    @property
    def out_of_setup(self) -> tuple[int, ...]:
        """The clients of the round's cohort that are not in the set-up, and so not asked; () before it."""
        if self._sums is None:
            return ()
        return self._sums.left_out

    def _take_plain(self, replies: Mapping[int, bytes]) -> None:
        for client_id, frame in replies.items():
            try:
                inner = self._heard(client_id, frame)
                self._plain[client_id] = decode_plain(inner, self._release.length, client_id)
            except (SecureAggregationError, LedgerError) as error:
                self.refused[client_id] = str(error)
        self._save_heads()
        self._require_noise(len(self._plain))

    def _heard(self, client_id: int, frame: bytes) -> bytes:
        """Take the signed head that stands before a contribution; return the contribution."""
        if self._heads is None:
            return frame
        head, inner = detach(frame, client_id)
        self._heads.learn(head)
        return inner

    def _save_heads(self) -> None:
        if self._heads is not None:
            self._heads.save()

    def _require_noise(self, n_contributions: int) -> None:
        least = self._plan.federation.min_survivors
        if n_contributions < least:
            raise UnderNoisedError(
                f"round {self._number}: {n_contributions} contributions, the plan's noise needs {least}"
            )

    @property
    def survivors(self) -> tuple[int, ...]:
        """Whose contributions the sum holds."""
        return tuple(sorted(self._plain)) if self._sums is None else self._sums.machine.survivors

    def total(self) -> npt.NDArray[np.int64]:
        """Return the sum as centred integers (length,), with the trusted server's noise in `central`.

        The noise is added in the ring, before the reduction: a sum that wraps around (its declaration was
        false, or its sample large) is wrong then, and as private as any other.
        """
        release = self._release
        if self._sums is None:
            ring = np.sum(list(self._plain.values()), axis=0, dtype=np.uint64)
        else:
            ring = self._sums.machine.total.astype(np.uint64)
        if release.mechanism.server_stddev:
            ring += draw_noise(release.mechanism.server_stddev, len(ring), self._entropy).view(np.uint64)
        return centred(ring, release.modulus_bits)

    def apply(self, total: npt.NDArray[np.int64]) -> None:
        """Step the model along the sum; after the last sum of the warm-up, train on what was released."""
        self.take_sum(total)
        if self._number == self._plan.warmup.rounds:
            self.warm_up()

    def take_sum(self, total: npt.NDArray[np.int64]) -> None:
        """Step the model along the sum, or keep what it says of the classes."""
        release = self._release
        if release.name not in PHASES:
            self.classes.add(release.grid.to_float(total), release, self._noise_stddev(release))
            return
        total = total[: release.length - release.canaries]  # the auditor's coordinates are no gradient
        if release.fixed_point is None:
            mean = release.grid.to_float(total) / release.divisor
        elif self._plan.mode == "none":
            fixed = np.ldexp(total[:-1].astype(np.float64), -release.fixed_point.fraction_bits)
            mean = fixed / max(1, int(total[-1]))
        else:
            fixed = np.ldexp(total.astype(np.float64), -release.fixed_point.fraction_bits)
            mean = fixed / len(self.survivors)
        recipe = self._plan.recipe
        weights = self._strategy.step(
            flatten(self.model),
            torch.from_numpy(mean),
            learning_rate=learning_rate_at(
                recipe.server,
                base_learning_rate(recipe),
                self._number - self._plan.warmup.rounds,
                recipe.rounds,
            ),
            noise_variance=self._noise_variance(release),
        )
        load_flat(self.model, weights)
        self.average.update(weights)

    def _noise_stddev(self, release: Release) -> float:
        """Return the standard deviation of the noise in a sum on the grid, in the vectors' own unit."""
        mechanism = release.mechanism
        draws = 1 if mechanism.kind == "central" else len(self.survivors)
        return float(mechanism.draw_stddev * np.sqrt(draws) / release.grid.scale)

    def _noise_variance(self, release: Release) -> float:
        """Return the variance of the noise in each coordinate of the mean; 0 where its noise is not known."""
        if release.fixed_point is not None:  # `local`: the noise of several steps lies in the updates
            return 0.0
        return (self._noise_stddev(release) / release.divisor) ** 2

    def warm_up(self) -> None:
        """Train on what was released of the classes: post-processing, the same each time it is done."""
        warmup = self._plan.warmup
        train_on_classes(
            self.model,
            self._objective,
            self.classes.gaussians,
            patch=self._plan.patch,
            steps=warmup.steps,
            batch=warmup.batch,
            learning_rate=warmup.learning_rate,
            seed=self._plan.seed,
            augmentation=warmup.augmentation,
            strength=warmup.strength,
            decay=warmup.decay,
        )
        self.average.restart(flatten(self.model))

    def state_dict(self) -> dict[str, Any]:
        """Return the server's state between two rounds: nothing in it that was not released."""
        return {
            "weights": flatten(self.model),
            "strategy": self._strategy.state_dict(),
            "average": self.average.state_dict(),
            "classes": self.classes.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a saved state."""
        load_flat(self.model, state["weights"])
        self._strategy.load_state_dict(state["strategy"])
        self.average.load_state_dict(state["average"])
        self.classes.load_state_dict(state["classes"])


def make_average(recipe: ModeSettings, weights: torch.Tensor) -> RunningAverage:
    """Return the average of the weights that a mode's table asks for."""
    server = recipe.server
    match server.average:
        case "ema":
            return ExponentialMovingAverage(weights, recipe.ema_decay)
        case "power":
            return PowerFunctionAverage.of_width(weights, server.relative_stddev)
        case "tail":
            return TailAverage(weights, recipe.rounds - math.ceil(server.tail_share * recipe.rounds) + 1)
