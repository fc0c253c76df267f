"""From noise to images: DDIM, DPM-Solver++ and EDM through diffusers, and the folder that loads without us.

Sampling touches the released weights alone: post-processing, free of privacy cost.

`save_pipeline` writes a folder that `diffusers.DiffusionPipeline.from_pretrained(folder,
custom_pipeline=folder, trust_remote_code=True)` loads where this package is not installed, and that then
draws as the run did: a class-conditional U-Net has no pipeline of its own in diffusers, so a small one
travels along.

Every sampler keeps what it takes for the clean image in [-1, 1], where all images lie: the scheduler's
`clip_sample` or, with the bound 1, its `thresholding`.  Not covered: samplers with learned variances.

>>> type(make_scheduler(DiffusionSettings(prediction="edm"), SamplerSettings(kind="dpm++"))).__name__
'EDMDPMSolverMultistepScheduler'
"""

from __future__ import annotations

import inspect
import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EDMDPMSolverMultistepScheduler,
    EDMEulerScheduler,
    UNet2DModel,
)
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from safetensors import SafetensorError

from secure_fed_diffusion.diffusion import class_conditional_pipeline
from secure_fed_diffusion.diffusion.class_conditional_pipeline import (
    START,
    ClassConditionalPipeline,
    ClassGaussians,
)
from secure_fed_diffusion.diffusion.objective import scheduler_config
from secure_fed_diffusion.diffusion.settings import (
    PREDICTIONS,
    DiffusionSettings,
    SamplerSettings,
    require_sampler,
)
from secure_fed_diffusion.errors import ConfigError, RunError

SCHEDULERS: tuple[type[SchedulerMixin], ...] = (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EDMDPMSolverMultistepScheduler,
    EDMEulerScheduler,
)
LAMBDA_MIN = -5.1
"""DPM-Solver's first half log-SNR: a cosine schedule ends so near to pure noise that its steps overflow."""
_CLIPPED = {"thresholding": True, "sample_max_value": 1.0}


def usual_sampler(settings: DiffusionSettings) -> SamplerSettings:
    """Return the sampler of a process where none was chosen: a run's, in no more steps than it has."""
    steps = SamplerSettings().steps
    return SamplerSettings(steps=steps if settings.prediction == "edm" else min(steps, settings.timesteps))


def make_scheduler(settings: DiffusionSettings, sampler: SamplerSettings | None = None) -> SchedulerMixin:
    """Build diffusers' scheduler for the forward process `settings`; see `usual_sampler`.

    Raises:
        ConfigError: this sampler cannot draw from that process.
    """
    sampler = usual_sampler(settings) if sampler is None else sampler
    require_sampler(settings, sampler)
    solver = {
        "solver_order": sampler.order,
        "algorithm_type": "sde-dpmsolver++" if sampler.sde else "dpmsolver++",
    }
    if settings.prediction == "edm":
        levels = {
            "sigma_min": sampler.sigma_min,
            "sigma_max": sampler.sigma_max,
            "sigma_data": settings.sigma_data,
            "prediction_type": PREDICTIONS["edm"],
            "num_train_timesteps": settings.timesteps,
        }
        if sampler.kind == "edm":
            return EDMEulerScheduler(**levels)
        return EDMDPMSolverMultistepScheduler(**levels, **solver, **_CLIPPED)
    shared = scheduler_config(settings)
    if sampler.kind == "ddim":
        return DDIMScheduler(**shared, timestep_spacing="trailing")
    del shared["clip_sample"]
    return DPMSolverMultistepScheduler(
        **shared, **solver, **_CLIPPED, timestep_spacing="trailing", lambda_min_clipped=LAMBDA_MIN
    )


@torch.inference_mode()
def sample(
    unet: UNet2DModel,
    labels: npt.NDArray[np.int64],
    *,
    diffusion: DiffusionSettings,
    settings: SamplerSettings,
    patch: int,
    seed: int,
    start: ClassGaussians | None = None,
) -> npt.NDArray[np.uint8]:
    """Draw one image for each label: labels (n,), n > 0 -> (n, c, h, w) uint8.

    The same seed gives the same starting noise on every device (it is drawn on the CPU).  A truncated process
    needs the Gaussians that it starts from; of a whole one `start` is not read.

    Raises:
        ConfigError: these settings cannot draw from that process.
    """
    scheduler = make_scheduler(diffusion, settings)
    was_training = unet.training
    unet.eval()
    generator = torch.Generator().manual_seed(seed)
    form = form_of(settings) | {"steps": settings.steps, "patch": patch}
    if diffusion.truncation < 1:
        form |= {"start": _required(start), "trained": diffusion.trained_timesteps}
    if diffusion.label_dropout:
        form["null_class"] = unet.config.num_class_embeds - 1
    parts = [
        class_conditional_pipeline.generate(
            unet, scheduler, part.to(unet.device), generator=generator, **form
        ).cpu()
        for part in torch.as_tensor(labels).split(settings.batch)
    ]
    unet.train(was_training)
    return (torch.cat(parts) * 255).round().to(torch.uint8).numpy()


def form_of(settings: SamplerSettings) -> dict[str, Any]:
    """Return what `generate` and the pipeline must know beside the scheduler."""
    names = ("guidance", "eta", "order", "churn", "churn_min", "churn_max", "churn_noise")
    return {name: getattr(settings, name) for name in names}


def save_pipeline(
    unet: UNet2DModel,
    diffusion: DiffusionSettings,
    patch: int,
    directory: Path,
    *,
    sampler: SamplerSettings | None = None,
    start: ClassGaussians | None = None,
) -> None:
    """Write `directory` so that diffusers alone can load it and sample from it as `sampler` says.

    Raises:
        ConfigError: a truncated process without `start`, the Gaussians that it starts from.
    """
    sampler = usual_sampler(diffusion) if sampler is None else sampler
    directory.mkdir(parents=True, exist_ok=True)
    form = form_of(sampler)
    if form["churn_max"] == math.inf:
        form["churn_max"] = None  # JSON has no infinity
    pipeline = ClassConditionalPipeline(
        unet=unet,
        scheduler=make_scheduler(diffusion, sampler),
        patch=patch,
        n_classes=unet.config.num_class_embeds - (diffusion.label_dropout > 0),
        steps=sampler.steps,
        batch=sampler.batch,
        trained=diffusion.trained_timesteps if diffusion.truncation < 1 else None,
        **form,
    )
    if diffusion.truncation < 1:
        pipeline.start = _required(start)
    pipeline.save_pretrained(directory)
    shutil.copyfile(class_conditional_pipeline.__file__, directory / "pipeline.py")


def load_pipeline(directory: Path) -> ClassConditionalPipeline:
    """Load what `save_pipeline` wrote, quietly.

    Raises:
        RunError: there is no model, or it cannot be read.
    """
    if not (directory / "model_index.json").exists():
        raise RunError(f"there is no model in {directory}; a run writes it when it ends")
    try:
        index = json.loads((directory / "model_index.json").read_text(encoding="utf-8"))
        kind = {each.__name__: each for each in SCHEDULERS}[index["scheduler"][1]]
        unet = UNet2DModel.from_pretrained(directory, subfolder="unet", low_cpu_mem_usage=False)
        scheduler = kind.from_pretrained(directory, subfolder="scheduler")
        form = {name: value for name, value in index.items() if name in _PIPELINE_FIELDS}
        pipeline = ClassConditionalPipeline(unet, scheduler, **(form | {"patch": index["patch"]}))
        if pipeline.config.trained is not None:
            pipeline.start = ClassGaussians.load(directory / START)
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise RunError(f"the model in {directory} cannot be read: {error}") from error
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def _required(start: ClassGaussians | None) -> ClassGaussians:
    if start is None:
        raise ConfigError("expected class Gaussians to start from, got none", key="diffusion.truncation")
    return start


_PIPELINE_FIELDS = frozenset(inspect.signature(ClassConditionalPipeline).parameters) - {"unet", "scheduler"}
