"""T36: an institution behind Flower's ClientApp keeps what T7 promises."""

from __future__ import annotations

import sys

import pytest

from secure_fed_diffusion.secagg import codec
from threat_models import trials
from threat_models.claim import Arm, NotInstalledError
from threat_models.claims import t36_over_flower as over_flower


def test_without_flwr_the_claim_is_not_run(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in [name for name in sys.modules if name == "flwr" or name.startswith("flwr.")]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.delitem(sys.modules, "threat_models.staging.flower_round", raising=False)
    monkeypatch.setitem(sys.modules, "flwr", None)
    for arm in Arm:
        with pytest.raises(NotInstalledError, match="flwr is not installed"):
            over_flower.stage(arm, 0)


@pytest.mark.parametrize("arm", list(Arm), ids=lambda arm: arm.value)
def test_each_arm_comes_out_as_written_at_one_seed(arm: Arm) -> None:
    pytest.importorskip("flwr")
    trial = trials.try_once(over_flower.CLAIM, arm.value, 77)
    assert trial.error is None
    mean = trials.interval([trial.metric])[0]
    assert over_flower.CLAIM.threshold.verdict(low=mean, high=mean) is over_flower.CLAIM.expected(arm)


def test_everyone_refuses_the_second_list_by_a_refusal_that_travelled() -> None:
    pytest.importorskip("flwr")
    refusals = over_flower.stage(Arm.ON, 3).truth.refusals
    assert {refusal.client_id for refusal in refusals} == set(range(1, over_flower.N_CLIENTS))
    assert {(refusal.phase, refusal.error) for refusal in refusals} == {("consistency", "PhaseError")}


def test_an_honest_round_over_the_same_messages_gives_the_sum() -> None:
    """The control: what carries the frames changes none of them."""
    pytest.importorskip("flwr")
    from threat_models.staging.federation_round import plan_of
    from threat_models.staging.flower_round import FlowerRound

    a_round = FlowerRound(plan_of(5, 4, min_survivors=4), 3)
    a_round.finish(dropouts={2: "masked_input"})
    assert a_round.is_exact()
    assert a_round.server.survivors == (0, 1, 3, 4)
    sizes = {frame.phase: len(frame.content) for frame in a_round.frames if frame.sender == 0}
    assert sizes["masked_input"] == codec.HEADER_BYTES + 4 * len(a_round.vectors[0]) + 64
