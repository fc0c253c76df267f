from __future__ import annotations

import pytest

from secure_fed_diffusion.dp import View, calibrate, epsilon
from secure_fed_diffusion.errors import ConfigError, HopelessBudgetError
from tests.dp.plans import MODEL, gaussian, shares


@pytest.mark.parametrize("accountant", ["pld", "rdp"])
@pytest.mark.parametrize("target", [0.3, 2.0, 10.0])
def test_the_target_is_met_and_hardly_less_noise_would_do(target: float, accountant: str) -> None:
    def cost(scale: float) -> float:
        return epsilon({gaussian(scale, 0.1): 60}, delta=1e-5, view=MODEL, accountant=accountant)  # type: ignore[arg-type]

    scale = calibrate(
        lambda s: {gaussian(s, 0.1): 60},
        target_epsilon=target,
        delta=1e-5,
        view=MODEL,
        accountant=accountant,  # type: ignore[arg-type]
    )
    assert cost(scale) <= target < cost(scale / 1.0011)


def test_what_the_grid_refuses_counts_as_too_little_noise() -> None:
    # Shares below 8 grid units are refused: the search must go on above them, not stop there.
    scale = calibrate(
        lambda s: {shares(s * 4.0, sensitivity=4.0, min_survivors=4): 1},
        target_epsilon=50.0,
        delta=1e-5,
        view=View(name="sum"),
    )
    assert 8.0 <= scale * 4.0 <= 8.01


def test_a_target_that_no_noise_meets_is_a_typed_error() -> None:
    with pytest.raises(HopelessBudgetError, match=r"no noise multiplier.*sum_c5"):
        calibrate(
            lambda s: {shares(s * 100.0, sensitivity=100.0): 1},
            target_epsilon=1.0,
            delta=1e-5,
            view=View(name="sum", colluders=5),
        )


@pytest.mark.parametrize(
    ("field", "value"), [("target_epsilon", 0.0), ("target_epsilon", -1.0), ("tolerance", 0.0)]
)
def test_a_question_without_an_answer_is_refused(field: str, value: float) -> None:
    arguments = {"target_epsilon": 1.0, "tolerance": 1e-3, field: value}
    with pytest.raises(ConfigError, match=field):
        calibrate(lambda s: {gaussian(s): 1}, delta=1e-5, view=MODEL, **arguments)
