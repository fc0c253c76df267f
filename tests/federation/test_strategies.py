"""The server's optimisers against torch, their papers' formulas, and their own saved states."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from torch import Tensor

from secure_fed_diffusion.federation.rounds import run_rounds
from secure_fed_diffusion.federation.server import Server, make_average
from secure_fed_diffusion.federation.settings import AveragingSettings, LocalSettings, StepSettings
from secure_fed_diffusion.federation.stepping import GradientServerSettings, UpdateServerSettings
from secure_fed_diffusion.federation.strategies import Strategy, base_learning_rate, make_strategy
from secure_fed_diffusion.secagg.encoding import centred
from secure_fed_diffusion.training.vectors import flatten
from tests.federation.small import federation, settings_for

D = 7
GRADIENT = ("adam", "adamw", "adam_bc", "sgd")
UPDATE = ("average", "momentum", "adam")


def of_gradients(optimizer: str, **values: float) -> Strategy:
    server = GradientServerSettings(optimizer=optimizer, **values)  # type: ignore[arg-type]
    return make_strategy(StepSettings(server=server), D)


def of_updates(optimizer: str, **values: float) -> Strategy:
    server = UpdateServerSettings(optimizer=optimizer, **values)  # type: ignore[arg-type]
    return make_strategy(AveragingSettings(server=server), D)


def means(n: int, seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return list(torch.randn((n, D), generator=generator, dtype=torch.float64))


def walk(
    strategy: Strategy,
    vectors: list[Tensor],
    *,
    rate: float = 0.1,
    noise: float = 0.0,
    start: Tensor | None = None,
) -> Tensor:
    weights = torch.ones(D) if start is None else start
    for mean in vectors:
        weights = strategy.step(weights, mean, learning_rate=rate, noise_variance=noise)
    return weights


@pytest.mark.parametrize("kind", ["adam", "adamw", "sgd"])
def test_gradients_step_torch_s_own_optimiser(kind: str) -> None:
    weights = torch.ones(D, requires_grad=True)
    theirs: torch.optim.Optimizer = {
        "adam": lambda: torch.optim.Adam([weights], lr=0.1, betas=(0.8, 0.95), eps=1e-6),
        "adamw": lambda: torch.optim.AdamW([weights], lr=0.1, betas=(0.8, 0.95), eps=1e-6, weight_decay=0.3),
        "sgd": lambda: torch.optim.SGD([weights], lr=0.1, momentum=0.7),
    }[kind]()
    for mean in means(6):
        weights.grad = mean.float()
        theirs.step()
    ours = of_gradients(kind, beta1=0.8, beta2=0.95, epsilon=1e-6, weight_decay=0.3, momentum=0.7)
    assert torch.equal(walk(ours, means(6)), weights.detach())


def test_the_default_is_the_adam_of_every_earlier_run() -> None:
    weights = torch.ones(D, requires_grad=True)
    adam = torch.optim.Adam([weights], lr=2e-3)
    for mean in means(5):
        weights.grad = mean.float()
        adam.step()
    recipe = StepSettings()
    assert base_learning_rate(recipe) == 2e-3
    assert torch.equal(walk(make_strategy(recipe, D), means(5), rate=2e-3), weights.detach())


def test_without_noise_the_corrected_adam_is_adam() -> None:
    torch.testing.assert_close(
        walk(of_gradients("adam_bc"), means(9)), walk(of_gradients("adam"), means(9)), rtol=1e-5, atol=1e-6
    )


def test_the_correction_takes_the_noise_s_own_variance_out_of_the_second_moment() -> None:
    """A signal of 1 under noise of 4: Adam steps by 1/sqrt(17), the corrected by 1 (Tang et al.).

    With 4,000 steps at beta2 = .999 the mean of 100 coordinates' second moments is within 5 % of its
    expectation (6 standard errors).
    """
    generator = torch.Generator().manual_seed(0)
    noisy = [1 + 4 * torch.randn(100, generator=generator, dtype=torch.float64) for _ in range(4000)]
    moved = {}
    for kind in ("adam", "adam_bc"):
        recipe = StepSettings(
            server=GradientServerSettings(optimizer=kind, beta1=0.999)  # type: ignore[arg-type]
        )
        strategy, weights = make_strategy(recipe, 100), torch.zeros(100)
        for mean in noisy:
            before, weights = weights, strategy.step(weights, mean, learning_rate=1.0, noise_variance=16.0)
        moved[kind] = float((before - weights).mean())
    assert moved["adam"] == pytest.approx(17**-0.5, rel=0.1)
    assert moved["adam_bc"] > 2 * moved["adam"]


def test_the_corrected_second_moment_follows_its_formula_while_the_noise_changes() -> None:
    ours = of_gradients("adam_bc", beta1=0.5, beta2=0.9, noise_floor=0.2)
    m = v = phi = torch.zeros(D, dtype=torch.float64)
    weights = expected = torch.ones(D)
    for t, (mean, noise) in enumerate(zip(means(6), (0.1, 0.1, 0.1, 3.0, 3.0, 0.2), strict=True), start=1):
        m, v, phi = 0.5 * m + 0.5 * mean, 0.9 * v + 0.1 * mean**2, 0.9 * phi + 0.1 * noise
        left = 1 - 0.9**t
        signal = torch.maximum(v / left - phi / left, 0.2 * phi / left)
        expected = (expected.double() - 0.1 * (m / (1 - 0.5**t)) / (signal.sqrt() + 1e-8)).float()
        weights = ours.step(weights, mean, learning_rate=0.1, noise_variance=noise)
    torch.testing.assert_close(weights, expected, rtol=1e-6, atol=1e-7)


def test_updates_are_averaged_as_in_fedavg() -> None:
    update = means(1)[0]
    start = torch.ones(D)
    assert torch.equal(walk(of_updates("average"), [update], rate=1.0), start + update.float())
    recipe = LocalSettings()
    assert base_learning_rate(recipe) == 1.0  # not the clients' own 1e-3
    torch.testing.assert_close(walk(of_updates("average"), [update], rate=0.5), start + 0.5 * update.float())


def test_fedavgm_and_fedadam_follow_reddi_s_algorithms() -> None:
    m = v = torch.zeros(D)
    weights = torch.ones(D)
    for update in means(5):
        m = 0.6 * m + update.float()
        weights = weights + 0.3 * m
    torch.testing.assert_close(walk(of_updates("momentum", momentum=0.6), means(5), rate=0.3), weights)
    m, v, weights = torch.zeros(D), torch.full((D,), 0.01), torch.ones(D)
    for update in means(5):
        m = 0.8 * m + 0.2 * update.float()
        v = 0.9 * v + 0.1 * update.float() ** 2
        weights = weights + 0.3 * m / (v.sqrt() + 0.1)
    torch.testing.assert_close(
        walk(of_updates("adam", beta1=0.8, beta2=0.9, tau=0.1), means(5), rate=0.3), weights
    )


@pytest.mark.parametrize(
    ("make", "kind"), [(of_gradients, k) for k in GRADIENT] + [(of_updates, k) for k in UPDATE]
)
def test_a_saved_state_goes_on_to_the_bit(make: object, kind: str) -> None:
    vectors = means(8)
    whole = walk(make(kind), vectors, noise=0.01)  # type: ignore[operator]
    first, second = make(kind), make(kind)  # type: ignore[operator]
    middle = walk(first, vectors[:4], noise=0.01)
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    file.seek(0)
    second.load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(walk(second, vectors[4:], noise=0.01, start=middle), whole)
    if kind != "average":  # the test can fail: without its state the second half goes elsewhere
        assert not torch.equal(walk(make(kind), vectors[4:], noise=0.01, start=middle), whole)  # type: ignore[operator]


@pytest.mark.parametrize(
    ("mode", "overrides"),
    [
        ("distributed", ("optimizer=adam_bc", "schedule=cosine", "average=power")),
        ("distributed", ("optimizer=sgd", "schedule=trapezoid", "average=tail", "tail_share=0.6")),
        ("client", ("optimizer=adam", "average=power")),
        ("none", ("optimizer=momentum", "schedule=linear")),
    ],
)
def test_a_server_that_is_put_down_between_rounds_goes_on_to_the_bit(
    mode: str, overrides: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = settings_for(mode, *(f"modes.{mode}.server.{each}" for each in overrides))
    totals = []
    one = federation(settings, noise=False, seed="whole")
    for outcome in run_rounds(one.plan, one.server, one.engine, one.book, first=1, note=print):
        one.server.apply(outcome.total)
        totals.append(outcome.total)
    monkeypatch.setattr(Server, "survivors", (0, 1, 2, 3, 4))  # of sums that are handed in as they are
    two, three = (federation(settings, noise=False, seed="whole") for _ in range(2))
    for part, numbers in ((two, (1, 2)), (three, range(3, len(totals) + 1))):
        for number in numbers:
            part.server.open(number, 0)
            part.server.apply(totals[number - 1])
        if part is two:
            file = io.BytesIO()
            torch.save(two.server.state_dict(), file)
            file.seek(0)
            three.server.load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(flatten(three.server.model), flatten(one.server.model))
    assert torch.equal(three.server.average.average, one.server.average.average)


def test_mode_none_weighs_each_update_by_the_records_behind_it() -> None:
    it = federation(settings_for("none", "warmup.draws=0", "federation.masked=false"))
    encoding, before = it.plan.releases["training"].fixed_point, flatten(it.server.model)
    updates = {10: 0.25, 30: -0.5}  # by records
    total = np.zeros(it.plan.dimension + 1, dtype=np.uint64)
    for records, update in updates.items():
        vector = encoding.encode(np.full(it.plan.dimension, update), weight=records).vector
        total += np.append(vector.astype(np.uint64), np.uint64(records))
    it.server.open(1, 0)
    it.server.take_sum(centred(total, encoding.modulus_bits))
    mean = sum(records * update for records, update in updates.items()) / sum(updates)
    torch.testing.assert_close(flatten(it.server.model) - before, torch.full_like(before, mean))


def test_the_average_begins_anew_where_the_warm_up_ends() -> None:
    it = federation(settings_for("central", "federation.masked=false"))
    initial = flatten(it.server.model)
    it.server.apply(next(run_rounds(it.plan, it.server, it.engine, it.book, first=1, note=print)).total)
    assert not torch.equal(flatten(it.server.model), initial)
    assert torch.equal(it.server.average.average, flatten(it.server.model))


def test_the_tail_is_the_share_of_the_rounds_at_their_end() -> None:
    recipe = StepSettings(rounds=10, server=GradientServerSettings(average="tail", tail_share=0.35))
    average = make_average(recipe, torch.zeros(1))
    for number in range(1, 11):
        average.update(torch.tensor([float(number)]))
    assert average.average.tolist() == pytest.approx([8.5])  # of rounds 7 to 10


@pytest.mark.parametrize("mode", ["distributed", "central", "client"])
def test_the_noise_s_variance_is_that_of_the_sum_that_the_server_decodes(mode: str) -> None:
    it = federation(settings_for(mode))
    seen: list[float] = []
    honest = it.server._strategy.step

    def spy(weights: Tensor, mean: Tensor, *, learning_rate: float, noise_variance: float) -> Tensor:
        seen.append(noise_variance)
        return honest(weights, mean, learning_rate=learning_rate, noise_variance=noise_variance)

    it.server._strategy.step = spy  # type: ignore[method-assign]
    for outcome in run_rounds(it.plan, it.server, it.engine, it.book, first=1, note=print):
        it.server.apply(outcome.total)
    release = it.plan.releases["training"]
    draws = 1 if mode == "central" else len(outcome.survivors)
    stddev = release.mechanism.draw_stddev * draws**0.5 / release.grid.scale / release.divisor
    assert seen == pytest.approx([stddev**2] * len(seen))
    if mode == "distributed":  # the decoded mean is mostly noise, and as wide as it is said to be
        spread = (release.grid.to_float(outcome.total) / release.divisor).std()
        assert 0.95 * stddev < spread < 1.5 * stddev
