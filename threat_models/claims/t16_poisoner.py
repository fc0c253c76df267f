"""T16: one client sends minus a thousand times its honest contribution.

T16 in mode `distributed`.  Each client clips its own records, so the clip binds honest clients alone; under
masks the server cannot see the vector that breaks it, and no proof of a norm travels with it.  NOT promised.
The ring is no bound either: the poisoner stops short of a wrap.
T16b where the server does see each contribution (`central` without masks, a trusted server) it could clip
each to the median of their norms.  The package does not do so; the claim says what it would buy: one client's
pull on one sum is then as large as an honest client's, and no larger.

Source: Blanchard et al. 2017, "Machine Learning with Adversaries: Byzantine Tolerant Gradient Descent"; norm
bounds: Sun et al. 2019, arXiv 1911.07963.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from threat_models.adversaries.poisoner import OwnContribution
from threat_models.claim import Arm, Claim, Staged, Tags, Threshold
from threat_models.staging.denoisers import MlpDenoiser
from threat_models.staging.poisoning import Round, poisoned
from threat_models.staging.small_federation import Integers, chosen_digits, federation, settings_for

CLIENTS, EACH = 5, 40
_POISONER, _ROUND = 0, 1


def _settings(arm: Arm, *, masked: bool) -> Any:
    if arm is Arm.OFF:
        return settings_for(
            "none",
            clients=CLIENTS,
            rounds=1,
            federation__masked=masked,
            modes__none__optimizer="sgd",
            modes__none__learning_rate=0.01,
            modes__none__batch=EACH,
        )
    mode = "distributed" if masked else "central"
    return settings_for(
        mode,
        clients=CLIENTS,
        rounds=1,
        federation__masked=masked,
        federation__colluders=0,
        **{
            f"modes__{mode}__sampling_rate": 1.0,
            f"modes__{mode}__divisor": CLIENTS * EACH,
            f"modes__{mode}__micro_batch": EACH,
        },
    )


def _staged(arm: Arm, seed: int, *, masked: bool) -> Staged[OwnContribution]:
    images = [chosen_digits(EACH, 1000 * seed + c) for c in range(CLIENTS)]
    staged, quiet = (
        federation(_settings(arm, masked=masked), MlpDenoiser, images, seed=seed, noise=noise)
        for noise in (1.0, 0.0)
    )
    told = quiet.record_contributions()  # the poisoner leaves out its own noise, too
    honest = quiet.run_round(_ROUND)
    release = staged.release_of(_ROUND)
    view = OwnContribution(honest=told[_POISONER].copy(), modulus_bits=release.modulus_bits)
    return Staged(view=view, truth=Round(federation=staged, number=_ROUND, poisoner=_POISONER, honest=honest))


def stage(arm: Arm, seed: int) -> Staged[OwnContribution]:
    """Under masks: FedAvg without any bound (off), and `distributed`, where each client clips (on)."""
    return _staged(arm, seed, masked=True)


def stage_in_the_clear(arm: Arm, seed: int) -> Staged[OwnContribution]:
    """Contributions in the clear; on: each cut to the median of their norms."""
    staged = _staged(Arm.ON, seed, masked=arm is Arm.DROPPED)
    if arm is not Arm.ON:  # dropped: the server does not see contributions, so it has nothing to cut
        return staged
    return Staged(view=staged.view, truth=replace(staged.truth, cut="median"))


def attack(view: OwnContribution) -> Integers:
    """Return minus a thousand times the honest vector, or as much of it as does not wrap."""
    return poisoned(view.honest, view.modulus_bits)


def judge(sent: Integers, truth: Round) -> float:
    """Return minus the cosine of the sum with the poison and that of all honest gradients."""
    return -truth.cosine_with_honest(sent)


_TAGS = Tags(stride=("Tampering",), atlas=("AML.T0018.000", "AML.T0031"))
_METRIC = "minus the cosine of the sum with the honest one, before noise"

CLAIMS = (
    Claim(
        id="T16",
        title="Poisoner x 1000 under masks",
        adversary="poisoner",
        asset="the model's quality",
        statement=(
            "One client that lies can turn the sum of a round around: a clip that every client does by "
            "itself binds no liar, and under masks nobody can check it."
        ),
        defence="each client's own clip",
        dropped_assumption=None,
        view=OwnContribution,
        stage=stage,
        attack=attack,
        judge=judge,
        metric=_METRIC,
        threshold=Threshold(succeeds=0.5, fails=0.0),
        source="Blanchard et al. 2017",
        promised=False,
        tags=_TAGS,
    ),
    Claim(
        id="T16b",
        title="Poisoner x 1000 against a bound that the server checks",
        adversary="poisoner",
        asset="the model's quality",
        statement=(
            "If the server saw each contribution and cut it to the median of their norms, one "
            "poisoner of five could not turn the sum around. The package has no such cut: it would need "
            "contributions in the clear, or proofs."
        ),
        defence="a cut at the server, measured here and not part of the package",
        dropped_assumption="the server sees each contribution (dropped: masks)",
        view=OwnContribution,
        stage=stage_in_the_clear,
        attack=attack,
        judge=judge,
        metric=_METRIC,
        threshold=Threshold(succeeds=0.5, fails=0.0),
        source="Sun et al. 2019, arXiv 1911.07963",
        tags=_TAGS,
    ),
)
