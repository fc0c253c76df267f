"""A diffusers pipeline for a class-conditional `UNet2DModel`.

This file travels with every saved model as `pipeline.py`, so it imports torch and diffusers alone:

    pipe = DiffusionPipeline.from_pretrained(folder, custom_pipeline=folder, trust_remote_code=True)
    images = pipe(class_labels=[0, 1, 2]).images

The scheduler that lies beside the network says how to step: DDIM, DPM-Solver++ or, for Karras et al. 2022,
EDM's schedule, which `generate` walks by their algorithm 2.  Their churn is not left to diffusers' own Euler
scheduler: that one moves the image to a higher noise level AFTER the network has seen it, so the fresh noise
is never denoised at that step, and what comes out is too noisy.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

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
from torch.nn.functional import pixel_shuffle

Network = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


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
    generator: torch.Generator | None = None,
) -> torch.Tensor:
    """Run the reverse process: labels (n,) -> images (n, c, h, w) in [0, 1].

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
    x = noise() * float(scheduler.init_noise_sigma)
    if isinstance(scheduler, EDMEulerScheduler):
        x = _edm(scheduler, output, noise, x, order, churn, churn_min, churn_max, churn_noise)
    else:
        for t in scheduler.timesteps:
            prediction = output(scheduler.scale_model_input(x, t), t.to(device))
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
    ) -> None:
        super().__init__()
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
        )

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
                generator=generator,
            ).cpu()
            for part in labels.split(config.batch)
        ]
        array = torch.cat(parts).permute(0, 2, 3, 1).numpy()
        return ImagePipelineOutput(images=self.numpy_to_pil(array) if output_type == "pil" else array)
