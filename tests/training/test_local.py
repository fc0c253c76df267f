"""What a client does between two rounds: how many steps, on whose coins, pulled back how far."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from secure_fed_diffusion.data.datasets import ImageSet
from secure_fed_diffusion.diffusion.objective import DiffusionSettings, Objective, draw
from secure_fed_diffusion.diffusion.unet import ModelSettings, build_unet
from secure_fed_diffusion.dp.grid import IntegerGrid
from secure_fed_diffusion.dp.noise import discrete_gaussian, poisson_sample
from secure_fed_diffusion.training import local
from secure_fed_diffusion.training.integer_sums import integer_sum
from secure_fed_diffusion.training.local import (
    ClientData,
    LocalOptimizer,
    record_names,
    train_plain,
    train_private,
)
from secure_fed_diffusion.training.per_example import micro_batches
from secure_fed_diffusion.training.vectors import dimension, flatten
from tests.federation.small import seeded
from tests.mutants.laboratory import Laboratory, digits

OBJECTIVE = Objective(DiffusionSettings(timesteps=20))
N = 24
KEY = (0, 3, 1, 0)


def unet() -> nn.Module:
    settings = ModelSettings(channels=(8, 8), norm_groups=4, attention_head_dim=4)
    return build_unet(settings, image_shape=(1, 8, 8), n_classes=3, n_timesteps=20, seed=2)


@pytest.fixture(scope="module")
def held() -> ImageSet:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, size=(N, 1, 8, 8), dtype=np.uint8)
    return ImageSet(images, rng.integers(0, 3, size=N))


@pytest.fixture(scope="module")
def data(held: ImageSet) -> ClientData:
    return ClientData(held, patch=1, device="cpu")


def private(model: nn.Module, data: ClientData, **changes: object) -> None:
    values = {
        "steps": 2,
        "sampling_rate": 0.3,
        "divisor": 7,
        "grid": IntegerGrid.for_dimension(dimension(model), 0.1),
        "noise_stddev": 0.0,
        "micro_batch": 5,
        "key": KEY,
        "sampling_entropy": seeded("coins"),
        "noise_entropy": seeded("noise"),
    }
    optimizer = changes.pop("optimizer", LocalOptimizer(optimizer="sgd", learning_rate=0.5))
    train_private(model, OBJECTIVE, data, optimizer, **(values | changes))


def plain(model: nn.Module, data: ClientData, *, key: tuple[int, ...] = KEY, **settings: object) -> None:
    train_plain(model, OBJECTIVE, data, LocalOptimizer(**settings), epochs=2, batch=10, key=key)


def test_plain_training_sees_every_record_once_an_epoch_and_draws_for_it_anew(
    data: ClientData, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[object, list[int]] = {}
    honest = ClientData.records

    def watch(self: ClientData, index: np.ndarray, *rest: object) -> object:
        seen.setdefault(rest[-1], []).extend(index.tolist())
        return honest(self, index, *rest)

    monkeypatch.setattr(ClientData, "records", watch)
    plain(unet(), data)
    assert list(seen) == [(*KEY, 0), (*KEY, 1)]
    assert [sorted(order) for order in seen.values()] == [list(range(N))] * 2
    assert seen[*KEY, 0] != seen[*KEY, 1]


def test_private_training_takes_the_planned_steps_on_the_sampled_records(
    data: ClientData, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    honest = ClientData.sample

    def watch(self: ClientData, index: np.ndarray, *rest: object) -> object:
        seen.append((index.tolist(), rest[-1]))
        return honest(self, index, *rest)

    monkeypatch.setattr(ClientData, "sample", watch)
    private(unet(), data, steps=4)
    coins = seeded("coins")
    drawn = [np.flatnonzero(poisson_sample(N, 0.3, coins)).tolist() for _ in range(4)]
    assert seen == [(sample, (*KEY, step)) for step, sample in enumerate(drawn)]
    assert len({tuple(sample) for sample in drawn}) == 4


def test_a_private_step_is_the_integer_sum_of_its_sample_and_one_draw_of_noise(data: ClientData) -> None:
    model = unet()
    before, grid = flatten(model), IntegerGrid.for_dimension(dimension(model), 0.1)
    chosen = np.flatnonzero(poisson_sample(N, 0.3, seeded("coins")))
    chunks = micro_batches(model, OBJECTIVE, data.records(chosen, OBJECTIVE, (*KEY, 0)), 5)
    total = integer_sum(chunks, grid, len(before)) + discrete_gaussian(50.0, len(before), seeded("noise"))
    private(model, data, steps=1, noise_stddev=50.0)
    expected = before - 0.5 * (torch.from_numpy(total / grid.scale).float() / 7)
    torch.testing.assert_close(flatten(model), expected, rtol=0, atol=1e-8)


def test_a_step_whose_sample_is_empty_is_a_step_of_noise(data: ClientData) -> None:
    silent, noisy = unet(), unet()
    before = flatten(silent)
    private(silent, data, steps=3, sampling_rate=1e-12)
    private(noisy, data, steps=3, sampling_rate=1e-12, noise_stddev=50.0)
    assert torch.equal(flatten(silent), before)
    assert float((flatten(noisy) != before).float().mean()) > 0.9


def test_the_coins_are_the_operating_systems_unless_a_test_brings_its_own(
    data: ClientData, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = []
    honest = local.poisson_sample
    monkeypatch.setattr(local, "poisson_sample", lambda *a: drawn.append(honest(*a)) or drawn[-1])
    grid = IntegerGrid.for_dimension(dimension(unet()), 0.1)
    train_private(
        unet(),
        OBJECTIVE,
        data,
        LocalOptimizer(),
        steps=4,
        sampling_rate=0.5,
        divisor=7,
        grid=grid,
        noise_stddev=10.0,
        micro_batch=16,
        key=KEY,
    )
    assert len({tuple(sample.tolist()) for sample in drawn}) == 4  # equal with probability below 2^-21


def test_the_pull_to_the_start_is_neither_clipped_nor_noised(data: ClientData) -> None:
    # Without data and noise the first step moves nothing, so the pull of the second is zero as well.
    still = unet()
    before = flatten(still)
    private(
        still,
        data,
        sampling_rate=1e-12,
        optimizer=LocalOptimizer(optimizer="sgd", learning_rate=0.5, prox_mu=10.0),
    )
    assert torch.equal(flatten(still), before)
    # One step of noise moves it; the next one undoes lr * mu of that and adds its own noise.
    free, pulled = unet(), unet()
    for model, mu in ((free, 0.0), (pulled, 0.4)):
        private(
            model,
            data,
            sampling_rate=1e-12,
            noise_stddev=500.0,
            optimizer=LocalOptimizer(optimizer="sgd", learning_rate=0.5, prox_mu=mu),
        )
    grid = IntegerGrid.for_dimension(len(before), 0.1)
    entropy = seeded("noise")
    first, second = (
        torch.from_numpy(discrete_gaussian(500.0, len(before), entropy) / grid.scale).float() / 7
        for _ in range(2)
    )
    torch.testing.assert_close(flatten(free), before - 0.5 * (first + second), rtol=0, atol=1e-6)
    expected = before - 0.5 * first * (1 - 0.5 * 0.4) - 0.5 * second
    torch.testing.assert_close(flatten(pulled), expected, rtol=0, atol=1e-6)
    assert float((0.1 * first).norm()) > 100 * 1e-6


def test_plain_training_is_decided_by_its_key(data: ClientData) -> None:
    ends = []
    for key in (KEY, KEY, (0, 4, 1, 0)):
        model = unet()
        torch.manual_seed(len(ends))  # the global generator has no say
        plain(model, data, key=key)
        ends.append(flatten(model))
    assert torch.equal(ends[0], ends[1])
    assert not torch.equal(ends[0], ends[2])


def test_plain_training_lowers_the_loss(data: ClientData) -> None:
    model = unet()
    records = data.records(np.arange(N), OBJECTIVE, ("probe",))

    def loss() -> float:
        with torch.no_grad():
            return float(
                OBJECTIVE.loss_batch(
                    model, records.images, records.labels, records.draws.timesteps, records.draws.noise
                )
            )

    before = loss()
    for _ in range(3):
        plain(model, data, learning_rate=3e-3)
    assert loss() < 0.95 * before


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_a_stronger_pull_ends_nearer_to_the_start(optimizer: str, data: ClientData) -> None:
    rate = {"adam": 1e-3, "sgd": 0.05}[optimizer]
    distances = []
    for mu in (0.0, 5.0):
        model = unet()
        before = flatten(model)
        plain(model, data, optimizer=optimizer, learning_rate=rate, prox_mu=mu)
        distances.append(float((flatten(model) - before).norm()))
    assert 0 < distances[1] < 0.95 * distances[0]


def test_every_record_is_seen_once_an_epoch(data: ClientData, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    honest = ClientData.records
    monkeypatch.setattr(
        ClientData, "records", lambda s, index, *rest: seen.append(index) or honest(s, index, *rest)
    )
    plain(unet(), data)
    assert [len(batch) for batch in seen] == [10, 10, 4] * 2
    first, second = np.concatenate(seen[:3]), np.concatenate(seen[3:])
    assert sorted(first) == sorted(second) == list(range(N))
    assert list(first) != list(second)


def test_records_keep_their_draws_whoever_stands_beside_them(data: ClientData, held: ImageSet) -> None:
    several = data.records(np.array([2, 5, 11]), OBJECTIVE, KEY)
    alone = data.records(np.array([5]), OBJECTIVE, KEY)
    assert torch.equal(several.images[1], alone.images[0])
    assert torch.equal(several.draws.noise[1], alone.draws.noise[0])
    direct = draw(OBJECTIVE.settings, (1, 8, 8), keys=[(*KEY, *record_names(held)[5])])
    assert torch.equal(alone.draws.noise, direct.noise)
    assert torch.equal(alone.draws.timesteps, direct.timesteps)
    assert len(data.records(np.arange(0), OBJECTIVE, KEY)) == 0


@pytest.mark.parametrize("gone", [0, 9, N - 1])
def test_without_a_record_every_other_one_is_what_it_was(data: ClientData, held: ImageSet, gone: int) -> None:
    rest = np.delete(np.arange(N), gone)
    without = ClientData(held_without(held, gone), patch=1, device="cpu")
    shorter = without.records(np.arange(N - 1), OBJECTIVE, KEY)
    before = data.records(rest, OBJECTIVE, KEY)
    assert torch.equal(shorter.images, before.images)
    assert torch.equal(shorter.draws.timesteps, before.draws.timesteps)
    assert torch.equal(shorter.draws.noise, before.draws.noise)


def test_a_record_is_named_by_its_pixels_its_label_and_its_copy(held: ImageSet) -> None:
    one = held.images[:1]
    other = one.copy()
    other[0, 0, 7, 7] ^= 1
    images = np.concatenate([one, one, one, other])
    names = record_names(ImageSet(images, np.array([0, 1, -1, 0])))
    assert len({digest for digest, _ in names}) == 4
    copies = ImageSet(np.concatenate([one, other, one, one]), np.zeros(4, dtype=np.int64))
    first, second, third, fourth = record_names(copies)
    assert (first, third, fourth) == tuple((names[0][0], count) for count in range(3))
    assert second == (names[3][0], 0)
    for gone in (0, 2, 3):  # whichever copy is taken away, the last name is gone
        assert set(record_names(held_without(copies, gone))) == {first, second, third}


def held_without(images: ImageSet, gone: int) -> ImageSet:
    return images.subset(np.delete(np.arange(len(images)), gone))


@pytest.mark.parametrize("sampling_rate", [0.3, 1.0])
def test_no_more_than_a_micro_batch_is_gathered_at_once(
    sampling_rate: float, data: ClientData, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    gathered = []
    monkeypatch.setattr(local, "draw", lambda *a, keys: gathered.append(len(keys)) or draw(*a, keys=keys))
    private(unet(), data, sampling_rate=sampling_rate)
    assert 0 < max(gathered) <= 5
    lab = Laboratory(tmp_path)
    plan = lab.plan("distributed", f"modes.distributed.sampling_rate={sampling_rate}")
    it = lab.contributor(
        plan, 0, digits().train.subset(slice(0, 40)), entropy=seeded("noise"), coins=seeded("coins")
    )
    gathered.clear()
    it.vector(plan.releases["training"], flatten(it.model).numpy(), number=1, attempt=0)
    assert 0 < max(gathered) <= 16


def test_what_is_gathered_in_parts_is_what_is_gathered_at_once(data: ClientData) -> None:
    chosen = np.array([1, 2, 5, 7, 11, 20])
    whole, sample = data.records(chosen, OBJECTIVE, KEY), data.sample(chosen, OBJECTIVE, KEY)
    assert len(sample) == 6
    for start, end in ((0, 4), (4, 6)):
        part, index = sample.at(torch.arange(start, end)), torch.arange(start, end)
        assert torch.equal(part.images, whole.images[index])
        assert torch.equal(part.labels, whole.labels[index])
        assert torch.equal(part.draws.timesteps, whole.draws.timesteps[index])
        assert torch.equal(part.draws.noise, whole.draws.noise[index])
