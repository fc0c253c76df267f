"""The learning rate's course against its formulas, and the server that steps by it."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from secure_fed_diffusion import config
from secure_fed_diffusion.errors import ConfigError
from secure_fed_diffusion.federation.server import Server
from secure_fed_diffusion.federation.stepping import (
    CourseSettings,
    UpdateServerSettings,
    course,
    learning_rate_at,
)
from secure_fed_diffusion.training.vectors import flatten
from tests.federation.small import federation, settings_for

ROUNDS = 40


def shares(**values: object) -> list[float]:
    settings = CourseSettings(**values)  # type: ignore[arg-type]
    return [course(settings, t, ROUNDS) for t in range(1, ROUNDS + 1)]


def test_the_default_course_is_constant() -> None:
    assert shares() == [1.0] * ROUNDS


@pytest.mark.parametrize("schedule", ["constant", "linear", "cosine", "trapezoid"])
def test_every_course_climbs_linearly_first_and_stays_within_its_bounds(schedule: str) -> None:
    found = shares(schedule=schedule, warmup_share=0.25, final_share=0.1)
    assert found[:10] == pytest.approx([t / 10 for t in range(1, 11)])
    assert found[10] == 1.0
    assert all(0.1 <= share <= 1.0 for share in found[10:])
    assert found[10:] == sorted(found[10:], reverse=True)


def test_the_descents_follow_their_formulas() -> None:
    gone = [t / ROUNDS for t in range(ROUNDS)]
    assert shares(schedule="linear") == pytest.approx([1 - p for p in gone])
    assert shares(schedule="cosine", final_share=0.2) == pytest.approx(
        [0.2 + 0.4 * (1 + math.cos(math.pi * p)) for p in gone]
    )
    trapezoid = shares(schedule="trapezoid", decay_share=0.25)
    assert trapezoid[:30] == [1.0] * 30
    assert trapezoid[30:] == pytest.approx([1 - k / 11 for k in range(1, 11)])
    assert min(shares(schedule=s)[-1] for s in ("linear", "cosine", "trapezoid")) > 0.0  # no round is idle


def test_a_rate_is_the_round_s_alone() -> None:
    settings = UpdateServerSettings(schedule="cosine")
    assert learning_rate_at(settings, 0.5, 7, ROUNDS) == 0.5 * course(settings, 7, ROUNDS)
    assert shares(schedule="cosine") == shares(schedule="cosine")


def test_the_server_steps_by_the_rate_of_its_training_round_and_the_warm_up_counts_for_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    it = federation(
        settings_for(
            "distributed",
            "modes.distributed.server.optimizer=sgd",
            "modes.distributed.server.momentum=0.0",
            "modes.distributed.server.schedule=linear",
            "modes.distributed.learning_rate=0.5",
        ),
        noise=False,
    )
    monkeypatch.setattr(Server, "survivors", (0, 1, 2, 3, 4))  # of sums that are handed in as they are
    server, release = it.server, it.plan.releases["training"]
    total = np.arange(release.length, dtype=np.int64)
    mean = torch.from_numpy(release.grid.to_float(total) / release.divisor).float()
    assert [planned.release for planned in it.plan.rounds] == ["prototypes", *["training"] * 3]
    for number, share in ((2, 1.0), (3, 2 / 3), (4, 1 / 3)):
        server.open(number, 0)
        before = flatten(server.model)
        server.apply(total)
        torch.testing.assert_close(flatten(server.model), before - 0.5 * share * mean, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("beta1", "1.0"),
        ("beta2", "-0.1"),
        ("momentum", "1.0"),
        ("epsilon", "0.0"),
        ("weight_decay", "-1.0"),
        ("noise_floor", "nan"),
        ("warmup_share", "1.5"),
        ("decay_share", "-0.5"),
        ("final_share", "2.0"),
        ("relative_stddev", "0.3"),
        ("tail_share", "0.0"),
        ("optimizer", "lion"),
        ("schedule", "step"),
    ],
)
def test_an_impossible_value_is_refused_by_its_key(key: str, value: str) -> None:
    with pytest.raises(ConfigError) as refused:
        config.parse("", [f"modes.distributed.server.{key}={value}"])
    assert refused.value.key == f"modes.distributed.server.{key}"


def test_a_climb_and_a_descent_fit_into_the_rounds() -> None:
    with pytest.raises(ConfigError, match=r"warmup_share \+ decay_share <= 1, got 1.2"):
        config.parse(
            "",
            [
                f"modes.central.server.{k}"
                for k in ("schedule=trapezoid", "warmup_share=1", "decay_share=0.2")
            ],
        )


def test_an_optimiser_of_updates_is_none_of_gradients() -> None:
    for mode, optimizer in (("distributed", "average"), ("client", "adam_bc"), ("local", "sgd")):
        with pytest.raises(ConfigError, match="expected one of"):
            config.parse("", [f"modes.{mode}.server.optimizer={optimizer}"])
