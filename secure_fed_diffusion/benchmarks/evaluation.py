"""What one evaluation costs, part by part: sampling, each metric, and a classifier trained on the samples.

The images are noise of MNIST's size and numbers, and the network is untrained: no part takes another
time for real ones.  Sampling is by the sampler that a run has by default; `experiments/recipe_ablation` has
it beside 50 steps of DDIM.  `real_images` is what the test images take once a run, the floor included.  The
sum of the other parts is what one evaluation takes; `share_of_six_minutes` compares it with the goal for
10,000 samples on two cores.  Seconds are of the clock, so of a machine that does nothing else.

`ratios.training_step_over_plain` says how many times faster a step of TSTR's CNN is than the same with
`nn.Dropout` and an unfused Adam: in turns in one process, the median over the turns of the quotient of the
processor's time within a turn.

Not measured here: GPUs, Inception features.

    >>> from secure_fed_diffusion.benchmarks import evaluation
    >>> evaluation.run()["ratios"]["share_of_six_minutes"] < 1    # doctest: +SKIP
    True
"""

from __future__ import annotations

import resource
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from secure_fed_diffusion.data.datasets import Dataset, ImageSet
from secure_fed_diffusion.diffusion.sampler import sample
from secure_fed_diffusion.diffusion.settings import DiffusionSettings, ModelSettings, SamplerSettings
from secure_fed_diffusion.diffusion.unet import build_unet
from secure_fed_diffusion.errors import ConfigError
from secure_fed_diffusion.evaluation.classifiers import FairDropout, dpdm_cnn
from secure_fed_diffusion.evaluation.evaluator import Evaluator
from secure_fed_diffusion.evaluation.settings import EvaluationSettings
from secure_fed_diffusion.evaluation.threads import torch_threads, usable_threads

MIN_REPETITIONS = 5
GOAL_SECONDS = 360
N_CLASSES = 10
_STEP_BATCH = 128
_STEPS_A_TURN = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """How much is evaluated; the numbers of real images are MNIST's."""

    dataset: str = "mnist"  # whose extractor looks
    image_shape: tuple[int, int, int] = (1, 28, 28)
    n_public: int = 5_000
    n_test: int = 10_000
    model: ModelSettings = field(default_factory=lambda: ModelSettings(channels=(16, 32), patch=2))
    sampler: SamplerSettings = field(default_factory=SamplerSettings)
    evaluation: EvaluationSettings = field(
        default_factory=lambda: EvaluationSettings(samples=10_000, classifiers=("cnn", "mlp", "logreg"))
    )


def run(
    *, repetitions: int = MIN_REPETITIONS, case: Case | None = None, threads: int | None = None
) -> dict[str, Any]:
    """Return {"ratios", "seconds", "memory_bytes", "sizes", "repetitions"}; `threads`: by default all cores.

    The goal counts TSTR with the CNN alone, as a run has it by default; the other classifiers are in
    `seconds` beside it.

    Raises:
        ConfigError: fewer than five repetitions of the training step.
    """
    if repetitions < MIN_REPETITIONS:
        raise ConfigError(f"expected repetitions >= {MIN_REPETITIONS}, got {repetitions}", key="repetitions")
    case, threads = case or Case(), threads or usable_threads()
    rng = np.random.default_rng(0)
    dataset = Dataset(
        case.dataset,
        tuple(map(str, range(N_CLASSES))),
        _noise(rng, case, 0),
        _noise(rng, case, case.n_public),
        _noise(rng, case, case.n_test),
    )
    diffusion = DiffusionSettings()
    model = build_unet(
        case.model,
        image_shape=case.image_shape,
        n_classes=N_CLASSES,
        n_timesteps=diffusion.timesteps,
    )
    seconds: dict[str, float] = {}
    with torch_threads(threads):
        evaluator = Evaluator(dataset, case.evaluation)
        before = _peak_bytes()
        seconds["real_images"] = _seconds(lambda: evaluator.floor)
        labels = evaluator.sample_labels()
        drawn: list[ImageSet] = []
        seconds["sampling"] = _seconds(
            lambda: drawn.append(
                ImageSet(
                    sample(
                        model,
                        labels,
                        diffusion=diffusion,
                        settings=case.sampler,
                        patch=case.model.patch,
                        seed=0,
                    ),
                    labels,
                )
            )
        )
        evaluator.measure(drawn[0], with_tstr=True)
        memory = _peak_bytes() - before
        ratio = _step_ratio(case.image_shape, repetitions)
    seconds |= evaluator.seconds
    extra = ("real_images", "tstr_mlp", "tstr_logreg")
    total = sum(value for part, value in seconds.items() if part not in extra)
    return {
        "ratios": {"share_of_six_minutes": total / GOAL_SECONDS, "training_step_over_plain": ratio},
        "seconds": {**seconds, "one_evaluation": total},
        "memory_bytes": memory,
        "sizes": (
            f"{len(labels)} samples of {case.image_shape}, "
            f"{case.sampler.steps} steps of {case.sampler.kind}, "
            f"{case.n_test} test and {case.n_public} public images, {case.evaluation.tstr_epochs} epochs, "
            f"{sum(p.numel() for p in model.parameters())} parameters, threads: {threads}"
        ),
        "repetitions": repetitions,
    }


def _noise(rng: np.random.Generator, case: Case, n: int) -> ImageSet:
    images = rng.integers(0, 256, (n, *case.image_shape), dtype=np.uint8)
    return ImageSet(images, np.arange(n) % N_CLASSES)


def _seconds(action: Callable[[], object]) -> float:
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def _peak_bytes() -> int:
    """Return the most memory that this process ever held."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _step_ratio(image_shape: tuple[int, int, int], repetitions: int) -> float:
    ours, plain = _training(image_shape, plain=False), _training(image_shape, plain=True)
    quotients = []
    for turn in range(repetitions + 1):
        taken = []
        for action in (plain, ours):
            start = time.process_time()
            action()
            taken.append(time.process_time() - start)
        if turn:  # the first turn pays for caches
            quotients.append(taken[0] / taken[1])
    return statistics.median(quotients)


def _training(image_shape: tuple[int, int, int], *, plain: bool) -> Callable[[], None]:
    """Return some training steps of TSTR's CNN, ours or as a textbook has them."""
    generator = torch.Generator().manual_seed(0)
    images = torch.rand((_STEP_BATCH, *image_shape), generator=generator) * 2 - 1
    images = images.contiguous(memory_format=torch.channels_last)
    labels = torch.randint(N_CLASSES, (_STEP_BATCH,), generator=generator)
    with torch.random.fork_rng(devices=[]):
        model = dpdm_cnn(image_shape, N_CLASSES)
    if plain:
        _with_plain_dropout(model)
    model = model.to(memory_format=torch.channels_last)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-4, fused=not plain)

    def train() -> None:
        with torch.random.fork_rng(devices=[]):
            for _ in range(_STEPS_A_TURN):
                optimizer.zero_grad()
                cross_entropy(model(images), labels).backward()
                optimizer.step()

    return train


def _with_plain_dropout(module: nn.Module) -> None:
    for name, child in module.named_children():
        if isinstance(child, FairDropout):
            setattr(module, name, nn.Dropout(0.5))
        else:
            _with_plain_dropout(child)
