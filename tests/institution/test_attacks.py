"""What a coordinator, or a hurried owner, tried on an institution, and what must come of it."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from secure_fed_diffusion import config
from secure_fed_diffusion.dp.ledger import verify
from secure_fed_diffusion.dp.shared import verify_shared
from secure_fed_diffusion.errors import (
    BudgetExceededError,
    ConfigError,
    DataError,
    FrameError,
    LedgerError,
    PhaseError,
    PolicyError,
    RunError,
    SecureFedDiffusionError,
)
from secure_fed_diffusion.federation.workbench import DeferredContributor, count_parameters
from secure_fed_diffusion.institution import institution as module
from secure_fed_diffusion.institution.check import check
from secure_fed_diffusion.institution.institution import Institution
from secure_fed_diffusion.institution.messages import join
from secure_fed_diffusion.institution.run_files import close_run
from tests.institution.consortium import Coordinator, coordinator
from tests.institution.test_institution import exchange, home, run_folder


@pytest.fixture
def consortium(tmp_path: Path) -> Coordinator:
    return coordinator(tmp_path / "consortium")


def spoil(path: Path, old: str, new: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")


def refusal(of: Coordinator, *overrides: str, **changed: object) -> SecureFedDiffusionError:
    """A refusal by client 0 of an agreement whose text says something else than its digest."""
    text = config.dump(config.parse(of.agreement.config_text, overrides))
    agreement = replace(of.agreement, **{"run_id": "0b" * 16, "config_text": text, **changed})
    with pytest.raises(SecureFedDiffusionError) as caught:
        of.institution(0).handle(join(agreement))
    assert not (home(of, 0) / "runs").exists()
    return caught.value


def test_no_proposal_learns_which_labels_there_are(consortium: Coordinator) -> None:
    """Two files that differ in one label answer every number of classes alike."""
    path = consortium.paths[0].parent / "records.npz"
    with np.load(path) as archive:
        images, labels = archive["images"], np.minimum(archive["labels"], 6)
    heard = []
    for secret in (7, 8):
        labels[0] = secret
        np.savez(path, images=images, labels=labels)
        said = [str(refusal(consortium, class_names=tuple(map(str, range(n))))) for n in (1, 7, 8, 9, 11)]
        heard.append(said)
        consortium.restart(0)
    assert heard[0] == heard[1]
    assert "data.classes is 10" in heard[0][0]


@pytest.mark.parametrize(
    ("old", "new"), [("classes = 10", "classes = 5"), ("[1, 8, 8]", "[1, 16, 16]")], ids=["classes", "shape"]
)
def test_records_are_held_to_the_declared_form_where_they_lie(
    consortium: Coordinator, old: str, new: str
) -> None:
    spoil(consortium.paths[0], old, new)
    assert "records" in [each.what for each in check(consortium.paths[0], connect=False) if not each.holds]
    with pytest.raises(DataError, match=r"data\."):
        Institution.open(consortium.paths[0])


def test_the_form_of_the_data_has_no_default(consortium: Coordinator) -> None:
    spoil(consortium.paths[0], "classes = 10\n", "")
    with pytest.raises(ConfigError, match="classes"):
        Institution.open(consortium.paths[0])


def test_a_leave_that_fails_leaves_nothing_that_answers(
    consortium: Coordinator, monkeypatch: pytest.MonkeyPatch
) -> None:
    consortium.join()
    frames = consortium.server.open(1, 0)

    def fails(self: object, ledger: object) -> None:
        raise RunError("the disk is full")

    monkeypatch.setattr(module.Budget, "settle", fails)
    with pytest.raises(RunError, match="disk is full"):
        consortium.leave(0)
    assert consortium.institution(0)._joined is None
    assert not verify_shared(home(consortium, 0) / "spent.jsonl").holdings[consortium.run_id].settled
    exchange(consortium, {0: frames[0]})  # it is counted in full still


def test_a_run_at_hand_that_was_settled_meanwhile_is_not_answered(consortium: Coordinator) -> None:
    consortium.join()
    at_hand = consortium.institution(0)._joined
    assert at_hand is not None
    at_hand_budget = consortium.institution(0)._budget
    assert at_hand_budget is not None
    at_hand_budget.settle(at_hand.ledger)
    with pytest.raises(PhaseError, match="has left"):
        exchange(consortium, {0: consortium.server.open(1, 0)[0]})


def test_a_budget_that_was_changed_is_named_by_the_check_and_answers_nothing(consortium: Coordinator) -> None:
    consortium.join()
    frames = consortium.server.open(1, 0)
    consortium.leave(0)
    consortium.restart(0)
    spoil(consortium.paths[0], "epsilon = 8.0", "epsilon = 7.5")
    (wrong,) = [each for each in check(consortium.paths[0], connect=False) if not each.holds]
    assert wrong.what == "budget so far"
    assert "a budget that was begun is not changed" in wrong.found
    for ask in (lambda: exchange(consortium, {0: frames[0]}), lambda: consortium.leave(0)):
        for _ in range(2):
            with pytest.raises(ConfigError, match="is not changed"):
                ask()
    assert verify(run_folder(consortium, 0) / "ledger.jsonl").most["training"] == 0


def test_a_model_of_another_size_is_refused_before_anything_is_begun(consortium: Coordinator) -> None:
    larger = config.parse(consortium.agreement.config_text, ["model.channels=[8, 8]"])
    honest = consortium.proposal(larger, consortium.plan.image_shape, run_id="0c" * 16)
    with pytest.raises(PolicyError, match="builds a model of"):
        consortium.institution(0).handle(join(honest))
    assert not (home(consortium, 0) / "runs").exists()


def test_parameters_are_counted_without_memory_for_them(consortium: Coordinator) -> None:
    said = {"image_shape": consortium.plan.image_shape, "n_classes": 10, "n_timesteps": 20}
    assert count_parameters(consortium.settings.model, **said) == consortium.plan.dimension


def test_what_cannot_be_computed_here_is_not_charged(
    consortium: Coordinator, monkeypatch: pytest.MonkeyPatch
) -> None:
    consortium.join()

    def broken(self: object) -> object:
        raise ConfigError("no such machine")

    monkeypatch.setattr(DeferredContributor, "_make", broken)
    frames = consortium.server.open(1, 0)
    while consortium.server.phase != "masked_input":
        frames = consortium.server.take(exchange(consortium, frames))
    with pytest.raises(ConfigError, match="no such machine"):
        exchange(consortium, {0: frames[0]})
    assert verify(run_folder(consortium, 0) / "ledger.jsonl").most["training"] == 0


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("federation.reserved_attempts=1000000000", "1,000,000,000 reserved attempts"),
        ("modes.distributed.sampling_rate=1e-9", "a sampling rate of 1e-09"),
        ("diffusion.noise_multiplicity=1000000", "1,000,000 draws a record"),
        ("diffusion.timesteps=1000000000", "1,000,000,000 timesteps"),
        ("model.channels=[8192, 8192]", "8,192 channels"),
        ("model.layers_per_block=1000", "1,000 layers a block"),
        ("warmup.noise_multiplier=1e-9", "noise multipliers 1e-09"),
    ],
)
def test_too_much_work_is_refused_before_the_accountant_runs(
    consortium: Coordinator, monkeypatch: pytest.MonkeyPatch, override: str, said: str
) -> None:
    monkeypatch.setattr(module, "plan_of", None)
    assert said in str(refusal(consortium, override))


def test_too_many_local_steps_and_too_large_a_sum_are_refused_before_the_accountant_runs(
    consortium: Coordinator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "plan_of", None)
    local = ('privacy.mode="local"', "modes.local.local_epochs=1e6", "modes.local.sampling_rate=0.5")
    found = str(refusal(consortium, *local))
    assert "policy.max_steps" in found
    assert "1,000,000 local epochs" in found
    least = ('privacy.mode="local"', "modes.local.local_epochs=1e308", "modes.local.sampling_rate=1e-320")
    assert "policy.max_steps" in str(refusal(consortium, *least))
    assert "values of class means" in str(refusal(consortium, image_shape=(1, 1 << 20, 1 << 10)))


def test_a_plan_that_is_not_pinned_is_refused_before_it_is_made(
    consortium: Coordinator, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoil(consortium.paths[0], "[policy]", f'[policy]\nplans = ["{consortium.plan.digest}"]')
    monkeypatch.setattr(module, "plan_of", None)
    assert "policy.plans" in str(refusal(consortium, plan_digest="0a" * 32))


@pytest.mark.parametrize("threads", [0, 2])
def test_the_institution_s_threads_win(consortium: Coordinator, threads: int) -> None:
    spoil(
        consortium.paths[0], '[machine]\ndevice = "auto"', f'[machine]\ndevice = "cpu"\nthreads = {threads}'
    )
    consortium.join(0)
    joined = consortium.institution(0)._joined
    assert joined is not None
    assert joined.client._contributor._machine == ("cpu", threads)


def test_a_sparse_graph_needs_the_owner_s_word(consortium: Coordinator) -> None:
    sparse = (
        'privacy.mode="local"',
        "secagg.n_neighbours=2",
        "secagg.threshold=3",
        "federation.min_survivors=3",
    )
    settings = config.parse(consortium.agreement.config_text, sparse)
    agreement = consortium.proposal(settings, consortium.plan.image_shape, run_id="0d" * 16)
    with pytest.raises(PolicyError, match=r"policy\.min_neighbours is not set"):
        consortium.institution(0).handle(join(agreement))
    consortium.restart(0)
    spoil(consortium.paths[0], "[policy]", "[policy]\nmin_neighbours = 2")
    consortium.institution(0).handle(join(agreement))


def test_a_run_is_closed_by_hand_whatever_the_rest_has_become(consortium: Coordinator) -> None:
    consortium.join()
    frames = consortium.server.open(1, 0)
    exchange(consortium, {0: frames[0]})
    with pytest.raises(RunError, match="in use"):
        close_run(home(consortium, 0), consortium.run_id)
    consortium.restart(0)
    spoil(consortium.paths[0], "colluders = 1", "colluders = 2")
    spoil(consortium.paths[0], "epsilon = 8.0", "epsilon = 7.5")
    (consortium.paths[0].parent / "records.npz").unlink()
    assert (run_folder(consortium, 0) / "client" / "state.bin").exists()
    assert close_run(home(consortium, 0), consortium.run_id)
    held = verify_shared(home(consortium, 0) / "spent.jsonl").holdings[consortium.run_id]
    assert (held.settled, held.counts) == (True, {"training": 0})
    assert not (run_folder(consortium, 0) / "client" / "state.bin").exists()
    assert not close_run(home(consortium, 0), "../.." + "0" * 27)


def test_a_run_that_was_left_keeps_no_secret_of_the_secure_sum(consortium: Coordinator) -> None:
    consortium.join()
    exchange(consortium, consortium.server.open(1, 0))
    kept = run_folder(consortium, 0) / "client"
    assert (kept / "state.bin").exists()
    consortium.leave(0)
    assert sorted(os.listdir(kept)) == ["latch.txt"]


@pytest.mark.parametrize("keep", [0, 1])
def test_a_state_whose_latch_lost_a_line_is_refused(consortium: Coordinator, keep: int) -> None:
    consortium.join()
    frames = consortium.server.open(1, 0)
    for _ in range(3):
        frames = consortium.server.take(exchange(consortium, frames))
    consortium.restart(0)
    latch = run_folder(consortium, 0) / "client" / "latch.txt"
    lines = latch.read_bytes().splitlines(keepends=True)
    assert len(lines) > keep
    latch.write_bytes(b"".join(lines[:keep]))
    with pytest.raises(RunError, match="lacks what was answered"):
        exchange(consortium, {0: frames[0]})


def test_a_text_that_no_file_can_hold_is_no_agreement(consortium: Coordinator) -> None:
    for changed in (
        {"config_text": consortium.agreement.config_text + "# \ud800"},
        {"class_names": ("\ud800",)},
    ):
        with pytest.raises(FrameError):
            consortium.institution(0).handle(join(replace(consortium.agreement, run_id="0b" * 16, **changed)))
    deep = replace(consortium.agreement, run_id="0b" * 16, config_text="x = " + "[" * 100_000)
    with pytest.raises(PolicyError, match="cannot be read"):
        consortium.institution(0).handle(join(deep))
    assert not (home(consortium, 0) / "runs").exists()


@pytest.mark.parametrize(
    "error",
    [
        BudgetExceededError("others hold ε = 3.1"),
        ConfigError("there is no /srv/records.npz", key="data.file"),
        DataError("/srv/records.npz: expected 731 labels"),
        RunError("/srv/state is full"),
        LedgerError("run ab has spent 7", line=3),
        LedgerError("run ab is counted in /srv/spent.jsonl, and its own ledger of 7 lines is gone"),
    ],
)
def test_the_coordinator_hears_no_figure_and_no_path(error: SecureFedDiffusionError) -> None:
    pytest.importorskip("flwr")
    from secure_fed_diffusion.flower_app.client_app import reticent

    told = reticent(error)
    assert type(told) is type(error)
    assert str(told).startswith("refused: this institution's own ")
    assert "/" not in str(told)
    assert not any(letter.isdigit() for letter in str(told))


def test_the_coordinator_hears_what_a_peer_is_accused_of() -> None:
    pytest.importorskip("flwr")
    from secure_fed_diffusion.flower_app.client_app import reticent

    accused = LedgerError("client 3 signed two different heads of line 8", peer=3)
    assert reticent(accused) is accused


def test_the_app_of_a_node_is_the_reticent_one(consortium: Coordinator) -> None:
    pytest.importorskip("flwr")
    from flwr.app import Context, Message, RecordDict

    from secure_fed_diffusion.engines.flower import ACTION, REFUSAL, encode_frame
    from secure_fed_diffusion.flower_app import client_app
    from tests.flower_app.memory_grid import task

    gone = consortium.paths[0].parent / "gone.toml"
    with task():
        message = Message(encode_frame(b"@", "1/join/a"), dst_node_id=7000, message_type=f"query.{ACTION}")
        reply = client_app.app(message, Context(1, 7000, {"institution": str(gone)}, RecordDict(), {}))
    reason = str(reply.content.config_records[REFUSAL]["reason"])
    assert reason == "refused: this institution's own settings"


def test_a_node_opens_its_institution_before_it_connects(consortium: Coordinator) -> None:
    pytest.importorskip("flwr")
    from secure_fed_diffusion.flower_app.node import _open_first

    words = ["node", "--superlink", "x", "--node-config", f'institution="{consortium.paths[0]}"']
    _open_first(words)
    (consortium.paths[1].parent / "records.npz").unlink()
    with pytest.raises(ConfigError, match=r"data\.file"):
        _open_first([*words[:-1], f'institution="{consortium.paths[1]}"'])
