"""What an institution refuses whatever the coordinator says, and by which key of its own file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from secure_fed_diffusion import config
from secure_fed_diffusion.errors import (
    BudgetExceededError,
    FrameError,
    PolicyError,
    SecureFedDiffusionError,
)
from secure_fed_diffusion.institution.agreement import Agreement, plan_of
from secure_fed_diffusion.institution.check import spent
from secure_fed_diffusion.institution.messages import Acceptance, join
from secure_fed_diffusion.institution.settings import load
from secure_fed_diffusion.secagg import Roster, SigningKey
from tests.institution.consortium import Coordinator, coordinator


@pytest.fixture(scope="module")
def consortium(tmp_path_factory: pytest.TempPathFactory) -> Coordinator:
    return coordinator(tmp_path_factory.mktemp("consortium"))


def proposal(of: Coordinator, *overrides: str) -> Agreement:
    """An agreement about a changed configuration, its plan made as an honest coordinator makes it."""
    settings = config.parse(of.agreement.config_text, overrides)
    if settings.modes.distributed.rounds > 1000:  # nobody makes such a plan, and nobody should try
        return replace(of.agreement, run_id="0b" * 16, config_text=config.dump(settings))
    return of.proposal(settings, of.plan.image_shape, run_id="0b" * 16)


def edited(of: Coordinator, folder: Path, client_id: int, *lines: tuple[str, str]) -> Path:
    """A copy of one institution's folder whose institution.toml has `lines` exchanged or added."""
    import shutil

    home = folder / "own"
    shutil.copytree(of.paths[client_id].parent, home)
    shutil.rmtree(home / "state", ignore_errors=True)
    path = home / "institution.toml"
    text = path.read_text(encoding="utf-8")
    for old, new in lines:
        assert old in text
        text = text.replace(old, new)
    path.write_text(text, encoding="utf-8")
    return path


def refusal(of: Coordinator, agreement: Agreement, client_id: int = 0) -> SecureFedDiffusionError:
    with pytest.raises(SecureFedDiffusionError) as caught:
        of.institution(client_id).handle(join(agreement))
    assert not (of.paths[client_id].parent / "state" / "runs" / agreement.run_id).exists()
    return caught.value


def test_an_institution_joins_what_its_policy_allows_and_signs_it(consortium: Coordinator) -> None:
    agreement = replace(consortium.agreement, run_id="01" * 16)
    reply = Acceptance.decode(consortium.institution(2).handle(join(agreement)))
    assert reply.require(agreement, consortium.roster) == 2


@pytest.mark.parametrize(
    ("override", "said"),
    [
        (
            "federation.clients_per_round=3",
            "3 clients a round proposed, policy.min_cohort asks for at least 4",
        ),
        (
            "federation.colluders=0",
            "0 tolerated colluders proposed, policy.colluders asks for at least 1",
        ),
        ('secagg.profile="semi_honest"', "policy.profile asks for active"),
        (
            "modes.distributed.rounds=1000000000",
            "1,000,000,000 rounds proposed, policy.max_rounds allows at most 1,000",
        ),
        ("audit.canaries=4", "4 canaries proposed"),
        ("federation.clients=5", "5 clients proposed, the pinned roster allows at most 4"),
    ],
)
def test_a_plan_outside_the_policy_is_refused_by_value_and_key(
    consortium: Coordinator, override: str, said: str
) -> None:
    error = refusal(consortium, proposal(consortium, override))
    assert isinstance(error, PolicyError)
    assert said in str(error)


@pytest.mark.parametrize("mode", ["none", "central"])
def test_a_mode_that_trusts_the_server_is_refused(consortium: Coordinator, mode: str) -> None:
    error = refusal(consortium, proposal(consortium, f'privacy.mode="{mode}"', "federation.masked=true"))
    assert isinstance(error, PolicyError)
    assert f"mode {mode} proposed" in str(error)


def test_contributions_in_clear_are_refused_even_where_central_is_allowed(
    consortium: Coordinator, tmp_path: Path
) -> None:
    path = edited(consortium, tmp_path, 0, ("[policy]", '[policy]\nmodes = ["central", "distributed"]'))
    own = replace_path(consortium, 0, path)
    changed = proposal(own, 'privacy.mode="central"', "federation.masked=false")
    assert "contributions in clear" in str(refusal(own, changed))
    own.institution(0).handle(join(proposal(own, 'privacy.mode="central"')))
    own.restart(0)


def replace_path(of: Coordinator, client_id: int, path: Path) -> Coordinator:
    paths = list(of.paths)
    paths[client_id] = path
    return replace(of, paths=paths, institutions={})


def test_all_that_is_wrong_is_said_at_once(consortium: Coordinator) -> None:
    error = refusal(
        consortium,
        proposal(consortium, "federation.colluders=0", 'secagg.profile="semi_honest"', "audit.canaries=4"),
    )
    for part in ("policy.colluders", "policy.profile", "canaries"):
        assert part in str(error)


def test_a_tighter_policy_refuses_what_a_looser_one_joined(consortium: Coordinator, tmp_path: Path) -> None:
    path = edited(consortium, tmp_path, 1, ("[policy]", "[policy]\nmax_rounds = 1\nmax_parameters = 100"))
    own = replace_path(consortium, 1, path)
    said = str(refusal(own, own.agreement, 1))
    assert "policy.max_rounds allows at most 1" in said
    assert "policy.max_parameters allows at most 100" in said


def test_a_pinned_plan_is_the_only_one_that_is_joined(consortium: Coordinator, tmp_path: Path) -> None:
    path = edited(consortium, tmp_path, 0, ("[policy]", f'[policy]\nplans = ["{consortium.plan.digest}"]'))
    own = replace_path(consortium, 0, path)
    assert "policy.plans" in str(refusal(own, proposal(own, "modes.distributed.rounds=1")))
    own.join(0)
    own.restart(0)


def test_a_roster_that_is_not_the_pinned_one_is_refused(consortium: Coordinator) -> None:
    publics = dict(consortium.roster.publics)
    publics[3] = SigningKey(bytes(32)).public
    forged = replace(consortium.agreement, run_id="0c" * 16, roster_root=Roster(publics).root.hex())
    error = refusal(consortium, forged)
    assert isinstance(error, PolicyError)
    assert "somebody else than agreed would take part" in str(error)


def test_a_plan_that_is_not_what_the_configuration_gives_is_refused(consortium: Coordinator) -> None:
    """Less noise than the configuration's budget needs, announced in one way or the other."""
    less = replace(consortium.agreement, run_id="0d" * 16, noise_multiplier=0.5)
    error = refusal(consortium, less)
    assert isinstance(error, PolicyError)
    assert "would spend" in str(error)
    other = replace(
        consortium.agreement, run_id="0d" * 16, noise_multiplier=consortium.agreement.noise_multiplier * 2
    )
    assert "announces a plan" in str(refusal(consortium, other))


def test_a_configuration_that_cannot_be_read_is_the_coordinator_s_fault(consortium: Coordinator) -> None:
    broken = replace(consortium.agreement, run_id="0e" * 16, config_text="[privacy]\nmod = 1")
    error = refusal(consortium, broken)
    assert isinstance(error, PolicyError)
    assert "the coordinator's configuration is refused: privacy.mod" in str(error)


def test_data_of_another_form_are_refused_without_a_word_on_their_number(consortium: Coordinator) -> None:
    larger = consortium.proposal(consortium.settings, (1, 16, 16), run_id="0f" * 16)
    error = refusal(consortium, larger)
    assert isinstance(error, PolicyError)
    assert "(1, 16, 16)" in str(error)
    assert "30" not in str(error)


def test_a_budget_that_does_not_cover_the_plan_refuses_it(consortium: Coordinator, tmp_path: Path) -> None:
    path = edited(consortium, tmp_path, 0, ("epsilon = 8.0", "epsilon = 3.0"))
    own = replace_path(consortium, 0, path)
    error = refusal(own, own.agreement)
    assert isinstance(error, BudgetExceededError)
    assert "this institution's own budget" in str(error)
    assert "its budget is 3" in str(error)


def test_an_agreement_with_more_colluders_is_refused_where_an_earlier_one_does_not_withstand_them(
    consortium: Coordinator, tmp_path: Path
) -> None:
    path = edited(consortium, tmp_path, 0, ("colluders = 1", "colluders = 0"))
    own = replace_path(consortium, 0, path)
    nobody = ("federation.colluders=0", "privacy.epsilon=4.0")
    own.institution(0).handle(join(proposal(own, *nobody)))
    assert "against every server but those of mode central, with no client, over 1 runs" in spent(load(path))
    settings = config.parse(own.agreement.config_text, ["privacy.epsilon=1.0"])
    error = refusal(own, own.proposal(settings, own.plan.image_shape, run_id="0c" * 16))
    assert isinstance(error, BudgetExceededError)
    assert "this run is to withstand 1 colluder, and with it all" in str(error)
    settings = config.parse(own.agreement.config_text, ["privacy.epsilon=1.0", "federation.colluders=0"])
    own.institution(0).handle(join(own.proposal(settings, own.plan.image_shape, run_id="0c" * 16)))


def test_a_budget_of_another_unit_refuses_it(consortium: Coordinator, tmp_path: Path) -> None:
    path = edited(
        consortium, tmp_path, 0, ('unit = "example"', 'unit = "client"'), ('"add_remove"', '"zero_out"')
    )
    own = replace_path(consortium, 0, path)
    error = refusal(own, own.agreement)
    assert isinstance(error, PolicyError)
    assert "[budget]" in str(error)


@pytest.mark.parametrize("paths", ["privacy.shared_ledger", "data.directory"])
def test_a_path_that_the_configuration_names_is_never_opened(
    consortium: Coordinator, tmp_path: Path, paths: str
) -> None:
    trap = tmp_path / "trap"
    extra = ["privacy.shared_epsilon=100.0"] if paths.startswith("privacy") else []
    own = replace_path(consortium, 3, edited(consortium, tmp_path, 3))
    own.institution(3).handle(join(proposal(own, f'{paths}="{trap}"', *extra)))
    own.restart(3)
    assert not trap.exists()


@pytest.mark.parametrize("length", [0, 1, 30, 400])
def test_a_damaged_agreement_is_no_agreement(consortium: Coordinator, length: int) -> None:
    frame = join(consortium.agreement)
    with pytest.raises(FrameError):
        consortium.institution(0).handle(frame[:1] + frame[1 : 1 + length])


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("run_id", "../../../etc"),
        ("run_id", "AB" * 16),
        ("run_id", "ab" * 15),
        ("noise_multiplier", float("inf")),
        ("noise_multiplier", -1.0),
        ("noise_multiplier", 1),
        ("dimension", 0),
        ("dimension", True),
        ("image_shape", (1, 8)),
        ("class_names", ()),
        ("plan_digest", "x" * 64),
        ("config_text", "x" * (1 << 21)),
    ],
)
def test_an_agreement_of_another_form_is_refused(consortium: Coordinator, name: str, value: object) -> None:
    import json
    from dataclasses import asdict

    values = {**asdict(consortium.agreement), name: value}
    data = json.dumps(values, sort_keys=True, separators=(",", ":")).encode()
    with pytest.raises(FrameError):
        consortium.institution(0).handle(b"\x40" + data)


def test_an_agreement_survives_its_own_form_to_the_last_bit(consortium: Coordinator) -> None:
    assert Agreement.decode(consortium.agreement.encode()) == consortium.agreement
    assert plan_of(consortium.agreement)[1].releases == consortium.plan.releases
