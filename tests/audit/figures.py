"""Print the figures of docs/auditing.md: `python -m tests.audit.figures`, one or two minutes on one core."""

from __future__ import annotations

from typing import Any

import numpy as np

from secure_fed_diffusion.audit.anytime import alarm_round, e_values
from secure_fed_diffusion.audit.conformance import conformance
from secure_fed_diffusion.audit.lower_bounds import known_noise_bound, likelihood_ratio_bound
from secure_fed_diffusion.audit.tradeoff import NoiseLadder
from tests.audit.simulated import run
from tests.audit.test_lower_bounds import DELTA, MUTANTS, PLAN, bounds


def tightness() -> None:
    """Median lower bounds on one Gaussian release with ε = 4.38."""
    for n_canaries in (1000, 200):
        for auditor, trials in (
            ("A1", 40), ("A2", 400), ("A3", 400), ("A4", 400), ("Clopper-Pearson", 400), ("known noise", 400)
        ):  # fmt: skip
            found = np.median(bounds(auditor, trials, seed=1, n_canaries=n_canaries))
            print(f"m = {n_canaries}: {auditor} {found:.2f} ({trials} runs)")
        rng = np.random.default_rng(2)
        everyone = np.ones(n_canaries, dtype=bool)
        runs = (run(rng, n_canaries=n_canaries, included=everyone) for _ in range(400))
        all_in = np.median([known_noise_bound(seen, delta=DELTA).epsilon for seen in runs])
        print(f"m = {n_canaries}: known noise, every canary included {all_in:.2f} (400 runs)")


def broken_runs() -> None:
    """A1 on σ = 1, q = 0.1, T = 100, of which 7.05 is claimed, right and broken."""
    for n_canaries in (200, 1000):
        claimed = NoiseLadder(rounds=((1.0, 0.1, 100),)).epsilon(1.0, DELTA)
        for name, broken in {"correct": {}, **MUTANTS}.items():
            settings: dict[str, Any] = {**PLAN, "n_canaries": n_canaries, **broken}
            runs = [run(np.random.default_rng(seed), **settings) for seed in range(5)]
            found = np.median([likelihood_ratio_bound(seen, delta=DELTA).epsilon for seen in runs])
            print(f"A1, m = {n_canaries}, claimed {claimed:.2f}: {name} {found:.2f} (5 runs)")


def anytime() -> None:
    """A6 over twenty rounds of 200 canaries."""
    for noise_factor, trials in ((1.0, 2000), (0.95, 1000)):
        rng = np.random.default_rng(3)
        plan: dict[str, Any] = {"n_canaries": 200, "n_rounds": 20, "rate": 0.1, "noise_factor": noise_factor}
        values = [e_values(run(rng, **plan)) for _ in range(trials)]
        for false_alarm in (0.05, 0.01):
            alarms = [alarm_round(each, false_alarm=false_alarm) for each in values]
            raised = np.mean([each is not None for each in alarms])
            middle = np.median([each or np.inf for each in alarms])
            print(
                f"A6, noise x {noise_factor}, budget {false_alarm}: alarm {raised:.1%}, median round {middle}"
            )


def smallest_violations() -> None:
    """What a passed A0 could have seen."""
    rng = np.random.default_rng(4)
    for n_canaries, n_rounds in ((100, 20), (200, 20), (1000, 20), (200, 100)):
        seen = run(rng, n_canaries=n_canaries, n_rounds=n_rounds, rate=0.1)
        print(f"A0, m = {n_canaries}, R = {n_rounds}, q = 0.1: {conformance(seen).smallest_violation}")


if __name__ == "__main__":
    tightness()
    broken_runs()
    anytime()
    smallest_violations()
