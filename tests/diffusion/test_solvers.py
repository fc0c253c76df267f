"""Every sampler on images whose best denoiser is known: mean and spread must come out as they are.

The denoiser is exact, so what is off is a solver's own error: it shrinks with the number of steps, and with
the order.  The bounds are some 1.5 times the errors at this number of steps.  The seed is fixed; with 32,768
pixels the standard error is 0.6 % of the spread for the mean and 0.4 % for the spread, and 3 of them are left
to every bound, so another seed would break one of the 17 with a chance of at most 5 %.
"""

from __future__ import annotations

import pytest
import torch
from diffusers import EDMEulerScheduler

from secure_fed_diffusion.diffusion.class_conditional_pipeline import generate
from secure_fed_diffusion.diffusion.sampler import form_of, make_scheduler
from secure_fed_diffusion.diffusion.settings import DiffusionSettings, SamplerSettings
from tests.diffusion.gaussian import MEANS, SPREAD, GaussianDenoiser

STEPS = 100
IMAGES = 32

CASES = {
    "ddim": ({"kind": "ddim"}, 0.10, ("v",)),
    "ddim without noise": ({"kind": "ddim", "eta": 0.0}, 0.06, ("v",)),
    "sde-dpm++": ({"kind": "dpm++"}, 0.045, ("epsilon", "v", "edm")),
    "dpm++ of order 2": ({"kind": "dpm++", "sde": False}, 0.02, ("epsilon", "v", "edm")),
    "dpm++ of order 3": ({"kind": "dpm++", "sde": False, "order": 3}, 0.02, ("v", "edm")),
    "edm by Euler": ({"kind": "edm", "order": 1}, 0.06, ("edm",)),
    "edm by Heun": ({"kind": "edm"}, 0.02, ("edm",)),
    "edm by Euler with churn": (
        {"kind": "edm", "order": 1, "churn": 40.0, "churn_noise": 1.0},
        0.15,
        ("edm",),
    ),
    "edm with churn": ({"kind": "edm", "churn": 40.0, "churn_noise": 1.0}, 0.035, ("edm",)),
}


def drawn(
    prediction: str, *, label: int = 0, guidance: float = 0.0, steps: int = STEPS, **form: object
) -> tuple[float, float, GaussianDenoiser]:
    """Return the mean of the pixels, their spread in units of the true one, and the denoiser."""
    diffusion = DiffusionSettings(prediction=prediction, label_dropout=0.1)
    settings = SamplerSettings(steps=steps, guidance=guidance, **form)
    denoiser = GaussianDenoiser(diffusion)
    with torch.inference_mode():
        images = generate(
            denoiser,
            make_scheduler(diffusion, settings),
            torch.full((IMAGES,), label),
            steps=steps,
            null_class=2,
            generator=torch.Generator().manual_seed(0),
            **form_of(settings),
        )
    pixels = images.double() * 2 - 1
    return float(pixels.mean()), float(pixels.std()) / SPREAD, denoiser


@pytest.mark.parametrize(
    ("name", "prediction"), [(name, p) for name, (_, _, predictions) in CASES.items() for p in predictions]
)
def test_mean_and_spread_of_gaussian_images_come_out(name: str, prediction: str) -> None:
    form, bound, _ = CASES[name]
    mean, spread, _ = drawn(prediction, **form)
    assert mean == pytest.approx(MEANS[0], abs=0.02 * SPREAD + 0.001)
    assert spread == pytest.approx(1.0, abs=bound)


def test_a_last_step_that_diffusers_calls_minus_one_is_taken_at_the_end_of_the_schedule() -> None:
    settings = SamplerSettings(kind="dpm++", steps=223)
    scheduler = make_scheduler(DiffusionSettings(), settings)
    scheduler.set_timesteps(settings.steps)
    assert scheduler.timesteps[-1] == -1
    mean, spread, denoiser = drawn("v", kind="dpm++", steps=223)
    assert denoiser.lowest_level == 0  # a learned embedding has no row for -1
    assert mean == pytest.approx(MEANS[0], abs=0.02 * SPREAD + 0.001)
    assert spread == pytest.approx(1.0, abs=0.045)


@pytest.mark.parametrize(
    ("prediction", "form"),
    [("v", {"kind": "ddim"}), ("v", {"kind": "dpm++"}), ("edm", {"kind": "edm"}), ("edm", {"kind": "dpm++"})],
)
def test_guidance_moves_the_mean_away_from_that_of_all_classes_by_its_weight(
    prediction: str, form: dict[str, object]
) -> None:
    # All that differs by class here is the mean, so the guided mean is m_y + w (m_y - m_0), eq. 6.
    for label, weight in ((0, 0.5), (1, 1.0)):
        mean, _, denoiser = drawn(prediction, label=label, guidance=weight, steps=50, **form)
        expected = MEANS[label] + weight * (MEANS[label] - MEANS[2])
        assert mean == pytest.approx(expected, abs=0.03 * SPREAD)
        assert denoiser.rows == 2 * IMAGES * denoiser.calls  # one evaluation of both, not two


def test_heun_s_step_evaluates_twice_and_the_others_once() -> None:
    assert drawn("edm", kind="edm", steps=10)[2].calls == 19
    assert drawn("edm", kind="edm", order=1, steps=10)[2].calls == 10
    assert drawn("edm", kind="dpm++", steps=10)[2].calls == 10
    assert drawn("v", kind="dpm++", steps=10)[2].calls == 10
    assert drawn("v", kind="ddim", steps=10)[2].calls == 10


def test_order_and_steps_bring_the_spread_nearer() -> None:
    def error(prediction: str, **form: object) -> float:
        return abs(drawn(prediction, **form)[1] - 1.0)

    assert error("edm", kind="edm", steps=20) < error("edm", kind="edm", order=1, steps=20) / 2
    assert error("v", kind="dpm++", sde=False, steps=20) < error("v", kind="ddim", eta=0.0, steps=20) / 2
    assert error("edm", kind="edm", order=1, steps=80) < error("edm", kind="edm", order=1, steps=20) / 2
    assert error("v", kind="ddim", steps=80) < error("v", kind="ddim", steps=20) / 2


def test_churn_raises_the_noise_only_between_its_bounds() -> None:
    def pixels(**form: object) -> tuple[float, float]:
        return drawn("edm", kind="edm", steps=10, **form)[:2]

    without = pixels()
    assert pixels(churn=5.0, churn_min=0.0) != without
    assert pixels(churn=5.0, churn_min=90.0, churn_max=100.0) == without


def test_diffusers_own_churn_leaves_noise_behind_however_many_the_steps() -> None:
    # Why `generate` walks by itself: their network has not seen the image that their step starts from.
    denoiser = GaussianDenoiser(DiffusionSettings(prediction="edm"))
    scheduler = EDMEulerScheduler()
    scheduler.set_timesteps(2 * STEPS)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn((IMAGES, 1, 32, 32), generator=generator) * scheduler.init_noise_sigma
    labels = torch.zeros(IMAGES, dtype=torch.int64)
    with torch.inference_mode():
        for t in scheduler.timesteps:
            answer = denoiser(scheduler.scale_model_input(x, t), t, labels).sample
            x = scheduler.step(
                answer, t, x, s_churn=0.8 * STEPS, s_tmin=0.05, s_tmax=50.0, generator=generator
            ).prev_sample
    assert float(x.std()) / SPREAD > 1.04
    ours = drawn("edm", kind="edm", order=2, churn=0.8 * STEPS, churn_noise=1.0, steps=2 * STEPS)[1]
    assert ours == pytest.approx(1.0, abs=0.015)
