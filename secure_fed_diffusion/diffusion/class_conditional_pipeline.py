"""A diffusers pipeline for a class-conditional `UNet2DModel`.

This file travels with every saved model as `pipeline.py`, importing torch, safetensors and diffusers alone:

    pipe = DiffusionPipeline.from_pretrained(folder, custom_pipeline=folder, trust_remote_code=True)
    images = pipe(class_labels=[0, 1, 2]).images

The scheduler that lies beside the network says how to step: DDIM, DPM-Solver++ or, for Karras et al. 2022,
EDM's schedule, which `generate` walks by their algorithm 2.  Their churn is not left to diffusers' own Euler
scheduler: that one moves the image to a higher noise level AFTER the network has seen it, so the fresh noise
is never denoised at that step, and what comes out is too noisy.

A truncated process (Zheng et al. 2023, "Truncated diffusion probabilistic models") is not walked from pure
noise: it starts at the first of the scheduler's steps that was trained, from images of a simpler model with
that step's noise added.  The simpler model is one Gaussian a class, `ClassGaussians`, which lies beside the
network as `start.safetensors`: load such a folder from the disk; a hub would not fetch that file.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    DDIMScheduler,
    DiffusionPipeline,
    EDMDPMSolverMultistepScheduler,
    EDMEulerScheduler,
    ImagePipelineOutput,
    UNet2DModel,
)
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from safetensors.torch import load_file, save_file
from torch.nn.functional import pixel_shuffle, pixel_unshuffle

Network = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
START = "start.safetensors"


@dataclass(frozen=True, slots=True)
class ClassGaussians:
    """One Gaussian a class: `means` (classes, c, h, w) of pixels in [0, 1], `factors` (classes, r, c h w).

    The covariance of a class is FᵀF; r = 0: the mean itself.
    """

    means: torch.Tensor
    factors: torch.Tensor

    def draw(self, labels: torch.Tensor, generator: torch.Generator | None = None) -> torch.Tensor:
        """Draw an image for each of `labels` (n,), on the CPU: (n, c, h, w), cut off at 0 and 1."""
        chosen = self.means[labels]
        rank, pixels = self.factors.shape[1:]
        if not rank:
            return chosen
        coefficients = torch.randn((len(labels), rank), generator=generator)
        away = torch.empty((len(labels), pixels))
        for label in labels.unique().tolist():  # class by class: a factor for each image would be large
            own = labels == label
            away[own] = coefficients[own] @ self.factors[label]
        return (chosen + away.view_as(chosen)).clamp(0.0, 1.0)

    def save(self, path: Path) -> None:
        """Write both to `path`."""
        save_file({"means": self.means.contiguous(), "factors": self.factors.contiguous()}, path)

    @classmethod
    def load(cls, path: Path) -> ClassGaussians:
        """Read what `save` wrote."""
        return cls(**load_file(path))


def generate(
    unet: UNet2DModel,
    scheduler: SchedulerMixin,
    labels: torch.Tensor,
    *,
    steps: int,
    patch: int = 1,
    guidance: float = 0.0,
    null_class: int | None = None,
    eta: float = 1.0,
    order: int = 2,
    churn: float = 0.0,
    churn_min: float = 0.0,
    churn_max: float = math.inf,
    churn_noise: float = 1.0,
    start: ClassGaussians | None = None,
    trained: int | None = None,
    generator: torch.Generator | None = None,
) -> torch.Tensor:
    """Run the reverse process: labels (n,) -> images (n, c, h, w) in [0, 1].

    With `start`, the scheduler's steps from the first below `trained` on alone, from images of its Gaussians.

    The network works on images whose squares of `patch` x `patch` pixels are folded into channels.
    All noise is drawn on the CPU: a generator gives the same on every device.
    """
    height, width = unet.config.sample_size
    parameter = next(unet.parameters())
    shape, device, dtype = (
        (len(labels), unet.config.in_channels, height, width),
        labels.device,
        parameter.dtype,
    )
    hidden = torch.full_like(labels, -1 if null_class is None else null_class)

    def output(x: torch.Tensor, level: torch.Tensor) -> torch.Tensor:
        if not guidance:
            return unet(x, level, class_labels=labels).sample
        both = unet(x.repeat(2, 1, 1, 1), level, class_labels=torch.cat([labels, hidden])).sample
        told, untold = both.chunk(2)
        return told + guidance * (told - untold)

    def noise() -> torch.Tensor:
        return torch.randn(shape, generator=generator).to(device, dtype)

    scheduler.set_timesteps(steps)
    if start is None:
        x = noise() * float(scheduler.init_noise_sigma)
        timesteps = scheduler.timesteps
    else:
        images = pixel_unshuffle(start.draw(labels.cpu(), generator) * 2 - 1, patch).to(device, dtype)
        timesteps = scheduler.timesteps[scheduler.timesteps < trained]
        if not len(timesteps):
            raise ValueError(f"expected more steps: of {steps}, none is below {trained}, the first untrained")
        x = scheduler.add_noise(images, noise(), timesteps[:1])
    if isinstance(scheduler, EDMEulerScheduler):
        x = _edm(scheduler, output, noise, x, order, churn, churn_min, churn_max, churn_noise)
    else:
        for t in timesteps:
            # DPM-Solver++ may call its last step -1, at the noise of 0; EDM's levels are logarithms
            level = t if t.is_floating_point() else t.clamp(min=0)
            prediction = output(scheduler.scale_model_input(x, t), level.to(device))
            if isinstance(scheduler, DDIMScheduler):
                form = {"eta": eta, "variance_noise": noise() if eta > 0 else None}
            elif isinstance(scheduler, EDMDPMSolverMultistepScheduler):
                form = {"generator": generator}  # it draws on the generator's device, the CPU
            else:
                is_sde = scheduler.config.algorithm_type.startswith("sde")
                form = {"variance_noise": noise() if is_sde else None}
            x = scheduler.step(prediction, t, x, **form).prev_sample
    return (pixel_shuffle(x, patch) / 2 + 0.5).clamp(0, 1)


def _edm(
    scheduler: EDMEulerScheduler,
    output: Network,
    noise: Callable[[], torch.Tensor],
    x: torch.Tensor,
    order: int,
    churn: float,
    churn_min: float,
    churn_max: float,
    churn_noise: float,
) -> torch.Tensor:
    """Walk down the noise levels: Karras et al. 2022, algorithm 2; `order` 1 leaves lines 9 to 11 out."""

    def slope(x: torch.Tensor, sigma: float) -> torch.Tensor:
        level = torch.tensor(math.log(sigma) / 4, device=x.device)
        answer = output(scheduler.precondition_inputs(x, sigma), level)
        # A mean of images lies in [-1, 1]: what does not, is the network's error.
        return (x - scheduler.precondition_outputs(x, answer, sigma).clamp(-1, 1)) / sigma

    sigmas = scheduler.sigmas.tolist()
    for now, then in itertools.pairwise(sigmas):
        gamma = min(churn / (len(sigmas) - 1), math.sqrt(2) - 1) if churn_min <= now <= churn_max else 0.0
        raised = now * (1 + gamma)
        if gamma > 0:
            x = x + math.sqrt(raised**2 - now**2) * churn_noise * noise()
        first = slope(x, raised)
        following = x + (then - raised) * first
        if order > 1 and then > 0:
            following = x + (then - raised) * (first + slope(following, then)) / 2
        x = following
    return x


class ClassConditionalPipeline(DiffusionPipeline):
    """Draw images of given classes; what is not said in a call is as the run that saved the model drew.

    `n_classes` counts the real classes: a network with one embedding more was also trained without labels.
    """

    def __init__(
        self,
        unet: UNet2DModel,
        scheduler: SchedulerMixin,
        patch: int = 1,
        n_classes: int | None = None,
        steps: int = 50,
        batch: int = 250,
        guidance: float = 0.0,
        eta: float = 1.0,
        order: int = 2,
        churn: float = 0.0,
        churn_min: float = 0.0,
        churn_max: float | None = None,
        churn_noise: float = 1.0,
        trained: int | None = None,
    ) -> None:
        super().__init__()
        self._start: ClassGaussians | None = None
        self.register_modules(unet=unet, scheduler=scheduler)
        self.register_to_config(
            patch=patch,
            n_classes=unet.config.num_class_embeds if n_classes is None else n_classes,
            steps=steps,
            batch=batch,
            guidance=guidance,
            eta=eta,
            order=order,
            churn=churn,
            churn_min=churn_min,
            churn_max=churn_max,
            churn_noise=churn_noise,
            trained=trained,
        )

    @property
    def start(self) -> ClassGaussians | None:
        """What sampling starts from, read from the folder when first asked for; None: pure noise."""
        if self._start is None and self.config.trained is not None:
            self._start = ClassGaussians.load(Path(self.config._name_or_path) / START)
        return self._start

    @start.setter
    def start(self, start: ClassGaussians | None) -> None:
        self._start = start

    def save_pretrained(self, save_directory: str | Path, *args: Any, **kwargs: Any) -> None:
        """Write the folder, and what sampling starts from."""
        if self.start is not None:
            Path(save_directory).mkdir(parents=True, exist_ok=True)
            self.start.save(Path(save_directory) / START)
        super().save_pretrained(save_directory, *args, **kwargs)

    @torch.inference_mode()
    def __call__(
        self,
        class_labels: Sequence[int],
        num_inference_steps: int | None = None,
        eta: float | None = None,
        guidance: float | None = None,
        generator: torch.Generator | None = None,
        output_type: str = "pil",
    ) -> ImagePipelineOutput:
        """Draw one image a label; `output_type` "pil" or "np"."""
        config = self.config
        steps = config.steps if num_inference_steps is None else num_inference_steps
        guidance = config.guidance if guidance is None else guidance
        if guidance and self.unet.config.num_class_embeds == config.n_classes:
            raise ValueError(
                f"expected guidance=0: this model was never trained without labels, got {guidance}"
            )
        labels = torch.as_tensor(class_labels, device=self.device)
        parts = [
            generate(
                self.unet,
                self.scheduler,
                part,
                steps=steps,
                patch=config.patch,
                guidance=guidance,
                null_class=config.n_classes,
                eta=config.eta if eta is None else eta,
                order=config.order,
                churn=config.churn,
                churn_min=config.churn_min,
                churn_max=math.inf if config.churn_max is None else config.churn_max,
                churn_noise=config.churn_noise,
                start=self.start,
                trained=config.trained,
                generator=generator,
            ).cpu()
            for part in labels.split(config.batch)
        ]
        array = torch.cat(parts).permute(0, 2, 3, 1).numpy()
        return ImagePipelineOutput(images=self.numpy_to_pil(array) if output_type == "pil" else array)
