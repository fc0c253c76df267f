"""A batch schedule: each phase is a mechanism of its own, from the plan to the ledger and the policies."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from secure_fed_diffusion import config
from secure_fed_diffusion.audit.journal import Journal
from secure_fed_diffusion.audit.report import audit_folder
from secure_fed_diffusion.dp.account import Charge
from secure_fed_diffusion.dp.accounting import epsilon
from secure_fed_diffusion.dp.ledger import Ledger, verify
from secure_fed_diffusion.dp.mechanism import Mechanism
from secure_fed_diffusion.errors import BudgetExceededError, ConfigError, FrameError
from secure_fed_diffusion.federation.messages import NONCE_BYTES, SetupCall
from secure_fed_diffusion.federation.plan import Plan
from secure_fed_diffusion.federation.rounds import record, run_rounds
from secure_fed_diffusion.institution.budget import own_charges
from secure_fed_diffusion.institution.policy import before_planning
from secure_fed_diffusion.institution.settings import PolicySettings
from secure_fed_diffusion.secagg import Roster, SigningKey
from tests.federation.runs import Watcher, finish, make
from tests.federation.small import Federation, federation, settings_for

TWO = (
    "modes.{}.schedule=[{{from_round=1, sampling_rate=0.1, divisor=25}}, "
    "{{from_round=3, sampling_rate=0.4, divisor=100}}]"
)
ROUNDS = "modes.{}.rounds=4"


def two_phases(mode: str = "distributed", *overrides: str, noise: bool = True) -> Federation:
    return federation(
        settings_for(mode, TWO.format(mode), ROUNDS.format(mode), *overrides), noise=noise, seed="s"
    )


def most_steps(plan: Plan) -> dict[Mechanism, int]:
    most: Counter[Mechanism] = Counter()
    for name, release in plan.releases.items():
        most[release.mechanism] += plan.max_charges()[name]
    return {mechanism: count for mechanism, count in most.items() if count}


@pytest.mark.parametrize("mode", ["central", "distributed"])
def test_each_phase_has_its_own_rate_divisor_and_charges_and_all_together_fill_the_budget(mode: str) -> None:
    plan = two_phases(mode).plan
    assert [planned.release for planned in plan.rounds] == [
        "prototypes",
        "training",
        "training",
        "training_2",
        "training_2",
    ]
    first, second = plan.releases["training"], plan.releases["training_2"]
    assert (first.mechanism.sampling_rate, first.divisor) == (0.1, 25)
    assert (second.mechanism.sampling_rate, second.divisor) == (0.4, 100)
    assert first.mechanism.noise_multiplier(plan.guard) == pytest.approx(plan.noise_multiplier)
    assert second.mechanism.noise_multiplier(plan.guard) == pytest.approx(plan.noise_multiplier)
    assert plan.max_charges() == {"prototypes": 2, "training": 3, "training_2": 3}  # the repeat, in each
    spent = epsilon(most_steps(plan), delta=plan.privacy.delta, view=plan.guard)
    assert 0.98 * plan.privacy.epsilon < spent <= plan.privacy.epsilon
    # the claim can fail: were the second phase's rounds charged at the first one's rate, ε would look smaller
    cheap = replace(second.mechanism, sampling_rate=0.1)
    wrong = {
        cheap if m == second.mechanism else m: n for m, n in most_steps(plan).items() if m != first.mechanism
    }
    assert epsilon({**wrong, cheap: 6}, delta=1e-5, view=plan.guard) < 0.9 * spent


def test_phases_that_are_the_same_mechanism_are_counted_together() -> None:
    """Another divisor or clip alone: the mechanisms are equal, and a table by mechanism must add them up."""
    split = "modes.distributed.schedule=[{from_round=3, sampling_rate=0.25, divisor=30, clip_norm=0.01}]"
    it = federation(settings_for("distributed", split, ROUNDS.format("distributed"))).plan
    first, second = it.releases["training"], it.releases["training_2"]
    assert first.mechanism == second.mechanism
    assert (first.grid.clip_norm, second.grid.clip_norm) == (0.05, 0.01)
    assert most_steps(it)[first.mechanism] == 6
    spent = epsilon(most_steps(it), delta=1e-5, view=it.guard)
    assert 0.98 * it.privacy.epsilon < spent <= it.privacy.epsilon


def test_a_phase_s_noise_is_the_common_multiplier_times_its_scale() -> None:
    scaled = "modes.distributed.schedule=[{from_round=2, sampling_rate=0.25, divisor=60, noise_scale=0.5}]"
    it = federation(settings_for("distributed", scaled)).plan
    first, second = (
        it.releases[name].mechanism.noise_multiplier(it.guard) for name in ("training", "training_2")
    )
    assert second == pytest.approx(first / 2)
    assert epsilon(most_steps(it), delta=1e-5, view=it.guard) <= it.privacy.epsilon


def test_a_fixed_multiplier_that_the_phases_together_overspend_is_refused() -> None:
    one = settings_for("distributed", ROUNDS.format("distributed"))
    needed = federation(one).plan.noise_multiplier
    busier = "modes.distributed.schedule=[{from_round=3, sampling_rate=1.0, divisor=250}]"
    with pytest.raises(BudgetExceededError, match="would spend"):
        federation(
            settings_for(
                "distributed", ROUNDS.format("distributed"), busier, f"privacy.noise_multiplier={needed}"
            )
        )


def test_the_phases_are_in_the_digest_and_without_any_the_plan_is_as_it_was() -> None:
    plain, one = (
        federation(settings_for("distributed", *more)).plan
        for more in ((), ("modes.distributed.schedule=[{from_round=1, sampling_rate=0.25, divisor=60}]",))
    )
    assert one.releases == plain.releases
    assert one.rounds == plain.rounds
    assert len({plain.digest, one.digest, two_phases().plan.digest}) == 3


def test_every_client_samples_each_phase_at_its_own_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    it = two_phases(noise=False)
    asked: dict[int, set[float]] = {}
    contributor = type(next(iter(it.contributors.values())))
    honest = contributor._sample

    def spy(self: object, rate: float, *rest: int) -> np.ndarray:
        asked.setdefault(number, set()).add(rate)
        return honest(self, rate, *rest)

    monkeypatch.setattr(contributor, "_sample", spy)
    number = 1
    for outcome in run_rounds(it.plan, it.server, it.engine, it.book, first=1, note=print):
        it.server.apply(outcome.total)
        number = outcome.planned.number + 1
    assert asked == {1: {0.5}, 2: {0.1}, 3: {0.1}, 4: {0.4}, 5: {0.4}}
    charged = {(charge[1], charge[3]) for charge in it.book.charges}
    assert charged == {
        (1, "prototypes"),
        (2, "training"),
        (3, "training"),
        (4, "training_2"),
        (5, "training_2"),
    }


def test_a_round_s_line_is_of_its_own_phase(tmp_path: Path) -> None:
    it = two_phases(noise=False)
    outcomes = []
    for outcome in run_rounds(it.plan, it.server, it.engine, it.book, first=1, note=print):
        it.server.apply(outcome.total)
        outcomes.append(outcome)
    with Ledger.create(tmp_path / "ledger.jsonl", it.plan.terms("run", "digest")) as ledger:
        kinds = [record(it.plan, ledger, outcome)["kind"] for outcome in outcomes]
    assert kinds == ["prototypes", *["gradient"] * 4]


def test_a_set_up_for_several_rounds_is_for_one_phase_and_unknown_ones_are_refused() -> None:
    it = two_phases("distributed", "secagg.rounds_per_setup=4", noise=False)
    assert it.plan.secagg_params("training_2").n_rounds == 2 + 1 + 1
    totals = []
    for outcome in run_rounds(it.plan, it.server, it.engine, it.book, first=1, note=print):
        it.server.apply(outcome.total)
        totals.append(outcome.exchanges)
    assert totals[1] == totals[3] > totals[2] == totals[4]  # a set-up first in each phase
    client = it.clients[0]
    with pytest.raises(FrameError, match="no sums of training_3"):
        client.handle(SetupCall("training_3", bytes(NONCE_BYTES)).encode())


def test_ledger_audit_and_resume_know_the_phases(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    more = (TWO.format("distributed"), ROUNDS.format("distributed"), "audit.canaries=20")
    with pytest.raises(KeyboardInterrupt):
        finish(make(folder, "distributed", *more), Watcher(stop_after=3))
    resumed = make(folder, "distributed", *more, resume=True)
    plan = resumed.plan
    summary = finish(resumed)
    assert summary["finished"]
    report = verify(folder / "ledger.jsonl", head=summary["ledger_head"])
    assert set(report.terms.mechanisms) == {"prototypes", "training", "training_2"}
    assert dict(report.most) == {"prototypes": 1, "training": 2, "training_2": 2}
    spent = {report.terms.mechanisms[name]: count for name, count in report.most.items()}
    assert len(spent) == 3
    assert report.rounds[5][plan.guard.key]["pld"] == pytest.approx(
        epsilon(spent, delta=1e-5, view=plan.guard), rel=1e-6
    )
    notes = list(Journal(folder).rounds())
    assert [each.sampling_rate for each in notes] == [0.5, 0.1, 0.1, 0.4, 0.4]
    audited = audit_folder(folder, report)
    assert [each.number for each in audited.rounds] == [1, 2, 3, 4, 5]


def test_an_institution_counts_what_it_can_meet_in_each_phase() -> None:
    plan = two_phases().plan
    for client_id in range(plan.federation.clients):
        met = Counter(planned.release for planned in plan.rounds if client_id in planned.cohort)
        assert own_charges(plan, client_id) == {
            name: met[name] + 1 if met[name] else 0 for name in plan.releases
        }


def test_a_ledger_takes_no_charge_of_a_phase_beyond_what_was_planned(tmp_path: Path) -> None:
    plan = two_phases().plan
    with Ledger.create(tmp_path / "ledger.jsonl", plan.terms("run", "digest")) as ledger:
        for number in range(1, 4):
            ledger.charge(0, round=number, attempt=0, mechanism="training_2")
        with pytest.raises(BudgetExceededError, match="4 steps of 'training_2', the plan reserves 3"):
            ledger.price(Charge(client_id=0, round=4, attempt=0, mechanism="training_2", steps=1))


@pytest.mark.parametrize(
    ("entries", "key"),
    [
        ("{from_round=0, sampling_rate=0.1, divisor=5}", "from_round"),
        ("{from_round=99, sampling_rate=0.1, divisor=5}", "from_round"),
        (
            "{from_round=3, sampling_rate=0.1, divisor=5}, {from_round=3, sampling_rate=0.1, divisor=5}",
            "from_round",
        ),
        ("{from_round=2, sampling_rate=1.5, divisor=5}", "sampling_rate"),
        ("{from_round=2, sampling_rate=0.1, divisor=0}", "divisor"),
        ("{from_round=2, sampling_rate=0.1, divisor=5, clip_norm=0.0}", "clip_norm"),
        ("{from_round=2, sampling_rate=0.1, divisor=5, noise_scale=-1.0}", "noise_scale"),
        ("{from_round=2, sampling_rate=0.1, divisor=5, noise=1.0}", "noise"),
        (", ".join(f"{{from_round={r}, sampling_rate=0.1, divisor=5}}" for r in range(2, 10)), ""),
    ],
)
def test_an_impossible_schedule_is_refused_by_its_key(entries: str, key: str) -> None:
    with pytest.raises(ConfigError) as refused:
        config.parse("", [f"modes.central.schedule=[{entries}]"])
    assert refused.value.key == f"modes.central.schedule.{key}".rstrip(".")


@pytest.mark.parametrize(
    ("entry", "complaint"),
    [
        ("sampling_rate=0.0000001, divisor=5", "a sampling rate of 1e-07 proposed"),
        (
            "sampling_rate=0.1, divisor=5, noise_scale=0.01",
            "noise multipliers 4 (warm-up) and 2, 0.02 proposed",
        ),
        ("sampling_rate=0.1, divisor=5", None),
    ],
)
def test_an_institution_holds_every_phase_to_its_bounds(entry: str, complaint: str | None) -> None:
    settings = settings_for("distributed", f"modes.distributed.schedule=[{{from_round=2, {entry}}}]")
    agreement = SimpleNamespace(
        image_shape=(1, 8, 8), class_names=("0",) * 10, dimension=100, noise_multiplier=2.0, plan_digest=""
    )
    roster = Roster({c: SigningKey.generate().public for c in range(6)})
    found = before_planning(settings, agreement, roster, PolicySettings())  # type: ignore[arg-type]
    assert [each for each in found if complaint and complaint in each] == found
    assert bool(found) == (complaint is not None)
