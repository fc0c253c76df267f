"""Small domain extractors, shipped with the package: images in, feature vectors out.

Inception looks for dogs and cars at 299×299; on digits or X-rays of 28×28 its distances mean little
and cost much.  Each data set has a LeNet of its own instead (LeCun et al. 1998, section II-B), trained
by `extractor_recipe` on the PUBLIC split, which no client holds; the features are the outputs of its
layer F6, before any squashing and standardised, so that none is dead and all weigh alike.  A figure
is comparable only with figures of the same extractor, so its name is part of every metric's name
(`fid_lenet84_mnist`).  The weights' SHA-256 is pinned below: altered weights are refused, since they
would silently move every figure.

Features are computed in float64, for the covariances that follow.

>>> extractor = load_extractor("digits")
>>> extractor.name, extractor.num_features
('lenet32_digits', 32)
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from importlib.resources import files

import numpy as np
import numpy.typing as npt
import safetensors.torch
import torch
from torch import Tensor, nn

from secure_fed_diffusion.data.settings import require_one_of
from secure_fed_diffusion.errors import DataError


@dataclass(frozen=True, slots=True, kw_only=True)
class ExtractorSpec:
    """One shipped extractor; `sha256` is of its weights' file."""

    name: str
    image_shape: tuple[int, int, int]
    n_classes: int
    sha256: str


EXTRACTORS: dict[str, ExtractorSpec] = {
    "digits": ExtractorSpec(
        name="lenet32_digits",
        image_shape=(1, 8, 8),
        n_classes=10,
        sha256="130ec1b819039458e99457fc2211bc5b63d1defc2d9092f407906987e42e1eb4",
    ),
    "mnist": ExtractorSpec(
        name="lenet84_mnist",
        image_shape=(1, 28, 28),
        n_classes=10,
        sha256="e5ea534f5b606b134ba547355ea97116fac0d658a516f832805ccab7d730fd94",
    ),
    "fashion_mnist": ExtractorSpec(
        name="lenet84_fashion_mnist",
        image_shape=(1, 28, 28),
        n_classes=10,
        sha256="9b75ce2b6d52b1eea4254f7bf6b34aa9cd4db2d713e742617eb7bd3fb7019cd0",
    ),
    "pneumonia": ExtractorSpec(
        name="lenet84_pneumonia",
        image_shape=(1, 28, 28),
        n_classes=2,
        sha256="4583768f0b713d79d27c9f503d73979ff9b8ac3ef5e22ff3af3970e65018526a",
    ),
}


class Extractor(nn.Module):
    """A LeNet without its last layer: images in [0, 1] (n, c, h, w) to features (n, num_features)."""

    name: str
    image_shape: tuple[int, int, int]
    num_features: int

    def __init__(self, spec: ExtractorSpec) -> None:
        super().__init__()
        channels, height, width = spec.image_shape
        self.name = spec.name
        self.image_shape = spec.image_shape
        if height >= 28:
            convolutions = _convolutions(channels, 6, 16, kernel_size=5, paddings=(2, 0))
            flat = 16 * ((height // 2 - 4) // 2) * ((width // 2 - 4) // 2)
            hidden, self.num_features = 120, 84
        else:
            convolutions = _convolutions(channels, 16, 32, kernel_size=3, paddings=(1, 1))
            flat = 32 * (height // 4) * (width // 4)
            hidden, self.num_features = 64, 32
        self.body = nn.Sequential(
            *convolutions,
            nn.Flatten(),
            nn.Linear(flat, hidden),
            nn.ReLU(),
            nn.Linear(hidden, self.num_features),
            nn.BatchNorm1d(self.num_features, affine=False),  # in eval mode: standardised features
        )
        self.head = nn.Linear(self.num_features, spec.n_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Return the features, in the dtype of the weights."""
        features: Tensor = self.body(images.to(self.head.weight.dtype))
        return features


def _convolutions(
    channels: int, first: int, second: int, *, kernel_size: int, paddings: tuple[int, int]
) -> list[nn.Module]:
    return [
        nn.Conv2d(channels, first, kernel_size, padding=paddings[0]),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(first, second, kernel_size, padding=paddings[1]),
        nn.ReLU(),
        nn.MaxPool2d(2),
    ]


def load_extractor(dataset_name: str, *, device: torch.device | str = "cpu") -> Extractor:
    """Return the verified extractor of a data set: float64, in eval mode, without gradients.

    Raises:
        ConfigError: there is no extractor for `dataset_name`.
        DataError: the weights are missing, or not those whose hash is pinned.
    """
    require_one_of(dataset_name, tuple(EXTRACTORS), key="data.name")
    spec = EXTRACTORS[dataset_name]
    weights_file = files("secure_fed_diffusion.evaluation") / "extractors" / f"{spec.name}.safetensors"
    if not weights_file.is_file():
        raise DataError(f"the weights of extractor {spec.name} are missing from the installation")
    weights = weights_file.read_bytes()
    found = hashlib.sha256(weights).hexdigest()
    if found != spec.sha256:
        raise DataError(
            f"the weights of extractor {spec.name} were altered: SHA-256 {found}, expected {spec.sha256}"
        )
    with torch.random.fork_rng(devices=[]):  # the initial weights are drawn, then overwritten
        extractor = Extractor(spec)
    extractor.load_state_dict(safetensors.torch.load(weights))
    return extractor.double().to(device).eval().requires_grad_(False)


def embed(extractor: Extractor, images: npt.NDArray[np.uint8], batch: int = 512) -> npt.NDArray[np.float64]:
    """Return the features (n, num_features) of uint8 images (n, c, h, w)."""
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1:] != extractor.image_shape:
        raise DataError(
            f"{extractor.name} takes uint8 images (n, *{extractor.image_shape}), "
            f"got {images.dtype} {images.shape}"
        )
    device = next(extractor.parameters()).device
    pieces = [np.empty((0, extractor.num_features))]
    with torch.inference_mode():
        for start in range(0, len(images), batch):
            piece = torch.tensor(images[start : start + batch], dtype=torch.float64, device=device) / 255
            pieces.append(extractor(piece).double().cpu().numpy())
    return np.concatenate(pieces)
