"""Inception-v3 features, for figures that other papers have too; from a weights file that the user brings.

Nothing is downloaded.  The network is torch-fidelity's (the extra `inception`), the TensorFlow graph of
2015 that FID was defined with (Heusel et al. 2017); its weights are read from
`evaluation.inception_weights`, the file called `pt_inception-2015-12-05-6726825d.pth` or
`weights-inception-2015-12-05-6726825d.pth`.  Another file is refused: its figures would bear a name that
they do not deserve.

Images are enlarged to 299×299, grey ones repeated in three colours, so on digits or X-rays these figures
mean little but that others print them.  They also depend on the reference set (here the TEST images) and
on the number of samples.  About 11 GFLOP an image, so many minutes without a GPU; FID needs 2,049 images.
"""

from __future__ import annotations

import hashlib
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor, nn

from secure_fed_diffusion.errors import ConfigError

NAME = "inception"
NUM_FEATURES = 2048
WEIGHTS_SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"
KEY = "evaluation.inception_weights"

_BATCH = 32
_COLOURS = 3


class InceptionExtractor(nn.Module):
    """Images in [0, 1] (n, 1 or 3, h, w) to the 2,048 pooled features of `network`."""

    name = NAME
    num_features = NUM_FEATURES
    batch = _BATCH

    def __init__(self, network: nn.Module, image_shape: tuple[int, int, int]) -> None:
        super().__init__()
        self.network = network
        self.image_shape = image_shape

    def forward(self, images: Tensor) -> Tensor:
        """Return the features, float32, of images whose values are whole 255ths."""
        bytes_ = (images * 255).round().to(torch.uint8)
        if bytes_.shape[1] != _COLOURS:
            bytes_ = bytes_[:, :1].expand(-1, _COLOURS, -1, -1)
        features: Tensor = self.network(bytes_)[0]
        return features.flatten(1)


def load_inception(
    weights: Path, image_shape: tuple[int, int, int], *, device: torch.device | str = "cpu"
) -> InceptionExtractor:
    """Return the verified extractor, in eval mode, without gradients.

    Raises:
        ConfigError: torch-fidelity is not installed, or the file is missing, or it is another one.
    """
    check_inception(weights)
    try:
        from torch_fidelity import FeatureExtractorInceptionV3
    except (ImportError, RuntimeError) as error:  # torchvision of another torch fails as the second
        raise ConfigError(f"torch-fidelity is installed but cannot be loaded: {error}", key=KEY) from None
    with torch.random.fork_rng(devices=[]):  # the initial weights are drawn, then overwritten
        network = FeatureExtractorInceptionV3(
            NAME, [str(NUM_FEATURES)], feature_extractor_weights_path=str(weights.expanduser())
        )
    return InceptionExtractor(network, image_shape).to(device).eval().requires_grad_(False)


def check_inception(weights: Path) -> None:
    """Refuse what `load_inception` would refuse, without building the network."""
    if find_spec("torch_fidelity") is None:
        raise ConfigError(
            "Inception features need torch-fidelity: pip install 'secure-fed-diffusion[inception]'", key=KEY
        )
    path = weights.expanduser()
    if not path.is_file():
        raise ConfigError(f"there is no file {path}", key=KEY)
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    # before torch.load, which runs what a hostile file says
    if found != WEIGHTS_SHA256:
        raise ConfigError(
            f"{path} is not the Inception of FID: SHA-256 {found}, expected {WEIGHTS_SHA256}", key=KEY
        )
