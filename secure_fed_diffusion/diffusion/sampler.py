"""From noise to images: stochastic DDIM through diffusers, and the folder that loads without us.

Sampling touches the released weights alone: post-processing, free of privacy cost.

`save_pipeline` writes a folder that `diffusers.DiffusionPipeline.from_pretrained(folder,
custom_pipeline=folder, trust_remote_code=True)` loads where this package is not installed: a
class-conditional U-Net has no pipeline of its own in diffusers, so a small one travels along.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from diffusers import DDIMScheduler, UNet2DModel

from secure_fed_diffusion.diffusion import class_conditional_pipeline
from secure_fed_diffusion.diffusion.objective import scheduler_config
from secure_fed_diffusion.diffusion.settings import DiffusionSettings, SamplerSettings
from secure_fed_diffusion.errors import ConfigError, RunError


def make_scheduler(settings: DiffusionSettings) -> DDIMScheduler:
    """Build the sampling scheduler of the forward process `settings`."""
    return DDIMScheduler(**scheduler_config(settings), timestep_spacing="trailing")


@torch.no_grad()
def sample(
    unet: UNet2DModel,
    labels: npt.NDArray[np.int64],
    *,
    diffusion: DiffusionSettings,
    settings: SamplerSettings,
    patch: int,
    seed: int,
) -> npt.NDArray[np.uint8]:
    """Draw one image for each label: labels (n,), n > 0 -> (n, c, h, w) uint8.

    The same seed gives the same starting noise on every device (it is drawn on the CPU).
    """
    if settings.steps > diffusion.timesteps:
        raise ConfigError(
            f"expected sampler.steps={settings.steps} <= diffusion.timesteps={diffusion.timesteps}",
            key="sampler.steps",
        )
    was_training = unet.training
    unet.eval()
    scheduler = make_scheduler(diffusion)
    generator = torch.Generator().manual_seed(seed)
    parts = [
        class_conditional_pipeline.generate(
            unet,
            scheduler,
            torch.as_tensor(labels[start : start + settings.batch], device=unet.device),
            settings.steps,
            settings.eta,
            patch,
            generator,
        ).cpu()
        for start in range(0, len(labels), settings.batch)
    ]
    unet.train(was_training)
    return (torch.cat(parts) * 255).round().to(torch.uint8).numpy()


def save_pipeline(unet: UNet2DModel, diffusion: DiffusionSettings, patch: int, directory: Path) -> None:
    """Write `directory` so that diffusers alone can load it and sample from it."""
    directory.mkdir(parents=True, exist_ok=True)
    pipeline = class_conditional_pipeline.ClassConditionalPipeline(
        unet=unet, scheduler=make_scheduler(diffusion), patch=patch
    )
    pipeline.save_pretrained(directory)
    shutil.copyfile(class_conditional_pipeline.__file__, directory / "pipeline.py")


def load_pipeline(directory: Path) -> class_conditional_pipeline.ClassConditionalPipeline:
    """Load what `save_pipeline` wrote, quietly.

    Raises:
        RunError: there is no model, or it cannot be read.
    """
    if not (directory / "model_index.json").exists():
        raise RunError(f"there is no model in {directory}; a run writes it when it ends")
    try:
        unet = UNet2DModel.from_pretrained(directory, subfolder="unet", low_cpu_mem_usage=False)
        scheduler = DDIMScheduler.from_pretrained(directory, subfolder="scheduler")
        patch = json.loads((directory / "model_index.json").read_text(encoding="utf-8"))["patch"]
    except (OSError, ValueError, KeyError) as error:
        raise RunError(f"the model in {directory} cannot be read: {error}") from error
    pipeline = class_conditional_pipeline.ClassConditionalPipeline(unet, scheduler, patch)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline
