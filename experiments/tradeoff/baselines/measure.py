"""One baseline at one ε and seed, measured as a sweep's runs are: same data, δ, samples and classifier."""

from __future__ import annotations

import math
import time
from dataclasses import asdict, dataclass, field, fields
from hashlib import sha256
from typing import Any, Literal, get_args

import torch

from experiments.sweeping import settings_digest
from experiments.tradeoff.baselines import class_gaussians, class_means, dp_classifier, dp_merf
from experiments.tradeoff.baselines.release import RELATION, UNIT, VIEW, Plan
from secure_fed_diffusion.data.datasets import Dataset, ImageSet, load
from secure_fed_diffusion.errors import ConfigError
from secure_fed_diffusion.evaluation.evaluator import Evaluator
from secure_fed_diffusion.evaluation.prototypes import nearest_mean_accuracy
from secure_fed_diffusion.federation.settings import RunSettings

Method = Literal["class_means", "class_gaussians", "dp_merf", "dp_classifier"]
METHODS: tuple[Method, ...] = get_args(Method)
RECIPES = {
    "class_gaussians": class_gaussians.Recipe,
    "dp_merf": dp_merf.Recipe,
    "dp_classifier": dp_classifier.Recipe,
}  # the class means have no more than a clip

# What of a run's settings decides a simpler method's record: it has no network and no rounds.
DECISIVE = ("data", "evaluation", "federation.declared_records", "privacy.delta")


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One cell of the baselines; `settings` are those of the sweep's base configuration."""

    method: Method
    epsilon: float
    seed: int
    settings: RunSettings
    recipe: dict[str, Any] = field(default_factory=dict)

    def whole_recipe(self) -> dict[str, Any]:
        """Return the recipe with its defaults.

        Raises:
            ConfigError: it has a key that the method does not know.
        """
        if self.method not in RECIPES:
            return self.recipe
        try:
            return asdict(RECIPES[self.method](**self.recipe))
        except TypeError:
            known = ", ".join(field.name for field in fields(RECIPES[self.method]))
            raise ConfigError(
                f"expected some of {known}, got {', '.join(self.recipe)}", key=self.method
            ) from None

    @property
    def digest(self) -> str:
        """What decides its record: of the settings the data, the measures and the promise, and its recipe."""
        what = repr((settings_digest(self.settings, DECISIVE), sorted(self.whole_recipe().items())))
        return sha256(what.encode()).hexdigest()[:12]

    @property
    def cell(self) -> str:
        """Its name in the results."""
        return f"{self.method}_epsilon-{self.epsilon:g}_seed-{self.seed}"

    @property
    def name(self) -> str:
        """A name that its settings and its recipe decide, also as a file."""
        return f"{self.cell}_{self.digest}"


def measure(job: Job) -> dict[str, Any]:
    """Compute the job on one core and return its flat record, in the columns of a sweep's table."""
    torch.set_num_threads(1)
    began = time.perf_counter()
    dataset = load(job.settings.data)
    figures, plan = _run(job, dataset)
    return {
        "cell": job.cell,
        "data": dataset.name,
        "mode": job.method,
        "epsilon": None if math.isinf(job.epsilon) else job.epsilon,
        "epsilon_spent": None if math.isinf(job.epsilon) else plan.epsilon_spent,
        "delta": plan.delta,
        "unit": UNIT,
        "relation": RELATION,
        "view": VIEW.key,
        "clients": None,  # one server holds all images
        "seed": job.seed,
        "repetition": job.seed,
        **figures,
        "seconds": round(time.perf_counter() - began, 1),
    }


def _run(job: Job, dataset: Dataset) -> tuple[dict[str, float], Plan]:
    settings, n_classes = job.settings, dataset.n_classes
    cost: dict[str, Any] = {"epsilon": job.epsilon, "delta": settings.privacy.delta}
    public_size = settings.federation.declared_records
    if job.method == "dp_classifier":
        model, plan = dp_classifier.train(
            dataset.train,
            n_classes=n_classes,
            declared_records=public_size,
            seed=job.seed,
            recipe=dp_classifier.Recipe(**job.recipe),
            **cost,
        )
        return {"accuracy_classifier": dp_classifier.accuracy(model, dataset.test)}, plan
    evaluator = Evaluator(dataset, settings.evaluation)
    labels = evaluator.sample_labels()
    figures: dict[str, float] = {}
    synthetic: ImageSet
    if job.method == "class_means":
        means, plan = class_means.release_means(dataset.train, n_classes=n_classes, **job.recipe, **cost)
        figures["accuracy_nearest_mean"] = nearest_mean_accuracy(means, dataset.test)
        synthetic = class_means.moved_copies(means, labels, job.seed)
    elif job.method == "class_gaussians":
        synthetic, plan = class_gaussians.synthesize(
            dataset.train,
            labels,
            n_classes=n_classes,
            seed=job.seed,
            recipe=class_gaussians.Recipe(**job.recipe),
            **cost,
        )
    else:
        synthetic, plan = dp_merf.synthesize(
            dataset.train,
            dataset.public,
            labels,
            n_classes=n_classes,
            declared_records=public_size,
            seed=job.seed,
            recipe=dp_merf.Recipe(**job.recipe),
            **cost,
        )
    measured = evaluator.floor | evaluator.measure(synthetic, with_tstr=True)
    return figures | {key: value for key, value in measured.items() if isinstance(value, (int, float))}, plan
