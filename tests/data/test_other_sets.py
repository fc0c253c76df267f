"""The same recipe with another `data.name`: colours, 32×32 and 64×64, from files to the report.

The recipe is that of `experiments/mnist_cpu`: class means and covariances, half of the process, DPM-Solver++.
The extractors here are hardly trained: what is shown is that a run goes through, not that its figures mean
anything.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from secure_fed_diffusion import cli
from secure_fed_diffusion.data.datasets import load
from secure_fed_diffusion.data.facts import facts
from secure_fed_diffusion.data.published import whole
from secure_fed_diffusion.data.settings import DIRECTORY_VARIABLE, DataSettings
from secure_fed_diffusion.data.sources import SOURCES
from secure_fed_diffusion.evaluation import features
from secure_fed_diffusion.evaluation.extractor_recipe import train_extractor, weights_bytes
from secure_fed_diffusion.federation.run import read_lines
from tests.data import stand_ins
from tests.federation.small import CONFIG

COUNTS = (300, 120, 100)
CHANGES = (
    "modes.distributed.rounds=1",
    "evaluation.samples=100",
    "model.patch=2",
    "diffusion.prediction=v",
    "diffusion.truncation=0.5",
    "warmup.augmentation=none",
    "warmup.decay=true",
    "warmup.covariances.draws=1",
    "warmup.covariances.noise_multiplier=8.0",
    "warmup.covariances.clip_norm=30.0",
    "warmup.covariances.frequencies=4",
    "modes.distributed.server.schedule=trapezoid",
    "sampler.kind=dpm++",
    "sampler.steps=4",
)


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """Run one private round of the small federation by the command line; return its folder."""

    def go(name: str, directory: Path, *changes: str) -> Path:
        config = tmp_path / "small.toml"
        config.write_text(CONFIG)
        words = ["sfd", "run", str(config), "--out", str(tmp_path / "run"), "--json"]
        for change in (f"data.name={name}", f'data.directory="{directory}"', *CHANGES, *changes):
            words += ["--set", change]
        monkeypatch.setattr(sys, "argv", words)
        with pytest.raises(SystemExit) as ended:
            cli.main()
        assert not ended.value.code
        return tmp_path / "run"

    return go


@pytest.fixture
def extractor(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """Ship a hardly trained extractor for a set that has none."""

    def ship(name: str, directory: Path) -> None:
        known = facts(name)
        spec = features.ExtractorSpec(
            name=f"lenet84_{name}", image_shape=known.image_shape, n_classes=known.n_classes, sha256=""
        )
        public = load(DataSettings(name=name, directory=str(directory))).public
        weights = weights_bytes(train_extractor(spec, public, steps=2))
        (tmp_path / "extractors").mkdir()
        (tmp_path / "extractors" / f"{spec.name}.safetensors").write_bytes(weights)
        pinned = features.ExtractorSpec(
            name=spec.name,
            image_shape=spec.image_shape,
            n_classes=spec.n_classes,
            sha256=hashlib.sha256(weights).hexdigest(),
        )
        monkeypatch.setitem(features.EXTRACTORS, name, pinned)
        monkeypatch.setattr(features, "files", lambda _: tmp_path)

    return ship


def check(folder: Path, name: str) -> None:
    """Look at what a run left: its charges, its metrics, images of the right form, a report."""
    known = facts(name)
    channels, height, _ = known.image_shape
    last = read_lines(folder / "metrics.jsonl")[-1]
    assert np.isfinite(last["holdout_loss"])
    assert np.isfinite(last[f"fid_lenet84_{name}"])
    assert 0 <= last["tstr_cnn"] <= 1
    kinds = [line["kind"] for line in read_lines(folder / "metrics.jsonl")]
    assert kinds == ["prototypes", "covariances", "gradient"]
    assert json.loads((folder / "summary.json").read_text())
    grid = Image.open(max((folder / "samples").glob("*.png")))
    assert grid.mode == ("RGB" if channels == 3 else "L")
    enlarged = max(1, 56 // height) * height + 4
    assert grid.height == known.n_classes * enlarged + 4
    assert known.class_names[-1] in (folder / "report.html").read_text()
    unet = json.loads((folder / "model" / "unet" / "config.json").read_text())
    assert (unet["in_channels"], unet["num_class_embeds"]) == (4 * channels, known.n_classes)


@pytest.mark.parametrize("name", ["cifar10", pytest.param("bloodmnist_64", marks=pytest.mark.slow)])
def test_one_private_round_of_colour_images_runs_from_files_to_report(
    name, run, extractor, monkeypatch, tmp_path
):
    files, _ = stand_ins.published(name, COUNTS)
    stand_ins.lay(stand_ins.declare(monkeypatch, name, files, COUNTS), tmp_path, files)
    extractor(name, tmp_path)
    check(run(name, tmp_path), name)


def test_one_private_round_of_chest_x_rays_runs_from_file_to_report(run, monkeypatch, tmp_path):
    directory = Path(os.environ.get(DIRECTORY_VARIABLE, "nowhere"))
    if not whole(SOURCES["pneumonia"], directory):
        directory = tmp_path
        files, _ = stand_ins.published("pneumonia", COUNTS)
        stand_ins.lay(stand_ins.declare(monkeypatch, "pneumonia", files, COUNTS), directory, files)
        with np.load(directory / "pneumonia_subset.npz") as archive:
            stand_ins.pin(monkeypatch, "pneumonia", dict(archive))
    check(run("pneumonia", directory), "pneumonia")


def test_the_default_model_takes_every_known_shape() -> None:
    from secure_fed_diffusion.diffusion.settings import ModelSettings
    from secure_fed_diffusion.diffusion.unet import build_unet

    for shape in {facts(name).image_shape for name in SOURCES}:
        for patch in (1, 2):
            unet = build_unet(ModelSettings(patch=patch), image_shape=shape, n_classes=3, n_timesteps=10)
            pixels = torch.zeros(1, unet.config.in_channels, shape[1] // patch, shape[2] // patch)
            with torch.no_grad():
                drawn = unet(pixels, 0, class_labels=torch.zeros(1, dtype=torch.long)).sample
            assert drawn.shape == pixels.shape
