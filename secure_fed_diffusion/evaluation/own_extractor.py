"""An extractor for a data set that has no shipped one: trained on its PUBLIC split on first use, then kept.

It lies beside the data, in `extractors/`, under a name that the recipe, the public split and shape decide;
the SHA-256 of the weights stands beside it and in the extractor's name (`lenet84_cifar10_1f0c22ab`).  Another
machine may train other last bits: figures compare where that name is equal, so pass the files on.

It reads no private image.  Not protected against: a person who can write the data folder.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from dataclasses import replace
from pathlib import Path

import safetensors.torch
import torch

from secure_fed_diffusion.data.datasets import Dataset, content_sha256
from secure_fed_diffusion.errors import DataError
from secure_fed_diffusion.evaluation.extractor_recipe import STEPS, train_extractor, weights_bytes
from secure_fed_diffusion.evaluation.features import EXTRACTORS, Extractor, ExtractorSpec, load_extractor

RECIPE = 1
"""Counted up when the recipe changes: an extractor of another recipe is not the same one."""

FOLDER = "extractors"


def extractor_for(dataset: Dataset, *, device: torch.device | str = "cpu") -> Extractor:
    """Return the shipped extractor of a data set, or its own: float64, in eval mode, without gradients.

    Raises:
        DataError: the kept weights were altered, or there is no folder to keep them in.
    """
    if dataset.name in EXTRACTORS:
        return load_extractor(dataset.name, device=device)
    path = _path(dataset)
    if not path.is_file():
        _keep(path, weights_bytes(_train(dataset)))
    weights = path.read_bytes()
    found = hashlib.sha256(weights).hexdigest()
    try:
        expected = path.with_suffix(".sha256").read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        expected = "none"
    if found != expected:
        raise DataError(
            f"{path} was altered: SHA-256 {found}, expected {expected}; remove it, and it is trained anew"
        )
    with torch.random.fork_rng(devices=[]):  # the initial weights are drawn, then overwritten
        spec = _spec(dataset)
        extractor = Extractor(replace(spec, name=f"{spec.name}_{found[:8]}", sha256=found))
    extractor.load_state_dict(safetensors.torch.load(weights))
    return extractor.double().to(device).eval().requires_grad_(False)


def _spec(dataset: Dataset) -> ExtractorSpec:
    features = 84 if dataset.image_shape[1] >= 28 else 32
    return ExtractorSpec(
        name=f"lenet{features}_{dataset.name}",
        image_shape=dataset.image_shape,
        n_classes=dataset.n_classes,
        sha256="",
    )


def _path(dataset: Dataset) -> Path:
    if dataset.directory is None:
        raise DataError(f"{dataset.name} has no extractor, and no data folder to keep one in")
    public = (content_sha256(dataset.public.images), content_sha256(dataset.public.labels))
    key = hashlib.sha256(repr((RECIPE, STEPS, _spec(dataset), public)).encode()).hexdigest()
    return dataset.directory / FOLDER / f"{_spec(dataset).name}_{key[:16]}.safetensors"


def _train(dataset: Dataset) -> Extractor:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # sums in another order would be other bits
    try:
        return train_extractor(_spec(dataset), dataset.public, steps=STEPS)
    finally:
        torch.set_num_threads(threads)


def _keep(path: Path, weights: bytes) -> None:
    """Write the weights and their digest, each whole or not at all; the weights last."""
    digest = f"{hashlib.sha256(weights).hexdigest()}\n".encode()
    try:
        path.parent.mkdir(exist_ok=True)
        for target, content in ((path.with_suffix(".sha256"), digest), (path, weights)):
            part = target.with_name(f"{target.name}.{os.getpid()}.part")
            part.write_bytes(content)
            os.replace(part, target)
    except OSError as error:
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)
        raise DataError(
            f"{path.parent} cannot hold the extractor of the public split: {error.strerror or error}; make "
            f"the data folder writable for the first run, or bring the files from another machine"
        ) from None
