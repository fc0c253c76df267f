"""The attacks on learning do what they say on inputs whose answer is known."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from secure_fed_diffusion.data.datasets import ImageSet
from secure_fed_diffusion.federation.class_means import prototype_rows
from threat_models.adversaries.curious_server import ClassSums, SumsAndRecords
from threat_models.adversaries.malicious_server import SumOverModels
from threat_models.adversaries.model_observer import ModelAndCandidates
from threat_models.adversaries.poisoner import OwnContribution
from threat_models.claim import Arm, Counts
from threat_models.claims import (
    t01_inversion_mlp,
    t01b_inversion_conv,
    t02_imprint,
    t03_membership,
    t12_model_inconsistency,
    t16_poisoner,
    t16c_poisoned_training,
    t20_classes_of_a_client,
    t21_membership_in_class_means,
)
from threat_models.staging.denoisers import N_CLASSES, ConvDenoiser, MlpDenoiser, by_parameter, unet
from threat_models.staging.inversion import psnr, stage_one_update, without_known_noise
from threat_models.staging.poisoning import clipped_to, scaled
from threat_models.staging.small_federation import digits, federation, known_draws, settings_for

SEED = 7


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def test_the_image_comes_out_of_an_mlp_s_update_and_not_under_noise() -> None:
    off, on = (t01_inversion_mlp.stage(arm, SEED) for arm in (Arm.OFF, Arm.ON))
    assert psnr(t01_inversion_mlp.attack(off.view), off.truth) > 60.0
    assert psnr(t01_inversion_mlp.attack(on.view), on.truth) < 12.0


def test_noise_that_can_be_drawn_again_is_taken_off_exactly() -> None:
    dropped = t01_inversion_mlp.stage(Arm.DROPPED, SEED)
    quiet = stage_one_update(MlpDenoiser, Arm.ON, SEED, noise_multiplier=0.0)
    np.testing.assert_allclose(without_known_noise(dropped.view), quiet.view.gradient, atol=1e-12)
    assert not np.allclose(dropped.view.gradient, quiet.view.gradient, atol=1e-3)


def test_an_mlp_s_attack_returns_grey_for_an_update_of_zeros() -> None:
    view = t01_inversion_mlp.stage(Arm.OFF, SEED).view
    silent = dataclasses.replace(view, gradient=np.zeros_like(view.gradient))
    assert (t01_inversion_mlp.attack(silent) == 0.5).all()


def test_the_search_finds_an_image_of_the_convolutional_denoiser(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(t01b_inversion_conv, "ITERATIONS", 40)
    off = t01b_inversion_conv.stage(Arm.OFF, SEED)
    found = psnr(t01b_inversion_conv.attack(off.view), off.truth)
    assert found > 20.0
    assert found > psnr(np.full_like(off.truth, 0.5), off.truth) + 10.0


def test_psnr_is_capped_and_takes_a_guess_that_is_no_number_for_grey() -> None:
    image = np.linspace(0.0, 1.0, 64).reshape(8, 8)
    assert psnr(image, image) == 200.0
    assert psnr(np.full((8, 8), np.nan), image) == psnr(np.full((8, 8), 0.5), image)
    assert psnr(np.zeros((8, 8)), np.ones((8, 8))) == pytest.approx(0.0)


@pytest.mark.parametrize("mode", ["none", "distributed"])
def test_the_draws_that_the_server_is_handed_are_those_of_the_client(mode: str) -> None:
    options = {"federation__masked": False} if mode == "none" else {}
    settings = settings_for(mode, clients=2, rounds=1, **options)
    images = [digits().train.subset(slice(0, 3)), digits().train.subset(slice(3, 6))]
    staged = federation(settings, ConvDenoiser, images, seed=SEED)
    timesteps, noise = known_draws(staged.plan, 1, 1, images[1])
    key = (staged.plan.seed, 1, 1, 0) if mode == "distributed" else (staged.plan.seed, 1, 1, 0, 0)
    records = staged.contributors[1].data.records(np.arange(3), staged.objective, key)
    np.testing.assert_array_equal(timesteps, records.draws.timesteps[:, 0].numpy())
    np.testing.assert_array_equal(noise, records.draws.noise[:, 0].numpy().astype(np.float64))


def test_an_imprint_layer_reads_most_images_without_noise_and_none_with_it() -> None:
    off, on, dropped = (t02_imprint.stage_update(arm, SEED) for arm in Arm)
    hits = {
        name: t02_imprint.judge(t02_imprint.attack(staged.view), staged.truth).hits
        for name, staged in (("off", off), ("on", on), ("dropped", dropped))
    }
    assert hits["off"] >= 24
    assert hits["dropped"] >= 20
    assert hits["on"] <= 1


def test_a_u_net_client_refuses_the_model_with_the_imprint_layer() -> None:
    staged = t02_imprint.stage_pin(Arm.ON, SEED)
    assert not staged.view.gradient.any()
    assert t02_imprint.judge(t02_imprint.attack(staged.view), staged.truth) == Counts(0, t02_imprint.BATCH)


def test_the_loss_attack_ranks_by_the_released_model_and_the_judge_by_rank() -> None:
    images = digits().public.subset(slice(0, 6))
    weights = np.concatenate([p.detach().reshape(-1).numpy() for p in t03_membership.model().parameters()])
    scores = t03_membership.attack(
        ModelAndCandidates(weights=weights, images=images.images, labels=images.labels)
    )
    assert scores.shape == (6,)
    assert np.isfinite(scores).all()
    order = np.argsort(scores)
    truth = np.zeros(6, dtype=bool)
    truth[order[3:]] = True
    assert t03_membership.judge(scores, truth) == 1.0
    assert t03_membership.judge(scores, ~truth) == 0.0


def test_a_dead_u_net_s_one_answer_is_left_out_and_told_updates_are_subtracted() -> None:
    rng = np.random.default_rng(0)
    n = sum(p.numel() for p in unet().parameters())
    victim, others = rng.normal(size=n), rng.normal(size=n)
    view = SumOverModels(total=victim, others=None)
    guess = t12_model_inconsistency.attack(view)
    assert by_parameter(unet(), guess)["conv_out.bias"] == 0.0
    assert t12_model_inconsistency.judge(guess, victim) > 0.99
    told = t12_model_inconsistency.attack(SumOverModels(total=victim + others, others=others))
    assert t12_model_inconsistency.judge(told, victim) == pytest.approx(1.0)
    refused = t12_model_inconsistency.attack(SumOverModels(total=None, others=None))
    assert t12_model_inconsistency.judge(refused, victim) == 0.0


def test_a_poisoner_sends_the_other_direction_and_never_wraps() -> None:
    honest = np.array([100, -50, 0], dtype=np.int64)
    far = t16_poisoner.attack(OwnContribution(honest=honest, modulus_bits=40))
    assert far.tolist() == [-100_000, 50_000, 0]
    near = scaled(honest, -1000.0, 12)
    assert np.abs(near).max() == 1024
    assert near @ honest < 0
    assert scaled(np.zeros(2, dtype=np.int64), -1000.0, 12).tolist() == [0, 0]


def test_the_cut_leaves_an_honest_norm_alone_and_shortens_a_longer_one() -> None:
    cut = clipped_to(10.0)
    assert cut(np.array([6, 8], dtype=np.int64)).tolist() == [6, 8]
    assert cut(np.array([600, -800], dtype=np.int64)).tolist() == [6, -8]


def test_a_run_that_ignores_the_view_has_the_factor_of_the_claim() -> None:
    view = t16c_poisoned_training.stage(Arm.ON, 0).view
    assert t16c_poisoned_training.attack(view) == -1000.0


def _class_vector(labels: list[int], clip_norm: float) -> np.ndarray:
    public = digits().public
    rows = prototype_rows(public, N_CLASSES, clip_norm)
    return rows[np.isin(public.labels, labels)].sum(axis=0)


def test_the_classes_of_a_client_are_read_off_the_most_telling_vector() -> None:
    own, others = _class_vector([0, 2, 4, 6, 8], 5.0), 3.0 * _class_vector([1, 3, 5, 7, 9], 5.0)
    even, odd = frozenset({0, 2, 4, 6, 8}), frozenset({1, 3, 5, 7, 9})
    attack, judge = t20_classes_of_a_client.attack, t20_classes_of_a_client.judge
    in_the_clear = attack(ClassSums(own=own, total=own + others, others=None, clip_norm=5.0))
    assert in_the_clear == even
    assert attack(ClassSums(own=None, total=own + others, others=others, clip_norm=5.0)) == even
    assert attack(ClassSums(own=None, total=own + others, others=None, clip_norm=5.0)) == odd
    assert judge(even, even) == Counts(10, 10)
    assert judge(odd, even) == Counts(0, 10)


def test_a_record_in_the_class_means_is_told_from_none_with_all_others_known() -> None:
    records = digits().public.subset(slice(0, 2))
    rows = prototype_rows(ImageSet(records.images, records.labels), N_CLASSES, 5.0)
    others = np.stack([_class_vector([3], 5.0)] * 2)
    totals = others + np.stack([rows[0], np.zeros_like(rows[1])])
    view = SumsAndRecords(totals=totals, others=others, candidates=rows, copies=1)
    guesses = t21_membership_in_class_means.attack(view)
    assert guesses.tolist() == [True, False]
    assert t21_membership_in_class_means.judge(guesses, np.array([True, True])) == Counts(1, 2)
