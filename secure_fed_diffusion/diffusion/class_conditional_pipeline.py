"""A diffusers pipeline for a class-conditional `UNet2DModel`.

This file travels with every saved model as `pipeline.py`, so it imports torch and diffusers alone:

    pipe = DiffusionPipeline.from_pretrained(folder, custom_pipeline=folder, trust_remote_code=True)
    images = pipe(class_labels=[0, 1, 2]).images
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from diffusers import DDIMScheduler, DiffusionPipeline, ImagePipelineOutput, UNet2DModel
from torch.nn.functional import pixel_shuffle


def generate(
    unet: UNet2DModel,
    scheduler: DDIMScheduler,
    labels: torch.Tensor,
    steps: int,
    eta: float,
    patch: int,
    generator: torch.Generator | None,
) -> torch.Tensor:
    """Run the reverse process: labels (n,) -> images (n, c, h, w) in [0, 1].

    The network works on images whose squares of `patch` x `patch` pixels are folded into channels.
    """
    height, width = unet.config.sample_size
    shape = (len(labels), unet.config.in_channels, height, width)
    dtype = next(unet.parameters()).dtype
    x = torch.randn(shape, generator=generator).to(labels.device, dtype)
    scheduler.set_timesteps(steps)
    for t in scheduler.timesteps:
        prediction = unet(x, t.to(labels.device), class_labels=labels).sample
        noise = torch.randn(shape, generator=generator).to(labels.device, dtype) if eta > 0 else None
        x = scheduler.step(prediction, t, x, eta=eta, variance_noise=noise).prev_sample
    return (pixel_shuffle(x, patch) / 2 + 0.5).clamp(0, 1)


class ClassConditionalPipeline(DiffusionPipeline):
    """Draw images of given classes by stochastic DDIM."""

    def __init__(self, unet: UNet2DModel, scheduler: DDIMScheduler, patch: int = 1) -> None:
        super().__init__()
        self.register_modules(unet=unet, scheduler=scheduler)
        self.register_to_config(patch=patch)

    @torch.no_grad()
    def __call__(
        self,
        class_labels: Sequence[int],
        num_inference_steps: int = 50,
        eta: float = 1.0,
        generator: torch.Generator | None = None,
        output_type: str = "pil",
    ) -> ImagePipelineOutput:
        """Draw one image a label; `output_type` "pil" or "np"."""
        labels = torch.as_tensor(class_labels, device=self.device)
        images = generate(
            self.unet, self.scheduler, labels, num_inference_steps, eta, self.config.patch, generator
        )
        array = images.permute(0, 2, 3, 1).cpu().numpy()
        return ImagePipelineOutput(images=self.numpy_to_pil(array) if output_type == "pil" else array)
