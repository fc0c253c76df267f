"""How much a private gradient costs, beside a plain one and beside Opacus' hooks.

One example a second is one record through forward and backward pass; `ours` also clips each record's
gradient, rounds it to the integer grid and adds, `opacus` clips and adds in float.  No optimiser step and no
noise is in any of the three.  They run in turns in one process on one thread, in one micro-batch;
seconds are medians of `repetitions` (at least 5), and a ratio is the quotient of two rates.

Opacus' figure is its hooks mode, which is fast and WRONG on this network: its middle block hands on
channels_last tensors, `unfold2d` assumes contiguous ones, and some parameters' per-sample gradients come
out about 100 % off.  It is a yardstick of speed, nothing that could be used in our step's place.

Not measured here: GPUs, memory, several threads, a noise multiplicity above 1.

    >>> from secure_fed_diffusion.benchmarks import dpsgd
    >>> dpsgd.run()["ratios"]["quickstart"]["ours_over_plain"]    # doctest: +SKIP
    0.4
"""

from __future__ import annotations

import statistics
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from opacus import GradSampleModule
from opacus.optimizers import DPOptimizer

from secure_fed_diffusion.diffusion.objective import DiffusionSettings, Objective, draw
from secure_fed_diffusion.diffusion.patches import model_shape
from secure_fed_diffusion.diffusion.unet import ModelSettings, build_unet
from secure_fed_diffusion.dp.grid import IntegerGrid
from secure_fed_diffusion.errors import ConfigError
from secure_fed_diffusion.training.per_example import Records, micro_batches
from secure_fed_diffusion.training.vectors import dimension, integer_sum

MIN_REPETITIONS = 5
CLIP_NORM = 0.05
N_CLASSES = 10
NOTE = (
    "opacus is GradSampleModule (hooks) with DPOptimizer's clip: its per-sample gradients are wrong on this "
    "U-Net (channels_last tensors out of the middle block), so its speed is a yardstick and no alternative"
)

Action = Callable[[], object]


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A network and the batch that goes through it."""

    image_shape: tuple[int, int, int]
    model: ModelSettings = field(default_factory=ModelSettings)
    batch: int = 64


CASES: Mapping[str, Case] = {
    "quickstart": Case(image_shape=(1, 8, 8)),
    "28x28_patch_2": Case(image_shape=(1, 28, 28), model=ModelSettings(patch=2)),
}


def run(*, repetitions: int = MIN_REPETITIONS, cases: Mapping[str, Case] = CASES) -> dict[str, Any]:
    """Return {"ratios", "examples_per_second", "sizes", "repetitions", "note"}; the first two by case.

    `ours_over_plain` and `ours_over_opacus` are shares of the other's examples a second: above 1 ours is
    the faster.

    Raises:
        ConfigError: fewer than five repetitions.
    """
    if repetitions < MIN_REPETITIONS:
        raise ConfigError(f"expected repetitions >= {MIN_REPETITIONS}, got {repetitions}", key="repetitions")
    rates: dict[str, dict[str, float]] = {}
    sizes: dict[str, str] = {}
    with _one_thread():
        for name, case in cases.items():
            actions, length = _actions(case)
            seconds = _in_turns(actions, repetitions)
            rates[name] = {step: case.batch / taken for step, taken in seconds.items()}
            sizes[name] = f"{length} parameters, batch {case.batch}, images {case.image_shape}, one thread"
    return {
        "ratios": {
            name: {
                "ours_over_plain": rate["ours"] / rate["plain"],
                "ours_over_opacus": rate["ours"] / rate["opacus"],
            }
            for name, rate in rates.items()
        },
        "examples_per_second": rates,
        "sizes": sizes,
        "repetitions": repetitions,
        "note": NOTE,
    }


@contextmanager
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _in_turns(actions: Mapping[str, Action], repetitions: int) -> dict[str, float]:
    """Return each action's median seconds; the first turn pays for caches and is not counted."""
    samples: dict[str, list[float]] = {name: [] for name in actions}
    for turn in range(repetitions + 1):
        for name, action in actions.items():
            start = time.perf_counter()
            action()
            if turn:
                samples[name].append(time.perf_counter() - start)
    return {name: statistics.median(taken) for name, taken in samples.items()}


def _actions(case: Case) -> tuple[dict[str, Action], int]:
    """Return the three gradients of one and the same batch, and the number of parameters."""
    diffusion = DiffusionSettings()
    objective = Objective(diffusion)
    shape = model_shape(case.image_shape, case.model.patch)
    generator = torch.Generator().manual_seed(0)
    records = Records(
        torch.rand((case.batch, *shape), generator=generator) * 2 - 1,
        torch.randint(N_CLASSES, (case.batch,), generator=generator),
        draw(diffusion, shape, keys=[(record,) for record in range(case.batch)]),
    )
    batch = (records.images, records.labels, records.draws.timesteps, records.draws.noise)
    models = [
        build_unet(
            case.model,
            image_shape=case.image_shape,
            n_classes=N_CLASSES,
            n_timesteps=diffusion.timesteps,
        )
        for _ in range(3)
    ]
    plain_model, our_model, hooked_model = models
    length = dimension(our_model)
    grid = IntegerGrid.for_dimension(length, CLIP_NORM)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Opacus on hooks of modules whose inputs need no gradient
        hooked = GradSampleModule(hooked_model)
    optimizer = DPOptimizer(
        torch.optim.SGD(hooked.parameters(), lr=0.0),
        noise_multiplier=0.0,
        max_grad_norm=CLIP_NORM,
        expected_batch_size=case.batch,
    )

    def plain() -> None:
        plain_model.zero_grad()
        objective.loss_batch(plain_model, *batch).backward()

    def ours() -> None:
        integer_sum(micro_batches(our_model, objective, records, case.batch), grid, length)

    def opacus() -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            objective.loss_batch(hooked, *batch).backward()
        optimizer.clip_and_accumulate()
        optimizer.zero_grad()

    return {"plain": plain, "ours": ours, "opacus": opacus}, length
