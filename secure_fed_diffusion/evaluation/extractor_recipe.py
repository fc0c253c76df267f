"""The recipe of the shipped extractors: train a LeNet on the PUBLIC split of one data set.

    python -m secure_fed_diffusion.evaluation.extractor_recipe mnist --out lenet84_mnist.safetensors

It reads no private image.  Test images give the accuracy that it prints and choose nothing: the
number of epochs is fixed, the last one is kept.  One thread and one seed make the file the same
bytes again on the same kind of machine; another processor or release of torch may differ in the last
bits and so in the hash, which is why the files themselves are committed and pinned in `features`.

A decoder learns beside the classifier to redraw the image from the features, and is thrown away: a
network that only classifies drops what does not tell classes apart, and its FID then hardly sees
noise, blur, or a model that draws one image per class (with two classes, least of all).
Augmentation (small rotations, shifts, scalings) stands in for the images that a public split of a
few hundred lacks.
"""

from __future__ import annotations

import argparse
import hashlib
import math
import sys
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
from torch import Tensor, nn
from torch.nn.functional import affine_grid, cross_entropy, grid_sample, mse_loss

from secure_fed_diffusion.data.datasets import ImageSet, load
from secure_fed_diffusion.data.settings import DataSettings
from secure_fed_diffusion.errors import SecureFedDiffusionError
from secure_fed_diffusion.evaluation.features import EXTRACTORS, Extractor, ExtractorSpec
from secure_fed_diffusion.evaluation.seeding import seeded

SEED = 0
STEPS = 2_000
_BATCH = 128
_LEARNING_RATE = 2e-3
_WEIGHT_DECAY = 1e-2
_LABEL_SMOOTHING = 0.05
_RECONSTRUCTION_WEIGHT = 0.5
_DECODER_WIDTH = 256
_MAX_ROTATION = math.radians(10)
_MAX_SHIFT = 0.15  # of half the side
_MAX_SCALING = 0.1


def train_extractor(spec: ExtractorSpec, public: ImageSet, *, steps: int, seed: int = SEED) -> Extractor:
    """Return an extractor trained to classify `public`, in float32 and eval mode."""
    images = torch.from_numpy(public.images).float() / 255
    labels = torch.from_numpy(public.labels)
    variance = images.var(dim=0).mean()
    with seeded(seed):
        extractor = Extractor(spec).train()
        decoder = nn.Sequential(
            nn.Linear(extractor.num_features, _DECODER_WIDTH),
            nn.ReLU(),
            nn.Linear(_DECODER_WIDTH, math.prod(spec.image_shape)),
        )
        weights = [*extractor.parameters(), *decoder.parameters()]
        optimizer = torch.optim.AdamW(weights, lr=_LEARNING_RATE, weight_decay=_WEIGHT_DECAY)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        for _ in range(steps):
            batch = torch.randint(len(labels), (_BATCH,))
            jittered = _jittered(images[batch])
            features = extractor(jittered)
            classification = cross_entropy(
                extractor.head(features), labels[batch], label_smoothing=_LABEL_SMOOTHING
            )
            reconstruction = mse_loss(decoder(features), jittered.flatten(1)) / variance
            optimizer.zero_grad()
            (classification + _RECONSTRUCTION_WEIGHT * reconstruction).backward()
            optimizer.step()
            schedule.step()
    return extractor.eval().requires_grad_(False)


def _jittered(images: Tensor) -> Tensor:
    """Rotate, scale and shift each image a little."""
    n = len(images)
    angle, scale, shift_x, shift_y = (torch.rand(4, n) * 2 - 1) * torch.tensor(
        [[_MAX_ROTATION], [_MAX_SCALING], [_MAX_SHIFT], [_MAX_SHIFT]]
    )
    cosine, sine = angle.cos() * (1 + scale), angle.sin() * (1 + scale)
    rows = [torch.stack([cosine, -sine, shift_x], 1), torch.stack([sine, cosine, shift_y], 1)]
    grid = affine_grid(torch.stack(rows, 1), list(images.shape), align_corners=False)
    return grid_sample(images, grid, align_corners=False)


def weights_bytes(extractor: Extractor) -> bytes:
    """Return the weights as the content of a .safetensors file."""
    return safetensors.torch.save(extractor.state_dict())


def accuracy(extractor: Extractor, images: ImageSet) -> float:
    """Return the share of `images` that the extractor's own head classifies rightly."""
    with torch.inference_mode():
        predicted = extractor.head(extractor(torch.from_numpy(images.images).float() / 255)).argmax(1)
    return float(np.mean(predicted.numpy() == images.labels))


def main(arguments: list[str] | None = None) -> int:
    """Train, write and report one extractor; the exit status says whether that worked."""
    parser = argparse.ArgumentParser(description="Train the extractor of one data set on its public split.")
    parser.add_argument("dataset", choices=tuple(EXTRACTORS))
    parser.add_argument("--out", type=Path, required=True, help="the .safetensors file to write")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)  # sums in another order would be other bits
    try:
        dataset = load(DataSettings(name=options.dataset))
    except SecureFedDiffusionError as error:
        print(error, file=sys.stderr)
        return 1
    extractor = train_extractor(EXTRACTORS[options.dataset], dataset.public, steps=STEPS)
    weights = weights_bytes(extractor)
    options.out.write_bytes(weights)
    print(f"{extractor.name}: {extractor.num_features} features, {len(weights):,} bytes")
    print(f"accuracy on public images {accuracy(extractor, dataset.public):.4f}")
    print(f"accuracy on test images {accuracy(extractor, dataset.test):.4f}")
    print(f"SHA-256 {hashlib.sha256(weights).hexdigest()}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
