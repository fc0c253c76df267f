"""Membership inference on a released diffusion model: was this image in the training data?

Two attacks, each a fixed function of the released weights, one image and its label (higher: more likely
a member).  Their timesteps and their noise are public and fixed beforehand, so nothing is tuned on the
figures that they give.

- `loss_threshold`: minus the training loss, averaged over small timesteps and noise draws (Yeom et al. 2018,
  arXiv 1709.01604; on diffusion models Hu and Pang 2023, arXiv 2301.09956).
- `sima`: minus Σ|ε̂(x, t)|⁴ at the clean image and ONE small t (Rao, Qu, Moyer 2025, "Score-based Membership
  Inference on Diffusion Models", arXiv 2509.25003; the exponent and the unscaled x as in the authors' code).
  The predicted noise points away from a local mean of the training images, so at one of them it is short.

These scores read PRIVATE images and no noise is added: whatever is computed from them is outside ε.
Not covered: attacks that train shadow models, or that see more than the released weights.  An attack that
fails is no proof that none succeeds; an interval is over images, for ONE trained model.

>>> figures = membership_figures(np.array([3.0, 4.0]), np.array([1.0, 2.0]))
>>> figures["auc"], [round(end, 2) for end in figures["auc_interval"]]
(1.0, [0.16, 1.0])
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from scipy.stats import norm, rankdata
from torch import Tensor, nn

from secure_fed_diffusion.data.datasets import ImageSet
from secure_fed_diffusion.diffusion.objective import DiffusionSettings, Objective, draw_seed
from secure_fed_diffusion.diffusion.patches import to_model_space
from secure_fed_diffusion.errors import DataError
from secure_fed_diffusion.evaluation.intervals import Interval, clopper_pearson

Scores = npt.NDArray[np.float64]

LOSS_RANGE = (0.005, 0.04)  # of the schedule's length: t = 5 … 40 of 1000
LOSS_TIMESTEPS, LOSS_DRAWS = 8, 4
SIMA_TIMESTEP = 0.04
FALSE_POSITIVE_RATES = (0.01, 0.001)
_EXPONENT = 4
_BATCH = 250


def loss_timesteps(settings: DiffusionSettings) -> tuple[int, ...]:
    """Return the timesteps of the loss threshold attack, without repetition."""
    shares = np.linspace(*LOSS_RANGE, LOSS_TIMESTEPS)
    return tuple(sorted({_trained(share, settings) for share in shares}))


def _trained(share: float, settings: DiffusionSettings) -> int:
    """Return the step at that share of the whole schedule, or the last that is trained."""
    return min(round(share * settings.timesteps), settings.trained_timesteps - 1)


def loss_scores(model: nn.Module, objective: Objective, records: ImageSet, *, patch: int) -> Scores:
    """Return minus each record's mean training loss (n,); all records meet the same noise."""
    timesteps = loss_timesteps(objective.settings)

    def score(x0: Tensor, labels: Tensor) -> Tensor:
        losses = torch.zeros(len(x0), dtype=torch.float64, device=x0.device)
        for t in timesteps:
            for draw in range(LOSS_DRAWS):
                eps = _noise(("membership", t, draw), x0.shape[1:]).to(x0.device).expand_as(x0)
                losses += objective.losses(model, x0, labels, labels.new_full((len(x0),), t), eps)
        return -losses / (len(timesteps) * LOSS_DRAWS)

    return _score(model, records, patch, score)


def sima_scores(model: nn.Module, objective: Objective, records: ImageSet, *, patch: int) -> Scores:
    """Return minus the fourth power of the L4 norm of the noise predicted at each clean image (n,)."""
    settings = objective.settings
    t = _trained(SIMA_TIMESTEP, settings)

    def score(x0: Tensor, labels: Tensor) -> Tensor:
        noise = objective.predicted_noise(model, x0, labels, labels.new_full((len(x0),), t))
        return -noise.double().abs().pow(_EXPONENT).sum(dim=(1, 2, 3))

    return _score(model, records, patch, score)


class Attack(Protocol):
    """Scores records by a model."""

    def __call__(self, model: nn.Module, objective: Objective, records: ImageSet, /, *, patch: int) -> Scores:
        """Return one score a record (n,): the higher, the likelier a member."""


ATTACKS: Mapping[str, Attack] = {"loss_threshold": loss_scores, "sima": sima_scores}


def _noise(key: tuple[int | str, ...], shape: tuple[int, ...] | torch.Size) -> Tensor:
    return torch.randn(tuple(shape), generator=torch.Generator().manual_seed(draw_seed(key)))


@torch.no_grad()
def _score(
    model: nn.Module, records: ImageSet, patch: int, score: Callable[[Tensor, Tensor], Tensor]
) -> Scores:
    device = next(model.parameters()).device
    images = to_model_space(torch.from_numpy(records.images), patch)
    labels = torch.from_numpy(records.labels)
    was_training = model.training
    model.eval()
    parts = [
        score(images[part].to(device), labels[part].to(device)).cpu()
        for part in torch.arange(len(records)).split(_BATCH)
    ]
    model.train(was_training)
    return torch.cat(parts).numpy().astype(np.float64)


def auc(members: Scores, non_members: Scores) -> float:
    """Return the chance that a member scores above a non-member, ties counted half."""
    return float(np.mean(_placements(members, non_members)[0]))


def auc_interval(members: Scores, non_members: Scores, level: float = 0.95) -> Interval:
    """Return a confidence interval of the AUC over images.

    DeLong, DeLong and Clarke-Pearson 1988, on the logit scale.  Where their variance vanishes (full
    separation), the interval is that of min(m, n) disjoint pairs, each an independent comparison.
    """
    of_members, of_non_members = _placements(members, non_members)
    value = float(np.mean(of_members))
    m, n = len(members), len(non_members)
    variance = float(np.var(of_members, ddof=1)) / m + float(np.var(of_non_members, ddof=1)) / n
    if variance <= 0.0 or not 0.0 < value < 1.0:
        pairs = min(m, n)
        return clopper_pearson(value * pairs, pairs, level)
    reach = float(norm.ppf(0.5 + level / 2)) * math.sqrt(variance) / (value * (1.0 - value))
    centre = math.log(value / (1.0 - value))
    return _logistic(centre - reach), _logistic(centre + reach)


def _logistic(x: float) -> float:
    return 0.5 * (1.0 + math.tanh(x / 2))


def _placements(members: Scores, non_members: Scores) -> tuple[Scores, Scores]:
    """Return, for each record, the share of the other side that it is rightly above (or below)."""
    m, n = len(members), len(non_members)
    if m < 2 or n < 2:
        raise DataError(f"expected at least 2 members and 2 non-members, got {m} and {n}")
    if not (np.isfinite(members).all() and np.isfinite(non_members).all()):
        raise DataError("the model's outputs are not finite: it cannot be attacked")
    ranks = rankdata(np.concatenate([members, non_members]))
    of_members = (ranks[:m] - rankdata(members)) / n
    of_non_members = 1.0 - (ranks[m:] - rankdata(non_members)) / m
    return of_members, of_non_members


def roc_curve(members: Scores, non_members: Scores) -> tuple[Scores, Scores]:
    """Return the corners of the ROC curve, (FPR, TPR) from (0, 0) to (1, 1)."""
    scores = np.concatenate([members, non_members])
    order = np.argsort(-scores, kind="stable")
    is_member = order < len(members)
    last_of_tie = np.append(np.diff(scores[order]) != 0, True)
    tpr = np.append(0.0, np.cumsum(is_member)[last_of_tie] / len(members))
    fpr = np.append(0.0, np.cumsum(~is_member)[last_of_tie] / len(non_members))
    # a point between two others of the same horizontal or vertical line adds nothing
    between = (np.diff(fpr[:-1]) == 0) & (np.diff(fpr[1:]) == 0)
    between |= (np.diff(tpr[:-1]) == 0) & (np.diff(tpr[1:]) == 0)
    kept = np.concatenate([[True], ~between, [True]])
    return fpr[kept], tpr[kept]


def tpr_at_fpr(members: Scores, non_members: Scores, fpr: float) -> dict[str, Any]:
    """Return the largest TPR at no more than floor(fpr·n) false positives, with Clopper-Pearson intervals.

    The threshold is chosen on the same non-members, so the rate that it reaches on others has an interval
    of its own (`fpr_interval`).
    """
    n = len(non_members)
    allowed = math.floor(fpr * n + 1e-9)
    threshold = np.sort(non_members)[::-1][allowed] if allowed < n else -math.inf
    hits, false_positives = int((members > threshold).sum()), int((non_members > threshold).sum())
    return {
        "fpr": fpr,
        "false_positives": false_positives,
        "fpr_interval": clopper_pearson(false_positives, n),
        "tpr": hits / len(members),
        "tpr_interval": clopper_pearson(hits, len(members)),
    }


def membership_figures(members: Scores, non_members: Scores) -> dict[str, Any]:
    """Return AUC, TPR at small FPR and ROC curve of one attack, with 95 % intervals over images."""
    fpr, tpr = roc_curve(members, non_members)
    return {
        "members": len(members),
        "non_members": len(non_members),
        "auc": auc(members, non_members),
        "auc_interval": auc_interval(members, non_members),
        "tpr_at_fpr": [tpr_at_fpr(members, non_members, rate) for rate in FALSE_POSITIVE_RATES],
        "roc": {"fpr": fpr.round(6).tolist(), "tpr": tpr.round(6).tolist()},
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class Guarantee:
    """The (epsilon, delta) that a run claims for one `unit`, in one view."""

    epsilon: float
    delta: float
    unit: str
    view: str

    def for_one_image(self) -> tuple[float, float]:
        """Return the (epsilon, delta) of adding or removing ONE image.

        A larger unit that holds the image is taken away and put back without it: group privacy over two
        steps, (2ε, (1 + e^ε)δ).
        """
        if self.unit == "example":
            return self.epsilon, self.delta
        return 2 * self.epsilon, min(1.0, (1 + math.exp(min(self.epsilon, 700.0))) * self.delta)

    def tpr_bound(self, fpr: Scores) -> Scores:
        """Return the largest TPR of any test whether one image was there, at each FPR.

        Kairouz, Oh and Viswanath 2015, theorem 2.1, both directions.  It bounds a test of one image's
        presence with all else equal; a run's ROC curve is the average of such tests over images.
        """
        epsilon, delta = self.for_one_image()
        factor = math.exp(min(epsilon, 700.0))
        return np.clip(np.minimum(factor * fpr + delta, 1 - (1 - delta - fpr) / factor), 0.0, 1.0)

    def auc_bound(self) -> float:
        """Return the area under `tpr_bound`: e^ε / (1 + e^ε) at δ = 0."""
        epsilon, delta = self.for_one_image()
        knee = (1 - delta) / (1 + math.exp(min(epsilon, 700.0)))  # FPR = 1 − TPR there
        return knee * (1 + delta - knee) / 2 + (1 - delta - knee) * (2 - knee) / 2 + delta
