"""What known attacks find in a released model, beside the ε that bounds every attack.

This module reads PRIVATE images and adds no noise, so its figures are outside ε and charged to nobody: for
the owner of all the data, or for research data sets.  It is off by default (`evaluation.attacks`), and its
figures go to a file of their own, `attacks.json`, never to `metrics.jsonl`.

Held-out images are those of the PUBLIC split, which shares the private split's source (the test splits of
MNIST and of the X-rays come from other people); in the features of the extractor those of the TEST split,
because the extractor was trained on the public one: its own training images lie apart, and make a model that
memorised nothing look as if it had (share 0.65 on the digits at ε = 9.7, and 0.67 with test images standing
in for the training images).  Each attack has a control that should find nothing, so that a difference between
two splits cannot pass for a leak: membership on the initial weights, memorisation with real images in the
place of samples.

Not protected against: a difference between the splits that a network meets only once it is trained; it can
hide a leak.  The public images of MNIST, the last 5,000 of its training file, are a little easier than the
others: scores that were fitted to neither side (principal components of each class, the nearest neighbour)
tell private from public with an AUC of .48 (.47 to .49), so a loss's may be shown too low by up to .02.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from secure_fed_diffusion.data.datasets import Dataset, ImageSet
from secure_fed_diffusion.diffusion.objective import Objective
from secure_fed_diffusion.evaluation.features import Extractor, embed
from secure_fed_diffusion.evaluation.membership import (
    ATTACKS,
    Attack,
    Guarantee,
    Scores,
    auc,
    auc_interval,
    membership_figures,
)
from secure_fed_diffusion.evaluation.memorization import Vectors, memorization
from secure_fed_diffusion.evaluation.own_extractor import extractor_for
from secure_fed_diffusion.training.vectors import flatten, load_flat

WARNING = (
    "Computed from private data, not covered by ε: for the owner of the data, or research data sets, only."
)
MOST_IMAGES = 1000  # of each side; a thousandth of the non-members is then one image
_CHOICE_SEED = 0  # public: which images enter, where there are more


class Attacks:
    """Built once per run, before training; `model` is a scratch copy that still holds the initial weights.

    `members` are the images of all clients that take part: PRIVATE.
    """

    def __init__(
        self,
        dataset: Dataset,
        members: ImageSet,
        model: nn.Module,
        objective: Objective,
        *,
        patch: int,
        device: torch.device | str = "cpu",
    ) -> None:
        self._members = _choose(members)
        self._public = _choose(dataset.public)
        self._test = _choose(dataset.test)
        self._model = model
        self._objective = objective
        self._patch = patch
        self._initial = flatten(model)
        self._extractor = extractor_for(dataset, device=device)

    def measure(self, weights: Tensor, samples: ImageSet, guarantee: Guarantee | None) -> dict[str, Any]:
        """Return what `attacks.json` holds, for the released `weights` and images drawn from them.

        `guarantee` is what the run claims in its guard view, None where it claims nothing.
        """
        return {
            "warning": WARNING,
            "covered_by_epsilon": False,
            "bound": None if guarantee is None else _bound(guarantee),
            "membership": self._membership(weights, guarantee),
            "memorization": self._memorization(samples),
        }

    def _membership(self, weights: Tensor, guarantee: Guarantee | None) -> dict[str, Any]:
        figures: dict[str, Any] = {}
        for name, attack in ATTACKS.items():
            members, held_out = self._scores(attack, weights)
            figures[name] = membership_figures(members, held_out)
            members, held_out = self._scores(attack, self._initial)
            figures[name]["control_auc"] = auc(members, held_out)
            figures[name]["control_interval"] = auc_interval(members, held_out)
            if guarantee is not None:
                for point in figures[name]["tpr_at_fpr"]:
                    point["bound"] = float(guarantee.tpr_bound(np.array([point["fpr"]]))[0])
        return figures

    def _scores(self, attack: Attack, weights: Tensor) -> tuple[Scores, Scores]:
        load_flat(self._model, weights)
        members, held_out = (
            attack(self._model, self._objective, side, patch=self._patch)
            for side in (self._members, self._public)
        )
        return members, held_out

    def _memorization(self, samples: ImageSet) -> dict[str, Any]:
        spaces = (
            ("pixels", None, "public", self._public, "test", self._test),
            (self._extractor.name, self._extractor, "test", self._test, "public", self._public),
        )
        figures = {}
        for space, extractor, held_out_name, held_out, real_name, real in spaces:
            n = min(len(self._members), len(held_out))
            sides = (self._members.subset(slice(n)), held_out.subset(slice(n)), samples, real)
            train, others, drawn, control = (_vectors(images, extractor) for images in sides)
            of_real = memorization(control, train, others)
            figures[space] = memorization(drawn, train, others) | {
                "held_out": held_out_name,
                "control": f"real images of the {real_name} split in the place of samples",
                "control_share": of_real["share_closer_to_train"],
                "control_interval": of_real["share_interval"],
            }
        return figures


def _choose(images: ImageSet) -> ImageSet:
    """Return at most `MOST_IMAGES`, in an order that is public and does not depend on their content."""
    order = np.random.default_rng(_CHOICE_SEED).permutation(len(images))
    return images.subset(order[:MOST_IMAGES])


def _vectors(images: ImageSet, extractor: Extractor | None) -> Vectors:
    """Return features, or pixels in [0, 1], as rows of float64."""
    if extractor is not None:
        return embed(extractor, images.images)
    return images.images.reshape(len(images), -1) / 255.0


def _bound(guarantee: Guarantee) -> dict[str, Any]:
    epsilon, delta = guarantee.for_one_image()
    return {
        "view": guarantee.view,
        "unit": guarantee.unit,
        "epsilon": guarantee.epsilon,
        "delta": guarantee.delta,
        "epsilon_of_one_image": epsilon,
        "delta_of_one_image": delta,
        "auc": guarantee.auc_bound(),
    }
