"""From seed to images: shapes, ranges, determinism, and a folder that gives the same images back."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from diffusers import UNet2DModel
from torch import Tensor

from secure_fed_diffusion.diffusion.class_conditional_pipeline import ClassGaussians, generate
from secure_fed_diffusion.diffusion.patches import to_model_space
from secure_fed_diffusion.diffusion.sampler import (
    load_pipeline,
    make_scheduler,
    sample,
    save_pipeline,
)
from secure_fed_diffusion.diffusion.settings import (
    SAMPLERS,
    SCHEDULES,
    DiffusionSettings,
    ModelSettings,
    SamplerSettings,
    require_network,
    require_sampler,
)
from secure_fed_diffusion.diffusion.unet import build_unet
from secure_fed_diffusion.errors import ConfigError, RunError

DIFFUSION = DiffusionSettings(timesteps=50)
LABELS = np.array([0, 1, 2, 1, 0], dtype=np.int64)


EVERY_SAMPLER = {
    "ddim": ("v", {"kind": "ddim", "eta": 0.5}),
    "sde-dpm++": ("epsilon", {"kind": "dpm++"}),
    "dpm++": ("v", {"kind": "dpm++", "sde": False, "order": 3}),
    "edm with churn": ("edm", {"kind": "edm", "churn": 2.0, "churn_max": float("inf")}),
    "edm by Euler": ("edm", {"kind": "edm", "order": 1, "sigma_max": 20.0}),
    "edm sde-dpm++": ("edm", {"kind": "dpm++"}),
    "edm dpm++": ("edm", {"kind": "dpm++", "sde": False, "order": 1}),
}


def unet_of(patch: int = 1, colours: int = 1, rows: int = 3) -> UNet2DModel:
    settings = ModelSettings(channels=(8, 8), norm_groups=4, attention_head_dim=4, patch=patch)
    return build_unet(settings, image_shape=(colours, 8, 8), n_classes=rows, n_timesteps=50, seed=1)


def draw(unet: UNet2DModel, *, seed: int = 0, patch: int = 1, **settings: object) -> np.ndarray:
    return sample(
        unet,
        LABELS,
        diffusion=DIFFUSION,
        settings=SamplerSettings(**({"steps": 3} | settings)),
        patch=patch,
        seed=seed,
    )


@pytest.mark.parametrize(("patch", "colours"), [(1, 1), (2, 1), (1, 3)])
def test_there_is_one_image_of_bytes_for_each_label(patch: int, colours: int) -> None:
    images = draw(unet_of(patch, colours), patch=patch)
    assert images.shape == (len(LABELS), colours, 8, 8)
    assert images.dtype == np.uint8
    assert images.std() > 0


def test_the_seed_decides_the_images() -> None:
    unet = unet_of()
    assert np.array_equal(draw(unet, seed=3), draw(unet, seed=3))
    assert not np.array_equal(draw(unet, seed=3), draw(unet, seed=4))


def test_sampling_leaves_the_caller_s_randomness_and_the_model_as_they_were() -> None:
    unet = unet_of().train()
    torch.manual_seed(5)
    before, weights = torch.get_rng_state(), [p.detach().clone() for p in unet.parameters()]
    draw(unet)
    assert torch.equal(torch.get_rng_state(), before)
    assert unet.training
    assert all(torch.equal(p, w) for p, w in zip(unet.parameters(), weights, strict=True))
    unet.eval()
    draw(unet)
    assert not unet.training


def test_the_images_depend_on_the_label() -> None:
    unet = unet_of()
    with torch.no_grad():
        unet.class_embedding.weight.mul_(50)
    same_noise = [
        sample(
            unet,
            np.full(4, label, dtype=np.int64),
            diffusion=DIFFUSION,
            settings=SamplerSettings(steps=3),
            patch=1,
            seed=0,
        )
        for label in (0, 2)
    ]
    assert not np.array_equal(*same_noise)


def test_eta_adds_noise_on_the_way_and_zero_adds_none() -> None:
    unet = unet_of()
    without = draw(unet, kind="ddim", eta=0.0)
    assert np.array_equal(without, draw(unet, kind="ddim", eta=0.0))
    assert not np.array_equal(without, draw(unet, kind="ddim", eta=1.0))


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("prediction", ["epsilon", "v"])
@pytest.mark.parametrize("patch", [1, 2])
def test_a_denoiser_that_knows_the_image_is_led_to_it(prediction: str, schedule: str, patch: int) -> None:
    settings = DiffusionSettings(prediction=prediction, schedule=schedule, timesteps=200)
    scheduler = make_scheduler(settings)
    truth = torch.randint(256, (2, 1, 8, 8), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    x0 = to_model_space(truth, patch)

    class Oracle(torch.nn.Module):
        config = SimpleNamespace(sample_size=tuple(x0.shape[2:]), in_channels=x0.shape[1])

        def __init__(self) -> None:
            super().__init__()
            self.dtype_of_weights = torch.nn.Parameter(torch.zeros(1))

        def forward(self, x: Tensor, t: Tensor, class_labels: Tensor) -> SimpleNamespace:
            bar = scheduler.alphas_cumprod[t]
            eps = (x - bar.sqrt() * x0) / (1 - bar).sqrt()
            v = bar.sqrt() * eps - (1 - bar).sqrt() * x0
            return SimpleNamespace(sample=eps if prediction == "epsilon" else v)

    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        images = generate(
            Oracle(), scheduler, torch.tensor([0, 1]), steps=20, patch=patch, generator=generator
        )
    assert float(images.min()) >= 0.0
    assert float(images.max()) <= 1.0
    torch.testing.assert_close(images, truth / 255.0, atol=0.02, rtol=0)


def test_more_steps_than_the_process_has_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"sampler\.steps=51 <= diffusion\.timesteps=50"):
        draw(unet_of(), steps=51)


@pytest.mark.parametrize(
    ("values", "key"),
    [
        ({"steps": 0}, "sampler.steps"),
        ({"eta": -0.1}, "sampler.eta"),
        ({"batch": 0}, "sampler.batch"),
        ({"kind": "euler"}, "sampler.kind"),
        ({"eta": 0.0}, "sampler.eta"),  # of DDIM alone
        ({"eta": 0.5, "kind": "edm"}, "sampler.eta"),
        ({"churn": 40.0}, "sampler.churn"),  # of EDM alone
        ({"guidance": -0.5}, "sampler.guidance"),
        ({"guidance": float("nan")}, "sampler.guidance"),
        ({"order": 0}, "sampler.order"),
        ({"order": 3, "kind": "dpm++"}, "sampler.order"),  # the stochastic form has two
        ({"order": 3, "kind": "edm"}, "sampler.order"),
        ({"sigma_min": 0.0}, "sampler.sigma_min"),
        ({"sigma_max": 0.002}, "sampler.sigma_max"),
        ({"churn": -1.0}, "sampler.churn"),
        ({"churn_min": -1.0}, "sampler.churn_min"),
        ({"churn_max": 0.01}, "sampler.churn_max"),
        ({"churn_noise": 0.0}, "sampler.churn_noise"),
    ],
)
def test_an_impossible_sampler_is_refused(values: dict[str, object], key: str) -> None:
    with pytest.raises(ConfigError, match=f"got {next(iter(values.values()))!r}") as e:
        SamplerSettings(**values)
    assert e.value.key == key


@pytest.mark.parametrize(("prediction", "kind"), [("epsilon", "edm"), ("v", "edm"), ("edm", "ddim")])
def test_a_sampler_of_another_process_is_refused_before_any_work(prediction: str, kind: str) -> None:
    assert kind not in SAMPLERS[prediction]
    diffusion, sampler = DiffusionSettings(prediction=prediction), SamplerSettings(kind=kind)
    allowed = ", ".join(SAMPLERS[prediction]).replace("+", r"\+")
    words = f"expected one of {allowed} with diffusion.prediction='{prediction}', got '{kind}'"
    with pytest.raises(ConfigError, match=words) as e:
        require_sampler(diffusion, sampler)
    assert e.value.key == "sampler.kind"
    with pytest.raises(ConfigError, match=words):
        sample(None, LABELS, diffusion=diffusion, settings=sampler, patch=1, seed=0)


def test_guidance_is_refused_where_no_label_was_dropped() -> None:
    sampler = SamplerSettings(guidance=0.5)
    with pytest.raises(ConfigError, match=r"0 with diffusion\.label_dropout=0.*got 0\.5") as e:
        require_sampler(DIFFUSION, sampler)
    assert e.value.key == "sampler.guidance"
    require_sampler(DiffusionSettings(label_dropout=0.1), sampler)


def test_a_table_of_time_embeddings_is_refused_where_the_noise_level_is_no_integer() -> None:
    learned = ModelSettings(time_embedding="learned")
    require_network(learned, DiffusionSettings())
    require_network(ModelSettings(), DiffusionSettings(prediction="edm"))
    with pytest.raises(ConfigError, match=r"expected positional with .*, got 'learned'") as e:
        require_network(learned, DiffusionSettings(prediction="edm"))
    assert e.value.key == "model.time_embedding"


@pytest.mark.parametrize("name", EVERY_SAMPLER)
@pytest.mark.parametrize("guidance", [0.0, 0.5])
def test_every_sampler_s_saved_model_draws_what_the_run_drew(
    name: str, guidance: float, tmp_path: Path
) -> None:
    prediction, form = EVERY_SAMPLER[name]
    diffusion = DiffusionSettings(prediction=prediction, timesteps=50, label_dropout=0.1 if guidance else 0.0)
    settings = SamplerSettings(steps=4, batch=2, guidance=guidance, **form)
    unet = unet_of(rows=diffusion.class_rows(3))
    images = sample(unet, LABELS, diffusion=diffusion, settings=settings, patch=1, seed=0)
    assert images.std() > 0
    save_pipeline(unet, diffusion, 1, tmp_path / "model", sampler=settings)
    pipeline = load_pipeline(tmp_path / "model")
    drawn = pipeline(LABELS, generator=torch.Generator().manual_seed(0), output_type="np").images
    assert np.array_equal((drawn.transpose(0, 3, 1, 2) * 255).round().astype(np.uint8), images)
    assert pipeline.config.n_classes == 3
    if not guidance:
        with pytest.raises(ValueError, match=r"guidance=0.*got 1"):
            pipeline(LABELS, guidance=1.0)


LOADS_ALONE = """
import json, sys
import numpy as np, torch
from diffusers import DiffusionPipeline
sys.modules["secure_fed_diffusion"] = None  # as if it were not installed
for folder in json.loads(sys.argv[1]):
    pipe = DiffusionPipeline.from_pretrained(
        folder, custom_pipeline=folder, trust_remote_code=True, low_cpu_mem_usage=False
    )
    pipe.set_progress_bar_config(disable=True)
    images = pipe([0, 1, 2, 1, 0], generator=torch.Generator().manual_seed(0), output_type="np").images
    np.save(folder + "/images.npy", (images.transpose(0, 3, 1, 2) * 255).round().astype(np.uint8))
"""


def test_diffusers_alone_draws_the_same_images_from_every_saved_model(tmp_path: Path) -> None:
    expected = {}
    for name in ("ddim", "sde-dpm++", "edm with churn", "edm sde-dpm++"):  # each kind of scheduler
        prediction, form = EVERY_SAMPLER[name]
        diffusion = DiffusionSettings(prediction=prediction, timesteps=50, label_dropout=0.2)
        settings = SamplerSettings(steps=3, batch=3, guidance=1.5, **form)
        unet, folder = unet_of(rows=4), tmp_path / name.replace(" ", "_").replace("+", "p")
        save_pipeline(unet, diffusion, 1, folder, sampler=settings)
        expected[folder] = sample(unet, LABELS, diffusion=diffusion, settings=settings, patch=1, seed=0)
    diffusion, unet, folder = DiffusionSettings(timesteps=50, truncation=0.5), unet_of(), tmp_path / "short"
    start = ClassGaussians(torch.rand((3, 1, 8, 8)), torch.rand((3, 2, 64)) / 10)
    settings = SamplerSettings(steps=4, batch=5)
    save_pipeline(unet, diffusion, 1, folder, sampler=settings, start=start)
    expected[folder] = sample(
        unet, LABELS, diffusion=diffusion, settings=settings, patch=1, seed=0, start=start
    )
    done = subprocess.run(
        [sys.executable, "-c", LOADS_ALONE, json.dumps([str(folder) for folder in expected])],
        capture_output=True,
        text=True,
        env=os.environ | {"HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    for folder, images in expected.items():
        found = np.load(folder / "images.npy").astype(int)
        assert np.abs(found - images).max() <= 1, folder.name  # another process may round otherwise


@pytest.mark.parametrize("patch", [1, 2])
def test_a_saved_model_gives_the_same_images_back(patch: int, tmp_path: Path) -> None:
    unet = unet_of(patch)
    folder = tmp_path / "model"
    save_pipeline(unet, DIFFUSION, patch, folder)
    pipeline = load_pipeline(folder)
    assert (folder / "pipeline.py").exists()
    drawn = pipeline(
        LABELS, num_inference_steps=3, generator=torch.Generator().manual_seed(0), output_type="np"
    ).images
    again = (drawn.transpose(0, 3, 1, 2) * 255).round().astype(np.uint8)
    assert np.array_equal(again, draw(unet, patch=patch))


def test_the_saved_process_is_the_one_that_was_trained(tmp_path: Path) -> None:
    settings = DiffusionSettings(prediction="epsilon", schedule="linear", timesteps=30)
    save_pipeline(unet_of(), settings, 1, tmp_path / "model")
    scheduler = load_pipeline(tmp_path / "model").scheduler
    assert scheduler.config.prediction_type == "epsilon"
    assert torch.equal(scheduler.alphas_cumprod, make_scheduler(settings).alphas_cumprod)


def test_a_folder_without_a_model_or_with_a_broken_one_is_an_error_of_ours(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="there is no model in"):
        load_pipeline(tmp_path)
    folder = tmp_path / "model"
    save_pipeline(unet_of(), DIFFUSION, 1, folder)
    (folder / "unet" / "config.json").write_text("{")
    with pytest.raises(RunError, match="cannot be read"):
        load_pipeline(folder)
    save_pipeline(unet_of(), DIFFUSION, 1, folder)
    weights = next((folder / "unet").glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(RunError, match="cannot be read"):
        load_pipeline(folder)
