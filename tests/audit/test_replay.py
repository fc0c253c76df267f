from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from secure_fed_diffusion.audit.replay import Event, replay
from secure_fed_diffusion.dp import IntegerGrid, discrete_gaussian, poisson_sample
from secure_fed_diffusion.entropy import Entropy
from secure_fed_diffusion.errors import ConfigError

Records = list["float | None"]  # None is the gap that a removed record leaves

FULL: Records = [2.0, -1.0, 0.5, 9.0, 3.0]
LESS: Records = [2.0, -1.0, 0.5, None, 3.0]


def honest(data: Records, entropy: Entropy, event: Event) -> np.ndarray:
    sampled = poisson_sample(len(data), 0.9999, entropy)
    event("sampled")
    total = sum(
        int(np.clip(x, -4, 4)) for x, coin in zip(data, sampled, strict=True) if coin and x is not None
    )
    event("summed")
    return np.array([total]) + discrete_gaussian(8.0, 1, entropy)


def test_a_query_that_does_what_it_says_passes() -> None:
    found = replay(honest, FULL, LESS, sensitivity=4, entropy=np.random.default_rng(1).bytes)
    assert found.passed
    assert found.distance == 4.0
    assert found.steps == ("sampled", "summed")


def test_a_sensitivity_that_is_declared_too_small_is_found_exactly() -> None:
    found = replay(honest, FULL, LESS, sensitivity=3, entropy=np.random.default_rng(1).bytes)
    assert found.finding == "the answers differ by more than the declared sensitivity 3"


def no_clip(data: Records, entropy: Entropy, event: Event) -> np.ndarray:
    return np.array([sum(int(x) for x in data if x is not None)]) + discrete_gaussian(8.0, 1, entropy)


def mean_by_private_size(data: Records, entropy: Entropy, event: Event) -> np.ndarray:
    present = [int(np.clip(x, -4, 4)) for x in data if x is not None]
    return np.array([1000 * sum(present) // len(present)])


def batch_clip(data: Records, entropy: Entropy, event: Event) -> np.ndarray:
    total = np.array([3, 4, 0, 0]) * (1 if None in data else -1)
    return total // 1


def step_per_record(data: Records, entropy: Entropy, event: Event) -> np.ndarray:
    for x in data:
        if x is not None:
            event("record")
    return np.zeros(1, dtype=np.int64)


def another_step_name(data: Records, entropy: Entropy, event: Event) -> np.ndarray:
    event("start")
    event("large" if any(x and x > 5 for x in data) else "small")
    return np.zeros(1, dtype=np.int64)


def coins_per_record(data: Records, entropy: Entropy, event: Event) -> np.ndarray:
    return np.array([int(entropy(len([x for x in data if x is not None]))[0]) * 0])


def draws_until_enough(data: Records, entropy: Entropy, event: Event) -> np.ndarray:
    for x in data:
        if x is not None:
            entropy(4)
    return np.zeros(1, dtype=np.int64)


def no_noise_on_an_empty_batch(data: Records, entropy: Entropy, event: Event) -> np.ndarray:
    return discrete_gaussian(8.0, 1, entropy) if 9.0 in data else np.zeros(1, dtype=np.int64)


def raises_on_one(data: Records, entropy: Entropy, event: Event) -> np.ndarray:
    if None in data:
        raise ValueError("the content of a record must not be told")
    return np.zeros(1, dtype=np.int64)


def length_by_data(data: Records, entropy: Entropy, event: Event) -> np.ndarray:
    return np.zeros(sum(x is not None for x in data), dtype=np.int64)


def float_on_one(data: Records, entropy: Entropy, event: Event) -> np.ndarray:
    return np.zeros(1, dtype=np.float64 if None in data else np.int64)


@pytest.mark.parametrize(
    ("query", "finding"),
    [
        (no_clip, "declared sensitivity"),
        (mean_by_private_size, "declared sensitivity"),
        (batch_clip, "declared sensitivity"),
        (step_per_record, "step 5 depends on the data"),
        (another_step_name, "step 2 depends on the data"),
        (coins_per_record, "draw 1 of randomness depends on the data"),
        (draws_until_enough, "4 draws of randomness instead of 5"),
        (no_noise_on_an_empty_batch, "0 draws of randomness instead of 1"),
        (raises_on_one, "ValueError was raised"),
        (length_by_data, "differ in shape or type"),
        (float_on_one, "differ in shape or type"),
    ],
)
def test_each_way_of_breaking_a_query_is_found(query: Callable[..., np.ndarray], finding: str) -> None:
    found = replay(query, FULL, LESS, sensitivity=8)
    assert not found.passed
    assert finding in (found.finding or "")
    assert "content" not in (found.finding or "")


def test_randomness_that_does_not_come_from_the_argument_is_found() -> None:
    rng = np.random.default_rng(1)

    def own_noise(data: Records, entropy: Entropy, event: Event) -> np.ndarray:
        return rng.integers(0, 1 << 40, size=3)

    found = replay(own_noise, FULL, LESS, sensitivity=4)
    assert found.finding == "on the same data: the same data and randomness gave another answer"


def test_an_answer_in_a_buffer_that_is_used_again_is_compared_as_it_was() -> None:
    buffer = np.zeros(1, dtype=np.int64)

    def reuses(data: Records, entropy: Entropy, event: Event) -> np.ndarray:
        buffer[0] = sum(x is not None for x in data) * 100
        return buffer

    assert not replay(reuses, FULL, LESS, sensitivity=4).passed


def test_distances_beyond_64_bits_are_exact() -> None:
    def huge(data: Records, entropy: Entropy, event: Event) -> np.ndarray:
        return np.array([2**62 if None in data else -(2**62)])

    assert not replay(huge, FULL, LESS, sensitivity=2**63 - 1).passed
    assert replay(huge, FULL, LESS, sensitivity=2**63).passed


@pytest.mark.parametrize("hostile", [1e30, np.inf, np.nan, -3.0, 1e-30])
def test_the_packages_own_rounding_and_noise_hold_the_declared_sensitivity(hostile: float) -> None:
    grid = IntegerGrid.for_dimension(50, clip_norm=1.0)
    rng = np.random.default_rng(2)
    gradients = rng.normal(size=(6, 50))
    gradients[2] *= hostile

    def rounded_sum(kept: np.ndarray, entropy: Entropy, event: Event) -> np.ndarray:
        total = grid.round(gradients[kept]).sum(axis=0)
        event("summed")
        return total + discrete_gaussian(64.0, 50, entropy)

    found = replay(rounded_sum, np.arange(6), np.array([0, 1, 3, 4, 5]), sensitivity=grid.norm_bound)
    assert found.finding is None


def test_a_query_of_floats_and_a_negative_sensitivity_are_refused() -> None:
    with pytest.raises(ConfigError, match="query"):
        replay(lambda data, entropy, event: np.zeros(1), FULL, LESS, sensitivity=1)
    with pytest.raises(ConfigError, match="sensitivity"):
        replay(honest, FULL, LESS, sensitivity=-1)
